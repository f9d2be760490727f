/* SPDX-License-Identifier: MIT
 *
 * Sleeping, of a worker on its own thread. What may be lost by it, and why nothing is, stands
 * in sync/parker.h.
 *
 * The sentry. Wake-ups stay within a node, so a node that sleeps would not learn that another
 * one has more to do than it can. One sleeper of each group therefore looks up now and then, with
 * pauses from 64 us, doubled each time, to 16 ms; it looks at other nodes' surplus flags, and goes
 * to search when something is ripe there. The pause belongs to the group: it is short again after
 * a call for help or a theft that succeeded, so that a quiet time costs 61 looks a second and a
 * busy one finds work soon. When all groups sleep and the pause has become its longest, it sleeps
 * without end: an idle process does nothing. It says so first (`watching`) and then looks once more
 * who sleeps; a worker that wakes leaves the state of its group first and asks for the sentry
 * only after that; so at least one of them sees the other. */
#include "core/park.h"
#include "core/group.h"
#include "core/queues.h"
#include "core/steal.h"

#define DOZE_NS          100000 /* see doze() */
#define VAIN_NS          20000  /* see doze_if_in_vain() */
#define VAIN_MOST        4
#define NEAR_NS          10000  /* see flow__wait_for_near_timer() */
#define PAUSES           8
#define TRIM_AFTER_NS    1000000000
#define TRIM_SLICE       2048
#define TRIM_KEEP        256
#define TRIM_INTERVAL_NS 20000000

/* ---- memory that lies idle ---- */

static int64_t wake_time(struct flow__worker *w)
{
    int64_t next = flow__timers_next(&w->timers);

    if (w->trim_at == 0) {
        w->trim_at = flow__stacks_trim(w->node, 0, TRIM_KEEP) ? flow__sys.now() + TRIM_AFTER_NS
                                                          : INT64_MAX;
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
    w->trim_at = flow__stacks_trim(w->node, TRIM_SLICE, TRIM_KEEP) ? now + TRIM_INTERVAL_NS : INT64_MAX;
}

/* What belongs to other nodes should not lie here while nothing goes on. */
static void send_home(struct flow__worker *w)
{
    if (w->blocks.n_away)
        flow__blocks_go_home(&w->blocks);
    if (w->stacks.n_away)
        flow__stacks_go_home(&w->stacks);
}

/* ---- sleeping ---- */

/* Somebody fills and empties a LIFO slot all the time, as a coroutine does that
 * spawns and joins one task after the other. To sleep on the map would make each of its spawns
 * wake us for nothing; to search on would burn a CPU. So: a short sleep off the map, then another
 * look. */
static void doze(struct flow__worker *w)
{
    int64_t next = flow__timers_next(&w->timers), until = flow__sys.now() + DOZE_NS;

    exchange_seq(&w->parker.word, FLOW__PARKED);
    if (flow__inbox_is_empty(&w->inbox) && !load_relaxed(&flow__runtime.workers_end))
        flow__sys.futex_wait(&w->parker.word, FLOW__PARKED, next < until ? next : until);
    /* Who read the map before we left it may have summoned us. */
    w->searching = exchange_seq(&w->parker.word, FLOW__RUNNING) == FLOW__SUMMONED;
}

/* How long the sentry may sleep before its next look. */
static int64_t next_pause(struct flow__group *g)
{
    int64_t pause = load_relaxed(&g->watch_ns);

    if (pause < FLOW__WATCH_MOST_NS) {
        store_relaxed(&g->watch_ns, 2 * pause);
    } else if (flow__others_sleep(g)) {
        exchange_seq(&g->watching, false);
        if (flow__others_sleep(g))
            return INT64_MAX;
    }
    exchange_seq(&g->watching, true);
    return pause;
}

/* Announced, as the sentry: sleeps until somebody wakes it, the deadline, or something is ripe on
 * another node. */
static void stand_sentry(struct flow__worker *w, int64_t deadline)
{
    struct flow__group *g = w->group;

    for (;;) {
        int64_t now = flow__sys.now(), pause = next_pause(g);
        int64_t until = pause < deadline - now ? now + pause : deadline;

        if (!flow__parker_wait(&w->parker, until) || until == deadline)
            break;
        if (flow__anything_ripe(w, flow__sys.now()))
            break;
    }
    exchange_seq(&g->watching, false);
    flow__idle_end_sentry(&g->idle);
}

static uint32_t sleep_announced(struct flow__worker *w, int64_t deadline)
{
    struct flow__idle *idle = &w->group->idle;
    int self = flow__index_in_group(w);

    if (flow__runtime.n_groups > 1 && flow__idle_stand_sentry(idle, self)) {
        stand_sentry(w, deadline);
        return flow__parker_cancel(&w->parker, idle, self);
    }
    return flow__parker_sleep(&w->parker, idle, self, deadline);
}

/* A coroutine that forks and syncs tiny jobs all the time shows one when it is asked, wakes whoever
 * sleeps for it, and has taken it back long before anybody is awake. To be woken costs that coroutine
 * more than hundreds of its forks. So who has been woken in vain some times, each time at once, stays
 * off the map for a while, then sleeps as always, to see whether this goes on. */
static bool doze_if_in_vain(struct flow__worker *w)
{
    bool lifo_busy;

    if (flow__likely(w->vain < VAIN_MOST))
        return false;
    w->vain--;
    if (!flow__anything_visible(w, &lifo_busy))
        doze(w);
    return true;
}

/* Sleeping, announced, and counting what it was good for; what is found sets `vain` to 0. */
static uint32_t sleep_and_count(struct flow__worker *w, int64_t deadline)
{
    int64_t begin = flow__sys.now();
    uint32_t became = sleep_announced(w, deadline);

    w->vain = became == FLOW__SUMMONED && flow__sys.now() - begin < VAIN_NS ? w->vain + 1 : 0;
    return became;
}

void flow__park(struct flow__worker *w)
{
    struct flow__idle *idle = &w->group->idle;
    int64_t deadline = wake_time(w);
    bool lifo_busy = false;
    uint32_t became;

    if (doze_if_in_vain(w))
        return;
    flow__count(w, announced);
    flow__parker_announce(&w->parker, idle, flow__index_in_group(w));
    if (flow__anything_visible(w, &lifo_busy) || lifo_busy ||
        load_seq(&flow__runtime.workers_end)) {
        became = flow__parker_cancel(&w->parker, idle, flow__index_in_group(w));
        w->searching = became == FLOW__SUMMONED;
        if (lifo_busy && became == FLOW__RUNNING && !load_relaxed(&flow__runtime.workers_end))
            doze(w);
        return;
    }
    flow__count(w, parks);
    send_home(w);
    flow__tell_quiet();
    became = sleep_and_count(w, deadline);
    w->searching = became == FLOW__SUMMONED;
    trim_if_due(w);
}

bool flow__wait_for_near_timer(struct flow__worker *w)
{
    int64_t next = flow__timers_next(&w->timers), now;

    if (next == INT64_MAX || w->spin_max_ns == 0 || w->searching)
        return false;
    now = flow__sys.now();
    if (next - now > NEAR_NS)
        return false;
    while (now < next && flow__inbox_is_empty(&w->inbox) && !flow__group_has_tasks(w->group) &&
           !load_relaxed(&flow__runtime.workers_end)) {
        for (int i = 0; i < PAUSES; i++)
            flow__pause();
        now = flow__sys.now();
    }
    return true;
}
