/* SPDX-License-Identifier: MIT
 *
 * Shuffled scheduling, a test aid: with option shuffle=seed, or FLOW_SHUFFLE=seed in the environment,
 * every choice that a worker is free to make is made by chance. Which task comes next (of all that
 * are ready, whether they have started or not), when expired timers fire and in which order their
 * tasks go on, how many operations a task may do before it must yield, how many tasks a batch takes,
 * whom a thief visits first, and a pause here and there.
 *
 * It costs nothing where it is off: a shuffled worker polls before every dispatch, so all of this
 * hangs on the poll and on other places that are cold, and the short ways from one task to the next,
 * which end where a poll is due, are never taken.
 *
 * Each worker has numbers of its own, from the seed and its index. With workers = 0 everything that
 * happens follows from the seed, as far as the program's own threads and the clock do. */
#ifndef FLOW_CORE_SHUFFLE_H
#define FLOW_CORE_SHUFFLE_H

#include "core/worker.h"

/* Seeds w's choices from the option; 0 leaves it alone. Before the worker runs. */
void flow__shuffle_open(struct flow__worker *w);

/* The rest: on w's own thread, and only if w->shuffled. */

/* Before a choice: mixes what w has to choose from, and decides on yields and a pause. */
void flow__shuffle(struct flow__worker *w);

/* Before a round of visits: another order of mates. */
void flow__shuffle_victims(struct flow__worker *w);

/* 1 to n. */
uint32_t flow__shuffle_some(struct flow__worker *w, uint32_t n);

static inline uint32_t flow__some_of(struct flow__worker *w, uint32_t n)
{
    return flow__unlikely(w->shuffled) && n > 1 ? flow__shuffle_some(w, n) : n;
}

#endif
