/* SPDX-License-Identifier: MIT
 *
 * Tasks: results, spawning and joining in every way and from everywhere, several at once, what is counted,
 * and how many there may be. Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/tasks.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- results ---- */

static void *add_one(void *value, void *context)
{
    ++*(int *)context;
    return (char *)value + 1;
}

static flow_result double_or_fail(flow_result value, void *context)
{
    ++*(int *)context;
    return value.i64 > 100 ? flow_err(-ERANGE) : flow_ok_i64(2 * value.i64);
}

static void test_results(void **state)
{
    int calls = 0, thing;
    flow_result bad = flow_err(-EIO);

    (void)state;
    assert_true(flow_is_ok(flow_ok(NULL)) && !flow_is_err(flow_ok(NULL)));
    assert_true(flow_is_err(bad) && !flow_is_ok(bad));
    assert_ptr_equal(flow_unwrap(flow_ok(&thing)), &thing);
    assert_true(flow_unwrap_i64(flow_ok_i64(INT64_MIN)) == INT64_MIN);
    assert_true(flow_unwrap_u64(flow_ok_u64(UINT64_MAX)) == UINT64_MAX);
    assert_true(flow_unwrap_f64(flow_ok_f64(-0.5)) == -0.5);
    assert_int_equal(flow_unwrap_err(bad), -EIO);
    assert_int_equal(flow_err(0).error, -EINVAL);

    assert_ptr_equal(flow_unwrap_or(bad, &thing), &thing);
    assert_ptr_equal(flow_unwrap_or(flow_ok(NULL), &thing), NULL);
    assert_true(flow_unwrap_or_i64(bad, -7) == -7 && flow_unwrap_or_i64(flow_ok_i64(3), -7) == 3);
    assert_true(flow_unwrap_or_u64(bad, 7) == 7 && flow_unwrap_or_u64(flow_ok_u64(3), 7) == 3);
    assert_true(flow_unwrap_or_f64(bad, 0.25) == 0.25 && flow_unwrap_or_f64(flow_ok_f64(3), 0.25) == 3);

    assert_ptr_equal(flow_map(flow_ok(&thing), add_one, &calls).ptr, (char *)&thing + 1);
    assert_int_equal(flow_map(bad, add_one, &calls).error, -EIO);
    assert_int_equal(calls, 1);
    assert_true(flow_and_then(flow_ok_i64(21), double_or_fail, &calls).i64 == 42);
    assert_int_equal(flow_and_then(flow_ok_i64(101), double_or_fail, &calls).error, -ERANGE);
    assert_int_equal(flow_and_then(bad, double_or_fail, &calls).error, -EIO);
    assert_int_equal(calls, 3);
}

/* ---- spawn, join ---- */

static flow_result return_f64(void *arg)
{
    (void)arg;
    return flow_ok_f64(0.1);
}

static flow_result return_u64(void *arg)
{
    (void)arg;
    return flow_ok_u64(UINT64_MAX);
}

static flow_result fail_with(void *arg)
{
    return flow_err((int)(intptr_t)arg);
}

static flow_result spawn_and_join(void *arg)
{
    enum { N = 3000 };
    static flow_task task[N];
    flow_result result;

    (void)arg;
    for (intptr_t i = 0; i < N; i++)
        EXPECT_EQ(flow_spawn(&task[i], return_argument, (void *)i), 0);
    for (intptr_t i = 0; i < N; i++) {
        EXPECT_EQ(flow_join(task[i], &result, FLOW_FOREVER), 0);
        EXPECT(result.error == 0 && result.ptr == (void *)i);
        EXPECT_EQ(flow_join(task[i], &result, FLOW_FOREVER), -ESRCH);
    }
    for (intptr_t i = 0; i < N; i++)
        EXPECT_EQ(flow_spawn(&task[i], return_after_yields, (void *)(i % 7)), 0);
    for (intptr_t i = N; i-- > 0;) {
        EXPECT_EQ(flow_join(task[i], &result, FLOW_FOREVER), 0);
        EXPECT(result.error == 0 && result.i64 == i % 7);
    }
    for (int i = 0; i < 1000; i++) { /* one after the other: the joiner runs it itself */
        flow_fn fn = i & 1 ? return_after_yields : fail_with;

        EXPECT_EQ(flow_spawn(&task[0], fn, (void *)(intptr_t)(i & 1 ? 3 : -EPIPE)), 0);
        EXPECT_EQ(flow_join(task[0], &result, FLOW_FOREVER), 0);
        EXPECT_EQ(result.error, i & 1 ? 0 : -EPIPE);
    }
    EXPECT_EQ(flow_spawn(&task[0], return_f64, NULL), 0);
    EXPECT_EQ(flow_spawn(&task[1], return_u64, NULL), 0);
    EXPECT_EQ(flow_join(task[0], &result, FLOW_FOREVER), 0);
    EXPECT(result.f64 == 0.1);
    EXPECT_EQ(flow_join(task[1], &result, FLOW_FOREVER), 0);
    EXPECT(result.u64 == UINT64_MAX);
    EXPECT_EQ(flow_spawn(&task[0], fail_with, (void *)(intptr_t)-EIO), 0);
    EXPECT_EQ(flow_join(task[0], NULL, FLOW_FOREVER), 0); /* out may be NULL */
    EXPECT_EQ(flow_spawn(&task[0], NULL, NULL), -EINVAL);
    return flow_ok(NULL);
}

