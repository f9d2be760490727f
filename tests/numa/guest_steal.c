/* SPDX-License-Identifier: MIT
 *
 * In the guest: where work runs. A balanced load stays on its nodes; of a load that arises on one
 * node every node gets some; and who has the choice robs the nearer node. Work is counted in
 * steps and not in time, which means nothing in an emulated machine. */
#include "tests/numa/guest.h"

#include <stdatomic.h>

static int n_nodes;
static uint64_t matrix[GUEST_MOST][GUEST_MOST]; /* tasks, [from][to] */

static flow_result steps(void *arg)
{
    volatile uint64_t x = (uintptr_t)arg;

    for (int i = 0; i < 3000; i++)
        x = x * 6364136223846793005u + 1442695040888963407u;
    return flow_ok_u64(x);
}

static void start(void)
{
    REQUIRE_EQUAL(flow_start(NULL), 0);
    n_nodes = flow_topology_nodes();
}

static struct flow_topology_node node_at(int node)
{
    struct flow_topology_node is = {.size = sizeof is};

    REQUIRE_EQUAL(flow_topology_node(node, &is), 0);
    return is;
}

static void read_matrix(void)
{
    for (int i = 0; i < n_nodes * n_nodes; i++)
        REQUIRE_EQUAL(flow_stats_steals(i / n_nodes, i % n_nodes, NULL, &matrix[i / n_nodes][i % n_nodes]), 0);
}

static void show_matrix(void)
{
    char line[256];

    for (int from = 0; from < n_nodes; from++) {
        int n = snprintf(line, sizeof line, "stolen from node %d by nodes 0 to %d:", from, n_nodes - 1);

        for (int to = 0; to < n_nodes; to++)
            n += snprintf(line + n, sizeof line - (size_t)n, " %llu",
                          (unsigned long long)matrix[from][to]);
        child_note("%s", line);
    }
}

static void stop(void)
{
    struct flow_stats stats;

    WAIT_UNTIL(test_stats().live == 0);
    stats = test_stats();
    child_note("lost: %llu", (unsigned long long)(stats.total.spawned - stats.total.finished));
    REQUIRE_EQUAL(stats.total.spawned, stats.total.finished);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* A coroutine on the first worker of a node; joined by the caller. */
static flow_task on_node(int node, flow_fn fn, void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    flow_task task;

    options.worker = node_at(node).first_worker;
    options.flags = FLOW_PINNED;
    REQUIRE_EQUAL(flow_spawn_with(&task, &options, fn, arg), 0);
    return task;
}

/* ---- a balanced load ---- */

enum { WAVE = 100, DISPATCHES = 30000 };

static atomic_bool enough;

/* Always has work for its worker, until all have done enough. */
static flow_result keep_filled(void *arg)
{
    flow_task tasks[WAVE];

    while (!atomic_load(&enough)) {
        for (int i = 0; i < WAVE; i++)
            REQUIRE_EQUAL(flow_spawn(&tasks[i], steps, arg), 0);
        REQUIRE_EQUAL(flow_when_all(tasks, WAVE, NULL, FLOW_FOREVER), 0);
    }
    return flow_ok(NULL);
}

/* Fewer than one in a hundred were stolen across nodes, in some stretch: a host that is busy stops CPUs for
 * so long that their nodes are helped, as they should be. */
static bool stays_at_home(void)
{
    struct flow_stats before = test_stats(), after;
    uint64_t steals, dispatches;

    WAIT_UNTIL(test_stats().total.dispatches > before.total.dispatches + DISPATCHES);
    after = test_stats();
    steals = after.total.remote_steals - before.total.remote_steals;
    dispatches = after.total.dispatches - before.total.dispatches;
    child_note("balanced: %llu steals across nodes for %llu dispatches (%.3f %%)",
               (unsigned long long)steals, (unsigned long long)dispatches,
               100.0 * (double)steals / (double)dispatches);
    return steals * 100 < dispatches;
}

CASE(a_balanced_load_stays_on_its_nodes)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    int n, stretches = 1;

    start();
    n = test_stats().workers;
    options.flags = FLOW_PINNED;
    /* Two for each worker, so that one can go on while the other waits. */
    for (int i = 0; i < 2 * n; i++) {
        options.worker = i % n;
        REQUIRE_EQUAL(flow_spawn_with(NULL, &options, keep_filled, NULL), 0);
    }
    while (!stays_at_home() && stretches < 10)
        stretches++;
    atomic_store(&enough, true);
    read_matrix();
    show_matrix();
    REQUIRE(stretches < 10);
    stop();
}

