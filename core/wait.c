/* SPDX-License-Identifier: MIT
 *
 * The one way in which anything waits: arm, publish the epoch, flow__wait.
 *
 * Who wakes a task may do so before it has left its stack. That is harmless: the
 * wake goes to the task's home worker, which cannot take it up before it has switched away from
 * the task. So nothing is done "after the switch", and the only task that is not
 * safe by this, a roaming one that yields, is queued by its scheduler. */
#include "core/ambient.h"

#include <errno.h>

int flow__outside(void)
{
    switch (load_acquire(&flow__runtime.state)) {
    case FLOW__FORKED:
        return -ENOTSUP;
    case FLOW__STOPPED:
        return -ESHUTDOWN;
    default:
        return -EPERM;
    }
}

bool flow__is_in_section(struct flow__task *self)
{
    /* A foreign thread is in one of ours, which it leaves before it blocks. */
    if (flow__unlikely(flow__has(self, FLOW__IS_THREAD)))
        return flow__reclaim_depth(flow__reclaim_sections()) > 1;
    return flow__reclaim_is_inside(self->home->sections);
}

int flow__arm(struct flow__task *self, bool shielded, uint64_t *epoch)
{
    uint64_t seen = load_relaxed(&self->wait), armed;

    if (flow__unlikely(flow__is_in_section(self)))
        return -EDEADLK;
    if (flow__unlikely(flow__has(self, FLOW__SHIELDED | FLOW__AMBIENT)) &&
        !flow__ambient_allows(self, &shielded))
        return -ECANCELED;
    /* Who finds it armed and its stack pointer set finds it suspended: see core/snapshot.h. */
    self->strand.context.sp = NULL;
    do {
        if ((seen & FLOW__CANCELLED) && !shielded)
            return -ECANCELED;
        *epoch = flow__epoch_of(seen) + 1;
        armed = *epoch << FLOW__EPOCH_SHIFT | (seen & FLOW__CANCEL_BITS) |
                (shielded ? FLOW__WAIT_SHIELDED : FLOW__WAIT_ARMED);
        /* [WAIT-1] seq_cst: a canceller sets CANCELLED in the same word, so it is either seen here
         * or sees us armed. */
    } while (!cas_seq(&self->wait, &seen, armed));
    return 0;
}

static flow__atomic(uint32_t) * low_half(struct flow__task *t)
{
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the low half of the wait word is expected first"
#endif
    return (flow__atomic(uint32_t) *)(void *)&t->wait;
}

long flow__say_slowly(struct flow__task *t)
{
    struct flow__stack_header *top = flow__stack_top(t->stack, t->stack_class);
    uint64_t word = load_relaxed(&t->wait);

    if (!flow__has(t, FLOW__TAIL) || top->tail.epoch != flow__epoch_of(word))
        return flow__heeds_cancel(t) ? -ECANCELED : 0; /* it has yielded, or does not listen */
    switch (word & FLOW__WAIT_STATE) {
    case FLOW__WAIT_CANCELLED:
        flow__chan_leave_by_tail(top);
        return -ECANCELED;
    case FLOW__WAIT_REFUSED:
        return top->tail.outcome;
    default:
        return 0;
    }
}

bool flow__disarm(struct flow__task *self, uint64_t epoch)
{
    uint64_t seen = load_relaxed(&self->wait);

    while (flow__is_armed(seen, epoch))
        if (cas_seq(&self->wait, &seen, seen & ~(uint64_t)FLOW__WAIT_STATE))
            return true;
    return false;
}

bool flow__win(struct flow__worker *w, struct flow__task *t, uint64_t epoch, unsigned how)
{
    if (!flow__claim_wait(t, epoch, how))
        return false;
    flow__resume_won(w, t);
    return true;
}

/* With workers = 0: the thread of a stand-in that was won may be driving, or waiting for who drives. */
static void tell_driver(void)
{
    struct flow__runtime *rt = &flow__runtime;
    uint32_t waited_for = 2;

    if (cas_seq(&rt->driver, &waited_for, 1))
        flow__sys.futex_wake(&rt->driver, INT32_MAX);
    flow__parker_notify(&rt->workers[0].parker);
}

void flow__resume_won_slowly(struct flow__worker *w, struct flow__task *t)
{
    /* A stand-in's thread may have gone on by itself and given the block away: to another stand-in,
     * for which a wake is spurious at worst. A task can not: it needs us to make it ready. */
    if (flow__likely(!flow__has(t, FLOW__IS_THREAD))) {
        flow__make_ready(w, t);
        return;
    }
    flow__sys.futex_wake(low_half(t), 1);
    if (flow__runtime.n_workers == 0)
        tell_driver();
}

