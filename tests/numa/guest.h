/* SPDX-License-Identifier: MIT
 *
 * What the programs share that run inside the emulated machines of `make check-numa`: looking at
 * /sys without the library's help. */
#ifndef FLOW_TESTS_NUMA_GUEST_H
#define FLOW_TESTS_NUMA_GUEST_H

#include "tests/support/child.h"

enum { GUEST_MOST = 64 }; /* more CPUs or nodes than any of the machines has */

/* The name under which run.sh describes this machine. */
bool guest_is(const char *machine);

/* A file's text, without its last newline; the formatted path must exist. */
void guest_read(char *text, size_t bytes, const char *path, ...) __attribute__((format(printf, 3, 4)));
void guest_write(const char *text, const char *path, ...) __attribute__((format(printf, 2, 3)));

/* Makes /sys/fs/cgroup/NAME, with a cpuset; moves this process into it. */
void guest_make_cgroup(const char *name);
void guest_join_cgroup(const char *name);

/* Numbers from a text like "0-3,8" or "10 12 21"; returns how many. */
int guest_numbers(const char *text, int *numbers);

/* The machine as /sys describes it. `nodes` are the kernel's numbers. */
struct guest_sys {
    int n_nodes, nodes[GUEST_MOST];
    int n_cpus, cpus[GUEST_MOST];
    int node_of_cpu[GUEST_MOST];
    int distance[GUEST_MOST][GUEST_MOST]; /* by position in nodes */
    uint64_t memory_bytes[GUEST_MOST];
};

void guest_read_sys(struct guest_sys *sys);

/* The node to which a CPU's memory belongs: its own, or the nearest that has memory. */
int guest_memory_node(const struct guest_sys *sys, int node);

/* Where pages lie, as the kernel says: a node of its numbering or a negative errno each. */
void guest_node_of_pages(void **pages, size_t n, int *nodes);

#endif
