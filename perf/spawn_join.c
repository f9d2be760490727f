/* SPDX-License-Identifier: MIT
 *
 * Starting one task and having its result, over and over, from a coroutine.
 *
 * flow_spawn_now of a task that never suspends, detached and joined: the cheapest way to start
 * something. flow_spawn then flow_join: one task that is queued, run by whichever worker
 * comes first, and waited for; with two workers the second one may take it away, which is what
 * this case is about. Only one task exists at a time, so nothing can be batched or run ahead;
 * spawn_batch measures the opposite. A plain call through a pointer is there for scale.
 *
 * Each task's result goes into a sum that is checked, and the runtime's counters must show that
 * every task was one. */
#include "perf/bench.h"

struct loop {
    uint64_t n;
    int64_t elapsed_ns;
    uint64_t sum;
    struct flow_stats before, after;
};

static flow_result twice(void *arg)
{
    return flow_ok_u64((uint64_t)(uintptr_t)arg * 2);
}

/* A detached task has no result, so it leaves its mark through its argument. */
static flow_result add(void *arg)
{
    *(uint64_t *)arg += 2;
    return flow_ok(NULL);
}

static void now_detached(struct loop *loop, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        int r = flow_spawn_now(NULL, add, &loop->sum);

        bench_check(!r, "flow_spawn_now: %d", r);
    }
}

static void now_joined(struct loop *loop, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        flow_task task;
        int r = flow_spawn_now(&task, twice, (void *)(uintptr_t)1);

        bench_check(!r, "flow_spawn_now: %d", r);
        loop->sum += bench_join(task).u64;
    }
}

static void queued_joined(struct loop *loop, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        loop->sum += bench_join(bench_spawn(twice, (void *)(uintptr_t)1)).u64;
}

static void called(struct loop *loop, uint64_t n)
{
    flow_fn volatile function = twice; /* volatile: or it would be inlined */

    for (uint64_t i = 0; i < n; i++)
        loop->sum += function((void *)(uintptr_t)1).u64;
}

typedef void loop_body(struct loop *loop, uint64_t n);

static void time_loop(struct loop *loop, loop_body *body)
{
    int64_t start;

    body(loop, loop->n / 10 + 1);
    loop->sum = 0;
    loop->before = bench_stats();
    start = bench_now();
    body(loop, loop->n);
    loop->elapsed_ns = bench_now() - start;
    loop->after = bench_stats();
    bench_check(loop->sum == loop->n * 2, "the results are wrong");
}

static flow_result now_detached_root(void *arg)
{
    time_loop(arg, now_detached);
    return flow_ok(NULL);
}

static flow_result now_joined_root(void *arg)
{
    time_loop(arg, now_joined);
    return flow_ok(NULL);
}

static flow_result queued_joined_root(void *arg)
{
    time_loop(arg, queued_joined);
    return flow_ok(NULL);
}

static flow_result called_root(void *arg)
{
    time_loop(arg, called);
    return flow_ok(NULL);
}

static struct loop measure(const struct bench_run *run, const char *name, flow_fn root)
{
    struct loop loop = {.n = run->n};

    bench_in_coroutine(run, NULL, root, &loop);
    bench_value(name, run->n, "ns", (double)loop.elapsed_ns / (double)run->n);
    return loop;
}

/* Another worker may count a task just after it has handed over its result: one less for each. */
static void check_count(const struct bench_run *run, uint64_t counted, const char *what)
{
    bench_check(counted + (uint64_t)run->workers >= run->n, "%llu %s for %llu tasks",
                (unsigned long long)counted, what, (unsigned long long)run->n);
}

static void run_now_detached(const struct bench_run *run)
{
    struct loop loop = measure(run, "spawn inline, detached/flow", now_detached_root);

    check_count(run, loop.after.total.started_now - loop.before.total.started_now,
                "calls of flow_spawn_now");
}

static void run_now_joined(const struct bench_run *run)
{
    struct loop loop = measure(run, "spawn inline + join/flow", now_joined_root);

    check_count(run, loop.after.total.started_now - loop.before.total.started_now,
                "calls of flow_spawn_now");
}

static void run_queued_joined(const struct bench_run *run)
{
    struct loop loop = measure(run, "spawn + join/flow", queued_joined_root);
    uint64_t stolen = loop.after.total.stolen - loop.before.total.stolen;

    check_count(run, loop.after.total.dispatches - loop.before.total.dispatches, "dispatches");
    bench_value("spawn + join, tasks that another worker took/flow", run->n, "percent",
                100 * (double)stolen / (double)run->n);
}

static void run_called(const struct bench_run *run)
{
    measure(run, "spawn inline + join/(plain call)", called_root);
}

static void run_rival(const struct bench_run *run)
{
    bench_rival_time(run, run->n * 2);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"spawn inline, detached/flow", run_now_detached, 5000000, 500000},
        {"spawn inline + join/flow", run_now_joined, 5000000, 500000},
        {"spawn inline + join/boost_fiber", run_rival, 500000, 50000},
        {"spawn inline + join/(plain call)", run_called, 20000000, 2000000},
        {"spawn + join/flow", run_queued_joined, 3000000, 300000},
        {"spawn + join/tbb", run_rival, 1000000, 100000},
        {"spawn + join/openmp", run_rival, 1000000, 100000},
        {"spawn + join/go", run_rival, 500000, 50000},
        {"spawn + join/tokio", run_rival, 500000, 50000},
        {"spawn + join/boost_fiber", run_rival, 300000, 30000},
        {"spawn + join/pthreads", run_rival, 10000, 1000},
    };
    static const struct bench_suite suite = {
        .name = "spawn_join",
        .about = "one task at a time, started from a coroutine",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
