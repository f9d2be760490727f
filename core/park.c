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
 * only after that; so at least one of them sees the other.
 *
 * The lookout. A coroutine that spawns a task and joins it at once runs it itself; to wake a sleeper for it is in
 * vain, and costs the one who spawns a system call, some 30 us where a virtual CPU must be woken. So a worker that
 * sees a LIFO slot filled and emptied all the time, or was summoned for nothing several times in a row, stands as
 * the lookout of its group when it sleeps: spawns into an empty slot wake nobody, and it looks at the
 * slots once a millisecond (after 2, then 4 when nobody has used them since the last look), and once more soon after
 * it has seen a task in one. A task that lies there while its spawner computes is delayed by that, once: it is
 * stolen, and the next sleep is one as always. What a slot does
 * not hold goes to the ring, and wakes somebody at once. When nobody uses the slots any more, the looks end. */
#include "core/park.h"
#include "core/group.h"
#include "core/queues.h"
#include "core/steal.h"

#define DOZE_NS          100000 /* see doze_if_in_vain() */
#define VAIN_NS          20000  /* see doze_if_in_vain() */
#define VAIN_MOST        4
#define NEAR_NS          10000  /* see flow__wait_for_near_timer() */
#define LOOKOUT_NS       1000000 /* between the looks of a lookout; the next two: when it has just seen a task, */
#define LOOKOUT_SOON_NS  20000   /* and at most, doubled by each look that finds the slots unused */
#define LOOKOUT_MOST_NS  4000000
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

/* A short sleep off the map, for which nobody is woken in vain. */
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

struct lookout {
    bool stands, soon; /* soon: the next look comes after a short pause, the one after that does not */
    int64_t pause;     /* before a look that is not to come soon */
    uint64_t before, pushes; /* into the slots, ever: when it began; at the last look */
};

/* Unless there is one, or no LIFO slot that it could look at. */
static void stand_lookout(struct flow__worker *w, struct lookout *lookout)
{
    *lookout = (struct lookout){.pause = LOOKOUT_NS};
    if (w->n_mates == 0 || !flow__idle_stand_lookout(&w->group->idle))
        return;
    flow__note_lifos(w, flow__sys.now(), &lookout->pushes);
    lookout->before = lookout->pushes;
    lookout->stands = true;
}

/* One look of the lookout. False: it has seen enough. */
static bool look_at_slots(struct flow__worker *w, struct lookout *lookout, int64_t now)
{
    uint64_t before = lookout->pushes;
    enum flow__lifo_look seen = flow__note_lifos(w, now, &lookout->pushes);

    if (seen == FLOW__LIFO_RIPE)
        return false;
    lookout->soon = seen == FLOW__LIFO_NOTED && !lookout->soon;
    if (seen == FLOW__LIFO_NOTED || lookout->pushes != before)
        lookout->pause = LOOKOUT_NS;
    else
        lookout->pause *= 2;
    return lookout->pause <= LOOKOUT_MOST_NS;
}

/* Not announced any more. Who has filled an empty slot meanwhile has woken nobody: so we search, as if we were
 * summoned for what is there, or leave it to who does. */
static void end_lookout(struct flow__worker *w, struct lookout *lookout)
{
    if (lookout->pushes == lookout->before && w->fruitless > 0)
        w->fruitless--;
    flow__idle_end_lookout(&w->group->idle);
    if (w->searching || !flow__any_lifo(w))
        return;
    w->searching = flow__idle_start_search(&w->group->idle);
    if (!w->searching)
        flow__wake_searcher(w); /* if those who searched have looked too early, and sleep */
}

/* Announced: sleeps until somebody wakes it, the deadline, or, as the sentry, something is ripe on
 * another node, or, as the lookout, it has seen enough. */
static void sleep_announced(struct flow__worker *w, int64_t deadline, struct lookout *lookout)
{
    struct flow__group *g = w->group;
    bool sentry = flow__runtime.n_groups > 1 &&
                  flow__idle_stand_sentry(&g->idle, flow__index_in_group(w));

    for (;;) {
        int64_t pause = sentry ? next_pause(g) : INT64_MAX, until = deadline, now;
        int64_t looks = lookout->soon ? LOOKOUT_SOON_NS : lookout->pause;

        if (lookout->stands && looks < pause)
            pause = looks;
        if (pause != INT64_MAX && pause < deadline - (now = flow__sys.now()))
            until = now + pause;
        if (!flow__parker_wait(&w->parker, until) || until == deadline)
            break;
        now = flow__sys.now();
        if (sentry && flow__anything_ripe(w, now))
            break;
        if (lookout->stands && !look_at_slots(w, lookout, now))
            break;
    }
    if (!sentry)
        return;
    exchange_seq(&g->watching, false);
    flow__idle_end_sentry(&g->idle);
}

/* A coroutine that forks and syncs tiny jobs all the time shows one when it is asked, wakes whoever
 * sleeps for it, and has taken it back long before anybody is awake. To be woken costs that coroutine
 * more than hundreds of its forks. So who has been woken in vain some times, each time at once, stays
 * off the map for a while, then sleeps as always, to see whether this goes on. */
static bool doze_if_in_vain(struct flow__worker *w)
{
    bool unused;

    if (flow__likely(w->vain < VAIN_MOST))
        return false;
    w->vain--;
    if (!flow__anything_visible(w, &unused))
        doze(w);
    return true;
}

/* Sleeping, announced, and counting what it was good for; what is found sets `vain` to 0. */
static uint32_t sleep_and_count(struct flow__worker *w, int64_t deadline, struct lookout *lookout)
{
    int64_t begin = flow__sys.now();
    uint32_t became;

    sleep_announced(w, deadline, lookout);
    became = flow__parker_cancel(&w->parker, &w->group->idle, flow__index_in_group(w));
    w->vain = became == FLOW__SUMMONED && flow__sys.now() - begin < VAIN_NS ? w->vain + 1 : 0;
    return became;
}

void flow__park(struct flow__worker *w)
{
    struct flow__idle *idle = &w->group->idle;
    int64_t deadline = wake_time(w);
    struct lookout lookout = {false};
    bool lifo_busy = false;
    uint32_t became;

    if (doze_if_in_vain(w))
        return;
    flow__count(w, announced);
    flow__parker_announce(&w->parker, idle, flow__index_in_group(w));
    if (flow__anything_visible(w, &lifo_busy) || load_seq(&flow__runtime.workers_end)) {
        became = flow__parker_cancel(&w->parker, idle, flow__index_in_group(w));
        w->searching = became == FLOW__SUMMONED;
        return;
    }
    if (lifo_busy || w->fruitless >= FLOW__FRUITLESS_MOST)
        stand_lookout(w, &lookout);
    flow__count(w, parks);
    send_home(w);
    flow__tell_quiet();
    became = sleep_and_count(w, deadline, &lookout);
    w->searching = became == FLOW__SUMMONED;
    if (lookout.stands)
        end_lookout(w, &lookout);
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
