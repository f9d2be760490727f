/* SPDX-License-Identifier: MIT
 *
 * Mutexes: exclusion, who gets one and after how many others, owners that are cancelled or end,
 * foreign threads, misuse.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GENEROUS flow_after(FLOW_S(60))

/* ---- misuse, and what needs no waiting ---- */

static flow_result lock_and_return(void *arg)
{
    return flow_err(flow_mutex_lock(arg, FLOW_NOW));
}

static flow_result unlock_and_return(void *arg)
{
    return flow_err(flow_mutex_unlock(arg));
}

static int run(flow_fn fn, void *arg)
{
    flow_result result = flow_ok(NULL);
    flow_task task;

    EXPECT_EQ(flow_spawn(&task, fn, arg), 0);
    EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
    return result.error;
}

static flow_result misuse(void *arg)
{
    struct flow_mutex m = FLOW_MUTEX_INIT, other = FLOW_MUTEX_INIT, third = FLOW_MUTEX_INIT;

    (void)arg;
    EXPECT_EQ(flow_mutex_unlock(&m), -EPERM); /* nobody's */
    EXPECT_EQ(flow_mutex_lock(&m, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_mutex_lock(&m, FLOW_FOREVER), -EDEADLK);
    EXPECT_EQ(flow_mutex_lock(&m, FLOW_NOW), -EDEADLK);
    EXPECT_EQ(flow_mutex_trylock(&m), -EBUSY);
    EXPECT_EQ(run(unlock_and_return, &m), -EPERM);
    EXPECT_EQ(run(lock_and_return, &m), -ETIMEDOUT);
    EXPECT_EQ(flow_mutex_lock(&m, FLOW_NOW), -EDEADLK); /* with the trace of a waiter */
    EXPECT_EQ(flow_mutex_unlock(&m), 0);
    EXPECT_EQ(flow_mutex_unlock(&m), -EPERM);

    /* Any order of unlocking. */
    for (int i = 0; i < 6; i++) {
        static const int order[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                        {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
        struct flow_mutex *three[] = {&m, &other, &third};

        for (int k = 0; k < 3; k++)
            EXPECT_EQ(flow_mutex_lock(three[k], FLOW_FOREVER), 0);
        for (int k = 0; k < 3; k++)
            EXPECT_EQ(flow_mutex_unlock(three[order[i][k]]), 0);
        for (int k = 0; k < 3; k++)
            EXPECT_EQ(three[k]->word, 0);
    }

    /* Past its deadline, but it is free. */
    EXPECT_EQ(flow_mutex_lock(&m, FLOW_NOW), 0);
    EXPECT_EQ(flow_mutex_unlock(&m), 0);
    EXPECT_EQ(flow_mutex_trylock(&m), 0);
    EXPECT_EQ(flow_mutex_trylock(&m), -EBUSY);
    EXPECT_EQ(flow_mutex_unlock(&m), 0);
    return flow_ok(NULL);
}

static void test_misuse(void **state)
{
    struct flow_mutex m = FLOW_MUTEX_INIT;

    (void)state;
    /* Without a runtime. */
    assert_int_equal(flow_mutex_unlock(&m), -EPERM);
    assert_int_equal(flow_mutex_lock(&m, FLOW_FOREVER), 0);
    assert_int_equal(flow_mutex_lock(&m, FLOW_FOREVER), -EDEADLK);
    assert_int_equal(flow_mutex_trylock(&m), -EBUSY);
    assert_int_equal(flow_mutex_unlock(&m), 0);
    assert_int_equal(m.word, 0);
    test_in_coroutine(misuse);
}

/* ---- exclusion, with everything at once ---- */

enum { MUTEXES = 3, LOCKERS = 24 };

static struct {
    struct flow_mutex mutex;
    int inside, count; /* plain: the mutex guards them */
    atomic_long locked;
} shared[MUTEXES];

static atomic_ulong seed;
static atomic_long cancelled, timed_out, busy;

static uint64_t new_seed(void)
{
    uint64_t s = atomic_fetch_add(&seed, 0x1234567);

    return test_random(&s);
}

static void be_inside(int i, uint64_t random)
{
    EXPECT_EQ(shared[i].inside++, 0);
    shared[i].count++;
    if (random % 7 == 0)
        flow_yield();
    else if (random % 97 == 1)
        flow_sleep(FLOW_US(50));
    EXPECT_EQ(shared[i].inside, 1);
    shared[i].inside--;
    atomic_fetch_add_explicit(&shared[i].locked, 1, memory_order_relaxed);
    EXPECT_EQ(flow_mutex_unlock(&shared[i].mutex), 0);
}

static int lock_somehow(struct flow_mutex *m, uint64_t random)
{
    switch (random % 8) {
    case 0:
        return flow_mutex_trylock(m);
    case 1:
        return flow_mutex_lock(m, FLOW_NOW);
    case 2:
        return flow_mutex_lock(m, flow_after(FLOW_US((int64_t)(random >> 8) % 300)));
    default:
        return flow_mutex_lock(m, FLOW_FOREVER);
    }
}

static flow_result lock_often(void *arg)
{
    long rounds = (long)(intptr_t)arg;
    uint64_t random = new_seed();

    for (long n = 0; n < rounds; n++) {
        uint64_t r = test_random(&random);
        int i = (int)((r >> 32) % MUTEXES), how = lock_somehow(&shared[i].mutex, r);

        if (how == 0) {
            be_inside(i, test_random(&random));
        } else if (how == -ECANCELED) {
            atomic_fetch_add(&cancelled, 1);
            return flow_err(how);
        } else {
            EXPECT(how == -ETIMEDOUT || how == -EBUSY);
            atomic_fetch_add(how == -EBUSY ? &busy : &timed_out, 1);
        }
    }
    return flow_ok(NULL);
}

static void *lock_often_in_thread(void *arg)
{
    return lock_often(arg).ptr;
}

static flow_result cancel_and_replace(void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    long rounds = (long)(intptr_t)arg;
    uint64_t random = new_seed();
    flow_task task[LOCKERS];
    flow_result result;

    for (int i = 0; i < LOCKERS; i++) {
        options.flags = i % 3 ? 0 : FLOW_ROAM;
        EXPECT_EQ(flow_spawn_with(&task[i], &options, lock_often, (void *)(intptr_t)rounds), 0);
    }
    for (long n = 0; n < rounds; n++) {
        int i = (int)(test_random(&random) % LOCKERS);

        if (flow_join(task[i], &result, FLOW_NOW)) {
            flow_cancel(task[i]);
            EXPECT_EQ(flow_join(task[i], &result, GENEROUS), 0);
        }
        EXPECT_EQ(flow_spawn(&task[i], lock_often, (void *)(intptr_t)rounds), 0);
        if (n % 4 == 0)
            flow_sleep(FLOW_US(100));
    }
    for (int i = 0; i < LOCKERS; i++)
        EXPECT_EQ(flow_join(task[i], &result, GENEROUS), 0);
    return flow_ok(NULL);
}

static void test_exclusion(void **state)
{
    void *rounds = (void *)(intptr_t)TEST_ROUNDS(6000, 400);
    pthread_t thread[2];

    (void)state;
    atomic_store(&seed, test_seed());
    memset(shared, 0, sizeof shared);
    test_start();
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, lock_often_in_thread, rounds), 0);
    assert_int_equal(flow_sync_wait(cancel_and_replace, rounds, NULL, FLOW_FOREVER), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    test_stop();
    for (int i = 0; i < MUTEXES; i++) {
        assert_int_equal(shared[i].count, atomic_load(&shared[i].locked));
        assert_int_equal(shared[i].mutex.word, 0);
        assert_null(shared[i].mutex.queue[0]);
    }
    print_message("cancelled %ld, timed out %ld, busy %ld\n", atomic_load(&cancelled),
                  atomic_load(&timed_out), atomic_load(&busy));
    assert_true(atomic_load(&cancelled) > 0 && atomic_load(&timed_out) > 0);
}

/* ---- nobody starves ---- */

static struct flow_mutex wanted;
static atomic_long unlocks, unlocks_when_had;
static atomic_bool enough;

static flow_result hog(void *arg)
{
    (void)arg;
    while (!enough) {
        EXPECT_EQ(flow_mutex_lock(&wanted, FLOW_FOREVER), 0);
        EXPECT_EQ(flow_yield(), 0); /* the other one runs only while it is taken */
        unlocks++;
        EXPECT_EQ(flow_mutex_unlock(&wanted), 0);
    }
    return flow_ok(NULL);
}

static flow_result want_it(void *arg)
{
    long before = unlocks;

    (void)arg;
    EXPECT_EQ(flow_mutex_lock(&wanted, FLOW_FOREVER), 0);
    unlocks_when_had = unlocks - before;
    EXPECT_EQ(flow_mutex_unlock(&wanted), 0);
    return flow_ok(NULL);
}

/* All on one worker, by flow_spawn_now, so that it goes the same way each time: the hog always has
 * the mutex again before the other one runs. */
static flow_result starve(void *arg)
{
    flow_task hog_task, task;

    (void)arg;
    enough = false;
    unlocks = 0;
    EXPECT_EQ(flow_spawn_now(&hog_task, hog, NULL), 0);
    for (int i = 0; i < 50; i++) {
        EXPECT_EQ(flow_spawn_now(&task, want_it, NULL), 0);
        EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
        EXPECT(unlocks_when_had <= 4);
        EXPECT(unlocks_when_had >= 1);
    }
    enough = true;
    EXPECT_EQ(flow_join(hog_task, NULL, GENEROUS), 0);
    return flow_ok(NULL);
}

static void test_nobody_starves(void **state)
{
    (void)state;
    test_in_coroutine(starve);
}

/* Of those that wait, the first gets it first. */
static int order[40], n_order;

static flow_result note_turn(void *arg)
{
    EXPECT_EQ(flow_mutex_lock(&wanted, FLOW_FOREVER), 0);
    order[n_order++] = (int)(intptr_t)arg;
    EXPECT_EQ(flow_mutex_unlock(&wanted), 0);
    return flow_ok(NULL);
}

static flow_result queue_up(void *arg)
{
    flow_task task[40];

    (void)arg;
    n_order = 0;
    EXPECT_EQ(flow_mutex_lock(&wanted, FLOW_FOREVER), 0);
    for (intptr_t i = 0; i < 40; i++)
        EXPECT_EQ(flow_spawn_now(&task[i], note_turn, (void *)i), 0);
    EXPECT_EQ(n_order, 0);
    EXPECT_EQ(flow_mutex_unlock(&wanted), 0);
    for (int i = 0; i < 40; i++)
        EXPECT_EQ(flow_join(task[i], NULL, GENEROUS), 0);
    for (int i = 0; i < 40; i++)
        EXPECT_EQ(order[i], i);
    return flow_ok(NULL);
}

static void test_in_turn(void **state)
{
    (void)state;
    test_in_coroutine(queue_up);
}

/* ---- owners that are cancelled, or end ---- */

static flow_result lock_and_be_cancelled(void *arg)
{
    struct flow_mutex *m = arg;

    EXPECT_EQ(flow_mutex_lock(m, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_sleep(FLOW_S(60)), -ECANCELED);
    EXPECT_EQ(flow_mutex_unlock(m), 0);
    /* A free one needs no waiting. */
    EXPECT_EQ(flow_mutex_lock(m, FLOW_NOW), 0);
    EXPECT_EQ(flow_mutex_unlock(m), 0);
    return flow_ok(NULL);
}

static flow_result wait_and_be_cancelled(void *arg)
{
    int r = flow_mutex_lock(arg, FLOW_FOREVER);

    EXPECT_EQ(flow_mutex_lock(arg, FLOW_FOREVER), r);
    EXPECT_EQ(flow_mutex_lock(arg, FLOW_NOW), r);
    return flow_err(r);
}

static flow_result end_with(void *arg)
{
    struct flow_mutex *m = arg;

    /* The one between lies on a stack that goes, and is nobody's business any more. */
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(flow_mutex_lock(&m[i], FLOW_FOREVER), 0);
    return flow_ok(NULL);
}

static flow_result end_with_after_sleep(void *arg)
{
    flow_result r = end_with(arg);

    EXPECT_EQ(flow_sleep(FLOW_US(300)), 0);
    return r;
}

static flow_result end_with_the_newer(void *arg)
{
    flow_result r = end_with(arg);

    EXPECT_EQ(flow_mutex_unlock(arg), 0);
    return r;
}

static flow_result inherit(void *arg)
{
    int r = flow_mutex_lock(arg, FLOW_FOREVER);

    EXPECT_EQ(flow_mutex_unlock(arg), 0);
    return flow_ok_i64(r);
}

static flow_result owners_end(void *arg)
{
    struct flow_mutex m[3] = {FLOW_MUTEX_INIT, FLOW_MUTEX_INIT, FLOW_MUTEX_INIT};
    flow_task task, heir[3];
    flow_result result;

    (void)arg;
    EXPECT_EQ(flow_spawn_now(&task, lock_and_be_cancelled, m), 0);
    EXPECT_EQ(flow_mutex_trylock(m), -EBUSY);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
    EXPECT_EQ(flow_mutex_trylock(m), 0);

    EXPECT_EQ(flow_spawn_now(&task, wait_and_be_cancelled, m), 0);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
    EXPECT_EQ(result.error, -ECANCELED);
    EXPECT_EQ(flow_mutex_unlock(m), 0);

    /* Nobody waits: the next one is told. Called, queued, and after it has suspended. */
    for (int how = 0; how < 3; how++) {
        flow_fn fn = how == 2 ? end_with_after_sleep : end_with;

        EXPECT_EQ((how == 1 ? flow_spawn : flow_spawn_now)(&task, fn, m), 0);
        EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
        EXPECT_EQ(flow_mutex_unlock(&m[0]), -EPERM);
        EXPECT_EQ(flow_mutex_trylock(&m[0]), -EOWNERDEAD);
        EXPECT_EQ(flow_mutex_lock(&m[1], FLOW_NOW), -EOWNERDEAD);
        EXPECT_EQ(flow_mutex_lock(&m[2], FLOW_FOREVER), -EOWNERDEAD);
        for (int i = 0; i < 3; i++) {
            EXPECT_EQ(flow_mutex_unlock(&m[i]), 0);
            EXPECT_EQ(flow_mutex_lock(&m[i], FLOW_FOREVER), 0); /* said once */
            EXPECT_EQ(flow_mutex_unlock(&m[i]), 0);
        }
    }

    EXPECT_EQ(flow_spawn_now(&task, end_with_the_newer, m), 0);
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(flow_mutex_trylock(&m[i]), i == 0 ? 0 : -EOWNERDEAD);
        EXPECT_EQ(flow_mutex_unlock(&m[i]), 0);
    }

    /* Some wait already: one of them is told, and the others come after it. */
    EXPECT_EQ(flow_spawn_now(&task, end_with_after_sleep, m), 0);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(flow_spawn_now(&heir[i], inherit, &m[0]), 0);
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(flow_join(heir[i], &result, GENEROUS), 0);
        EXPECT_EQ(result.i64, i == 0 ? -EOWNERDEAD : 0);
    }
    return flow_ok(NULL);
}

static void test_owners_end(void **state)
{
    (void)state;
    test_in_coroutine(owners_end);
}

/* ---- the last one out frees it ---- */

struct object {
    struct flow_mutex mutex;
    int references;
};

static flow_result drop_reference(void *arg)
{
    struct object *object = arg;
    bool last;

    EXPECT_EQ(flow_mutex_lock(&object->mutex, FLOW_FOREVER), 0);
    last = --object->references == 0;
    EXPECT_EQ(flow_mutex_unlock(&object->mutex), 0);
    if (last) {
        memset(object, 0xee, sizeof *object);
        free(object);
    }
    return flow_ok(NULL);
}

static void *drop_in_thread(void *arg)
{
    for (int i = 0; ((struct object **)arg)[i]; i++)
        drop_reference(((struct object **)arg)[i]);
    return NULL;
}

static void test_last_one_frees(void **state)
{
    enum { OBJECTS = 2000, PER_OBJECT = 4 };
    struct object **object = calloc(OBJECTS + 1, sizeof *object);
    int n = TEST_ROUNDS(OBJECTS, OBJECTS / 4);
    pthread_t thread;

    (void)state;
    test_start();
    for (int i = 0; i < n; i++) {
        object[i] = calloc(1, sizeof **object);
        object[i]->references = PER_OBJECT + 1;
    }
    assert_int_equal(pthread_create(&thread, NULL, drop_in_thread, object), 0);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < PER_OBJECT; k++)
            assert_int_equal(flow_spawn(NULL, drop_reference, object[i]), 0);
    pthread_join(thread, NULL);
    assert_true(test_wait_until_empty());
    test_stop();
    free(object);
}

