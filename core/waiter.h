/* SPDX-License-Identifier: MIT
 *
 * A queue of those who wait for one thing: what is under mutexes, channels, scopes, events
 * and all else that coroutines wait on. First come, first served.
 *
 * A waiter lies in the frame that waits and carries the task and the epoch of its suspension
 * (core/wait.c). One suspension may stand in several queues at once, as that of a select does: the
 * task's wait word has one winner.
 *
 * Everything here happens under the spin lock of the thing waited for:
 *   the one who waits   arms, looks once more, queues itself, unlocks, suspends;
 *   the one who wakes   claims the first waiter that can still be won, hands it what it waits
 *                       for (outcome, item), and only then resumes it, all under the lock.
 * A waiter that has lost (time out, cancellation, another queue) is dropped by whoever meets it, or
 * takes itself out. So when flow__waiter_wait() returns it is in no queue, and 0 means
 * that somebody claimed it and has handed over.
 *
 * A foreign thread's stand-in may wake before the one who claimed it has handed over, for it sleeps
 * on the wait word itself: it takes the lock once before it looks. */
#ifndef FLOW_CORE_WAITER_H
#define FLOW_CORE_WAITER_H

#include "core/worker.h"
#include "sync/spin.h"

struct flow__waiter {
    struct flow__waiter *next, *prev;
    struct flow__waiters *in; /* the queue it stands in, or NULL */
    struct flow__task *task;
    uint64_t epoch;
    void *item;    /* what is handed over, or where it goes */
    int64_t value; /* whatever the two sides agree on */
    int outcome;   /* 0, or a negative errno for the one who waits */
};

struct flow__waiters {
    struct flow__waiter *first, *last;
};

static inline void flow__waiters_add(struct flow__waiters *q, struct flow__waiter *waiter)
{
    waiter->in = q;
    waiter->next = NULL;
    waiter->prev = q->last;
    if (q->last)
        q->last->next = waiter;
    else
        q->first = waiter;
    q->last = waiter;
}

/* Takes it out of its queue if it is in one. */
static inline void flow__waiters_remove(struct flow__waiter *waiter)
{
    struct flow__waiters *q = waiter->in;

    if (!q)
        return;
    *(waiter->prev ? &waiter->prev->next : &q->first) = waiter->next;
    *(waiter->next ? &waiter->next->prev : &q->last) = waiter->prev;
    waiter->in = NULL;
}

/* Wins the suspension that a waiter stands for. True: it is out of its queue, and the caller must
 * flow__waiter_resume() it after handing over. False: it was over, and it is out too. */
bool flow__waiter_claim(struct flow__waiter *waiter);

/* Claims the oldest waiter that can be won, or NULL; the queue is then empty. */
struct flow__waiter *flow__waiters_claim(struct flow__waiters *q);

/* Lets a claimed waiter go on; it may be gone when this returns. w: the caller's worker or NULL. */
void flow__waiter_resume(struct flow__worker *w, struct flow__waiter *waiter);

/* Claims and resumes all, each with this outcome. Returns how many. */
int flow__waiters_resume_all(struct flow__worker *w, struct flow__waiters *q, int outcome);

/* Waits in a queue. The caller holds the lock, has seen that it must wait, and has filled in the
 * waiter's item and value; the lock is released in any case. Returns what the one who claimed it put
 * into outcome, or -ETIMEDOUT, -ECANCELED, -EDEADLK (see flow__arm): then nothing was handed over. */
int flow__waiter_wait(struct flow__task *self, struct flow__spin *lock, struct flow__waiters *q,
                      struct flow__waiter *waiter, bool shielded, enum flow__why why,
                      flow_deadline deadline);

#endif
