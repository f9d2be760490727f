/* SPDX-License-Identifier: MIT
 *
 * Yielding through the scheduler, next to other libraries (perf/rivals).
 *
 * "There and back" is two coroutines that yield to each other, for one pair of yields. The rings
 * are 512, 4,096 and 16,384 coroutines that each yield in turn: their control blocks and stacks
 * fit no cache any more, so this shows what the scheduler does about the memory it is going to
 * need.
 *
 * "yielding" is n tasks that each yield ten times and end, on all workers: time for a yield, with the
 * start and the join of its task in it.
 *
 * The members of rings are pinned to worker 0, or a second worker might take one and they would not meet. They wait
 * for each other before the clock starts and go on yielding after it has stopped. The worker's own
 * count of dispatches tells that every yield in between really went through the scheduler. Rivals
 * start their clock when all members have begun, too, and stop it when the last one is through. */
#include "perf/bench.h"

#include <stdlib.h>
#include <string.h>

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
    for (uint64_t i = 0; i < ring->members; i++)
        bench_check(bench_join(tasks[i]).u64 == ring->rounds, "a member went astray");
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

    bench_value("ring of 2/flow", run->n, "ns",
                (double)ring.elapsed_ns / (double)ring.rounds);
}

static void run_ring(const struct bench_run *run, uint64_t members, const char *name)
{
    struct ring ring = measure(run, members, run->n);

    bench_value(name, run->n, "ns", (double)ring.elapsed_ns / (double)(ring.rounds * members));
}

static void run_ring_512(const struct bench_run *run)
{
    run_ring(run, 512, "ring of 512/flow");
}

static void run_ring_4096(const struct bench_run *run)
{
    run_ring(run, 4096, "ring of 4096/flow");
}

static void run_ring_16384(const struct bench_run *run)
{
    run_ring(run, 16384, "ring of 16384/flow");
}

/* ---- many that each yield ten times, on all workers ---- */

#define YIELDS 10

static flow_result yield_ten_times(void *arg)
{
    yield_rounds(YIELDS);
    return flow_ok(arg);
}

struct crowd {
    uint64_t n;
    int64_t elapsed_ns;
};

static int64_t crowd_once(flow_task *tasks, uint64_t n)
{
    int64_t start = bench_now();

    for (uint64_t i = 0; i < n; i++)
        tasks[i] = bench_spawn(yield_ten_times, NULL);
    for (uint64_t i = 0; i < n; i++)
        bench_join(tasks[i]);
    return bench_now() - start;
}

static flow_result crowd_root(void *arg)
{
    struct crowd *crowd = arg;
    flow_task *tasks = bench_array(crowd->n, sizeof *tasks);
    uint64_t before;

    crowd_once(tasks, crowd->n);
    before = bench_stats().total.dispatches;
    crowd->elapsed_ns = crowd_once(tasks, crowd->n);
    bench_check(bench_stats().total.dispatches - before >= crowd->n * YIELDS, "too few dispatches");
    return flow_ok(NULL);
}

static void run_crowd(const struct bench_run *run)
{
    struct crowd crowd = {.n = run->n};
    struct flow_options options = FLOW_OPTIONS_INIT;

    options.stack_bytes = (size_t)16 * 1024;
    bench_need_memory(run->n * 5000);
    bench_in_coroutine(run, &options, crowd_root, &crowd);
    bench_value(run->name, run->n, "ns", (double)crowd.elapsed_ns / (double)(run->n * YIELDS));
}

/* ---- rivals ---- */

static void rival_crowd(const struct bench_run *run)
{
    struct bench_rival r = bench_rival(run);

    bench_check(r.checksum == run->n * YIELDS, "%s: too few yields", run->name);
    bench_value(run->name, run->n, "ns", r.seconds * 1e9 / (double)(run->n * YIELDS));
}

/* A pair's "there and back" is two yields. */
static void rival_ring(const struct bench_run *run)
{
    uint64_t members = strtoull(run->name + strlen("ring of "), NULL, 10);
    struct bench_rival r = bench_rival(run);

    bench_check(r.checksum >= run->n, "%s: too few yields", run->name);
    bench_value(run->name, run->n, "ns",
                r.seconds * 1e9 / (double)r.checksum * (members == 2 ? 2 : 1));
}

#define RIVALS(work, function, n, quick_n, list)                                                   \
    {work "/go", function, n, quick_n, .workers = list},                                           \
        {work "/tokio", function, n, quick_n, .workers = list},                                    \
    {                                                                                              \
        work "/boost_fiber", function, n, quick_n, .workers = list                                 \
    }
#define CROWD(n, quick_n)                                                                          \
    {"yielding/flow", run_crowd, n, quick_n, true},                                                \
        {"yielding/go", rival_crowd, n, quick_n, true},                                            \
    {                                                                                              \
        "yielding/tokio", rival_crowd, n, quick_n, true                                            \
    }

int main(int argc, char **argv)
{
    static const int one[] = {1, 0};
    static const struct bench_case cases[] = {
        {"ring of 2/flow", run_pair, 2000000, 500000, .workers = one},
        RIVALS("ring of 2", rival_ring, 2000000, 200000, one),
        {"ring of 512/flow", run_ring_512, 4000000, 500000, .workers = one},
        RIVALS("ring of 512", rival_ring, 4000000, 200000, one),
        {"ring of 4096/flow", run_ring_4096, 4000000, 500000, .workers = one},
        {"ring of 16384/flow", run_ring_16384, 4000000, 500000, .workers = one},
        RIVALS("ring of 16384", rival_ring, 4000000, 200000, one),
        CROWD(10000, 1),
        {"yielding/boost_fiber", rival_crowd, 10000, 1, true},
        CROWD(100000, 1),
        CROWD(1000000, 0),
    };
    static const struct bench_suite suite = {
        .name = "yield",
        .about = "yielding through the scheduler; rings on one worker",
        .runs = 6,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
