/* SPDX-License-Identifier: MIT
 *
 * Mutexes; what the word means, and who may change it, is in the header. Any thread.
 *
 * Barging with a limit, as in Go's sync.Mutex, but counted instead of timed: who comes may
 * take a free mutex before those who wait, at most one of whom is on its way at a time; a waiter that
 * was woken PATIENCE times in vain is given it by the next unlock. It keeps its place at the head of
 * the queue meanwhile. */
#include "core/mutex.h"

#include <errno.h>

#define PATIENCE 2

#define WAITERS FLOW__MUTEX_WAITERS
#define DEAD    FLOW__MUTEX_DEAD

/* ---- who ---- */

uintptr_t flow__mutex_thread(void)
{
    static __thread uint64_t mark;

    return (uintptr_t)&mark;
}

static inline uintptr_t owner_of(uintptr_t word)
{
    return word & ~WAITERS;
}

/* The mutexes of a task hang on the top of its stack, the newest first. Its own business, between
 * its becoming the owner and its giving that up. */
static inline void hold(struct flow__mutex *m)
{
    struct flow__stack_header *top = flow__own_header();

    if (flow__unlikely(!top))
        return;
    m->next_held = top->held;
    top->held = m;
}

static void let_go(struct flow__mutex **at, struct flow__mutex *m)
{
    while (*at != m)
        at = &(*at)->next_held;
    *at = m->next_held;
}

/* ---- locking ---- */

/* 0, -EOWNERDEAD, or -EBUSY. */
static int take(struct flow__mutex *m, uintptr_t me)
{
    uintptr_t seen = load_relaxed(&m->word);

    /* [MUTEX-1] acquire: pairs with [MUTEX-2]; what the last owner did is visible. */
    if ((seen != 0 && seen != DEAD) || !cas_acquire(&m->word, &seen, me))
        return -EBUSY;
    return seen == DEAD ? -EOWNERDEAD : 0;
}

/* Under the guard: takes it, or sees to it that the owner's unlock looks into the queue. */
static int take_or_announce(struct flow__mutex *m, uintptr_t me)
{
    uintptr_t more = m->queue.first ? WAITERS : 0, seen = load_relaxed(&m->word), next;

    do
        next = seen == 0 || seen == DEAD ? me | more : seen | WAITERS;
    while (!cas_acquire(&m->word, &seen, next)); /* [MUTEX-1] */
    return seen == 0 ? 0 : seen == DEAD ? -EOWNERDEAD : -EBUSY;
}

int flow__mutex_compete(struct flow__mutex *m, struct flow__task *self, struct flow__waiter *waiter,
                        int outcome, bool shielded, flow_deadline deadline)
{
    while (outcome == FLOW__MUTEX_WOKEN) {
        flow__spin_lock(&m->guard);
        m->woken = 0;
        outcome = take_or_announce(m, (uintptr_t)waiter->item);
        if (outcome != -EBUSY) {
            flow__spin_unlock(&m->guard);
            break;
        }
        waiter->value++;
        flow__note_object(self, m);
        outcome = flow__waiter_wait_first(self, &m->guard, &m->queue, waiter, shielded,
                                          FLOW__WHY_MUTEX, deadline);
    }
    if (outcome == FLOW__MUTEX_HANDED)
        outcome = 0;
    if (outcome == 0 || outcome == -EOWNERDEAD)
        hold(m);
    return outcome;
}

bool flow__mutex_announce(struct flow__mutex *m)
{
    uintptr_t seen = load_relaxed(&m->word);

    do
        if (seen == 0 || seen == DEAD)
            return false;
    while (!cas_acquire(&m->word, &seen, seen | WAITERS));
    return true;
}

static int wait_and_compete(struct flow__mutex *m, struct flow__task *self, uintptr_t me,
                            bool shielded, flow_deadline deadline)
{
    struct flow__waiter waiter = {.item = (void *)me};
    int r;

    flow__spin_lock(&m->guard);
    r = take_or_announce(m, me);
    if (r != -EBUSY) {
        flow__spin_unlock(&m->guard);
        hold(m);
        return r;
    }
    flow__note_object(self, m);
    r = flow__waiter_wait(self, &m->guard, &m->queue, &waiter, shielded, FLOW__WHY_MUTEX, deadline);
    return flow__mutex_compete(m, self, &waiter, r, shielded, deadline);
}

int flow__mutex_lock_again(struct flow__mutex *m, struct flow__task *self, uintptr_t me)
{
    return wait_and_compete(m, self, me, true, FLOW_FOREVER);
}

static __attribute__((noinline)) int lock_slowly(struct flow__mutex *m, flow_deadline deadline)
{
    struct flow__task *self;
    uintptr_t me = flow__mutex_me();
    int r = take(m, me);

    if (r != -EBUSY) {
        hold(m);
        return r;
    }
    if (owner_of(load_relaxed(&m->word)) == me)
        return -EDEADLK;
    self = flow__caller_begin(&r);
    if (!self)
        return r;
    r = wait_and_compete(m, self, me, false, deadline);
    flow__caller_end(self);
    return r;
}

