/* SPDX-License-Identifier: MIT
 *
 * For models of core/: a model thread is a worker, or a foreign thread.
 *
 * A model includes this, then the very sources of core/ whose protocol it is about, all in one piece; what
 * these name and no schedule reaches (stack depots, topology, ...) is not linked, and a call of it would end
 * the program. Doubles stand for what is below the protocols:
 *   flow__self    the task that the model says the thread runs, and not the one of its stack pointer;
 *   flow__go      a task that suspends calls a small scheduler, which returns once it is ready: inbox and
 *                 timers are the real ones, sleeping is a futex wait on the parker's word;
 *   time          a clock that somebody's time-out moves beyond all deadlines;
 *   grace period  flow__reclaim_wait returns when every section that was open has been left.
 * Thread-locals become globals: of use only where all threads agree on them. */
#ifndef FLOW_TESTS_MODEL_CORE_H
#define FLOW_TESTS_MODEL_CORE_H

#include "tests/model/explorer.h"

#undef __SANITIZE_THREAD__ /* the explorer's points, not ThreadSanitizer's fibers */
#define __thread
#define flow__call model_call
#define flow__go flow__go_really
#include "core/strand.h"
#undef flow__go
#define flow__self flow__self_by_stack
#include "core/stack.h"
#undef flow__self

int flow__go(struct flow__strand *from, struct flow__strand *to, long value);
struct flow__task *flow__self(void);

#include "core/queues.c"
#include "core/registry.c"
#include "core/rest.c"
#include "core/scheduler.c"
#include "core/spawn.h"
#include "core/start.c"
#include "core/timer.c"
#include "core/wait.c"
#include "sync/parker.c"
#include "sync/spin.h"

struct flow__runtime flow__runtime;
struct flow__process flow__process;
struct flow__stack_region flow__stacks;

#define MODEL_BLOCKS 6
#define MODEL_QUEUE  8 /* no fewer, a power of two */
#define MODEL_SOON   1000 /* a deadline */
#define MODEL_LATE   (1 << 20)

static struct flow__worker workers[MODEL_THREADS];
static struct flow__group groups[2]; /* the second one: for model_split() */
static uint32_t model_queued[2][2][MODEL_QUEUE];
static struct flow__task blocks[MODEL_BLOCKS + 2]; /* and two stand-ins */
static struct flow__task *model_running[MODEL_THREADS];
static struct flow__jobs model_no_jobs;
static const unsigned long model_outside;
static struct flow__stack_header model_tops[MODEL_THREADS];
static struct flow__heap_entry model_heaps[MODEL_THREADS][4];
static struct flow__task *model_ready[MODEL_THREADS][4];
static flow__atomic(int) model_late; /* time-outs, up to */
static int model_most_late = 1;

static int64_t model_now(void)
{
    return (int64_t)load_relaxed(&model_late) * MODEL_LATE;
}

static int (*model_futex_wait)(flow__atomic(uint32_t) *, uint32_t, int64_t);

static int model_sleep(flow__atomic(uint32_t) * word, uint32_t expected, int64_t deadline)
{
    int r = model_futex_wait(word, expected, deadline), late = load_relaxed(&model_late);

    if (r == -ETIMEDOUT && late < model_most_late)
        store_relaxed(&model_late, late + 1);
    return r;
}

/* How a lock of this kind is waited for is a matter of another model. */
void flow__spin_wait(struct flow__spin *s)
{
    model_pause();
}

/* Whose stack is of no matter, as long as it has a top. */
static char *model_slot(int i)
{
    return (char *)(&model_tops[i] + 1) - flow__stack_bytes(0);
}

static void model_open_worker(int i)
{
    struct flow__worker *w = &workers[i];

    w->index = i;
    w->group = groups;
    w->jobs = &model_no_jobs;
    w->sections = &model_outside;
    w->offers = true;
    w->until_poll = 1 << 30;
    flow__list_init(&w->own);
    w->timers.heap = model_heaps[i];
    w->timers.heap_capacity = 4;
    w->ready.entry = model_ready[i];
    w->ready.mask = 3;
    w->ready.capacity = 4;
    w->blocks.home = (uintptr_t)blocks;
    w->blocks.home_bytes = sizeof blocks;
}

_Noreturn void flow__die(const char *what)
{
    model_check(false, what, 0);
    __builtin_unreachable();
}

/* Counts that nothing in the models goes by. */
static void model_forget_counts(void)
{
    for (int i = 0; i < flow__runtime.n_workers; i++) {
        struct flow__worker *w = &workers[i];
        uint64_t spawned = w->stats.spawned, finished = w->stats.finished;
        int64_t outside = w->stats.outside;

        memset(&w->stats, 0, sizeof w->stats);
        w->stats.spawned = spawned;
        w->stats.finished = finished;
        w->stats.outside = outside;
    }
}

/* Workers without work, and nobody else. */
static void model_open(int n_workers)
{
    struct flow__runtime *rt = &flow__runtime;

    model_forget = model_forget_counts;
    flow__sys.now = model_now;
    model_futex_wait = flow__sys.futex_wait;
    flow__sys.futex_wait = model_sleep;
    model_no_jobs.newest = &model_no_jobs.none;
    rt->workers = workers;
    rt->groups = groups;
    rt->n_workers = rt->n_places = n_workers;
    rt->n_groups = 1;
    rt->state = FLOW__RUNNING_STATE;
    groups[0].n_workers = groups[0].idle.n_workers = n_workers;
    for (int i = 0; i < 2; i++) {
        groups[i].queue.slot = model_queued[i][0];
        groups[i].bound.slot = model_queued[i][1];
        groups[i].queue.mask = groups[i].bound.mask = MODEL_QUEUE - 1;
    }
    flow__registry.base = blocks;
    flow__registry.n_blocks = flow__registry.stride = MODEL_BLOCKS;
    flow__registry.n_nodes = 1;
    flow__registry.n_stand_ins = 2;
    flow__registry.first_life = (uint64_t)1 << 32 | FLOW__LIFE_FREE;
    flow__stacks.base = (uintptr_t)model_slot(0);
    for (int i = 0; i < n_workers; i++)
        model_open_worker(i);
    groups[0].foreign_blocks = workers[0].blocks;
}

