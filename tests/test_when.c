/* SPDX-License-Identifier: MIT
 *
 * Waiting for several tasks, and for a function: flow_when_all, flow_when_any, flow_sync_wait.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "sync/reclaim.h"
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GENEROUS flow_after(FLOW_S(30))

/* How many tasks that never end by themselves have ended. */
static atomic_long canceled_ones;

static flow_result sleep_for_ever(void *arg)
{
    int r = flow_sleep_until(FLOW_FOREVER);

    (void)arg;
    EXPECT_EQ(r, -ECANCELED);
    atomic_fetch_add(&canceled_ones, 1);
    return flow_err(r);
}

static flow_result return_argument(void *arg)
{
    return flow_ok(arg);
}

static flow_result fail_with(void *arg)
{
    return flow_err((int)(intptr_t)arg);
}

/* These two may be losers, which are cancelled. */
static flow_result yield_then_return(void *arg)
{
    int r = 0;

    for (int i = 0; i < 5 && r == 0; i++)
        r = flow_yield();
    EXPECT(r == 0 || r == -ECANCELED);
    return r ? flow_err(r) : flow_ok(arg);
}

static flow_result sleep_then_return(void *arg)
{
    int r = flow_sleep(FLOW_US(100));

    EXPECT(r == 0 || r == -ECANCELED);
    return r ? flow_err(r) : flow_ok(arg);
}

/* A foreign thread cannot use flow_spawn_now. */
static int start_task(flow_task *task, flow_fn fn, void *arg)
{
    return flow_self().id ? flow_spawn_now(task, fn, arg) : flow_spawn(task, fn, arg);
}

/* Gives tasks that need not wait the time to finish, without taking their results. */
static void let_finish(uint64_t finished)
{
    while (test_stats().total.finished < finished)
        if (flow_self().id)
            flow_sleep(FLOW_US(20));
        else
            test_nap(FLOW_US(20));
}

/* ---- when_all ---- */

static void all_of_many(void)
{
    static flow_task task[1000];
    static flow_result result[1000];
    static const size_t counts[] = {0, 1, 2, 31, 32, 33, 100, 1000};
    static flow_fn const fn[] = {return_argument, yield_then_return, sleep_then_return};

    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        size_t n = counts[c];

        for (size_t i = 0; i < n; i++)
            EXPECT_EQ(flow_spawn(&task[i], fn[i % 3], (void *)(i + 1)), 0);
        memset(result, 0xee, sizeof result);
        EXPECT_EQ(flow_when_all(n ? task : NULL, n, result, GENEROUS), 0);
        for (size_t i = 0; i < n; i++)
            EXPECT(result[i].error == 0 && result[i].ptr == (void *)(i + 1));
        EXPECT(n == 1000 || result[n].error == (int)0xeeeeeeee);
        for (size_t i = 0; i < n; i++)
            EXPECT_EQ(flow_join(task[i], NULL, FLOW_NOW), -ESRCH);
    }
    EXPECT_EQ(flow_when_all(NULL, 1, result, FLOW_FOREVER), -EINVAL);
}

static void test_all_of_many(void **state)
{
    (void)state;
    test_from_both(all_of_many);
}

static void all_with_errors(void)
{
    flow_task task[8];
    flow_result result[8];

    EXPECT_EQ(flow_spawn(&task[0], yield_then_return, (void *)1), 0);
    EXPECT_EQ(flow_spawn(&task[1], sleep_then_return, (void *)2), 0);
    EXPECT_EQ(flow_spawn(&task[2], fail_with, (void *)(intptr_t)-EIO), 0);
    EXPECT_EQ(flow_spawn(&task[3], return_argument, (void *)3), 0);
    EXPECT_EQ(flow_spawn(&task[4], fail_with, (void *)(intptr_t)-ENOENT), 0);
    EXPECT_EQ(flow_spawn(&task[5], sleep_for_ever, NULL), 0);
    EXPECT_EQ(flow_cancel(task[5]), 0);
    EXPECT_EQ(flow_when_all(task, 6, result, GENEROUS), -EIO); /* the first by position */
    EXPECT(result[0].error == 0 && result[0].ptr == (void *)1);
    EXPECT(result[1].error == 0 && result[1].ptr == (void *)2);
    EXPECT_EQ(result[2].error, -EIO);
    EXPECT(result[3].error == 0 && result[3].ptr == (void *)3);
    EXPECT_EQ(result[4].error, -ENOENT);
    EXPECT_EQ(result[5].error, -ECANCELED);

    for (int i = 0; i < 3; i++)
        EXPECT_EQ(flow_spawn(&task[i], fail_with, (void *)(intptr_t)(-1 - i)), 0);
    EXPECT_EQ(flow_when_all(task, 3, NULL, GENEROUS), -1);
}

