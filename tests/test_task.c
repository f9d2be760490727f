/* SPDX-License-Identifier: MIT
 *
 * Tasks: spawning in every way, handles, joining, detaching, cancelling, where a task runs.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/test.h"

#include <errno.h>
#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GENEROUS flow_after(FLOW_S(30))

/* Where it must fail within a time rather than hang. */
#define EXPECT_JOIN(task, out) EXPECT_EQ(flow_join(task, out, GENEROUS), 0)

static flow_result return_argument(void *arg)
{
    return flow_ok(arg);
}

static flow_result return_after_yields(void *arg)
{
    for (int64_t i = 0; i < (int64_t)(intptr_t)arg; i++)
        EXPECT_EQ(flow_yield(), 0);
    return flow_ok_i64((int64_t)(intptr_t)arg);
}

static flow_result sleep_for_ever(void *arg)
{
    int r = flow_sleep_until(FLOW_FOREVER);

    (void)arg;
    EXPECT_EQ(r, -ECANCELED);
    return flow_err(r);
}

/* From the test's own thread. */
static void spawn_on(flow_task *task, int worker, unsigned flags, flow_fn fn, intptr_t arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;

    options.worker = worker;
    options.flags = flags;
    assert_int_equal(flow_spawn_with(task, &options, fn, (void *)arg), 0);
}

static void join_all(flow_task *task, int n)
{
    for (int i = 0; i < n; i++)
        assert_int_equal(flow_join(task[i], NULL, GENEROUS), 0);
}

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

static int publish_nothing(flow_waker waker, void *arg)
{
    (void)waker, (void)arg;
    return 0;
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

static int trace[8], traced;

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

/* ---- spawn_with ---- */

struct visit {
    flow_task task;
    int worker;
    pid_t thread;
    bool moved;
};

static flow_result stay(void *arg)
{
    struct visit *visit = arg;

    visit->thread = gettid();
    for (int i = 0; i < 20; i++) {
        EXPECT_EQ(i % 4 ? flow_yield() : flow_sleep(FLOW_US(50)), 0);
        if (gettid() != visit->thread)
            visit->moved = true;
    }
    return flow_ok(NULL);
}

/* All tasks of one worker were seen on one thread, and those of different workers on different ones. */
static void expect_one_thread_each(struct visit *visit, int n)
{
    for (int i = 0; i < n; i++) {
        EXPECT(!visit[i].moved);
        for (int k = 0; k < i; k++)
            EXPECT((visit[i].worker == visit[k].worker) == (visit[i].thread == visit[k].thread));
    }
}

static void spawn_pinned_everywhere(struct visit *visit, int n, unsigned flags)
{
    for (int i = 0; i < n; i++) {
        struct flow_spawn_options options = FLOW_SPAWN_INIT;

        visit[i] = (struct visit){.worker = i % test_workers()};
        options.worker = visit[i].worker;
        options.flags = flags;
        EXPECT_EQ(flow_spawn_with(&visit[i].task, &options, stay, &visit[i]), 0);
    }
    for (int i = 0; i < n; i++)
        EXPECT_JOIN(visit[i].task, NULL);
    expect_one_thread_each(visit, n);
}

enum { VISITS = 64 };

static flow_result pin_from_coroutine(void *arg)
{
    static struct visit visit[VISITS];

    (void)arg;
    spawn_pinned_everywhere(visit, VISITS, FLOW_PINNED);
    spawn_pinned_everywhere(visit, VISITS, 0); /* started there, and not roaming: stays */
    return flow_ok(NULL);
}

static void test_pinned_tasks(void **state)
{
    static struct visit visit[VISITS];
    struct flow_options options = test_options();

    (void)state;
    options.roam = true; /* FLOW_PINNED has the last word */
    test_start_with(&options);
    spawn_pinned_everywhere(visit, VISITS, FLOW_PINNED);
    assert_no_failures();
    for (int i = 0; i < test_workers(); i++) {
        struct flow_worker_stats stats;

        assert_int_equal(flow_stats_worker(i, &stats), 0);
        assert_true(stats.dispatches >= (uint64_t)(VISITS / test_workers()));
        assert_int_equal(stats.finished, VISITS / test_workers());
    }
    test_stop();
    test_in_coroutine(pin_from_coroutine);
}

static flow_result tell_cpu(void *arg)
{
    (void)arg;
    return flow_ok_i64(sched_getcpu());
}

/* Workers stand on CPUs of their own as long as there are enough. */
static void test_pinned_to_cpu(void **state)
{
    struct flow_info info = {.size = sizeof info};
    cpu_set_t seen;
    int workers = test_workers();

    (void)state;
    test_start();
    for (int i = 0; i < workers; i++) { /* now each of them has begun */
        flow_task task;

        spawn_on(&task, i, FLOW_PINNED, tell_cpu, 0);
        join_all(&task, 1);
    }
    assert_int_equal(flow_info(&info), 0);
    if (info.pinned < workers || workers > info.cpus) {
        test_stop();
        print_message("skip: %d of %d workers pinned, %d CPUs\n", info.pinned, workers, info.cpus);
        skip();
    }
    CPU_ZERO(&seen);
    for (int i = 0; i < workers; i++) {
        struct flow_spawn_options options = FLOW_SPAWN_INIT;
        flow_result first, again;
        flow_task task;

        options.worker = i;
        options.flags = FLOW_PINNED;
        assert_int_equal(flow_spawn_with(&task, &options, tell_cpu, NULL), 0);
        assert_int_equal(flow_join(task, &first, GENEROUS), 0);
        assert_int_equal(flow_spawn_with(&task, &options, tell_cpu, NULL), 0);
        assert_int_equal(flow_join(task, &again, GENEROUS), 0);
        assert_true(first.i64 == again.i64);
        assert_false(CPU_ISSET((int)first.i64, &seen));
        CPU_SET((int)first.i64, &seen);
    }
    test_stop();
}

static flow_result use_stack(void *arg)
{
    size_t n = (size_t)(uintptr_t)arg;
    volatile char *bytes = __builtin_alloca(n);

    for (size_t i = 0; i < n; i += 512)
        bytes[i] = (char)i;
    EXPECT_EQ(flow_yield(), 0);
    for (size_t i = 0; i < n; i += 512)
        EXPECT(bytes[i] == (char)i);
    return flow_ok(arg);
}

static flow_result stack_classes(void *arg)
{
    static const size_t asked[] = {1,     16384,  16385,  20000,  32768,   40000,   65536,
                                   65537, 131072, 262144, 524288, 1048575, 1048576, 0};

    (void)arg;
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        struct flow_spawn_options options = FLOW_SPAWN_INIT;
        size_t class_bytes = 16384, use;
        flow_task task[2];

        while (class_bytes < asked[i])
            class_bytes *= 2;
        if (asked[i] == 0)
            class_bytes = 65536;
        use = class_bytes <= 16384 ? 6000 : class_bytes - 12288; /* the guard and the frames above */
        options.stack_bytes = asked[i];
        for (int k = 0; k < 2; k++)
            EXPECT_EQ(flow_spawn_with(&task[k], &options, use_stack, (void *)(uintptr_t)use), 0);
        for (int k = 0; k < 2; k++)
            EXPECT_JOIN(task[k], NULL);
    }
    return flow_ok(NULL);
}

