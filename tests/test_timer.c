/* SPDX-License-Identifier: MIT
 *
 * The timers of one worker against a sorted array, with a clock that the test moves. No
 * runtime runs. Checked after every operation:
 *   - what fires is due, is the earliest there is, and fires once;
 *   - flow__timers_next is a lower bound of the true next deadline, and lies after now
 *     unless something is due;
 *   - armed counts what is armed. */
#include "core/timer.h"
#include "sync/syscall.h"
#include "tests/support/test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_YEAR ((int64_t)365 * 24 * 3600 * 1000000000)
#define LATEST      (INT64_MAX - 1)

static struct flow__timers timers;

/* ---- the model ---- */

#define MOST_ARMED 4096

struct model {
    struct flow__timer *armed[MOST_ARMED]; /* sorted by deadline */
    uint32_t n;
    int64_t now;
    uint64_t random;
    struct flow__timer *idle[MOST_ARMED];
    uint32_t n_idle;
    uint32_t most;
    uint64_t n_added, n_removed, n_fired;
};

static struct model model;
static struct flow__timer pool[MOST_ARMED];

static void model_begin(uint64_t seed, int64_t now, uint32_t n_timers)
{
    memset(&model, 0, sizeof model);
    model.now = now;
    model.random = seed;
    flow__timers_init(&timers, now, -1);
    assert_int_equal(flow__timers_reserve(&timers, 1), 0);
    for (uint32_t i = 0; i < n_timers; i++) {
        memset(&pool[i], 0xa5, sizeof pool[i]); /* nothing may rely on zeroes */
        model.idle[model.n_idle++] = &pool[i];
    }
}

