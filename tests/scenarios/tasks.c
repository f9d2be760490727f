/* SPDX-License-Identifier: MIT
 *
 * Scenarios: tasks, timers, calls on helpers, jobs. */
#include "tests/scenarios/scenarios.h"

#include <errno.h>
#include <stdlib.h>

/* ---- spawning, from a coroutine and from a thread ---- */

enum { SPAWNS = 150 };

static void spawn_all_ways(void)
{
    static const char *const names[] = {"a name", NULL, NULL};
    flow_task task[SPAWNS];
    flow_result result;
    size_t n = 0;
    int r;

    for (intptr_t i = 0; i < SPAWNS; i++) {
        struct flow_spawn_options o = FLOW_SPAWN_INIT;

        o.name = names[i % 3];
        o.stack_bytes = (size_t)(16 * 1024) << i % 7;
        o.flags = i % 11 == 0 ? FLOW_ROAM : i % 13 == 0 ? FLOW_FP_ENVIRONMENT : 0;
        if (flow_self().id && i % 5 == 0)
            r = flow_spawn_now(&task[n], yield_or_sleep, (void *)i);
        else
            r = flow_spawn_with(&task[n], &o, yield_or_sleep, (void *)i);
        n += fine(r);
    }
    r = flow_when_all(task, n, NULL, FLOW_FOREVER);
    if (r == 0 || r != -ENOMEM) { /* its own memory was not refused */
        fine(r);
        return;
    }
    for (size_t i = 0; i < n; i++)
        if (flow_join(task[i], &result, FLOW_FOREVER) == 0) /* where when_all has left any */
            fine(result.error);
}

static flow_result spawn_in_coroutine(void *arg)
{
    spawn_all_ways();
    return flow_ok(arg);
}

void spawns(void)
{
    fine(in_task(spawn_in_coroutine));
    spawn_all_ways();
}

/* ---- 10,000 tasks that live at once ---- */

enum { TASKS = TEST_EMULATED ? 500 : TEST_ASAN ? 2000 : 10000 };

static struct flow_event open_up;
static atomic_long begun;

static flow_result wait_for_opening(void *arg)
{
    int r;

    (void)arg;
    atomic_fetch_add(&begun, 1);
    r = flow_event_wait(&open_up, FLOW_FOREVER);
    return ended(r);
}

static flow_result live_at_once(void *arg)
{
    flow_task *task = malloc(TASKS * sizeof *task);
    uint64_t refused = test_stats().total.no_stack;
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    flow_result result;
    int n = 0;

    if (!task)
        return flow_err(-ENOMEM);
    atomic_store(&begun, 0);
    flow_event_reset(&open_up);
    o.stack_bytes = 16 * 1024;
    for (int i = 0; i < TASKS; i++)
        n += fine(flow_spawn_with(&task[n], &o, wait_for_opening, arg));
    while (atomic_load(&begun) + (long)(test_stats().total.no_stack - refused) < n)
        REQUIRE_EQUAL(flow_sleep(FLOW_US(100)), 0);
    REQUIRE_EQUAL(flow_event_set(&open_up), 0);
    for (int i = 0; i < n; i++) {
        REQUIRE_EQUAL(flow_join(task[i], &result, FLOW_FOREVER), 0);
        fine(result.error);
    }
    free(task);
    return flow_ok(arg);
}

void ten_thousand_tasks(void)
{
    fine(in_task(live_at_once));
}

/* ---- timers ---- */

enum { TIMERS = 2000 };

static flow_result sleep_as_told(void *arg)
{
    int r = flow_sleep(FLOW_US((intptr_t)arg % 700));

    return ended(r == -ECANCELED ? 0 : r);
}

static flow_result sleep_in_many(void *arg)
{
    flow_task task[TIMERS];
    flow_result result;
    int n = 0;

    for (intptr_t i = 0; i < TIMERS; i++)
        n += fine(flow_spawn(&task[n], sleep_as_told, (void *)(i * 7919)));
    for (int i = 0; i < n; i += 3)
        flow_cancel(task[i]);
    for (int i = 0; i < n; i++) {
        while (flow_join(task[i], &result, flow_after(FLOW_US(50))) == -ETIMEDOUT)
            ;
        fine(result.error == -ECANCELED ? 0 : result.error);
    }
    return flow_ok(arg);
}

void timers(void)
{
    fine(in_task(sleep_in_many));
}

/* ---- offloading ---- */

static flow_result count_call(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
    return flow_ok_i64(11);
}

