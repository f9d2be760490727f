/* SPDX-License-Identifier: MIT
 *
 * One worker, and the runtime that owns them all: the types, and the short paths
 * that every room of core/ uses. Who writes a field stands at the field; what
 * "owner" means is the thread that runs the worker.
 *
 * With workers = 0 there is one worker without a thread; whoever calls flow_drive
 * is its owner meanwhile. */
#ifndef FLOW_CORE_WORKER_H
#define FLOW_CORE_WORKER_H

#include "core/registry.h"
#include "core/stack.h"
#include "core/timer.h"
#include "numa/placement.h"
#include "numa/topology.h"
#include "sync/job_deque.h"
#include "sync/parker.h"
#include "sync/reclaim.h"
#include "sync/task_ring.h"

#include <flowcoro/job.h>
#include <flowcoro/runtime.h>
#include <flowcoro/stats.h>

#include <errno.h>

#define FLOW__BUDGET 128 /* operations that never reach the scheduler, per dispatch */
#define FLOW__READY_STREAK                                                                         \
    16 /* ready tasks in a row before one that has not started gets its turn */

/* Started tasks that are ready. Room for every started task of the worker is
 * made when the task starts, so that waking one cannot fail. Owner only. */
struct flow__ready {
    struct flow__task **entry;
    uint32_t head, tail, mask;
    uint32_t capacity;
};

/* A plain FIFO of tasks that have not started. */
struct flow__task_list {
    struct flow__link *first, **last;
    uint64_t count;
};

/* What a thief remembers of the LIFO slot, or the jobs, that it watches. */
struct flow__watch {
    struct flow__worker *victim;
    uint64_t stamp;
    int64_t since;
};

struct flow__group;

/* In whole pages, since each worker's, and each group's, are bound to its node. (Where pages are
 * larger than 4 KiB, the last worker of a node may share one with the first of the next.) */
#define FLOW__WORKER_ALIGN 4096

struct flow__worker {
    /* Owner only. */
    struct flow__strand strand;     /* the scheduler, while a task runs */
    struct flow__fp_environment fp; /* what tasks without one of their own run with */
    uint32_t until_poll;            /* dispatches until timers and shared queues are looked at */
    uint32_t poll_interval;         /* what until_poll was set to at polled_at */
    int64_t polled_at;
    int64_t look_at_cpu_at, look_at_cpu_ns; /* see flow__look_at_cpu; INT64_MAX: never */
    uint32_t ready_streak, lifo_streak, start_streak; /* see next_local() */
    int32_t budget, allowance; /* allowance: what a dispatch sets budget to */
    const unsigned long *sections; /* of its thread, see flow__reclaim_sections */
    bool searching;
    bool shuffled;   /* see core/shuffle.h; constant while the worker runs */
    uint64_t chance; /* the state of its numbers */
    bool offers; /* its surplus flag is up; always, if there is no thief */
    int64_t spin_ns, spin_max_ns; /* adaptive, see flow__search */
    uint32_t vain; /* short sleeps in a row that ended in a search for nothing; see core/park.c */
    uint32_t fruitless; /* summons in a row, after however long a sleep, that did; the same */
    int64_t spin_kept_ns;         /* spin_max_ns, while the thread is not on its CPU */
    int64_t trim_at;              /* 0: not known, INT64_MAX: nothing to trim */
    struct flow__watch watch, far_watch, job_watch; /* a slot at home; elsewhere; jobs elsewhere */
    struct flow__ready ready;
    struct flow__task_list own; /* unstarted tasks that must start here */
    struct flow__block_cache blocks;
    struct flow__stack_cache stacks;
    uint32_t n_started; /* tasks that were started or adopted here and have not ended here */
    flow__atomic(uint32_t) departed; /* of these, taken away by thieves; written by them */
    char *dead_stack;                /* of a task that ended on it; given back after the switch */
    uint8_t dead_class;
    struct flow__task *roamer; /* yielded, and is to be queued once its context is saved */
    uint32_t own_turn;
    uint64_t selects; /* see core/select.c */
    struct flow__timers timers;

