/* SPDX-License-Identifier: MIT
 *
 * What the programs of fork_join have in common, whoever forks: the leaves, what makes a node, and
 * how the results are checked. C and C++, for the rivals are written in both. */
#ifndef FLOW_PERF_WORK_H
#define FLOW_PERF_WORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Not inlined, not cloned, and of one side only: else what surrounds a leaf decides how well the compiler
 * does it. */
#if defined(__clang__)
#define WORK_LEAF __attribute__((noinline, unused))
#else
#define WORK_LEAF __attribute__((noinline, noclone, unused))
#endif

/* ---- nqueens: solutions for n queens; as in Cilk's examples a node copies its board ---- */

enum { QUEENS_MOST = 16 };

struct queens_board {
    uint8_t n, row;
    uint8_t column[QUEENS_MOST];
};

/* May the next row's queen stand in this column? */
static inline bool queens_ok(const struct queens_board *b, int column)
{
    for (int i = 0; i < b->row; i++) {
        int distance = b->column[i] - column;

        if (distance == 0 || distance == b->row - i || distance == i - b->row)
            return false;
    }
    return true;
}

/* The board with one more queen. */
static inline struct queens_board queens_with(const struct queens_board *b, int column)
{
    struct queens_board next = *b;

    next.column[next.row++] = (uint8_t)column;
    return next;
}

/* ---- uts: an unbalanced tree, as in Olivier et al., "UTS" (2006), with a cheaper hash: n children
 * of the root; any other node has 8 with a probability a little below 1/8, else none ---- */

enum { UTS_CHILDREN = 8 };

