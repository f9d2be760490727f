/* SPDX-License-Identifier: MIT
 *
 * One worker's loop: choose a task, run it; steal and park are next door.
 *
 * Where ready work lies, and in which order it is looked for:
 *   ready   started tasks, private. First, so that few stacks are in use; but at most
 *           FLOW__READY_STREAK in a row while something waits to be started.
 *   lifo    the task spawned last; it is warm. At most 3 in a row.
 *   ring    unstarted and roaming tasks, first in first out; others may steal half.
 *   own     unstarted tasks bound to this worker.
 *   queue   the group's: overflow of rings, and what foreign threads spawn.
 *   bound   the group's: tasks that must start on this node.
 *   shares  the group's: of parallel loops, begun at once by who looks.
 *   others' rings and jobs, and LIFO slots that have lain untouched for a while, see core/steal.c.
 * Timers, the group's queues and the surplus flag are also looked at every 61st dispatch (every
 * 8th while timers are armed) or 200 us; the inbox at every one. */
#include "core/arena.h"
#include "core/job.h"
#include "core/park.h"
#include "core/queues.h"
#include "core/shuffle.h"
#include "core/start.h"
#include "core/steal.h"

#include <errno.h>

#define POLL_INTERVAL        61
#define POLL_INTERVAL_TIMERS 8
#define POLL_NS              200000
#define LIFO_STREAK          3
#define START_STREAK         16
#define SHUFFLED_ROUND       16 /* dispatches, at most */

__thread struct flow__worker *flow__owned_worker;
__thread size_t flow__owned_seat;

/* ---- a worker's memory ---- */

int flow__worker_open(struct flow__worker *w, int64_t now)
{
    flow__list_init(&w->own);
    flow__timers_init(&w->timers, now, w->node);
    flow__block_cache_open(&w->blocks, w->node);
    w->stacks.node = w->node;
    w->until_poll = w->poll_interval = 1;
    w->look_at_cpu_at = INT64_MAX;
    w->offers = w->n_victims == 0;
    flow__shuffle_open(w);
    return flow__reserve_one(w);
}

void flow__worker_close(struct flow__worker *w)
{
    flow__arena_unmap(w->ready.entry, w->ready.capacity * sizeof *w->ready.entry);
    w->ready.entry = NULL;
    flow__timers_free(&w->timers);
}

/* ---- what comes due ---- */

static void fire_timers(struct flow__worker *w, int64_t now)
{
    struct flow__timer *timer;
    struct flow__task *t;

    if (load_relaxed(&w->timers.armed) == 0)
        return;
    while ((timer = flow__timers_expired(&w->timers, now))) {
        flow__count(w, timers_fired);
        t = flow__task_of_timer(timer);
        t->timed = false;
        /* Lost if a waker was first: then the task is on its way through the inbox. */
        flow__win(w, t, flow__epoch_of(load_relaxed(&t->wait)), FLOW__WAIT_TIMED_OUT);
    }
}

/* Dispatches until the next poll: as many as take POLL_NS, if they go on as since the last one,
 * but at most twice as many as last time. So after a rest the first polls come early. */
static uint32_t next_interval(struct flow__worker *w, int64_t now)
{
    uint32_t most = load_relaxed(&w->timers.armed) ? POLL_INTERVAL_TIMERS : POLL_INTERVAL;
    int64_t elapsed = now - w->polled_at;
    uint32_t n = 2 * w->poll_interval;

    if (elapsed > POLL_NS)
        n = (uint32_t)(w->poll_interval * POLL_NS / elapsed);
    w->polled_at = now;
    w->poll_interval = n > most ? most : n > 0 ? n : 1;
    return w->poll_interval;
}

static void poll(struct flow__worker *w)
{
    int64_t now = flow__sys.now();

    if (flow__some_of(w, 2) == 2) /* shuffled: now or at a later poll */
        fire_timers(w, now);
    if (flow__grab_shared(w))
        flow__wake_searcher(w);
    if (w->offers)
        flow__review_surplus(w, now);
    if (flow__unlikely(now >= w->look_at_cpu_at))
        flow__look_at_cpu(w, now);
    w->until_poll = next_interval(w, now);
    if (flow__unlikely(w->shuffled))
        flow__shuffle(w);
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

    if (flow__unlikely(--w->until_poll == 0)) {
        poll(w);
        t = flow__unlikely(load_relaxed(&w->group->shares.count)) ? flow__take_share(w, w->group) : NULL;
        if (t)
            return t;
    }
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
    w->until_poll = 1;
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
    flow__go(&w->strand, &t->strand, flow__say(t));
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
    w->budget = w->allowance;
    store_relaxed(&w->current, t);
    flow__count(w, dispatches);
    if (flow__unlikely(t->abroad)) {
        t->abroad = false;
        flow__count(w, remote_dispatches);
    }
    if (t->stack) {
        resume(w, t);
    } else if (flow__unlikely(flow__is_cancelled(t) ||
                              (load_relaxed(&flow__runtime.state) == FLOW__STOPPING &&
                               !flow__has(t, FLOW__SPARED)))) {
        flow__finish_unstarted(w, t, -ECANCELED);
    } else {
        start(w, t);
    }
}

