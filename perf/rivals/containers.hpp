// SPDX-License-Identifier: MIT
//
// The cases of perf/container.c for any container with push and pop: see perf/rivals/README. A rival
// gives a type whose constructor takes a capacity and whose push(void *) and pop(void **) tell
// whether they succeeded.
//
//   pair       n times a push and a pop, by one thread
//   PxC        P producers pass n items to C consumers through `capacity` places
#ifndef PERF_RIVALS_CONTAINERS_HPP
#define PERF_RIVALS_CONTAINERS_HPP

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sched.h>
#include <thread>
#include <vector>

static const uint64_t capacity = 1024;

// What a thread does that found it full or empty; perf/container.c does the same.
struct patience {
    int rounds = 0;

    void wait()
    {
        if (++rounds % 64 == 0) {
            sched_yield();
            return;
        }
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
};

template <class Container> static uint64_t run_pair(uint64_t n)
{
    Container c(capacity);
    uint64_t sum = 0;

    for (uint64_t i = 1; i <= n; i++) {
        void *item = nullptr;

        if (!c.push((void *)(uintptr_t)i) || !c.pop(&item))
            abort();
        sum += (uintptr_t)item;
    }
    return sum;
}

template <class Container> static uint64_t run_crowd(uint64_t n, unsigned producers, unsigned consumers)
{
    Container c(capacity);
    std::atomic<uint64_t> popped(0), sum(0);
    std::vector<std::thread> threads;

    for (unsigned p = 0; p < producers; p++)
        threads.emplace_back([&, p] {
            patience p_;
            for (uint64_t i = p + 1; i <= n; i += producers)
                while (!c.push((void *)(uintptr_t)i))
                    p_.wait();
        });
    for (unsigned k = 0; k < consumers; k++)
        threads.emplace_back([&] {
            patience p_;
            uint64_t mine = 0, got = 0;
            void *item;
            while (popped.load(std::memory_order_relaxed) < n) {
                if (c.pop(&item)) {
                    mine += (uintptr_t)item;
                    if (++got % 64 == 0)
                        popped.fetch_add(64, std::memory_order_relaxed);
                } else {
                    popped.fetch_add(got % 64, std::memory_order_relaxed);
                    got = 0;
                    p_.wait();
                }
            }
            sum.fetch_add(mine);
        });
    for (auto &t : threads)
        t.join();
    return sum.load();
}

template <class Container> static int rival_main(int argc, char **argv)
{
    unsigned producers = 0, consumers = 0;
    uint64_t n = argc == 4 ? strtoull(argv[3], nullptr, 10) : 0, checksum = 0;
    double seconds = 0;

    if (argc != 4)
        return 2;
    if (strcmp(argv[1], "pair") && sscanf(argv[1], "%ux%u", &producers, &consumers) != 2)
        return 77;
    for (int round = 0; round < 2; round++) {
        auto begin = std::chrono::steady_clock::now();
        checksum = producers ? run_crowd<Container>(n, producers, consumers) : run_pair<Container>(n);
        seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    printf("%llu %.9f\n", (unsigned long long)checksum, seconds);
    return 0;
}

#endif
