/* SPDX-License-Identifier: MIT
 *
 * Nothing can ever run again: that is reported, and what might still come from elsewhere is not taken for it.
 * Runs with FLOW_TEST_WORKERS workers where it does not say otherwise. */
#include "tests/support/child.h"
#include "tests/support/tasks.h"
#include "tests/support/every_call.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static struct kept kept;

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

    test_start_driven();
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
    every_call_gives(-ESHUTDOWN);
    REQUIRE_EQUAL(flow_run(&o, return_argument, (void *)3, &out), 0);
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

/* The root is flow_run's own: the program has nothing to join, and a report of leaks does not say so. */
CHILD(deadlocked_alone)
{
    struct flow_options o = test_options();

    if (*arg)
        o.workers = atoi(arg);
    o.report_leaks = true;
    REQUIRE_EQUAL(flow_run(&o, sleep_for_ever, NULL, NULL), -EDEADLK);
}

JUDGED(the_root_of_a_deadlock_is_no_leak)
{
    static struct child_end end;

    for (int driven = 0; driven < 2; driven++) {
        child_run(&end, "deadlocked_alone", driven ? "0" : "");
        child_must_exit(&end, 0);
        child_must_say(&end, "flowcoro: 1 tasks were alive when");
        assert_null(strstr(end.text, "have ended and were never joined"));
    }
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

static flow_result wait_to_be_woken(void *unused)
{
    (void)unused;
    return suspend_and_keep(&kept);
}

static void *wake_later(void *unused)
{
    WAIT_UNTIL(atomic_load(&kept.is_there));
    test_nap(FLOW_MS(30));
    flow_wake(kept.waker);
    return unused;
}

CASE(a_waker_that_somebody_may_have_is_no_deadlock)
{
    for (int workers = 0; workers < 2; workers++) {
        struct flow_options o = test_options();
        pthread_t thread;

        if (!workers)
            o.workers = 0;
        atomic_store(&kept.is_there, false);
        REQUIRE_EQUAL(pthread_create(&thread, NULL, wake_later, NULL), 0);
        REQUIRE_EQUAL(flow_run(&o, join_another, (void *)(uintptr_t)wait_to_be_woken, NULL), 0);
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

static struct flow_event event = FLOW_EVENT_INIT;
static bool abandoned_call_sets;

static flow_result nap_and_set(void *arg)
{
    test_nap(FLOW_MS(TEST_SLOW ? 300 : 60));
    if (abandoned_call_sets)
        flow_event_set(&event);
    return flow_ok(arg);
}

static void nothing_to_release(void *unused)
{
    (void)unused;
}

/* The call has begun when it is given up. */
static flow_result abandon_and_wait(void *arg)
{
    flow_deadline soon = flow_after(FLOW_MS(TEST_SLOW ? 100 : 20));
    bool abandoned;
    flow_result r = flow_offload_owned(FLOW_LANE_FILE, nap_and_set, arg, nothing_to_release, &abandoned, soon);

    REQUIRE(abandoned && r.error == -ETIMEDOUT);
    REQUIRE_EQUAL(flow_event_wait(&event, FLOW_FOREVER), abandoned_call_sets ? 0 : -ECANCELED);
    return flow_ok(arg);
}

static void abandon_and_run(bool sets, int expected)
{
    struct flow_options o = test_options();

    abandoned_call_sets = sets;
    for (int workers = 0; workers < 2; workers++) {
        o.workers = workers ? test_workers() : 0;
        flow_event_reset(&event);
        REQUIRE_EQUAL(flow_run(&o, abandon_and_wait, NULL, NULL), expected);
    }
}

CASE(an_abandoned_call_that_still_runs_is_no_deadlock)
{
    abandon_and_run(true, 0);
}

CASE(an_abandoned_call_that_has_ended_counts_no_more)
{
    abandon_and_run(false, -EDEADLK);
}

static void *end_without_a_deed(void *registered)
{
    struct flow_stats stats = {.size = sizeof stats};

    WAIT_UNTIL(flow_stats(&stats) == 0);
    atomic_store((atomic_bool *)registered, true);
    WAIT_UNTIL(atomic_load(&pair_stands));
    test_nap(FLOW_MS(50)); /* the workers, or who drives, are asleep, most likely */
    return NULL;
}

CASE(a_deadlock_shows_when_the_last_thread_that_might_cancel_ends)
{
    for (int workers = 0; workers < 2; workers++) {
        struct flow_options o = test_options();
        atomic_bool registered = false;
        pthread_t thread;

        o.workers = workers ? test_workers() : 0;
        atomic_store(&pair_stands, false);
        REQUIRE_EQUAL(pthread_create(&thread, NULL, end_without_a_deed, &registered), 0);
        REQUIRE_EQUAL(flow_run(&o, wait_for_the_other_thread, &registered, NULL), -EDEADLK);
        pthread_join(thread, NULL);
    }
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
    REQUIRE_EQUAL(flow_sync_wait(return_argument, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, use_and_end, NULL), 0);
    pthread_join(thread, NULL);
    /* This thread has used the library before, and stands by in flow_run. */
    REQUIRE_EQUAL(flow_run(&o, deadlock, NULL, NULL), -EDEADLK);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
