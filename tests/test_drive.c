/* SPDX-License-Identifier: MIT
 *
 * A runtime without workers: who drives it and for how long; and times at their edges, most of them by a
 * clock of our own. Runs with FLOW_TEST_WORKERS workers where it needs some. */
#include "tests/support/child.h"
#include "tests/support/tasks.h"

#include "sync/syscall.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

/* ---- driving ---- */

static long yields;

static flow_result yield_for_ever(void *arg)
{
    (void)arg;
    while (!flow_yield())
        yields++;
    return flow_ok(NULL);
}

CASE(driving_makes_no_thread_and_a_round_ends)
{
    long threads;

    REQUIRE_EQUAL(flow_stop(FLOW_NOW), 0);
    threads = thread_count(); /* a sanitizer may have one */
    test_start_driven();
    REQUIRE_EQUAL(thread_count(), threads);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), 0);
    REQUIRE_EQUAL(flow_drive(FLOW_FOREVER), 0); /* no task lives */
    REQUIRE_EQUAL(flow_spawn(NULL, yield_for_ever, NULL), 0);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), 1);
    for (int i = 1; i < 1000; i++)
        REQUIRE_EQUAL(flow_drive(FLOW_NOW), 1);
    REQUIRE_EQUAL(yields, 999);
    for (int i = 0; i < 49; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, yield_for_ever, NULL), 0);
    for (int i = 0; i < 20; i++) {
        int n = flow_drive(FLOW_NOW);

        REQUIRE(n >= 1 && n <= 50);
    }
    REQUIRE_EQUAL(test_stats().live, 50);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(thread_count(), threads);
}

CASE(a_drive_waits_for_timers_until_its_deadline)
{
    flow_deadline begin;
    flow_task task;

    test_start_driven();
    REQUIRE_EQUAL(flow_spawn(&task, sleep_ms, (void *)1000), 0);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), 1);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), 0);
    begin = flow_now();
    REQUIRE_EQUAL(flow_drive(begin + FLOW_MS(10)), 0);
    REQUIRE(flow_now() - begin >= FLOW_MS(10));
    REQUIRE_EQUAL(flow_drive(begin + FLOW_S(1000)), 1);
    REQUIRE(flow_now() - begin < FLOW_S(500));
    REQUIRE_EQUAL(flow_join(task, NULL, FLOW_NOW), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(a_wait_that_drives_ends_at_its_deadline_whatever_is_ready)
{
    flow_task task;

    test_start_driven();
    REQUIRE_EQUAL(flow_spawn(NULL, yield_for_ever, NULL), 0);
    REQUIRE_EQUAL(flow_spawn(&task, sleep_for_ever, NULL), 0);
    REQUIRE_EQUAL(flow_join(task, NULL, flow_after(FLOW_MS(20))), -ETIMEDOUT);
    REQUIRE_EQUAL(flow_sync_wait(sleep_for_ever, NULL, NULL, flow_after(FLOW_MS(20))), -ETIMEDOUT);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(a_runtime_with_workers_is_not_driven)
{
    test_start();
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), -EINVAL);
    REQUIRE_EQUAL(flow_drive(FLOW_FOREVER), -EINVAL);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static atomic_int drive_result;

static void *drive_for_ever(void *unused)
{
    int r;

    while ((r = flow_drive(FLOW_FOREVER)) == -EBUSY)
        sched_yield(); /* the other one was just looking */
    atomic_store(&drive_result, r);
    return unused;
}

static struct kept kept;

CASE(two_threads_do_not_drive_at_once)
{
    pthread_t thread;

    test_start_driven();
    REQUIRE_EQUAL(flow_spawn(NULL, suspend_and_keep, &kept), 0);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), 1);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, drive_for_ever, NULL), 0);
    WAIT_UNTIL(flow_drive(FLOW_NOW) == -EBUSY);
    REQUIRE_EQUAL(flow_drive(FLOW_FOREVER), -EBUSY);
    REQUIRE_EQUAL(flow_wake(kept.waker), 0);
    pthread_join(thread, NULL);
    REQUIRE_EQUAL(atomic_load(&drive_result), 1);
    REQUIRE_EQUAL(test_stats().live, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static void *drive_while_it_runs(void *unused)
{
    int r;

    while ((r = flow_drive(FLOW_FOREVER)) >= 0)
        ;
    REQUIRE(r == -ESHUTDOWN || r == -EDEADLK || r == -EBUSY);
    return unused;
}

CASE(a_stop_while_another_thread_drives)
{
    for (int round = 0; round < TEST_ROUNDS(20, 5); round++) {
        pthread_t thread;

        atomic_store(&kept.is_there, false);
        test_start_driven();
        REQUIRE_EQUAL(flow_spawn(NULL, suspend_and_keep, &kept), 0);
        REQUIRE_EQUAL(pthread_create(&thread, NULL, drive_while_it_runs, NULL), 0);
        WAIT_UNTIL(atomic_load(&kept.is_there));
        test_nap(FLOW_MS(1));
        REQUIRE_EQUAL(flow_stop(flow_after(FLOW_S(5))), 0);
        pthread_join(thread, NULL);
    }
}

static atomic_bool is_awaited;

static void *drive_a_sleeper(void *unused)
{
    atomic_store(&is_awaited, true);
    while (flow_drive(FLOW_FOREVER) > 0)
        ;
    return unused;
}

CASE(a_stop_that_does_not_wait_has_the_seat_from_a_driver_that_sleeps)
{
    for (int round = 0; round < TEST_ROUNDS(20, 5); round++) {
        pthread_t thread;

        atomic_store(&is_awaited, false);
        test_start_driven();
        REQUIRE_EQUAL(flow_spawn(NULL, suspend_and_keep, &kept), 0);
        REQUIRE_EQUAL(pthread_create(&thread, NULL, drive_a_sleeper, NULL), 0);
        WAIT_UNTIL(atomic_load(&is_awaited));
        test_nap(FLOW_MS(2)); /* asleep, most likely */
        REQUIRE(flow_stop(FLOW_NOW) >= 0);
        pthread_join(thread, NULL);
    }
}

static flow_result sum_of_children(void *n)
{
    flow_task task[50];
    flow_result r[50];
    int64_t sum = 0;

    for (intptr_t i = 0; i < 50; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], i % 2 ? sleep_ms : return_argument, (void *)(i % 7)), 0);
    REQUIRE_EQUAL(flow_when_all(task, 50, r, FLOW_FOREVER), 0);
    for (int i = 0; i < 50; i++)
        sum += r[i].i64;
    REQUIRE_EQUAL(flow_offload(FLOW_LANE_CPU, nap_30_ms, n, FLOW_FOREVER).i64, 1);
    return flow_ok_i64(sum);
}

