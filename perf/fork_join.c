/* SPDX-License-Identifier: MIT
 *
 * Fork and join: recursions that make a job of each branch, next to the same recursion as plain
 * calls (serial), to oneTBB and to OpenMP's tasks (perf/rivals), each doing all of the work that
 * perf/support/work.h describes.
 *
 *   fib      no work but the calls: what it costs above the serial one is the fork
 *   skynet   a tree of ten children each, whose n leaves are summed
 *   nqueens  all solutions; a node copies a board and looks at a row
 *   uts      a tree of which nobody knows how large a branch is: n children of the root
 *   matmul   n by n doubles, by quarters down to blocks of 64
 *   sort     n numbers: merge sort whose merges are parted too
 *
 * Values are ns for each call, node, block or element; memory is the most that the process had. */
#include "perf/bench.h"
#include "perf/support/recursion.h"

#include <stdio.h>
#include <string.h>

/* ---- problems: how each is run, checked and counted ---- */

enum way { SERIAL, FLOW };

struct data {
    void *array[3];
};

struct problem {
    const char *name;
    void (*prepare)(struct data *data, uint64_t n);
    uint64_t (*run)(struct data *data, uint64_t n, enum way way); /* the checksum, or 0 */
    uint64_t (*checksum)(struct data *data, uint64_t n);          /* NULL: run's value */
    uint64_t (*expected)(uint64_t n);                             /* NULL: the serial run's */
    uint64_t (*units)(uint64_t n, uint64_t checksum);
};

static uint64_t run_leaves(struct data *data, uint64_t n, enum way way)
{
    uint64_t sum = 0;

    (void)data;
    for (uint64_t i = 0; i < n; i++) {
        struct leaf_job job;

        if (way == SERIAL) {
            sum += leaf(i);
            continue;
        }
        leaf_fork(&job, i);
        sum += leaf_sync(&job);
    }
    return sum;
}

static uint64_t n_is_units(uint64_t n, uint64_t checksum)
{
    (void)checksum;
    return n;
}

static uint64_t leaves_expected(uint64_t n)
{
    return n / 4 * 6 + (n % 4) * (n % 4 - (n % 4 != 0)) / 2;
}

static uint64_t run_fib(struct data *data, uint64_t n, enum way way)
{
    (void)data;
    return way == FLOW ? fib((int)n) : fib_serial((int)n);
}

static uint64_t fib_expected(uint64_t n)
{
    uint64_t previous = 1, value = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t next = value + previous;

        previous = value;
        value = next;
    }
    return value;
}

static uint64_t fib_units(uint64_t n, uint64_t checksum)
{
    (void)checksum;
    return 2 * fib_expected(n + 1) - 1;
}

static uint64_t run_skynet(struct data *data, uint64_t n, enum way way)
{
    struct skynet root = {0, n};

    (void)data;
    return way == FLOW ? skynet(root) : skynet_serial(root);
}

static uint64_t skynet_expected(uint64_t n)
{
    return n * (n - 1) / 2;
}

static uint64_t skynet_units(uint64_t n, uint64_t checksum)
{
    (void)checksum;
    return (10 * n - 1) / 9;
}

static uint64_t run_queens(struct data *data, uint64_t n, enum way way)
{
    struct queens_board empty = {.n = (uint8_t)n};

    (void)data;
    queens_nodes = way == FLOW ? queens_nodes : 0;
    return way == FLOW ? queens(empty) : queens_serial(empty);
}

static uint64_t queens_units(uint64_t n, uint64_t checksum)
{
    struct queens_board empty = {.n = (uint8_t)n};

    (void)checksum;
    if (!queens_nodes)
        queens_serial(empty);
    return queens_nodes;
}

static uint64_t run_uts(struct data *data, uint64_t n, enum way way)
{
    struct uts_range all = {0, n};

    (void)data;
    return 1 + (way == FLOW ? uts_roots(all) : uts_roots_serial(all));
}

static uint64_t checksum_is_units(uint64_t n, uint64_t checksum)
{
    (void)n;
    return checksum;
}

