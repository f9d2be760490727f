/* SPDX-License-Identifier: MIT
 *
 * Making tasks: a control block from the caller's worker, filled in and queued, or
 * called at once. No stack and no system call is needed before a task starts. */
#include "core/spawn.h"

#include "core/group.h"
#include "core/life.h"
#include "core/scope.h"
#include "core/start.h"

#include <errno.h>
#include <string.h>

#define SITE __builtin_return_address(0)

/* ---- blocks ---- */

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

static inline bool may_spawn(flow_fn fn)
{
    return flow__likely(fn && load_relaxed(&flow__runtime.state) == FLOW__RUNNING_STATE);
}

/* A new, unsubmitted task of a coroutine, or NULL: then refusal() tells why. */
static inline struct flow__task *new_task(struct flow__worker *w, flow_fn fn, void *arg, void *site,
                                          unsigned life)
{
    struct flow__task *t = may_spawn(fn) ? flow__block_take(&w->blocks) : NULL;

    if (flow__unlikely(!t))
        return NULL;
    flow__reset_task(t, fn, arg, site, 0, life);
    flow__count(w, spawned);
    return t;
}

/* The same for a foreign thread, with a block of the node where it is to run. */
static struct flow__task *new_foreign_task(struct flow__group *g, flow_fn fn, void *arg, void *site,
                                           unsigned life)
{
    struct flow__task *t = may_spawn(fn) ? flow__take_foreign_block(g) : NULL;

    if (t)
        flow__reset_task(t, fn, arg, site, 0, life);
    return t;
}

/* Nobody but itself knows a task whose handle nobody wants. */
static inline unsigned life_for(const flow_task *out)
{
    return out ? 0 : FLOW__LIFE_DETACHED | FLOW__LIFE_PRIVATE;
}

/* ---- spawning ---- */

static inline void hand_out(struct flow__task *t, flow_task *out)
{
    if (flow__likely(out != NULL))
        out->id = flow__id_of(t, load_relaxed(&t->life));
}

