/* SPDX-License-Identifier: MIT
 *
 * How long the oldest entry of a queue has waited, without a clock at each push.
 *
 * A first-in-first-out queue numbers its entries: `head` is the oldest one's number, `tail` the
 * next one's. Whoever looks at the queue at some time and finds no mark there makes one: all
 * entries below this tail had come by then. As long as one of those is still there, the oldest has
 * waited since the mark, at least; once they are gone the next look starts over.
 *
 * Any thread may look, beside any other and beside the queue's own calls. A mark is one word, and a true
 * statement whoever wrote it last, because its time is read after its tail. So the answer is never
 * more than the truth; it is less by what passed before the first look. Numbers run freely over 32
 * bits. Times are kept in units of 1,024 ns, rounded so as to say less; after 36 minutes an age
 * is 0 for as long. */
#ifndef FLOW_SYNC_AGE_H
#define FLOW_SYNC_AGE_H

#include "sync/syscall.h"

#define FLOW__AGE_SHIFT 10

struct flow__age {
    flow__atomic(uint64_t) mark; /* time:32 | upto:32; written by who looks */
};

/* The age in ns at a time `now` in the past, at least; -1 if the queue is empty. */
static inline int64_t flow__age_look(struct flow__age *age, uint32_t head, uint32_t tail,
                                     int64_t now)
{
    uint64_t mark = load_relaxed(&age->mark);
    uint32_t since = (uint32_t)(mark >> 32), upto = (uint32_t)mark;
    int32_t span = (int32_t)((uint32_t)(now >> FLOW__AGE_SHIFT) - since);

    if (head == tail)
        return -1;
    if (upto - head - 1 < tail - head) /* head < upto <= tail */
        return span > 0 ? (int64_t)span << FLOW__AGE_SHIFT : 0;
    since = (uint32_t)((flow__sys.now() + (1 << FLOW__AGE_SHIFT) - 1) >> FLOW__AGE_SHIFT);
    store_relaxed(&age->mark, (uint64_t)since << 32 | tail);
    return 0;
}

#endif
