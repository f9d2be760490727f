/* SPDX-License-Identifier: MIT
 *
 * A queue of those who wait for one thing: what is under mutexes, channels, scopes, events
 * and all else that coroutines wait on. First come, first served.
 *
 * A waiter lies in the frame that waits, or in the header of its stack (flow__tail_wait), and carries
 * the task and the epoch of its suspension (core/wait.c). One suspension may stand in several queues
 * at once, as that of a select does: the task's wait word has one winner.
 *
 * A queue and the waiters in it are guarded by the spin lock of the thing waited for:
 *   the one who waits   arms, looks once more, queues itself, unlocks, suspends;
 *   the one who wakes   under the lock claims the first waiter that can still be won and hands it
 *                       what it waits for (outcome, item); then unlocks, then resumes it.
 * A claimed waiter stays where it is until it is resumed. So the lock is never held over a system
 * call, and the thing itself may be gone by the time of the resuming: who was woken may free it.
 *
 * A waiter that has lost (time out, cancellation, another queue) is dropped by whoever meets it, or
 * takes itself out. So when flow__waiter_wait() returns it is in no queue, and 0 means
 * that somebody claimed it and has handed over.
 *
 * A foreign thread's stand-in sees that it was claimed before it is resumed, for it sleeps on the
 * wait word itself: it then waits at its gate, which the one who resumes it opens. */
#ifndef FLOW_CORE_WAITER_H
#define FLOW_CORE_WAITER_H

#include "core/worker.h"
#include "sync/spin.h"

/* Claimed waiters, to be resumed in this order once the lock is let go. */
struct flow__claimed {
    struct flow__waiter *first, **last;
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

static inline void flow__waiters_add_first(struct flow__waiters *q, struct flow__waiter *waiter)
{
    waiter->in = q;
    waiter->prev = NULL;
    waiter->next = q->first;
    *(q->first ? &q->first->prev : &q->last) = waiter;
    q->first = waiter;
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
 * flow__waiter_resume() it after handing over. False: it was over, and it is out too.
 * how: FLOW__WAIT_WOKEN, or, if it is to find an outcome that is not 0, FLOW__WAIT_REFUSED; only of
 * waiters in tails the difference matters. */
static inline bool flow__waiter_claim_as(struct flow__waiter *waiter, unsigned how)
{
    flow__waiters_remove(waiter);
    return flow__claim_wait(waiter->task, waiter->epoch, how);
}

static inline bool flow__waiter_claim(struct flow__waiter *waiter)
{
    return flow__waiter_claim_as(waiter, FLOW__WAIT_WOKEN);
}

/* Claims the oldest waiter that can be won, or NULL; the queue is then empty. */
static inline struct flow__waiter *flow__waiters_claim_as(struct flow__waiters *q, unsigned how)
{
    struct flow__waiter *waiter;

    while ((waiter = q->first))
        if (flow__likely(flow__waiter_claim_as(waiter, how)))
            return waiter;
    return NULL;
}

static inline struct flow__waiter *flow__waiters_claim(struct flow__waiters *q)
{
    return flow__waiters_claim_as(q, FLOW__WAIT_WOKEN);
}

/* Lets a claimed waiter go on; it may be gone when this returns. w: the caller's worker or NULL. */
static inline void flow__waiter_resume(struct flow__worker *w, struct flow__waiter *waiter)
{
    struct flow__task *t = waiter->task;

    /* A thread may go on from here, and the waiter be gone. [SPIN-2] */
    flow__spin_unlock(&waiter->gate);
    flow__resume_won(w, t);
}

static inline void flow__claimed_init(struct flow__claimed *c)
{
    c->first = NULL;
    c->last = &c->first;
}

static inline void flow__claimed_add(struct flow__claimed *c, struct flow__waiter *waiter)
{
    waiter->next = NULL;
    *c->last = waiter;
    c->last = &waiter->next;
}

/* Claims all that can be won. Returns how many. */
int flow__waiters_claim_all(struct flow__waiters *q, struct flow__claimed *c);

/* Resumes them all, without the lock. */
static inline void flow__claimed_resume(struct flow__worker *w, struct flow__claimed *c)
{
    for (struct flow__waiter *waiter = c->first, *next; waiter; waiter = next) {
        next = waiter->next;
        flow__waiter_resume(w, waiter);
    }
}

/* Around claiming and resuming, for coroutines and foreign threads alike: *w is the caller's worker
 * or NULL. -ESHUTDOWN: there is no runtime, so nobody waits, whatever a queue that was left behind
 * says. -ENOTSUP: nor does anybody in the child of a fork, and no spin lock may be taken there, as it
 * may be held by a thread that is not there; so the queue is left alone. -EPERM: a worker's thread
 * outside of coroutines. */
static inline int flow__resumer_begin(struct flow__worker **w)
{
    struct flow__task *self = flow__self();

    *w = self ? self->home : NULL;
    return self ? 0 : flow__foreign_enter();
}

static inline void flow__resumer_end(struct flow__worker *w)
{
    if (!w)
        flow__foreign_leave();
}

/* Before a waiter of self is put into a queue: epoch is armed, gate closed. */
static inline void flow__waiter_init(struct flow__waiter *waiter, struct flow__task *self,
                                     uint64_t epoch)
{
    waiter->task = self;
    waiter->epoch = epoch;
    waiter->outcome = 0;
    store_relaxed(&waiter->gate.held, 1);
}

/* After a suspension that its claimer ended: it was taken out, and, unless it is a thread, handed over
 * to; a thread waits for that. Returns the outcome. */
static inline int flow__waiter_handed(struct flow__waiter *waiter)
{
    if (flow__unlikely(flow__has(waiter->task, FLOW__IS_THREAD)))
        flow__spin_lock(&waiter->gate);
    return waiter->outcome;
}

/* After flow__wait has returned r for a waiter of one queue: takes it out, or, if it was claimed,
 * waits until it is resumed. Returns r, or if that is 0 the outcome. */
int flow__waiter_leave(struct flow__waiter *waiter, struct flow__spin *lock, int r);

/* Waits in a queue. The caller holds the lock, has seen that it must wait, and has filled in the
 * waiter's item and value; the lock is released in any case. Returns what the one who claimed it put
 * into outcome, or -ETIMEDOUT, -ECANCELED, -EDEADLK (see flow__arm): then nothing was handed over. */
int flow__waiter_wait(struct flow__task *self, struct flow__spin *lock, struct flow__waiters *q,
                      struct flow__waiter *waiter, bool shielded, enum flow__why why,
                      flow_deadline deadline);

/* The same, before all others. */
int flow__waiter_wait_first(struct flow__task *self, struct flow__spin *lock,
                            struct flow__waiters *q, struct flow__waiter *waiter, bool shielded,
                            enum flow__why why, flow_deadline deadline);

#endif
