/* SPDX-License-Identifier: MIT
 *
 * Control blocks: alone, in caches of several threads, and as handles of a running runtime,
 * up to the end of a slot's generations. */
#include "core/registry.h"
#include "core/worker.h"
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 1000

static flow__atomic(uint8_t) owner_of[BLOCKS];

static struct flow__block_cache own; /* of the test's own thread */

static void open_registry(uint32_t n)
{
    assert_int_equal(flow__registry_open(&n, 3), 0);
    flow__block_cache_open(&own, 0);
    memset(owner_of, 0, sizeof owner_of);
}

static struct flow__task *take(struct flow__block_cache *cache, uint8_t self)
{
    struct flow__task *t = flow__block_take(cache);
    uint8_t nobody = 0;

    if (!t)
        return NULL;
    EXPECT(flow__slot_of(t) < BLOCKS);
    EXPECT_EQ((uintptr_t)t % 128, 0);
    EXPECT(cas_seq(&owner_of[flow__slot_of(t)], &nobody, self));
    /* As promised. The generation is never 0. */
    EXPECT_EQ((uint32_t)load_relaxed(&t->life), FLOW__LIFE_FREE);
    EXPECT(flow__generation_of(load_relaxed(&t->life)) >= 1);
    EXPECT(!t->timed && !t->stack && !load_relaxed(&t->detail));
    return t;
}

static void give(struct flow__block_cache *cache, struct flow__task *t, uint8_t self)
{
    EXPECT(cas_seq(&owner_of[flow__slot_of(t)], &self, 0));
    flow__block_give(cache, t);
    EXPECT(cache->n < FLOW__CHAIN);
}

/* Everything that a cache can still hand out. */
static uint32_t drain(struct flow__block_cache *cache, struct flow__task **out)
{
    uint32_t n = 0;

    while ((out[n] = take(cache, 99)))
        n++;
    return n;
}

static void test_each_block_once_and_then_null(void **state)
{
    static const uint32_t sizes[] = {1, 2, 63, 64, 65, 128, 999, BLOCKS};
    static struct flow__task *taken[BLOCKS + 1];

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        open_registry(sizes[s]);
        for (int round = 0; round < 3; round++) {
            assert_int_equal(drain(&own, taken), sizes[s]);
            assert_null(flow__block_take(&own));
            assert_int_equal(load_relaxed(&flow__registry.depot->used), sizes[s]);
            for (uint32_t i = 0; i < sizes[s]; i++)
                give(&own, taken[i], 99);
        }
        assert_no_failures();
        flow__registry_close();
        assert_null(flow__block_of((uint64_t)1 << 32));
    }
}

static void test_the_warm_block_comes_first(void **state)
{
    struct flow__task *a, *b;

    (void)state;
    open_registry(BLOCKS);
    a = take(&own, 1), b = take(&own, 1);
    give(&own, a, 1), give(&own, b, 1);
    assert_ptr_equal(take(&own, 1), b);
    assert_ptr_equal(take(&own, 1), a);
    assert_no_failures();
    flow__registry_close();
}

static void test_handles_and_addresses(void **state)
{
    (void)state;
    open_registry(BLOCKS);
    for (uint32_t i = 0; i < 200; i++) {
        struct flow__task *t = take(&own, 1);
        uint64_t id = flow__id_of(t, (uint64_t)(i + 7) << 32 | 5);

        assert_ptr_equal(flow__block_of(id), t);
        assert_int_equal(flow__generation_of(id), i + 7);
        assert_int_equal((uint32_t)id, flow__slot_of(t));
    }
    assert_null(flow__block_of((uint64_t)1 << 32 | BLOCKS));
    assert_null(flow__block_of((uint64_t)1 << 32 | UINT32_MAX));
    assert_null(flow__block_of(UINT64_MAX));
    /* The last one is a block, if an unused one. */
    assert_non_null(flow__block_of((uint64_t)1 << 32 | (BLOCKS - 1)));
    assert_no_failures();
    flow__registry_close();
}

