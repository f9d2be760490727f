// SPDX-License-Identifier: MIT
//
// liburcu's rculfqueue, lock-free and unbounded. Its links lie in the items, so there is a node for
// each item that comes; none is used twice, so nothing has to wait for a grace period. See
// perf/rivals/README.
#include "../containers.hpp"

#include <urcu/urcu-memb.h>

#include <urcu/rculfqueue.h>

#include <memory>

// Each thread registers itself at its first call, and lets go at its end.
struct registration {
    registration() { urcu_memb_register_thread(); }
    ~registration() { urcu_memb_unregister_thread(); }
};
static thread_local registration registered;

class queue {
    cds_lfq_queue_rcu queue_;
    std::unique_ptr<cds_lfq_node_rcu[]> nodes_;

public:
    queue(uint64_t, uint64_t n) : nodes_(new cds_lfq_node_rcu[n + 1])
    {
        cds_lfq_init_rcu(&queue_, urcu_memb_call_rcu);
    }
    ~queue() { cds_lfq_destroy_rcu(&queue_); }

    bool push(void *item)
    {
        cds_lfq_node_rcu *node = &nodes_[(uintptr_t)item];

        (void)&registered;
        cds_lfq_node_init_rcu(node);
        urcu_memb_read_lock();
        cds_lfq_enqueue_rcu(&queue_, node);
        urcu_memb_read_unlock();
        return true;
    }

    bool pop(void **item)
    {
        (void)&registered;
        urcu_memb_read_lock();
        cds_lfq_node_rcu *node = cds_lfq_dequeue_rcu(&queue_);
        urcu_memb_read_unlock();

        *item = (void *)(uintptr_t)(node - nodes_.get());
        return node != nullptr;
    }
};

int main(int argc, char **argv)
{
    return container_main<queue>(argc, argv, "liburcu, rculfqueue");
}