/* ---- the loop ---- */

/* The last searcher that has found something sends another one, for what others have
 * published meanwhile trusting that somebody searches. One that found nothing looks again before it
 * sleeps. */
static void stop_searching(struct flow__worker *w, bool found)
{
    if (!w->searching)
        return;
    w->searching = false;
    if (!flow__idle_end_search(&w->group->idle) || !found)
        return;
    flow__wake_searcher(w);
}

/* Work from elsewhere, or NULL after a sleep or at the end. */
static struct flow__task *find_work(struct flow__worker *w)
{
    struct flow__task *t = NULL;
    bool summoned = w->searching, searched;

    store_relaxed(&w->current, NULL);
    flow__lower_surplus(w);
    t = next_local_polled(w);
    if (!t && !w->searching)
        w->searching = w->n_victims > 0 && flow__idle_start_search(&w->group->idle);
    if (!t && w->searching)
        t = flow__search(w, next_local_polled);
    searched = w->searching;
    stop_searching(w, t != NULL);
    if (t && searched)
        w->fruitless = 0;
    else if (summoned && w->fruitless < FLOW__FRUITLESS_MOST)
        w->fruitless++;
    if (t && searched && flow__runtime.n_groups > 1)
        flow__end_rest(w);
    return t;
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
            if (flow__unlikely(w->trim_at != 0)) { /* it had parked */
                w->trim_at = 0;
                w->vain = 0;
                if (flow__runtime.n_groups > 1)
                    flow__end_rest(w);
            }
            dispatch(w, t);
            continue;
        }
        if (!flow__wait_for_near_timer(w))
            flow__park(w);
    }
    stop_searching(w, false);
    store_relaxed(&w->current, NULL);
}

void *flow__worker_main(void *worker)
{
    struct flow__worker *w = worker;

    flow__own_worker(w);
    flow__thread_begin(w);
    flow__fp_save(&w->fp);
#ifdef FLOW__TSAN
    w->strand.fiber = __tsan_get_current_fiber();
#endif
    flow__reclaim_register();
    flow__jobs_open(w, NULL);
    flow__warm_up(w);
    fetch_add_seq(&flow__runtime.threads_begun, 1);
    flow__tell_quiet();
    run_until_end(w);
    flow__reclaim_unregister();
    flow__thread_end(w);
    flow__own_worker(NULL);
    fetch_add_seq(&flow__runtime.threads_left, 1);
    flow__tell_quiet();
    return NULL;
}

/* ---- driving ---- */

/* Some steps, as the worker's own thread would make them. */
static int64_t run_shuffled(struct flow__worker *w)
{
    uint32_t most = flow__shuffle_some(w, SHUFFLED_ROUND);
    struct flow__task *t = next_local(w);
    int64_t n = 0;

    if (!t) {
        fire_timers(w, flow__sys.now()); /* which poll() may have put off */
        t = next_local(w);
    }
    for (; t; t = n < most ? next_local(w) : NULL, n++)
        dispatch(w, t);
    return n;
}

/* One turn for each task that is ready now: those that have started, then the others. What
 * becomes ready meanwhile waits for the next round. */
static int64_t run_round(struct flow__worker *w)
{
    uint64_t started, unstarted;
    int64_t n = 0;
    struct flow__task *t;

    if (flow__unlikely(w->shuffled))
        return run_shuffled(w);
    poll(w);
    flow__drain_inbox(w);
    started = flow__ready_count(&w->ready);
    unstarted = flow__ring_count(&w->ring) + w->own.count +
                load_relaxed(&w->group->queue.count) + load_relaxed(&w->group->bound.count) +
                (load_relaxed(&w->lifo) != NULL);
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
static bool sleep_driving(struct flow__worker *w, int64_t until, bool detect,
                          const struct flow__driving *how)
{
    struct flow__idle *idle = &w->group->idle;
    uint32_t became;
    bool dead, awake;

    flow__count(w, announced);
    flow__parker_announce(&w->parker, idle, flow__index_in_group(w));
    flow__tell_quiet();
    dead = detect && flow__nothing_can_happen();
    awake = dead || !flow__inbox_is_empty_seq(&w->inbox) || flow__group_has_tasks_seq(w->group) ||
            (!how->for_stop && load_seq(&flow__runtime.seat_wanted)) ||
            (how->stand_in && !flow__is_armed(load_seq(&how->stand_in->wait), how->epoch));
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

int64_t flow__worker_drive(struct flow__worker *w, int64_t deadline, const struct flow__driving *how)
{
    for (;;) {
        int64_t n = run_round(w), next;

        if (n > 0 || deadline == FLOW_NOW)
            return n;
        if (how->stand_in ? !flow__is_armed(load_acquire(&how->stand_in->wait), how->epoch)
                          : flow__live_tasks() == 0)
            return 0;
        if (flow__sys.now() >= deadline)
            return 0;
        if (!how->for_stop && load_seq(&flow__runtime.seat_wanted))
            return 0;
        next = flow__timers_next(&w->timers);
        if (!sleep_driving(w, next < deadline ? next : deadline, deadline == FLOW_FOREVER, how))
            return -EDEADLK;
    }
}
