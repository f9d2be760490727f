/* SPDX-License-Identifier: MIT
 *
 * n tasks queued by one coroutine, which then joins all of them: time and memory of each, from a
 * thousand to ten millions, and from 1 to 64 workers; next to other libraries (perf/rivals). "inline"
 * is the same with tasks that run to their end where they are spawned.
 *
 * Each of our tasks has a handle, keeps its result and is joined, as tokio's. oneTBB's and Go's leave
 * theirs in an array, and one counter is waited for: "flow, wait group" and "flow, scope" are the like
 * of that.
 *
 * The first batch of the process is cold: it pays for the page faults of a million control blocks.
 * The second one, in the same process, is warm; rivals too are asked for their second.
 *
 * Memory is the growth of what is resident, and its page tables, over n, cold. With one worker the
 * coroutine that queues is all that runs, so after the last flow_spawn every task is queued and none
 * has begun: that is the moment to look. With more workers others begin at once and there is no such
 * moment. The array of handles or results is the caller's, and lies in memory that was touched before
 * the clock starts; rivals' too. */
#include "perf/bench.h"

#include <stdio.h>
#include <string.h>

#define ROUNDS 2 /* cold, warm */

struct round {
    int64_t spawn_ns, total_ns;
    struct bench_memory queued; /* one worker only */
};

enum way { JOINED, INLINE, WAIT_GROUP, SCOPE };

struct batch {
    uint64_t n;
    int workers;
    enum way way;
    struct bench_memory before;
    struct round round[ROUNDS];
};

static flow_result tag(void *arg)
{
    return flow_ok_u64((uint64_t)(uintptr_t)arg ^ 0x5a5a);
}

/* What those leave that are not joined, and what waits for them. */
static uint64_t *marks;
static struct flow_waitgroup group;
static struct flow_scope scope;

static flow_result leave_mark(void *arg)
{
    uint64_t i = (uintptr_t)arg;

    marks[i] = i ^ 0x5a5a;
    return flow_ok(NULL);
}

static flow_result leave_mark_and_tell(void *arg)
{
    flow_result result = leave_mark(arg);
    int r = flow_waitgroup_done(&group);

    bench_check(!r, "flow_waitgroup_done: %d", r);
    return result;
}

static int spawn(enum way way, flow_task *out, void *arg)
{
    switch (way) {
    case INLINE:
        return flow_spawn_now(out, tag, arg);
    case WAIT_GROUP:
        return flow_spawn(NULL, leave_mark_and_tell, arg);
    case SCOPE:
        return flow_scope_spawn(&scope, NULL, leave_mark, arg);
    default:
        return flow_spawn(out, tag, arg);
    }
}

static void spawn_all(const struct batch *batch, flow_task *tasks)
{
    int r = batch->way == WAIT_GROUP ? flow_waitgroup_add(&group, (uint32_t)batch->n)
            : batch->way == SCOPE    ? flow_scope_open(&scope, NULL)
                                     : 0;

    bench_check(!r, "no wait group or scope: %d", r);
    for (uint64_t i = 0; i < batch->n; i++) {
        r = spawn(batch->way, &tasks[i], (void *)(uintptr_t)i);
        bench_check(!r, "flow_spawn: %d", r);
    }
}

static void join_all(const flow_task *tasks, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        bench_check(bench_join(tasks[i]).u64 == (i ^ 0x5a5a), "a wrong result");
}

static void wait_for_all(const struct batch *batch, const flow_task *tasks)
{
    int r;

    if (batch->way == JOINED || batch->way == INLINE) {
        join_all(tasks, batch->n);
        return;
    }
    r = batch->way == SCOPE ? flow_scope_close(&scope) : flow_waitgroup_wait(&group, FLOW_FOREVER);
    bench_check(!r, "the wait for all: %d", r);
    for (uint64_t i = 0; i < batch->n; i++) {
        bench_check(marks[i] == (i ^ 0x5a5a), "a task has not run");
        marks[i] = 0;
    }
}

static void one_round(const struct batch *batch, struct round *round, flow_task *tasks)
{
    struct flow_stats before = bench_stats(), after;
    int64_t start = bench_now(), spawned, joining;
    uint64_t ran;

    spawn_all(batch, tasks);
    spawned = bench_now();
    if (batch->workers == 1) /* nothing else goes on meanwhile, so it can be left out */
        round->queued = bench_memory_now();
    joining = batch->workers == 1 ? bench_now() : spawned;
    wait_for_all(batch, tasks);
    round->total_ns = bench_now() - joining + (spawned - start);
    round->spawn_ns = spawned - start;
    after = bench_stats();
    ran = batch->way == INLINE ? after.total.started_now - before.total.started_now
                               : after.total.dispatches - before.total.dispatches;
    bench_check(ran + (uint64_t)batch->workers >= batch->n, "%llu of %llu tasks ran",
                (unsigned long long)ran, (unsigned long long)batch->n);
}

