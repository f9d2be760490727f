/* SPDX-License-Identifier: MIT
 *
 * Handles: who may join or detach a task and when, joins with deadlines, and handles that are stale, forged
 * or nobody's. Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/tasks.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <urcu/urcu-memb.h>

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

static flow_result yield_once(void *ran)
{
    atomic_fetch_add((atomic_int *)ran, 1);
    EXPECT_EQ(flow_yield(), 0);
    return flow_ok(NULL);
}

/* A joiner runs what nobody has started itself; not if it may not wait. Other workers may have run it by then. */
static flow_result join_where_nobody_may_wait(void *arg)
{
    struct flow_ambient limit = FLOW_AMBIENT_INIT;
    atomic_int ran = 0;
    flow_task task;
    int r;

    (void)arg;
    EXPECT_EQ(flow_deadline_push(&limit, FLOW_NOW), 0);
    EXPECT_EQ(flow_spawn(&task, yield_once, &ran), 0);
    r = flow_join(task, NULL, FLOW_FOREVER);
    EXPECT(r == -ECANCELED || (r == 0 && test_workers() > 1));
    EXPECT(test_workers() > 1 || ran == 0);
    EXPECT_EQ(flow_deadline_pop(&limit), 0);
    if (r)
        EXPECT_JOIN(task, NULL);
    EXPECT_EQ(ran, 1);
#ifndef FLOW_DEBUG /* which aborts */
    EXPECT_EQ(flow_spawn(&task, yield_once, &ran), 0);
    urcu_memb_read_lock();
    r = flow_join(task, NULL, FLOW_FOREVER);
    urcu_memb_read_unlock();
    EXPECT(r == -EDEADLK || (r == 0 && test_workers() > 1));
    if (r)
        EXPECT_JOIN(task, NULL);
#endif
    return flow_ok(NULL);
}

static void test_joins_that_may_not_wait(void **state)
{
    (void)state;
    test_in_coroutine(join_where_nobody_may_wait);
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
    int r;

    (void)arg;
    EXPECT_EQ(flow_spawn(&task, return_after_yields, (void *)10), 0);
    while ((r = flow_join(task, &result, FLOW_NOW)) == -ETIMEDOUT)
        flow_yield();
    EXPECT_EQ(r, 0);
    EXPECT_EQ(result.i64, 10);

    EXPECT_EQ(flow_spawn(&task, sleep_for_ever, NULL), 0);
    EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -ETIMEDOUT);
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
    enum { N = 3000 };
    static flow_task task[N];
    uint64_t random = test_seed();
    flow_result result;

    (void)state;
    test_start();
    assert_int_equal(flow_spawn(&task[0], forge, &random), 0);
    assert_int_equal(flow_join(task[0], &result, GENEROUS), 0);
    for (uint64_t slot = 0; slot < 300; slot++)
        expect_forged(slot);
    for (int i = 0; i < 20000; i++)
        expect_forged(test_random(&random) | UINT64_C(1) << 63);
    assert_no_failures();
    for (intptr_t i = 0; i < N; i++) /* nothing was harmed */
        assert_int_equal(flow_spawn(&task[i], return_after_yields, (void *)(i % 7)), 0);
    for (intptr_t i = N; i-- > 0;) {
        assert_int_equal(flow_join(task[i], &result, GENEROUS), 0);
        assert_true(result.error == 0 && result.i64 == i % 7);
    }
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

/* ---- handles and wakers of an earlier runtime ---- */

static void expect_gone(flow_task task, flow_waker waker)
{
    EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -ESRCH);
    EXPECT_EQ(flow_cancel(task), -ESRCH);
    EXPECT_EQ(flow_detach(task), -ESRCH);
    EXPECT_EQ(flow_wake(waker), -ESRCH);
}

/* The same calls in each, so the same blocks are used. */
static void test_after_another_start(void **state)
{
    enum { STARTS = 5, N = 100 };
    static flow_task task[STARTS][N];
    static struct kept kept[STARTS][N];

    (void)state;
    for (int s = 0; s < STARTS; s++) {
        test_start();
        for (int i = 0; i < N; i++)
            assert_int_equal(flow_spawn(&task[s][i], suspend_and_keep, &kept[s][i]), 0);
        for (int i = 0; i < N; i++)
            while (!atomic_load(&kept[s][i].is_there))
                test_nap(FLOW_US(100));
        for (int i = 0; i < s * N; i++)
            expect_gone(task[i / N][i % N], kept[i / N][i % N].waker);
        for (int i = 0; i < N; i++) {
            flow_result result;

            EXPECT_EQ(flow_wake(kept[s][i].waker), 0);
            EXPECT_JOIN(task[s][i], &result);
            EXPECT_EQ(result.error, 0);
        }
        test_stop();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_detach),
        TEST(test_joins_that_may_not_wait),
        TEST(test_misuse),
        TEST(test_join_in_time),
        TEST(test_forged_handles),
        TEST(test_handles_against_model),
        TEST(test_join_against_ends),
        TEST(test_after_another_start),
    };

    return cmocka_run_group_tests_name("handle", tests, NULL, NULL);
}
