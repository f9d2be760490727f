/* SPDX-License-Identifier: MIT
 *
 * Starting, forking, and what there is. Everything here happens on foreign threads and
 * seldom; flow__start_lock keeps two threads from starting and stopping at once. */
#include "core/runtime.h"

#include "core/arena.h"
#include "core/fatal.h"
#include "core/group.h"
#include "core/machine.h"
#include "core/monitor.h"
#include "core/offload.h"
#include "core/options.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORKER_STACK_BYTES ((size_t)256 * 1024)
#define MAX_CPUS           8192
#define STAND_INS          4096u /* foreign threads that wait at one time */

struct flow__runtime flow__runtime;
struct flow__process flow__process;
struct flow__lock flow__start_lock;

/* ---- the thread that started the runtime ---- */

static sigset_t signals_before;
static struct {
    struct flow__lock lock; /* a helper may look that is left of the runtime before */
    bool known;
    cpu_set_t set[MAX_CPUS / CPU_SETSIZE];
} cpus_before;

static void remember_thread(void)
{
    pthread_sigmask(SIG_SETMASK, NULL, &signals_before);
    flow__lock(&cpus_before.lock);
    cpus_before.known = !sched_getaffinity(0, sizeof cpus_before.set, cpus_before.set);
    flow__unlock(&cpus_before.lock);
}

void flow__unpin_thread(void)
{
    cpu_set_t set[MAX_CPUS / CPU_SETSIZE];
    bool known;

    flow__lock(&cpus_before.lock);
    known = cpus_before.known;
    memcpy(set, cpus_before.set, sizeof set);
    flow__unlock(&cpus_before.lock);
    if (known)
        sched_setaffinity(0, sizeof set, set);
}

/* ---- fork ---- */

/* The child, and what it executes, must not be stuck with all signals blocked on one CPU. */
static void leave_thread_of_ours(void)
{
    bool is_worker = flow__owned_worker && flow__runtime.n_workers > 0;

    store_relaxed(&cpus_before.lock.word, 0);
    if (is_worker)
        flow__unpin_thread();
    if (is_worker || flow__offload_is_helper())
        pthread_sigmask(SIG_SETMASK, &signals_before, NULL);
}

/* Without a runtime, and if nobody was about to start or stop one. */
static bool may_start_anew(void)
{
    return load_relaxed(&flow__runtime.state) == FLOW__STOPPED &&
           load_relaxed(&flow__start_lock.word) == 0 && !flow__machine_is_asked() &&
           flow__reclaim_forget_others();
}

/* Only the forking thread exists in the child, so nothing there can run tasks. */
static void in_child(void)
{
    leave_thread_of_ours();
    flow__monitor_in_child();
    store_relaxed(&flow__process.foreign_threads, flow__foreign_is_counted());
    store_relaxed(&flow__process.offload_threads, flow__offload_is_helper());
    if (!may_start_anew()) {
        store_relaxed(&flow__runtime.state, FLOW__FORKED);
        store_relaxed(&flow__stacks.bytes, 0);
    }
    flow__reclaim_after_fork();
}

static void prepare_fork(void)
{
    pthread_atfork(flow__reclaim_before_fork, flow__reclaim_after_fork, in_child);
}

/* ---- starting ---- */

/* Each node's share of max_tasks, by its workers. Free blocks in one worker's cache must not
 * keep another from making its tasks, so those come on top, and the foreign threads' cache of
 * each node. */
static void share_blocks(const struct flow__runtime *rt, uint32_t *share)
{
    uint32_t n = (uint32_t)rt->n_places, each = (uint32_t)rt->options.max_tasks / n;
    uint32_t cached = (rt->topology.n_nodes == 1 ? 4 : 5) * FLOW__CHAIN; /* at most */

    memset(share, 0, (size_t)rt->topology.n_nodes * sizeof *share);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t *of_node = &share[rt->placement.node[i]];

        *of_node += each + cached + (*of_node ? 0 : cached);
    }
    share[rt->placement.node[0]] += (uint32_t)rt->options.max_tasks % n;
}

