/* SPDX-License-Identifier: MIT
 *
 * In the guest: CPUs that go and come back, and a cpuset that shrinks, while tasks run. The kernel
 * then moves a pinned thread elsewhere and says nothing. Nothing may be lost, nothing hang. */
#include "tests/numa/guest.h"

#include <stdatomic.h>

/* ---- the load: trees of tasks that yield, sleep a little and are joined ---- */

enum { FAN = 4, DEPTH = 4, TREE = 341 /* 1 + 4 + 16 + 64 + 256 */ };

static atomic_bool enough;
static atomic_ullong trees;

static flow_result tree(void *arg)
{
    intptr_t depth = (intptr_t)arg, sum = 1;
    flow_task tasks[FAN];
    flow_result results[FAN];

    if (depth % 2)
        flow_yield();
    else
        flow_sleep(FLOW_US(50));
    if (depth == DEPTH)
        return flow_ok_i64(1);
    for (int i = 0; i < FAN; i++)
        REQUIRE_EQUAL(flow_spawn(&tasks[i], tree, (void *)(depth + 1)), 0);
    REQUIRE_EQUAL(flow_when_all(tasks, FAN, results, FLOW_FOREVER), 0);
    for (int i = 0; i < FAN; i++)
        sum += results[i].i64;
    return flow_ok_i64(sum);
}

static flow_result load(void *arg)
{
    while (!atomic_load(&enough)) {
        flow_result result;
        flow_task task;

        REQUIRE_EQUAL(flow_spawn(&task, tree, NULL), 0);
        REQUIRE_EQUAL(flow_join(task, &result, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(result.i64, TREE);
        atomic_fetch_add(&trees, 1);
    }
    return flow_ok(arg);
}

static int n_loads;

/* One load per worker, bound to it, so that each worker has timers, wakes and tasks of its own. */
static void begin_load(void)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    struct flow_info info = {.size = sizeof info};

    REQUIRE_EQUAL(flow_start(NULL), 0);
    REQUIRE_EQUAL(flow_info(&info), 0);
    n_loads = info.workers;
    options.flags = FLOW_PINNED;
    for (options.worker = 0; options.worker < n_loads; options.worker++)
        REQUIRE_EQUAL(flow_spawn_with(NULL, &options, load, NULL), 0);
}

/* Every worker goes on: each load ends, and the books balance. */
static void end_load(void)
{
    struct flow_stats stats;

    atomic_store(&enough, true);
    WAIT_UNTIL(test_stats().live == 0);
    stats = test_stats();
    REQUIRE_EQUAL(stats.total.spawned, atomic_load(&trees) * TREE + (unsigned)n_loads);
    child_note("spawned %llu, finished %llu, lost: %llu", (unsigned long long)stats.total.spawned,
               (unsigned long long)stats.total.finished,
               (unsigned long long)(stats.total.spawned - stats.total.finished));
    REQUIRE_EQUAL(stats.total.spawned, stats.total.finished);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* Until the load has made some progress since now. */
static void let_it_run(void)
{
    unsigned long long from = atomic_load(&trees);

    WAIT_UNTIL(atomic_load(&trees) > from + (unsigned)n_loads);
}

/* The worker on a CPU: workers are numbered as CPUs are, where each has one. */
static struct flow_worker_stats worker_on(int cpu)
{
    struct flow_topology_worker is = {.size = sizeof is};
    struct flow_worker_stats stats;

    REQUIRE_EQUAL(flow_topology_worker(cpu, &is), 0);
    REQUIRE_EQUAL(is.cpu_id, cpu);
    REQUIRE_EQUAL(flow_stats_worker(cpu, &stats), 0);
    return stats;
}

static bool is_away(int cpu)
{
    struct flow_worker_stats stats = worker_on(cpu);

    return stats.moved > stats.returned;
}

/* ---- CPUs that go ---- */

static void set_online(int cpu, bool online)
{
    guest_write(online ? "1" : "0", "/sys/devices/system/cpu/cpu%d/online", cpu);
}

CASE(cpus_that_go_and_come_back_under_load)
{
    static const int going[] = {7, 3, 2, 6}; /* in the end node 1 has none, 3 has none */
    int n = sizeof going / sizeof *going;

    begin_load();
    let_it_run();
    for (int i = 0; i < n; i++) {
        set_online(going[i], false);
        let_it_run();
        WAIT_UNTIL(is_away(going[i]));
    }
    for (int i = 0; i < n; i++) {
        set_online(going[i], true);
        let_it_run();
        WAIT_UNTIL(!is_away(going[i]));
    }
    child_note("workers were moved %llu times and went back %llu times",
               (unsigned long long)test_stats().total.moved,
               (unsigned long long)test_stats().total.returned);
    end_load();
}

CASE(a_start_with_cpus_offline)
{
    struct flow_info info = {.size = sizeof info};

    set_online(2, false);
    set_online(3, false); /* all of node 1 */
    set_online(5, false);
    begin_load();
    REQUIRE_EQUAL(flow_info(&info), 0);
    REQUIRE_EQUAL(info.workers, 5);
    REQUIRE_EQUAL(info.pinned, 5);
    let_it_run();
    end_load();
    set_online(2, true);
    set_online(3, true);
    set_online(5, true);
}

/* ---- a cpuset that shrinks ---- */

CASE(a_cpuset_that_shrinks_and_grows_under_load)
{
    guest_make_cgroup("shrinking");
    guest_write("0-7", "/sys/fs/cgroup/shrinking/cpuset.cpus");
    guest_join_cgroup("shrinking");
    begin_load();
    let_it_run();
    guest_write("0-2", "/sys/fs/cgroup/shrinking/cpuset.cpus");
    let_it_run();
    for (int cpu = 3; cpu < 8; cpu++)
        WAIT_UNTIL(is_away(cpu));
    guest_write("4", "/sys/fs/cgroup/shrinking/cpuset.cpus");
    let_it_run();
    WAIT_UNTIL(is_away(0));
    guest_write("0-7", "/sys/fs/cgroup/shrinking/cpuset.cpus");
    let_it_run();
    for (int cpu = 0; cpu < 8; cpu++)
        WAIT_UNTIL(!is_away(cpu));
    child_note("workers were moved %llu times and went back %llu times",
               (unsigned long long)test_stats().total.moved,
               (unsigned long long)test_stats().total.returned);
    end_load();
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
