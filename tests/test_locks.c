/* SPDX-License-Identifier: MIT
 *
 * Semaphores, events, rwlocks, wait groups, barriers: misuse, torture with cancellations and deadlines,
 * foreign threads, and memory that goes at once.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GENEROUS flow_after(FLOW_S(60))

static atomic_ulong seed;

static uint64_t new_seed(void)
{
    uint64_t s = atomic_fetch_add(&seed, 0x1234567);

    return test_random(&s);
}

static void run_in_thread(void *(*fn)(void *), void *arg)
{
    pthread_t thread;

    EXPECT_EQ(pthread_create(&thread, NULL, fn, arg), 0);
    EXPECT_EQ(pthread_join(thread, NULL), 0);
}

/* ---- semaphore ---- */

static struct flow_semaphore semaphore;

static void test_semaphore_misuse(void **state)
{
    struct flow_semaphore s = FLOW_SEMAPHORE_INIT(UINT32_MAX - 1);

    (void)state;
    assert_int_equal(flow_semaphore_value(&s), UINT32_MAX - 1);
    assert_int_equal(flow_semaphore_release(&s, 2), -EOVERFLOW);
    assert_int_equal(flow_semaphore_release(&s, UINT32_MAX), -EOVERFLOW);
    assert_int_equal(flow_semaphore_release(&s, 1), 0);
    assert_int_equal(flow_semaphore_release(&s, 1), -EOVERFLOW);
    assert_int_equal(flow_semaphore_acquire(&s, 0, FLOW_FOREVER), -EINVAL);
    assert_int_equal(flow_semaphore_acquire(&s, UINT32_MAX, FLOW_FOREVER), 0);
    assert_int_equal(flow_semaphore_value(&s), 0);
    assert_int_equal(flow_semaphore_acquire(&s, 1, FLOW_FOREVER), -ESHUTDOWN);
    assert_int_equal(flow_semaphore_release(&s, 0), 0);
    assert_int_equal(flow_semaphore_value(&s), 0);
    test_start();
    assert_int_equal(flow_semaphore_acquire(&s, 1, FLOW_NOW), -ETIMEDOUT);
    assert_int_equal(flow_semaphore_acquire(&s, 1, flow_after(FLOW_MS(1))), -ETIMEDOUT);
    test_stop();
    assert_int_equal(s.word, 0);
}

static flow_result take_3e9(void *arg)
{
    EXPECT_EQ(flow_semaphore_acquire(arg, 3000000000u, flow_after(FLOW_S(5))), 0);
    return flow_ok(NULL);
}

/* What goes to those who wait is not there, and is not too much. */
static flow_result release_for_waiters(void *arg)
{
    struct flow_semaphore s = FLOW_SEMAPHORE_INIT(2000000000u);
    flow_task task[2];

    (void)arg;
    for (int i = 0; i < 2; i++)
        EXPECT_EQ(flow_spawn_now(&task[i], take_3e9, &s), 0);
    EXPECT_EQ(flow_semaphore_release(&s, 3000000000u), 0); /* 2e9 are left */
    EXPECT_EQ(flow_join(task[0], NULL, GENEROUS), 0);
    EXPECT_EQ(flow_semaphore_value(&s), 2000000000u);
    EXPECT_EQ(flow_semaphore_release(&s, UINT32_MAX), 0);
    EXPECT_EQ(flow_join(task[1], NULL, GENEROUS), 0);
    EXPECT_EQ(flow_semaphore_value(&s), UINT32_MAX - 1000000000u);
    EXPECT_EQ(flow_semaphore_release(&s, 1000000001u), -EOVERFLOW);
    EXPECT_EQ(flow_semaphore_release(&s, 1000000000u), 0);
    return flow_ok(NULL);
}

static void test_semaphore_of_waiters(void **state)
{
    (void)state;
    test_in_coroutine(release_for_waiters);
}

/* ---- semaphore under torture: units are neither lost nor made ---- */

enum { UNITS = 5, USERS = 40 };

