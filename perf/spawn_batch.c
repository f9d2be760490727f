/* SPDX-License-Identifier: MIT
 *
 * A million tasks queued by one coroutine, which then joins all of them: time and memory of each.
 *
 * The first batch of the process is cold: it pays for the page faults of a million control blocks.
 * The second one, in the same process, is warm.
 *
 * Memory is the growth of what is resident, over n. With one worker the coroutine that queues is
 * all that runs, so after the last flow_spawn every task is queued and none has begun: that is the
 * moment to look. With more workers others begin at once and there is no such moment; there only
 * the highest growth over the whole batch is given. The array of handles is the caller's, lies in
 * memory that was touched before, and has a row of its own. */
#include "perf/bench.h"

#define ROUNDS 2 /* cold, warm */

struct round {
    int64_t spawn_ns, total_ns;
    struct bench_memory queued; /* one worker only */
};

struct batch {
    uint64_t n;
    int workers;
    struct bench_memory empty, before, after;
    struct round round[ROUNDS];
};

static flow_result tag(void *arg)
{
    return flow_ok_u64((uint64_t)(uintptr_t)arg ^ 0x5a5a);
}

static void spawn_all(flow_task *tasks, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        int r = flow_spawn(&tasks[i], tag, (void *)(uintptr_t)i);

        bench_check(!r, "flow_spawn: %d", r);
    }
}

static void join_all(const flow_task *tasks, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        flow_result result;
        int r = flow_join(tasks[i], &result, FLOW_FOREVER);

        bench_check(!r && flow_is_ok(result), "flow_join: %d, result %d", r, result.error);
        bench_check(result.u64 == (i ^ 0x5a5a), "a wrong result");
    }
}

static void one_round(const struct batch *batch, struct round *round, flow_task *tasks)
{
    uint64_t dispatches = bench_stats().total.dispatches;
    int64_t start = bench_now(), spawned, joining;

    spawn_all(tasks, batch->n);
    spawned = bench_now();
    if (batch->workers == 1)
        round->queued =
            bench_memory_now(); /* nothing else goes on meanwhile, so it can be left out */
    joining = batch->workers == 1 ? bench_now() : spawned;
    join_all(tasks, batch->n);
    round->total_ns = bench_now() - joining + (spawned - start);
    round->spawn_ns = spawned - start;
    dispatches = bench_stats().total.dispatches - dispatches;
    bench_check(dispatches + (uint64_t)batch->workers >= batch->n, "%llu dispatches for %llu tasks",
                (unsigned long long)dispatches, (unsigned long long)batch->n);
}

static flow_result root(void *arg)
{
    struct batch *batch = arg;
    flow_task *tasks;

    batch->empty = bench_memory_now();
    tasks = bench_array(batch->n, sizeof *tasks);
    batch->before = bench_memory_now();
    for (int i = 0; i < ROUNDS; i++)
        one_round(batch, &batch->round[i], tasks);
    batch->after = bench_memory_now();
    return flow_ok(NULL);
}

static double per_task(const struct batch *batch, int64_t total)
{
    return (double)total / (double)batch->n;
}

static void run_batch(const struct bench_run *run)
{
    static const char *const total_names[ROUNDS] = {"spawn n, join n, cold",
                                                    "spawn n, join n, warm"};
    static const char *const spawn_names[ROUNDS] = {"of it spawning, cold", "of it spawning, warm"};
    static const char *const memory_names[ROUNDS] = {"memory, all queued, cold",
                                                     "memory, all queued, warm"};
    struct batch batch = {.n = run->n, .workers = run->workers};
    struct flow_options options = FLOW_OPTIONS_INIT;

    if (options.max_tasks < run->n + 64)
        options.max_tasks = run->n + 64;
    bench_need_memory(run->n * 256);
    bench_in_coroutine(run, &options, root, &batch);

    for (int i = 0; i < ROUNDS; i++) {
        bench_value(total_names[i], run->n, "ns", per_task(&batch, batch.round[i].total_ns));
        bench_value(spawn_names[i], run->n, "ns", per_task(&batch, batch.round[i].spawn_ns));
    }
    if (run->workers == 1)
        for (int i = 0; i < ROUNDS; i++)
            bench_value(memory_names[i], run->n, "bytes",
                        per_task(&batch, batch.round[i].queued.rss_bytes - batch.before.rss_bytes));
    bench_value("memory, highest growth", run->n, "bytes",
                per_task(&batch, batch.after.peak_bytes - batch.before.rss_bytes));
    bench_value("memory, the handles beside it", run->n, "bytes",
                per_task(&batch, batch.before.rss_bytes - batch.empty.rss_bytes));
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"batch", run_batch, 1000000, 100000},
    };
    static const struct bench_suite suite = {
        .name = "spawn_batch",
        .about = "n tasks queued, then joined, by one coroutine; per task",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
