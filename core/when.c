/* SPDX-License-Identifier: MIT
 *
 * Waiting for several tasks, and for a function from any thread. Built from the
 * steps of joining; nothing is polled and nothing is taken before all is decided. */
#include "core/join.h"
#include "core/worker.h"

#include <flowcoro/cancel.h>

#include <errno.h>

#define FEW 32

/* Claims of up to FEW tasks lie on the stack, more on the heap. */
struct claims {
    struct flow__task *few[FEW];
    struct flow__task **task; /* or a negative errno, where a handle could not be claimed */
    size_t n;
};

static int claims_open(struct claims *c, size_t n)
{
    c->n = n;
    c->task = c->few;
    if (n > FEW &&
        (n > SIZE_MAX / sizeof *c->task || !(c->task = flow__sys.allocate(n * sizeof *c->task))))
        return -ENOMEM;
    return 0;
}

static void claims_close(struct claims *c)
{
    if (c->task != c->few)
        flow__sys.release(c->task);
}

static bool is_claimed(const struct flow__task *t)
{
    return (intptr_t)t > 0;
}

static void unclaim_all(struct claims *c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (is_claimed(c->task[i]))
            flow__unclaim(c->task[i]);
}

static int claim(struct flow__task *self, flow_task task, struct flow__task **out)
{
    int r = flow__claim(task.id, self, out);

    if (r)
        *out = (struct flow__task *)(intptr_t)r;
    return r;
}

static int take_all(struct flow__task *self, struct claims *c, flow_result *results)
{
    int first_error = 0;

    for (size_t i = 0; i < c->n; i++) {
        flow_result r = is_claimed(c->task[i]) ? flow__consume(self->home, c->task[i])
                                               : flow_err((int)(intptr_t)c->task[i]);

        if (!first_error)
            first_error = r.error;
        if (results)
            results[i] = r;
    }
    return first_error;
}

static int when_all(struct flow__task *self, const flow_task *tasks, size_t n, flow_result *results,
                    flow_deadline deadline)
{
    struct claims c;
    int r = claims_open(&c, n);

    if (r)
        return r;
    for (size_t i = 0; i < n; i++)
        claim(self, tasks[i], &c.task[i]);
    for (size_t i = 0; i < n && !r; i++)
        if (is_claimed(c.task[i]))
            r = flow__await_end(c.task[i], self, false, FLOW__WHY_ALL, deadline);
    if (r)
        unclaim_all(&c, n);
    else
        r = take_all(self, &c, results);
    claims_close(&c);
    return r;
}

/* Waits until one of the claimed tasks has finished, and the caller can wait for the others. */
static int await_any(struct flow__task *self, struct claims *c, flow_deadline deadline)
{
    uint64_t epoch;
    size_t watched = 0, finished = 0;
    int r;

    for (size_t i = 0; i < c->n; i++)
        finished += flow__has_finished(c->task[i]);
    if (finished > 0)
        return finished < c->n && flow__is_in_section(self) ? -EDEADLK : 0;
    if (deadline == FLOW_NOW)
        return flow__poll_failed(self);
    r = flow__arm(self, false, &epoch);
    if (r)
        return r;
    while (watched < c->n && flow__watch_end(c->task[watched], self, epoch))
        watched++;
    if (watched == c->n || !flow__disarm(self, epoch))
        r = flow__wait(self, epoch, FLOW__WHY_ANY, deadline);
    for (size_t i = 0; i < watched; i++)
        flow__unwatch_end(c->task[i]);
    for (size_t i = 0; i < c->n; i++)
        if (flow__has_finished(c->task[i]))
            return 0;
    return r;
}

static size_t take_winner(struct flow__task *self, struct claims *c, flow_result *out)
{
    size_t i = 0;
    flow_result result;

    while (!flow__has_finished(c->task[i]))
        i++;
    result = flow__consume(self->home, c->task[i]);
    c->task[i] = NULL;
    if (out)
        *out = result;
    return i;
}

static void end_losers(struct flow__task *self, struct claims *c)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->task[i])
            flow__cancel_block(self->home, c->task[i], FLOW_CANCEL_SIBLING);
    for (size_t i = 0; i < c->n; i++) {
        if (!c->task[i])
            continue;
        /* Not ended: only with a foreign thread, if the runtime is being stopped around it, or nobody
         * but it could run the loser on. */
        if (flow__await_end(c->task[i], self, true, FLOW__WHY_ANY, FLOW_FOREVER))
            flow__let_go(self->home, c->task[i]);
        else
            flow__consume(self->home, c->task[i]);
    }
}

static int when_any(struct flow__task *self, const flow_task *tasks, size_t n, size_t *winner,
                    flow_result *out, flow_deadline deadline)
{
    struct claims c;
    size_t first;
    int r = claims_open(&c, n);

    if (r)
        return r;
    for (size_t i = 0; i < n; i++) {
        r = claim(self, tasks[i], &c.task[i]);
        if (r) {
            unclaim_all(&c, i);
            claims_close(&c);
            return -EINVAL;
        }
    }
    r = await_any(self, &c, deadline);
    if (r) {
        unclaim_all(&c, n);
    } else {
        first = take_winner(self, &c, out);
        if (winner)
            *winner = first;
        end_losers(self, &c);
    }
    claims_close(&c);
    return r;
}

int flow_when_all(const flow_task *tasks, size_t n, flow_result *results, flow_deadline deadline)
{
    struct flow__task *self;
    int r = 0;

    if (n && !tasks)
        return -EINVAL;
    self = flow__caller_begin(&r);
    if (!self)
        return r;
    r = when_all(self, tasks, n, results, deadline);
    flow__caller_end(self);
    return r;
}

int flow_when_any(const flow_task *tasks, size_t n, size_t *winner, flow_result *out,
                  flow_deadline deadline)
{
    struct flow__task *self;
    int r = 0;

    if (n == 0 || !tasks)
        return -EINVAL;
    self = flow__caller_begin(&r);
    if (!self)
        return r;
    r = when_any(self, tasks, n, winner, out, deadline);
    flow__caller_end(self);
    return r;
}

int flow_sync_wait(flow_fn fn, void *arg, flow_result *out, flow_deadline deadline)
{
    flow_task task;
    int r = flow_spawn(&task, fn, arg);

    if (r)
        return r;
    r = flow_join(task, out, deadline);
    if (r) {
        flow_cancel(task);
        flow_detach(task);
    }
    return r;
}
