/* SPDX-License-Identifier: MIT
 *
 * Stealing: by a worker that has nothing to do, on its own thread. The victim does nothing for it
 * but keep its surplus flag (core/group.h).
 *
 * At home: the mates, the nearest first (SMT sibling, same L3, same node): half of the ring of one
 * whose flag is up, else a job; then a LIFO slot that has lain untouched for a while. On other
 * nodes: after two fruitless looks at home, by one worker of the group at a time, the nearest node
 * first, and there only what has waited for longer than flow__patience: half of a ring or of the
 * group's queue, 32 tasks at most; or the oldest job of a node all of whose workers are busy, or at once,
 * since it is large and was meant for an idle one, the oldest share. */
#include "core/steal.h"
#include "core/job.h"
#include "core/queues.h"
#include "core/shuffle.h"

#define LIFO_AGE_NS     5000 /* an entry that lies longer may be stolen */
#define FAR_LOOT        32
#define LOOKS_AT_HOME   2  /* before the first one elsewhere */
#define PAUSES_PER_LOOK 32 /* looking more often slows the one who is looked at */

/* ---- taking ---- */

static struct flow__task *carry_home(struct flow__worker *w, struct flow__task **loot, uint32_t n)
{
    if (n == 0)
        return NULL;
    flow__count(w, steals);
    flow__count_n(w, stolen, n);
    for (uint32_t i = 1; i < n; i++)
        flow__push_ring(w, loot[i]);
    return loot[0];
}

static struct flow__task *steal_from(struct flow__worker *w, struct flow__worker *victim)
{
    struct flow__task *loot[FLOW__RING_SIZE / 2];

    if (flow__ring_count(&victim->ring) == 0)
        return NULL;
    return carry_home(w, loot,
                      flow__ring_steal(&victim->ring, (void **)loot,
                                       flow__some_of(w, FLOW__RING_SIZE / 2)));
}

/* Has `stamp`, of something that the victim has, been the same for so long? */
static bool is_unchanged(struct flow__watch *seen, struct flow__worker *victim, uint64_t stamp,
                         int64_t patience, int64_t now)
{
    if (stamp != seen->stamp || victim != seen->victim) {
        *seen = (struct flow__watch){victim, stamp, now};
        return false;
    }
    return now - seen->since >= patience;
}

static bool lifo_is_ripe(struct flow__worker *victim, struct flow__watch *seen, int64_t patience,
                         int64_t now)
{
    uint64_t pushes = load_relaxed(&victim->lifo_pushes);
    struct flow__task *t = load_relaxed(&victim->lifo);

    return is_unchanged(seen, victim, pushes, patience, now) && t;
}

static struct flow__task *steal_lifo(struct flow__worker *w, struct flow__worker *victim)
{
    struct flow__task *t = exchange_acquire(&victim->lifo, NULL);

    return carry_home(w, &t, t != NULL);
}

/* ---- at home ---- */

static struct flow__task *look_at_mates(struct flow__worker *w)
{
    for (int i = 0; i < w->n_mates; i++) {
        struct flow__worker *victim = &flow__runtime.workers[w->victims[i]];
        struct flow__task *t = flow__may_have_surplus(victim) ? steal_from(w, victim) : NULL;

        if (!t)
            t = flow__steal_job(w, victim); /* or asks for one */
        if (t)
            return t;
    }
    return NULL;
}

/* Sets *victim to whom a ripe slot belongs. */
static enum flow__lifo_look find_lifo(struct flow__worker *w, int64_t now, struct flow__worker **victim)
{
    for (int i = 0; i < w->n_mates; i++) {
        *victim = &flow__runtime.workers[w->victims[i]];
        if (*victim != w->watch.victim &&
            (!flow__may_have_surplus(*victim) || !load_relaxed(&(*victim)->lifo)))
            continue;
        if (lifo_is_ripe(*victim, &w->watch, LIFO_AGE_NS, now))
            return FLOW__LIFO_RIPE;
        if (load_relaxed(&(*victim)->lifo))
            return FLOW__LIFO_NOTED; /* watch one slot at a time */
    }
    return FLOW__LIFOS_EMPTY;
}

static struct flow__task *look_at_lifos(struct flow__worker *w, int64_t now)
{
    struct flow__worker *victim;

    return find_lifo(w, now, &victim) == FLOW__LIFO_RIPE ? steal_lifo(w, victim) : NULL;
}

