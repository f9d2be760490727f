/* SPDX-License-Identifier: MIT
 *
 * Channels: against a model, under torture, and what they promise about closing, cancelling,
 * batches, foreign threads and their end. Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
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

/* ---- against a model ---- */

enum { MOST = 40, WIDEST = 104, PARTIES = 64, CHUNK = 32, RING = 256 };

/* A call that waits in a task of its own. Senders' elements are numbered one after the other. */
struct party {
    struct flow_chan *c;
    flow_task task;
    bool sends, many;
    size_t n;
    int r;
    uint32_t from, left; /* a sender's elements that were not passed on yet */
    uint32_t got[MOST], n_got;
    char at[MOST * WIDEST];
};

/* What a channel should be. A batch goes in chunks of 32. A sender of whose batch a part was passed on
 * queues again, behind the others, when its turn to run has come; a receiver looks for more then. */
struct model {
    size_t element_bytes, capacity;
    bool closed;
    uint32_t ring[RING], first, end; /* the numbers of the elements in it */
    struct party *waiting[PARTIES];  /* all senders or all receivers, oldest first */
    struct party *served[PARTIES];
    int n_waiting, n_served;
    uint32_t next; /* number of the next element that is made */
};

static void write_element(const struct model *m, char *at, uint32_t number)
{
    for (size_t i = 0; i < m->element_bytes; i++)
        at[i] = (char)((number >> (i % 4 * 8)) + i / 4 * 17);
}

