/* SPDX-License-Identifier: MIT
 *
 * The stall detector. It looks at every worker twice in stall_ns. A worker writes the task that it
 * dispatches to `current` and counts its dispatches; if both are the same for longer than stall_ns,
 * that task keeps the worker: in a blocking call, most likely, or in a loop that does not yield, or
 * the system gives the worker no CPU. It is reported once, with a backtrace if one can be had, and
 * nothing else is done about it. What lies in the worker's queues is stolen by others meanwhile; what
 * has started there waits.
 *
 * `current` is what the scheduler has dispatched. A task that flow_spawn_now or a join runs as a
 * call is part of it: if that blocks, the one that called it is reported, with the other's
 * backtrace. */
#include "core/stall.h"

#include "core/capture.h"
#include "core/traces.h"

#include <errno.h>
#include <unistd.h>

#define REPORTS         5 /* in each ... */
#define REPORTS_SPAN_NS FLOW_S(60)
#define REPORT_BYTES    ((size_t)16 * 1024) /* what is longer is cut off */

/* What the last look at a worker has found. */
struct look {
    struct flow__task *task;
    uint64_t dispatches;
    int64_t since;
    int64_t watched_ns; /* of this, what we were awake for, at least */
    bool reported;
};

static struct {
    struct look *looks;      /* NULL: it is not asked for */
    int64_t span_ns, window; /* `window`: begin of the present REPORTS_SPAN_NS */
    unsigned n_reported, n_suppressed;
    char text[REPORT_BYTES];
} stall;

/* ---- reports ---- */

static struct flow__text begin_text(int fd)
{
    return (struct flow__text){stall.text, 0, sizeof stall.text, fd, 0};
}

static void report_suppressed(void)
{
    struct flow__text out = begin_text(STDERR_FILENO);

    if (stall.n_suppressed == 0)
        return;
    flow__text_add(&out, "flowcoro: ");
    flow__text_number(&out, stall.n_suppressed);
    flow__text_add(&out, " more stalls were not reported\n");
    flow__text_flush(&out);
    stall.n_suppressed = 0;
}

static void renew_window(int64_t now)
{
    if (now - stall.window < REPORTS_SPAN_NS)
        return;
    report_suppressed();
    stall.window = now;
    stall.n_reported = 0;
}

static bool is_same(struct flow__worker *w, const struct look *seen)
{
    return load_relaxed(&w->current) == seen->task &&
           load_relaxed(&w->stats.dispatches) == seen->dispatches;
}

/* Unsanitized: the task may end, and its block become another's, while it is read. */
static flow__unsanitized void *site_of(struct flow__task *t)
{
    return t->spawn_site;
}

static void add_who(struct flow__text *out, struct flow__worker *w, const struct look *seen,
                    int64_t now)
{
    struct flow__task *t = seen->task;
    struct flow__detail *detail;

    flow__text_add(out, "flowcoro: worker ");
    flow__text_number(out, (uint64_t)w->index);
    flow__text_add(out, " has been kept for ");
    flow__text_number(out, (uint64_t)((now - seen->since) / FLOW_MS(1)));
    flow__text_add(out, " ms by coroutine ");
    flow__text_hex(out, flow__id_of(t, load_relaxed(&t->life)));
    flow__reclaim_enter();
    /* [NAME-2] acquire: pairs with [NAME-1]. */
    detail = load_acquire(&t->detail);
    flow__text_add(out, " ");
    flow__text_name(out, detail ? detail->name : "");
    flow__reclaim_leave();
    flow__text_add(out, ", spawned at ");
    flow__text_hex(out, (uintptr_t)site_of(t));
    flow__text_add(out, ": does it block?\n");
}

/* The walk may be over a stack in use, if the worker goes on; then the report is not made. */
static void add_trace(struct flow__text *out, struct flow__worker *w)
{
    struct flow__traces *traces = flow__traces_open();
    struct flow__backtrace trace;
    struct flow__registers from;
    struct flow__view view;

    if (traces && flow__capture(w, &from, &view)) {
        trace.n = flow__unwind(flow__traces_cache(traces), &from, &view, trace.pc, FLOW__FRAMES,
                               &trace.complete);
        flow__trace_print(&trace, from.pc, flow__traces_symbols(traces), out);
    }
    flow__traces_close(traces);
}

static void report(struct flow__worker *w, const struct look *seen, int64_t now)
{
    struct flow__text out = begin_text(-1);

    add_who(&out, w, seen, now);
    if (stall.n_reported < REPORTS)
        add_trace(&out, w);
    /* If it has ended by now, the text may be of two tasks. */
    if (!is_same(w, seen))
        return;
    if (stall.n_reported == REPORTS) {
        stall.n_suppressed++;
        return;
    }
    stall.n_reported++;
    if (out.n == out.capacity)
        out.bytes[out.n - 1] = '\n';
    out.fd = STDERR_FILENO;
    flow__text_flush(&out);
}

/* ---- looking ---- */

/* gap: since the last look, but at most what it should have been. If the whole process was
 * stopped, or this machine is too busy to run us, that is no worker's stall. */
static void look_at(struct flow__worker *w, struct look *seen, int64_t now, int64_t gap)
{
    struct flow__task *t = load_relaxed(&w->current);
    uint64_t dispatches = load_relaxed(&w->stats.dispatches);

    if (!t || t != seen->task || dispatches != seen->dispatches) {
        *seen = (struct look){t, dispatches, now, 0, false};
        return;
    }
    seen->watched_ns += gap;
    if (seen->reported || seen->watched_ns < stall.span_ns)
        return;
    seen->reported = true;
    report(w, seen, now);
}

static bool all_sleep(struct flow__runtime *rt)
{
    for (int i = 0; i < rt->n_workers; i++)
        if (load_relaxed(&rt->workers[i].parker.word) != FLOW__PARKED)
            return false;
    return true;
}

/* Half as often while there is nothing to see. */
int64_t flow__stall_tick(void)
{
    if (!stall.looks)
        return FLOW_FOREVER;
    return all_sleep(&flow__runtime) ? stall.span_ns : (stall.span_ns + 1) / 2;
}

void flow__stall_look(int64_t now, int64_t gap)
{
    struct flow__runtime *rt = &flow__runtime;

    renew_window(now);
    for (int i = 0; i < rt->n_workers; i++)
        look_at(&rt->workers[i], &stall.looks[i], now, gap);
}

int flow__stall_open(void)
{
    struct flow__runtime *rt = &flow__runtime;

    if (rt->options.stall_ns == 0 || rt->n_workers == 0)
        return 0;
    stall.looks = flow__sys.allocate((size_t)rt->n_workers * sizeof *stall.looks);
    if (!stall.looks)
        return -ENOMEM;
    stall.span_ns = rt->options.stall_ns;
    stall.window = flow__sys.now();
    stall.n_reported = stall.n_suppressed = 0;
    flow__capture_open();
    return 0;
}

void flow__stall_close(void)
{
    if (!stall.looks)
        return;
    flow__capture_close();
    report_suppressed();
    flow__sys.release(stall.looks);
    stall.looks = NULL;
}
