/* SPDX-License-Identifier: MIT
 *
 * Generators and broadcasts. Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/tasks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <urcu/urcu-memb.h>

static void rest(void)
{
    if (flow_self().id)
        flow_sleep(FLOW_US(100));
    else
        test_nap(FLOW_US(100));
}

/* ---- generators ---- */

struct plan {
    uint64_t n;
    int end;
    int64_t nap; /* before each value */
    uint64_t given;
    atomic_int ended;
    struct flow_generator *self;
};

static int generate(struct flow_generator *g, void *arg)
{
    struct plan *plan = arg;
    int r = 0;

    for (uint64_t i = 0; i < plan->n && r == 0; i++) {
        if (plan->nap)
            flow_sleep(plan->nap);
        plan->given++;
        r = flow_generator_yield(g, &i);
        EXPECT(r == 0 || r == -ECANCELED);
    }
    if (r)
        EXPECT_EQ(flow_generator_yield(g, &r), -ECANCELED); /* and so it stays */
    atomic_store(&plan->ended, 1);
    return r ? r : plan->end;
}

static void values(void)
{
    static const uint64_t counts[] = {0, 1, 2, 1000};

    for (int i = 0; i < 4; i++)
        for (int end = 0; end > -2; end--) {
            struct plan plan = {.n = counts[i], .end = end * EIO};
            struct flow_generator *g;
            uint64_t x = 0;

            EXPECT_EQ(flow_generator_create(&g, sizeof x, generate, &plan), 0);
            for (uint64_t j = 0; j < plan.n; j++) {
                EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), 0);
                EXPECT_EQ(x, j);
                EXPECT_EQ(plan.given, j + 1); /* it does not run ahead */
            }
            for (int j = 0; j < 3; j++)
                EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), end ? -EIO : -EPIPE);
            EXPECT_EQ(flow_generator_close(g), 0);
            EXPECT_EQ(plan.ended, 1);
        }
}

static void test_values(void **state)
{
    (void)state;
    test_from_both(values);
}

static void closed_early(void)
{
    for (uint64_t taken = 0; taken < 5; taken++) {
        struct plan plan = {.n = UINT64_MAX};
        struct flow_generator *g;
        uint64_t x;

        EXPECT_EQ(flow_generator_create(&g, sizeof x, generate, &plan), 0);
        for (uint64_t i = 0; i < taken; i++)
            EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), 0);
        EXPECT_EQ(flow_generator_close(g), 0);
        EXPECT_EQ(plan.ended, taken > 0);
    }
}

static void test_closed_early(void **state)
{
    (void)state;
    test_from_both(closed_early);
}

/* A value that comes after the deadline is the next one. */
static void too_late(void)
{
    struct plan plan = {.n = 30, .nap = FLOW_US(300)};
    struct flow_generator *g;
    uint64_t x, got = 0, late = 0;
    int r;

    EXPECT_EQ(flow_generator_create(&g, sizeof x, generate, &plan), 0);
    EXPECT_EQ(flow_generator_next(g, &x, FLOW_NOW), -ETIMEDOUT);
    while ((r = flow_generator_next(g, &x, flow_after(FLOW_US(100)))) != -EPIPE) {
        EXPECT(r == 0 || r == -ETIMEDOUT);
        if (r)
            late++;
        else
            EXPECT_EQ(x, got++);
        if (late % 3 == 1)
            rest();
    }
    EXPECT_EQ(got, 30);
    EXPECT(late > 0);
    EXPECT_EQ(flow_generator_close(g), 0);
}

static void test_too_late(void **state)
{
    (void)state;
    test_from_both(too_late);
}

/* Within a shield yields end all the same when it is closed, be it before or after they begin. */
static int generate_shielded(struct flow_generator *g, void *plan)
{
    FLOW_SHIELD(shield);
    return generate(g, plan);
}

