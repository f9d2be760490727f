/* SPDX-License-Identifier: MIT
 *
 * Jobs where something is missing (a block, a stack, the threads of the parent of a fork) or wrong
 * (a job that is not synced). FLOW_TEST_WORKERS. */
#include "core/worker.h"
#include "tests/support/child.h"
#include "tests/support/faults.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static flow_result nothing(void *arg)
{
    return flow_ok(arg);
}

/* ---- no block for a task ---- */

#define MANY 3000

static atomic_int times[MANY];
static atomic_bool gate;

static flow_result count_times(void *arg)
{
    atomic_fetch_add(&times[(intptr_t)arg], 1);
    return flow_ok(arg);
}

/* There is room for the records of many. */
static void run_on_a_large_stack(flow_fn fn)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    flow_task task;

    options.stack_bytes = (size_t)512 * 1024;
    REQUIRE_EQUAL(flow_spawn_with(&task, &options, fn, NULL), 0);
    REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
}

static void require_each_once(void)
{
    for (int i = 0; i < MANY; i++)
        REQUIRE_EQUAL(atomic_load(&times[i]), 1);
}

static flow_result fork_and_yield(void *arg)
{
    struct flow_job job[MANY];

    (void)arg;
    for (intptr_t i = 0; i < MANY; i++)
        flow_fork(&job[i], count_times, (void *)i);
    REQUIRE_EQUAL(flow_yield(), 0);
    for (intptr_t i = 0; i < MANY; i++) {
        flow_result r = flow_sync(&job[i]);

        REQUIRE_EQUAL(r.error, 0);
        REQUIRE(r.ptr == (void *)i);
    }
    return flow_ok(NULL);
}