    /* Constant while the worker runs, and in no line with what its owner writes: whoever wakes a task
     * of it from another worker reads `group`. */
    flow__cache_aligned const uint16_t *victims; /* other workers, nearest first */
    int n_victims;
    int n_mates; /* of these, the first ones: of the own group */
    int index, node, cpu_id;
    struct flow__group *group;
    pthread_t thread;
    flow__atomic(int) tid; /* its number for the kernel, once it runs; see core/capture.c */
    void *signal_stack;
    flow__atomic(bool) pinned; /* it is where it belongs; written by the owner */

    /* The LIFO slot: written by the owner, emptied by anyone. lifo_pushes lets a
     * thief tell an entry that lies from one that was replaced. */
    flow__cache_aligned flow__atomic(struct flow__task *) lifo;
    flow__atomic(uint64_t) lifo_pushes;

    struct flow__task_ring ring; /* unstarted and roaming tasks */

    /* The jobs of the coroutine that runs: the private end is in its thread's flow__jobs, which
     * lives until flow_stop has seen all threads leave. Written by the thread as it begins. */
    flow__cache_aligned flow__atomic(struct flow__jobs *) jobs;
    struct flow__job_deque deque; /* the public end */

    flow__cache_aligned struct flow__inbox inbox; /* written by anyone */
    flow__cache_aligned struct flow__parker parker;

    /* Written by the owner, read by anyone. */
    flow__cache_aligned flow__atomic(struct flow__task *) current; /* see core/stall.h */
    struct {
        flow__atomic(uint64_t) spawned, finished, dispatches,
            started_now, switches, steals, stolen, parks, wakes, timers_armed, timers_fired,
            stacks_taken, stacks_returned, overflows, remote_wakes, no_stack, announced, node_wakes,
            remote_steals, remote_stolen, remote_dispatches, searches, remote_searches, calls, moved,
            returned;
        flow__atomic(uint64_t) stack_used_most;
        flow__atomic(int64_t) outside; /* tasks that something outside the runtime may wake */
    } stats;
} __attribute__((aligned(FLOW__WORKER_ALIGN)));

_Static_assert(offsetof(struct flow__worker, victims) % FLOW__CACHE_LINE == 0 &&
                   offsetof(struct flow__worker, timers) + sizeof(struct flow__timers) <=
                       offsetof(struct flow__worker, victims),
               "each arming of a timer would take the line from who wakes");

/* Tasks that no worker holds: overflow, and what foreign threads spawn. The numbers of their blocks in
 * a ring, so that a block is not touched until its task is about to start. There is room for every
 * block; but the queue begins at the ring's start whenever it was empty, so little of it is used. */
struct flow__shared_queue {
    flow__cache_aligned struct flow__lock lock;
    uint32_t *slot, mask;         /* constant while workers run; what slot points to is under lock */
    uint32_t first;               /* where the oldest one's number is; under lock */
    flow__atomic(uint64_t) count; /* written under lock, read by anyone, as is the next */
    flow__atomic(uint32_t) taken; /* tasks ever taken out */
    struct flow__age age;         /* of the oldest task */
};

/* Parts of parallel loops that are meant for a group and that nobody has begun; see core/job.c. */
struct flow__shares {
    flow__cache_aligned struct flow__lock lock;
    struct flow__share *first, *last; /* under lock */
    flow__atomic(uint64_t) count;     /* written under lock, read by anyone */
};

/* What one group has taken from another one. Written by whoever holds the taker's token. */
struct flow__haul {
    flow__atomic(uint64_t) steals, tasks;
};

/* The workers of one memory node; see core/group.h. */
struct flow__group {
    struct flow__idle idle;
    struct flow__shared_queue queue; /* anybody may take from it */
    struct flow__shared_queue bound; /* tasks that must start on this node */
    struct flow__shares shares;
    struct flow__block_cache foreign_blocks; /* for foreign threads, under their lock */

