/* SPDX-License-Identifier: MIT
 *
 * The public side of the topology: descriptions, and where the caller is. Any thread, any
 * coroutine; owns nothing. */
#include "core/machine.h"

#include "numa/node_memory.h"

#include <flowcoro/topology.h>

#include <errno.h>
#include <sched.h>

int flow_topology_nodes(void)
{
    struct flow__machine_view view;
    int r = flow__machine_enter(&view);

    if (r)
        return r;
    r = view.topology->n_nodes;
    flow__machine_leave(&view);
    return r;
}

int flow_topology_cpus(void)
{
    struct flow__machine_view view;
    int r = flow__machine_enter(&view);

    if (r)
        return r;
    r = view.topology->n_cpus;
    flow__machine_leave(&view);
    return r;
}

/* Workers of a node are neighbours. */
static void count_workers(struct flow_topology_node *d, int node)
{
    const struct flow__placement *placement = &flow__runtime.placement;

    for (int i = placement->n_workers; i-- > 0;)
        if (placement->node[i] == node) {
            d->first_worker = i;
            d->workers++;
        }
}

int flow_topology_node(int node, struct flow_topology_node *d)
{
    struct flow__machine_view view;
    const struct flow__node *n;
    int r;

    if (!d || d->size != sizeof *d)
        return -EINVAL;
    r = flow__machine_enter(&view);
    if (r)
        return r;
    if (node < 0 || node >= view.topology->n_nodes) {
        flow__machine_leave(&view);
        return -EINVAL;
    }
    n = &view.topology->nodes[node];
    *d = (struct flow_topology_node){.size = sizeof *d,
                                     .node_id = n->node_id,
                                     .cpus = n->n_cpus,
                                     .memory_bytes = n->memory_bytes,
                                     .memory_allowed = n->memory_allowed,
                                     .memory_node = n->memory_node};
    if (view.runs)
        count_workers(d, node);
    flow__machine_leave(&view);
    return 0;
}

int flow_topology_cpu(int cpu, struct flow_topology_cpu *d)
{
    struct flow__machine_view view;
    int r;

    if (!d || d->size != sizeof *d)
        return -EINVAL;
    r = flow__machine_enter(&view);
    if (r)
        return r;
    if (cpu >= 0 && cpu < view.topology->n_cpus) {
        const struct flow__cpu *c = &view.topology->cpus[cpu];

        *d = (struct flow_topology_cpu){sizeof *d, c->cpu_id, c->node, c->core, c->l3_cache};
    } else {
        r = -EINVAL;
    }
    flow__machine_leave(&view);
    return r;
}

int flow_topology_worker(int worker, struct flow_topology_worker *d)
{
    struct flow__runtime *rt = &flow__runtime;
    struct flow__machine_view view;
    int r;

    if (!d || d->size != sizeof *d)
        return -EINVAL;
    r = flow__machine_enter(&view);
    if (r)
        return r;
    if (!view.runs)
        r = -ESHUTDOWN;
    else if (worker < 0 || worker >= rt->n_places)
        r = -EINVAL;
    else
        *d = (struct flow_topology_worker){sizeof *d, flow__seat_cpu_id(rt, worker),
                                           rt->placement.node[worker],
                                           load_relaxed(&rt->workers[worker].pinned)};
    flow__machine_leave(&view);
    return r;
}

int flow_topology_distance(int from, int to)
{
    struct flow__machine_view view;
    int r = flow__machine_enter(&view), n;

    if (r)
        return r;
    n = view.topology->n_nodes;
    r = from < 0 || from >= n || to < 0 || to >= n
            ? -EINVAL
            : flow__topology_distance(view.topology, from, to);
    flow__machine_leave(&view);
    return r;
}

/* ---- where am I ---- */

int flow_current_worker(void)
{
    struct flow__task *self = flow__self();

    return self ? self->home->index : flow__outside();
}

static int real_cpu(void)
{
    int cpu_id = sched_getcpu();

    return cpu_id < 0 ? -ENOSYS : cpu_id;
}

int flow_current_cpu(void)
{
    struct flow__task *self = flow__self();
    struct flow__machine_view view;
    int r;

    if (self)
        return flow__runtime.topology.live ? real_cpu()
                                           : flow__seat_cpu_id(&flow__runtime, self->home->index);
    r = flow__machine_enter(&view);
    if (r)
        return r;
    r = view.topology->live ? real_cpu() : -ENODEV;
    flow__machine_leave(&view);
    return r;
}

int flow_current_node(void)
{
    struct flow__task *self = flow__self();
    struct flow__machine_view view;
    int r, cpu;

    if (self)
        return self->home->node;
    r = flow__machine_enter(&view);
    if (r)
        return r;
    cpu = view.topology->live ? flow__topology_find_cpu(view.topology, real_cpu()) : -1;
    r = cpu < 0 ? -ENODEV : view.topology->cpus[cpu].node;
    flow__machine_leave(&view);
    return r;
}

/* ---- memory ---- */

int flow_node_of(const void *address)
{
    struct flow__machine_view view;
    int node_id = flow__page_node_id(address), r;

    if (node_id < 0)
        return node_id;
    r = flow__machine_enter(&view);
    if (r)
        return r;
    r = flow__topology_find_node(view.topology, node_id);
    flow__machine_leave(&view);
    return r < 0 ? -ENODEV : r;
}
