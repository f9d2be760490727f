/* SPDX-License-Identifier: MIT
 *
 * Starting and stopping, driving, running to the end, and every call at the wrong time or place.
 * Runs with FLOW_TEST_WORKERS workers where it does not say otherwise. */
#include "tests/support/child.h"

#include "sync/syscall.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static flow_result nothing(void *arg)
{
    return flow_ok(arg);
}

static flow_result sleep_for_ever(void *arg)
{
    (void)arg;
    return flow_err(flow_sleep_until(FLOW_FOREVER));
}

static flow_result sleep_ms(void *ms)
{
    int r = flow_sleep(FLOW_MS((intptr_t)ms));

    return r ? flow_err(r) : flow_ok(ms);
}

static int publish_nothing(flow_waker waker, void *arg)
{
    (void)waker, (void)arg;
    return 0;
}

static void start_driven(void)
{
    struct flow_options o = FLOW_OPTIONS_INIT;

    o.workers = 0;
    test_start_with(&o);
}

static void start_at_16k(void)
{
    struct flow_options o = test_options();

    o.stack_bytes = 16 * 1024;
    test_start_with(&o);
}

/* ---- every call, at the wrong time ---- */

static void release_nothing(void *arg)
{
    (void)arg;
}

/* Every public function that needs the runtime gives `error`. */
static void everything_gives(int error)
{
    struct flow_spawn_options with = FLOW_SPAWN_INIT;
    struct flow_lane_options lane_options = FLOW_LANE_INIT;
    struct flow_info info = {.size = sizeof info};
    struct flow_stats stats = {.size = sizeof stats};
    struct flow_worker_stats worker;
    uint64_t queued;
    flow_task task = {(uint64_t)1 << 32}, spawned;
    flow_waker waker = {(uint64_t)1 << 32, 1};
    flow_lane *lane;
    flow_result out;
    size_t winner;
    bool abandoned = false;

    REQUIRE_EQUAL(flow_spawn(&spawned, nothing, NULL), error);
    REQUIRE_EQUAL(flow_spawn(NULL, nothing, NULL), error);
    REQUIRE_EQUAL(flow_spawn_now(&spawned, nothing, NULL), error);
    REQUIRE_EQUAL(flow_spawn_with(&spawned, &with, nothing, NULL), error);
    REQUIRE_EQUAL(flow_spawn_with(&spawned, NULL, nothing, NULL), error);
    REQUIRE_EQUAL(flow_join(task, &out, FLOW_NOW), error);
    REQUIRE_EQUAL(flow_join(task, &out, FLOW_FOREVER), error);
    REQUIRE_EQUAL(flow_detach(task), error);
    REQUIRE_EQUAL(flow_cancel(task), error);
    REQUIRE_EQUAL(flow_yield(), error);
    REQUIRE_EQUAL(flow_sleep(1), error);
    REQUIRE_EQUAL(flow_sleep(0), error);
    REQUIRE_EQUAL(flow_sleep_until(FLOW_NOW), error);
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, &out, FLOW_FOREVER), error);
    REQUIRE_EQUAL(flow_when_all(&task, 1, &out, FLOW_FOREVER), error);
    REQUIRE_EQUAL(flow_when_any(&task, 1, &winner, &out, FLOW_FOREVER), error);
    REQUIRE_EQUAL(flow_suspend(publish_nothing, NULL, FLOW_FOREVER), error);
    REQUIRE_EQUAL(flow_wake(waker), error);
    REQUIRE_EQUAL(flow_self().id, 0);
    REQUIRE_EQUAL(flow_offload(FLOW_LANE_FILE, nothing, NULL, FLOW_FOREVER).error, error);
    REQUIRE_EQUAL(
        flow_offload_owned(FLOW_LANE_CPU, nothing, NULL, release_nothing, &abandoned, FLOW_FOREVER)
            .error,
        error);
    REQUIRE(abandoned);
    REQUIRE_EQUAL(flow_lane_create(&lane, &lane_options), error);
    REQUIRE_EQUAL(flow_lane_create(&lane, NULL), error);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), error);
    REQUIRE_EQUAL(flow_drive(FLOW_FOREVER), error);
    REQUIRE_EQUAL(flow_info(&info), error);
    REQUIRE_EQUAL(flow_dump(STDERR_FILENO), error);
    REQUIRE_EQUAL(flow_stats(&stats), error);
    REQUIRE_EQUAL(flow_stats_worker(0, &worker), error);
    REQUIRE_EQUAL(flow_stats_queued(0, &queued), error);
    REQUIRE(flow_now() > 0 && flow_after(FLOW_S(1)) > flow_now());
}

static void *everything_is_shut_down(void *unused)
{
    everything_gives(-ESHUTDOWN);
    return unused;
}

static void everything_is_shut_down_here_and_there(void)
{
    pthread_t thread;

    everything_is_shut_down(NULL);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, everything_is_shut_down, NULL), 0);
    pthread_join(thread, NULL);
}