static void matmul_prepare(struct data *data, uint64_t n)
{
    for (int i = 0; i < 3; i++)
        if (!data->array[i])
            data->array[i] = bench_array(n * n, sizeof(double));
    matmul_fill(data->array[0], data->array[1], data->array[2], (int)n);
}

static uint64_t run_matmul(struct data *data, uint64_t n, enum way way)
{
    struct matmul m = {data->array[0], data->array[1], data->array[2], (int)n, (int)n};

    if (way == FLOW)
        matmul(m);
    else
        matmul_serial(m);
    return 0;
}

static uint64_t matmul_result(struct data *data, uint64_t n)
{
    return matmul_checksum(data->array[2], (int)n);
}

static uint64_t matmul_units(uint64_t n, uint64_t checksum)
{
    uint64_t blocks = n > BLOCK ? n / BLOCK : 1;

    (void)checksum;
    return blocks * blocks * blocks;
}

static void sort_prepare(struct data *data, uint64_t n)
{
    for (int i = 0; i < 2; i++)
        if (!data->array[i])
            data->array[i] = bench_array(n, sizeof(uint32_t));
    sort_fill(data->array[0], n, bench_stride(n));
}

static uint64_t run_sort(struct data *data, uint64_t n, enum way way)
{
    struct sort s = {data->array[0], data->array[1], n};

    if (way == FLOW)
        sort(s);
    else
        sort_serial(s);
    return 0;
}

static uint64_t sort_result(struct data *data, uint64_t n)
{
    return sort_checksum(data->array[0], n);
}

static uint64_t sort_expected(uint64_t n)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i++)
        sum += i * (i + 1);
    return sum;
}

/* ---- measuring ---- */

struct measured {
    const struct problem *problem;
    uint64_t n, checksum;
    enum way way;
    int64_t elapsed_ns;
    struct data data;
};

static void do_once(struct measured *m)
{
    const struct problem *p = m->problem;
    int64_t start;

    if (p->prepare)
        p->prepare(&m->data, m->n);
    start = bench_now();
    m->checksum = p->run(&m->data, m->n, m->way);
    m->elapsed_ns = bench_now() - start;
    if (p->checksum)
        m->checksum = p->checksum(&m->data, m->n);
}

/* Once to warm up. */
static flow_result do_twice(void *arg)
{
    do_once(arg);
    do_once(arg);
    return flow_ok(NULL);
}

static void check(const struct problem *p, uint64_t n, uint64_t checksum)
{
    struct measured serial = {.problem = p, .n = n, .way = SERIAL};

    if (p->expected) {
        bench_check(checksum == p->expected(n), "%s: a wrong result", p->name);
        return;
    }
    do_once(&serial);
    bench_check(checksum == serial.checksum, "%s: a wrong result", p->name);
}

static void report(const struct problem *p, const char *who, uint64_t n, uint64_t checksum,
                   double ns, int64_t peak_bytes)
{
    char name[64];

    snprintf(name, sizeof name, "%s/%s", p->name, who);
    bench_value(name, n, "ns", ns / (double)p->units(n, checksum));
    snprintf(name, sizeof name, "%s, memory/%s", p->name, who);
    bench_value(name, n, "MiB", (double)peak_bytes / (1 << 20));
}

static void run_serial(const struct problem *p, const struct bench_run *run)
{
    struct measured m = {.problem = p, .n = run->n, .way = SERIAL};

    do_twice(&m);
    if (m.problem->expected)
        check(m.problem, m.n, m.checksum);
    report(m.problem, "(serial)", m.n, m.checksum, (double)m.elapsed_ns,
           bench_memory_now().peak_bytes);
}

static void run_flow(const struct problem *p, const struct bench_run *run)
{
    struct measured m = {.problem = p, .n = run->n, .way = FLOW};
    int64_t peak_bytes;

    bench_in_coroutine(run, NULL, do_twice, &m);
    peak_bytes = bench_memory_now().peak_bytes;
    check(m.problem, m.n, m.checksum);
    report(m.problem, "flow", m.n, m.checksum, (double)m.elapsed_ns, peak_bytes);
}