/* A task that runs on a worker, or will if the model calls model_run(); its block is number n. */
static struct flow__task *model_task(int worker, int n, flow_fn fn, void *arg, unsigned life)
{
    struct flow__task *t = &blocks[n];

    if (!t->life)
        t->life = (uint64_t)1 << 32 | FLOW__LIFE_FREE;
    flow__reset_task(t, fn, arg, NULL, 0, life);
    t->home = &workers[worker];
    t->back = &workers[worker].strand;
    t->stack = model_slot(worker);
    return t;
}

/* Stands for a foreign thread, which is inside of its RCU section. */
static struct flow__task *model_stand_in(int n)
{
    struct flow__task *t = &blocks[MODEL_BLOCKS + n];

    t->flags = FLOW__IS_THREAD;
    t->life = (uint64_t)1 << 32 | FLOW__LIFE_DETACHED;
    return t;
}

static uint64_t model_id(struct flow__task *t)
{
    return flow__id_of(t, t->life);
}

struct flow__task *flow__self(void)
{
    return model_running[model_self()];
}

/* ---- running ---- */

/* A stack is entered: as a call. */
long model_call(struct flow__context *from, void *top, long (*entry)(void *), void *task)
{
    int i = model_self();
    struct flow__task *before = model_running[i];
    long r;

    model_running[i] = task;
    r = entry(task);
    model_running[i] = before;
    return r;
}

/* A double of flow__start, on the thread of a worker. */
static void model_run(struct flow__task *t)
{
    int i = model_self();
    struct flow__worker *w = &workers[i];

    t->home = w;
    t->stack = model_slot(i);
    t->back = (struct flow__strand *)((uintptr_t)&w->strand | 1);
    w->n_started++;
    model_running[i] = t;
    flow__task_main(t);
    model_running[i] = NULL;
}

static void model_rest(struct flow__worker *w)
{
    int64_t deadline = flow__timers_next(&w->timers);

    exchange_seq(&w->parker.word, FLOW__PARKED);
    if (flow__inbox_is_empty_seq(&w->inbox))
        flow__sys.futex_wait(&w->parker.word, FLOW__PARKED, deadline);
    exchange_seq(&w->parker.word, FLOW__RUNNING);
}

/* Suspends a task until it is ready, as which it is found once. Then it is as if it had just been
 * called: so its end is a return. */
int flow__go(struct flow__strand *from, struct flow__strand *to, long value)
{
    int i = model_self();
    struct flow__worker *w = &workers[i];
    struct flow__task *t = model_running[i];

    (void)value;
    MODEL_CHECK(from == &t->strand && to == &w->strand);
    model_running[i] = NULL;
    for (;;) {
        if (w->timers.armed && model_choose(2))
            store_relaxed(&model_late, 1);
        fire_timers(w, flow__sys.now());
        flow__drain_inbox(w);
        if (flow__ready_count(&w->ready))
            break;
        model_rest(w);
    }
    MODEL_CHECK(flow__ready_pop(&w->ready) == t && flow__ready_count(&w->ready) == 0);
    model_running[i] = t;
    t->back = (struct flow__strand *)((uintptr_t)&w->strand | 1);
    return (int)flow__say(t);
}

/* Of a worker whose task has ended: nothing that was meant for it is left. */
static void model_check_idle(int i)
{
    MODEL_CHECK(flow__inbox_is_empty(&workers[i].inbox));
    MODEL_CHECK(flow__ready_count(&workers[i].ready) == 0);
    MODEL_CHECK(workers[i].timers.armed == 0 && workers[i].timers.heap_count == 0);
}

/* How often a block is in the workers' lists of free ones. */
static int model_times_free(struct flow__task *t, int n_workers)
{
    int n = 0;

    for (int i = 0; i < n_workers; i++)
        for (struct flow__link *l = workers[i].blocks.list; l; l = l->next)
            n += flow__task_of_link(l) == t;
    return n;
}

/* ---- userspace RCU ---- */

static flow__atomic(int) model_sections[MODEL_THREADS]; /* odd: inside */

void flow__reclaim_enter(void)
{
    fetch_add_seq(&model_sections[model_self()], 1);
}

void flow__reclaim_leave(void)
{
    fetch_add_seq(&model_sections[model_self()], 1);
}

bool flow__reclaim_inside(void)
{
    return load_relaxed(&model_sections[model_self()]) & 1;
}

/* Nobody is in a section of the program's own. */
const unsigned long *flow__reclaim_sections(void)
{
    return &model_outside;
}

/* It begins with a barrier, as synchronize_rcu does. */
void flow__reclaim_wait(void)
{
    static flow__atomic(int) barrier;

    exchange_seq(&barrier, 0);
    for (int i = 0; i < MODEL_THREADS; i++) {
        int seen = load_seq(&model_sections[i]);

        while ((seen & 1) && load_seq(&model_sections[i]) == seen)
            model_pause();
    }
}

#endif
