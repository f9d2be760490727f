/* SPDX-License-Identifier: MIT
 *
 * Semaphores and events: against a sequential model with random operations, under torture with
 * cancellations and deadlines, from foreign threads, and with memory that goes at once.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
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

static void run_in_thread(void *(*fn)(void *), void *arg)
{
    pthread_t thread;

    EXPECT_EQ(pthread_create(&thread, NULL, fn, arg), 0);
    EXPECT_EQ(pthread_join(thread, NULL), 0);
}

/* ---- against a model: one coroutine does random things to one primitive, and after each lets all
 * others run until nobody can go on. They were started by flow_spawn_now, so all is on one worker
 * and the model knows who must have gone on, in which order. ---- */

enum { WAITING = 1, PASSED = 2, GONE = 3 };

struct party {
    flow_task task;
    int kind;  /* what it waits for: units, ... */
    int state; /* in the model */
    int result;
    bool returned;
};

enum { PARTIES = 64 };

struct table {
    struct party party[PARTIES];
    int n; /* parties ever: those below wait in the order of their numbers */
    int returned[PARTIES], n_returned, n_seen;
    int (*wait)(struct party *party); /* the primitive's own */
};

static struct table table;

static flow_result be_party(void *arg)
{
    struct party *party = arg;

    party->result = table.wait(party);
    party->returned = true;
    table.returned[table.n_returned++] = (int)(party - table.party);
    return flow_ok(NULL);
}

static void join_parties(void)
{
    for (int i = 0; i < table.n; i++)
        EXPECT_EQ(flow_join(table.party[i].task, NULL, GENEROUS), 0);
    table.n = table.n_returned = table.n_seen = 0;
}

static struct party *new_party(int kind)
{
    struct party *party = &table.party[table.n++];

    *party = (struct party){.kind = kind, .state = WAITING};
    EXPECT_EQ(flow_spawn_now(&party->task, be_party, party), 0);
    return party;
}

static struct party *waiting_party(uint64_t random)
{
    for (int i = 0; i < table.n; i++) {
        struct party *party = &table.party[(i + (int)(random % PARTIES)) % table.n];

        if (party->state == WAITING)
            return party;
    }
    return NULL;
}

/* Those that the model has let pass have returned, in the order in which it did, and nobody
 * else has. `passed` lists them. */
static void compare(const int *passed, int n)
{
    for (int i = 0; i < 4; i++)
        EXPECT_EQ(flow_yield(), 0);
    EXPECT_EQ(table.n_returned - table.n_seen, n);
    for (int i = 0; i < n && table.n_seen + i < table.n_returned; i++) {
        EXPECT_EQ(table.returned[table.n_seen + i], passed[i]);
        EXPECT_EQ(table.party[passed[i]].result,
                  table.party[passed[i]].state == GONE ? -ECANCELED : 0);
    }
    table.n_seen = table.n_returned;
}

/* ---- semaphore ---- */

static struct flow_semaphore semaphore;

static int acquire(struct party *party)
{
    return flow_semaphore_acquire(&semaphore, (uint32_t)party->kind, FLOW_FOREVER);
}

static int let_pass(uint32_t *units, int *passed, int n)
{
    for (int i = 0; i < table.n; i++) {
        struct party *party = &table.party[i];

        if (party->state != WAITING)
            continue;
        if ((uint32_t)party->kind > *units)
            break;
        *units -= (uint32_t)party->kind;
        party->state = PASSED;
        passed[n++] = i;
    }
    return n;
}