/* The first armed timer that is not before the deadline. */
static uint32_t model_find(int64_t deadline)
{
    uint32_t low = 0, high = model.n;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (model.armed[middle]->deadline < deadline)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void model_remove(uint32_t i)
{
    model.idle[model.n_idle++] = model.armed[i];
    memmove(&model.armed[i], &model.armed[i + 1], (--model.n - i) * sizeof model.armed[0]);
}

static int64_t true_next(void)
{
    return model.n ? model.armed[0]->deadline : INT64_MAX;
}

static void check_bounds(void)
{
    int64_t next = flow__timers_next(&timers), truth = true_next();

    if (load_relaxed(&timers.armed) != model.n)
        fail_msg("armed is %u, expected %u", load_relaxed(&timers.armed), model.n);
    if (next > truth)
        fail_msg("next %lld is after the true one %lld", (long long)next, (long long)truth);
    if (truth > model.now && next <= model.now)
        fail_msg("next %lld is not after now %lld, the true one is %lld", (long long)next, (long long)model.now,
                 (long long)truth);
    if (truth == INT64_MAX && next != INT64_MAX)
        fail_msg("next is %lld with no timer armed", (long long)next);
}

static void add_at(int64_t deadline)
{
    struct flow__timer *t = model.idle[--model.n_idle];
    uint32_t at = model_find(deadline);

    assert_int_equal(flow__timers_reserve(&timers, model.n + 1), 0);
    flow__timer_add(&timers, t, deadline);
    memmove(&model.armed[at + 1], &model.armed[at], (model.n - at) * sizeof model.armed[0]);
    model.armed[at] = t;
    model.n++;
    model.n_added++;
    if (model.n > model.most)
        model.most = model.n;
}

static void remove_one(uint32_t i)
{
    struct flow__timer *t = model.armed[i];

    flow__timer_remove(&timers, t);
    model_remove(i);
    model.n_removed++;
    memset(t, 0x5a, sizeof *t); /* it lay on a stack that is gone now */
}

/* Moves the clock and takes everything that is due; returns how many there were. */
static uint32_t advance_to(int64_t now)
{
    struct flow__timer *t;
    uint32_t n = 0;

    model.now = now;
    while ((t = flow__timers_expired(&timers, now))) {
        uint32_t i = 0;

        if (t->deadline > now)
            fail_msg("fired at %lld, %lld ns early", (long long)now, (long long)(t->deadline - now));
        if (model.n == 0 || t->deadline != model.armed[0]->deadline)
            fail_msg("fired %lld before %lld", (long long)t->deadline, (long long)true_next());
        while (i < model.n && model.armed[i] != t && model.armed[i]->deadline == t->deadline)
            i++;
        if (i == model.n || model.armed[i] != t)
            fail_msg("%s", "fired a timer that was not armed");
        model_remove(i);
        memset(t, 0x5a, sizeof *t);
        model.n_fired++;
        n++;
    }
    if (true_next() <= now)
        fail_msg("%lld is due at %lld and did not fire", (long long)true_next(), (long long)now);
    return n;
}

/* From nanoseconds to centuries, each order of magnitude as often as the others. */
static int64_t random_span(void)
{
    uint64_t r = test_random(&model.random);

    return (int64_t)(test_random(&model.random) >> (2 + r % 61));
}

static int64_t later(int64_t span_ns)
{
    int64_t at;

    return __builtin_add_overflow(model.now, span_ns, &at) || at > LATEST ? LATEST : at;
}

/* As a sleeping worker does: always on to flow__timers_next. Something must fire soon. */
static void sleep_until_one_fires(void)
{
    int steps = 0;

    while (model.n > 0 && flow__timers_next(&timers) <= LATEST) {
        int64_t next = flow__timers_next(&timers);

        if (next <= model.now)
            next = model.now; /* what was added in the past */
        if (advance_to(next))
            break;
        check_bounds();
        if (++steps > FLOW__WHEEL_LEVELS * FLOW__WHEEL_SLOTS)
            fail_msg("%d wake-ups and nothing was due", steps);
    }
}

static int64_t random_deadline(void)
{
    uint64_t r = test_random(&model.random);

    switch (r % 16) {
    case 0: /* one that another timer has */
        return model.n ? model.armed[(r >> 8) % model.n]->deadline : later(1);
    case 1: /* next to one */
        return model.n ? model.armed[(r >> 8) % model.n]->deadline - 1 : later(1);
    case 2: /* past */
        return model.now - (int64_t)(r >> 40);
    case 3:
        return (int64_t)(r >> 8 & 3) - 1;
    case 4: /* at an edge between ticks */
        return later(random_span()) & ~(((int64_t)1 << FLOW__TICK_SHIFT) - 1);
    case 5:
    case 6:
    case 7: /* the usual: milliseconds */
        return later((int64_t)(r >> 8) % FLOW_MS(100));
    default:
        return later(random_span());
    }
}

static void one_operation(uint32_t target)
{
    uint64_t r = test_random(&model.random);
    /* More adding below the target, more removing above it. */
    unsigned bias = model.n < target ? 11 : 5;

    if (r % 16 < bias && model.n_idle > 0) {
        add_at(random_deadline());
    } else if (r % 16 < 13 && model.n > 0) {
        remove_one((uint32_t)(r >> 8) % model.n);
    } else if (r % 16 == 13 && true_next() < later(FLOW_S(r >> 8 & 255 ? 1 : 1000000))) {
        sleep_until_one_fires(); /* seldom far: the clock must not run out too soon */
    } else if (r % 16 == 14) {
        advance_to(later(r >> 8 & 1023 ? (int64_t)(r >> 20) % FLOW_MS(50) : random_span() / 64));
    } else if (r >> 8 & 1) {
        advance_to(later((int64_t)(r >> 20) % 70000));
    } else {
        int64_t now = model.now; /* clocks of two reads may cross by a little */

        advance_to(now - (int64_t)(r >> 20) % 100000);
        if (true_next() > now)
            model.now = now;
        else
            advance_to(now);
    }
    check_bounds();
}

static void drain(void)
{
    while (model.n > 0)
        sleep_until_one_fires();
    check_bounds();
    assert_int_equal(timers.heap_count, 0);
    for (int l = 0; l < FLOW__WHEEL_LEVELS; l++)
        assert_int_equal(timers.occupied[l], 0);
    flow__timers_free(&timers);
}

static void test_a_million_operations_agree_with_a_sorted_list(void **state)
{
    static const int64_t starts[] = {0, 1, 65535, 65536, 1234567890123, NS_PER_YEAR, ((int64_t)1 << 46) - 3,
                                     ((int64_t)1 << 61) - 7};
    static const uint32_t targets[] = {4, 40, 400, 3000, 40, 1500, 10, 400};
    uint64_t seed = test_seed();
    int n = TEST_ROUNDS(1000000, 200000), eras = 0;

    (void)state;
    while (n > 0) {
        int s = eras++ % 8;

        model_begin(seed + (uint64_t)eras, starts[s], MOST_ARMED);
        /* Until no future is left. */
        for (int i = 0; i < 125000 && n > 0 && model.now < INT64_MAX / 8 * 7; i++, n--)
            one_operation(targets[s]);
        drain();
        print_message("up to %u armed: %llu added = %llu removed + %llu fired\n", model.most,
                      (unsigned long long)model.n_added, (unsigned long long)model.n_removed,
                      (unsigned long long)model.n_fired);
        assert_int_equal(model.n_added, model.n_removed + model.n_fired);
    }
}

/* ---- corners ---- */

static void test_every_edge_of_every_level(void **state)
{
    static const int64_t starts[] = {0, 1, 65535, 65536, 65537, (int64_t)63 << 16, ((int64_t)4096 << 16) - 1,
                                     ((int64_t)1 << 40) - 1, ((int64_t)1 << 52) + 12345};

    (void)state;
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        model_begin(1, starts[s], MOST_ARMED);
        for (int shift = 0; shift < 63; shift++)
            for (int64_t off = -2; off <= 2; off++)
                for (int64_t times = 1; times <= 3; times++)
                    if (shift < 61)
                        add_at(later((times << shift) + off));
        add_at(LATEST);
        add_at(INT64_MIN);
        add_at(-1);
        add_at(0);
        check_bounds();
        drain();
    }
}