/* Blocks for foreign threads that wait: apart from all others, and no handle leads to one. */
static void test_stand_ins(void **state)
{
    static struct flow__task *taken[BLOCKS + 1];
    struct flow__task *a, *b, *c;

    (void)state;
    open_registry(BLOCKS);
    a = flow__stand_in_take(), b = flow__stand_in_take(), c = flow__stand_in_take();
    assert_true(a && b && c && a != b && b != c && a != c);
    assert_null(flow__stand_in_take());
    assert_null(flow__block_of((uint64_t)1 << 32 | flow__slot_of(a)));
    assert_true(flow__slot_of(a) >= BLOCKS && flow__slot_of(b) >= BLOCKS && flow__slot_of(c) >= BLOCKS);
    flow__stand_in_give(b);
    flow__stand_in_give(c);
    assert_ptr_equal(flow__stand_in_take(), c);
    assert_ptr_equal(flow__stand_in_take(), b);
    assert_null(flow__stand_in_take());
    assert_int_equal(drain(&own, taken), BLOCKS);
    assert_no_failures();
    flow__registry_close();
}

/* Blocks of both kinds begin far from where they did at each earlier opening, and not in the upper half. */
static void test_each_opening_begins_elsewhere(void **state)
{
    enum { N = 200 };
    static int64_t generation[N], epoch[N];

    (void)state;
    for (int i = 0; i < N; i++) {
        struct flow__task *t, *stand_in;

        open_registry(BLOCKS);
        t = take(&own, 1), stand_in = flow__stand_in_take();
        generation[i] = flow__generation_of(load_relaxed(&t->life));
        epoch[i] = (int64_t)flow__epoch_of(load_relaxed(&t->wait));
        assert_true(generation[i] <= (int64_t)1 << 31 && epoch[i] < (int64_t)1 << 55);
        assert_int_equal(load_relaxed(&t->wait), load_relaxed(&stand_in->wait));
        assert_int_equal(load_relaxed(&t->life), load_relaxed(&stand_in->life));
        for (int j = 0; j < i; j++) {
            assert_true(llabs(generation[i] - generation[j]) > ((int64_t)1 << 31) / (3 * N));
            assert_true(llabs(epoch[i] - epoch[j]) > ((int64_t)1 << 55) / (3 * N));
        }
        flow__registry_close();
    }
    assert_no_failures();
}

/* ---- from thread to thread ---- */

#define THREADS 4
#define ROUNDS  TEST_ROUNDS(400000, 40000)

static struct flow__inbox inbox[THREADS];
static struct flow__block_cache caches[THREADS];
static uint64_t thread_seed;
static pthread_barrier_t all_have_sent;

static void *pass_blocks_on(void *arg)
{
    int self = (int)(intptr_t)arg;
    uint64_t random = thread_seed + (uint64_t)self;
    struct flow__block_cache *cache = &caches[self];
    struct flow__link *link;
    uint32_t exhausted = 0;

    for (int i = 0; i <= ROUNDS; i++) {
        uint64_t r = test_random(&random);
        struct flow__task *t = i < ROUNDS ? take(cache, (uint8_t)(self + 1)) : NULL;

        if (t) {
            exhausted = 0;
            t->flags = (uint32_t)self + 1; /* its owner, for whoever frees it */
            flow__inbox_push(&inbox[r % THREADS], &t->link);
        } else if (i < ROUNDS && ++exhausted % 64 == 0) {
            sched_yield();
        }
        if (i == ROUNDS)
            pthread_barrier_wait(&all_have_sent);
        else if (r >> 32 & 7 && !(r >> 40 & 1)) /* lets some gather, sometimes until there are none */
            continue;
        for (link = flow__inbox_take_all(&inbox[self]); link;) {
            t = flow__task_of_link(link);
            link = link->next;
            give(cache, t, (uint8_t)t->flags);
        }
    }
    return NULL;
}