static atomic_int in_use;
static atomic_long taken, cancelled, timed_out;

static flow_result use_units(void *arg)
{
    long rounds = (long)(intptr_t)arg;
    uint64_t random = new_seed();

    while (rounds-- > 0) {
        uint64_t r = test_random(&random);
        uint32_t n = 1 + (uint32_t)(r >> 32) % UNITS;
        flow_deadline deadline =
            r % 4 ? FLOW_FOREVER : flow_after(FLOW_US((int64_t)(r >> 40) % 200));
        int how = flow_semaphore_acquire(&semaphore, n, deadline);

        if (how == 0) {
            EXPECT(atomic_fetch_add(&in_use, (int)n) + (int)n <= UNITS);
            if (r % 5 == 0)
                flow_yield();
            atomic_fetch_sub(&in_use, (int)n);
            atomic_fetch_add(&taken, n);
            EXPECT_EQ(flow_semaphore_release(&semaphore, n), 0);
        } else if (how == -ECANCELED) {
            atomic_fetch_add(&cancelled, 1);
            break;
        } else {
            EXPECT_EQ(how, -ETIMEDOUT);
            atomic_fetch_add(&timed_out, 1);
        }
    }
    return flow_ok(NULL);
}

static void *use_units_in_thread(void *arg)
{
    return use_units(arg).ptr;
}

static flow_result replace_users(void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    long rounds = (long)(intptr_t)arg;
    uint64_t random = new_seed();
    flow_task task[USERS];

    for (int i = 0; i < USERS; i++) {
        options.flags = i % 3 ? 0 : FLOW_ROAM;
        EXPECT_EQ(flow_spawn_with(&task[i], &options, use_units, arg), 0);
    }
    for (long n = 0; n < rounds; n++) {
        int i = (int)(test_random(&random) % USERS);

        flow_cancel(task[i]);
        EXPECT_EQ(flow_join(task[i], NULL, GENEROUS), 0);
        EXPECT_EQ(flow_spawn(&task[i], use_units, arg), 0);
        if (n % 4 == 0)
            flow_sleep(FLOW_US(100));
    }
    for (int i = 0; i < USERS; i++)
        EXPECT_EQ(flow_join(task[i], NULL, GENEROUS), 0);
    return flow_ok(NULL);
}

static void test_semaphore_torture(void **state)
{
    void *rounds = (void *)(intptr_t)TEST_ROUNDS(4000, 300);
    pthread_t thread[2];

    (void)state;
    atomic_store(&seed, test_seed());
    atomic_store(&cancelled, 0);
    atomic_store(&timed_out, 0);
    semaphore = (struct flow_semaphore)FLOW_SEMAPHORE_INIT(UNITS);
    test_start();
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, use_units_in_thread, rounds), 0);
    assert_int_equal(flow_sync_wait(replace_users, rounds, NULL, FLOW_FOREVER), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    test_stop();
    assert_int_equal(flow_semaphore_value(&semaphore), UNITS);
    assert_int_equal(semaphore.word & 1, 0);
    print_message("taken %ld, cancelled %ld, timed out %ld\n", atomic_load(&taken),
                  atomic_load(&cancelled), atomic_load(&timed_out));
    assert_true(atomic_load(&cancelled) > 0 && atomic_load(&timed_out) > 0);
}

/* ---- events ---- */

static struct flow_event event;

/* A set of automatic reset that a waiter was given is never lost, whatever ends the waiters: each
 * one that passes sets it again, so it must be there at the end. */
static flow_result pass_on(void *arg)
{
    long rounds = (long)(intptr_t)arg;
    uint64_t random = new_seed();

    while (rounds-- > 0) {
        uint64_t r = test_random(&random);
        int how = flow_event_wait(&event, r % 3 ? FLOW_FOREVER
                                                : flow_after(FLOW_US((int64_t)(r >> 40) % 100)));

        if (how == -ECANCELED)
            break;
        if (how)
            continue;
        EXPECT_EQ(atomic_fetch_add(&in_use, 1), 0);
        if (r % 5 == 0)
            flow_yield();
        atomic_fetch_sub(&in_use, 1);
        EXPECT_EQ(flow_event_set(&event), 0);
    }
    return flow_ok(NULL);
}

