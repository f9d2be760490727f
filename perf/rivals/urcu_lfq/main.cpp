// SPDX-License-Identifier: MIT
//
// liburcu's rculfqueue, lock-free and unbounded. Its links lie in the items, so there is a node for
// each item that comes; the second round has those of the first again, after a grace period that is not
// timed. See perf/rivals/README.
#include "../containers.hpp"

#include <urcu/urcu-memb.h>

#include <urcu/rculfqueue.h>

#include <memory>

class queue {
    cds_lfq_queue_rcu queue_;
    std::unique_ptr<cds_lfq_node_rcu[]> nodes_;

public:
    queue(uint64_t, uint64_t n) : nodes_(new cds_lfq_node_rcu[n + 1])
    {
        cds_lfq_init_rcu(&queue_, urcu_memb_call_rcu);
    }
    ~queue() { cds_lfq_destroy_rcu(&queue_); }
    void between_rounds() { urcu_memb_synchronize_rcu(); }

    class user {
        queue &q_;

    public:
        user(queue &q) : q_(q) { urcu_memb_register_thread(); }
        ~user() { urcu_memb_unregister_thread(); }

        bool push(void *item)
        {
            cds_lfq_node_rcu *node = &q_.nodes_[(uintptr_t)item];

            cds_lfq_node_init_rcu(node);
            urcu_memb_read_lock();
            cds_lfq_enqueue_rcu(&q_.queue_, node);
            urcu_memb_read_unlock();
            return true;
        }

        bool pop(void **item)
        {
            urcu_memb_read_lock();
            cds_lfq_node_rcu *node = cds_lfq_dequeue_rcu(&q_.queue_);
            urcu_memb_read_unlock();

            *item = (void *)(uintptr_t)(node - q_.nodes_.get());
            return node != nullptr;
        }
    };
};

int main(int argc, char **argv)
{
    return container_main<queue>(argc, argv, "liburcu " RELEASE ", rculfqueue");
}
