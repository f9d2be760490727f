/* SPDX-License-Identifier: MIT
 *
 * The lookout (core/park.c): that a spawn beside one wakes nobody, and that nothing is forgotten so. The
 * coroutine of most tests first spawns and joins until all other workers sleep and one of them stands as the
 * lookout. With FLOW_TEST_WORKERS. */
#include "core/queues.h"
#include "tests/support/tasks.h"

#include <sched.h>

enum { TRIES = 20, MOST_TRIES = 20000 };

static struct flow__idle *idle(void)
{
    return &flow__runtime.groups[0].idle;
}

static bool the_others_sleep(void)
{
    return load_seq(&idle()->state) == (uint64_t)(test_workers() - 1) * FLOW__ONE_SLEEPER;
}

static uint64_t wakes(void)
{
    return load_relaxed(&flow__self()->home->stats.wakes);
}

static void spawn(flow_task *task, flow_fn fn)
{
    EXPECT_EQ(flow_spawn(task, fn, NULL), 0);
}

static void spawn_and_join(void)
{
    flow_task task = {0};

    spawn(&task, return_argument);
    EXPECT_JOIN(task, NULL);
}

static void wait_until_the_others_sleep(void)
{
    while (!the_others_sleep())
        sched_yield();
}

/* Both at a time; it may have gone when this returns. */
static void wait_for_a_lookout(void)
{
    while (!the_others_sleep() || !load_seq(&idle()->lookout)) {
        spawn_and_join();
        sched_yield();
    }
}

/* As a task, on worker 0 of several. */
static void run(flow_fn fn, int least)
{
    if (test_workers() < least)
        skip();
    test_in_coroutine(fn);
    assert_no_failures();
}

/* ---- what wakes nobody ---- */

/* Some do, until the sleepers have learned that it is in vain. All did before there was a lookout. */
static flow_result spawns_and_joins(void *unused)
{
    int quiet = 0;

    for (int i = 0; i < MOST_TRIES && quiet < TRIES; i++) {
        uint64_t before;

        wait_until_the_others_sleep();
        before = wakes();
        spawn_and_join();
        quiet += wakes() == before;
    }
    EXPECT_EQ(quiet, TRIES);
    return flow_ok(unused);
}

static void test_who_spawns_and_joins_wakes_nobody(void **state)
{
    (void)state;
    run(spawns_and_joins, 2);
}

/* Nobody ever uses a LIFO slot. */
static flow_result wake_for_nothing(void *unused)
{
    bool stood = false;

    for (int i = 0; i < MOST_TRIES / 10 && !stood; i++) {
        wait_until_the_others_sleep();
        test_nap(FLOW_US(100)); /* it is counted as a sleeper before it stands */
        stood = load_seq(&idle()->lookout);
        flow__wake_searcher(flow__self()->home);
    }
    EXPECT(stood);
    return flow_ok(unused);
}

static void test_who_is_summoned_in_vain_becomes_the_lookout(void **state)
{
    (void)state;
    run(wake_for_nothing, 2);
}

/* More than the slot holds is for others. A lookout may end in between, so: in most of the tries. */
static flow_result spawn_two(void *unused)
{
    int woken = 0;

    for (int i = 0; i < TRIES; i++) {
        flow_task task[2] = {{0}};
        uint64_t before;

        wait_for_a_lookout();
        before = wakes();
        spawn(&task[0], return_argument);
        spawn(&task[1], return_argument);
        woken += wakes() > before;
        EXPECT_JOIN(task[1], NULL);
        EXPECT_JOIN(task[0], NULL);
    }
    EXPECT(woken > TRIES / 2);
    return flow_ok(unused);
}

static void test_the_second_task_wakes_somebody(void **state)
{
    (void)state;
    run(spawn_two, 2);
}

/* ---- what is not forgotten ---- */

static flow__atomic(bool) has_run;
static flow__atomic(struct flow__worker *) ran_on;

static flow_result mark(void *arg)
{
    store_relaxed(&ran_on, flow__self()->home);
    store_release(&has_run, true);
    return flow_ok(arg);
}

/* Keeps the worker from anything else. */
static void block_until_it_has_run(void)
{
    while (!load_acquire(&has_run))
        sched_yield();
}

static flow_result block(void *arg)
{
    block_until_it_has_run();
    return flow_ok(arg);
}

static flow_result compute_after_a_spawn(void *unused)
{
    struct flow__worker *here = flow__self()->home;

    for (int i = 0; i < TRIES; i++) {
        flow_task task = {0};

        store_relaxed(&has_run, false);
        wait_for_a_lookout();
        spawn(&task, mark);
        block_until_it_has_run();
        EXPECT(load_relaxed(&ran_on) != here);
        EXPECT_JOIN(task, NULL);
    }
    return flow_ok(unused);
}

static void test_a_task_that_lies_is_taken(void **state)
{
    (void)state;
    run(compute_after_a_spawn, 2);
}

/* All others but one get something else to do, which lasts until the task in the slot has run: so if the lookout is
 * among them, that one must be woken. */
static flow_result call_the_lookout_away(void *unused)
{
    struct flow__worker *here = flow__self()->home;
    int n = test_workers();

    for (int i = 0; i < TRIES; i++) {
        flow_task task = {0}, busy[TEST_MOST_WORKERS] = {{0}};
        int spare = (here->index + 1 + i % (n - 1)) % n;

        store_relaxed(&has_run, false);
        wait_for_a_lookout();
        spawn(&task, mark);
        for (int k = 0; k < n; k++) {
            struct flow_spawn_options o = FLOW_SPAWN_INIT;

            o.worker = k;
            o.flags = FLOW_PINNED;
            if (k != here->index && k != spare)
                EXPECT_EQ(flow_spawn_with(&busy[k], &o, block, NULL), 0);
        }
        block_until_it_has_run();
        EXPECT_JOIN(task, NULL);
        for (int k = 0; k < n; k++)
            if (k != here->index && k != spare)
                EXPECT_JOIN(busy[k], NULL);
    }
    return flow_ok(unused);
}

static void test_a_lookout_that_is_called_away_sends_another(void **state)
{
    (void)state;
    run(call_the_lookout_away, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_who_spawns_and_joins_wakes_nobody),
        TEST(test_who_is_summoned_in_vain_becomes_the_lookout),
        TEST(test_the_second_task_wakes_somebody),
        TEST(test_a_task_that_lies_is_taken),
        TEST(test_a_lookout_that_is_called_away_sends_another),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
