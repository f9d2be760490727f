// SPDX-License-Identifier: MIT
//
// boost::lockfree::queue, unbounded. See perf/rivals/README.
#include "../containers.hpp"

#include <boost/lockfree/queue.hpp>
#include <boost/version.hpp>

class queue : public plain_container<queue> {
    boost::lockfree::queue<void *> queue_;

public:
    queue(uint64_t n, uint64_t) : queue_(n) {}
    bool push(void *item) { return queue_.push(item); }
    bool pop(void **item) { return queue_.pop(*item); }
};

int main(int argc, char **argv)
{
    return container_main<queue>(argc, argv, "Boost " BOOST_LIB_VERSION);
}
