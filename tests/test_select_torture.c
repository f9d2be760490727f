/* SPDX-License-Identifier: MIT
 *
 * Select under torture: nothing is lost or comes twice, also where selects meet each other from both sides.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "core/channel.h"
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

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

static flow_result return_argument(void *arg)
{
    return flow_ok(arg);
}

/* ---- torture ---- */

enum { CHANNELS = 4, CASES = 12 };

enum { PLAIN = 4, SELECTORS = 8 };

static struct {
    struct flow_chan *chan[CHANNELS];
    struct flow_event event;
    _Atomic uint64_t sent, received, sent_sum, received_sum, sets, passed, joined, spawned;
    _Atomic uint64_t timed_out, cancelled, next;
    atomic_bool stop;
    uint64_t seed;
} torture;

static void has_sent(uint64_t x)
{
    atomic_fetch_add(&torture.sent, 1);
    atomic_fetch_add(&torture.sent_sum, x);
}

static void has_received(uint64_t x)
{
    EXPECT(x != 0);
    atomic_fetch_add(&torture.received, 1);
    atomic_fetch_add(&torture.received_sum, x);
}

static flow_deadline any_deadline(uint64_t x)
{
    return x % 4 == 0 ? FLOW_NOW : flow_after((int64_t)(x >> 8) % 300000);
}

/* Sends and receives without a select. */
static int plain_call(uint64_t random)
{
    struct flow_chan *c = torture.chan[random % CHANNELS];
    uint64_t x = random & 8 ? atomic_fetch_add(&torture.next, 1) : 0;
    int r = random & 8 ? flow_chan_send(c, &x, any_deadline(random >> 8))
                       : flow_chan_recv(c, &x, any_deadline(random >> 8));

    if (r == 0 && random & 8)
        has_sent(x);
    else if (r == 0)
        has_received(x);
    return r;
}

struct pending {
    bool sends, spawned;
    uint64_t value;
    flow_result result;
};

static void make_case(struct flow_case *c, struct pending *p, uint64_t random)
{
    struct flow_chan *chan = torture.chan[random % CHANNELS];
    flow_task task;

    p->value = 0;
    p->spawned = false;
    switch (random >> 4 & 7) {
    case 0:
        *c = flow_on_event(&torture.event);
        return;
    case 1:
        *c = flow_on_timer(flow_after((int64_t)(random >> 16) % 100000));
        return;
    case 2:
        EXPECT_EQ(flow_spawn(&task, return_argument, (void *)7), 0);
        atomic_fetch_add(&torture.spawned, 1);
        p->spawned = true;
        *c = flow_on_join(task, &p->result);
        return;
    case 3:
    case 4:
        p->value = atomic_fetch_add(&torture.next, 1);
        *c = flow_on_send(chan, &p->value);
        return;
    default:
        *c = flow_on_recv(chan, &p->value);
    }
}

static void after_choice(const struct flow_case *c, struct pending *p)
{
    if (c->error) {
        EXPECT_EQ(c->error, -EPIPE);
        return;
    }
    switch (c->kind) {
    case FLOW_CASE_SEND:
        has_sent(p->value);
        break;
    case FLOW_CASE_RECV:
        has_received(p->value);
        break;
    case FLOW_CASE_EVENT:
        atomic_fetch_add(&torture.passed, 1);
        break;
    case FLOW_CASE_JOIN:
        EXPECT(p->result.ptr == (void *)7);
        p->spawned = false;
        atomic_fetch_add(&torture.joined, 1);
        break;
    default:
        break;
    }
}

/* Whatever it did not take must still be there to be joined. */
static void join_rest(struct flow_case *c, struct pending *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i].spawned) {
            int r = flow_join(c[i].task, NULL, GENEROUS);

            EXPECT(r == 0 || r == -ECANCELED);
            if (r)
                EXPECT_EQ(flow_detach(c[i].task), 0);
            atomic_fetch_add(&torture.joined, 1);
        }
}

