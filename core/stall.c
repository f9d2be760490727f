/* SPDX-License-Identifier: MIT
 *
 * The stall detector. One thread, flow-monitor, looks at every worker twice in stall_ns. A
 * worker writes the task that it dispatches to `current` and counts its dispatches; if both are
 * the same for longer than stall_ns, that task keeps the worker: in a blocking call, most likely,
 * or in a loop that does not yield, or the system gives the worker no CPU. It is reported once,
 * and nothing else is done about it: a signal would interrupt the very call. What lies in the
 * worker's queues is stolen by others meanwhile; what has started there waits.
 *
 * `current` is what the scheduler has dispatched. A task that flow_spawn_now or a join runs as a
 * call is part of it: if that blocks, the one that called it is reported.
 *
 * The thread makes no call of the public interface and is no foreign thread: it can wake no task,
 * so it does not count where a deadlock is looked for. It takes no lock of a worker's. */
#include "core/stall.h"

#include "core/worker.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define MONITOR_STACK_BYTES ((size_t)256 * 1024)
#define REPORTS             5 /* in each ... */
#define REPORTS_SPAN_NS     FLOW_S(60)

/* What the last look at a worker has found. */
struct look {
    struct flow__task *task;
    uint64_t dispatches;
    int64_t since;
    int64_t watched_ns; /* of this, what we were awake for, at least */
    bool reported;
};

static struct {
    flow__atomic(uint32_t) ends; /* the thread sleeps on it */
    bool open;
    pthread_t thread;
    /* The thread's own. */
    struct look *looks;
    int64_t span_ns, window; /* `window`: begin of the present REPORTS_SPAN_NS */
    unsigned n_reported, n_suppressed;
} monitor;

/* ---- reports ---- */

static void put(const char *text, size_t n)
{
    if (write(STDERR_FILENO, text, n) < 0)
        return; /* there is nobody to tell */
}

static void report_suppressed(void)
{
    char text[96];

    if (monitor.n_suppressed == 0)
        return;
    put(text, (size_t)snprintf(text, sizeof text, "flowcoro: %u more stalls were not reported\n",
                               monitor.n_suppressed));
    monitor.n_suppressed = 0;
}

static void renew_window(int64_t now)
{
    if (now - monitor.window < REPORTS_SPAN_NS)
        return;
    report_suppressed();
    monitor.window = now;
    monitor.n_reported = 0;
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

static void report(struct flow__worker *w, const struct look *seen, int64_t now)
{
    struct flow__task *t = seen->task;
    struct flow__detail *detail;
    char text[256];
    int n;

    flow__reclaim_enter();
    /* [NAME-2] acquire: pairs with [NAME-1]. */
    detail = load_acquire(&t->detail);
    n = snprintf(text, sizeof text,
                 "flowcoro: worker %d has been kept for %lld ms by coroutine %#llx \"%s\", spawned "
                 "at %p: does it block?\n",
                 w->index, (long long)((now - seen->since) / FLOW_MS(1)),
                 (unsigned long long)flow__id_of(t, load_relaxed(&t->life)),
                 detail ? detail->name : "", site_of(t));
    flow__reclaim_leave();
    /* If it has ended by now, the text may be of two tasks. */
    if (!is_same(w, seen))
        return;
    if (monitor.n_reported == REPORTS) {
        monitor.n_suppressed++;
        return;
    }
    monitor.n_reported++;
    put(text, (size_t)n);
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
    if (seen->reported || seen->watched_ns < monitor.span_ns)
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
static int64_t next_tick(struct flow__runtime *rt)
{
    return all_sleep(rt) ? monitor.span_ns : (monitor.span_ns + 1) / 2;
}

static void *run(void *unused)
{
    struct flow__runtime *rt = &flow__runtime;
    int64_t last = flow__sys.now(), tick = next_tick(rt);

    (void)unused;
    pthread_setname_np(pthread_self(), "flow-monitor");
    flow__reclaim_register();
    monitor.window = last;
    /* [STALL-1] acquire: pairs with [STALL-2]; nothing but the word itself is handed over. */
    while (!load_acquire(&monitor.ends)) {
        int64_t now;

        flow__sys.futex_wait(&monitor.ends, 0, last + tick);
        now = flow__sys.now();
        if (now < last + tick)
            continue;
        renew_window(now);
        for (int i = 0; i < rt->n_workers; i++)
            look_at(&rt->workers[i], &monitor.looks[i], now, tick);
        last = now;
        tick = next_tick(rt);
    }
    report_suppressed();
    flow__reclaim_unregister();
    return NULL;
}

int flow__stall_open(void)
{
    struct flow__runtime *rt = &flow__runtime;
    int r;

    if (rt->options.stall_ns == 0 || rt->n_workers == 0)
        return 0;
    monitor.looks = flow__sys.allocate((size_t)rt->n_workers * sizeof *monitor.looks);
    if (!monitor.looks)
        return -ENOMEM;
    monitor.span_ns = rt->options.stall_ns;
    monitor.n_reported = monitor.n_suppressed = 0;
    store_relaxed(&monitor.ends, 0);
    r = flow__sys.thread_create(&monitor.thread, MONITOR_STACK_BYTES, run, NULL);
    if (r)
        flow__sys.release(monitor.looks);
    monitor.open = !r;
    return r;
}

void flow__stall_close(void)
{
    if (!monitor.open)
        return;
    monitor.open = false;
    /* [STALL-2] release: pairs with [STALL-1]. */
    store_release(&monitor.ends, 1);
    flow__sys.futex_wake(&monitor.ends, 1);
    pthread_join(monitor.thread, NULL);
    flow__sys.release(monitor.looks);
}
