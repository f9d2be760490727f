/* SPDX-License-Identifier: MIT
 *
 * See the header. Everything here is read while others may be writing it, hence unsanitized
 * functions, and checked before it is used as an address: a stack lies in the region of stacks, which
 * is never unmapped while the runtime runs, and a worker in its table. */
#include "core/snapshot.h"

#include <string.h>

#define TRIES 3

/* ---- the parts ---- */

static bool is_live(uint64_t life)
{
    return life != 0 && !(life & (FLOW__LIFE_FREE | FLOW__LIFE_FINISHED));
}

/* The field of a free block holds something else, and a block may become free just now. */
static bool is_worker(const struct flow__worker *w)
{
    const struct flow__worker *first = flow__runtime.workers;

    return w >= first && w < first + flow__runtime.n_places;
}

/* What a look depends on; it is good if the same stands there afterwards. */
struct stance {
    uint64_t wait; /* without the bits of cancellation, which may come at any time */
    struct flow__worker *home;
    struct flow__strand *back;
    char *stack;
    uintptr_t sp;
    uint64_t dispatches;
    unsigned why;
};

static flow__unsanitized void take_stance(struct flow__task *t, struct stance *s)
{
    const volatile struct flow__task *seen = t;

    /* With an armed word, the stack pointer of an earlier suspension is gone: see flow__arm. */
    s->wait = load_seq(&t->wait) & ~(uint64_t)FLOW__CANCEL_BITS;
    s->home = seen->home;
    s->back = seen->back;
    s->stack = seen->stack;
    s->sp = (uintptr_t)seen->strand.context.sp;
    s->why = load_relaxed(&t->why);
    /* The worker counts a dispatch, then goes to the task. Here: the count, then the stack. */
    s->dispatches = is_worker(s->home) ? load_seq(&s->home->stats.dispatches) : 0;
}

/* One that is to go on, as long as its worker has dispatched nothing. */
static bool has_stood_still(struct flow__task *t, const struct stance *before, bool armed)
{
    struct stance now;

    fence_seq();
    take_stance(t, &now);
    if (now.wait != before->wait || now.home != before->home || now.stack != before->stack ||
        now.sp != before->sp || now.back != before->back)
        return false;
    return armed || now.dispatches == before->dispatches;
}

static bool is_armed(uint64_t wait)
{
    unsigned state = wait & FLOW__WAIT_STATE;

    return state == FLOW__WAIT_ARMED || state == FLOW__WAIT_SHIELDED;
}

static enum flow__activity activity_of(struct flow__task *t, const struct stance *s)
{
    if (!s->stack)
        return FLOW__TASK_QUEUED;
    if ((uintptr_t)s->back & 1 || !s->sp)
        return FLOW__TASK_RUNNING;
    if (is_armed(s->wait))
        return FLOW__TASK_WAITING;
    return load_relaxed(&s->home->current) == t ? FLOW__TASK_RUNNING : FLOW__TASK_READY;
}

/* ---- the look ---- */

/* What waits for the end of a task names its block. */
static void name_object(struct flow__snapshot *s, const void *object)
{
    const struct flow__task *awaited = object, *first = flow__registry.base;
    bool is_task = s->why == FLOW__WHY_JOIN || s->why == FLOW__WHY_ALL || s->why == FLOW__WHY_SYNC;

    s->object = object;
    s->awaited = 0;
    if (is_task && awaited >= first && awaited < first + flow__registry.n_blocks)
        s->awaited = flow__id_of(awaited, load_relaxed(&awaited->life));
}

static flow__unsanitized void look_at_stack(struct flow__task *t, const struct stance *seen,
                                            struct flow__unwind_cache *cache,
                                            struct flow__snapshot *s)
{
    const volatile struct flow__stack_header *top = flow__stack_header(seen->stack);
    struct flow__view view = {seen->sp, (uintptr_t)top, (const char *)seen->sp};
    struct flow__registers from;

    s->mutex = top->held;
    s->why = seen->why;
    s->since = top->waits_since;
    name_object(s, top->waits_for);
    s->deadline = t->timed ? t->timer.deadline : FLOW_FOREVER;
    if (s->activity == FLOW__TASK_RUNNING || seen->sp < (uintptr_t)seen->stack ||
        seen->sp > view.high)
        return;
    s->stack_in_use = view.high - seen->sp;
    if (cache && flow__registers_of(&from, seen->sp, &view))
        s->trace.n =
            flow__unwind(cache, &from, &view, s->trace.pc, FLOW__FRAMES, &s->trace.complete);
}

/* False: what was read does not fit together. */
static flow__unsanitized bool look(struct flow__task *t, struct flow__unwind_cache *cache,
                                   struct flow__snapshot *s)
{
    struct stance seen;

    take_stance(t, &seen);
    s->cancelled = flow__is_cancelled(t);
    s->stack = seen.stack;
    s->worker = s->node = -1;
    s->stack_class = t->stack_class;
    s->trace.n = 0;
    s->trace.complete = false;
    s->stack_in_use = 0;
    s->mutex = NULL;
    s->why = FLOW__WHY_NOTHING;
    s->activity = FLOW__TASK_QUEUED;
    if (!seen.stack)
        return true;
    if (!is_worker(seen.home) ||
        flow__stack_slot_of((uintptr_t)seen.stack, &s->stack_class) != seen.stack)
        return false;
    s->worker = seen.home->index;
    s->node = seen.home->node;
    s->activity = activity_of(t, &seen);
    look_at_stack(t, &seen, cache, s);
    return s->activity == FLOW__TASK_RUNNING || has_stood_still(t, &seen, is_armed(seen.wait));
}

static flow__unsanitized void *site_of(struct flow__task *t)
{
    return t->spawn_site;
}

bool flow__snapshot(struct flow__task *t, struct flow__unwind_cache *cache,
                    struct flow__snapshot *s)
{
    uint64_t life = load_acquire(&t->life);
    struct flow__detail *detail;
    int tries = 0;

    if (!is_live(life) || flow__has(t, FLOW__IS_THREAD))
        return false;
    while (!look(t, cache, s) && ++tries < TRIES)
        ;
    if (tries == TRIES) { /* it is on the move: that is what there is to say */
        s->activity = FLOW__TASK_ACTIVE;
        s->trace.n = 0;
        s->stack_in_use = 0;
    }
    s->id = flow__id_of(t, life);
    s->spawn_site = site_of(t);
    /* [NAME-2] acquire: pairs with [NAME-1]. */
    detail = load_acquire(&t->detail);
    s->name[0] = 0;
    if (detail)
        memcpy(s->name, detail->name, sizeof s->name);
    /* If it has ended meanwhile, all this may be of two tasks. */
    fence_seq();
    life = load_seq(&t->life);
    return is_live(life) && flow__id_of(t, life) == s->id;
}