/* What the group has. */
static struct flow__task *look_around(struct flow__worker *w, int64_t now)
{
    struct flow__task *t = look_at_mates(w);

    return t ? t : look_at_lifos(w, now);
}

/* ---- elsewhere ---- */

/* Where something is ripe: a worker's ring, LIFO slot or job, or with victim NULL the group's queue or a
 * share. */
struct spot {
    int group;
    struct flow__worker *victim;
    bool lifo, job, share;
};

static bool take_token(struct flow__group *g)
{
    bool held = false;

    /* [TOKEN-1] acquire: pairs with [TOKEN-2]; what the last holder has noted (hauls) is seen. */
    return !load_relaxed(&g->token) && cas_acquire(&g->token, &held, true);
}

static void give_token(struct flow__group *g)
{
    /* [TOKEN-2] release: pairs with [TOKEN-1]. */
    store_release(&g->token, false);
}

/* Thieves of different groups do not begin with the same victim. */
static struct flow__worker *nth_victim(struct flow__worker *w, struct flow__group *from, int i)
{
    int turn = (int)(w->group - flow__runtime.groups);

    return &flow__runtime.workers[from->first + (turn + i) % from->n_workers];
}

static bool find_in_rings(struct flow__worker *w, struct flow__group *from, int64_t patience,
                          int64_t now, struct spot *spot)
{
    for (int i = 0; i < from->n_workers; i++) {
        struct flow__worker *victim = nth_victim(w, from, i);

        if (flow__may_have_surplus(victim) && flow__ring_age(&victim->ring, now) >= patience) {
            spot->victim = victim;
            return true;
        }
    }
    return false;
}

static bool find_in_lifos(struct flow__worker *w, struct flow__group *from, int64_t patience,
                          int64_t now, struct spot *spot)
{
    for (int i = 0; i < from->n_workers; i++) {
        struct flow__worker *victim = nth_victim(w, from, i);

        if (victim != w->far_watch.victim &&
            (!flow__may_have_surplus(victim) || !load_relaxed(&victim->lifo)))
            continue;
        spot->victim = victim;
        spot->lifo = lifo_is_ripe(victim, &w->far_watch, patience, now);
        if (spot->lifo || load_relaxed(&victim->lifo))
            break;
    }
    return spot->lifo;
}

/* Its mates come first, if one of them has time. */
static bool find_in_jobs(struct flow__worker *w, struct flow__group *from, int64_t patience,
                         int64_t now, struct spot *spot)
{
    if (load_relaxed(&from->idle.state) != 0)
        return false;
    for (int i = 0; i < from->n_workers; i++) {
        struct flow__worker *victim = nth_victim(w, from, i);

        if (!flow__may_have_surplus(victim) || !flow__job_is_offered(victim))
            continue;
        spot->victim = victim;
        spot->job = is_unchanged(&w->job_watch, victim, load_relaxed(&victim->deque.word), patience,
                                 now);
        break;
    }
    return spot->job;
}

static bool find_ripe(struct flow__worker *w, int64_t now, struct spot *spot)
{
    struct flow__runtime *rt = &flow__runtime;

    for (int i = 0; i < rt->n_groups - 1; i++) {
        struct flow__group *from = &rt->groups[w->group->others[i]];
        int64_t patience = flow__patience(from, w->group);

        *spot = (struct spot){.group = w->group->others[i]};
        if (find_in_rings(w, from, patience, now, spot))
            return true;
        if (load_relaxed(&from->queue.count) && flow__queue_age(&from->queue, now) >= patience)
            return true;
        spot->share = load_relaxed(&from->shares.count) && load_relaxed(&from->idle.state) == 0;
        if (spot->share || find_in_jobs(w, from, patience, now, spot) ||
            find_in_lifos(w, from, patience, now, spot))
            return true;
    }
    return false;
}

static uint32_t rob(struct flow__worker *w, struct spot *spot, struct flow__task **loot)
{
    struct flow__group *from = &flow__runtime.groups[spot->group];

    if (spot->share)
        return (loot[0] = flow__take_share(w, from)) != NULL;
    if (!spot->victim)
        return flow__rob_queue(&from->queue, loot, FAR_LOOT);
    if (!spot->lifo && !spot->job)
        return flow__ring_steal(&spot->victim->ring, (void **)loot, FAR_LOOT);
    loot[0] = spot->job ? flow__steal_job(w, spot->victim)
                        : exchange_acquire(&spot->victim->lifo, NULL);
    return loot[0] != NULL;
}

