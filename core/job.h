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

/* Forks a job for the workers of one group: a task in the group's queue, if there is a block. */
void flow__fork_to(struct flow_job *job, struct flow__group *g, flow_fn fn, void *arg);

/* Syncs a job in two steps. True: it is the caller's to call or to leave; false: somebody else has
 * it, and it must be awaited. */
bool flow__take_job_back(struct flow_job *job);
flow_result flow__await_job(struct flow_job *job);

/* Syncs a job whose result nobody wants: it is not called here, and cancelled elsewhere. */
void flow__drop_job(struct flow_job *job);

/* Ends the program if the task that ends now has left a job behind. */
void flow__check_all_synced(struct flow__task *self);

#endif
