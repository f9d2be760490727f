/* SPDX-License-Identifier: MIT
 *
 * Signals at a high rate change nothing, wherever they are handled. With FLOW_TEST_WORKERS workers. */
#include "tests/support/child.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>

static flow_result nothing(void *arg)
{
    return flow_ok(arg);
}

static int keep_nothing(flow_waker waker, void *arg)
{
    (void)waker, (void)arg;
    return 0;
}

static atomic_long n_signals[65];

/* More stack than a coroutine of the smallest class has left. */
static void on_signal(int signo)
{
    volatile char frame[12 * 1024];

    for (size_t i = 0; i < sizeof frame; i += 512)
        frame[i] = 1;
    atomic_fetch_add(&n_signals[signo], 1);
}

static flow_result part_of_the_load(void *arg)
{
    intptr_t depth = (intptr_t)arg;
    flow_task task[3];
    flow_result r[3];
    int64_t sum = 1;

    if (depth == 0) {
        REQUIRE_EQUAL(flow_sleep(FLOW_US(100)), 0);
        REQUIRE_EQUAL(flow_yield(), 0);
        return flow_ok_i64(1);
    }
    for (int i = 0; i < 3; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], part_of_the_load, (void *)(depth - 1)), 0);
    REQUIRE_EQUAL(flow_when_all(task, 3, r, FLOW_FOREVER), 0);
    for (int i = 0; i < 3; i++)
        sum += r[i].i64;
    return flow_ok_i64(sum);
}

static flow_result timeouts_of_the_load(void *arg)
{
    flow_deadline at = flow_after(FLOW_MS(5));

    (void)arg;
    REQUIRE_EQUAL(flow_suspend(keep_nothing, NULL, at), -ETIMEDOUT);
    REQUIRE(flow_now() >= at);
    return flow_offload(FLOW_LANE_FILE, nothing, (void *)1, FLOW_FOREVER);
}

static void load_under_signals(int workers)
{
    struct flow_options o = test_options();
    struct itimerval often = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    struct sigaction action = {.sa_handler = on_signal};
    flow_deadline end;
    long rounds = 0;

    sigaction(SIGALRM, &action, NULL);
    sigaction(SIGPROF, &action, NULL);
    o.workers = workers;
    o.stack_bytes = 16 * 1024;
    test_start_with(&o);
    setitimer(ITIMER_REAL, &often, NULL);
    setitimer(ITIMER_PROF, &often, NULL);
    end = flow_after(FLOW_MS(700));
    while (flow_now() < end) {
        flow_task task;
        flow_result r = {0};

        REQUIRE_EQUAL(flow_sync_wait(part_of_the_load, (void *)4, &r, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(r.error, 0);
        REQUIRE_EQUAL(r.i64, 121);
        if (rounds++ % 10)
            continue;
        REQUIRE_EQUAL(flow_spawn(&task, timeouts_of_the_load, NULL), 0);
        REQUIRE_EQUAL(flow_join(task, &r, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(r.error, 0);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    setitimer(ITIMER_REAL, &off, NULL);
    setitimer(ITIMER_PROF, &off, NULL);
    child_note("%ld rounds at %d workers under %ld SIGALRM and %ld SIGPROF", rounds, workers,
               atomic_load(&n_signals[SIGALRM]), atomic_load(&n_signals[SIGPROF]));
    REQUIRE(atomic_load(&n_signals[SIGALRM]) > 20);
    REQUIRE(rounds > 0);
}

CASE(signals_at_1_khz_change_nothing)
{
    if (TEST_SANITIZED)
        skip_case("16 KiB stacks are too small for a sanitizer");
    load_under_signals(test_workers());
}

/* The driver's thread takes signals, on a coroutine's stack unless the program says SA_ONSTACK. */
CASE(a_driver_lives_with_signals_on_its_alternate_stack)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    struct itimerval often = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    flow_deadline end;

    if (TEST_SANITIZED)
        skip_case("16 KiB stacks are too small for a sanitizer");
    sigaction(SIGALRM, &action, NULL);
    o.workers = 0;
    o.stack_bytes = 16 * 1024;
    test_start_with(&o);
    setitimer(ITIMER_REAL, &often, NULL);
    end = flow_after(FLOW_MS(400));
    while (flow_now() < end) {
        flow_result r = {0};

        REQUIRE_EQUAL(flow_sync_wait(part_of_the_load, (void *)4, &r, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(r.i64, 121);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    setitimer(ITIMER_REAL, &off, NULL);
    REQUIRE(atomic_load(&n_signals[SIGALRM]) > 20);
}

/* Blocking calls on helpers are not interrupted either: signals go to the program's threads. */
CASE(signals_do_not_interrupt_offloaded_calls)
{
    struct itimerval often = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    struct sigaction action = {.sa_handler = on_signal};
    flow_task task[8];
    flow_result r;

    sigaction(SIGALRM, &action, NULL);
    test_start();
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < 8; i++) {
        REQUIRE_EQUAL(flow_spawn(&task[i], timeouts_of_the_load, NULL), 0);
        test_nap(FLOW_MS(10));
    }
    for (int i = 0; i < 8; i++) {
        REQUIRE_EQUAL(flow_join(task[i], &r, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(r.error, 0);
    }
    setitimer(ITIMER_REAL, &off, NULL);
    REQUIRE(atomic_load(&n_signals[SIGALRM]) > 5);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
