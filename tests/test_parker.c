/* SPDX-License-Identifier: MIT
 *
 * Parker and idle group on real threads: what each step does, whom a wake chooses, and a small scheduler in
 * which a lost wake-up leaves a producer waiting. No runtime runs here; sync/parker's models are in tests/model.
 * Every random choice follows from the printed seed. */
#include "sync/inbox.h"
#include "sync/lock.h"
#include "sync/parker.h"
#include "tests/support/threads.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

/* ---- parker and idle: what each step does ---- */

static struct flow__idle idle;
static struct { /* not packed one after the other, as in struct flow__worker */
    char before[40];
    struct flow__parker parker;
    char after[84];
} bed[FLOW__MAX_WORKERS];

#define STRIDE sizeof bed[0]

static void idle_begin(int n)
{
    memset(&idle, 0, sizeof idle);
    memset(bed, 0, sizeof bed);
    idle.n_workers = n;
}

static uint32_t searchers(void)
{
    return (uint32_t)load_seq(&idle.state);
}

static uint32_t sleepers(void)
{
    return (uint32_t)(load_seq(&idle.state) >> 32);
}

static bool wake_one(void)
{
    return flow__idle_wake_one(&idle, &bed[0].parker, STRIDE);
}

static void test_wake_one_summons_one_sleeper_at_a_time(void **state)
{
    static const int who[] = {0, 1, 63, 64, 70, 127, 128, 511, 1023};
    size_t n = sizeof who / sizeof *who;
    uint32_t summoned = 0;

    (void)state;
    idle_begin(FLOW__MAX_WORKERS);
    assert_false(flow__idle_wants_wake(&idle));
    assert_false(wake_one());
    for (size_t i = 0; i < n; i++)
        flow__parker_announce(&bed[who[i]].parker, &idle, who[i]);
    assert_int_equal(sleepers(), n);
    for (; n > 0; n--) {
        int found = -1;

        assert_true(flow__idle_wants_wake(&idle));
        assert_true(wake_one());
        assert_int_equal(searchers(), 1);
        assert_false(flow__idle_wants_wake(&idle));
        assert_false(wake_one());
        for (size_t i = 0; i < sizeof who / sizeof *who; i++)
            if (load_seq(&bed[who[i]].parker.word) == FLOW__SUMMONED)
                found = who[i], summoned++;
        assert_true(found >= 0);
        assert_int_equal(flow__parker_sleep(&bed[found].parker, &idle, found, INT64_MAX), FLOW__SUMMONED);
        assert_int_equal(load_seq(&bed[found].parker.word), FLOW__RUNNING);
        assert_int_equal(sleepers(), n - 1);
        assert_true(flow__idle_end_search(&idle));
    }
    assert_int_equal(summoned, sizeof who / sizeof *who);
    assert_int_equal(load_seq(&idle.state), 0);
    for (int i = 0; i < FLOW__MAX_WORKERS / 64; i++)
        assert_int_equal(load_seq(&idle.map[i]), 0);
}

static void test_wake_one_passes_over_who_was_notified(void **state)
{
    (void)state;
    idle_begin(4);
    flow__parker_announce(&bed[1].parker, &idle, 1);
    assert_true(flow__parker_notify(&bed[1].parker));
    assert_false(flow__parker_notify(&bed[1].parker));
    /* It still counts as a sleeper, but nobody is there to be woken. */
    assert_true(flow__idle_wants_wake(&idle));
    assert_false(wake_one());
    assert_int_equal(searchers(), 0);
    flow__parker_announce(&bed[3].parker, &idle, 3);
    assert_true(wake_one());
    assert_int_equal(load_seq(&bed[3].parker.word), FLOW__SUMMONED);
    assert_int_equal(flow__parker_cancel(&bed[1].parker, &idle, 1), FLOW__NOTIFIED);
    assert_int_equal(flow__parker_cancel(&bed[3].parker, &idle, 3), FLOW__SUMMONED);
    assert_int_equal(sleepers(), 0);
    assert_int_equal(searchers(), 1);
}

