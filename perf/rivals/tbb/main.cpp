// SPDX-License-Identifier: MIT
//
// The cases of perf/fork_join.c with oneTBB. See perf/rivals/README.
#include <oneapi/tbb.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

static uint64_t fib(int n)
{
    uint64_t a, b;

    if (n < 2)
        return (uint64_t)n;
    tbb::parallel_invoke([&] { a = fib(n - 1); }, [&] { b = fib(n - 2); });
    return a + b;
}

struct rival_case {
    const char *name;
    uint64_t (*run)(uint64_t n);
};

static const rival_case cases[] = {
    {"fib", [](uint64_t n) { return fib((int)n); }},
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
        arena.execute([&] { c.run(n); });
        auto begin = std::chrono::steady_clock::now();
        uint64_t checksum = arena.execute([&] { return c.run(n); });
        std::chrono::duration<double> span = std::chrono::steady_clock::now() - begin;
        printf("%llu %.9f\n", (unsigned long long)checksum, span.count());
        return 0;
    }
    return 77;
}