void flow__wait_for_driver(struct flow__task *stand_in, uint64_t epoch, flow_deadline deadline)
{
    uint32_t busy = 1;

    /* Who wins it after this look finds the 2, and changes it. */
    if ((cas_seq(&flow__runtime.driver, &busy, 2) || busy == 2) &&
        (!stand_in || flow__is_armed(load_seq(&stand_in->wait), epoch)))
        flow__sys.futex_wait(&flow__runtime.driver, 2, deadline);
}

/* Runs tasks while the thread waits for one, as there is nobody else to do it. 0: look again. */
static int drive_meanwhile(struct flow__task *self, uint64_t epoch, flow_deadline deadline)
{
    int r = flow__drive_waiting(self, epoch, deadline);

    if (r == -EBUSY) {
        if (load_seq(&flow__runtime.workers_end))
            return -ECANCELED; /* flow_stop has the seat and will not leave it */
        flow__wait_for_driver(self, epoch, deadline);
        r = 0;
    }
    if (r < 0)
        return r;
    if (r == 0 && load_relaxed(&flow__runtime.state) != FLOW__RUNNING_STATE)
        return -ECANCELED;
    return flow__sys.now() >= deadline ? -ETIMEDOUT : 0;
}

/* A foreign thread sleeps on the low half of its stand-in's wait word: epoch and
 * state both change when it is won. 0, or why it waits no longer. */
static int block_thread(struct flow__task *self, uint64_t epoch, flow_deadline deadline)
{
    uint64_t word;
    int r = 0;

    fetch_add_seq(&flow__runtime.foreign_waiting, 1);
    /* From here on flow_stop waits for us, or it has set workers_end before, and we do not leave
     * the section. */
    if (load_seq(&flow__runtime.workers_end)) {
        fetch_sub_seq(&flow__runtime.foreign_waiting, 1);
        return -ECANCELED;
    }
    flow__reclaim_leave();
    while (!r && flow__is_armed(word = load_acquire(&self->wait), epoch)) {
        if (flow__runtime.n_workers == 0)
            r = drive_meanwhile(self, epoch, deadline);
        else if (flow__sys.futex_wait(low_half(self), (uint32_t)word, deadline) &&
                 flow__sys.now() >= deadline)
            r = -ETIMEDOUT;
    }
    flow__reclaim_enter();
    if (fetch_sub_seq(&flow__runtime.foreign_waiting, 1) == 1)
        flow__tell_quiet();
    return r;
}

static int wait_as_thread(struct flow__task *self, uint64_t epoch, flow_deadline deadline)
{
    int r = block_thread(self, epoch, deadline);

    if (flow__disarm(self, epoch))
        return r;
    return (load_acquire(&self->wait) & FLOW__WAIT_STATE) == FLOW__WAIT_CANCELLED ? -ECANCELED : 0;
}

static __attribute__((noinline)) void leave_with_fp_environment(struct flow__task *self)
{
    struct flow__fp_environment own;

    /* Jobs take this environment with them. */
    if (flow__has_jobs(self->home))
        flow__hand_out_jobs(self);
    flow__fp_save(&own);
    flow__fp_load(&self->home->fp);
    flow__leave(self);
    flow__fp_load(&own);
}

static inline int wait_as_task(struct flow__task *self, uint64_t epoch, enum flow__why why,
                               flow_deadline deadline)
{
    flow__note_wait(self, why);
    /* Who has woken us on this very worker, while we published, found no timer to disarm. */
    if (deadline != FLOW_FOREVER && flow__is_armed(load_relaxed(&self->wait), epoch)) {
        struct flow__worker *w = self->home;

        self->timed = true;
        flow__timer_add(&w->timers, &self->timer, deadline);
        flow__count(w, timers_armed);
    }
    if (flow__unlikely(flow__has(self, FLOW_FP_ENVIRONMENT)))
        leave_with_fp_environment(self);
    else
        flow__leave(self);
    /* [WAIT-3] acquire: pairs with [WAIT-2]. */
    switch (load_acquire(&self->wait) & FLOW__WAIT_STATE) {
    case FLOW__WAIT_TIMED_OUT:
        return -ETIMEDOUT;
    case FLOW__WAIT_CANCELLED:
        return -ECANCELED;
    default:
        return 0;
    }
}

/* The ambient deadline ends it if it comes first. */
static __attribute__((noinline)) int wait_within_limit(struct flow__task *self, uint64_t epoch,
                                                       enum flow__why why, flow_deadline deadline)
{
    flow_deadline limit = flow__ambient_deadline(self);
    int r = wait_as_task(self, epoch, why, limit < deadline ? limit : deadline);

