/* SPDX-License-Identifier: MIT
 *
 * Groups: made at start, by the thread that starts; then surplus flags, by their workers,
 * and calls for help, by workers and foreign threads. */
#include "core/group.h"
#include "core/arena.h"
#include "core/reserve.h"

#include <errno.h>
#include <sys/mman.h>

#define NEAR_DISTANCE   20     /* of a node that is nearer than this one may take sooner */
#define CALL_AGAIN_NS   200000 /* for work that waits */

/* ---- making them ---- */

static int count_groups(const struct flow__placement *placement)
{
    int n = 1;

    for (int i = 1; i < placement->n_workers; i++)
        n += placement->node[i] != placement->node[i - 1];
    return n;
}

/* Room for the numbers of all blocks, in whole pages. */
static size_t queue_capacity(void)
{
    size_t n = FLOW__WORKER_ALIGN / sizeof(uint32_t);

    while (n < flow__registry.n_blocks)
        n *= 2;
    return n;
}

/* Of both queues of a group. */
static size_t queues_bytes(void)
{
    return 2 * queue_capacity() * sizeof(uint32_t);
}

/* The groups, then the queues of each, then two tables for each. */
static size_t all_bytes(const struct flow__runtime *rt)
{
    size_t n = (size_t)rt->n_groups;

    return n * (sizeof *rt->groups + queues_bytes()) +
           n * n * (sizeof(struct flow__haul) + sizeof(uint16_t));
}

static char *queues_of(const struct flow__runtime *rt, int group)
{
    return (char *)(rt->groups + rt->n_groups) + (size_t)group * queues_bytes();
}

/* Before anything writes to them: pages for each, on its node. Small ones, or one would serve groups
 * of several nodes, and a short queue would have 2 MiB. */
static void place_groups(struct flow__runtime *rt)
{
    int first = 0;

    flow__sys.advise(rt->groups, rt->group_bytes, MADV_NOHUGEPAGE);
    if (rt->topology.n_nodes == 1)
        return;
    for (int i = 0; i < rt->n_groups; i++) {
        int node = rt->placement.node[first];

        flow__arena_bind(&rt->groups[i], sizeof rt->groups[i], node);
        flow__arena_bind(queues_of(rt, i), queues_bytes(), node);
        while (first < rt->n_places && rt->placement.node[first] == node)
            first++;
    }
}

/* In the order in which the first of the group's workers would come to them. */
static void order_others(struct flow__runtime *rt, struct flow__group *g, uint16_t *others)
{
    const uint16_t *victims = flow__placement_victims(&rt->placement, g->first);
    int n = 0;

    for (int i = g->n_workers - 1; i < rt->n_places - 1; i++) {
        int other = 0, k = 0;

        while (victims[i] >= rt->groups[other].first + rt->groups[other].n_workers)
            other++;
        while (k < n && others[k] != other)
            k++;
        if (k == n)
            others[n++] = (uint16_t)other;
    }
    g->others = others;
}

static void open_queue(struct flow__shared_queue *q, uint32_t *slot)
{
    q->slot = slot;
    q->mask = (uint32_t)(queue_capacity() - 1);
}

static void open_group(struct flow__group *g, const struct flow__placement *placement, int first)
{
    g->node = placement->node[first];
    g->first = first;
    while (first + g->n_workers < placement->n_workers &&
           placement->node[first + g->n_workers] == g->node)
        g->n_workers++;
    g->idle.n_workers = g->n_workers;
    flow__block_cache_open(&g->foreign_blocks, g->node);
    store_relaxed(&g->watch_ns, FLOW__WATCH_LEAST_NS);
}

int flow__groups_open(struct flow__runtime *rt)
{
    struct flow__haul *hauls;
    uint16_t *others;
    int first = 0;

    rt->n_groups = count_groups(&rt->placement);
    rt->group_bytes = all_bytes(rt);
    rt->groups = flow__reserve(rt->group_bytes, 0);
    if (!rt->groups)
        return -ENOMEM;
    place_groups(rt);
    for (int i = 0; i < rt->n_groups; i++) {
        uint32_t *slots = (uint32_t *)queues_of(rt, i);

        open_group(&rt->groups[i], &rt->placement, first);
        open_queue(&rt->groups[i].queue, slots);
        open_queue(&rt->groups[i].bound, slots + queue_capacity());
        first += rt->groups[i].n_workers;
    }
    hauls = (void *)queues_of(rt, rt->n_groups);
    others = (void *)(hauls + rt->n_groups * rt->n_groups);
    for (int i = 0; i < rt->n_groups; i++) {
        rt->groups[i].hauls = hauls + i * rt->n_groups;
        order_others(rt, &rt->groups[i], others + i * rt->n_groups);
    }
    return 0;
}

