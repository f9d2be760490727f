/* SPDX-License-Identifier: MIT
 *
 * Waiting: yields and their fairness, sleeps, wakers.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "sync/reclaim.h"
#include "sync/syscall.h"
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <urcu/urcu-memb.h>

#include <urcu/static/urcu-memb.h> /* for the place of a thread's word */

#define GENEROUS flow_after(FLOW_S(30))

static flow_result return_argument(void *arg)
{
    return flow_ok(arg);
}

static int spawn_on(flow_task *task, int worker, flow_fn fn, void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;

    options.worker = worker;
    options.flags = FLOW_PINNED;
    return flow_spawn_with(task, &options, fn, arg);
}

/* ---- yields ---- */

enum { YIELDERS = 10, YIELDS = 5000 };

static atomic_int turns[YIELDERS], n_yielders; /* all on one worker */

static flow_result take_turns(void *arg)
{
    int me = (int)(intptr_t)arg;

    n_yielders++;
    while (n_yielders < YIELDERS) /* they do not start all at once */
        EXPECT_EQ(flow_yield(), 0);
    for (int i = 0; i < YIELDS; i++) {
        turns[me]++;
        EXPECT_EQ(flow_yield(), 0);
    }
    for (int i = 0; i < YIELDERS; i++) /* nobody is far behind */
        EXPECT(turns[i] >= YIELDS - 2);
    return flow_ok(NULL);
}

static flow_result run_yielders(void *arg)
{
    flow_task task[YIELDERS];

    for (int i = 0; i < YIELDERS; i++)
        turns[i] = 0;
    n_yielders = 0;
    for (intptr_t i = 0; i < YIELDERS; i++)
        EXPECT_EQ(flow_spawn(&task[i], take_turns, (void *)i), 0);
    (void)arg;
    for (intptr_t i = 0; i < YIELDERS; i++)
        EXPECT_EQ(flow_join(task[i], NULL, GENEROUS), 0);
    return flow_ok(NULL);
}

/* On one worker, or thieves would disturb the count. */
static void test_yields_are_fair(void **state)
{
    struct flow_options options = test_options();

    (void)state;
    options.workers = 1;
    test_start_with(&options);
    assert_int_equal(flow_sync_wait(run_yielders, NULL, NULL, GENEROUS), 0);
    test_stop();
}

static atomic_bool enough;
static atomic_ulong passes;

static flow_result yield_until_enough(void *arg)
{
    (void)arg;
    while (!atomic_load(&enough)) {
        atomic_fetch_add(&passes, 1);
        EXPECT_EQ(flow_yield(), 0);
    }
    return flow_ok(NULL);
}

static flow_result sleep_often(void *arg)
{
    (void)arg;
    for (int i = 0; i < 20; i++)
        EXPECT_EQ(flow_sleep(FLOW_US(200)), 0);
    return flow_ok(NULL);
}

static flow_result spawn_and_join_some(void *arg)
{
    flow_task task;

    for (int i = 0; i < 50; i++) {
        EXPECT_EQ(flow_spawn(&task, return_argument, arg), 0);
        EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
    }
    return flow_ok(NULL);
}

/* Every worker has a ring of yielders. Timers, foreign spawns, pinned and plain tasks, foreign
 * wakes: all have to get their turn. */
static void test_yielders_starve_nobody(void **state)
{
    flow_task yielder[3 * TEST_MOST_WORKERS], task;
    int n = 0;

    (void)state;
    test_start();
    atomic_store(&enough, false);
    for (int w = 0; w < test_workers(); w++)
        for (int i = 0; i < 3; i++)
            assert_int_equal(spawn_on(&yielder[n++], w, yield_until_enough, NULL), 0);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(flow_spawn(&task, return_argument, NULL), 0);
        assert_int_equal(flow_join(task, NULL, GENEROUS), 0);
    }
    for (int w = 0; w < test_workers(); w++) {
        assert_int_equal(spawn_on(&task, w, sleep_often, NULL), 0);
        assert_int_equal(flow_join(task, NULL, GENEROUS), 0);
        assert_int_equal(spawn_on(&task, w, spawn_and_join_some, NULL), 0);
        assert_int_equal(flow_join(task, NULL, GENEROUS), 0);
    }
    atomic_store(&enough, true);
    for (int i = 0; i < n; i++)
        assert_int_equal(flow_join(yielder[i], NULL, GENEROUS), 0);
    test_stop();
}