    flow__cache_aligned flow__atomic(bool) token; /* held by the one who looks at other nodes */
    /* Of the sentry, see core/park.c. Written by it and by callers. */
    flow__atomic(bool) watching;      /* it looks up now and then */
    flow__atomic(int64_t) watch_ns;   /* its next pause */
    flow__atomic(int64_t) called_at;  /* the group's last call for help, by who called */

    /* A flag per worker: it may have something to steal. Each is written by its worker. */
    flow__cache_aligned flow__atomic(uint8_t) surplus[FLOW__MAX_WORKERS];

    /* Constant while workers run. */
    int node; /* index in the topology */
    int first, n_workers;
    const uint16_t *others;           /* the other groups, nearest first */
    struct flow__haul *hauls;         /* from each group */
} __attribute__((aligned(FLOW__WORKER_ALIGN)));

enum flow__state { FLOW__STOPPED, FLOW__RUNNING_STATE, FLOW__STOPPING, FLOW__FORKED };

struct flow__runtime {
    flow__atomic(int) state; /* enum flow__state */
    struct flow_options options;
    struct flow__topology topology;
    struct flow__placement placement;
    struct flow__worker *workers;
    size_t workers_bytes;
    int n_workers; /* threads; 0: driven, with workers[0] as the one worker */
    int n_places;  /* workers[] entries: max(1, n_workers) */
    int n_seats;   /* CPUs that may have a worker */
    int real_cpus; /* that we may run on, whatever FLOW_TOPOLOGY says */
    double cpu_quota;
    int default_class;
    struct flow__group *groups; /* by rising node */
    size_t group_bytes;         /* all of them, with what they point to */
    int n_groups;
    flow__atomic(bool) workers_end; /* asks the worker threads to leave */
    flow__atomic(int) threads_left; /* workers that have followed it */
    flow__atomic(int) threads_begun, pinned;

    /* What foreign threads do, under foreign_lock: no worker ever takes it while others wait. */
    struct flow__lock foreign_lock;
    flow__atomic(uint64_t) foreign_spawned, foreign_wakes, foreign_calls;
    flow__atomic(int) foreign_waiting; /* inside a blocking call */

    flow__atomic(uint64_t) offloads_open;    /* offloaded calls whose caller waits */
    flow__atomic(uint64_t) offloads_running; /* of these, what helpers hold */
    flow__atomic(uint64_t) offloaded;
    flow__atomic(uint32_t)
        driver; /* 1: a thread drives; 2: and others wait for that; 3: flow_stop, for good */
    flow__atomic(bool) seat_wanted; /* by flow_stop: who drives leaves, nobody else begins */
};

/* What outlives a stop. */
struct flow__process {
    /* Who might wake a task of his own accord: registered threads, beside those in flow_run and
     * flow_drive, and helpers in calls that were abandoned. */
    flow__atomic(int) foreign_threads;
    flow__atomic(uint32_t) offload_threads;
    /* flow_run and flow_stop sleep here until the count of live tasks may be 0. Threads
     * that outlive a runtime wake them too. */
    flow__atomic(uint32_t) quiet_word;
    flow__atomic(int) quiet_waiters;
};

extern struct flow__process flow__process __attribute__((visibility("hidden")));
extern struct flow__runtime flow__runtime __attribute__((visibility("hidden")));

/* The worker whose owner this thread is, seen from outside of coroutines; NULL on a foreign thread.
 */
extern __thread struct flow__worker *flow__owned_worker __attribute__((visibility("hidden")));

/* Its index + 1, or 0: for tables by worker that have an entry for nobody. */
extern __thread size_t flow__owned_seat __attribute__((visibility("hidden")));

static inline void flow__own_worker(struct flow__worker *w)
{
    flow__owned_worker = w;
    flow__owned_seat = w ? (size_t)w->index + 1 : 0;
    if (w)
        w->sections = flow__reclaim_sections();
}

/* ---- counters ---- */

#define flow__count(w, field)      count_up(&(w)->stats.field, 1)
#define flow__count_n(w, field, n) count_up(&(w)->stats.field, n)

/* ---- lists ---- */

static inline void flow__list_init(struct flow__task_list *l)
{
    l->first = NULL;
    l->last = &l->first;
    l->count = 0;
}