CASE(sync_wait_and_run_drive_for_themselves)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    int64_t expected = 0;
    flow_result out;

    for (int i = 0; i < 50; i++)
        expected += i % 7;
    test_start_driven();
    REQUIRE_EQUAL(flow_sync_wait(sum_of_children, (void *)1, &out, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(out.i64, expected);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    o.workers = 0;
    out.i64 = 0;
    REQUIRE_EQUAL(flow_run(&o, sum_of_children, (void *)1, &out), 0);
    REQUIRE_EQUAL(out.i64, expected);
}

static struct flow_event enough = FLOW_EVENT_INIT;

static int wait_until_enough(void *unused)
{
    (void)unused;
    return flow_event_wait(&enough, FLOW_FOREVER);
}

static flow_result shield_until_enough(void *unused)
{
    REQUIRE_EQUAL(flow_shield(wait_until_enough, unused), 0);
    REQUIRE_EQUAL(flow_cancel_reason(), FLOW_CANCEL_SIBLING);
    return flow_ok(NULL);
}

static flow_result end_at_once(void *unused)
{
    (void)unused;
    return flow_ok(NULL);
}

CASE(a_loser_that_only_this_thread_could_wake_is_let_go)
{
    flow_task task[2];
    size_t winner = 9;

    test_start_driven();
    REQUIRE_EQUAL(flow_spawn(&task[0], shield_until_enough, NULL), 0);
    REQUIRE_EQUAL(flow_spawn(&task[1], end_at_once, NULL), 0);
    REQUIRE_EQUAL(flow_when_any(task, 2, &winner, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(winner, 1);
    REQUIRE_EQUAL(flow_join(task[0], NULL, FLOW_NOW), -EINVAL);
    REQUIRE_EQUAL(flow_event_set(&enough), 0);
    REQUIRE_EQUAL(flow_drive(FLOW_FOREVER), 1);
    REQUIRE_EQUAL(flow_join(task[0], NULL, FLOW_NOW), -ESRCH);
    REQUIRE_EQUAL(test_stats().live, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- a clock of our own ---- */

static int64_t clock_ns;

static int64_t our_clock(void)
{
    return clock_ns;
}

static int fired[2000], n_fired;

static flow_result sleep_until_and_note(void *number)
{
    intptr_t i = (intptr_t)number;
    /* From a microsecond to 3 years, in an order that is not that of their numbers. */
    int64_t at = 1000 + (int64_t)((uint64_t)i * 7919 % 2000) * FLOW_S(47304);

    REQUIRE_EQUAL(flow_sleep_until(at), 0);
    REQUIRE(clock_ns >= at);
    fired[n_fired++] = (int)((uint64_t)i * 7919 % 2000);
    return flow_ok(NULL);
}

CASE(a_clock_that_jumps_fires_each_timer_once_and_in_order)
{
    const int64_t year = FLOW_S(365LL * 86400);

    clock_ns = 1;
    flow__sys.now = our_clock;
    test_start_driven();
    for (intptr_t i = 0; i < 2000; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, sleep_until_and_note, (void *)i), 0);
    while (flow_drive(FLOW_NOW) > 0)
        ;
    REQUIRE_EQUAL(n_fired, 0);
    for (int jump = 0; jump < 4 && n_fired < 2000; jump++) {
        int before = n_fired;

        clock_ns += year;
        while (flow_drive(FLOW_NOW) > 0)
            ;
        REQUIRE(n_fired > before + 500); /* 666 of them a year */
        for (int i = before; i < n_fired; i++)
            REQUIRE_EQUAL(fired[i], i);
    }
    REQUIRE_EQUAL(n_fired, 2000);
    REQUIRE_EQUAL(test_stats().total.timers_fired, 2000);
    REQUIRE_EQUAL(flow_stop(FLOW_NOW), 0);
}

CASE(the_end_of_time_is_no_deadline)
{
    clock_ns = INT64_MAX - FLOW_S(100);
    flow__sys.now = our_clock;
    REQUIRE_EQUAL(flow_after(FLOW_S(1000)), FLOW_FOREVER);
    REQUIRE_EQUAL(flow_after(INT64_MAX), FLOW_FOREVER);
    REQUIRE_EQUAL(flow_after(FLOW_S(99)), INT64_MAX - FLOW_S(1));
    clock_ns = 5;
    REQUIRE(flow_after(INT64_MIN) <= 5);
    REQUIRE(flow_after(-10) <= 0);
    REQUIRE_EQUAL(flow_after(INT64_MAX - 5), FLOW_FOREVER);
}

static flow_result sleep_at_the_edges(void *arg)
{
    static const int64_t spans[] = {0, -1, INT64_MIN, INT64_MIN + 1, 1};

    for (size_t i = 0; i < sizeof spans / sizeof *spans; i++) {
        REQUIRE_EQUAL(flow_sleep(spans[i]), 0);
        REQUIRE_EQUAL(flow_sleep_until(spans[i]), 0);
    }
    return flow_ok(arg);
}

static flow_result sleep_for(void *span)
{
    return flow_err(flow_sleep((intptr_t)span));
}

static flow_result long_sleepers(void *arg)
{
    static const int64_t spans[] = {INT64_MAX, INT64_MAX - 1, INT64_MAX / 2, FLOW_S(1) << 20};
    flow_task task[4];

    for (int i = 0; i < 4; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], sleep_for, (void *)spans[i]), 0);
    REQUIRE_EQUAL(flow_sleep(FLOW_MS(2)), 0);
    for (int i = 0; i < 4; i++) {
        flow_result r;

        REQUIRE_EQUAL(flow_join(task[i], NULL, FLOW_NOW), -ETIMEDOUT);
        REQUIRE_EQUAL(flow_cancel(task[i]), 0);
        REQUIRE_EQUAL(flow_join(task[i], &r, INT64_MAX - 1), 0);
        REQUIRE_EQUAL(r.error, -ECANCELED);
    }
    return flow_ok(arg);
}

CASE(spans_and_deadlines_at_their_edges)
{
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(sleep_at_the_edges, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_sync_wait(long_sleepers, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
