/* SPDX-License-Identifier: MIT
 *
 * Messages between coroutines, next to those of Go, tokio and Boost.Fiber (perf/rivals).
 *
 * pingpong: two coroutines, a rendezvous channel each way; ns for a round trip. With two workers Go
 * may put its two where it likes, as may we; Boost.Fiber's are on a thread each.
 * 1to1, 4to4: senders and receivers of one channel with room for 128 messages of 8 bytes; ns for a
 * message. "many at once" is the same in batches of 32. tokio's channel has one receiver only.
 * With 64 workers on few CPUs the question is what it costs to have too many.
 * The checksum is the sum of all numbers received. */
#include "perf/bench.h"

#include <string.h>

enum { ROOM = 128, BATCH = 32, MOST_PAIRS = 4 };

struct work {
    struct flow_chan *chan[2];
    uint64_t n; /* messages in all, or round trips */
    int pairs;
    bool batches;
    uint64_t checksum;
    int64_t elapsed_ns;
};

static struct flow_chan *make(size_t capacity)
{
    struct flow_chan *c;
    int r = flow_chan_create(&c, sizeof(uint64_t), capacity);

    bench_check(!r, "flow_chan_create: %d", r);
    return c;
}

/* ---- ping-pong ---- */

static flow_result echo(void *arg)
{
    struct work *w = arg;
    uint64_t x;

    while (flow_chan_recv(w->chan[0], &x, FLOW_FOREVER) == 0) {
        int r = flow_chan_send(w->chan[1], &x, FLOW_FOREVER);

        bench_check(!r, "flow_chan_send: %d", r);
    }
    return flow_ok(NULL);
}

static uint64_t bounce(struct work *w, uint64_t n)
{
    uint64_t sum = 0, x;

    for (uint64_t i = 1; i <= n; i++) {
        x = i;
        bench_check(!flow_chan_send(w->chan[0], &x, FLOW_FOREVER), "send");
        bench_check(!flow_chan_recv(w->chan[1], &x, FLOW_FOREVER), "recv");
        sum += x;
    }
    return sum;
}

static flow_result pingpong(void *arg)
{
    struct work *w = arg;
    flow_task partner;
    int64_t start;

    w->chan[0] = make(0);
    w->chan[1] = make(0);
    partner = bench_spawn(echo, w);
    bounce(w, w->n / 8 + 1);
    start = bench_now();
    w->checksum = bounce(w, w->n);
    w->elapsed_ns = bench_now() - start;
    flow_chan_close(w->chan[0]);
    bench_join(partner);
    return flow_ok(NULL);
}

/* ---- many to many ---- */

static flow_result sender(void *arg)
{
    struct work *w = arg;
    uint64_t each = w->n / (uint64_t)w->pairs;

    for (uint64_t i = 1; i <= each; i++)
        bench_check(!flow_chan_send(w->chan[0], &i, FLOW_FOREVER), "send");
    return flow_ok(NULL);
}

static flow_result receiver(void *arg)
{
    struct work *w = arg;
    uint64_t each = w->n / (uint64_t)w->pairs, sum = 0, x;

    for (uint64_t i = 0; i < each; i++) {
        bench_check(!flow_chan_recv(w->chan[0], &x, FLOW_FOREVER), "recv");
        sum += x;
    }
    return flow_ok_u64(sum);
}

static flow_result batch_sender(void *arg)
{
    struct work *w = arg;
    uint64_t each = w->n / (uint64_t)w->pairs, batch[BATCH];

    for (uint64_t i = 1; i <= each;) {
        size_t n = 0;

        while (n < BATCH && i <= each)
            batch[n++] = i++;
        bench_check(flow_chan_send_many(w->chan[0], batch, n, FLOW_FOREVER) == (int)n, "send");
    }
    return flow_ok(NULL);
}

