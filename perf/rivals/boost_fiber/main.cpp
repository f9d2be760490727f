// SPDX-License-Identifier: MIT
//
// The cases of perf/channel.c and perf/mutex.c with Boost.Fiber. See perf/rivals/README.
//
// One thread: its round-robin scheduler. More: its work-sharing one, and each of the threads takes
// part until the work is done.
#include <boost/fiber/all.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
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

static uint64_t mutex(uint64_t n, unsigned tasks)
{
    fibers::mutex lock;
    uint64_t counter = 0;
    std::vector<fibers::fiber> fiber;

    for (unsigned t = 0; t < tasks; t++)
        fiber.emplace_back([&] {
            for (uint64_t i = 0; i < n / tasks; i++) {
                std::lock_guard<fibers::mutex> hold(lock);

                counter = counter + 1;
            }
        });
    for (auto &f : fiber)
        f.join();
    return counter;
}

static std::function<uint64_t(uint64_t)> find(const char *name)
{
    if (!strcmp(name, "pingpong"))
        return pingpong;
    if (!strcmp(name, "one"))
        return [](uint64_t n) { return buffered(n, 1); };
    if (!strcmp(name, "four"))
        return [](uint64_t n) { return buffered(n, 4); };
    if (!strcmp(name, "mutex1"))
        return [](uint64_t n) { return mutex(n, 1); };
    if (!strcmp(name, "mutex8"))
        return [](uint64_t n) { return mutex(n, 8); };
    return nullptr;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int workers = atoi(argv[2]);
    uint64_t n = strtoull(argv[3], nullptr, 10);
    auto run = find(argv[1]);
    std::vector<std::thread> thread;
    std::mutex end_lock;
    fibers::condition_variable_any end_condition;
    bool end = false;

    if (!run)
        return 77;
    if (workers > 1)
        fibers::use_scheduling_algorithm<fibers::algo::shared_work>();
    for (int i = 1; i < workers; i++)
        thread.emplace_back([&] {
            fibers::use_scheduling_algorithm<fibers::algo::shared_work>();
            std::unique_lock<std::mutex> hold(end_lock);

            end_condition.wait(hold, [&] { return end; });
        });

    run(n / 8 + 64);
    auto begin = std::chrono::steady_clock::now();
    uint64_t checksum = run(n);
    std::chrono::duration<double> span = std::chrono::steady_clock::now() - begin;

    printf("%llu %.9f\n", (unsigned long long)checksum, span.count());
    fflush(stdout);
    {
        std::unique_lock<std::mutex> hold(end_lock);

        end = true;
    }
    end_condition.notify_all();
    for (auto &t : thread)
        t.join();
    return 0;
}
