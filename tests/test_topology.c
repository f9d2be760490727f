/* SPDX-License-Identifier: MIT
 *
 * Reading the topology: odd machines as fixture folders, broken ones, and the live one. */
#include "numa/topology.h"
#include "tests/support/machine.h"
#include "tests/support/test.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- what must hold of every machine ---- */

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
    assert_int_equal(flow__topology_read(t, machine_path(".")), 0);
    assert_sane(t);
}

/* ---- machines ---- */

static void test_one_node(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_one_node);
    read_fixture(&t);
    assert_int_equal(t.n_cpus, 4);
    assert_int_equal(t.n_nodes, 1);
    assert_int_equal(t.nodes[0].n_cpus, 4);
    assert_int_equal(t.nodes[0].memory_bytes, (uint64_t)MACHINE_GIB_IN_KB * 1024);
    assert_true(t.nodes[0].memory_allowed);
    assert_int_equal(t.cpus[2].core, 2);
    assert_int_equal(t.cpus[2].l3_cache, 0);
    flow__topology_free(&t);
    assert_null(t.cpus);
}

static void test_two_sockets_with_smt(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_two_sockets);
    read_fixture(&t);
    assert_int_equal(t.n_cpus, 8);
    assert_int_equal(t.n_nodes, 2);
    assert_int_equal(t.cpus[4].core, 0);
    assert_int_equal(t.cpus[7].core, 3);
    assert_int_equal(t.cpus[7].l3_cache, 2);
    assert_int_equal(t.cpus[5].node, 0);
    assert_int_equal(t.cpus[6].node, 1);
    assert_int_equal(flow__topology_distance(&t, 0, 1), 21);
    flow__topology_free(&t);
}

static void test_four_nodes_at_three_distances(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_four_nodes);
    read_fixture(&t);
    assert_int_equal(t.n_nodes, 4);
    assert_int_equal(flow__topology_distance(&t, 2, 3), 12);
    assert_int_equal(flow__topology_distance(&t, 2, 1), 21);
    flow__topology_free(&t);
}

static void test_several_l3_in_a_node(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_several_l3);
    read_fixture(&t);
    assert_int_equal(t.cpus[3].l3_cache, 0);
    assert_int_equal(t.cpus[4].l3_cache, 4);
    flow__topology_free(&t);
}

static void test_sparse_node_ids(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_sparse_ids);
    read_fixture(&t);
    assert_int_equal(t.n_nodes, 8);
    assert_int_equal(t.nodes[2].node_id, 4);
    assert_int_equal(t.nodes[7].node_id, 255);
    assert_int_equal(t.cpus[6].node, 6);
    assert_int_equal(flow__topology_distance(&t, 0, 6), 16);
    flow__topology_free(&t);
}

static void test_node_without_memory(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_three_nodes);
    machine_put_memory(1, 0);
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
    machine_open(&machine_three_nodes);
    machine_put("mems_allowed", "0-1\n");
    read_fixture(&t);
    assert_true(t.nodes[1].memory_allowed);
    assert_false(t.nodes[2].memory_allowed);
    assert_int_equal(t.nodes[2].memory_node, 1);
    flow__topology_free(&t);
    machine_put("mems_allowed", "7,65535\n"); /* none of ours */
    read_fixture(&t);
    for (int i = 0; i < 3; i++)
        assert_int_equal(t.nodes[i].memory_node, i);
    flow__topology_free(&t);
}

static void test_node_without_cpus(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_two_sockets);
    machine_put_node(2, "cpulist", "\n");
    machine_put_node(2, "distance", "14 24 10\n");
    machine_put_node(0, "distance", "10 21 14\n");
    machine_put_node(1, "distance", "21 10 24\n");
    machine_put_memory(2, 4 * MACHINE_GIB_IN_KB);
    read_fixture(&t);
    assert_int_equal(t.n_nodes, 3);
    assert_int_equal(t.nodes[2].n_cpus, 0);
    assert_true(t.nodes[2].memory_allowed);
    assert_int_equal(t.nodes[2].memory_bytes, (uint64_t)4 * MACHINE_GIB_IN_KB * 1024);
    assert_int_equal(flow__topology_distance(&t, 1, 2), 24);
    flow__topology_free(&t);
}

