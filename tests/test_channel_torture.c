/* SPDX-License-Identifier: MIT
 *
 * Channels under torture: coroutines and threads send and receive, cancel and close; nothing is lost or
 * comes twice. Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
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

enum { SENDERS = 8, RECEIVERS = 8 };

static struct {
    struct flow_chan *c;
    uint64_t per_sender;
    _Atomic uint64_t sent, received, sent_sum, received_sum, cancelled, timed_out;
    _Atomic int receivers_left;
    uint64_t seed;
} torture;

struct member {
    int index;
    uint64_t random;
    uint64_t last[SENDERS]; /* a receiver's: what it had last from each */
    flow_task task;
};

static flow_deadline any_deadline(uint64_t x)
{
    switch (x % 4) {
    case 0:
        return FLOW_NOW;
    case 1:
        return flow_after((int64_t)(x >> 8) % 20000);
    default:
        return FLOW_FOREVER;
    }
}

static void note_end(int r)
{
    if (r == -ECANCELED)
        atomic_fetch_add(&torture.cancelled, 1);
    else if (r == -ETIMEDOUT)
        atomic_fetch_add(&torture.timed_out, 1);
    else
        EXPECT(r == -EPIPE || r == -EAGAIN);
}

static int send_some(struct member *s, uint64_t first, uint64_t limit, uint64_t *value)
{
    uint64_t x = test_random(&s->random), batch[50], n = 1 + (x >> 40) % 50;
    int r;

    if (n > limit - first)
        n = limit - first;
    for (uint64_t i = 0; i < n; i++)
        batch[i] = (uint64_t)s->index << 56 | (first + i);
    *value = batch[0];
    if (x & 16)
        return flow_chan_send_many(torture.c, batch, n, any_deadline(x));
    r = x & 32 ? flow_chan_try_send(torture.c, batch)
               : flow_chan_send(torture.c, batch, any_deadline(x));
    return r ? r : 1;
}

/* What was not sent is sent again: then nothing may be missing, and nothing twice. */
static flow_result sender(void *arg)
{
    struct member *s = arg;
    uint64_t next = 1, value;

    while (next <= torture.per_sender) {
        int r = send_some(s, next, torture.per_sender + 1, &value);

        if (r > 0) {
            for (int i = 0; i < r; i++)
                atomic_fetch_add(&torture.sent_sum, value + (uint64_t)i);
            atomic_fetch_add(&torture.sent, (uint64_t)r);
            next += (uint64_t)r;
            continue;
        }
        note_end(r);
        if (r == -ECANCELED || r == -EPIPE)
            break;
        flow_yield();
    }
    return flow_ok(NULL);
}

static void take(struct member *m, uint64_t value)
{
    uint64_t from = value >> 56, number = value << 8 >> 8;

    EXPECT(from < SENDERS);
    if (from >= SENDERS)
        return;
    EXPECT(number > m->last[from]); /* what one sends stays in order */
    m->last[from] = number;
    atomic_fetch_add(&torture.received_sum, value);
}

static int recv_some(struct member *m, uint64_t *batch)
{
    uint64_t x = test_random(&m->random);
    int r;

    if (x & 16)
        return flow_chan_recv_many(torture.c, batch, 1 + (x >> 40) % 50, any_deadline(x));
    r = x & 32 ? flow_chan_try_recv(torture.c, batch)
               : flow_chan_recv(torture.c, batch, any_deadline(x));
    return r ? r : 1;
}

static flow_result receiver(void *arg)
{
    struct member *m = arg;
    uint64_t batch[50];

    for (;;) {
        int r = recv_some(m, batch);

        if (r > 0) {
            for (int i = 0; i < r; i++)
                take(m, batch[i]);
            atomic_fetch_add(&torture.received, (uint64_t)r);
            continue;
        }
        note_end(r);
        if (r == -ECANCELED || r == -EPIPE)
            break;
        flow_yield();
    }
    return flow_ok(NULL);
}

static void *receiver_thread(void *arg)
{
    struct member *m = arg;
    uint64_t batch[50];
    int r;

    while ((r = recv_some(m, batch)) != -EPIPE) {
        for (int i = 0; i < r; i++)
            take(m, batch[i]);
        if (r > 0)
            atomic_fetch_add(&torture.received, (uint64_t)r);
        else
            note_end(r);
    }
    return NULL;
}

static void *sender_thread(void *arg)
{
    struct member *s = arg;
    uint64_t next = 1, value;
    int r;

    while (next <= torture.per_sender) {
        r = send_some(s, next, torture.per_sender + 1, &value);
        if (r < 0) {
            note_end(r);
            continue;
        }
        for (int i = 0; i < r; i++)
            atomic_fetch_add(&torture.sent_sum, value + (uint64_t)i);
        atomic_fetch_add(&torture.sent, (uint64_t)r);
        next += (uint64_t)r;
    }
    return NULL;
}

