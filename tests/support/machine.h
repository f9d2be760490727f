/* SPDX-License-Identifier: MIT
 *
 * Machines that are not there: folders laid out like /sys/devices/system (numa/topology.h),
 * for flow__topology_read and for FLOW_TOPOLOGY. One at a time, in a temporary folder that goes
 * with machine_close() or at the end of the process.
 *
 *   machine_use(&machine_four_nodes);  now flow_start sees 4 nodes of 2 CPUs; 8 workers are
 *   options.workers = 8;               two on each, unpinned, on whatever CPUs there are
 *
 * CPUs are numbered as Linux does: the first threads of all cores, node by node, then the second
 * ones. What cannot be written ends the process. From one thread. */
#ifndef FLOW_TESTS_MACHINE_H
#define FLOW_TESTS_MACHINE_H

enum { MACHINE_MAX_NODES = 8, MACHINE_GIB_IN_KB = 1048576 };

struct machine {
    int n_nodes, cores_per_node, threads /* of a core */, cores_per_l3;
    int node_id[MACHINE_MAX_NODES];
    const char *distance[MACHINE_MAX_NODES]; /* the rows, as in /sys */
};

extern const struct machine machine_one_node;    /* 4 CPUs */
extern const struct machine machine_two_sockets; /* SMT: CPUs 0,4 1,5 on node 0; 2,6 3,7 on 1 */
extern const struct machine machine_four_nodes;  /* 2 CPUs each; 0-1 and 2-3 at 12, else 21 */
extern const struct machine machine_three_nodes; /* 2 CPUs each; 0-1 at 21, 1-2 at 12, 0-2 at 31 */
extern const struct machine machine_several_l3;  /* 1 node, 8 CPUs, 4 at each cache */
extern const struct machine machine_sparse_ids;  /* 8 nodes 0 1 4 5 8 12 64 255, 1 CPU each */
extern const struct machine machine_huge;        /* 8 nodes, 2,048 CPUs */

/* Makes the folder and returns its path. NULL: an empty one. Each node has 1 GiB. */
const char *machine_open(const struct machine *machine);

/* The same, and FLOW_TOPOLOGY names it until machine_close(). */
const char *machine_use(const struct machine *machine);
void machine_close(void);

/* Changes files of the folder, or adds some. Texts end in a newline, as the kernel's do. */
void machine_put(const char *path, const char *text);
void machine_put_cpu(int cpu_id, const char *name, const char *text);   /* cpu/cpuN/name */
void machine_put_node(int node_id, const char *name, const char *text); /* node/nodeN/name */
void machine_put_memory(int node_id, long kilobytes);                   /* 0: it has none */
void machine_remove(const char *path);

/* The path of a file in it; valid until the next call. */
const char *machine_path(const char *path);

/* A test that begins with an empty folder. */
int machine_setup(void **state);
int machine_teardown(void **state);
#define MACHINE_TEST(function) cmocka_unit_test_setup_teardown(function, machine_setup, machine_teardown)

#endif