static flow_result replace_passers(void *arg)
{
    long rounds = (long)(intptr_t)arg;
    uint64_t random = new_seed();
    flow_task task[USERS];

    for (int i = 0; i < USERS; i++)
        EXPECT_EQ(flow_spawn(&task[i], pass_on, arg), 0);
    for (long n = 0; n < rounds; n++) {
        int i = (int)(test_random(&random) % USERS);

        flow_cancel(task[i]);
        EXPECT_EQ(flow_join(task[i], NULL, GENEROUS), 0);
        EXPECT_EQ(flow_spawn(&task[i], pass_on, arg), 0);
        if (n % 4 == 0)
            flow_sleep(FLOW_US(100));
    }
    for (int i = 0; i < USERS; i++)
        EXPECT_EQ(flow_join(task[i], NULL, GENEROUS), 0);
    return flow_ok(NULL);
}

static void *pass_on_in_thread(void *arg)
{
    return pass_on(arg).ptr;
}

static void test_event_torture(void **state)
{
    void *rounds = (void *)(intptr_t)TEST_ROUNDS(4000, 300);
    pthread_t thread;

    (void)state;
    atomic_store(&seed, test_seed());
    event = (struct flow_event)FLOW_EVENT_AUTO_INIT;
    test_start();
    assert_int_equal(flow_event_set(&event), 0);
    assert_int_equal(pthread_create(&thread, NULL, pass_on_in_thread, rounds), 0);
    assert_int_equal(flow_sync_wait(replace_passers, rounds, NULL, FLOW_FOREVER), 0);
    pthread_join(thread, NULL);
    assert_true(flow_event_is_set(&event));
    assert_null(event.queue[0]);
    test_stop();
}

/* ---- rwlock ---- */

static struct flow_rwlock rwlock;

static flow_result unlock_rwlock(void *arg)
{
    return flow_err(flow_rwlock_unlock(arg));
}