static int open_memory(struct flow__runtime *rt)
{
    uint32_t share[FLOW__MAX_BIND_IDS];

    share_blocks(rt, share);

    if (flow__stacks_open(rt->options.unguarded_ok, rt->options.no_fork_stacks))
        return flow__start_failed(-ENOMEM, "cannot reserve address space for stacks");
    flow__stacks.measured = rt->options.measure_stacks;
    rt->default_class = flow__stack_class(rt->options.stack_bytes);
    if (rt->default_class < 0) {
        flow__stacks_close();
        return flow__start_failed(-EINVAL,
                                  "option stack_bytes: this system's pages are too large for %zu",
                                  rt->options.stack_bytes);
    }
    if (flow__registry_open(share, STAND_INS)) {
        flow__stacks_close();
        return flow__start_failed(-ENOMEM, "cannot reserve memory for %zu tasks (option max_tasks)",
                                  rt->options.max_tasks);
    }
    return 0;
}

void flow__close_memory(void)
{
    flow__registry_close();
    flow__stacks_close();
}

/* Spinning takes the CPU from somebody if workers outnumber CPUs, and the quota from oneself. */
static int64_t spin_limit(const struct flow__runtime *rt)
{
    if (rt->n_workers > rt->n_seats || rt->n_workers > rt->real_cpus || rt->cpu_quota > 0)
        return 0;
    return rt->options.spin_ns;
}

static void describe_worker(struct flow__runtime *rt, int i)
{
    struct flow__worker *w = &rt->workers[i];

    w->index = i;
    w->node = rt->placement.node[i];
    w->cpu_id = rt->placement.cpu_id[i];
    w->victims = flow__placement_victims(&rt->placement, i);
    w->n_victims = rt->n_places - 1;
    w->spin_max_ns = w->spin_ns = spin_limit(rt);
}

static void seat_workers(struct flow__runtime *rt)
{
    for (int i = 0; i < rt->n_places; i++)
        describe_worker(rt, i);
    for (struct flow__group *g = rt->groups; g < rt->groups + rt->n_groups; g++)
        for (int i = 0; i < g->n_workers; i++) {
            rt->workers[g->first + i].group = g;
            rt->workers[g->first + i].n_mates = g->n_workers - 1;
        }
}

void flow__close_workers(struct flow__runtime *rt)
{
    for (int i = 0; i < rt->n_places; i++)
        flow__worker_close(&rt->workers[i]);
    flow__sys.unmap(rt->workers, rt->workers_bytes);
    rt->workers = NULL;
    flow__groups_close(rt);
}

static void touch_worker(struct flow__worker *w)
{
    for (size_t at = 0; at < sizeof *w; at += FLOW__WORKER_ALIGN)
        *((volatile char *)w + at) = 0;
}

/* Where memory cannot be bound: this thread goes to each node in turn and touches its workers, and
 * the control blocks that are used first, before some other thread's spawn does. */
static void touch_workers(struct flow__runtime *rt)
{
    int at_node = -1;

    for (int i = 0; i < rt->n_places && cpus_before.known; i++) {
        int node = rt->placement.node[i], cpu_id = rt->placement.cpu_id[i];

        if (cpu_id < 0 || !flow__arena_needs_touch(node))
            continue;
        if (node != at_node && flow__pin_thread(cpu_id))
            continue;
        if (node != at_node)
            flow__registry_touch(node);
        at_node = node;
        touch_worker(&rt->workers[i]);
    }
    if (at_node >= 0)
        flow__unpin_thread();
}

/* Before anything writes to them. */
static void place_workers(struct flow__runtime *rt)
{
    if (rt->topology.n_nodes == 1)
        return;
    /* A huge page would serve workers of several nodes. */
    flow__sys.advise(rt->workers, rt->workers_bytes, MADV_NOHUGEPAGE);
    for (int i = 0; i < rt->n_places; i++)
        flow__arena_bind(&rt->workers[i], sizeof rt->workers[i], rt->placement.node[i]);
    touch_workers(rt);
}