static void test_stack_classes(void **state)
{
    (void)state;
    test_in_coroutine(stack_classes);
}

static flow_result bad_options(void *arg)
{
    struct flow_info info = {.size = sizeof info};
    struct flow_spawn_options good = FLOW_SPAWN_INIT, bad[20];
    uint64_t before = test_stats().total.spawned;
    flow_task task = {77};
    int n = 0;

    (void)arg;
    EXPECT_EQ(flow_info(&info), 0);
#define BAD(field, value) (bad[n] = good, bad[n++].field = (value))
    BAD(size, 0);
    BAD(size, sizeof good - 1);
    BAD(size, sizeof good + 1);
    BAD(worker, -2);
    BAD(worker, test_workers());
    BAD(worker, INT32_MAX);
    BAD(worker, INT32_MIN);
    BAD(node, -2);
    BAD(node, info.nodes);
    BAD(node, INT32_MAX);
    BAD(flags, 8);
    BAD(flags, 1u << 8);
    BAD(flags, 1u << 31);
    BAD(flags, FLOW_ROAM | FLOW_PINNED);
    bad[n - 1].worker = 0;
    BAD(flags, FLOW_PINNED);
    BAD(stack_bytes, 1048577);
    BAD(stack_bytes, SIZE_MAX);
#undef BAD
    for (int i = 0; i < n; i++) {
        int r = flow_spawn_with(&task, &bad[i], return_argument, NULL);

        if (r != -EINVAL)
            print_error("bad option %d was accepted\n", i);
        EXPECT_EQ(r, -EINVAL);
    }
    EXPECT_EQ(test_stats().total.spawned, before);
    EXPECT_EQ(flow_spawn_with(&task, NULL, NULL, NULL), -EINVAL);
    EXPECT_EQ(flow_spawn_with(&task, NULL, return_argument, NULL), 0);
    EXPECT_JOIN(task, NULL);
    for (int node = 0; node < info.nodes; node++) {
        good.node = node;
        if (flow_spawn_with(&task, &good, return_argument, NULL) == 0)
            EXPECT_JOIN(task, NULL);
        else
            EXPECT(node > 0); /* a node without a worker; the first always has one here */
    }
    return flow_ok(NULL);
}

static void test_bad_options(void **state)
{
    (void)state;
    test_in_coroutine(bad_options);
}

static flow_result names(void *arg)
{
    static char text[65536];
    char name[64] = "a-name-of-forty-characters-0123456789abc";
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    flow_task task;
    ssize_t n;
    int fd = memfd_create("dump", 0);

    (void)arg;
    options.name = name;
    EXPECT_EQ(flow_spawn_with(&task, &options, sleep_for_ever, NULL), 0);
    memset(name, 'X', sizeof name); /* it was copied */
    EXPECT_EQ(flow_yield(), 0);
    EXPECT(flow_dump(fd) >= 2);
    n = pread(fd, text, sizeof text - 1, 0);
    EXPECT(n > 0);
    text[n > 0 ? n : 0] = 0;
    EXPECT(strstr(text, "a-name-of-forty-characters-0123"));
    EXPECT(!strstr(text, "a-name-of-forty-characters-01234"));
    EXPECT(!strstr(text, "XXXX"));
    close(fd);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_JOIN(task, NULL);
    return flow_ok(NULL);
}

static void test_names(void **state)
{
    (void)state;
    test_in_coroutine(names);
}

/* ---- roaming ---- */

static flow_result roam(void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    int64_t depth = (intptr_t)arg, sum = 1;
    flow_result result;
    flow_task task[3];

    options.flags = FLOW_ROAM;
    for (int i = 0; i < 10; i++)
        EXPECT_EQ(i == 5 ? flow_sleep(FLOW_US(30)) : flow_yield(), 0);
    if (depth == 0)
        return flow_ok_i64(1);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(flow_spawn_with(&task[i], &options, roam, (void *)(intptr_t)(depth - 1)), 0);
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(flow_join(task[i], &result, FLOW_FOREVER), 0);
        EXPECT_EQ(result.error, 0);
        sum += result.i64;
    }
    return flow_ok_i64(sum);
}

