/*
 * Topology, CPU quota, placement and node memory: odd machines as fixture folders, then the live one.
 *
 * The folders are written while the tests run, into a temporary folder each, by a builder that numbers
 * CPUs as Linux does: the first threads of all cores, then the second ones. Expected victim orders
 * are written out by hand, from the rules in numa/placement.h.
 */
#include "numa/cpu_quota.h"
#include "numa/node_memory.h"
#include "numa/placement.h"
#include "numa/topology.h"

#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    TIME_LIMIT_S = 120,
    MAX_NODES = 8,
    GIB_IN_KB = 1048576,
    CHILD_SKIPPED = 77,
};

/* --- the builder --- */

static char root[PATH_MAX];

static int make_root(void **state)
{
    const char *tmp = getenv("TMPDIR");

    (void)state;
    snprintf(root, sizeof root, "%s/flow-topology-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status, (void)kind, (void)walk;
    return remove(path);
}

static int remove_root(void **state)
{
    (void)state;
    return nftw(root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *in_root(const char *path)
{
    static char full[2 * PATH_MAX];

    snprintf(full, sizeof full, "%s/%s", root, path);
    return full;
}

static void make_parents(char *path)
{
    for (char *slash = strchr(path + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0755);
        *slash = '/';
    }
}

static void put(const char *path, const char *text)
{
    char full[2 * PATH_MAX];
    FILE *file;

    snprintf(full, sizeof full, "%s", in_root(path));
    make_parents(full);
    file = fopen(full, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void put_cpu(int cpu_id, const char *name, const char *text)
{
    char path[128];

    snprintf(path, sizeof path, "cpu/cpu%d/%s", cpu_id, name);
    put(path, text);
}

static void put_node(int node_id, const char *name, const char *text)
{
    char path[128];

    snprintf(path, sizeof path, "node/node%d/%s", node_id, name);
    put(path, text);
}

static void put_node_memory(int node_id, long kilobytes)
{
    char text[256];

    snprintf(text, sizeof text, "Node %d MemTotal:       %ld kB\nNode %d MemFree:        1 kB\n", node_id, kilobytes,
             node_id);
    put_node(node_id, "meminfo", text);
}

struct shape {
    int n_nodes, cores_per_node, threads, cores_per_l3;
    int node_id[MAX_NODES];
    const char *distance[MAX_NODES];
};

/* CPUs of some neighbouring cores, as a list. */
static const char *cpus_of(const struct shape *shape, int first_core, int n)
{
    static char text[256];
    int n_cores = shape->n_nodes * shape->cores_per_node;
    int length = 0;

    text[0] = '\0';
    for (int thread = 0; thread < shape->threads && n; thread++) {
        int first = first_core + thread * n_cores;

        length += snprintf(text + length, sizeof text - (size_t)length, n > 1 ? "%s%d-%d" : "%s%d", thread ? "," : "",
                           first, first + n - 1);
    }
    snprintf(text + length, sizeof text - (size_t)length, "\n");
    return text;
}

static void build_cpu(const struct shape *shape, int core, int thread)
{
    int cpu_id = core + thread * shape->n_nodes * shape->cores_per_node;

    put_cpu(cpu_id, "topology/core_cpus_list", cpus_of(shape, core, 1));
    put_cpu(cpu_id, "cache/index0/level", "1\n");
    put_cpu(cpu_id, "cache/index0/shared_cpu_list", cpus_of(shape, core, 1));
    put_cpu(cpu_id, "cache/index1/level", "3\n");
    put_cpu(cpu_id, "cache/index1/shared_cpu_list",
            cpus_of(shape, core - core % shape->cores_per_l3, shape->cores_per_l3));
}

static void build(const struct shape *shape)
{
    int n_cores = shape->n_nodes * shape->cores_per_node;

    for (int core = 0; core < n_cores; core++)
        for (int thread = 0; thread < shape->threads; thread++)
            build_cpu(shape, core, thread);
    put("cpu/online", cpus_of(shape, 0, n_cores));
    put("affinity", cpus_of(shape, 0, n_cores));
    for (int i = 0; i < shape->n_nodes; i++) {
        put_node(shape->node_id[i], "cpulist", cpus_of(shape, i * shape->cores_per_node, shape->cores_per_node));
        put_node(shape->node_id[i], "distance", shape->distance[i]);
        put_node_memory(shape->node_id[i], GIB_IN_KB);
    }
}

static const struct shape one_node = {1, 4, 1, 4, {0}, {"10\n"}};
/* node 0: CPUs 0,4 and 1,5; node 1: CPUs 2,6 and 3,7 */
static const struct shape two_sockets_smt = {2, 2, 2, 2, {0, 1}, {"10 21\n", "21 10\n"}};
static const struct shape four_nodes = {
    4, 2, 1, 2, {0, 1, 2, 3}, {"10 12 21 21\n", "12 10 21 21\n", "21 21 10 12\n", "21 21 12 10\n"}};
static const struct shape several_l3 = {1, 8, 1, 4, {0}, {"10\n"}};
static const struct shape three_nodes = {3, 2, 1, 2, {0, 1, 2}, {"10 21 31\n", "21 10 12\n", "31 12 10\n"}};
static const struct shape sparse_ids = {8,
                                        1,
                                        1,
                                        1,
                                        {0, 1, 4, 5, 8, 12, 64, 255},
                                        {"10 11 12 13 14 15 16 17\n", "11 10 12 13 14 15 16 17\n",
                                         "12 12 10 13 14 15 16 17\n", "13 13 13 10 14 15 16 17\n",
                                         "14 14 14 14 10 15 16 17\n", "15 15 15 15 15 10 16 17\n",
                                         "16 16 16 16 16 16 10 17\n", "17 17 17 17 17 17 17 10\n"}};
static const struct shape huge = {8,
                                  128,
                                  2,
                                  16,
                                  {0, 1, 2, 3, 4, 5, 6, 7},
                                  {"10 12 12 12 32 32 32 32\n", "12 10 12 12 32 32 32 32\n",
                                   "12 12 10 12 32 32 32 32\n", "12 12 12 10 32 32 32 32\n",
                                   "32 32 32 32 10 12 12 12\n", "32 32 32 32 12 10 12 12\n",
                                   "32 32 32 32 12 12 10 12\n", "32 32 32 32 12 12 12 10\n"}};

/* --- what must hold of every machine --- */

static void assert_sane(const struct flow__topology *t)
{
    int n_cpus = 0;

    assert_true(t->n_cpus >= 1 && t->n_nodes >= 1);
    for (int i = 0; i < t->n_cpus; i++) {
        assert_true(i == 0 || t->cpus[i].cpu_id > t->cpus[i - 1].cpu_id);
        assert_in_range(t->cpus[i].node, 0, t->n_nodes - 1);
        assert_true(t->cpus[i].core >= 0 && t->cpus[i].l3_cache >= 0);
        assert_int_equal(flow__topology_find_cpu(t, t->cpus[i].cpu_id), i);
    }
    for (int i = 0; i < t->n_nodes; i++) {
        const struct flow__node *node = &t->nodes[i];

        n_cpus += node->n_cpus;
        assert_true(i == 0 || node->node_id > t->nodes[i - 1].node_id);
        assert_in_range(node->memory_node, 0, t->n_nodes - 1);
        assert_true(t->nodes[node->memory_node].memory_allowed || node->memory_node == i);
        assert_int_equal(flow__topology_distance(t, i, i), 10);
        for (int j = 0; j < t->n_nodes; j++)
            assert_in_range(flow__topology_distance(t, i, j), 10, 255);
    }
    assert_int_equal(n_cpus, t->n_cpus);
    assert_int_equal(flow__topology_find_cpu(t, -1), -1);
    assert_int_equal(flow__topology_find_cpu(t, INT_MAX), -1);
}

static void read_fixture(struct flow__topology *t)
{
    assert_int_equal(flow__topology_read(t, root), 0);
    assert_sane(t);
}

static int nearness(const struct flow__topology *t, int cpu_a, int cpu_b)
{
    const struct flow__cpu *a = &t->cpus[flow__topology_find_cpu(t, cpu_a)];
    const struct flow__cpu *b = &t->cpus[flow__topology_find_cpu(t, cpu_b)];

    if (a->node != b->node)
        return 3 + flow__topology_distance(t, a->node, b->node);
    return a->core == b->core ? 0 : a->l3_cache == b->l3_cache ? 1 : 2;
}

/* Every row names every other worker once, nearest first. Needs a pinned placement. */
static void assert_orders_valid(const struct flow__topology *t, const struct flow__placement *p)
{
    char *seen = calloc((size_t)p->n_workers, 1);

    for (int worker = 0; worker < p->n_workers; worker++) {
        const uint16_t *row = flow__placement_victims(p, worker);
        int before = 0;

        memset(seen, 0, (size_t)p->n_workers);
        for (int i = 0; i < p->n_workers - 1; i++) {
            int now = nearness(t, p->cpu_id[worker], p->cpu_id[row[i]]);

            if (row[i] == worker || seen[row[i]]++ || now < before)
                fail_msg("worker %d: victim %d at %d is wrong", worker, row[i], i);
            before = now;
        }
        assert_int_equal(t->cpus[flow__topology_find_cpu(t, p->cpu_id[worker])].node, p->node[worker]);
    }
    free(seen);
}

static void place(struct flow__placement *p, const struct flow__topology *t, int n_workers)
{
    assert_int_equal(flow__placement_make(p, t, n_workers, true), 0);
    assert_int_equal(p->n_workers, n_workers);
    assert_orders_valid(t, p);
}

static void assert_victims(const struct flow__placement *p, int worker, const char *expected)
{
    char text[256] = "";
    int length = 0;

    for (int i = 0; i < p->n_workers - 1; i++)
        length += snprintf(text + length, sizeof text - (size_t)length, "%s%d", i ? " " : "",
                           flow__placement_victims(p, worker)[i]);
    assert_string_equal(text, expected);
}

static void assert_cpus(const struct flow__topology *t, int n_workers, const char *expected)
{
    struct flow__placement p;
    char text[256] = "";
    int length = 0;

    place(&p, t, n_workers);
    for (int i = 0; i < n_workers; i++)
        length += snprintf(text + length, sizeof text - (size_t)length, "%s%d", i ? " " : "", p.cpu_id[i]);
    assert_string_equal(text, expected);
    flow__placement_free(&p);
}

/* --- machines --- */

static void test_one_node(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    build(&one_node);
    read_fixture(&t);
    assert_int_equal(t.n_cpus, 4);
    assert_int_equal(t.n_nodes, 1);
    assert_int_equal(t.nodes[0].n_cpus, 4);
    assert_int_equal(t.nodes[0].memory_bytes, (uint64_t)GIB_IN_KB * 1024);
    assert_true(t.nodes[0].memory_allowed);
    assert_int_equal(t.cpus[2].core, 2);
    assert_int_equal(t.cpus[2].l3_cache, 0);
    place(&p, &t, 4);
    assert_victims(&p, 0, "1 2 3");
    assert_victims(&p, 1, "2 3 0");
    assert_victims(&p, 2, "3 0 1");
    assert_victims(&p, 3, "0 1 2");
    flow__placement_free(&p);
    flow__topology_free(&t);
    assert_null(t.cpus);
}

static void test_two_sockets_with_smt(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    build(&two_sockets_smt);
    read_fixture(&t);
    assert_int_equal(t.n_cpus, 8);
    assert_int_equal(t.n_nodes, 2);
    assert_int_equal(t.cpus[4].core, 0);
    assert_int_equal(t.cpus[7].core, 3);
    assert_int_equal(t.cpus[7].l3_cache, 2);
    assert_int_equal(t.cpus[5].node, 0);
    assert_int_equal(t.cpus[6].node, 1);
    assert_int_equal(flow__topology_distance(&t, 0, 1), 21);
    place(&p, &t, 8); /* on CPUs 0 1 4 5 of node 0 and 2 3 6 7 of node 1 */
    assert_victims(&p, 0, "2 1 3 4 5 6 7");
    assert_victims(&p, 1, "3 2 0 5 6 7 4");
    assert_victims(&p, 2, "0 3 1 6 7 4 5");
    assert_victims(&p, 3, "1 0 2 7 4 5 6");
    assert_victims(&p, 4, "6 5 7 0 1 2 3");
    assert_victims(&p, 6, "4 7 5 2 3 0 1");
    flow__placement_free(&p);
    flow__topology_free(&t);
}

static void test_four_nodes_at_three_distances(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    build(&four_nodes);
    read_fixture(&t);
    assert_int_equal(t.n_nodes, 4);
    assert_int_equal(flow__topology_distance(&t, 2, 3), 12);
    assert_int_equal(flow__topology_distance(&t, 2, 1), 21);
    place(&p, &t, 8);
    assert_victims(&p, 0, "1 2 3 4 5 6 7");
    assert_victims(&p, 1, "0 3 2 5 6 7 4");
    assert_victims(&p, 2, "3 0 1 6 7 4 5");
    assert_victims(&p, 3, "2 1 0 7 4 5 6");
    assert_victims(&p, 5, "4 7 6 1 2 3 0");
    flow__placement_free(&p);
    flow__topology_free(&t);
}

static void test_several_l3_in_a_node(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    build(&several_l3);
    read_fixture(&t);
    assert_int_equal(t.cpus[3].l3_cache, 0);
    assert_int_equal(t.cpus[4].l3_cache, 4);
    place(&p, &t, 8);
    assert_victims(&p, 0, "1 2 3 4 5 6 7");
    assert_victims(&p, 1, "2 3 0 5 6 7 4");
    assert_victims(&p, 6, "7 4 5 2 3 0 1");
    flow__placement_free(&p);
    flow__topology_free(&t);
}

/* Sub-NUMA clustering: the cache is one, the memory is not. The node decides. */
static void test_l3_that_spans_nodes(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    build(&four_nodes);
    for (int cpu_id = 0; cpu_id < 4; cpu_id++)
        put_cpu(cpu_id, "cache/index1/shared_cpu_list", "0-3\n");
    read_fixture(&t);
    assert_int_equal(t.cpus[3].l3_cache, 0);
    place(&p, &t, 8);
    assert_victims(&p, 3, "2 1 0 7 4 5 6");
    flow__placement_free(&p);
    flow__topology_free(&t);
}

static void test_sparse_node_ids(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    build(&sparse_ids);
    read_fixture(&t);
    assert_int_equal(t.n_nodes, 8);
    assert_int_equal(t.nodes[2].node_id, 4);
    assert_int_equal(t.nodes[7].node_id, 255);
    assert_int_equal(t.cpus[6].node, 6);
    assert_int_equal(flow__topology_distance(&t, 0, 6), 16);
    place(&p, &t, 8);
    assert_victims(&p, 0, "1 2 3 4 5 6 7");
    assert_victims(&p, 4, "0 1 2 3 5 6 7"); /* 0 to 3 are equally far */
    flow__placement_free(&p);
    flow__topology_free(&t);
}

static void test_node_without_memory(void **state)
{
    struct flow__topology t;

    (void)state;
    build(&three_nodes);
    put_node_memory(1, 0);
    read_fixture(&t);
    assert_int_equal(t.nodes[1].n_cpus, 2);
    assert_false(t.nodes[1].memory_allowed);
    assert_int_equal(t.nodes[1].memory_node, 2);
    assert_int_equal(t.nodes[0].memory_node, 0);
    assert_int_equal(t.nodes[2].memory_node, 2);
    flow__topology_free(&t);
}

static void test_memory_that_is_not_allowed(void **state)
{
    struct flow__topology t;

    (void)state;
    build(&three_nodes);
    put("mems_allowed", "0-1\n");
    read_fixture(&t);
    assert_true(t.nodes[1].memory_allowed);
    assert_false(t.nodes[2].memory_allowed);
    assert_int_equal(t.nodes[2].memory_node, 1);
    flow__topology_free(&t);
    put("mems_allowed", "7,65535\n"); /* none of ours */
    read_fixture(&t);
    for (int i = 0; i < 3; i++)
        assert_int_equal(t.nodes[i].memory_node, i);
    flow__topology_free(&t);
}

static void test_node_without_cpus(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    build(&two_sockets_smt);
    put_node(2, "cpulist", "\n");
    put_node(2, "distance", "14 24 10\n");
    put_node(0, "distance", "10 21 14\n");
    put_node(1, "distance", "21 10 24\n");
    put_node_memory(2, 4 * GIB_IN_KB);
    read_fixture(&t);
    assert_int_equal(t.n_nodes, 3);
    assert_int_equal(t.nodes[2].n_cpus, 0);
    assert_true(t.nodes[2].memory_allowed);
    assert_int_equal(t.nodes[2].memory_bytes, (uint64_t)4 * GIB_IN_KB * 1024);
    assert_int_equal(flow__topology_distance(&t, 1, 2), 24);
    place(&p, &t, 20);
    for (int i = 0; i < 20; i++)
        assert_int_not_equal(p.node[i], 2);
    flow__placement_free(&p);
    flow__topology_free(&t);
}

static void test_offline_cpus(void **state)
{
    struct flow__topology t;

    (void)state;
    build(&two_sockets_smt);
    put("cpu/online", "0-2,4-7\n");
    put_node(1, "cpulist", "2,6-7\n");
    put_cpu(7, "topology/core_cpus_list", "7\n");
    put_cpu(2, "cache/index1/shared_cpu_list", "2,6-7\n");
    put_cpu(3, "topology/core_cpus_list", "");
    read_fixture(&t);
    assert_int_equal(t.n_cpus, 7);
    assert_int_equal(flow__topology_find_cpu(&t, 3), -1);
    assert_int_equal(t.cpus[6].cpu_id, 7);
    assert_int_equal(t.cpus[6].core, 7);
    assert_int_equal(t.nodes[1].n_cpus, 3);
    assert_cpus(&t, 7, "0 1 4 5 2 6 7");
    flow__topology_free(&t);
    put("cpu/online", "8-9\n");
    assert_int_equal(flow__topology_read(&t, root), -EINVAL);
}

static void test_odd_cpuset(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    build(&two_sockets_smt);
    put("affinity", "1,3,5,7\n");
    read_fixture(&t);
    assert_int_equal(t.n_cpus, 4);
    assert_int_equal(t.nodes[0].n_cpus, 2);
    assert_int_equal(t.cpus[1].cpu_id, 3);
    assert_int_equal(t.cpus[1].node, 1);
    place(&p, &t, 4); /* on CPUs 1 5 of node 0 and 3 7 of node 1 */
    assert_victims(&p, 0, "1 2 3");
    assert_victims(&p, 1, "0 3 2");
    assert_victims(&p, 2, "3 0 1");
    flow__placement_free(&p);
    assert_cpus(&t, 2, "1 3");
    flow__topology_free(&t);
    put("affinity", "5-7\n"); /* a core's first CPU is not ours, nor is the cache's */
    read_fixture(&t);
    assert_cpus(&t, 3, "5 6 7");
    assert_cpus(&t, 4, "5 5 6 7");
    flow__topology_free(&t);
}

static void test_2048_cpus(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    build(&huge);
    read_fixture(&t);
    assert_int_equal(t.n_cpus, 2048);
    assert_int_equal(t.nodes[7].n_cpus, 256);
    assert_int_equal(t.cpus[2047].core, 1023);
    assert_int_equal(t.cpus[2047].l3_cache, 1008);
    assert_int_equal(t.cpus[1500].node, 3);
    place(&p, &t, 2048);
    for (int node = 0; node < 8; node++) { /* the first victims beyond the own node are all different */
        char hit[2048] = {0};

        for (int worker = 256 * node; worker < 256 * (node + 1); worker++)
            assert_int_equal(hit[flow__placement_victims(&p, worker)[255]]++, 0);
    }
    flow__placement_free(&p);
    flow__topology_free(&t);
}

/* --- seats --- */

static void test_cores_before_siblings_and_around_again(void **state)
{
    struct flow__topology t;

    (void)state;
    build(&two_sockets_smt);
    read_fixture(&t);
    assert_cpus(&t, 1, "0");
    assert_cpus(&t, 2, "0 1");
    assert_cpus(&t, 4, "0 1 2 3");
    assert_cpus(&t, 5, "0 1 4 2 3");
    assert_cpus(&t, 8, "0 1 4 5 2 3 6 7");
    assert_cpus(&t, 10, "0 0 1 1 4 5 2 3 6 7");
    flow__topology_free(&t);
}

/* Siblings that are numbered next to each other, as in many virtual machines. */
static void test_cores_before_neighbouring_siblings(void **state)
{
    struct flow__topology t;

    (void)state;
    build(&one_node);
    for (int cpu_id = 0; cpu_id < 4; cpu_id++)
        put_cpu(cpu_id, "topology/core_cpus_list", cpu_id < 2 ? "0-1\n" : "2-3\n");
    read_fixture(&t);
    assert_cpus(&t, 2, "0 2");
    assert_cpus(&t, 3, "0 1 2");
    assert_cpus(&t, 4, "0 1 2 3");
    flow__topology_free(&t);
}

static void test_unpinned_workers_and_bad_counts(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    build(&two_sockets_smt);
    read_fixture(&t);
    assert_int_equal(flow__placement_make(&p, &t, 8, false), 0);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(p.cpu_id[i], -1);
        assert_int_equal(p.node[i], i / 4);
    }
    assert_victims(&p, 1, "3 2 0 5 6 7 4");
    flow__placement_free(&p);
    assert_int_equal(flow__placement_make(&p, &t, 0, true), -EINVAL);
    assert_int_equal(flow__placement_make(&p, &t, -1, true), -EINVAL);
    assert_int_equal(flow__placement_make(&p, &t, 65536, true), -EINVAL);
    flow__topology_free(&t);
}

static void test_default_workers(void **state)
{
    struct flow__topology t;

    (void)state;
    build(&two_sockets_smt);
    read_fixture(&t);
    assert_int_equal(flow__placement_default_workers(&t, 0), 8);
    assert_int_equal(flow__placement_default_workers(&t, -1), 8);
    assert_int_equal(flow__placement_default_workers(&t, 0.05), 1);
    assert_int_equal(flow__placement_default_workers(&t, 1), 1);
    assert_int_equal(flow__placement_default_workers(&t, 1.5), 2);
    assert_int_equal(flow__placement_default_workers(&t, 7.01), 8);
    assert_int_equal(flow__placement_default_workers(&t, 1e300), 8);
    flow__topology_free(&t);
}

/* --- missing and broken files --- */

static void test_no_node_folder(void **state)
{
    struct flow__topology t;

    (void)state;
    put("affinity", "0-3\n");
    read_fixture(&t); /* nothing else at all */
    assert_int_equal(t.n_cpus, 4);
    assert_int_equal(t.n_nodes, 1);
    assert_int_equal(t.nodes[0].n_cpus, 4);
    assert_true(t.nodes[0].memory_allowed);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(t.cpus[i].core, i);
        assert_int_equal(t.cpus[i].l3_cache, i);
    }
    flow__topology_free(&t);
}

static void test_affinity_missing_or_broken(void **state)
{
    static const char *const broken[] = {"", "\n", "x\n", "-1\n", "3-1\n", "1,1\n", "0-\n", "0,,2\n", "0 1\n",
                                         "0-70000\n", "99999999999999999999\n", "007\n", "0x3\n"};
    struct flow__topology t;

    (void)state;
    assert_int_equal(flow__topology_read(&t, root), -ENOENT);
    assert_null(t.cpus);
    assert_int_equal(flow__topology_read(&t, in_root("nowhere")), -ENOENT);
    put("cpu/online", "0-1\n");
    read_fixture(&t);
    assert_int_equal(t.n_cpus, 2);
    flow__topology_free(&t);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        put("affinity", broken[i]);
        if (flow__topology_read(&t, root) >= 0)
            fail_msg("affinity '%s' was believed", broken[i]);
    }
}

static void test_broken_groups(void **state)
{
    static const char *const broken[] = {"", "x\n", "1-2\n", "4-0\n", "0-16\n", "0-99999999999999999999\n", "0-4-5\n"};
    struct flow__topology t;

    (void)state;
    build(&two_sockets_smt);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        put_cpu(0, "topology/core_cpus_list", broken[i]);
        put_cpu(4, "topology/core_cpus_list", broken[i]);
        read_fixture(&t);
        if (t.cpus[0].core != 0 || t.cpus[4].core != 4 || t.cpus[5].core != 1 || t.cpus[2].core != 2)
            fail_msg("group '%s' was believed", broken[i]);
        flow__topology_free(&t);
    }
    put_cpu(0, "cache/index1/level", "33\n"); /* then there is no L3 that CPU 0 knows of, but others do */
    read_fixture(&t);
    assert_int_equal(t.cpus[1].l3_cache, 0);
    flow__topology_free(&t);
    assert_int_equal(remove(in_root("cpu/cpu0/topology/core_cpus_list")), 0);
    put_cpu(0, "topology/thread_siblings_list", "0,4\n"); /* as before Linux 5.4 */
    read_fixture(&t);
    assert_int_equal(t.cpus[4].core, 0);
    flow__topology_free(&t);
}

static void test_broken_distances(void **state)
{
    static const char *const broken[] = {"",        "10\n",     "10 21 21\n", "10 x\n", "10 9\n",
                                         "10 256\n", "21 10\n", "10 -21\n",   "10,21\n"};
    struct flow__topology t;

    (void)state;
    build(&two_sockets_smt);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        put_node(0, "distance", broken[i]);
        read_fixture(&t);
        if (flow__topology_distance(&t, 0, 1) != 20 || flow__topology_distance(&t, 1, 0) != 21)
            fail_msg("distances '%s' were believed", broken[i]);
        flow__topology_free(&t);
    }
    put_node(0, "distance", "10 255"); /* unreachable, says ACPI */
    read_fixture(&t);
    assert_int_equal(flow__topology_distance(&t, 0, 1), 255);
    assert_cpus(&t, 8, "0 1 4 5 2 3 6 7");
    flow__topology_free(&t);
}

