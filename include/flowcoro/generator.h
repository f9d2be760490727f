/* SPDX-License-Identifier: MIT
 *
 * Generators: a function that yields values one by one to whoever asks for the next.
 *
 *     static int count(struct flow_generator *g, void *arg)
 *     {
 *         for (int i = 0; i < *(int *)arg; i++)
 *             if (flow_generator_yield(g, &i))
 *                 return -ECANCELED;
 *         return 0;
 *     }
 *
 *     flow_generator_create(&g, sizeof(int), count, &n);
 *     while (flow_generator_next(g, &i, FLOW_FOREVER) == 0)
 *         ...
 *     flow_generator_close(g);
 *
 * The function runs as a task of its own, only while somebody waits for the next value: it is started by
 * the first flow_generator_next, and goes on from its last yield at each further one. It may do all that
 * a task may, but its handle is the generator's to join: flow_join and flow_detach give -EINVAL.
 * One consumer at a time, which may be a coroutine or a foreign thread.
 *
 * A generator outlives flow_stop, its function does not. */
#ifndef FLOWCORO_GENERATOR_H
#define FLOWCORO_GENERATOR_H

#include <flowcoro/base.h>

FLOW_BEGIN_DECLS

struct flow_generator;

/* 0: there are no more values; or a negative errno, which the consumer is given. */
typedef int (*flow_generator_fn)(struct flow_generator *g, void *arg);

/* Makes one for values of value_bytes each. Nothing runs yet. arg must stay until it is closed.
 * -EINVAL: out or fn is NULL; -ENOMEM. From anywhere; never suspends. */
FLOW_API int flow_generator_create(struct flow_generator **out, size_t value_bytes,
                                   flow_generator_fn fn, void *arg);

/* Gives the next value: copies it to *value. -EPIPE: the function has returned 0; or the error that it
 * has returned; the same again at each further call. -ETIMEDOUT, -ECANCELED (the caller was
 * cancelled): no value was taken, and none is lost by that. -EBUSY: another caller waits in it. -EDEADLK:
 * within a read-side section of liburcu a coroutine can only take what is there. -ESHUTDOWN: the runtime
 * is stopped, or has been before the function had ended. Otherwise as flow_spawn_now and flow_chan_recv.
 * With FLOW_NOW it does not let the function go on, and takes only what that has yielded after an earlier
 * call's deadline. Suspends a coroutine, blocks a foreign thread. */
FLOW_API int flow_generator_next(struct flow_generator *g, void *value, flow_deadline deadline);

/* From the generator's function only: passes a value on, and waits until the next one is asked for.
 * *value is read before this returns, at any time. -ECANCELED: it is being closed, also within a shield;
 * or the function's task was cancelled, or its ambient deadline has passed. A value that nobody has
 * fetched until then is dropped, and the function is to return. -EDEADLK: within a read-side section of
 * liburcu; the value was not passed on. -EPERM: called by somebody else. */
FLOW_API int flow_generator_yield(struct flow_generator *g, const void *value);

/* Ends it: cancels the function's task, waits until that has ended (cancellation of the caller does not
 * end this wait), and frees it. NULL is let be. -EBUSY: a consumer waits in it; -EDEADLK: from its own
 * function, or nothing can ever end that; -ECANCELED: flow_stop ends a foreign thread's wait. Then it
 * is still there. After flow_stop, also if the runtime has been started again, there is no task any more,
 * and it only frees. From a coroutine or a foreign thread; from anywhere if it was never asked for a
 * value. */
FLOW_API int flow_generator_close(struct flow_generator *g);

FLOW_END_DECLS

#endif
