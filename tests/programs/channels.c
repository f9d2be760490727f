/* SPDX-License-Identifier: MIT
 *
 * Programs about channels, select, broadcast and generators. What is sent is numbered by its sender:
 * each element is received once, and those of one sender in their order by each receiver. */
#include "tests/programs/programs.h"
#include "tests/programs/watch.h"

#include <errno.h>
#include <string.h>

enum { SIDE = 3, MOST_ITEMS = 24, MANY = 4 };

struct item {
    uint32_t sender, number;
};

/* ---- one channel, several senders and receivers ---- */

struct traffic {
    struct flow_chan *chan;
    size_t capacity;
    int n_senders, n_receivers;
    uint32_t n_items; /* of each sender */
    bool select;
    atomic_int senders_left;
    atomic_uint received[SIDE]; /* of each sender */
};

struct party {
    struct traffic *traffic;
    struct chance chance;
    uint32_t index;
};

static bool there_is_room(void *traffic)
{
    struct traffic *t = traffic;

    return t->capacity > 0 && flow_chan_count(t->chan) < t->capacity;
}

static bool there_is_something(void *traffic)
{
    return flow_chan_count(((struct traffic *)traffic)->chan) > 0;
}

/* How many were sent of at most n. */
static int send_selected(struct party *p, const struct item *items)
{
    struct flow_case cases[2] = {flow_on_timer(soon(&p->chance)), flow_on_send(p->traffic->chan, items)};
    int chosen = flow_select(cases, 2, FLOW_FOREVER);

    EXPECT(chosen == 0 || chosen == 1);
    if (chosen == 1)
        EXPECT_EQ(cases[1].error, 0);
    return chosen == 1;
}

static int send_some(struct party *p, const struct item *items, uint32_t n)
{
    struct traffic *t = p->traffic;
    flow_deadline deadline = soon(&p->chance);
    int r;

    if (t->select)
        return send_selected(p, items);
    switch (roll_below(&p->chance, 4)) {
    case 0:
        r = flow_chan_send(t->chan, items, deadline);
        if (r == -ETIMEDOUT)
            expect_time(deadline);
        EXPECT(r == 0 || r == -ETIMEDOUT);
        return r == 0;
    case 1:
        r = flow_chan_try_send(t->chan, items);
        EXPECT(r == 0 || r == -EAGAIN);
        if (r)
            EXPECT_EQ(flow_yield(), 0);
        return r == 0;
    case 2:
        r = flow_chan_send_many(t->chan, items, n < MANY ? n : MANY, deadline);
        EXPECT(r > 0 || r == -ETIMEDOUT);
        return r > 0 ? r : 0;
    default:
        r = WATCHED("room in a channel", there_is_room, t, flow_chan_send(t->chan, items, FLOW_FOREVER));
        EXPECT_EQ(r, 0);
        return r == 0;
    }
}

static flow_result sender(void *party)
{
    struct party *p = party;
    struct traffic *t = p->traffic;
    struct item items[MOST_ITEMS + 1];
    uint32_t sent = 0;

    for (uint32_t i = 0; i < t->n_items; i++)
        items[i] = (struct item){p->index, i};
    while (sent < t->n_items) {
        int n = send_some(p, &items[sent], t->n_items - sent);

        sent += (uint32_t)n;
        atomic_fetch_add_explicit(&program_totals.sent, (unsigned long)n, memory_order_relaxed);
        note_done(0x100 + (uint64_t)n);
        dawdle(&p->chance);
    }
    if (atomic_fetch_sub(&t->senders_left, 1) == 1)
        EXPECT_EQ(flow_chan_close(t->chan), 0);
    return flow_ok(NULL);
}

static int receive_selected(struct party *p, struct item *items)
{
    struct flow_case cases[2] = {flow_on_recv(p->traffic->chan, items), flow_on_timer(soon(&p->chance))};
    int chosen = flow_select(cases, 2, FLOW_FOREVER);

    EXPECT(chosen == 0 || chosen == 1);
    return chosen == 1 ? -ETIMEDOUT : cases[0].error ? cases[0].error : 1;
}