static void test_spawn_and_join(void **state)
{
    (void)state;
    test_in_coroutine(spawn_and_join);
}

static void test_spawn_from_thread(void **state)
{
    enum { N = 2000 };
    static flow_task task[N];
    flow_result result;

    (void)state;
    test_start();
    for (intptr_t i = 0; i < N; i++)
        assert_int_equal(flow_spawn(&task[i], return_after_yields, (void *)(i % 3)), 0);
    for (intptr_t i = 0; i < N; i++) {
        assert_int_equal(flow_join(task[i], &result, GENEROUS), 0);
        assert_true(result.error == 0 && result.i64 == i % 3);
        assert_int_equal(flow_join(task[i], &result, GENEROUS), -ESRCH);
    }
    assert_int_equal(test_stats().foreign_spawned, N);
    test_stop();
}

static void test_outside_a_coroutine(void **state)
{
    flow_task task = {123456789};

    (void)state;
    test_start();
    assert_true(flow_self().id == 0);
    assert_int_equal(flow_spawn_now(&task, return_argument, NULL), -EPERM);
    assert_int_equal(flow_yield(), -EPERM);
    assert_int_equal(flow_sleep(1), -EPERM);
    assert_int_equal(flow_sleep(0), -EPERM);
    assert_int_equal(flow_sleep_until(flow_after(1)), -EPERM);
    assert_int_equal(flow_suspend(publish_nothing, NULL, FLOW_FOREVER), -EPERM);
    test_stop();
    assert_int_equal(flow_spawn(&task, return_argument, NULL), -ESHUTDOWN);
    assert_int_equal(flow_spawn_now(&task, return_argument, NULL), -ESHUTDOWN);
    assert_int_equal(flow_join(task, NULL, FLOW_NOW), -ESHUTDOWN);
    assert_int_equal(flow_detach(task), -ESHUTDOWN);
    assert_int_equal(flow_cancel(task), -ESHUTDOWN);
    assert_int_equal(flow_yield(), -ESHUTDOWN);
}

static int task_argument;

/* Several threads spawn and join at once; most joins end while the joiner is on its way to sleep. */
static void *spawn_and_join_much(void *arg)
{
    flow_result result;
    flow_task task;

    for (int i = 0; i < TEST_ROUNDS(15000, 2000); i++) {
        EXPECT_EQ(flow_spawn(&task, return_argument, arg), 0);
        EXPECT_JOIN(task, &result);
        EXPECT(result.error == 0 && result.ptr == arg);
        if (i % 8 == 0)
            EXPECT_EQ(flow_spawn(NULL, return_argument, arg), 0);
    }
    return NULL;
}

static void test_threads_spawn_and_join(void **state)
{
    enum { N = 4 };
    pthread_t thread[N];

    (void)state;
    test_start();
    for (int i = 0; i < N; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, spawn_and_join_much, &task_argument), 0);
    for (int i = 0; i < N; i++)
        pthread_join(thread[i], NULL);
    assert_true(test_wait_until_empty());
    test_stop();
}

/* ---- spawn_now ---- */

static atomic_int trace[8], traced;

static flow_result trace_twice(void *arg)
{
    trace[traced++] = (int)(intptr_t)arg;
    EXPECT_EQ(flow_yield(), 0);
    trace[traced++] = (int)(intptr_t)arg + 100;
    return flow_ok(arg);
}

static flow_result nest(void *arg)
{
    intptr_t depth = (intptr_t)arg;
    flow_result below;
    flow_task task;

    if (depth == 0) {
        EXPECT_EQ(flow_yield(), 0); /* every one of them is on the stack of callers now */
        return flow_ok_i64(0);
    }
    EXPECT_EQ(flow_spawn_now(&task, nest, (void *)(depth - 1)), 0);
    EXPECT_EQ(flow_join(task, &below, FLOW_FOREVER), 0);
    return flow_ok_i64(below.i64 + 1);
}