static void test_all_with_errors(void **state)
{
    (void)state;
    test_from_both(all_with_errors);
}

static void all_with_bad_handles(void)
{
    flow_task task[6], self = flow_self();
    flow_result result[6];

    EXPECT_EQ(flow_spawn(&task[0], yield_then_return, (void *)1), 0);
    task[1] = task[0]; /* a duplicate */
    EXPECT_EQ(flow_spawn(&task[2], return_argument, NULL), 0);
    EXPECT_EQ(flow_join(task[2], NULL, GENEROUS), 0); /* stale */
    EXPECT_EQ(flow_spawn(&task[3], sleep_for_ever, NULL), 0);
    EXPECT_EQ(flow_detach(task[3]), 0);
    task[4] = self;
    EXPECT_EQ(flow_spawn(&task[5], sleep_then_return, (void *)6), 0);
    EXPECT_EQ(flow_when_all(task, 6, result, GENEROUS), -EINVAL);
    EXPECT(result[0].error == 0 && result[0].ptr == (void *)1);
    EXPECT_EQ(result[1].error, -EINVAL);
    EXPECT_EQ(result[2].error, -ESRCH);
    EXPECT_EQ(result[3].error, -EINVAL);
    EXPECT_EQ(result[4].error, self.id ? -EDEADLK : -ESRCH);
    EXPECT(result[5].error == 0 && result[5].ptr == (void *)6);
    EXPECT_EQ(flow_cancel(task[3]), 0);
}

static void test_all_with_bad_handles(void **state)
{
    (void)state;
    test_from_both(all_with_bad_handles);
}

static void all_too_late(void)
{
    flow_task task[40];
    flow_result result[40];
    flow_deadline deadline;

    for (size_t i = 0; i < 40; i++) /* the last never ends */
        EXPECT_EQ(flow_spawn(&task[i], i < 39 ? return_argument : sleep_for_ever, (void *)i), 0);
    memset(result, 0xee, sizeof result);
    for (int i = 0; i < 3; i++) {
        deadline = flow_after(FLOW_MS(1));
        EXPECT_EQ(flow_when_all(task, 40, result, deadline), -ETIMEDOUT);
        EXPECT(flow_now() >= deadline);
    }
    EXPECT_EQ(flow_when_all(task, 40, result, FLOW_NOW), -ETIMEDOUT);
    for (size_t i = 0; i < 40; i++)
        EXPECT_EQ(result[i].error, (int)0xeeeeeeee);
    EXPECT_EQ(flow_join(task[7], &result[7], GENEROUS), 0); /* each can still be joined */
    EXPECT(result[7].ptr == (void *)7);
    EXPECT_EQ(flow_cancel(task[39]), 0);
    EXPECT_EQ(flow_when_all(task, 40, result, GENEROUS), -ESRCH);
    EXPECT_EQ(result[7].error, -ESRCH);
    EXPECT_EQ(result[39].error, -ECANCELED);
    EXPECT(result[38].ptr == (void *)38);
}

static void test_all_too_late(void **state)
{
    (void)state;
    test_from_both(all_too_late);
}

static flow_result wait_for_all_of_2(void *arg)
{
    flow_result result[2];

    return flow_err(flow_when_all(arg, 2, result, FLOW_FOREVER));
}

static flow_result wait_for_any_of_2(void *arg)
{
    return flow_err(flow_when_any(arg, 2, NULL, NULL, FLOW_FOREVER));
}