static flow_result misuse_rwlock(void *arg)
{
    struct flow_rwlock l = FLOW_RWLOCK_INIT;
    flow_result result;
    flow_task task;

    (void)arg;
    EXPECT_EQ(flow_rwlock_unlock(&l), -EPERM);
    EXPECT_EQ(flow_rwlock_write(&l, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_rwlock_write(&l, FLOW_FOREVER), -EDEADLK);
    EXPECT_EQ(flow_rwlock_read(&l, FLOW_FOREVER), -EDEADLK);
    EXPECT_EQ(flow_spawn(&task, unlock_rwlock, &l), 0);
    EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
    EXPECT_EQ(result.error, -EPERM);
    EXPECT_EQ(flow_rwlock_unlock(&l), 0);
    EXPECT_EQ(flow_rwlock_unlock(&l), -EPERM);
    EXPECT_EQ(flow_rwlock_read(&l, FLOW_NOW), 0);
    EXPECT_EQ(flow_rwlock_read(&l, FLOW_NOW), 0);
    EXPECT_EQ(flow_rwlock_write(&l, flow_now() + 1), -ETIMEDOUT);
    EXPECT_EQ(flow_rwlock_unlock(&l), 0);
    EXPECT_EQ(flow_rwlock_unlock(&l), 0);
    EXPECT_EQ(flow_rwlock_unlock(&l), -EPERM);
    EXPECT_EQ(l.word, 0);
    return flow_ok(NULL);
}

static void test_rwlock_misuse(void **state)
{
    (void)state;
    test_in_coroutine(misuse_rwlock);
}

static atomic_int readers_inside, writers_inside;
static long guarded[2]; /* equal, but while a writer is inside */

static flow_result read_and_write(void *arg)
{
    long rounds = (long)(intptr_t)arg;
    uint64_t random = new_seed();

    while (rounds-- > 0) {
        uint64_t r = test_random(&random);
        bool writes = (r >> 8) % 4 == 0;
        flow_deadline deadline =
            r % 4 ? FLOW_FOREVER : flow_after(FLOW_US((int64_t)(r >> 40) % 200));
        int how = (writes ? flow_rwlock_write : flow_rwlock_read)(&rwlock, deadline);

        if (how == -ECANCELED)
            break;
        if (how) {
            EXPECT_EQ(how, -ETIMEDOUT);
            continue;
        }
        if (writes) {
            EXPECT_EQ(atomic_fetch_add(&writers_inside, 1), 0);
            EXPECT_EQ(atomic_load(&readers_inside), 0);
            guarded[0]++;
        } else {
            atomic_fetch_add(&readers_inside, 1);
            EXPECT_EQ(atomic_load(&writers_inside), 0);
        }
        if ((r >> 16) % 5 == 0)
            flow_yield();
        if (writes)
            guarded[1]++;
        EXPECT_EQ(guarded[0], guarded[1]);
        atomic_fetch_sub(writes ? &writers_inside : &readers_inside, 1);
        EXPECT_EQ(flow_rwlock_unlock(&rwlock), 0);
    }
    return flow_ok(NULL);
}

static void *read_and_write_in_thread(void *arg)
{
    return read_and_write(arg).ptr;
}

/* ---- wait group ---- */

struct work {
    struct flow_waitgroup left;
    atomic_int done;
};

static flow_result do_some(void *arg)
{
    struct work *work = arg;

    atomic_fetch_add(&work->done, 1);
    EXPECT_EQ(flow_waitgroup_done(&work->left), 0);
    return flow_ok(NULL);
}

/* The group goes as soon as the last one is done. */
static flow_result wait_for_work(void *arg)
{
    uint64_t random = new_seed();

    for (long i = 0; i < (long)(intptr_t)arg; i++) {
        struct work *work = calloc(1, sizeof *work);
        uint32_t n = (uint32_t)(test_random(&random) % 6);

        EXPECT_EQ(flow_waitgroup_add(&work->left, n), 0);
        for (uint32_t k = 0; k < n; k++)
            EXPECT_EQ(flow_spawn(NULL, do_some, work), 0);
        while (flow_waitgroup_wait(&work->left, n % 2 ? FLOW_FOREVER : flow_after(FLOW_US(2))))
            ;
        EXPECT_EQ(atomic_load(&work->done), n);
        memset(work, 0xee, sizeof *work);
        free(work);
    }
    return flow_ok(NULL);
}

static void *wait_for_work_in_thread(void *arg)
{
    return wait_for_work(arg).ptr;
}

static void test_group_and_rwlock_torture(void **state)
{
    void *rounds = (void *)(intptr_t)TEST_ROUNDS(1000, 150);
    pthread_t thread[2];
    flow_task task[USERS];

    (void)state;
    atomic_store(&seed, test_seed());
    rwlock = (struct flow_rwlock)FLOW_RWLOCK_INIT;
    test_start();
    assert_int_equal(pthread_create(&thread[0], NULL, read_and_write_in_thread, rounds), 0);
    assert_int_equal(pthread_create(&thread[1], NULL, wait_for_work_in_thread, rounds), 0);
    for (int i = 0; i < USERS; i++)
        assert_int_equal(flow_spawn(&task[i], i % 8 ? read_and_write : wait_for_work, rounds), 0);
    for (int i = 0; i < USERS; i++) {
        if (i % 3 == 1 && i % 8)
            flow_cancel(task[i]);
        assert_int_equal(flow_join(task[i], NULL, FLOW_FOREVER), 0);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    assert_true(test_wait_until_empty());
    test_stop();
    assert_int_equal(rwlock.word, 0);
    assert_true(guarded[0] > 0);
}

/* ---- wait group ---- */

static struct flow_waitgroup crowded;

static flow_result wait_for_crowd(void *arg)
{
    EXPECT_EQ(flow_waitgroup_wait(&crowded, FLOW_FOREVER), -ECANCELED);
    return flow_ok(arg);
}

static void *add_3e9(void *arg)
{
    *(int *)arg = flow_waitgroup_add(&crowded, 3000000000u);
    return NULL;
}

/* Two that add, while somebody waits: each would be right if it were alone. */
static void test_group_overflow(void **state)
{
    pthread_t thread[2];
    flow_task waiter;
    int r[2];

    (void)state;
    test_start();
    assert_int_equal(flow_waitgroup_add(&crowded, 1), 0);
    assert_int_equal(flow_spawn(&waiter, wait_for_crowd, NULL), 0);
    while (!test_is_waited_for(&crowded.guard, crowded.queue))
        sched_yield();
    while (__atomic_exchange_n(&crowded.guard, 1, __ATOMIC_ACQUIRE))
        sched_yield();
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, add_3e9, &r[i]), 0);
    usleep(20000); /* they have looked, most likely, and are at the guard */
    __atomic_store_n(&crowded.guard, 0, __ATOMIC_RELEASE);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(r[0] + r[1], -EOVERFLOW);
    assert_int_equal(r[0] * r[1], 0);
    assert_int_equal(flow_waitgroup_count(&crowded), 3000000001u);
    assert_int_equal(flow_cancel(waiter), 0);
    assert_int_equal(flow_join(waiter, NULL, GENEROUS), 0);
    test_stop();
}