static void test_parker_forgets_nothing(void **state)
{
    int64_t begin_ns = flow_now();

    (void)state;
    idle_begin(2);
    assert_false(flow__parker_notify(&bed[0].parker));
    flow__parker_announce(&bed[0].parker, &idle, 0);
    assert_int_equal(sleepers(), 1);
    assert_int_equal(load_seq(&idle.map[0]), 1);
    assert_int_equal(flow__parker_cancel(&bed[0].parker, &idle, 0), FLOW__RUNNING);
    assert_false(flow__parker_notify(&bed[0].parker));

    flow__parker_announce(&bed[0].parker, &idle, 0);
    assert_true(flow__parker_notify(&bed[0].parker));
    assert_int_equal(flow__parker_sleep(&bed[0].parker, &idle, 0, INT64_MAX), FLOW__NOTIFIED);

    flow__parker_announce(&bed[0].parker, &idle, 0);
    assert_int_equal(flow__parker_sleep(&bed[0].parker, &idle, 0, flow_after(FLOW_MS(5))), FLOW__RUNNING);
    assert_true(flow_now() - begin_ns >= FLOW_MS(5));
    assert_int_equal(load_seq(&idle.state), 0);
    assert_int_equal(load_seq(&idle.map[0]), 0);
}

static void test_half_of_the_workers_may_search(void **state)
{
    (void)state;
    for (int n = 1; n <= 9; n++) {
        int begun = 0;

        idle_begin(n);
        while (flow__idle_start_search(&idle))
            begun++;
        assert_int_equal(begun, (n + 1) / 2);
        for (; begun > 0; begun--)
            assert_int_equal(flow__idle_end_search(&idle), begun == 1);
    }
}

#define CLAIMS TEST_ROUNDS(20000, 4000)

static flow__atomic(int) claims_in_flight;
static flow__atomic(uint64_t) claims_won;

static void *claimer(void *arg)
{
    (void)arg;
    for (int i = 0; i < CLAIMS; i++) {
        int who = 0;

        if (!wake_one())
            continue;
        EXPECT_EQ(fetch_add_seq(&claims_in_flight, 1), 0);
        fetch_add_relaxed(&claims_won, 1);
        while (who < 8 && load_seq(&bed[who].parker.word) != FLOW__SUMMONED)
            who++;
        if (who < 8) {
            EXPECT_EQ(flow__parker_cancel(&bed[who].parker, &idle, who), FLOW__SUMMONED);
            flow__parker_announce(&bed[who].parker, &idle, who);
        }
        EXPECT(who < 8);
        fetch_sub_seq(&claims_in_flight, 1);
        EXPECT(flow__idle_end_search(&idle));
    }
    return NULL;
}

static void test_at_most_one_is_summoned(void **state)
{
    (void)state;
    idle_begin(8);
    for (int i = 0; i < 8; i++)
        flow__parker_announce(&bed[i].parker, &idle, i);
    for (int i = 0; i < 4; i++)
        begin(claimer, NULL);
    join_all();
    assert_no_failures();
    assert_true(load_relaxed(&claims_won) > 0);
    assert_int_equal(searchers(), 0);
    assert_int_equal(sleepers(), 8);
}

/* ---- the sentry ---- */

static void test_the_sentry_is_woken_last_for_work_and_first_for_help(void **state)
{
    (void)state;
    for (int sentry = 0; sentry < 3; sentry++) {
        int other = sentry == 1 ? 2 : 1;

        idle_begin(3);
        assert_false(flow__idle_call(&idle, &bed[0].parker, STRIDE));
        assert_false(flow__idle_all_sleep(&idle));
        for (int i = 0; i < 3; i++)
            flow__parker_announce(&bed[i].parker, &idle, i);
        assert_true(flow__idle_all_sleep(&idle));
        assert_true(flow__idle_stand_sentry(&idle, sentry));
        assert_false(flow__idle_stand_sentry(&idle, other));
        for (int i = 0; i < 2; i++) { /* the two others */
            assert_true(wake_one());
            assert_int_equal(load_seq(&bed[sentry].parker.word), FLOW__PARKED);
            assert_true(flow__idle_end_search(&idle));
        }
        assert_true(wake_one());
        assert_int_equal(load_seq(&bed[sentry].parker.word), FLOW__SUMMONED);
        assert_false(flow__idle_call(&idle, &bed[0].parker, STRIDE));

        idle_begin(3);
        for (int i = 0; i < 3; i++)
            flow__parker_announce(&bed[i].parker, &idle, i);
        assert_true(flow__idle_stand_sentry(&idle, sentry));
        assert_true(flow__idle_start_search(&idle)); /* a call does not mind */
        assert_true(flow__idle_call(&idle, &bed[0].parker, STRIDE));
        assert_int_equal(load_seq(&bed[sentry].parker.word), FLOW__NOTIFIED);
        assert_int_equal(searchers(), 1);
        flow__idle_end_sentry(&idle);
        assert_true(flow__idle_stand_sentry(&idle, other));
        assert_true(flow__idle_call(&idle, &bed[0].parker, STRIDE));
        assert_int_equal(load_seq(&bed[other].parker.word), FLOW__NOTIFIED);
        flow__idle_end_sentry(&idle);
        assert_true(flow__idle_call(&idle, &bed[0].parker, STRIDE)); /* without one, any */
        assert_false(flow__idle_call(&idle, &bed[0].parker, STRIDE));
    }
}