static flow_result spawn_now(void *arg)
{
    flow_task a, b, c;
    flow_result result;
    uint64_t before = test_stats().total.started_now;

    (void)arg;
    traced = 0;
    EXPECT_EQ(flow_spawn_now(&a, trace_twice, (void *)1), 0);
    EXPECT(traced == 1 && trace[0] == 1); /* it ran at once, up to its first suspension */
    EXPECT_EQ(flow_spawn_now(&b, trace_twice, (void *)2), 0);
    EXPECT(traced == 2 && trace[1] == 2);
    EXPECT_EQ(flow_spawn_now(&c, return_argument, (void *)3), 0);
    EXPECT_EQ(flow_join(c, &result, FLOW_NOW), 0); /* it has finished: a poll is enough */
    EXPECT(result.ptr == (void *)3);
    EXPECT_EQ(flow_join(b, &result, FLOW_FOREVER), 0);
    EXPECT(result.ptr == (void *)2);
    EXPECT_EQ(flow_join(a, &result, FLOW_FOREVER), 0);
    EXPECT(traced == 4 && trace[2] == 101 && trace[3] == 102); /* both live here, first in first out */

    EXPECT_EQ(flow_spawn_now(&a, nest, (void *)(intptr_t)500), 0);
    EXPECT_EQ(flow_join(a, &result, FLOW_FOREVER), 0);
    EXPECT_EQ(result.i64, 500);
    EXPECT_EQ(flow_spawn_now(NULL, return_argument, NULL), 0);
    EXPECT_EQ(flow_spawn_now(NULL, return_after_yields, (void *)5), 0);
    EXPECT_EQ(flow_spawn_now(&a, NULL, NULL), -EINVAL);
    EXPECT_EQ(test_stats().total.started_now - before, 3 + 501 + 2);
    return flow_ok(NULL);
}

static void test_spawn_now(void **state)
{
    (void)state;
    test_in_coroutine(spawn_now);
}

/* ---- errors from far down ---- */

static flow_result third_level(void *arg)
{
    EXPECT_EQ(flow_yield(), 0);
    return flow_err((int)(intptr_t)arg);
}

static flow_result second_level(void *arg)
{
    flow_task task[3];
    flow_result result[3];
    int r;

    EXPECT_EQ(flow_spawn(&task[0], return_argument, NULL), 0);
    EXPECT_EQ(flow_spawn(&task[1], third_level, arg), 0);
    EXPECT_EQ(flow_spawn(&task[2], return_argument, NULL), 0);
    r = flow_when_all(task, 3, result, FLOW_FOREVER);
    EXPECT_EQ(result[1].error, r);
    return r ? flow_err(r) : result[1];
}

static flow_result first_level(void *arg)
{
    flow_result result;
    flow_task task;
    int r;

    EXPECT_EQ(flow_spawn(&task, second_level, arg), 0);
    r = flow_join(task, &result, FLOW_FOREVER);
    return r ? flow_err(r) : result;
}

static void test_errors_come_up(void **state)
{
    static const int errors[] = {-EIO, -ENOENT, -ETIMEDOUT, -ECANCELED, -ESRCH, -EINVAL, -4095, -1};
    flow_result result;

    (void)state;
    test_start();
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        result = flow_ok(NULL);
        assert_int_equal(flow_sync_wait(first_level, (void *)(intptr_t)errors[i], &result, GENEROUS), 0);
        assert_int_equal(result.error, errors[i]);
    }
    test_stop();
}

/* ---- at the same time ---- */

static atomic_int running_now;
static atomic_bool two_have_met;

static flow_result run_until_two_meet(void *arg)
{
    flow_deadline limit = GENEROUS;

    (void)arg;
    atomic_fetch_add(&running_now, 1);
    while (!atomic_load(&two_have_met) && flow_now() < limit)
        if (atomic_load(&running_now) >= 2)
            atomic_store(&two_have_met, true);
    EXPECT(atomic_load(&two_have_met));
    atomic_fetch_sub(&running_now, 1);
    return flow_ok(NULL);
}

static flow_result four_busy_tasks(void *arg)
{
    flow_task task[4];

    (void)arg;
    for (int i = 0; i < 4; i++)
        EXPECT_EQ(flow_spawn(&task[i], run_until_two_meet, NULL), 0);
    for (int i = 0; i < 4; i++)
        EXPECT_EQ(flow_join(task[i], NULL, FLOW_FOREVER), 0);
    return flow_ok(NULL);
}