static void run_rival(const struct problem *p, const struct bench_run *run)
{
    struct bench_rival r = bench_rival(run);

    check(p, run->n, r.checksum);
    report(p, strrchr(run->name, '/') + 1, run->n, r.checksum, r.seconds * 1e9, r.peak_bytes);
}

/* A problem's cases. */
#define PROBLEM(id, ...)                                                                           \
    static const struct problem id##_problem = {#id, __VA_ARGS__};                                 \
    static void id##_by_serial(const struct bench_run *run)                                        \
    {                                                                                              \
        run_serial(&id##_problem, run);                                                            \
    }                                                                                              \
    static void id##_by_flow(const struct bench_run *run)                                          \
    {                                                                                              \
        run_flow(&id##_problem, run);                                                              \
    }                                                                                              \
    static void id##_by_rival(const struct bench_run *run)                                         \
    {                                                                                              \
        run_rival(&id##_problem, run);                                                             \
    }

/* What n must be where it is not; NULL where it is. Nothing may overflow. */
static const char *fib_needs(uint64_t n)
{
    return n <= 64 ? NULL : "at most 64";
}

static const char *skynet_needs(uint64_t n)
{
    while (n % 10 == 0)
        n /= 10;
    return n == 1 ? NULL : "a power of ten";
}

static const char *nqueens_needs(uint64_t n)
{
    return n <= QUEENS_MOST ? NULL : "at most 16";
}

static const char *matmul_needs(uint64_t n)
{
    while (n % 2 == 0 && n > BLOCK)
        n /= 2;
    return n == BLOCK ? NULL : "64 times a power of two";
}

PROBLEM(fork, NULL, run_leaves, NULL, leaves_expected, n_is_units)
PROBLEM(fib, NULL, run_fib, NULL, fib_expected, fib_units)
PROBLEM(skynet, NULL, run_skynet, NULL, skynet_expected, skynet_units)
PROBLEM(nqueens, NULL, run_queens, NULL, NULL, queens_units)
PROBLEM(uts, NULL, run_uts, NULL, NULL, checksum_is_units)
PROBLEM(matmul, matmul_prepare, run_matmul, matmul_result, NULL, matmul_units)
PROBLEM(sort, sort_prepare, run_sort, sort_result, sort_expected, n_is_units)

#define CASES(id, n, quick_n, needs_n)                                                             \
    {#id "/(serial)", id##_by_serial, n, quick_n, .no_workers = true, .needs = needs_n},           \
        {#id "/flow", id##_by_flow, n, quick_n, .needs = needs_n},                                 \
        {#id "/tbb", id##_by_rival, n, quick_n, .needs = needs_n},                                 \
    {                                                                                              \
        #id "/openmp", id##_by_rival, n, quick_n, .needs = needs_n                                 \
    }

int main(int argc, char **argv)
{
    static const int crowded[] = {64, 0};
    static const struct bench_case cases[] = {
        CASES(fork, 3000000, 300000, NULL),
        CASES(fib, 32, 22, fib_needs),
        CASES(skynet, 1000000, 10000, skynet_needs),
        CASES(nqueens, 11, 8, nqueens_needs),
        CASES(uts, 10000, 1000, NULL),
        CASES(matmul, 512, 128, matmul_needs),
        CASES(sort, 3000000, 50000, NULL),
        {"fib/flow", fib_by_flow, 32, 22, .needs = fib_needs, .workers = crowded},
        {"fib/tbb", fib_by_rival, 32, 22, .needs = fib_needs, .workers = crowded},
        {"skynet/flow", skynet_by_flow, 1000000, 10000, .needs = skynet_needs, .workers = crowded},
        {"skynet/tbb", skynet_by_rival, 1000000, 10000, .needs = skynet_needs, .workers = crowded},
    };
    static const struct bench_suite suite = {
        .name = "fork_join",
        .about = "recursions whose branches are jobs; ns for each call, node, block or element",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
