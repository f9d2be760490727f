/* SPDX-License-Identifier: MIT
 *
 * The runtime as benchmarks use it, and a counter that many threads may write. See perf/bench.h. */
#include "perf/bench.h"

#include <stdatomic.h>

void bench_start(const struct bench_run *run, const struct flow_options *options)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    struct flow_info info = {.size = sizeof info};
    int r;

    if (options)
        o = *options;
    o.workers = run->workers;
    o.no_pinning = run->unpinned;
    r = flow_start(&o);
    bench_check(!r, "flow_start: %d: %s", r, flow_start_error());
    r = flow_info(&info);
    bench_check(!r, "flow_info: %d", r);
    bench_check(info.workers == run->workers, "%d workers instead of %d; does FLOW_OPTIONS say so?",
                info.workers, run->workers);
    if (info.pinned < info.workers && !run->unpinned)
        bench_note("only %d of %d workers are pinned", info.pinned, info.workers);
    if (info.workers > info.cpus)
        bench_note("%d workers on %d CPUs", info.workers, info.cpus);
}

void bench_stop(void)
{
    int r = flow_stop(flow_after(FLOW_S(60)));

    bench_check(!r, "flow_stop: %d", r);
}

void bench_in_coroutine(const struct bench_run *run, const struct flow_options *options, flow_fn fn,
                        void *arg)
{
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    flow_task task;
    int r;

    bench_start(run, options);
    how.name = "bench";
    how.stack_bytes = (size_t)256 * 1024;
    r = flow_spawn_with(&task, &how, fn, arg);
    bench_check(!r, "flow_spawn_with: %d", r);
    bench_join(task);
    bench_stop();
}

struct flow_stats bench_stats(void)
{
    struct flow_stats stats = {.size = sizeof stats};
    int r = flow_stats(&stats);

    bench_check(!r, "flow_stats: %d", r);
    return stats;
}

/* One line a thread, written by it alone, read by who sums. */
static struct {
    _Alignas(64) _Atomic uint64_t count;
} tallies[1024 + 8];
static _Atomic unsigned n_tallies;
static _Thread_local unsigned my_tally; /* its number + 1 */

/* Not inlined, so that no compiler keeps the address of a thread-local across a suspension. */
__attribute__((noinline)) void bench_tally(void)
{
    _Atomic uint64_t *count;

    if (!my_tally) {
        my_tally = atomic_fetch_add_explicit(&n_tallies, 1, memory_order_relaxed) + 1;
        bench_check(my_tally <= BENCH_COUNT(tallies), "too many threads");
    }
    count = &tallies[my_tally - 1].count;
    /* Release: pairs with the acquire in bench_tally_sum. One writer, so no locked operation. */
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + 1,
                          memory_order_release);
}

/* A thread that has just begun to count may be missed; callers wait for a number and ask again. */
uint64_t bench_tally_sum(void)
{
    unsigned used = atomic_load_explicit(&n_tallies, memory_order_relaxed);
    uint64_t sum = 0;

    for (unsigned i = 0; i < used && i < BENCH_COUNT(tallies); i++)
        sum += atomic_load_explicit(&tallies[i].count,
                                    memory_order_acquire); /* pairs with bench_tally */
    return sum;
}