static int select_call(uint64_t *random)
{
    struct flow_case c[CASES];
    struct pending p[CASES];
    size_t n = 1 + test_random(random) % CASES;
    int r;

    for (size_t i = 0; i < n; i++)
        make_case(&c[i], &p[i], test_random(random));
    r = flow_select(c, n, any_deadline(test_random(random)));
    EXPECT(r < (int)n);
    if (r >= 0)
        after_choice(&c[r], &p[r]);
    join_rest(c, p, n);
    return r;
}

static void note_end(int r)
{
    if (r == -ETIMEDOUT)
        atomic_fetch_add(&torture.timed_out, 1);
    else if (r == -ECANCELED)
        atomic_fetch_add(&torture.cancelled, 1);
    else
        EXPECT(r >= 0 || r == -EPIPE);
}

static void play(uint64_t random, bool selects)
{
    int r = 0;

    while (!atomic_load(&torture.stop) && r != -ECANCELED) {
        uint64_t x = test_random(&random);

        r = selects ? select_call(&random) : plain_call(x);
        note_end(r);
        if (x % 16 == 0 && flow_event_set(&torture.event) == 0)
            atomic_fetch_add(&torture.sets, 1);
        if (flow_self().id)
            flow_yield();
    }
}

static flow_result plain_player(void *seed)
{
    play((uint64_t)(uintptr_t)seed, false);
    return flow_ok(NULL);
}

static flow_result select_player(void *seed)
{
    play((uint64_t)(uintptr_t)seed, true);
    return flow_ok(NULL);
}

static void *thread_player(void *seed)
{
    play((uint64_t)(uintptr_t)seed, true);
    return NULL;
}

static void count_left(void *element, void *unused)
{
    uint64_t x;

    (void)unused;
    memcpy(&x, element, sizeof x);
    has_received(x);
}

static void one_torture(int round, bool threads, bool closes)
{
    flow_task task[PLAIN + SELECTORS];
    pthread_t thread[2];

    torture.event = (struct flow_event)FLOW_EVENT_AUTO_INIT;
    torture.stop = false;
    for (int i = 0; i < CHANNELS; i++)
        torture.chan[i] = make((size_t)((round + i) % 4));
    for (int i = 0; i < PLAIN + SELECTORS; i++)
        assert_int_equal(flow_spawn(&task[i], i < PLAIN ? plain_player : select_player,
                                    (void *)(uintptr_t)test_random(&torture.seed)),
                         0);
    for (int i = 0; threads && i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, thread_player,
                                        (void *)(uintptr_t)test_random(&torture.seed)),
                         0);
    for (int i = 0; i < 6; i++) {
        test_nap(FLOW_MS(TEST_ROUNDS(5, 10)));
        flow_cancel(task[i * 2]);
        if (closes && i > 2)
            flow_chan_close(torture.chan[i - 2]);
    }
    atomic_store(&torture.stop, true);
    for (int i = 0; i < PLAIN + SELECTORS; i++)
        assert_int_equal(flow_join(task[i], NULL, GENEROUS), 0);
    for (int i = 0; threads && i < 2; i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    for (int i = 0; i < CHANNELS; i++)
        assert_int_equal(flow_chan_destroy(torture.chan[i], count_left, NULL), 0);
    assert_no_failures();
    assert_int_equal(torture.sent, torture.received);
    assert_int_equal(torture.sent_sum, torture.received_sum);
    assert_int_equal(torture.joined, torture.spawned);
    assert_true(torture.passed <= torture.sets);
}

static void test_torture(void **state)
{
    (void)state;
    torture.seed = test_seed();
    torture.next = 1;
    test_start();
    for (int round = 0; round < TEST_ROUNDS(16, 4); round++)
        one_torture(round, round & 1, round & 2);
    print_message("note: select torture, %llu sent = received, %llu timed out, %llu cancelled\n",
                  (unsigned long long)torture.sent, (unsigned long long)torture.timed_out,
                  (unsigned long long)torture.cancelled);
    assert_true(torture.sent > 0 && torture.passed > 0);
    assert_true(test_wait_until_empty());
    test_stop();
}

