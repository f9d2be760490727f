/* SPDX-License-Identifier: MIT
 *
 * What flow_spawn_with may ask for: a worker or a CPU, a class of stack, a name, leave to roam, and a
 * floating-point environment of its own. Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/tasks.h"

#include <errno.h>
#include <fenv.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

static flow_result spawn_many(void *arg)
{
    enum { N = 3000 };
    static flow_task task[N];
    flow_result result;

    (void)arg;
    for (intptr_t i = 0; i < N; i++)
        EXPECT_EQ(flow_spawn(&task[i], return_after_yields, (void *)(i % 7)), 0);
    for (intptr_t i = N; i-- > 0;) {
        EXPECT_EQ(flow_join(task[i], &result, FLOW_FOREVER), 0);
        EXPECT(result.error == 0 && result.i64 == i % 7);
    }
    return flow_ok(NULL);
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
    assert_int_equal(flow_sync_wait(spawn_many, NULL, NULL, GENEROUS), 0);
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
    if (TEST_VALGRIND)
        skip(); /* it rounds to nearest only */
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
    if (TEST_VALGRIND)
        skip(); /* it rounds to nearest only */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_pinned_tasks),
        TEST(test_pinned_to_cpu),
        TEST(test_stack_classes),
        TEST(test_bad_options),
        TEST(test_names),
        TEST(test_roaming_tasks),
        TEST(test_roamer_leaves_busy_worker),
        TEST(test_fp_environment),
        TEST(test_fp_roaming),
        TEST(test_fp_in_join),
    };

    return cmocka_run_group_tests_name("spawn_options", tests, NULL, NULL);
}