/* A task that spawns and joins for ever, as the LIFO slot likes it, holds up nobody either. */
static flow_result spawn_until_enough(void *arg)
{
    flow_task task;

    while (!atomic_load(&enough)) {
        EXPECT_EQ(flow_spawn(&task, return_argument, arg), 0);
        EXPECT_EQ(flow_join(task, NULL, FLOW_FOREVER), 0);
    }
    return flow_ok(NULL);
}

static void test_spawning_starves_nobody(void **state)
{
    flow_task spawner[TEST_MOST_WORKERS], task;
    int n = 0;

    (void)state;
    test_start();
    atomic_store(&enough, false);
    for (int w = 0; w < test_workers(); w++)
        assert_int_equal(spawn_on(&spawner[n++], w, spawn_until_enough, NULL), 0);
    for (int w = 0; w < test_workers(); w++) {
        assert_int_equal(spawn_on(&task, w, sleep_often, NULL), 0);
        assert_int_equal(flow_join(task, NULL, GENEROUS), 0);
        assert_int_equal(flow_spawn(&task, return_argument, NULL), 0);
        assert_int_equal(flow_join(task, NULL, GENEROUS), 0);
    }
    atomic_store(&enough, true);
    for (int i = 0; i < n; i++)
        assert_int_equal(flow_join(spawner[i], NULL, GENEROUS), 0);
    test_stop();
}

/* ---- sleeps ---- */

static flow_result sleep_900_us(void *arg)
{
    int rounds = (int)(intptr_t)arg;
    flow_deadline begin = flow_now();

    for (int i = 0; i < rounds; i++) {
        flow_deadline before = flow_now();

        EXPECT_EQ(flow_sleep(FLOW_US(900)), 0);
        EXPECT(flow_now() - before >= FLOW_US(900));
    }
    EXPECT(flow_now() - begin >= rounds * FLOW_US(900));
    return flow_ok(NULL);
}

static void test_a_thousand_short_sleeps(void **state)
{
    int rounds = TEST_ROUNDS(1000, 300);
    struct flow_stats stats;

    (void)state;
    test_start();
    assert_int_equal(flow_sync_wait(sleep_900_us, (void *)(intptr_t)rounds, NULL, GENEROUS), 0);
    stats = test_stats();
    assert_true(stats.total.timers_armed >= (uint64_t)rounds);
    assert_true(stats.total.timers_fired >= (uint64_t)rounds);
    test_stop();
}

static flow_result sleep_long(void *arg)
{
    switch ((intptr_t)arg) {
    case 0:
        return flow_err(flow_sleep(INT64_MAX));
    case 1:
        return flow_err(flow_sleep_until(INT64_MAX));
    case 2:
        return flow_err(flow_sleep_until(INT64_MAX - 1));
    default:
        return flow_err(flow_sleep(FLOW_S(3600 * 24 * 365)));
    }
}

static flow_result sleep_oddly(void *arg)
{
    static const int64_t short_spans[] = {0, -1, INT64_MIN, INT64_MIN + 1, 1, 999, 1000};
    flow_deadline deadline, now;
    flow_task task;

    (void)arg;
    for (size_t i = 0; i < sizeof short_spans / sizeof *short_spans; i++) {
        now = flow_now();
        EXPECT_EQ(flow_sleep(short_spans[i]), 0);
        EXPECT(short_spans[i] <= 0 || flow_now() - now >= short_spans[i]);
    }
    now = flow_now();
    for (flow_deadline past = -1; past <= 1; past++)
        EXPECT_EQ(flow_sleep_until(past), 0);
    EXPECT_EQ(flow_sleep_until(INT64_MIN), 0);
    EXPECT_EQ(flow_sleep_until(now), 0);
    EXPECT_EQ(flow_sleep_until(now - FLOW_S(1)), 0);
    for (int i = 0; i < 30; i++) {
        deadline = flow_after(FLOW_US(37 * i));
        EXPECT_EQ(flow_sleep_until(deadline), 0);
        EXPECT(flow_now() >= deadline);
    }

    /* Never means never; and it can be cancelled. */
    EXPECT(flow_after(INT64_MAX) == FLOW_FOREVER);
    EXPECT(flow_after(INT64_MIN) <= flow_now());
    for (int i = 0; i < 4; i++) {
        flow_result result;

        EXPECT_EQ(flow_spawn_now(&task, sleep_long, (void *)(intptr_t)i), 0);
        EXPECT_EQ(flow_join(task, NULL, flow_after(FLOW_MS(2))), -ETIMEDOUT);
        EXPECT_EQ(flow_cancel(task), 0);
        EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
        EXPECT_EQ(result.error, -ECANCELED);
    }
    return flow_ok(NULL);
}

