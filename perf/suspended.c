/* SPDX-License-Identifier: MIT
 *
 * A million tasks that have started and now wait: how long it takes to get there and back, and what
 * they cost while they are there.
 *
 * Each parks in flow_suspend on a stack of the smallest class, 16 KiB, with a guard. Two ways in:
 * "spawn" queues them all, and the workers start them; "spawn_now" starts each from one coroutine.
 * Then every one is woken and joined. The first round of the process is cold: nearly all of its
 * time goes into page faults and guards. The second round is warm.
 *
 * "All told" is what is resident plus the page tables for it, both as growth over n. Wakers and
 * handles lie in arrays that were touched before and are not part of it. The number of VMAs is the
 * process's: the kernel allows 65,530 by default, which is what guards by mprotect run into. */
#include "perf/bench.h"

#include <errno.h>
#include <stdio.h>

#define ROUNDS 2 /* cold, warm */

struct round {
    int64_t park_ns, wake_ns, end_ns;
    struct bench_memory parked;
};

static struct {
    uint64_t n;
    bool now;
    flow_waker *wakers;
    flow_task *tasks;
    uint64_t parked; /* what the tally will be when all are */
    struct bench_memory before;
    struct round round[ROUNDS];
} all;

static int publish(flow_waker waker, void *arg)
{
    all.wakers[(uintptr_t)arg] = waker;
    bench_tally();
    return 0;
}

static flow_result wait_once(void *arg)
{
    int r = flow_suspend(publish, arg, FLOW_FOREVER);

    bench_check(!r, "flow_suspend: %d", r);
    return flow_ok_u64((uint64_t)(uintptr_t)arg ^ 0x5a5a);
}

static void start_all(void)
{
    for (uint64_t i = 0; i < all.n; i++) {
        void *arg = (void *)(uintptr_t)i;
        int r = all.now ? flow_spawn_now(&all.tasks[i], wait_once, arg)
                        : flow_spawn(&all.tasks[i], wait_once, arg);

        if (r == -ENOMEM)
            bench_skip("no stack for task %llu", (unsigned long long)i);
        bench_check(!r, "spawning: %d", r);
    }
}

/* Looks every 200 us, which adds that much at most to the time of all n. A queued task that gets no
 * stack ends and would never be counted. */
static void wait_until_parked(void)
{
    while (bench_tally_sum() < all.parked) {
        int r = flow_sleep(FLOW_US(200));
        uint64_t no_stack = bench_stats().total.no_stack;

        bench_check(!r, "flow_sleep: %d", r);
        if (no_stack)
            bench_skip("no stacks for %llu tasks", (unsigned long long)no_stack);
    }
    bench_check(bench_tally_sum() == all.parked, "more tasks parked than there are");
}

static void wake_all(void)
{
    for (uint64_t i = 0; i < all.n; i++) {
        int r = flow_wake(all.wakers[i]);

        bench_check(!r, "flow_wake: %d", r);
    }
}

static void join_all(void)
{
    for (uint64_t i = 0; i < all.n; i++) {
        flow_result result;
        int r = flow_join(all.tasks[i], &result, FLOW_FOREVER);

        bench_check(!r && flow_is_ok(result), "flow_join: %d, result %d", r, result.error);
        bench_check(result.u64 == (i ^ 0x5a5a), "a wrong result");
    }
}

static void one_round(struct round *round)
{
    int64_t start = bench_now(), woken;

    all.parked += all.n;
    start_all();
    wait_until_parked();
    round->park_ns = bench_now() - start;
    round->parked = bench_memory_now();
    start = bench_now();
    wake_all();
    woken = bench_now();
    join_all();
    round->end_ns = bench_now() - start;
    round->wake_ns = woken - start;
}

static flow_result root(void *unused)
{
    (void)unused;
    all.wakers = bench_array(all.n, sizeof *all.wakers);
    all.tasks = bench_array(all.n, sizeof *all.tasks);
    all.before = bench_memory_now();
    for (int i = 0; i < ROUNDS; i++)
        one_round(&all.round[i]);
    return flow_ok(NULL);
}

static void report(const char *what, int round, const char *unit, double value)
{
    char name[96];

    snprintf(name, sizeof name, "%s, %s, %s", all.now ? "spawn_now" : "spawn", what,
             round ? "warm" : "cold");
    bench_value(name, all.n, unit, value);
}

static void report_round(int i)
{
    const struct round *round = &all.round[i];
    double n = (double)all.n;
    double rss = (double)(round->parked.rss_bytes - all.before.rss_bytes);
    double tables = (double)(round->parked.table_bytes - all.before.table_bytes);

    report("start + park", i, "ns", (double)round->park_ns / n);
    report("wake + join", i, "ns", (double)round->end_ns / n);
    report("of it waking", i, "ns", (double)round->wake_ns / n);
    report("resident", i, "bytes", rss / n);
    report("page tables", i, "bytes", tables / n);
    report("all told", i, "bytes", (rss + tables) / n);
    report("VMAs of the process", i, "count", (double)round->parked.vmas);
}

static void measure(const struct bench_run *run, bool now)
{
    struct flow_options options = FLOW_OPTIONS_INIT;

    all.n = run->n;
    all.now = now;
    options.stack_bytes = (size_t)16 * 1024; /* flow_spawn_now takes the default class */
    if (options.max_tasks < run->n + 64)
        options.max_tasks = run->n + 64;
    bench_need_memory(run->n * 5000);
    bench_in_coroutine(run, &options, root, NULL);
    for (int i = 0; i < ROUNDS; i++)
        report_round(i);
}

static void run_spawn(const struct bench_run *run)
{
    measure(run, false);
}

static void run_spawn_now(const struct bench_run *run)
{
    measure(run, true);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"spawn", run_spawn, 1000000, 100000},
        {"now", run_spawn_now, 1000000, 100000},
    };
    static const struct bench_suite suite = {
        .name = "suspended",
        .about = "n tasks started and parked on 16 KiB stacks, then woken and joined; per task",
        .runs = 3,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
