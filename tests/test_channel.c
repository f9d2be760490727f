/* SPDX-License-Identifier: MIT
 *
 * Channels: what they promise about closing, cancelling, batches, foreign threads and their end, and
 * what a call that waits is told. Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "core/channel.h"
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define GENEROUS flow_after(FLOW_S(30))

static struct flow_chan *make(size_t element_bytes, size_t capacity)
{
    struct flow_chan *c = NULL;

    EXPECT_EQ(flow_chan_create(&c, element_bytes, capacity), 0);
    return c;
}

static void destroy(struct flow_chan *c)
{
    EXPECT_EQ(flow_chan_destroy(c, NULL, NULL), 0);
}

static uint64_t must_join(flow_task task)
{
    flow_result result = {0};

    EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
    EXPECT_EQ(result.error, 0);
    return result.u64;
}

/* ---- the table of closing and draining ---- */

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

/* Until n tasks wait in c, or a while: from where a test runs there is no looking inside. */
static void pause_a_little(void)
{
    for (int i = 0; i < 20; i++)
        if (flow_self().id)
            flow_sleep(FLOW_US(50));
        else
            test_nap(FLOW_US(50));
}

static void closing(void)
{
    struct flow_chan *c = make(8, 2), *rendezvous = make(8, 0);
    flow_task tasks[8];
    flow_result result;
    uint64_t x = 1;

    EXPECT_EQ(flow_chan_send(c, &x, GENEROUS), 0);
    x = 2;
    EXPECT_EQ(flow_chan_send(c, &x, FLOW_NOW), 0);
    EXPECT_EQ(flow_chan_send(c, &x, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_chan_send(c, &x, flow_after(FLOW_US(200))), -ETIMEDOUT);
    EXPECT_EQ(flow_chan_try_send(c, &x), -EAGAIN);
    for (int i = 0; i < 4; i++)
        EXPECT_EQ(flow_spawn(&tasks[i], send_one, c), 0);
    for (int i = 4; i < 8; i++)
        EXPECT_EQ(flow_spawn(&tasks[i], recv_one, rendezvous), 0);
    pause_a_little();
    EXPECT_EQ(flow_chan_close(c), 0);
    EXPECT_EQ(flow_chan_close(c), -EPIPE);
    EXPECT_EQ(flow_chan_close(rendezvous), 0);
    for (int i = 0; i < 8; i++) {
        EXPECT_EQ(flow_join(tasks[i], &result, GENEROUS), 0);
        EXPECT_EQ(result.error, -EPIPE);
    }
    EXPECT_EQ(flow_chan_send(c, &x, GENEROUS), -EPIPE);
    EXPECT_EQ(flow_chan_try_send(c, &x), -EPIPE);
    EXPECT_EQ(flow_chan_send_many(c, &x, 1, GENEROUS), -EPIPE);
    /* It still gives what it has. */
    EXPECT_EQ(flow_chan_recv(c, &x, GENEROUS), 0);
    EXPECT_EQ(x, 1);
    EXPECT_EQ(flow_chan_try_recv(c, &x), 0);
    EXPECT_EQ(x, 2);
    EXPECT_EQ(flow_chan_recv(c, &x, GENEROUS), -EPIPE);
    EXPECT_EQ(flow_chan_recv(c, &x, FLOW_NOW), -EPIPE);
    EXPECT_EQ(flow_chan_recv_many(c, &x, 1, GENEROUS), -EPIPE);
    EXPECT_EQ(x, 2);
    EXPECT_EQ(flow_chan_close(c), -EPIPE);
    destroy(c);
    EXPECT_EQ(flow_chan_recv(rendezvous, &x, GENEROUS), -EPIPE);
    destroy(rendezvous);
}

static void test_closing(void **state)
{
    (void)state;
    test_from_both(closing);
}

/* ---- making and ending ---- */

static void count_drop(void *element, void *arg)
{
    uint64_t *sum = arg, x;

    memcpy(&x, element, sizeof x);
    *sum = *sum * 10 + x;
}

static void making(void)
{
    struct flow_chan *c = NULL;
    uint64_t order = 0;

    EXPECT_EQ(flow_chan_create(NULL, 8, 1), -EINVAL);
    EXPECT_EQ(flow_chan_create(&c, SIZE_MAX / 2, 3), -EINVAL);
    EXPECT_EQ(flow_chan_create(&c, 1, SIZE_MAX / 2 + 2), -EINVAL);
    EXPECT_EQ(flow_chan_create(&c, 0, SIZE_MAX), -EINVAL);
    EXPECT(c == NULL);
    EXPECT_EQ(flow_chan_destroy(NULL, NULL, NULL), 0);
    c = make(8, 3);
    for (uint64_t x = 0; x < 5; x++) { /* 2, 3, 4 stay, around the ring's end */
        EXPECT_EQ(flow_chan_try_send(c, &x), 0);
        if (x < 2)
            EXPECT_EQ(flow_chan_try_recv(c, &x), 0);
    }
    EXPECT_EQ(flow_chan_count(c), 3);
    EXPECT_EQ(flow_chan_destroy(c, count_drop, &order), 0);
    EXPECT_EQ(order, 234);
    c = make(0, 1000000000); /* signals take no memory */
    for (int i = 0; i < 1000; i++)
        EXPECT_EQ(flow_chan_try_send(c, NULL), 0);
    EXPECT_EQ(flow_chan_recv_many(c, NULL, 5000, FLOW_NOW), 1000);
    destroy(c);
}

static void test_making(void **state)
{
    struct flow_chan *early = make(4, 1);
    int x = 5;

    (void)state;
    assert_int_equal(flow_chan_try_send(early, &x), -ESHUTDOWN);
    assert_int_equal(flow_chan_send(early, &x, FLOW_FOREVER), -ESHUTDOWN);
    assert_int_equal(flow_chan_recv(early, &x, FLOW_FOREVER), -ESHUTDOWN);
    assert_int_equal(flow_chan_close(early), -ESHUTDOWN);
    test_from_both(making);
    assert_int_equal(flow_chan_destroy(early, NULL, NULL), 0);
}

/* Who was served may destroy the channel at once, whoever served it. */
static flow_result recv_and_destroy(void *c)
{
    uint64_t x = 0;

    EXPECT_EQ(flow_chan_recv(c, &x, FLOW_FOREVER), 0);
    EXPECT_EQ(x, 9);
    EXPECT_EQ(flow_chan_destroy(c, NULL, NULL), 0);
    return flow_ok(NULL);
}

static void destroying_when_served(void)
{
    uint64_t x = 9;
    flow_task task;

    for (int i = 0; i < TEST_ROUNDS(3000, 500); i++) {
        struct flow_chan *c = make(8, (size_t)(i % 3));

        EXPECT_EQ(flow_spawn(&task, recv_and_destroy, c), 0);
        for (int j = 0; j < i % 4; j++)
            if (flow_self().id)
                flow_yield();
        EXPECT_EQ(flow_chan_send(c, &x, GENEROUS), 0);
        must_join(task);
    }
}

static void test_destroying_when_served(void **state)
{
    (void)state;
    test_from_both(destroying_when_served);
}

/* ---- batches ---- */

static void batch_edges(void)
{
    static uint64_t in[1000], out[1000];
    struct flow_chan *c = make(8, 300);

    for (uint64_t i = 0; i < 1000; i++)
        in[i] = i;
    EXPECT_EQ(flow_chan_send_many(c, in, 0, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_chan_send_many(c, in, (size_t)INT32_MAX + 1, FLOW_FOREVER), -EINVAL);
    EXPECT_EQ(flow_chan_recv_many(c, out, 0, FLOW_FOREVER), -EINVAL);
    EXPECT_EQ(flow_chan_recv_many(c, out, (size_t)INT32_MAX + 1, FLOW_FOREVER), -EINVAL);
    EXPECT_EQ(flow_chan_recv_many(c, out, 10, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_chan_recv_many(c, out, 10, flow_after(FLOW_US(100))), -ETIMEDOUT);
    EXPECT_EQ(flow_chan_send_many(c, in, 200, FLOW_FOREVER), 200);
    EXPECT_EQ(flow_chan_recv_many(c, out, 150, FLOW_FOREVER), 150);
    EXPECT_EQ(flow_chan_send_many(c, in + 200, 800, flow_after(FLOW_US(100))), 250);
    EXPECT_EQ(flow_chan_send_many(c, in, 1, FLOW_NOW), -ETIMEDOUT);
    EXPECT_EQ(flow_chan_recv_many(c, out + 150, 1000, FLOW_FOREVER), 300);
    for (uint64_t i = 0; i < 450; i++)
        EXPECT_EQ(out[i], i);
    destroy(c);
}

static void test_batch_edges(void **state)
{
    (void)state;
    test_from_both(batch_edges);
}

/* ---- cancelling ---- */

static void cancelled_calls(void)
{
    struct flow_chan *c = make(8, 1);
    uint64_t x = 3;

    EXPECT_EQ(flow_chan_send(c, &x, GENEROUS), 0);
    flow_cancel(flow_self());
    EXPECT_EQ(flow_chan_recv(c, &x, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_chan_recv(c, &x, FLOW_NOW), -ECANCELED);
    EXPECT_EQ(flow_chan_send(c, &x, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_chan_recv_many(c, &x, 1, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_chan_count(c), 1);
    EXPECT_EQ(flow_chan_try_send(c, &x), -EAGAIN);
    EXPECT_EQ(flow_chan_try_recv(c, &x), 0); /* cleaning up is possible */
    EXPECT_EQ(flow_chan_close(c), 0);
    destroy(c);
}

static void test_cancelled_calls(void **state)
{
    (void)state;
    test_as_task(cancelled_calls);
}

static int use_channel(void *arg)
{
    struct flow_chan *c = arg;
    uint64_t x = 8;
    flow_task other;

    EXPECT_EQ(flow_chan_send(c, &x, GENEROUS), 0);
    EXPECT_EQ(flow_chan_recv(c, &x, FLOW_NOW), 0);
    EXPECT_EQ(flow_spawn(&other, send_one, c), 0);
    EXPECT_EQ(flow_chan_recv(c, &x, FLOW_FOREVER), 0); /* also when it has to wait */
    EXPECT_EQ(x, 77);
    EXPECT_EQ(flow_join(other, NULL, GENEROUS), 0);
    return 0;
}

static void shielded_calls(void)
{
    struct flow_chan *c = make(8, 1);
    struct flow_ambient past = FLOW_AMBIENT_INIT;
    uint64_t x = 1;

    EXPECT_EQ(flow_chan_send(c, &x, GENEROUS), 0);
    EXPECT_EQ(flow_deadline_push(&past, flow_now()), 0);
    EXPECT_EQ(flow_chan_recv(c, &x, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_deadline_pop(&past), 0);
    EXPECT_EQ(flow_chan_recv(c, &x, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_deadline_push(&past, flow_after(FLOW_US(200))), 0);
    EXPECT_EQ(flow_chan_recv(c, &x, FLOW_FOREVER), -ECANCELED); /* ended while it waited */
    EXPECT_EQ(flow_deadline_pop(&past), 0);
    flow_cancel(flow_self());
    EXPECT_EQ(flow_shield(use_channel, c), 0);
    EXPECT_EQ(flow_chan_recv(c, &x, FLOW_FOREVER), -ECANCELED);
    destroy(c);
}

static void test_shielded_calls(void **state)
{
    (void)state;
    test_as_task(shielded_calls);
}

/* ---- what a call that suspends as its last deed is told by who resumes it ---- */

static struct {
    struct flow_chan *c;
    atomic_int received, yielded, again;
    uint64_t x;
} told;

static flow_result be_told(void *unused)
{
    (void)unused;
    flow_yield(); /* the first suspension is one of another kind */
    told.received = flow_chan_recv(told.c, &told.x, FLOW_FOREVER);
    told.yielded = flow_yield();
    told.again = flow_chan_recv(told.c, &told.x, FLOW_FOREVER);
    return flow_ok(NULL);
}

static flow_result be_told_of_a_sleep(void *unused)
{
    (void)unused;
    told.received = flow_chan_recv(told.c, &told.x, FLOW_FOREVER);
    told.again = flow_sleep_until(FLOW_FOREVER);
    return flow_ok(NULL);
}

/* On the caller's worker; it waits when this returns. */
static flow_task pinned_here(flow_fn fn)
{
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    flow_task task;

    how.worker = 0;
    how.flags = FLOW_PINNED;
    EXPECT_EQ(flow_spawn_with(&task, &how, fn, NULL), 0);
    while (told.c->inside == 0)
        flow_yield();
    return task;
}

static flow_result tell(void *unused)
{
    uint64_t x = 5;
    flow_task task;

    (void)unused;
    told.c = make(8, 0);
    for (int i = 0; i < 3; i++) {
        told.received = told.yielded = told.again = 1;
        told.x = 0;
        task = pinned_here(be_told);
        if (i == 0) { /* served first: it has the element, and hears of the rest later */
            EXPECT_EQ(flow_chan_send(told.c, &x, FLOW_FOREVER), 0);
            EXPECT_EQ(flow_cancel(task), 0);
        } else if (i == 1) { /* cancelled while it yields */
            EXPECT_EQ(flow_chan_send(told.c, &x, FLOW_FOREVER), 0);
            while (told.received == 1)
                flow_yield();
            EXPECT_EQ(told.yielded, 1);
            EXPECT_EQ(flow_cancel(task), 0);
        } else { /* cancelled first: it has not left the channel before it goes on */
            EXPECT_EQ(flow_cancel(task), 0);
            EXPECT_EQ(flow_chan_destroy(told.c, NULL, NULL), -EBUSY);
            EXPECT_EQ(flow_chan_try_send(told.c, &x), -EAGAIN);
            EXPECT_EQ(flow_chan_destroy(told.c, NULL, NULL), -EBUSY);
        }
        EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
        EXPECT_EQ(told.received, i < 2 ? 0 : -ECANCELED);
        EXPECT_EQ(told.yielded, -ECANCELED);
        EXPECT_EQ(told.again, -ECANCELED);
        EXPECT_EQ(told.x, i < 2 ? 5 : 0);
        EXPECT_EQ(told.c->inside, 0);
    }
    told.received = told.again = 1;
    task = pinned_here(be_told_of_a_sleep);
    EXPECT_EQ(flow_chan_send(told.c, &x, FLOW_FOREVER), 0);
    while (told.received == 1)
        flow_yield();
    EXPECT_EQ(flow_cancel(task), 0); /* while it waits for something else: it has left the channel */
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
    EXPECT_EQ(told.again, -ECANCELED);
    EXPECT_EQ(told.c->inside, 0);
    told.received = told.yielded = told.again = 1;
    task = pinned_here(be_told);
    EXPECT_EQ(flow_chan_send(told.c, &x, FLOW_FOREVER), 0);
    while (told.c->inside == 0)
        flow_yield();
    EXPECT_EQ(flow_chan_close(told.c), 0);
    EXPECT_EQ(flow_cancel(task), 0); /* too late */
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
    EXPECT_EQ(told.yielded, 0);
    EXPECT_EQ(told.again, -EPIPE);
    destroy(told.c);
    return flow_ok(NULL);
}

static atomic_int kept_busy;

static flow_result keep_busy(void *unused)
{
    atomic_fetch_add(&kept_busy, 1);
    while (atomic_load(&kept_busy) > 0)
        ;
    return flow_ok(unused);
}

/* Nobody steals on other workers until kept_busy is below 0. */
static int keep_others_busy(flow_task *tasks)
{
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    int n = test_workers() - 1;

    how.flags = FLOW_PINNED;
    for (int i = 0; i < n; i++) {
        how.worker = i + 1;
        EXPECT_EQ(flow_spawn_with(&tasks[i], &how, keep_busy, NULL), 0);
    }
    while (atomic_load(&kept_busy) < n)
        flow_yield();
    return n;
}

/* What a wait has to think of also when it is not the first one. */
static flow_result mind_the_rest(void *unused)
{
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    flow_task others[TEST_MOST_WORKERS], sender;
    uint64_t x = 0;
    struct flow_job job;
    int n_others = keep_others_busy(others);

    (void)unused;
    told.c = make(8, 0);
    flow_yield();
    how.worker = 0;
    how.flags = FLOW_PINNED;
    EXPECT_EQ(flow_spawn_with(&sender, &how, send_one, told.c), 0);
    flow__reclaim_enter();
    EXPECT_EQ(flow_chan_recv(told.c, &x, FLOW_FOREVER), -EDEADLK); /* it has not started */
    flow__reclaim_leave();
    EXPECT_EQ(flow_chan_recv(told.c, &x, x ? FLOW_NOW : FLOW_FOREVER), 0);
    EXPECT_EQ(flow_join(sender, NULL, GENEROUS), 0);
    flow_fork(&job, send_one, told.c);
    EXPECT_EQ(flow_chan_recv(told.c, &x, FLOW_FOREVER), 0); /* the job sends, as a task */
    EXPECT_EQ(x, 77);
    EXPECT_EQ(flow_sync(&job).error, 0);
    atomic_store(&kept_busy, -1);
    for (int i = 0; i < n_others; i++)
        EXPECT_EQ(flow_join(others[i], NULL, GENEROUS), 0);
    atomic_store(&kept_busy, 0);
    destroy(told.c);
    return flow_ok(NULL);
}

/* From the test's own thread. */
static void run_on_worker_0(flow_fn fn)
{
    struct flow_spawn_options here = FLOW_SPAWN_INIT;
    flow_task task;

    here.worker = 0;
    here.flags = FLOW_PINNED;
    assert_int_equal(flow_spawn_with(&task, &here, fn, NULL), 0);
    assert_int_equal(flow_join(task, NULL, GENEROUS), 0);
}

static void test_told(void **state)
{
    (void)state;
    test_start();
    run_on_worker_0(tell);
    run_on_worker_0(mind_the_rest);
    assert_no_failures();
    assert_true(test_wait_until_empty());
    test_stop();
}

/* ---- a pair that never has to wait ---- */

static struct {
    struct flow_chan *c;
    atomic_bool stop;
    uint64_t rounds;
} greedy;

static flow_result be_greedy(void *unused)
{
    uint64_t x = 0;

    (void)unused;
    for (; !atomic_load(&greedy.stop); greedy.rounds++) {
        EXPECT_EQ(flow_chan_send(greedy.c, &x, FLOW_FOREVER), 0);
        EXPECT_EQ(flow_chan_recv(greedy.c, &x, FLOW_FOREVER), 0);
    }
    return flow_ok(NULL);
}

static flow_result next_to_greedy(void *unused)
{
    struct flow_spawn_options here = FLOW_SPAWN_INIT;
    flow_task task;

    (void)unused;
    here.worker = 0;
    here.flags = FLOW_PINNED;
    greedy.c = make(8, 1);
    greedy.stop = false;
    EXPECT_EQ(flow_spawn_with(&task, &here, be_greedy, NULL), 0);
    for (int i = 0; i < 100; i++) {
        EXPECT_EQ(flow_sleep(FLOW_US(100)), 0);
        flow_yield();
    }
    atomic_store(&greedy.stop, true);
    must_join(task);
    destroy(greedy.c);
    return flow_ok(NULL);
}

/* Without its budget the greedy one would run for ever and the test into its limit. */
static void test_budget(void **state)
{
    (void)state;
    test_start();
    run_on_worker_0(next_to_greedy);
    assert_true(greedy.rounds > 0);
    assert_true(test_wait_until_empty());
    test_stop();
}

/* ---- foreign threads ---- */

static void *send_from_thread(void *c)
{
    for (uint64_t x = 1; x <= 200; x++)
        EXPECT_EQ(flow_chan_send(c, &x, GENEROUS), 0);
    return NULL;
}

/* Two threads and nobody else, also where the program itself drives the runtime. */
static void between_threads(size_t capacity)
{
    struct flow_chan *c = make(8, capacity);
    pthread_t thread;
    uint64_t sum = 0, x = 0;

    assert_int_equal(pthread_create(&thread, NULL, send_from_thread, c), 0);
    for (int i = 0; i < 200; i++) {
        EXPECT_EQ(flow_chan_recv(c, &x, GENEROUS), 0);
        sum += x;
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(sum, 200 * 201 / 2);
    destroy(c);
}

static void test_threads(void **state)
{
    struct flow_chan *c;
    uint64_t x = 0;
    flow_task task;

    (void)state;
    test_start();
    between_threads(0);
    between_threads(3);
    test_stop();
    test_start_driven();
    between_threads(0);
    between_threads(3);
    c = make(8, 0);
    assert_int_equal(flow_spawn(&task, send_one, c), 0);
    assert_int_equal(flow_chan_recv(c, &x, FLOW_FOREVER), 0);
    assert_int_equal(x, 77);
    assert_int_equal(flow_chan_recv(c, &x, FLOW_FOREVER), -EDEADLK); /* nobody is left */
    assert_int_equal(flow_chan_recv(c, &x, flow_after(FLOW_MS(1))), -ETIMEDOUT);
    destroy(c);
    must_join(task);
    test_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_closing),
        TEST(test_making),
        TEST(test_destroying_when_served),
        TEST(test_batch_edges),
        TEST(test_cancelled_calls),
        TEST(test_told),
        TEST(test_budget),
        TEST(test_threads),
        TEST(test_shielded_calls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
