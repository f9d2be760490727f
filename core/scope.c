/* SPDX-License-Identifier: MIT
 *
 * Scopes. The owner opens, waits and closes; its tasks, and whoever else knows that it is open,
 * spawn and cancel; each task tells it of its end, on the worker that ran it. */
#include "core/scope.h"

#include "core/ambient.h"
#include "core/join.h"
#include "core/spawn.h"

#include <errno.h>

#define NONE  UINT32_MAX
#define BATCH 32 /* tasks cancelled in one go under the guard */

enum { OPEN = 1, COLLECT = 2, CANCELLED = 4 };

/* ---- the list ---- */

enum { NEXT, PREVIOUS };

static struct flow__task *task_at(uint32_t slot)
{
    return &flow__registry.base[slot];
}

static void link_task(struct flow__scope *s, struct flow__task *t)
{
    uint32_t slot = flow__slot_of(t);

    t->sibling[NEXT] = s->first;
    t->sibling[PREVIOUS] = NONE;
    if (s->first != NONE)
        task_at(s->first)->sibling[PREVIOUS] = slot;
    s->first = slot;
    s->live++;
}

static void unlink_task(struct flow__scope *s, struct flow__task *t)
{
    uint32_t next = t->sibling[NEXT], previous = t->sibling[PREVIOUS];

    if (s->cursor == flow__slot_of(t))
        s->cursor = next;
    if (next != NONE)
        task_at(next)->sibling[PREVIOUS] = previous;
    if (previous != NONE)
        task_at(previous)->sibling[NEXT] = next;
    else
        s->first = next;
    s->live--;
}

/* Lets the guard go, and with it, if nothing is left in it, the scope. */
static void unlock_and_tell(struct flow__scope *s, struct flow__worker *w)
{
    struct flow__claimed claimed;

    flow__claimed_init(&claimed);
    if (s->live + s->holds == 0)
        flow__waiters_claim_all(&s->queue, &claimed);
    flow__spin_unlock(&s->guard);
    flow__claimed_resume(w, &claimed);
}

/* ---- cancelling ---- */

/* Takes the guard and lets it go, again and again: a task that is being cancelled can not end
 * between its being claimed and its being resumed, all others may. */
static void cancel_all(struct flow__scope *s, struct flow__worker *w, int reason)
{
    struct flow__task *claimed[BATCH];
    int n = 0, looked_at = 0;

    s->cursor = s->first;
    while (s->cursor != NONE) {
        struct flow__task *t = task_at(s->cursor);

        s->cursor = t->sibling[NEXT];
        if (flow__claim_cancelled(t, reason))
            claimed[n++] = t;
        if (++looked_at < BATCH && s->cursor != NONE)
            continue;
        flow__spin_unlock(&s->guard);
        for (int i = 0; i < n; i++)
            flow__resume_won(w, claimed[i]);
        n = looked_at = 0;
        flow__spin_lock(&s->guard);
    }
}

/* Under the guard, which it lets go meanwhile. The first one does it. */
static void cancel(struct flow__scope *s, struct flow__worker *w, int reason)
{
    uint32_t state = load_relaxed(&s->state);

    if (state & CANCELLED)
        return;
    store_relaxed(&s->state, state | CANCELLED);
    s->holds++;
    cancel_all(s, w, reason);
    s->holds--;
}

int flow_scope_cancel(struct flow_scope *scope)
{
    struct flow__scope *s = flow__scope_of(scope);
    struct flow__worker *w;
    int r = flow__resumer_begin(&w);

    if (r)
        return r;
    flow__spin_lock(&s->guard);
    if (load_relaxed(&s->state) & OPEN)
        cancel(s, w, FLOW_CANCEL_SCOPE);
    else
        r = -EINVAL;
    unlock_and_tell(s, w);
    flow__resumer_end(w);
    return r;
}

/* The one that holds for it, its own or inherited. */
static bool is_over(const struct flow__scope *s)
{
    return s->ambient.deadline != FLOW_FOREVER && flow__sys.now() >= s->ambient.deadline;
}

/* ---- tasks come and go ---- */

int flow__scope_enlist(struct flow__scope *s, struct flow__worker *w, struct flow__task *t)
{
    int r = 0;

    flow__spin_lock(&s->guard);
    if (!(load_relaxed(&s->state) & OPEN))
        r = -EINVAL;
    else if (is_over(s))
        cancel(s, w, FLOW_CANCEL_DEADLINE);
    if (!r && (load_relaxed(&s->state) & CANCELLED))
        r = -ECANCELED;
    if (!r) {
        t->scope = s;
        link_task(s, t);
    }
    unlock_and_tell(s, w);
    return r;
}

void flow__scope_task_ended(struct flow__worker *w, struct flow__task *t)
{
    struct flow__scope *s = t->scope;
    int error = t->result.error;

    flow__spin_lock(&s->guard);
    s->finished++;
    if (error == -ECANCELED) {
        s->cancelled++;
    } else if (error) {
        s->failed++;
        if (!s->error)
            s->error = error;
        if (!(load_relaxed(&s->state) & COLLECT))
            cancel(s, w, FLOW_CANCEL_SIBLING);
    }
    unlink_task(s, t);
    unlock_and_tell(s, w);
}

int flow_scope_spawn(struct flow_scope *scope, flow_task *out, flow_fn fn, void *arg)
{
    return flow__spawn_into(flow__scope_of(scope), out, NULL, fn, arg, __builtin_return_address(0));
}

