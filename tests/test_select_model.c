/* SPDX-License-Identifier: MIT
 *
 * Select against a model: cases by chance, of which the model says which may be chosen.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "core/channel.h"
#include "tests/support/test.h"

#include <errno.h>
#include <stdlib.h>
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

enum { CHANNELS = 4, CASES = 12, WAITING = 24, ROOM = 8 };

/* A select in a task of its own, which waits. */
struct chooser {
    struct flow_case c[CASES];
    uint64_t value[CASES]; /* sent, or received */
    size_t n;
    int r;
    flow_task task;
};

struct model {
    struct flow_chan *chan[CHANNELS];
    size_t capacity[CHANNELS];
    bool closed[CHANNELS];
    uint64_t queue[CHANNELS][ROOM];
    size_t count[CHANNELS];
    struct chooser *waiting[WAITING]; /* oldest first, as they stand in every channel */
    int n_waiting;
    uint64_t next;
};

static int channel_of(const struct model *m, const struct flow_case *c)
{
    for (int i = 0; i < CHANNELS; i++)
        if (c->chan == m->chan[i])
            return i;
    return -1;
}

static void push(struct model *m, int ch, uint64_t x)
{
    EXPECT(m->count[ch] < m->capacity[ch]);
    m->queue[ch][m->count[ch]++] = x;
}

static uint64_t pop(struct model *m, int ch)
{
    uint64_t x = m->queue[ch][0];

    memmove(m->queue[ch], m->queue[ch] + 1, --m->count[ch] * sizeof x);
    return x;
}

static flow_result run_chooser(void *arg)
{
    struct chooser *k = arg;

    k->r = flow_select(k->c, k->n, FLOW_FOREVER);
    return flow_ok(NULL);
}

/* The oldest waiting select that has such a case, and its position; -1: none. Which of two such
 * cases of one select stands first in the queue is the order of cases with the same channel; any. */
static int find_waiting(const struct model *m, int ch, bool sends, int *which)
{
    for (int i = 0; i < m->n_waiting; i++)
        for (size_t j = 0; j < m->waiting[i]->n; j++)
            if (channel_of(m, &m->waiting[i]->c[j]) == ch &&
                (m->waiting[i]->c[j].kind == FLOW_CASE_SEND) == sends) {
                *which = (int)j;
                return i;
            }
    return -1;
}

/* The i-th who waits must have returned with a case on this channel; gives the case. */
static int ends(struct model *m, int i, int ch, bool sends, int error)
{
    struct chooser *k = m->waiting[i];
    int r;

    EXPECT_EQ(flow_join(k->task, NULL, GENEROUS), 0);
    r = k->r;
    EXPECT(r >= 0 && (size_t)r < k->n);
    if (r < 0 || (size_t)r >= k->n)
        return -1;
    EXPECT_EQ(channel_of(m, &k->c[r]), ch);
    EXPECT_EQ(k->c[r].kind, sends ? FLOW_CASE_SEND : FLOW_CASE_RECV);
    EXPECT_EQ(k->c[r].error, error);
    return r;
}

static void forget(struct model *m, int i)
{
    free(m->waiting[i]);
    m->n_waiting--;
    memmove(m->waiting + i, m->waiting + i + 1, (size_t)(m->n_waiting - i) * sizeof *m->waiting);
}

/* x was sent by somebody to whom the channel was ready. */
static void model_sent(struct model *m, int ch, uint64_t x)
{
    int which, i = find_waiting(m, ch, false, &which), r;

    if (m->closed[ch])
        return;
    if (i < 0) {
        push(m, ch, x);
        return;
    }
    r = ends(m, i, ch, false, 0);
    EXPECT(r >= 0 && m->waiting[i]->value[r] == x);
    forget(m, i);
}

/* x was received by somebody. */
static void model_received(struct model *m, int ch, uint64_t x)
{
    int which, i, r;

    if (m->count[ch]) {
        EXPECT_EQ(x, pop(m, ch));
        i = find_waiting(m, ch, true, &which);
        if (i < 0)
            return;
        r = ends(m, i, ch, true, 0);
        push(m, ch, r >= 0 ? m->waiting[i]->value[r] : 0);
        forget(m, i);
        return;
    }
    i = find_waiting(m, ch, true, &which);
    EXPECT(m->closed[ch] || i >= 0);
    if (m->closed[ch] || i < 0)
        return;
    r = ends(m, i, ch, true, 0);
    EXPECT(r >= 0 && m->waiting[i]->value[r] == x);
    forget(m, i);
}

static bool model_ready(const struct model *m, int ch, bool sends)
{
    int which;

    if (m->closed[ch])
        return true;
    if (sends)
        return m->count[ch] < m->capacity[ch] || find_waiting(m, ch, false, &which) >= 0;
    return m->count[ch] || find_waiting(m, ch, true, &which) >= 0;
}