/* Whoever waits for several is cancelled: they stay, and are as before. */
static flow_result cancel_who_waits(void *arg)
{
    static flow_fn const waits[] = {wait_for_all_of_2, wait_for_any_of_2};
    flow_result result;
    flow_task task[2], waiter;

    (void)arg;
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < 2; k++)
            EXPECT_EQ(flow_spawn_now(&task[k], sleep_for_ever, NULL), 0);
        EXPECT_EQ(flow_spawn_now(&waiter, waits[i], task), 0);
        EXPECT_EQ(flow_join(task[0], NULL, FLOW_NOW), -EINVAL); /* being joined */
        EXPECT_EQ(flow_when_any(task, 2, NULL, NULL, FLOW_NOW), -EINVAL);
        EXPECT_EQ(flow_cancel(waiter), 0);
        EXPECT_EQ(flow_join(waiter, &result, GENEROUS), 0);
        EXPECT_EQ(result.error, -ECANCELED);
        for (int k = 0; k < 2; k++) {
            EXPECT_EQ(flow_join(task[k], NULL, FLOW_NOW), -ETIMEDOUT);
            EXPECT_EQ(flow_cancel(task[k]), 0);
            EXPECT_EQ(flow_join(task[k], NULL, GENEROUS), 0);
        }
    }
    return flow_ok(NULL);
}

static void test_cancel_who_waits(void **state)
{
    (void)state;
    test_in_coroutine(cancel_who_waits);
}

/* ---- when_any ---- */

static void any_of_some(void)
{
    static const size_t counts[] = {1, 2, 5, 32, 33, 100};
    flow_task task[100];
    flow_result result;
    size_t winner;

    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        size_t n = counts[c];

        for (size_t p = 0; p < 3; p++) {
            size_t place = p == 0 ? 0 : p == 1 ? n / 2 : n - 1;

            for (size_t i = 0; i < n; i++) {
                flow_fn fn = i == place ? sleep_then_return : sleep_for_ever;

                EXPECT_EQ(start_task(&task[i], fn, (void *)(i + 1)), 0);
            }
            winner = 12345;
            EXPECT_EQ(flow_when_any(task, n, &winner, &result, GENEROUS), 0);
            EXPECT_EQ(winner, place);
            EXPECT(result.error == 0 && result.ptr == (void *)(place + 1));
            for (size_t i = 0; i < n; i++) {
                EXPECT_EQ(flow_join(task[i], NULL, FLOW_NOW), -ESRCH); /* freed, all of them */
                EXPECT_EQ(flow_cancel(task[i]), -ESRCH);
            }
        }
    }
}

static void test_any_of_some(void **state)
{
    (void)state;
    test_from_both(any_of_some);
}

/* The losers have ended before flow_when_any returns: what they use may go. */
static void any_ends_losers(void)
{
    flow_task task[10];

    for (int round = 0; round < 20; round++) {
        long before = atomic_load(&canceled_ones);

        for (int i = 0; i < 9; i++)
            EXPECT_EQ(start_task(&task[i], sleep_for_ever, NULL), 0);
        for (int i = 0; i < 9; i++) /* all have started */
            EXPECT_EQ(flow_join(task[i], NULL, flow_after(FLOW_US(300))), -ETIMEDOUT);
        EXPECT_EQ(start_task(&task[9], sleep_then_return, NULL), 0);
        EXPECT_EQ(flow_when_any(task, 10, NULL, NULL, GENEROUS), 0);
        EXPECT(atomic_load(&canceled_ones) - before <= 9);
        if (flow_self().id) /* started at once, not when a worker found the time */
            EXPECT_EQ(atomic_load(&canceled_ones) - before, 9);
    }
}

static void test_any_ends_losers(void **state)
{
    (void)state;
    test_from_both(any_ends_losers);
}

