/* SPDX-License-Identifier: MIT
 *
 * Fork and join: recursions that make a job of each branch, next to the same recursion as plain
 * calls (serial) and to oneTBB (perf/rivals/tbb).
 *
 * fib has no work but the calls: what it costs above the serial one is the fork. */
#include "perf/bench.h"

/* ---- fib: n is the argument; the unit is a call ---- */

static uint64_t fib_calls(uint64_t n)
{
    uint64_t previous = 1, calls = 1;

    for (uint64_t i = 2; i <= n; i++) {
        uint64_t next = calls + previous + 1;

        previous = calls;
        calls = next;
    }
    return calls;
}

static uint64_t fib_value(uint64_t n)
{
    uint64_t previous = 0, value = 1;

    for (uint64_t i = 1; i < n; i++) {
        uint64_t next = value + previous;

        previous = value;
        value = next;
    }
    return n ? value : 0;
}

static uint64_t fib(int n);
FLOW_JOB(fib, uint64_t, int)

static uint64_t fib(int n)
{
    struct fib_job a;
    uint64_t b;

    if (n < 2)
        return (uint64_t)n;
    fib_fork(&a, n - 1);
    b = fib(n - 2);
    return fib_sync(&a) + b;
}

static __attribute__((noinline)) uint64_t fib_serial(int n)
{
    return n < 2 ? (uint64_t)n : fib_serial(n - 1) + fib_serial(n - 2);
}

struct work {
    uint64_t n, checksum;
    uint64_t (*run)(uint64_t n);
    int64_t elapsed_ns;
};

static uint64_t run_fib(uint64_t n)
{
    return fib((int)n);
}

static uint64_t run_fib_serial(uint64_t n)
{
    return fib_serial((int)n);
}

static flow_result time_work(void *arg)
{
    struct work *work = arg;
    int64_t start;

    work->run(work->n);
    start = bench_now();
    work->checksum = work->run(work->n);
    work->elapsed_ns = bench_now() - start;
    return flow_ok(NULL);
}

static void fib_flow(const struct bench_run *run)
{
    struct work work = {.n = run->n, .run = run_fib};

    bench_in_coroutine(run, NULL, time_work, &work);
    bench_check(work.checksum == fib_value(run->n), "fib is wrong");
    bench_value("fib/flow", run->n, "ns", (double)work.elapsed_ns / (double)fib_calls(run->n));
}

static void fib_plain(const struct bench_run *run)
{
    struct work work = {.n = run->n, .run = run_fib_serial};

    time_work(&work);
    bench_check(work.checksum == fib_value(run->n), "fib is wrong");
    bench_value("fib/serial", run->n, "ns", (double)work.elapsed_ns / (double)fib_calls(run->n));
}

static void fib_tbb(const struct bench_run *run)
{
    struct bench_rival tbb = bench_rival(run, "tbb", "fib", run->n);

    bench_check(tbb.checksum == fib_value(run->n), "fib is wrong");
    bench_value("fib/tbb", run->n, "ns", tbb.seconds * 1e9 / (double)fib_calls(run->n));
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"fib/serial", fib_plain, 38, 27, .no_workers = true},
        {"fib/flow", fib_flow, 38, 27},
        {"fib/tbb", fib_tbb, 38, 27},
    };
    static const struct bench_suite suite = {
        .name = "fork_join",
        .about = "recursions whose branches are jobs; ns for each call or node",
        .runs = 5,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
