/* SPDX-License-Identifier: MIT
 *
 * Select: each kind of case, fairness, the end of a channel, cancellation, and very many cases.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "core/channel.h"
#include "tests/support/test.h"

#include <errno.h>

#define GENEROUS flow_after(FLOW_S(30))

static struct flow_chan *make(size_t capacity)
{
    struct flow_chan *c = NULL;

    EXPECT_EQ(flow_chan_create(&c, sizeof(uint64_t), capacity), 0);
    return c;
}

static void destroy(struct flow_chan *c)
{
    EXPECT_EQ(flow_chan_destroy(c, NULL, NULL), 0);
}

static void rest(void)
{
    if (flow_self().id)
        flow_sleep(FLOW_US(100));
    else
        test_nap(FLOW_US(100));
}

static flow_result return_argument(void *arg)
{
    return flow_ok(arg);
}

static flow_result sleep_for_ever(void *unused)
{
    (void)unused;
    return flow_err(flow_sleep_until(FLOW_FOREVER));
}

/* ---- each kind, ready and not ---- */

static void refusals(void)
{
    struct flow_case cases[3] = {{FLOW_CASE_NONE}};
    struct flow_chan *c = make(1);
    uint64_t x = 0;

    EXPECT_EQ(flow_select(NULL, 1, FLOW_NOW), -EINVAL);
    EXPECT_EQ(flow_select(cases, FLOW_SELECT_MOST + 1, FLOW_NOW), -EINVAL);
    cases[1] = flow_on_recv(NULL, &x);
    EXPECT_EQ(flow_select(cases, 2, FLOW_NOW), -EINVAL);
    cases[1] = flow_on_event(NULL);
    EXPECT_EQ(flow_select(cases, 2, FLOW_NOW), -EINVAL);
    cases[1] = flow_on_recv(c, &x);
    cases[2].kind = (enum flow_case_kind)(FLOW_CASE_TIMER + 1);
    EXPECT_EQ(flow_select(cases, 3, FLOW_NOW), -EINVAL);
    EXPECT_EQ(flow_select(cases, 2, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_select(cases, 2, flow_after(FLOW_US(200))), -ETIMEDOUT);
    EXPECT_EQ(flow_select(cases, 1, flow_after(FLOW_US(200))), -ETIMEDOUT);
    EXPECT_EQ(flow_select(NULL, 0, flow_after(FLOW_US(200))), -ETIMEDOUT);
    destroy(c);
}

static void test_refusals(void **state)
{
    (void)state;
    test_from_both(refusals);
}

static void ready_channels(void)
{
    struct flow_chan *full = make(1), *empty = make(1), *closed = make(1);
    uint64_t x = 5, y = 0;
    struct flow_case c[2];

    EXPECT_EQ(flow_chan_send(full, &x, FLOW_NOW), 0);
    EXPECT_EQ(flow_chan_close(closed), 0);
    c[0] = flow_on_send(full, &x);
    c[1] = flow_on_recv(empty, &y);
    EXPECT_EQ(flow_select(c, 2, FLOW_NOW), -ETIMEDOUT);
    c[0] = flow_on_recv(full, &y);
    EXPECT_EQ(flow_select(c, 2, GENEROUS), 0);
    EXPECT(c[0].error == 0 && y == 5 && flow_chan_count(full) == 0);
    x = 6;
    c[1] = flow_on_send(empty, &x);
    EXPECT_EQ(flow_select(c, 2, FLOW_NOW), 1);
    EXPECT(c[1].error == 0 && flow_chan_count(empty) == 1);
    c[1] = flow_on_send(closed, &x);
    EXPECT_EQ(flow_select(c, 2, FLOW_NOW), 1);
    EXPECT_EQ(c[1].error, -EPIPE);
    c[1] = flow_on_recv(closed, &x);
    EXPECT_EQ(flow_select(c, 2, GENEROUS), 1);
    EXPECT_EQ(c[1].error, -EPIPE);
    destroy(full);
    destroy(empty);
    destroy(closed);
}

static void test_ready_channels(void **state)
{
    (void)state;
    test_from_both(ready_channels);
}

static void joins(void)
{
    struct flow_chan *never = make(0);
    flow_task task, endless;
    flow_result result = {0};
    struct flow_case c[3];
    uint64_t x;

    EXPECT_EQ(flow_spawn(&endless, sleep_for_ever, NULL), 0);
    for (uintptr_t i = 1; i < 300; i++) {
        EXPECT_EQ(flow_spawn(&task, return_argument, (void *)i), 0);
        if (i % 3 == 0)
            rest();
        c[0] = flow_on_recv(never, &x);
        c[1] = flow_on_join(endless, NULL);
        c[2] = flow_on_join(task, &result);
        EXPECT_EQ(flow_select(c, 3, GENEROUS), 2);
        EXPECT(c[2].error == 0 && result.error == 0 && result.ptr == (void *)i);
        EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -ESRCH);
    }
    EXPECT_EQ(flow_select(c, 2, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_select(c, 2, flow_after(FLOW_US(100))), -ETIMEDOUT);
    EXPECT_EQ(flow_select(c, 3, GENEROUS), 2); /* a stale handle: ready, and says so */
    EXPECT_EQ(c[2].error, -ESRCH);
    c[2] = c[1];
    EXPECT_EQ(flow_select(c, 3, GENEROUS), 2);
    EXPECT_EQ(c[2].error, -EINVAL);
    c[2] = flow_on_join(flow_self(), NULL);
    EXPECT_EQ(flow_select(c, 3, GENEROUS), 2);
    EXPECT_EQ(c[2].error, flow_self().id ? -EDEADLK : -ESRCH);
    flow_cancel(endless);
    EXPECT_EQ(flow_join(endless, &result, GENEROUS), 0); /* it was never taken */
    EXPECT_EQ(result.error, -ECANCELED);
    destroy(never);
}

static void test_joins(void **state)
{
    (void)state;
    test_from_both(joins);
}

/* ---- a select that lets others run, on its worker, has let go of the tasks that it did not choose ---- */

struct neighbours {
    flow_task endless;
    atomic_bool done;
};

static flow_result select_often(void *arg)
{
    struct neighbours *n = arg;
    struct flow_event set = FLOW_EVENT_INIT;
    struct flow_case c[2] = {flow_on_event(&set), flow_on_join(n->endless, NULL)};

    EXPECT_EQ(flow_event_set(&set), 0);
    while (!atomic_load(&n->done))
        EXPECT_EQ(flow_select(c, 2, GENEROUS), 0);
    return flow_ok(NULL);
}

static flow_result try_to_join(void *arg)
{
    struct neighbours *n = arg;

    for (int i = 0; i < 50; i++) {
        EXPECT_EQ(flow_join(n->endless, NULL, FLOW_NOW), -ETIMEDOUT);
        EXPECT_EQ(flow_yield(), 0);
    }
    atomic_store(&n->done, true);
    return flow_ok(NULL);
}

static flow_result select_beside_join(void *unused)
{
    struct flow_spawn_options here = FLOW_SPAWN_INIT;
    struct neighbours n = {.done = false};
    flow_task selects, joins;

    (void)unused;
    here.worker = 0;
    here.flags = FLOW_PINNED;
    EXPECT_EQ(flow_spawn(&n.endless, sleep_for_ever, NULL), 0);
    EXPECT_EQ(flow_spawn_with(&selects, &here, select_often, &n), 0);
    EXPECT_EQ(flow_spawn_with(&joins, &here, try_to_join, &n), 0);
    EXPECT_EQ(flow_join(selects, NULL, GENEROUS), 0);
    EXPECT_EQ(flow_join(joins, NULL, GENEROUS), 0);
    flow_cancel(n.endless);
    EXPECT_EQ(flow_join(n.endless, NULL, GENEROUS), 0);
    return flow_ok(NULL);
}

static void test_select_beside_join(void **state)
{
    (void)state;
    test_in_coroutine(select_beside_join);
}

static flow_result set_event(void *e)
{
    flow_yield();
    EXPECT_EQ(flow_event_set(e), 0);
    return flow_ok(NULL);
}

static void events(void)
{
    struct flow_event automatic = FLOW_EVENT_AUTO_INIT, manual = FLOW_EVENT_INIT;
    struct flow_chan *never = make(0);
    struct flow_case c[3];
    uint64_t x;

    c[0] = flow_on_recv(never, &x);
    c[1] = flow_on_event(&automatic);
    c[2] = flow_on_event(&manual);
    EXPECT_EQ(flow_select(c, 3, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_event_set(&automatic), 0);
    EXPECT_EQ(flow_select(c, 3, GENEROUS), 1);
    EXPECT_EQ(flow_select(c, 3, flow_after(FLOW_US(100))), -ETIMEDOUT); /* used up */
    for (int i = 0; i < 300; i++) {
        flow_task task;

        EXPECT_EQ(flow_spawn(&task, set_event, &automatic), 0);
        EXPECT_EQ(flow_select(c, 3, GENEROUS), 1);
        EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
    }
    EXPECT_EQ(flow_select(c, 3, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_event_set(&manual), 0);
    for (int i = 0; i < 3; i++)
        EXPECT_EQ(flow_select(c, 3, GENEROUS), 2); /* stays set */
    flow_event_reset(&manual);
    EXPECT_EQ(flow_select(c, 3, FLOW_NOW), -ETIMEDOUT);
    destroy(never);
}

static void test_events(void **state)
{
    (void)state;
    test_from_both(events);
}

static void timers(void)
{
    struct flow_chan *never = make(0);
    struct flow_case c[3];
    flow_deadline at;
    uint64_t x;

    c[0] = flow_on_recv(never, &x);
    c[1] = flow_on_timer(FLOW_FOREVER);
    for (int i = 0; i < 20; i++) {
        at = flow_after(FLOW_US(100));
        c[2] = flow_on_timer(at);
        EXPECT_EQ(flow_select(c, 3, i % 2 ? FLOW_FOREVER : at), 2);
        EXPECT(flow_now() >= at);
        EXPECT_EQ(flow_select(c, 3, FLOW_NOW), 2); /* in the past: ready */
        c[2] = flow_on_timer(flow_after(FLOW_S(20)));
        EXPECT_EQ(flow_select(c, 3, flow_after(FLOW_US(100))), -ETIMEDOUT);
    }
    destroy(never);
}

static void test_timers(void **state)
{
    (void)state;
    test_from_both(timers);
}

/* ---- fairness ---- */

/* Each of four ready cases, two of them on one channel, is chosen about as often. */
static void fairness(void)
{
    struct flow_chan *a = make(100000), *b = make(100000);
    struct flow_event set = FLOW_EVENT_INIT;
    int chosen[6] = {0}, rounds = 6000;
    struct flow_case c[6];
    uint64_t x = 0;

    EXPECT_EQ(flow_event_set(&set), 0);
    for (int i = 0; i < 20000; i++)
        EXPECT_EQ(flow_chan_send(a, &x, FLOW_FOREVER), 0);
    c[0] = flow_on_recv(a, &x);
    c[1] = (struct flow_case){FLOW_CASE_NONE};
    c[2] = flow_on_send(a, &x);
    c[3] = flow_on_send(b, &x);
    c[4] = flow_on_event(&set);
    c[5] = flow_on_timer(FLOW_FOREVER);
    for (int i = 0; i < rounds; i++) {
        int k = flow_select(c, 6, FLOW_NOW);

        EXPECT(k >= 0 && k < 6);
        chosen[k < 0 ? 0 : k]++;
    }
    EXPECT_EQ(chosen[1] + chosen[5], 0);
    for (int i = 0; i < 5; i++)
        if (i != 1)
            EXPECT(chosen[i] > rounds / 5 && chosen[i] < rounds * 3 / 10);
    destroy(a);
    destroy(b);
}

static void test_fairness(void **state)
{
    (void)state;
    test_from_both(fairness);
}

/* ---- the end of a channel, cancellation, many ---- */

static flow_result select_two(void *arg)
{
    struct flow_chan **c = arg;
    uint64_t x = 0, y = 0;
    struct flow_case cases[2] = {flow_on_recv(c[0], &x), flow_on_recv(c[1], &y)};
    int r = flow_select(cases, 2, FLOW_FOREVER);

    EXPECT(r < 0 || cases[r].error || (r == 0 ? x : y) == 5);
    return r < 0 ? flow_err(r) : flow_ok_u64((uint64_t)r);
}

/* Who was served through one channel does not look at it again: the sender may end it. */
static void ending_the_chosen(void)
{
    struct flow_chan *c[2] = {make(0), NULL};
    flow_result result;
    flow_task task;
    uint64_t x = 5;

    for (int i = 0; i < TEST_ROUNDS(2000, 300); i++) {
        c[1] = make(0);
        EXPECT_EQ(flow_spawn(&task, select_two, c), 0);
        EXPECT_EQ(flow_chan_send(c[1], &x, GENEROUS), 0);
        destroy(c[1]);
        EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
        EXPECT(result.error == 0 && result.u64 == 1);
    }
    destroy(c[0]); /* nobody is left in it */
}

static void test_ending_the_chosen(void **state)
{
    (void)state;
    test_from_both(ending_the_chosen);
}

static void many_cases(void)
{
    static struct flow_case c[FLOW_SELECT_MOST];
    static struct flow_chan *chan[FLOW_SELECT_MOST];
    uint64_t x = 0, y = 9;

    for (size_t i = 0; i < FLOW_SELECT_MOST; i++) {
        chan[i] = make(1);
        c[(i * 7) % FLOW_SELECT_MOST] = flow_on_recv(chan[i], &x);
    }
    EXPECT_EQ(flow_select(c, FLOW_SELECT_MOST, flow_after(FLOW_US(100))), -ETIMEDOUT);
    EXPECT_EQ(flow_chan_send(chan[800], &y, FLOW_NOW), 0);
    EXPECT_EQ(flow_select(c, FLOW_SELECT_MOST, FLOW_FOREVER), (800 * 7) % FLOW_SELECT_MOST);
    EXPECT_EQ(x, 9);
    for (size_t i = 0; i < FLOW_SELECT_MOST; i++)
        destroy(chan[i]);
}

static void test_many_cases(void **state)
{
    (void)state;
    test_from_both(many_cases);
}

static void cancelled_select(void)
{
    struct flow_chan *c = make(1);
    uint64_t x = 1;
    struct flow_case cases[1] = {flow_on_send(c, &x)};

    flow_cancel(flow_self());
    EXPECT_EQ(flow_select(cases, 1, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_select(cases, 1, FLOW_NOW), -ECANCELED);
    EXPECT_EQ(flow_chan_count(c), 0);
    destroy(c);
}

static void test_cancelled_select(void **state)
{
    (void)state;
    test_as_task(cancelled_select);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_refusals),
        TEST(test_ready_channels),
        TEST(test_joins),
        TEST(test_select_beside_join),
        TEST(test_events),
        TEST(test_timers),
        TEST(test_fairness),
        TEST(test_many_cases),
        TEST(test_cancelled_select),
        TEST(test_ending_the_chosen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