static void test_a_sleeper_may_look_up_and_stay_announced(void **state)
{
    int64_t begin_ns = flow_now();

    (void)state;
    idle_begin(2);
    flow__parker_announce(&bed[1].parker, &idle, 1);
    assert_true(flow__parker_wait(&bed[1].parker, flow_after(FLOW_MS(3))));
    assert_true(flow_now() - begin_ns >= FLOW_MS(3));
    assert_int_equal(sleepers(), 1);
    assert_true(flow__parker_wait(&bed[1].parker, flow_after(0)));
    assert_true(wake_one());
    assert_false(flow__parker_wait(&bed[1].parker, INT64_MAX));
    assert_int_equal(flow__parker_cancel(&bed[1].parker, &idle, 1), FLOW__SUMMONED);
    assert_int_equal(sleepers(), 0);
}

/* ---- a small scheduler: a lost wake-up leaves a producer waiting ---- */

#define CONSUMERS 4
#define PRODUCERS 3
#define PATIENCE  FLOW_S(5)

struct work {
    struct flow__link link;
    flow__atomic(bool) done;
};

static struct {
    struct flow__lock lock;
    struct flow__link *queue; /* under lock */
    flow__atomic(uint64_t) queued;
    struct flow__inbox inbox[CONSUMERS];
    flow__atomic(bool) end;
    flow__atomic(uint64_t) n_done, n_slept, n_summoned;
    uint64_t seed;
    int64_t items;
} yard;

static int sleepy_futex_wait(flow__atomic(uint32_t) *word, uint32_t expected, int64_t deadline)
{
    static __thread uint64_t random;

    random ^= (uintptr_t)&random;
    random_delay(&random);
    return flow__sys_real.futex_wait(word, expected, deadline);
}

static bool work_on(struct flow__link *link)
{
    bool any = link != NULL;

    while (link) {
        struct work *work = (struct work *)link;

        link = link->next; /* it is its producer's again when it is done */
        fetch_add_relaxed(&yard.n_done, 1);
        store_release(&work->done, true);
    }
    return any;
}

static struct flow__link *take_queued(void)
{
    struct flow__link *link;

    if (load_relaxed(&yard.queued) == 0)
        return NULL;
    flow__lock(&yard.lock);
    link = yard.queue;
    if (link) {
        yard.queue = link->next;
        link->next = NULL;
        store_relaxed(&yard.queued, load_relaxed(&yard.queued) - 1);
    }
    flow__unlock(&yard.lock);
    return link;
}

static void wake_another(void)
{
    if (flow__idle_wants_wake(&idle) && wake_one())
        fetch_add_relaxed(&yard.n_summoned, 1);
}

static bool find_something(int self, bool *searching, uint64_t *random)
{
    struct flow__link *link = NULL;

    if (!*searching)
        *searching = flow__idle_start_search(&idle);
    for (uint64_t i = *searching ? test_random(random) % 4 : 0; i > 0 && !link; i--) {
        link = take_queued();
        random_delay(random);
    }
    if (*searching && flow__idle_end_search(&idle) && link && load_relaxed(&yard.queued))
        wake_another();
    *searching = false;
    if (link)
        return work_on(link);
    return work_on(flow__inbox_take_all(&yard.inbox[self]));
}