static int open_workers(struct flow__runtime *rt)
{
    int64_t now = flow__sys.now();

    rt->workers_bytes = (size_t)rt->n_places * sizeof *rt->workers;
    rt->workers = flow__sys.map(rt->workers_bytes, PROT_READ | PROT_WRITE, 0);
    if (!rt->workers)
        return flow__start_failed(-ENOMEM, "no memory for %d workers", rt->n_places);
    if (flow__groups_open(rt)) {
        flow__sys.unmap(rt->workers, rt->workers_bytes);
        return flow__start_failed(-ENOMEM, "no memory for the workers of %d nodes", rt->n_groups);
    }
    place_workers(rt);
    seat_workers(rt);
    for (int i = 0; i < rt->n_places; i++)
        if (flow__worker_open(&rt->workers[i], now)) {
            flow__close_workers(rt);
            return flow__start_failed(-ENOMEM, "no memory for worker %d", i);
        }
    return 0;
}

void flow__tell_workers_to_end(struct flow__runtime *rt)
{
    /* As a push into each inbox: a full barrier between this and the looks at the words. */
    exchange_seq(&rt->workers_end, true);
    for (int i = 0; i < rt->n_workers; i++)
        flow__parker_notify(&rt->workers[i].parker);
}

/* Waits until ready() or the deadline. Whoever changes what ready() looks at calls
 * flow__tell_quiet(). */
bool flow__wait_until(struct flow__runtime *rt, bool (*ready)(struct flow__runtime *),
                      flow_deadline deadline)
{
    bool yes;

    fetch_add_seq(&flow__process.quiet_waiters, 1);
    for (;;) {
        uint32_t seen = load_seq(&flow__process.quiet_word);

        yes = ready(rt);
        if (yes || flow__sys.now() >= deadline)
            break;
        flow__sys.futex_wait(&flow__process.quiet_word, seen, deadline);
    }
    fetch_sub_seq(&flow__process.quiet_waiters, 1);
    return yes;
}

static bool threads_have_left(struct flow__runtime *rt)
{
    return load_seq(&rt->threads_left) == rt->n_workers;
}

static int begin_threads(struct flow__runtime *rt)
{
    int wanted = rt->n_workers;

    for (int i = 0; i < wanted; i++) {
        int r = flow__sys.thread_create(&rt->workers[i].thread, WORKER_STACK_BYTES,
                                        flow__worker_main, &rt->workers[i]);

        if (r) {
            flow__tell_workers_to_end(rt);
            /* As in flow_stop: one may look at what another keeps in its thread (flow__jobs). Those that
             * never were have left. */
            fetch_add_seq(&rt->threads_left, wanted - i);
            flow__wait_until(rt, threads_have_left, FLOW_FOREVER);
            while (i-- > 0)
                pthread_join(rt->workers[i].thread, NULL);
            return flow__start_failed(r, "cannot start %d worker threads: %s", wanted,
                                      strerror(-r));
        }
    }
    return 0;
}

/* They are pinned then, or could not be. */
static bool threads_have_begun(struct flow__runtime *rt)
{
    return load_seq(&rt->threads_begun) == rt->n_workers;
}

static void clear_runtime(struct flow__runtime *rt)
{
    /* Not the state: other threads look at it at any time. */
    memset((char *)rt + offsetof(struct flow__runtime, options), 0,
           sizeof *rt - offsetof(struct flow__runtime, options));
}

#ifdef FLOW_TSAN_NO_SYNC
unsigned flow__tsan_switch; /* by whoever starts the runtime, while nothing runs */
#endif