CASE(before_the_start_and_after_the_stop_every_call_gives_eshutdown)
{
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    everything_is_shut_down_here_and_there();
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    everything_is_shut_down_here_and_there();
    REQUIRE_EQUAL(flow_stop(FLOW_NOW), 0);
    start_driven();
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    everything_is_shut_down_here_and_there();
}

CASE(a_lane_that_the_stop_has_ended_cannot_be_destroyed_again)
{
    flow_lane *lane;

    test_start();
    REQUIRE_EQUAL(flow_lane_create(&lane, NULL), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_lane_destroy(lane), -ESHUTDOWN);
}

CASE(outside_a_coroutine_what_needs_one_gives_eperm)
{
    bool abandoned = false;

    test_start();
    REQUIRE_EQUAL(flow_yield(), -EPERM);
    REQUIRE_EQUAL(flow_sleep(1), -EPERM);
    REQUIRE_EQUAL(flow_sleep(-1), -EPERM);
    REQUIRE_EQUAL(flow_sleep_until(FLOW_FOREVER), -EPERM);
    REQUIRE_EQUAL(flow_spawn_now(NULL, nothing, NULL), -EPERM);
    REQUIRE_EQUAL(flow_suspend(publish_nothing, NULL, FLOW_FOREVER), -EPERM);
    REQUIRE_EQUAL(flow_offload(FLOW_LANE_FILE, nothing, NULL, FLOW_FOREVER).error, -EPERM);
    REQUIRE_EQUAL(
        flow_offload_owned(FLOW_LANE_FILE, nothing, NULL, release_nothing, &abandoned, FLOW_FOREVER)
            .error,
        -EPERM);
    REQUIRE(abandoned);
    REQUIRE_EQUAL(flow_self().id, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result start_and_drive_inside(void *arg)
{
    struct flow_options o = FLOW_OPTIONS_INIT;

    REQUIRE_EQUAL(flow_start(&o), -EPERM);
    REQUIRE(strlen(flow_start_error()) > 0);
    REQUIRE_EQUAL(flow_run(&o, nothing, NULL, NULL), -EPERM);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), -EPERM);
    return flow_ok(arg);
}

