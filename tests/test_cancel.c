/* SPDX-License-Identifier: MIT
 *
 * Cancellation: level-triggered everywhere, reasons, shields, ambient deadlines, and their misuse.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GENEROUS flow_after(FLOW_S(60))

static atomic_bool go_on;

static flow_result return_argument(void *arg)
{
    return flow_ok(arg);
}

static int never_wake(flow_waker waker, void *arg)
{
    (void)waker, (void)arg;
    return 0;
}

/* ---- every call that waits ---- */

static struct flow_mutex taken = FLOW_MUTEX_INIT;
static struct flow_semaphore empty = FLOW_SEMAPHORE_INIT(0);
static struct flow_event unset = FLOW_EVENT_INIT, automatic = FLOW_EVENT_AUTO_INIT;

enum { WAYS = 6 };

/* Waits for what never comes, in the way-th way. */
static int wait_somehow(int way, flow_deadline deadline)
{
    int r;

    switch (way) {
    case 0:
        return flow_mutex_lock(&taken, deadline);
    case 1:
        return flow_semaphore_acquire(&empty, 1, deadline);
    case 2:
        return flow_event_wait(&unset, deadline);
    case 3:
        return flow_event_wait(&automatic, deadline);
    case 4:
        r = flow_sleep_until(deadline);
        return r ? r : -ETIMEDOUT;
    default:
        return flow_suspend(never_wake, NULL, deadline);
    }
}

/* What a cancelled task gets everywhere, with any deadline, again and again. */
static void expect_cancelled(int reason)
{
    for (int round = 0; round < 2; round++) {
        for (int way = 0; way < WAYS; way++) {
            EXPECT_EQ(wait_somehow(way, FLOW_FOREVER), -ECANCELED);
            EXPECT_EQ(wait_somehow(way, FLOW_NOW), -ECANCELED);
            EXPECT_EQ(wait_somehow(way, flow_after(FLOW_S(5))), -ECANCELED);
        }
        EXPECT_EQ(flow_yield(), -ECANCELED);
        EXPECT_EQ(flow_sleep(1), -ECANCELED);
        EXPECT_EQ(flow_sleep(0), -ECANCELED);
        EXPECT_EQ(flow_cancel_reason(), reason);
    }
}

/* The same calls where nothing is cancelled. */
static void expect_not_cancelled(void)
{
    for (int way = 0; way < WAYS; way++) {
        EXPECT_EQ(wait_somehow(way, FLOW_NOW), -ETIMEDOUT);
        EXPECT_EQ(wait_somehow(way, flow_after(FLOW_US(20))), -ETIMEDOUT);
    }
    EXPECT_EQ(flow_yield(), 0);
    EXPECT_EQ(flow_sleep(1), 0);
    EXPECT_EQ(flow_sleep(0), 0);
}