static void test_odd_sleeps(void **state)
{
    (void)state;
    test_in_coroutine(sleep_oddly);
}

static atomic_long sleepers_woken;

static flow_result sleep_10_to_50_ms(void *arg)
{
    int64_t span = FLOW_MS(10) + (int64_t)((uint64_t)(uintptr_t)arg * 2654435761u % FLOW_MS(40));
    flow_deadline begin = flow_now();

    EXPECT_EQ(flow_sleep(span), 0);
    EXPECT(flow_now() - begin >= span);
    atomic_fetch_add(&sleepers_woken, 1);
    return flow_ok(NULL);
}

static flow_result run_sleepers(void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    long n = (long)(intptr_t)arg;
    flow_task *task = calloc((size_t)n, sizeof *task);

    options.stack_bytes = 16384;
    atomic_store(&sleepers_woken, 0);
    for (long i = 0; i < n; i++)
        EXPECT_EQ(flow_spawn_with(&task[i], &options, sleep_10_to_50_ms, (void *)(intptr_t)i), 0);
    for (long i = 0; i < n; i++)
        EXPECT_EQ(flow_join(task[i], NULL, GENEROUS), 0);
    EXPECT_EQ(atomic_load(&sleepers_woken), n);
    free(task);
    return flow_ok(NULL);
}

static void test_many_sleepers(void **state)
{
    intptr_t n = TEST_TSAN ? 5000 : TEST_ASAN ? 20000 : 100000;
    struct flow_stats stats;

    (void)state;
    test_start();
    assert_int_equal(flow_sync_wait(run_sleepers, (void *)n, NULL, FLOW_FOREVER), 0);
    assert_true(test_wait_until_empty());
    do /* a stack goes back a moment after its task has ended */
        stats = test_stats();
    while (stats.total.stacks_taken != stats.total.stacks_returned);
    assert_true(stats.total.timers_fired >= (uint64_t)n);
    test_stop();
}

/* Sleepers of equal and of falling deadlines wake in the order of the deadlines. */
static flow_deadline woken_at[200];

static flow_result sleep_to(void *arg)
{
    flow_deadline *at = arg;

    EXPECT_EQ(flow_sleep_until(*at), 0);
    woken_at[at - woken_at] = flow_now();
    return flow_ok(NULL);
}

static flow_result run_in_falling_order(void *arg)
{
    enum { N = 200 };
    flow_deadline base = flow_after(FLOW_MS(5)), due[N];
    flow_task task[N];

    (void)arg;
    for (int i = 0; i < N; i++) {
        due[i] = base + FLOW_US(50) * (N - i);
        woken_at[i] = due[i];
        EXPECT_EQ(flow_spawn_now(&task[i], sleep_to, &woken_at[i]), 0);
    }
    for (int i = 0; i < N; i++)
        EXPECT_EQ(flow_join(task[i], NULL, GENEROUS), 0);
    for (int i = 0; i < N; i++) {
        EXPECT(woken_at[i] >= due[i]);
        EXPECT(i == 0 || woken_at[i] <= woken_at[i - 1]);
    }
    return flow_ok(NULL);
}

static void test_timers_fire_in_order(void **state)
{
    (void)state;
    test_in_coroutine(run_in_falling_order);
}

/* ---- wakers ---- */

struct mail {
    flow_waker waker;
    atomic_int state; /* 0: nothing, 1: there is a waker */
    pthread_t thread;
    int how, published, woken, woken_again;
};

static int publish_mail(flow_waker waker, void *arg)
{
    struct mail *mail = arg;

    mail->waker = waker;
    atomic_store(&mail->state, 1);
    return mail->published;
}

static flow_result wait_for_mail(void *arg)
{
    return flow_ok_i64(flow_suspend(publish_mail, arg, FLOW_FOREVER));
}

