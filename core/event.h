/* SPDX-License-Identifier: MIT
 *
 * The inside of an event, which a select shares.
 *
 * word   SET | WAITERS | AUTO. SET and WAITERS exclude each other. Without WAITERS the queue is
 *        empty and the word changes by CAS; with it, SET comes only under the guard.
 *
 * A set touches the event last with its CAS, or while a claimed waiter, which cannot return
 * yet, keeps it alive: who passes may free its memory. */
#ifndef FLOW_CORE_EVENT_H
#define FLOW_CORE_EVENT_H

#include "core/waiter.h"

#include <flowcoro/sync.h>

enum { FLOW__EVENT_SET = 1, FLOW__EVENT_WAITERS = 2, FLOW__EVENT_AUTO = 4 };

struct flow__event {
    flow__atomic(uint32_t) word; /* anyone */
    struct flow__spin guard;
    struct flow__waiters queue; /* under guard */
};

_Static_assert(sizeof(struct flow__event) == sizeof(struct flow_event), "one and the same");

static inline struct flow__event *flow__event_of(struct flow_event *e)
{
    return (struct flow__event *)(void *)e;
}

/* Passes if it is set; one of automatic reset is not set any more then. */
static inline bool flow__event_take(struct flow__event *e)
{
    uint32_t seen = load_relaxed(&e->word);

    while (seen & FLOW__EVENT_SET)
        /* [EVENT-1] acquire: pairs with [EVENT-2]; what was done before the set is visible. */
        if (cas_acquire(&e->word, &seen,
                        seen & FLOW__EVENT_AUTO ? seen & ~(uint32_t)FLOW__EVENT_SET : seen))
            return true;
    return false;
}

/* Queues an armed waiter, which the next set claims. False, and nothing is queued, if the event is
 * set: the caller disarms, and takes. */
bool flow__event_watch(struct flow__event *e, struct flow__waiter *waiter);

/* Takes it out again if it is in. If it was claimed, a set has been spent on it. */
void flow__event_unwatch(struct flow__event *e, struct flow__waiter *waiter);

#endif