static bool is_element(const struct model *m, const char *at, uint32_t number)
{
    char expected[WIDEST];

    write_element(m, expected, number);
    return m->element_bytes == 0 || memcmp(at, expected, m->element_bytes) == 0;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t model_count(const struct model *m)
{
    return m->end - m->first;
}

static bool waits(const struct model *m, bool sends)
{
    return m->n_waiting && m->waiting[0]->sends == sends;
}

static struct party *model_serve(struct model *m)
{
    struct party *p = m->waiting[0];

    m->n_waiting--;
    memmove(m->waiting, m->waiting + 1, (size_t)m->n_waiting * sizeof *m->waiting);
    m->served[m->n_served++] = p;
    return p;
}

static void model_push(struct model *m, uint32_t number, size_t n)
{
    while (n--)
        m->ring[m->end++ % RING] = number++;
}

/* As many of n numbers as go without waiting. */
static size_t model_put(struct model *m, uint32_t number, size_t n)
{
    size_t done = 0, before, end;

    do {
        before = done;
        end = done + least(n - done, CHUNK);
        while (done < end && waits(m, false)) {
            struct party *to = model_serve(m);

            while (done < end && to->n_got < to->n)
                to->got[to->n_got++] = number + (uint32_t)done++;
        }
        if (!waits(m, true)) {
            size_t room = least(end - done, m->capacity - model_count(m));

            model_push(m, number + (uint32_t)done, room);
            done += room;
        }
    } while (done > before && done < n);
    return done;
}

static size_t model_take_chunk(struct model *m, uint32_t *into, size_t n)
{
    size_t done = 0, part;

    while (done < n && model_count(m))
        into[done++] = m->ring[m->first++ % RING];
    while ((done < n || model_count(m) < m->capacity) && waits(m, true)) {
        struct party *from = model_serve(m);

        for (; done < n && from->left; from->left--)
            into[done++] = from->from++;
        part = least(from->left, m->capacity - model_count(m));
        model_push(m, from->from, part);
        from->from += (uint32_t)part;
        from->left -= (uint32_t)part;
    }
    return done;
}

static size_t model_take(struct model *m, uint32_t *into, size_t n)
{
    size_t done = 0, part;

    do {
        part = model_take_chunk(m, into + done, least(n - done, CHUNK));
        done += part;
    } while (part && done < n);
    return done;
}

static void model_end(struct model *m, struct party *p)
{
    int passed = p->sends ? (int)(p->n - p->left) : (int)p->n_got;

    EXPECT_EQ(flow_join(p->task, NULL, GENEROUS), 0);
    EXPECT_EQ(p->r, passed == 0 ? -EPIPE : p->many ? passed : 0);
    for (uint32_t i = 0; i < p->n_got; i++)
        EXPECT(is_element(m, p->at + i * m->element_bytes, p->got[i]));
    free(p);
}

/* Lets those who were served run, and looks at what they have. */
static void settle(struct model *m)
{
    if (m->n_served) {
        flow_yield();
        flow_yield();
    }
    for (int i = 0; i < m->n_served; i++) {
        struct party *p = m->served[i];

        if (p->sends && p->left && !m->closed) {
            size_t part = model_put(m, p->from, p->left);

            p->from += (uint32_t)part;
            p->left -= (uint32_t)part;
            if (p->left) {
                m->waiting[m->n_waiting++] = p;
                continue;
            }
        }
        if (!p->sends && p->n_got && p->n_got < p->n)
            p->n_got += (uint32_t)model_take(m, p->got + p->n_got, p->n - p->n_got);
        model_end(m, p);
    }
    m->n_served = 0;
}

static flow_result run_party(void *arg)
{
    struct party *p = arg;

    if (p->many)
        p->r = p->sends ? flow_chan_send_many(p->c, p->at, p->n, FLOW_FOREVER)
                        : flow_chan_recv_many(p->c, p->at, p->n, FLOW_FOREVER);
    else
        p->r = p->sends ? flow_chan_send(p->c, p->at, FLOW_FOREVER)
                        : flow_chan_recv(p->c, p->at, FLOW_FOREVER);
    return flow_ok(NULL);
}

/* Somebody who may have to wait. */
static void add_party(struct model *m, struct flow_chan *c, bool sends, bool many, size_t n)
{
    struct party *p;
    size_t part;

    if (m->n_waiting == PARTIES - 1)
        return;
    p = calloc(1, sizeof *p);
    *p = (struct party){.c = c, .sends = sends, .many = many, .n = n};
    if (sends) {
        p->from = m->next;
        p->left = (uint32_t)n;
        for (size_t i = 0; i < n; i++)
            write_element(m, p->at + i * m->element_bytes, m->next++);
    }
    EXPECT_EQ(flow_spawn_now(&p->task, run_party, p), 0);
    if (m->closed) {
        if (!sends)
            p->n_got = (uint32_t)model_take(m, p->got, n);
        model_end(m, p);
        return;
    }
    part = sends ? model_put(m, p->from, n) : model_take(m, p->got, n);
    if (sends) {
        p->from += (uint32_t)part;
        p->left -= (uint32_t)part;
    } else {
        p->n_got = (uint32_t)part;
    }
    if (sends ? p->left == 0 : part > 0)
        model_end(m, p);
    else
        m->waiting[m->n_waiting++] = p;
}

static void send_at_once(struct model *m, struct flow_chan *c, bool many, size_t n, bool try)
{
    char at[MOST * WIDEST];
    size_t goes;
    int r;

    for (size_t i = 0; i < n; i++)
        write_element(m, at + i * m->element_bytes, m->next + (uint32_t)i);
    r = many ? flow_chan_send_many(c, at, n, FLOW_NOW)
        : try ? flow_chan_try_send(c, at)
              : flow_chan_send(c, at, FLOW_NOW);
    if (m->closed) {
        EXPECT_EQ(r, -EPIPE);
        return;
    }
    goes = model_put(m, m->next, n);
    m->next += (uint32_t)n;
    EXPECT_EQ(r, goes ? (many ? (int)goes : 0) : try && !many ? -EAGAIN : -ETIMEDOUT);
}

static void recv_at_once(struct model *m, struct flow_chan *c, bool many, size_t n, bool try)
{
    char at[MOST * WIDEST];
    uint32_t number[MOST];
    size_t comes;
    int r = many ? flow_chan_recv_many(c, at, n, FLOW_NOW)
            : try ? flow_chan_try_recv(c, at)
                  : flow_chan_recv(c, at, FLOW_NOW);

    comes = model_take(m, number, n);
    EXPECT_EQ(r, comes       ? (many ? (int)comes : 0)
                 : m->closed ? -EPIPE
                 : try && !many ? -EAGAIN
                                : -ETIMEDOUT);
    for (size_t i = 0; i < comes; i++)
        EXPECT(is_element(m, at + i * m->element_bytes, number[i]));
}

static void model_close(struct model *m, struct flow_chan *c)
{
    EXPECT_EQ(flow_chan_close(c), m->closed ? -EPIPE : 0);
    m->closed = true;
    while (m->n_waiting)
        model_serve(m);
}

static void one_step(struct model *m, struct flow_chan *c, uint64_t x, bool may_close)
{
    bool many = x & 1, try = x & 2;
    size_t n = many ? 1 + (x >> 8) % MOST : 1;

    switch ((x >> 16) % 8) {
    case 0:
    case 1:
        send_at_once(m, c, many, n, try);
        break;
    case 2:
    case 3:
        recv_at_once(m, c, many, n, try);
        break;
    case 4:
    case 5:
        add_party(m, c, true, many, n);
        break;
    case 6:
        add_party(m, c, false, many, n);
        break;
    default:
        if (may_close && (x >> 24) % 16 == 0)
            model_close(m, c);
    }
    settle(m);
    EXPECT_EQ(flow_chan_count(c), model_count(m));
    if (m->n_waiting)
        EXPECT_EQ(flow_chan_destroy(c, NULL, NULL), -EBUSY);
}

static void against_model(size_t element_bytes, size_t capacity, uint64_t *random)
{
    struct flow_chan *c = make(element_bytes, capacity);
    struct model *m = calloc(1, sizeof *m);
    int steps = TEST_ROUNDS(1000, 200);
    char at[WIDEST];

    m->element_bytes = element_bytes;
    m->capacity = capacity;
    m->next = (uint32_t)test_random(random);
    for (int i = 0; i < steps; i++)
        one_step(m, c, test_random(random), i > steps / 2);
    model_close(m, c);
    settle(m);
    while (model_count(m))
        recv_at_once(m, c, true, 7, false);
    EXPECT_EQ(flow_chan_try_recv(c, at), -EPIPE);
    destroy(c);
    free(m);
}

static uint64_t model_seed;

static void many_models(void)
{
    static const size_t sizes[] = {0, 1, 3, 4, 8, 24, 100},
                        capacities[] = {0, 1, 2, 5, 32, 33, 128};
    uint64_t random = model_seed;

    for (size_t i = 0; i < 7; i++)
        for (size_t j = 0; j < 7; j++)
            against_model(sizes[i], capacities[j], &random);
}

static void test_model(void **state)
{
    (void)state;
    model_seed = test_seed();
    test_as_task(many_models);
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

/* ---- torture ---- */

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

/* All who wait in a channel are cancelled while others send, receive and close. */
static void test_cancel_storm(void **state)
{
    enum { MANY = TEST_TSAN ? 2000 : TEST_ASAN ? 4000 : 30000 };
    static flow_task tasks[2][MANY];
    struct flow_chan *c[2];
    uint64_t served = 0, x = 0;

    (void)state;
    test_start();
    c[0] = make(8, 0);
    c[1] = make(8, 1);
    assert_int_equal(flow_chan_send(c[1], &x, FLOW_NOW), 0);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(flow_spawn(&tasks[0][i], recv_one, c[0]), 0);
        assert_int_equal(flow_spawn(&tasks[1][i], send_one, c[1]), 0);
    }
    for (int i = 0; i < MANY; i++) {
        flow_cancel(tasks[0][i]);
        flow_cancel(tasks[1][MANY - 1 - i]);
        if (i % 16 == 0) {
            served += flow_chan_try_send(c[0], &x) == 0;
            served += flow_chan_try_recv(c[1], &x) == 0;
        }
    }
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < MANY; i++) {
            flow_result result;

            assert_int_equal(flow_join(tasks[k][i], &result, GENEROUS), 0);
            assert_true(result.error == 0 || result.error == -ECANCELED);
            served -= result.error == 0;
        }
    /* One more than the try calls: what the last sender put into the ring. */
    assert_true(served == 0 || served == (uint64_t)-1 || served == 1);
    for (int k = 0; k < 2; k++)
        assert_int_equal(flow_chan_destroy(c[k], NULL, NULL), 0);
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

static void next_to_greedy(void)
{
    struct flow_spawn_options here = FLOW_SPAWN_INIT;
    flow_task task;

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
}

static flow_result run_next_to_greedy(void *unused)
{
    (void)unused;
    next_to_greedy();
    return flow_ok(NULL);
}

/* Without its budget the greedy one would run for ever and the test into its limit. */
static void test_budget(void **state)
{
    struct flow_spawn_options here = FLOW_SPAWN_INIT;
    flow_task task;

    (void)state;
    test_start();
    here.worker = 0;
    here.flags = FLOW_PINNED;
    assert_int_equal(flow_spawn_with(&task, &here, run_next_to_greedy, NULL), 0);
    assert_int_equal(flow_join(task, NULL, GENEROUS), 0);
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
    struct flow_options driven = test_options();
    struct flow_chan *c;
    uint64_t x = 0;
    flow_task task;

    (void)state;
    test_start();
    between_threads(0);
    between_threads(3);
    test_stop();
    driven.workers = 0;
    test_start_with(&driven);
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
        TEST(test_model),          TEST(test_closing),
        TEST(test_making),         TEST(test_destroying_when_served),
        TEST(test_batch_edges),    TEST(test_torture),
        TEST(test_torture_closed), TEST(test_cancelled_calls),
        TEST(test_cancel_storm),   TEST(test_budget),
        TEST(test_threads),        TEST(test_shielded_calls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
