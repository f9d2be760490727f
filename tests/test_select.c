/* SPDX-License-Identifier: MIT
 *
 * Select: each kind of case, fairness, a model, and torture in which nothing may be lost or come
 * twice. Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
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

/* ---- against a model ---- */

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

/* ---- torture ---- */

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
    enum { ROUNDS = TEST_ROUNDS(40000, 4000) };
    uint64_t in = 0, never = 0;

    for (uint64_t i = 0; i < ROUNDS; i++) {
        struct flow_case c[2];
        int r;

        c[0] = sends ? flow_on_send(torture.chan[0], &i) : flow_on_recv(torture.chan[0], &in);
        c[1] = flow_on_recv(torture.chan[1], &never);
        r = flow_select(c, 2, FLOW_FOREVER);
        EXPECT(r == 0 && c[0].error == 0 && (sends || in == i));
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

static void test_cancel_storm(void **state)
{
    enum { MANY = TEST_TSAN ? 3000 : TEST_ASAN ? 5000 : 30000 };
    static flow_task task[MANY];
    struct flow_chan *c[2];
    uint64_t x = 5, passed = 0, had = 0;

    (void)state;
    test_start();
    c[0] = make(0);
    c[1] = make(0);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(flow_spawn(&task[i], select_two, c), 0);
    for (int i = 0; i < MANY; i++) {
        flow_cancel(task[i]);
        if (i % 16 == 0)
            passed += flow_chan_try_send(c[i & 1], &x) == 0;
    }
    for (int i = 0; i < MANY; i++) {
        flow_result result;

        assert_int_equal(flow_join(task[i], &result, GENEROUS), 0);
        assert_true(result.error == 0 || result.error == -ECANCELED);
        had += result.error == 0;
    }
    assert_int_equal(passed, had);
    destroy(c[0]);
    destroy(c[1]);
    assert_true(test_wait_until_empty());
    test_stop();
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
        TEST(test_refusals),     TEST(test_ready_channels), TEST(test_joins),
        TEST(test_events),       TEST(test_timers),         TEST(test_fairness),
        TEST(test_model),        TEST(test_torture),        TEST(test_meeting),
        TEST(test_two_sides),
        TEST(test_many_cases),   TEST(test_cancelled_select),
        TEST(test_cancel_storm), TEST(test_ending_the_chosen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
