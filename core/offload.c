/* SPDX-License-Identifier: MIT
 *
 * Lanes of helper threads for blocking calls.
 *
 * A call is a job in its lane's queue. flow_offload's job lies in the caller's
 * frame, so the caller does not return while a helper works on it; flow_offload_owned's is
 * on the heap, and may be abandoned. What happens to a job is decided under its lane's lock:
 *   QUEUED -> RUNNING -> DONE       the usual way
 *   QUEUED -> taken out             the caller's deadline or cancellation came first
 *   RUNNING -> ABANDONED            it came later, and the job is owned
 * A lane is kept alive by its handle and by each of its threads, so that a thread in a call that
 * hangs may outlive even the runtime. Lock order: list_lock, then a lane's lock. */
#include "core/offload.h"

#include "core/runtime.h"

#include <flowcoro/offload.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HELPER_STACK_BYTES ((size_t)256 * 1024)
#define BUILT_IN           3

enum job_state { QUEUED, RUNNING, DONE, ABANDONED };

struct job {
    struct job *next;
    flow_fn fn;
    void *arg;
    void (*release)(void *arg); /* NULL: the job lies in the caller's frame */
    enum job_state state;
    struct flow__task *task;
    uint64_t epoch;
    flow_result result;
};

struct flow_lane {
    struct flow__lock lock;
    /* All under lock. */
    struct job *first, **last;
    struct job *running; /* all that are RUNNING, in no order */
    unsigned n_queued, n_idle, n_threads, n_running, references;
    unsigned n_callers; /* inside flow_offload; they look at the lane until they return */
    bool closing;
    flow__atomic(uint32_t) bell; /* changes when there is something for idle helpers */
    /* Constant. */
    char name[12];
    unsigned max_threads, max_queued;
    int64_t idle_ns;
    flow_lane *next; /* under list_lock */
};

static struct flow__lock list_lock;
static flow_lane *lanes;
static flow_lane *built_in[BUILT_IN];
static __thread bool is_helper;

/* ---- helpers ---- */

static void drop_reference(flow_lane *lane)
{
    unsigned left;

    flow__lock(&lane->lock);
    left = --lane->references;
    flow__unlock(&lane->lock);
    if (left == 0)
        flow__sys.release(lane);
}

static void ring(flow_lane *lane, int n)
{
    fetch_add_seq(&lane->bell, 1);
    flow__sys.futex_wake(&lane->bell, n);
}

static struct job *take_job(flow_lane *lane)
{
    struct job *job = lane->first;

    if (!job)
        return NULL;
    lane->first = job->next;
    if (!lane->first)
        lane->last = &lane->first;
    lane->n_queued--;
    return job;
}

/* Waits for a job. NULL: the lane closes, or there was none for idle_ns. Called and left with the
 * lock held. */
static struct job *wait_for_job(flow_lane *lane)
{
    int64_t until = flow_after(lane->idle_ns);
    struct job *job;

    while (!(job = take_job(lane)) && !lane->closing) {
        uint32_t seen = load_relaxed(&lane->bell);
        int r;

        lane->n_idle++;
        flow__unlock(&lane->lock);
        r = flow__sys.futex_wait(&lane->bell, seen, until);
        flow__lock(&lane->lock);
        lane->n_idle--;
        if (r == -ETIMEDOUT)
            return take_job(lane);
    }
    return job;
}

static void unlink_running(flow_lane *lane, struct job *job)
{
    struct job **at = &lane->running;

    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
}

/* A helper still holds what belongs to a caller, until this says no. */
static void let_go(void)
{
    fetch_sub_seq(&flow__runtime.offloads_running, 1);
    flow__tell_quiet();
}

/* Under the lock: from now on the helper alone has the job. */
static void abandon(flow_lane *lane, struct job *job)
{
    unlink_running(lane, job);
    job->state = ABANDONED;
    /* Before its caller is counted no more: it may yet wake somebody. */
    fetch_add_seq(&flow__process.foreign_threads, 1);
    let_go();
}

/* Runs a job that was taken. Called and left with the lock held; after DONE the
 * job may be gone. */