/* What can be read before the CAS is, as what follows waits for it. */
int flow_mutex_lock(struct flow_mutex *mutex, flow_deadline deadline)
{
    struct flow__mutex *m = flow__mutex_of(mutex), *older;
    struct flow__stack_header *top = flow__own_header();
    uintptr_t nobody = 0;

    if (flow__unlikely(!top))
        return lock_slowly(m, deadline);
    older = top->held;
    if (flow__unlikely(!cas_acquire(&m->word, &nobody, (uintptr_t)top->task))) /* [MUTEX-1] */
        return lock_slowly(m, deadline);
    m->next_held = older;
    top->held = m;
    return 0;
}

int flow_mutex_trylock(struct flow_mutex *mutex)
{
    struct flow__mutex *m = flow__mutex_of(mutex);
    int r = take(m, flow__mutex_me());

    if (r != -EBUSY)
        hold(m);
    return r;
}

/* ---- unlocking ---- */

/* There is no runtime, so nobody waits. */
static void forget_waiters(struct flow__mutex *m)
{
    m->queue = (struct flow__waiters){NULL, NULL};
    m->woken = 0;
}

/* Under the guard, which it lets go: wakes or installs an heir. False: nobody waits any more, and
 * the word says so. */
static bool pass_on(struct flow__mutex *m, struct flow__worker *w, uintptr_t me, bool dead)
{
    struct flow__waiter *heir = m->woken ? NULL : flow__waiters_claim(&m->queue);

    if (!heir && !m->woken) {
        store_relaxed(&m->word, me); /* ours, and not yet given up */
        flow__spin_unlock(&m->guard);
        return false;
    }
    if (heir && (dead || heir->value >= PATIENCE)) {
        heir->outcome = dead ? -EOWNERDEAD : FLOW__MUTEX_HANDED;
        store_relaxed(&m->word, (uintptr_t)heir->item | (m->queue.first ? WAITERS : 0));
    } else {
        m->woken = 1;
        /* [MUTEX-2] release: pairs with [MUTEX-1]. */
        store_release(&m->word, dead ? DEAD : 0);
    }
    flow__spin_unlock(&m->guard);
    if (heir)
        flow__waiter_resume(w, heir);
    return true;
}

static void give_up(struct flow__mutex *m, struct flow__worker *w, uintptr_t me, bool dead)
{
    for (;;) {
        uintptr_t seen = load_relaxed(&m->word);

        /* [MUTEX-2] release: pairs with [MUTEX-1]. */
        if (seen == me && cas_release(&m->word, &seen, dead ? DEAD : 0))
            return;
        flow__spin_lock(&m->guard);
        if (pass_on(m, w, me, dead))
            return;
    }
}

static int unlock_as_thread(struct flow__mutex *m)
{
    uintptr_t me = flow__mutex_thread(), seen = me;
    int r;

    if (owner_of(load_relaxed(&m->word)) != me)
        return -EPERM;
    if (cas_release(&m->word, &seen, 0)) /* [MUTEX-2] */
        return 0;
    r = flow__foreign_enter();
    if (r == -EPERM)
        return r;
    if (r == -ENOTSUP) {
        store_release(&m->word, 0); /* [MUTEX-2] */
        return 0;
    }
    if (r)
        forget_waiters(m);
    give_up(m, NULL, me, false);
    if (!r)
        flow__foreign_leave();
    return 0;
}

static __attribute__((noinline)) int unlock_slowly(struct flow__mutex *m,
                                                    struct flow__stack_header *top)
{
    uintptr_t me;

    if (!top)
        return unlock_as_thread(m);
    me = (uintptr_t)top->task;
    if (owner_of(load_relaxed(&m->word)) != me)
        return -EPERM;
    let_go(&top->held, m);
    give_up(m, top->task->home, me, false);
    return 0;
}

/* The newest of those that the task holds is its own, and nobody has to look at who the owner is. Its
 * list is changed behind the CAS, which would wait for that store. */
int flow_mutex_unlock(struct flow_mutex *mutex)
{
    struct flow__mutex *m = flow__mutex_of(mutex), *older;
    struct flow__stack_header *top = flow__own_header();
    uintptr_t me;

    if (flow__unlikely(!top) || flow__unlikely(top->held != m))
        return unlock_slowly(m, top);
    older = m->next_held;
    me = (uintptr_t)top->task;
    if (flow__unlikely(!cas_release(&m->word, &me, 0))) /* [MUTEX-2] */
        return unlock_slowly(m, top);
    top->held = older;
    return 0;
}

void flow__mutex_orphan(struct flow__worker *w, struct flow__task *t, struct flow__mutex *first)
{
    for (struct flow__mutex *m = first, *next; m; m = next) {
        uintptr_t offset = (uintptr_t)m - (uintptr_t)t->stack;

        /* On the stack that has just been left: it is gone, and those before it cannot be found. */
        if (offset < flow__stack_bytes(t->stack_class))
            return;
        next = m->next_held;
        give_up(m, w, (uintptr_t)t, true);
    }
}