int flow_scope_spawn_with(struct flow_scope *scope, flow_task *out,
                          const struct flow_spawn_options *options, flow_fn fn, void *arg)
{
    return flow__spawn_into(flow__scope_of(scope), out, options, fn, arg,
                            __builtin_return_address(0));
}

/* A claimed task becomes the scope's. False: it has ended meanwhile. */
static bool hand_over(struct flow__task *t)
{
    /* [LIFE-5] acquire: pairs with [LIFE-4]; so is every CAS that fails below. */
    uint64_t word = load_acquire(&t->life);

    do {
        if (word & FLOW__LIFE_FINISHED)
            return false;
        /* [LIFE-7] seq_cst: its release half publishes t->scope to [LIFE-4]. */
    } while (
        !cas_seq(&t->life, &word,
                 (word & ~(uint64_t)FLOW__LIFE_JOINING) | FLOW__LIFE_SCOPED | FLOW__LIFE_DETACHED));
    return true;
}

int flow_scope_add(struct flow_scope *scope, flow_task task)
{
    struct flow__worker *w;
    struct flow__task *t;
    int r = flow__resumer_begin(&w);

    if (r)
        return r;
    r = flow__claim(task.id, flow__self(), &t);
    if (!r) {
        r = flow__scope_enlist(flow__scope_of(scope), w, t);
        if (r) {
            flow__unclaim(t);
        } else if (!hand_over(t)) {
            flow__scope_task_ended(w, t);
            flow__free_task(w, t);
        }
    }
    flow__resumer_end(w);
    return r;
}

/* ---- the owner ---- */

int flow_scope_open(struct flow_scope *scope, const struct flow_scope_options *options)
{
    static const struct flow_scope_options none = FLOW_SCOPE_OPTIONS_INIT;
    struct flow__scope *s = flow__scope_of(scope);
    int r;

    *s = (struct flow__scope){.first = NONE, .cursor = NONE};
    if (!options)
        options = &none;
    if (options->size != sizeof *options || (options->flags & ~(unsigned)FLOW_SCOPE_COLLECT))
        return -EINVAL;
    r = flow__ambient_open(&s->ambient, FLOW__AMBIENT_SCOPE, options->deadline);
    if (r)
        return r;
    s->owner = flow__self();
    s->deadline = options->deadline;
    store_relaxed(&s->state, OPEN | (options->flags & FLOW_SCOPE_COLLECT ? COLLECT : 0));
    return 0;
}

static int await_tasks(struct flow__scope *s, bool shielded, flow_deadline deadline)
{
    struct flow__waiter waiter;

    flow__note_object(s->owner, s);
    flow__spin_lock(&s->guard);
    if (s->live + s->holds > 0)
        return flow__waiter_wait(s->owner, &s->guard, &s->queue, &waiter, shielded, FLOW__WHY_SCOPE,
                                 deadline);
    flow__spin_unlock(&s->guard);
    return 0;
}

/* Only the owner is asked for what it alone may do. */
static int check_owner(struct flow__scope *s)
{
    struct flow__task *self = flow__self();

    if (!self)
        return flow__outside();
    if (!(load_relaxed(&s->state) & OPEN))
        return -EINVAL;
    return s->owner == self ? 0 : -EPERM;
}

int flow_scope_wait(struct flow_scope *scope, flow_deadline deadline)
{
    struct flow__scope *s = flow__scope_of(scope);
    int r = check_owner(s);

    if (r)
        return r;
    r = await_tasks(s, false, deadline);
    if (r && is_over(s)) {
        flow__spin_lock(&s->guard);
        cancel(s, s->owner->home, FLOW_CANCEL_DEADLINE);
        flow__spin_unlock(&s->guard);
    }
    return r;
}

static bool is_late(struct flow__scope *s)
{
    return s->deadline != FLOW_FOREVER && flow__sys.now() >= s->deadline;
}

/* All have ended. */
static int verdict(struct flow__scope *s)
{
    if (s->error)
        return s->error;
    if (!s->cancelled && !(load_relaxed(&s->state) & CANCELLED))
        return 0;
    return is_late(s) ? -ETIMEDOUT : -ECANCELED;
}

int flow_scope_close(struct flow_scope *scope)
{
    struct flow__scope *s = flow__scope_of(scope);
    int r = check_owner(s);

    if (!r)
        r = flow__ambient_check(&s->ambient, FLOW__AMBIENT_SCOPE);
    if (!r)
        r = await_tasks(s, false, FLOW_FOREVER);
    if (r && r != -ECANCELED)
        return r;
    if (r) {
        flow__spin_lock(&s->guard);
        cancel(s, s->owner->home,
               flow_cancel_reason() == FLOW_CANCEL_DEADLINE ? FLOW_CANCEL_DEADLINE
                                                            : FLOW_CANCEL_SCOPE);
        flow__spin_unlock(&s->guard);
        await_tasks(s, true, FLOW_FOREVER);
    }
    flow__ambient_close(&s->ambient);
    store_relaxed(&s->state, load_relaxed(&s->state) & ~(uint32_t)OPEN);
    return verdict(s);
}

void flow_scope_leave(struct flow_scope *scope)
{
    if (!(load_relaxed(&flow__scope_of(scope)->state) & OPEN))
        return;
    flow_scope_cancel(scope);
    flow_scope_close(scope);
}

void flow_scope_status(struct flow_scope *scope, struct flow_scope_status *status)
{
    struct flow__scope *s = flow__scope_of(scope);

    flow__spin_lock(&s->guard);
    *status = (struct flow_scope_status){s->live, s->finished, s->failed, s->cancelled, s->error};
    flow__spin_unlock(&s->guard);
}
