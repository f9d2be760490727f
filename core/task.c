/* SPDX-License-Identifier: MIT
 *
 * Tasks from outside the scheduler: spawning, finishing, joining, letting go,
 * cancelling. What the flags of `life` mean, and who may set them, is in task.h.
 *
 * Right to a block: until it is finished the runtime has it; the right to take the
 * result and free the block goes to the one who set JOINING, or, if it is DETACHED, to flow__finish. */
#include "core/join.h"
#include "core/worker.h"

#include <errno.h>
#include <string.h>

#define SITE __builtin_return_address(0)

/* A block with one of these has no handle that is good. */
#define NOBODYS (FLOW__LIFE_FREE | FLOW__LIFE_RETIRED | FLOW__LIFE_PRIVATE)

/* ---- blocks ---- */

static void reset(struct flow__task *t, flow_fn fn, void *arg, void *site)
{
    struct flow__runtime *rt = &flow__runtime;

    t->fn = fn;
    t->arg = arg;
    t->spawn_site = site;
    t->flags = rt->options.roam ? FLOW_ROAM : 0;
    t->stack_class = (uint8_t)rt->default_class;
    /* A new life: not cancelled, not waiting; the epoch goes on counting. */
    store_relaxed(&t->wait, load_relaxed(&t->wait) >> FLOW__EPOCH_SHIFT << FLOW__EPOCH_SHIFT);
    /* [LIFE-1] release: pairs with [LIFE-2]; who reads this generation sees the fields above. */
    store_release(&t->life, load_relaxed(&t->life) & ~(uint64_t)UINT32_MAX);
}

static struct flow__task *foreign_block(void)
{
    struct flow__runtime *rt = &flow__runtime;
    struct flow__task *t;

    flow__lock(&rt->foreign_lock);
    t = flow__block_take(&rt->foreign_blocks);
    flow__unlock(&rt->foreign_lock);
    return t;
}

/* Why there is no new task. */
static __attribute__((cold, noinline)) int refusal(flow_fn fn)
{
    switch (load_relaxed(&flow__runtime.state)) {
    case FLOW__RUNNING_STATE:
        return fn ? -ENOSPC : -EINVAL;
    case FLOW__FORKED:
        return -ENOTSUP;
    default:
        return -ESHUTDOWN;
    }
}

/* A new, unsubmitted task, or NULL: then refusal() tells why. w: the caller's worker or NULL. */
static inline struct flow__task *new_task(struct flow__worker *w, flow_fn fn, void *arg, void *site)
{
    struct flow__task *t;

    if (flow__unlikely(!fn || load_relaxed(&flow__runtime.state) != FLOW__RUNNING_STATE))
        return NULL;
    t = flow__likely(w != NULL) ? flow__block_take(&w->blocks) : foreign_block();
    if (flow__unlikely(!t))
        return NULL;
    reset(t, fn, arg, site);
    if (flow__likely(w != NULL))
        flow__count(w, spawned);
    else
        fetch_add_seq(&flow__runtime.foreign_spawned, 1);
    return t;
}

static void drop_detail(struct flow__task *t)
{
    struct flow__detail *detail = load_relaxed(&t->detail);

    if (flow__likely(!detail))
        return;
    store_relaxed(&t->detail, NULL);
    flow__reclaim_later(detail);
}

/* Puts a block whose new life word is already FREE back. */
static void give_block(struct flow__worker *w, struct flow__task *t)
{
    struct flow__runtime *rt = &flow__runtime;

    /* A generation that has come round would revive old handles: such a slot is not used again. */
    if (flow__unlikely(flow__generation_of(load_relaxed(&t->life)) == 0))
        return;
    if (flow__likely(w != NULL)) {
        flow__block_give(&w->blocks, t);
        return;
    }
    flow__lock(&rt->foreign_lock);
    flow__block_give(&rt->foreign_blocks, t);
    flow__unlock(&rt->foreign_lock);
}

static uint64_t next_life(uint64_t word)
{
    return ((word >> 32) + 1) << 32 | FLOW__LIFE_FREE;
}

void flow__free_task(struct flow__worker *w, struct flow__task *t)
{
    uint64_t word = load_relaxed(&t->life), next;

    drop_detail(t);
    do
        next = word & FLOW__LIFE_PINS ? word | FLOW__LIFE_RETIRED : next_life(word);
    /* [LIFE-3] seq_cst: a pin is either seen here or refused from now on. */
    while (!cas_seq(&t->life, &word, next));
    if (!(next & FLOW__LIFE_RETIRED))
        give_block(w, t);
}

