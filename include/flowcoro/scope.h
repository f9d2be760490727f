/* SPDX-License-Identifier: MIT
 *
 * Scopes: tasks that end before the block that started them does.
 *
 *     struct flow_scope scope;
 *
 *     flow_scope_open(&scope, NULL);
 *     for (int i = 0; i < n; i++)
 *         flow_scope_spawn(&scope, NULL, fetch, &page[i]);
 *     r = flow_scope_close(&scope);    // all have ended; the first error of any of them
 *
 * Any number of tasks; none costs an allocation. When one of them fails the others are
 * cancelled, unless FLOW_SCOPE_COLLECT says that each is to have its chance. They inherit the ambient
 * deadline of the one who opened the scope, which the scope's own may shorten. That deadline has no
 * timer: each task that was spawned there finds it in its own waits, and all of the scope is cancelled
 * by whoever comes upon it first: the owner in flow_scope_wait or flow_scope_close, or who spawns or
 * adds. So a task that was added, and one that never waits, may go on beyond it for as long as the
 * owner does something else, or waits within a shield.
 *
 * A scope is a record in a frame, as those of flowcoro/cancel.h, and closed like them before its
 * function returns: a task that ends with an open scope stops the program. Its own tasks may use
 * it too, to spawn more. */
#ifndef FLOWCORO_SCOPE_H
#define FLOWCORO_SCOPE_H

#include <flowcoro/cancel.h>

FLOW_BEGIN_DECLS

/* Its fields are the library's. */
struct flow_scope {
    struct flow_ambient ambient;
    void *owner, *queue[2];
    flow_deadline deadline;
    uint64_t counts[4];
    uint32_t guard, first, cursor, state, holds;
    int error;
};

enum {
    FLOW_SCOPE_COLLECT = 1, /* an error cancels nobody */
};

/* Initialise with FLOW_SCOPE_OPTIONS_INIT. */
struct flow_scope_options {
    size_t size;
    flow_deadline deadline; /* when all of it is cancelled */
    unsigned flags;         /* FLOW_SCOPE_COLLECT */
};

#define FLOW_SCOPE_OPTIONS_INIT                                                                    \
    {                                                                                              \
        sizeof(struct flow_scope_options), FLOW_FOREVER, 0                                         \
    }

/* Opens a scope; its deadline holds for the caller's own waits too, as one that it had pushed. options
 * NULL: none. From a coroutine (-EPERM elsewhere); never suspends. -EINVAL: an unknown
 * size or flag. */
FLOW_API int flow_scope_open(struct flow_scope *scope, const struct flow_scope_options *options);

/* As flow_spawn and flow_spawn_with, into the scope. The handle serves to cancel it: the task is the
 * scope's, so joining gives -EINVAL. -ECANCELED: the scope is cancelled, or is now, as its deadline has
 * passed. -EINVAL: it is not open. From whatever keeps it open: the one who opened it, a task in it; or
 * a foreign thread that knows that it is open. Never suspends. */
FLOW_API int flow_scope_spawn(struct flow_scope *scope, flow_task *out, flow_fn fn, void *arg);
FLOW_API int flow_scope_spawn_with(struct flow_scope *scope, flow_task *out,
                                   const struct flow_spawn_options *options, flow_fn fn, void *arg);

/* Gives an existing task to the scope, as if it were spawned there, but that it does not inherit a
 * deadline. Errors as flow_join's, and -ECANCELED, -EINVAL as above: then it is still the
 * caller's. From where flow_scope_spawn may be called; never suspends. */
FLOW_API int flow_scope_add(struct flow_scope *scope, flow_task task);

/* Asks all tasks in it to end (FLOW_CANCEL_SCOPE); no more can be spawned. From where flow_scope_spawn
 * may be called; never suspends. */
FLOW_API int flow_scope_cancel(struct flow_scope *scope);

/* Waits until no task is left in it; more may be spawned then. -ETIMEDOUT, -ECANCELED: they go
 * on, unless the scope's deadline has passed: then they are cancelled. -EPERM: the caller is not the
 * one who opened it. */
FLOW_API int flow_scope_wait(struct flow_scope *scope, flow_deadline deadline);

/* Waits until no task is left, and closes it. If the caller is cancelled, or the deadline passes, the
 * tasks are cancelled, and waited for all the same. Returns the first error of a task other than
 * -ECANCELED; if there is none, 0 when all have succeeded and nobody was cancelled, -ETIMEDOUT
 * when the scope's own deadline has passed, else -ECANCELED. -EINVAL: it is not open, or something
 * that was opened later is; -EPERM: the caller did not open it; -EDEADLK: the caller is in a read-side
 * section of liburcu: nothing has happened then. */
FLOW_API int flow_scope_close(struct flow_scope *scope);

struct flow_scope_status {
    uint64_t live;      /* tasks in it that have not ended */
    uint64_t finished;  /* those that have, of which */
    uint64_t failed;    /* have returned an error other than -ECANCELED, */
    uint64_t cancelled; /* and have returned -ECANCELED, or never begun */
    int error;          /* the first that failed: its error, or 0 */
};

/* How it stands, also after it was closed. From the one who opened it; never suspends. */
FLOW_API void flow_scope_status(struct flow_scope *scope, struct flow_scope_status *status);

/* Cancels and closes it if it is still open; for FLOW_SCOPE. */
FLOW_API void flow_scope_leave(struct flow_scope *scope);

/* A new variable, an open scope that is closed at the end of the block at the latest; who
 * leaves early leaves with it cancelled. */
#define FLOW_SCOPE(name)                                                                           \
    struct flow_scope name __attribute__((cleanup(flow_scope_leave)));                             \
    (void)flow_scope_open(&name, NULL)

FLOW_END_DECLS

#endif