/* ---- barrier ---- */

static struct flow_barrier barrier;

/* Rounds across workers and a thread: nobody is ever a round ahead, and each has one serial. */
static atomic_int serials, phase[6];
static atomic_bool given_up;

static flow_result meet(void *arg)
{
    int me = (int)(intptr_t)arg, rounds = TEST_ROUNDS(1500, 200);

    for (int i = 0; i < rounds; i++) {
        int r;

        atomic_store(&phase[me], i);
        r = flow_barrier_wait(&barrier, FLOW_FOREVER);
        EXPECT(r == 0 || r == 1);
        if (r == 1)
            atomic_fetch_add(&serials, 1);
        for (int k = 0; k < 6; k++)
            EXPECT(atomic_load(&phase[k]) >= i && atomic_load(&phase[k]) <= i + 1);
    }
    return flow_ok(NULL);
}

static void *meet_in_thread(void *arg)
{
    return meet(arg).ptr;
}

/* Comes for a moment only, and sometimes happens to be the sixth: then the six must do without one
 * of them, so it takes part for good. Hence it only polls where it can never be the last. */
static flow_result hesitate(void *arg)
{
    struct flow_barrier *lonely = arg;

    while (!atomic_load(&given_up)) {
        EXPECT_EQ(flow_barrier_wait(lonely, flow_after(FLOW_US(10))), -ETIMEDOUT);
        EXPECT_EQ(flow_barrier_wait(lonely, FLOW_NOW), -ETIMEDOUT);
    }
    return flow_ok(NULL);
}

static void test_barrier_rounds(void **state)
{
    struct flow_barrier lonely = FLOW_BARRIER_INIT(3), none = FLOW_BARRIER_INIT(0);
    struct flow_barrier one = FLOW_BARRIER_INIT(1);
    flow_task task[6], hesitant[2];
    pthread_t thread;

    (void)state;
    barrier = (struct flow_barrier)FLOW_BARRIER_INIT(6);
    atomic_store(&serials, 0);
    test_start();
    assert_int_equal(flow_barrier_wait(&none, FLOW_FOREVER), -EINVAL);
    assert_int_equal(flow_barrier_wait(&one, FLOW_NOW), 1);
    for (int i = 0; i < 2; i++)
        assert_int_equal(flow_spawn(&hesitant[i], hesitate, &lonely), 0);
    assert_int_equal(pthread_create(&thread, NULL, meet_in_thread, (void *)(intptr_t)5), 0);
    for (intptr_t i = 0; i < 5; i++)
        assert_int_equal(flow_spawn(&task[i], meet, (void *)i), 0);
    for (int i = 0; i < 5; i++)
        assert_int_equal(flow_join(task[i], NULL, FLOW_FOREVER), 0);
    pthread_join(thread, NULL);
    atomic_store(&given_up, true);
    for (int i = 0; i < 2; i++)
        assert_int_equal(flow_join(hesitant[i], NULL, GENEROUS), 0);
    test_stop();
    assert_int_equal(atomic_load(&serials), TEST_ROUNDS(1500, 200));
    assert_int_equal(lonely.arrived, 0);
}