static void count_left(void *element, void *arg)
{
    uint64_t x;

    memcpy(&x, element, sizeof x);
    atomic_fetch_add(&torture.received_sum, x);
    ++*(uint64_t *)arg;
}

/* threads: one sender and one receiver are foreign threads. some_cancelled: tasks of both kinds are
 * cancelled on the way, though never the last receiver. */
static void one_torture(size_t capacity, bool threads, bool some_cancelled)
{
    static struct member s[SENDERS], m[RECEIVERS];
    pthread_t thread[2];
    uint64_t left = 0;
    int first = threads ? 1 : 0;

    torture.c = make(8, capacity);
    torture.per_sender = (uint64_t)TEST_ROUNDS(20000, 1500) / (capacity ? 1 : 4);
    torture.sent = torture.received = torture.sent_sum = torture.received_sum = 0;
    for (int i = 0; i < SENDERS; i++)
        s[i] = (struct member){.index = i, .random = torture.seed + (uint64_t)i * 77 + capacity};
    for (int i = 0; i < RECEIVERS; i++)
        m[i] = (struct member){.index = i, .random = torture.seed + (uint64_t)i * 99 + 1};
    if (threads) {
        assert_int_equal(pthread_create(&thread[0], NULL, sender_thread, &s[0]), 0);
        assert_int_equal(pthread_create(&thread[1], NULL, receiver_thread, &m[0]), 0);
    }
    for (int i = first; i < SENDERS; i++)
        assert_int_equal(flow_spawn(&s[i].task, sender, &s[i]), 0);
    for (int i = first; i < RECEIVERS; i++)
        assert_int_equal(flow_spawn(&m[i].task, receiver, &m[i]), 0);
    for (int i = 2; some_cancelled && i < 6; i++) {
        test_nap((int64_t)(test_random(&torture.seed) % 200000));
        flow_cancel(s[i].task);
        flow_cancel(m[i].task);
    }
    for (int i = first; i < SENDERS; i++)
        assert_int_equal(flow_join(s[i].task, NULL, GENEROUS), 0);
    if (threads)
        assert_int_equal(pthread_join(thread[0], NULL), 0);
    assert_int_equal(flow_chan_close(torture.c), 0);
    for (int i = first; i < RECEIVERS; i++)
        assert_int_equal(flow_join(m[i].task, NULL, GENEROUS), 0);
    if (threads)
        assert_int_equal(pthread_join(thread[1], NULL), 0);
    assert_int_equal(flow_chan_destroy(torture.c, count_left, &left), 0);
    assert_no_failures();
    assert_int_equal(torture.sent, torture.received + left);
    assert_int_equal(torture.sent_sum, torture.received_sum);
    if (!some_cancelled)
        assert_int_equal(torture.sent, SENDERS * torture.per_sender);
}

static void test_torture(void **state)
{
    static const size_t capacities[] = {0, 1, 7, 128};

    (void)state;
    torture.seed = test_seed();
    test_start();
    for (size_t i = 0; i < 4; i++)
        for (int how = 0; how < 4; how++)
            one_torture(capacities[i], how & 1, how & 2);
    print_message("note: channel torture, %llu timed out, %llu cancelled\n",
                  (unsigned long long)torture.timed_out, (unsigned long long)torture.cancelled);
    assert_true(test_wait_until_empty());
    test_stop();
}

/* Closing in the middle: what was sent is received, and everybody comes back. */
static void test_torture_closed(void **state)
{
    static struct member s[SENDERS], m[RECEIVERS];
    uint64_t left = 0;

    (void)state;
    torture.seed = test_seed();
    test_start();
    for (int round = 0; round < TEST_ROUNDS(60, 10); round++) {
        torture.c = make(8, (size_t)(round % 5));
        torture.per_sender = UINT32_MAX;
        torture.sent = torture.received = torture.sent_sum = torture.received_sum = 0;
        for (int i = 0; i < SENDERS; i++) {
            s[i] = (struct member){.index = i, .random = torture.seed + (uint64_t)(round * 77 + i)};
            m[i] = (struct member){.index = i, .random = torture.seed + (uint64_t)(round * 99 + i)};
            assert_int_equal(flow_spawn(&s[i].task, sender, &s[i]), 0);
            assert_int_equal(flow_spawn(&m[i].task, receiver, &m[i]), 0);
        }
        test_nap((int64_t)(test_random(&torture.seed) % 1000000));
        assert_int_equal(flow_chan_close(torture.c), 0);
        for (int i = 0; i < SENDERS; i++) {
            assert_int_equal(flow_join(s[i].task, NULL, GENEROUS), 0);
            assert_int_equal(flow_join(m[i].task, NULL, GENEROUS), 0);
        }
        assert_int_equal(flow_chan_destroy(torture.c, count_left, &left), 0);
        assert_int_equal(left, 0);
        assert_no_failures();
        assert_int_equal(torture.sent, torture.received);
        assert_int_equal(torture.sent_sum, torture.received_sum);
    }
    assert_true(test_wait_until_empty());
    test_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_torture),
        TEST(test_torture_closed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