static flow_result suspend_and_wake(void *arg)
{
    struct mail mail = {0};
    flow_waker stale;
    flow_result result;
    flow_task task;
    flow_deadline deadline;

    (void)arg;
    EXPECT_EQ(flow_suspend(NULL, NULL, FLOW_FOREVER), -EINVAL);

    for (int i = 0; i < 100; i++) {
        EXPECT_EQ(flow_spawn_now(&task, wait_for_mail, &mail), 0);
        EXPECT_EQ(atomic_load(&mail.state), 1);
        EXPECT_EQ(mail.waker.task, task.id);
        EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -ETIMEDOUT);
        EXPECT_EQ(flow_wake(mail.waker), 0);
        EXPECT_EQ(flow_wake(mail.waker), -ESRCH); /* one of two wins */
        EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
        EXPECT_EQ(result.i64, 0);
        EXPECT_EQ(flow_wake(mail.waker), -ESRCH); /* it is gone */
    }

    /* The block lives on in another task, which an old waker must not wake. */
    stale = mail.waker;
    for (int i = 0; i < 300; i++) {
        EXPECT_EQ(flow_spawn_now(&task, wait_for_mail, &mail), 0);
        EXPECT_EQ(flow_wake(stale), -ESRCH);
        EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -ETIMEDOUT);
        EXPECT_EQ(flow_wake((flow_waker){mail.waker.task, mail.waker.epoch + 1}), -ESRCH);
        EXPECT_EQ(flow_wake((flow_waker){mail.waker.task, mail.waker.epoch - 1}), -ESRCH);
        EXPECT_EQ(flow_wake((flow_waker){UINT64_MAX, mail.waker.epoch}), -ESRCH);
        EXPECT_EQ(flow_wake((flow_waker){0, 0}), -ESRCH);
        stale = mail.waker;
        EXPECT_EQ(flow_wake(mail.waker), 0);
        EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
    }

    /* publish says that there is no need to wait, or that it cannot be. */
    mail.published = 1;
    EXPECT_EQ(flow_suspend(publish_mail, &mail, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_wake(mail.waker), -ESRCH);
    mail.published = -EBADF;
    EXPECT_EQ(flow_suspend(publish_mail, &mail, FLOW_FOREVER), -EBADF);
    EXPECT_EQ(flow_wake(mail.waker), -ESRCH);
    mail.published = 0;

    deadline = flow_after(FLOW_MS(1));
    EXPECT_EQ(flow_suspend(publish_mail, &mail, deadline), -ETIMEDOUT);
    EXPECT(flow_now() >= deadline);
    EXPECT_EQ(flow_wake(mail.waker), -ESRCH);
    EXPECT_EQ(flow_suspend(publish_mail, &mail, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_suspend(publish_mail, &mail, flow_now() - 1), -ETIMEDOUT);

    EXPECT_EQ(flow_spawn_now(&task, wait_for_mail, &mail), 0);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_EQ(flow_wake(mail.waker), -ESRCH);
    EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
    EXPECT_EQ(result.i64, -ECANCELED);
    return flow_ok(NULL);
}

static void test_suspend_and_wake(void **state)
{
    (void)state;
    test_in_coroutine(suspend_and_wake);
}

/* Woken while publish still runs: by itself, or by a foreign thread that is waited for. */
static void *wake_from_thread(void *arg)
{
    struct mail *mail = arg;

    mail->woken = flow_wake(mail->waker);
    mail->woken_again = flow_wake(mail->waker);
    return NULL;
}

static int publish_and_be_woken(flow_waker waker, void *arg)
{
    struct mail *mail = arg;

    mail->waker = waker;
    if (mail->how) {
        EXPECT_EQ(pthread_create(&mail->thread, NULL, wake_from_thread, mail), 0);
        pthread_join(mail->thread, NULL);
    } else {
        wake_from_thread(mail);
    }
    return mail->published;
}

static flow_result be_woken_early(void *arg)
{
    static const int says[] = {0, 1, -EIO};
    int rounds = TEST_ROUNDS(100, 20);

    (void)arg;
    for (int how = 0; how < 2; how++)
        for (int i = 0; i < 3 * rounds; i++) {
            struct mail mail = {.how = how, .published = says[i % 3]};
            flow_deadline deadline = i % 2 ? FLOW_FOREVER : GENEROUS;

            EXPECT_EQ(flow_suspend(publish_and_be_woken, &mail, deadline), says[i % 3] < 0 ? -EIO : 0);
            EXPECT_EQ(mail.woken, 0);
            EXPECT_EQ(mail.woken_again, -ESRCH);
            EXPECT_EQ(flow_wake(mail.waker), -ESRCH);
            EXPECT_EQ(flow_yield(), 0); /* it is queued once, not twice */
            EXPECT_EQ(flow_sleep(FLOW_US(10)), 0);
        }
    return flow_ok(NULL);
}

static void test_woken_before_suspended(void **state)
{
    struct flow_spawn_options roaming = FLOW_SPAWN_INIT;
    flow_task task[4];

    (void)state;
    test_in_coroutine(be_woken_early);
    test_start();
    roaming.flags = FLOW_ROAM;
    for (int i = 0; i < 4; i++)
        assert_int_equal(flow_spawn_with(&task[i], &roaming, be_woken_early, NULL), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(flow_join(task[i], NULL, GENEROUS), 0);
    test_stop();
}

/* Foreign threads wake many tasks, each many times. No wake may be lost, none comes twice. */
enum { BOXES = 32, POSTMEN = 2 };

static struct mail box[BOXES];
static atomic_bool post_is_closed;
static atomic_long delivered;

static void *deliver(void *arg)
{
    int first = (int)(intptr_t)arg;

    while (!atomic_load(&post_is_closed)) {
        bool any = false;

        for (int i = first; i < BOXES; i += POSTMEN) {
            flow_waker waker;

            if (atomic_load(&box[i].state) != 1)
                continue;
            waker = box[i].waker;
            atomic_store(&box[i].state, 0);
            EXPECT_EQ(flow_wake(waker), 0);
            atomic_fetch_add(&delivered, 1);
            any = true;
        }
        if (!any)
            sched_yield();
    }
    return NULL;
}

static flow_result receive(void *arg)
{
    int rounds = TEST_ROUNDS(100000, 20000) / BOXES;
    struct mail *mail = arg;

    for (int i = 0; i < rounds; i++)
        EXPECT_EQ(flow_suspend(publish_mail, mail, i % 3 ? FLOW_FOREVER : GENEROUS), 0);
    return flow_ok_i64(rounds);
}

static void wake_much(unsigned flags)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    pthread_t postman[POSTMEN];
    flow_task task[BOXES];
    long received = 0;

    options.flags = flags;
    memset(box, 0, sizeof box);
    atomic_store(&post_is_closed, false);
    atomic_store(&delivered, 0);
    test_start();
    for (int i = 0; i < BOXES; i++)
        assert_int_equal(flow_spawn_with(&task[i], &options, receive, &box[i]), 0);
    for (intptr_t i = 0; i < POSTMEN; i++)
        assert_int_equal(pthread_create(&postman[i], NULL, deliver, (void *)i), 0);
    for (int i = 0; i < BOXES; i++) {
        flow_result result;

        assert_int_equal(flow_join(task[i], &result, GENEROUS), 0);
        received += (long)result.i64;
    }
    atomic_store(&post_is_closed, true);
    for (int i = 0; i < POSTMEN; i++)
        pthread_join(postman[i], NULL);
    assert_no_failures();
    assert_int_equal(received, atomic_load(&delivered));
    test_stop();
}

static void test_foreign_wakes(void **state)
{
    (void)state;
    wake_much(0);
}

static void test_foreign_wakes_of_roamers(void **state)
{
    (void)state;
    wake_much(FLOW_ROAM);
}

/* One task, one thread, and nothing else awake: every wake finds a worker on its way to sleep. */
static flow_result receive_alone(void *arg)
{
    for (int i = 0; i < TEST_ROUNDS(20000, 3000); i++)
        EXPECT_EQ(flow_suspend(publish_mail, arg, GENEROUS), 0);
    atomic_store(&post_is_closed, true);
    return flow_ok(NULL);
}

static void test_wakes_one_by_one(void **state)
{
    pthread_t postman;

    (void)state;
    memset(box, 0, sizeof box);
    atomic_store(&post_is_closed, false);
    test_start();
    assert_int_equal(pthread_create(&postman, NULL, deliver, (void *)(intptr_t)0), 0);
    assert_int_equal(flow_sync_wait(receive_alone, &box[0], NULL, GENEROUS), 0);
    pthread_join(postman, NULL);
    test_stop();
}

/* Tasks wake each other over workers. */
static flow_result play(void *arg)
{
    struct mail *mine = arg, *other = mine->how ? mine - 1 : mine + 1;

    for (int i = 0; i < TEST_ROUNDS(5000, 1000); i++) {
        if (mine->how == i % 2) {
            flow_waker waker;

            while (atomic_load(&other->state) != 1) {
                EXPECT_EQ(flow_yield(), 0);
                sched_yield(); /* its worker may share our CPU */
            }
            waker = other->waker;
            atomic_store(&other->state, 0);
            EXPECT_EQ(flow_wake(waker), 0);
        } else {
            EXPECT_EQ(flow_suspend(publish_mail, mine, GENEROUS), 0);
        }
    }
    return flow_ok(NULL);
}

static void test_tasks_wake_each_other(void **state)
{
    static struct mail mail[8];
    flow_task task[8];

    (void)state;
    memset(mail, 0, sizeof mail);
    test_start();
    for (int i = 0; i < 8; i++) {
        mail[i].how = i % 2;
        assert_int_equal(spawn_on(&task[i], (i + i / 4) % test_workers(), play, &mail[i]), 0);
    }
    for (int i = 0; i < 8; i++)
        assert_int_equal(flow_join(task[i], NULL, GENEROUS), 0);
    test_stop();
}

/* ---- stopping while all kinds of waiting go on ---- */

static flow_result wait_somehow(void *arg)
{
    struct mail mail = {0};
    flow_result result;
    flow_task task;
    int r;

    switch ((intptr_t)arg % 4) {
    case 0:
        r = flow_sleep(FLOW_S(1000));
        break;
    case 1:
        r = flow_suspend(publish_mail, &mail, FLOW_FOREVER);
        break;
    case 2:
        r = flow_spawn(&task, wait_somehow, NULL);
        if (r) {
            EXPECT_EQ(r, -ESHUTDOWN);
            return flow_err(r);
        }
        r = flow_join(task, &result, FLOW_FOREVER);
        if (r == 0) { /* it was first to end, and there was no need to wait */
            EXPECT_EQ(result.error, -ECANCELED);
            return result;
        }
        break;
    default:
        while ((r = flow_yield()) == 0)
            ;
    }
    EXPECT_EQ(r, -ECANCELED);
    return flow_err(r);
}

static void test_stop_ends_all_waits(void **state)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;

    (void)state;
    options.stack_bytes = 16384;
    for (int round = 0; round < 5; round++) {
        test_start();
        for (intptr_t i = 0; i < 1000; i++)
            assert_int_equal(
                flow_spawn_with(NULL, &options, wait_somehow, (void *)(i % 100 == 3 ? 3 : i % 3)), 0);
        if (round % 2)
            test_nap(FLOW_MS(2));
        test_stop();
    }
}

