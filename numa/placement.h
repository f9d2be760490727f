/* SPDX-License-Identifier: MIT
 *
 * Which worker sits on which CPU, and in which order each of them looks at the
 * others for work. Made once at start, constant afterwards.
 *
 * Seats are given to one CPU of every core before any SMT sibling, node by node; more
 * workers than CPUs go round again. The CPUs that a node is to leave free are those whose turn
 * comes last. With a number of workers per node each node is filled by the same rule on its own.
 * Workers are then numbered by node and CPU, so that the workers of a node are neighbours.
 *
 * Victims: same core, same L3, same node, then nodes by distance. Within one such tier
 * a thief begins where no thief of its own neighbourhood does, so that thieves who run dry
 * together do not fall upon the same victim. */
#ifndef FLOW_NUMA_PLACEMENT_H
#define FLOW_NUMA_PLACEMENT_H

#include "numa/topology.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which CPUs may have workers, and how many workers there are. */
struct flow__seating {
    uint64_t nodes; /* bit i: node i of the topology may have workers; 0: all may */
    int leave_cpus; /* free, on each node */
    int per_node;   /* workers on each node that has a seat; 0: as n_workers says */
    int n_workers;  /* if per_node is 0 */
    bool pin;
};

struct flow__placement {
    int *cpu_id; /* of a worker: the kernel's number, or -1: not pinned */
    int *seat; /* of a worker: index into the topology's cpus; if not pinned, where it would sit */
    int *node; /* of a worker: index into the topology's nodes; that of its seat */
    uint16_t *victims; /* n_workers rows of n_workers - 1 workers, nearest first */
    int n_workers;
};

/* How many CPUs may have a worker, and how many nodes have such CPUs; n_workers is not looked at. */
int flow__seats(const struct flow__topology *topology, const struct flow__seating *seating,
                int *n_nodes);

/* 0; -ENODEV if there is no seat; -EINVAL unless 1 to 65535 workers result; -ENOMEM. After an error
 * there is nothing to free. The topology is not needed afterwards. */
int flow__placement_make(struct flow__placement *placement, const struct flow__topology *topology,
                         const struct flow__seating *seating);
void flow__placement_free(struct flow__placement *placement);

/* The n_workers - 1 others, in the order in which this worker tries them. */
static inline const uint16_t *flow__placement_victims(const struct flow__placement *placement,
                                                      int worker)
{
    return placement->victims + (size_t)worker * (size_t)(placement->n_workers - 1);
}

/* One worker per seat, but no more than the quota (flow__cpu_quota; 0: none) can run; at least 1. */
int flow__placement_default_workers(int n_seats, double quota);

/* Pins the calling thread to one CPU. 0; -EINVAL if there is no such CPU or the
 * cpuset forbids it; -ENOMEM; whatever a sandbox answers (-EPERM, -ENOSYS). */
int flow__pin_thread(int cpu_id);

/* Does the calling thread's mask, as it is now, let it run there? */
bool flow__thread_may_run_on(int cpu_id);

#endif
