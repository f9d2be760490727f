/* SPDX-License-Identifier: MIT
 *
 * Jobs: what flow_fork and flow_sync do when they cannot do it inline, and how thieves come by jobs.
 *
 * Where a job is
 *   PRIVATE  in the list of its thread's flow__jobs, newest first, linked through the frames.
 *            No other thread looks at it.
 *   PUBLIC   in the worker's deque, older than all private ones; or a thief has it. `hold` is let
 *            go by the thief once `task` says who runs it.
 *   TAKEN    `task` runs it: a thief's, or one that was made when its coroutine left its stack.
 *   KEPT     there was no block for a task: flow_sync will call it.
 *   SHARED   in a group's list of shares, until somebody begins it or its owner takes it back.
 *
 * The list and the deque hold only jobs of the coroutine that runs on the worker, and, below them,
 * of those that are calling it (flow_spawn_now). When it suspends, all of them become tasks,
 * queued as any others: to start each at once would take a stack for each of a million jobs, most of
 * which need theirs only for a moment, and no other worker could start them.
 *
 * A thief asks by setting `asked`, in a line that it and the owner otherwise only read; the owner
 * looks at it in each fork, and shows as many of its oldest jobs as there are idle workers, and one.
 * What it takes back itself has been shown for nothing, and showing and taking back cost some
 * twenty forks: then it waits to be asked again, which a thief does that looks or goes to sleep.
 *
 * The lost-wake-up argument. A sleeper announces itself, then looks at the deque, then
 * sets `asked` or sees that it is set. The owner clears `asked`, then reads who is idle; and it
 * pushes, then reads who sleeps; all of these are seq_cst. So either the sleeper sees the job, or the
 * owner sees the sleeper; and a question that the owner has cleared is one whose asker it has seen.
 *
 * Runs on the worker's thread; flow__job_is_offered and flow__steal_job on the thief's. */
#include "core/job.h"

#include "core/ambient.h"
#include "core/group.h"
#include "core/join.h"
#include "core/life.h"
#include "core/queues.h"
#include "core/spawn.h"
#include "sync/spin.h"

#include <flowcoro/cancel.h>

#include <errno.h>

enum { PRIVATE, PUBLIC, TAKEN, KEPT, SHARED };

__thread struct flow__jobs flow__jobs = {.asked = 1}; /* the first fork of a thread sets it up */

/* The fields that two threads touch. The owner sets them before it shows the job; the thief that
 * has it fills in `task`, then lets go of `hold`, with which the owner's wait for it pairs. */
static inline struct flow__spin *hold_of(struct flow_job *job)
{
    return (struct flow__spin *)(void *)&job->hold;
}

static inline flow__atomic(uint32_t) * asked_of(struct flow__jobs *jobs)
{
    return (flow__atomic(uint32_t) *)(void *)&jobs->asked;
}

static inline flow_result call(struct flow_job *job)
{
    return job->fn(job->arg);
}

/* ---- the private end: a list from `newest` down to the foot ---- */

static inline bool is_empty(const struct flow__jobs *jobs)
{
    return jobs->newest == jobs->foot;
}

static void link_newest(struct flow__jobs *jobs, struct flow_job *job)
{
    job->state = PRIVATE;
    job->older = jobs->newest;
    jobs->newest->newer = job;
    jobs->newest = job;
}

static void link_oldest(struct flow__jobs *jobs, struct flow_job *job)
{
    struct flow_job *foot = jobs->foot;

    if (is_empty(jobs)) {
        link_newest(jobs, job);
        return;
    }
    job->state = PRIVATE;
    job->older = foot;
    job->newer = foot->newer;
    job->newer->older = job;
    foot->newer = job;
}

static void unlink_job(struct flow__jobs *jobs, struct flow_job *job)
{
    if (jobs->newest == job) {
        jobs->newest = job->older;
        return;
    }
    job->older->newer = job->newer;
    job->newer->older = job->older;
}

static struct flow_job *take_oldest(struct flow__jobs *jobs)
{
    struct flow_job *job = jobs->foot->newer;

    if (is_empty(jobs))
        return NULL;
    unlink_job(jobs, job);
    return job;
}

static void put_on_foot(struct flow__jobs *jobs, struct flow_job *foot)
{
    if (foot == jobs->foot)
        return;
    if (is_empty(jobs)) {
        jobs->newest = foot;
    } else {
        foot->newer = jobs->foot->newer;
        foot->newer->older = foot;
    }
    jobs->foot = foot;
}

/* ---- the thread's list begins and ends ---- */

static void clear(struct flow__jobs *jobs)
{
    jobs->newest = jobs->foot = &jobs->none;
}