static void any_already_finished(void)
{
    uint64_t finished = test_stats().total.finished;
    flow_task task[5];
    flow_result result;
    size_t winner = 9;

    for (size_t i = 0; i < 5; i++)
        EXPECT_EQ(flow_spawn(&task[i], i == 0 ? sleep_for_ever : return_argument, (void *)i), 0);
    let_finish(finished + 4);
    EXPECT_EQ(flow_when_any(task, 5, &winner, &result, GENEROUS), 0);
    EXPECT_EQ(winner, 1); /* the lowest of several */
    EXPECT(result.error == 0 && result.ptr == (void *)1);

    finished = test_stats().total.finished;
    EXPECT_EQ(flow_spawn(&task[0], sleep_for_ever, NULL), 0);
    EXPECT_EQ(flow_spawn(&task[1], fail_with, (void *)(intptr_t)-EIO), 0);
    let_finish(finished + 1);
    EXPECT_EQ(flow_when_any(task, 2, &winner, &result, FLOW_NOW), 0); /* a poll suffices; an error may win */
    EXPECT_EQ(winner, 1);
    EXPECT_EQ(result.error, -EIO);
}

static void test_any_already_finished(void **state)
{
    (void)state;
    test_from_both(any_already_finished);
}

static void any_misused(void)
{
    flow_task task[4], self = flow_self();
    flow_deadline deadline;
    flow_result result;
    size_t winner = 77;

    EXPECT_EQ(flow_when_any(task, 0, &winner, &result, FLOW_FOREVER), -EINVAL);
    EXPECT_EQ(flow_when_any(NULL, 1, &winner, &result, FLOW_FOREVER), -EINVAL);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(start_task(&task[i], sleep_for_ever, NULL), 0);
    task[3] = task[0];
    EXPECT_EQ(flow_when_any(task, 4, &winner, &result, FLOW_FOREVER), -EINVAL);
    task[3] = (flow_task){0};
    EXPECT_EQ(flow_when_any(task, 4, &winner, &result, FLOW_FOREVER), -EINVAL);
    task[3] = self;
    EXPECT_EQ(flow_when_any(task, 4, &winner, &result, FLOW_FOREVER), -EINVAL);
    deadline = flow_after(FLOW_MS(1));
    EXPECT_EQ(flow_when_any(task, 3, &winner, &result, deadline), -ETIMEDOUT);
    EXPECT(flow_now() >= deadline);
    EXPECT_EQ(flow_when_any(task, 3, &winner, &result, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(winner, 77);
    for (int i = 0; i < 3; i++) { /* nothing was changed by all that */
        EXPECT_EQ(flow_join(task[i], NULL, FLOW_NOW), -ETIMEDOUT);
        EXPECT_EQ(flow_cancel(task[i]), 0);
        EXPECT_EQ(flow_join(task[i], &result, GENEROUS), 0);
        EXPECT_EQ(result.error, -ECANCELED);
    }
}

static void test_any_misused(void **state)
{
    (void)state;
    test_from_both(any_misused);
}

static flow_result any_in_a_section(void *arg)
{
    flow_task task[2];
    size_t winner = 77;

    (void)arg;
    for (int i = 0; i < 2; i++) {
        EXPECT_EQ(flow_spawn_now(&task[0], return_argument, NULL), 0);
        EXPECT_EQ(flow_spawn_now(&task[1], sleep_for_ever, NULL), 0);
        flow__reclaim_enter();
        EXPECT_EQ(flow_when_any(task, 2, &winner, NULL, i == 0 ? FLOW_FOREVER : FLOW_NOW), -EDEADLK);
        flow__reclaim_leave();
        EXPECT_EQ(winner, 77);
        EXPECT_EQ(flow_join(task[1], NULL, FLOW_NOW), -ETIMEDOUT); /* nor was it cancelled */
        EXPECT_EQ(flow_when_any(task, 2, NULL, NULL, GENEROUS), 0);
        EXPECT_EQ(flow_join(task[1], NULL, FLOW_NOW), -ESRCH);
    }
    for (int i = 0; i < 2; i++)
        EXPECT_EQ(flow_spawn_now(&task[i], return_argument, NULL), 0);
    flow__reclaim_enter();
    EXPECT_EQ(flow_when_any(task, 2, &winner, NULL, FLOW_FOREVER), 0); /* no need to wait */
    flow__reclaim_leave();
    EXPECT_EQ(winner, 0);
    return flow_ok(NULL);
}

static void test_any_in_a_section(void **state)
{
    (void)state;
    test_in_coroutine(any_in_a_section);
}

/* A loser need not take notice at once; flow_when_any waits for it all the same. */
static flow_result end_slowly(void *arg)
{
    EXPECT_EQ(flow_sleep(FLOW_S(1000)), -ECANCELED);
    for (int i = 0; i < 100; i++)
        EXPECT_EQ(flow_yield(), -ECANCELED);
    atomic_store((atomic_bool *)arg, true);
    return flow_ok(NULL);
}

/* And so it does when its caller is cancelled meanwhile. */
static flow_result wait_and_be_canceled(void *arg)
{
    flow_task *task = arg;
    size_t winner = 9;
    int r = flow_when_any(task, 2, &winner, NULL, FLOW_FOREVER);

    EXPECT(r == 0 || r == -ECANCELED);
    if (r) {
        for (int i = 0; i < 2; i++) {
            flow_cancel(task[i]);
            EXPECT_EQ(flow_detach(task[i]), 0);
        }
        return flow_err(r);
    }
    EXPECT_EQ(winner, 0);
    return flow_ok_i64(1);
}

static flow_result any_with_slow_losers(void *arg)
{
    int won = 0, rounds = TEST_ROUNDS(200, 50);

    (void)arg;
    for (int i = 0; i < rounds; i++) {
        atomic_bool ended;
        flow_task task[2], waiter;
        flow_result result;

        atomic_init(&ended, false);
        EXPECT_EQ(flow_spawn_now(&task[0], yield_then_return, NULL), 0);
        EXPECT_EQ(flow_spawn_now(&task[1], end_slowly, &ended), 0);
        EXPECT_EQ(flow_spawn_now(&waiter, wait_and_be_canceled, task), 0);
        for (int k = 0; k < i % 40; k++)
            flow_yield();
        flow_cancel(waiter);
        EXPECT_EQ(flow_join(waiter, &result, GENEROUS), 0);
        if (result.error == 0) {
            EXPECT(atomic_load(&ended));
            won++;
        }
        while (!atomic_load(&ended))
            flow_yield();
    }
    EXPECT(won > 0 && won < rounds);
    return flow_ok(NULL);
}

static void test_any_with_slow_losers(void **state)
{
    (void)state;
    test_in_coroutine(any_with_slow_losers);
}

/* Many rounds, in steady memory. */
enum { BATCHES = 10 };

static flow_result sleep_or_return(void *arg)
{
    return arg ? flow_ok(arg) : flow_err(flow_sleep_until(FLOW_FOREVER));
}

static flow_result any_rounds(void *arg)
{
    long n = (long)(intptr_t)arg;

    for (long i = 0; i < n; i++) {
        int (*spawn)(flow_task *, flow_fn, void *) = i & 2 ? flow_spawn : flow_spawn_now;
        size_t quick = (size_t)i & 1, winner = 9;
        flow_task task[3];
        flow_result result;

        for (size_t k = 0; k < 3; k++)
            EXPECT_EQ(spawn(&task[k], sleep_or_return, k == quick ? &task : NULL), 0);
        EXPECT_EQ(flow_when_any(task, 3, &winner, &result, FLOW_FOREVER), 0);
        EXPECT(winner == quick && result.ptr == &task);
    }
    return flow_ok_i64(n);
}

static void test_many_rounds_of_any(void **state)
{
    long rounds = TEST_ROUNDS(1000000, 50000) / BATCHES;
    size_t before = 0, after;

    (void)state;
    test_start();
    for (int batch = 0; batch <= BATCHES; batch++) {
        flow_result result;

        assert_int_equal(flow_sync_wait(any_rounds, (void *)rounds, &result, flow_after(FLOW_S(200))), 0);
        assert_no_failures();
        assert_int_equal(result.i64, rounds);
        if (batch == 0) /* the warm-up */
            before = test_rss_bytes();
    }
    after = test_rss_bytes();
    print_message("note when_any: %ld rounds, RSS %zu KiB, then %zu KiB\n", rounds * BATCHES, before / 1024,
                  after / 1024);
    assert_true(TEST_SANITIZED || after <= before + 2 * 1024 * 1024);
    assert_true(test_wait_until_empty());
    assert_true(test_stats().total.spawned >= (uint64_t)(3 * rounds * BATCHES));
    test_stop();
}

/* Tasks end by themselves while flow_when_any looks at them: one wins, none is lost or taken twice. */
static flow_result end_at_about_once(void *arg)
{
    int64_t sum = 0;

    for (int i = 0; i < TEST_ROUNDS(3000, 400); i++) {
        flow_task task[8];
        flow_result result = {0};
        size_t winner = 99;

        for (size_t k = 0; k < 8; k++)
            EXPECT_EQ(flow_spawn(&task[k], k % 2 ? sleep_then_return : return_argument, (void *)(k + 1)), 0);
        EXPECT_EQ(flow_when_any(task, 8, &winner, &result, FLOW_FOREVER), 0);
        EXPECT(winner < 8);
        EXPECT(result.error == 0 && result.ptr == (void *)(winner + 1));
        sum += (int64_t)winner;
    }
    (void)arg;
    return flow_ok_i64(sum);
}

static flow_result race_with_deadlines(void *arg)
{
    uint64_t *random = arg;

    for (int i = 0; i < TEST_ROUNDS(2000, 300); i++) {
        flow_task task[4];
        flow_result result[4];
        size_t winner;
        int r;

        for (size_t k = 0; k < 4; k++)
            EXPECT_EQ(flow_spawn(&task[k], sleep_then_return, (void *)k), 0);
        do {
            flow_deadline deadline = flow_after((int64_t)(test_random(random) % 200000));

            r = i % 2 ? flow_when_all(task, 4, result, deadline)
                      : flow_when_any(task, 4, &winner, result, deadline);
        } while (r == -ETIMEDOUT);
        EXPECT_EQ(r, 0);
        if (i % 2)
            for (size_t k = 0; k < 4; k++)
                EXPECT(result[k].error == 0 && result[k].ptr == (void *)k);
        else
            EXPECT(winner < 4 && result[0].error == 0 && result[0].ptr == (void *)winner);
        for (size_t k = 0; k < 4; k++)
            EXPECT_EQ(flow_detach(task[k]), -ESRCH);
    }
    return flow_ok(NULL);
}

static flow_result sleeping_ends(void *arg)
{
    (void)arg;
    for (int i = 0; i < 100; i++) {
        flow_task task[2];
        size_t winner = 9;

        EXPECT_EQ(flow_spawn(&task[0], sleep_for_ever, NULL), 0);
        EXPECT_EQ(flow_spawn(&task[1], sleep_then_return, NULL), 0);
        EXPECT_EQ(flow_when_any(task, 2, &winner, NULL, FLOW_FOREVER), 0);
        EXPECT_EQ(winner, 1);
    }
    return flow_ok(NULL);
}

static void test_races_of_any_and_all(void **state)
{
    uint64_t seed = test_seed(), random[4];
    flow_task task[6];
    int n = 0;

    (void)state;
    test_start();
    for (int i = 0; i < 4; i++) {
        random[i] = seed + (uint64_t)i;
        assert_int_equal(flow_spawn(&task[n++], race_with_deadlines, &random[i]), 0);
    }
    assert_int_equal(flow_spawn(&task[n++], end_at_about_once, NULL), 0);
    assert_int_equal(flow_spawn(&task[n++], sleeping_ends, NULL), 0);
    assert_int_equal(flow_when_all(task, (size_t)n, NULL, GENEROUS), 0);
    assert_true(test_wait_until_empty());
    test_stop();
}

static void *any_from_thread(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg;

    for (int i = 0; i < TEST_ROUNDS(1000, 200); i++) {
        flow_task task[3];
        flow_result result;
        size_t winner = 9;
        int r;

        for (size_t k = 0; k < 3; k++)
            EXPECT_EQ(flow_spawn(&task[k], k == 1 ? sleep_for_ever : sleep_then_return, (void *)k), 0);
        do
            r = flow_when_any(task, 3, &winner, &result, flow_after((int64_t)(test_random(&random) % 300000)));
        while (r == -ETIMEDOUT);
        EXPECT_EQ(r, 0);
        EXPECT(winner != 1 && result.error == 0 && result.ptr == (void *)winner);
    }
    return NULL;
}

static void test_any_from_threads(void **state)
{
    pthread_t thread[3];
    uint64_t seed = test_seed();

    (void)state;
    test_start();
    for (uintptr_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, any_from_thread, (void *)(uintptr_t)(seed + i)), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    assert_true(test_wait_until_empty());
    test_stop();
}

/* ---- sync_wait ---- */

static flow_result sleep_2_ms(void *arg)
{
    flow_deadline begin = flow_now();

    EXPECT_EQ(flow_sleep(FLOW_MS(2)), 0);
    EXPECT(flow_now() - begin >= FLOW_MS(2));
    return flow_ok(arg);
}

static void sync_wait(void)
{
    flow_deadline begin;
    flow_result result;
    int thing;

    for (int i = 0; i < 5; i++) {
        begin = flow_now();
        EXPECT_EQ(flow_sync_wait(sleep_2_ms, &thing, &result, GENEROUS), 0);
        EXPECT(flow_now() - begin >= FLOW_MS(2)); /* it did wait */
        EXPECT(result.error == 0 && result.ptr == &thing);
    }
    EXPECT_EQ(flow_sync_wait(return_argument, &thing, NULL, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_sync_wait(fail_with, (void *)(intptr_t)-ENOSPC, &result, FLOW_FOREVER), 0);
    EXPECT_EQ(result.error, -ENOSPC);
    EXPECT_EQ(flow_sync_wait(NULL, NULL, NULL, FLOW_FOREVER), -EINVAL);

    result = flow_ok_i64(55);
    begin = flow_after(FLOW_MS(1));
    EXPECT_EQ(flow_sync_wait(sleep_for_ever, NULL, &result, begin), -ETIMEDOUT);
    EXPECT(flow_now() >= begin);
    EXPECT_EQ(result.i64, 55);
}

static void test_sync_wait(void **state)
{
    (void)state;
    test_from_both(sync_wait); /* and the tasks that were too late end: from_both waits for that */
}

static flow_result nested_sync_wait(void *arg)
{
    intptr_t depth = (intptr_t)arg;
    flow_result result = flow_ok_i64(0);

    if (depth == 0) {
        EXPECT_EQ(flow_sleep(FLOW_US(100)), 0);
        return flow_err(-EILSEQ);
    }
    EXPECT_EQ(flow_sync_wait(nested_sync_wait, (void *)(depth - 1), &result, GENEROUS), 0);
    return result;
}

static void *sync_wait_much(void *arg)
{
    for (intptr_t i = 0; i < TEST_ROUNDS(2000, 300); i++) {
        flow_fn fn = i % 20 == 0 ? sleep_then_return : i % 2 ? return_argument : yield_then_return;
        flow_result result;

        EXPECT_EQ(flow_sync_wait(fn, (char *)arg + i, &result, GENEROUS), 0);
        EXPECT(result.error == 0 && result.ptr == (char *)arg + i);
        if (i % 50 == 0) {
            EXPECT_EQ(flow_sync_wait(sleep_for_ever, NULL, NULL, flow_after(FLOW_US(50))), -ETIMEDOUT);
            EXPECT_EQ(flow_sync_wait(nested_sync_wait, (void *)5, &result, GENEROUS), 0);
            EXPECT_EQ(result.error, -EILSEQ);
        }
    }
    return NULL;
}

static void test_sync_wait_from_threads(void **state)
{
    enum { THREADS = 6 };
    static char spot[THREADS][4096];
    pthread_t thread[THREADS];

    (void)state;
    test_start();
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, sync_wait_much, spot[i]), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    assert_true(test_wait_until_empty());
    test_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_all_of_many),
        TEST(test_all_with_errors),
        TEST(test_all_with_bad_handles),
        TEST(test_all_too_late),
        TEST(test_cancel_who_waits),
        TEST(test_any_of_some),
        TEST(test_any_ends_losers),
        TEST(test_any_already_finished),
        TEST(test_any_misused),
        TEST(test_any_in_a_section),
        TEST(test_any_with_slow_losers),
        TEST(test_many_rounds_of_any),
        TEST(test_races_of_any_and_all),
        TEST(test_any_from_threads),
        TEST(test_sync_wait),
        TEST(test_sync_wait_from_threads),
    };

    return cmocka_run_group_tests_name("when", tests, NULL, NULL);
}
