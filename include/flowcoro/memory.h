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

FLOW_END_DECLS

#endif
