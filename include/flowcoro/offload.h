/* SPDX-License-Identifier: MIT
 *
 * Blocking calls, on helper threads, so that they never stop a worker. Helpers
 * belong to lanes, each with a limit of its own: slow name look-ups in one lane
 * cannot hold up file reads in another. A helper may run on all CPUs of the thread that started the
 * runtime, and takes no signals but those of faults; a process that it forks takes them again. */
#ifndef FLOWCORO_OFFLOAD_H
#define FLOWCORO_OFFLOAD_H

#include <flowcoro/base.h>
#include <flowcoro/task.h>

FLOW_BEGIN_DECLS

typedef struct flow_lane flow_lane;

/* Lanes that exist while the runtime runs. */
#define FLOW_LANE_FILE ((flow_lane *)1) /* 16 helpers, 4,096 queued */
#define FLOW_LANE_DNS  ((flow_lane *)2) /* 8 helpers, 1,024 queued */
#define FLOW_LANE_CPU  ((flow_lane *)3) /* one helper per CPU, 4,096 queued */

/* For flow_lane_create. Initialise with FLOW_LANE_INIT. */
struct flow_lane_options {
    size_t size;          /* sizeof(struct flow_lane_options) */
    const char *name;     /* thread name, 11 bytes at most are used */
    unsigned max_threads; /* 1 to 1024 */
    unsigned max_queued;  /* calls that wait for a helper; with more, a call that may not wait
                           * (FLOW_NOW) gives -EAGAIN, others wait their turn; 1 to 1,000,000 */
    int64_t idle_ns;      /* a helper that had nothing to do for so long ends */
};

#define FLOW_LANE_INIT                                                                             \
    {                                                                                              \
        sizeof(struct flow_lane_options), "lane", 4, 1024, FLOW_S(5)                               \
    }

/* Makes a lane. No thread is started before it is used. -EINVAL, -ENOMEM.
 * From a coroutine or a foreign thread; never suspends. */
FLOW_API int flow_lane_create(flow_lane **out, const struct flow_lane_options *options);

/* Ends a lane that nobody uses any more: -EBUSY while calls are queued or
 * running, -EINVAL for the built-in ones. flow_stop ends lanes that are left. */
FLOW_API int flow_lane_destroy(flow_lane *lane);

/* Runs fn(arg) on a helper thread of the lane and suspends the caller until it
 * has returned; gives its result. When the queue is full the caller waits its turn.
 * arg stays the caller's: once fn has begun, neither the deadline nor
 * cancellation cuts the wait short, so arg may lie on the caller's stack. Before
 * that they do: the result is then -ETIMEDOUT or -ECANCELED and fn never runs.
 * -EPERM outside a coroutine. fn runs on a plain thread: only what is allowed to a foreign
 * thread may be called there. */
FLOW_API flow_result flow_offload(flow_lane *lane, flow_fn fn, void *arg, flow_deadline deadline);

/* As flow_offload, but the call owns arg, so that the caller need not wait for
 * a call that hangs: at the deadline or on cancellation it returns at once,
 * fn's result is dropped, and release(arg) is called on the helper when fn has returned (or by
 * this call, if fn never ran). Also on every other failure of this call itself release(arg) has
 * been called. When fn did return in time its result is given, release is not called and arg is the
 * caller's again; *abandoned (may be NULL) tells the two apart. */
FLOW_API flow_result flow_offload_owned(flow_lane *lane, flow_fn fn, void *arg,
                                        void (*release)(void *arg), bool *abandoned,
                                        flow_deadline deadline);

FLOW_END_DECLS

#endif
