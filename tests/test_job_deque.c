/* SPDX-License-Identifier: MIT
 *
 * sync/job_deque.h: each entry comes out once, whoever takes it. */
#include "sync/job_deque.h"
#include "tests/support/test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define ENTRY(n)   ((void *)((uintptr_t)(n) + 1))
#define NUMBER(p)  ((int)((uintptr_t)(p)-1))
#define N_THIEVES  3

/* ---- alone: against an array ---- */

static void as_an_array(void **state)
{
    static struct flow__job_deque d;
    uint64_t random = test_seed();
    int model[FLOW__JOB_DEQUE_SIZE], n = 0;

    (void)state;
    memset(&d, 0, sizeof d);
    /* Long enough for top to come round. */
    for (int i = 0; i < TEST_ROUNDS(500000, 100000); i++) {
        assert_int_equal(flow__job_deque_count(&d), n);
        assert_int_equal(flow__job_deque_count_seq(&d), n);
        switch (test_random(&random) % 5) {
        case 0:
        case 1:
            assert_int_equal(flow__job_deque_push(&d, ENTRY(i)), n < (int)FLOW__JOB_DEQUE_SIZE);
            if (n < (int)FLOW__JOB_DEQUE_SIZE)
                model[n++] = i;
            break;
        case 2:
            assert_ptr_equal(flow__job_deque_take_newest(&d), n ? ENTRY(model[n - 1]) : NULL);
            n -= n > 0;
            break;
        default:
            assert_ptr_equal(flow__job_deque_steal(&d), n ? ENTRY(model[0]) : NULL);
            if (n)
                memmove(model, model + 1, (size_t)--n * sizeof *model);
        }
    }
}

/* A thief that has read its entry must notice that another one lies there now. */
static void a_place_that_is_filled_anew(void **state)
{
    static struct flow__job_deque d;
    uint64_t word;

    (void)state;
    memset(&d, 0, sizeof d);
    for (int i = 0; i < 100; i++) {
        flow__job_deque_push(&d, ENTRY(1));
        word = load_relaxed(&d.word);
        assert_ptr_equal(flow__job_deque_take_newest(&d), ENTRY(1));
        flow__job_deque_push(&d, ENTRY(2));
        assert_true(load_relaxed(&d.word) != word);
        assert_ptr_equal(flow__job_deque_steal(&d), ENTRY(2));
    }
}

/* The same if all that was there has been stolen meanwhile, so often that top has come round. */
static void a_place_that_top_comes_back_to(void **state)
{
    static struct flow__job_deque d;
    uint64_t word;

    (void)state;
    memset(&d, 0, sizeof d);
    flow__job_deque_push(&d, ENTRY(0));
    word = load_relaxed(&d.word);
    for (int i = 1; i <= 65536; i++) {
        assert_ptr_equal(flow__job_deque_steal(&d), ENTRY(i - 1));
        flow__job_deque_push(&d, ENTRY(i));
        assert_true(load_relaxed(&d.word) != word);
    }
    assert_int_equal(FLOW__DEQUE_TOP(load_relaxed(&d.word)), FLOW__DEQUE_TOP(word));
}

/* ---- with thieves ---- */

#define MANY TEST_ROUNDS(400000, 60000)

static struct {
    struct flow__job_deque d;
    struct {
        int filled; /* plain memory, published by the push */
    } *record;
    flow__atomic(uint8_t) *taken;
    flow__atomic(bool) over;
    flow__atomic(int) stolen;
} shared;

static void take(void *entry)
{
    int n = NUMBER(entry);

    EXPECT_EQ(shared.record[n].filled, n + 7);
    EXPECT_EQ(fetch_add_relaxed(&shared.taken[n], 1), 0);
}

static void *thief(void *arg)
{
    (void)arg;
    while (!load_acquire(&shared.over)) {
        void *entry = flow__job_deque_steal(&shared.d);

        if (!entry) {
            flow__pause();
            continue;
        }
        fetch_add_relaxed(&shared.stolen, 1);
        take(entry);
    }
    return NULL;
}

static void own(uint64_t random)
{
    for (int i = 0; i < MANY;) {
        if (test_random(&random) % 3) {
            shared.record[i].filled = i + 7;
            i += flow__job_deque_push(&shared.d, ENTRY(i));
        } else {
            void *entry = flow__job_deque_take_newest(&shared.d);

            if (entry)
                take(entry);
        }
    }
    while (flow__job_deque_count(&shared.d)) {
        void *entry = flow__job_deque_take_newest(&shared.d);

        if (entry)
            take(entry);
    }
}

static void each_once(void **state)
{
    pthread_t thread[N_THIEVES];

    (void)state;
    shared.record = calloc((size_t)MANY, sizeof *shared.record);
    shared.taken = calloc((size_t)MANY, sizeof *shared.taken);
    for (int i = 0; i < N_THIEVES; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, thief, NULL), 0);
    own(test_seed());
    exchange_seq(&shared.over, true);
    for (int i = 0; i < N_THIEVES; i++)
        pthread_join(thread[i], NULL);
    assert_no_failures();
    for (int i = 0; i < MANY; i++)
        assert_int_equal(load_relaxed(&shared.taken[i]), 1);
    print_message("%d of %d were stolen\n", load_relaxed(&shared.stolen), MANY);
    free(shared.record);
    free((void *)shared.taken);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(as_an_array), TEST(a_place_that_is_filled_anew),
                                       TEST(a_place_that_top_comes_back_to), TEST(each_once)};

    return cmocka_run_group_tests_name("job_deque", tests, NULL, NULL);
}