static void run_job(flow_lane *lane, struct job *job)
{
    flow_result result;
    struct flow__task *task;
    uint64_t epoch;

    job->state = RUNNING;
    job->next = lane->running;
    lane->running = job;
    fetch_add_seq(&flow__runtime.offloads_running, 1);
    lane->n_running++;
    flow__unlock(&lane->lock);
    fetch_add_relaxed(&flow__runtime.offloaded, 1);
    result = job->fn(job->arg);
    flow__lock(&lane->lock);
    lane->n_running--;
    if (job->state == ABANDONED) {
        flow__unlock(&lane->lock);
        job->release(job->arg);
        flow__sys.release(job);
        flow__foreign_gone();
        flow__lock(&lane->lock);
        return;
    }
    unlink_running(lane, job);
    job->result = result;
    job->state = DONE;
    task = job->task;
    epoch = job->epoch;
    flow__unlock(&lane->lock);
    /* flow_stop waits for let_go(), so the task's block is still there. */
    flow__win(NULL, task, epoch, FLOW__WAIT_WOKEN);
    let_go();
    flow__lock(&lane->lock);
}

static void *helper_main(void *arg)
{
    flow_lane *lane = arg;
    char name[16];
    struct job *job;

    snprintf(name, sizeof name, "flow-%.10s", lane->name);
    pthread_setname_np(pthread_self(), name);
    is_helper = true;
    flow__foreign_stands_by(true);
    flow__lock(&lane->lock);
    while ((job = wait_for_job(lane)))
        run_job(lane, job);
    lane->n_threads--;
    flow__unlock(&lane->lock);
    fetch_sub_relaxed(&flow__process.offload_threads, 1);
    is_helper = false;
    flow__tell_quiet();
    drop_reference(lane);
    return NULL;
}

/* A thread begins with the CPUs of the one that makes it, which here has one. */
static void *pinned_main(void *lane)
{
    flow__unpin_thread();
    return helper_main(lane);
}

/* Under the lock. 0, or the reason why there is no helper at all. */
static int ensure_helper(flow_lane *lane)
{
    bool pinned = load_relaxed(&flow__self()->home->pinned);
    pthread_t thread;
    int r;

    if (lane->n_idle >= lane->n_queued || lane->n_threads >= lane->max_threads)
        return 0;
    r = flow__sys.thread_create(&thread, HELPER_STACK_BYTES, pinned ? pinned_main : helper_main,
                                lane);
    if (r)
        return lane->n_threads > 0 ? 0 : r; /* those that exist will come to it */
    pthread_detach(thread);
    lane->n_threads++;
    lane->references++;
    fetch_add_relaxed(&flow__process.offload_threads, 1);
    return 0;
}

/* ---- lanes ---- */

static flow_lane *resolve(flow_lane *lane)
{
    uintptr_t number = (uintptr_t)lane;

    return number >= 1 && number <= BUILT_IN ? built_in[number - 1] : lane;
}

static flow_lane *make_lane(const struct flow_lane_options *o)
{
    flow_lane *lane = flow__sys.allocate(sizeof *lane);

    if (!lane)
        return NULL;
    lane->last = &lane->first;
    lane->references = 1;
    strncpy(lane->name, o->name ? o->name : "lane", sizeof lane->name - 1);
    lane->max_threads = o->max_threads;
    lane->max_queued = o->max_queued;
    lane->idle_ns = o->idle_ns;
    flow__lock(&list_lock);
    lane->next = lanes;
    lanes = lane;
    flow__unlock(&list_lock);
    return lane;
}

/* A stop that comes after it was found running waits for the caller, and ends the lane. */
static int add_lane(flow_lane **out, const struct flow_lane_options *options)
{
    switch (load_acquire(&flow__runtime.state)) {
    case FLOW__RUNNING_STATE:
        *out = make_lane(options);
        return *out ? 0 : -ENOMEM;
    case FLOW__FORKED:
        return -ENOTSUP;
    default:
        return -ESHUTDOWN;
    }
}

int flow_lane_create(flow_lane **out, const struct flow_lane_options *options)
{
    static const struct flow_lane_options defaults = FLOW_LANE_INIT;
    int r;

    if (!options)
        options = &defaults;
    if (!out || options->size != sizeof *options || options->max_threads < 1 ||
        options->max_threads > 1024 || options->max_queued < 1 || options->max_queued > 1000000 ||
        options->idle_ns < 0)
        return -EINVAL;
    if (flow__self())
        return add_lane(out, options);
    r = flow__foreign_enter();
    if (r)
        return r;
    r = add_lane(out, options);
    flow__foreign_leave();
    return r;
}