static inline uint64_t uts_child(uint64_t node, uint64_t i)
{
    uint64_t z = node + (i + 1) * 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline int uts_children(uint64_t node)
{
    return (node >> 11) < (uint64_t)(0.122 * (double)((uint64_t)1 << 53)) ? UTS_CHILDREN : 0;
}

/* ---- matmul: c += a b, n by n, by quarters down to blocks ---- */

enum { BLOCK = 64 };

struct matmul {
    const double *a, *b;
    double *c;
    int n;      /* the side of this part */
    int stride; /* of a row in memory */
};

/* A part of BLOCK by BLOCK. */
static WORK_LEAF void matmul_block(struct matmul m)
{
    for (int i = 0; i < BLOCK; i++)
        for (int k = 0; k < BLOCK; k++) {
            double x = m.a[(size_t)i * (size_t)m.stride + (size_t)k];
            const double *__restrict b = m.b + (size_t)k * (size_t)m.stride;
            double *__restrict c = m.c + (size_t)i * (size_t)m.stride;

            for (int j = 0; j < BLOCK; j += 4) { /* or the loop's place in memory decides */
                c[j] += x * b[j];
                c[j + 1] += x * b[j + 1];
                c[j + 2] += x * b[j + 2];
                c[j + 3] += x * b[j + 3];
            }
        }
}

/* One of the eight products of quarters: which quarter of c, and the first or the second half of k. */
static inline struct matmul matmul_part(struct matmul m, int quarter, int half)
{
    size_t h = (size_t)m.n / 2, down = h * (size_t)m.stride;
    struct matmul part = m;

    part.n = (int)h;
    part.a += (quarter & 2 ? down : 0) + (half ? h : 0);
    part.b += (half ? down : 0) + (quarter & 1 ? h : 0);
    part.c += (quarter & 2 ? down : 0) + (quarter & 1 ? h : 0);
    return part;
}

/* Small integers, so that every sum is exact. */
static inline void matmul_fill(double *a, double *b, double *c, int n)
{
    for (int i = 0; i < n * n; i++) {
        a[i] = (double)(i * 7 % 13 - 6);
        b[i] = (double)(i * 5 % 11 - 5);
        c[i] = 0;
    }
}

/* The sum of all of c, and what it must be: each column of a times its row of b. */
static inline uint64_t matmul_checksum(const double *c, int n)
{
    double sum = 0;

    for (int i = 0; i < n * n; i++)
        sum += c[i] * (double)(i % 3 + 1);
    return (uint64_t)(int64_t)sum;
}

/* ---- sort: merge sort with merges that are parted too, as in Cilk's cilksort ---- */

enum { SORT_LEAF = 1024, MERGE_LEAF = 2048 };

/* A permutation of 0 to n - 1. stride has no divisor in common with n. */
static inline void sort_fill(uint32_t *a, size_t n, uint64_t stride)
{
    uint64_t at = 0;

    for (size_t i = 0; i < n; i++) {
        a[i] = (uint32_t)at;
        at += stride;
        at -= at >= n ? n : 0;
    }
}

static inline uint64_t sort_checksum(const uint32_t *a, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += a[i] * (uint64_t)(i + 1);
    return sum;
}

/* Quicksort, then insertion. */
static WORK_LEAF void sort_leaf(uint32_t *a, ptrdiff_t n)
{
    while (n > 24) {
        uint32_t x = a[0], y = a[n / 2], z = a[n - 1];
        uint32_t pivot = x < y ? (y < z ? y : x < z ? z : x) : (x < z ? x : y < z ? z : y);
        ptrdiff_t i = -1, j = n;

        for (;;) {
            do
                i++;
            while (a[i] < pivot);
            do
                j--;
            while (a[j] > pivot);
            if (i >= j)
                break;
            x = a[i], a[i] = a[j], a[j] = x;
        }
        sort_leaf(a + j + 1, n - j - 1);
        n = j + 1;
    }
    for (ptrdiff_t i = 1; i < n; i++) {
        uint32_t x = a[i];
        ptrdiff_t j = i;

        for (; j > 0 && a[j - 1] > x; j--)
            a[j] = a[j - 1];
        a[j] = x;
    }
}

/* Two sorted runs into out; na >= nb where it is parted. */
struct merge {
    const uint32_t *a, *b;
    uint32_t *out;
    size_t na, nb;
};

static WORK_LEAF void merge_leaf(struct merge m)
{
    size_t i = 0, j = 0, k = 0;

    while (i < m.na && j < m.nb)
        m.out[k++] = m.a[i] <= m.b[j] ? m.a[i++] : m.b[j++];
    memcpy(m.out + k, m.a + i, (m.na - i) * sizeof *m.a);
    memcpy(m.out + k + (m.na - i), m.b + j, (m.nb - j) * sizeof *m.b);
}

/* Parts a merge in the middle of the longer run. */
static inline void merge_part(struct merge m, struct merge *left, struct merge *right)
{
    size_t half, low = 0, high;

    if (m.na < m.nb) {
        struct merge turned = {m.b, m.a, m.out, m.nb, m.na};

        m = turned;
    }
    half = m.na / 2;
    high = m.nb;
    while (low < high) {
        size_t middle = (low + high) / 2;

        if (m.b[middle] < m.a[half])
            low = middle + 1;
        else
            high = middle;
    }
    *left = m;
    left->na = half;
    left->nb = low;
    *right = m;
    right->a += half;
    right->na -= half;
    right->b += low;
    right->nb -= low;
    right->out += half + low;
}

/* Sorts n elements from a into a, with as much room in tmp. */
struct sort {
    uint32_t *a, *tmp;
    size_t n;
};

static inline struct sort sort_part(struct sort s, int quarter)
{
    size_t q = s.n / 4;
    struct sort part = {s.a + (size_t)quarter * q, s.tmp + (size_t)quarter * q, q};

    if (quarter == 3)
        part.n = s.n - 3 * q;
    return part;
}

/* The three merges after that: two into tmp, one back. */
static inline struct merge sort_merge(struct sort s, int which)
{
    size_t q = s.n / 4;
    struct merge first = {s.a, s.a + q, s.tmp, q, q};
    struct merge second = {s.a + 2 * q, s.a + 3 * q, s.tmp + 2 * q, q, s.n - 3 * q};
    struct merge last = {s.tmp, s.tmp + 2 * q, s.a, 2 * q, s.n - 2 * q};

    return which == 0 ? first : which == 1 ? second : last;
}

#endif
