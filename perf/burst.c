/* SPDX-License-Identifier: MIT
 *
 * A thousand tasks at once, from a thread that is not a worker, while all workers sleep: how long after
 * its own spawn each begins, and how many sleepers were woken for all of them. What a server meets
 * that is called by other threads.
 *
 * n bursts, 5 ms apart. Rivals (perf/rivals): tokio and oneTBB from a thread outside too; Go's from a
 * goroutine, which is a worker of its own; libuv's to its thread pool. */
#include "perf/bench.h"

#include <stdio.h>
#include <time.h>

enum { SIZE = 1000, WARM = 4 };

static struct {
    int64_t spawned_at[SIZE], began_at[SIZE];
} burst;

static flow_result begin(void *arg)
{
    burst.began_at[(uintptr_t)arg] = bench_now();
    bench_tally();
    return flow_ok(NULL);
}

static void rest(int64_t span_ns)
{
    struct timespec t = {.tv_nsec = span_ns};

    nanosleep(&t, NULL);
}

static void spawn_all(void)
{
    for (uintptr_t i = 0; i < SIZE; i++) {
        int r;

        burst.spawned_at[i] = bench_now();
        r = flow_spawn(NULL, begin, (void *)i);
        bench_check(!r, "flow_spawn: %d", r);
    }
}

static void run_burst(const struct bench_run *run)
{
    int64_t *delays = bench_array(run->n * SIZE, sizeof *delays);
    uint64_t wakes = 0, begun = 0;

    bench_start(run, NULL);
    for (uint64_t round = 0; round < run->n + WARM; round++) {
        rest(FLOW_MS(5));
        if (round == WARM)
            wakes = bench_stats().total.wakes;
        spawn_all();
        for (begun += SIZE; bench_tally_sum() < begun;)
            rest(FLOW_US(50));
        for (uint64_t i = 0; round >= WARM && i < SIZE; i++)
            delays[(round - WARM) * SIZE + i] = burst.began_at[i] - burst.spawned_at[i];
    }
    wakes = bench_stats().total.wakes - wakes;
    bench_stop();
    bench_percentiles(run, "us", delays, run->n * SIZE, 1e-3);
    bench_value("burst, wakes of workers", run->n, "count", (double)wakes / (double)run->n);
}

static void rival(const struct bench_run *run)
{
    bench_rival_figures(run, "us", 1e-3);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"burst/flow", run_burst, 80, 10}, {"burst/go", rival, 80, 10},
        {"burst/tokio", rival, 80, 10},    {"burst/tbb", rival, 80, 10},
        {"burst/libuv", rival, 80, 10},
    };
    static const struct bench_suite suite = {
        .name = "burst",
        .about = "1,000 tasks at once from a foreign thread, n times: from each spawn to its start",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
