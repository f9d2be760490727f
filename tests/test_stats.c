/* SPDX-License-Identifier: MIT
 *
 * Counters, what waits to start, and the dump's list of tasks: all say the same. Idle stacks are trimmed.
 * Runs with FLOW_TEST_WORKERS workers where it does not say otherwise. */
#include "tests/support/child.h"
#include "tests/support/tasks.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

/* ---- counters and the dump ---- */

static flow_result mixed_load(void *arg)
{
    flow_task task[100];

    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(i % 3 ? flow_spawn(&task[i], sleep_ms, (void *)(intptr_t)(i % 4))
                            : flow_spawn_now(&task[i], return_argument, NULL),
                      0);
    REQUIRE_EQUAL(flow_when_all(task, 100, NULL, FLOW_FOREVER), 0);
    return flow_ok(arg);
}

static atomic_bool watch_on;

static void *watch_conservation(void *looks)
{
    while (atomic_load(&watch_on)) {
        struct flow_stats s = test_stats();

        REQUIRE_EQUAL(s.total.spawned, s.total.finished + s.live);
        REQUIRE(s.live < 1u << 20);
        atomic_fetch_add((atomic_long *)looks, 1);
    }
    return NULL;
}

CASE(what_is_spawned_has_finished_or_lives)
{
    struct flow_worker_stats sum = {0}, one;
    atomic_long looks = 0;
    struct flow_stats s;
    pthread_t thread;

    test_start_stacks(16 * 1024);
    atomic_store(&watch_on, true);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, watch_conservation, &looks), 0);
    for (int i = 0; i < TEST_ROUNDS(50, 10); i++)
        REQUIRE_EQUAL(flow_sync_wait(mixed_load, NULL, NULL, FLOW_FOREVER), 0);
    atomic_store(&watch_on, false);
    pthread_join(thread, NULL);
    REQUIRE(test_wait_until_empty());
    s = test_stats();
    REQUIRE_EQUAL(s.total.spawned, s.total.finished);
    REQUIRE_EQUAL(s.total.spawned, (uint64_t)TEST_ROUNDS(50, 10) * 101);
    REQUIRE_EQUAL(s.foreign_spawned, TEST_ROUNDS(50, 10));
    WAIT_UNTIL(test_stats().total.stacks_taken == test_stats().total.stacks_returned);
    s = test_stats();
    REQUIRE_EQUAL(s.total.stacks_taken, s.total.spawned);
    REQUIRE_EQUAL(s.total.started_now, (uint64_t)TEST_ROUNDS(50, 10) * 34);
    REQUIRE(s.total.timers_fired <= s.total.timers_armed);
    REQUIRE(s.total.dispatches >= s.total.spawned - s.total.started_now);
    REQUIRE_EQUAL(s.workers, test_workers());
    REQUIRE_EQUAL(s.guard_failures + s.total.no_stack, 0);
    for (int i = 0; i < s.workers; i++) {
        REQUIRE_EQUAL(flow_stats_worker(i, &one), 0);
        sum.spawned += one.spawned;
        sum.finished += one.finished;
        sum.stacks_taken += one.stacks_taken;
    }
    REQUIRE_EQUAL(sum.spawned + s.foreign_spawned, s.total.spawned);
    REQUIRE_EQUAL(sum.finished, s.total.finished);
    REQUIRE_EQUAL(sum.stacks_taken, s.total.stacks_taken);
    REQUIRE_EQUAL(flow_stats_worker(s.workers, &one), -EINVAL);
    REQUIRE_EQUAL(flow_stats_worker(-1, &one), -EINVAL);
    REQUIRE_EQUAL(flow_stats_worker(0, NULL), -EINVAL);
    s.size = 0;
    REQUIRE_EQUAL(flow_stats(&s), -EINVAL);
    REQUIRE_EQUAL(flow_stats(NULL), -EINVAL);
    REQUIRE(atomic_load(&looks) > 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static void dump_to_text(char *text, size_t bytes, int *n)
{
    int fds[2];
    ssize_t got;
    size_t total = 0;

    REQUIRE_EQUAL(pipe(fds), 0);
    *n = flow_dump(fds[1]); /* few tasks: it fits into the pipe */
    close(fds[1]);
    while ((got = read(fds[0], text + total, bytes - 1 - total)) > 0)
        total += (size_t)got;
    text[total] = 0;
    close(fds[0]);
}

/* ---- what waits ---- */

static uint64_t queued_on_all_nodes(void)
{
    uint64_t sum = 0;

    for (int node = 0; node < flow_topology_nodes(); node++) {
        uint64_t n;

        REQUIRE_EQUAL(flow_stats_queued(node, &n), 0);
        sum += n;
    }
    return sum;
}

static uint64_t queued_by_the_worker(void)
{
    struct flow_worker_stats stats;

    REQUIRE_EQUAL(flow_stats_worker(0, &stats), 0);
    return stats.queued;
}

static flow_result spawn_more_than_a_ring(void *arg)
{
    for (int i = 1; i <= 300; i++) {
        REQUIRE_EQUAL(flow_spawn(NULL, return_argument, NULL), 0);
        REQUIRE_EQUAL(queued_on_all_nodes(), i);
    }
    REQUIRE(queued_by_the_worker() > 1 && queued_by_the_worker() < 300);
    return flow_ok(arg);
}

CASE(what_waits_to_start_is_counted)
{
    uint64_t n;

    test_start_driven();
    REQUIRE_EQUAL(flow_stats_queued(0, NULL), -EINVAL);
    REQUIRE_EQUAL(flow_stats_queued(-1, &n), -EINVAL);
    REQUIRE_EQUAL(flow_stats_queued(flow_topology_nodes(), &n), -EINVAL);
    for (int i = 0; i < 10; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, return_argument, NULL), 0);
    REQUIRE_EQUAL(queued_on_all_nodes(), 10);
    REQUIRE_EQUAL(queued_by_the_worker(), 0); /* foreign threads' go to what is shared */
    while (flow_drive(FLOW_NOW) > 0)
        ;
    REQUIRE_EQUAL(queued_on_all_nodes(), 0);
    REQUIRE_EQUAL(flow_sync_wait(spawn_more_than_a_ring, NULL, NULL, FLOW_FOREVER), 0);
    while (flow_drive(FLOW_NOW) > 0)
        ;
    REQUIRE_EQUAL(queued_on_all_nodes(), 0);
    REQUIRE_EQUAL(queued_by_the_worker(), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static atomic_int n_inside;

static flow_result enter_and_sleep(void *arg)
{
    (void)arg;
    atomic_fetch_add(&n_inside, 1);
    return flow_err(flow_sleep(FLOW_S(1000)));
}

static flow_result enter_and_join(void *other)
{
    atomic_fetch_add(&n_inside, 1);
    return flow_err(flow_join(*(flow_task *)other, NULL, FLOW_FOREVER));
}

static flow_result enter_and_suspend(void *arg)
{
    atomic_fetch_add(&n_inside, 1);
    return flow_err(flow_suspend(publish_nothing, arg, FLOW_FOREVER));
}

/* More have been in use than are kept; who idles for a second gives their memory back. */
CASE(idle_stacks_are_trimmed)
{
    enum { MANY = 1000 };
    static flow_task task[MANY];

    test_start();
    for (int i = 0; i < MANY; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], enter_and_sleep, NULL), 0);
    WAIT_UNTIL(atomic_load(&n_inside) == MANY);
    for (int i = 0; i < MANY; i++)
        REQUIRE_EQUAL(flow_cancel(task[i]), 0);
    for (int i = 0; i < MANY; i++)
        REQUIRE_EQUAL(flow_join(task[i], NULL, FLOW_FOREVER), 0);
    WAIT_UNTIL(test_stats().stacks_trimmed > 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(the_dump_lists_who_lives_and_what_they_wait_for)
{
    static char text[65536];
    struct flow_spawn_options named = FLOW_SPAWN_INIT;
    flow_task asleep, joining, suspended;
    int n, null;

    test_start();
    named.name = "a sleeper %s %n";
    REQUIRE_EQUAL(flow_spawn_with(&asleep, &named, enter_and_sleep, NULL), 0);
    named.name = "a joiner with a name that is longer than is kept of it";
    REQUIRE_EQUAL(flow_spawn_with(&joining, &named, enter_and_join, &asleep), 0);
    named.name = "suspended";
    named.stack_bytes = 100 * 1024;
    REQUIRE_EQUAL(flow_spawn_with(&suspended, &named, enter_and_suspend, NULL), 0);
    WAIT_UNTIL(atomic_load(&n_inside) == 3);
    for (int tries = 0;; tries++) {
        dump_to_text(text, sizeof text, &n);
        if (strstr(text, "waits for sleep") && strstr(text, "waits for join") &&
            strstr(text, "waits for waker"))
            break;
        REQUIRE(tries < 10000);
    }
    REQUIRE_EQUAL(n, 3);
    REQUIRE(strstr(text, "\"a sleeper %s %n\""));
    REQUIRE(strstr(text, "\"a joiner with a name that is lo\""));
    REQUIRE(strstr(text, "stack 128 KiB"));
    REQUIRE(strstr(text, "3 tasks on "));
    REQUIRE_EQUAL(flow_dump(-1), -EBADF);
    null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    REQUIRE_EQUAL(flow_dump(null), 3);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