static void test_roaming_tasks(void **state)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    struct flow_options start = test_options();
    flow_result result;
    flow_task task;
    intptr_t depth = TEST_ROUNDS(7, 5);
    int64_t expected = 0, power = 1;

    (void)state;
    for (int i = 0; i <= depth; i++, power *= 3)
        expected += power;
    options.flags = FLOW_ROAM;
    test_start();
    for (int round = 0; round < 4; round++) {
        assert_int_equal(flow_spawn_with(&task, &options, roam, (void *)depth), 0);
        assert_int_equal(flow_join(task, &result, GENEROUS), 0);
        assert_no_failures();
        assert_int_equal(result.i64, expected);
    }
    test_stop();
    start.roam = true; /* everything roams, also what plain flow_spawn makes */
    test_start_with(&start);
    assert_int_equal(flow_sync_wait(roam, (void *)depth, &result, GENEROUS), 0);
    assert_int_equal(result.i64, expected);
    assert_int_equal(flow_sync_wait(spawn_and_join, NULL, NULL, GENEROUS), 0);
    test_stop();
}

/* A roaming task does leave a worker that is busy. */
static atomic_bool spinner_runs, roamer_done;

static flow_result spin_until_roamer_done(void *arg)
{
    flow_deadline limit = flow_after(FLOW_S(10));

    (void)arg;
    atomic_store(&spinner_runs, true);
    while (!atomic_load(&roamer_done) && flow_now() < limit)
        ;
    EXPECT(atomic_load(&roamer_done));
    return flow_ok(NULL);
}

static flow_result yield_and_be_done(void *arg)
{
    (void)arg;
    while (!atomic_load(&spinner_runs)) /* from then on only a thief can resume us */
        EXPECT_EQ(flow_yield(), 0);
    atomic_store(&roamer_done, true);
    return flow_ok(NULL);
}

static flow_result leave_a_busy_worker(void *arg)
{
    struct flow_spawn_options pinned = FLOW_SPAWN_INIT, roaming = FLOW_SPAWN_INIT;
    flow_task spinner, roamer;

    (void)arg;
    atomic_store(&roamer_done, false);
    atomic_store(&spinner_runs, false);
    pinned.worker = roaming.worker = 0;
    pinned.flags = FLOW_PINNED;
    roaming.flags = FLOW_ROAM;
    EXPECT_EQ(flow_spawn_with(&roamer, &roaming, yield_and_be_done, NULL), 0);
    EXPECT_EQ(flow_spawn_with(&spinner, &pinned, spin_until_roamer_done, NULL), 0);
    EXPECT_JOIN(roamer, NULL);
    EXPECT_JOIN(spinner, NULL);
    return flow_ok(NULL);
}

static void test_roamer_leaves_busy_worker(void **state)
{
    (void)state;
    if (test_workers() < 2)
        skip();
    for (int round = 0; round < 30; round++) /* what may go wrong does so in one of them */
        test_in_coroutine(leave_a_busy_worker);
}

/* ---- detaching and misuse ---- */

static atomic_int detached_ended;

static flow_result count_end(void *arg)
{
    for (intptr_t i = 0; i < (intptr_t)arg; i++)
        EXPECT_EQ(flow_yield(), 0);
    atomic_fetch_add(&detached_ended, 1);
    return flow_ok(NULL);
}

static flow_result detach(void *arg)
{
    flow_task task;

    (void)arg;
    atomic_store(&detached_ended, 0);
    for (intptr_t i = 0; i < 500; i++) {
        EXPECT_EQ(flow_spawn(NULL, count_end, (void *)(i % 3)), 0);
        EXPECT_EQ(flow_spawn_with(NULL, NULL, count_end, (void *)(i % 3)), 0);
        EXPECT_EQ(flow_spawn_now(NULL, count_end, (void *)(i % 3)), 0);
        EXPECT_EQ(flow_spawn(&task, count_end, (void *)(i % 3)), 0);
        EXPECT_EQ(flow_detach(task), 0); /* before its end, most likely */
        EXPECT_EQ(flow_spawn_now(&task, count_end, NULL), 0);
        EXPECT_EQ(flow_detach(task), 0); /* after its end */
        EXPECT_EQ(flow_detach(task), -ESRCH);
        EXPECT_EQ(flow_join(task, NULL, FLOW_FOREVER), -ESRCH);
        EXPECT_EQ(flow_cancel(task), -ESRCH);
    }
    EXPECT_EQ(flow_spawn_now(&task, sleep_for_ever, NULL), 0);
    EXPECT_EQ(flow_detach(task), 0);
    EXPECT_EQ(flow_detach(task), -EINVAL);
    EXPECT_EQ(flow_join(task, NULL, FLOW_FOREVER), -EINVAL);
    EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -EINVAL);
    EXPECT_EQ(flow_cancel(task), 0);
    return flow_ok(NULL);
}

static void test_detach(void **state)
{
    (void)state;
    test_in_coroutine(detach);
    assert_int_equal(atomic_load(&detached_ended), 2500);
}

static flow_result join_it(void *arg)
{
    flow_result result;
    int r = flow_join(*(flow_task *)arg, &result, FLOW_FOREVER);

    return r ? flow_err(r) : result;
}

static void *join_from_thread(void *arg)
{
    return (void *)(intptr_t)flow_join(*(flow_task *)arg, NULL, FLOW_FOREVER);
}

static flow_result detach_self(void *arg)
{
    flow_task self = flow_self();

    (void)arg;
    EXPECT_EQ(flow_detach(self), 0);
    EXPECT_EQ(flow_detach(self), -EINVAL);
    EXPECT_EQ(flow_join(self, NULL, FLOW_FOREVER), -EDEADLK);
    return flow_ok(NULL);
}

