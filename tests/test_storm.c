/* SPDX-License-Identifier: MIT
 *
 * Cancel storms: very many wait in a channel or a select and are cancelled while others send and
 * receive. By default they also start meanwhile; with FLOW_TEST_STORM all of them wait first.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "core/channel.h"
#include "tests/support/test.h"

#include <errno.h>
#include <stdlib.h>

#define GENEROUS flow_after(FLOW_S(30))

static struct flow_chan *make(size_t capacity)
{
    struct flow_chan *c = NULL;

    assert_int_equal(flow_chan_create(&c, sizeof(uint64_t), capacity), 0);
    return c;
}

/* Whoever waits in it has left its queues. */
static void destroy(struct flow_chan *c)
{
    assert_null(c->senders.first);
    assert_null(c->receivers.first);
    assert_int_equal(flow_chan_destroy(c, NULL, NULL), 0);
}

static flow_task *make_tasks(long n)
{
    flow_task *task = calloc((size_t)n, sizeof *task);

    assert_non_null(task);
    return task;
}

static void let_all_wait(struct flow_chan *c, long n)
{
    uint32_t inside;

    if (!getenv("FLOW_TEST_STORM"))
        return;
    do {
        test_nap(FLOW_MS(1));
        flow__spin_lock(&c->lock);
        inside = c->inside;
        flow__spin_unlock(&c->lock);
    } while (inside < (uint32_t)n);
}

/* How many were served; the others were cancelled. */
static uint64_t join_all(flow_task *task, long n)
{
    uint64_t served = 0;

    for (long i = 0; i < n; i++) {
        flow_result result;

        assert_int_equal(flow_join(task[i], &result, GENEROUS), 0);
        assert_true(result.error == 0 || result.error == -ECANCELED);
        served += result.error == 0;
    }
    free(task);
    return served;
}

static void report(long n, int64_t begin)
{
    print_message("%ld cancelled, all back after %.2f s\n", n, (double)(flow_now() - begin) / 1e9);
}

static flow_result recv_one(void *c)
{
    uint64_t x = 0;
    int r = flow_chan_recv(c, &x, FLOW_FOREVER);

    return r ? flow_err(r) : flow_ok_u64(x);
}

static flow_result send_one(void *c)
{
    uint64_t x = 77;
    int r = flow_chan_send(c, &x, FLOW_FOREVER);

    return r ? flow_err(r) : flow_ok_u64(x);
}

static void test_channel_storm(void **state)
{
    long many = test_storm_size(TEST_TSAN ? 4000 : TEST_SLOW ? 8000 : 60000) / 2;
    flow_task *receiver = make_tasks(many), *sender = make_tasks(many);
    struct flow_chan *empty, *full;
    uint64_t tried = 0, served, x = 0;
    int64_t begin;

    (void)state;
    test_start();
    empty = make(0);
    full = make(1);
    assert_int_equal(flow_chan_send(full, &x, FLOW_NOW), 0);
    for (long i = 0; i < many; i++) {
        assert_int_equal(flow_spawn(&receiver[i], recv_one, empty), 0);
        assert_int_equal(flow_spawn(&sender[i], send_one, full), 0);
    }
    let_all_wait(empty, many);
    let_all_wait(full, many);
    begin = flow_now();
    for (long i = 0; i < many; i++) {
        flow_cancel(receiver[i]);
        flow_cancel(sender[many - 1 - i]);
        if (i % 16 == 0) {
            tried += flow_chan_try_send(empty, &x) == 0;
            tried += flow_chan_try_recv(full, &x) == 0;
        }
    }
    served = join_all(receiver, many) + join_all(sender, many);
    report(2 * many, begin);
    /* The ring had one before them, and may have one of the last sender's. */
    assert_true(served + 1 == tried || served == tried || served == tried + 1);
    destroy(empty);
    destroy(full);
    assert_true(test_wait_until_empty());
    test_stop(); /* no stack is missing */
}

static flow_result select_two(void *arg)
{
    struct flow_chan **c = arg;
    uint64_t x = 0, y = 0;
    struct flow_case cases[2] = {flow_on_recv(c[0], &x), flow_on_recv(c[1], &y)};
    int r = flow_select(cases, 2, FLOW_FOREVER);

    EXPECT(r < 0 || cases[r].error || (r == 0 ? x : y) == 5);
    return r < 0 ? flow_err(r) : flow_ok_u64((uint64_t)r);
}

static void test_select_storm(void **state)
{
    long many = test_storm_size(TEST_TSAN ? 3000 : TEST_SLOW ? 5000 : 30000);
    flow_task *task = make_tasks(many);
    struct flow_chan *c[2];
    uint64_t x = 5, sent = 0, served;
    int64_t begin;

    (void)state;
    test_start();
    c[0] = make(0);
    c[1] = make(0);
    for (long i = 0; i < many; i++)
        assert_int_equal(flow_spawn(&task[i], select_two, c), 0);
    let_all_wait(c[1], many);
    begin = flow_now();
    for (long i = 0; i < many; i++) {
        flow_cancel(task[i]);
        if (i % 16 == 0)
            sent += flow_chan_try_send(c[i & 1], &x) == 0;
    }
    served = join_all(task, many);
    report(many, begin);
    assert_int_equal(sent, served);
    destroy(c[0]);
    destroy(c[1]);
    assert_true(test_wait_until_empty());
    test_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_channel_storm),
        TEST(test_select_storm),
    };

    return cmocka_run_group_tests_name("storm", tests, NULL, NULL);
}
