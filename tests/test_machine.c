/* SPDX-License-Identifier: MIT
 *
 * The runtime on machines that are not there (FLOW_TOPOLOGY): where its workers are, by every
 * option, and what the program can learn of machine and places by public calls. */
#include "core/worker.h"
#include "numa/node_memory.h"
#include "tests/support/child.h"
#include "tests/support/machine.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static struct flow_options workers(int n)
{
    struct flow_options o = FLOW_OPTIONS_INIT;

    o.workers = n;
    return o;
}

static struct flow_info info_now(void)
{
    struct flow_info info = {.size = sizeof info};

    REQUIRE_EQUAL(flow_info(&info), 0);
    return info;
}

/* ---- FLOW_TOPOLOGY ---- */

CASE(workers_have_the_nodes_of_the_fixture_and_run_unpinned)
{
    struct flow_options o = workers(8);
    struct flow_info info;

    machine_use(&machine_four_nodes);
    test_start_with(&o);
    info = info_now();
    REQUIRE_EQUAL(info.workers, 8);
    REQUIRE_EQUAL(info.nodes, 4);
    REQUIRE_EQUAL(info.cpus, 8);
    REQUIRE_EQUAL(info.pinned, 0);
    for (int i = 0; i < 8; i++) {
        REQUIRE_EQUAL(flow__runtime.workers[i].node, i / 2);
        REQUIRE_EQUAL(flow__runtime.workers[i].cpu_id, -1);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    machine_close();
    test_start_with(NULL); /* the real machine again */
    REQUIRE(info_now().pinned > 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CHILD(start_on_four_nodes)
{
    machine_use(&machine_four_nodes);
    test_start_with(NULL);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

JUDGED(that_its_nodes_are_not_there_is_no_news)
{
    static struct child_end end;

    child_run(&end, "start_on_four_nodes", "");
    child_must_exit(&end, 0);
    assert_string_equal(end.text, "");
}

CASE(without_a_number_there_is_a_worker_for_each_cpu_of_the_fixture)
{
    machine_use(&machine_two_sockets);
    test_start_with(NULL);
    REQUIRE_EQUAL(info_now().workers, 8);
    REQUIRE_EQUAL(flow__runtime.workers[7].node, 1);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result count(void *arg)
{
    __atomic_fetch_add((long *)arg, 1, __ATOMIC_RELAXED);
    return flow_err(flow_sleep(1000));
}

static flow_result compute(void *arg)
{
    test_nap(FLOW_MS(2));
    return flow_ok(arg);
}

static flow_result compute_elsewhere(void *arg)
{
    return flow_offload(FLOW_LANE_CPU, compute, arg, FLOW_FOREVER);
}

/* Threads for computing and spinning go by the CPUs that there really are. */
CASE(a_huge_fixture_works_on_a_small_machine)
{
    struct flow_options o = workers(32);
    cpu_set_t real;
    long n = 0;

    CPU_ZERO(&real);
    REQUIRE_EQUAL(sched_getaffinity(0, sizeof real, &real), 0);
    if (CPU_COUNT(&real) >= 32)
        skip_case("this machine is not small");
    o.max_tasks = 10000; /* an emulator notes each page of what is reserved, which each node does */
    machine_use(&machine_huge);
    test_start_with(&o);
    REQUIRE_EQUAL(info_now().cpus, 2048);
    REQUIRE_EQUAL(flow__runtime.workers[0].spin_max_ns, 0);
    for (int i = 0; i < 2000; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, count, &n), 0);
    WAIT_UNTIL(test_stats().live == 0);
    REQUIRE_EQUAL(n, 2000);
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, compute_elsewhere, NULL), 0);
    WAIT_UNTIL(test_stats().live == 0);
    REQUIRE_EQUAL(test_stats().offloaded, 100);
    REQUIRE_EQUAL(test_stats().offload_threads, CPU_COUNT(&real));
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(a_broken_fixture_is_named)
{
    static const struct {
        const char *affinity, *why;
    } broken[] = {
        {NULL, "nothing of CPUs"}, {"", "o data"}, {"x\n", "no sense"}, {"\n", "no sense"}};
    struct flow_options o = workers(1);

    machine_use(NULL);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        if (broken[i].affinity)
            machine_put("affinity", broken[i].affinity);
        REQUIRE_EQUAL(flow_start(&o), -EINVAL);
        REQUIRE(strstr(flow_start_error(), "FLOW_TOPOLOGY="));
        REQUIRE(strstr(flow_start_error(), getenv("FLOW_TOPOLOGY")));
        if (!strstr(flow_start_error(), broken[i].why)) {
            fprintf(stderr, "affinity \"%s\": %s\n", broken[i].affinity, flow_start_error());
            REQUIRE(!"says why");
        }
    }
    setenv("FLOW_TOPOLOGY", "/nowhere/at/all", 1);
    REQUIRE_EQUAL(flow_start(&o), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "/nowhere/at/all: there is no such folder"));
    setenv("FLOW_TOPOLOGY", "", 1); /* as if it were not set */
    test_start_with(&o);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- options ---- */

/* The kernel's CPU numbers under the workers, and their nodes: "0:0 1:0 2:1". */
static const char *places(void)
{
    static char text[512];
    int n = info_now().workers, length = 0;

    text[0] = 0;
    for (int i = 0; i < n; i++) {
        struct flow_topology_worker w = {.size = sizeof w};

        REQUIRE_EQUAL(flow_topology_worker(i, &w), 0);
        REQUIRE(!w.pinned);
        length += snprintf(text + length, sizeof text - (size_t)length, "%s%d:%d", i ? " " : "",
                           w.cpu_id, w.node);
    }
    return text;
}

static void places_must_be(const char *options, const char *expected)
{
    struct flow_options o = FLOW_OPTIONS_INIT;

    REQUIRE_EQUAL(flow_options_parse(&o, options), 0);
    test_start_with(&o);
    if (strcmp(places(), expected)) {
        fprintf(stderr, "options \"%s\": workers on %s, not on %s\n", options, places(), expected);
        REQUIRE(!"as expected");
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(workers_sit_where_options_say_on_four_nodes)
{
    machine_use(&machine_four_nodes);
    places_must_be("", "0:0 1:0 2:1 3:1 4:2 5:2 6:3 7:3");
    places_must_be("workers=3", "0:0 1:0 2:1");
    places_must_be("workers_per_node=1", "0:0 2:1 4:2 6:3");
    places_must_be("workers_per_node=3", "0:0 0:0 1:0 2:1 2:1 3:1 4:2 4:2 5:2 6:3 6:3 7:3");
    places_must_be("nodes=2", "4:2 5:2");
    places_must_be("nodes=1+3", "2:1 3:1 6:3 7:3");
    places_must_be("nodes=3+0-1", "0:0 1:0 2:1 3:1 6:3 7:3");
    places_must_be("nodes=1+3 workers=1", "2:1");
    places_must_be("nodes=1+3 workers=5", "2:1 2:1 3:1 6:3 7:3");
    places_must_be("nodes=2-3 workers_per_node=1", "4:2 6:3");
    places_must_be("leave_cpus=1", "0:0 2:1 4:2 6:3");
    places_must_be("leave_cpus=1 workers=6", "0:0 0:0 2:1 2:1 4:2 6:3");
    places_must_be("leave_cpus=1 nodes=0+2 workers_per_node=2", "0:0 0:0 4:2 4:2");
    places_must_be("nodes=all leave_cpus=0", "0:0 1:0 2:1 3:1 4:2 5:2 6:3 7:3");
}

CASE(second_threads_of_cores_are_left_free_first)
{
    machine_use(&machine_two_sockets);
    places_must_be("leave_cpus=1", "0:0 1:0 4:0 2:1 3:1 6:1");
    places_must_be("leave_cpus=2", "0:0 1:0 2:1 3:1");
    places_must_be("leave_cpus=3", "0:0 2:1");
    places_must_be("workers_per_node=2", "0:0 1:0 2:1 3:1");
    places_must_be("workers_per_node=3 leave_cpus=2", "0:0 0:0 1:0 2:1 2:1 3:1");
}

CASE(a_node_with_too_few_cpus_to_leave_some_has_no_workers)
{
    machine_use(&machine_four_nodes);
    machine_put("affinity", "0-2,4-7\n"); /* of node 1 only CPU 2 is ours */
    places_must_be("leave_cpus=1", "0:0 4:2 6:3");
    places_must_be("leave_cpus=1 workers_per_node=2", "0:0 0:0 4:2 4:2 6:3 6:3");
}

static void start_must_say(const char *options, const char *text)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    struct flow_info info = {.size = sizeof info};

    REQUIRE_EQUAL(flow_options_parse(&o, options), 0);
    REQUIRE_EQUAL(flow_start(&o), -EINVAL);
    if (!strstr(flow_start_error(), text)) {
        fprintf(stderr, "options \"%s\": %s\n", options, flow_start_error());
        REQUIRE(!"the right words");
    }
    REQUIRE_EQUAL(flow_info(&info), -ESHUTDOWN);
}

CASE(what_cannot_be_had_is_said)
{
    machine_use(&machine_four_nodes);
    machine_put_node(4, "cpulist", "\n");
    machine_put_memory(4, MACHINE_GIB_IN_KB);
    start_must_say("nodes=4", "option nodes: node 4 has no CPU");
    start_must_say("nodes=0+4", "option nodes: node 4 has no CPU");
    start_must_say("nodes=5", "option nodes: there is no node 5, the last one is 4");
    start_must_say("nodes=0-63", "option nodes: node 4 has no CPU");
    start_must_say("nodes=63", "there is no node 63");
    start_must_say("leave_cpus=2", "option leave_cpus is 2: that leaves no CPU");
    start_must_say("leave_cpus=65535", "option leave_cpus is 65535: that leaves no CPU");
    start_must_say("workers_per_node=257", "option workers_per_node is 257: on 4 nodes");
    start_must_say("workers_per_node=1024", "option workers_per_node is 1024");
    places_must_be("workers_per_node=1", "0:0 2:1 4:2 6:3");
}

CASE(options_exclude_each_other_unless_one_is_later)
{
    struct flow_options o = workers(2);

    o.workers_per_node = 1;
    REQUIRE_EQUAL(flow_start(&o), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "workers_per_node"));
    o.workers = 0;
    REQUIRE_EQUAL(flow_start(&o), -EINVAL);
    machine_use(&machine_four_nodes);
    places_must_be("workers=2 workers_per_node=1", "0:0 2:1 4:2 6:3");
    places_must_be("workers_per_node=1 workers=2", "0:0 1:0");
    places_must_be("workers_per_node=1 workers=auto", "0:0 1:0 2:1 3:1 4:2 5:2 6:3 7:3");
    places_must_be("workers=auto workers_per_node=1", "0:0 2:1 4:2 6:3");
    places_must_be("workers=2 workers_per_node=0", "0:0 1:0");
    setenv("FLOW_WORKERS", "1", 1);
    places_must_be("workers_per_node=1", "0:0");
    setenv("FLOW_WORKERS", "auto", 1);
    places_must_be("workers_per_node=1", "0:0 1:0 2:1 3:1 4:2 5:2 6:3 7:3");
    setenv("FLOW_OPTIONS", "workers_per_node=1 nodes=2-3", 1);
    places_must_be("", "4:2 6:3");
}

static flow_result my_node(void *arg)
{
    (void)arg;
    return flow_ok_i64(flow_current_node());
}

CASE(tasks_start_on_nodes_that_have_workers)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    struct flow_spawn_options spawn = FLOW_SPAWN_INIT;
    struct flow_topology_node node = {.size = sizeof node};
    flow_result result;
    flow_task task;

    machine_use(&machine_four_nodes);
    o.nodes = 1 | 1 << 3;
    test_start_with(&o);
    for (int i = 0; i < 4; i++) {
        REQUIRE_EQUAL(flow_topology_node(i, &node), 0);
        REQUIRE_EQUAL(node.workers, i % 3 ? 0 : 2);
        REQUIRE_EQUAL(node.cpus, 2);
        spawn.node = i;
        REQUIRE_EQUAL(flow_spawn_with(&task, &spawn, my_node, NULL), i % 3 ? -EINVAL : 0);
        if (i % 3)
            continue;
        REQUIRE_EQUAL(flow_join(task, &result, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(result.i64, i);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* Of driven runtimes too the one place is on a node that may be used. */
CASE(a_driven_runtime_sits_on_a_node_of_the_set)
{
    struct flow_options o = workers(0);
    struct flow_topology_worker w = {.size = sizeof w};

    machine_use(&machine_four_nodes);
    o.nodes = 1 << 2 | 1 << 3;
    test_start_with(&o);
    REQUIRE_EQUAL(flow_topology_worker(0, &w), 0);
    REQUIRE_EQUAL(w.node, 2);
    REQUIRE_EQUAL(w.cpu_id, 4);
    REQUIRE_EQUAL(flow_topology_worker(1, &w), -EINVAL);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* Node 1 has no memory: its workers use that of node 2, which is nearer than node 0. */
CASE(workers_of_a_node_without_memory_are_told_the_nearest)
{
    struct flow_topology_node node = {.size = sizeof node};

    machine_use(&machine_three_nodes);
    machine_put_memory(1, 0);
    test_start_with(NULL);
    REQUIRE_EQUAL(flow_topology_node(1, &node), 0);
    REQUIRE_EQUAL(node.memory_bytes, 0);
    REQUIRE(!node.memory_allowed);
    REQUIRE_EQUAL(node.memory_node, 2);
    REQUIRE_EQUAL(node.workers, 2);
    REQUIRE_EQUAL(node.first_worker, 2);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- what the program can learn ---- */

CASE(nodes_and_cpus_are_described_with_and_without_a_runtime)
{
    struct flow_topology_node node = {.size = sizeof node};
    struct flow_topology_cpu cpu = {.size = sizeof cpu};
    struct flow_topology_worker worker = {.size = sizeof worker};

    machine_use(&machine_sparse_ids);
    for (int runs = 0; runs < 2; runs++) {
        if (runs)
            test_start_with(NULL);
        REQUIRE_EQUAL(flow_topology_nodes(), 8);
        REQUIRE_EQUAL(flow_topology_cpus(), 8);
        REQUIRE_EQUAL(flow_topology_node(6, &node), 0);
        REQUIRE_EQUAL(node.node_id, 64);
        REQUIRE_EQUAL(node.cpus, 1);
        REQUIRE_EQUAL(node.memory_bytes, 1 << 30);
        REQUIRE(node.memory_allowed);
        REQUIRE_EQUAL(node.memory_node, 6);
        REQUIRE_EQUAL(node.workers, runs);
        REQUIRE_EQUAL(node.first_worker, runs ? 6 : 0);
        REQUIRE_EQUAL(flow_topology_cpu(5, &cpu), 0);
        REQUIRE_EQUAL(cpu.cpu_id, 5);
        REQUIRE_EQUAL(cpu.node, 5);
        REQUIRE_EQUAL(flow_topology_distance(0, 6), 16);
        REQUIRE_EQUAL(flow_topology_distance(7, 7), 10);
        REQUIRE_EQUAL(flow_topology_worker(0, &worker), runs ? 0 : -ESHUTDOWN);

        REQUIRE_EQUAL(flow_topology_node(8, &node), -EINVAL);
        REQUIRE_EQUAL(flow_topology_node(-1, &node), -EINVAL);
        REQUIRE_EQUAL(flow_topology_cpu(8, &cpu), -EINVAL);
        REQUIRE_EQUAL(flow_topology_cpu(-1, &cpu), -EINVAL);
        REQUIRE_EQUAL(flow_topology_distance(0, 8), -EINVAL);
        REQUIRE_EQUAL(flow_topology_distance(8, 0), -EINVAL);
        REQUIRE_EQUAL(flow_topology_distance(-1, 0), -EINVAL);
        REQUIRE_EQUAL(flow_topology_distance(0, -1), -EINVAL);
    }
    REQUIRE_EQUAL(flow_topology_worker(8, &worker), -EINVAL);
    REQUIRE_EQUAL(flow_topology_worker(-1, &worker), -EINVAL);
    node.size = cpu.size = worker.size = 1;
    REQUIRE_EQUAL(flow_topology_node(0, &node), -EINVAL);
    REQUIRE_EQUAL(flow_topology_cpu(0, &cpu), -EINVAL);
    REQUIRE_EQUAL(flow_topology_worker(0, &worker), -EINVAL);
    REQUIRE_EQUAL(flow_topology_node(0, NULL), -EINVAL);
    REQUIRE_EQUAL(flow_topology_cpu(0, NULL), -EINVAL);
    REQUIRE_EQUAL(flow_topology_worker(0, NULL), -EINVAL);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(siblings_and_caches_are_described)
{
    struct flow_topology_cpu cpu = {.size = sizeof cpu};

    machine_use(&machine_two_sockets);
    REQUIRE_EQUAL(flow_topology_cpu(7, &cpu), 0);
    REQUIRE_EQUAL(cpu.cpu_id, 7);
    REQUIRE_EQUAL(cpu.node, 1);
    REQUIRE_EQUAL(cpu.core, 3);
    REQUIRE_EQUAL(cpu.l3_cache, 2);
}

CASE(without_a_runtime_the_machine_is_kept_until_the_next_start)
{
    struct flow_options o = workers(1);

    machine_use(&machine_four_nodes);
    REQUIRE_EQUAL(flow_topology_nodes(), 4);
    machine_use(&machine_one_node);
    REQUIRE_EQUAL(flow_topology_nodes(), 4);
    test_start_with(&o);
    REQUIRE_EQUAL(flow_topology_nodes(), 1);
    machine_use(&machine_four_nodes);
    REQUIRE_EQUAL(flow_topology_nodes(), 1);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_topology_nodes(), 4);
    machine_use(NULL);
    REQUIRE_EQUAL(flow_start(&o), -EINVAL);
    REQUIRE_EQUAL(flow_topology_nodes(), -EINVAL);
    REQUIRE_EQUAL(flow_topology_cpus(), -EINVAL);
    REQUIRE_EQUAL(flow_current_node(), -EINVAL);
    machine_use(&machine_one_node);
    REQUIRE_EQUAL(flow_topology_nodes(), 1); /* a failure is not kept */
}

struct here {
    int worker, node, cpu;
};

static flow_result look_around(void *arg)
{
    struct here *here = arg;

    flow_yield();
    here->worker = flow_current_worker();
    here->node = flow_current_node();
    here->cpu = flow_current_cpu();
    REQUIRE_EQUAL(flow_topology_nodes(), 4);
    return flow_ok(NULL);
}

CASE(a_coroutine_knows_where_it_is)
{
    struct flow_options o = workers(8);

    machine_use(&machine_four_nodes);
    REQUIRE_EQUAL(flow_current_worker(), -ESHUTDOWN);
    REQUIRE_EQUAL(flow_current_node(), -ENODEV);
    REQUIRE_EQUAL(flow_current_cpu(), -ENODEV);
    test_start_with(&o);
    for (int i = 0; i < 8; i++) {
        struct flow_spawn_options spawn = FLOW_SPAWN_INIT;
        struct here here = {-1, -1, -1};
        flow_task task;

        spawn.worker = i;
        spawn.flags = FLOW_PINNED;
        REQUIRE_EQUAL(flow_spawn_with(&task, &spawn, look_around, &here), 0);
        REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(here.worker, i);
        REQUIRE_EQUAL(here.node, i / 2);
        REQUIRE_EQUAL(here.cpu, i);
    }
    REQUIRE_EQUAL(flow_current_worker(), -EPERM);
    REQUIRE_EQUAL(flow_current_node(), -ENODEV);
    REQUIRE_EQUAL(flow_current_cpu(), -ENODEV);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result look_around_live(void *arg)
{
    struct here *here = arg;
    cpu_set_t mask;

    CPU_ZERO(&mask);
    REQUIRE_EQUAL(sched_getaffinity(0, sizeof mask, &mask), 0);
    here->worker = flow_current_worker();
    here->node = flow_current_node();
    here->cpu = flow_current_cpu();
    REQUIRE(CPU_COUNT(&mask) > 1 || CPU_ISSET((size_t)here->cpu, &mask));
    REQUIRE_EQUAL(here->cpu, sched_getcpu());
    return flow_ok(NULL);
}

CASE(on_the_real_machine_one_knows_it_too)
{
    struct flow_topology_node node = {.size = sizeof node};
    struct flow_topology_worker w = {.size = sizeof w};
    struct here here;
    int total = 0, n;

    unsetenv("FLOW_TOPOLOGY");
    n = flow_topology_nodes();
    REQUIRE(n >= 1);
    for (int i = 0; i < n; i++) {
        REQUIRE_EQUAL(flow_topology_node(i, &node), 0);
        total += node.cpus;
    }
    REQUIRE_EQUAL(total, flow_topology_cpus());
    REQUIRE(flow_current_node() >= 0 && flow_current_node() < n);
    REQUIRE(flow_current_cpu() >= 0);
    test_start_with(NULL);
    REQUIRE(flow_current_node() >= 0 && flow_current_node() < n);
    REQUIRE_EQUAL(flow_topology_cpus(), info_now().cpus);
    REQUIRE_EQUAL(flow_sync_wait(look_around_live, &here, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_topology_worker(here.worker, &w), 0);
    REQUIRE_EQUAL(w.node, here.node);
    if (w.pinned)
        REQUIRE_EQUAL(w.cpu_id, here.cpu);
    REQUIRE_EQUAL(w.pinned, info_now().pinned == info_now().workers);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow__atomic(bool) enough;

static void *look_and_look(void *seen)
{
    struct flow_topology_node node = {.size = sizeof node};
    struct flow_topology_worker w = {.size = sizeof w};

    while (!load_relaxed(&enough)) {
        int n = flow_topology_cpus(), r;

        REQUIRE(n == 8 || n == 2);
        REQUIRE_EQUAL(flow_topology_node(1, &node), 0);
        REQUIRE(node.cpus == 2 || node.cpus == 1);
        REQUIRE_EQUAL(flow_topology_distance(1, 0), 12);
        r = flow_topology_worker(1, &w);
        REQUIRE(r == -ESHUTDOWN || (r == 0 && w.cpu_id == (w.node == 0 ? 1 : 2)));
        REQUIRE_EQUAL(flow_current_node(), -ENODEV);
        fetch_add_relaxed((flow__atomic(long) *)seen, 1);
    }
    return NULL;
}

/* Each answer is of one machine, whole. The machine changes while nobody reads it, since the
 * runtime has. */
CASE(one_may_look_while_the_runtime_starts_and_stops)
{
    flow__atomic(long) seen = 0;
    struct flow_options o = workers(2);
    pthread_t thread[2];

    machine_use(&machine_four_nodes);
    for (int i = 0; i < 2; i++)
        REQUIRE_EQUAL(pthread_create(&thread[i], NULL, look_and_look, &seen), 0);
    for (int i = 0; i < TEST_ROUNDS(100, 20); i++) {
        long before = load_relaxed(&seen);

        test_start_with(&o);
        machine_put("affinity", i % 2 ? "0-7\n" : "0,2\n");
        WAIT_UNTIL(load_relaxed(&seen) > before);
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
        before = load_relaxed(&seen);
        WAIT_UNTIL(load_relaxed(&seen) > before);
    }
    store_relaxed(&enough, true);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
}

static void child_must_give(int expected)
{
    int status;
    pid_t pid = fork();

    REQUIRE(pid >= 0);
    if (pid == 0) {
        int r = flow_topology_nodes();

        _exit(r == expected && (r > 0 || flow_current_node() == expected) ? 0 : 1);
    }
    REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
    REQUIRE_EQUAL(status, 0);
}

CASE(a_child_of_fork_may_look_unless_the_runtime_ran)
{
    struct flow_options o = workers(1);

    machine_use(&machine_four_nodes);
    child_must_give(4);
    REQUIRE_EQUAL(flow_topology_nodes(), 4);
    child_must_give(4);
    test_start_with(&o);
    child_must_give(-ENOTSUP);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    child_must_give(4);
}

/* ---- flow_node_of ---- */

CASE(memory_that_was_written_to_has_a_node)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *p = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int here;

    REQUIRE(p != MAP_FAILED);
    p[0] = 1;
    here = flow_node_of(p + 17);
    if (here == -EPERM || here == -ENOSYS)
        skip_case("the system does not say where memory is");
    REQUIRE(here >= 0 && here < flow_topology_nodes());
    REQUIRE_EQUAL(flow_node_of(p + page), -ENOENT);
    munmap(p, 2 * page);
    REQUIRE(flow_node_of(p) == -EFAULT || flow_node_of(p) == -ENOENT);
    REQUIRE(flow_node_of(NULL) == -EFAULT || flow_node_of(NULL) == -ENOENT);
    test_start_with(NULL);
    REQUIRE_EQUAL(flow_node_of(&here), here);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* The kernel's number becomes ours; one that the fixture has not is none. */
CASE(nodes_of_memory_are_numbered_as_everywhere)
{
    struct machine fixture = machine_three_nodes;
    int on_stack = 1, node_id = flow__page_node_id(&on_stack);

    if (node_id < 0)
        skip_case("the system does not say where memory is");
    for (int i = 0; i < 3; i++)
        fixture.node_id[i] = node_id + 5 * i;
    machine_use(&fixture);
    REQUIRE_EQUAL(flow_node_of(&on_stack), 0);
    test_start_with(NULL);
    REQUIRE_EQUAL(flow_node_of(&on_stack), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    for (int i = 0; i < 3; i++)
        fixture.node_id[i] = node_id + 1 + i;
    machine_use(&fixture);
    test_start_with(NULL);
    REQUIRE_EQUAL(flow_node_of(&on_stack), -ENODEV);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
