/* SPDX-License-Identifier: MIT
 *
 * Bounded FIFO of pointers: one owner pushes and pops, any thread steals half.
 *
 *                push   pop   steal   count, age
 *   push          -      -     yes     yes      push and pop: the owner only,
 *   pop           -      -     yes     yes      never beside each other
 *   steal        yes    yes    yes     yes
 *
 * Entries are taken (by pop and steal alike) by a CAS that moves head forward; a
 * thief copies the entries first, and its CAS proves that none of them had
 * been taken, hence that none had been overwritten. head and tail run freely over 32 bits: for a
 * false match a thief would have to sleep through exactly 2^32 pops. Invariant: 0 <= tail - head <=
 * FLOW__RING_SIZE; each pushed entry is returned once. The scheme is that of the run queue of the
 * Go scheduler (runtime/proc.go, runqgrab). */
#ifndef FLOW_SYNC_TASK_RING_H
#define FLOW_SYNC_TASK_RING_H

#include "sync/age.h"
#include "sync/atomic.h"

#include <stddef.h>

#ifndef FLOW__RING_SIZE /* a model makes it small, so that it is full at times */
#define FLOW__RING_SIZE 256u
#endif

struct flow__task_ring {
    flow__cache_aligned
        flow__atomic(uint32_t) head; /* next to take; written by owner and thieves */
    struct flow__age age;            /* of the oldest entry */
    flow__cache_aligned flow__atomic(uint32_t) tail; /* next to fill; written by the owner */
    flow__cache_aligned flow__atomic(void *) slot[FLOW__RING_SIZE];
};

_Static_assert((FLOW__RING_SIZE & (FLOW__RING_SIZE - 1)) == 0, "indices are masked");

/* How many entries there are, a moment ago. */
static inline uint32_t flow__ring_count(struct flow__task_ring *r)
{
    uint32_t head = load_relaxed(&r->head);
    uint32_t n = load_relaxed(&r->tail) - head;

    return n <= FLOW__RING_SIZE ? n : 0; /* head had moved on between the two loads */
}

/* How long the oldest entry has waited, at least; -1 if there is none. Any thread. */
static inline int64_t flow__ring_age(struct flow__task_ring *r, int64_t now)
{
    uint32_t head = load_relaxed(&r->head), tail = load_relaxed(&r->tail);

    return flow__age_look(&r->age, head, tail - head <= FLOW__RING_SIZE ? tail : head, now);
}

/* Is it empty? For one who has announced that it will sleep. Any thread. */
static inline bool flow__ring_is_empty_seq(struct flow__task_ring *r)
{
    return load_seq(&r->head) == load_seq(&r->tail);
}

/* False if the ring is full. Owner only. */
static inline bool flow__ring_push(struct flow__task_ring *r, void *entry)
{
    uint32_t tail = load_relaxed(&r->tail);

    /* [RING-1] acquire: pairs with [RING-2]; a thief has read a slot before we refill it. */
    if (flow__unlikely(tail - load_acquire(&r->head) >= FLOW__RING_SIZE))
        return false;
    store_relaxed(&r->slot[tail & (FLOW__RING_SIZE - 1)], entry);
    /* [RING-3] release: pairs with [RING-4]; the entry and what it points to are visible. */
    store_release(&r->tail, tail + 1);
    return true;
}

/* The oldest entry, or NULL. Owner only. */
static inline void *flow__ring_pop(struct flow__task_ring *r)
{
    uint32_t tail = load_relaxed(&r->tail);
    uint32_t head = load_relaxed(&r->head);

    while (head != tail) {
        void *entry = load_relaxed(&r->slot[head & (FLOW__RING_SIZE - 1)]);

        /* [RING-5] acquire: pairs with [RING-2] of a thief whose take we must see. */
        if (flow__likely(cas_acquire(&r->head, &head, head + 1)))
            return entry;
    }
    return NULL;
}

/* The same where there is no thief at all. */
static inline void *flow__ring_pop_alone(struct flow__task_ring *r)
{
    uint32_t head = load_relaxed(&r->head);
    void *entry;

    if (head == load_relaxed(&r->tail))
        return NULL;
    entry = load_relaxed(&r->slot[head & (FLOW__RING_SIZE - 1)]);
    store_relaxed(&r->head, head + 1);
    return entry;
}

/* What pop would return `ahead` calls from now, for prefetching only. Owner only. */
static inline void *flow__ring_peek(struct flow__task_ring *r, uint32_t ahead)
{
    return load_relaxed(&r->slot[(load_relaxed(&r->head) + ahead) & (FLOW__RING_SIZE - 1)]);
}

/* Takes half of the entries, rounded up, at most `most`, into out[]; returns how many. Any thread.
 */
static inline uint32_t flow__ring_steal(struct flow__task_ring *r, void **out, uint32_t most)
{
    for (;;) {
        /* [RING-6] acquire: head must be read before tail and slots. */
        uint32_t head = load_acquire(&r->head);
        /* [RING-4] acquire: pairs with [RING-3]. */
        uint32_t tail = load_acquire(&r->tail);
        uint32_t n = tail - head;

        if (n == 0)
            return 0;
        if (n > FLOW__RING_SIZE) { /* head moved between the two loads */
            flow__pause();
            continue;
        }
        n = n - n / 2;
        if (n > most)
            n = most;
        for (uint32_t i = 0; i < n; i++)
            out[i] = load_relaxed(&r->slot[(head + i) & (FLOW__RING_SIZE - 1)]);
        /* [RING-2] seq_cst includes release: pairs with [RING-1], [RING-5] and [RING-6]; our
         * reads of the slots come before the owner may refill them. */
        if (cas_seq(&r->head, &head, head + n))
            return n;
    }
}

#endif
