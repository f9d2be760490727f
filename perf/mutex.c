/* SPDX-License-Identifier: MIT
 *
 * A mutex, next to Go's and Boost.Fiber's (perf/rivals).
 *
 * "alone" is one coroutine that locks and unlocks; "of 8" are eight that want the same one, each
 * holding it for one addition. ns for a lock and an unlock. The checksum is the counter that the mutex guards. */
#include "perf/bench.h"

enum { MOST = 8 };

struct work {
    struct flow_mutex mutex;
    uint64_t n, counter; /* counter: under the mutex */
    int tasks;
    int64_t elapsed_ns;
};

static flow_result count(void *arg)
{
    struct work *w = arg;

    for (uint64_t i = 0; i < w->n / (uint64_t)w->tasks; i++) {
        bench_check(!flow_mutex_lock(&w->mutex, FLOW_FOREVER), "lock");
        w->counter++;
        bench_check(!flow_mutex_unlock(&w->mutex), "unlock");
    }
    return flow_ok(NULL);
}

static void pass(struct work *w)
{
    flow_task task[MOST];

    for (int i = 0; i < w->tasks; i++)
        bench_check(!flow_spawn(&task[i], count, w), "spawn");
    for (int i = 0; i < w->tasks; i++)
        bench_check(!flow_join(task[i], NULL, FLOW_FOREVER), "join");
}

static flow_result measure(void *arg)
{
    struct work *w = arg;
    uint64_t n = w->n;
    int64_t start;

    w->n = n / 8 + 64;
    pass(w);
    w->n = n;
    w->counter = 0;
    start = bench_now();
    pass(w);
    w->elapsed_ns = bench_now() - start;
    return flow_ok(NULL);
}

static void ours(const struct bench_run *run, const char *name, int tasks)
{
    struct work work = {.mutex = FLOW_MUTEX_INIT, .n = run->n, .tasks = tasks};

    bench_in_coroutine(run, NULL, measure, &work);
    bench_check(work.counter == run->n, "the mutex does not exclude");
    bench_value(name, run->n, "ns", (double)work.elapsed_ns / (double)run->n);
}

static void theirs(const struct bench_run *run, const char *name, const char *rival,
                   const char *what)
{
    struct bench_rival r = bench_rival(run, rival, what, run->n);

    bench_check(r.checksum == run->n, "%s: the mutex does not exclude", rival);
    bench_value(name, run->n, "ns", r.seconds * 1e9 / (double)run->n);
}

static void alone_flow(const struct bench_run *run)
{
    ours(run, "alone/flow", 1);
}

static void alone_go(const struct bench_run *run)
{
    theirs(run, "alone/go", "go", "mutex1");
}

static void alone_boost(const struct bench_run *run)
{
    theirs(run, "alone/boost_fiber", "boost_fiber", "mutex1");
}

static void of8_flow(const struct bench_run *run)
{
    ours(run, "of 8/flow", 8);
}

static void of8_go(const struct bench_run *run)
{
    theirs(run, "of 8/go", "go", "mutex8");
}

static void of8_boost(const struct bench_run *run)
{
    theirs(run, "of 8/boost_fiber", "boost_fiber", "mutex8");
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"alone/flow", alone_flow, 20000000, 1000000},
        {"alone/go", alone_go, 20000000, 1000000},
        {"alone/boost_fiber", alone_boost, 20000000, 1000000},
        {"of 8/flow", of8_flow, 8000000, 400000},
        {"of 8/go", of8_go, 8000000, 400000},
        {"of 8/boost_fiber", of8_boost, 8000000, 400000},
    };
    static const struct bench_suite suite = {
        .name = "mutex",
        .about = "ns for a lock and an unlock around one addition",
        .runs = 5,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
