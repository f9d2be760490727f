/* SPDX-License-Identifier: MIT
 *
 * How a worker that has nothing to do looks for work that others have queued. */
#ifndef FLOW_CORE_STEAL_H
#define FLOW_CORE_STEAL_H

#include "core/worker.h"

/* Looks around for as long as that has been worth it lately: at home, then also at other nodes.
 * poll: looks at the worker's own queues when something has come in. The caller counts as a
 * searcher of its group. A task, or NULL. */
struct flow__task *flow__search(struct flow__worker *w,
                                struct flow__task *(*poll)(struct flow__worker *));

/* Does anything on another node wait for longer than its patience? One look, which also notes what
 * it has seen for the next one. For a sentry. */
bool flow__anything_ripe(struct flow__worker *w, int64_t now);

/* One look of the lookout at the LIFO slots of its mates, which also notes what it has seen for the next one.
 * *pushes: how often they have been filled in all. */
enum flow__lifo_look { FLOW__LIFOS_EMPTY, FLOW__LIFO_NOTED, FLOW__LIFO_RIPE };
enum flow__lifo_look flow__note_lifos(struct flow__worker *w, int64_t now, uint64_t *pushes);

/* Is anything in them? For who is no lookout any more. */
bool flow__any_lifo(struct flow__worker *w);

/* Is there anything for the worker's group, in the queues themselves? LIFO slots are told apart:
 * their owners mostly take them back at once. For who has announced that it will sleep. */
bool flow__anything_visible(struct flow__worker *w, bool *lifo_busy);

#endif
