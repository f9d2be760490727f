/* SPDX-License-Identifier: MIT
 *
 * One worker's loop: choose a task, run it, steal, park.
 *
 * Where ready work lies, and in which order it is looked for:
 *   ready   started tasks, private. First, so that few stacks are in use; but at most
 *           FLOW__READY_STREAK in a row while something waits to be started.
 *   lifo    the task spawned last; it is warm. At most 3 in a row.
 *   ring    unstarted and roaming tasks, first in first out; others may steal half.
 *   own     unstarted tasks bound to this worker.
 *   queue   the group's: overflow of rings, and what foreign threads spawn.
 *   others' rings and jobs, and LIFO slots that have lain untouched for a while.
 * Timers and the shared queue are also looked at every 61st dispatch (every 8th while
 * timers are armed); the inbox at every one. */
#include "core/arena.h"
#include "core/job.h"
#include "core/queues.h"
#include "core/start.h"
#include "core/worker.h"

#include <errno.h>

#define POLL_INTERVAL        61
#define POLL_INTERVAL_TIMERS 8
#define LIFO_STREAK          3
#define START_STREAK         16
#define LIFO_AGE_NS          5000   /* an entry that lies longer may be stolen */
#define DOZE_NS              100000 /* see park() */
#define NEAR_NS              10000  /* see wait_for_near_timer() */
#define PAUSES_PER_LOOK      32     /* looking more often slows the one who is looked at */
#define TRIM_AFTER_NS        1000000000
#define TRIM_SLICE           2048
#define TRIM_KEEP            256

__thread struct flow__worker *flow__owned_worker;

/* ---- a worker's memory ---- */

int flow__worker_open(struct flow__worker *w, int64_t now)
{
    flow__list_init(&w->own);
    flow__timers_init(&w->timers, now, w->node);
    flow__block_cache_open(&w->blocks, w->node);
    w->stacks.node = w->node;
    w->until_poll = POLL_INTERVAL;
    return flow__reserve_one(w);
}

void flow__worker_close(struct flow__worker *w)
{
    flow__arena_unmap(w->ready.entry, w->ready.capacity * sizeof *w->ready.entry);
    w->ready.entry = NULL;
    flow__timers_free(&w->timers);
}

/* ---- what comes due ---- */

static void fire_timers(struct flow__worker *w)
{
    struct flow__timer *timer;
    struct flow__task *t;
    int64_t now;

    if (load_relaxed(&w->timers.armed) == 0)
        return;
    now = flow__sys.now();
    while ((timer = flow__timers_expired(&w->timers, now))) {
        flow__count(w, timers_fired);
        t = flow__task_of_timer(timer);
        t->timed = false;
        /* Lost if a waker was first: then the task is on its way through the inbox. */
        flow__win(w, t, flow__epoch_of(load_relaxed(&t->wait)), FLOW__WAIT_TIMED_OUT);
    }
}

static void poll(struct flow__worker *w)
{
    fire_timers(w);
    if (flow__grab_shared(w))
        flow__wake_searcher(w);
    w->until_poll = load_relaxed(&w->timers.armed) ? POLL_INTERVAL_TIMERS : POLL_INTERVAL;
}

/* ---- choosing ---- */

bool flow__take_back(struct flow__worker *w, struct flow__task *t)
{
    struct flow__task *seen = t;

    if (load_relaxed(&w->lifo) != t)
        return false;
    if (w->n_victims > 0)
        return cas_acquire(&w->lifo, &seen, NULL);
    store_relaxed(&w->lifo, NULL);
    return true;
}

static struct flow__task *pop_unstarted(struct flow__worker *w)
{
    struct flow__task *t;

    if (w->lifo_streak < LIFO_STREAK && load_relaxed(&w->lifo)) {
        /* [LIFO-2] acquire: pairs with [LIFO-1]; a thief may come in between. */
        t = exchange_acquire(&w->lifo, NULL);
        if (t) {
            w->lifo_streak++;
            return t;
        }
    }
    w->lifo_streak = 0;
    /* Roaming tasks that yield may keep the ring filled for ever. */
    if (w->own.count && (++w->own_turn & 7) == 0)
        return flow__list_take(&w->own);
    t = w->n_victims ? flow__ring_pop(&w->ring) : flow__ring_pop_alone(&w->ring);
    if (t) {
        flow__fetch_block(flow__ring_peek(&w->ring, 4));
        return t;
    }
    t = flow__list_take(&w->own);
    if (t || !load_relaxed(&w->lifo))
        return t;
    return exchange_acquire(&w->lifo, NULL);
}

