/* SPDX-License-Identifier: MIT
 *
 * Queues of ready tasks: a group's, a worker's ring, LIFO slot and inbox. Which
 * is looked at when is the scheduler's business; here tasks are put in, moved on, and
 * sleepers woken for them. */
#include "core/queues.h"

#include "core/shuffle.h"

#define GRAB       (FLOW__RING_SIZE / 2)
#define GRAB_BOUND 8

/* ---- a group's queue ---- */

static void append(struct flow__shared_queue *q, struct flow__task **task, uint32_t n)
{
    uint64_t count;

    flow__lock(&q->lock);
    count = load_relaxed(&q->count);
    for (uint32_t i = 0; i < n; i++)
        q->slot[(q->first + count + i) & q->mask] = flow__slot_of(task[i]);
    store_relaxed(&q->count, count + n);
    /* Unlocking is a full barrier between the push and the look at the sleepers. */
    flow__unlock(&q->lock);
}

/* The task that has `i` older ones in the queue, whose lock is held. */
static struct flow__task *nth(struct flow__shared_queue *q, uint32_t i)
{
    return &flow__registry.base[q->slot[(q->first + i) & q->mask]];
}

/* Takes the n oldest tasks out of the queue, whose lock is held. */
static void remove_oldest(struct flow__shared_queue *q, uint32_t n)
{
    uint64_t left = load_relaxed(&q->count) - n;

    q->first = left ? q->first + n : 0;
    store_relaxed(&q->taken, load_relaxed(&q->taken) + n);
    store_relaxed(&q->count, left);
}

/* A worker's share of the tasks in a queue of its group, whose lock is held. */
static uint32_t share_of(struct flow__worker *w, struct flow__shared_queue *q, uint32_t most)
{
    uint64_t count = load_relaxed(&q->count), n = count / (uint64_t)w->group->n_workers + 1;

    if (n > count)
        n = count;
    return flow__some_of(w, (uint32_t)(n < most ? n : most));
}

static bool grab_queue(struct flow__worker *w)
{
    struct flow__shared_queue *q = &w->group->queue;
    uint32_t room = FLOW__RING_SIZE - flow__ring_count(&w->ring), n;

    if (load_relaxed(&q->count) == 0)
        return false;
    flow__lock(&q->lock);
    n = share_of(w, q, room < GRAB ? room : GRAB);
    for (uint32_t i = 0; i < n; i++)
        flow__ring_push(&w->ring, nth(q, i));
    remove_oldest(q, n);
    flow__unlock(&q->lock);
    if (n > 0 && flow__unlikely(!w->offers))
        flow__raise_surplus(w);
    return true;
}

/* Few at a time: nobody else can take them any more. */
static bool grab_bound(struct flow__worker *w)
{
    struct flow__shared_queue *q = &w->group->bound;
    uint32_t n;

    if (load_relaxed(&q->count) == 0)
        return false;
    flow__lock(&q->lock);
    n = share_of(w, q, GRAB_BOUND);
    for (uint32_t i = 0; i < n; i++)
        flow__list_append(&w->own, nth(q, i));
    remove_oldest(q, n);
    flow__unlock(&q->lock);
    return true;
}

bool flow__grab_shared(struct flow__worker *w)
{
    bool bound = grab_bound(w);

    return grab_queue(w) || bound;
}

uint32_t flow__rob_queue(struct flow__shared_queue *q, struct flow__task **loot, uint32_t most)
{
    uint64_t half;
    uint32_t n;

    flow__lock(&q->lock);
    half = (load_relaxed(&q->count) + 1) / 2;
    n = half < most ? (uint32_t)half : most;
    for (uint32_t i = 0; i < n; i++)
        loot[i] = nth(q, i);
    remove_oldest(q, n);
    flow__unlock(&q->lock);
    return n;
}

/* ---- making tasks ready ---- */

/* One is wanted. w: the caller's worker or NULL, as of the next. */
static void send_wake(struct flow__worker *w, struct flow__group *g)
{
    struct flow__worker *first = &flow__runtime.workers[g->first];

    if (!flow__idle_wake_one(&g->idle, &first->parker, sizeof *first))
        return;
    if (w)
        flow__count(w, wakes);
    else
        fetch_add_relaxed(&flow__runtime.foreign_wakes, 1);
}

static void wake_one(struct flow__worker *w, struct flow__group *g)
{
    if (flow__idle_wants_wake(&g->idle))
        send_wake(w, g);
}

void flow__wake_searcher(struct flow__worker *w)
{
    wake_one(w, w->group);
}

void flow__wake_for(struct flow__worker *w, struct flow__group *g)
{
    if (w && w->group != g)
        flow__count(w, node_wakes);
    wake_one(w, g);
}

void flow__fence_and_wake_searcher(struct flow__worker *w)
{
    fetch_add_seq(&w->group->idle.state, 0);
    flow__wake_searcher(w);
}

