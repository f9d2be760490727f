/* SPDX-License-Identifier: MIT
 *
 * A lock for a few instructions: what coroutines wait on (channels, mutexes, scopes) guards its
 * queue with one. Taking it is one locked instruction, letting go of it a plain store; that is
 * why it is here beside sync/lock.h, whose release is a locked instruction too.
 *
 * Any thread. Held for some ten nanoseconds and never across a suspension or a system call. A holder
 * that the system has taken off its CPU is waited for by giving the CPU away, and
 * after some rounds by sleeping: so it ends also when a thread of higher priority waits.
 * Two of them are taken in the order of their addresses. */
#ifndef FLOW_SYNC_SPIN_H
#define FLOW_SYNC_SPIN_H

#include "sync/atomic.h"

struct flow__spin {
    flow__atomic(uint32_t) held; /* written by anyone */
};

/* Until it is free: pauses, then yields, then naps. */
void flow__spin_wait(struct flow__spin *s);

static inline bool flow__spin_try(struct flow__spin *s)
{
    /* [SPIN-1] acquire: pairs with [SPIN-2]; what the last holder wrote is visible. */
    return exchange_acquire(&s->held, 1) == 0;
}

static inline void flow__spin_lock(struct flow__spin *s)
{
    while (flow__unlikely(!flow__spin_try(s)))
        flow__spin_wait(s);
}

/* For one who waits until somebody else has let go of it. */
static inline bool flow__spin_is_free(struct flow__spin *s)
{
    /* [SPIN-1] */
    return load_acquire(&s->held) == 0;
}

static inline void flow__spin_unlock(struct flow__spin *s)
{
    /* [SPIN-2] release: pairs with [SPIN-1]. */
    store_release(&s->held, 0);
}

#endif
