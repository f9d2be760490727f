/* SPDX-License-Identifier: MIT
 *
 * Groups to wait for, and barriers. Any thread.
 *
 * A wait group's word is count << 1 | WAITERS. Without WAITERS it changes by CAS; with it, only under
 * the guard. Whoever takes it to 0 touches it last with its CAS, or while a claimed waiter keeps
 * it alive. */
#include "core/ambient.h"
#include "core/waiter.h"

#include <flowcoro/sync.h>

#include <errno.h>

#define WAITERS ((uint64_t)1)
#define ONE     ((uint64_t)2)

struct group {
    flow__atomic(uint64_t) word; /* anyone */
    struct flow__spin guard;
    uint32_t unused;
    struct flow__waiters queue; /* under guard */
};

_Static_assert(sizeof(struct group) == sizeof(struct flow_waitgroup), "one and the same");

static inline struct group *group_of(struct flow_waitgroup *g)
{
    return (struct group *)(void *)g;
}

/* ---- counting ---- */

/* Why the count cannot change so, or 0. */
static inline int refused(uint64_t word, int64_t by)
{
    if (by < 0 && word <= WAITERS)
        return -EINVAL;
    return by > 0 && (word >> 1) + ((uint64_t)by >> 1) > UINT32_MAX ? -EOVERFLOW : 0;
}

/* Under the guard, with WAITERS set. False: nobody waits; then nothing has changed but that WAITERS
 * is gone. */
static bool count(struct group *g, uint64_t next, struct flow__claimed *claimed)
{
    if (next == 0)
        flow__waiters_claim_all(&g->queue, claimed);
    if (!claimed->first && !g->queue.first) {
        store_relaxed(&g->word, load_relaxed(&g->word) & ~WAITERS);
        return false;
    }
    /* [GROUP-2] release: pairs with [GROUP-1]. */
    store_release(&g->word, next | (g->queue.first ? WAITERS : 0));
    return true;
}

/* 0; -EAGAIN: nobody waits, or it is refused now: look again. */
static int change_slowly(struct group *g, int64_t by)
{
    struct flow__claimed claimed;
    struct flow__worker *w;
    int r = flow__resumer_begin(&w);
    uint64_t word;
    bool done = false;

    if (r == -EPERM)
        return r;
    if (r == -ENOTSUP) {
        fetch_and_seq(&g->word, ~WAITERS);
        return -EAGAIN;
    }
    flow__claimed_init(&claimed);
    flow__spin_lock(&g->guard);
    if (r)
        g->queue = (struct flow__waiters){NULL, NULL};
    word = load_relaxed(&g->word);
    if ((word & WAITERS) && !refused(word, by))
        done = count(g, (word & ~WAITERS) + (uint64_t)by, &claimed);
    flow__spin_unlock(&g->guard);
    flow__claimed_resume(w, &claimed);
    if (!r)
        flow__resumer_end(w);
    return done ? 0 : -EAGAIN;
}

static int change(struct group *g, int64_t by)
{
    uint64_t seen;
    int r;

    do {
        seen = load_relaxed(&g->word);
        do {
            r = refused(seen, by);
            if (r)
                return r;
            if (seen & WAITERS)
                break;
            /* [GROUP-2] release: pairs with [GROUP-1]. */
        } while (!cas_release(&g->word, &seen, seen + (uint64_t)by));
        if (!(seen & WAITERS))
            return 0;
        r = change_slowly(g, by);
    } while (r == -EAGAIN);
    return r;
}

int flow_waitgroup_add(struct flow_waitgroup *group, uint32_t n)
{
    return n ? change(group_of(group), (int64_t)(ONE * n)) : 0;
}

int flow_waitgroup_done(struct flow_waitgroup *group)
{
    return change(group_of(group), -(int64_t)ONE);
}

uint32_t flow_waitgroup_count(const struct flow_waitgroup *group)
{
    return (uint32_t)(load_relaxed(&group_of((struct flow_waitgroup *)group)->word) >> 1);
}