static void test_a_jump_of_years_fires_each_once_in_order(void **state)
{
    (void)state;
    model_begin(test_seed(), 1000000, MOST_ARMED);
    for (int i = 0; i < 2000; i++)
        add_at(model.now + (int64_t)(test_random(&model.random) % (uint64_t)NS_PER_YEAR));
    for (int i = 0; i < 100; i++)
        add_at(model.now + 2 * NS_PER_YEAR);
    assert_int_equal(advance_to(model.now + NS_PER_YEAR), 2000);
    check_bounds();
    assert_int_equal(flow__timers_next(&timers), 1000000 + 2 * NS_PER_YEAR);
    assert_int_equal(advance_to(model.now + 200 * NS_PER_YEAR), 100);
    drain();
}

static void test_equal_deadlines_all_fire(void **state)
{
    (void)state;
    for (int shift = 0; shift < 60; shift += 7) {
        model_begin(1, 77777, MOST_ARMED);
        for (int i = 0; i < 500; i++)
            add_at(later((int64_t)1 << shift));
        for (int i = 0; i < 100; i++)
            remove_one((uint32_t)i * 3);
        assert_int_equal(advance_to(later(((int64_t)1 << shift) - 1)), 0);
        assert_int_equal(flow__timers_next(&timers), 77777 + ((int64_t)1 << shift));
        assert_int_equal(advance_to(later(1)), 400);
        drain();
    }
}

static void test_next_is_exact_for_what_is_alone(void **state)
{
    (void)state;
    for (int shift = 0; shift < 62; shift++) {
        model_begin(1, 12345678901, MOST_ARMED);
        add_at(later(((int64_t)1 << shift) + 12345));
        assert_int_equal(flow__timers_next(&timers), true_next());
        remove_one(0);
        assert_int_equal(flow__timers_next(&timers), INT64_MAX);
        drain();
    }
}

/* What deadlines mostly are: armed, and cancelled long before. */
static void test_arming_and_cancelling_leaves_nothing(void **state)
{
    struct flow__timer *many = calloc(100000, sizeof *many);
    uint64_t random = test_seed();

    (void)state;
    assert_non_null(many);
    flow__timers_init(&timers, 5000, -1);
    assert_int_equal(flow__timers_reserve(&timers, 100000), 0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 100000; i++)
            flow__timer_add(&timers, &many[i], 5000 + (int64_t)(test_random(&random) % FLOW_S(60)));
        assert_int_equal(load_relaxed(&timers.armed), 100000);
        for (int i = 0; i < 100000; i++)
            flow__timer_remove(&timers, &many[i * 7919LL % 100000]);
        assert_int_equal(load_relaxed(&timers.armed), 0);
        assert_int_equal(flow__timers_next(&timers), INT64_MAX);
        assert_null(flow__timers_expired(&timers, 5000 + round));
    }
    flow__timers_free(&timers);
    free(many);
}

/* ---- room ---- */

static int maps_left;

static void *refusing_map(size_t bytes, int prot, int flags)
{
    return maps_left-- > 0 ? flow__sys_real.map(bytes, prot, flags) : NULL;
}

static void test_reserve_grows_and_keeps_what_is_there(void **state)
{
    (void)state;
    model_begin(test_seed(), FLOW_S(1), MOST_ARMED);
    assert_true(timers.heap_capacity >= 1);
    for (int i = 0; i < 2000; i++) { /* in the heap: all in the past or the present tick */
        add_at(model.now - (int64_t)(test_random(&model.random) % FLOW_S(1)));
        assert_true(timers.heap_capacity >= model.n);
    }
    assert_int_equal(timers.heap_count, 2000);
    for (int i = 0; i < 500; i++)
        remove_one((uint32_t)(test_random(&model.random) % model.n));
    assert_int_equal(advance_to(model.now), 1500);
    drain();
}

static void test_reserve_that_fails_changes_nothing(void **state)
{
    (void)state;
    model_begin(1, FLOW_S(1), MOST_ARMED);
    for (int i = 0; i < 200; i++)
        add_at(model.now - i);
    flow__sys.map = refusing_map;
    maps_left = 0;
    assert_int_equal(flow__timers_reserve(&timers, 100), 0);
    assert_int_equal(flow__timers_reserve(&timers, 100000), -ENOMEM);
    flow__sys = flow__sys_real;
    assert_int_equal(timers.heap_count, 200);
    assert_int_equal(flow__timers_reserve(&timers, 100000), 0);
    assert_true(timers.heap_capacity >= 100000);
    assert_int_equal(advance_to(model.now), 200);
    drain();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_million_operations_agree_with_a_sorted_list),
        TEST(test_every_edge_of_every_level),
        TEST(test_a_jump_of_years_fires_each_once_in_order),
        TEST(test_equal_deadlines_all_fire),
        TEST(test_next_is_exact_for_what_is_alone),
        TEST(test_arming_and_cancelling_leaves_nothing),
        TEST(test_reserve_grows_and_keeps_what_is_there),
        TEST(test_reserve_that_fails_changes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