static struct flow__task *next_local(struct flow__worker *w)
{
    struct flow__task *t;

    if (flow__unlikely(--w->until_poll == 0))
        poll(w);
    if (flow__unlikely(!flow__inbox_is_empty(&w->inbox)))
        flow__drain_inbox(w);
    if (flow__ready_count(&w->ready) && w->ready_streak < FLOW__READY_STREAK && !w->start_streak) {
        w->ready_streak++;
        return flow__ready_pop(&w->ready);
    }
    w->ready_streak = 0;
    t = pop_unstarted(w);
    if (!t && flow__ready_count(&w->ready)) {
        w->start_streak = 0;
        t = flow__ready_pop(&w->ready);
    }
    return t;
}

/* As next_local, after a look at timers and the shared queue. */
static struct flow__task *next_local_polled(struct flow__worker *w)
{
    poll(w);
    w->until_poll++;
    return next_local(w);
}

/* ---- running ---- */

void flow__after_suspension(struct flow__worker *w)
{
    struct flow__task *roamer = w->roamer;

    if (w->dead_stack) {
        flow__count(w, stacks_returned);
        flow__stack_give_back(&w->stacks, w->dead_class, w->dead_stack);
        w->dead_stack = NULL;
    }
    if (flow__unlikely(roamer)) {
        w->roamer = NULL;
        flow__push_ring(w, roamer);
        flow__fence_and_wake_searcher(w);
    }
}

/* Makes a roaming task that came from elsewhere at home here. False: no memory. */
static bool adopt(struct flow__worker *w, struct flow__task *t)
{
    if (flow__reserve_one(w))
        return false;
    fetch_add_relaxed(&t->home->departed, 1);
    w->n_started++;
    t->home = w;
    t->back = &w->strand;
    return true;
}

static void resume(struct flow__worker *w, struct flow__task *t)
{
    w->start_streak = 0;
    if (flow__unlikely(t->home != w) && !adopt(w, t)) {
        flow__send(w, t->home, t);
        return;
    }
    flow__count(w, switches);
    flow__go(&w->strand, &t->strand, flow__is_cancelled(t) ? -ECANCELED : 0);
    flow__after_suspension(w);
}

/* A few tasks that end without suspending are run in a row before ready ones get their turn: they
 * leave no stack behind, and who joins them finds several ended when it wakes. */
static void start(struct flow__worker *w, struct flow__task *t)
{
    long r = flow__start(w, &w->strand, t, false);

    w->start_streak =
        r == FLOW__FINISHED && w->start_streak < START_STREAK ? w->start_streak + 1 : 0;
    if (flow__unlikely(r == -ENOMEM)) {
        flow__count(w, no_stack);
        flow__finish_unstarted(w, t, -ENOMEM);
    }
}

static void dispatch(struct flow__worker *w, struct flow__task *t)
{
    w->budget = FLOW__BUDGET;
    store_relaxed(&w->current, t);
    flow__count(w, dispatches);
    if (t->stack) {
        resume(w, t);
    } else if (flow__unlikely(flow__is_cancelled(t) ||
                              load_relaxed(&flow__runtime.state) == FLOW__STOPPING)) {
        flow__finish_unstarted(w, t, -ECANCELED);
    } else {
        start(w, t);
    }
}

/* ---- looking for work elsewhere ---- */

static struct flow__task *steal_from(struct flow__worker *w, struct flow__worker *victim)
{
    struct flow__task *loot[FLOW__RING_SIZE / 2];
    uint32_t n;

