/* SPDX-License-Identifier: MIT
 *
 * Events; what the word means is in the header. Any thread. */
#include "core/event.h"

#include <errno.h>

#define SET     ((uint32_t)FLOW__EVENT_SET)
#define WAITERS ((uint32_t)FLOW__EVENT_WAITERS)
#define AUTO    ((uint32_t)FLOW__EVENT_AUTO)

/* ---- waiting ---- */

/* Under the guard: sees to it that sets look into the queue. False: it is set. */
static bool announce(struct flow__event *e)
{
    uint32_t seen = load_relaxed(&e->word);

    do
        if (seen & SET)
            return false;
    while (!cas_seq(&e->word, &seen, seen | WAITERS));
    return true;
}

/* Under the guard. */
static void tidy(struct flow__event *e)
{
    if (!e->queue.first)
        fetch_and_seq(&e->word, ~WAITERS);
}

bool flow__event_watch(struct flow__event *e, struct flow__waiter *waiter)
{
    bool yes;

    flow__spin_lock(&e->guard);
    yes = announce(e);
    if (yes)
        flow__waiters_add(&e->queue, waiter);
    flow__spin_unlock(&e->guard);
    return yes;
}

void flow__event_unwatch(struct flow__event *e, struct flow__waiter *waiter)
{
    flow__spin_lock(&e->guard);
    flow__waiters_remove(waiter);
    tidy(e);
    flow__spin_unlock(&e->guard);
}

static int wait_for_set(struct flow__event *e, struct flow__task *self, flow_deadline deadline)
{
    struct flow__waiter waiter;
    int r;

    for (;;) {
        flow__spin_lock(&e->guard);
        if (announce(e))
            break;
        flow__spin_unlock(&e->guard);
        if (flow__event_take(e))
            return 0;
    }
    flow__note_object(self, e);
    r = flow__waiter_wait(self, &e->guard, &e->queue, &waiter, false, FLOW__WHY_EVENT, deadline);
    if (r) {
        flow__spin_lock(&e->guard);
        tidy(e);
        flow__spin_unlock(&e->guard);
    }
    return r;
}

int flow_event_wait(struct flow_event *event, flow_deadline deadline)
{
    struct flow__event *e = flow__event_of(event);
    struct flow__task *self;
    int r;

    if (flow__event_take(e))
        return 0;
    self = flow__caller_begin(&r);
    if (!self)
        return r;
    r = wait_for_set(e, self, deadline);
    flow__caller_end(self);
    return r;
}

/* ---- setting ---- */

/* Under the guard, with WAITERS set. False: nobody waits, and WAITERS is gone. */
static bool let_through(struct flow__event *e, struct flow__claimed *claimed)
{
    uint32_t mode = load_relaxed(&e->word) & AUTO;
    struct flow__waiter *first;

    if (mode == AUTO) {
        first = flow__waiters_claim(&e->queue);
        if (first)
            flow__claimed_add(claimed, first);
    } else {
        flow__waiters_claim_all(&e->queue, claimed);
    }
    if (!claimed->first) {
        store_relaxed(&e->word, mode);
        return false;
    }
    /* [EVENT-2] release: pairs with [EVENT-1]. */
    store_release(&e->word, mode == AUTO ? AUTO | (e->queue.first ? WAITERS : 0) : SET);
    return true;
}

/* 0, or -EAGAIN: nobody waits, look again. */
static int set_slowly(struct flow__event *e)
{
    struct flow__claimed claimed;
    struct flow__worker *w;
    int r = flow__resumer_begin(&w);
    bool done = false;

    if (r == -EPERM)
        return r;
    if (r == -ENOTSUP) {
        fetch_and_seq(&e->word, ~WAITERS);
        return -EAGAIN;
    }
    flow__claimed_init(&claimed);
    flow__spin_lock(&e->guard);
    if (r)
        e->queue = (struct flow__waiters){NULL, NULL};
    if (load_relaxed(&e->word) & WAITERS)
        done = let_through(e, &claimed);
    flow__spin_unlock(&e->guard);
    flow__claimed_resume(w, &claimed);
    if (!r)
        flow__resumer_end(w);
    return done ? 0 : -EAGAIN;
}

int flow_event_set(struct flow_event *event)
{
    struct flow__event *e = flow__event_of(event);
    uint32_t seen = load_relaxed(&e->word);
    int r;

    for (;;) {
        if (!(seen & WAITERS)) {
            /* [EVENT-2] release: also if it is set already, for what was done since the first time. */
            if (cas_release(&e->word, &seen, seen | SET))
                return 0;
            continue;
        }
        r = set_slowly(e);
        if (r != -EAGAIN)
            return r;
        seen = load_relaxed(&e->word);
    }
}

void flow_event_reset(struct flow_event *event)
{
    fetch_and_seq(&flow__event_of(event)->word, ~SET);
}

bool flow_event_is_set(const struct flow_event *event)
{
    /* [EVENT-1] */
    return load_acquire(&flow__event_of((struct flow_event *)event)->word) & SET;
}
