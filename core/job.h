/* SPDX-License-Identifier: MIT
 *
 * What the rest of core/ needs to know of jobs: where thieves come by, and what happens to the jobs
 * of a coroutine that leaves its stack (flow__leave, in worker.h). */
#ifndef FLOW_CORE_JOB_H
#define FLOW_CORE_JOB_H

#include "core/worker.h"

/* The thread becomes w's, with no jobs; `aside` keeps what it had forked before, for
 * flow__jobs_close, when it drives only for a while. */
void flow__jobs_open(struct flow__worker *w, struct flow__jobs *aside);
void flow__jobs_close(const struct flow__jobs *aside);

/* Takes a victim's oldest job as a task to start; NULL if there is none to be seen: then its owner
 * is asked to show some at its next fork. */
struct flow__task *flow__steal_job(struct flow__worker *w, struct flow__worker *victim);

/* For one who has announced that it will sleep: has the victim a job to take? If not, its owner is
 * asked for one, and will wake a sleeper for it. */
bool flow__job_is_offered(struct flow__worker *victim);

/* A job that is offered to one group first, of a coroutine. */
struct flow__share {
    struct flow_job job;
    struct flow__group *of;
    struct flow__share *next, *prev; /* in the group's list, the oldest first; under its lock */
};

/* Forks it: for a worker of the group that has nothing to do, or polls; while all of them are busy, for any
 * that has nothing to do. */
void flow__fork_share(struct flow__share *share, struct flow__group *g, flow_fn fn, void *arg);

/* Takes the oldest share of a group as a task to start at once; NULL: there is none, or no block. */
struct flow__task *flow__take_share(struct flow__worker *w, struct flow__group *g);

/* Syncs a job in two steps. True: it is the caller's to call or to leave; false: somebody else has
 * it, and it must be awaited. */
bool flow__take_job_back(struct flow_job *job);
flow_result flow__await_job(struct flow_job *job);

/* Awaits a job whose result nobody wants: it is cancelled. Not within a read-side section. */
void flow__drop_job(struct flow_job *job);

/* Ends the program if the task that ends now has left a job behind. */
void flow__check_all_synced(struct flow__task *self);

#endif
