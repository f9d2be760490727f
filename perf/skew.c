/* SPDX-License-Identifier: MIT
 *
 * A skewed load: 64 long-lived tasks that were all begun on one worker. Each has 20 us of work to do
 * every 1.0 to 2.2 ms: together 80 % of what one worker can do. How late is each piece of work done,
 * counted from when it was due, whatever went before?
 *
 * Once started a task stays: without FLOW_ROAM all of them stay with the first worker, which is what
 * that flag is for. Go's and tokio's may always move (perf/rivals). n pieces of work in all. */
#include "perf/bench.h"

enum { HANDLERS = 64, WORK_NS = 20000 };

static struct {
    uint64_t each;
    int64_t *late; /* each handler's part of it */
} load;

static void work(void)
{
    int64_t begin = bench_now();

    while (bench_now() - begin < WORK_NS)
        ;
}

static flow_result handle(void *arg)
{
    uint64_t h = (uintptr_t)arg;
    int64_t due = bench_now();

    for (uint64_t i = 0; i < load.each; i++) {
        due += FLOW_MS(1) + bench_spread(h * 1000 + i, FLOW_US(1200));
        bench_check(!flow_sleep_until(due), "flow_sleep_until");
        work();
        load.late[h * load.each + i] = bench_now() - due;
    }
    return flow_ok(NULL);
}

static void measure(const struct bench_run *run, unsigned flags)
{
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    flow_task tasks[HANDLERS];
    int r = 0;

    load.each = run->n / HANDLERS;
    load.late = bench_array(load.each * HANDLERS, sizeof *load.late);
    how.worker = 0;
    how.flags = flags;
    bench_start(run, NULL);
    for (uintptr_t h = 0; h < HANDLERS && !r; h++)
        r = flow_spawn_with(&tasks[h], &how, handle, (void *)h);
    bench_check(!r, "flow_spawn_with: %d", r);
    r = flow_when_all(tasks, HANDLERS, NULL, FLOW_FOREVER);
    bench_check(!r, "flow_when_all: %d", r);
    bench_stop();
    bench_percentiles(run, "us", load.late, load.each * HANDLERS, 1e-3);
}

static void run_staying(const struct bench_run *run)
{
    measure(run, 0);
}

static void run_roaming(const struct bench_run *run)
{
    measure(run, FLOW_ROAM);
}

static void rival(const struct bench_run *run)
{
    bench_rival_figures(run, "us", 1e-3);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"skewed load/flow, roaming", run_roaming, 20000, 3000},
        {"skewed load/flow, staying", run_staying, 20000, 3000},
        {"skewed load/go", rival, 20000, 3000},
        {"skewed load/tokio", rival, 20000, 3000},
    };
    static const struct bench_suite suite = {
        .name = "skew",
        .about = "64 tasks begun on one worker, 0.8 workers' work: how late each piece is done",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
