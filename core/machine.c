/* SPDX-License-Identifier: MIT
 *
 * From the machine to places for workers. Runs on the thread that starts the runtime.
 *
 * With FLOW_TOPOLOGY=folder the machine is the one that the folder describes (numa/topology.h):
 * workers have their nodes, neighbours and orders of victims there. They run unpinned, since its
 * CPUs need not exist, and memory is bound to a node only if one of that number really is there.
 * It is an environment variable and no option: it is for tests and for looking at what a program
 * would do elsewhere, not for programs to set. */
#include "core/machine.h"

#include "core/arena.h"
#include "core/options.h"
#include "numa/cpu_quota.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CPUS 65536 /* as in numa/topology.c */

/* The folder to read instead of the live machine, or NULL. */
static const char *fixture(void)
{
    const char *root = getenv("FLOW_TOPOLOGY");

    return root && *root ? root : NULL;
}

static int reading_failed(const char *root, int error)
{
    const char *why = error == -ENOENT   ? "it says nothing of CPUs"
                      : error == -EINVAL ? "its list of CPUs makes no sense, or leaves none"
                                         : strerror(-error);

    if (!root)
        return flow__start_failed(error, "cannot read the CPUs of this machine: %s", why);
    /* Whatever is wrong with it: a bad value of a setting. */
    return flow__start_failed(error == -ENOMEM ? error : -EINVAL, "FLOW_TOPOLOGY=%s: %s", root,
                              why);
}

/* How many threads can really run at once, which a fixture does not change. */
static int cpus_to_run_on(const struct flow__runtime *rt, bool live)
{
    size_t bytes = CPU_ALLOC_SIZE(MAX_CPUS);
    cpu_set_t *set;
    int n = 0;

    if (live)
        return rt->topology.n_cpus;
    set = CPU_ALLOC(MAX_CPUS);
    if (set && sched_getaffinity(0, bytes, set) == 0)
        n = CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
    return n > 0 ? n : 1;
}

int flow__machine_read(struct flow__runtime *rt)
{
    const char *root = fixture();
    int r = flow__topology_read(&rt->topology, root), n = rt->options.workers;

    if (r)
        return reading_failed(root, r);
    rt->cpu_quota = flow__cpu_quota(NULL);
    rt->cpus_to_run_on = cpus_to_run_on(rt, !root);
    if (n == FLOW_WORKERS_AUTO)
        n = flow__placement_default_workers(&rt->topology, root ? 0 : rt->cpu_quota);
    if (n > FLOW__MAX_WORKERS)
        n = FLOW__MAX_WORKERS;
    rt->n_workers = n;
    rt->n_places = n > 0 ? n : 1;
    r = flow__placement_make(&rt->placement, &rt->topology, rt->n_places,
                             n > 0 && !root && !rt->options.no_pinning);
    if (r) {
        flow__topology_free(&rt->topology);
        return flow__start_failed(r, "cannot place %d workers: %s", rt->n_places, strerror(-r));
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
