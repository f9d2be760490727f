// SPDX-License-Identifier: MIT
//
// The cases of perf/fork_join.c with oneTBB, as its documentation writes such recursions:
// parallel_invoke for two branches, a task_group for more. See perf/rivals/README.
#include "../../support/work.h"

#include <oneapi/tbb.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

static uint64_t __attribute__((noinline)) leaf(uint64_t n)
{
    return n & 3;
}

static uint64_t leaves(uint64_t n)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i++) {
        tbb::task_group group;

        group.run([&] { sum += leaf(i); });
        group.wait();
    }
    return sum;
}

static uint64_t fib(int n)
{
    uint64_t a, b;

    if (n < 2)
        return (uint64_t)n;
    tbb::parallel_invoke([&] { a = fib(n - 1); }, [&] { b = fib(n - 2); });
    return a + b;
}

static uint64_t skynet(uint64_t first, uint64_t size)
{
    uint64_t part = size / 10, sum = 0, of[10];
    tbb::task_group group;

    if (size == 1)
        return first;
    for (uint64_t i = 0; i < 9; i++)
        group.run([=, &of] { of[i] = skynet(first + i * part, part); });
    of[9] = skynet(first + 9 * part, part);
    group.wait();
    for (uint64_t i = 0; i < 10; i++)
        sum += of[i];
    return sum;
}

static uint64_t queens(const queens_board &b)
{
    queens_board next[QUEENS_MOST];
    uint64_t of[QUEENS_MOST], solutions = 0;
    int n = 0;

    if (b.row == b.n)
        return 1;
    for (int i = 0; i < b.n; i++) {
        if (queens_ok(&b, i))
            next[n++] = queens_with(&b, i);
    }
    if (n == 0)
        return 0;
    tbb::task_group group;
    for (int i = 0; i < n - 1; i++)
        group.run([i, &of, &next] { of[i] = queens(next[i]); });
    of[n - 1] = queens(next[n - 1]);
    group.wait();
    for (int i = 0; i < n; i++)
        solutions += of[i];
    return solutions;
}

static uint64_t uts(uint64_t node)
{
    uint64_t of[UTS_CHILDREN], nodes = 1;
    int n = uts_children(node);

    if (n == 0)
        return 1;
    tbb::task_group group;
    for (int i = 0; i < n - 1; i++)
        group.run([i, node, &of] { of[i] = uts(uts_child(node, (uint64_t)i)); });
    of[n - 1] = uts(uts_child(node, (uint64_t)n - 1));
    group.wait();
    for (int i = 0; i < n; i++)
        nodes += of[i];
    return nodes;
}

static uint64_t uts_root(uint64_t n)
{
    return tbb::parallel_reduce(
               tbb::blocked_range<uint64_t>(0, n), (uint64_t)0,
               [](const tbb::blocked_range<uint64_t> &r, uint64_t sum) {
                   for (uint64_t i = r.begin(); i < r.end(); i++)
                       sum += uts(uts_child(1, i));
                   return sum;
               },
               [](uint64_t a, uint64_t b) { return a + b; }) +
           1;
}

static void multiply(const struct matmul &m)
{
    if (m.n <= BLOCK) {
        matmul_block(m);
        return;
    }
    for (int half = 0; half < 2; half++)
        tbb::parallel_invoke([&] { multiply(matmul_part(m, 0, half)); },
                             [&] { multiply(matmul_part(m, 1, half)); },
                             [&] { multiply(matmul_part(m, 2, half)); },
                             [&] { multiply(matmul_part(m, 3, half)); });
}

static void merge(const struct merge &m)
{
    struct merge left, right;

    if (m.na + m.nb <= MERGE_LEAF) {
        merge_leaf(m);
        return;
    }
    merge_part(m, &left, &right);
    tbb::parallel_invoke([&] { merge(left); }, [&] { merge(right); });
}

static void sort(const struct sort &s)
{
    if (s.n <= SORT_LEAF) {
        sort_leaf(s.a, (ptrdiff_t)s.n);
        return;
    }
    tbb::parallel_invoke([&] { sort(sort_part(s, 0)); }, [&] { sort(sort_part(s, 1)); },
                         [&] { sort(sort_part(s, 2)); }, [&] { sort(sort_part(s, 3)); });
    tbb::parallel_invoke([&] { merge(sort_merge(s, 0)); }, [&] { merge(sort_merge(s, 1)); });
    merge(sort_merge(s, 2));
}

// An element number below n that has no divisor in common with it, as bench_stride().
static uint64_t stride_for(uint64_t n)
{
    for (uint64_t stride = (uint64_t)((double)n * 0.618) | 1;; stride += 2) {
        uint64_t a = stride, b = n;

        while (b) {
            uint64_t rest = a % b;

            a = b;
            b = rest;
        }
        if (a == 1)
            return stride % n;
    }
}

struct result {
    uint64_t checksum;
    double seconds;
};

template <class F> static result timed(F run)
{
    auto begin = std::chrono::steady_clock::now();
    uint64_t checksum = run();
    std::chrono::duration<double> span = std::chrono::steady_clock::now() - begin;

    return {checksum, span.count()};
}

static result run_matmul(uint64_t n)
{
    static std::vector<double> a(n * n), b(n * n), c(n * n);

    matmul_fill(a.data(), b.data(), c.data(), (int)n);
    result r = timed([&] {
        multiply({a.data(), b.data(), c.data(), (int)n, (int)n});
        return 0;
    });
    r.checksum = matmul_checksum(c.data(), (int)n);
    return r;
}

static result run_sort(uint64_t n)
{
    static std::vector<uint32_t> a(n), tmp(n);

    sort_fill(a.data(), n, stride_for(n));
    result r = timed([&] {
        sort({a.data(), tmp.data(), n});
        return 0;
    });
    r.checksum = sort_checksum(a.data(), n);
    return r;
}

static result run_queens(uint64_t n)
{
    queens_board empty = {};

    empty.n = (uint8_t)n;
    return timed([&] { return queens(empty); });
}

struct rival_case {
    const char *name;
    result (*run)(uint64_t n);
};

static const rival_case cases[] = {
    {"fork", [](uint64_t n) { return timed([=] { return leaves(n); }); }},
    {"fib", [](uint64_t n) { return timed([=] { return fib((int)n); }); }},
    {"skynet", [](uint64_t n) { return timed([=] { return skynet(0, n); }); }},
    {"nqueens", run_queens},
    {"uts", [](uint64_t n) { return timed([=] { return uts_root(n); }); }},
    {"matmul", run_matmul},
    {"sort", run_sort},
};

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int workers = atoi(argv[2]);
    uint64_t n = strtoull(argv[3], nullptr, 10);
    tbb::global_control limit(tbb::global_control::max_allowed_parallelism, (size_t)workers);
    tbb::task_arena arena(workers);

    for (const rival_case &c : cases) {
        if (strcmp(c.name, argv[1]))
            continue;
        result r = arena.execute([&] {
            c.run(n);
            return c.run(n);
        });
        printf("%llu %.9f\n", (unsigned long long)r.checksum, r.seconds);
        return 0;
    }
    return 77;
}