void flow__jobs_open(struct flow__worker *w, struct flow__jobs *aside)
{
    struct flow__jobs *jobs = flow__jobs_here();

    if (aside)
        *aside = *jobs;
    clear(jobs);
    exchange_seq(asked_of(jobs), w->n_victims > 0);
    /* [JOBS-3] release: pairs with [JOBS-4]. */
    store_release(&w->jobs, jobs);
}

void flow__jobs_close(const struct flow__jobs *aside)
{
    struct flow__jobs *jobs = flow__jobs_here();

    jobs->newest = aside->newest;
    jobs->foot = aside->foot;
    jobs->none = aside->none;
    jobs->shared = aside->shared;
    exchange_seq(asked_of(jobs), aside->asked);
}

/* ---- whose job it is ---- */

/* Of the coroutine whose frame holds it; NULL if it lies elsewhere. */
static struct flow__stack_header *header_of(const struct flow_job *job)
{
    uintptr_t offset = (uintptr_t)job - load_relaxed(&flow__stacks.base);

    return offset < load_relaxed(&flow__stacks.bytes) ? flow__stack_header_at(offset) : NULL;
}

static struct flow__task *owner_of(const struct flow_job *job, struct flow__task *otherwise)
{
    struct flow__stack_header *header = header_of(job);

    return header ? header->task : otherwise;
}

/* Counts a job that leaves its thread's list, or is synced after that. */
static void count_open(const struct flow_job *job, int n)
{
    struct flow__stack_header *header = header_of(job);

    if (header)
        header->open_jobs += n;
}

/* ---- showing jobs to thieves ---- */

/* A thief or a task computes as the owner would. The record has room for it where `newer` was. */
static inline struct flow__fp_environment *fp_of(struct flow_job *job)
{
    _Static_assert(sizeof(struct flow__fp_environment) <= sizeof job->newer, "it fits");
    return (struct flow__fp_environment *)(void *)&job->newer;
}

static flow_result call_with_fp(void *arg)
{
    struct flow_job *job = arg;

    flow__fp_load(fp_of(job));
    return job->fn(job->arg);
}

/* The CPU has the environment of `self`, which runs; an owner that calls it waits with its own. */
static void take_fp(struct flow__task *owner, struct flow__task *self, struct flow__fp_environment *fp)
{
    if (owner == self)
        flow__fp_save(fp);
    else
        *fp = *owner->fp;
}

/* What any other thread needs to know to run it. */
static void describe(struct flow_job *job, struct flow__task *self)
{
    struct flow__task *owner = owner_of(job, self);

#ifdef FLOW_DEBUG
    if (!header_of(job))
        flow__die("the record of a job is not in a coroutine's frame");
#endif
    job->task = owner;
    if (flow__unlikely(flow__has(owner, FLOW_FP_ENVIRONMENT)))
        take_fp(owner, self, fp_of(job));
    count_open(job, 1);
}

static void show(struct flow__worker *w, struct flow__jobs *jobs, struct flow__task *self)
{
    struct flow_job *job = take_oldest(jobs);

    put_on_foot(jobs, &jobs->shared);
    job->state = PUBLIC;
    describe(job, self);
    store_relaxed(&hold_of(job)->held, 1); /* it held nothing valid before */
    flow__job_deque_push(&w->deque, job);
}

/* Idle workers have asked, or had when they last looked. */
static void show_some(struct flow__worker *w, struct flow__jobs *jobs, struct flow__task *self)
{
    uint32_t wanted;
    bool any = false;

    exchange_seq(asked_of(jobs), 0);
    if (w->n_victims == 0)
        return;
    /* One also if nobody in the group is idle: another group's worker may have asked. */
    wanted = flow__idle_count(&w->group->idle) + 1;
    if (wanted > FLOW__JOB_DEQUE_SIZE)
        wanted = FLOW__JOB_DEQUE_SIZE;
    for (; flow__job_deque_count(&w->deque) < wanted && !is_empty(jobs); any = true)
        show(w, jobs, self);
    if (flow__job_deque_count(&w->deque) < wanted)
        store_relaxed(asked_of(jobs), 1);
    if (!any)
        return;
    if (!w->offers)
        flow__raise_surplus(w);
    flow__wake_searcher(w);
}

void flow__fork_slowly(struct flow_job *job)
{
    struct flow__jobs *jobs = flow__jobs_here();
    struct flow__task *self = flow__self();

    if (!jobs->newest)
        clear(jobs);
    link_newest(jobs, job);
    if (self)
        show_some(self->home, jobs, self);
    else
        store_relaxed(asked_of(jobs), 0); /* nobody takes jobs from outside of coroutines */
}

/* ---- making tasks of jobs ---- */

