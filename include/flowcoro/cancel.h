/* SPDX-License-Identifier: MIT
 *
 * Cancellation: why, until when, and where not.
 *
 * A task is asked to end (flow_cancel, its scope, flow_stop), or its ambient deadline passes: from then
 * on every call in which it would wait gives -ECANCELED. Nothing is unwound behind its back; it cleans
 * up and returns. What it must still wait for meanwhile goes into a shield, with the jobs and the parallel loops
 * in it; tasks that are spawned there are on their own.
 *
 * A shield and an ambient deadline are records in the frame that opens them, closed in
 * reverse order and before that function returns; the macros do that by themselves. All calls
 * here are a coroutine's about itself and never suspend; others get -EPERM, if not said
 * otherwise. */
#ifndef FLOWCORO_CANCEL_H
#define FLOWCORO_CANCEL_H

#include <flowcoro/base.h>
#include <flowcoro/task.h>

FLOW_BEGIN_DECLS

enum flow_cancel_reason {
    FLOW_CANCEL_ASKED = 1, /* flow_cancel */
    FLOW_CANCEL_DEADLINE,  /* an ambient deadline, its own or that of its scope */
    FLOW_CANCEL_SCOPE,     /* its scope was cancelled, or closed by a cancelled parent */
    FLOW_CANCEL_SIBLING,   /* another task of its scope has failed, or has won flow_when_any */
    FLOW_CANCEL_STOP,      /* flow_stop */
    FLOW_CANCEL_USER = 8,  /* 8 to 15 mean what the program wants */
    FLOW_CANCEL_LAST = 15,
};

/* flow_cancel, which is the same with FLOW_CANCEL_ASKED, with a reason; who is first gives the
 * reason. -EINVAL: not a reason. From a coroutine or a foreign thread. */
FLOW_API int flow_cancel_with(flow_task task, int reason);

/* Why the calling task has been cancelled, also within a shield; 0: it has not. */
FLOW_API int flow_cancel_reason(void);

/* A shield or an ambient deadline; its fields are the library's. */
struct flow_ambient {
    uintptr_t outer;
    flow_deadline deadline;
    uint32_t flags, kind;
};

#define FLOW_AMBIENT_INIT                                                                          \
    {                                                                                              \
        0, 0, 0, 0                                                                                 \
    }

/* From now on the task waits as if it were not cancelled, and as if no ambient deadline had been
 * pushed; one pushed within the shield holds there: that is how clean-up gets a limit. */
FLOW_API int flow_shield_begin(struct flow_ambient *shield);

/* -EINVAL: it is not the innermost that is open. */
FLOW_API int flow_shield_end(struct flow_ambient *shield);

/* Returns fn(arg), run within a shield. */
FLOW_API int flow_shield(int (*fn)(void *arg), void *arg);

/* From now on no wait of the task lasts beyond the deadline, whatever its own: one that would
 * gives -ECANCELED then, and later ones at once. A deadline already in force that is earlier goes on
 * to hold. flow_yield looks too; computing does not. Tasks spawned into a scope inherit it, others
 * do not. */
FLOW_API int flow_deadline_push(struct flow_ambient *ambient, flow_deadline deadline);

/* -EINVAL: it is not the innermost that is open. */
FLOW_API int flow_deadline_pop(struct flow_ambient *ambient);

/* The ambient deadline in force; FLOW_FOREVER without one and outside of coroutines. */
FLOW_API flow_deadline flow_deadline_ambient(void);

/* For the macros. */
static inline void flow_shield_leave(struct flow_ambient *shield)
{
    flow_shield_end(shield);
}

static inline void flow_deadline_leave(struct flow_ambient *ambient)
{
    flow_deadline_pop(ambient);
}

/* From here to the end of the block; name is a new variable. */
#define FLOW_SHIELD(name)                                                                          \
    struct flow_ambient name __attribute__((cleanup(flow_shield_leave))) = FLOW_AMBIENT_INIT;      \
    (void)flow_shield_begin(&name)
#define FLOW_DEADLINE(name, deadline)                                                              \
    struct flow_ambient name __attribute__((cleanup(flow_deadline_leave))) = FLOW_AMBIENT_INIT;    \
    (void)flow_deadline_push(&name, deadline)

FLOW_END_DECLS

#endif
