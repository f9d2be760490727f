// SPDX-License-Identifier: MIT
//
// The bounded queue that Dmitry Vyukov described (1024cores.net, 2010), written down anew: the plain
// form of what flow_ring does for many. All of it is inlined here; flow_ring is called.
#include "../containers.hpp"

#include <memory>

class vyukov : public plain_container<vyukov> {
    struct cell {
        std::atomic<uint64_t> turn;
        void *item;
    };
    const uint64_t mask;
    std::unique_ptr<cell[]> cells;
    alignas(64) std::atomic<uint64_t> tail{0};
    alignas(64) std::atomic<uint64_t> head{0};

public:
    vyukov(uint64_t n, uint64_t) : mask(n - 1), cells(new cell[n])
    {
        for (uint64_t i = 0; i < n; i++)
            cells[i].turn.store(i, std::memory_order_relaxed);
    }

    bool push(void *item)
    {
        uint64_t at = tail.load(std::memory_order_relaxed);
        for (;;) {
            cell &c = cells[at & mask];
            int64_t late = (int64_t)(c.turn.load(std::memory_order_acquire) - at);
            if (late < 0)
                return false;
            if (late > 0)
                at = tail.load(std::memory_order_relaxed);
            else if (tail.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) {
                c.item = item;
                c.turn.store(at + 1, std::memory_order_release);
                return true;
            }
        }
    }

    bool pop(void **item)
    {
        uint64_t at = head.load(std::memory_order_relaxed);
        for (;;) {
            cell &c = cells[at & mask];
            int64_t late = (int64_t)(c.turn.load(std::memory_order_acquire) - (at + 1));
            if (late < 0)
                return false;
            if (late > 0)
                at = head.load(std::memory_order_relaxed);
            else if (head.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) {
                *item = c.item;
                c.turn.store(at + mask + 1, std::memory_order_release);
                return true;
            }
        }
    }
};

int main(int argc, char **argv)
{
    return container_main<vyukov>(argc, argv, "written down anew");
}