static void test_offline_cpus(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_two_sockets);
    machine_put("cpu/online", "0-2,4-7\n");
    machine_put_node(1, "cpulist", "2,6-7\n");
    machine_put_cpu(7, "topology/core_cpus_list", "7\n");
    machine_put_cpu(2, "cache/index1/shared_cpu_list", "2,6-7\n");
    machine_put_cpu(3, "topology/core_cpus_list", "");
    read_fixture(&t);
    assert_int_equal(t.n_cpus, 7);
    assert_int_equal(flow__topology_find_cpu(&t, 3), -1);
    assert_int_equal(t.cpus[6].cpu_id, 7);
    assert_int_equal(t.cpus[6].core, 7);
    assert_int_equal(t.nodes[1].n_cpus, 3);
    flow__topology_free(&t);
    machine_put("cpu/online", "8-9\n");
    assert_int_equal(flow__topology_read(&t, machine_path(".")), -EINVAL);
}

static void test_odd_cpuset(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_two_sockets);
    machine_put("affinity", "1,3,5,7\n");
    read_fixture(&t);
    assert_int_equal(t.n_cpus, 4);
    assert_int_equal(t.nodes[0].n_cpus, 2);
    assert_int_equal(t.cpus[1].cpu_id, 3);
    assert_int_equal(t.cpus[1].node, 1);
    flow__topology_free(&t);
    machine_put("affinity", "5-7\n"); /* a core's first CPU is not ours, nor is the cache's */
    read_fixture(&t);
    flow__topology_free(&t);
}

static void test_2048_cpus(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_huge);
    read_fixture(&t);
    assert_int_equal(t.n_cpus, 2048);
    assert_int_equal(t.nodes[7].n_cpus, 256);
    assert_int_equal(t.cpus[2047].core, 1023);
    assert_int_equal(t.cpus[2047].l3_cache, 1008);
    assert_int_equal(t.cpus[1500].node, 3);
    flow__topology_free(&t);
}

/* ---- missing and broken files ---- */

static void test_no_node_folder(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_put("affinity", "0-3\n");
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
    static const char *const broken[] = {"",
                                         "\n",
                                         "x\n",
                                         "-1\n",
                                         "3-1\n",
                                         "1,1\n",
                                         "0-\n",
                                         "0,,2\n",
                                         "0 1\n",
                                         "0-70000\n",
                                         "99999999999999999999\n",
                                         "007\n",
                                         "0x3\n"};
    struct flow__topology t;

    (void)state;
    assert_int_equal(flow__topology_read(&t, machine_path(".")), -ENOENT);
    assert_null(t.cpus);
    assert_int_equal(flow__topology_read(&t, machine_path("nowhere")), -ENOENT);
    machine_put("cpu/online", "0-1\n");
    read_fixture(&t);
    assert_int_equal(t.n_cpus, 2);
    flow__topology_free(&t);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        machine_put("affinity", broken[i]);
        if (flow__topology_read(&t, machine_path(".")) >= 0)
            fail_msg("affinity '%s' was believed", broken[i]);
    }
}

static void test_broken_groups(void **state)
{
    static const char *const broken[] = {
        "", "x\n", "1-2\n", "4-0\n", "0-16\n", "0-99999999999999999999\n", "0-4-5\n"};
    struct flow__topology t;

    (void)state;
    machine_open(&machine_two_sockets);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        machine_put_cpu(0, "topology/core_cpus_list", broken[i]);
        machine_put_cpu(4, "topology/core_cpus_list", broken[i]);
        read_fixture(&t);
        if (t.cpus[0].core != 0 || t.cpus[4].core != 4 || t.cpus[5].core != 1 ||
            t.cpus[2].core != 2)
            fail_msg("group '%s' was believed", broken[i]);
        flow__topology_free(&t);
    }
    machine_put_cpu(0, "cache/index1/level",
                    "33\n"); /* then there is no L3 that CPU 0 knows of, but others do */
    read_fixture(&t);
    assert_int_equal(t.cpus[1].l3_cache, 0);
    flow__topology_free(&t);
    machine_remove("cpu/cpu0/topology/core_cpus_list");
    machine_put_cpu(0, "topology/thread_siblings_list", "0,4\n"); /* as before Linux 5.4 */
    read_fixture(&t);
    assert_int_equal(t.cpus[4].core, 0);
    flow__topology_free(&t);
}

