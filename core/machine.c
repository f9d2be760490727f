/* SPDX-License-Identifier: MIT
 *
 * Reading the machine and placing workers on it, which runs on the thread that starts the runtime;
 * and letting others look at it, which any thread may do at any time.
 *
 * With FLOW_TOPOLOGY=folder the machine is the one that the folder describes (numa/topology.h):
 * workers have their nodes, neighbours and orders of victims there. They run unpinned, since its
 * CPUs need not exist, and memory is bound to a node only if one of that number really is there.
 * It is an environment variable and no option: it is for tests and for looking at what a program
 * would do elsewhere, not for programs to set. */
#include "core/machine.h"

#include "core/arena.h"
#include "core/options.h"
#include "core/runtime.h"
#include "numa/cpu_quota.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_CPUS 65536 /* as in numa/topology.c */

/* The folder to read instead of the live machine, or NULL. */
static const char *fixture(void)
{
    const char *root = getenv("FLOW_TOPOLOGY");

    return root && *root ? root : NULL;
}

static const char *why_unreadable(const char *root, int error)
{
    if (error == -EINVAL)
        return "its list of CPUs makes no sense, or leaves none";
    if (error != -ENOENT)
        return strerror(-error);
    return access(root, F_OK) ? "there is no such folder" : "it says nothing of CPUs";
}

static int reading_failed(const char *root, int error)
{
    if (!root)
        return flow__start_failed(error, "cannot read the CPUs of this machine: %s",
                                  strerror(-error));
    /* Whatever is wrong with it: a bad value of a setting. */
    return flow__start_failed(error == -ENOMEM ? error : -EINVAL, "FLOW_TOPOLOGY=%s: %s", root,
                              why_unreadable(root, error));
}

/* How many threads can really run at once, which a fixture does not change. */
static int count_real_cpus(const struct flow__topology *topology)
{
    size_t bytes = CPU_ALLOC_SIZE(MAX_CPUS);
    cpu_set_t *set;
    int n = 0;

    if (topology->live)
        return topology->n_cpus;
    set = CPU_ALLOC(MAX_CPUS);
    if (set && sched_getaffinity(0, bytes, set) == 0)
        n = CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
    return n > 0 ? n : 1;
}

/* ---- placing workers ---- */

/* A node that is named must be able to have workers. */
static int check_nodes(const struct flow__runtime *rt)
{
    const struct flow__topology *topology = &rt->topology;

    for (int node = 0; node < 64; node++) {
        if (!(rt->options.nodes >> node & 1))
            continue;
        if (node >= topology->n_nodes)
            return flow__start_failed(-EINVAL,
                                      "option nodes: there is no node %d, the last one is %d", node,
                                      topology->n_nodes - 1);
        if (topology->nodes[node].n_cpus == 0)
            return flow__start_failed(-EINVAL, "option nodes: node %d has no CPU that may be used",
                                      node);
    }
    return 0;
}

/* The number of workers, or -EINVAL. */
static int count_workers(const struct flow__runtime *rt, int n_seats, int n_nodes)
{
    const struct flow_options *o = &rt->options;
    int n = o->workers;

    if (o->workers_per_node) {
        n = o->workers_per_node * n_nodes;
        if (n > FLOW__MAX_WORKERS)
            return flow__start_failed(-EINVAL,
                                      "option workers_per_node is %d: on %d nodes that are more "
                                      "than %d workers",
                                      o->workers_per_node, n_nodes, FLOW__MAX_WORKERS);
    } else if (n == FLOW_WORKERS_AUTO) {
        n = flow__placement_default_workers(n_seats, rt->cpu_quota);
    }
    return n > FLOW__MAX_WORKERS ? FLOW__MAX_WORKERS : n;
}

static int place_workers(struct flow__runtime *rt)
{
    const struct flow_options *o = &rt->options;
    struct flow__seating seating = {
        .nodes = o->nodes, .leave_cpus = o->leave_cpus, .per_node = o->workers_per_node};
    int n_nodes, r = check_nodes(rt);

    if (r)
        return r;
    rt->n_seats = flow__seats(&rt->topology, &seating, &n_nodes);
    if (!rt->n_seats)
        return flow__start_failed(
            -EINVAL, "option leave_cpus is %d: that leaves no CPU to a worker", o->leave_cpus);
    r = count_workers(rt, rt->n_seats, n_nodes);
    if (r < 0)
        return r;
    rt->n_workers = r;
    rt->n_places = r > 0 ? r : 1;
    seating.n_workers = rt->n_places;
    seating.pin = r > 0 && rt->topology.live && !o->no_pinning;
    r = flow__placement_make(&rt->placement, &rt->topology, &seating);
    return r ? flow__start_failed(r, "cannot place %d workers: %s", rt->n_places, strerror(-r)) : 0;
}

/* ---- the machine without a runtime ---- */

/* Its lock is not flow__start_lock: who asks may be in a read-side section of liburcu, for whose end flow_stop
 * waits. */
static struct flow__lock nobodys_lock;
static struct flow__topology nobodys;

bool flow__machine_is_asked(void)
{
    return load_relaxed(&nobodys_lock.word) != 0;
}

static int read_nobodys(void)
{
    int r;

    if (nobodys.n_cpus)
        return 0;
    r = flow__topology_read(&nobodys, fixture());
    return !r || r == -ENOMEM ? r : -EINVAL;
}

static int enter_nobodys(struct flow__machine_view *view)
{
    int r;

    flow__lock(&nobodys_lock);
    r = load_acquire(&flow__runtime.state) == FLOW__STOPPED ? read_nobodys() : -EAGAIN;
    if (r) {
        flow__unlock(&nobodys_lock);
        return r;
    }
    *view = (struct flow__machine_view){&nobodys, false, FLOW__VIEW_OF_NOBODYS};
    return 0;
}

int flow__machine_enter(struct flow__machine_view *view)
{
    int r;

    *view = (struct flow__machine_view){&flow__runtime.topology, true, FLOW__VIEW_OF_TASK};
    if (flow__self())
        return 0;
    do { /* again when somebody starts the runtime in between */
        r = flow__foreign_enter();
        if (!r)
            view->kind = FLOW__VIEW_OF_FOREIGN;
        else if (r == -ESHUTDOWN)
            r = enter_nobodys(view);
    } while (r == -EAGAIN);
    return r;
}

void flow__machine_leave(const struct flow__machine_view *view)
{
    if (view->kind == FLOW__VIEW_OF_FOREIGN)
        flow__foreign_leave();
    else if (view->kind == FLOW__VIEW_OF_NOBODYS)
        flow__unlock(&nobodys_lock);
}

/* ---- for the runtime ---- */

int flow__machine_read(struct flow__runtime *rt)
{
    const char *root = fixture();
    int r;

    flow__lock(&nobodys_lock);
    flow__topology_free(&nobodys);
    flow__unlock(&nobodys_lock);
    r = flow__topology_read(&rt->topology, root);
    if (r)
        return reading_failed(root, r);
    rt->cpu_quota = root ? 0 : flow__cpu_quota(NULL);
    rt->real_cpus = count_real_cpus(&rt->topology);
    r = place_workers(rt);
    if (r) {
        flow__topology_free(&rt->topology);
        return r;
    }
    flow__arena_open(&rt->topology);
    return 0;
}

void flow__machine_forget(struct flow__runtime *rt)
{
    flow__arena_close();
    flow__placement_free(&rt->placement);
    flow__topology_free(&rt->topology);
}