/* How many were received, or why none. */
static int receive_some(struct party *p, struct item *items)
{
    struct traffic *t = p->traffic;
    flow_deadline deadline = soon(&p->chance);
    int r;

    if (t->select)
        return receive_selected(p, items);
    switch (roll_below(&p->chance, 4)) {
    case 0:
        r = flow_chan_recv(t->chan, items, deadline);
        if (r == -ETIMEDOUT)
            expect_time(deadline);
        return r ? r : 1;
    case 1:
        r = flow_chan_try_recv(t->chan, items);
        if (r == -EAGAIN)
            EXPECT_EQ(flow_yield(), 0);
        return r ? r : 1;
    case 2:
        return flow_chan_recv_many(t->chan, items, MANY, deadline);
    default:
        r = WATCHED("an element", there_is_something, t, flow_chan_recv(t->chan, items, FLOW_FOREVER));
        EXPECT(r == 0 || r == -EPIPE);
        return r ? r : 1;
    }
}

static flow_result receiver(void *party)
{
    struct party *p = party;
    struct traffic *t = p->traffic;
    int64_t last[SIDE];
    struct item items[MANY];
    int n;

    memset(last, -1, sizeof last);
    while ((n = receive_some(p, items)) != -EPIPE) {
        EXPECT(n > 0 || n == -ETIMEDOUT || n == -EAGAIN);
        for (int i = 0; i < n; i++) {
            EXPECT(items[i].sender < (uint32_t)t->n_senders && items[i].number > last[items[i].sender]);
            last[items[i].sender] = items[i].number;
            atomic_fetch_add(&t->received[items[i].sender], 1);
        }
        if (n > 0)
            atomic_fetch_add_explicit(&program_totals.received, (unsigned long)n, memory_order_relaxed);
        note_done(0x200 + (uint64_t)(int64_t)n);
        dawdle(&p->chance);
    }
    return flow_ok(NULL);
}

static void run_traffic(struct chance *c, struct traffic *t)
{
    struct party parties[2 * SIDE];
    flow_task tasks[2 * SIDE];
    int n = 0;

    t->capacity = roll_below(c, 3) ? roll_below(c, 9) : 0;
    t->n_senders = 1 + (int)roll_below(c, SIDE);
    t->n_receivers = 1 + (int)roll_below(c, SIDE);
    t->n_items = (uint32_t)roll_below(c, MOST_ITEMS + 1);
    atomic_init(&t->senders_left, t->n_senders);
    EXPECT_EQ(flow_chan_create(&t->chan, sizeof(struct item), t->capacity), 0);
    for (int i = 0; i < t->n_senders; i++, n++) {
        parties[n] = (struct party){t, chance_for(c), (uint32_t)i};
        start_task(c, &tasks[n], sender, &parties[n]);
    }
    for (int i = 0; i < t->n_receivers; i++, n++) {
        parties[n] = (struct party){t, chance_for(c), (uint32_t)i};
        start_task(c, &tasks[n], receiver, &parties[n]);
    }
    while (n > 0)
        join_task(tasks[--n]);
    for (int i = 0; i < t->n_senders; i++)
        EXPECT_EQ(atomic_load(&t->received[i]), t->n_items);
    EXPECT_EQ(flow_chan_count(t->chan), 0);
    EXPECT_EQ(flow_chan_destroy(t->chan, NULL, NULL), 0);
}

flow_result run_channel(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct traffic t = {.select = false};

    run_traffic(&c, &t);
    return flow_ok(NULL);
}

flow_result run_select(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct traffic t = {.select = true};

    run_traffic(&c, &t);
    return flow_ok(NULL);
}

/* ---- broadcast ---- */

struct audience {
    struct flow_broadcast *b;
    uint64_t sent;
};