/* Its result is for flow_sync alone, hence JOINING. */
static void become(struct flow__worker *w, struct flow__task *t, struct flow_job *job)
{
    struct flow__task *owner = job->task;
    uint32_t owners = load_relaxed(&owner->flags);
    uint32_t inherited = owners & (FLOW_ROAM | FLOW_FP_ENVIRONMENT | FLOW__SPARED);

    if (owners & FLOW__SHIELDED)
        inherited |= FLOW__SPARED;
    flow__reset_task(t, job->fn, job->arg, (void *)(uintptr_t)job->fn, inherited, FLOW__LIFE_JOINING);
    flow__count(w, spawned);
    t->stack_class = owner->stack_class;
    if (inherited & FLOW_FP_ENVIRONMENT) {
        t->fn = call_with_fp;
        t->arg = job;
    }
    if (flow__heeds_cancel(owner))
        flow__cancel_block(w, t, flow__reason_of(owner));
    job->task = t;
}

struct flow__task *flow__steal_job(struct flow__worker *w, struct flow__worker *victim)
{
    struct flow_job *job;
    struct flow__task *t;

    if (!flow__job_is_offered(victim))
        return NULL;
    t = flow__block_take(&w->blocks);
    if (!t)
        return NULL;
    job = flow__job_deque_steal(&victim->deque);
    if (!job) {
        flow__give_block_to(w, t, load_relaxed(&t->life));
        return NULL;
    }
    become(w, t, job);
    flow__spin_unlock(hold_of(job));
    flow__count(w, steals);
    flow__count(w, stolen);
    return t;
}

bool flow__job_is_offered(struct flow__worker *victim)
{
    /* [JOBS-4] acquire: pairs with [JOBS-3]. */
    struct flow__jobs *jobs = load_acquire(&victim->jobs);

    if (flow__job_deque_count_seq(&victim->deque))
        return true;
    if (jobs && !load_seq(asked_of(jobs)))
        exchange_seq(asked_of(jobs), 1);
    return false;
}

/* ---- a coroutine leaves its stack ---- */

/* What was shown is private again. */
static void hide(struct flow__jobs *jobs, struct flow_job *job)
{
    link_oldest(jobs, job);
    count_open(job, -1);
}

/* Takes all that no thief has had back into the list. */
static void withdraw(struct flow__worker *w, struct flow__jobs *jobs)
{
    struct flow_job *job;

    while ((job = flow__job_deque_take_newest(&w->deque)))
        hide(jobs, job);
    put_on_foot(jobs, &jobs->none);
}

/* The job's own task, or NULL: there is no block. */
static struct flow__task *task_for(struct flow__worker *w, struct flow_job *job,
                                   struct flow__task *self)
{
    struct flow__task *t = flow__block_take(&w->blocks);

    job->state = t ? TAKEN : KEPT;
    describe(job, self);
    if (t)
        become(w, t, job);
    return t;
}

void flow__hand_out_jobs(struct flow__task *self)
{
    struct flow__worker *w = self->home;
    struct flow__jobs *jobs = load_relaxed(&w->jobs);
    struct flow_job *job;

    withdraw(w, jobs);
    while ((job = take_oldest(jobs))) {
        struct flow__task *t = task_for(w, job, self);

        if (t)
            flow__submit(w, t);
    }
}

__attribute__((noinline)) int flow__leave_with_jobs(struct flow__task *self)
{
    flow__hand_out_jobs(self);
    return flow__leave(self);
}

/* ---- shares: no task as long as they wait, so their owner never waits for one that has not begun ---- */

/* Under the lock of its group, as is `hold`: it is in the list. */
static void unlink_share(struct flow__share *share)
{
    struct flow__shares *shares = &share->of->shares;

    share->job.hold = 0;
    *(share->prev ? &share->prev->next : &shares->first) = share->next;
    *(share->next ? &share->next->prev : &shares->last) = share->prev;
    store_relaxed(&shares->count, load_relaxed(&shares->count) - 1);
}

void flow__fork_share(struct flow__share *share, struct flow__group *g, flow_fn fn, void *arg)
{
    struct flow__task *self = flow__self();
    struct flow__shares *shares = &g->shares;

    share->job.fn = fn;
    share->job.arg = arg;
    share->job.state = SHARED;
    share->job.hold = 1;
    describe(&share->job, self);
    share->of = g;
    share->next = NULL;
    flow__lock(&shares->lock);
    share->prev = shares->last;
    *(share->prev ? &share->prev->next : &shares->first) = share;
    shares->last = share;
    store_relaxed(&shares->count, load_relaxed(&shares->count) + 1);
    /* A full barrier between this and the look at the sleepers. */
    flow__unlock(&shares->lock);
    flow__wake_for(self->home, g);
    flow__call_for_help(self->home, g, -1, 0);
}