static void test_blocks_wander_between_threads(void **state)
{
    pthread_t thread[THREADS];
    static struct flow__task *rest[BLOCKS + 1];
    uint32_t n = 0;

    (void)state;
    thread_seed = test_seed();
    open_registry(BLOCKS);
    for (int i = 0; i < THREADS; i++)
        flow__block_cache_open(&caches[i], 0);
    pthread_barrier_init(&all_have_sent, NULL, THREADS);
    for (intptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, pass_blocks_on, (void *)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&all_have_sent);
    for (int i = 0; i < THREADS; i++)
        n += drain(&caches[i], rest);
    assert_no_failures();
    assert_int_equal(n, BLOCKS); /* none was lost, none is there twice */
    assert_null(flow__registry.depot->chains);
    for (uint32_t i = 0; i < BLOCKS; i++)
        assert_null(flow__registry.base[i].home); /* where chains hang meanwhile */
    flow__registry_close();
}

/* ---- generations, in a running runtime ---- */

static flow_result return_arg(void *arg)
{
    return flow_ok(arg);
}

static void test_a_slot_gets_a_new_generation_each_time(void **state)
{
    static uint32_t last[BLOCKS];
    struct flow_options options = test_options();

    (void)state;
    memset(last, 0, sizeof last);
    options.max_tasks = 10;
    test_start_with(&options);
    for (int i = 0; i < 3000; i++) {
        flow_task task;
        flow_result result;

        assert_int_equal(flow_spawn(&task, return_arg, &task), 0);
        assert_true(task.id >> 32 >= 1);
        if ((uint32_t)task.id < BLOCKS) {
            assert_true(task.id >> 32 > last[(uint32_t)task.id]);
            last[(uint32_t)task.id] = (uint32_t)(task.id >> 32);
        }
        assert_int_equal(flow_join(task, &result, FLOW_FOREVER), 0);
        assert_ptr_equal(result.ptr, &task);
        assert_int_equal(flow_join(task, NULL, FLOW_NOW), -ESRCH);
        assert_int_equal(flow_cancel(task), -ESRCH);
        assert_int_equal(flow_detach(task), -ESRCH);
    }
    test_stop();
}

static int keep_waker(flow_waker waker, void *arg)
{
    *(flow_waker *)arg = waker;
    return 0;
}

static flow_result suspend_once(void *arg)
{
    int r = flow_suspend(keep_waker, arg, FLOW_FOREVER);

    return r ? flow_err(r) : flow_ok(arg);
}

/* Gives a task that lives, and its handle, the last generation there is. */
static void make_last_generation(flow_task *task)
{
    struct flow__task *t = flow__block_of(task->id);
    uint64_t life = load_seq(&t->life);

    task->id = (uint64_t)UINT32_MAX << 32 | (uint32_t)task->id;
    store_release(&t->life, (uint64_t)UINT32_MAX << 32 | (uint32_t)life);
}

enum ending { JOIN, JOIN_FROM_THREAD, DETACH, DETACH_FINISHED, CANCEL, N_ENDINGS };

static flow_result join_it(void *task)
{
    flow_result result;
    int r = flow_join(*(flow_task *)task, &result, FLOW_FOREVER);

    return r ? flow_err(r) : result;
}

static void end_task(enum ending how, flow_task task, flow_waker *waker)
{
    flow_result result = flow_err(-1);

    if (how == DETACH)
        assert_int_equal(flow_detach(task), 0);
    if (how == CANCEL)
        assert_int_equal(flow_cancel(task), 0);
    else
        assert_int_equal(flow_wake((flow_waker){task.id, waker->epoch}), 0);
    if (how == JOIN || how == CANCEL)
        assert_int_equal(flow_sync_wait(join_it, &task, &result, FLOW_FOREVER), 0);
    if (how == JOIN_FROM_THREAD)
        assert_int_equal(flow_join(task, &result, FLOW_FOREVER), 0);
    if (how == CANCEL)
        assert_int_equal(result.error, -ECANCELED);
    if (how == JOIN || how == JOIN_FROM_THREAD)
        assert_ptr_equal(result.ptr, waker);
    assert_true(test_wait_until_empty());
    if (how == DETACH_FINISHED)
        assert_int_equal(flow_detach(task), 0);
}

