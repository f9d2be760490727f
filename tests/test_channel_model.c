/* SPDX-License-Identifier: MIT
 *
 * Channels against a model: calls by chance, of which the model says who is served with what.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "core/channel.h"
#include "tests/support/test.h"

#include <errno.h>
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