/* ---- selects against selects ---- */

/* All meet in two rendezvous channels, each ready for both sides of both: whoever waits is another's
 * peer. As many have sent as have received, and nobody has met itself. */
static flow_result meet(void *seed)
{
    uint64_t random = (uint64_t)(uintptr_t)seed, in[2], out[2] = {random, random};
    struct flow_case c[4];

    for (;;) {
        int r;

        c[0] = flow_on_send(torture.chan[0], &out[0]);
        c[1] = flow_on_recv(torture.chan[0], &in[0]);
        c[2] = flow_on_send(torture.chan[1], &out[1]);
        c[3] = flow_on_recv(torture.chan[1], &in[1]);
        r = flow_select(c, 4, FLOW_FOREVER);
        EXPECT(r >= 0);
        if (r < 0 || c[r].error == -EPIPE)
            return flow_ok(NULL);
        if (r & 1) {
            EXPECT(in[r / 2] != random);
            has_received(in[r / 2]);
        } else {
            has_sent(random);
        }
    }
}

static void test_meeting(void **state)
{
    enum { MANY = 40 };
    flow_task task[MANY];

    (void)state;
    memset(&torture, 0, sizeof torture);
    test_start();
    torture.chan[0] = make(0);
    torture.chan[1] = make(0);
    for (uintptr_t i = 0; i < MANY; i++)
        assert_int_equal(flow_spawn(&task[i], meet, (void *)(i + 1)), 0);
    test_nap(FLOW_MS(TEST_ROUNDS(200, 500)));
    assert_int_equal(flow_chan_close(torture.chan[0]), 0);
    assert_int_equal(flow_chan_close(torture.chan[1]), 0);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(flow_join(task[i], NULL, GENEROUS), 0);
    assert_no_failures();
    assert_true(torture.sent > MANY);
    assert_int_equal(torture.sent, torture.received);
    assert_int_equal(torture.sent_sum, torture.received_sum);
    destroy(torture.chan[0]);
    destroy(torture.chan[1]);
    assert_true(test_wait_until_empty());
    test_stop();
}

/* Two on different workers, each ready for the other at every moment, and without a deadline: if one went
 * to sleep although the other had come meanwhile, both would sleep for ever. */
static flow_result one_side(void *sends)
{
    const uint64_t rounds = TEST_ROUNDS(40000, 4000), last = UINT64_MAX;
    flow_deadline enough = flow_after(FLOW_S(5)); /* where others keep the CPUs busy a round may take a slice */
    uint64_t x = 0, never = 0;

    for (uint64_t i = 0; x != last; i++) {
        struct flow_case c[2];
        int r;

        if (sends)
            x = i < rounds && flow_now() < enough ? i : last;
        c[0] = sends ? flow_on_send(torture.chan[0], &x) : flow_on_recv(torture.chan[0], &x);
        c[1] = flow_on_recv(torture.chan[1], &never);
        r = flow_select(c, 2, FLOW_FOREVER);
        EXPECT(r == 0 && c[0].error == 0 && (x == i || x == last));
        if (r)
            break;
    }
    return flow_ok(NULL);
}

static void test_two_sides(void **state)
{
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    flow_task task[2];

    (void)state;
    test_start();
    torture.chan[0] = make(0);
    torture.chan[1] = make(0);
    how.flags = FLOW_PINNED;
    for (int i = 0; i < 2; i++) {
        how.worker = i % test_workers();
        assert_int_equal(flow_spawn_with(&task[i], &how, one_side, i ? &task[i] : NULL), 0);
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(flow_join(task[i], NULL, GENEROUS), 0);
    assert_no_failures();
    destroy(torture.chan[0]);
    destroy(torture.chan[1]);
    assert_true(test_wait_until_empty());
    test_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_torture),
        TEST(test_meeting),
        TEST(test_two_sides),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
