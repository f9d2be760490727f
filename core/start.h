/* SPDX-License-Identifier: MIT
 *
 * Starting a task: the one way in which a stack is entered for the first time, be it
 * by the scheduler, by flow_spawn_now or by the join of a task that nobody has started.
 * It is a call. The task becomes a coroutine of its own only if it suspends: then
 * the caller goes on as if the call had returned. In the header because it is most of the
 * cost of a small task. */
#ifndef FLOW_CORE_START_H
#define FLOW_CORE_START_H

#include "core/measure.h"
#include "core/worker.h"

#include <errno.h>

/* The first function on each stack. */
__attribute__((visibility("hidden"))) long flow__task_main(void *task);

/* flow__call between tasks of different FP environments: the caller's is restored after it. */
long flow__call_with_fp(struct flow__worker *w, struct flow__strand *from, void *top,
                        struct flow__task *t);

/* Makes room so that one more started task can always be woken and its timer armed. 0 or -ENOMEM.
 */
int flow__reserve_slowly(struct flow__worker *w);

static inline int flow__reserve_one(struct flow__worker *w)
{
    uint32_t n = w->n_started - load_relaxed(&w->departed);

    if (flow__likely(n < w->ready.capacity && n < w->timers.heap_capacity))
        return 0;
    return flow__reserve_slowly(w);
}

static inline void flow__return_stack(struct flow__worker *w, int class_index, char *slot)
{
    flow__count(w, stacks_returned);
    flow__stack_give(&w->stacks, class_index, slot);
}

#ifdef FLOW_VALGRIND
/* What the frames of the slot's last task have left is nobody's. The first line of the stack is
 * left out: memcheck takes the move to it and the first push for one step, and marks nothing. */
static inline void flow__tell_memcheck(char *low, char *top)
{
    (void)VALGRIND_MAKE_MEM_NOACCESS(low, top - low - FLOW__CACHE_LINE);
    (void)VALGRIND_MAKE_MEM_UNDEFINED(top - FLOW__CACHE_LINE, FLOW__CACHE_LINE);
}
#endif

/* Makes the slot t's; returns the top of the stack. */
static inline struct flow__stack_header *flow__enter_slot(char *slot, int class_index,
                                                          struct flow__task *t)
{
    struct flow__stack_header *header = flow__stack_top(slot, class_index);

#ifdef FLOW__ASAN
    t->strand.stack_low = slot + flow__stacks.page_bytes;
    t->strand.stack_bytes = (size_t)((char *)header - slot) - flow__stacks.page_bytes;
    __asan_unpoison_memory_region(t->strand.stack_low, t->strand.stack_bytes);
#endif
#ifdef FLOW_VALGRIND
    flow__tell_memcheck(slot + flow__stacks.page_bytes, (char *)header);
#endif
#ifdef FLOW__TSAN
    if (!header->fiber)
        header->fiber = __tsan_create_fiber(0);
    t->strand.fiber = header->fiber;
#endif
    header->task = t;
    return header;
}

/* What a worker's first task would wait for: room for started tasks, stacks with their guards, the page of the
 * first one's header. If it fails, the first task will see. */
void flow__warm_up(struct flow__worker *w);

/* What the worker does when a task has suspended for the first time. */
void flow__after_first_suspension(struct flow__worker *w, int class_index);

/* Starts a task by calling it from `from`, which runs on w's thread. FLOW__FINISHED: it has
 * ended, its block may be gone. FLOW__SUSPENDED. -ENOMEM: no stack, nothing has happened.
 * from_own_fp: the caller has an FP environment of its own. */
static inline long flow__start(struct flow__worker *w, struct flow__strand *from,
                               struct flow__task *t, bool from_own_fp)
{
    int class_index = t->stack_class;
    bool own_fp = from_own_fp || flow__has(t, FLOW_FP_ENVIRONMENT);
    struct flow__stack_header *top;
    char *slot;
    long r;

    if (flow__unlikely(flow__reserve_one(w)))
        return -ENOMEM;
    slot = flow__stack_take(&w->stacks, class_index);
    if (flow__unlikely(!slot))
        return -ENOMEM;
    if (flow__unlikely(flow__stacks.measured))
        flow__measure_begin(t, slot, class_index);
    flow__count(w, stacks_taken);
    w->n_started++;
    t->stack = slot;
    t->home = w;
    t->back = (struct flow__strand *)((uintptr_t)from | 1);
    top = flow__enter_slot(slot, class_index, t);
    flow__before_call(from, &t->strand);
    if (flow__unlikely(own_fp))
        r = flow__call_with_fp(w, from, top, t);
    else
        r = flow__call(&from->context, top, flow__task_main, t);
    flow__after_call(from);
    if (flow__likely(r == FLOW__FINISHED))
        flow__return_stack(w, class_index, slot);
    else
        flow__after_first_suspension(w, class_index);
    return r;
}

#endif
