/* SPDX-License-Identifier: MIT
 *
 * The recursions of perf/fork_join.c, with our jobs and as plain calls; what a leaf does is in work.h. */
#ifndef FLOW_PERF_RECURSION_H
#define FLOW_PERF_RECURSION_H

#include "perf/support/work.h"

#include <flowcoro.h>

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

#endif