void flow__groups_close(struct flow__runtime *rt)
{
    flow__sys.unmap(rt->groups, rt->group_bytes);
    rt->groups = NULL;
}

/* ---- looks over all of them ---- */

struct flow__group *flow__group_of_node(int node)
{
    struct flow__runtime *rt = &flow__runtime;

    for (int i = 0; i < rt->n_groups; i++)
        if (rt->groups[i].node == node)
            return &rt->groups[i];
    return NULL;
}

uint64_t flow__groups_queued(void)
{
    struct flow__runtime *rt = &flow__runtime;
    uint64_t n = 0;

    for (int i = 0; i < rt->n_groups; i++)
        n += load_seq(&rt->groups[i].queue.count) + load_seq(&rt->groups[i].bound.count) +
             load_seq(&rt->groups[i].shares.count);
    return n;
}

bool flow__others_sleep(const struct flow__group *g)
{
    struct flow__runtime *rt = &flow__runtime;

    for (int i = 0; i < rt->n_groups; i++)
        if (&rt->groups[i] != g && !flow__idle_all_sleep(&rt->groups[i].idle))
            return false;
    return true;
}

int64_t flow__patience(const struct flow__group *from, const struct flow__group *to)
{
    return flow__topology_distance(&flow__runtime.topology, to->node, from->node) < NEAR_DISTANCE
               ? FLOW__PATIENCE_NEAR_NS
               : FLOW__PATIENCE_FAR_NS;
}

/* ---- calls for help ---- */

static bool call(struct flow__worker *w, struct flow__group *other)
{
    struct flow__worker *first = &flow__runtime.workers[other->first];

    store_relaxed(&other->watch_ns, FLOW__WATCH_LEAST_NS);
    if (!flow__idle_call(&other->idle, &first->parker, sizeof *first))
        return false;
    if (w && w->group == other)
        flow__count(w, wakes); /* a mate, to look after another group in our place */
    else if (w)
        flow__count(w, calls);
    else
        fetch_add_relaxed(&flow__runtime.foreign_calls, 1);
    return true;
}

void flow__call_for_help(struct flow__worker *w, struct flow__group *g, int64_t age, int64_t now)
{
    struct flow__runtime *rt = &flow__runtime;

    if (load_seq(&g->idle.state) != 0) /* somebody sleeps here, or searches */
        return;
    if (age >= 0 && now - load_relaxed(&g->called_at) < CALL_AGAIN_NS)
        return;
    for (int i = 0; i < rt->n_groups - 1; i++) {
        struct flow__group *other = &rt->groups[g->others[i]];

        if (load_relaxed(&other->idle.state) < FLOW__ONE_SLEEPER)
            continue;
        if (age < 0 ? load_seq(&other->watching) : age < flow__patience(g, other))
            return;
        if (!call(w, other))
            continue;
        if (age >= 0)
            store_relaxed(&g->called_at, now);
        return;
    }
}

/* ---- surplus ---- */

void flow__raise_surplus(struct flow__worker *w)
{
    flow__atomic(uint8_t) *flag = &w->group->surplus[flow__index_in_group(w)];

    w->offers = true;
    if (flow__runtime.n_groups == 1) {
        store_relaxed(flag, 1);
        return;
    }
    exchange_seq(flag, 1);
    flow__call_for_help(w, w->group, -1, 0);
}

static bool has_surplus(struct flow__group *g)
{
    for (int i = 0; i < g->n_workers; i++)
        if (load_seq(&g->surplus[i]))
            return true;
    return load_seq(&g->queue.count) || load_seq(&g->shares.count);
}

void flow__end_rest(struct flow__worker *w)
{
    struct flow__runtime *rt = &flow__runtime;

    if (flow__idle_has_sentry(&w->group->idle))
        return;
    for (struct flow__group *g = rt->groups; g < rt->groups + rt->n_groups; g++)
        if (load_seq(&g->idle.state) == 0 && has_surplus(g))
            flow__call_for_help(w, g, -1, 0);
}

void flow__review_surplus(struct flow__worker *w, int64_t now)
{
    int64_t age, queue_age;

    if (w->n_victims == 0)
        return;
    age = flow__ring_age(&w->ring, now);
    if (age < 0 && !load_relaxed(&w->lifo))
        flow__lower_surplus(w);
    if (flow__runtime.n_groups == 1)
        return;
    queue_age = flow__queue_age(&w->group->queue, now);
    if (queue_age > age)
        age = queue_age;
    if (age >= FLOW__PATIENCE_NEAR_NS)
        flow__call_for_help(w, w->group, age, now);
}