CASE(inside_a_coroutine_nothing_can_be_started_or_driven)
{
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(start_and_drive_inside, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    start_driven();
    REQUIRE_EQUAL(flow_sync_wait(start_and_drive_inside, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(a_second_start_gives_ealready_and_harms_nothing)
{
    flow_task task;
    flow_result out;

    test_start();
    REQUIRE_EQUAL(flow_spawn(&task, sleep_ms, (void *)20), 0);
    REQUIRE_EQUAL(flow_start(NULL), -EALREADY);
    REQUIRE(strlen(flow_start_error()) > 0);
    REQUIRE_EQUAL(flow_run(NULL, nothing, NULL, NULL), -EALREADY);
    REQUIRE_EQUAL(flow_join(task, &out, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(out.error, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    test_start();
    REQUIRE_EQUAL(strlen(flow_start_error()), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- stopping with live tasks ---- */

static atomic_int entered, cancelled, ended;

static flow_result count_cancelled(int r)
{
    if (r == -ECANCELED)
        atomic_fetch_add(&cancelled, 1);
    atomic_fetch_add(&ended, 1);
    return flow_err(r);
}

static flow_result live_asleep(void *arg)
{
    (void)arg;
    atomic_fetch_add(&entered, 1);
    return count_cancelled(flow_sleep(FLOW_S(1000)));
}

static flow_result live_joining(void *arg)
{
    flow_task *other = arg;

    atomic_fetch_add(&entered, 1);
    return count_cancelled(flow_join(*other, NULL, FLOW_FOREVER));
}

static flow_result live_suspended(void *arg)
{
    atomic_fetch_add(&entered, 1);
    return count_cancelled(flow_suspend(publish_nothing, arg, FLOW_FOREVER));
}

static flow_result live_in_when_any(void *arg)
{
    atomic_fetch_add(&entered, 1);
    return count_cancelled(flow_when_any(arg, 1, NULL, NULL, FLOW_FOREVER));
}

static flow_result live_yielding(void *arg)
{
    int r;

    (void)arg;
    atomic_fetch_add(&entered, 1);
    while (!(r = flow_yield()))
        ;
    return count_cancelled(r);
}

static flow_result nap_30_ms(void *arg)
{
    test_nap(FLOW_MS(30));
    return flow_ok_i64(arg ? 1 : 5);
}

/* Once begun, the call is waited for, and its result is given. */
static flow_result live_offloaded(void *arg)
{
    flow_result r;

    (void)arg;
    atomic_fetch_add(&entered, 1);
    r = flow_offload(FLOW_LANE_FILE, nap_30_ms, NULL, FLOW_FOREVER);
    REQUIRE(r.error == -ECANCELED || (r.error == 0 && r.i64 == 5));
    atomic_fetch_add(&ended, 1);
    return r;
}

CASE(stop_cancels_all_that_live_whatever_they_wait_for)
{
    flow_fn const fns[] = {live_asleep, live_suspended, live_yielding, live_offloaded};
    enum { EACH = 50 };
    static flow_task victim[2 * EACH];
    flow_deadline begin;

    start_at_16k();
    for (int i = 0; i < EACH; i++) {
        for (size_t k = 0; k < sizeof fns / sizeof *fns; k++)
            REQUIRE_EQUAL(flow_spawn(NULL, fns[k], NULL), 0);
        REQUIRE_EQUAL(flow_spawn(&victim[2 * i], sleep_for_ever, NULL), 0);
        REQUIRE_EQUAL(flow_spawn(NULL, live_joining, &victim[2 * i]), 0);
        REQUIRE_EQUAL(flow_spawn(&victim[2 * i + 1], sleep_for_ever, NULL), 0);
        REQUIRE_EQUAL(flow_spawn(NULL, live_in_when_any, &victim[2 * i + 1]), 0);
    }
    WAIT_UNTIL(atomic_load(&entered) == 6 * EACH);
    begin = flow_now();
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE(flow_now() - begin < FLOW_S(5));
    REQUIRE_EQUAL(atomic_load(&ended), 6 * EACH);
    /* A joiner may find its task cancelled before it is cancelled itself. */
    REQUIRE(atomic_load(&cancelled) >= 3 * EACH);
}

static atomic_bool release_spinner, spinner_runs, ran;

static flow_result spin(void *arg)
{
    atomic_store(&spinner_runs, true);
    while (!atomic_load(&release_spinner))
        ;
    return flow_ok(arg);
}

static flow_result note_that_it_ran(void *arg)
{
    atomic_store(&ran, true);
    return flow_ok(arg);
}

static void *stop_for_ever(void *out)
{
    *(int *)out = flow_stop(FLOW_FOREVER);
    return NULL;
}

CASE(a_task_that_has_not_started_never_runs_when_the_runtime_stops)
{
    struct flow_spawn_options pinned = FLOW_SPAWN_INIT;
    flow_task spinner;
    pthread_t thread;
    int r = -1;

    pinned.worker = 0;
    pinned.flags = FLOW_PINNED;
    test_start();
    REQUIRE_EQUAL(flow_spawn_with(&spinner, &pinned, spin, NULL), 0);
    WAIT_UNTIL(atomic_load(&spinner_runs));
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_spawn_with(NULL, &pinned, note_that_it_ran, NULL), 0);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, stop_for_ever, &r), 0);
    WAIT_UNTIL(flow_spawn(NULL, nothing, NULL) == -ESHUTDOWN);
    /* cancel_all() is short; the spinner is asked too, and that can be seen. */
    WAIT_UNTIL(flow_cancel(spinner) == 0);
    test_nap(FLOW_MS(20));
    atomic_store(&release_spinner, true);
    pthread_join(thread, NULL);
    REQUIRE_EQUAL(r, 0);
    REQUIRE(!atomic_load(&ran));

    start_driven();
    REQUIRE_EQUAL(flow_spawn(NULL, note_that_it_ran, NULL), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE(!atomic_load(&ran));
}

static flow_result ignore_cancellation(void *arg)
{
    atomic_fetch_add(&entered, 1);
    for (;;)
        flow_yield();
    return flow_ok(arg);
}

CASE(stop_reports_how_many_tasks_ignore_it)
{
    flow_deadline begin;

    start_at_16k();
    for (int i = 0; i < 7; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, ignore_cancellation, NULL), 0);
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, live_asleep, NULL), 0);
    WAIT_UNTIL(atomic_load(&entered) == 107);
    begin = flow_now();
    REQUIRE_EQUAL(flow_stop(flow_after(FLOW_MS(300))), 7);
    REQUIRE(flow_now() - begin >= FLOW_MS(300));
    REQUIRE(flow_now() - begin < FLOW_S(10));
    REQUIRE_EQUAL(atomic_load(&ended), 100);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(stop_at_once_reports_and_frees_too)
{
    for (int round = 0; round < TEST_ROUNDS(50, 10); round++) {
        int r;

        start_at_16k();
        for (int i = 0; i < 100; i++)
            REQUIRE_EQUAL(flow_spawn(NULL, sleep_for_ever, NULL), 0);
        r = flow_stop(FLOW_NOW);
        REQUIRE(r >= 0 && r <= 100);
    }
}

CASE(without_workers_stop_reports_them_as_well)
{
    start_driven();
    for (int i = 0; i < 7; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, ignore_cancellation, NULL), 0);
    REQUIRE_EQUAL(flow_spawn(NULL, sleep_for_ever, NULL), 0);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), 8);
    REQUIRE_EQUAL(flow_stop(flow_after(FLOW_MS(50))), 7);
    everything_gives(-ESHUTDOWN);
}

CASE(a_worker_inside_a_coroutine_that_spins_makes_stop_say_ebusy)
{
    struct flow_stats stats = {.size = sizeof stats};
    flow_deadline begin;

    test_start();
    REQUIRE_EQUAL(flow_spawn(NULL, spin, NULL), 0);
    WAIT_UNTIL(atomic_load(&spinner_runs));
    begin = flow_now();
    REQUIRE_EQUAL(flow_stop(flow_after(FLOW_MS(20))), -EBUSY);
    REQUIRE(flow_now() - begin < FLOW_S(10));
    REQUIRE_EQUAL(flow_start(NULL), -EALREADY);
    REQUIRE_EQUAL(flow_spawn(NULL, nothing, NULL), -ESHUTDOWN);
    REQUIRE_EQUAL(flow_stats(&stats), 0); /* nothing was freed */
    REQUIRE_EQUAL(stats.live, 1);
    REQUIRE_EQUAL(flow_stop(FLOW_NOW), -EBUSY);
    atomic_store(&release_spinner, true);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result stop_from_inside(void *arg)
{
    int r = flow_stop(FLOW_FOREVER), again = flow_stop(FLOW_NOW);

    REQUIRE_EQUAL(r, 0);
    REQUIRE_EQUAL(again, 0);
    REQUIRE_EQUAL(flow_spawn(NULL, nothing, NULL), -ESHUTDOWN);
    REQUIRE_EQUAL(flow_spawn_now(NULL, nothing, NULL), -ESHUTDOWN);
    REQUIRE_EQUAL(flow_yield(), -ECANCELED); /* we are among those who are asked to end */
    return flow_ok(arg);
}

static flow_result stop_among_others(void *arg)
{
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, live_asleep, NULL), 0);
    while (atomic_load(&entered) < 100)
        REQUIRE_EQUAL(flow_yield(), 0);
    return stop_from_inside(arg);
}

CASE(stop_inside_a_coroutine_is_a_request)
{
    flow_result out;
    int r;

    /* flow_run does the rest, and still gives the first task's result ... */
    struct flow_options o = test_options();
    REQUIRE_EQUAL(flow_run(&o, stop_among_others, (void *)42, &out), 0);
    REQUIRE(out.error == 0 && out.ptr == (void *)42);
    REQUIRE_EQUAL(atomic_load(&ended), 100);
    everything_gives(-ESHUTDOWN);
    /* ... or the next flow_stop. */
    test_start();
    r = flow_sync_wait(stop_from_inside, (void *)1, &out, FLOW_FOREVER);
    REQUIRE(r == 0 || r == -ECANCELED); /* waiting threads are told, too */
    REQUIRE_EQUAL(flow_start(NULL), -EALREADY);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    o.workers = 0;
    REQUIRE_EQUAL(flow_run(&o, stop_from_inside, (void *)43, &out), 0);
    REQUIRE(out.error == 0 && out.ptr == (void *)43);
}

static atomic_int waiter_result;
static atomic_bool waiter_waits;

static void *wait_on_a_foreign_thread(void *task)
{
    atomic_store(&waiter_waits, true);
    atomic_store(&waiter_result, flow_join(*(flow_task *)task, NULL, FLOW_FOREVER));
    return NULL;
}

static flow_result sleep_and_resist(void *arg)
{
    (void)arg;
    atomic_fetch_add(&entered, 1);
    flow_sleep_until(FLOW_FOREVER);
    while (!atomic_load(&release_spinner))
        flow_yield();
    return flow_ok(NULL);
}

CASE(a_foreign_thread_that_waits_gets_ecanceled_from_the_stop)
{
    pthread_t thread;
    flow_task task;
    int left;

    test_start();
    REQUIRE_EQUAL(flow_spawn(&task, sleep_and_resist, NULL), 0);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, wait_on_a_foreign_thread, &task), 0);
    WAIT_UNTIL(atomic_load(&waiter_waits) && atomic_load(&entered) == 1);
    test_nap(FLOW_MS(20)); /* into its join, most likely */
    left = flow_stop(flow_after(FLOW_MS(100)));
    pthread_join(thread, NULL);
    REQUIRE(atomic_load(&waiter_result) == -ECANCELED || atomic_load(&waiter_result) == -ESHUTDOWN);
    REQUIRE_EQUAL(left, 1);
}