static inline void flow__list_append(struct flow__task_list *l, struct flow__task *t)
{
    t->link.next = NULL;
    *l->last = &t->link;
    l->last = &t->link.next;
    l->count++;
}

static inline struct flow__task *flow__list_take(struct flow__task_list *l)
{
    struct flow__link *link = l->first;

    if (!link)
        return NULL;
    l->first = link->next;
    if (!l->first)
        l->last = &l->first;
    l->count--;
    return flow__task_of_link(link);
}

/* ---- the ready ring ---- */

static inline uint32_t flow__ready_count(const struct flow__ready *r)
{
    return r->tail - r->head;
}

static inline void flow__ready_push(struct flow__ready *r, struct flow__task *t)
{
    flow__assert(flow__ready_count(r) < r->capacity);
    r->entry[r->tail++ & r->mask] = t;
}

static inline struct flow__task *flow__ready_pop(struct flow__ready *r)
{
    struct flow__task *t = r->entry[r->head++ & r->mask];

    /* The next ones' memory is fetched while this one runs: the block of one a few
     * entries ahead, the stack of a nearer one. */
    if (flow__likely(r->tail - r->head > 5)) {
        __builtin_prefetch(r->entry[(r->head + 5) & r->mask]);
        __builtin_prefetch(r->entry[(r->head + 2) & r->mask]->strand.context.sp);
    }
    return t;
}

/* ---- scheduler.c ---- */

/* Makes a task whose wait was just won go on: on w if the caller owns it, from
 * anywhere else with w NULL. */
void flow__make_ready(struct flow__worker *w, struct flow__task *t);

/* Queues an unstarted task for whoever comes first. w: the caller's worker. */
void flow__submit(struct flow__worker *w, struct flow__task *t);

/* The same from a foreign thread, in two steps: the group of which a worker is to come first, by where
 * less waits; and queueing it there. */
struct flow__group *flow__choose_group(void);
void flow__submit_from_thread(struct flow__group *g, struct flow__task *t);

/* Queues it for the workers of a group, who alone may start it. */
void flow__submit_to_group(struct flow__worker *w, struct flow__group *g, struct flow__task *t);

/* Queues it for one worker, which alone may start it. */
void flow__submit_to(struct flow__worker *w, struct flow__worker *target, struct flow__task *t);

/* Ends an unstarted task with an error, its function not run. */
void flow__finish_unstarted(struct flow__worker *w, struct flow__task *t, int error);

/* Takes t from w's LIFO slot if it is still there. */
bool flow__take_back(struct flow__worker *w, struct flow__task *t);

/* On every way back from a task that left its stack: what the task could not do itself. */
void flow__after_suspension(struct flow__worker *w);

/* A worker's memory. 0 or -ENOMEM. */
int flow__worker_open(struct flow__worker *w, int64_t now);
void flow__worker_close(struct flow__worker *w);

/* Wakes flow_run and flow_stop for another look. */
void flow__tell_quiet(void);

/* The body of a worker thread. */
void *flow__worker_main(void *worker);

/* Runs what is ready on w, which the caller owns; if nothing is, waits for something until the
 * deadline. Returns the number of dispatches, or -EDEADLK. A flow_stop ends the waiting, unless this
 * is it (for_stop); so does the end of all tasks, unless a stand-in waits for what other threads do. */
struct flow__driving {
    bool for_stop;
    struct flow__task *stand_in; /* or NULL; ends the driving, and the waiting, once it is won */
    uint64_t epoch;
};
int64_t flow__worker_drive(struct flow__worker *w, int64_t deadline, const struct flow__driving *how);

/* For a thread whose stand-in waits: drives until something was run or it is won; as flow_drive. */
int flow__drive_waiting(struct flow__task *stand_in, uint64_t epoch, flow_deadline deadline);

/* Nothing runs, nothing is queued, and nothing outside can wake a task: a deadlock if tasks live.
 * Exact only while all workers sleep; call it twice. */
bool flow__nothing_can_happen(void);
uint64_t flow__live_tasks(void);

