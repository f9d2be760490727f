/* SPDX-License-Identifier: MIT
 *
 * What handles are for: joining, letting go, cancelling. What the flags of `life` mean,
 * and who may set them, is in task.h.
 *
 * Right to a block: until it is finished the runtime has it; the right to take the
 * result and free the block goes to the one who set JOINING, or, if it is DETACHED, to its worker.
 */
#include "core/join.h"

#include "core/ambient.h"
#include "core/life.h"
#include "core/start.h"

#include <flowcoro/cancel.h>

#include <errno.h>

/* A block with one of these has no handle that is good. */
#define NOBODYS (FLOW__LIFE_FREE | FLOW__LIFE_RETIRED | FLOW__LIFE_PRIVATE)

/* ---- the end of a block's life ---- */

void flow__drop_detail_slowly(struct flow__task *t)
{
    struct flow__detail *detail = load_relaxed(&t->detail);

    store_relaxed(&t->detail, NULL);
    flow__reclaim_later(&detail->deferred);
}

void flow__free_task(struct flow__worker *w, struct flow__task *t)
{
    uint64_t word = load_relaxed(&t->life), next;

    flow__drop_detail(t);
    do
        next = word & FLOW__LIFE_PINS ? word | FLOW__LIFE_RETIRED : flow__next_life(word);
    /* [LIFE-3] seq_cst: a pin is either seen here or refused from now on. */
    while (!cas_seq(&t->life, &word, next));
    if (!(next & FLOW__LIFE_RETIRED))
        flow__give_block(w, t, next);
}

/* ---- pins ---- */

struct flow__task *flow__pin(uint64_t id)
{
    struct flow__task *t = flow__block_of(id);
    uint64_t word;

    if (!t)
        return NULL;
    /* [LIFE-2] acquire: pairs with [LIFE-1]. */
    word = load_acquire(&t->life);
    for (;;) {
        if (flow__generation_of(word) != id >> 32 || (word & (NOBODYS | FLOW__LIFE_FINISHED)))
            return NULL;
        if ((word & FLOW__LIFE_PINS) == FLOW__LIFE_PINS) {
            flow__pause(); /* 65,535 cancellers at this moment; one of them will be done */
            word = load_acquire(&t->life);
        } else if (cas_seq(&t->life, &word, word + FLOW__LIFE_ONE_PIN)) {
            return t; /* [LIFE-3] */
        }
    }
}

bool flow__unpin(struct flow__worker *w, struct flow__task *t)
{
    uint64_t word = fetch_sub_seq(&t->life, FLOW__LIFE_ONE_PIN) - FLOW__LIFE_ONE_PIN;

    if ((word & FLOW__LIFE_RETIRED) && !(word & FLOW__LIFE_PINS)) {
        /* Retired blocks take no new pins, so the last one to leave is alone with it. */
        store_release(&t->life, flow__next_life(word));
        flow__give_block(w, t, flow__next_life(word));
    }
    return !(word & (FLOW__LIFE_FINISHED | FLOW__LIFE_RETIRED));
}

bool flow__claim_cancelled(struct flow__task *t, int reason)
{
    uint64_t seen = load_relaxed(&t->wait);

    do
        if (seen & FLOW__CANCELLED)
            return false; /* the first one has ended its wait too */
    /* [WAIT-1] seq_cst: pairs with [WAIT-1] in flow__arm(). */
    while (
        !cas_seq(&t->wait, &seen, seen | FLOW__CANCELLED | (uint64_t)reason << FLOW__REASON_SHIFT));
    return (seen & FLOW__WAIT_STATE) == FLOW__WAIT_ARMED &&
           flow__claim_wait(t, flow__epoch_of(seen), FLOW__WAIT_CANCELLED);
}

void flow__cancel_block(struct flow__worker *w, struct flow__task *t, int reason)
{
    if (flow__claim_cancelled(t, reason))
        flow__resume_won(w, t);
}