/* ---- RCU ---- */

static flow_result wait_in_a_section(void *unused)
{
    (void)unused;
    flow__reclaim_enter();
    EXPECT_EQ(flow_sleep(FLOW_MS(1)), -EDEADLK);
    EXPECT_EQ(flow_offload(FLOW_LANE_FILE, return_argument, NULL, FLOW_FOREVER).error, -EDEADLK);
    flow__reclaim_leave();
    EXPECT_EQ(flow_sleep(FLOW_US(1)), 0);
    EXPECT_EQ(flow_offload(FLOW_LANE_FILE, return_argument, NULL, FLOW_FOREVER).error, 0);
    return flow_ok(NULL);
}

static void test_wait_in_a_read_side_section(void **state)
{
    (void)state;
    test_in_coroutine(wait_in_a_section);
}

/* What it calls there frees nothing, for it would wait for itself. */
static void test_call_in_a_read_side_section_of_a_thread(void **state)
{
    flow_task task;

    (void)state;
    test_start();
    assert_int_equal(flow_spawn(&task, return_argument, NULL), 0);
    flow__reclaim_enter();
    for (int i = 0; i < 1000; i++)
        flow__reclaim_later(flow__sys.allocate(sizeof(struct flow__deferred)));
    assert_int_equal(flow_detach(task), 0);
    assert_true(test_stats().reclaim_pending >= 1000);
    flow__reclaim_leave();
    assert_int_equal(flow_spawn(NULL, return_argument, NULL), 0);
    assert_int_equal(test_stats().reclaim_pending, 0);
    test_stop();
}