static flow_result misuse(void *arg)
{
    flow_task task, joiner, self = flow_self(), none = {0};
    flow_result result;
    pthread_t thread;
    void *thread_result;

    (void)arg;
    EXPECT(self.id != 0);
    EXPECT_EQ(flow_join(self, NULL, FLOW_FOREVER), -EDEADLK);
    EXPECT_EQ(flow_join(self, NULL, FLOW_NOW), -EDEADLK);
    EXPECT_EQ(flow_join(none, NULL, FLOW_NOW), -ESRCH);
    EXPECT_EQ(flow_detach(none), -ESRCH);
    EXPECT_EQ(flow_cancel(none), -ESRCH);
    EXPECT_EQ(flow_spawn_now(&task, detach_self, NULL), 0);
    EXPECT_EQ(flow_join(task, NULL, FLOW_FOREVER), -ESRCH);

    EXPECT_EQ(flow_spawn_now(&task, sleep_for_ever, NULL), 0);
    EXPECT_EQ(flow_spawn_now(&joiner, join_it, &task), 0); /* waits in flow_join now */
    EXPECT_EQ(flow_join(task, NULL, FLOW_FOREVER), -EINVAL);
    EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -EINVAL);
    EXPECT_EQ(flow_detach(task), -EINVAL);
    pthread_create(&thread, NULL, join_from_thread, &task);
    pthread_join(thread, &thread_result);
    EXPECT_EQ((intptr_t)thread_result, -EINVAL);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_JOIN(joiner, &result);
    EXPECT_EQ(result.error, -ECANCELED);
    EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -ESRCH);

    /* The joiner is cancelled: the task can be joined by another. */
    EXPECT_EQ(flow_spawn_now(&task, sleep_for_ever, NULL), 0);
    EXPECT_EQ(flow_spawn_now(&joiner, join_it, &task), 0);
    EXPECT_EQ(flow_cancel(joiner), 0);
    EXPECT_JOIN(joiner, &result);
    EXPECT_EQ(result.error, -ECANCELED);
    EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_JOIN(task, &result);
    EXPECT_EQ(result.error, -ECANCELED);
    return flow_ok(NULL);
}

static void test_misuse(void **state)
{
    (void)state;
    test_in_coroutine(misuse);
}

static flow_result join_in_time(void *arg)
{
    flow_task task;
    flow_result result;
    int polls = 0, r;

    (void)arg;
    EXPECT_EQ(flow_spawn(&task, return_after_yields, (void *)10), 0);
    while ((r = flow_join(task, &result, FLOW_NOW)) == -ETIMEDOUT) {
        polls++;
        flow_yield();
    }
    EXPECT_EQ(r, 0);
    EXPECT_EQ(result.i64, 10);
    EXPECT(polls > 0);

    EXPECT_EQ(flow_spawn(&task, sleep_for_ever, NULL), 0);
    for (int i = 0; i < 20; i++) {
        flow_deadline deadline = flow_after(FLOW_US(200));

        EXPECT_EQ(flow_join(task, &result, deadline), -ETIMEDOUT);
        EXPECT(flow_now() >= deadline);
    }
    EXPECT_EQ(flow_join(task, &result, flow_after(-1)), -ETIMEDOUT);
    EXPECT_EQ(flow_join(task, &result, 1), -ETIMEDOUT);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_JOIN(task, &result);
    EXPECT_EQ(result.error, -ECANCELED);
    return flow_ok(NULL);
}

static void test_join_in_time(void **state)
{
    flow_deadline deadline;
    flow_result result;
    flow_task task;

    (void)state;
    test_in_coroutine(join_in_time);
    test_start();
    assert_int_equal(flow_spawn(&task, sleep_for_ever, NULL), 0);
    assert_int_equal(flow_join(task, NULL, FLOW_NOW), -ETIMEDOUT);
    deadline = flow_after(FLOW_MS(2));
    assert_int_equal(flow_join(task, NULL, deadline), -ETIMEDOUT);
    assert_true(flow_now() >= deadline);
    assert_int_equal(flow_cancel(task), 0);
    assert_int_equal(flow_join(task, &result, GENEROUS), 0);
    assert_int_equal(result.error, -ECANCELED);
    test_stop();
}

/* ---- handles ---- */

static void expect_forged(uint64_t id)
{
    flow_task task = {id};
    int r;

    r = flow_join(task, NULL, FLOW_NOW);
    EXPECT(r == -ESRCH || r == -EINVAL || r == -EDEADLK);
    r = flow_detach(task);
    EXPECT(r == -ESRCH || r == -EINVAL);
    if (task.id != flow_self().id)
        EXPECT_EQ(flow_cancel(task), -ESRCH);
}

static flow_result forge(void *arg)
{
    uint64_t *random = arg;

    /* Slots that were and were not used, generations that never were. */
    for (uint64_t slot = 0; slot < 3000; slot++) {
        expect_forged(slot);
        expect_forged(UINT64_C(0xfffffff0) << 32 | slot);
    }
    expect_forged(UINT64_MAX);
    expect_forged(UINT32_MAX);
    expect_forged(UINT64_C(4000000)); /* as many as there may be tasks */
    expect_forged(UINT64_C(3999999));
    for (int i = 0; i < TEST_ROUNDS(1000000, 200000); i++) {
        uint64_t id = test_random(random);

        /* No generation that was reached; half of them with a slot that may exist. */
        id |= UINT64_C(1) << 63;
        expect_forged(i & 1 ? id : id & ~UINT64_C(0xffff0000));
    }
    return flow_ok(NULL);
}