int flow__cancel_id(struct flow__worker *w, uint64_t id, int reason)
{
    struct flow__task *t = flow__pin(id);

    if (!t)
        return -ESRCH;
    flow__cancel_block(w, t, reason);
    flow__unpin(w, t);
    return 0;
}

/* ---- joining, in steps that when.c shares ---- */

int flow__claim(uint64_t id, struct flow__task *self, struct flow__task **out)
{
    struct flow__task *t = flow__block_of(id);
    uint64_t word;

    if (!t)
        return -ESRCH;
    word = load_acquire(&t->life);
    do {
        if (flow__generation_of(word) != id >> 32 || (word & NOBODYS))
            return -ESRCH;
        if (t == self)
            return -EDEADLK;
        if (word & (FLOW__LIFE_DETACHED | FLOW__LIFE_JOINING))
            return -EINVAL;
    } while (!cas_seq(&t->life, &word, word | FLOW__LIFE_JOINING));
    *out = t;
    return 0;
}

void flow__unclaim(struct flow__task *t)
{
    fetch_and_seq(&t->life, ~(uint64_t)FLOW__LIFE_JOINING);
}

void flow__let_go(struct flow__worker *w, struct flow__task *t)
{
    uint64_t word = load_acquire(&t->life); /* [LIFE-5] */

    do
        if (word & FLOW__LIFE_FINISHED)
            break;
    while (!cas_seq(&t->life, &word,
                    (word | FLOW__LIFE_DETACHED) & ~(uint64_t)FLOW__LIFE_JOINING));
    if (word & FLOW__LIFE_FINISHED)
        flow__free_task(w, t);
}

bool flow__has_finished(struct flow__task *t)
{
    /* [LIFE-5] acquire: pairs with [LIFE-4]. */
    return load_acquire(&t->life) & FLOW__LIFE_FINISHED;
}

bool flow__watch_end(struct flow__task *t, struct flow__task *self, uint64_t epoch)
{
    /* [LIFE-5] acquire: pairs with [LIFE-4]; so is every CAS that fails below. */
    uint64_t word = load_acquire(&t->life);

    t->joiner = self;
    t->joiner_epoch = epoch;
    do {
        if (word & FLOW__LIFE_FINISHED)
            return false;
        /* [LIFE-7] seq_cst: its release half publishes the two fields to [LIFE-4]. */
    } while (!cas_seq(&t->life, &word, word | FLOW__LIFE_WAITING));
    return true;
}

void flow__unwatch_end(struct flow__task *t)
{
    uint64_t word = load_relaxed(&t->life);

    for (;;) {
        if (!(word & FLOW__LIFE_WAITING))
            return;
        if (word & FLOW__LIFE_FINISHED) {
            /* The finisher is between its two steps, a few instructions; see [LIFE-6]. */
            flow__pause();
            word = load_acquire(&t->life);
            continue;
        }
        if (cas_seq(&t->life, &word, word & ~(uint64_t)FLOW__LIFE_WAITING))
            return;
    }
}

int flow__await_end(struct flow__task *t, struct flow__task *self, bool shielded,
                    enum flow__why why, flow_deadline deadline)
{
    uint64_t epoch;
    int r;

    if (flow__has_finished(t))
        return 0;
    if (deadline == FLOW_NOW && !shielded)
        return flow__poll_failed(self);
    r = flow__arm(self, shielded, &epoch);
    if (r)
        return r;
    if (!flow__watch_end(t, self, epoch) && flow__disarm(self, epoch))
        return 0;
    flow__note_object(self, t);
    r = flow__wait(self, epoch, why, deadline);
    flow__unwatch_end(t);
    return flow__has_finished(t) ? 0 : r;
}

flow_result flow__consume(struct flow__worker *w, struct flow__task *t)
{
    flow_result result = t->result;

    flow__free_task(w, t);
    return result;
}

/* Runs t, which nobody has started, as a call of its joiner: the cheapest way there is
 * to wait for it. False if somebody took it first or it cannot be done here. */