/* Holding the token. */
static struct flow__task *steal_abroad(struct flow__worker *w, struct spot *spot)
{
    struct flow__haul *haul = &w->group->hauls[spot->group];
    struct flow__task *loot[FAR_LOOT];
    uint32_t n = rob(w, spot, loot);

    if (n == 0)
        return NULL;
    for (uint32_t i = 0; i < n; i++)
        loot[i]->abroad = true;
    if (!spot->job) /* which counts itself */
        carry_home(w, loot, n);
    flow__count(w, remote_steals); /* after `steals`, which contains them */
    flow__count_n(w, remote_stolen, n);
    count_up(&haul->steals, 1);
    count_up(&haul->tasks, n);
    store_relaxed(&w->group->watch_ns, FLOW__WATCH_LEAST_NS);
    return loot[0];
}

static struct flow__task *look_abroad(struct flow__worker *w, int64_t now)
{
    struct flow__task *t = NULL;
    struct spot spot;

    if (flow__runtime.n_groups == 1 || !take_token(w->group))
        return NULL;
    flow__count(w, remote_searches);
    if (find_ripe(w, now, &spot))
        t = steal_abroad(w, &spot);
    give_token(w->group);
    return t;
}

bool flow__anything_ripe(struct flow__worker *w, int64_t now)
{
    struct spot spot;
    bool found;

    if (!take_token(w->group))
        return false;
    flow__count(w, remote_searches);
    found = find_ripe(w, now, &spot);
    give_token(w->group);
    return found;
}

/* ---- searching ---- */

struct flow__task *flow__search(struct flow__worker *w,
                                struct flow__task *(*poll)(struct flow__worker *))
{
    int64_t begin = flow__sys.now(), now = begin;
    int least = flow__runtime.n_groups > 1 ? LOOKS_AT_HOME : 1;
    struct flow__task *t;

    flow__count(w, searches);
    for (int looks = 1;; looks++) {
        if (flow__unlikely(w->shuffled))
            flow__shuffle_victims(w);
        t = look_around(w, now);
        if (!t && (!flow__inbox_is_empty(&w->inbox) || flow__group_has_tasks(w->group)))
            t = poll(w);
        if (!t && looks >= LOOKS_AT_HOME)
            t = look_abroad(w, now);
        if (t) {
            w->spin_ns =
                2 * w->spin_ns + 1000 < w->spin_max_ns ? 2 * w->spin_ns + 1000 : w->spin_max_ns;
            return t;
        }
        if ((looks >= least && now - begin >= w->spin_ns) ||
            load_relaxed(&flow__runtime.workers_end))
            break;
        /* The own inbox is another matter: its line stays here as long as nobody sends anything. */
        for (int i = 0; i < PAUSES_PER_LOOK && flow__inbox_is_empty(&w->inbox); i++)
            flow__pause();
        now = flow__sys.now();
        if (flow__timers_next(&w->timers) <= now)
            break;
    }
    w->spin_ns /= 2;
    return NULL;
}

enum flow__lifo_look flow__note_lifos(struct flow__worker *w, int64_t now, uint64_t *pushes)
{
    struct flow__worker *victim;

    *pushes = 0;
    for (int i = 0; i < w->n_mates; i++)
        *pushes += load_relaxed(&flow__runtime.workers[w->victims[i]].lifo_pushes);
    return find_lifo(w, now, &victim);
}

bool flow__any_lifo(struct flow__worker *w)
{
    for (int i = 0; i < w->n_mates; i++)
        if (load_seq(&flow__runtime.workers[w->victims[i]].lifo))
            return true;
    return false;
}

bool flow__anything_visible(struct flow__worker *w, bool *lifo_busy)
{
    if (!flow__inbox_is_empty_seq(&w->inbox) || flow__group_has_tasks_seq(w->group))
        return true;
    *lifo_busy = false;
    for (int i = 0; i < w->n_mates; i++) {
        struct flow__worker *victim = &flow__runtime.workers[w->victims[i]];

        if (load_seq(&victim->lifo) ||
            (victim == w->watch.victim && load_relaxed(&victim->lifo_pushes) != w->watch.stamp))
            *lifo_busy = true;
        if (!flow__ring_is_empty_seq(&victim->ring) || flow__job_is_offered(victim))
            return true;
    }
    return false;
}
