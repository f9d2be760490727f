// SPDX-License-Identifier: MIT
//
// The cases of perf/spawn_join.c, tasks.c, yield.c, channel.c and locks.c with Boost.Fiber. See
// perf/rivals/README.
//
// One thread: its round-robin scheduler. More: its work-sharing one, and each of the threads takes
// part until the work is done.
#include "../rival.h"

#include <boost/fiber/all.hpp>
#include <boost/version.hpp>

#include <atomic>
#include <climits>
#include <malloc.h>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace fibers = boost::fibers;

using channel = fibers::buffered_channel<uint64_t>;
using rendezvous = fibers::unbuffered_channel<uint64_t>;

static uint64_t pingpong(uint64_t n)
{
    rendezvous there, back;
    uint64_t sum = 0;
    fibers::fiber partner([&] {
        uint64_t x = 0;

        while (there.pop(x) == fibers::channel_op_status::success)
            back.push(x);
    });

    for (uint64_t i = 1; i <= n; i++) {
        uint64_t x = 0;

        there.push(i);
        back.pop(x);
        sum += x;
    }
    there.close();
    partner.join();
    return sum;
}

// Its buffered channel of capacity 128 holds 127.
static uint64_t buffered(uint64_t n, unsigned pairs)
{
    channel c(128);
    std::vector<fibers::fiber> fiber;
    std::atomic<uint64_t> total{0};

    for (unsigned p = 0; p < pairs; p++) {
        fiber.emplace_back([&] {
            for (uint64_t i = 1; i <= n / pairs; i++)
                c.push(i);
        });
        fiber.emplace_back([&] {
            uint64_t sum = 0, x = 0;

            for (uint64_t i = 0; i < n / pairs; i++) {
                c.pop(x);
                sum += x;
            }
            total += sum;
        });
    }
    for (auto &f : fiber)
        f.join();
    return total;
}

static uint64_t mutex(uint64_t n, unsigned tasks, bool yields)
{
    fibers::mutex lock;
    uint64_t counter = 0;
    std::vector<fibers::fiber> fiber;

    for (unsigned t = 0; t < tasks; t++)
        fiber.emplace_back([&] {
            for (uint64_t i = 0; i < n / tasks; i++) {
                std::lock_guard<fibers::mutex> hold(lock);

                counter = counter + 1;
                if (yields)
                    boost::this_fiber::yield();
            }
        });
    for (auto &f : fiber)
        f.join();
    return counter;
}

// Stacks as small as ours, from malloc, which main() makes keep its memory. (Its pooled stacks must stay
// with one thread.)
template <class F> static fibers::fiber start(fibers::launch when, F body)
{
    return fibers::fiber(when, std::allocator_arg, fibers::fixedsize_stack(16 * 1024), body);
}

static uint64_t spawn_join(uint64_t n, fibers::launch when)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t x = 0;

        start(when, [&x] { x = 2; }).join();
        sum += x;
    }
    return sum;
}

static uint64_t queued(uint64_t n, fibers::launch when, bool memory)
{
    std::vector<uint64_t> of(n); // both arrays are touched before the clock
    std::vector<fibers::fiber> fiber(n);
    uint64_t sum = 0;

    int64_t before = memory ? rival_memory_bytes() : 0, begin = rival_now();
    for (uint64_t i = 0; i < n; i++)
        fiber[i] = start(when, [i, &of] { of[i] = i ^ 0x5a5a; });
    int64_t spent = rival_now() - begin;
    if (memory)
        rival_bytes(rival_memory_bytes() - before, n);
    begin = rival_now();
    for (auto &f : fiber)
        f.join();
    rival_span(spent + rival_now() - begin);
    for (uint64_t x : of)
        sum += x;
    return sum;
}

// Each waits for a promise of its own.
static uint64_t suspended(uint64_t n)
{
    std::vector<fibers::promise<void>> gate(n);
    std::vector<uint64_t> of(n);
    std::vector<fibers::fiber> fiber(n);
    std::atomic<uint64_t> waiting{0};
    uint64_t sum = 0;

    int64_t before = rival_memory_bytes(), begin = rival_now();
    for (uint64_t i = 0; i < n; i++)
        fiber[i] = start(fibers::launch::post, [i, &gate, &of, &waiting] {
            auto open = gate[i].get_future();

            waiting++;
            open.wait();
            of[i] = i ^ 0x5a5a;
        });
    while (waiting < n)
        boost::this_fiber::sleep_for(std::chrono::microseconds(200));
    rival_figure("start", (double)(rival_now() - begin) / (double)n);
    rival_bytes(rival_memory_bytes() - before, n);
    begin = rival_now();
    for (auto &g : gate)
        g.set_value();
    for (auto &f : fiber)
        f.join();
    rival_figure("wake", (double)(rival_now() - begin) / (double)n);
    for (uint64_t x : of)
        sum += x;
    return sum;
}

