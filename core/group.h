/* SPDX-License-Identifier: MIT
 *
 * The workers of one memory node: how they sleep and find each other's work, and the tasks
 * that none of them holds. Workers are numbered by node, so a group is a range of them; a node
 * without workers has no group.
 *
 * A wake-up goes to a worker of the group in which the work was queued. What a group cannot
 * do itself others come and take. */
#ifndef FLOW_CORE_GROUP_H
#define FLOW_CORE_GROUP_H

#include "core/worker.h"

/* All groups, from the placement. 0 or -ENOMEM. */
int flow__groups_open(struct flow__runtime *rt);
void flow__groups_close(struct flow__runtime *rt);

/* The group of a node, by its index in the topology; NULL: it has no workers. */
struct flow__group *flow__group_of_node(int node);

/* How many tasks lie in shared queues, all groups together. Each look is sequentially consistent. */
uint64_t flow__groups_queued(void);

static inline int flow__index_in_group(const struct flow__worker *w)
{
    return w->index - w->group->first;
}

#endif