struct flow__task *flow__take_share(struct flow__worker *w, struct flow__group *g)
{
    struct flow__task *t = flow__block_take(&w->blocks);
    struct flow__share *share;

    if (!t)
        return NULL;
    flow__lock(&g->shares.lock);
    share = g->shares.first;
    if (share) {
        unlink_share(share);
        become(w, t, &share->job);
    }
    flow__unlock(&g->shares.lock);
    if (share)
        return t;
    flow__give_block_to(w, t, load_relaxed(&t->life));
    return NULL;
}

/* False: somebody has begun it. */
static bool take_share_back(struct flow__share *share)
{
    struct flow__lock *lock = &share->of->shares.lock;
    bool in_list;

    flow__lock(lock);
    in_list = share->job.hold;
    if (in_list)
        unlink_share(share);
    flow__unlock(lock);
    if (in_list)
        count_open(&share->job, -1);
    return in_list;
}

/* ---- syncing what cannot be called at once ---- */

/* True: it is in no queue any more, and the caller's to call. False: a thief has it. */
static bool take_back(struct flow__worker *w, struct flow_job *job)
{
    struct flow__jobs *jobs = load_relaxed(&w->jobs);
    struct flow_job *newest = NULL;
    /* An offer that nobody took is not made again before somebody asks again. Cleared first: who
     * finds the deque empty below asks after this, and is heard. */
    bool asked = exchange_seq(asked_of(jobs), 0);

    /* As long as a thief may be between its two steps `hold` is held, and so it is while the job is
     * in the deque. Younger ones lie above it: they become private again. */
    while (!flow__spin_is_free(hold_of(job))) {
        newest = flow__job_deque_take_newest(&w->deque);
        if (!newest) {
            flow__spin_wait(hold_of(job));
            continue;
        }
        hide(jobs, newest);
        if (newest == job) {
            unlink_job(jobs, job);
            break;
        }
    }
    if (asked && newest != job)
        store_relaxed(asked_of(jobs), 1);
    if (flow__job_deque_count(&w->deque) == 0)
        put_on_foot(jobs, &jobs->none);
    return newest == job;
}

bool flow__take_job_back(struct flow_job *job)
{
    struct flow__task *self = flow__self();

    switch (job->state) {
    case PRIVATE:
        unlink_job(flow__jobs_here(), job);
        return true;
    case KEPT:
        count_open(job, -1);
        return true;
    case PUBLIC:
        if (self && take_back(self->home, job))
            return true;
        job->state = TAKEN;
        break;
    case SHARED:
        if (self && take_share_back((struct flow__share *)job))
            return true;
        job->state = TAKEN;
        break;
    }
    return false;
}

static void await_end(struct flow__task *self, struct flow__task *t, bool cancel)
{
    int r = cancel ? -ECANCELED : flow__await_end(t, self, false, FLOW__WHY_SYNC, FLOW_FOREVER);
    int reason = cancel && !flow__must_leave(self) ? FLOW_CANCEL_SIBLING : flow_cancel_reason();

    if (!r)
        return;
    flow__cancel_block(self->home, t, reason);
    flow__await_end(t, self, true, FLOW__WHY_SYNC, FLOW_FOREVER);
}

flow_result flow__await_job(struct flow_job *job)
{
    struct flow__task *self = flow__self(), *t = job->task;
    flow_result result;
    bool not_run;

    /* In the child of a fork, whose thieves are not there. */
    if (!self)
        return flow_err(-ENOTSUP);
    if (flow__reclaim_inside() && !flow__has_finished(t))
        return flow_err(-EDEADLK);
    await_end(self, t, false);
    not_run = flow__has(t, FLOW__NOT_RUN);
    result = flow__consume(self->home, t);
    count_open(job, -1);
    /* Where there was no stack for it here is one; and in a shield flow_stop keeps no job from running. */
    return not_run && (result.error == -ENOMEM || !flow__heeds_cancel(self)) ? call(job) : result;
}

void flow__drop_job(struct flow_job *job)
{
    struct flow__task *self = flow__self();

    if (!self)
        return;
    await_end(self, job->task, true);
    flow__consume(self->home, job->task);
    count_open(job, -1);
}

flow_result flow__sync_slowly(struct flow_job *job)
{
    return flow__take_job_back(job) ? call(job) : flow__await_job(job);
}

/* ---- debug builds ---- */

void flow__check_all_synced(struct flow__task *self)
{
    struct flow__jobs *jobs = load_relaxed(&self->home->jobs);
    bool is_private = !is_empty(jobs) && owner_of(jobs->newest, NULL) == self;

    if (is_private || flow__stack_header(self->stack)->open_jobs != 0)
        flow__die("a coroutine has returned with a job that it forked and did not sync");
}
