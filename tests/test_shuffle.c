/* SPDX-License-Identifier: MIT
 *
 * The option shuffle: with a seed the order of everything that is ready is another one each time,
 * and the same for the same seed; whatever the order, each task runs once and all ends well. */
#include "tests/support/test.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { TASKS = 40, TURNS = 6, STEPS = TASKS * TURNS };

static struct {
    int step[STEPS];
    int n;
} order;

static flow_result take_turns(void *arg)
{
    for (int i = 0; i < TURNS; i++) {
        order.step[order.n++] = (int)(intptr_t)arg;
        EXPECT_EQ(flow_yield(), 0);
    }
    return flow_ok(NULL);
}

static flow_result spawn_all(void *unused)
{
    for (intptr_t i = 0; i < TASKS; i++)
        EXPECT_EQ(flow_spawn(NULL, take_turns, (void *)i), 0);
    return flow_ok(unused);
}

/* Leaves the order in which the tasks had their turns. */
static void run_with(int64_t seed)
{
    struct flow_options options = FLOW_OPTIONS_INIT;

    options.workers = 0;
    options.shuffle = seed;
    order.n = 0;
    assert_int_equal(flow_run(&options, spawn_all, NULL, NULL), 0);
    assert_no_failures();
    assert_int_equal(order.n, STEPS);
}

static void test_order_follows_from_seed(void **state)
{
    int first[STEPS], plain[STEPS];
    int seen[TASKS] = {0};

    (void)state;
    run_with(0);
    memcpy(plain, order.step, sizeof plain);
    run_with(77);
    memcpy(first, order.step, sizeof first);
    assert_memory_not_equal(first, plain, sizeof first);
    run_with(77);
    assert_memory_equal(first, order.step, sizeof first);
    run_with(78);
    assert_memory_not_equal(first, order.step, sizeof first);
    for (int i = 0; i < STEPS; i++)
        seen[order.step[i]]++;
    for (int i = 0; i < TASKS; i++)
        assert_int_equal(seen[i], TURNS);
}

static void test_environment(void **state)
{
    int first[STEPS];
    struct flow_options options = FLOW_OPTIONS_INIT;

    (void)state;
    run_with(12345);
    memcpy(first, order.step, sizeof first);
    setenv("FLOW_SHUFFLE", "12345", 1);
    run_with(0);
    assert_memory_equal(first, order.step, sizeof first);
    setenv("FLOW_SHUFFLE", "-1", 1);
    assert_int_equal(flow_start(&options), -EINVAL);
    assert_non_null(strstr(flow_start_error(), "shuffle"));
    unsetenv("FLOW_SHUFFLE");
    assert_int_equal(flow_options_parse(&options, "shuffle=9223372036854775807"), 0);
    assert_true(options.shuffle == INT64_MAX);
    assert_int_equal(flow_options_parse(&options, "shuffle=5s"), -EINVAL);
}

/* ---- operations that never have to wait ---- */

static int spent[2];

static flow_result spend(void *arg)
{
    struct flow_chan *signals;

    EXPECT_EQ(flow_chan_create(&signals, 0, 400), 0);
    for (int *mine = arg; *mine < 400; (*mine)++)
        EXPECT_EQ(flow_chan_send(signals, NULL, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_chan_destroy(signals, NULL, NULL), 0);
    return flow_ok(NULL);
}

static flow_result spend_both(void *unused)
{
    flow_task task;

    EXPECT_EQ(flow_spawn(&task, spend, &spent[0]), 0);
    EXPECT_EQ(flow_spawn(NULL, spend, &spent[1]), 0);
    EXPECT_EQ(flow_join(task, NULL, FLOW_FOREVER), 0);
    return flow_ok(unused);
}

/* Without a seed 128 come in a row before somebody else has a turn, with one mostly 1 to 4. */
static void test_yields_are_forced(void **state)
{
    struct flow_options options = FLOW_OPTIONS_INIT;
    struct flow_stats s = {.size = sizeof s};
    uint64_t dispatches[2];

    (void)state;
    options.workers = 0;
    for (int shuffled = 0; shuffled < 2; shuffled++) {
        memset(spent, 0, sizeof spent);
        options.shuffle = shuffled ? 4711 : 0;
        assert_int_equal(flow_start(&options), 0);
        assert_int_equal(flow_sync_wait(spend_both, NULL, NULL, FLOW_FOREVER), 0);
        while (flow_drive(FLOW_NOW) > 0)
            ;
        assert_int_equal(flow_stats(&s), 0);
        dispatches[shuffled] = s.total.dispatches;
        assert_int_equal(flow_stop(FLOW_FOREVER), 0);
        assert_no_failures();
    }
    assert_true(dispatches[0] < 40);
    assert_in_range(dispatches[1], 2 * dispatches[0], 1000);
}

/* ---- workers ---- */

static atomic_int runs[3000];

static flow_result run_once(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
    return flow_yield() ? flow_err(-ECANCELED) : flow_ok(arg);
}

static flow_result spawn_many(void *unused)
{
    static flow_task tasks[3000];

    for (int i = 0; i < 3000; i++) {
        struct flow_spawn_options o = FLOW_SPAWN_INIT;

        o.flags = i % 3 == 0 ? FLOW_ROAM : 0;
        EXPECT_EQ(flow_spawn_with(&tasks[i], &o, run_once, &runs[i]), 0);
    }
    for (int i = 0; i < 3000; i++) {
        flow_result result = flow_err(-EPROTO);

        EXPECT_EQ(flow_join(tasks[i], &result, FLOW_FOREVER), 0);
        EXPECT(result.ptr == &runs[i]);
    }
    return flow_ok(unused);
}

/* More than a ring and the stack cache hold, so that the group's queue is in it too. */
static void test_each_task_runs_once(void **state)
{
    struct flow_options options = test_options(); /* FLOW_TEST_WORKERS */
    uint64_t seed = test_seed();

    (void)state;
    for (int round = 0; round < TEST_ROUNDS(6, 2); round++) {
        memset((void *)runs, 0, sizeof runs);
        options.shuffle = (int64_t)(test_random(&seed) >> 1 | 1);
        test_start_with(&options);
        assert_int_equal(flow_sync_wait(spawn_many, NULL, NULL, FLOW_FOREVER), 0);
        assert_true(test_wait_until_empty());
        for (int i = 0; i < 3000; i++)
            assert_int_equal(atomic_load(&runs[i]), 1);
        test_stop();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_order_follows_from_seed),
        TEST(test_environment),
        TEST(test_yields_are_forced),
        TEST(test_each_task_runs_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