/* ---- wait.c: suspending, always the caller's own task, or a foreign thread's stand-in ---- */

/* Is the caller in a read-side section of the program's? To sleep there would hold up every grace period, and
 * a coroutine's would be left by another one. */
bool flow__is_in_section(struct flow__task *self);

/* Arms the next suspension: *epoch is what its wakers need. -EDEADLK within an RCU read-side
 * section. -ECANCELED if the task is cancelled and not within a shield, or its ambient deadline has
 * passed. Shielded by the caller, neither prevents or ends it. */
int flow__arm(struct flow__task *self, bool shielded, uint64_t *epoch);

/* Takes an arming back that nobody has won. False if somebody has: then
 * flow__wait must be called and returns at once. */
bool flow__disarm(struct flow__task *self, uint64_t epoch);

/* Why a poll that has found nothing fails: -ECANCELED where it could not have waited, else
 * -ETIMEDOUT. */
int flow__poll_failed(struct flow__task *self);

/* Suspends until the armed epoch is won: 0, -ETIMEDOUT or -ECANCELED. */
int flow__wait(struct flow__task *self, uint64_t epoch, enum flow__why why, flow_deadline deadline);

/* Wins the given suspension of t and makes t ready. False if it was over. w as in flow__make_ready.
 */
bool flow__win(struct flow__worker *w, struct flow__task *t, uint64_t epoch, unsigned how);

/* The same in two steps, for who has something to hand over in between: what was claimed must be
 * resumed. A foreign thread may go on as soon as it is claimed. */
static inline bool flow__is_armed(uint64_t word, uint64_t epoch)
{
    unsigned state = word & FLOW__WAIT_STATE;

    return flow__epoch_of(word) == epoch &&
           (state == FLOW__WAIT_ARMED || state == FLOW__WAIT_SHIELDED);
}

static inline bool flow__claim_wait(struct flow__task *t, uint64_t epoch, unsigned how)
{
    uint64_t seen = load_acquire(&t->wait);

    while (flow__is_armed(seen, epoch))
        /* [WAIT-2] seq_cst: the one transition out of ARMED; its release half publishes what the
         * winner wrote for the task, which reads it after [WAIT-3]. */
        if (cas_seq(&t->wait, &seen, (seen & ~(uint64_t)FLOW__WAIT_STATE) | how))
            return true;
    return false;
}

void flow__resume_won_slowly(struct flow__worker *w, struct flow__task *t);

/* Short where most are: a task that stays, without a timer, at home on the caller's worker. Of a
 * stand-in, which may be another thread's by now, only the flags may be read. */
static inline void flow__resume_won(struct flow__worker *w, struct flow__task *t)
{
    flow__tsan_before(&t->strand);
    if (flow__likely(!flow__has(t, FLOW_ROAM | FLOW__IS_THREAD) && w && w == t->home && !t->timed))
        flow__ready_push(&w->ready, t);
    else
        flow__resume_won_slowly(w, t);
}

/* Sleeps until the thread that drives has finished a round, or, not NULL, the stand-in is won. */
void flow__wait_for_driver(struct flow__task *stand_in, uint64_t epoch, flow_deadline deadline);

/* What a call that needs a coroutine says elsewhere: -EPERM, -ESHUTDOWN or -ENOTSUP. */
int flow__outside(void);

/* ---- job.c ---- */

/* Has the coroutine that runs on w, which the caller owns, jobs that it has not synced? */
static inline bool flow__has_jobs(struct flow__worker *w)
{
    struct flow__jobs *jobs = load_relaxed(&w->jobs);

    return jobs->newest != &jobs->none;
}

/* Makes tasks of them; then flow__leave. */
void flow__hand_out_jobs(struct flow__task *self);
int flow__leave_with_jobs(struct flow__task *self);

/* Leaves the running task to whoever runs it: the scheduler, or, the first time, the coroutine that
 * is calling it. Returns what the one who resumes it says. */