static void test_broken_distances(void **state)
{
    static const char *const broken[] = {"",         "10\n",    "10 21 21\n", "10 x\n", "10 9\n",
                                         "10 256\n", "21 10\n", "10 -21\n",   "10,21\n"};
    struct flow__topology t;

    (void)state;
    machine_open(&machine_two_sockets);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        machine_put_node(0, "distance", broken[i]);
        read_fixture(&t);
        if (flow__topology_distance(&t, 0, 1) != 20 || flow__topology_distance(&t, 1, 0) != 21)
            fail_msg("distances '%s' were believed", broken[i]);
        flow__topology_free(&t);
    }
    machine_put_node(0, "distance", "10 255"); /* unreachable, says ACPI */
    read_fixture(&t);
    assert_int_equal(flow__topology_distance(&t, 0, 1), 255);
    flow__topology_free(&t);
}

static void test_broken_nodes(void **state)
{
    static const char *const broken[] = {"", "x\n", "2-\n", "3,2\n", "0-1,3-99999999\n"};
    struct flow__topology t;

    (void)state;
    machine_open(&machine_two_sockets);
    machine_put("node/node01/cpulist", "0-7\n"); /* no name that Linux gives */
    machine_put("node/node1x/cpulist", "0-7\n");
    machine_put("node/node1024/cpulist", "0-7\n");
    machine_put("node/possible", "0-1\n");
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        machine_put_node(1, "cpulist", broken[i]);
        read_fixture(&t);
        assert_int_equal(t.n_nodes, 2);
        assert_int_equal(t.nodes[0].n_cpus, 8); /* nobody's CPUs go to the first node */
        flow__topology_free(&t);
    }
    machine_put_node(1, "cpulist", "1-3,6-7\n"); /* CPU 1 is claimed twice */
    read_fixture(&t);
    assert_int_equal(t.cpus[1].node, 0);
    assert_int_equal(t.nodes[1].n_cpus, 4);
    flow__topology_free(&t);
}

static void test_broken_memory(void **state)
{
    static const char *const broken[] = {"", "x\n", "Node 1 MemTotal:\n",
                                         "Node 1 MemTotal: -5 kB\n",
                                         "Node 1 MemTotal: 99999999999999999999999999 kB\n"};
    struct flow__topology t;

    (void)state;
    machine_open(&machine_two_sockets);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        machine_put_node(1, "meminfo", broken[i]);
        read_fixture(&t);
        if (t.nodes[1].memory_bytes || t.nodes[1].memory_node != 0)
            fail_msg("memory '%s' was believed", broken[i]);
        flow__topology_free(&t);
    }
    machine_put_memory(1, MACHINE_GIB_IN_KB);
    machine_put("mems_allowed", "junk\n");
    read_fixture(&t);
    assert_true(t.nodes[0].memory_allowed && t.nodes[1].memory_allowed);
    flow__topology_free(&t);
}

/* Whatever single file is missing, or a folder in its place: what it would have said has a default. */
static void test_any_file_may_be_missing(void **state)
{
    static const char *const files[] = {"cpu/cpu5/topology/core_cpus_list",
                                        "cpu/cpu0/cache/index1/level",
                                        "cpu/cpu0/cache/index1/shared_cpu_list",
                                        "node/node1/cpulist",
                                        "node/node1/distance",
                                        "node/node1/meminfo",
                                        "cpu/online",
                                        "affinity"};
    struct flow__topology t;

    (void)state;
    for (size_t i = 0; i < 2 * (sizeof files / sizeof *files); i++) {
        const char *file = files[i / 2];

        machine_open(&machine_two_sockets);
        machine_remove(file);
        if (i % 2)
            assert_int_equal(mkdir(machine_path(file), 0755), 0);
        if (i % 2 && !strcmp(file, "affinity")) { /* it is there, and says nothing */
            assert_true(flow__topology_read(&t, machine_path(".")) < 0);
            continue;
        }
        read_fixture(&t);
        assert_int_equal(t.n_cpus, 8);
        assert_int_equal(t.n_nodes, 2);
        assert_int_equal(t.nodes[1].n_cpus, strstr(file, "cpulist") ? 0 : 4);
        assert_int_equal(flow__topology_distance(&t, 1, 0), strstr(file, "distance") ? 20 : 21);
        assert_int_equal(t.nodes[1].memory_node, strstr(file, "meminfo") ? 0 : 1);
        assert_int_equal(t.cpus[5].core, 1); /* its sibling says so too */
        assert_int_equal(t.cpus[4].l3_cache, 0);
        flow__topology_free(&t);
    }
}

