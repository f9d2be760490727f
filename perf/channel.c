/* SPDX-License-Identifier: MIT
 *
 * Messages between coroutines, next to Go and Boost.Fiber (perf/rivals).
 *
 * pingpong: two coroutines, a rendezvous channel each way; ns for a round trip. With two workers Go
 * may put its two where it likes, as may we; Boost.Fiber's are on a thread each.
 * 1to1, 4to4: senders and receivers of one channel with room for 128 messages of 8 bytes; ns for a
 * message. "many" is the same in batches of 32.
 * The checksum is the sum of all numbers received. */
#include "perf/bench.h"

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

static flow_task spawn(flow_fn fn, void *arg)
{
    flow_task task;
    int r = flow_spawn(&task, fn, arg);

    bench_check(!r, "flow_spawn: %d", r);
    return task;
}

static uint64_t join(flow_task task)
{
    flow_result result;
    int r = flow_join(task, &result, FLOW_FOREVER);

    bench_check(!r && flow_is_ok(result), "flow_join: %d, result %d", r, result.error);
    return result.u64;
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
    partner = spawn(echo, w);
    bounce(w, w->n / 8 + 1);
    start = bench_now();
    w->checksum = bounce(w, w->n);
    w->elapsed_ns = bench_now() - start;
    flow_chan_close(w->chan[0]);
    join(partner);
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
        from[i] = spawn(w->batches ? batch_sender : sender, w);
        to[i] = spawn(w->batches ? batch_receiver : receiver, w);
    }
    for (int i = 0; i < w->pairs; i++) {
        join(from[i]);
        sum += join(to[i]);
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

static void theirs(const struct bench_run *run, const char *name, const char *rival,
                   const char *what, int pairs)
{
    struct bench_rival r = bench_rival(run, rival, what, run->n);

    bench_check(r.checksum == expected(run->n, pairs), "%s: a message went astray", rival);
    bench_value(name, run->n, "ns", r.seconds * 1e9 / (double)run->n);
}

#define OURS(id, name, fn, pairs, batches)                                                         \
    static void id##_flow(const struct bench_run *run)                                             \
    {                                                                                              \
        ours(run, name, fn, pairs, batches);                                                       \
    }
#define THEIRS(id, name, pairs)                                                                    \
    static void id##_go(const struct bench_run *run)                                               \
    {                                                                                              \
        theirs(run, name "/go", "go", #id, pairs);                                                 \
    }                                                                                              \
    static void id##_boost(const struct bench_run *run)                                            \
    {                                                                                              \
        theirs(run, name "/boost_fiber", "boost_fiber", #id, pairs);                               \
    }

OURS(pingpong, "pingpong/flow", pingpong, 1, false)
OURS(one, "1to1/flow", buffered, 1, false)
OURS(four, "4to4/flow", buffered, 4, false)
OURS(one_many, "1to1/flow many", buffered, 1, true)
OURS(four_many, "4to4/flow many", buffered, 4, true)
THEIRS(pingpong, "pingpong", 1)
THEIRS(one, "1to1", 1)
THEIRS(four, "4to4", 4)

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"pingpong/flow", pingpong_flow, 4000000, 100000},
        {"pingpong/go", pingpong_go, 1000000, 20000},
        {"pingpong/boost_fiber", pingpong_boost, 100000, 5000},
        {"1to1/flow", one_flow, 20000000, 400000},
        {"1to1/flow many", one_many_flow, 20000000, 400000},
        {"1to1/go", one_go, 8000000, 200000},
        {"1to1/boost_fiber", one_boost, 4000000, 100000},
        {"4to4/flow", four_flow, 20000000, 400000},
        {"4to4/flow many", four_many_flow, 20000000, 400000},
        {"4to4/go", four_go, 8000000, 200000},
        {"4to4/boost_fiber", four_boost, 4000000, 100000},
    };
    static const struct bench_suite suite = {
        .name = "channel",
        .about = "ns for a round trip (pingpong) or a message (room for 128), 8 bytes each",
        .runs = 5,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
