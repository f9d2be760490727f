// SPDX-License-Identifier: MIT
//
// The cases of perf/container.c for any container with push and pop: see perf/rivals/README. A rival
// gives a type whose constructor takes a capacity and the number of items that will come, and whose push(void *) and pop(void **) tell
// whether they succeeded.
//
//   pair       n times a push and a pop, by one thread
//   PxC        P producers pass n items to C consumers through `capacity` places
#ifndef PERF_RIVALS_CONTAINERS_HPP
#define PERF_RIVALS_CONTAINERS_HPP

#include "rival.h"

#include <atomic>
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
    Container c(capacity, n);
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
    Container c(capacity, n);
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

template <class Container, unsigned Each> static uint64_t run_each(uint64_t n, int)
{
    return run_crowd<Container>(n, Each, Each);
}

template <class Container> static uint64_t run_alone(uint64_t n, int)
{
    return run_pair<Container>(n);
}

template <class Container> static int container_main(int argc, char **argv, const char *version)
{
    static const rival_case cases[] = {
        {"pair", run_alone<Container>, RIVAL_SAME},
        {"1x1", run_each<Container, 1>, RIVAL_SAME},
        {"4x4", run_each<Container, 4>, RIVAL_SAME},
    };

    return rival_main(argc, argv, version, cases, sizeof cases / sizeof *cases);
}

#endif
