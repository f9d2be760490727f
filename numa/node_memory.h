/* SPDX-License-Identifier: MIT
 *
 * Memory of a certain node. Binding is a wish (MPOL_PREFERRED): when the node is
 * full the kernel takes the next one instead of killing us.
 *
 * Containers often refuse the calls (EPERM, ENOSYS) while libnuma's
 * numa_available() says yes; so the caller asks flow__node_memory_probe once, and where it
 * says no leaves placement to the first touch by a pinned thread.
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

/* Will binds be obeyed? Tries one for real. */
bool flow__node_memory_probe(void);

/* Asks that pages of this range which are touched from now on come from the node. start is page-aligned.
 * 0; -EINVAL if the node has no memory or is not allowed; -EPERM or -ENOSYS in a sandbox. */
int flow__node_memory_bind(void *start, size_t bytes, int node_id);

/* The node that the page of this address lies on; -ENOENT or -EFAULT if it was never written to;
 * -EPERM or -ENOSYS in a sandbox. */
int flow__node_of(const void *address);

#endif