static bool run_in_join(struct flow__task *self, struct flow__task *t)
{
    struct flow__worker *w = self->home;

    if (load_relaxed(&w->lifo) != t || w->budget <= 0 || flow__must_leave(self) ||
        flow__reclaim_is_inside(w->sections) ||
        (flow__has(self, FLOW_FP_ENVIRONMENT)) || !flow__take_back(w, t))
        return false;
    w->budget--;
    flow__count(w, dispatches);
    if (flow__unlikely(flow__is_cancelled(t))) {
        flow__finish_unstarted(w, t, -ECANCELED);
    } else if (flow__unlikely(flow__start(w, &self->strand, t, false) == -ENOMEM)) {
        flow__count(w, no_stack);
        flow__finish_unstarted(w, t, -ENOMEM);
    }
    return true;
}

static int join_slowly(struct flow__task *self, uint64_t id, flow_result *out,
                       flow_deadline deadline)
{
    struct flow__task *t;
    int r = flow__claim(id, self, &t);
    flow_result result;

    if (r)
        return r;
    r = flow__await_end(t, self, false, FLOW__WHY_JOIN, deadline);
    if (r) {
        flow__unclaim(t);
        return r;
    }
    result = flow__consume(self->home, t);
    if (out)
        *out = result;
    return 0;
}

static int join_from_thread(uint64_t id, flow_result *out, flow_deadline deadline)
{
    int r;
    struct flow__task *self = flow__caller_begin(&r);

    if (!self)
        return r;
    r = join_slowly(self, id, out, deadline);
    flow__caller_end(self);
    return r;
}

int flow_join(flow_task task, flow_result *out, flow_deadline deadline)
{
    struct flow__task *self = flow__self(), *t = flow__block_of(task.id);
    uint64_t word;

    if (flow__unlikely(!self))
        return join_from_thread(task.id, out, deadline);
    if (flow__unlikely(!t))
        return -ESRCH;
    word = load_acquire(&t->life);
    if (word == (task.id & ~(uint64_t)UINT32_MAX) && deadline != FLOW_NOW && run_in_join(self, t))
        word = load_acquire(&t->life);
    /* Finished, unclaimed and unpinned: one CAS takes it. The result is read before, and counts
     * only if the CAS finds the same life. [LIFE-5] */
    if (word == ((task.id & ~(uint64_t)UINT32_MAX) | FLOW__LIFE_FINISHED)) {
        flow_result result = t->result;
        struct flow__detail *detail = load_relaxed(&t->detail);
        uint64_t next = flow__next_life(word);

        if (flow__likely(!detail && cas_seq(&t->life, &word, next))) {
            if (out)
                *out = result;
            flow__give_block_to(self->home, t, next);
            return 0;
        }
    }
    return join_slowly(self, task.id, out, deadline);
}

int flow_detach(flow_task task)
{
    struct flow__task *self = flow__self(), *t;
    struct flow__worker *w = self ? self->home : NULL;
    int r = 0;

    if (!w && (r = flow__foreign_enter()))
        return r;
    r = flow__claim(task.id, NULL, &t);
    if (!r)
        flow__let_go(w, t);
    if (!w)
        flow__foreign_leave();
    return r;
}

int flow_cancel_with(flow_task task, int reason)
{
    struct flow__task *self = flow__self();
    int r;

    if (reason < 1 || reason > FLOW_CANCEL_LAST)
        return -EINVAL;
    if (self)
        return flow__cancel_id(self->home, task.id, reason);
    r = flow__foreign_enter();
    if (r)
        return r;
    r = flow__cancel_id(NULL, task.id, reason);
    flow__foreign_leave();
    return r;
}

int flow_cancel(flow_task task)
{
    return flow_cancel_with(task, FLOW_CANCEL_ASKED);
}

flow_task flow_self(void)
{
    struct flow__task *self = flow__self();
    flow_task none = {0};
    uint64_t life;

    if (!self)
        return none;
    life = load_relaxed(&self->life);
    if (life & FLOW__LIFE_PRIVATE)
        store_release(&self->life, life & ~(uint64_t)FLOW__LIFE_PRIVATE);
    return (flow_task){flow__id_of(self, life)};
}
