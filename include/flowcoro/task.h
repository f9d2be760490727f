/* SPDX-License-Identifier: MIT
 *
 * Tasks: spawning, joining, cancelling, sleeping, and waiters of one's own.
 *
 * A handle is a value: copy it, keep it, let it go stale. A call on a handle
 * whose task is gone gives -ESRCH and touches nothing, also if the runtime has been
 * started again since; so it is with wakers. Every task is either
 * joined once or detached; its control block is kept until then.
 *
 * Cancellation is level-triggered: after flow_cancel every call in which the task would wait
 * returns -ECANCELED until its function returns, except within a shield; see
 * flowcoro/cancel.h. */
#ifndef FLOWCORO_TASK_H
#define FLOWCORO_TASK_H

#include <flowcoro/base.h>
#include <flowcoro/result.h>

FLOW_BEGIN_DECLS

typedef flow_result (*flow_fn)(void *arg);

typedef struct flow_task {
    uint64_t id; /* 0 is no task */
} flow_task;

enum {
    FLOW_ROAM = 1,           /* may move to another worker each time it has suspended */
    FLOW_PINNED = 2,         /* runs on options->worker only, also its first time */
    FLOW_FP_ENVIRONMENT = 4, /* keeps rounding mode and exception masks of its own */
};

/* For flow_spawn_with. Initialise with FLOW_SPAWN_INIT. */
struct flow_spawn_options {
    size_t size;        /* sizeof(struct flow_spawn_options) */
    const char *name;   /* copied, 31 bytes at most are kept; NULL for none */
    int worker;         /* start here, -1 for anywhere */
    int node;           /* start on a worker of this node (flow_topology_node), -1 for any */
    unsigned flags;     /* FLOW_ROAM, FLOW_PINNED, FLOW_FP_ENVIRONMENT */
    size_t stack_bytes; /* rounded up to a class, 16 KiB to 1 MiB; 0 for the default */
};

#define FLOW_SPAWN_INIT                                                                            \
    {                                                                                              \
        sizeof(struct flow_spawn_options), NULL, -1, -1, 0, 0                                      \
    }

/* Queues fn(arg) as a new task at once; any worker may start it. *out gets its
 * handle; out NULL detaches it. From a coroutine or a foreign thread; never suspends.
 * Owner of arg afterwards: the task. -ENOMEM; -ENOSPC: max_tasks live;
 * -ESHUTDOWN. If no stack can be had when its turn comes, its function does not
 * run and its result is -ENOMEM. */
FLOW_API int flow_spawn(flow_task *out, flow_fn fn, void *arg);

/* Calls fn(arg) as a new task, here and now, and returns when it finishes or
 * first suspends. The cheapest way to start something that seldom waits. Errors
 * as flow_spawn, -ENOMEM also when there is no stack. *out is set when this call returns; the task
 * itself may use flow_self(). From a coroutine; a foreign thread gets -EPERM. */
FLOW_API int flow_spawn_now(flow_task *out, flow_fn fn, void *arg);

/* As flow_spawn, with options (NULL: none). -EINVAL: an unknown size or flag, a
 * worker, node or stack class that does not exist, a node that has no workers, FLOW_ROAM with
 * FLOW_PINNED, or FLOW_PINNED without a worker. */
FLOW_API int flow_spawn_with(flow_task *out, const struct flow_spawn_options *options, flow_fn fn,
                             void *arg);

/* Waits until the task has finished, takes its result (out may be NULL) and
 * lets go of it. Suspends a coroutine, blocks a foreign thread.
 * -ESRCH: no such task (any more). -EINVAL: it is detached or already being joined.
 * -EDEADLK: it is the caller; or, with workers = 0 and FLOW_FOREVER, nothing can ever end it.
 * -ETIMEDOUT, -ECANCELED (the caller was cancelled): the task goes on and may be joined later. A
 * task that has finished already is taken also by a cancelled caller, for that needs no waiting. */
FLOW_API int flow_join(flow_task task, flow_result *out, flow_deadline deadline);

/* Lets go of a task without its result; it goes on by itself. -ESRCH, -EINVAL as
 * flow_join. From a coroutine or a foreign thread; never suspends. */
