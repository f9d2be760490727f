/* SPDX-License-Identifier: MIT
 *
 * What the kernel says about memory and nodes: where we may have some, and where a page lies.
 * (Asking for some of a certain node is core/arena's business.)
 *
 * Containers often refuse the calls (EPERM, ENOSYS) while libnuma's numa_available() says yes.
 * All calls may be made from any thread. Nodes are the kernel's numbers here. */
#ifndef FLOW_NUMA_NODE_MEMORY_H
#define FLOW_NUMA_NODE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#define FLOW__MAX_NODE_IDS 1024 /* the largest that Linux can be built for */
#define FLOW__NODE_MASK_WORDS (FLOW__MAX_NODE_IDS / (8 * sizeof(unsigned long)))

static inline bool flow__node_mask_has(const unsigned long *mask, int node_id)
{
    size_t bits = 8 * sizeof *mask;

    return mask[(size_t)node_id / bits] >> ((size_t)node_id % bits) & 1;
}

/* The nodes whose memory our cpuset allows, as FLOW__NODE_MASK_WORDS words. 0 or what the kernel answers. */
int flow__node_memory_allowed(unsigned long *mask);

/* The node that the page of this address lies on; -ENOENT or -EFAULT if it was never written to;
 * -EPERM or -ENOSYS in a sandbox. */
int flow__page_node_id(const void *address);

/* The same for n pages at once, each answer or negative errno to node_ids. 0, or why the question was
 * refused. Touches nothing. */
int flow__page_node_ids(void **pages, size_t n, int *node_ids);

#endif