static void test_forged_handles(void **state)
{
    uint64_t random = test_seed();
    flow_result result;
    flow_task task;

    (void)state;
    test_start();
    assert_int_equal(flow_spawn(&task, forge, &random), 0);
    assert_int_equal(flow_join(task, &result, GENEROUS), 0);
    for (uint64_t slot = 0; slot < 300; slot++)
        expect_forged(slot);
    for (int i = 0; i < 20000; i++)
        expect_forged(test_random(&random) | UINT64_C(1) << 63);
    assert_no_failures();
    assert_int_equal(flow_sync_wait(spawn_and_join, NULL, NULL, GENEROUS), 0); /* nothing was harmed */
    test_stop();
}

/* What the model knows of a task. */
struct model {
    flow_task task;
    enum { NONE, QUICK, WAITING, ENDING, DETACHED } is;
    bool may_be_cancelled; /* a cancel came in time, perhaps */
    int64_t value;
};

static flow_result return_its_value(void *arg)
{
    return flow_ok_i64((intptr_t)arg);
}

static void model_spawn(struct model *m, uint64_t random)
{
    int (*spawn)(flow_task *, flow_fn, void *) = random & 2 ? flow_spawn : flow_spawn_now;

    m->is = random & 1 ? QUICK : WAITING;
    m->may_be_cancelled = false;
    m->value = (int64_t)(random >> 8 & 0xffff);
    if (m->is == QUICK)
        EXPECT_EQ(spawn(&m->task, return_its_value, (void *)(intptr_t)m->value), 0);
    else
        EXPECT_EQ(spawn(&m->task, sleep_for_ever, NULL), 0);
}

static void model_check_result(struct model *m, flow_result result)
{
    if (m->is == QUICK && result.error == 0)
        EXPECT_EQ(result.i64, m->value);
    else
        EXPECT(result.error == -ECANCELED && (m->is == ENDING || m->may_be_cancelled));
}

static bool model_join(struct model *m, flow_deadline deadline)
{
    flow_result result;
    int r = flow_join(m->task, &result, m->is == WAITING && deadline != FLOW_NOW ? flow_after(1000) : deadline);

    switch (m->is) {
    case WAITING:
        EXPECT_EQ(r, -ETIMEDOUT);
        break;
    case DETACHED: /* it waits, and nobody has cancelled it */
        EXPECT_EQ(r, -EINVAL);
        break;
    default:
        EXPECT(r == 0 || (r == -ETIMEDOUT && deadline == FLOW_NOW));
        if (r == 0)
            model_check_result(m, result);
    }
    return r == 0;
}

static bool model_detach(struct model *m)
{
    EXPECT_EQ(flow_detach(m->task), m->is == DETACHED ? -EINVAL : 0);
    if (m->is == DETACHED || m->is == WAITING)
        m->is = DETACHED;
    return m->is != DETACHED;
}

static bool model_cancel(struct model *m)
{
    int r = flow_cancel(m->task);

    switch (m->is) {
    case WAITING:
        EXPECT_EQ(r, 0);
        m->is = ENDING;
        return false;
    case DETACHED:
        EXPECT_EQ(r, 0);
        return true; /* it will end, at some time */
    default:
        EXPECT(r == 0 || r == -ESRCH);
        m->may_be_cancelled |= r == 0;
        return false;
    }
}

enum { MODELS = 64, GONE = 256 };

static flow_result follow_model(void *arg)
{
    static struct model models[MODELS];
    static flow_task gone[GONE];
    uint64_t *seed = arg;
    unsigned n_gone = 0;

    memset(models, 0, sizeof models);
    for (int i = 0; i < TEST_ROUNDS(100000, 20000); i++) {
        uint64_t random = test_random(seed);
        struct model *m = &models[random % MODELS];
        flow_task old = gone[(random >> 20) % GONE];
        bool over = false;

        random >>= 32;
        if (n_gone >= GONE && random % 4 == 0) {
            EXPECT_EQ(flow_join(old, NULL, FLOW_FOREVER), -ESRCH);
            EXPECT_EQ(flow_detach(old), -ESRCH);
            EXPECT_EQ(flow_cancel(old), -ESRCH);
        }
        random >>= 2;
        if (m->is == NONE) {
            model_spawn(m, random);
            continue;
        }
        switch (random % 8) {
        case 0:
            over = model_join(m, FLOW_NOW);
            break;
        case 1:
        case 2:
            over = model_join(m, FLOW_FOREVER);
            break;
        case 3:
            over = model_detach(m);
            break;
        case 4:
        case 5:
            over = model_cancel(m);
            break;
        default:
            EXPECT_EQ(flow_yield(), 0);
        }
        if (!over)
            continue;
        /* Detached ones end by and by; only what was joined is gone for certain. */
        if (random % 8 < 3)
            gone[n_gone++ % GONE] = m->task;
        m->is = NONE;
    }
    for (int i = 0; i < MODELS; i++)
        if (models[i].is != NONE) {
            flow_cancel(models[i].task);
            if (models[i].is != DETACHED)
                EXPECT_JOIN(models[i].task, NULL);
        }
    return flow_ok(NULL);
}

static void test_handles_against_model(void **state)
{
    uint64_t random = test_seed();

    (void)state;
    test_start();
    assert_int_equal(flow_sync_wait(follow_model, &random, NULL, FLOW_FOREVER), 0);
    assert_true(test_wait_until_empty());
    assert_no_failures();
    test_stop();
}

/* ---- cancelling ---- */

static atomic_int started;

static flow_result note_start(void *arg)
{
    (void)arg;
    atomic_fetch_add(&started, 1);
    return flow_ok(NULL);
}