static int start(const struct flow_options *given)
{
    struct flow__runtime *rt = &flow__runtime;
    struct flow_options options;
    int r = flow__options_read(&options, given);

    if (r)
        return r;
    clear_runtime(rt);
    rt->options = options;
    remember_thread();
    r = flow__machine_read(rt);
    if (r)
        return r;
    flow__tsan_driven(rt->n_workers == 0);
    r = open_memory(rt);
    if (r)
        goto machine;
    r = open_workers(rt);
    if (r)
        goto memory;
    r = flow__offload_open();
    if (r) {
        flow__start_failed(r, "no memory for the lanes of flow_offload");
        goto workers;
    }
    flow__process_begin();
    r = flow__monitor_open();
    if (r) {
        flow__start_failed(r,
                           r == -EINVAL
                               ? "option dump_signal: no such signal, or not one that can be had"
                               : "cannot start the thread that option stall_ns or dump_signal asks "
                                 "for: %s",
                           strerror(-r));
        goto lanes;
    }
    r = begin_threads(rt);
    if (r)
        goto monitor;
    flow__wait_until(rt, threads_have_begun, FLOW_FOREVER);
    if (!rt->options.no_fatal_report)
        flow__fatal_open();
    store_release(&rt->state, FLOW__RUNNING_STATE); /* nothing can fail any more: other threads may come in */
    flow__start_succeeded();
    return 0;

monitor:
    flow__monitor_close();
lanes:
    flow__offload_close();
workers:
    flow__close_workers(rt);
memory:
    flow__close_memory();
machine:
    flow__machine_forget(rt);
    return r;
}

int flow_start(const struct flow_options *options)
{
    static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
    int state = load_acquire(&flow__runtime.state), r;

    if (state == FLOW__FORKED)
        return flow__start_failed(-ENOTSUP, "a child of fork cannot use its parent's runtime");
    if (flow__self())
        return flow__start_failed(-EPERM, "flow_start was called in a coroutine");
    pthread_once(&fork_once, prepare_fork);
    flow__lock(&flow__start_lock);
    if (load_acquire(&flow__runtime.state) != FLOW__STOPPED)
        r = flow__start_failed(-EALREADY, "the runtime runs already");
    else
        r = start(options);
    flow__unlock(&flow__start_lock);
    return r;
}

/* ---- what there is ---- */

int flow_info(struct flow_info *info)
{
    static const char *const guards[] = {"madvise", "mprotect", "canary"};
    struct flow__runtime *rt = &flow__runtime;
    struct flow__task *self = flow__self();
    int r = 0;

    if (!info || info->size != sizeof *info)
        return -EINVAL;
    if (!self && (r = flow__foreign_enter()))
        return r;
    info->workers = rt->n_workers;
    info->cpus = rt->topology.n_cpus;
    info->cpu_quota = rt->cpu_quota;
    info->nodes = rt->topology.n_nodes;
    info->pinned = load_relaxed(&rt->pinned);
    info->guard = guards[flow__stacks.guard];
    info->memory_policy = flow__arena_policy();
    info->rcu = flow__reclaim_flavour();
    info->version = flow_version();
    info->libnuma = FLOW__LIBNUMA_VERSION;
    info->liburcu = flow__reclaim_version();
    info->stack_bytes = flow__stack_bytes(rt->default_class);
    info->stack_reserve_bytes = load_relaxed(&flow__stacks.bytes);
    if (!self)
        flow__foreign_leave();
    return 0;
}

const char *flow_version(void)
{
    return FLOW__TEXT(FLOW_VERSION_MAJOR) "." FLOW__TEXT(FLOW_VERSION_MINOR) "." FLOW__TEXT(
        FLOW_VERSION_PATCH);
}

flow_deadline flow_now(void)
{
    return flow__sys.now();
}

flow_deadline flow_after(int64_t span_ns)
{
    flow_deadline at;

    if (__builtin_add_overflow(flow__sys.now(), span_ns, &at))
        return span_ns < 0 ? FLOW_NOW : FLOW_FOREVER;
    return at;
}