/* A character or two of a list, replaced, doubled or cut off. */
static void spoil(char *text, size_t room, uint64_t *seed)
{
    static const char likely[] = "0123456789,-\n x";
    size_t n = strlen(text), at = n ? test_random(seed) % n : 0;

    switch (test_random(seed) % 3) {
    case 0:
        text[at] = likely[test_random(seed) % (sizeof likely - 1)];
        break;
    case 1:
        text[at] = '\0';
        break;
    default:
        if (2 * n < room) {
            memcpy(text + n, text, n);
            text[2 * n] = '\0';
        }
    }
}

static void spoil_file(const char *path, uint64_t *seed)
{
    char text[256] = "";
    FILE *file = fopen(machine_path(path), "re");

    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    for (uint64_t i = test_random(seed) % 3 + 1; i > 0; i--)
        spoil(text, sizeof text, seed);
    machine_put(path, text);
}

/* Whatever the files say: an error, or a table that makes sense. */
static void test_random_damage(void **state)
{
    static const char *const files[] = {"affinity",
                                        "cpu/online",
                                        "mems_allowed",
                                        "cpu/cpu0/topology/core_cpus_list",
                                        "cpu/cpu3/topology/core_cpus_list",
                                        "cpu/cpu1/cache/index1/shared_cpu_list",
                                        "cpu/cpu2/cache/index1/level",
                                        "node/node0/cpulist",
                                        "node/node1/cpulist",
                                        "node/node0/distance",
                                        "node/node1/distance",
                                        "node/node1/meminfo"};
    uint64_t seed = test_seed();
    int believed = 0, i, rounds = TEST_ROUNDS(400, 100);
    struct flow__topology t;

    (void)state;
    for (i = 0; i < rounds || (believed == i && i < 20 * rounds); i++) {
        int r;

        if (i % 10 == 0) { /* and then ten times worse each time */
            machine_open(&machine_two_sockets);
            machine_put("mems_allowed", "0-1\n");
        }
        spoil_file(files[test_random(&seed) % (sizeof files / sizeof *files)], &seed);
        r = flow__topology_read(&t, machine_path("."));
        if (r) {
            assert_true(r == -EINVAL || r == -ENODATA);
            continue;
        }
        believed++;
        assert_sane(&t);
        flow__topology_free(&t);
    }
    assert_in_range(believed, rounds / 4, i - 1);
}

static void test_nodes_are_found_by_the_kernels_number(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_sparse_ids);
    read_fixture(&t);
    assert_false(t.live);
    assert_int_equal(flow__topology_find_node(&t, 0), 0);
    assert_int_equal(flow__topology_find_node(&t, 12), 5);
    assert_int_equal(flow__topology_find_node(&t, 255), 7);
    assert_int_equal(flow__topology_find_node(&t, 2), -1);
    assert_int_equal(flow__topology_find_node(&t, -1), -1);
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
}

/* ---- the live machine ---- */

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
    assert_true(t.live);
    assert_int_equal(t.n_cpus, CPU_COUNT_S(bytes, set));
    for (int i = 0; i < t.n_cpus; i++)
        assert_true(CPU_ISSET_S((size_t)t.cpus[i].cpu_id, bytes, set));
    for (int i = 0; i < t.n_nodes; i++)
        memory += t.nodes[i].memory_bytes;
    assert_true(memory > 0);
    CPU_FREE(set);
    flow__topology_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(test_one_node),
        MACHINE_TEST(test_two_sockets_with_smt),
        MACHINE_TEST(test_four_nodes_at_three_distances),
        MACHINE_TEST(test_several_l3_in_a_node),
        MACHINE_TEST(test_sparse_node_ids),
        MACHINE_TEST(test_node_without_memory),
        MACHINE_TEST(test_memory_that_is_not_allowed),
        MACHINE_TEST(test_node_without_cpus),
        MACHINE_TEST(test_offline_cpus),
        MACHINE_TEST(test_odd_cpuset),
        MACHINE_TEST(test_2048_cpus),
        MACHINE_TEST(test_no_node_folder),
        MACHINE_TEST(test_affinity_missing_or_broken),
        MACHINE_TEST(test_broken_groups),
        MACHINE_TEST(test_broken_distances),
        MACHINE_TEST(test_broken_nodes),
        MACHINE_TEST(test_broken_memory),
        MACHINE_TEST(test_any_file_may_be_missing),
        MACHINE_TEST(test_random_damage),
        MACHINE_TEST(test_nodes_are_found_by_the_kernels_number),
        MACHINE_TEST(test_root_that_is_too_long),
        MACHINE_TEST(test_live_machine),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