/* ---- pins ---- */

/* Keeps a live, unfinished block from being reused. NULL: stale, forged or finished. */
static struct flow__task *pin(uint64_t id)
{
    struct flow__task *t = flow__block_of(id);
    uint64_t word;

    if (!t)
        return NULL;
    /* [LIFE-2] acquire: pairs with [LIFE-1]. */
    word = load_acquire(&t->life);
    do {
        if (flow__generation_of(word) != id >> 32 || (word & (NOBODYS | FLOW__LIFE_FINISHED)))
            return NULL;
        if ((word & FLOW__LIFE_PINS) == FLOW__LIFE_PINS) {
            flow__pause(); /* 65,535 cancellers at this moment; one of them will be done */
            word = load_acquire(&t->life);
            continue;
        }
    } while (!cas_seq(&t->life, &word, word + FLOW__LIFE_ONE_PIN));
    return t;
}

static void unpin(struct flow__worker *w, struct flow__task *t)
{
    uint64_t word = fetch_sub_seq(&t->life, FLOW__LIFE_ONE_PIN) - FLOW__LIFE_ONE_PIN;

    if (!(word & FLOW__LIFE_RETIRED) || (word & FLOW__LIFE_PINS))
        return;
    /* Retired blocks take no new pins, so the last one to leave is alone with it. */
    store_release(&t->life, next_life(word));
    give_block(w, t);
}

void flow__cancel_block(struct flow__worker *w, struct flow__task *t)
{
    /* [WAIT-1] seq_cst: pairs with [WAIT-1] in flow__arm(). */
    uint64_t seen = fetch_or_seq(&t->wait, FLOW__CANCELLED);

    if ((seen & FLOW__WAIT_STATE) == FLOW__WAIT_ARMED)
        flow__win(w, t, flow__epoch_of(seen), FLOW__WAIT_CANCELLED);
}

int flow__cancel_id(struct flow__worker *w, uint64_t id)
{
    struct flow__task *t = pin(id);

    if (!t)
        return -ESRCH;
    flow__cancel_block(w, t);
    unpin(w, t);
    return 0;
}

/* ---- the end of a task ---- */

/* Nobody has its handle yet, so nobody else writes its life. */
static void finish_private(struct flow__worker *w, struct flow__task *t, uint64_t life)
{
    if (!(life & FLOW__LIFE_DETACHED)) {
        store_release(&t->life, (life | FLOW__LIFE_FINISHED) & ~(uint64_t)FLOW__LIFE_PRIVATE);
        return;
    }
    drop_detail(t);
    store_release(&t->life, next_life(life));
    give_block(w, t);
}