/* Has its helpers go; the lane itself goes with the last of them. */
static void close_lane(flow_lane *lane)
{
    flow__lock(&lane->lock);
    lane->closing = true;
    flow__unlock(&lane->lock);
    ring(lane, INT32_MAX);
}

/* Takes an idle lane off the list. -EINVAL if it is not on it, also if a stop has ended it. Under
 * list_lock. */
static int unlist(flow_lane *lane)
{
    flow_lane **at = &lanes;
    bool busy;

    while (*at && *at != lane)
        at = &(*at)->next;
    if (!*at)
        return -EINVAL;
    flow__lock(&lane->lock);
    busy = lane->n_queued || lane->n_running || lane->n_callers;
    lane->closing = !busy;
    flow__unlock(&lane->lock);
    if (busy)
        return -EBUSY;
    *at = lane->next;
    return 0;
}

int flow_lane_destroy(flow_lane *lane)
{
    int r;

    int state = load_acquire(&flow__runtime.state);

    if (state == FLOW__FORKED)
        return -ENOTSUP;
    if (state == FLOW__STOPPED)
        return -ESHUTDOWN;
    if (!lane || (uintptr_t)lane <= BUILT_IN)
        return -EINVAL;
    flow__lock(&list_lock);
    r = unlist(lane);
    flow__unlock(&list_lock);
    if (r)
        return r;
    ring(lane, INT32_MAX);
    drop_reference(lane);
    return 0;
}

int flow__offload_open(void)
{
    struct flow_lane_options o[BUILT_IN] = {FLOW_LANE_INIT, FLOW_LANE_INIT, FLOW_LANE_INIT};

    o[0].name = "file", o[0].max_threads = 16, o[0].max_queued = 4096;
    o[1].name = "dns", o[1].max_threads = 8, o[1].max_queued = 1024;
    o[2].name = "cpu", o[2].max_threads = (unsigned)flow__runtime.real_cpus,
    o[2].max_queued = 4096;
    for (int i = 0; i < BUILT_IN; i++) {
        built_in[i] = make_lane(&o[i]);
        if (!built_in[i]) {
            flow__offload_close();
            return -ENOMEM;
        }
    }
    return 0;
}

void flow__offload_close(void)
{
    for (;;) {
        flow_lane *lane;

        flow__lock(&list_lock);
        lane = lanes;
        if (lane)
            lanes = lane->next;
        flow__unlock(&list_lock);
        if (!lane)
            break;
        close_lane(lane);
        drop_reference(lane);
    }
    memset(built_in, 0, sizeof built_in);
}

/* The callers are gone for good: what they queued is dropped, what they own and runs is
 * abandoned. Adds the dropped jobs that own their argument to the list. */
static struct job *orphan_lane(flow_lane *lane, struct job *owned)
{
    struct job *job, *next;

    flow__lock(&lane->lock);
    lane->closing = true;
    while ((job = take_job(lane))) {
        if (!job->release)
            continue; /* it lies in its caller's frame */
        job->next = owned;
        owned = job;
    }
    for (job = lane->running; job; job = next) {
        next = job->next;
        if (job->release)
            abandon(lane, job);
    }
    flow__unlock(&lane->lock);
    return owned;
}

void flow__offload_orphan(void)
{
    struct job *owned = NULL, *next;

    flow__lock(&list_lock);
    for (flow_lane *lane = lanes; lane; lane = lane->next)
        owned = orphan_lane(lane, owned);
    flow__unlock(&list_lock);
    for (; owned; owned = next) {
        next = owned->next;
        owned->release(owned->arg);
        flow__sys.release(owned);
    }
}

bool flow__offload_busy(void)
{
    return load_seq(&flow__runtime.offloads_running) != 0;
}

bool flow__offload_is_helper(void)
{
    return is_helper;
}

/* ---- the calls ---- */

/* Under the lock: a job that no helper has taken leaves the queue. */
static void unqueue(flow_lane *lane, struct job *job)
{
    struct job **at = &lane->first;

    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    if (!*at)
        lane->last = at;
    lane->n_queued--;
}

/* Queues the job. 0, -EAGAIN (full, and the caller will not wait), -ESHUTDOWN, or why there is no
 * helper. */
