/* SPDX-License-Identifier: MIT
 *
 * Does a pair that keeps sending to each other leave room for others? Two coroutines play ping-pong
 * without a pause; every millisecond a third one spawns a task: the time from its spawn to its start. And
 * how long the pair takes there and back meanwhile: one whose halves are on two workers waits most of the time, and
 * is easy to be fair beside.
 * With a LIFO slot and direct hand-over the pair could keep a worker for itself for ever. */
#include "perf/bench.h"

#include <stdatomic.h>

static struct {
    struct flow_chan *there, *back;
    atomic_bool stop;
    uint64_t n, trips;
    int64_t *delays, span;
} game;

static flow_result echo(void *arg)
{
    int ball;

    while (!flow_chan_recv(game.there, &ball, FLOW_FOREVER))
        bench_check(!flow_chan_send(game.back, &ball, FLOW_FOREVER), "send");
    return flow_ok(arg);
}

static flow_result serve(void *arg)
{
    uint64_t rounds = 0;
    int ball = 1;

    for (; !atomic_load_explicit(&game.stop, memory_order_relaxed); rounds++) {
        bench_check(!flow_chan_send(game.there, &ball, FLOW_FOREVER), "send");
        bench_check(!flow_chan_recv(game.back, &ball, FLOW_FOREVER), "recv");
    }
    flow_chan_close(game.there);
    (void)arg;
    return flow_ok_u64(rounds);
}

static flow_result background(void *spawned_at)
{
    return flow_ok_i64(bench_now() - *(int64_t *)spawned_at);
}

static flow_result play(void *arg)
{
    int64_t begin = bench_now();
    flow_task pair[2] = {bench_spawn(echo, NULL), bench_spawn(serve, NULL)};

    for (uint64_t i = 0; i < game.n; i++) {
        int64_t spawned_at;

        flow_sleep(FLOW_MS(1));
        spawned_at = bench_now();
        game.delays[i] = bench_join(bench_spawn(background, &spawned_at)).i64;
    }
    atomic_store(&game.stop, true);
    game.trips = bench_join(pair[1]).u64;
    game.span = bench_now() - begin;
    bench_check(game.trips > 0, "the pair did not play");
    bench_join(pair[0]);
    return flow_ok(arg);
}

static void run_fairness(const struct bench_run *run)
{
    bench_check(!flow_chan_create(&game.there, sizeof(int), 0), "flow_chan_create");
    bench_check(!flow_chan_create(&game.back, sizeof(int), 0), "flow_chan_create");
    game.n = run->n;
    game.delays = bench_array(run->n, sizeof *game.delays);
    bench_in_coroutine(run, NULL, play, NULL);
    bench_percentiles(run, "us", game.delays, run->n, 1e-3);
    bench_value("fairness, pair/flow", run->n, "us", 1e-3 * (double)game.span / (double)game.trips);
}

static void rival(const struct bench_run *run)
{
    bench_rival_figures(run, "us", 1e-3);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"fairness/flow", run_fairness, 2000, 400},
        {"fairness/go", rival, 2000, 400},
        {"fairness/tokio", rival, 2000, 400},
    };
    static const struct bench_suite suite = {
        .name = "fairness",
        .about = "n tasks spawned beside a ping-pong pair: from spawn to start; and the pair's time there and back",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
