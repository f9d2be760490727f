/* SPDX-License-Identifier: MIT
 *
 * Shields, ambient deadlines, and what a task may know of its cancellation; see the header. On the
 * task's own stack. */
#include "core/ambient.h"

#include "core/scope.h"

#include <errno.h>

#define SHOWN (FLOW__SHIELDED | FLOW__AMBIENT)

static struct flow_ambient *record_of(uintptr_t link)
{
    return (struct flow_ambient *)(link & ~FLOW__HAS_SCOPE);
}

static void set_flags(struct flow__task *self, uint32_t shown)
{
    uint32_t rest = load_relaxed(&self->flags) & ~(uint32_t)(SHOWN | FLOW__LIMITED);

    store_relaxed(&self->flags, rest | shown);
}

/* ---- the deadline ---- */

/* Within a record, or outside of all: where AMBIENT holds. */
static flow_deadline deadline_in(const struct flow__task *self, const struct flow_ambient *a)
{
    return a ? a->deadline : self->scope->ambient.deadline;
}

flow_deadline flow__ambient_deadline(struct flow__task *self)
{
    return flow__has(self, FLOW__AMBIENT) ? deadline_in(self, record_of(flow__own_header()->innermost))
                                          : FLOW_FOREVER;
}

bool flow__ambient_is_over_slowly(struct flow__task *self)
{
    return flow__sys.now() >= flow__ambient_deadline(self);
}

bool flow__ambient_allows(struct flow__task *self, bool *shielded)
{
    uint32_t flags = load_relaxed(&self->flags) & ~(uint32_t)FLOW__LIMITED;

    /* What the library shields lasts as long as it must. */
    if ((flags & FLOW__AMBIENT) && !*shielded) {
        if (flow__ambient_is_over_slowly(self))
            return false;
        flags |= FLOW__LIMITED;
    }
    store_relaxed(&self->flags, flags);
    *shielded |= (flags & FLOW__SHIELDED) != 0;
    return true;
}

/* ---- the records ---- */

int flow__ambient_open(struct flow_ambient *a, unsigned kind, flow_deadline deadline)
{
    struct flow__stack_header *top = flow__own_header();
    uint32_t flags;

    if (!top)
        return flow__outside();
    flags = load_relaxed(&top->task->flags) & SHOWN;
    *a = (struct flow_ambient){top->innermost, FLOW_FOREVER, flags, kind};
    if (kind == FLOW__AMBIENT_SHIELD) {
        flags = FLOW__SHIELDED;
    } else {
        a->deadline = flow__ambient_deadline(top->task);
        if (deadline < a->deadline)
            a->deadline = deadline;
        if (a->deadline != FLOW_FOREVER)
            flags |= FLOW__AMBIENT;
    }
    top->innermost = (uintptr_t)a | (top->innermost & FLOW__HAS_SCOPE) |
                     (kind == FLOW__AMBIENT_SCOPE ? FLOW__HAS_SCOPE : 0);
    set_flags(top->task, flags);
    return 0;
}

int flow__ambient_check(const struct flow_ambient *a, unsigned kind)
{
    struct flow__stack_header *top = flow__own_header();

    if (!top)
        return flow__outside();
    return a && record_of(top->innermost) == a && a->kind == kind /* NOLINT: it was opened */
               ? 0
               : -EINVAL;
}

void flow__ambient_close(struct flow_ambient *a)
{
    struct flow__stack_header *top = flow__own_header();

    top->innermost = a->outer; /* NOLINT: it was opened */
    set_flags(top->task, a->flags);
    a->kind = 0;
}

static int close_checked(struct flow_ambient *a, unsigned kind)
{
    int r = flow__ambient_check(a, kind);

    if (!r)
        flow__ambient_close(a);
    return r;
}

void flow__ambient_abandon(struct flow__stack_header *top)
{
    /* Its tasks would go on with a scope in a frame that is gone. */
    if (top->innermost & FLOW__HAS_SCOPE)
        flow__die("a coroutine has ended with an open scope");
#ifdef FLOW_DEBUG
    flow__die("a coroutine has ended with an open shield or a deadline that it pushed");
#endif
    top->innermost = 0;
}

/* ---- the interface ---- */

int flow_shield_begin(struct flow_ambient *shield)
{
    return flow__ambient_open(shield, FLOW__AMBIENT_SHIELD, FLOW_FOREVER);
}

int flow_shield_end(struct flow_ambient *shield)
{
    return close_checked(shield, FLOW__AMBIENT_SHIELD);
}

int flow_shield(int (*fn)(void *arg), void *arg)
{
    struct flow_ambient shield;
    int r = flow_shield_begin(&shield);

    if (r)
        return r;
    r = fn(arg);
    flow_shield_end(&shield);
    return r;
}

int flow_deadline_push(struct flow_ambient *ambient, flow_deadline deadline)
{
    return flow__ambient_open(ambient, FLOW__AMBIENT_DEADLINE, deadline);
}

int flow_deadline_pop(struct flow_ambient *ambient)
{
    return close_checked(ambient, FLOW__AMBIENT_DEADLINE);
}

flow_deadline flow_deadline_ambient(void)
{
    struct flow__task *self = flow__self();

    return self ? flow__ambient_deadline(self) : FLOW_FOREVER;
}

/* Also one that holds outside of a shield only. */
static bool any_ambient_is_over(struct flow__task *self)
{
    const struct flow_ambient *a = record_of(flow__own_header()->innermost);
    uint32_t flags = load_relaxed(&self->flags);
    flow_deadline now = flow__sys.now();

    for (;; flags = a->flags, a = record_of(a->outer)) {
        if ((flags & FLOW__AMBIENT) && now >= deadline_in(self, a))
            return true;
        if (!a)
            return false;
    }
}

int flow_cancel_reason(void)
{
    struct flow__task *self = flow__self();
    int reason;

    if (!self)
        return flow__outside();
    reason = flow__reason_of(self);
    return !reason && flow__has(self, SHOWN) && any_ambient_is_over(self) ? FLOW_CANCEL_DEADLINE : reason;
}