static int submit(flow_lane *lane, struct job *job, flow_deadline deadline)
{
    int r = 0;

    flow__lock(&lane->lock);
    lane->n_callers++;
    if (lane->closing)
        r = -ESHUTDOWN;
    else if (lane->n_queued >= lane->max_queued && deadline == FLOW_NOW)
        r = -EAGAIN;
    if (r) {
        flow__unlock(&lane->lock);
        return r;
    }
    job->next = NULL;
    *lane->last = job;
    lane->last = &job->next;
    lane->n_queued++;
    r = ensure_helper(lane);
    if (r)
        unqueue(lane, job);
    flow__unlock(&lane->lock);
    if (!r)
        ring(lane, 1);
    return r;
}

/* The caller stopped waiting: takes the job out if no helper has begun it. Returns what it is
 * now; a running job that is owned becomes ABANDONED, another gets the caller's new epoch. */
static enum job_state withdraw(flow_lane *lane, struct job *job, struct flow__task *self)
{
    enum job_state state;

    flow__lock(&lane->lock);
    if (job->state == QUEUED)
        unqueue(lane, job);
    else if (job->state == RUNNING && job->release)
        abandon(lane, job);
    else if (job->state == RUNNING)
        flow__arm(self, true, &job->epoch);
    state = job->state;
    flow__unlock(&lane->lock);
    return state;
}

/* The caller returns. */
static void leave_lane(flow_lane *lane)
{
    flow__lock(&lane->lock);
    lane->n_callers--;
    flow__unlock(&lane->lock);
    fetch_sub_seq(&flow__runtime.offloads_open, 1);
}

/* Queues the job and waits for it. *state: what became of it; 0 only if it is DONE. */
static int run_elsewhere(flow_lane *lane, struct job *job, flow_deadline deadline,
                         enum job_state *state)
{
    struct flow__runtime *rt = &flow__runtime;
    struct flow__task *self = flow__self();
    int r = flow__arm(self, false, &job->epoch);

    *state = QUEUED;
    if (r)
        return r;
    job->task = self;
    job->state = QUEUED;
    fetch_add_seq(&rt->offloads_open, 1);
    r = submit(lane, job, deadline);
    if (r) {
        if (!flow__disarm(self, job->epoch))
            flow__wait(self, job->epoch, FLOW__WHY_OFFLOAD, FLOW_FOREVER);
        leave_lane(lane);
        return r;
    }
    *state = DONE;
    r = flow__wait(self, job->epoch, FLOW__WHY_OFFLOAD, deadline);
    if (r) {
        *state = withdraw(lane, job, self);
        if (*state == RUNNING) {
            flow__wait(self, job->epoch, FLOW__WHY_OFFLOAD, FLOW_FOREVER);
            *state = DONE;
        }
        if (*state == DONE)
            r = 0;
    }
    leave_lane(lane);
    return r;
}

/* The lane's errors that need no job. */
static int check_call(flow_lane **lane, flow_fn fn)
{
    if (!flow__self())
        return flow__outside();
    *lane = resolve(*lane);
    return *lane && fn ? 0 : -EINVAL;
}

flow_result flow_offload(flow_lane *lane, flow_fn fn, void *arg, flow_deadline deadline)
{
    struct job job = {.fn = fn, .arg = arg};
    enum job_state state;
    int r = check_call(&lane, fn);

    if (!r)
        r = run_elsewhere(lane, &job, deadline, &state);
    return r ? flow_err(r) : job.result;
}

static flow_result give_up(struct job *job, void (*release)(void *), void *arg, bool *abandoned,
                           int error)
{
    if (job)
        flow__sys.release(job);
    if (release)
        release(arg);
    if (abandoned)
        *abandoned = true;
    return flow_err(error);
}

flow_result flow_offload_owned(flow_lane *lane, flow_fn fn, void *arg, void (*release)(void *arg),
                               bool *abandoned, flow_deadline deadline)
{
    enum job_state state;
    struct job *job;
    flow_result result;
    int r = release ? check_call(&lane, fn) : -EINVAL;

    if (r)
        return give_up(NULL, release, arg, abandoned, r);
    job = flow__sys.allocate(sizeof *job);
    if (!job)
        return give_up(NULL, release, arg, abandoned, -ENOMEM);
    job->fn = fn;
    job->arg = arg;
    job->release = release;
    r = run_elsewhere(lane, job, deadline, &state);
    if (r && state == QUEUED)
        return give_up(job, release, arg, abandoned, r);
    if (abandoned)
        *abandoned = r != 0;
    if (r)
        return flow_err(r); /* the helper has the job now */
    result = job->result;
    flow__sys.release(job);
    return result;
}
