/* SPDX-License-Identifier: MIT
 *
 * Up to a million tasks that have started and now wait: how long it takes to get there and back, and what
 * they cost while they are there.
 *
 * Each parks in flow_suspend on a stack of the smallest class, 16 KiB, with a guard. Two ways in:
 * "spawn" queues them all, and the workers start them; "spawn_now" starts each from one coroutine.
 * Then every one is woken and joined. The first round of the process is cold: nearly all of its
 * time goes into page faults and guards. The second round is warm.
 *
 * Memory is what is resident plus the page tables for it, cold, both as growth over n. Wakers and
 * handles lie in arrays that were touched before and are not part of it; rivals' too. The number of
 * VMAs is the process's: the kernel allows 65,530 by default, which is what guards by mprotect run
 * into. */
#include "perf/bench.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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
    for (uint64_t i = 0; i < all.n; i++)
        bench_check(bench_join(all.tasks[i]).u64 == (i ^ 0x5a5a), "a wrong result");
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

static void report(const char *what, const char *unit, double value)
{
    char name[96];

    snprintf(name, sizeof name, "suspended, %s/flow%s", what, all.now ? ", spawn_now" : "");
    bench_value(name, all.n, unit, value);
}

static void measure(const struct bench_run *run, bool now)
{
    struct flow_options options = FLOW_OPTIONS_INIT;
    const struct round *cold = &all.round[0], *warm = &all.round[1];
    double n = (double)run->n;

    all.n = run->n;
    all.now = now;
    options.stack_bytes = (size_t)16 * 1024; /* flow_spawn_now takes the default class */
    if (options.max_tasks < run->n + 64)
        options.max_tasks = run->n + 64;
    bench_need_memory(run->n * 5000);
    bench_in_coroutine(run, &options, root, NULL);
    report("start, cold", "ns", (double)cold->park_ns / n);
    report("start", "ns", (double)warm->park_ns / n);
    report("wake", "ns", (double)warm->end_ns / n);
    report("of it waking", "ns", (double)warm->wake_ns / n);
    report("memory", "bytes",
           (double)(cold->parked.rss_bytes - all.before.rss_bytes + cold->parked.table_bytes -
                    all.before.table_bytes) /
               n);
    report("VMAs of the process", "count", (double)cold->parked.vmas);
}

static void run_spawn(const struct bench_run *run)
{
    measure(run, false);
}

static void run_spawn_now(const struct bench_run *run)
{
    measure(run, true);
}

static void rival(const struct bench_run *run)
{
    const char *who = strrchr(run->name, '/') + 1;
    struct bench_rival r = bench_rival(run);
    uint64_t sum = 0;
    char name[96];

    for (uint64_t i = 0; i < run->n; i++)
        sum += i ^ 0x5a5a;
    bench_check(r.checksum == sum, "%s: results are wrong", run->name);
    for (size_t i = 0; i < r.n_figures; i++) {
        bool memory = !strcmp(r.figures[i].name, "bytes");

        snprintf(name, sizeof name, "suspended, %s/%s", memory ? "memory" : r.figures[i].name, who);
        bench_value(name, run->n, memory ? "bytes" : "ns", r.figures[i].value);
    }
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"suspended/flow", run_spawn, 10000, 1, true},
        {"suspended/tokio", rival, 10000, 1, true},
        {"suspended/go", rival, 10000, 1, true},
        {"suspended/boost_fiber", rival, 10000, 1, true},
        {"suspended/flow", run_spawn, 100000, 1, true},
        {"suspended/flow, spawn_now", run_spawn_now, 100000, 1, true},
        {"suspended/tokio", rival, 100000, 1, true},
        {"suspended/go", rival, 100000, 1, true},
        {"suspended/flow", run_spawn, 1000000, 0, true},
        {"suspended/tokio", rival, 1000000, 0, true},
        {"suspended/go", rival, 1000000, 0, true},
    };
    static const struct bench_suite suite = {
        .name = "suspended",
        .about = "n tasks started and suspended on 16 KiB stacks, then woken and joined; per task",
        .runs = 6,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
