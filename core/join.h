/* SPDX-License-Identifier: MIT
 *
 * The steps of joining that flow_join, flow_when_all and flow_when_any share. self is the caller's
 * task or a foreign thread's stand-in. Order: claim, then await (or watch many, wait, unwatch),
 * then consume or unclaim. */
#ifndef FLOW_CORE_JOIN_H
#define FLOW_CORE_JOIN_H

#include "core/worker.h"

/* Keeps a live, unfinished block from being reused until flow__unpin, which tells whether its task
 * still has not finished; w is the caller's worker or NULL. NULL: stale, forged or finished. */
struct flow__task *flow__pin(uint64_t id);
bool flow__unpin(struct flow__worker *w, struct flow__task *t);

/* Takes the right to t's result. -ESRCH, -EINVAL, -EDEADLK as flow_join. */
int flow__claim(uint64_t id, struct flow__task *self, struct flow__task **out);

/* Gives the right back; the task can be joined by others again. */
void flow__unclaim(struct flow__task *t);

/* Gives the right to the task itself: it is freed now if it has finished, else when it does. w as in
 * flow__unpin. */
void flow__let_go(struct flow__worker *w, struct flow__task *t);

bool flow__has_finished(struct flow__task *t);

/* Has t's end win self's armed epoch. False if t has finished already. Claimed only. */
bool flow__watch_end(struct flow__task *t, struct flow__task *self, uint64_t epoch);

/* After this t's worker does not look at the claimer any more. */
void flow__unwatch_end(struct flow__task *t);

/* Waits until a claimed task has finished: 0, -ETIMEDOUT, -ECANCELED. */
int flow__await_end(struct flow__task *t, struct flow__task *self, bool shielded,
                    enum flow__why why, flow_deadline deadline);

/* Takes the result of a claimed, finished task and frees it. */
flow_result flow__consume(struct flow__worker *w, struct flow__task *t);

#endif
