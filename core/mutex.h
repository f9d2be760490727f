/* SPDX-License-Identifier: MIT
 *
 * The inside of a mutex, which conditions and once share.
 *
 * word   owner | WAITERS. 0: free. DEAD: free, and its last owner ended with it.
 *        The owner is a task's control block or an address that only one thread has.
 *
 *                     word          guard   woken, queue
 *   lock, free        CAS 0 -> me   no      no
 *   lock, else        CAS           yes     under guard
 *   unlock, alone     CAS me -> 0   no      no
 *   unlock, WAITERS   store         yes     under guard
 *
 * Invariant, seen under the guard: whoever is in the queue, either WAITERS is set, so that the owner's
 * unlock comes here, or `woken` is, and the one who was woken is on its way here.
 * WAITERS is only set while somebody owns the mutex; meanwhile the word changes only under the guard.
 *
 * An unlock touches the mutex last with the CAS that frees it, or while a claimed waiter, which
 * cannot return yet, keeps it alive: its next owner may free its memory. */
#ifndef FLOW_CORE_MUTEX_H
#define FLOW_CORE_MUTEX_H

#include "core/waiter.h"

#include <flowcoro/sync.h>

struct flow__mutex {
    flow__atomic(uintptr_t) word; /* anyone */
    struct flow__spin guard;
    uint32_t woken;                /* under guard: one was woken, and has not come back yet */
    struct flow__waiters queue;    /* under guard */
    struct flow__mutex *next_held; /* the owner's: of what its task holds; see flow__stack_header */
};

_Static_assert(sizeof(struct flow__mutex) == sizeof(struct flow_mutex), "one and the same");

#define FLOW__MUTEX_WAITERS ((uintptr_t)1)
#define FLOW__MUTEX_DEAD    ((uintptr_t)2)

static inline struct flow__mutex *flow__mutex_of(struct flow_mutex *m)
{
    return (struct flow__mutex *)(void *)m;
}

/* Who the caller is to a mutex: a task, or else a thread. */
uintptr_t flow__mutex_thread(void);

static inline uintptr_t flow__mutex_me(void)
{
    struct flow__task *self = flow__self();

    return flow__likely(self != NULL) ? (uintptr_t)self : flow__mutex_thread();
}

/* What a waiter in the queue finds in its outcome, or -EOWNERDEAD: handed over too. */
enum {
    FLOW__MUTEX_WOKEN = 0,  /* come and try */
    FLOW__MUTEX_HANDED = 1, /* it is yours */
};

/* Goes on as a waiter that flow__waiter_leave gave this outcome, until it is the owner: 0 or
 * -EOWNERDEAD, or why it is not. */
int flow__mutex_compete(struct flow__mutex *m, struct flow__task *self, struct flow__waiter *waiter,
                        int outcome, bool shielded, flow_deadline deadline);

/* Locks it for who had it before and must have it again: as flow_mutex_lock, for ever and not ended by
 * cancellation. */
int flow__mutex_lock_again(struct flow__mutex *m, struct flow__task *self, uintptr_t me);

/* Under the guard: if somebody owns it, sees to it that its unlock looks into the queue. False: it is
 * free. */
bool flow__mutex_announce(struct flow__mutex *m);

/* Passes on what a task holds that has ended. `first` is the newest of them. */
void flow__mutex_orphan(struct flow__worker *w, struct flow__task *t, struct flow__mutex *first);

#endif