static void closed_in_shield(void)
{
    struct plan waiting = {.n = UINT64_MAX}, asleep = {.n = UINT64_MAX, .nap = FLOW_MS(2)};
    struct flow_generator *g;
    uint64_t x;

    EXPECT_EQ(flow_generator_create(&g, sizeof x, generate_shielded, &waiting), 0);
    EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), 0);
    EXPECT_EQ(flow_generator_close(g), 0);
    EXPECT(waiting.ended && waiting.given == 1);
    EXPECT_EQ(flow_generator_create(&g, sizeof x, generate_shielded, &asleep), 0);
    EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), 0);
    while (flow_generator_next(g, &x, flow_after(FLOW_US(50))) == 0)
        ;
    EXPECT_EQ(flow_generator_close(g), 0);
    EXPECT(asleep.ended);
}

static void test_closed_in_shield(void **state)
{
    (void)state;
    test_from_both(closed_in_shield);
}

/* Nothing begins in the consumer's read-side section, and nothing is lost by trying. */
static void begun_in_section(void)
{
    struct plan plan = {.n = 2};
    struct flow_generator *g;
    uint64_t x = 5;

    EXPECT_EQ(flow_generator_create(&g, sizeof x, generate, &plan), 0);
    urcu_memb_read_lock();
    EXPECT_EQ(flow_generator_next(g, &x, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), -EDEADLK);
    EXPECT_EQ(plan.given, 0);
    urcu_memb_read_unlock();
    EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), 0);
    urcu_memb_read_lock();
    EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), -EDEADLK);
    urcu_memb_read_unlock();
    EXPECT_EQ(x, 0);
    EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), 0);
    EXPECT_EQ(x, 1);
    EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), -EPIPE);
    EXPECT_EQ(flow_generator_close(g), 0);
}

static void test_begun_in_section(void **state)
{
    (void)state;
    test_as_task(begun_in_section);
}

/* Whoever has its function's handle cannot take the task away from the generator. */
static flow_result join_it(void *task)
{
    return flow_err(flow_join(*(flow_task *)task, NULL, GENEROUS));
}

static int detach_oneself(struct flow_generator *g, void *own)
{
    int r = 0;

    *(flow_task *)own = flow_self();
    EXPECT_EQ(flow_detach(flow_self()), -EINVAL);
    for (uint64_t i = 0; !r; i++)
        r = flow_generator_yield(g, &i);
    return r;
}

static int give_oneself_away(struct flow_generator *g, void *own)
{
    flow_result result;
    flow_task task;

    *(flow_task *)own = flow_self();
    EXPECT_EQ(flow_spawn_now(&task, join_it, own), 0);
    EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
    EXPECT_EQ(result.error, -EINVAL);
    return detach_oneself(g, own);
}

static void handle_given_away(void)
{
    static const flow_generator_fn fns[] = {detach_oneself, give_oneself_away};

    for (int i = 0; i < 2; i++) {
        struct flow_generator *g;
        flow_task own;
        uint64_t x;

        EXPECT_EQ(flow_generator_create(&g, sizeof x, fns[i], &own), 0);
        for (uint64_t j = 0; j < 2; j++) {
            EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), 0);
            EXPECT_EQ(x, j);
            EXPECT_EQ(flow_join(own, NULL, GENEROUS), -EINVAL);
            EXPECT_EQ(flow_detach(own), -EINVAL);
        }
        EXPECT_EQ(flow_generator_close(g), 0);
        EXPECT_EQ(flow_join(own, NULL, GENEROUS), -ESRCH);
    }
}

static void test_handle_given_away(void **state)
{
    (void)state;
    test_from_both(handle_given_away);
}

/* ---- generators that outlive their runtime ---- */

static flow_result wait_for_value(void *g)
{
    uint64_t x;

    return flow_err(flow_generator_next(g, &x, FLOW_FOREVER));
}

static int wait_for_nothing(struct flow_generator *g, void *unused)
{
    FLOW_SHIELD(shield);
    (void)g, (void)unused;
    return flow_sleep_until(FLOW_FOREVER);
}

static flow_result wait_shielded(void *g)
{
    FLOW_SHIELD(shield);
    return wait_for_value(g);
}

