/* SPDX-License-Identifier: MIT
 *
 * Fork and join: recursions that make a job of each branch, next to the same recursion as plain
 * calls (serial) and to oneTBB (perf/rivals/tbb), each doing all of the work that
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
#include "perf/support/work.h"

#include <stdio.h>

/* ---- fork: one job after the other; what one costs that nobody takes ---- */

static uint64_t leaf(uint64_t n);
FLOW_JOB(leaf, uint64_t, uint64_t)

static __attribute__((noinline)) uint64_t leaf(uint64_t n)
{
    return n & 3;
}

/* ---- fib ---- */

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

/* ---- skynet ---- */

struct skynet {
    uint64_t first, size;
};

static uint64_t skynet(struct skynet s);
FLOW_JOB(skynet, uint64_t, struct skynet)

static uint64_t skynet(struct skynet s)
{
    struct skynet_job job[10];
    uint64_t part = s.size / 10, sum = 0;

    if (s.size == 1)
        return s.first;
    for (uint64_t i = 0; i < 10; i++)
        skynet_fork(&job[i], (struct skynet){s.first + i * part, part});
    for (int i = 9; i >= 0; i--)
        sum += skynet_sync(&job[i]);
    return sum;
}

static __attribute__((noinline)) uint64_t skynet_serial(struct skynet s)
{
    uint64_t part = s.size / 10, sum = 0;

    if (s.size == 1)
        return s.first;
    for (uint64_t i = 0; i < 10; i++)
        sum += skynet_serial((struct skynet){s.first + i * part, part});
    return sum;
}

/* ---- nqueens ---- */

static uint64_t queens(struct queens_board b);
FLOW_JOB(queens, uint64_t, struct queens_board)

static uint64_t queens(struct queens_board b)
{
    struct queens_job job[QUEENS_MOST];
    uint64_t solutions = 0;
    int n = 0;

    if (b.row == b.n)
        return 1;
    for (int i = 0; i < b.n; i++) {
        if (queens_ok(&b, i))
            queens_fork(&job[n++], queens_with(&b, i));
    }
    while (n-- > 0)
        solutions += queens_sync(&job[n]);
    return solutions;
}

static uint64_t queens_nodes; /* counted by the serial one */

static uint64_t queens_serial(struct queens_board b)
{
    uint64_t solutions = 0;

    queens_nodes++;
    if (b.row == b.n)
        return 1;
    for (int i = 0; i < b.n; i++) {
        if (queens_ok(&b, i))
            solutions += queens_serial(queens_with(&b, i));
    }
    return solutions;
}

/* ---- uts ---- */

static uint64_t uts(uint64_t node);
FLOW_JOB(uts, uint64_t, uint64_t)

static uint64_t uts(uint64_t node)
{
    struct uts_job job[UTS_CHILDREN];
    int n = uts_children(node);
    uint64_t nodes = 1;

    for (int i = 0; i < n; i++)
        uts_fork(&job[i], uts_child(node, (uint64_t)i));
    while (n-- > 0)
        nodes += uts_sync(&job[n]);
    return nodes;
}

static uint64_t uts_serial(uint64_t node)
{
    int n = uts_children(node);
    uint64_t nodes = 1;

    for (int i = 0; i < n; i++)
        nodes += uts_serial(uts_child(node, (uint64_t)i));
    return nodes;
}

/* The root's children from begin to end, by halves. */
struct uts_range {
    uint64_t begin, end;
};

static uint64_t uts_roots(struct uts_range r);
FLOW_JOB(uts_roots, uint64_t, struct uts_range)

static uint64_t uts_roots(struct uts_range r)
{
    uint64_t middle = r.begin + (r.end - r.begin) / 2, nodes;
    struct uts_roots_job job;

    if (r.end - r.begin == 1)
        return uts(uts_child(1, r.begin));
    uts_roots_fork(&job, (struct uts_range){middle, r.end});
    nodes = uts_roots((struct uts_range){r.begin, middle});
    return nodes + uts_roots_sync(&job);
}

static uint64_t uts_roots_serial(struct uts_range r)
{
    uint64_t nodes = 0;

    for (uint64_t i = r.begin; i < r.end; i++)
        nodes += uts_serial(uts_child(1, i));
    return nodes;
}

/* ---- matmul ---- */

static int matmul(struct matmul m);
FLOW_JOB(matmul, int, struct matmul)

static int matmul(struct matmul m)
{
    struct matmul_job job[4];

    if (m.n <= BLOCK) {
        matmul_block(m);
        return 0;
    }
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 4; i++)
            matmul_fork(&job[i], matmul_part(m, i, half));
        for (int i = 3; i >= 0; i--)
            matmul_sync(&job[i]);
    }
    return 0;
}