CASE(without_blocks_sync_calls_what_is_left)
{
    struct flow_options o = test_options();

    o.max_tasks = 1;
    test_start_with(&o);
    run_on_a_large_stack(fork_and_yield);
    require_each_once();
    /* That there were too few is what this case is about. */
    child_note("%llu of %d jobs became tasks",
               (unsigned long long)test_stats().total.spawned - 1, MANY);
    REQUIRE(test_stats().total.spawned < MANY);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- no room for a stack ---- */

static flow_result wait_at_gate(void *arg)
{
    atomic_fetch_add(&times[(intptr_t)arg], 1);
    while (!atomic_load(&gate))
        REQUIRE_EQUAL(flow_yield(), 0);
    return flow_ok(arg);
}

static uint64_t begun(void)
{
    uint64_t n = 0;

    for (int i = 0; i < MANY; i++)
        n += (uint64_t)atomic_load(&times[i]);
    return n;
}

static flow_result fork_and_open(void *arg)
{
    struct flow_job job[MANY];

    (void)arg;
    for (intptr_t i = 0; i < MANY; i++)
        flow_fork(&job[i], wait_at_gate, (void *)i);
    do
        REQUIRE_EQUAL(flow_sleep(FLOW_MS(1)), 0);
    while (begun() + test_stats().total.no_stack < MANY);
    atomic_store(&gate, true);
    for (intptr_t i = 0; i < MANY; i++) {
        flow_result r = flow_sync(&job[i]);

        REQUIRE_EQUAL(r.error, 0);
        REQUIRE(r.ptr == (void *)i);
    }
    return flow_ok(NULL);
}

CASE(without_stacks_sync_calls_what_is_left)
{
    if (TEST_SANITIZED)
        skip_case("a sanitizer maps memory of its own");
    faults_open();
    faults_arm(FAULT_MAP, 0, false);
    test_start_stacks(16 * 1024);
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    test_nap(FLOW_MS(5)); /* the workers have their signal stacks */
    faults_arm(FAULT_MAP, 1, true);
    run_on_a_large_stack(fork_and_open);
    faults_arm(FAULT_MAP, 0, false);
    require_each_once();
    child_note("%llu of %d jobs found no room", (unsigned long long)test_stats().total.no_stack,
               MANY);
    REQUIRE(test_stats().total.no_stack > 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- in the child of a fork ---- */

static int64_t fib(int n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static flow_result fib_job(void *arg)
{
    intptr_t n = (intptr_t)arg;
    struct flow_job a, b;
    flow_result right, left;

    if (n < 2)
        return flow_ok_i64(n);
    flow_fork(&a, fib_job, (void *)(n - 1));
    flow_fork(&b, fib_job, (void *)(n - 2));
    right = flow_sync(&a); /* not the newest */
    left = flow_sync(&b);
    if (left.error || right.error)
        return flow_err(left.error ? left.error : right.error);
    return flow_ok_i64(left.i64 + right.i64);
}

static flow_result fork_process(void *arg)
{
    struct flow_job job;
    int status;
    pid_t child;

    (void)arg;
    flow_fork(&job, fib_job, (void *)10);
    child = fork();
    if (child == 0) {
        flow_result before = flow_sync(&job); /* -ENOTSUP if another worker had it */

        if (before.error ? before.error != -ENOTSUP : before.i64 != fib(10))
            _exit(1);
        _exit(fib_job((void *)15).i64 == fib(15) ? 0 : 2);
    }
    REQUIRE(child > 0);
    REQUIRE_EQUAL(waitpid(child, &status, 0), child);
    REQUIRE_EQUAL(status, 0);
    REQUIRE_EQUAL(flow_sync(&job).i64, fib(10));
    return flow_ok(NULL);
}

CASE(in_the_child_of_a_fork_jobs_are_calls)
{
    struct flow_options o = test_options();

    if (TEST_SANITIZED)
        skip_case("a fork with the sanitizer's threads");
    test_start_with(&o);
    for (int i = 0; i < 20; i++)
        REQUIRE_EQUAL(flow_sync_wait(fork_process, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- driving ---- */

CASE(what_a_thread_has_forked_before_it_drives_stays_its_own)
{
    struct flow_job job, second;
    flow_task task;

    flow_fork(&job, fib_job, (void *)10);
    test_start_driven();
    flow_fork(&second, fib_job, (void *)11);
    REQUIRE_EQUAL(flow_spawn(&task, fib_job, (void *)12), 0);
    while (flow_drive(FLOW_NOW) > 0)
        ;
    run_on_a_large_stack(fork_and_yield);
    REQUIRE_EQUAL(flow_sync(&second).i64, fib(11));
    REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_sync(&job).i64, fib(10));
    require_each_once();
}

/* ---- a stop in the middle ---- */

static flow_result fork_for_ever(void *arg)
{
    struct flow_job job[4];
    int error = 0;

    while (!error) {
        for (int i = 0; i < 4; i++)
            flow_fork(&job[i], fib_job, (void *)8);
        error = flow_yield();
        for (int i = 0; i < 4; i++) {
            flow_result r = flow_sync(&job[i]);

            REQUIRE(r.error == -ECANCELED || (!r.error && r.i64 == 21));
        }
    }
    return flow_ok(arg);
}

CASE(the_runtime_stops_while_jobs_are_about)
{
    for (int i = 0; i < 30; i++) {
        struct flow_options o = test_options();

        test_start_with(&o);
        for (int k = 0; k < 5; k++)
            REQUIRE_EQUAL(flow_spawn(NULL, fork_for_ever, NULL), 0);
        test_nap(FLOW_US(100) * (i % 10));
        REQUIRE_EQUAL(flow_stop(flow_after(FLOW_S(20))), 0);
    }
}

/* ---- within an RCU section ---- */

static flow_result sync_in_section(void *arg)
{
    struct flow_job job;

    (void)arg;
    flow_fork(&job, wait_at_gate, NULL);
    REQUIRE_EQUAL(flow_yield(), 0); /* it is a task now, and waits */
    flow__reclaim_enter();
    REQUIRE_EQUAL(flow_sync(&job).error, -EDEADLK);
    REQUIRE_EQUAL(flow_sync(&job).error, -EDEADLK);
    flow__reclaim_leave();
    atomic_store(&gate, true);
    REQUIRE_EQUAL(flow_sync(&job).error, 0);
    return flow_ok(NULL);
}

CASE(a_section_does_not_wait_for_jobs)
{
    struct flow_options o = test_options();

    test_start_with(&o);
    REQUIRE_EQUAL(flow_sync_wait(sync_in_section, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- not synced ---- */

static flow_result forget(void *arg)
{
    struct flow_job job[3];

    for (int i = 0; i < 3; i++)
        flow_fork(&job[i], nothing, NULL);
    if (!strcmp(arg, "tasks"))
        REQUIRE_EQUAL(flow_yield(), 0);
    if (!strcmp(arg, "one"))
        for (int i = 1; i < 3; i++)
            flow_sync(&job[i]);
    return flow_ok(NULL);
}

CHILD(forgets)
{
    struct flow_options o = test_options();

    test_start_with(&o);
    flow_sync_wait(forget, (void *)(uintptr_t)arg, NULL, FLOW_FOREVER);
    flow_stop(FLOW_FOREVER);
}

static flow_result fork_on_the_heap(void *unused)
{
    struct flow_job *job = malloc(sizeof *job);

    flow_fork(job, nothing, NULL);
    flow_yield();
    flow_sync(job);
    free(job);
    return flow_ok(unused);
}

CHILD(forks_on_the_heap)
{
    struct flow_options o = test_options();

    (void)arg;
    test_start_with(&o);
    flow_sync_wait(fork_on_the_heap, NULL, NULL, FLOW_FOREVER);
    flow_stop(FLOW_FOREVER);
}

JUDGED(a_debug_build_reports_a_job_on_the_heap)
{
    static struct child_end end;

#ifndef FLOW_DEBUG
    skip_case("not a debug build");
#endif
    child_run(&end, "forks_on_the_heap", "");
    child_must_die(&end, SIGABRT);
    child_must_say(&end, "the record of a job is not in a coroutine's frame");
}

JUDGED(a_debug_build_reports_a_job_that_was_not_synced)
{
    static const char *const ways[] = {"all", "one", "tasks"};
    static struct child_end end;

#ifndef FLOW_DEBUG
    skip_case("not a debug build");
#endif
    for (int i = 0; i < 3; i++) {
        child_run(&end, "forgets", ways[i]);
        child_must_die(&end, SIGABRT);
        child_must_say(&end, "with a job that it forked and did not sync");
    }
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
