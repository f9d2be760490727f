/* SPDX-License-Identifier: MIT
 *
 * Turns: who runs when, on one worker; and a foreign thread that waits again and again. */
#include "tests/support/test.h"

#include <stdatomic.h>

static flow_task spawn_detached(flow_fn fn)
{
    flow_task task = {0};

    EXPECT_EQ(flow_spawn(&task, fn, NULL), 0);
    EXPECT_EQ(flow_detach(task), 0);
    return task;
}

static void start_one_worker(void)
{
    struct flow_options o = test_options();

    o.workers = 1;
    test_start_with(&o);
}

/* ---- the one spawned last comes first, but not for ever ---- */

enum { LINKS_MOST = 100000 };

static atomic_int links;
static atomic_bool had_its_turn;

/* Each spawns the next, which then is the one spawned last. */
static flow_result chain(void *unused)
{
    (void)unused;
    if (!had_its_turn && ++links < LINKS_MOST)
        spawn_detached(chain);
    return flow_ok(NULL);
}

static flow_result take_turn(void *unused)
{
    (void)unused;
    had_its_turn = true;
    return flow_ok(NULL);
}

static flow_result spawn_both(void *unused)
{
    (void)unused;
    spawn_detached(take_turn);
    spawn_detached(chain);
    return flow_ok(NULL);
}

static void test_a_chain_of_spawns_leaves_others_their_turn(void **state)
{
    flow_task task;

    (void)state;
    links = 0;
    had_its_turn = false;
    start_one_worker();
    assert_int_equal(flow_spawn(&task, spawn_both, NULL), 0);
    assert_int_equal(flow_join(task, NULL, FLOW_FOREVER), 0);
    assert_true(test_wait_until_empty());
    assert_true(had_its_turn);
    assert_in_range(links, 1, 1000);
    test_stop();
}

/* ---- more started tasks than the queue of ready ones has had room for ---- */

enum { FIRST = 300, LATER = 1200, TURNS = 60 };

/* One worker: no two at the same time; but ThreadSanitizer may be told to think of any number. */
static int turns_taken[FIRST + LATER];
static atomic_int n_started, n_over;
static struct flow_event all_have_started = FLOW_EVENT_INIT;

/* The later ones wait first, so that the queue grows while it is not full. */
static flow_result take_turns(void *index)
{
    n_started++;
    if ((intptr_t)index >= FIRST)
        EXPECT_EQ(flow_event_wait(&all_have_started, FLOW_FOREVER), 0);
    for (int i = 0; i < TURNS || n_started < FIRST + LATER; i++) {
        turns_taken[(intptr_t)index]++;
        EXPECT_EQ(flow_yield(), 0);
    }
    n_over++;
    return flow_ok(NULL);
}

static void spawn_all(void)
{
    for (intptr_t i = 0; i < FIRST + LATER; i++) {
        flow_task task;

        EXPECT_EQ(flow_spawn(&task, take_turns, (void *)i), 0);
        EXPECT_EQ(flow_detach(task), 0);
    }
}

static flow_result spawn_and_let_go(void *unused)
{
    (void)unused;
    for (int i = 0; i < 100; i++) /* the queue is to begin somewhere in its memory */
        EXPECT_EQ(flow_yield(), 0);
    spawn_all();
    while (n_started < FIRST + LATER)
        EXPECT_EQ(flow_yield(), 0);
    EXPECT_EQ(flow_event_set(&all_have_started), 0);
    return flow_ok(NULL);
}

static void test_ready_tasks_keep_their_turns_when_there_are_more_of_them(void **state)
{
    flow_task task;

    (void)state;
    start_one_worker();
    assert_int_equal(flow_spawn(&task, spawn_and_let_go, NULL), 0);
    assert_int_equal(flow_join(task, NULL, FLOW_FOREVER), 0);
    assert_true(test_wait_until_empty());
    assert_int_equal(n_over, FIRST + LATER);
    for (int i = 0; i < FIRST + LATER; i++)
        assert_true(turns_taken[i] >= TURNS);
    test_stop();
}

/* ---- a foreign thread ---- */

static flow_result return_argument(void *arg)
{
    return flow_ok(arg);
}

/* More often than the runtime has stand-ins for those who wait. */
static void test_a_foreign_thread_waits_again_and_again(void **state)
{
    (void)state;
    start_one_worker();
    for (intptr_t i = 0; i < 10000; i++) {
        flow_result result;
        flow_task task;

        assert_int_equal(flow_spawn(&task, return_argument, (void *)i), 0);
        assert_int_equal(flow_join(task, &result, FLOW_FOREVER), 0);
        assert_ptr_equal(flow_unwrap(result), (void *)i);
    }
    test_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_chain_of_spawns_leaves_others_their_turn),
        cmocka_unit_test(test_ready_tasks_keep_their_turns_when_there_are_more_of_them),
        cmocka_unit_test(test_a_foreign_thread_waits_again_and_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