    if (flow__ring_count(&victim->ring) == 0)
        return NULL;
    n = flow__ring_steal(&victim->ring, (void **)loot, FLOW__RING_SIZE / 2);
    if (n == 0)
        return NULL;
    flow__count(w, steals);
    flow__count_n(w, stolen, n);
    for (uint32_t i = 1; i < n; i++)
        flow__push_ring(w, loot[i]);
    return loot[0];
}

/* Takes what has lain in a LIFO slot since we last looked, some time ago. */
static struct flow__task *steal_lifo(struct flow__worker *w, struct flow__worker *victim,
                                     struct flow__watch *seen, int64_t now)
{
    uint64_t pushes = load_relaxed(&victim->lifo_pushes);
    struct flow__task *t = load_relaxed(&victim->lifo);

    if (pushes != seen->pushes || victim != seen->victim) {
        *seen = (struct flow__watch){victim, pushes, now};
        return NULL;
    }
    if (!t || now - seen->since < LIFO_AGE_NS)
        return NULL;
    t = exchange_acquire(&victim->lifo, NULL);
    if (t) {
        flow__count(w, steals);
        flow__count(w, stolen);
    }
    return t;
}

static struct flow__task *look_around(struct flow__worker *w, struct flow__watch *seen, int64_t now)
{
    struct flow__task *t;

    for (int i = 0; i < w->n_victims; i++) {
        struct flow__worker *victim = &flow__runtime.workers[w->victims[i]];

        t = steal_from(w, victim);
        if (!t)
            t = flow__steal_job(w, victim);
        if (t)
            return t;
    }
    for (int i = 0; i < w->n_victims; i++) {
        struct flow__worker *victim = &flow__runtime.workers[w->victims[i]];

        if (!load_relaxed(&victim->lifo) && victim != seen->victim)
            continue;
        t = steal_lifo(w, victim, seen, now);
        if (t)
            return t;
        if (load_relaxed(&victim->lifo))
            break; /* watch one slot at a time */
    }
    return NULL;
}

/* Looks for work for as long as that has been worth it lately. */
static struct flow__task *search(struct flow__worker *w)
{
    int64_t begin = flow__sys.now(), now = begin;
    struct flow__task *t;

    for (;;) {
        t = look_around(w, &w->watch, now);
        if (!t && (!flow__inbox_is_empty(&w->inbox) || load_relaxed(&w->group->queue.count)))
            t = next_local_polled(w);
        if (t) {
            w->spin_ns =
                2 * w->spin_ns + 1000 < w->spin_max_ns ? 2 * w->spin_ns + 1000 : w->spin_max_ns;
            return t;
        }
        if (now - begin >= w->spin_ns || load_relaxed(&flow__runtime.workers_end))
            break;
        for (int i = 0; i < PAUSES_PER_LOOK; i++)
            flow__pause();
        now = flow__sys.now();
        if (flow__timers_next(&w->timers) <= now)
            break;
    }
    w->spin_ns /= 2;
    return NULL;
}

/* Is there anything for anyone? LIFO slots are told apart: their owners mostly take
 * them back at once. */
static bool anything_visible(struct flow__worker *w, bool *lifo_busy)
{
    if (!flow__inbox_is_empty_seq(&w->inbox) || load_seq(&w->group->queue.count))
        return true;
    *lifo_busy = false;
    for (int i = 0; i < w->n_victims; i++) {
        struct flow__worker *victim = &flow__runtime.workers[w->victims[i]];

        if (load_seq(&victim->lifo) ||
            (victim == w->watch.victim && load_relaxed(&victim->lifo_pushes) != w->watch.pushes))
            *lifo_busy = true;
        if (!flow__ring_is_empty_seq(&victim->ring) || flow__job_is_offered(victim))
            return true;
    }
    return false;
}

/* Somebody fills and empties a LIFO slot all the time, as a coroutine does that
 * spawns and joins one task after the other. To sleep on the map would make each of its spawns
 * wake us for nothing; to search on would burn a CPU. So: a short sleep off the map, then another
 * look. */
static void doze(struct flow__worker *w)
{
    exchange_seq(&w->parker.word, FLOW__PARKED);
    if (flow__inbox_is_empty(&w->inbox) && !load_relaxed(&flow__runtime.workers_end))
        flow__sys.futex_wait(&w->parker.word, FLOW__PARKED, flow__sys.now() + DOZE_NS);
    /* Who read the map before we left it may have summoned us. */
    w->searching = exchange_seq(&w->parker.word, FLOW__RUNNING) == FLOW__SUMMONED;
}