/* None of them suspends: only on two workers at once can they meet. */
static void test_busy_tasks_run_at_once(void **state)
{
    int have_run = 0;

    (void)state;
    if (test_workers() < 2)
        skip();
    for (int round = 0; round < 20; round++) {
        atomic_store(&running_now, 0);
        atomic_store(&two_have_met, false);
        test_start();
        assert_int_equal(flow_sync_wait(four_busy_tasks, NULL, NULL, FLOW_FOREVER), 0);
        have_run = 0;
        for (int i = 0; i < test_workers(); i++) {
            struct flow_worker_stats stats;

            assert_int_equal(flow_stats_worker(i, &stats), 0);
            have_run += stats.dispatches > 0;
        }
        assert_true(have_run >= 2);
        test_stop();
    }
}

/* ---- counting ---- */

static int dump_to_nowhere(void)
{
    int fd = memfd_create("dump", 0), n = flow_dump(fd);

    close(fd);
    return n;
}

/* Every way to spawn counts once, and what fails counts not at all. */
static flow_result count_exactly(void *arg)
{
    enum { EACH = 25 };
    struct flow_stats before = test_stats(), now;
    flow_task task[4 * EACH], self = flow_self();
    int n = 0;

    (void)arg;
    for (int i = 0; i < EACH; i++) {
        EXPECT_EQ(flow_spawn(&task[n++], sleep_for_ever, NULL), 0);
        EXPECT_EQ(flow_spawn_now(&task[n++], sleep_for_ever, NULL), 0);
        EXPECT_EQ(flow_spawn_with(&task[n++], NULL, sleep_for_ever, NULL), 0);
        EXPECT_EQ(flow_spawn_now(&task[n++], return_argument, NULL), 0);
        EXPECT_EQ(flow_spawn(NULL, NULL, NULL), -EINVAL);
        EXPECT_EQ(flow_join(self, NULL, FLOW_NOW), -EDEADLK);
    }
    now = test_stats();
    EXPECT_EQ(now.total.spawned - before.total.spawned, 4 * EACH);
    EXPECT_EQ(now.total.finished - before.total.finished, EACH);
    EXPECT_EQ(now.live - before.live, 3 * EACH);
    for (int i = 3; i < n; i += 4)
        EXPECT_JOIN(task[i], NULL);
    EXPECT_EQ(dump_to_nowhere(), now.live); /* the blocks say what the counters say */
    for (int i = 0; i < n; i++)
        if (i % 4 != 3) {
            EXPECT_EQ(flow_cancel(task[i]), 0);
            EXPECT_JOIN(task[i], NULL);
        }
    now = test_stats();
    EXPECT_EQ(now.total.spawned - before.total.spawned, 4 * EACH);
    EXPECT_EQ(now.total.finished - before.total.finished, 4 * EACH);
    EXPECT_EQ(now.live, 1);
    EXPECT_EQ(dump_to_nowhere(), 1);
    return flow_ok(NULL);
}

static void test_counting(void **state)
{
    (void)state;
    test_in_coroutine(count_exactly);
}

/* ---- limits ---- */

/* The limit is exceeded by what the caches of workers may hold, and by no more; what was
 * refused is possible again later. */
static void test_too_many_tasks(void **state)
{
    enum { LIMIT = 100 };
    struct flow_options options = test_options();
    int most = LIMIT + 256 * (test_workers() + 1), n = 0, r = 0;
    flow_task *task = calloc((size_t)most + 1, sizeof *task), more;

    (void)state;
    options.max_tasks = LIMIT;
    test_start_with(&options);
    while (n <= most && (r = flow_spawn(&task[n], sleep_for_ever, NULL)) == 0)
        n++;
    assert_int_equal(r, -ENOSPC);
    assert_in_range(n, LIMIT, most);
    for (int i = 0; i < n; i++)
        assert_int_equal(flow_cancel(task[i]), 0);
    assert_true(test_wait_until_empty());
    for (int i = 0; i < n; i++)
        assert_int_equal(flow_detach(task[i]), 0);
    assert_int_equal(flow_spawn(&more, return_argument, NULL), 0);
    assert_int_equal(flow_join(more, NULL, GENEROUS), 0);
    free(task);
    test_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_results),
        TEST(test_spawn_and_join),
        TEST(test_spawn_from_thread),
        TEST(test_outside_a_coroutine),
        TEST(test_threads_spawn_and_join),
        TEST(test_spawn_now),
        TEST(test_errors_come_up),
        TEST(test_busy_tasks_run_at_once),
        TEST(test_counting),
        TEST(test_too_many_tasks),
    };

    return cmocka_run_group_tests_name("task", tests, NULL, NULL);
}