static inline int flow__leave(struct flow__task *self)
{
    struct flow__strand *to = (struct flow__strand *)((uintptr_t)self->back & ~(uintptr_t)1);

    if (flow__unlikely(flow__has_jobs(self->home)))
        return flow__leave_with_jobs(self);
    flow__assert(!flow__reclaim_inside());
    flow__count(self->home, switches);
    if (to != &self->home->strand)
        flow__tsan_before(to); /* who called it goes on after what it has done */
    self->back = &self->home->strand;
    return flow__go(&self->strand, to, FLOW__SUSPENDED);
}

/* What a task that goes on is told by who resumes it: what its flow_yield returns, or its call that
 * ended in flow__tail_wait. Short where nothing happened: not cancelled, not refused. */
long flow__say_slowly(struct flow__task *t);

static inline long flow__say(struct flow__task *t)
{
    /* [WAIT-3] acquire: pairs with [WAIT-2]. */
    unsigned word = (unsigned)load_acquire(&t->wait) & (FLOW__CANCELLED | FLOW__WAIT_STATE);

    if (load_relaxed(&t->why) != FLOW__WHY_NOTHING)
        store_relaxed(&t->why, FLOW__WHY_NOTHING);
    return flow__likely(word < FLOW__WAIT_REFUSED) ? 0 : flow__say_slowly(t);
}

/* Tasks that a worker has and may start when it likes. */
static inline bool flow__has_unstarted(struct flow__worker *w)
{
    return load_relaxed(&w->lifo) || flow__ring_count(&w->ring) || w->own.count;
}

/* The next ready task, if the scheduler would do nothing else than run it; it is the one that runs now.
 * So who suspends may go straight to it. Or NULL. */
static inline struct flow__task *flow__next_ready(struct flow__worker *w)
{
    struct flow__task *next;

    if (w->ready.head == w->ready.tail || w->until_poll <= 1 || !flow__inbox_is_empty(&w->inbox))
        return NULL;
    if (flow__unlikely(w->ready_streak >= FLOW__READY_STREAK)) {
        if (flow__has_unstarted(w))
            return NULL;
        w->ready_streak = 0;
    }
    next = flow__ready_pop(&w->ready);
    w->until_poll--;
    w->ready_streak++;
    w->budget = FLOW__BUDGET;
    store_relaxed(&w->current, next);
    flow__count(w, dispatches);
    flow__count(w, switches);
    return next;
}

/* For dumps: why self waits from now on, and since when. */
static inline void flow__note_wait(struct flow__task *self, enum flow__why why)
{
    flow__stack_top(self->stack, self->stack_class)->waits_since = self->home->polled_at;
    store_relaxed(&self->why, (uint8_t)why);
}

/* And for what, if that has an address; before flow__wait, for a foreign thread too. */
static inline void flow__note_object(struct flow__task *self, const void *object)
{
    if (flow__likely(self->stack != NULL))
        flow__stack_top(self->stack, self->stack_class)->waits_for = object;
}

/* ---- a wait without a deadline, as the last deed of a call; for the calls that are made most ----
 *
 * Each return on a stack other than its call's is mispredicted, which costs as much as all the rest of a
 * suspension. So these calls, as flow_yield, end in a jump into the switch, and who resumes the task
 * makes what they return (flow__say). No frame is left to hold the waiter: it lies in the header of the
 * stack, and who resumes a task that was not served also takes it out of the queue. */

/* Arms such a wait of a task of whose suspensions nothing else has to be thought. 0: the way for all is
 * to be taken, for instance since flow__arm would return an error. */
static inline uint64_t flow__arm_tail(struct flow__task *self)
{
    uint64_t seen = load_relaxed(&self->wait), epoch = flow__epoch_of(seen) + 1;

    self->strand.context.sp = NULL; /* as in flow__arm */
    if (flow__unlikely((load_relaxed(&self->flags) & ~(uint32_t)(FLOW_PINNED | FLOW__TAIL)) ||
                       (seen & FLOW__CANCELLED) || self->back != &self->home->strand ||
                       flow__has_jobs(self->home) ||
                       flow__reclaim_is_inside(self->home->sections)))
        return 0;
    /* [WAIT-1] */
    return cas_seq(&self->wait, &seen, epoch << FLOW__EPOCH_SHIFT | FLOW__WAIT_ARMED) ? epoch : 0;
}