static int spawn_from_thread(flow_task *out, flow_fn fn, void *arg, void *site)
{
    int r = flow__foreign_enter();
    struct flow__group *g;
    struct flow__task *t;

    if (r)
        return r;
    g = flow__choose_group();
    t = new_foreign_task(g, fn, arg, site, life_for(out));
    if (t) {
        hand_out(t, out);
        flow__submit_from_thread(g, t);
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
    t = new_task(self->home, fn, arg, SITE, life_for(out));
    if (flow__unlikely(!t))
        return refusal(fn);
    hand_out(t, out);
    flow__submit(self->home, t);
    return 0;
}

/* It could not start. */
static __attribute__((cold, noinline)) int undo_spawn(struct flow__worker *w, struct flow__task *t)
{
    flow__count(w, finished);
    flow__free_task(w, t);
    return -ENOMEM;
}

int flow_spawn_now(flow_task *out, flow_fn fn, void *arg)
{
    struct flow__task *self = flow__self(), *t;
    struct flow__worker *w;
    uint64_t id, life;
    bool roams;
    long r;

    if (flow__unlikely(!self))
        return flow__outside();
    w = self->home;
    /* The handle is given out when the task comes back, so that one which never
     * suspends has ended by then without an atomic operation. */
    t = new_task(w, fn, arg, SITE, life_for(out) | FLOW__LIFE_PRIVATE);
    if (flow__unlikely(!t))
        return refusal(fn);
    /* A roaming one may be elsewhere by then. */
    roams = flow__has(t, FLOW_ROAM);
    if (flow__unlikely(out && roams))
        store_relaxed(&t->life, load_relaxed(&t->life) & ~(uint64_t)FLOW__LIFE_PRIVATE);
    id = flow__id_of(t, load_relaxed(&t->life));
    flow__count(w, started_now);
    r = flow__start(w, &self->strand, t, flow__has(self, FLOW_FP_ENVIRONMENT));
    if (flow__unlikely(r == -ENOMEM))
        return undo_spawn(w, t);
    if (!out)
        return 0;
    out->id = id;
    if (flow__likely(r == FLOW__FINISHED) || roams)
        return 0;
    /* It may have given its handle away itself; then others write the word too. */
    life = load_relaxed(&t->life);
    if (life & FLOW__LIFE_PRIVATE)
        store_release(&t->life, life & ~(uint64_t)FLOW__LIFE_PRIVATE);
    return 0;
}

static int check_options(const struct flow_spawn_options *o)
{
    struct flow__runtime *rt = &flow__runtime;
    unsigned known = FLOW_ROAM | FLOW_PINNED | FLOW_FP_ENVIRONMENT;

    if (o->size != sizeof *o || (o->flags & ~known))
        return -EINVAL;
    if (o->worker < -1 || o->worker >= rt->n_places || o->node < -1 ||
        o->node >= rt->topology.n_nodes)
        return -EINVAL;
    if ((o->flags & FLOW_PINNED) && ((o->flags & FLOW_ROAM) || o->worker < 0))
        return -EINVAL;
    if (o->node >= 0 && o->worker >= 0 && rt->workers[o->worker].node != o->node)
        return -EINVAL;
    return o->stack_bytes ? flow__stack_class(o->stack_bytes) : rt->default_class;
}

static int apply(struct flow__task *t, const struct flow_spawn_options *o, int class_index)
{
    struct flow__detail *detail;

    t->stack_class = (uint8_t)class_index;
    store_relaxed(&t->flags, o->flags | (o->flags & FLOW_PINNED ? 0 : load_relaxed(&t->flags)));
    if (!o->name)
        return 0;
    detail = flow__sys.allocate(sizeof *detail);
    if (!detail)
        return -ENOMEM;
    strncpy(detail->name, o->name, FLOW__NAME_BYTES - 1);
    /* [NAME-1] release: pairs with [NAME-2] in flow_dump(). */
    store_release(&t->detail, detail);
    flow__tsan_before(&t->strand); /* once more: whoever frees the detail comes after this */
    return 0;
}

/* It was made, but not queued. */
static int unmake(struct flow__worker *w, struct flow__task *t, int r)
{
    if (w)
        flow__count(w, finished);
    else
        flow__uncount_foreign_spawn();
    flow__free_task(w, t);
    return r;
}

static int enlist(struct flow__worker *w, struct flow__scope *scope, struct flow__task *t)
{
    if (scope->ambient.deadline != FLOW_FOREVER)
        store_relaxed(&t->flags, load_relaxed(&t->flags) | FLOW__AMBIENT);
    return flow__scope_enlist(scope, w, t);
}

/* Who may start it: a group, or NULL: the caller's worker and whoever steals from it. */
static struct flow__group *group_for(struct flow__worker *w, const struct flow_spawn_options *o)
{
    if (o->worker >= 0)
        return flow__runtime.workers[o->worker].group;
    if (o->node >= 0)
        return flow__group_of_node(o->node);
    return w ? NULL : flow__choose_group();
}

static int spawn_with(struct flow__worker *w, struct flow__scope *scope, flow_task *out,
                      const struct flow_spawn_options *o, flow_fn fn, void *arg, void *site)
{
    int r = check_options(o), class_index = r;
    struct flow__group *group;
    unsigned life = life_for(out) | (scope ? FLOW__LIFE_DETACHED | FLOW__LIFE_SCOPED : 0);
    struct flow__task *t;

    if (r < 0)
        return r;
    group = group_for(w, o);
    if (o->node >= 0 && !group)
        return -EINVAL;
    t = w ? new_task(w, fn, arg, site, life) : new_foreign_task(group, fn, arg, site, life);
    if (!t)
        return refusal(fn);
    r = apply(t, o, class_index);
    if (!r && scope)
        r = enlist(w, scope, t);
    if (r)
        return unmake(w, t, r);
    hand_out(t, out);
    if (o->worker >= 0)
        flow__submit_to(w, &flow__runtime.workers[o->worker], t);
    else if (o->node >= 0)
        flow__submit_to_group(w, group, t);
    else if (w)
        flow__submit(w, t);
    else
        flow__submit_from_thread(group, t);
    return 0;
}

int flow__spawn_into(struct flow__scope *scope, flow_task *out,
                     const struct flow_spawn_options *options, flow_fn fn, void *arg, void *site)
{
    static const struct flow_spawn_options none = FLOW_SPAWN_INIT;
    struct flow__task *self = flow__self();
    int r;

    if (!options)
        options = &none;
    if (self)
        return spawn_with(self->home, scope, out, options, fn, arg, site);
    r = flow__foreign_enter();
    if (r)
        return r;
    r = spawn_with(NULL, scope, out, options, fn, arg, site);
    flow__foreign_leave();
    return r;
}

int flow_spawn_with(flow_task *out, const struct flow_spawn_options *options, flow_fn fn, void *arg)
{
    return flow__spawn_into(NULL, out, options, fn, arg, SITE);
}