static flow_result close_it(void *g)
{
    return flow_ok_i64(flow_generator_close(g));
}

static flow_result ask_to_stop(void *unused)
{
    EXPECT_EQ(flow_stop(FLOW_NOW), 0);
    return flow_ok(unused);
}

enum { BEGUN = 3, OUTLIVING };

/* All have begun but the last, and none is closed when the runtime stops. Of the first the function
 * and a consumer are left. */
static void leave_generators(struct flow_generator **g, struct plan *plan)
{
    uint64_t x;

    test_start();
    assert_int_equal(flow_generator_create(&g[0], sizeof x, wait_for_nothing, NULL), 0);
    for (int i = 1; i < OUTLIVING; i++)
        assert_int_equal(flow_generator_create(&g[i], sizeof x, generate, plan), 0);
    for (int i = 1; i < BEGUN; i++)
        assert_int_equal(flow_generator_next(g[i], &x, GENEROUS), 0);
    assert_int_equal(flow_spawn(NULL, wait_shielded, g[0]), 0);
    while (flow_generator_next(g[0], &x, FLOW_NOW) != -EBUSY)
        rest();
    while (test_stats().live != BEGUN + 1)
        rest();
    assert_int_equal(flow_spawn(NULL, ask_to_stop, NULL), 0);
    while (test_stats().live != 2)
        rest();
    assert_int_equal(flow_stop(FLOW_NOW), 2);
    for (int i = 0; i < OUTLIVING; i++)
        assert_int_equal(flow_generator_next(g[i], &x, GENEROUS), -ESHUTDOWN);
    assert_no_failures();
}

static void test_stopped(void **state)
{
    struct flow_generator *g[OUTLIVING];
    struct plan plan = {.n = UINT64_MAX};

    (void)state;
    leave_generators(g, &plan);
    for (int i = 0; i < OUTLIVING; i++)
        assert_int_equal(flow_generator_close(g[i]), 0);
}

/* Their blocks are those of other tasks now, which are let be and not taken for theirs. */
static void test_started_again(void **state)
{
    enum { TASKS = 100 };
    struct flow_generator *g[OUTLIVING];
    struct plan plan = {.n = UINT64_MAX};
    static struct kept kept[TASKS];
    flow_task task[TASKS];
    flow_result result;
    uint64_t x = 0;

    (void)state;
    leave_generators(g, &plan);
    test_start();
    for (int i = 0; i < TASKS; i++) {
        atomic_store(&kept[i].is_there, false);
        assert_int_equal(flow_spawn(&task[i], suspend_and_keep, &kept[i]), 0);
    }
    for (int i = 0; i < TASKS; i++)
        while (!atomic_load(&kept[i].is_there))
            rest();
    assert_int_equal(flow_generator_next(g[0], &x, GENEROUS), -ESHUTDOWN);
    for (int i = 1; i < BEGUN; i++)
        assert_int_equal(flow_generator_next(g[i], &x, GENEROUS), -ECANCELED);
    assert_int_equal(flow_generator_next(g[BEGUN], &x, GENEROUS), 0);
    for (int i = 0; i < OUTLIVING; i++) {
        EXPECT_EQ(flow_sync_wait(close_it, g[i], &result, GENEROUS), 0);
        EXPECT_EQ(result.i64, 0);
    }
    for (int i = 0; i < TASKS; i++) {
        EXPECT_EQ(flow_wake(kept[i].waker), 0);
        EXPECT_EQ(flow_join(task[i], &result, GENEROUS), 0);
        EXPECT_EQ(result.error, 0);
    }
    assert_true(test_wait_until_empty());
    test_stop();
}

static int close_oneself(struct flow_generator *g, void *arg)
{
    uint64_t x = 1;

    (void)arg;
    EXPECT_EQ(flow_generator_close(g), -EDEADLK);
    return flow_generator_yield(g, &x);
}