/* ---- a load from one node ---- */

enum { TASKS = 4000, ENOUGH = 300 };

/* Waves of tasks, all from here, until all nodes have had enough. */
static flow_result spawn_waves(void *arg)
{
    static flow_task tasks[TASKS];
    intptr_t n = 0;

    while (!atomic_load(&enough)) {
        for (intptr_t i = 0; i < TASKS; i++)
            REQUIRE_EQUAL(flow_spawn(&tasks[i], steps, arg), 0);
        REQUIRE_EQUAL(flow_when_all(tasks, TASKS, NULL, FLOW_FOREVER), 0);
        n += TASKS;
    }
    return flow_ok_i64(n);
}

static uint64_t finished_on(int node)
{
    struct flow_topology_node is = node_at(node);
    uint64_t sum = 0;

    for (int i = 0; i < is.workers; i++) {
        struct flow_worker_stats stats;

        REQUIRE_EQUAL(flow_stats_worker(is.first_worker + i, &stats), 0);
        sum += stats.finished;
    }
    return sum;
}

CASE(every_node_helps_with_a_load_from_one)
{
    flow_result spawned;
    flow_task task;

    start();
    task = on_node(0, spawn_waves, NULL);
    for (int node = 0; node < n_nodes; node++)
        if (node_at(node).workers > 0)
            WAIT_UNTIL(finished_on(node) > ENOUGH);
    atomic_store(&enough, true);
    REQUIRE_EQUAL(flow_join(task, &spawned, FLOW_FOREVER), 0);
    read_matrix();
    show_matrix();
    for (int node = 0; node < n_nodes; node++) {
        child_note("node %d ran %llu of %lld tasks, all spawned on node 0", node,
                   (unsigned long long)finished_on(node), (long long)spawned.i64);
        if (node > 0 && node_at(node).workers > 0)
            REQUIRE(matrix[0][node] > 0);
    }
    stop();
}

/* ---- the choice between a near and a far node ---- */

static atomic_int filled, held;

/* Keeps a worker from looking for work until both loads are there. */
static flow_result hold(void *unused)
{
    (void)unused;
    atomic_fetch_add(&held, 1);
    while (atomic_load(&filled) < 2)
        ;
    return flow_ok(NULL);
}

/* Judged while both have some: at the end one is empty, and the other the only choice. */
static flow_result steps_then_judge(void *arg)
{
    static atomic_int n;

    if (atomic_fetch_add(&n, 1) == TASKS / 2)
        read_matrix();
    return steps(arg);
}

static flow_result spawn_all_and_say_so(void *arg)
{
    flow_task *tasks = arg;

    for (intptr_t i = 0; i < TASKS; i++)
        REQUIRE_EQUAL(flow_spawn(&tasks[i], steps_then_judge, (void *)i), 0);
    atomic_fetch_add(&filled, 1);
    hold(NULL);
    REQUIRE_EQUAL(flow_when_all(tasks, TASKS, NULL, FLOW_FOREVER), 0);
    return flow_ok(NULL);
}

static void hold_workers(void)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    int n = test_stats().workers, n_held = 0;

    options.flags = FLOW_PINNED;
    for (options.worker = 0; options.worker < n; options.worker++)
        if (options.worker != node_at(0).first_worker && options.worker != node_at(2).first_worker) {
            REQUIRE_EQUAL(flow_spawn_with(NULL, &options, hold, NULL), 0);
            n_held++;
        }
    WAIT_UNTIL(atomic_load(&held) == n_held);
}

/* Nodes 0 and 2 have more than enough; 1 is near 0, 3 is near 2. */
CASE(near_nodes_are_robbed_before_far_ones)
{
    static flow_task tasks[2][TASKS];
    flow_task first, second;
    uint64_t near, far;

    start();
    hold_workers();
    first = on_node(0, spawn_all_and_say_so, tasks[0]);
    second = on_node(2, spawn_all_and_say_so, tasks[1]);
    REQUIRE_EQUAL(flow_join(first, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_join(second, NULL, FLOW_FOREVER), 0);
    show_matrix();
    near = matrix[0][1] + matrix[2][3];
    far = matrix[0][3] + matrix[2][1];
    child_note("robbed at distance 12: %llu tasks, at distance 21: %llu", (unsigned long long)near,
               (unsigned long long)far);
    REQUIRE(near > 0);
    REQUIRE(near > 10 * far);
    stop();
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