static flow_result model_semaphore(void *arg)
{
    int rounds = TEST_ROUNDS(30000, 3000), passed[PARTIES];
    uint64_t random = new_seed();
    uint32_t units = 3;

    (void)arg;
    semaphore = (struct flow_semaphore)FLOW_SEMAPHORE_INIT(3);
    table = (struct table){.wait = acquire};
    for (int i = 0; i < rounds; i++) {
        uint64_t r = test_random(&random);
        struct party *party;
        int n = 0, want = 1 + (int)(r >> 32 & 3);
        bool any = waiting_party(0) != NULL;

        switch (r % 5) {
        case 0:
        case 1:
            if (table.n < PARTIES) {
                new_party(want);
                n = let_pass(&units, passed, 0);
            }
            break;
        case 2:
            if (units + (uint32_t)want < 12) {
                EXPECT_EQ(flow_semaphore_release(&semaphore, (uint32_t)want), 0);
                units += (uint32_t)want;
                n = let_pass(&units, passed, 0);
            }
            break;
        case 3:
            party = waiting_party(r >> 40);
            if (party) {
                EXPECT_EQ(flow_cancel(party->task), 0);
                party->state = GONE;
                passed[n++] = (int)(party - table.party);
                n = let_pass(&units, passed, n);
            }
            break;
        default:
            EXPECT_EQ(flow_semaphore_acquire(&semaphore, (uint32_t)want, FLOW_NOW),
                      !any && units >= (uint32_t)want ? 0 : -ETIMEDOUT);
            if (!any && units >= (uint32_t)want)
                units -= (uint32_t)want;
        }
        compare(passed, n);
        EXPECT_EQ(flow_semaphore_value(&semaphore), units);
        if (table.n == PARTIES && !waiting_party(0))
            join_parties();
        else if (table.n == PARTIES && r % 3 == 0)
            while ((party = waiting_party(0))) {
                passed[0] = (int)(party - table.party);
                EXPECT_EQ(flow_cancel(party->task), 0);
                party->state = GONE;
                compare(passed, let_pass(&units, passed, 1));
            }
    }
    while (waiting_party(0)) {
        EXPECT_EQ(flow_semaphore_release(&semaphore, 1), 0);
        units++;
        compare(passed, let_pass(&units, passed, 0));
    }
    join_parties();
    EXPECT_EQ(semaphore.word, (uint64_t)units << 1);
    EXPECT(!semaphore.queue[0] && !semaphore.queue[1]);
    return flow_ok(NULL);
}

static void test_semaphore_model(void **state)
{
    (void)state;
    atomic_store(&seed, test_seed());
    test_in_coroutine(model_semaphore);
}

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

static int await_event(struct party *party)
{
    (void)party;
    return flow_event_wait(&event, FLOW_FOREVER);
}

static int pass_event(bool *set, bool automatic, int *passed, int n)
{
    for (int i = 0; i < table.n && *set; i++) {
        if (table.party[i].state != WAITING)
            continue;
        table.party[i].state = PASSED;
        passed[n++] = i;
        *set = !automatic;
    }
    return n;
}

static void event_round(uint64_t r, bool automatic, bool *set)
{
    int passed[PARTIES], n = 0;
    struct party *party = waiting_party(r >> 32);

    if (table.n == PARTIES) {
        if (!party)
            join_parties();
        r = party ? 1 + r % 2 : 0;
    }
    switch (r % 5) {
    case 0:
        new_party(0);
        n = pass_event(set, automatic, passed, 0);
        break;
    case 1:
        if (party) {
            EXPECT_EQ(flow_cancel(party->task), 0);
            party->state = GONE;
            passed[n++] = (int)(party - table.party);
        }
        break;
    case 2:
        EXPECT_EQ(flow_event_set(&event), 0);
        *set = true;
        n = pass_event(set, automatic, passed, 0);
        break;
    case 3:
        flow_event_reset(&event);
        *set = false;
        break;
    default:
        EXPECT_EQ(flow_event_wait(&event, FLOW_NOW), *set ? 0 : -ETIMEDOUT);
        *set = *set && !automatic;
    }
    compare(passed, n);
    EXPECT_EQ(flow_event_is_set(&event), *set);
}

static flow_result model_event(void *arg)
{
    int rounds = TEST_ROUNDS(30000, 3000);
    bool automatic = arg != NULL, set = false;
    uint64_t random = new_seed();

    event =
        automatic ? (struct flow_event)FLOW_EVENT_AUTO_INIT : (struct flow_event)FLOW_EVENT_INIT;
    table = (struct table){.wait = await_event};
    for (int i = 0; i < rounds; i++)
        event_round(test_random(&random), automatic, &set);
    while (waiting_party(0))
        event_round(2, automatic, &set);
    join_parties();
    EXPECT(!event.queue[0] && !event.queue[1]);
    return flow_ok(NULL);
}

static void test_event_model(void **state)
{
    (void)state;
    atomic_store(&seed, test_seed());
    test_start();
    assert_int_equal(flow_sync_wait(model_event, NULL, NULL, FLOW_FOREVER), 0);
    assert_int_equal(flow_sync_wait(model_event, &event, NULL, FLOW_FOREVER), 0);
    assert_true(test_wait_until_empty());
    test_stop();
}

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
        TEST(test_semaphore_misuse), TEST(test_semaphore_model), TEST(test_semaphore_torture),
        TEST(test_event_model),      TEST(test_event_torture),   TEST(test_memory_goes),
        TEST(test_after_a_stop),
    };

    return cmocka_run_group_tests_name("locks", tests, NULL, NULL);
}