static void misuses(void)
{
    struct plan plan = {.n = UINT64_MAX, .nap = FLOW_S(1000)};
    struct flow_generator *g;
    flow_result result;
    flow_task task;
    uint64_t x = 0;

    EXPECT_EQ(flow_generator_create(NULL, 8, generate, NULL), -EINVAL);
    EXPECT_EQ(flow_generator_create(&g, 8, NULL, NULL), -EINVAL);
    EXPECT_EQ(flow_generator_close(NULL), 0);
    EXPECT_EQ(flow_generator_create(&g, sizeof x, generate, &plan), 0);
    EXPECT_EQ(flow_generator_yield(g, &x), -EPERM);
    EXPECT_EQ(flow_spawn(&task, wait_for_value, g), 0);
    while (flow_generator_next(g, &x, FLOW_NOW) == -ETIMEDOUT)
        rest();
    EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), -EBUSY);
    EXPECT_EQ(flow_generator_close(g), -EBUSY);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
    EXPECT_EQ(result.error, -ECANCELED);
    EXPECT_EQ(flow_generator_close(g), 0);
    EXPECT_EQ(plan.ended, 1);
}

static void test_misuse(void **state)
{
    (void)state;
    test_from_both(misuses);
}

static void own_close(void)
{
    struct flow_generator *g;
    uint64_t x = 0;

    EXPECT_EQ(flow_generator_create(&g, sizeof x, close_oneself, NULL), 0);
    EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), 0);
    EXPECT_EQ(x, 1);
    EXPECT_EQ(flow_generator_close(g), 0);
}

/* A chain of generators, each the consumer of the one before: the sieve of Eratosthenes. */
struct filter {
    struct flow_generator *from;
    uint64_t prime;
};

static int odd_numbers(struct flow_generator *g, void *unused)
{
    int r = 0;

    (void)unused;
    for (uint64_t i = 3; r == 0; i += 2)
        r = flow_generator_yield(g, &i);
    return r;
}

static int without_multiples(struct flow_generator *g, void *arg)
{
    struct filter *f = arg;
    uint64_t x;
    int r = 0;

    while (r == 0) {
        r = flow_generator_next(f->from, &x, FLOW_FOREVER);
        if (r == 0 && x % f->prime)
            r = flow_generator_yield(g, &x);
    }
    return r;
}

static void sieve(void)
{
    enum { PRIMES = 100 };
    struct flow_generator *g[PRIMES];
    static struct filter f[PRIMES];
    uint64_t x = 0;

    EXPECT_EQ(flow_generator_create(&g[0], sizeof x, odd_numbers, NULL), 0);
    for (int i = 1; i < PRIMES; i++) {
        EXPECT_EQ(flow_generator_next(g[i - 1], &f[i].prime, GENEROUS), 0);
        f[i].from = g[i - 1];
        EXPECT_EQ(flow_generator_create(&g[i], sizeof x, without_multiples, &f[i]), 0);
    }
    EXPECT_EQ(flow_generator_next(g[PRIMES - 1], &x, GENEROUS), 0);
    EXPECT_EQ(x, 547); /* the 101st prime */
    for (int i = PRIMES - 1; i >= 0; i--)
        EXPECT_EQ(flow_generator_close(g[i]), 0);
}

static void test_sieve(void **state)
{
    (void)state;
    test_from_both(sieve);
}

/* The consumer is another task, and so on another worker, each time; cancelled now and then. */
static flow_result take_some(void *arg)
{
    struct flow_generator *g = arg;
    uint64_t x = 0, sum = 0;

    for (int i = 0; i < 10; i++) {
        int r = flow_generator_next(g, &x, FLOW_FOREVER);

        EXPECT(r == 0 || r == -ECANCELED);
        if (r)
            break;
        sum += x;
    }
    return flow_ok_u64(sum);
}