static void test_broken_nodes(void **state)
{
    static const char *const broken[] = {"", "x\n", "2-\n", "3,2\n", "0-1,3-99999999\n"};
    struct flow__topology t;

    (void)state;
    build(&two_sockets_smt);
    put("node/node01/cpulist", "0-7\n"); /* no name that Linux gives */
    put("node/node1x/cpulist", "0-7\n");
    put("node/node1024/cpulist", "0-7\n");
    put("node/possible", "0-1\n");
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        put_node(1, "cpulist", broken[i]);
        read_fixture(&t);
        assert_int_equal(t.n_nodes, 2);
        assert_int_equal(t.nodes[0].n_cpus, 8); /* nobody's CPUs go to the first node */
        flow__topology_free(&t);
    }
    put_node(1, "cpulist", "1-3,6-7\n"); /* CPU 1 is claimed twice */
    read_fixture(&t);
    assert_int_equal(t.cpus[1].node, 0);
    assert_int_equal(t.nodes[1].n_cpus, 4);
    flow__topology_free(&t);
}

static void test_broken_memory(void **state)
{
    static const char *const broken[] = {"", "x\n", "Node 1 MemTotal:\n", "Node 1 MemTotal: -5 kB\n",
                                         "Node 1 MemTotal: 99999999999999999999999999 kB\n"};
    struct flow__topology t;

    (void)state;
    build(&two_sockets_smt);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        put_node(1, "meminfo", broken[i]);
        read_fixture(&t);
        if (t.nodes[1].memory_bytes || t.nodes[1].memory_node != 0)
            fail_msg("memory '%s' was believed", broken[i]);
        flow__topology_free(&t);
    }
    put_node_memory(1, GIB_IN_KB);
    put("mems_allowed", "junk\n");
    read_fixture(&t);
    assert_true(t.nodes[0].memory_allowed && t.nodes[1].memory_allowed);
    flow__topology_free(&t);
}

