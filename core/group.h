/* SPDX-License-Identifier: MIT
 *
 * The workers of one memory node: how they sleep and find each other's work, and the tasks
 * that none of them holds. Workers are numbered by node, so a group is a range of them; a node
 * without workers has no group.
 *
 * Surplus flags. A byte for each worker, 64 to a cache line, so that a thief reads one line
 * per node and not every ring. A flag is written by its worker only and with plain stores: it goes
 * up at the first push after it was down, and comes down when the worker finds its ring and its
 * LIFO slot empty, at a poll or when it has nothing to do. So
 *   - a flag that is down means: nothing to steal, or that the push is being made just now;
 *   - a flag that is up may be too much (others took what there was) until the next poll.
 * It is a hint to searchers. Who is about to sleep looks at the rings, see sync/parker.h.
 *
 * Between nodes. A wake-up goes to a worker of the group in which the work was queued, and no
 * publisher looks at another group on its way. What a group does not get done others come and
 * take: one searcher at a time of each (its token), after two fruitless looks at home, and only what has
 * waited for longer than the trip is worth (flow__patience). But who sleeps sees no work. Hence
 * the call for help: a worker whose mates are all awake and none of them in search of work, asks
 * one sleeper of the nearest group that has one. Not at each push, but
 *   - when its flag goes up, unless the sentry there is watching already;
 *   - when it ends its rest and leaves its group without a sentry, and something is queued in a
 *     group whose workers are all awake and busy: its own, or one that has relied on it;
 *   - at a poll, if the oldest task that it or its group has queued has waited too long.
 * The third makes it quick. The first two make it sure, also where all workers of a node block at
 * once and poll no more: if a group has a flag up and all its workers run tasks, then a sentry of
 * some group watches, or is being woken, or no group has a sleeper. For
 *   - who raises a flag (a full barrier) then reads the state of its group, and who stops resting
 *     leaves that state (a full barrier) and then reads the flags;
 *   - who raises a flag then reads whether the nearest sentry is watching, and a sentry says that
 *     it is not (a full barrier) before it reads the flags.
 * This is also why a sentry (core/park.c) may sleep without end when every group sleeps. */
#ifndef FLOW_CORE_GROUP_H
#define FLOW_CORE_GROUP_H

#include "core/worker.h"

#define FLOW__PATIENCE_NEAR_NS 5000
#define FLOW__PATIENCE_FAR_NS  50000
#define FLOW__WATCH_LEAST_NS   ((int64_t)64000)
#define FLOW__WATCH_MOST_NS    ((int64_t)16384000)

/* All groups, from the placement. 0 or -ENOMEM. */
int flow__groups_open(struct flow__runtime *rt);
void flow__groups_close(struct flow__runtime *rt);

/* The group of a node, by its index in the topology; NULL: it has no workers. */
struct flow__group *flow__group_of_node(int node);

/* How many tasks, and shares, lie in shared queues, all groups together. Each look is sequentially consistent. */
uint64_t flow__groups_queued(void);

/* Do all workers of all other groups sleep? */
bool flow__others_sleep(const struct flow__group *g);

/* How long a task of `from` must have waited before `to` may take it. */
int64_t flow__patience(const struct flow__group *from, const struct flow__group *to);

/* Asks one sleeper of another group to look here, if everybody here is awake and busy. age: of the
 * oldest task that waits, -1: not known, something was queued just now. w: the caller's worker or
 * NULL. now: of use only with an age. */
void flow__call_for_help(struct flow__worker *w, struct flow__group *g, int64_t age, int64_t now);

/* The worker has pushed into its ring or LIFO slot while its flag was down. */
void flow__raise_surplus(struct flow__worker *w);

/* The worker has rested (slept or searched) and is about to run a task. If its group has no sentry
 * now, it looks after those whose work nobody sees. */
void flow__end_rest(struct flow__worker *w);

/* The worker looks whether its flag is true, and how long its oldest task waits. At a poll. */
void flow__review_surplus(struct flow__worker *w, int64_t now);

/* It has found nothing to do. */
static inline void flow__lower_surplus(struct flow__worker *w)
{
    if (!w->offers || w->n_victims == 0)
        return;
    w->offers = false;
    store_relaxed(&w->group->surplus[w->index - w->group->first], 0);
}

static inline int flow__index_in_group(const struct flow__worker *w)
{
    return w->index - w->group->first;
}

static inline bool flow__may_have_surplus(const struct flow__worker *w)
{
    return load_relaxed(&w->group->surplus[flow__index_in_group(w)]);
}

/* Is there anything in the group's queues, or a share? A hint. */
static inline bool flow__group_has_tasks(struct flow__group *g)
{
    return load_relaxed(&g->queue.count) || load_relaxed(&g->bound.count) ||
           load_relaxed(&g->shares.count);
}

/* The same for who has announced that it will sleep. */
static inline bool flow__group_has_tasks_seq(struct flow__group *g)
{
    return load_seq(&g->queue.count) || load_seq(&g->bound.count) || load_seq(&g->shares.count);
}

/* As flow__ring_age. The numbers are those of the tasks ever taken and ever put in. */
static inline int64_t flow__queue_age(struct flow__shared_queue *q, int64_t now)
{
    uint32_t taken = load_relaxed(&q->taken);

    return flow__age_look(&q->age, taken, taken + (uint32_t)load_relaxed(&q->count), now);
}

#endif
