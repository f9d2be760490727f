/* SPDX-License-Identifier: MIT
 *
 * Which CPU a worker sits on and whom it robs first. Expected orders of victims are written
 * out by hand, from the rules in numa/placement.h. */
#include "numa/placement.h"
#include "tests/support/machine.h"
#include "tests/support/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct flow__seating *seated(int n_workers, bool pin)
{
    static struct flow__seating seating;

    seating = (struct flow__seating){.n_workers = n_workers, .pin = pin};
    return &seating;
}

static void read_machine(struct flow__topology *t)
{
    assert_int_equal(flow__topology_read(t, machine_path(".")), 0);
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
        assert_int_equal(t->cpus[flow__topology_find_cpu(t, p->cpu_id[worker])].node,
                         p->node[worker]);
    }
    free(seen);
}

static void place(struct flow__placement *p, const struct flow__topology *t, int n_workers)
{
    assert_int_equal(flow__placement_make(p, t, seated(n_workers, true)), 0);
    assert_int_equal(p->n_workers, n_workers);
    assert_orders_valid(t, p);
}

static void assert_seats(const struct flow__topology *t, struct flow__seating seating,
                         const char *expected)
{
    struct flow__placement p;
    char text[256] = "";
    int length = 0;

    seating.pin = true;
    assert_int_equal(flow__placement_make(&p, t, &seating), 0);
    assert_orders_valid(t, &p);
    for (int i = 0; i < p.n_workers; i++) {
        assert_int_equal(t->cpus[p.seat[i]].cpu_id, p.cpu_id[i]);
        length += snprintf(text + length, sizeof text - (size_t)length, "%s%d", i ? " " : "",
                           p.cpu_id[i]);
    }
    assert_string_equal(text, expected);
    flow__placement_free(&p);
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
    assert_seats(t, *seated(n_workers, true), expected);
}

/* ---- orders of victims ---- */

static void test_one_node(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    machine_open(&machine_one_node);
    read_machine(&t);
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
    machine_open(&machine_two_sockets);
    read_machine(&t);
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
    machine_open(&machine_four_nodes);
    read_machine(&t);
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
    machine_open(&machine_several_l3);
    read_machine(&t);
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
    machine_open(&machine_four_nodes);
    for (int cpu_id = 0; cpu_id < 4; cpu_id++)
        machine_put_cpu(cpu_id, "cache/index1/shared_cpu_list", "0-3\n");
    read_machine(&t);
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
    machine_open(&machine_sparse_ids);
    read_machine(&t);
    place(&p, &t, 8);
    assert_victims(&p, 0, "1 2 3 4 5 6 7");
    assert_victims(&p, 4, "0 1 2 3 5 6 7"); /* 0 to 3 are equally far */
    flow__placement_free(&p);
    flow__topology_free(&t);
}

static void test_node_without_cpus(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    machine_open(&machine_two_sockets);
    machine_put_node(2, "cpulist", "\n");
    machine_put_node(2, "distance", "14 24 10\n");
    machine_put_node(0, "distance", "10 21 14\n");
    machine_put_node(1, "distance", "21 10 24\n");
    machine_put_memory(2, 4 * MACHINE_GIB_IN_KB);
    read_machine(&t);
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
    machine_open(&machine_two_sockets);
    machine_put("cpu/online", "0-2,4-7\n");
    machine_put_node(1, "cpulist", "2,6-7\n");
    machine_put_cpu(7, "topology/core_cpus_list", "7\n");
    machine_put_cpu(2, "cache/index1/shared_cpu_list", "2,6-7\n");
    machine_put_cpu(3, "topology/core_cpus_list", "");
    read_machine(&t);
    assert_int_equal(flow__topology_find_cpu(&t, 3), -1);
    assert_cpus(&t, 7, "0 1 4 5 2 6 7");
    flow__topology_free(&t);
    machine_put("cpu/online", "8-9\n");
    assert_int_equal(flow__topology_read(&t, machine_path(".")), -EINVAL);
}

static void test_odd_cpuset(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    machine_open(&machine_two_sockets);
    machine_put("affinity", "1,3,5,7\n");
    read_machine(&t);
    place(&p, &t, 4); /* on CPUs 1 5 of node 0 and 3 7 of node 1 */
    assert_victims(&p, 0, "1 2 3");
    assert_victims(&p, 1, "0 3 2");
    assert_victims(&p, 2, "3 0 1");
    flow__placement_free(&p);
    assert_cpus(&t, 2, "1 3");
    flow__topology_free(&t);
    machine_put("affinity", "5-7\n"); /* a core's first CPU is not ours, nor is the cache's */
    read_machine(&t);
    assert_cpus(&t, 3, "5 6 7");
    assert_cpus(&t, 4, "5 5 6 7");
    flow__topology_free(&t);
}

