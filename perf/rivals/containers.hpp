// SPDX-License-Identifier: MIT
//
// The cases of perf/container.c for any container with push and pop: see perf/rivals/README. A rival
// gives a type whose constructor takes a capacity and the number of items that come in a round. Each
// thread makes a Container::user of it, whose push(void *) and pop(void **) tell whether they
// succeeded. As in perf/container.c one container sees two rounds, of which the second is timed.
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

// For containers that threads use as they are, and that may have the same items again at once.
template <class Container> struct plain_container {
    using user = Container &;
    void between_rounds() {}
};

template <class Container> static uint64_t pair_once(Container &c, uint64_t n)
{
    typename Container::user u(c);
    uint64_t sum = 0;

    for (uint64_t i = 1; i <= n; i++) {
        void *item = nullptr;

        if (!u.push((void *)(uintptr_t)i) || !u.pop(&item))
            abort();
        sum += (uintptr_t)item;
    }
    return sum;
}

template <class Container>
static uint64_t crowd_once(Container &c, uint64_t n, unsigned producers, unsigned consumers)
{
    std::atomic<uint64_t> popped(0), sum(0);
    std::vector<std::thread> threads;

    for (unsigned p = 0; p < producers; p++)
        threads.emplace_back([&, p] {
            typename Container::user u(c);
            patience p_;
            for (uint64_t i = p + 1; i <= n; i += producers)
                while (!u.push((void *)(uintptr_t)i))
                    p_.wait();
        });
    for (unsigned k = 0; k < consumers; k++)
        threads.emplace_back([&] {
            typename Container::user u(c);
            patience p_;
            uint64_t mine = 0, got = 0;
            void *item;
            while (popped.load(std::memory_order_relaxed) < n) {
                if (u.pop(&item)) {
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

// Each producers and consumers; none: the pair.
template <class Container, unsigned Each> static uint64_t two_rounds(uint64_t n, int)
{
    Container c(capacity, n);
    uint64_t sum = 0;

    for (int round = 0; round < 2; round++) {
        int64_t begin = rival_now();

        sum = Each ? crowd_once(c, n, Each, Each) : pair_once(c, n);
        rival_span(rival_now() - begin);
        c.between_rounds();
    }
    return sum;
}

template <class Container> static int container_main(int argc, char **argv, const char *version)
{
    static const rival_case cases[] = {
        {"pair", two_rounds<Container, 0>, RIVAL_NOT},
        {"1x1", two_rounds<Container, 1>, RIVAL_NOT},
        {"4x4", two_rounds<Container, 4>, RIVAL_NOT},
    };

    return rival_main(argc, argv, version, cases, sizeof cases / sizeof *cases);
}

#endif