/* ---- foreign threads ---- */

static struct flow_mutex threads_mutex;
static int threads_count; /* guarded by it */

static void *count_in_thread(void *arg)
{
    int rounds = (int)(intptr_t)arg;

    for (int i = 0; i < rounds; i++) {
        EXPECT_EQ(flow_mutex_lock(&threads_mutex, FLOW_FOREVER), 0);
        threads_count++;
        EXPECT_EQ(flow_mutex_unlock(&threads_mutex), 0);
    }
    return NULL;
}

static flow_result count_in_coroutine(void *arg)
{
    int rounds = (int)(intptr_t)arg;

    for (int i = 0; i < rounds; i++) {
        EXPECT_EQ(flow_mutex_lock(&threads_mutex, FLOW_FOREVER), 0);
        threads_count++;
        if (i % 16 == 0)
            EXPECT_EQ(flow_yield(), 0);
        EXPECT_EQ(flow_mutex_unlock(&threads_mutex), 0);
    }
    return flow_ok(NULL);
}

static void test_threads_and_coroutines(void **state)
{
    intptr_t rounds = TEST_ROUNDS(3000, 500);
    pthread_t thread[3];
    flow_task task[3];

    (void)state;
    threads_count = 0;
    test_start();
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&thread[i], NULL, count_in_thread, (void *)rounds), 0);
        assert_int_equal(flow_spawn(&task[i], count_in_coroutine, (void *)rounds), 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(flow_join(task[i], NULL, FLOW_FOREVER), 0);
    }
    test_stop();
    assert_int_equal(threads_count, 6 * rounds);
    assert_int_equal(threads_mutex.word, 0);
}