static void test_2048_cpus(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    machine_open(&machine_huge);
    read_machine(&t);
    place(&p, &t, 2048);
    for (int node = 0; node < 8;
         node++) { /* the first victims beyond the own node are all different */
        char hit[2048] = {0};

        for (int worker = 256 * node; worker < 256 * (node + 1); worker++)
            assert_int_equal(hit[flow__placement_victims(&p, worker)[255]]++, 0);
    }
    flow__placement_free(&p);
    flow__topology_free(&t);
}

/* ---- seats ---- */

static void test_cores_before_siblings_and_around_again(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_two_sockets);
    read_machine(&t);
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
    machine_open(&machine_one_node);
    for (int cpu_id = 0; cpu_id < 4; cpu_id++)
        machine_put_cpu(cpu_id, "topology/core_cpus_list", cpu_id < 2 ? "0-1\n" : "2-3\n");
    read_machine(&t);
    assert_cpus(&t, 2, "0 2");
    assert_cpus(&t, 3, "0 1 2");
    assert_cpus(&t, 4, "0 1 2 3");
    flow__topology_free(&t);
}

static void test_some_nodes_only(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_four_nodes);
    read_machine(&t);
    assert_seats(&t, (struct flow__seating){.nodes = 2, .n_workers = 2}, "2 3");
    assert_seats(&t, (struct flow__seating){.nodes = 2 | 8, .n_workers = 5}, "2 2 3 6 7");
    assert_seats(&t, (struct flow__seating){.nodes = 8 | 16, .n_workers = 2}, "6 7");
    assert_seats(&t, (struct flow__seating){.nodes = ~(uint64_t)0, .n_workers = 8},
                 "0 1 2 3 4 5 6 7");
    flow__topology_free(&t);
}

static void test_so_many_workers_per_node(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_two_sockets);
    read_machine(&t);
    assert_seats(&t, (struct flow__seating){.per_node = 1}, "0 2");
    assert_seats(&t, (struct flow__seating){.per_node = 2}, "0 1 2 3");
    assert_seats(&t, (struct flow__seating){.per_node = 3}, "0 1 4 2 3 6");
    assert_seats(&t, (struct flow__seating){.per_node = 5}, "0 0 1 4 5 2 2 3 6 7");
    assert_seats(&t, (struct flow__seating){.per_node = 9, .nodes = 2}, "2 2 2 3 3 6 6 7 7");
    assert_seats(&t, (struct flow__seating){.per_node = 1, .n_workers = -1}, "0 2");
    flow__topology_free(&t);
    machine_put("affinity", "0-5\n"); /* node 0: 0 1 4 5, node 1: 2 3 */
    read_machine(&t);
    assert_seats(&t, (struct flow__seating){.per_node = 3}, "0 1 4 2 2 3");
    flow__topology_free(&t);
}

/* The CPUs whose turn comes last stay free: second threads first, then the highest cores. */
static void test_cpus_are_left_free(void **state)
{
    struct flow__topology t;
    int n_nodes;

    (void)state;
    machine_open(&machine_two_sockets);
    read_machine(&t);
    assert_seats(&t, (struct flow__seating){.leave_cpus = 1, .n_workers = 6}, "0 1 4 2 3 6");
    assert_seats(&t, (struct flow__seating){.leave_cpus = 1, .n_workers = 7}, "0 0 1 4 2 3 6");
    assert_seats(&t, (struct flow__seating){.leave_cpus = 3, .n_workers = 2}, "0 2");
    assert_seats(&t, (struct flow__seating){.leave_cpus = 3, .per_node = 2}, "0 0 2 2");
    assert_int_equal(flow__seats(&t, &(struct flow__seating){.leave_cpus = 1}, &n_nodes), 6);
    assert_int_equal(n_nodes, 2);
    assert_int_equal(flow__seats(&t, &(struct flow__seating){.leave_cpus = 4}, &n_nodes), 0);
    assert_int_equal(n_nodes, 0);
    flow__topology_free(&t);
    machine_put("affinity", "0-3,5-7\n"); /* node 0: 0 1 5 and node 1: 2 3 6 7 */
    read_machine(&t);
    assert_seats(&t, (struct flow__seating){.leave_cpus = 3, .n_workers = 2}, "2 2");
    assert_int_equal(flow__seats(&t, &(struct flow__seating){.leave_cpus = 3}, &n_nodes), 1);
    assert_int_equal(n_nodes, 1);
    flow__topology_free(&t);
}

static void test_no_seat_at_all(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    machine_open(&machine_four_nodes);
    read_machine(&t);
    assert_int_equal(
        flow__placement_make(&p, &t, &(struct flow__seating){.nodes = 16, .n_workers = 1}),
        -ENODEV);
    assert_int_equal(
        flow__placement_make(&p, &t, &(struct flow__seating){.leave_cpus = 2, .n_workers = 1}),
        -ENODEV);
    assert_int_equal(flow__placement_make(&p, &t, &(struct flow__seating){.per_node = 0x40000001}),
                     -EINVAL);
    assert_null(p.victims);
    flow__topology_free(&t);
}