static void count_release(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

/* A call runs or says why not; what was given away is released or is ours again. */
static flow_result offload_in_lane(void *lane)
{
    atomic_int ran = 0, owned = 0;
    bool abandoned = false;
    flow_result r = flow_offload(lane, count_call, &ran, FLOW_FOREVER);

    fine(r.error);
    REQUIRE_EQUAL(atomic_load(&ran), r.error == 0);
    r = flow_offload_owned(lane, count_call, &owned, count_release, &abandoned, FLOW_FOREVER);
    fine(r.error);
    REQUIRE_EQUAL(abandoned, r.error != 0);
    REQUIRE_EQUAL(atomic_load(&owned), 1);
    return flow_ok(NULL);
}

static flow_result offload_from_many(void *arg)
{
    flow_lane *own = NULL;
    flow_task task[30];
    flow_result result;
    int n = 0;

    (void)arg;
    fine(flow_lane_create(&own, NULL));
    for (int i = 0; i < 30; i++)
        n += fine(flow_spawn(&task[n], offload_in_lane, i % 2 && own ? own : FLOW_LANE_FILE));
    for (int i = 0; i < n; i++) {
        REQUIRE_EQUAL(flow_join(task[i], &result, FLOW_FOREVER), 0);
        fine(result.error);
    }
    if (own)
        REQUIRE_EQUAL(flow_lane_destroy(own), 0);
    return flow_ok(NULL);
}

void offload(void)
{
    fine(in_task(offload_from_many));
}

/* ---- jobs ---- */

static flow_result fib(void *arg)
{
    intptr_t n = (intptr_t)arg;
    struct flow_job job;
    flow_result left, right;

    if (n < 2)
        return flow_ok_i64(n);
    flow_fork(&job, fib, (void *)(n - 1));
    if (n == 9)
        flow_yield(); /* what is forked becomes tasks */
    right = fib((void *)(n - 2));
    left = flow_sync(&job);
    if (left.error || right.error)
        return flow_err(left.error ? left.error : right.error);
    return flow_ok_i64(left.i64 + right.i64);
}

static int add_range(int64_t begin, int64_t end, void *arg)
{
    for (int64_t i = begin; i < end; i++)
        atomic_fetch_add((atomic_long *)arg, i);
    return begin % 64 ? 0 : flow_yield();
}

static int fold_range(int64_t begin, int64_t end, void *value, void *arg)
{
    (void)arg;
    for (int64_t i = begin; i < end; i++)
        *(int64_t *)value += i;
    return 0;
}

static void add_up(void *value, const void *right, void *arg)
{
    (void)arg;
    *(int64_t *)value += *(const int64_t *)right;
}

/* A job whose task cannot start is called in sync: these have no error of their own. */
static flow_result fork_and_loop(void *arg)
{
    static const int64_t zero = 0;
    struct flow_reduction how = FLOW_REDUCTION_INIT;
    atomic_long sum = 0;
    int64_t reduced = 0;
    flow_result r = fib((void *)16);

    (void)arg;
    REQUIRE_EQUAL(r.error, 0);
    REQUIRE_EQUAL(r.i64, 987);
    REQUIRE_EQUAL(flow_parallel_for(0, 2000, 16, add_range, &sum), 0);
    REQUIRE_EQUAL(atomic_load(&sum), 1999000);
    how.bytes = sizeof zero;
    how.identity = &zero;
    how.fold = fold_range;
    how.combine = add_up;
    REQUIRE_EQUAL(flow_parallel_reduce(0, 2000, 16, &how, &reduced), 0);
    REQUIRE_EQUAL(reduced, 1999000);
    return flow_ok(NULL);
}

void jobs(void)
{
    fine(in_task(fork_and_loop));
}

/* ---- what is left to flow_stop ---- */

static flow_result wait_for_ever(void *arg)
{
    struct flow_event never = FLOW_EVENT_INIT;

    if ((intptr_t)arg % 2)
        return flow_err(flow_event_wait(&never, FLOW_FOREVER));
    return flow_err(flow_sleep_until(flow_after(FLOW_S(1000))));
}

void stop(void)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    flow_lane *lane;

    o.name = "left behind";
    for (intptr_t i = 0; i < 300; i++)
        fine(flow_spawn_with(NULL, i % 3 ? NULL : &o, wait_for_ever, (void *)i));
    fine(flow_lane_create(&lane, NULL)); /* flow_stop ends it */
}
