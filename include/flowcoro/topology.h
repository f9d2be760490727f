/* SPDX-License-Identifier: MIT
 *
 * The shape of the machine, as far as this process may use it, and where one is on it.
 *
 * Two kinds of numbers: a node or CPU of this interface is an index, from 0 without gaps, by the
 * kernel's rising numbers; node_id and cpu_id are the kernel's, which may have gaps. Nodes without
 * CPUs (memory only) and without memory are there too. CPUs are only those that the process may
 * run on.
 *
 * While the runtime runs it is the machine that flow_start has read, and constant: CPUs that
 * come or go later are not noticed here. Without a runtime these calls work too, to choose
 * options for instance: then the first one reads the machine, which takes milliseconds, and it is
 * kept until the next flow_start, which may number anew. Both obey FLOW_TOPOLOGY (see flow_start).
 *
 * Everything here may be called from coroutines and foreign threads, and never suspends. All give
 * -ENOTSUP in the child of a fork, and without a runtime what reading the machine gives: -ENOMEM,
 * or -EINVAL if FLOW_TOPOLOGY names no machine. */
#ifndef FLOWCORO_TOPOLOGY_H
#define FLOWCORO_TOPOLOGY_H

#include <flowcoro/base.h>

#include <stdbool.h>

FLOW_BEGIN_DECLS

/* How many there are; at least 1. */
FLOW_API int flow_topology_nodes(void);
FLOW_API int flow_topology_cpus(void);

struct flow_topology_node {
    size_t size;           /* sizeof(struct flow_topology_node), set by the caller */
    int node_id;           /* the kernel's number */
    int cpus;              /* that this process may use; 0: memory only */
    uint64_t memory_bytes; /* 0: none, or unknown */
    bool memory_allowed;   /* has memory, and the cpuset lets us have some */
    int memory_node;       /* where its workers' memory comes from: itself, or the nearest node with
                              memory_allowed */
    int first_worker;      /* its workers are neighbours: from this one on, */
    int workers;           /* so many; 0 without a runtime, or if it has none */
};

/* Describes a node. -EINVAL: there is no such node, or node->size is not known. */
FLOW_API int flow_topology_node(int node, struct flow_topology_node *description);

struct flow_topology_cpu {
    size_t size;  /* sizeof(struct flow_topology_cpu), set by the caller */
    int cpu_id;   /* the kernel's number */
    int node;     /* whose memory is at home here */
    int core;     /* the lowest cpu_id on the same core: equal for SMT siblings */
    int l3_cache; /* the lowest cpu_id at the same level-3 cache; its own cpu_id if it has none */
};

/* Describes a CPU. -EINVAL: there is no such CPU, or cpu->size is not known. */
FLOW_API int flow_topology_cpu(int cpu, struct flow_topology_cpu *description);

struct flow_topology_worker {
    size_t size; /* sizeof(struct flow_topology_worker), set by the caller */
    int cpu_id;  /* where it sits; unpinned: where it would, and by this have its neighbours */
    int node;    /* of that CPU: its memory comes from there */
    bool pinned; /* it is pinned there: it could be, and has not been moved since */
};

/* Describes a worker of the running runtime. -EINVAL: there is no such worker, or worker->size is
 * not known; -ESHUTDOWN: nothing runs. */
FLOW_API int flow_topology_worker(int worker, struct flow_topology_worker *description);

/* How far the memory of node `to` is from node `from`, as the firmware says: 10 is at home, 20 is
 * twice as slow. -EINVAL: no such node. */
FLOW_API int flow_topology_distance(int from, int to);

/* ---- where am I ---- */

/* The worker that runs the calling coroutine; from 0. -EPERM: a foreign thread; -ESHUTDOWN: nothing
 * runs. A coroutine that roams may be on another one after each suspension, any other stays. */
FLOW_API int flow_current_worker(void);

/* The node that the caller is on: a coroutine's is its worker's, whether that is pinned or not; a
 * foreign thread's is that of the CPU it happens to run on. -ENODEV: that CPU is none of ours, as
 * for every foreign thread under FLOW_TOPOLOGY. */
FLOW_API int flow_current_node(void);

/* The CPU that the caller runs on just now, by the kernel's number, or what it would be for a worker
 * under FLOW_TOPOLOGY. */
FLOW_API int flow_current_cpu(void);

/* ---- memory ---- */

/* The node that the page of this address lies on. -ENOENT, -EFAULT: there is no page: it was never
 * written to, or nothing is mapped there; -EPERM, -ENOSYS: the system refuses to say; -ENODEV: it lies
 * on a node that this machine does not have (under FLOW_TOPOLOGY). */
FLOW_API int flow_node_of(const void *address);

FLOW_END_DECLS

#endif