static void yield_times(uint64_t times)
{
    for (uint64_t k = 0; k < times; k++)
        boost::this_fiber::yield();
}

// Fibers that only yield.
static uint64_t yielding(uint64_t members, uint64_t times)
{
    std::vector<fibers::fiber> fiber(members);
    std::atomic<uint64_t> total{0};
    int64_t begin = rival_now();

    for (auto &f : fiber)
        f = start(fibers::launch::post, [&total, times] {
            yield_times(times);
            total += times;
        });
    for (auto &f : fiber)
        f.join();
    rival_span(rival_now() - begin);
    return total;
}

// The clock starts when all have begun and yielded a while, and stops when the last is through; the yield
// in which each waited for the last one counts. One thread, so the counters are plain.
template <uint64_t Members> static uint64_t ring(uint64_t n, int)
{
    const uint64_t rounds = n / Members + 1;
    std::vector<fibers::fiber> fiber(Members);
    uint64_t ready = 0, done = 0;
    int64_t begin = 0, end = 0;

    for (auto &f : fiber)
        f = start(fibers::launch::post, [&] {
            yield_times(rounds / 8 + 4);
            if (++ready == Members)
                begin = rival_now();
            while (ready < Members)
                boost::this_fiber::yield();
            yield_times(rounds);
            if (++done == Members)
                end = rival_now();
        });
    for (auto &f : fiber)
        f.join();
    rival_span(end - begin);
    return Members * (rounds + 1);
}

static const rival_case cases[] = {
    {"spawn + join", [](uint64_t n, int) { return spawn_join(n, fibers::launch::post); },
     RIVAL_EIGHTH},
    {"spawn inline + join", [](uint64_t n, int) { return spawn_join(n, fibers::launch::dispatch); },
     RIVAL_EIGHTH},
    {"queued", [](uint64_t n, int w) { return queued(n, fibers::launch::post, w == 1); },
     RIVAL_SAME},
    {"inline", [](uint64_t n, int) { return queued(n, fibers::launch::dispatch, false); },
     RIVAL_SAME},
    {"suspended", [](uint64_t n, int) { return suspended(n); }, RIVAL_SAME},
    {"yielding", [](uint64_t n, int) { return yielding(n, 10); }, RIVAL_SAME},
    {"ring of 2", ring<2>, RIVAL_EIGHTH},
    {"ring of 512", ring<512>, RIVAL_EIGHTH},
    {"ring of 16384", ring<16384>, RIVAL_EIGHTH},
    {"pingpong", [](uint64_t n, int) { return pingpong(n); }, RIVAL_EIGHTH},
    {"1to1", [](uint64_t n, int) { return buffered(n, 1); }, RIVAL_EIGHTH},
    {"4to4", [](uint64_t n, int) { return buffered(n, 4); }, RIVAL_EIGHTH},
    {"mutex alone", [](uint64_t n, int) { return mutex(n, 1, false); }, RIVAL_EIGHTH},
    {"mutex of 8", [](uint64_t n, int) { return mutex(n, 8, false); }, RIVAL_EIGHTH},
    {"mutex of 8, each yields inside", [](uint64_t n, int) { return mutex(n, 8, true); },
     RIVAL_EIGHTH},
};

int main(int argc, char **argv)
{
    int workers = argc == 4 ? atoi(argv[2]) : 1, status;
    std::vector<std::thread> thread;
    std::mutex end_lock;
    fibers::condition_variable_any end_condition;
    bool end = false;

    // Else all stacks go back to the kernel after a round, and the next one times page faults.
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
    mallopt(M_MMAP_THRESHOLD, 32 << 20); // so that arrays do not move the stacks to other pages
    if (workers > 1)
        fibers::use_scheduling_algorithm<fibers::algo::shared_work>();
    for (int i = 1; i < workers; i++)
        thread.emplace_back([&] {
            fibers::use_scheduling_algorithm<fibers::algo::shared_work>();
            std::unique_lock<std::mutex> hold(end_lock);

            end_condition.wait(hold, [&] { return end; });
        });
    status =
        rival_main(argc, argv, "Boost " BOOST_LIB_VERSION, cases, sizeof cases / sizeof *cases);
    fflush(stdout);
    {
        std::unique_lock<std::mutex> hold(end_lock);

        end = true;
    }
    end_condition.notify_all();
    for (auto &t : thread)
        t.join();
    return status;
}