/* A set has 64 bits; nodes beyond are in it only if it is empty. */
static void test_more_nodes_than_a_set_can_name(void **state)
{
    enum { N = 70 };
    struct flow__cpu cpus[N];
    struct flow__node nodes[N];
    static int distances[N * N];
    const struct flow__topology t = {cpus, nodes, distances, N, N, false};
    int n_nodes;

    (void)state;
    for (int i = 0; i < N; i++) {
        cpus[i] = (struct flow__cpu){i, i, i, i};
        nodes[i] = (struct flow__node){i, 1, 1 << 20, true, i};
        for (int j = 0; j < N; j++)
            distances[i * N + j] = i == j ? 10 : 20;
    }
    assert_int_equal(flow__seats(&t, &(struct flow__seating){0}, &n_nodes), N);
    assert_int_equal(flow__seats(&t, &(struct flow__seating){.nodes = ~(uint64_t)0}, &n_nodes), 64);
    assert_seats(&t, (struct flow__seating){.nodes = (uint64_t)1 << 63 | 1 << 6, .per_node = 1},
                 "6 63");
}

/* Two sockets, each with two L3 caches and SMT, as AMD builds them: sibling, cache, node, socket. */
static void test_several_l3_in_each_of_two_sockets(void **state)
{
    static const struct machine amd = {2, 4, 2, 2, {0, 1}, {"10 32\n", "32 10\n"}};
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    machine_open(&amd);
    read_machine(&t);
    place(&p, &t, 16); /* on CPUs 0-3 8-11 of node 0 and 4-7 12-15 of node 1 */
    assert_int_equal(p.cpu_id[4], 8);
    assert_int_equal(p.cpu_id[8], 4);
    assert_victims(&p, 0, "4 1 5 2 3 6 7 8 9 10 11 12 13 14 15");
    assert_victims(&p, 4, "0 5 1 6 7 2 3 12 13 14 15 8 9 10 11");
    assert_victims(&p, 13, "9 8 12 15 10 11 14 5 6 7 0 1 2 3 4");
    flow__placement_free(&p);
    flow__topology_free(&t);
}

static void test_unpinned_workers_and_bad_counts(void **state)
{
    struct flow__topology t;
    struct flow__placement p;

    (void)state;
    machine_open(&machine_two_sockets);
    read_machine(&t);
    assert_int_equal(flow__placement_make(&p, &t, seated(8, false)), 0);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(p.cpu_id[i], -1);
        assert_int_equal(p.node[i], i / 4);
    }
    assert_victims(&p, 1, "3 2 0 5 6 7 4");
    flow__placement_free(&p);
    assert_int_equal(flow__placement_make(&p, &t, seated(0, true)), -EINVAL);
    assert_int_equal(flow__placement_make(&p, &t, seated(-1, true)), -EINVAL);
    assert_int_equal(flow__placement_make(&p, &t, seated(65536, true)), -EINVAL);
    flow__topology_free(&t);
}

static void test_default_workers(void **state)
{
    struct flow__topology t;

    (void)state;
    machine_open(&machine_two_sockets);
    read_machine(&t);
    assert_int_equal(flow__placement_default_workers(t.n_cpus, 0), 8);
    assert_int_equal(flow__placement_default_workers(t.n_cpus, -1), 8);
    assert_int_equal(flow__placement_default_workers(t.n_cpus, 0.05), 1);
    assert_int_equal(flow__placement_default_workers(t.n_cpus, 1), 1);
    assert_int_equal(flow__placement_default_workers(t.n_cpus, 1.5), 2);
    assert_int_equal(flow__placement_default_workers(t.n_cpus, 7.01), 8);
    assert_int_equal(flow__placement_default_workers(t.n_cpus, 1e300), 8);
    flow__topology_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(test_one_node),
        MACHINE_TEST(test_two_sockets_with_smt),
        MACHINE_TEST(test_four_nodes_at_three_distances),
        MACHINE_TEST(test_several_l3_in_a_node),
        MACHINE_TEST(test_l3_that_spans_nodes),
        MACHINE_TEST(test_sparse_node_ids),
        MACHINE_TEST(test_node_without_cpus),
        MACHINE_TEST(test_offline_cpus),
        MACHINE_TEST(test_odd_cpuset),
        MACHINE_TEST(test_2048_cpus),
        MACHINE_TEST(test_cores_before_siblings_and_around_again),
        MACHINE_TEST(test_cores_before_neighbouring_siblings),
        MACHINE_TEST(test_some_nodes_only),
        MACHINE_TEST(test_so_many_workers_per_node),
        MACHINE_TEST(test_cpus_are_left_free),
        MACHINE_TEST(test_no_seat_at_all),
        MACHINE_TEST(test_more_nodes_than_a_set_can_name),
        MACHINE_TEST(test_several_l3_in_each_of_two_sockets),
        MACHINE_TEST(test_unpinned_workers_and_bad_counts),
        MACHINE_TEST(test_default_workers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