static void wait_in_own_section(void)
{
    struct flow_event never = FLOW_EVENT_INIT;
    flow_deadline deadline = flow_after(FLOW_MS(200));
    struct flow_chan *c;
    flow_task task;
    int element;

    assert_int_equal(flow_chan_create(&c, sizeof element, 0), 0);
    assert_int_equal(flow_spawn(&task, sleep_long, NULL), 0);
    urcu_memb_read_lock();
    EXPECT_EQ(flow_event_wait(&never, deadline), -EDEADLK);
    EXPECT_EQ(flow_chan_recv(c, &element, deadline), -EDEADLK);
    EXPECT_EQ(flow_join(task, NULL, deadline), -EDEADLK);
    EXPECT_EQ(flow_event_set(&never), 0);
    EXPECT_EQ(flow_event_wait(&never, deadline), 0);
    urcu_memb_read_unlock();
    EXPECT_EQ(flow_chan_recv(c, &element, flow_after(FLOW_MS(1))), -ETIMEDOUT);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
    EXPECT_EQ(flow_chan_destroy(c, NULL, NULL), 0);
}

static void test_thread_waits_in_a_read_side_section(void **state)
{
    (void)state;
    test_start();
    wait_in_own_section();
    test_stop();
    test_start_driven();
    wait_in_own_section();
    test_stop();
}

