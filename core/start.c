/* SPDX-License-Identifier: MIT
 *
 * The first and the last moments of a task, on its own stack; and the room that a worker keeps
 * for every task that has started there. Runs on the worker's thread. */
#include "core/start.h"

#include "core/ambient.h"

#include "core/arena.h"
#include "core/job.h"
#include "core/life.h"
#include "core/mutex.h"
#include "core/scope.h"

#include <errno.h>

/* ---- room for started tasks ---- */

static int reserve_ready(struct flow__ready *r, uint32_t n, int node)
{
    uint32_t capacity = r->capacity ? r->capacity : 512, count = flow__ready_count(r);
    struct flow__task **entry;

    if (n <= r->capacity)
        return 0;
    while (capacity < n)
        capacity *= 2;
    entry = flow__arena_map(capacity * sizeof *entry, node, 0);
    if (!entry)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++)
        entry[i] = r->entry[(r->head + i) & r->mask];
    flow__arena_unmap(r->entry, r->capacity * sizeof *entry);
    *r = (struct flow__ready){entry, 0, count, capacity - 1, capacity};
    return 0;
}

int flow__reserve_slowly(struct flow__worker *w)
{
    uint32_t n = w->n_started - load_relaxed(&w->departed) + 1;

    if (reserve_ready(&w->ready, n, w->node))
        return -ENOMEM;
    return flow__timers_reserve(&w->timers, n);
}

void flow__warm_up(struct flow__worker *w)
{
    int class_index = flow__runtime.default_class;
    char *slot;

    flow__reserve_slowly(w);
    slot = flow__stack_take(&w->stacks, class_index);
    if (!slot)
        return;
    flow__stack_top(slot, class_index)->task = NULL;
    flow__stack_give(&w->stacks, class_index, slot);
}

/* ---- the first suspension ---- */

/* Whoever starts the next task but one needs a stack that may be cold. */
void flow__after_first_suspension(struct flow__worker *w, int class_index)
{
    uint32_t n = w->stacks.n[class_index];

    if (n > 1) {
        char *slot = w->stacks.slot[class_index][n - 2];
        const char *top = (const char *)flow__stack_top(slot, class_index);

        for (int line = 0; line < 4; line++)
            __builtin_prefetch(top - line * FLOW__CACHE_LINE, 1);
    }
    flow__after_suspension(w);
}

/* ---- the end ---- */

/* Nobody has its handle yet, so nobody else writes its life. */
static inline void finish_private(struct flow__worker *w, struct flow__task *t, uint64_t life)
{
    if (!(life & FLOW__LIFE_DETACHED)) {
        store_release(&t->life, (life | FLOW__LIFE_FINISHED) & ~(uint64_t)FLOW__LIFE_PRIVATE);
        return;
    }
    flow__drop_detail(t);
    life = flow__next_life(life);
    store_release(&t->life, life);
    flow__give_block_to(w, t, life);
}

static void tell_joiner(struct flow__worker *w, struct flow__task *t)
{
    /* [LIFE-7] published by the joiner before it set WAITING, which [LIFE-4] has seen. */
    struct flow__task *joiner = t->joiner;
    uint64_t epoch = t->joiner_epoch;

    /* [LIFE-6] seq_cst: after this the joiner may free t; it does not before. */
    fetch_and_seq(&t->life, ~(uint64_t)FLOW__LIFE_WAITING);
    flow__win(w, joiner, epoch, FLOW__WAIT_ENDED);
}

