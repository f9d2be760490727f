/* SPDX-License-Identifier: MIT
 *
 * Which worker sits on which CPU, and in which order each of them looks at the
 * others for work. Made once at start, constant afterwards.
 *
 * Seats are given to one CPU of every core before any SMT sibling, node by node; more
 * workers than CPUs go round again. Workers are then numbered by node and CPU, so that the
 * workers of a node are neighbours.
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

struct flow__placement {
    int *cpu_id; /* of a worker: the kernel's number, or -1: not pinned */
    int *node; /* of a worker: index into the topology's nodes; where it would sit, if not pinned */
    uint16_t *victims; /* n_workers rows of n_workers - 1 workers, nearest first */
    int n_workers;
};

/* 0; -EINVAL unless 1 <= n_workers <= 65535; -ENOMEM. After an error there is nothing to free.
 * The topology is not needed afterwards. */
int flow__placement_make(struct flow__placement *placement, const struct flow__topology *topology,
                         int n_workers, bool pin);
void flow__placement_free(struct flow__placement *placement);

/* The n_workers - 1 others, in the order in which this worker tries them. */
static inline const uint16_t *flow__placement_victims(const struct flow__placement *placement,
                                                      int worker)
{
    return placement->victims + (size_t)worker * (size_t)(placement->n_workers - 1);
}

/* One worker per CPU, but no more than the quota (flow__cpu_quota; 0: none) can run; at least 1. */
int flow__placement_default_workers(const struct flow__topology *topology, double quota);

/* Pins the calling thread to one CPU. 0; -EINVAL if there is no such CPU or the
 * cpuset forbids it; -ENOMEM; whatever a sandbox answers (-EPERM, -ENOSYS). */
int flow__pin_thread(int cpu_id);

#endif