static int64_t park_deadline(struct flow__worker *w)
{
    int64_t next = flow__timers_next(&w->timers);

    if (w->trim_at == 0) {
        w->trim_at = flow__stacks_trim(w->node, 0, TRIM_KEEP) ? flow__sys.now() + TRIM_AFTER_NS : INT64_MAX;
    }
    return next < w->trim_at ? next : w->trim_at;
}

/* A long idle process gives the pages of its idle stacks back, slice by slice. */
static void trim_if_due(struct flow__worker *w)
{
    int64_t now;

    if (w->trim_at == INT64_MAX || (now = flow__sys.now()) < w->trim_at)
        return;
    for (int c = 0; c < FLOW__STACK_CLASSES; c++)
        if (w->stacks.n[c] > FLOW__STACK_CACHE / 4)
            flow__stack_flush(&w->stacks, c, FLOW__STACK_CACHE / 4);
    w->trim_at = flow__stacks_trim(w->node, TRIM_SLICE, TRIM_KEEP) ? now + 20000000 : INT64_MAX;
}

/* What belongs to other nodes should not lie here while nothing goes on. */
static void send_home(struct flow__worker *w)
{
    if (w->blocks.n_away)
        flow__blocks_go_home(&w->blocks);
    if (w->stacks.n_away)
        flow__stacks_go_home(&w->stacks);
}

/* Sleeps until there may be work. */
static void park(struct flow__worker *w, int64_t deadline)
{
    struct flow__runtime *rt = &flow__runtime;
    bool lifo_busy = false;
    uint32_t became;

    flow__count(w, announced);
    flow__parker_announce(&w->parker, &w->group->idle, flow__index_in_group(w));
    if (anything_visible(w, &lifo_busy) || lifo_busy || load_seq(&rt->workers_end)) {
        became = flow__parker_cancel(&w->parker, &w->group->idle, flow__index_in_group(w));
        w->searching = became == FLOW__SUMMONED;
        if (lifo_busy && became == FLOW__RUNNING && !load_relaxed(&rt->workers_end))
            doze(w);
        return;
    }
    flow__count(w, parks);
    send_home(w);
    flow__tell_quiet();
    became = flow__parker_sleep(&w->parker, &w->group->idle, flow__index_in_group(w), deadline);
    w->searching = became == FLOW__SUMMONED;
}

/* The last searcher that has found something sends another one, for what others have
 * published meanwhile trusting that somebody searches. One that found nothing looks again before it
 * sleeps. */
static void stop_searching(struct flow__worker *w, bool found)
{
    if (!w->searching)
        return;
    w->searching = false;
    if (flow__idle_end_search(&w->group->idle) && found)
        flow__wake_searcher(w);
}

/* Work from elsewhere, or NULL after a sleep or at the end. */
static struct flow__task *find_work(struct flow__worker *w)
{
    struct flow__task *t = NULL;

    store_relaxed(&w->current, NULL);
    t = next_local_polled(w);
    if (!t && !w->searching)
        w->searching = w->n_victims > 0 && flow__idle_start_search(&w->group->idle);
    if (!t && w->searching)
        t = search(w);
    stop_searching(w, t != NULL);
    return t;
}

/* When the next timer is nearer than a sleep and a wake take, waits for it awake. False if it is
 * not, or if this runtime must not spin. */
static bool wait_for_near_timer(struct flow__worker *w)
{
    int64_t next = flow__timers_next(&w->timers), now;

    if (next == INT64_MAX || w->spin_max_ns == 0 || w->searching)
        return false;
    now = flow__sys.now();
    if (next - now > NEAR_NS)
        return false;
    while (now < next && flow__inbox_is_empty(&w->inbox) &&
           !load_relaxed(&w->group->queue.count) && !load_relaxed(&flow__runtime.workers_end)) {
        for (int i = 0; i < PAUSES_PER_LOOK / 4; i++)
            flow__pause();
        now = flow__sys.now();
    }
    return true;
}