static void *stop_and_count(void *out)
{
    int r = flow_stop(FLOW_FOREVER);

    REQUIRE(r == 0 || r == -EALREADY);
    if (r == 0)
        atomic_fetch_add((atomic_int *)out, 1);
    return NULL;
}

CASE(several_threads_may_stop_at_once)
{
    for (int round = 0; round < TEST_ROUNDS(50, 10); round++) {
        atomic_int done = 0;
        pthread_t thread[4];

        start_at_16k();
        for (int i = 0; i < 50; i++)
            REQUIRE_EQUAL(flow_spawn(NULL, sleep_for_ever, NULL), 0);
        for (int i = 0; i < 4; i++)
            REQUIRE_EQUAL(pthread_create(&thread[i], NULL, stop_and_count, &done), 0);
        for (int i = 0; i < 4; i++)
            pthread_join(thread[i], NULL);
        REQUIRE(atomic_load(&done) >= 1);
        everything_gives(-ESHUTDOWN);
    }
}

static atomic_bool stop_calling;

static void *call_all_the_time(void *calls)
{
    while (!atomic_load(&stop_calling)) {
        struct flow_stats stats = {.size = sizeof stats};
        flow_task task;
        int r = flow_spawn(&task, sleep_ms, (void *)1);

        REQUIRE(r == 0 || r == -ESHUTDOWN);
        if (r == 0) {
            r = flow_join(task, NULL, FLOW_FOREVER);
            REQUIRE(r == 0 || r == -ESHUTDOWN || r == -ECANCELED || r == -ESRCH);
            atomic_fetch_add((atomic_long *)calls, 1);
        }
        r = flow_stats(&stats);
        REQUIRE(r == 0 || r == -ESHUTDOWN);
        flow_cancel(task);
        r = flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER);
        REQUIRE(r == 0 || r == -ESHUTDOWN || r == -ECANCELED || r == -ESRCH);
    }
    return NULL;
}