struct listening {
    struct audience *audience;
    struct flow_listener listener;
    struct chance chance;
};

static flow_result listen(void *listening)
{
    struct listening *l = listening;
    uint64_t value = 0, received = 0, missed = 0, all_missed = 0, expected = 0;
    int r;

    for (;;) {
        flow_deadline deadline = heads(&l->chance) ? soon(&l->chance) : FLOW_FOREVER;

        r = flow_listener_recv(&l->listener, &value, &missed, deadline);
        if (r == -ETIMEDOUT)
            continue;
        if (r)
            break;
        received++;
        all_missed += missed;
        expected += missed;
        EXPECT_EQ(value, expected++);
        note_done(0x300 + value);
        dawdle(&l->chance);
    }
    EXPECT_EQ(r, -EPIPE);
    return flow_ok_u64(received + all_missed);
}

flow_result run_broadcast(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct audience a = {.sent = roll_below(&c, 40)};
    struct listening listening[SIDE];
    flow_task tasks[SIDE];
    int n = 1 + (int)roll_below(&c, SIDE);

    EXPECT_EQ(flow_broadcast_create(&a.b, sizeof(uint64_t), 1 + roll_below(&c, 6)), 0);
    for (int i = 0; i < n; i++) {
        listening[i].audience = &a;
        listening[i].chance = chance_for(&c);
        flow_broadcast_listen(a.b, &listening[i].listener);
        start_task(&c, &tasks[i], listen, &listening[i]);
    }
    for (uint64_t i = 0; i < a.sent; i++) {
        EXPECT_EQ(flow_broadcast_send(a.b, &i), 0);
        dawdle(&c);
    }
    EXPECT_EQ(flow_broadcast_close(a.b), 0);
    for (int i = 0; i < n; i++) {
        flow_result result = flow_err(-EPROTO);

        EXPECT_EQ(flow_join(tasks[i], &result, FLOW_FOREVER), 0);
        EXPECT_EQ(result.error, 0);
        EXPECT_EQ(result.u64, a.sent); /* a closed one still gives what is left */
    }
    EXPECT_EQ(flow_broadcast_destroy(a.b), 0);
    return flow_ok(NULL);
}

/* ---- generators ---- */

struct series {
    struct chance chance;
    uint64_t n;
    int error;  /* after its last value; or 0 */
    bool ended; /* read after the close */
};

static int generate(struct flow_generator *g, void *series)
{
    struct series *s = series;
    int r = 0;

    for (uint64_t i = 0; i < s->n && !r; i++) {
        if (heads(&s->chance))
            r = flow_sleep_until(soon(&s->chance));
        if (!r)
            r = flow_generator_yield(g, &i);
    }
    EXPECT(r == 0 || r == -ECANCELED);
    s->ended = true;
    return r ? r : s->error;
}

flow_result run_generator(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct series s = {chance_for(&c), roll_below(&c, 20), heads(&c) ? -EBADF : 0, false};
    uint64_t asked = heads(&c) ? s.n + 1 : roll_below(&c, s.n + 1), value = 0, got = 0;
    struct flow_generator *g;

    EXPECT_EQ(flow_generator_create(&g, sizeof value, generate, &s), 0);
    while (got < asked) {
        int r = flow_generator_next(g, &value, heads(&c) ? soon(&c) : FLOW_FOREVER);

        note_done(0x400 + got);
        if (r == -ETIMEDOUT)
            continue;
        if (got == s.n && r != 0) {
            EXPECT_EQ(r, s.error ? s.error : -EPIPE);
            break;
        }
        EXPECT_EQ(r, 0);
        if (r)
            break;
        EXPECT_EQ(value, got++);
    }
    EXPECT_EQ(got, asked < s.n ? asked : s.n);
    EXPECT_EQ(flow_generator_close(g), 0);
    EXPECT(s.ended || asked == 0);
    return flow_ok(NULL);
}