    return r == -ETIMEDOUT && limit < deadline ? -ECANCELED : r;
}

int flow__wait(struct flow__task *self, uint64_t epoch, enum flow__why why, flow_deadline deadline)
{
    if (flow__likely(!flow__has(self, FLOW__IS_THREAD | FLOW__LIMITED)))
        return wait_as_task(self, epoch, why, deadline);
    if (flow__has(self, FLOW__IS_THREAD))
        return wait_as_thread(self, epoch, deadline);
    return wait_within_limit(self, epoch, why, deadline);
}

int flow__poll_failed(struct flow__task *self)
{
    return flow__must_leave(self) ? -ECANCELED : -ETIMEDOUT;
}

/* A roaming task may be taken by another worker the moment it is queued, so its
 * scheduler queues it, after the switch. */
static __attribute__((noinline)) int yield_slowly(struct flow__task *self)
{
    if (flow__has(self, FLOW_ROAM))
        self->home->roamer = self;
    else
        flow__ready_push(&self->home->ready, self);
    if (flow__has(self, FLOW_FP_ENVIRONMENT))
        leave_with_fp_environment(self);
    else
        flow__leave(self);
    return flow__must_leave(self) ? -ECANCELED : 0;
}

/* One frame deep: each return on a stack other than its call's is mispredicted, so the
 * switch is a tail call, and what a resumed task is given is this function's own value. */
int flow_yield(void)
{
    struct flow__task *self = flow__self();

    if (flow__unlikely(!self))
        return flow__outside();

    struct flow__worker *w = self->home;
    struct flow__task *next;

    self->strand.context.sp = NULL; /* as in flow__arm */
    if (flow__unlikely(
            flow__has(self, FLOW_ROAM | FLOW_FP_ENVIRONMENT | FLOW__AMBIENT | FLOW__TAIL) ||
            flow__has_jobs(w))) {
        store_relaxed(&self->flags, load_relaxed(&self->flags) & ~(uint32_t)FLOW__TAIL);
        if (flow__has(self, FLOW_ROAM | FLOW_FP_ENVIRONMENT | FLOW__AMBIENT) || flow__has_jobs(w))
            return yield_slowly(self);
    }

    /* Straight to the next one when the scheduler would do nothing else either. */
    if (self->back == &w->strand && (next = flow__next_ready(w))) {
        flow__ready_push(&w->ready, self);
        return flow__go(&self->strand, &next->strand, flow__say(next));
    }
    flow__ready_push(&w->ready, self);
    return flow__leave(self);
}

int flow_sleep_until(flow_deadline deadline)
{
    struct flow__task *self = flow__self();
    uint64_t epoch;
    int r;

    if (!self)
        return flow__outside();
    r = flow__arm(self, false, &epoch);
    if (r)
        return r;
    r = flow__wait(self, epoch, FLOW__WHY_SLEEP, deadline);
    return r == -ETIMEDOUT ? 0 : r;
}

int flow_sleep(int64_t span_ns)
{
    return span_ns <= 0 ? flow_yield() : flow_sleep_until(flow_after(span_ns));
}

int flow_suspend(int (*publish)(flow_waker waker, void *arg), void *arg, flow_deadline deadline)
{
    struct flow__task *self = flow__self();
    flow_waker waker;
    int r;

    if (!self)
        return flow__outside();
    if (!publish)
        return -EINVAL;
    r = flow__arm(self, false, &waker.epoch);
    if (r)
        return r;
    waker.task = flow__id_of(self, load_relaxed(&self->life));
    r = publish(waker, arg);
    if (r && flow__disarm(self, waker.epoch))
        return r < 0 ? r : 0;

    /* Whether this task can be woken from outside is nobody's knowledge but the publisher's. */
    count_up(&self->home->stats.outside, 1);
    int waited = flow__wait(self, waker.epoch, FLOW__WHY_WAKER, deadline);
    count_up(&self->home->stats.outside, -1);
    return r < 0 ? r : r > 0 ? 0 : waited;
}

int flow_wake(flow_waker waker)
{
    struct flow__task *self = flow__self(), *t;
    struct flow__worker *w = self ? self->home : NULL;
    int r = 0;

    if (!w && (r = flow__foreign_enter()))
        return r;
    t = flow__block_of(waker.task);
    if (!t || !flow__win(w, t, waker.epoch, FLOW__WAIT_WOKEN))
        r = -ESRCH;
    if (!w)
        flow__foreign_leave();
    return r;
}