static flow_result root(void *arg)
{
    struct batch *batch = arg;
    flow_task *tasks = bench_array(batch->n, sizeof *tasks);

    marks = bench_array(batch->n, sizeof *marks);
    batch->before = bench_memory_now();
    for (int i = 0; i < ROUNDS; i++)
        one_round(batch, &batch->round[i], tasks);
    return flow_ok(NULL);
}

static struct batch measure(const struct bench_run *run, enum way way)
{
    struct batch batch = {.n = run->n, .workers = run->workers, .way = way};
    struct flow_options options = FLOW_OPTIONS_INIT;

    if (options.max_tasks < run->n + 1000)
        options.max_tasks = run->n + 1000;
    bench_need_memory(run->n * 256);
    bench_in_coroutine(run, &options, root, &batch);
    return batch;
}

static double per_task(const struct batch *batch, int64_t total)
{
    return (double)total / (double)batch->n;
}

static void run_queued(const struct bench_run *run)
{
    struct batch batch = measure(run, JOINED);
    struct bench_memory queued = batch.round[0].queued;

    bench_value("queued, cold/flow", run->n, "ns", per_task(&batch, batch.round[0].total_ns));
    bench_value("queued/flow", run->n, "ns", per_task(&batch, batch.round[1].total_ns));
    bench_value("queued, of it spawning/flow", run->n, "ns",
                per_task(&batch, batch.round[1].spawn_ns));
    if (run->workers == 1)
        bench_value("queued, memory/flow", run->n, "bytes",
                    per_task(&batch, queued.rss_bytes - batch.before.rss_bytes +
                                         queued.table_bytes - batch.before.table_bytes));
}

static void run_warm(const struct bench_run *run, enum way way)
{
    struct batch batch = measure(run, way);

    bench_value(run->name, run->n, "ns", per_task(&batch, batch.round[1].total_ns));
}

static void run_inline(const struct bench_run *run)
{
    run_warm(run, INLINE);
}

static void run_wait_group(const struct bench_run *run)
{
    run_warm(run, WAIT_GROUP);
}

static void run_scope(const struct bench_run *run)
{
    run_warm(run, SCOPE);
}

static uint64_t expected(uint64_t n)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i++)
        sum += i ^ 0x5a5a;
    return sum;
}

static void rival(const struct bench_run *run)
{
    const char *who = strrchr(run->name, '/') + 1;
    struct bench_rival r = bench_rival(run);
    char name[96];

    bench_check(r.checksum == expected(run->n), "%s: results are wrong", run->name);
    bench_value(run->name, run->n, "ns", r.seconds * 1e9 / (double)run->n);
    for (size_t i = 0; i < r.n_figures; i++) {
        snprintf(name, sizeof name, "queued, memory/%s", who);
        bench_value(name, run->n, "bytes", bench_rival_figure(&r, "bytes"));
    }
}

/* As many as fit in --quick, too. */
#define QUEUED(n, quick_n, list)                                                                   \
    {"queued/flow", run_queued, n, quick_n, true, .workers = list},                                \
        {"queued/flow, wait group", run_wait_group, n, quick_n, true, .workers = list},            \
        {"queued/flow, scope", run_scope, n, quick_n, true, .workers = list},                      \
        {"queued/tbb", rival, n, quick_n, true, .workers = list},                                  \
        {"queued/tokio", rival, n, quick_n, true, .workers = list},                                \
    {                                                                                              \
        "queued/go", rival, n, quick_n, true, .workers = list                                      \
    }

int main(int argc, char **argv)
{
    static const int one[] = {1, 0}, few[] = {1, 2, 0}, many[] = {1, 2, 4, 8, 16, 32, 64, 0};
    static const struct bench_case cases[] = {
        QUEUED(1000, 1, few),
        QUEUED(10000, 1, few),
        {"queued/boost_fiber", rival, 10000, 1, true},
        QUEUED(100000, 1, many),
        QUEUED(1000000, 0, few),
        {"queued/flow", run_queued, 10000000, 0, true, .workers = one},
        {"queued/tbb", rival, 10000000, 0, true, .workers = one},
        {"inline/flow", run_inline, 10000, 1, true},
        {"inline/boost_fiber", rival, 10000, 1, true},
        {"inline/flow", run_inline, 100000, 1, true},
        {"inline/boost_fiber", rival, 100000, 0, true},
        {"inline/flow", run_inline, 1000000, 0, true},
    };
    static const struct bench_suite suite = {
        .name = "tasks",
        .about = "n tasks queued, then joined, by one coroutine; per task",
        .runs = 6,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
