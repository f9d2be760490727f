/* SPDX-License-Identifier: MIT
 *
 * Reading the counters. Any thread; takes no lock that a worker waits for. */
#include "core/arena.h"
#include "core/group.h"

#include <errno.h>
#include <string.h>

/* The owner may be moving one from here to there: then it is seen twice or not at all. */
static uint64_t queued_by(struct flow__worker *w)
{
    return flow__ring_count(&w->ring) + (load_relaxed(&w->lifo) != NULL);
}

static void read_worker(struct flow__worker *w, struct flow_worker_stats *s)
{
#define COPY(field) s->field = load_relaxed(&w->stats.field)
    COPY(finished);
    COPY(spawned);
    COPY(dispatches);
    COPY(started_now);
    COPY(switches);
    COPY(steals);
    COPY(stolen);
    COPY(parks);
    COPY(wakes);
    COPY(timers_armed);
    COPY(timers_fired);
    COPY(stacks_taken);
    COPY(stacks_returned);
    COPY(overflows);
    COPY(remote_wakes);
    COPY(no_stack);
    COPY(remote_steals);
    COPY(remote_stolen);
    COPY(remote_dispatches);
    COPY(node_wakes);
    COPY(searches);
    COPY(remote_searches);
    COPY(calls);
    COPY(moved);
    COPY(returned);
    COPY(stack_used_most);
#undef COPY
    s->queued = queued_by(w);
    /* Only the switches between running tasks are counted one by one; starts and ends are known. */
    s->switches += s->stacks_taken + s->stacks_returned;
}

/* The struct is nothing but counters, all of one type; one of them is a maximum. */
static void add(struct flow_worker_stats *sum, const struct flow_worker_stats *s)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)s;
    uint64_t most = sum->stack_used_most;

    for (size_t i = 0; i < sizeof *s / sizeof *from; i++)
        to[i] += from[i];
    sum->stack_used_most = s->stack_used_most > most ? s->stack_used_most : most;
}

static void read_all(struct flow_stats *s)
{
    struct flow__runtime *rt = &flow__runtime;

    for (int i = 0; i < rt->n_places; i++) {
        struct flow_worker_stats one;

        read_worker(&rt->workers[i], &one);
        add(&s->total, &one);
    }
    /* All ends before all beginnings, so that a sum never shows more ended than begun. */
    s->total.finished = s->total.spawned = 0;
    for (int i = 0; i < rt->n_places; i++)
        s->total.finished += load_acquire(&rt->workers[i].stats.finished);
    for (int i = 0; i < rt->n_places; i++)
        s->total.spawned += load_acquire(&rt->workers[i].stats.spawned);
    s->workers = rt->n_workers;
    s->foreign_spawned = load_relaxed(&rt->foreign_spawned);
    s->foreign_wakes = load_relaxed(&rt->foreign_wakes);
    s->total.spawned += s->foreign_spawned;
    s->total.wakes += s->foreign_wakes;
    s->total.calls += load_relaxed(&rt->foreign_calls);
    s->live = s->total.spawned - s->total.finished;
    s->stacks_mapped = flow__stacks_mapped();
    s->stacks_trimmed = load_relaxed(&flow__stacks.trims);
    s->offloaded = load_relaxed(&rt->offloaded);
    s->offload_threads = load_relaxed(&flow__process.offload_threads);
    s->guard_failures = load_relaxed(&flow__stacks.guard_failures);
    s->blocks_borrowed = load_relaxed(&flow__registry.borrowed);
    s->blocks_sent_home = load_relaxed(&flow__registry.sent_home);
    s->stacks_borrowed = load_relaxed(&flow__stacks.borrowed);
    s->stacks_sent_home = load_relaxed(&flow__stacks.sent_home);
    s->bind_failures = flow__arena_bind_failures();
    s->reclaim_pending = flow__reclaim_pending();
}

int flow_stats(struct flow_stats *stats)
{
    bool inside = flow__self() != NULL;
    int r = 0;

    if (!stats || stats->size != sizeof *stats)
        return -EINVAL;
    if (!inside && (r = flow__foreign_enter()))
        return r;
    memset(stats, 0, sizeof *stats);
    stats->size = sizeof *stats;
    read_all(stats);
    if (!inside)
        flow__foreign_leave();
    return 0;
}

int flow_stats_worker(int worker, struct flow_worker_stats *stats)
{
    bool inside = flow__self() != NULL;
    int r = 0;

    if (!stats)
        return -EINVAL;
    if (!inside && (r = flow__foreign_enter()))
        return r;
    if (worker < 0 || worker >= flow__runtime.n_places)
        r = -EINVAL;
    else
        read_worker(&flow__runtime.workers[worker], stats);
    if (!inside)
        flow__foreign_leave();
    return r;
}

static void read_steals(struct flow__group *from, struct flow__group *to, uint64_t *steals,
                        uint64_t *tasks)
{
    struct flow__worker *w = flow__runtime.workers;

    if (from != to) {
        struct flow__haul *haul = &to->hauls[from - flow__runtime.groups];

        *steals = load_relaxed(&haul->steals);
        *tasks = load_relaxed(&haul->tasks);
        return;
    }
    for (int i = to->first; i < to->first + to->n_workers; i++) {
        /* The part first, so that it is never more than the whole. */
        uint64_t remote_steals = load_acquire(&w[i].stats.remote_steals);
        uint64_t remote_tasks = load_acquire(&w[i].stats.remote_stolen);

        *steals += load_relaxed(&w[i].stats.steals) - remote_steals;
        *tasks += load_relaxed(&w[i].stats.stolen) - remote_tasks;
    }
}

int flow_stats_steals(int from, int to, uint64_t *steals, uint64_t *tasks)
{
    bool inside = flow__self() != NULL;
    uint64_t n_steals = 0, n_tasks = 0;
    int n_nodes, r = 0;

    if (!inside && (r = flow__foreign_enter()))
        return r;
    n_nodes = flow__runtime.topology.n_nodes;
    if (from < 0 || from >= n_nodes || to < 0 || to >= n_nodes)
        r = -EINVAL;
    else if (flow__group_of_node(from) && flow__group_of_node(to))
        read_steals(flow__group_of_node(from), flow__group_of_node(to), &n_steals, &n_tasks);
    if (!inside)
        flow__foreign_leave();
    if (r)
        return r;
    if (steals)
        *steals = n_steals;
    if (tasks)
        *tasks = n_tasks;
    return 0;
}

static uint64_t queued_in(struct flow__group *g)
{
    uint64_t n = load_relaxed(&g->queue.count) + load_relaxed(&g->bound.count);

    for (int i = g->first; i < g->first + g->n_workers; i++)
        n += queued_by(&flow__runtime.workers[i]);
    return n;
}

int flow_stats_queued(int node, uint64_t *tasks)
{
    bool inside = flow__self() != NULL;
    int r = 0;

    if (!tasks)
        return -EINVAL;
    if (!inside && (r = flow__foreign_enter()))
        return r;
    if (node < 0 || node >= flow__runtime.topology.n_nodes)
        r = -EINVAL;
    else
        *tasks = flow__group_of_node(node) ? queued_in(flow__group_of_node(node)) : 0;
    if (!inside)
        flow__foreign_leave();
    return r;
}