static flow_result nap(void *arg)
{
    (void)arg;
    flow_sleep(FLOW_S(100));
    return flow_ok(NULL);
}

/* Takes blocks until there are none; slot must not be among them. */
static void check_that_nobody_gets(uint32_t slot)
{
    static flow_task many[30000];
    size_t n = 0;
    int r = 0;

    while (n < sizeof many / sizeof *many && !(r = flow_spawn(&many[n], nap, NULL)))
        if ((uint32_t)many[n++].id == slot)
            fail_msg("slot %u has come back", slot);
    assert_int_equal(r, -ENOSPC);
    /* To wait for one would take a block, too. */
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(flow_cancel(many[i]), 0);
        assert_int_equal(flow_detach(many[i]), 0);
    }
    assert_true(test_wait_until_empty());
}

static void test_a_slot_is_retired_after_its_last_generation(void **state)
{
    struct flow_options options = test_options();

    (void)state;
    options.max_tasks = 10;
    test_start_with(&options);
    for (enum ending how = 0; how < N_ENDINGS; how++) {
        flow_waker waker = {0};
        flow_task task, old;
        uint32_t slot;

        assert_int_equal(flow_spawn(&task, suspend_once, &waker), 0);
        while (load_relaxed(&flow__block_of(task.id)->why) != FLOW__WHY_WAKER)
            test_nap(FLOW_US(100));
        test_nap(FLOW_MS(2)); /* it has left its stack */
        old = task;
        slot = (uint32_t)task.id;
        make_last_generation(&task);
        assert_int_equal(flow_join(old, NULL, FLOW_NOW), -ESRCH);
        assert_int_equal(flow_join(task, NULL, FLOW_NOW), -ETIMEDOUT);
        end_task(how, task, &waker);
        assert_int_equal(flow_join(task, NULL, FLOW_NOW), -ESRCH);
        assert_int_equal(flow_cancel(task), -ESRCH);
        /* Generation 0, which would revive nothing, and 1, which would revive the oldest handles. */
        assert_int_equal(flow_cancel((flow_task){slot}), -ESRCH);
        assert_int_equal(flow_join((flow_task){slot}, NULL, FLOW_NOW), -ESRCH);
        assert_int_equal(flow_cancel((flow_task){(uint64_t)1 << 32 | slot}), -ESRCH);
        check_that_nobody_gets(slot);
    }
    test_stop();
}

/* A slot that was never used must not be taken for a task by a forged handle. */
static void test_forged_handles_lead_nowhere(void **state)
{
    uint64_t random = test_seed();

    (void)state;
    test_start();
    for (int i = 0; i < 20000; i++) {
        uint64_t r = test_random(&random);
        flow_task task = {r >> (r & 63)};

        if (i % 4 == 0)
            task.id = r % 5000000; /* generation 0 */
        if (i % 4 == 1)
            task.id = (r % 5) << 32 | (r >> 32) % 5000000;
        assert_int_equal(flow_cancel(task), -ESRCH);
        assert_int_equal(flow_detach(task), -ESRCH);
        assert_int_equal(flow_join(task, NULL, FLOW_NOW), -ESRCH);
        assert_int_equal(flow_wake((flow_waker){task.id, r % 3}), -ESRCH);
    }
    for (struct flow__slots at = FLOW__ALL_SLOTS; flow__slots_next(&at);) {
        uint64_t life = load_relaxed(&flow__registry.base[at.slot].life);

        assert_true(life == 0 || life & FLOW__LIFE_FREE);
    }
    test_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_each_block_once_and_then_null),
        TEST(test_the_warm_block_comes_first),
        TEST(test_handles_and_addresses),
        TEST(test_stand_ins),
        TEST(test_each_opening_begins_elsewhere),
        TEST(test_blocks_wander_between_threads),
        TEST(test_a_slot_gets_a_new_generation_each_time),
        TEST(test_a_slot_is_retired_after_its_last_generation),
        TEST(test_forged_handles_lead_nowhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