CASE(starts_and_stops_under_the_calls_of_other_threads)
{
    atomic_long calls = 0;
    pthread_t thread[3];
    int rounds = 0;
    flow_deadline end = flow_after(FLOW_S(1));

    for (int i = 0; i < 3; i++)
        REQUIRE_EQUAL(pthread_create(&thread[i], NULL, call_all_the_time, &calls), 0);
    while (flow_now() < end) {
        start_at_16k();
        test_nap(FLOW_MS(2));
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
        rounds++;
    }
    atomic_store(&stop_calling, true);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    REQUIRE(atomic_load(&calls) > 0);
    child_note("%d starts and stops under %ld calls", rounds, atomic_load(&calls));
}

/* ---- again and again ---- */

static flow_result use_everything(void *arg)
{
    struct flow_spawn_options named = FLOW_SPAWN_INIT;
    flow_task task[20];

    named.name = "named";
    for (int i = 0; i < 20; i++) {
        named.stack_bytes = (size_t)(16 * 1024) << i % 3;
        REQUIRE_EQUAL(flow_spawn_with(&task[i], &named, nothing, arg), 0);
    }
    REQUIRE_EQUAL(flow_when_all(task, 20, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_offload(FLOW_LANE_FILE, nothing, arg, FLOW_FOREVER).error, 0);
    REQUIRE_EQUAL(flow_sleep(FLOW_US(50)), 0);
    return flow_ok(NULL);
}

CASE(a_thousand_starts_and_stops_leave_memory_and_descriptors_flat)
{
    const int rounds = TEST_ROUNDS(1000, 100), warm = rounds / 5;
    long kb = 0, fds = 0, threads_at_end;

    for (int i = 0; i < rounds; i++) {
        struct flow_stats stats;

        if (i == warm) {
            kb = resident_kb();
            fds = descriptor_count();
        }
        test_start();
        REQUIRE_EQUAL(flow_sync_wait(use_everything, NULL, NULL, FLOW_FOREVER), 0);
        stats = test_stats();
        REQUIRE(stats.offload_threads <= 16);
        REQUIRE_EQUAL(stats.offloaded, 1);
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    }
    WAIT_UNTIL(thread_count() <= 1 + TEST_TSAN);
    threads_at_end = thread_count();
    child_note("%d rounds: RSS %+ld KiB since round %d, descriptors %+ld, threads %ld", rounds,
               resident_kb() - kb, warm, descriptor_count() - fds, threads_at_end);
    REQUIRE_EQUAL(descriptor_count(), fds);
    if (!TEST_SANITIZED)
        REQUIRE(resident_kb() - kb < 512);
}

CASE(helpers_of_one_runtime_are_not_counted_by_the_next)
{
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(use_everything, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    test_start();
    WAIT_UNTIL(thread_count() <= 1 + test_workers() + TEST_TSAN);
    REQUIRE_EQUAL(test_stats().offload_threads, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

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
    start_driven();
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

    start_driven();
    REQUIRE_EQUAL(flow_spawn(&task, sleep_ms, (void *)60), 0);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), 1);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), 0);
    begin = flow_now();
    REQUIRE_EQUAL(flow_drive(begin + FLOW_MS(10)), 0);
    REQUIRE(flow_now() - begin >= FLOW_MS(10) && flow_now() - begin < FLOW_MS(60));
    REQUIRE_EQUAL(flow_drive(begin + FLOW_S(10)), 1);
    REQUIRE(flow_now() - begin < FLOW_S(5));
    REQUIRE_EQUAL(flow_join(task, NULL, FLOW_NOW), 0);
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

static flow_waker kept;
static atomic_bool is_kept;

static int keep(flow_waker waker, void *arg)
{
    (void)arg;
    kept = waker;
    atomic_store(&is_kept, true);
    return 0;
}