void flow__finish(struct flow__worker *w, struct flow__task *t)
{
    struct flow__task *joiner;
    uint64_t before, epoch;

    t->stack = NULL;
    flow__count(w, finished);
    before = load_relaxed(&t->life);
    if (before & FLOW__LIFE_PRIVATE) {
        finish_private(w, t, before);
        return;
    }
    /* [LIFE-4] seq_cst: its release half pairs with [LIFE-5]; the result is in place. */
    before = fetch_or_seq(&t->life, FLOW__LIFE_FINISHED);
    if (before & FLOW__LIFE_DETACHED) {
        flow__free_task(w, t);
        return;
    }
    if (!(before & FLOW__LIFE_WAITING))
        return; /* a joiner that comes now, or is about to publish itself, sees FINISHED */
    joiner = t->joiner;
    epoch = t->joiner_epoch;
    /* [LIFE-6] seq_cst: after this the joiner may free t; it does not before. */
    fetch_and_seq(&t->life, ~(uint64_t)FLOW__LIFE_WAITING);
    flow__win(w, joiner, epoch, FLOW__WAIT_WOKEN);
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

bool flow__has_finished(struct flow__task *t)
{
    /* [LIFE-5] acquire: pairs with [LIFE-4]. */
    return load_acquire(&t->life) & FLOW__LIFE_FINISHED;
}

bool flow__watch_end(struct flow__task *t, struct flow__task *self, uint64_t epoch)
{
    uint64_t word = load_relaxed(&t->life);

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

int flow__await_end(struct flow__task *t, struct flow__task *self, bool shielded, enum flow__why why,
                    flow_deadline deadline)
{
    uint64_t epoch;
    int r;

    if (flow__has_finished(t))
        return 0;
    if (deadline == FLOW_NOW && !shielded)
        return flow__is_cancelled(self) ? -ECANCELED : -ETIMEDOUT;
    r = flow__arm(self, shielded, &epoch);
    if (r)
        return r;
    if (!flow__watch_end(t, self, epoch) && flow__disarm(self, epoch))
        return 0;
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

    if (load_relaxed(&w->lifo) != t || w->budget <= 0 || flow__is_cancelled(self) ||
        (self->flags & FLOW_FP_ENVIRONMENT) || !flow__take_back(w, t))
        return false;
    w->budget--;
    flow__count(w, dispatches);
    if (flow__unlikely(flow__is_cancelled(t))) {
        flow__finish_unstarted(w, t, -ECANCELED);
    } else if (flow__unlikely(flow__start(w, &self->strand, t) == -ENOMEM)) {
        flow__count(w, no_stack);
        flow__finish_unstarted(w, t, -ENOMEM);
    }
    return true;
}

static int join_slowly(struct flow__task *self, uint64_t id, flow_result *out, flow_deadline deadline)
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
    struct flow__task *self;
    int r = flow__foreign_enter();

    if (r)
        return r;
    self = flow__foreign_self();
    r = self ? join_slowly(self, id, out, deadline) : -ENOMEM;
    if (self)
        flow__foreign_release(self);
    flow__foreign_leave();
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
    /* Finished, unclaimed and unpinned: one CAS takes it. The result is read before, and counts only if
     * the CAS finds the same life. [LIFE-5] */
    if (word == ((task.id & ~(uint64_t)UINT32_MAX) | FLOW__LIFE_FINISHED)) {
        flow_result result = t->result;
        struct flow__detail *detail = load_relaxed(&t->detail);

        if (flow__likely(!detail && cas_seq(&t->life, &word, next_life(word)))) {
            if (out)
                *out = result;
            give_block(self->home, t);
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
    if (!r) {
        uint64_t word = load_relaxed(&t->life);

        do
            if (word & FLOW__LIFE_FINISHED)
                break;
        while (!cas_seq(&t->life, &word, (word | FLOW__LIFE_DETACHED) & ~(uint64_t)FLOW__LIFE_JOINING));
        if (word & FLOW__LIFE_FINISHED)
            flow__free_task(w, t);
    }
    if (!w)
        flow__foreign_leave();
    return r;
}

int flow_cancel(flow_task task)
{
    struct flow__task *self = flow__self();
    int r;

    if (self)
        return flow__cancel_id(self->home, task.id);
    r = flow__foreign_enter();
    if (r)
        return r;
    r = flow__cancel_id(NULL, task.id);
    flow__foreign_leave();
    return r;
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

/* ---- spawning ---- */

static void hand_out(struct flow__task *t, flow_task *out)
{
    uint64_t life = load_relaxed(&t->life);

    if (flow__likely(out != NULL))
        out->id = flow__id_of(t, life);
    else
        store_relaxed(&t->life, life | FLOW__LIFE_DETACHED | FLOW__LIFE_PRIVATE);
}

static int spawn_from_thread(flow_task *out, flow_fn fn, void *arg, void *site)
{
    int r = flow__foreign_enter();
    struct flow__task *t;

    if (r)
        return r;
    t = new_task(NULL, fn, arg, site);
    if (t) {
        hand_out(t, out);
        flow__submit(NULL, t);
    } else {
        r = refusal(fn);
    }
    flow__foreign_leave();
    return r;
}

int flow_spawn(flow_task *out, flow_fn fn, void *arg)
{
    struct flow__task *self = flow__self(), *t;

    if (flow__unlikely(!self))
        return spawn_from_thread(out, fn, arg, SITE);
    t = new_task(self->home, fn, arg, SITE);
    if (flow__unlikely(!t))
        return refusal(fn);
    hand_out(t, out);
    flow__submit(self->home, t);
    return 0;
}

int flow_spawn_now(flow_task *out, flow_fn fn, void *arg)
{
    struct flow__task *self = flow__self(), *t;
    struct flow__worker *w;
    uint64_t life;
    long r;

    if (flow__unlikely(!self))
        return flow__outside();
    w = self->home;
    t = new_task(w, fn, arg, SITE);
    if (flow__unlikely(!t))
        return refusal(fn);
    /* The handle is given out when the task comes back, so that one which never
     * suspends has ended by then without an atomic operation. A roaming one may be elsewhere by then. */
    life = load_relaxed(&t->life);
    if (!out || !(t->flags & FLOW_ROAM))
        store_relaxed(&t->life, life | FLOW__LIFE_PRIVATE | (out ? 0 : FLOW__LIFE_DETACHED));
    flow__count(w, started_now);
    r = flow__start(w, &self->strand, t);
    if (flow__unlikely(r == -ENOMEM)) {
        flow__count(w, finished);
        flow__free_task(w, t);
        return -ENOMEM;
    }
    if (!out)
        return 0;
    out->id = flow__id_of(t, life);
    if (r == FLOW__SUSPENDED && !(t->flags & FLOW_ROAM))
        store_release(&t->life, load_relaxed(&t->life) & ~(uint64_t)FLOW__LIFE_PRIVATE);
    return 0;
}

static int check_options(const struct flow_spawn_options *o)
{
    struct flow__runtime *rt = &flow__runtime;
    unsigned known = FLOW_ROAM | FLOW_PINNED | FLOW_FP_ENVIRONMENT;

    if (o->size != sizeof *o || (o->flags & ~known))
        return -EINVAL;
    if (o->worker < -1 || o->worker >= rt->n_places || o->node < -1 || o->node >= rt->topology.n_nodes)
        return -EINVAL;
    if ((o->flags & FLOW_PINNED) && ((o->flags & FLOW_ROAM) || o->worker < 0))
        return -EINVAL;
    if (o->node >= 0 && o->worker >= 0 && rt->workers[o->worker].node != o->node)
        return -EINVAL;
    return o->stack_bytes ? flow__stack_class(o->stack_bytes) : rt->default_class;
}

/* The least loaded of two workers of the node, chosen at random. -1: the node has none. */
static int worker_of_node(int node)
{
    struct flow__runtime *rt = &flow__runtime;
    int chosen = -1;

    for (int i = 0; i < rt->n_places; i++) {
        struct flow__worker *w = &rt->workers[i];

        if (w->node != node)
            continue;
        if (chosen < 0 || flow__ring_count(&w->ring) < flow__ring_count(&rt->workers[chosen].ring))
            chosen = i;
    }
    return chosen;
}

static int apply(struct flow__task *t, const struct flow_spawn_options *o, int class_index)
{
    struct flow__detail *detail;

    t->stack_class = (uint8_t)class_index;
    t->flags |= o->flags & (FLOW_ROAM | FLOW_PINNED | FLOW_FP_ENVIRONMENT);
    if (o->flags & FLOW_PINNED)
        t->flags &= ~(uint32_t)FLOW_ROAM;
    if (!o->name)
        return 0;
    detail = flow__sys.allocate(sizeof *detail);
    if (!detail)
        return -ENOMEM;
    strncpy(detail->name, o->name, FLOW__NAME_BYTES - 1);
    /* [NAME-1] release: pairs with [NAME-2] in flow_dump(). */
    store_release(&t->detail, detail);
    return 0;
}

static int spawn_with(struct flow__worker *w, flow_task *out, const struct flow_spawn_options *o, flow_fn fn,
                      void *arg, void *site)
{
    int r = check_options(o), class_index = r, target = o->worker;
    struct flow__task *t;

    if (r < 0)
        return r;
    if (target < 0 && o->node >= 0 && (target = worker_of_node(o->node)) < 0)
        return -EINVAL;
    t = new_task(w, fn, arg, site);
    if (!t)
        return refusal(fn);
    r = apply(t, o, class_index);
    if (r) {
        if (w)
            flow__count(w, finished);
        else
            fetch_sub_seq(&flow__runtime.foreign_spawned, 1);
        flow__free_task(w, t);
        return r;
    }
    hand_out(t, out);
    if (target >= 0)
        flow__submit_to(w, &flow__runtime.workers[target], t);
    else
        flow__submit(w, t);
    return 0;
}

int flow_spawn_with(flow_task *out, const struct flow_spawn_options *options, flow_fn fn, void *arg)
{
    static const struct flow_spawn_options none = FLOW_SPAWN_INIT;
    struct flow__task *self = flow__self();
    int r;

    if (!options)
        options = &none;
    if (self)
        return spawn_with(self->home, out, options, fn, arg, SITE);
    r = flow__foreign_enter();
    if (r)
        return r;
    r = spawn_with(NULL, out, options, fn, arg, SITE);
    flow__foreign_leave();
    return r;
}
