// SPDX-License-Identifier: MIT
//
// moodycamel::ConcurrentQueue, unbounded; no order between producers. See perf/rivals/README.
#include "../containers.hpp"

#include <concurrentqueue/concurrentqueue.h>

class queue {
    moodycamel::ConcurrentQueue<void *> queue_;

public:
    queue(uint64_t n, uint64_t) : queue_(n) {}
    bool push(void *item) { return queue_.enqueue(item); }
    bool pop(void **item) { return queue_.try_dequeue(*item); }
};

int main(int argc, char **argv)
{
    return container_main<queue>(argc, argv, "moodycamel::ConcurrentQueue");
}
