/* SPDX-License-Identifier: MIT
 *
 * Memory of a certain node.
 *
 * Nodes are numbered from 0 without gaps, as in flow_info.nodes; a node without memory of its
 * own stands for the nearest one that has some. What flow_info.memory_policy says holds
 * here too: where the system refuses to bind memory to nodes, a page lies on the node of
 * the thread that first writes to it. */
#ifndef FLOWCORO_MEMORY_H
#define FLOWCORO_MEMORY_H

#include <flowcoro/base.h>

FLOW_BEGIN_DECLS

/* Zeroed memory from a node, in whole pages, for large and long-lived things. *p gets its
 * page-aligned address; nothing is backed before it is touched. When the node is full the pages come
 * from another one. node -1: no wish. The memory belongs to the caller, outlives flow_stop, and
 * goes back with flow_free_on_node from any thread. -EINVAL: p is NULL, bytes is 0, or there is no
 * such node (without a runtime there is only node 0, and nothing is bound). -ENOMEM: the system
 * refuses, or no address space could hold so much. From anywhere; never suspends. */
FLOW_API int flow_alloc_on_node(void **p, size_t bytes, int node);

/* Gives it back; bytes as it was asked for. NULL: nothing happens. 0; -EINVAL: p is not the start of
 * a page, or bytes is 0. From anywhere; never suspends. */
FLOW_API int flow_free_on_node(void *p, size_t bytes);

/* Pages that are in memory, and how many of them lie where they should. */
struct flow_memory_pages {
    uint64_t pages;
    uint64_t local;
};

struct flow_memory_node {
    struct flow_memory_pages stacks;  /* of live tasks that have started, on their worker's node */
    struct flow_memory_pages blocks;  /* with a live task's control block, on the node that made it:
                                       * the spawning worker's, unless that had none left */
    struct flow_memory_pages workers; /* queues, timers and counters of the workers of this node */
};

struct flow_memory_report {
    size_t size;                    /* sizeof(struct flow_memory_report), set by the caller */
    struct flow_memory_node *nodes; /* set by the caller: room for n_nodes of them; may be NULL */
    size_t n_nodes;                 /* set by the caller; afterwards how many there are */
    struct flow_memory_node total;  /* over all nodes */
};

/* Asks the kernel where the runtime's memory lies now, page by page: nodes[i] tells of what belongs
 * to node i. Of more nodes than there is room for only the first are told. Tasks may come and go
 * meanwhile; a page that is given back while we look is not counted. Takes about 0.2 us a page.
 * 0. -EINVAL: report->size is not known. -ESHUTDOWN. -EPERM, -ENOSYS or what else the system says
 * where it refuses the question (move_pages). From anywhere; never suspends. */
FLOW_API int flow_memory_check(struct flow_memory_report *report);

FLOW_END_DECLS

#endif
