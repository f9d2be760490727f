/* SPDX-License-Identifier: MIT
 *
 * The inside of a scope.
 *
 * Its tasks are DETACHED and SCOPED. They form a list through flow__task.sibling, two slot numbers
 * in the place of the joiner's epoch, so a task costs a scope no memory. A task is in the list from
 * before it is queued until it is counted as finished, at its end (core/start.c).
 *
 * Invariant, under the guard: live == length of the list; cursor is in the list, or NONE.
 * The scope is there as long as live + holds > 0: whoever takes either down touches it last with its
 * release of the guard, and the one who closes takes the guard before it leaves. */
#ifndef FLOW_CORE_SCOPE_H
#define FLOW_CORE_SCOPE_H

#include "core/waiter.h"

#include <flowcoro/scope.h>

struct flow__scope {
    struct flow_ambient ambient; /* the owner's; the deadline is constant, and read by its tasks */
    struct flow__task *owner;
    struct flow__waiters queue;                 /* under guard: the owner */
    flow_deadline deadline;                     /* its own; constant */
    uint64_t live, finished, failed, cancelled; /* under guard */
    struct flow__spin guard;
    uint32_t first;               /* under guard: slot of the newest task, or NONE */
    uint32_t cursor;              /* under guard: the next one to be cancelled, or NONE */
    flow__atomic(uint32_t) state; /* written under guard */
    uint32_t holds;               /* under guard: those who are just cancelling it */
    int error;                    /* under guard */
};

_Static_assert(sizeof(struct flow__scope) == sizeof(struct flow_scope), "one and the same");

static inline struct flow__scope *flow__scope_of(struct flow_scope *s)
{
    return (struct flow__scope *)(void *)s;
}

/* Makes a task that nobody knows yet, or that the caller has claimed, one of the scope's. -EINVAL,
 * -ECANCELED: it takes no more. w: the caller's worker or NULL. */
int flow__scope_enlist(struct flow__scope *s, struct flow__worker *w, struct flow__task *t);

/* A task of the scope has its result and comes to its end. w: the worker that ran it, or the
 * caller's, or NULL. */
void flow__scope_task_ended(struct flow__worker *w, struct flow__task *t);

#endif