FLOW_API int flow_detach(flow_task task);

/* Asks a task to end. One that has not started never runs and has the result -ECANCELED. 0 also if
 * it was asked before; -ESRCH: it has finished. From a coroutine or a foreign thread; never
 * suspends. */
FLOW_API int flow_cancel(flow_task task);

/* The calling task; {0} outside a coroutine. Never suspends. */
FLOW_API flow_task flow_self(void);

/* The most bytes that the task has used of its stack so far, as far down as it has written, with
 * what the library itself needs there (some hundred bytes). -EINVAL: bytes is NULL, or stacks are
 * not measured (option measure_stacks). -ESRCH: no such task (any more), or it has not
 * started or has ended. From a coroutine, also about itself, or a foreign thread; never
 * suspends. */
FLOW_API int flow_stack_used(flow_task task, size_t *bytes);

/* Lets others run. 0; -ECANCELED; -EPERM outside a coroutine. */
FLOW_API int flow_yield(void);

/* Sleeps for a span or until a deadline, never less; a span <= 0 or a deadline in
 * the past yields. 0; -ECANCELED; -EPERM outside a coroutine. */
FLOW_API int flow_sleep(int64_t span_ns);
FLOW_API int flow_sleep_until(flow_deadline deadline);

/* Runs fn(arg) as a task and waits for its result, which goes to *out (may be
 * NULL). From a foreign thread (blocks it; with workers = 0 it drives the
 * runtime meanwhile) or from a coroutine (suspends it). Errors as flow_spawn and
 * flow_join; on -ETIMEDOUT or -ECANCELED the task is cancelled and detached, so what arg points to
 * must outlive it. */
FLOW_API int flow_sync_wait(flow_fn fn, void *arg, flow_result *out, flow_deadline deadline);

/* Waits for all n tasks, then takes all results, by position (results may be NULL). One
 * task's error does not hide the others' results. Returns 0 when all succeeded,
 * else the first error by position. A handle that cannot be joined leaves its
 * flow_join error in its place. -ETIMEDOUT, -ECANCELED, -EDEADLK as flow_join: nothing was taken,
 * every handle can still be joined. From a coroutine or a foreign thread. */
FLOW_API int flow_when_all(const flow_task *tasks, size_t n, flow_result *results,
                           flow_deadline deadline);

/* Waits for the first of n tasks to finish: *winner (may be NULL) gets its position, *out (may be
 * NULL) its result; all others are cancelled, joined and freed before it returns. When several have
 * finished, the lowest position wins. Returns 0 even when the winner's result is an error. -EINVAL:
 * n is 0 or a handle cannot be joined (nothing was changed). -ETIMEDOUT, -ECANCELED, -EDEADLK as
 * flow_join: nothing was taken, every handle can still be joined. From a coroutine or a foreign
 * thread. A loser for which a thread cannot wait to its end is detached: flow_stop ends the thread's
 * wait, or, with workers = 0, nothing can ever end the loser. */
FLOW_API int flow_when_any(const flow_task *tasks, size_t n, size_t *winner, flow_result *out,
                           flow_deadline deadline);

/* An invitation to wake one suspension of one task; a value, it may go stale. */
typedef struct flow_waker {
    uint64_t task;
    uint64_t epoch;
} flow_waker;

/* Suspends the calling task until flow_wake, the deadline or cancellation. First
 * calls publish(waker, arg), which hands the waker to whoever will wake it:
 * another coroutine, a foreign thread, a device. publish returns 0 to suspend, a
 * positive number not to (flow_suspend then returns 0), a negative errno to fail with it.
 * The wake may come before publish has returned. publish must not suspend.
 * 0: woken. -ETIMEDOUT, -ECANCELED. -EPERM outside a coroutine. */
FLOW_API int flow_suspend(int (*publish)(flow_waker waker, void *arg), void *arg,
                          flow_deadline deadline);

/* Ends the suspension that the waker was made for. 0 if this call ended it,
 * -ESRCH if something else did or the task is gone. From a coroutine or a foreign thread;
 * never suspends. */
FLOW_API int flow_wake(flow_waker waker);

FLOW_END_DECLS

#endif
