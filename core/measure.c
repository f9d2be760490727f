/* SPDX-License-Identifier: MIT
 *
 * Measuring stacks. A slot is filled and scanned at its end by the worker that runs the task;
 * flow_stack_used scans on any thread, while the task may be running or ending.
 *
 * A pin keeps the block, but not the stack: if the task ends during the scan, its slot may be
 * filled anew for another one. The memory stays readable, for slots are not unmapped while the
 * runtime runs, and what was found counts only if the task has not finished afterwards. */
#include "core/measure.h"

#include "core/join.h"

#include <errno.h>

/* Its bytes differ, so that no memset does the same; unlikely as a value of the program's. */
#define PATTERN 0x6d65a5757265c37bull

typedef uint64_t __attribute__((may_alias)) word;

/* The lowest word that a task may use: that of a guard page is none of it. */
static word *low_end(char *slot)
{
    return (word *)(slot + (flow__stacks.guard == FLOW__GUARD_CANARY
                                ? FLOW__CANARY_WORDS * sizeof(word)
                                : flow__stacks.page_bytes));
}

/* Only the task's worker writes it; a reader on another thread meets [USED-1]. */
static flow__atomic(char *) * stack_of(struct flow__task *t)
{
    return (flow__atomic(char *) *)(void *)&t->stack;
}

/* Unsanitized: the frames of the slot's last task may have left poison. */
flow__unsanitized void flow__measure_begin(struct flow__task *t, char *slot, int class_index)
{
    word *top = (word *)flow__stack_top(slot, class_index);

    for (word *at = low_end(slot); at < top; at++)
        *at = PATTERN;
    /* [USED-1] release: pairs with [USED-2]; who finds the stack finds it filled. */
    store_release(stack_of(t), slot);
}

/* Unsanitized: it reads words that another thread may be writing, and redzones. Each word either
 * is the pattern or was written; a torn one was written too. */
static flow__unsanitized size_t used_bytes(char *slot)
{
    const volatile word *at = low_end(slot), *top = (word *)flow__stack_header(slot);

    while (at < top && *at == PATTERN)
        at++;
    return (size_t)((const volatile char *)top - (const volatile char *)at);
}

void flow__measure_end(struct flow__worker *w, struct flow__task *t)
{
    uint64_t used = used_bytes(t->stack);

    if (used > load_relaxed(&w->stats.stack_used_most))
        store_relaxed(&w->stats.stack_used_most, used);
}

/* Not atomic where the worker writes NULL at the end, hence unsanitized. */
static flow__unsanitized char *find_stack(struct flow__task *t)
{
    /* [USED-2] acquire: pairs with [USED-1]. */
    return load_acquire(stack_of(t));
}

static int measure_id(struct flow__worker *w, uint64_t id, size_t *bytes)
{
    struct flow__task *t = flow__pin(id);
    size_t used = 0;
    char *slot;

    if (!t)
        return -ESRCH;
    slot = find_stack(t);
    if (slot)
        used = used_bytes(slot);
    /* A full barrier in the life word: if FINISHED is not set even now, all that was read is the
     * task's own. */
    if (!flow__unpin(w, t) || !slot)
        return -ESRCH;
    *bytes = used;
    return 0;
}

int flow_stack_used(flow_task task, size_t *bytes)
{
    struct flow__task *self = flow__self();
    int r = 0;

    if (!self && (r = flow__foreign_enter()))
        return r;
    if (!bytes || !flow__stacks.measured)
        r = -EINVAL;
    else
        r = measure_id(self ? self->home : NULL, task.id, bytes);
    if (!self)
        flow__foreign_leave();
    return r;
}