/* Under the guard. False: the count is 0. */
static bool announce(struct group *g)
{
    uint64_t seen = load_acquire(&g->word); /* [GROUP-1]; so is a CAS that fails */

    do
        if (seen < ONE)
            return false;
    while (!cas_seq(&g->word, &seen, seen | WAITERS));
    return true;
}

static int wait_for_zero(struct group *g, struct flow__task *self, flow_deadline deadline)
{
    struct flow__waiter waiter;
    int r;

    flow__spin_lock(&g->guard);
    if (!announce(g)) {
        flow__spin_unlock(&g->guard);
        return 0;
    }
    flow__note_object(self, g);
    r = flow__waiter_wait(self, &g->guard, &g->queue, &waiter, false, FLOW__WHY_WAITGROUP,
                          deadline);
    if (r) {
        flow__spin_lock(&g->guard);
        if (!g->queue.first)
            fetch_and_seq(&g->word, ~WAITERS);
        flow__spin_unlock(&g->guard);
    }
    return r;
}

int flow_waitgroup_wait(struct flow_waitgroup *group, flow_deadline deadline)
{
    struct group *g = group_of(group);
    struct flow__task *self;
    int r;

    /* [GROUP-1] acquire: pairs with [GROUP-2]; what was done before is visible. */
    if (load_acquire(&g->word) < ONE)
        return 0;
    self = flow__caller_begin(&r);
    if (!self)
        return r;
    r = wait_for_zero(g, self, deadline);
    flow__caller_end(self);
    return r;
}

/* ---- barriers ---- */

struct barrier {
    struct flow__spin guard;
    uint32_t parties; /* constant */
    uint32_t arrived; /* under guard: how many wait */
    uint32_t unused;
    struct flow__waiters queue; /* under guard; a waiter's value: it has passed */
};

_Static_assert(sizeof(struct barrier) == sizeof(struct flow_barrier), "one and the same");

/* Under the guard. Also those pass whose time has run out in this moment. */
static void let_all_pass(struct barrier *b, struct flow__claimed *claimed)
{
    struct flow__waiter *waiter;

    while ((waiter = b->queue.first)) {
        waiter->value = 1;
        if (flow__waiter_claim(waiter))
            flow__claimed_add(claimed, waiter);
    }
    b->arrived = 0;
}

/* Under the guard, which it lets go. */
static int wait_for_others(struct barrier *b, struct flow__task *self, flow_deadline deadline)
{
    struct flow__waiter waiter = {.value = 0};
    uint64_t epoch;
    int r = deadline == FLOW_NOW ? flow__poll_failed(self) : flow__arm(self, false, &epoch);

    if (r) {
        flow__spin_unlock(&b->guard);
        return r;
    }
    flow__waiter_init(&waiter, self, epoch); /* NOLINT: it is armed */
    flow__waiters_add(&b->queue, &waiter);
    b->arrived++;
    flow__spin_unlock(&b->guard);
    flow__note_object(self, b);
    r = flow__wait(self, epoch, FLOW__WHY_BARRIER, deadline);
    if (!r)
        return flow__waiter_handed(&waiter);
    /* One step out of the queue and the count: the last one would count us if it came between. */
    flow__spin_lock(&b->guard);
    flow__waiters_remove(&waiter);
    if (waiter.value)
        r = 0;
    else
        b->arrived--;
    flow__spin_unlock(&b->guard);
    return r;
}

int flow_barrier_wait(struct flow_barrier *barrier, flow_deadline deadline)
{
    struct barrier *b = (struct barrier *)(void *)barrier;
    struct flow__claimed claimed;
    struct flow__task *self;
    int r;

    if (b->parties < 2)
        return b->parties ? 1 : -EINVAL;
    self = flow__caller_begin(&r);
    if (!self)
        return r;
    flow__claimed_init(&claimed);
    flow__spin_lock(&b->guard);
    if (b->arrived + 1 == b->parties) {
        let_all_pass(b, &claimed);
        flow__spin_unlock(&b->guard);
        flow__claimed_resume(self->home, &claimed);
        r = 1;
    } else {
        r = wait_for_others(b, self, deadline);
    }
    flow__caller_end(self);
    return r;
}