static void handed_on(void)
{
    struct plan plan = {.n = UINT64_MAX};
    struct flow_generator *g;
    uint64_t sum = 0, x = 0;

    EXPECT_EQ(flow_generator_create(&g, sizeof x, generate, &plan), 0);
    for (int i = 0; i < TEST_ROUNDS(2000, 300); i++) {
        flow_result result;
        flow_task task;

        EXPECT_EQ(flow_spawn(&task, take_some, g), 0);
        if (i % 3 == 0)
            flow_cancel(task);
        EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
        sum += result.u64;
    }
    EXPECT_EQ(flow_generator_next(g, &x, GENEROUS), 0);
    EXPECT_EQ(sum, x * (x - 1) / 2); /* all before this one were taken, each once */
    EXPECT_EQ(flow_generator_close(g), 0);
}

static void test_handed_on(void **state)
{
    (void)state;
    test_from_both(handed_on);
}

static void test_own_close(void **state)
{
    (void)state;
    test_from_both(own_close);
}

/* ---- broadcasts ---- */

static void broadcast_table(void)
{
    struct flow_broadcast *b = NULL;
    struct flow_listener early, late;
    uint64_t x, missed;

    EXPECT_EQ(flow_broadcast_create(NULL, 8, 4), -EINVAL);
    EXPECT_EQ(flow_broadcast_create(&b, 8, 0), -EINVAL);
    EXPECT_EQ(flow_broadcast_create(&b, 8, SIZE_MAX / 8), -EINVAL);
    EXPECT_EQ(flow_broadcast_destroy(NULL), 0);
    EXPECT_EQ(flow_broadcast_create(&b, 8, 4), 0);
    flow_broadcast_listen(b, &early);
    EXPECT_EQ(flow_listener_recv(&early, &x, &missed, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_listener_recv(&early, &x, &missed, flow_after(FLOW_US(100))), -ETIMEDOUT);
    for (x = 0; x < 4; x++)
        EXPECT_EQ(flow_broadcast_send(b, &x), 0);
    flow_broadcast_listen(b, &late);
    EXPECT_EQ(flow_listener_recv(&early, &x, &missed, FLOW_NOW), 0);
    EXPECT(x == 0 && missed == 0);
    for (x = 4; x < 7; x++) /* the ring has 3, 4, 5, 6 */
        EXPECT_EQ(flow_broadcast_send(b, &x), 0);
    EXPECT_EQ(flow_listener_recv(&early, &x, &missed, GENEROUS), 0);
    EXPECT(x == 3 && missed == 2);
    EXPECT_EQ(flow_listener_recv(&late, &x, &missed, GENEROUS), 0);
    EXPECT(x == 4 && missed == 0);
    EXPECT_EQ(flow_broadcast_close(b), 0);
    EXPECT_EQ(flow_broadcast_close(b), -EPIPE);
    EXPECT_EQ(flow_broadcast_send(b, &x), -EPIPE);
    for (uint64_t i = 4; i < 7; i++) {
        EXPECT_EQ(flow_listener_recv(&early, &x, NULL, GENEROUS), 0);
        EXPECT_EQ(x, i);
    }
    EXPECT_EQ(flow_listener_recv(&early, &x, &missed, GENEROUS), -EPIPE);
    EXPECT_EQ(missed, 0);
    EXPECT_EQ(flow_broadcast_destroy(b), 0);
}

static void test_broadcast_table(void **state)
{
    (void)state;
    test_from_both(broadcast_table);
}

static struct {
    struct flow_broadcast *b;
    uint64_t n;
    atomic_int listening;
    _Atomic uint64_t missed;
} air;

/* Numbers come in order, and received + missed = sent. */
static uint64_t listen(uint64_t nap_every)
{
    uint64_t next = 0, missed, x, received = 0;
    struct flow_listener l;
    int r;

    flow_broadcast_listen(air.b, &l);
    atomic_fetch_add(&air.listening, 1);
    for (;;) {
        r = flow_listener_recv(&l, &x, &missed,
                               received % 3 ? FLOW_FOREVER : flow_after(FLOW_US(50)));
        if (r == -ETIMEDOUT)
            continue;
        if (r)
            break;
        EXPECT_EQ(x, next + missed);
        next = x + 1;
        atomic_fetch_add(&air.missed, missed);
        received++;
        if (nap_every && received % nap_every == 0)
            rest();
    }
    EXPECT_EQ(r, -EPIPE);
    EXPECT_EQ(next, air.n);
    return received;
}

static flow_result listening_task(void *nap_every)
{
    return flow_ok_u64(listen((uint64_t)(uintptr_t)nap_every));
}

static void *listening_thread(void *nap_every)
{
    listen((uint64_t)(uintptr_t)nap_every);
    return NULL;
}

static flow_result cancelled_listener(void *unused)
{
    struct flow_listener l;
    uint64_t x;
    int r;

    (void)unused;
    flow_broadcast_listen(air.b, &l);
    atomic_fetch_add(&air.listening, 1);
    while ((r = flow_listener_recv(&l, &x, NULL, FLOW_FOREVER)) == 0)
        ;
    EXPECT(r == -ECANCELED || r == -EPIPE);
    return flow_err(r);
}

/* Who waits when it is closed is told so. */
static void closed_while_waiting(void)
{
    flow_result result;
    flow_task task[3];

    air.listening = 0;
    EXPECT_EQ(flow_broadcast_create(&air.b, 8, 2), 0);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(flow_spawn(&task[i], cancelled_listener, NULL), 0);
    while (atomic_load(&air.listening) < 3)
        rest();
    for (int i = 0; i < 5; i++)
        rest();
    EXPECT_EQ(flow_broadcast_close(air.b), 0);
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(flow_join(task[i], &result, GENEROUS), 0);
        EXPECT_EQ(result.error, -EPIPE);
    }
    EXPECT_EQ(flow_broadcast_destroy(air.b), 0);
}

