/* SPDX-License-Identifier: MIT
 *
 * The public end of a worker's jobs: a few pointers, the oldest of which any thread may take. The
 * owner adds at the new end and takes back from there. The private end, where most jobs stay all
 * their life, is a list in the owner's frames, see core/job.c.
 *
 *                push   take_newest   steal   count
 *   push           -         -         yes     yes      push and take_newest: the owner only,
 *   take_newest    -         -         yes     yes      never beside each other
 *   steal         yes       yes        yes     yes
 *
 * All there is to know stands in one word, { version:40 | top:16 | count:8 }: the entries are those
 * at top, top + 1, ... top + count - 1. Whoever changes it does so by one CAS, so there is one order
 * of all changes and nothing to be said about two words. A thief reads its entry before its CAS;
 * that the word is the same proves that the entry was still there. For version and top are one number
 * that only grows: a take_newest adds one to the version, a steal one to top, and what overflows there
 * goes on into the version. If it is the same, nothing was taken. For a false match a thief would have to
 * sleep until that number has come round: through 2^40 takes, or 2^56 steals.
 *
 * Invariants: count <= FLOW__JOB_DEQUE_SIZE; each entry pushed is returned once. */
#ifndef FLOW_SYNC_JOB_DEQUE_H
#define FLOW_SYNC_JOB_DEQUE_H

#include "sync/atomic.h"

#include <stddef.h>

#ifndef FLOW__JOB_DEQUE_SIZE /* a model makes it small, so that slots are used again */
#define FLOW__JOB_DEQUE_SIZE 32u
#endif

struct flow__job_deque {
    flow__cache_aligned flow__atomic(uint64_t) word; /* written by owner and thieves */
    flow__atomic(void *) slot[FLOW__JOB_DEQUE_SIZE]; /* written by the owner */
};

_Static_assert(65536 % FLOW__JOB_DEQUE_SIZE == 0, "top wraps to the same slot");

#define FLOW__DEQUE_COUNT(word)  ((uint32_t)((word)&0xff))
#define FLOW__DEQUE_TOP(word)    ((uint32_t)((word) >> 8 & 0xffff))
#define FLOW__DEQUE_ONE          ((uint64_t)1)
#define FLOW__DEQUE_NEXT_TOP     ((uint64_t)1 << 8)
#define FLOW__DEQUE_NEXT_VERSION ((uint64_t)1 << 24)

static inline flow__atomic(void *) * flow__job_slot(struct flow__job_deque *d, uint32_t place)
{
    return &d->slot[place & (FLOW__JOB_DEQUE_SIZE - 1)];
}

/* How many there are, a moment ago. */
static inline uint32_t flow__job_deque_count(struct flow__job_deque *d)
{
    return FLOW__DEQUE_COUNT(load_relaxed(&d->word));
}

/* The same for one who has announced that it will sleep. */
static inline uint32_t flow__job_deque_count_seq(struct flow__job_deque *d)
{
    return FLOW__DEQUE_COUNT(load_seq(&d->word));
}

/* False if it is full. A full barrier otherwise. Owner only. */
static inline bool flow__job_deque_push(struct flow__job_deque *d, void *entry)
{
    uint64_t word = load_relaxed(&d->word);

    do {
        if (FLOW__DEQUE_COUNT(word) == FLOW__JOB_DEQUE_SIZE)
            return false;
        store_relaxed(flow__job_slot(d, FLOW__DEQUE_TOP(word) + FLOW__DEQUE_COUNT(word)), entry);
        /* [JOBS-1] seq_cst: its release half pairs with [JOBS-2] and publishes the entry and what
         * it points to; as a full barrier it orders the push before the look at who sleeps, see
         * sync/parker.h. */
    } while (!cas_seq(&d->word, &word, word + FLOW__DEQUE_ONE));
    return true;
}

/* The entry pushed last, or NULL. Owner only. */
static inline void *flow__job_deque_take_newest(struct flow__job_deque *d)
{
    uint64_t word = load_relaxed(&d->word);
    void *entry;

    do {
        if (FLOW__DEQUE_COUNT(word) == 0)
            return NULL;
        entry = load_relaxed(
            flow__job_slot(d, FLOW__DEQUE_TOP(word) + FLOW__DEQUE_COUNT(word) - 1));
    } while (!cas_seq(&d->word, &word, word - FLOW__DEQUE_ONE + FLOW__DEQUE_NEXT_VERSION));
    return entry;
}

/* The oldest entry, or NULL. Any thread. */
static inline void *flow__job_deque_steal(struct flow__job_deque *d)
{
    /* [JOBS-2] acquire: pairs with [JOBS-1]; so does the CAS. */
    uint64_t word = load_acquire(&d->word);
    void *entry;

    do {
        if (FLOW__DEQUE_COUNT(word) == 0)
            return NULL;
        entry = load_relaxed(flow__job_slot(d, FLOW__DEQUE_TOP(word)));
    } while (!cas_seq(&d->word, &word, word - FLOW__DEQUE_ONE + FLOW__DEQUE_NEXT_TOP));
    return entry;
}

#endif
