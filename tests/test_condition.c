/* SPDX-License-Identifier: MIT
 *
 * Conditions and once; and a storm of cancellations over everything that coroutines wait on.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GENEROUS flow_after(FLOW_S(60))

static atomic_ulong seed;

static uint64_t new_seed(void)
{
    uint64_t s = atomic_fetch_add(&seed, 0x1234567);

    return test_random(&s);
}

/* ---- conditions: who goes on, and in which order ---- */

static struct flow_mutex mutex;
static struct flow_condition condition;
static atomic_int order[200], n_order;

static flow_result wait_in_line(void *arg)
{
    int r;

    EXPECT_EQ(flow_mutex_lock(&mutex, FLOW_FOREVER), 0);
    r = flow_condition_wait(&condition, &mutex, FLOW_FOREVER);
    order[n_order++] = (int)(intptr_t)arg;
    EXPECT_EQ(flow_yield(), r); /* holds it for a while, cancelled or not */
    EXPECT_EQ(flow_mutex_unlock(&mutex), 0);
    return flow_err(r);
}

static void let_run(void)
{
    for (int i = 0; i < 200; i++)
        EXPECT_EQ(flow_yield(), 0);
}

static flow_result signal_in_order(void *arg)
{
    enum { N = 200 }; /* more than are signalled in one go */
    bool with_mutex = arg != NULL;
    flow_result result;
    flow_task task[N];

    n_order = 0;
    for (intptr_t i = 0; i < N; i++)
        EXPECT_EQ(flow_spawn_now(&task[i], wait_in_line, (void *)i), 0);
    EXPECT_EQ(n_order, 0);
    EXPECT_EQ(mutex.word, 0);
    for (int i = 0; i < 5; i++) {
        if (with_mutex)
            EXPECT_EQ(flow_mutex_lock(&mutex, FLOW_FOREVER), 0);
        EXPECT_EQ(flow_condition_signal(&condition), 0);
        if (with_mutex)
            EXPECT_EQ(flow_mutex_unlock(&mutex), 0);
        let_run();
        EXPECT_EQ(n_order, i + 1); /* exactly one */
    }
    EXPECT_EQ(flow_cancel(task[7]), 0);
    let_run();
    EXPECT_EQ(n_order, 6);
    EXPECT_EQ(order[5], 7);
    if (with_mutex)
        EXPECT_EQ(flow_mutex_lock(&mutex, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_condition_broadcast(&condition), 0);
    EXPECT_EQ(condition.n, 0);
    if (with_mutex) {
        let_run();
        EXPECT_EQ(n_order, 6);
        EXPECT_EQ(flow_mutex_unlock(&mutex), 0);
    }
    for (int i = 0; i < N; i++) {
        EXPECT_EQ(flow_join(task[i], &result, GENEROUS), 0);
        EXPECT_EQ(result.error, i == 7 ? -ECANCELED : -EINVAL); /* flow_err(0) */
    }
    for (int i = 0, next = 0; i < N; i++, next++) {
        if (i == 5) {
            next--;
            continue;
        }
        next += next == 7;
        EXPECT_EQ(order[i], next);
    }
    EXPECT_EQ(mutex.word, 0);
    EXPECT(!condition.queue[0] && !mutex.queue[0]);
    return flow_ok(NULL);
}

/* One that was signalled, and waits for the mutex, has had the signal, whatever comes then. */
static flow_result wait_and_tell(void *arg)
{
    int r;

    EXPECT_EQ(flow_mutex_lock(&mutex, FLOW_FOREVER), 0);
    r = flow_condition_wait(&condition, &mutex, arg ? *(flow_deadline *)arg : FLOW_FOREVER);
    EXPECT_EQ(flow_mutex_unlock(&mutex), 0);
    return flow_ok_i64(r);
}

static flow_result signalled_then_ended(void *arg)
{
    flow_deadline soon;
    flow_result result;
    flow_task task;

    (void)arg;
    for (int by_time = 0; by_time < 2; by_time++) {
        soon = flow_after(FLOW_MS(2));
        EXPECT_EQ(flow_spawn_now(&task, wait_and_tell, by_time ? &soon : NULL), 0);
        EXPECT_EQ(flow_mutex_lock(&mutex, FLOW_FOREVER), 0);
        EXPECT_EQ(flow_condition_signal(&condition), 0);
        if (by_time)
            EXPECT_EQ(flow_sleep(FLOW_MS(4)), 0);
        else
            EXPECT_EQ(flow_cancel(task), 0);
        let_run();
        EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -ETIMEDOUT); /* it must have the mutex first */
        EXPECT_EQ(flow_mutex_unlock(&mutex), 0);
        EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
        EXPECT(result.i64 == 0 || (by_time && flow_now() < soon));
    }
    /* And one that was not, has not; it comes back with the mutex all the same. */
    soon = flow_after(FLOW_MS(1));
    EXPECT_EQ(flow_spawn_now(&task, wait_and_tell, &soon), 0);
    EXPECT_EQ(flow_mutex_lock(&mutex, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_sleep(FLOW_MS(2)), 0);
    EXPECT_EQ(flow_condition_signal(&condition), 0); /* nobody's */
    EXPECT_EQ(flow_mutex_unlock(&mutex), 0);
    EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
    EXPECT_EQ(result.i64, -ETIMEDOUT);

    EXPECT_EQ(flow_condition_wait(&condition, &mutex, FLOW_FOREVER), -EPERM);
    EXPECT_EQ(flow_mutex_lock(&mutex, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_condition_wait(&condition, &mutex, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_mutex_unlock(&mutex), 0);
    return flow_ok(NULL);
}

static flow_result all_of_order(void *arg)
{
    signal_in_order(NULL);
    signal_in_order(&mutex);
    return signalled_then_ended(arg);
}

static void test_order(void **state)
{
    (void)state;
    assert_int_equal(flow_condition_signal(&condition), 0);
    assert_int_equal(flow_condition_broadcast(&condition), 0);
    test_in_coroutine(all_of_order);
}

/* ---- without a runtime ---- */

static atomic_int waiting;

static void *wait_until_stopped(void *arg)
{
    (void)arg;
    EXPECT_EQ(flow_mutex_lock(&mutex, FLOW_FOREVER), 0);
    atomic_store(&waiting, 1);
    EXPECT_EQ(flow_condition_wait(&condition, &mutex, FLOW_FOREVER), -ESHUTDOWN);
    EXPECT_EQ(flow_mutex_unlock(&mutex), -EPERM);
    return NULL;
}

static void wait_without_runtime(void)
{
    assert_int_equal(flow_condition_wait(&condition, &mutex, FLOW_FOREVER), -EPERM);
    assert_int_equal(flow_mutex_lock(&mutex, FLOW_FOREVER), 0);
    assert_int_equal(flow_condition_wait(&condition, &mutex, FLOW_FOREVER), -ESHUTDOWN);
    assert_int_equal(flow_mutex_unlock(&mutex), -EPERM);
}

/* -ESHUTDOWN: the caller has lost the mutex, whether the wait has begun before the stop or not. */
static void test_shutdown(void **state)
{
    pthread_t thread;

    (void)state;
    wait_without_runtime();
    test_start();
    atomic_store(&waiting, 0);
    assert_int_equal(pthread_create(&thread, NULL, wait_until_stopped, NULL), 0);
    while (!atomic_load(&waiting))
        sched_yield();
    assert_int_equal(flow_mutex_lock(&mutex, FLOW_FOREVER), 0); /* so it waits */
    assert_int_equal(flow_stop(flow_after(FLOW_MS(20))), 0);
    pthread_join(thread, NULL);
    assert_int_equal(flow_mutex_unlock(&mutex), 0);
    wait_without_runtime();
    assert_int_equal(mutex.word, 0);
}

/* ---- a broadcast is one step ---- */

static atomic_int early;

static flow_result see_all_signalled(void *arg)
{
    EXPECT_EQ(flow_mutex_lock(&mutex, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_condition_wait(&condition, &mutex, FLOW_FOREVER), 0);
    if (condition.n)
        atomic_fetch_add(&early, 1);
    EXPECT_EQ(flow_mutex_unlock(&mutex), 0);
    return flow_ok(arg);
}

/* Who goes on may free the condition, if all who wait have had the signal. */
static void test_broadcast_is_one_step(void **state)
{
    enum { N = 2000 };
    static flow_task task[N];
    uint32_t n;

    (void)state;
    test_start();
    for (int round = 0; round < TEST_ROUNDS(20, 3); round++) {
        for (int i = 0; i < N; i++)
            assert_int_equal(flow_spawn(&task[i], see_all_signalled, NULL), 0);
        do {
            assert_int_equal(flow_mutex_lock(&mutex, FLOW_FOREVER), 0);
            n = condition.n;
            assert_int_equal(flow_mutex_unlock(&mutex), 0);
        } while (n < N);
        assert_int_equal(flow_condition_broadcast(&condition), 0);
        for (int i = 0; i < N; i++)
            assert_int_equal(flow_join(task[i], NULL, GENEROUS), 0);
    }
    test_stop();
    assert_int_equal(atomic_load(&early), 0);
}

/* ---- a bounded buffer, with producers, consumers, cancellations and threads ---- */

enum { ROOM = 4, WORKERS_OF_A_KIND = 12 };

static struct {
    struct flow_mutex mutex;
    struct flow_condition not_empty, not_full;
    int n;
    long put, got;
    bool closed;
} buffer;

static flow_deadline some_deadline(uint64_t *random)
{
    uint64_t r = test_random(random);

    return r % 3 ? FLOW_FOREVER : flow_after(FLOW_US((int64_t)(r >> 32) % 200));
}

static flow_result produce(void *arg)
{
    uint64_t random = new_seed();
    int r = 0;

    for (long i = 0; i < (long)(intptr_t)arg && r != -ECANCELED; i++) {
        EXPECT_EQ(flow_mutex_lock(&buffer.mutex, FLOW_FOREVER), 0);
        r = 0;
        while (buffer.n == ROOM && r != -ECANCELED)
            r = flow_condition_wait(&buffer.not_full, &buffer.mutex, some_deadline(&random));
        if (buffer.n < ROOM) {
            buffer.n++;
            buffer.put++;
        }
        EXPECT(buffer.n >= 0 && buffer.n <= ROOM);
        EXPECT_EQ(flow_condition_signal(&buffer.not_empty), 0);
        EXPECT_EQ(flow_mutex_unlock(&buffer.mutex), 0);
    }
    return flow_ok(NULL);
}

static flow_result consume(void *arg)
{
    uint64_t random = new_seed();
    bool closed = false;

    (void)arg;
    while (!closed) {
        int r = flow_mutex_lock(&buffer.mutex, FLOW_FOREVER);

        if (r)
            return flow_err(r);
        while (buffer.n == 0 && !buffer.closed && r != -ECANCELED)
            r = flow_condition_wait(&buffer.not_empty, &buffer.mutex, some_deadline(&random));
        if (buffer.n > 0) {
            buffer.n--;
            buffer.got++;
        } else {
            closed = buffer.closed;
        }
        EXPECT_EQ(flow_mutex_unlock(&buffer.mutex), 0);
        EXPECT_EQ(flow_condition_signal(&buffer.not_full), 0); /* without the mutex */
        if (r == -ECANCELED)
            return flow_err(r);
    }
    return flow_ok(NULL);
}

static void *produce_in_thread(void *arg)
{
    return produce(arg).ptr;
}

static void *consume_in_thread(void *arg)
{
    return consume(arg).ptr;
}

static flow_result trade(void *arg)
{
    flow_task producer[WORKERS_OF_A_KIND], consumer[WORKERS_OF_A_KIND];
    uint64_t random = new_seed();

    for (int i = 0; i < WORKERS_OF_A_KIND; i++) {
        EXPECT_EQ(flow_spawn(&consumer[i], consume, NULL), 0);
        EXPECT_EQ(flow_spawn(&producer[i], produce, arg), 0);
    }
    for (long i = 0; i < (long)(intptr_t)arg / 4; i++) {
        int k = (int)(test_random(&random) % WORKERS_OF_A_KIND);

        flow_cancel(consumer[k]);
        EXPECT_EQ(flow_join(consumer[k], NULL, GENEROUS), 0);
        EXPECT_EQ(flow_spawn(&consumer[k], consume, NULL), 0);
        if (i % 8 == 0)
            EXPECT_EQ(flow_sleep(FLOW_US(50)), 0);
    }
    for (int i = 0; i < WORKERS_OF_A_KIND; i++)
        EXPECT_EQ(flow_join(producer[i], NULL, GENEROUS), 0);
    return flow_ok(memcpy(malloc(sizeof consumer), consumer, sizeof consumer));
}

static void test_buffer(void **state)
{
    intptr_t rounds = TEST_ROUNDS(1000, 150);
    pthread_t producer, consumer;
    flow_result result;
    flow_task *left;

    (void)state;
    atomic_store(&seed, test_seed());
    memset(&buffer, 0, sizeof buffer);
    test_start();
    assert_int_equal(pthread_create(&consumer, NULL, consume_in_thread, NULL), 0);
    assert_int_equal(pthread_create(&producer, NULL, produce_in_thread, (void *)rounds), 0);
    assert_int_equal(flow_sync_wait(trade, (void *)rounds, &result, FLOW_FOREVER), 0);
    left = result.ptr;
    pthread_join(producer, NULL);
    assert_int_equal(flow_mutex_lock(&buffer.mutex, FLOW_FOREVER), 0);
    buffer.closed = true;
    assert_int_equal(flow_condition_broadcast(&buffer.not_empty), 0);
    assert_int_equal(flow_mutex_unlock(&buffer.mutex), 0);
    pthread_join(consumer, NULL);
    for (int i = 0; i < WORKERS_OF_A_KIND; i++)
        assert_int_equal(flow_join(left[i], NULL, GENEROUS), 0);
    free(left);
    test_stop();
    assert_int_equal(buffer.put, (WORKERS_OF_A_KIND + 1) * rounds);
    assert_int_equal(buffer.put, buffer.got + buffer.n);
    assert_int_equal(buffer.mutex.word, 0);
}

/* ---- once ---- */

static struct flow_once once;
static int calls, failures_left;

static int initialise(void *arg)
{
    calls++;
    EXPECT_EQ(flow_once_call(&once, initialise, arg, FLOW_FOREVER), -EDEADLK);
    flow_sleep(FLOW_US(200));
    return failures_left-- > 0 ? -EIO : 0;
}

static atomic_int once_ok, once_failed;

static flow_result use_once(void *arg)
{
    int r = flow_once_call(&once, initialise, arg, FLOW_FOREVER);

    EXPECT(r == 0 || r == -EIO);
    atomic_fetch_add(r ? &once_failed : &once_ok, 1);
    if (r == 0)
        EXPECT_EQ(calls, 4); /* what it did is seen */
    return flow_ok(NULL);
}

static flow_result use_once_by_many(void *arg)
{
    struct flow_scope scope;

    (void)arg;
    EXPECT_EQ(flow_once_call(&once, initialise, NULL, FLOW_NOW), -EIO);
    EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
    for (int i = 0; i < 50; i++)
        EXPECT_EQ(flow_scope_spawn(&scope, NULL, use_once, NULL), 0);
    EXPECT_EQ(flow_scope_close(&scope), 0);
    return flow_ok(NULL);
}

static void test_once(void **state)
{
    (void)state;
    failures_left = 3;
    test_in_coroutine(use_once_by_many);
    assert_int_equal(calls, 4);
    assert_int_equal(atomic_load(&once_failed), 2);
    assert_int_equal(atomic_load(&once_ok), 48);
    assert_int_equal(flow_once_call(&once, initialise, NULL, FLOW_NOW), 0);
}

/* ---- the storm: many, blocked in everything there is, are cancelled at one stroke ---- */

static struct {
    struct flow_mutex mutex;
    struct flow_rwlock rwlock;
    struct flow_semaphore semaphore;
    struct flow_event event, automatic;
    struct flow_waitgroup group;
    struct flow_barrier barrier;
    struct flow_mutex condition_mutex;
    struct flow_condition condition;
    struct flow_once once;
} all;

static atomic_long blocked;

static int lock_and_wait(void)
{
    int r = flow_mutex_lock(&all.condition_mutex, FLOW_FOREVER);

    if (r)
        return r;
    r = flow_condition_wait(&all.condition, &all.condition_mutex, FLOW_FOREVER);
    EXPECT_EQ(flow_mutex_unlock(&all.condition_mutex), 0);
    return r;
}

static int never_called(void *arg)
{
    (void)arg;
    EXPECT(false && "called");
    return 0;
}

static int never_wake(flow_waker waker, void *arg)
{
    (void)waker, (void)arg;
    return 0;
}

static int block(int way)
{
    switch (way) {
    case 0:
        return flow_mutex_lock(&all.mutex, FLOW_FOREVER);
    case 1:
        return flow_rwlock_read(&all.rwlock, FLOW_FOREVER);
    case 2:
        return flow_rwlock_write(&all.rwlock, FLOW_FOREVER);
    case 3:
        return flow_semaphore_acquire(&all.semaphore, 1, FLOW_FOREVER);
    case 4:
        return flow_event_wait(&all.event, FLOW_FOREVER);
    case 5:
        return flow_event_wait(&all.automatic, FLOW_FOREVER);
    case 6:
        return flow_waitgroup_wait(&all.group, FLOW_FOREVER);
    case 7:
        return flow_barrier_wait(&all.barrier, FLOW_FOREVER);
    case 8:
        return flow_once_call(&all.once, never_called, NULL, FLOW_FOREVER);
    case 9:
        return lock_and_wait();
    case 10:
        return flow_sleep_until(FLOW_FOREVER);
    default:
        return flow_suspend(never_wake, NULL, FLOW_FOREVER);
    }
}

static flow_result block_for_ever(void *arg)
{
    int r;

    atomic_fetch_add_explicit(&blocked, 1, memory_order_relaxed);
    r = block((int)(intptr_t)arg);
    EXPECT_EQ(r, -ECANCELED);
    return flow_err(r);
}

static flow_result hold_all(void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    long n = (long)(intptr_t)arg;
    struct flow_scope_status status;
    struct flow_scope scope;
    flow_deadline begin;

    all.barrier = (struct flow_barrier)FLOW_BARRIER_INIT(UINT32_MAX);
    all.automatic = (struct flow_event)FLOW_EVENT_AUTO_INIT;
    EXPECT_EQ(flow_mutex_lock(&all.mutex, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_mutex_lock(&all.once.mutex, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_rwlock_write(&all.rwlock, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_waitgroup_add(&all.group, 1), 0);
    options.stack_bytes = 16384;
    EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
    for (long i = 0; i < n; i++)
        EXPECT_EQ(flow_scope_spawn_with(&scope, NULL, &options, block_for_ever,
                                        (void *)(intptr_t)(i % 12)),
                  0);
    while (atomic_load(&blocked) < n)
        EXPECT_EQ(flow_sleep(FLOW_MS(1)), 0);
    EXPECT_EQ(flow_scope_wait(&scope, FLOW_NOW), -ETIMEDOUT);
    begin = flow_now();
    EXPECT_EQ(flow_scope_cancel(&scope), 0);
    EXPECT_EQ(flow_scope_close(&scope), -ECANCELED);
    begin = flow_now() - begin;
    flow_scope_status(&scope, &status);
    EXPECT_EQ(status.finished, n);
    EXPECT_EQ(status.cancelled, n);
    EXPECT_EQ(flow_mutex_unlock(&all.mutex), 0);
    EXPECT_EQ(flow_mutex_unlock(&all.once.mutex), 0);
    EXPECT_EQ(flow_rwlock_unlock(&all.rwlock), 0);
    EXPECT_EQ(flow_waitgroup_done(&all.group), 0);
    return flow_ok_i64(begin);
}

static void test_storm(void **state)
{
    intptr_t n = test_storm_size(TEST_TSAN || TEST_EMULATED ? 6000 : TEST_ASAN ? 30000 : 120000);
    flow_result result;

    (void)state;
    atomic_store(&blocked, 0);
    test_start();
    assert_int_equal(flow_sync_wait(hold_all, (void *)n, &result, FLOW_FOREVER), 0);
    assert_true(test_wait_until_empty());
    test_stop(); /* no stack is missing */
    print_message("%ld cancelled, all back after %.2f s\n", (long)n, (double)result.i64 / 1e9);
    assert_int_equal(all.mutex.word, 0);
    assert_int_equal(all.rwlock.word, 0);
    assert_int_equal(all.semaphore.word, 0);
    assert_int_equal(all.event.word, 0);
    assert_int_equal(all.automatic.word, 4);
    assert_int_equal(all.group.word, 0);
    assert_int_equal(all.barrier.arrived, 0);
    assert_int_equal(all.condition.n, 0);
    assert_int_equal(all.condition_mutex.word, 0);
    assert_int_equal(all.once.mutex.word, 0);
    assert_null(all.mutex.queue[0]);
    assert_null(all.rwlock.queues[0]);
    assert_null(all.rwlock.queues[2]);
    assert_null(all.semaphore.queue[0]);
    assert_null(all.event.queue[0]);
    assert_null(all.automatic.queue[0]);
    assert_null(all.group.queue[0]);
    assert_null(all.barrier.queue[0]);
    assert_null(all.condition.queue[0]);
    assert_null(all.condition_mutex.queue[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_order),
        TEST(test_shutdown),
        TEST(test_broadcast_is_one_step),
        TEST(test_buffer),
        TEST(test_once),
        TEST(test_storm),
    };

    return cmocka_run_group_tests_name("condition", tests, NULL, NULL);
}