static flow_result go_on_when_cancelled(void *arg)
{
    flow_task self = flow_self(), other;
    size_t winner;

    (void)arg;
    EXPECT_EQ(flow_sleep(FLOW_S(1000)), -ECANCELED);
    /* From here on every suspending call says so. */
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(flow_yield(), -ECANCELED);
        EXPECT_EQ(flow_sleep(FLOW_S(1000)), -ECANCELED);
        EXPECT_EQ(flow_sleep(0), -ECANCELED);
        EXPECT_EQ(flow_sleep_until(FLOW_FOREVER), -ECANCELED);
        EXPECT_EQ(flow_suspend(publish_nothing, NULL, FLOW_FOREVER), -ECANCELED);
    }
    EXPECT_EQ(flow_spawn_now(&other, sleep_for_ever, NULL), 0);
    EXPECT_EQ(flow_join(other, NULL, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_when_all(&other, 1, NULL, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_when_any(&other, 1, &winner, NULL, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_sync_wait(sleep_for_ever, NULL, NULL, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_cancel(other), 0);
    EXPECT_EQ(flow_detach(other), 0);
    EXPECT_EQ(flow_cancel(self), 0); /* it was asked before */
    return flow_ok_i64(42);          /* and may still succeed */
}

static flow_result cancel_self(void *arg)
{
    (void)arg;
    EXPECT_EQ(flow_cancel(flow_self()), 0);
    EXPECT_EQ(flow_sleep(FLOW_S(1000)), -ECANCELED);
    return flow_err(flow_yield());
}

static flow_result cancel(void *arg)
{
    struct flow_spawn_options here = FLOW_SPAWN_INIT;
    flow_result result;
    flow_task task;

    (void)arg;
    /* Bound to this very worker, which is ours: it cannot have started. */
    here.worker = 0;
    here.flags = FLOW_PINNED;
    atomic_store(&started, 0);
    for (int i = 0; i < 100; i++) {
        EXPECT_EQ(flow_spawn_with(&task, &here, note_start, NULL), 0);
        EXPECT_EQ(flow_cancel(task), 0);
        EXPECT_EQ(flow_cancel(task), 0);
        EXPECT_JOIN(task, &result);
        EXPECT_EQ(result.error, -ECANCELED);
    }
    EXPECT_EQ(atomic_load(&started), 0);

    EXPECT_EQ(flow_spawn_now(&task, go_on_when_cancelled, NULL), 0);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_JOIN(task, &result);
    EXPECT(result.error == 0 && result.i64 == 42);
    EXPECT_EQ(flow_cancel(task), -ESRCH);

    EXPECT_EQ(flow_spawn_now(&task, return_argument, NULL), 0);
    EXPECT_EQ(flow_cancel(task), -ESRCH); /* finished, not yet joined */
    EXPECT_JOIN(task, &result);
    EXPECT_EQ(result.error, 0);

    EXPECT_EQ(flow_spawn(&task, cancel_self, NULL), 0);
    EXPECT_JOIN(task, &result);
    EXPECT_EQ(result.error, -ECANCELED);

    EXPECT_EQ(flow_spawn_now(&task, return_after_yields, (void *)0), 0);
    EXPECT_EQ(flow_detach(task), 0);
    return flow_ok(NULL);
}

static flow_result cancel_on_worker_0(void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    flow_task task;

    (void)arg;
    options.worker = 0;
    options.flags = FLOW_PINNED;
    EXPECT_EQ(flow_spawn_with(&task, &options, cancel, NULL), 0);
    EXPECT_JOIN(task, NULL);
    return flow_ok(NULL);
}

static void test_cancel(void **state)
{
    (void)state;
    test_in_coroutine(cancel_on_worker_0);
}

static void test_cancel_from_thread(void **state)
{
    flow_result result;
    flow_task task;

    (void)state;
    test_start();
    for (int i = 0; i < 2000; i++) {
        assert_int_equal(flow_spawn(&task, sleep_for_ever, NULL), 0);
        if (i % 2)
            test_nap(FLOW_US(10));
        assert_int_equal(flow_cancel(task), 0);
        assert_int_equal(flow_join(task, &result, GENEROUS), 0);
        assert_int_equal(result.error, -ECANCELED);
        assert_int_equal(flow_cancel(task), -ESRCH);
    }
    test_stop();
}

/* A cancel that comes too late never hits the next task in the same block. */
static atomic_uint_fast64_t target; /* 0: the canceller has taken it */
static atomic_bool targets_end;

static void *cancel_targets(void *arg)
{
    (void)arg;
    while (!atomic_load(&targets_end)) {
        flow_task task = {atomic_exchange(&target, 0)};

        if (task.id == 0)
            continue;
        for (int i = 0; i < 20; i++) {
            int r = flow_cancel(task);

            EXPECT(r == 0 || r == -ESRCH);
        }
    }
    return NULL;
}

/* Ends, and frees its block, while the canceller is busy with it. */
static flow_result be_a_target(void *arg)
{
    (void)arg;
    for (int i = 0; i < 50 && (i == 0 || atomic_load(&target) != 0); i++)
        flow_yield();
    return flow_ok(NULL);
}

static flow_result be_innocent(void *arg)
{
    EXPECT_EQ(flow_yield(), 0);
    return flow_ok(arg);
}

static flow_result spawn_targets(void *arg)
{
    flow_result result;
    flow_task task;

    (void)arg;
    for (int i = 0; i < TEST_ROUNDS(30000, 3000); i++) {
        EXPECT_EQ(flow_spawn_now(&task, be_a_target, NULL), 0);
        atomic_store(&target, task.id);
        EXPECT_EQ(flow_detach(task), 0);
        EXPECT_EQ(flow_yield(), 0);
        for (int k = 0; k < 3; k++) {
            EXPECT_EQ(flow_spawn_now(&task, be_innocent, &task), 0);
            EXPECT_EQ(flow_join(task, &result, FLOW_FOREVER), 0);
            EXPECT(result.error == 0 && result.ptr == &task);
        }
    }
    atomic_store(&targets_end, true);
    return flow_ok(NULL);
}

static void test_cancel_hits_no_other(void **state)
{
    pthread_t thread;

    (void)state;
    atomic_store(&targets_end, false);
    atomic_store(&target, 0);
    test_start();
    assert_int_equal(pthread_create(&thread, NULL, cancel_targets, NULL), 0);
    assert_int_equal(flow_sync_wait(spawn_targets, NULL, NULL, FLOW_FOREVER), 0);
    pthread_join(thread, NULL);
    test_stop();
}

/* Wake, cancellation and deadline race for one suspension: one of them wins, and each
 * call knows whether it was the one. */
enum { RACERS = 64 };

struct racer {
    flow_task task;
    flow_waker waker;
    atomic_bool published;
    flow_deadline deadline;
    int outcome, woken, canceled;
};

static struct racer racer[RACERS];
static pthread_barrier_t start_line, finish_line;
static atomic_bool race_is_over;
static bool wakes_take_part, cancels_take_part; /* written before the start */

static int publish_racer(flow_waker waker, void *arg)
{
    struct racer *r = arg;

    r->waker = waker;
    atomic_store(&r->published, true);
    return 0;
}

static flow_result race(void *arg)
{
    struct racer *r = arg;

    r->outcome = flow_suspend(publish_racer, r, r->deadline);
    return flow_ok(NULL);
}

static void *wake_all(void *arg)
{
    (void)arg;
    for (;;) {
        pthread_barrier_wait(&start_line);
        if (atomic_load(&race_is_over))
            return NULL;
        for (int i = 0; i < RACERS; i++)
            racer[i].woken = wakes_take_part ? flow_wake(racer[i].waker) : -ESRCH;
        pthread_barrier_wait(&finish_line);
    }
}

static void *cancel_all(void *arg)
{
    (void)arg;
    for (;;) {
        pthread_barrier_wait(&start_line);
        if (atomic_load(&race_is_over))
            return NULL;
        for (int i = RACERS; i-- > 0;)
            racer[i].canceled = cancels_take_part ? flow_cancel(racer[i].task) : -ESRCH;
        pthread_barrier_wait(&finish_line);
    }
}

static int n_woken, n_canceled, n_timed_out;

static void run_race(uint64_t *random, bool wakes, bool cancels, bool deadlines)
{
    wakes_take_part = wakes;
    cancels_take_part = cancels;
    for (int i = 0; i < RACERS; i++) {
        struct racer *r = &racer[i];

        atomic_store(&r->published, false);
        r->deadline = deadlines ? flow_after((int64_t)(test_random(random) % 300000)) : FLOW_FOREVER;
        assert_int_equal(flow_spawn(&r->task, race, r), 0);
    }
    for (int i = 0; i < RACERS; i++)
        while (!atomic_load(&racer[i].published))
            sched_yield();
    pthread_barrier_wait(&start_line);
    pthread_barrier_wait(&finish_line);
    for (int i = 0; i < RACERS; i++) {
        struct racer *r = &racer[i];

        assert_int_equal(flow_join(r->task, NULL, GENEROUS), 0);
        assert_true(r->woken == 0 || r->woken == -ESRCH);
        assert_true(r->canceled == 0 || r->canceled == -ESRCH);
        assert_true((r->outcome == 0) == (r->woken == 0)); /* woken if and only if the waker was told so */
        switch (r->outcome) {
        case 0:
            n_woken++;
            break;
        case -ECANCELED:
            assert_int_equal(r->canceled, 0);
            n_canceled++;
            break;
        case -ETIMEDOUT:
            n_timed_out++;
            break;
        default:
            fail_msg("outcome %d", r->outcome);
        }
    }
}

static void test_one_outcome(void **state)
{
    uint64_t random = test_seed();
    int rounds = TEST_ROUNDS(300, 60);
    pthread_t waker, canceller;

    (void)state;
    test_start();
    pthread_barrier_init(&start_line, NULL, 3);
    pthread_barrier_init(&finish_line, NULL, 3);
    atomic_store(&race_is_over, false);
    pthread_create(&waker, NULL, wake_all, NULL);
    pthread_create(&canceller, NULL, cancel_all, NULL);

    /* Each alone first: then the outcome is certain. */
    n_woken = n_canceled = n_timed_out = 0;
    run_race(&random, true, false, false);
    assert_int_equal(n_woken, RACERS);
    run_race(&random, false, true, false);
    assert_int_equal(n_canceled, RACERS);
    run_race(&random, false, false, true);
    assert_int_equal(n_timed_out, RACERS);

    for (int i = 0; i < rounds; i++)
        run_race(&random, true, true, i % 4 != 0);
    atomic_store(&race_is_over, true);
    pthread_barrier_wait(&start_line);
    pthread_join(waker, NULL);
    pthread_join(canceller, NULL);
    pthread_barrier_destroy(&start_line);
    pthread_barrier_destroy(&finish_line);
    assert_int_equal(n_woken + n_canceled + n_timed_out, (rounds + 3) * RACERS);
    print_message("note one outcome each: %d woken, %d cancelled, %d timed out\n", n_woken, n_canceled, n_timed_out);
    test_stop();
}

/* Joins with short deadlines against the ends of the tasks: every result comes exactly once. */
static flow_result join_against_ends(void *arg)
{
    uint64_t *random = arg;
    int64_t sum = 0, expected = 0;

    for (int i = 0; i < TEST_ROUNDS(3000, 500); i++) {
        flow_result result;
        flow_task task;
        int r;

        EXPECT_EQ(flow_spawn(&task, return_after_yields, (void *)(intptr_t)(i % 50)), 0);
        expected += i % 50;
        do
            r = flow_join(task, &result, flow_after((int64_t)(test_random(random) % 2000)));
        while (r == -ETIMEDOUT);
        EXPECT_EQ(r, 0);
        sum += result.i64;
        EXPECT_EQ(flow_join(task, &result, FLOW_NOW), -ESRCH);
    }
    EXPECT_EQ(sum, expected);
    return flow_ok(NULL);
}

static void test_join_against_ends(void **state)
{
    uint64_t seed = test_seed(), random[4];
    flow_task task[4];

    (void)state;
    test_start();
    for (int i = 0; i < 4; i++) {
        random[i] = seed + (uint64_t)i;
        assert_int_equal(flow_spawn(&task[i], join_against_ends, &random[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(flow_join(task[i], NULL, GENEROUS), 0);
    test_stop();
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

/* ---- the floating-point environment ---- */

/* 1 + 2^-60 and its negative, rounded: differs between the modes. */
static int rounding_seen(void)
{
    volatile double one = 1, tiny = 0x1p-60;
    volatile double up = one + tiny, down = -one - tiny;

    if (up > 1)
        return FE_UPWARD;
    return down < -1 ? FE_DOWNWARD : FE_TONEAREST;
}

static flow_result keep_rounding(void *arg)
{
    int mode = (int)(intptr_t)arg;

    EXPECT_EQ(fegetround(), FE_TONEAREST);
    EXPECT_EQ(fesetround(mode), 0);
    for (int i = 0; i < 50; i++) {
        EXPECT_EQ(i % 5 ? flow_yield() : flow_sleep(FLOW_US(20)), 0);
        EXPECT_EQ(fegetround(), mode);
        EXPECT_EQ(rounding_seen(), mode);
    }
    return flow_ok(NULL); /* with its mode still set */
}

static flow_result set_rounding(void *arg)
{
    EXPECT_EQ(fesetround((int)(intptr_t)arg), 0);
    return flow_ok(NULL);
}

static flow_result round_to_nearest(void *arg)
{
    for (intptr_t i = 0; i <= (intptr_t)arg; i++) {
        EXPECT_EQ(fegetround(), FE_TONEAREST);
        EXPECT_EQ(rounding_seen(), FE_TONEAREST);
        EXPECT_EQ(flow_yield(), 0);
    }
    return flow_ok(NULL);
}

static flow_result join_while_rounding_up(void *arg)
{
    flow_task task;

    (void)arg;
    EXPECT_EQ(fesetround(FE_UPWARD), 0);
    for (intptr_t i = 0; i < 10; i++) {
        EXPECT_EQ(flow_spawn(&task, round_to_nearest, (void *)(i % 2)), 0);
        EXPECT_EQ(flow_join(task, NULL, FLOW_FOREVER), 0);
        EXPECT_EQ(fegetround(), FE_UPWARD);
    }
    return flow_ok(NULL);
}

static void test_fp_environment(void **state)
{
    flow_task task[10 * TEST_MOST_WORKERS];
    int n = 0;

    (void)state;
    test_start();
    for (int w = 0; w < test_workers(); w++) {
        spawn_on(&task[n++], w, FLOW_FP_ENVIRONMENT, keep_rounding, FE_UPWARD);
        spawn_on(&task[n++], w, 0, round_to_nearest, 50);
        spawn_on(&task[n++], w, FLOW_FP_ENVIRONMENT | FLOW_PINNED, keep_rounding, FE_DOWNWARD);
        spawn_on(&task[n++], w, 0, round_to_nearest, 50);
        spawn_on(&task[n++], w, FLOW_FP_ENVIRONMENT, set_rounding, FE_UPWARD);
        spawn_on(&task[n++], w, 0, round_to_nearest, 50);
    }
    join_all(task, n);
    assert_no_failures();
    n = 0;
    for (int w = 0; w < test_workers(); w++) /* the environment of those that ended is gone */
        spawn_on(&task[n++], w, 0, round_to_nearest, 3);
    join_all(task, n);
    assert_no_failures();
    test_stop();
}

static void test_fp_roaming(void **state)
{
    flow_task task[12];
    int n = 0;

    (void)state;
    test_start();
    for (int i = 0; i < 4; i++) {
        spawn_on(&task[n++], -1, FLOW_FP_ENVIRONMENT | FLOW_ROAM, keep_rounding, FE_UPWARD);
        spawn_on(&task[n++], -1, FLOW_FP_ENVIRONMENT | FLOW_ROAM, keep_rounding, FE_DOWNWARD);
        spawn_on(&task[n++], -1, FLOW_ROAM, round_to_nearest, 50);
    }
    join_all(task, n);
    assert_no_failures();
    test_stop();
}

static void test_fp_in_join(void **state)
{
    flow_task task;

    (void)state;
    test_start();
    spawn_on(&task, -1, FLOW_FP_ENVIRONMENT, join_while_rounding_up, 0);
    join_all(&task, 1);
    assert_no_failures();
    test_stop();
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
        TEST(test_pinned_tasks),
        TEST(test_pinned_to_cpu),
        TEST(test_stack_classes),
        TEST(test_bad_options),
        TEST(test_names),
        TEST(test_roaming_tasks),
        TEST(test_roamer_leaves_busy_worker),
        TEST(test_detach),
        TEST(test_misuse),
        TEST(test_join_in_time),
        TEST(test_forged_handles),
        TEST(test_handles_against_model),
        TEST(test_cancel),
        TEST(test_cancel_from_thread),
        TEST(test_cancel_hits_no_other),
        TEST(test_one_outcome),
        TEST(test_join_against_ends),
        TEST(test_errors_come_up),
        TEST(test_busy_tasks_run_at_once),
        TEST(test_fp_environment),
        TEST(test_fp_roaming),
        TEST(test_fp_in_join),
        TEST(test_counting),
        TEST(test_too_many_tasks),
    };

    return cmocka_run_group_tests_name("task", tests, NULL, NULL);
}
