// SPDX-License-Identifier: MIT
//
// moodycamel::ConcurrentQueue, unbounded; no order between producers. Each thread has a token of each
// kind, as its documentation recommends. See perf/rivals/README.
#include "../containers.hpp"

#include <concurrentqueue/concurrentqueue.h>

struct queue {
    moodycamel::ConcurrentQueue<void *> all;

    queue(uint64_t n, uint64_t) : all(n) {}
    void between_rounds() {}

    class user {
        moodycamel::ConcurrentQueue<void *> &all_;
        moodycamel::ProducerToken producer_;
        moodycamel::ConsumerToken consumer_;

    public:
        user(queue &q) : all_(q.all), producer_(q.all), consumer_(q.all) {}
        bool push(void *item) { return all_.enqueue(producer_, item); }
        bool pop(void **item) { return all_.try_dequeue(consumer_, *item); }
    };
};

int main(int argc, char **argv)
{
    return container_main<queue>(argc, argv, "moodycamel::ConcurrentQueue " RELEASE);
}