/* Without a look at the surplus flag. */
static void push_ring(struct flow__worker *w, struct flow__task *t)
{
    struct flow__task *half[FLOW__RING_SIZE / 2 + 1];
    uint32_t n;

    if (flow__likely(flow__ring_push(&w->ring, t)))
        return;
    n = flow__ring_steal(&w->ring, (void **)half, FLOW__RING_SIZE / 2);
    half[n++] = t;
    append(&w->group->queue, half, n);
    flow__count(w, overflows);
}

void flow__push_ring(struct flow__worker *w, struct flow__task *t)
{
    push_ring(w, t);
    if (flow__unlikely(!w->offers))
        flow__raise_surplus(w);
}

/* Of two groups taken at random, the one with less in its queue: the longest queue then stays
 * short without anybody looking at all of them (Mitzenmacher, "The Power of Two Choices"). */
struct flow__group *flow__choose_group(void)
{
    static __thread uint64_t random;
    struct flow__runtime *rt = &flow__runtime;
    struct flow__group *a, *b;
    uint64_t n_a, n_b;

    if (rt->n_groups == 1)
        return rt->groups;
    /* Knuth's multiplier; the thread's own address is the seed. */
    random = (random + (uintptr_t)&random) * 6364136223846793005u + 1442695040888963407u;
    a = &rt->groups[(random >> 48) % (uint64_t)rt->n_groups];
    b = &rt->groups[(random >> 32 & 0xffff) % (uint64_t)rt->n_groups];
    n_a = load_relaxed(&a->queue.count);
    n_b = load_relaxed(&b->queue.count);
    if (n_a == n_b) /* then the one where somebody has nothing to do */
        return load_relaxed(&a->idle.state) ? a : b;
    return n_a < n_b ? a : b;
}

void flow__submit_to_group(struct flow__worker *w, struct flow__group *g, struct flow__task *t)
{
    append(&g->bound, &t, 1);
    flow__wake_for(w, g);
}

void flow__submit_from_thread(struct flow__group *g, struct flow__task *t)
{
    append(&g->queue, &t, 1);
    wake_one(NULL, g);
    if (flow__runtime.n_groups > 1)
        flow__call_for_help(NULL, g, -1, 0);
}

void flow__submit(struct flow__worker *w, struct flow__task *t)
{
    struct flow__task *older;

    if (w->n_victims == 0) {
        /* Alone: there is no thief, and nobody to wake. */
        older = load_relaxed(&w->lifo);
        store_relaxed(&w->lifo, t);
        if (older)
            push_ring(w, older);
        return;
    }
    count_up(&w->lifo_pushes, 1);
    /* [LIFO-1] seq_cst: its release half pairs with [LIFO-2] and publishes the task; as a full
     * barrier it orders the push before the look at who sleeps, see sync/parker.h. */
    older = exchange_seq(&w->lifo, t);
    if (older)
        push_ring(w, older);
    if (flow__unlikely(!w->offers))
        flow__raise_surplus(w);
    if (older ? flow__idle_wants_wake(&w->group->idle)
              : flow__idle_wants_wake_for_slot(&w->group->idle))
        send_wake(w, w->group);
}

void flow__send(struct flow__worker *w, struct flow__worker *target, struct flow__task *t)
{
    bool first = flow__inbox_push(&target->inbox, &t->link);

    if (w) {
        flow__count(w, remote_wakes);
        if (w->group != target->group)
            flow__count(w, node_wakes);
    }
    /* Whoever finds the inbox empty wakes its owner, for itself and those who come after. */
    if (!first || !flow__parker_notify(&target->parker))
        return;
    if (w)
        flow__count(w, wakes);
    else
        fetch_add_relaxed(&flow__runtime.foreign_wakes, 1);
}

void flow__submit_to(struct flow__worker *w, struct flow__worker *target, struct flow__task *t)
{
    if (w == target)
        flow__list_append(&w->own, t);
    else
        flow__send(w, target, t);
}

/* At home, on its worker's thread. */
static void disarm_timer(struct flow__worker *w, struct flow__task *t)
{
    if (!t->timed)
        return;
    t->timed = false;
    flow__timer_remove(&w->timers, &t->timer);
}

void flow__make_ready(struct flow__worker *w, struct flow__task *t)
{
    /* A roaming task that wakes itself while it publishes must not be stolen
     * yet: it takes the way through the inbox, which is read after the switch. */
    if (w != t->home || flow__has(t, FLOW_ROAM)) {
        flow__send(w, t->home, t);
        return;
    }
    disarm_timer(w, t);
    flow__ready_push(&w->ready, t);
}

void flow__drain_inbox(struct flow__worker *w)
{
    struct flow__link *link = flow__inbox_take_all(&w->inbox);

    while (link) {
        struct flow__task *t = flow__task_of_link(link);

        link = link->next;
        if (!t->stack) {
            flow__list_append(&w->own, t);
            continue;
        }
        disarm_timer(w, t);
        if (flow__has(t, FLOW_ROAM)) {
            flow__push_ring(w, t);
            flow__fence_and_wake_searcher(w);
        } else {
            flow__ready_push(&w->ready, t);
        }
    }
}