/* ---- memory that goes as soon as the waiter is through ---- */

static void *set_it(void *arg)
{
    EXPECT_EQ(flow_event_set(arg), 0);
    return NULL;
}

static flow_result set_it_soon(void *arg)
{
    set_it(arg);
    return flow_ok(NULL);
}

static flow_result wait_on_own_stack(void *arg)
{
    int rounds = (int)(intptr_t)arg;
    uint64_t random = new_seed();

    for (int i = 0; i < rounds; i++) {
        struct flow_event *done = malloc(sizeof *done); /* freed, so that ASan and TSan see */

        *done = (struct flow_event)FLOW_EVENT_INIT;
        EXPECT_EQ(flow_spawn(NULL, set_it_soon, done), 0);
        while (
            flow_event_wait(done, test_random(&random) % 2 ? FLOW_FOREVER : flow_after(FLOW_US(3))))
            ;
        memset(done, 0xee, sizeof *done);
        free(done);
    }
    return flow_ok(NULL);
}

static void *wait_in_thread(void *arg)
{
    return wait_on_own_stack(arg).ptr;
}

static void test_memory_goes(void **state)
{
    intptr_t rounds = TEST_ROUNDS(3000, 500);
    struct flow_event done = FLOW_EVENT_INIT;
    flow_task task[3];

    (void)state;
    test_start();
    for (int i = 0; i < 3; i++)
        assert_int_equal(flow_spawn(&task[i], wait_on_own_stack, (void *)rounds), 0);
    run_in_thread(wait_in_thread, (void *)rounds);
    for (int i = 0; i < 3; i++)
        assert_int_equal(flow_join(task[i], NULL, FLOW_FOREVER), 0);
    run_in_thread(set_it, &done);
    assert_int_equal(flow_event_wait(&done, FLOW_NOW), 0);
    assert_true(test_wait_until_empty());
    test_stop();
}

/* ---- what a stop leaves ---- */

static flow_result wait_for_ever(void *arg)
{
    return flow_err(flow_event_wait(arg, FLOW_FOREVER));
}

static void test_after_a_stop(void **state)
{
    struct flow_event e = FLOW_EVENT_INIT;

    (void)state;
    for (int i = 0; i < 2; i++) {
        test_start();
        for (int k = 0; k < 20; k++)
            assert_int_equal(flow_spawn(NULL, wait_for_ever, &e), 0);
        assert_int_equal(flow_event_wait(&e, flow_after(FLOW_MS(2))), -ETIMEDOUT);
        assert_int_equal(flow_stop(GENEROUS), 0);
        assert_int_equal(e.word, 0);
        assert_null(e.queue[0]);
    }
    assert_int_equal(flow_event_set(&e), 0);
    assert_int_equal(flow_event_wait(&e, FLOW_FOREVER), 0);
    assert_no_failures();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_semaphore_misuse),
        TEST(test_semaphore_of_waiters),
        TEST(test_semaphore_torture),
        TEST(test_event_torture),
        TEST(test_memory_goes),
        TEST(test_after_a_stop),
        TEST(test_rwlock_misuse),
        TEST(test_group_and_rwlock_torture),
        TEST(test_group_overflow),
        TEST(test_barrier_rounds),
    };

    return cmocka_run_group_tests_name("locks", tests, NULL, NULL);
}