static void matmul_serial(struct matmul m)
{
    if (m.n <= BLOCK) {
        matmul_block(m);
        return;
    }
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 4; i++)
            matmul_serial(matmul_part(m, i, half));
}

/* ---- sort ---- */

static int merge(struct merge m);
FLOW_JOB(merge, int, struct merge)

static int merge(struct merge m)
{
    struct merge left, right;
    struct merge_job job;

    if (m.na + m.nb <= MERGE_LEAF) {
        merge_leaf(m);
        return 0;
    }
    merge_part(m, &left, &right);
    merge_fork(&job, right);
    merge(left);
    return merge_sync(&job);
}

static int sort(struct sort s);
FLOW_JOB(sort, int, struct sort)

static int sort(struct sort s)
{
    struct sort_job part[3];
    struct merge_job half;

    if (s.n <= SORT_LEAF) {
        sort_leaf(s.a, (ptrdiff_t)s.n);
        return 0;
    }
    for (int i = 0; i < 3; i++)
        sort_fork(&part[i], sort_part(s, i));
    sort(sort_part(s, 3));
    for (int i = 2; i >= 0; i--)
        sort_sync(&part[i]);
    merge_fork(&half, sort_merge(s, 0));
    merge(sort_merge(s, 1));
    merge_sync(&half);
    return merge(sort_merge(s, 2));
}

static void merge_serial(struct merge m)
{
    struct merge left, right;

    if (m.na + m.nb <= MERGE_LEAF) {
        merge_leaf(m);
        return;
    }
    merge_part(m, &left, &right);
    merge_serial(left);
    merge_serial(right);
}

static void sort_serial(struct sort s)
{
    if (s.n <= SORT_LEAF) {
        sort_leaf(s.a, (ptrdiff_t)s.n);
        return;
    }
    for (int i = 0; i < 4; i++)
        sort_serial(sort_part(s, i));
    for (int i = 0; i < 3; i++)
        merge_serial(sort_merge(s, i));
}

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
    snprintf(name, sizeof name, "%s/%s: memory", p->name, who);
    bench_value(name, n, "MiB", (double)peak_bytes / (1 << 20));
}

static void run_serial(const struct problem *p, const struct bench_run *run)
{
    struct measured m = {.problem = p, .n = run->n, .way = SERIAL};

    do_twice(&m);
    if (m.problem->expected)
        check(m.problem, m.n, m.checksum);
    report(m.problem, "serial", m.n, m.checksum, (double)m.elapsed_ns,
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

static void run_tbb(const struct problem *p, const struct bench_run *run)
{
    struct bench_rival tbb = bench_rival(run, "tbb", p->name, run->n);

    check(p, run->n, tbb.checksum);
    report(p, "tbb", run->n, tbb.checksum, tbb.seconds * 1e9, tbb.peak_bytes);
}

/* A problem's three cases. */
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
    static void id##_by_tbb(const struct bench_run *run)                                           \
    {                                                                                              \
        run_tbb(&id##_problem, run);                                                               \
    }

PROBLEM(fork, NULL, run_leaves, NULL, leaves_expected, n_is_units)
PROBLEM(fib, NULL, run_fib, NULL, fib_expected, fib_units)
PROBLEM(skynet, NULL, run_skynet, NULL, skynet_expected, skynet_units)
PROBLEM(nqueens, NULL, run_queens, NULL, NULL, queens_units)
PROBLEM(uts, NULL, run_uts, NULL, NULL, checksum_is_units)
PROBLEM(matmul, matmul_prepare, run_matmul, matmul_result, NULL, matmul_units)
PROBLEM(sort, sort_prepare, run_sort, sort_result, sort_expected, n_is_units)

#define CASES(id, n, quick_n)                                                                      \
    {#id "/serial", id##_by_serial, n, quick_n, .no_workers = true},                               \
        {#id "/flow", id##_by_flow, n, quick_n},                                                   \
    {                                                                                              \
        #id "/tbb", id##_by_tbb, n, quick_n                                                        \
    }

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        CASES(fork, 50000000, 1000000),    CASES(fib, 38, 25),
        CASES(skynet, 1000000, 10000),     CASES(skynet, 100000000, 0),
        CASES(nqueens, 12, 8),             CASES(nqueens, 13, 0),
        CASES(uts, 50000, 1000),             CASES(matmul, 1024, 128),
        CASES(sort, 10000000, 50000),
    };
    static const struct bench_suite suite = {
        .name = "fork_join",
        .about = "recursions whose branches are jobs; ns for each call, node, block or element",
        .runs = 3,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
