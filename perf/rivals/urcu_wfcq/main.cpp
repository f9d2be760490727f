// SPDX-License-Identifier: MIT
//
// liburcu's wfcqueue, which is unbounded; its consumers take a lock, as its documentation has it for
// several. Its links lie in the items, so there is a node for each item that comes; the second round has
// those of the first again. See perf/rivals/README.
#include "../containers.hpp"

#include <urcu/wfcqueue.h>

#include <memory>

class queue : public plain_container<queue> {
    cds_wfcq_head head_;
    cds_wfcq_tail tail_;
    std::unique_ptr<cds_wfcq_node[]> nodes_;

public:
    queue(uint64_t, uint64_t n) : nodes_(new cds_wfcq_node[n + 1])
    {
        cds_wfcq_init(&head_, &tail_);
    }
    ~queue() { cds_wfcq_destroy(&head_, &tail_); }

    bool push(void *item)
    {
        cds_wfcq_node *node = &nodes_[(uintptr_t)item];

        cds_wfcq_node_init(node);
        cds_wfcq_enqueue(cds_wfcq_head_cast(&head_), &tail_, node);
        return true;
    }

    bool pop(void **item)
    {
        cds_wfcq_node *node = cds_wfcq_dequeue_blocking(&head_, &tail_);

        *item = (void *)(uintptr_t)(node - nodes_.get());
        return node != nullptr;
    }
};

int main(int argc, char **argv)
{
    return container_main<queue>(argc, argv, "liburcu " RELEASE ", wfcqueue");
}
