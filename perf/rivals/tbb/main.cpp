// SPDX-License-Identifier: MIT
//
// The cases of perf/fork_join.c, spawn_join.c, tasks.c and burst.c with oneTBB, as its documentation writes such recursions:
// parallel_invoke for two branches, a task_group for more. See perf/rivals/README.
#include "../../support/work.h"
#include "../rival.h"

#include <oneapi/tbb.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

static uint64_t __attribute__((noinline)) leaf(uint64_t n)
{
    return n & 3;
}

static uint64_t leaves(uint64_t n)
{
    uint64_t sum = 0;

    tbb::task_group group;

    for (uint64_t i = 0; i < n; i++) {
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

static uint64_t run_matmul(uint64_t n)
{
    static std::vector<double> a(n * n), b(n * n), c(n * n);

    matmul_fill(a.data(), b.data(), c.data(), (int)n);
    int64_t start = rival_now();
    multiply({a.data(), b.data(), c.data(), (int)n, (int)n});
    rival_span(rival_now() - start);
    return matmul_checksum(c.data(), (int)n);
}

static uint64_t run_sort(uint64_t n)
{
    static std::vector<uint32_t> a(n), tmp(n);

    sort_fill(a.data(), n, rival_stride(n));
    int64_t start = rival_now();
    sort({a.data(), tmp.data(), n});
    rival_span(rival_now() - start);
    return sort_checksum(a.data(), n);
}

static uint64_t run_queens(uint64_t n)
{
    queens_board empty = {};

    empty.n = (uint8_t)n;
    return queens(empty);
}

// One task at a time: it may be taken by another worker.
static uint64_t spawn_join(uint64_t n)
{
    uint64_t sum = 0;

    tbb::task_group group;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t x = 0;

        group.run([&] { x = 2; });
        group.wait();
        sum += x;
    }
    return sum;
}

static uint64_t queued(uint64_t n)
{
    std::vector<uint64_t> of(n); // touched before the clock
    tbb::task_group group;
    uint64_t sum = 0;
    int64_t begin = rival_now();

    for (uint64_t i = 0; i < n; i++)
        group.run([i, &of] { of[i] = i ^ 0x5a5a; });
    group.wait();
    for (uint64_t x : of)
        sum += x;
    rival_span(rival_now() - begin);
    return sum;
}

// n times a thousand tasks at once from a thread outside, when all workers sleep.
static uint64_t burst(uint64_t n, tbb::task_arena &arena)
{
    const uint64_t size = 1000;
    std::vector<int64_t> delays(n * size);
    std::atomic<uint64_t> done{0};

    for (uint64_t round = 0; round < n + 4; round++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        done = 0;
        for (uint64_t i = 0; i < size; i++) {
            int64_t *delay = &delays[(round < 4 ? 0 : round - 4) * size + i];
            int64_t begin = rival_now();

            arena.enqueue([=, &done] {
                *delay = rival_now() - begin;
                done++;
            });
        }
        while (done < size)
            std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    rival_percentiles(delays.data(), delays.size());
    return n;
}

// Inside an arena of that many workers, the calling thread among them.
template <uint64_t (*Run)(uint64_t)> static uint64_t in_arena(uint64_t n, int workers)
{
    tbb::task_arena arena(workers);

    return arena.execute([=] { return Run(n); });
}

static uint64_t run_fib(uint64_t n)
{
    return fib((int)n);
}

static uint64_t run_skynet(uint64_t n)
{
    return skynet(0, n);
}

// The calling thread is none of the workers.
static uint64_t run_burst(uint64_t n, int workers)
{
    tbb::task_arena arena(workers, 0);

    return burst(n, arena);
}

int main(int argc, char **argv)
{
    static const rival_case cases[] = {
        {"fork", in_arena<leaves>, RIVAL_SAME},
        {"fib", in_arena<run_fib>, RIVAL_SAME},
        {"skynet", in_arena<run_skynet>, RIVAL_SAME},
        {"nqueens", in_arena<run_queens>, RIVAL_SAME},
        {"uts", in_arena<uts_root>, RIVAL_SAME},
        {"matmul", in_arena<run_matmul>, RIVAL_SAME},
        {"sort", in_arena<run_sort>, RIVAL_SAME},
        {"spawn + join", in_arena<spawn_join>, RIVAL_EIGHTH},
        {"queued", in_arena<queued>, RIVAL_SAME},
        {"burst", run_burst, RIVAL_NOT},
    };
    size_t workers = argc == 4 ? (size_t)atoi(argv[2]) : 1;
    bool outside = argc == 4 && !strcmp(argv[1], "burst");
    tbb::global_control limit(tbb::global_control::max_allowed_parallelism, workers + outside);

    return rival_main(argc, argv, TBB_runtime_version(), cases, sizeof cases / sizeof *cases);
}