static flow_result be_cancelled(void *arg)
{
    int reason = (int)(intptr_t)arg;
    struct flow_mutex free_one = FLOW_MUTEX_INIT;

    EXPECT_EQ(flow_cancel_reason(), 0);
    EXPECT_EQ(flow_event_wait(&unset, FLOW_FOREVER), -ECANCELED);
    expect_cancelled(reason);
    /* What needs no waiting works, so that it can clean up. */
    EXPECT_EQ(flow_mutex_lock(&free_one, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_mutex_unlock(&free_one), 0);
    EXPECT_EQ(flow_cancel_reason(), reason);
    return flow_ok(NULL);
}

static flow_result reasons(void *arg)
{
    flow_task task;

    (void)arg;
    EXPECT_EQ(flow_mutex_lock(&taken, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_cancel_reason(), 0);
    for (int reason = 1; reason <= FLOW_CANCEL_LAST; reason++) {
        EXPECT_EQ(flow_spawn_now(&task, be_cancelled, (void *)(intptr_t)reason), 0);
        EXPECT_EQ(flow_cancel_with(task, reason), 0);
        EXPECT_EQ(flow_cancel_with(task, reason % 15 + 1), 0); /* the first one's counts */
        EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
        EXPECT_EQ(flow_cancel_with(task, reason), -ESRCH);
    }
    EXPECT_EQ(flow_spawn_now(&task, be_cancelled, (void *)(intptr_t)FLOW_CANCEL_ASKED), 0);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);

    EXPECT_EQ(flow_cancel_with(flow_self(), 0), -EINVAL);
    EXPECT_EQ(flow_cancel_with(flow_self(), 16), -EINVAL);
    EXPECT_EQ(flow_cancel_with(flow_self(), -1), -EINVAL);
    EXPECT_EQ(flow_cancel_reason(), 0);
    EXPECT_EQ(flow_mutex_unlock(&taken), 0);
    return flow_ok(NULL);
}

static void test_reasons(void **state)
{
    (void)state;
    test_in_coroutine(reasons);
    assert_int_equal(flow_cancel_reason(), -ESHUTDOWN);
    assert_int_equal(flow_cancel_with((flow_task){1}, 1), -ESHUTDOWN);
}

/* A block that was cancelled is not so in its next life, nor does it know the old reason. */
static flow_result next_lives(void *arg)
{
    flow_result result;
    flow_task task;
    int r;

    (void)arg;
    for (int i = 0; i < 200; i++) {
        EXPECT_EQ(flow_spawn(&task, return_argument, NULL), 0);
        r = flow_cancel_with(task, 1 + i % 15);
        EXPECT(r == 0 || r == -ESRCH); /* another worker may have run it to its end */
        EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
        EXPECT_EQ(flow_spawn_now(&task, return_argument, NULL), 0);
        EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
        EXPECT_EQ(result.error, 0);
        EXPECT_EQ(flow_cancel_reason(), 0);
    }
    return flow_ok(NULL);
}

static void test_next_lives(void **state)
{
    (void)state;
    test_in_coroutine(next_lives);
}

static atomic_int about_to_wait, stop_reasons;

static flow_result note_reason_of_stop(void *arg)
{
    (void)arg;
    atomic_fetch_add(&about_to_wait, 1);
    EXPECT_EQ(flow_event_wait(&unset, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_cancel_reason(), FLOW_CANCEL_STOP);
    atomic_fetch_add(&stop_reasons, 1);
    return flow_ok(NULL);
}

static void test_reason_of_stop(void **state)
{
    (void)state;
    test_start();
    atomic_store(&stop_reasons, 0);
    for (int i = 0; i < 10; i++)
        assert_int_equal(flow_spawn(NULL, note_reason_of_stop, NULL), 0);
    while (atomic_load(&about_to_wait) < 10)
        test_nap(FLOW_US(100));
    assert_int_equal(flow_stop(GENEROUS), 0);
    assert_no_failures();
    assert_int_equal(atomic_load(&stop_reasons), 10);
}

/* ---- shields ---- */

static int clean_up(void *arg)
{
    EXPECT_EQ(flow_cancel_reason(), *(int *)arg);
    expect_not_cancelled();
    return 17;
}

static int shield_by_macro(void)
{
    FLOW_SHIELD(shield);
    expect_not_cancelled();
    return flow_sleep(FLOW_US(50));
}

static flow_result shield_in_clean_up(void *arg)
{
    struct flow_ambient outer = FLOW_AMBIENT_INIT, inner = FLOW_AMBIENT_INIT;
    struct flow_ambient limit = FLOW_AMBIENT_INIT;
    int reason = FLOW_CANCEL_ASKED;

    EXPECT_EQ(flow_event_wait(arg, FLOW_FOREVER), -ECANCELED);
    expect_cancelled(reason);
    EXPECT_EQ(flow_shield(clean_up, &reason), 17);
    expect_cancelled(reason);
    EXPECT_EQ(shield_by_macro(), 0);
    expect_cancelled(reason);

    EXPECT_EQ(flow_shield_begin(&outer), 0);
    expect_not_cancelled();
    EXPECT_EQ(flow_shield_begin(&inner), 0);
    expect_not_cancelled();
    EXPECT_EQ(flow_shield_end(&outer), -EINVAL);
    EXPECT_EQ(flow_shield_end(&inner), 0);
    EXPECT_EQ(flow_shield_end(&inner), -EINVAL);
    expect_not_cancelled();
    /* A limit within a shield holds. */
    EXPECT_EQ(flow_deadline_push(&limit, flow_after(FLOW_US(300))), 0);
    EXPECT_EQ(flow_event_wait(&unset, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_event_wait(&unset, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_yield(), -ECANCELED);
    EXPECT_EQ(flow_shield_end(&outer), -EINVAL);
    EXPECT_EQ(flow_deadline_pop(&limit), 0);
    expect_not_cancelled();
    EXPECT_EQ(flow_shield_end(&outer), 0);
    expect_cancelled(reason);
    return flow_ok(NULL);
}

static flow_result be_cancelled_within(void *arg)
{
    struct flow_ambient shield;

    EXPECT_EQ(flow_shield_begin(&shield), 0);
    EXPECT_EQ(flow_event_wait(arg, GENEROUS), 0); /* cancelled meanwhile, and not woken by that */
    EXPECT_EQ(flow_cancel_reason(), FLOW_CANCEL_USER);
    expect_not_cancelled();
    EXPECT_EQ(flow_shield_end(&shield), 0);
    expect_cancelled(FLOW_CANCEL_USER);
    return flow_ok(NULL);
}

static flow_result shields(void *arg)
{
    struct flow_event event = FLOW_EVENT_INIT;
    flow_task task;

    (void)arg;
    EXPECT_EQ(flow_mutex_lock(&taken, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_spawn_now(&task, shield_in_clean_up, &event), 0);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);

    EXPECT_EQ(flow_spawn_now(&task, be_cancelled_within, &event), 0);
    EXPECT_EQ(flow_cancel_with(task, FLOW_CANCEL_USER), 0);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(flow_yield(), 0);
    EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_event_set(&event), 0);
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
    EXPECT_EQ(flow_mutex_unlock(&taken), 0);
    return flow_ok(NULL);
}

static void test_shields(void **state)
{
    (void)state;
    test_in_coroutine(shields);
}

/* ---- ambient deadlines ---- */

static int sleep_with_limit(int64_t span_ns)
{
    FLOW_DEADLINE(limit, flow_after(span_ns));
    return flow_sleep(FLOW_S(60));
}

static flow_result hold_taken(void *enough)
{
    EXPECT_EQ(flow_mutex_lock(&taken, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_event_wait(enough, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_mutex_unlock(&taken), 0);
    return flow_ok(NULL);
}

static flow_result deadlines(void *arg)
{
    struct flow_ambient outer = FLOW_AMBIENT_INIT, inner = FLOW_AMBIENT_INIT, limit, within;
    struct flow_ambient shield = FLOW_AMBIENT_INIT;
    flow_deadline soon, begin = flow_now();
    flow_result result;
    struct flow_event enough = FLOW_EVENT_INIT;
    struct flow_mutex free_one = FLOW_MUTEX_INIT;
    flow_task task, holder;
    int r;

    (void)arg;
    EXPECT_EQ(flow_spawn_now(&holder, hold_taken, &enough), 0);
    EXPECT(flow_deadline_ambient() == FLOW_FOREVER);

    /* Far away: nothing changes, and one's own deadline gives one's own error. */
    soon = flow_after(FLOW_S(300));
    EXPECT_EQ(flow_deadline_push(&outer, soon), 0);
    EXPECT(flow_deadline_ambient() == soon);
    expect_not_cancelled();
    EXPECT_EQ(flow_cancel_reason(), 0);
    EXPECT_EQ(flow_deadline_push(&inner, FLOW_FOREVER), 0);
    EXPECT(flow_deadline_ambient() == soon); /* a later one does not lengthen it */
    expect_not_cancelled();
    EXPECT_EQ(flow_deadline_pop(&outer), -EINVAL);
    EXPECT_EQ(flow_shield_end(&inner), -EINVAL);
    EXPECT_EQ(flow_deadline_pop(&inner), 0);

    /* Near: it ends a wait that would last longer, and then all of them, until it is popped. */
    soon = flow_after(FLOW_MS(1));
    EXPECT_EQ(flow_deadline_push(&inner, soon), 0);
    r = flow_event_wait(&unset, flow_after(FLOW_US(20)));
    EXPECT(r == -ETIMEDOUT || (r == -ECANCELED && flow_now() >= soon)); /* on a slow machine */
    EXPECT_EQ(flow_event_wait(&unset, FLOW_FOREVER), -ECANCELED);
    EXPECT(flow_now() >= soon);
    expect_cancelled(FLOW_CANCEL_DEADLINE);
    /* Within a shield it is not there, but for the reason. */
    EXPECT_EQ(flow_shield_begin(&shield), 0);
    EXPECT(flow_deadline_ambient() == FLOW_FOREVER);
    expect_not_cancelled();
    EXPECT_EQ(flow_cancel_reason(), FLOW_CANCEL_DEADLINE);
    EXPECT_EQ(flow_deadline_push(&limit, flow_after(FLOW_S(300))), 0);
    EXPECT_EQ(flow_shield_begin(&within), 0);
    EXPECT_EQ(flow_cancel_reason(), FLOW_CANCEL_DEADLINE);
    EXPECT_EQ(flow_shield_end(&within), 0);
    EXPECT_EQ(flow_deadline_pop(&limit), 0);
    EXPECT_EQ(flow_shield_end(&shield), 0);
    expect_cancelled(FLOW_CANCEL_DEADLINE);
    EXPECT_EQ(flow_deadline_pop(&inner), 0);
    expect_not_cancelled();
    EXPECT_EQ(flow_cancel_reason(), 0);
    EXPECT_EQ(flow_shield_begin(&shield), 0);
    EXPECT_EQ(flow_cancel_reason(), 0);
    EXPECT_EQ(flow_shield_end(&shield), 0);
    EXPECT_EQ(flow_deadline_pop(&outer), 0);
    EXPECT_EQ(flow_deadline_pop(&outer), -EINVAL);
    EXPECT(flow_deadline_ambient() == FLOW_FOREVER);

    /* Past from the beginning. */
    EXPECT_EQ(flow_deadline_push(&outer, FLOW_NOW), 0);
    expect_cancelled(FLOW_CANCEL_DEADLINE);
    EXPECT_EQ(flow_mutex_lock(&free_one, FLOW_FOREVER), 0); /* needs no waiting */
    EXPECT_EQ(flow_mutex_unlock(&free_one), 0);
    /* What is spawned does not inherit it, nor is it cancelled. */
    EXPECT_EQ(flow_spawn_now(&task, return_argument, NULL), 0);
    EXPECT_EQ(flow_join(task, &result, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_deadline_pop(&outer), 0);

    for (int way = 0; way < WAYS; way++) {
        EXPECT_EQ(flow_deadline_push(&outer, flow_after(FLOW_US(200))), 0);
        EXPECT_EQ(wait_somehow(way, way % 2 ? FLOW_FOREVER : flow_after(FLOW_S(100))), -ECANCELED);
        EXPECT_EQ(flow_deadline_pop(&outer), 0);
    }
    EXPECT_EQ(sleep_with_limit(FLOW_US(100)), -ECANCELED);
    EXPECT_EQ(flow_sleep(FLOW_US(100)), 0);
    EXPECT(flow_now() - begin < FLOW_S(50));
    EXPECT_EQ(flow_event_set(&enough), 0);
    EXPECT_EQ(flow_join(holder, NULL, GENEROUS), 0);
    return flow_ok(NULL);
}

static void test_deadlines(void **state)
{
    (void)state;
    test_in_coroutine(deadlines);
}

/* Of the kinds of tasks that leave their stack in other ways. */
static flow_result limited_yields(void *arg)
{
    struct flow_ambient limit, shield;
    int n = 0;

    (void)arg;
    EXPECT_EQ(flow_deadline_push(&limit, flow_after(FLOW_MS(1))), 0);
    while (flow_yield() == 0)
        n++;
    EXPECT_EQ(flow_yield(), -ECANCELED);
    EXPECT_EQ(flow_deadline_pop(&limit), 0);
    EXPECT_EQ(flow_yield(), 0);
    EXPECT_EQ(flow_cancel(flow_self()), 0);
    EXPECT_EQ(flow_yield(), -ECANCELED);
    EXPECT_EQ(flow_shield_begin(&shield), 0);
    for (int i = 0; i < 50; i++)
        EXPECT_EQ(flow_yield(), 0);
    EXPECT_EQ(flow_shield_end(&shield), 0);
    EXPECT_EQ(flow_yield(), -ECANCELED);
    return flow_ok_i64(n);
}

static void test_kinds_of_tasks(void **state)
{
    static const unsigned flags[] = {0, FLOW_ROAM, FLOW_FP_ENVIRONMENT,
                                     FLOW_ROAM | FLOW_FP_ENVIRONMENT};
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    flow_task task[32];

    (void)state;
    test_start();
    for (int i = 0; i < 32; i++) {
        options.flags = flags[i % 4];
        assert_int_equal(flow_spawn_with(&task[i], &options, limited_yields, NULL), 0);
    }
    for (int i = 0; i < 32; i++)
        assert_int_equal(flow_join(task[i], NULL, GENEROUS), 0);
    test_stop();
}

/* ---- where they may not be called ---- */

static int fail_if_called(void *arg)
{
    (void)arg;
    EXPECT(false && "called");
    return 0;
}

static void test_outside(void **state)
{
    struct flow_ambient a = FLOW_AMBIENT_INIT;

    (void)state;
    for (int i = 0; i < 2; i++) {
        int r = i ? -EPERM : -ESHUTDOWN;

        if (i)
            test_start();
        assert_int_equal(flow_shield_begin(&a), r);
        assert_int_equal(flow_shield_end(&a), r);
        assert_int_equal(flow_shield(fail_if_called, NULL), r);
        assert_int_equal(flow_deadline_push(&a, FLOW_NOW), r);
        assert_int_equal(flow_deadline_pop(&a), r);
        assert_int_equal(flow_cancel_reason(), r);
        assert_true(flow_deadline_ambient() == FLOW_FOREVER);
    }
    test_stop();
}

/* ---- cancellation against everything else that may end a wait ---- */

static atomic_long ends[3];

static flow_result wait_and_tell(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg;
    struct flow_ambient limit;
    int way = (int)(random % WAYS), r;
    flow_deadline deadline =
        random >> 8 & 1 ? FLOW_FOREVER : flow_after(FLOW_US(random >> 16 & 127));
    bool limited = random >> 9 & 1;

    if (limited)
        EXPECT_EQ(flow_deadline_push(&limit, flow_after(FLOW_US(random >> 24 & 127))), 0);
    r = wait_somehow(way, deadline);
    EXPECT(r == 0 || r == -ETIMEDOUT || r == -ECANCELED);
    EXPECT(r != -ETIMEDOUT || deadline != FLOW_FOREVER);
    if (r == -ECANCELED) {
        int reason = flow_cancel_reason();

        EXPECT(reason == FLOW_CANCEL_USER + 1 || (limited && reason == FLOW_CANCEL_DEADLINE));
    }
    if (limited)
        EXPECT_EQ(flow_deadline_pop(&limit), 0);
    if (r == 0 && way == 0)
        EXPECT_EQ(flow_mutex_unlock(&taken), 0);
    atomic_fetch_add(&ends[r == 0 ? 0 : r == -ETIMEDOUT ? 1 : 2], 1);
    return flow_ok(NULL);
}

static void *set_and_release(void *arg)
{
    (void)arg;
    while (!atomic_load(&go_on)) {
        EXPECT_EQ(flow_event_set(&automatic), 0);
        EXPECT_EQ(flow_semaphore_release(&empty, 1), 0);
        test_nap(FLOW_US(20));
    }
    return NULL;
}

static flow_result storm(void *arg)
{
    uint64_t seed = test_seed();
    int rounds = TEST_ROUNDS(1500, 60);
    flow_task task[64];

    (void)arg;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < 64; i++)
            EXPECT_EQ(flow_spawn(&task[i], wait_and_tell,
                                 (void *)(uintptr_t)(test_random(&seed) | (i % 2 ? 0 : 256))),
                      0);
        if (test_random(&seed) % 2)
            EXPECT_EQ(flow_sleep(FLOW_US(test_random(&seed) % 100)), 0);
        EXPECT_EQ(flow_mutex_lock(&taken, FLOW_FOREVER), 0);
        EXPECT_EQ(flow_yield(), 0);
        for (int i = 0; i < 64; i++)
            flow_cancel_with(task[i], FLOW_CANCEL_USER + 1);
        EXPECT_EQ(flow_mutex_unlock(&taken), 0);
        for (int i = 0; i < 64; i++)
            EXPECT_EQ(flow_join(task[i], NULL, GENEROUS), 0);
    }
    return flow_ok(NULL);
}

static void test_storm(void **state)
{
    pthread_t thread;

    (void)state;
    atomic_store(&go_on, false);
    test_start();
    assert_int_equal(pthread_create(&thread, NULL, set_and_release, NULL), 0);
    assert_int_equal(flow_sync_wait(storm, NULL, NULL, FLOW_FOREVER), 0);
    atomic_store(&go_on, true);
    pthread_join(thread, NULL);
    test_stop();
    assert_int_equal(taken.word, 0);
    assert_null(unset.queue[0]);
    assert_null(empty.queue[0]);
    assert_null(automatic.queue[0]);
    print_message("woken %ld, timed out %ld, cancelled %ld\n", atomic_load(&ends[0]),
                  atomic_load(&ends[1]), atomic_load(&ends[2]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reasons), TEST(test_next_lives), TEST(test_reason_of_stop),
        TEST(test_shields), TEST(test_deadlines),  TEST(test_kinds_of_tasks),
        TEST(test_outside), TEST(test_storm),
    };

    return cmocka_run_group_tests_name("cancel", tests, NULL, NULL);
}