/* Armed so, and the waiter queued (`tail` in the header): the caller returns what this returns. */
static inline flow__always_inline int flow__tail_wait(struct flow__stack_header *top,
                                                      enum flow__why why, const void *object)
{
    struct flow__task *self = top->task, *next;
    struct flow__worker *w = self->home;
    uint32_t flags = load_relaxed(&self->flags);

    if (flow__unlikely(!(flags & FLOW__TAIL)))
        store_relaxed(&self->flags, flags | FLOW__TAIL);
    top->waits_for = object;
    top->waits_since = w->polled_at;
    store_relaxed(&self->why, (uint8_t)why);
    next = flow__next_ready(w);
    if (next)
        return flow__go(&self->strand, &next->strand, flow__say(next));
    flow__count(w, switches);
    return flow__go(&self->strand, &w->strand, FLOW__SUSPENDED);
}

/* After an operation that did not have to suspend: takes one from what a coroutine may do in a row, and
 * lets others run when that is used up. Not if the caller asked never to wait (FLOW_NOW), nor in a
 * read-side section. */
static inline void flow__spend(struct flow__task *self, flow_deadline deadline)
{
    if (deadline != FLOW_NOW && flow__likely(!flow__has(self, FLOW__IS_THREAD)) &&
        flow__unlikely(--self->home->budget <= 0) && !flow__reclaim_inside())
        flow_yield();
}

/* ---- channel.c ---- */

/* Takes a task's tail, which was not served, out of the channel that it waits for. */
void flow__chan_leave_by_tail(struct flow__stack_header *top);

/* ---- join.c ---- */

/* Cancels a block whose generation fits; -ESRCH otherwise. */
int flow__cancel_id(struct flow__worker *w, uint64_t id, int reason);

/* Cancels whatever task the block is just now; for when all are to be cancelled. */
void flow__cancel_block(struct flow__worker *w, struct flow__task *t, int reason);

/* The same in two steps: true if it waited, and must be given to flow__resume_won. */
bool flow__claim_cancelled(struct flow__task *t, int reason);

/* Gives the block back; the caller owns it exclusively. w: the caller's worker or NULL. */
void flow__free_task(struct flow__worker *w, struct flow__task *t);

/* ---- thread.c: what a worker's thread needs of the system ---- */

void flow__process_begin(void); /* once in a process */
void flow__thread_begin(struct flow__worker *w);

/* Is the thread still on its worker's CPU, or can it go back there? At a poll, when it is time
 * (look_at_cpu_at). Owner only. */
void flow__look_at_cpu(struct flow__worker *w, int64_t now);
void flow__thread_end(struct flow__worker *w);

/* ---- foreign.c: threads that are not workers ---- */

/* Around everything that a foreign thread does with the runtime: keeps flow_stop from
 * taking the memory away. 0, -ESHUTDOWN or -ENOTSUP. */
int flow__foreign_enter(void);
void flow__foreign_leave(void);

/* Says that the calling thread waits in flow_run or drives, and is nobody who might yet
 * wake a task of its own accord; or that this is over. */
bool flow__foreign_stands_by(bool yes); /* returns what held before */

/* One of flow__process.foreign_threads will wake nobody any more: who tells of deadlocks looks again. By a
 * thread that is registered, outside of enter/leave. */
void flow__foreign_gone(void);

/* Is the calling thread one of flow__process.foreign_threads? */
bool flow__foreign_is_counted(void);

/* A block that stands for this thread in a blocking call. NULL: no memory. Within enter/leave. */
struct flow__task *flow__foreign_self(void);
void flow__foreign_release(struct flow__task *stand_in);

/* Around a call that may wait and is for coroutines and foreign threads alike: the calling task, or
 * the thread's stand-in after flow__foreign_enter. NULL: *error says why. */
struct flow__task *flow__caller_begin(int *error);
void flow__caller_end(struct flow__task *self);

#endif