static inline void finish(struct flow__worker *w, struct flow__task *t)
{
    uint64_t before = load_relaxed(&t->life);

    flow__tsan_before(&flow__runtime); /* see flow__live_tasks */
    t->stack = NULL;
    /* [LIVE-1] release: pairs with [LIVE-2]; what this task spawned was counted before. */
    store_release(&w->stats.finished, load_relaxed(&w->stats.finished) + 1);
    if (before & FLOW__LIFE_PRIVATE) {
        if (flow__unlikely(before & FLOW__LIFE_SCOPED))
            flow__scope_task_ended(w, t);
        finish_private(w, t, before);
        return;
    }
    /* [LIFE-4] seq_cst: its release half pairs with [LIFE-5]; the result is in place. */
    before = fetch_or_seq(&t->life, FLOW__LIFE_FINISHED);
    if (before & FLOW__LIFE_SCOPED)
        flow__scope_task_ended(w, t); /* [LIFE-7] its scope is known */
    if (before & FLOW__LIFE_DETACHED)
        flow__free_task(w, t);
    else if (before & FLOW__LIFE_WAITING)
        tell_joiner(w, t);
    /* else a joiner that comes now, or is about to publish itself, sees FINISHED */
}

void flow__finish_unstarted(struct flow__worker *w, struct flow__task *t, int error)
{
    flow__tsan_after(&t->strand); /* as at its beginning: what its spawner has done, its name among it */
    t->home = w;
    t->result = flow_err(error);
    store_relaxed(&t->flags, load_relaxed(&t->flags) | FLOW__NOT_RUN);
    finish(w, t);
}

/* Leaves the stack of a task that has suspended before: its caller is long gone. */
_Noreturn static __attribute__((noinline)) flow__unsanitized void
end_on_own_stack(struct flow__worker *w, struct flow__task *t)
{
    struct flow__strand gone;

    w->dead_stack = t->stack;
    w->dead_class = t->stack_class;
    if (flow__has(t, FLOW_FP_ENVIRONMENT))
        flow__fp_load(&w->fp);
    finish(w, t);
    flow__go_last(&gone, &w->strand, FLOW__FINISHED);
}

/* The function has returned: what it should have given back. */
static inline void leave_nothing(struct flow__worker *w, struct flow__task *t)
{
    struct flow__stack_header *top = flow__stack_top(t->stack, t->stack_class);

    if (flow__unlikely(top->held != NULL)) {
        flow__mutex_orphan(w, t, top->held);
        top->held = NULL;
    }
    if (flow__unlikely(top->innermost != 0))
        flow__ambient_abandon(top);
}

flow__unsanitized long flow__task_main(void *arg)
{
    struct flow__task *t = arg;
    struct flow__strand *caller = (struct flow__strand *)((uintptr_t)t->back & ~(uintptr_t)1);
    struct flow__worker *w;

    flow__arrive(caller);
    t->result = t->fn(t->arg);
#ifdef FLOW_DEBUG
    flow__check_all_synced(t);
#endif
    if (flow__unlikely(load_relaxed(&flow__runtime.state) == FLOW__FORKED))
        flow__die("a coroutine has returned in the child of a fork");
    if (flow__unlikely(flow__stacks.guard == FLOW__GUARD_CANARY) && !flow__stack_intact(t->stack))
        flow__die("stack overflow: the canary of the coroutine below was overwritten");
    w = t->home;
    leave_nothing(w, t);
    if (flow__unlikely(flow__stacks.measured))
        flow__measure_end(w, t);
    w->n_started--;
    if (flow__unlikely(!((uintptr_t)t->back & 1)))
        end_on_own_stack(w, t);
    /* It never suspended: a plain return, and the caller takes the stack back. */
    finish(w, t);
    if (caller != &w->strand)
        flow__tsan_before(caller);
    flow__before_return(caller);
    return FLOW__FINISHED;
}

flow__unsanitized long flow__call_with_fp(struct flow__worker *w, struct flow__strand *from,
                                          void *top, struct flow__task *t)
{
    struct flow__task *caller = from == &w->strand ? NULL : flow__task_of_strand(from);
    struct flow__fp_environment fp;
    long r;

    flow__fp_save(&fp);
    if (caller)
        caller->fp = &fp; /* its jobs may become tasks meanwhile */
    flow__fp_load(&w->fp);
    r = flow__call(&from->context, top, flow__task_main, t);
    flow__fp_load(&fp);
    if (caller)
        caller->fp = NULL;
    return r;
}