static flow_result batch_receiver(void *arg)
{
    struct work *w = arg;
    uint64_t each = w->n / (uint64_t)w->pairs, sum = 0, batch[BATCH];

    for (uint64_t had = 0; had < each;) {
        size_t want = each - had < BATCH ? (size_t)(each - had) : BATCH;
        int r = flow_chan_recv_many(w->chan[0], batch, want, FLOW_FOREVER);

        bench_check(r > 0, "recv: %d", r);
        had += (uint64_t)r;
        for (int i = 0; i < r; i++)
            sum += batch[i];
    }
    return flow_ok_u64(sum);
}

static uint64_t pass(struct work *w)
{
    flow_task from[MOST_PAIRS], to[MOST_PAIRS];
    uint64_t sum = 0;

    for (int i = 0; i < w->pairs; i++) {
        from[i] = bench_spawn(w->batches ? batch_sender : sender, w);
        to[i] = bench_spawn(w->batches ? batch_receiver : receiver, w);
    }
    for (int i = 0; i < w->pairs; i++) {
        bench_join(from[i]);
        sum += bench_join(to[i]).u64;
    }
    return sum;
}

static flow_result buffered(void *arg)
{
    struct work *w = arg;
    uint64_t n = w->n;
    int64_t start;

    w->chan[0] = make(ROOM);
    w->n = n / 8 + 64;
    pass(w);
    w->n = n;
    start = bench_now();
    w->checksum = pass(w);
    w->elapsed_ns = bench_now() - start;
    return flow_ok(NULL);
}

/* ---- cases ---- */

static uint64_t expected(uint64_t n, int pairs)
{
    uint64_t each = n / (uint64_t)pairs;

    return each * (each + 1) / 2 * (uint64_t)pairs;
}

static void ours(const struct bench_run *run, const char *name, flow_fn fn, int pairs, bool batches)
{
    struct work work = {.n = run->n, .pairs = pairs, .batches = batches};

    bench_in_coroutine(run, NULL, fn, &work);
    bench_check(work.checksum == expected(run->n, pairs), "a message went astray");
    bench_value(name, run->n, "ns", (double)work.elapsed_ns / (double)run->n);
}

static void rival(const struct bench_run *run)
{
    bench_rival_time(run, expected(run->n, strncmp(run->name, "4to4", 4) ? 1 : 4));
}

#define OURS(id, name, fn, pairs, batches)                                                         \
    static void id(const struct bench_run *run)                                                    \
    {                                                                                              \
        ours(run, name, fn, pairs, batches);                                                       \
    }

OURS(hand_to_hand, "pingpong/flow", pingpong, 1, false)
OURS(one, "1to1/flow", buffered, 1, false)
OURS(four, "4to4/flow", buffered, 4, false)
OURS(one_many, "1to1/flow, many at once", buffered, 1, true)
OURS(four_many, "4to4/flow, many at once", buffered, 4, true)

int main(int argc, char **argv)
{
    static const int crowded[] = {64, 0};
    static const struct bench_case cases[] = {
        {"pingpong/flow", hand_to_hand, 1000000, 50000},
        {"pingpong/go", rival, 1000000, 20000},
        {"pingpong/tokio", rival, 1000000, 20000},
        {"pingpong/boost_fiber", rival, 300000, 5000},
        {"1to1/flow", one, 5000000, 200000},
        {"1to1/flow, many at once", one_many, 5000000, 200000},
        {"1to1/go", rival, 5000000, 100000},
        {"1to1/tokio", rival, 2000000, 100000},
        {"1to1/boost_fiber", rival, 2000000, 50000},
        {"4to4/flow", four, 5000000, 200000},
        {"4to4/flow, many at once", four_many, 5000000, 200000},
        {"4to4/go", rival, 5000000, 100000},
        {"4to4/boost_fiber", rival, 2000000, 50000},
        {"pingpong/flow", hand_to_hand, 200000, 10000, .workers = crowded},
        {"pingpong/go", rival, 200000, 5000, .workers = crowded},
        {"pingpong/tokio", rival, 200000, 5000, .workers = crowded},
        {"4to4/flow", four, 2000000, 50000, .workers = crowded},
        {"4to4/go", rival, 2000000, 50000, .workers = crowded},
    };
    static const struct bench_suite suite = {
        .name = "channel",
        .about = "ns for a round trip (pingpong) or a message (room for 128), 8 bytes each",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
