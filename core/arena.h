/* SPDX-License-Identifier: MIT
 *
 * Memory of a certain node: the one way in which core/ gets it.
 *
 * `node` is an index into the topology, as everywhere; what is bound is the nearest node with
 * memory that we may use (memory_node). Binding is a wish, and where the system refuses it
 * memory comes from the node of the thread that touches it first: callers see to it that
 * this is a worker of that node. On a machine with one node the system is never asked.
 * Without a runtime there is no topology: then nothing is bound.
 *
 * Any thread. The table of nodes is written at start and stop, and read by everyone. */
#ifndef FLOW_CORE_ARENA_H
#define FLOW_CORE_ARENA_H

#include "numa/topology.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FLOW__ARENA_HUGE = 1 }; /* starts at a multiple of 2 MiB, huge pages wished for */

/* Learns the nodes and tries for each, once and for real, whether memory can be bound to it. The
 * first refusal in a process is reported on stderr, if the machine is the live one. The topology
 * must stay until the close. */
void flow__arena_open(const struct flow__topology *topology);
void flow__arena_close(void);

/* Zeroed memory of which nothing is backed before it is touched; of a node, or -1: no wish. NULL if
 * the system refuses, or bytes is 0 or beyond all bounds. */
void *flow__arena_map(size_t bytes, int node, unsigned flags);
void flow__arena_unmap(void *p, size_t bytes); /* the same bytes; p NULL: nothing */

/* The same for a part of a larger reservation, of which nothing was touched yet; whole
 * pages around it. 0 also where nothing is to be bound; else what the system says: then it was
 * counted, and placement is left to the first touch. */
int flow__arena_bind(void *start, size_t bytes, int node);

/* Is this node's memory placed by first touch, though the machine has several nodes? */
bool flow__arena_needs_touch(int node);

int flow__arena_nodes(void); /* nodes known: 1 without a runtime */

/* The other nodes by their distance from `node`: the nearest with previous = node, then the next after
 * `previous`; -1: there are no more. Only while the runtime lives; a walk over all nodes. */
int flow__arena_next_near(int node, int previous);

const char *flow__arena_policy(void);     /* for flow_info */
uint64_t flow__arena_bind_failures(void); /* since the start */

#endif
