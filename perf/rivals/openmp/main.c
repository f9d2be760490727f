/* SPDX-License-Identifier: MIT
 *
 * Tasks of OpenMP, as the compiler's own library runs them: the cases of perf/fork_join.c and
 * spawn_join.c. See perf/rivals/README. Not "queued": beyond 64 tasks for each thread libgomp runs a
 * new one at once. */
#include "../../support/work.h"
#include "../rival.h"

#include <omp.h>

/* The work in a team of so many threads, begun by one of them. */
#define TEAM(workers, result, expression)                                                          \
    _Pragma("omp parallel num_threads(workers)") _Pragma("omp single") { (result) = (expression); }

static __attribute__((noinline)) uint64_t leaf(uint64_t n)
{
    return n & 3;
}

static uint64_t leaves(uint64_t n)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t x;

#pragma omp task shared(x)
        x = leaf(i);
#pragma omp taskwait
        sum += x;
    }
    return sum;
}

static uint64_t fib(int n)
{
    uint64_t a, b;

    if (n < 2)
        return (uint64_t)n;
#pragma omp task shared(a)
    a = fib(n - 1);
    b = fib(n - 2);
#pragma omp taskwait
    return a + b;
}

static uint64_t skynet(uint64_t first, uint64_t size)
{
    uint64_t part = size / 10, sum = 0, of[10];

    if (size == 1)
        return first;
    for (uint64_t i = 0; i < 9; i++) {
#pragma omp task shared(of)
        of[i] = skynet(first + i * part, part);
    }
    of[9] = skynet(first + 9 * part, part);
#pragma omp taskwait
    for (uint64_t i = 0; i < 10; i++)
        sum += of[i];
    return sum;
}

static uint64_t queens(struct queens_board b)
{
    uint64_t of[QUEENS_MOST], solutions = 0;
    int n = 0;

    if (b.row == b.n)
        return 1;
    for (int i = 0; i < b.n; i++) {
        struct queens_board next;

        if (!queens_ok(&b, i))
            continue;
        next = queens_with(&b, i);
#pragma omp task shared(of) firstprivate(n, next)
        of[n] = queens(next);
        n++;
    }
#pragma omp taskwait
    while (n-- > 0)
        solutions += of[n];
    return solutions;
}

static uint64_t uts(uint64_t node)
{
    uint64_t of[UTS_CHILDREN], nodes = 1;
    int n = uts_children(node);

    for (int i = 0; i < n; i++) {
#pragma omp task shared(of)
        of[i] = uts(uts_child(node, (uint64_t)i));
    }
#pragma omp taskwait
    while (n-- > 0)
        nodes += of[n];
    return nodes;
}

static uint64_t uts_roots(uint64_t begin, uint64_t end)
{
    uint64_t middle = begin + (end - begin) / 2, right, left;

    if (end - begin == 1)
        return uts(uts_child(1, begin));
#pragma omp task shared(right)
    right = uts_roots(middle, end);
    left = uts_roots(begin, middle);
#pragma omp taskwait
    return left + right;
}

static void multiply(struct matmul m)
{
    if (m.n <= BLOCK) {
        matmul_block(m);
        return;
    }
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 4; i++) {
#pragma omp task
            multiply(matmul_part(m, i, half));
        }
#pragma omp taskwait
    }
}

static void merge(struct merge m)
{
    struct merge left, right;

    if (m.na + m.nb <= MERGE_LEAF) {
        merge_leaf(m);
        return;
    }
    merge_part(m, &left, &right);
#pragma omp task
    merge(right);
    merge(left);
#pragma omp taskwait
}

static void sort(struct sort s)
{
    if (s.n <= SORT_LEAF) {
        sort_leaf(s.a, (ptrdiff_t)s.n);
        return;
    }
    for (int i = 0; i < 3; i++) {
#pragma omp task
        sort(sort_part(s, i));
    }
    sort(sort_part(s, 3));
#pragma omp taskwait
#pragma omp task
    merge(sort_merge(s, 0));
    merge(sort_merge(s, 1));
#pragma omp taskwait
    merge(sort_merge(s, 2));
}

/* ---- cases ---- */

static uint64_t run_fork(uint64_t n, int workers)
{
    uint64_t result;

    TEAM(workers, result, leaves(n));
    return result;
}

static uint64_t run_fib(uint64_t n, int workers)
{
    uint64_t result;

    TEAM(workers, result, fib((int)n));
    return result;
}

static uint64_t run_skynet(uint64_t n, int workers)
{
    uint64_t result;

    TEAM(workers, result, skynet(0, n));
    return result;
}

static uint64_t run_queens(uint64_t n, int workers)
{
    struct queens_board empty = {.n = (uint8_t)n};
    uint64_t result;

    TEAM(workers, result, queens(empty));
    return result;
}

static uint64_t run_uts(uint64_t n, int workers)
{
    uint64_t result;

    TEAM(workers, result, 1 + uts_roots(0, n));
    return result;
}

static uint64_t run_matmul(uint64_t n, int workers)
{
    static double *a, *b, *c;
    int64_t start;

    if (!a) {
        a = malloc(n * n * sizeof *a);
        b = malloc(n * n * sizeof *b);
        c = malloc(n * n * sizeof *c);
    }
    matmul_fill(a, b, c, (int)n);
    start = rival_now();
#pragma omp parallel num_threads(workers)
#pragma omp single
    multiply((struct matmul){a, b, c, (int)n, (int)n});
    rival_span(rival_now() - start);
    return matmul_checksum(c, (int)n);
}

static uint64_t run_sort(uint64_t n, int workers)
{
    static uint32_t *a, *tmp;
    int64_t start;

    if (!a) {
        a = malloc(n * sizeof *a);
        tmp = malloc(n * sizeof *tmp);
    }
    sort_fill(a, n, rival_stride(n));
    start = rival_now();
#pragma omp parallel num_threads(workers)
#pragma omp single
    sort((struct sort){a, tmp, n});
    rival_span(rival_now() - start);
    return sort_checksum(a, n);
}

static uint64_t spawn_join(uint64_t n)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t x;

#pragma omp task shared(x)
        x = 2;
#pragma omp taskwait
        sum += x;
    }
    return sum;
}

static uint64_t run_spawn_join(uint64_t n, int workers)
{
    uint64_t result;

    TEAM(workers, result, spawn_join(n));
    return result;
}

int main(int argc, char **argv)
{
    static const struct rival_case cases[] = {
        {"fork", run_fork, RIVAL_SAME},
        {"fib", run_fib, RIVAL_SAME},
        {"skynet", run_skynet, RIVAL_SAME},
        {"nqueens", run_queens, RIVAL_SAME},
        {"uts", run_uts, RIVAL_SAME},
        {"matmul", run_matmul, RIVAL_SAME},
        {"sort", run_sort, RIVAL_SAME},
        {"spawn + join", run_spawn_join, RIVAL_EIGHTH},
    };

    return rival_main(argc, argv, "libgomp of gcc " __VERSION__, cases,
                      sizeof cases / sizeof *cases);
}