static void test_closed_while_waiting(void **state)
{
    (void)state;
    test_from_both(closed_while_waiting);
}

static void test_broadcast_torture(void **state)
{
    enum { TASKS = 12, CANCELLED = 8 };
    flow_task task[TASKS + CANCELLED];
    pthread_t thread[2];
    flow_result result;

    (void)state;
    test_start();
    for (size_t capacity = 1; capacity <= 64; capacity *= 8) {
        air.n = TEST_ROUNDS(20000, 2000);
        air.listening = 0;
        assert_int_equal(flow_broadcast_create(&air.b, 8, capacity), 0);
        for (uintptr_t i = 0; i < TASKS; i++)
            assert_int_equal(flow_spawn(&task[i], listening_task, (void *)(i * 7)), 0);
        for (int i = 0; i < CANCELLED; i++)
            assert_int_equal(flow_spawn(&task[TASKS + i], cancelled_listener, NULL), 0);
        for (uintptr_t i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&thread[i], NULL, listening_thread, (void *)(i * 50)), 0);
        while (atomic_load(&air.listening) < TASKS + CANCELLED + 2)
            test_nap(FLOW_US(50));
        for (uint64_t x = 0; x < air.n; x++) {
            assert_int_equal(flow_broadcast_send(air.b, &x), 0);
            if (x % 500 == 0)
                test_nap(FLOW_US(30));
            if (x % (air.n / CANCELLED) == 0)
                flow_cancel(task[TASKS + x / (air.n / CANCELLED) % CANCELLED]);
        }
        assert_int_equal(flow_broadcast_close(air.b), 0);
        for (int i = 0; i < TASKS + CANCELLED; i++)
            assert_int_equal(flow_join(task[i], &result, GENEROUS), 0);
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_join(thread[i], NULL), 0);
        assert_int_equal(flow_broadcast_destroy(air.b), 0);
        assert_no_failures();
    }
    print_message("note: broadcast torture, %llu missed and told so\n", (unsigned long long)air.missed);
    assert_true(test_wait_until_empty());
    test_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_values),   TEST(test_closed_early), TEST(test_too_late),
        TEST(test_misuse),   TEST(test_own_close),    TEST(test_sieve),
        TEST(test_handed_on), TEST(test_broadcast_table), TEST(test_broadcast_torture),
        TEST(test_closed_while_waiting), TEST(test_closed_in_shield),
        TEST(test_begun_in_section), TEST(test_handle_given_away), TEST(test_stopped),
        TEST(test_started_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