static void *consumer(void *arg)
{
    int self = (int)(intptr_t)arg;
    struct flow__parker *parker = &bed[self].parker;
    uint64_t random = yard.seed + (uint64_t)self;
    bool searching = false;

    while (!load_acquire(&yard.end)) {
        uint32_t became;

        if (work_on(flow__inbox_take_all(&yard.inbox[self])) || work_on(take_queued()))
            continue;
        if (find_something(self, &searching, &random))
            continue;
        flow__parker_announce(parker, &idle, self);
        random_delay(&random);
        if (!flow__inbox_is_empty(&yard.inbox[self]) || load_seq(&yard.queued) || load_seq(&yard.end)) {
            became = flow__parker_cancel(parker, &idle, self);
        } else {
            fetch_add_relaxed(&yard.n_slept, 1);
            became = flow__parker_sleep(parker, &idle, self, INT64_MAX);
        }
        searching = became == FLOW__SUMMONED;
    }
    if (searching)
        flow__idle_end_search(&idle);
    return NULL;
}

static void hand_in(struct work *work, uint64_t choice)
{
    store_relaxed(&work->done, false);
    if (choice % 3 == 0) {
        int to = (int)(choice >> 8) % CONSUMERS;

        if (flow__inbox_push(&yard.inbox[to < 0 ? -to : to], &work->link))
            flow__parker_notify(&bed[to < 0 ? -to : to].parker);
        return;
    }
    flow__lock(&yard.lock);
    work->link.next = yard.queue;
    yard.queue = &work->link;
    store_relaxed(&yard.queued, load_relaxed(&yard.queued) + 1);
    flow__unlock(&yard.lock);
    wake_another();
}

static bool await_done(struct work *work)
{
    int64_t until = flow_now() + PATIENCE;

    for (int i = 0; !load_acquire(&work->done); i++) {
        if (i % 64 == 63 && flow_now() > until)
            return false;
        sched_yield();
    }
    return true;
}

static void *producer(void *arg)
{
    uint64_t random = yard.seed * 31 + (uintptr_t)arg;
    static struct work works[PRODUCERS][3];
    struct work *own = works[(uintptr_t)arg];

    for (int64_t i = 0; i < yard.items && !load_relaxed(&yard.end); i++) {
        int n = (int)(test_random(&random) % 3) + 1;

        for (int k = 0; k < n; k++)
            hand_in(&own[k], test_random(&random) >> 1);
        for (int k = 0; k < n; k++)
            if (!await_done(&own[k])) {
                EXPECT(!"a wake-up was lost");
                return NULL;
            }
        /* Long enough for all to fall asleep, sometimes. */
        for (uint64_t pause = test_random(&random) % 256; pause > 0; pause--)
            random_delay(&random);
    }
    return NULL;
}

static void test_no_wakeup_is_lost(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    idle_begin(CONSUMERS);
    memset(&yard, 0, sizeof yard);
    yard.seed = seed;
    yard.items = TEST_ROUNDS(4000, 800);
    flow__sys.futex_wait = sleepy_futex_wait;
    for (intptr_t i = 0; i < CONSUMERS; i++)
        begin(consumer, (void *)i);
    for (intptr_t i = 0; i < PRODUCERS; i++)
        begin(producer, (void *)i);
    for (int i = n_threads; i > CONSUMERS; i--)
        pthread_join(threads[--n_threads], NULL);
    exchange_seq(&yard.end, true);
    for (int i = 0; i < CONSUMERS; i++)
        flow__parker_notify(&bed[i].parker);
    join_all();
    flow__sys = flow__sys_real;
    assert_no_failures();
    assert_int_equal(load_seq(&yard.queued), 0);
    assert_int_equal(load_seq(&idle.state), 0);
    assert_int_equal(load_seq(&idle.map[0]), 0);
    print_message("%llu items, %llu sleeps, %llu summonses\n", (unsigned long long)load_seq(&yard.n_done),
                  (unsigned long long)load_seq(&yard.n_slept), (unsigned long long)load_seq(&yard.n_summoned));
    assert_true(load_seq(&yard.n_slept) > 0);
    assert_true(load_seq(&yard.n_summoned) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_wake_one_summons_one_sleeper_at_a_time),
        TEST(test_wake_one_passes_over_who_was_notified),
        TEST(test_parker_forgets_nothing),
        TEST(test_half_of_the_workers_may_search),
        TEST(test_at_most_one_is_summoned),
        TEST(test_the_sentry_is_woken_last_for_work_and_first_for_help),
        TEST(test_a_sleeper_may_look_up_and_stay_announced),
        TEST(test_no_wakeup_is_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
