/* SPDX-License-Identifier: MIT
 *
 * Where ready tasks wait: the calls with which one worker's loop moves them. What
 * other rooms use (flow__submit, flow__make_ready) stands in worker.h. */
#ifndef FLOW_CORE_QUEUES_H
#define FLOW_CORE_QUEUES_H

#include "core/group.h"

/* Both lines of a block that is needed soon; t may be anything. */
static inline void flow__fetch_block(const void *t)
{
    __builtin_prefetch(t, 1);
    __builtin_prefetch((const char *)t + FLOW__CACHE_LINE, 1);
}

/* Puts a task into w's ring; when that is full, half of it moves to the group's
 * queue. Owner only. */
void flow__push_ring(struct flow__worker *w, struct flow__task *t);

/* Moves this worker's share of its group's queues to itself. True if there was any. */
bool flow__grab_shared(struct flow__worker *w);

/* Takes half of a queue, rounded up, at most `most`, the oldest first; returns how many. Any worker. */
uint32_t flow__rob_queue(struct flow__shared_queue *q, struct flow__task **loot, uint32_t most);

/* Takes up what other threads have sent. Owner only. */
void flow__drain_inbox(struct flow__worker *w);

/* Sends a task to its worker. w: the caller's worker or NULL. */
void flow__send(struct flow__worker *w, struct flow__worker *target, struct flow__task *t);

/* After work was published to the worker's group and a full barrier: wakes a sleeper of the group
 * to look for it, unless somebody looks already. Owner only. */
void flow__wake_searcher(struct flow__worker *w);

/* The same for work that was published to any group. w: the caller's worker or NULL. */
void flow__wake_for(struct flow__worker *w, struct flow__group *g);

/* As flow__wake_searcher, after a push that is no full barrier by itself. */
void flow__fence_and_wake_searcher(struct flow__worker *w);

#endif