static void run_until_end(struct flow__worker *w)
{
    while (!load_relaxed(&flow__runtime.workers_end)) {
        struct flow__task *t = next_local(w);

        if (!t)
            t = find_work(w);
        else if (flow__unlikely(w->searching))
            stop_searching(w, true); /* woken to search, and found work at home */
        if (t) {
            w->trim_at = 0;
            dispatch(w, t);
            continue;
        }
        if (wait_for_near_timer(w))
            continue;
        park(w, park_deadline(w));
        trim_if_due(w);
    }
    stop_searching(w, false);
    store_relaxed(&w->current, NULL);
}

void *flow__worker_main(void *worker)
{
    struct flow__worker *w = worker;

    flow__owned_worker = w;
    flow__thread_begin(w);
    flow__fp_save(&w->fp);
#ifdef FLOW__TSAN
    w->strand.fiber = __tsan_get_current_fiber();
#endif
    flow__reclaim_register();
    flow__jobs_open(w, NULL);
    fetch_add_seq(&flow__runtime.threads_begun, 1);
    flow__tell_quiet();
    run_until_end(w);
    flow__reclaim_unregister();
    flow__thread_end(w);
    flow__owned_worker = NULL;
    fetch_add_seq(&flow__runtime.threads_left, 1);
    flow__tell_quiet();
    return NULL;
}

/* ---- driving ---- */

/* One turn for each task that is ready now: those that have started, then the others. What
 * becomes ready meanwhile waits for the next round. */
static int64_t run_round(struct flow__worker *w)
{
    uint64_t started, unstarted;
    int64_t n = 0;
    struct flow__task *t;

    poll(w);
    flow__drain_inbox(w);
    started = flow__ready_count(&w->ready);
    unstarted = flow__ring_count(&w->ring) + w->own.count +
                load_relaxed(&w->group->queue.count) + (load_relaxed(&w->lifo) != NULL);
    for (; started > 0 && flow__ready_count(&w->ready); started--, n++)
        dispatch(w, flow__ready_pop(&w->ready));
    for (; unstarted > 0; unstarted--, n++) {
        t = pop_unstarted(w);
        if (!t && flow__grab_shared(w))
            t = pop_unstarted(w);
        if (!t)
            break; /* joined by one of the others, and so run */
        dispatch(w, t);
    }
    return n;
}

/* Sleeps until something comes; false if nothing can and that is asked for. */
static bool sleep_driving(struct flow__worker *w, int64_t until, bool detect, bool for_stop)
{
    struct flow__idle *idle = &w->group->idle;
    uint32_t became;
    bool dead, awake;

    flow__count(w, announced);
    flow__parker_announce(&w->parker, idle, flow__index_in_group(w));
    flow__tell_quiet();
    dead = detect && flow__nothing_can_happen();
    awake = dead || !flow__inbox_is_empty_seq(&w->inbox) || load_seq(&w->group->queue.count) ||
            (!for_stop && load_seq(&flow__runtime.state) != FLOW__RUNNING_STATE);
    if (awake) {
        became = flow__parker_cancel(&w->parker, idle, flow__index_in_group(w));
    } else {
        flow__count(w, parks);
        became = flow__parker_sleep(&w->parker, idle, flow__index_in_group(w), until);
    }
    if (became == FLOW__SUMMONED)
        flow__idle_end_search(idle);
    return !dead;
}

int64_t flow__worker_drive(struct flow__worker *w, int64_t deadline, bool for_stop)
{
    for (;;) {
        int64_t n = run_round(w), next;

        if (n > 0 || deadline == FLOW_NOW || flow__live_tasks() == 0)
            return n;
        if (flow__sys.now() >= deadline)
            return 0;
        if (!for_stop && load_acquire(&flow__runtime.state) != FLOW__RUNNING_STATE)
            return 0; /* whoever stops the runtime wants to drive */
        next = flow__timers_next(&w->timers);
        if (!sleep_driving(w, next < deadline ? next : deadline, deadline == FLOW_FOREVER,
                           for_stop))
            return -EDEADLK;
    }
}