/* More names than are freed at a time: whoever ends a grace period must not be in a section. */
static void test_thread_joins_in_a_read_side_section(void **state)
{
    enum { N = 600 };
    static flow_task task[N];
    struct flow_spawn_options options = FLOW_SPAWN_INIT;

    (void)state;
    options.name = "named";
    test_start();
    for (int i = 0; i < N; i++)
        assert_int_equal(flow_spawn_with(&task[i], &options, return_argument, NULL), 0);
    assert_true(test_wait_until_empty());
    urcu_memb_read_lock();
    for (int i = 0; i < N; i++)
        EXPECT_EQ(flow_join(task[i], NULL, FLOW_NOW), 0);
    urcu_memb_read_unlock();
    EXPECT_EQ(flow_cancel(task[0]), -ESRCH);
    EXPECT(test_stats().reclaim_pending < N);
    test_stop();
}

/* ---- threads that the program has registered with liburcu ---- */

static bool is_registered(void)
{
    return URCU_TLS(urcu_memb_reader).registered;
}

static void *run_registered(void *workers)
{
    struct flow_options options = test_options();

    options.workers = (int)(intptr_t)workers;
    urcu_memb_register_thread();
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(flow_run(&options, sleep_10_to_50_ms, NULL, NULL), 0);
    EXPECT(is_registered());
    urcu_memb_unregister_thread();
    return NULL;
}

/* From then on its registration is the library's. */
static void *unregister_between_calls(void *unused)
{
    (void)unused;
    urcu_memb_register_thread();
    EXPECT_EQ(flow_wake((flow_waker){0}), -ESRCH);
    urcu_memb_unregister_thread();
    EXPECT_EQ(flow_wake((flow_waker){0}), -ESRCH);
    EXPECT(is_registered());
    return NULL;
}

static void in_thread(void *(*fn)(void *), intptr_t arg)
{
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, fn, (void *)arg), 0);
    pthread_join(thread, NULL);
}

static void test_registered_by_the_program(void **state)
{
    (void)state;
    in_thread(run_registered, test_workers());
    in_thread(run_registered, 0);
    test_start();
    in_thread(unregister_between_calls, 0);
    test_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_yields_are_fair),
        TEST(test_yielders_starve_nobody),
        TEST(test_spawning_starves_nobody),
        TEST(test_a_thousand_short_sleeps),
        TEST(test_odd_sleeps),
        TEST(test_many_sleepers),
        TEST(test_timers_fire_in_order),
        TEST(test_suspend_and_wake),
        TEST(test_woken_before_suspended),
        TEST(test_foreign_wakes),
        TEST(test_foreign_wakes_of_roamers),
        TEST(test_wakes_one_by_one),
        TEST(test_tasks_wake_each_other),
        TEST(test_stop_ends_all_waits),
        TEST(test_wait_in_a_read_side_section),
        TEST(test_call_in_a_read_side_section_of_a_thread),
        TEST(test_thread_waits_in_a_read_side_section),
        TEST(test_thread_joins_in_a_read_side_section),
        TEST(test_registered_by_the_program),
    };

    return cmocka_run_group_tests_name("wait", tests, NULL, NULL);
}