static flow_result suspend_and_keep(void *arg)
{
    int r = flow_suspend(keep, NULL, FLOW_FOREVER);

    return r ? flow_err(r) : flow_ok(arg);
}

CASE(two_threads_do_not_drive_at_once)
{
    pthread_t thread;

    start_driven();
    REQUIRE_EQUAL(flow_spawn(NULL, suspend_and_keep, NULL), 0);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), 1);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, drive_for_ever, NULL), 0);
    WAIT_UNTIL(flow_drive(FLOW_NOW) == -EBUSY);
    REQUIRE_EQUAL(flow_drive(FLOW_FOREVER), -EBUSY);
    REQUIRE_EQUAL(flow_wake(kept), 0);
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

        atomic_store(&is_kept, false);
        start_driven();
        REQUIRE_EQUAL(flow_spawn(NULL, suspend_and_keep, NULL), 0);
        REQUIRE_EQUAL(pthread_create(&thread, NULL, drive_while_it_runs, NULL), 0);
        WAIT_UNTIL(atomic_load(&is_kept));
        test_nap(FLOW_MS(1));
        REQUIRE_EQUAL(flow_stop(flow_after(FLOW_S(5))), 0);
        pthread_join(thread, NULL);
    }
}

/* Set when both handles of a pair are there to be read. */
static atomic_bool pair_is_complete;

static flow_result join_me(void *other)
{
    while (!atomic_load(&pair_is_complete))
        flow_yield();
    return flow_err(flow_join(*(flow_task *)other, NULL, FLOW_FOREVER));
}