static void test_root_that_is_too_long(void **state)
{
    char path[2 * PATH_MAX];
    struct flow__topology t;

    (void)state;
    memset(path, 'a', sizeof path);
    path[sizeof path - 1] = '\0';
    assert_int_equal(flow__topology_read(&t, path), -ENAMETOOLONG);
    assert_true(flow__cpu_quota(path) == 0);
}

/* --- quotas --- */

static void assert_quota(double expected)
{
    double quota = flow__cpu_quota(root);

    if (quota < expected - 1e-9 || quota > expected + 1e-9)
        fail_msg("quota is %g, not %g", quota, expected);
}

static void test_quota_v2(void **state)
{
    (void)state;
    assert_quota(0);
    put("proc/self/cgroup", "0::/a/b/c\n");
    assert_quota(0);
    put("sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
    assert_quota(0);
    put("sys/fs/cgroup/a/cpu.max", "150000 100000\n");
    assert_quota(1.5);
    put("sys/fs/cgroup/a/b/c/cpu.max", "250000 50000\n");
    assert_quota(1.5); /* the smallest on the way up */
    put("sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    assert_quota(0.5);
    put("sys/fs/cgroup/other/cpu.max", "1000 100000\n");
    assert_quota(0.5);
}

static void test_quota_v2_at_the_top_of_a_container(void **state)
{
    (void)state;
    put("sys/fs/cgroup/cpu.max", "200000 100000\n");
    put("proc/self/cgroup", "0::/\n");
    assert_quota(2);
    put("proc/self/cgroup", "0::/host/only/knows/this\n");
    assert_quota(2);
    put("proc/self/cgroup", "0::/../sibling\n");
    put("sys/fs/sibling/cpu.max", "1000 100000\n");
    assert_quota(2);
}

static void test_quota_v1(void **state)
{
    (void)state;
    put("proc/self/cgroup", "12:cpuset:/x\n7:cpu,cpuacct:/a/b\n1:name=systemd:/x\n0::/a\n");
    assert_quota(0);
    put("sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us", "100000\n");
    assert_quota(0);
    put("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "300000\n");
    assert_quota(0);
    put("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
    assert_quota(3);
    put("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "250000\n"); /* the other name of the same mount */
    put("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
    assert_quota(2.5);
    put("sys/fs/cgroup/unified/a/cpu.max", "100000 100000\n");
    assert_quota(1);
    put("proc/self/cgroup", "7:cpuacct,cpux:/a\n");
    assert_quota(0);
}

static void test_quota_garbage(void **state)
{
    static const char *const groups[] = {"", "\n", "0\n", "0:\n", "0::\n", "::\n", "0::relative\n", "7:cpu:\n"};
    static const char *const limits[] = {"",           "x\n",       "100000\n",     "0 100000\n",
                                         "100000 0\n", "-5 1000\n", "100000 -5\n",  "max\n",
                                         "100000 max\n"};

    (void)state;
    put("sys/fs/cgroup/cpu.max", "100000 100000\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        put("proc/self/cgroup", groups[i]);
        assert_quota(0);
    }
    put("proc/self/cgroup", "0::/\n");
    assert_quota(1);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        put("sys/fs/cgroup/cpu.max", limits[i]);
        assert_quota(0);
    }
}

/* --- the live machine --- */

static void run_child(int (*run)(int), int arg)
{
    int status;
    pid_t child;

    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(run(arg));
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIPPED) {
        print_message("skip: the system refuses the call\n");
        skip();
    }
    assert_int_equal(status, 0);
}

/* In a child no assert may be used: its number says which expectation failed. */
#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)

static void test_live_machine(void **state)
{
    struct flow__topology t;
    size_t bytes = CPU_ALLOC_SIZE(65536);
    cpu_set_t *set = CPU_ALLOC(65536);
    uint64_t memory = 0;

    (void)state;
    CPU_ZERO_S(bytes, set);
    assert_int_equal(sched_getaffinity(0, bytes, set), 0);
    assert_int_equal(flow__topology_read(&t, NULL), 0);
    assert_sane(&t);
    assert_int_equal(t.n_cpus, CPU_COUNT_S(bytes, set));
    for (int i = 0; i < t.n_cpus; i++)
        assert_true(CPU_ISSET_S((size_t)t.cpus[i].cpu_id, bytes, set));
    for (int i = 0; i < t.n_nodes; i++)
        memory += t.nodes[i].memory_bytes;
    assert_true(memory > 0);
    assert_true(flow__cpu_quota(NULL) >= 0);
    assert_in_range(flow__placement_default_workers(&t, flow__cpu_quota(NULL)), 1, t.n_cpus);
    CPU_FREE(set);
    flow__topology_free(&t);
}

static int pin_to(int cpu_id)
{
    int r = flow__pin_thread(cpu_id);

    if (r == -EPERM || r == -ENOSYS)
        return CHILD_SKIPPED;
    EXPECT(r == 0);
    EXPECT(sched_getcpu() == cpu_id);
    return 0;
}

static void test_pin_to_each_cpu(void **state)
{
    struct flow__topology t;

    (void)state;
    assert_int_equal(flow__topology_read(&t, NULL), 0);
    for (int i = 0; i < t.n_cpus; i++)
        run_child(pin_to, t.cpus[i].cpu_id);
    flow__topology_free(&t);
    assert_int_equal(flow__pin_thread(-1), -EINVAL);
    assert_int_equal(flow__pin_thread(INT_MAX), -EINVAL);
    assert_true(flow__pin_thread(65535) < 0);
}

static int live_with_one_cpu(int cpu_id)
{
    struct flow__topology t;
    struct flow__placement p;
    int r = pin_to(cpu_id);

    if (r)
        return r;
    EXPECT(flow__topology_read(&t, NULL) == 0);
    EXPECT(t.n_cpus == 1);
    EXPECT(t.cpus[0].cpu_id == cpu_id);
    EXPECT(flow__placement_default_workers(&t, 0) == 1);
    EXPECT(flow__placement_make(&p, &t, 3, true) == 0);
    for (int i = 0; i < 3; i++)
        EXPECT(p.cpu_id[i] == cpu_id);
    flow__placement_free(&p);
    flow__topology_free(&t);
    return 0;
}

static void test_live_machine_with_one_cpu(void **state)
{
    struct flow__topology t;

    (void)state;
    assert_int_equal(flow__topology_read(&t, NULL), 0);
    for (int i = 0; i < t.n_cpus; i++)
        run_child(live_with_one_cpu, t.cpus[i].cpu_id);
    flow__topology_free(&t);
}

static void test_where_a_page_lies(void **state)
{
    size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    char *page = mmap(NULL, 2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *pages[2] = {page, page + bytes};
    int node_ids[2], r;

    (void)state;
    assert_true(page != MAP_FAILED);
    page[100] = 1;
    r = flow__node_of_pages(pages, 2, node_ids);
    if (r) {
        print_message("skip: move_pages says %d\n", r);
        skip();
    }
    assert_true(node_ids[0] >= 0);
    assert_int_equal(node_ids[1], -ENOENT);
    assert_int_equal(flow__node_of(page + 100), node_ids[0]);
    assert_int_equal(page[bytes], 0);
    munmap(page, 2 * bytes);
    assert_true(flow__node_of(page) < 0);
}

/* As a container's seccomp profile does it. */
static int refuse_memory_policy(int error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mbind, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_get_mempolicy, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_move_pages, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return -errno;
    return 0;
}

static int live_without_memory_policy(int error)
{
    static _Alignas(65536) char page[65536];
    struct flow__topology t;
    void *at = page;
    int node_id;

    if (refuse_memory_policy(error))
        return CHILD_SKIPPED;
    EXPECT(flow__node_of(page) == -error);
    EXPECT(flow__node_of_pages(&at, 1, &node_id) == -error);
    EXPECT(flow__topology_read(&t, NULL) == 0);
    EXPECT(t.nodes[t.nodes[0].memory_node].memory_allowed);
    flow__topology_free(&t);
    return 0;
}

static void test_sandbox_that_refuses_memory_policy(void **state)
{
    (void)state;
    run_child(live_without_memory_policy, EPERM);
    run_child(live_without_memory_policy, ENOSYS);
}

#define FIXTURE_TEST(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_one_node),
        FIXTURE_TEST(test_two_sockets_with_smt),
        FIXTURE_TEST(test_four_nodes_at_three_distances),
        FIXTURE_TEST(test_several_l3_in_a_node),
        FIXTURE_TEST(test_l3_that_spans_nodes),
        FIXTURE_TEST(test_sparse_node_ids),
        FIXTURE_TEST(test_node_without_memory),
        FIXTURE_TEST(test_memory_that_is_not_allowed),
        FIXTURE_TEST(test_node_without_cpus),
        FIXTURE_TEST(test_offline_cpus),
        FIXTURE_TEST(test_odd_cpuset),
        FIXTURE_TEST(test_2048_cpus),
        FIXTURE_TEST(test_cores_before_siblings_and_around_again),
        FIXTURE_TEST(test_cores_before_neighbouring_siblings),
        FIXTURE_TEST(test_unpinned_workers_and_bad_counts),
        FIXTURE_TEST(test_default_workers),
        FIXTURE_TEST(test_no_node_folder),
        FIXTURE_TEST(test_affinity_missing_or_broken),
        FIXTURE_TEST(test_broken_groups),
        FIXTURE_TEST(test_broken_distances),
        FIXTURE_TEST(test_broken_nodes),
        FIXTURE_TEST(test_broken_memory),
        cmocka_unit_test(test_root_that_is_too_long),
        FIXTURE_TEST(test_quota_v2),
        FIXTURE_TEST(test_quota_v2_at_the_top_of_a_container),
        FIXTURE_TEST(test_quota_v1),
        FIXTURE_TEST(test_quota_garbage),
        cmocka_unit_test(test_live_machine),
        cmocka_unit_test(test_pin_to_each_cpu),
        cmocka_unit_test(test_live_machine_with_one_cpu),
        cmocka_unit_test(test_where_a_page_lies),
        cmocka_unit_test(test_sandbox_that_refuses_memory_policy),
    };

    alarm(TIME_LIMIT_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
