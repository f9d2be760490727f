/* SPDX-License-Identifier: MIT
 *
 * The shape of the machine, as far as this process may use it: CPUs, which of
 * them share a core and a last-level cache, nodes, their memory and distances.
 *
 * Read once at start, by one thread, and constant afterwards, so that anybody
 * may look at it without a lock. It is advice: a wrong table makes us slow,
 * never incorrect. Hence doubtful data are not an error: they are replaced by
 * the plainest machine that is still true (a core per CPU, one node).
 *
 * Two kinds of numbers for a node: `node_id` is the kernel's and may have gaps;
 * a `node` is an index into nodes[], dense, and what all our tables use. */
#ifndef FLOW_NUMA_TOPOLOGY_H
#define FLOW_NUMA_TOPOLOGY_H

#include <stdbool.h>
#include <stdint.h>

struct flow__cpu {
    int cpu_id;   /* the kernel's number */
    int node;     /* index into nodes */
    int core;     /* lowest cpu_id on the same core: equal for SMT siblings */
    int l3_cache; /* lowest cpu_id at the same level-3 cache; its own cpu_id if it has none */
};

struct flow__node {
    int node_id;           /* the kernel's number */
    int n_cpus;            /* of those that we may use */
    uint64_t memory_bytes; /* 0: none, or unknown */
    bool memory_allowed;   /* has memory, and we may allocate there */
    int memory_node;       /* index of the nearest node with memory_allowed: itself if it can be.
                              If no node qualifies it is itself too: check memory_allowed before a bind. */
};

struct flow__topology {
    struct flow__cpu *cpus;   /* that we may run on, by rising cpu_id; at least one */
    struct flow__node *nodes; /* all that are online, by rising node_id; at least one */
    int *distances;           /* n_nodes * n_nodes, see flow__topology_distance */
    int n_cpus, n_nodes;
    bool live; /* the machine that we run on, and not a folder's */
};

/* Reads the machine: the live one if root is NULL, else a folder laid out like
 * /sys/devices/system: cpu/cpuN/topology/..., node/nodeN/..., and besides them `affinity` (a list
 * such as 0-3,8; without it, cpu/online) and `mems_allowed` (without it, all nodes).
 * 0; -ENOMEM; -ENOENT if the folder says nothing of CPUs; -EINVAL if what it says makes no sense or leaves
 * none; another negative errno if it can not be read.
 * After an error there is nothing to free. */
int flow__topology_read(struct flow__topology *topology, const char *root);
void flow__topology_free(struct flow__topology *topology);

/* Index into cpus of a kernel CPU number, or -1 if it is none of ours. */
int flow__topology_find_cpu(const struct flow__topology *topology, int cpu_id);

/* Index into nodes of a kernel node number, or -1. */
int flow__topology_find_node(const struct flow__topology *topology, int node_id);

/* How far memory of node `to` is from node `from` (indices): 10 is at home, 20 is twice as far. */
static inline int flow__topology_distance(const struct flow__topology *topology, int from, int to)
{
    return topology->distances[from * topology->n_nodes + to];
}

#endif