CASE(a_drive_that_can_never_end_says_edeadlk)
{
    flow_task pair[2];

    start_driven();
    REQUIRE_EQUAL(flow_spawn(&pair[0], join_me, &pair[1]), 0);
    REQUIRE_EQUAL(flow_spawn(&pair[1], join_me, &pair[0]), 0);
    atomic_store(&pair_is_complete, true);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), 2);
    REQUIRE_EQUAL(flow_drive(flow_after(FLOW_MS(20))), 0);
    REQUIRE_EQUAL(flow_drive(FLOW_FOREVER), -EDEADLK);
    REQUIRE_EQUAL(flow_drive(FLOW_FOREVER), -EDEADLK);
    REQUIRE_EQUAL(flow_cancel(pair[0]), 0);
    REQUIRE(flow_drive(FLOW_FOREVER) > 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result sum_of_children(void *n)
{
    flow_task task[50];
    flow_result r[50];
    int64_t sum = 0;

    for (intptr_t i = 0; i < 50; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], i % 2 ? sleep_ms : nothing, (void *)(i % 7)), 0);
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
    start_driven();
    REQUIRE_EQUAL(flow_sync_wait(sum_of_children, (void *)1, &out, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(out.i64, expected);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    o.workers = 0;
    out.i64 = 0;
    REQUIRE_EQUAL(flow_run(&o, sum_of_children, (void *)1, &out), 0);
    REQUIRE_EQUAL(out.i64, expected);
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
    start_driven();
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

static flow_result long_sleepers(void *arg)
{
    static const int64_t spans[] = {INT64_MAX, INT64_MAX - 1, INT64_MAX / 2, FLOW_S(1) << 20};
    flow_task task[4];

    for (int i = 0; i < 4; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], live_asleep, (void *)spans[i]), 0);
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

/* ---- deadlocks ---- */

static flow_result deadlock(void *arg)
{
    struct flow_spawn_options named = FLOW_SPAWN_INIT;
    static flow_task pair[2];

    named.name = "first-of-the-pair";
    REQUIRE_EQUAL(flow_spawn_with(&pair[0], &named, join_me, &pair[1]), 0);
    named.name = "second-of-the-pair";
    REQUIRE_EQUAL(flow_spawn_with(&pair[1], &named, join_me, &pair[0]), 0);
    atomic_store(&pair_is_complete, true);
    return flow_ok(arg);
}

CHILD(deadlocked)
{
    struct flow_options o = test_options();
    flow_result out;

    if (*arg)
        o.workers = atoi(arg);
    REQUIRE_EQUAL(flow_run(&o, deadlock, NULL, &out), -EDEADLK);
    everything_gives(-ESHUTDOWN);
    REQUIRE_EQUAL(flow_run(&o, nothing, (void *)3, &out), 0);
    REQUIRE(out.ptr == (void *)3);
}

static void judge_deadlock(const char *arg)
{
    static struct child_end end;

    child_run(&end, "deadlocked", arg);
    child_must_exit(&end, 0);
    child_must_say(&end, "\"first-of-the-pair\"");
    child_must_say(&end, "\"second-of-the-pair\"");
    child_must_say(&end, "waits for join");
}

JUDGED(two_tasks_that_join_each_other_are_reported)
{
    judge_deadlock("");
}

JUDGED(and_without_workers_too)
{
    judge_deadlock("0");
}

static flow_result join_another(void *fn)
{
    flow_task task;
    flow_result r;

    REQUIRE_EQUAL(flow_spawn(&task, (flow_fn)(uintptr_t)fn, NULL), 0);
    REQUIRE_EQUAL(flow_join(task, &r, FLOW_FOREVER), 0);
    return r;
}

static void not_a_deadlock(flow_fn fn)
{
    struct flow_options o = test_options();
    flow_result out = {0};

    for (int workers = 0; workers < 2; workers++) {
        o.workers = workers ? test_workers() : 0;
        REQUIRE_EQUAL(flow_run(&o, join_another, (void *)(uintptr_t)fn, &out), 0);
        REQUIRE_EQUAL(out.error, 0);
    }
}

static flow_result timer_of_50_ms(void *arg)
{
    (void)arg;
    return sleep_ms((void *)50);
}

static flow_result offload_of_30_ms(void *arg)
{
    return flow_offload(FLOW_LANE_FILE, nap_30_ms, arg, FLOW_FOREVER);
}

CASE(a_timer_or_an_offloaded_call_is_no_deadlock)
{
    not_a_deadlock(timer_of_50_ms);
    not_a_deadlock(offload_of_30_ms);
}

static void *wake_later(void *unused)
{
    WAIT_UNTIL(atomic_load(&is_kept));
    test_nap(FLOW_MS(30));
    flow_wake(kept);
    return unused;
}

CASE(a_waker_that_somebody_may_have_is_no_deadlock)
{
    for (int workers = 0; workers < 2; workers++) {
        struct flow_options o = test_options();
        pthread_t thread;

        if (!workers)
            o.workers = 0;
        atomic_store(&is_kept, false);
        REQUIRE_EQUAL(pthread_create(&thread, NULL, wake_later, NULL), 0);
        REQUIRE_EQUAL(flow_run(&o, join_another, (void *)(uintptr_t)suspend_and_keep, NULL), 0);
        pthread_join(thread, NULL);
    }
}

static flow_task pair_to_free[2];
static atomic_bool pair_stands;

static flow_result deadlock_to_be_freed(void *arg)
{
    REQUIRE_EQUAL(flow_spawn(&pair_to_free[0], join_me, &pair_to_free[1]), 0);
    REQUIRE_EQUAL(flow_spawn(&pair_to_free[1], join_me, &pair_to_free[0]), 0);
    atomic_store(&pair_is_complete, true);
    atomic_store(&pair_stands, true);
    return flow_ok(arg);
}

static void *cancel_later(void *registered)
{
    struct flow_stats stats = {.size = sizeof stats};

    WAIT_UNTIL(flow_stats(&stats) == 0); /* from now on we are known */
    atomic_store((atomic_bool *)registered, true);
    WAIT_UNTIL(atomic_load(&pair_stands));
    test_nap(FLOW_MS(50));
    flow_cancel(pair_to_free[0]);
    return NULL;
}

static flow_result wait_for_the_other_thread(void *registered)
{
    while (!atomic_load((atomic_bool *)registered))
        flow_sleep(FLOW_MS(1));
    return deadlock_to_be_freed(NULL);
}

CASE(a_foreign_thread_that_might_cancel_is_no_deadlock)
{
    struct flow_options o = test_options();
    atomic_bool registered = false;
    pthread_t thread;

    REQUIRE_EQUAL(pthread_create(&thread, NULL, cancel_later, &registered), 0);
    REQUIRE_EQUAL(flow_run(&o, wait_for_the_other_thread, &registered, NULL), 0);
    pthread_join(thread, NULL);
}

static void *use_and_end(void *unused)
{
    flow_stop(FLOW_NOW);
    return unused;
}

CASE(a_foreign_thread_that_is_gone_counts_no_more)
{
    struct flow_options o = test_options();
    pthread_t thread;

    test_start();
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, use_and_end, NULL), 0);
    pthread_join(thread, NULL);
    /* This thread has used the library before, and stands by in flow_run. */
    REQUIRE_EQUAL(flow_run(&o, deadlock, NULL, NULL), -EDEADLK);
}

/* ---- running ---- */

static flow_result fire_and_forget(void *arg)
{
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, timer_of_50_ms, NULL), 0);
    return flow_ok(arg);
}

CASE(run_waits_for_every_task_and_gives_the_first_ones_result)
{
    struct flow_options o = test_options();
    flow_result out;
    flow_deadline begin = flow_now();

    REQUIRE_EQUAL(flow_run(&o, fire_and_forget, (void *)9, &out), 0);
    REQUIRE(out.error == 0 && out.ptr == (void *)9);
    REQUIRE(flow_now() - begin >= FLOW_MS(50));
    REQUIRE_EQUAL(flow_run(&o, fire_and_forget, NULL, NULL), 0);
    o.stack_bytes = 3;
    REQUIRE_EQUAL(flow_run(&o, nothing, NULL, &out), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "stack_bytes"));
}

