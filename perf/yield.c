/* SPDX-License-Identifier: MIT
 *
 * Yielding through the scheduler, on one worker.
 *
 * "There and back" is two coroutines that yield to each other, for one pair of yields. The rings
 * are 512, 4,096 and 16,384 coroutines that each yield in turn: their control blocks and stacks
 * fit no cache any more, so this shows what the scheduler does about the memory it is going to
 * need.
 *
 * All are pinned to worker 0, or a second worker might take one and they would not meet. They wait
 * for each other before the clock starts and go on yielding after it has stopped. The worker's own
 * count of dispatches tells that every yield in between really went through the scheduler. */
#include "perf/bench.h"

struct ring {
    uint64_t members;
    uint64_t warm_rounds, rounds;
    /* Members share one thread, so these are plain. */
    uint64_t started;
    int64_t elapsed_ns;
    uint64_t dispatches;
};

static uint64_t dispatches_of_worker_0(void)
{
    struct flow_worker_stats stats;
    int r = flow_stats_worker(0, &stats);

    bench_check(!r, "flow_stats_worker: %d", r);
    return stats.dispatches;
}

static void yield_rounds(uint64_t rounds)
{
    for (uint64_t i = 0; i < rounds; i++) {
        int r = flow_yield();

        bench_check(!r, "flow_yield: %d", r);
    }
}

static void begin_together(struct ring *ring)
{
    ring->started++;
    while (*(volatile uint64_t *)&ring->started < ring->members)
        yield_rounds(1);
    yield_rounds(ring->warm_rounds);
}

static flow_result member(void *arg)
{
    struct ring *ring = arg;

    begin_together(ring);
    yield_rounds(ring->rounds + 2); /* two more, lest the measuring member is left alone */
    return flow_ok_u64(ring->rounds);
}

static flow_result measuring_member(void *arg)
{
    struct ring *ring = arg;
    uint64_t before;
    int64_t start;

    begin_together(ring);
    before = dispatches_of_worker_0();
    start = bench_now();
    yield_rounds(ring->rounds);
    ring->elapsed_ns = bench_now() - start;
    ring->dispatches = dispatches_of_worker_0() - before;
    return flow_ok_u64(ring->rounds);
}

static flow_result root(void *arg)
{
    struct ring *ring = arg;
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    flow_task *tasks = bench_array(ring->members, sizeof *tasks);

    how.worker = 0;
    how.flags = FLOW_PINNED;
    for (uint64_t i = 0; i < ring->members; i++) {
        int r = flow_spawn_with(&tasks[i], &how, i ? member : measuring_member, ring);

        bench_check(!r, "flow_spawn_with: %d", r);
    }
    for (uint64_t i = 0; i < ring->members; i++) {
        flow_result result;
        int r = flow_join(tasks[i], &result, FLOW_FOREVER);

        bench_check(!r && flow_is_ok(result), "flow_join: %d, result %d", r, result.error);
        bench_check(result.u64 == ring->rounds, "a member went astray");
    }
    return flow_ok(NULL);
}

/* yields: of all members together. */
static struct ring measure(const struct bench_run *run, uint64_t members, uint64_t yields)
{
    struct ring ring = {.members = members, .rounds = yields / members + 1};
    uint64_t expected = ring.rounds * members;

    ring.warm_rounds = ring.rounds / 8 + 4;
    bench_in_coroutine(run, NULL, root, &ring);
    /* A round more or less: where in the round the count is taken is the scheduler's affair. */
    bench_check(ring.dispatches + members >= expected &&
                    ring.dispatches <= expected + expected / 50 + members,
                "%llu dispatches for %llu yields", (unsigned long long)ring.dispatches,
                (unsigned long long)expected);
    return ring;
}

static void run_pair(const struct bench_run *run)
{
    struct ring ring = measure(run, 2, run->n * 2);

    bench_value("yield there and back, 2 coroutines", run->n, "ns",
                (double)ring.elapsed_ns / (double)ring.rounds);
}

static void run_ring(const struct bench_run *run, uint64_t members, const char *name)
{
    struct ring ring = measure(run, members, run->n);

    bench_value(name, run->n, "ns", (double)ring.elapsed_ns / (double)(ring.rounds * members));
}

static void run_ring_512(const struct bench_run *run)
{
    run_ring(run, 512, "one yield, ring of 512");
}

static void run_ring_4096(const struct bench_run *run)
{
    run_ring(run, 4096, "one yield, ring of 4096");
}

static void run_ring_16384(const struct bench_run *run)
{
    run_ring(run, 16384, "one yield, ring of 16384");
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"pair", run_pair, 5000000, 500000},
        {"ring of 512", run_ring_512, 8000000, 800000},
        {"ring of 4096", run_ring_4096, 8000000, 800000},
        {"ring of 16384", run_ring_16384, 8000000, 800000},
    };
    static const struct bench_suite suite = {
        .name = "yield",
        .about = "yielding through the scheduler; all coroutines on worker 0",
        .runs = 5,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
