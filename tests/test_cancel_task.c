/* SPDX-License-Identifier: MIT
 *
 * One task is cancelled: before its start, while it waits, after its end, and while it is woken or its
 * deadline comes; never the next one in its block. Reasons, shields and deadlines of a whole stretch
 * of code are test_cancel's. Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/tasks.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_cancel),
        TEST(test_cancel_from_thread),
        TEST(test_cancel_hits_no_other),
        TEST(test_one_outcome),
    };

    return cmocka_run_group_tests_name("cancel_task", tests, NULL, NULL);
}