/* ---- counters and the dump ---- */

static flow_result mixed_load(void *arg)
{
    flow_task task[100];

    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(i % 3 ? flow_spawn(&task[i], sleep_ms, (void *)(intptr_t)(i % 4))
                            : flow_spawn_now(&task[i], nothing, NULL),
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

    start_at_16k();
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
        REQUIRE_EQUAL(flow_spawn(NULL, nothing, NULL), 0);
        REQUIRE_EQUAL(queued_on_all_nodes(), i);
    }
    REQUIRE(queued_by_the_worker() > 1 && queued_by_the_worker() < 300);
    return flow_ok(arg);
}

CASE(what_waits_to_start_is_counted)
{
    uint64_t n;

    start_driven();
    REQUIRE_EQUAL(flow_stats_queued(0, NULL), -EINVAL);
    REQUIRE_EQUAL(flow_stats_queued(-1, &n), -EINVAL);
    REQUIRE_EQUAL(flow_stats_queued(flow_topology_nodes(), &n), -EINVAL);
    for (int i = 0; i < 10; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, nothing, NULL), 0);
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

CASE(the_dump_lists_who_lives_and_what_they_wait_for)
{
    static char text[65536];
    struct flow_spawn_options named = FLOW_SPAWN_INIT;
    flow_task asleep, joining, suspended;
    int n, null;

    test_start();
    named.name = "a sleeper %s %n";
    REQUIRE_EQUAL(flow_spawn_with(&asleep, &named, live_asleep, NULL), 0);
    named.name = "a joiner with a name that is longer than is kept of it";
    REQUIRE_EQUAL(flow_spawn_with(&joining, &named, live_joining, &asleep), 0);
    named.name = "suspended";
    named.stack_bytes = 100 * 1024;
    REQUIRE_EQUAL(flow_spawn_with(&suspended, &named, live_suspended, NULL), 0);
    WAIT_UNTIL(atomic_load(&entered) == 3);
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

/* ---- the shared library, loaded and unloaded ---- */

CASE(the_shared_library_stays_when_it_is_unloaded)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 64);
    flow_result out;

    REQUIRE(n > 0);
    path[n] = 0;
    for (int i = 0; i < 2; i++)
        *strrchr(path, '/') = 0;
    strcat(path, "/libflowcoro.so");
    if (TEST_SANITIZED)
        skip_case("a library with a sanitizer in it cannot be loaded late");
    if (access(path, R_OK))
        skip_case("the shared library is not built");
    for (int i = 0; i < 10; i++) {
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        int (*start)(const struct flow_options *) = library ? dlsym(library, "flow_start") : NULL;
        int (*wait)(flow_fn, void *, flow_result *, flow_deadline) =
            library ? dlsym(library, "flow_sync_wait") : NULL;
        int (*stop)(flow_deadline) = library ? dlsym(library, "flow_stop") : NULL;

        if (!library)
            child_fail(__FILE__, __LINE__, dlerror());
        REQUIRE(start && wait && stop);
        REQUIRE_EQUAL(start(NULL), i == 0 ? 0 : -EALREADY); /* it is the same one */
        REQUIRE_EQUAL(wait(nothing, (void *)7, &out, FLOW_FOREVER), 0);
        REQUIRE(out.ptr == (void *)7);
        REQUIRE_EQUAL(dlclose(library), 0);
        REQUIRE_EQUAL(wait(nothing, (void *)8, &out, FLOW_FOREVER), 0);
        if (i == 9)
            REQUIRE_EQUAL(stop(FLOW_FOREVER), 0);
    }
}

/* ---- stacks and huge pages ---- */

struct huge {
    long kb;
    bool found;
};

static flow_result look_at_smaps(void *out)
{
    struct huge *huge = out;
    uintptr_t here = (uintptr_t)&huge, from, to;
    bool inside = false;
    FILE *f = fopen("/proc/self/smaps", "re");
    char *line = NULL;
    size_t room = 0;

    while (f && getline(&line, &room, f) > 0) {
        if (sscanf(line, "%lx-%lx", &from, &to) == 2)
            inside = here >= from && here < to;
        if (inside && sscanf(line, "AnonHugePages: %ld", &huge->kb) == 1)
            huge->found = true;
    }
    free(line);
    if (f)
        fclose(f);
    return flow_ok(NULL);
}

CASE(stacks_are_not_made_of_huge_pages)
{
    struct flow_options o = test_options();
    struct flow_spawn_options with = FLOW_SPAWN_INIT;
    struct huge huge = {-1, false};
    flow_task task;

    o.stack_bytes = 1 << 20;
    with.stack_bytes = 256 * 1024;
    test_start_with(&o);
    for (int i = 0; i < 50; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, sleep_for_ever, NULL), 0);
    REQUIRE_EQUAL(flow_spawn_with(&task, &with, look_at_smaps, &huge), 0);
    REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
    REQUIRE(huge.found);
    REQUIRE_EQUAL(huge.kb, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