static bool any_ready(const struct model *m, const struct chooser *k)
{
    for (size_t i = 0; i < k->n; i++)
        if (model_ready(m, channel_of(m, &k->c[i]), k->c[i].kind == FLOW_CASE_SEND))
            return true;
    return false;
}

/* What a select has done that found something ready. */
static void model_chose(struct model *m, struct chooser *k)
{
    struct flow_case *c = &k->c[k->r];
    int ch = channel_of(m, c);
    bool sends = c->kind == FLOW_CASE_SEND;

    EXPECT(model_ready(m, ch, sends));
    EXPECT_EQ(c->error, m->closed[ch] && (sends || m->count[ch] == 0) ? -EPIPE : 0);
    if (c->error)
        return;
    if (sends)
        model_sent(m, ch, k->value[k->r]);
    else
        model_received(m, ch, k->value[k->r]);
}

static struct chooser *make_chooser(struct model *m, uint64_t x)
{
    struct chooser *k = calloc(1, sizeof *k);

    k->n = 1 + x % CASES;
    for (size_t i = 0; i < k->n; i++) {
        uint64_t kind = x >> (8 + 4 * i);

        k->value[i] = m->next++;
        k->c[i] = kind & 4 ? flow_on_send(m->chan[kind % CHANNELS], &k->value[i])
                           : flow_on_recv(m->chan[kind % CHANNELS], &k->value[i]);
    }
    return k;
}

static void model_select(struct model *m, uint64_t x)
{
    struct chooser *k = make_chooser(m, x);
    bool ready = any_ready(m, k);

    k->r = flow_select(k->c, k->n, FLOW_NOW);
    EXPECT_EQ(k->r >= 0, ready);
    EXPECT(k->r >= 0 || k->r == -ETIMEDOUT);
    if (k->r >= 0) {
        model_chose(m, k);
    } else if (m->n_waiting < WAITING) {
        EXPECT_EQ(flow_spawn_now(&k->task, run_chooser, k), 0);
        m->waiting[m->n_waiting++] = k;
        return;
    }
    free(k);
}

static void model_close(struct model *m, int ch)
{
    int which, i;

    EXPECT_EQ(flow_chan_close(m->chan[ch]), m->closed[ch] ? -EPIPE : 0);
    m->closed[ch] = true;
    for (int sends = 0; sends < 2; sends++)
        while ((i = find_waiting(m, ch, sends, &which)) >= 0) {
            struct chooser *k = m->waiting[i];

            EXPECT_EQ(flow_join(k->task, NULL, GENEROUS), 0);
            EXPECT(k->r >= 0 && channel_of(m, &k->c[k->r]) == ch && k->c[k->r].error == -EPIPE);
            forget(m, i);
        }
}

static void one_step(struct model *m, uint64_t x, bool may_close)
{
    int ch = (int)(x >> 60) % CHANNELS;
    uint64_t value = m->next;
    int r;

    switch (x % 8) {
    case 0:
        m->next++;
        r = flow_chan_try_send(m->chan[ch], &value);
        EXPECT_EQ(r, m->closed[ch] ? -EPIPE : model_ready(m, ch, true) ? 0 : -EAGAIN);
        if (r == 0)
            model_sent(m, ch, value);
        return;
    case 1:
        r = flow_chan_try_recv(m->chan[ch], &value);
        EXPECT_EQ(r, m->count[ch] ? 0 : m->closed[ch] ? -EPIPE : model_ready(m, ch, false) ? 0 : -EAGAIN);
        if (r == 0)
            model_received(m, ch, value);
        return;
    case 2:
        if (may_close && (x >> 50) % 64 == 0)
            model_close(m, ch);
        return;
    default:
        model_select(m, x >> 4);
    }
}

static uint64_t model_seed;

static void one_model(uint64_t *random)
{
    struct model *m = calloc(1, sizeof *m);
    int steps = 400;

    m->next = 1;
    for (int i = 0; i < CHANNELS; i++) {
        m->capacity[i] = test_random(random) % 4;
        m->chan[i] = make(m->capacity[i]);
    }
    for (int i = 0; i < steps; i++) {
        one_step(m, test_random(random), i > steps / 2);
        for (int ch = 0; ch < CHANNELS; ch++)
            EXPECT_EQ(flow_chan_count(m->chan[ch]), m->count[ch]);
    }
    for (int i = 0; i < CHANNELS; i++)
        model_close(m, i);
    EXPECT_EQ(m->n_waiting, 0);
    for (int i = 0; i < CHANNELS; i++)
        destroy(m->chan[i]);
    free(m);
}

static void many_models(void)
{
    uint64_t random = model_seed;

    for (int i = 0; i < TEST_ROUNDS(150, 20); i++)
        one_model(&random);
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