static flow_result unlock_later(void *arg)
{
    EXPECT_EQ(flow_mutex_lock(arg, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_sleep(FLOW_MS(TEST_ROUNDS(3, 200))), 0);
    EXPECT_EQ(flow_mutex_unlock(arg), 0);
    return flow_ok(NULL);
}

/* Without threads of its own the runtime is driven by the one that waits. */
static void test_driven(void **state)
{
    struct flow_mutex m = FLOW_MUTEX_INIT;
    flow_task task;

    (void)state;
    test_start_driven();
    assert_int_equal(flow_spawn(&task, unlock_later, &m), 0);
    assert_true(flow_drive(FLOW_NOW) >= 0);
    assert_int_equal(flow_mutex_trylock(&m), -EBUSY);
    assert_int_equal(flow_mutex_lock(&m, flow_now() + 1), -ETIMEDOUT);
    assert_int_equal(flow_mutex_lock(&m, FLOW_FOREVER), 0);
    assert_int_equal(flow_join(task, NULL, FLOW_FOREVER), 0);
    assert_int_equal(flow_mutex_unlock(&m), 0);
    test_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_misuse),
        TEST(test_exclusion),
        TEST(test_nobody_starves),
        TEST(test_in_turn),
        TEST(test_owners_end),
        TEST(test_last_one_frees),
        TEST(test_threads_and_coroutines),
        TEST(test_driven),
    };

    return cmocka_run_group_tests_name("mutex", tests, NULL, NULL);
}
