/* SPDX-License-Identifier: MIT
 *
 * Conditions. Any thread.
 *
 * A signal does not wake anybody who would only find the mutex taken: it moves the waiter, armed as
 * it is, into the mutex's queue, and the unlocks wake one after the other. Guards are taken in the
 * order condition, mutex. A waiter that was moved has had its signal, whatever ends its wait. */
#include "core/ambient.h"
#include "core/mutex.h"

#include <errno.h>

struct condition {
    struct flow__spin guard;
    uint32_t n;                 /* under guard: of waiters */
    struct flow__waiters queue; /* under guard */
};

_Static_assert(sizeof(struct condition) == sizeof(struct flow_condition), "one and the same");

struct member {
    struct flow__waiter waiter; /* first; its item: who it is to the mutex */
    struct flow__mutex *mutex;
    bool moved; /* under the condition's guard: it is the mutex's now */
};

static inline struct condition *inside(struct flow_condition *c)
{
    return (struct condition *)(void *)c;
}

/* ---- waiting ---- */

/* Its wait was not won by anybody: takes it out of where it is. True if it had been signalled. */
static bool take_out(struct condition *c, struct member *member)
{
    struct flow__mutex *m = member->mutex;

    flow__spin_lock(&c->guard);
    if (!member->moved) {
        c->n -= member->waiter.in != NULL;
        flow__waiters_remove(&member->waiter);
    }
    flow__spin_unlock(&c->guard);
    if (!member->moved)
        return false;
    flow__spin_lock(&m->guard);
    flow__waiters_remove(&member->waiter);
    flow__spin_unlock(&m->guard);
    return true;
}

static int wait_unlocked(struct condition *c, struct flow__task *self, struct member *member,
                         uint64_t epoch, flow_deadline deadline)
{
    struct flow__mutex *m = member->mutex;
    int r, locked;

    flow__waiter_init(&member->waiter, self, epoch);
    flow__spin_lock(&c->guard);
    flow__waiters_add(&c->queue, &member->waiter);
    c->n++;
    flow__spin_unlock(&c->guard);
    flow_mutex_unlock((struct flow_mutex *)(void *)m);
    flow__note_object(self, c);
    r = flow__wait(self, epoch, FLOW__WHY_CONDITION, deadline);
    if (r) {
        r = take_out(c, member) ? 0 : r;
        locked = flow__mutex_lock_again(m, self, (uintptr_t)member->waiter.item);
    } else {
        locked = flow__mutex_compete(m, self, &member->waiter, flow__waiter_handed(&member->waiter),
                                     true, FLOW_FOREVER);
    }
    return locked == 0 ? r : locked == -EOWNERDEAD ? locked : -ESHUTDOWN;
}

int flow_condition_wait(struct flow_condition *condition, struct flow_mutex *mutex,
                        flow_deadline deadline)
{
    struct member member = {.mutex = flow__mutex_of(mutex)};
    uintptr_t me = flow__mutex_me();
    struct flow__task *self;
    uint64_t epoch;
    int r;

    if ((load_relaxed(&member.mutex->word) & ~FLOW__MUTEX_WAITERS) != me)
        return -EPERM;
    self = flow__caller_begin(&r);
    if (!self) {
        if (r == -ESHUTDOWN) /* as when flow_stop comes later */
            flow_mutex_unlock(mutex);
        return r;
    }
    member.waiter.item = (void *)me;
    r = deadline == FLOW_NOW ? flow__poll_failed(self) : flow__arm(self, false, &epoch);
    if (!r)
        r = wait_unlocked(inside(condition), self, &member, epoch, /* NOLINT: it is armed */
                          deadline);
    flow__caller_end(self);
    return r;
}

/* ---- signalling ---- */

/* Under both guards: true if it has had the signal. */
static bool move_or_wake(struct member *member, struct flow__claimed *claimed)
{
    struct flow__mutex *m = member->mutex;

    flow__waiters_remove(&member->waiter);
    if (flow__mutex_announce(m) || m->woken) {
        member->moved = true;
        flow__waiters_add(&m->queue, &member->waiter);
        return true;
    }
    /* The mutex is free: this is the one that is on its way. */
    if (!flow__waiter_claim(&member->waiter))
        return false;
    m->woken = 1;
    flow__claimed_add(claimed, &member->waiter);
    return true;
}

/* Up to n waiters, at one stroke: those who have had the signal may free the condition. */
static void signal_some(struct condition *c, uint32_t n, struct flow__claimed *claimed)
{
    struct member *member;

    flow__spin_lock(&c->guard);
    while ((member = (struct member *)(void *)c->queue.first)) {
        struct flow__mutex *m = member->mutex;
        bool signalled, last;

        flow__spin_lock(&m->guard);
        c->n--;
        signalled = move_or_wake(member, claimed);
        n -= signalled;
        last = signalled && (n == 0 || c->n == 0);
        /* Who was moved may go on, and free both, once the mutex's guard is let go. */
        if (last)
            flow__spin_unlock(&c->guard);
        flow__spin_unlock(&m->guard);
        if (last)
            return;
    }
    flow__spin_unlock(&c->guard);
}

static int signal_up_to(struct condition *c, uint32_t n)
{
    struct flow__claimed claimed;
    struct flow__worker *w;
    int r = flow__resumer_begin(&w);

    if (r)
        return r == -EPERM ? r : 0; /* there is no runtime, so nobody waits */
    flow__claimed_init(&claimed);
    signal_some(c, n, &claimed);
    flow__claimed_resume(w, &claimed);
    flow__resumer_end(w);
    return 0;
}

int flow_condition_signal(struct flow_condition *condition)
{
    return signal_up_to(inside(condition), 1);
}

int flow_condition_broadcast(struct flow_condition *condition)
{
    return signal_up_to(inside(condition), UINT32_MAX);
}
