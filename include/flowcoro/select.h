/* SPDX-License-Identifier: MIT
 *
 * Waiting for the first of several things: sends, receives, ends of tasks, events, points in time.
 *
 *     struct flow_case cases[] = {
 *         flow_on_recv(jobs, &job),
 *         flow_on_send(results, &result),
 *         flow_on_timer(flow_after(FLOW_MS(5))),
 *     };
 *     int i = flow_select(cases, 3, FLOW_FOREVER);
 */
#ifndef FLOWCORO_SELECT_H
#define FLOWCORO_SELECT_H

#include <flowcoro/base.h>
#include <flowcoro/channel.h>
#include <flowcoro/result.h>
#include <flowcoro/sync.h>
#include <flowcoro/task.h>

FLOW_BEGIN_DECLS

enum flow_case_kind {
    FLOW_CASE_NONE, /* never ready: a case that is switched off */
    FLOW_CASE_SEND,
    FLOW_CASE_RECV,
    FLOW_CASE_JOIN,
    FLOW_CASE_EVENT,
    FLOW_CASE_TIMER,
};

/* One of the things to wait for. The functions below make them. */
struct flow_case {
    enum flow_case_kind kind;
    int error; /* of the case that was chosen: what the call for it alone would have returned */
    union {
        struct flow_chan *chan;
        flow_task task;
        struct flow_event *event;
        flow_deadline at;
    };
    union {
        const void *from;    /* a send's element */
        void *into;          /* a receive's */
        flow_result *result; /* a join's, may be NULL */
    };
};

static inline struct flow_case flow_on_send(struct flow_chan *chan, const void *element)
{
    struct flow_case c;

    c.kind = FLOW_CASE_SEND;
    c.error = 0;
    c.chan = chan;
    c.from = element;
    return c;
}

static inline struct flow_case flow_on_recv(struct flow_chan *chan, void *element)
{
    struct flow_case c;

    c.kind = FLOW_CASE_RECV;
    c.error = 0;
    c.chan = chan;
    c.into = element;
    return c;
}

static inline struct flow_case flow_on_join(flow_task task, flow_result *result)
{
    struct flow_case c;

    c.kind = FLOW_CASE_JOIN;
    c.error = 0;
    c.task = task;
    c.result = result;
    return c;
}

static inline struct flow_case flow_on_event(struct flow_event *event)
{
    struct flow_case c;

    c.kind = FLOW_CASE_EVENT;
    c.error = 0;
    c.event = event;
    c.into = NULL;
    return c;
}

/* From this point in time on the case is ready. */
static inline struct flow_case flow_on_timer(flow_deadline at)
{
    struct flow_case c;

    c.kind = FLOW_CASE_TIMER;
    c.error = 0;
    c.at = at;
    c.into = NULL;
    return c;
}

enum { FLOW_SELECT_MOST = 1024 }; /* cases of one select */

/* Waits until one of n cases is ready, does that one and no other, and returns its position. A case is
 * ready when the call for it alone would not have to wait; what that call would return goes to its
 * `error`: so a closed channel is ready to send to, with -EPIPE, and a handle that cannot be joined
 * is ready, with flow_join's error. Of several that are ready each is as likely to be chosen. An
 * event of automatic reset is used up only by being chosen, an element is sent or taken only by being
 * chosen, a task whose case is not chosen can still be joined. The same channel may stand in several
 * cases; a select does not send to itself. The same task twice: the second cannot be joined.
 *
 * FLOW_NOW does not wait. -ETIMEDOUT: the deadline has passed before a case was ready; -ECANCELED;
 * -EINVAL: a kind that does not exist, a channel or event that is NULL, n is too large; -ENOMEM;
 * -EDEADLK as flow_chan_send. Then nothing was done. n may be 0. From a coroutine, which it
 * suspends, or a foreign thread, which it blocks. */
FLOW_API int flow_select(struct flow_case *cases, size_t n, flow_deadline deadline);

FLOW_END_DECLS

#endif
