/* SPDX-License-Identifier: MIT
 *
 * Taking blocks and giving them back. From anywhere; nothing here suspends, so a
 * worker stays who it is for the length of a call, also under a FLOW_ROAM task, and the thread-local
 * pointer to it is read anew in each call. See core/pool.h for the parts and the protocol. */
#include "core/pool.h"

#include "core/arena.h"
#include "core/magazine.h"

#include <flowcoro/topology.h>

#include <errno.h>
#include <stdio.h>

/* ---- debug builds know of each block whether it is in use ---- */

static inline void note_use(struct flow_pool *pool, struct flow__chunk *c, void *block, bool in_use)
{
    (void)pool, (void)c, (void)block, (void)in_use;
#ifdef FLOW_DEBUG
    c = c ? c : flow__chunk_at(block);
    uint8_t *state = &c->in_use[flow__block_number(c, &pool->cut, block)];

    flow__assert(*state == !in_use);
    *state = in_use;
#endif
}

static inline void *hand_out(struct flow_pool *pool, void *block)
{
    note_use(pool, NULL, block, true);
    flow__block_open(&pool->cut, block);
    return block;
}

/* ---- misuse ---- */

/* Why a block of this chunk cannot be freed: 0, -EINVAL or -EALREADY. */
static inline int look_inside(struct flow_pool *pool, const struct flow__chunk *c, const void *block)
{
    uint64_t number = flow__block_number(c, &pool->cut, block);

    if (flow__unlikely(number >= load_relaxed(&c->bound)))
        return -EINVAL;
#ifdef FLOW_DEBUG
    if (!c->in_use[number])
        return -EALREADY;
#endif
    return flow__unlikely(flow__block_is_marked(&pool->cut, block)) ? -EALREADY : 0;
}

/* The same for any pointer. */
static int look(struct flow_pool *pool, const struct flow__chunk *c, const void *block)
{
    return c && load_relaxed(&c->pool) == pool ? look_inside(pool, c, block) : -EINVAL;
}

int flow__pool_look(flow_pool *pool, const void *block)
{
    return look(pool, flow__chunk_at(block), block);
}

static const char *describe(const struct flow_pool *pool, const struct flow__chunk *c, int error)
{
    if (error == -EALREADY)
        return "is free already";
    if (!c)
        return "belongs to no pool";
    return load_relaxed(&c->pool) == pool ? "is not where a block of it begins"
                                          : "belongs to another pool";
}

__attribute__((cold, noinline)) int flow__pool_refuse(flow_pool *pool, const void *block, int error)
{
#ifdef FLOW_DEBUG
    char text[160];

    snprintf(text, sizeof text, "pool \"%s\": %p was to be freed, but %s", pool->name, block,
             describe(pool, flow__chunk_at(block), error));
    flow__die(text);
#endif
    (void)pool, (void)block, (void)describe;
    return error;
}

/* ---- finding free blocks ---- */

/* Several nodes are known only while a runtime runs. */
static int foreign_node(void)
{
    int node = flow__arena_nodes() > 1 ? flow_current_node() : 0;

    return node < 0 ? 0 : node;
}

int flow__pool_home_node(const struct flow_pool *pool)
{
    struct flow__worker *w = flow__owned_worker;

    if (pool->node >= 0)
        return pool->node;
    return w ? w->node : foreign_node();
}

/* For the order in which nodes are asked. A worker keeps the topology from going away. */
static int distance(int from, int to)
{
    const struct flow__topology *t = &flow__runtime.topology;

    if (flow__owned_worker && from < t->n_nodes && to < t->n_nodes)
        return flow__topology_distance(t, from, to);
    return from < to ? to - from : from - to;
}

/* The nearest other depot, one that has free blocks if so asked, or NULL. */
static struct flow__depot *nearest(struct flow_pool *pool, int node, bool with_free)
{
    int n = load_acquire(&pool->n_depots), least = INT32_MAX; /* [POOL-1] */
    struct flow__depot *best = NULL;

    for (int i = 0; i < n; i++) {
        struct flow__depot *d = i == node ? NULL : load_acquire(&pool->depot[i]); /* [POOL-1] */

        if (d && (!with_free || load_relaxed(&d->n_free) > 0) && distance(node, i) < least) {
            least = distance(node, i);
            best = d;
        }
    }
    return best;
}

/* Takes free blocks of another node, at most half of what it has. */
static uint32_t steal(struct flow_pool *pool, struct flow__depot *home, void **out, uint32_t n)
{
    struct flow__depot *victim;

    while ((victim = nearest(pool, home->node, true))) {
        uint64_t half = (load_relaxed(&victim->n_free) + 1) / 2;
        uint32_t got = half ? flow__depot_take(pool, victim, out, half < n ? (uint32_t)half : n) : 0;

        if (got > 0) {
            fetch_add_relaxed(&home->stolen, got);
            return got;
        }
    }
    return 0;
}

/* Free blocks of the depot's own node, made if need be. 0: the cap, or no memory. */
static uint32_t fetch(struct flow_pool *pool, struct flow__depot *d, void **out, uint32_t n)
{
    for (;;) {
        uint32_t got = flow__depot_take(pool, d, out, n);

        if (got > 0 || flow__depot_grow(pool, d))
            return got;
    }
}

/* For who has no magazine, or a closed one. */
static void *take_directly(struct flow_pool *pool, struct flow__depot *d)
{
    void *block;

    return fetch(pool, d, &block, 1) || steal(pool, d, &block, 1) ? block : NULL;
}

/* What a magazine has itself, or NULL. */
static inline void *take_from(struct flow__magazine *m)
{
    void *block = load_relaxed(&m->last);
    uint32_t n;

    if (flow__likely(block != NULL)) {
        store_relaxed(&m->last, NULL);
        return block;
    }
    n = load_relaxed(&m->n);
    if (flow__unlikely(n == 0))
        return NULL;
    store_relaxed(&m->n, n - 1);
    return m->slot[n - 1];
}

/* How many blocks a magazine fetches or gives home at once. */
static uint32_t lot_of(const struct flow__magazine *m)
{
    uint32_t half = (m->capacity + 1) / 2;

    return half < FLOW__MAGAZINE_LOT ? half : FLOW__MAGAZINE_LOT;
}

/* Whose blocks come and go in larger numbers shall seldom need the depot. */
static void grow(struct flow__magazine *m)
{
    m->capacity = m->capacity < m->most / 2 ? 2 * m->capacity : m->most;
}

/* Fills the magazine and takes one block. Blocks of another node are kept apart, since a
 * slot's block goes home to the magazine's node. While entered. */
static void *refill(struct flow_pool *pool, struct flow__magazine *m, struct flow__depot *d)
{
    void *stolen[FLOW__MAGAZINE], *own = take_from(m);
    uint32_t n, n_away;

    if (own) /* it was only closed for a moment */
        return own;
    n = fetch(pool, d, m->slot, lot_of(m));
    if (n > 0) {
        grow(m);
        store_relaxed(&m->n, n - 1);
        return m->slot[n - 1];
    }
    n_away = load_relaxed(&m->n_away);
    if (n_away == 0) {
        n_away = steal(pool, d, stolen, (m->least + 1) / 2);
        for (uint32_t i = 0; i < n_away; i++)
            store_relaxed(&m->away[i], stolen[i]);
    }
    if (n_away == 0)
        return NULL;
    store_relaxed(&m->n_away, n_away - 1);
    return load_relaxed(&m->away[n_away - 1]);
}

/* ---- the last resort ---- */

/* Nothing moves between depots while all their locks are held, nor is made. */
static void lock_all(struct flow_pool *pool, bool yes)
{
    int n = load_relaxed(&pool->n_depots);

    for (int i = 0; i < n; i++) {
        struct flow__depot *d = load_relaxed(&pool->depot[i]);

        if (d && yes)
            flow__lock(&d->grow_lock);
        else if (d)
            flow__unlock(&d->lock);
    }
    for (int i = 0; i < n; i++) {
        struct flow__depot *d = load_relaxed(&pool->depot[i]);

        if (d && yes)
            flow__lock(&d->lock);
        else if (d)
            flow__unlock(&d->grow_lock);
    }
}

/* One block, if any is free. With the magazines closed and everything locked this is exact. */
static void *search_all(struct flow_pool *pool, struct flow__depot *home, bool *room)
{
    void *block = flow__depot_take_one_locked(pool, home);

    if (!block) {
        struct flow__depot *victim = nearest(pool, home->node, true);

        block = victim ? flow__depot_take_one_locked(pool, victim) : NULL;
        if (block)
            fetch_add_relaxed(&home->stolen, 1);
    }
    *room = !pool->max_blocks || load_relaxed(&pool->total) < pool->max_blocks;
    return block;
}

/* When the depots are empty and no more blocks could be made: looks into all magazines. Magazines stay
 * closed until the depots have blocks again, so that a pool at its cap does not do this often. */
static __attribute__((cold)) void *last_resort(struct flow_pool *pool, struct flow__depot *d)
{
    for (;;) {
        void *block;
        bool room;

        flow__lock(&pool->lock);
        flow__magazines_close(pool);
        lock_all(pool, true);
        block = search_all(pool, d, &room);
        lock_all(pool, false);
        flow__unlock(&pool->lock);
        if (block || !room)
            return block;
        if (flow__depot_grow(pool, d) == -ENOMEM)
            return NULL;
        /* Made, or somebody else has used the room. */
    }
}

/* ---- taking ---- */

static __attribute__((noinline)) void *alloc_slowly(struct flow_pool *pool)
{
    int node = flow__pool_home_node(pool);
    struct flow__depot *d = flow__depot_of(pool, node);
    struct flow__magazine *m = flow__magazine_own(pool);
    void *block;

    if (flow__unlikely(!d)) /* no memory for one of its own; the pool was made with one */
        d = nearest(pool, node, false);
    if (flow__unlikely(load_relaxed(&pool->closed)))
        flow__magazines_reopen(pool);
    if (flow__owned_worker && !m)
        m = flow__magazine_make(pool, d->node);
    if (m && flow__magazine_enter(m)) {
        if (flow__unlikely(load_relaxed(&m->node) != d->node))
            flow__magazine_move(pool, m, d->node);
        block = refill(pool, m, d);
        flow__magazine_leave(m);
    } else {
        block = take_directly(pool, d);
    }
    if (!block)
        block = last_resort(pool, d);
    return block ? hand_out(pool, block) : NULL;
}

__attribute__((noinline)) void *flow_pool_alloc(flow_pool *pool)
{
    struct flow__magazine *m = flow__magazine_own(pool);

    if (flow__likely(m && flow__magazine_enter(m))) {
        void *block = take_from(m);

        flow__magazine_leave(m);
        if (flow__likely(block != NULL))
            return hand_out(pool, block);
    }
    return alloc_slowly(pool);
}

/* ---- giving back ---- */

/* Puts a block of its node into a magazine. False: it is full. */
static inline bool put_into(struct flow__magazine *m, void *block)
{
    void *before = load_relaxed(&m->last);

    if (flow__unlikely(before != NULL)) {
        uint32_t n = load_relaxed(&m->n);

        if (flow__unlikely(n == m->capacity))
            return false;
        m->slot[n] = before;
        store_relaxed(&m->n, n + 1);
    }
    store_relaxed(&m->last, block);
    return true;
}

static void make_room(struct flow_pool *pool, struct flow__magazine *m)
{
    if (m->capacity < m->most)
        grow(m);
    else
        flow__give_slots_home(pool, m, m->capacity - lot_of(m));
}

static void put_away(struct flow_pool *pool, struct flow__magazine *m, void *block)
{
    uint32_t n = load_relaxed(&m->n_away);

    if (n == m->least) {
        flow__give_away_home(pool, m);
        n = 0;
    }
    store_relaxed(&m->away[n], block);
    store_relaxed(&m->n_away, n + 1);
    count_up(&m->remote_frees, 1);
}

/* Into an open magazine, wherever the block is from. */
static void put(struct flow_pool *pool, struct flow__magazine *m, struct flow__chunk *c, void *block)
{
    if (c->node != load_relaxed(&m->node)) {
        put_away(pool, m, block);
        return;
    }
    *flow__seen_chunk(m, block) = c;
    if (put_into(m, block))
        return;
    make_room(pool, m);
    put_into(m, block);
}

/* home: the depot of the caller's own node, or NULL. */
static void give_directly(struct flow_pool *pool, struct flow__depot *home, int node, void *block)
{
    flow__depot_give(pool, flow__depot_of(pool, node), &block, 1);
    if (home && home->node != node)
        fetch_add_relaxed(&home->remote_frees, 1);
    if (flow__unlikely(load_relaxed(&pool->closed)))
        flow__magazines_reopen(pool);
}

/* With its chunk looked up on the map. */
static __attribute__((noinline)) int free_by_map(struct flow_pool *pool, void *block)
{
    struct flow__chunk *c = flow__chunk_at(block);
    struct flow__magazine *m = flow__magazine_own(pool);
    struct flow__depot *home;
    int r = look(pool, c, block), node;

    if (flow__unlikely(r))
        return block ? flow__pool_refuse(pool, block, r) : 0;
    node = c->node; /* the chunk may go as soon as the block is free */
    note_use(pool, c, block, false);
    flow__block_shut(&pool->cut, block);
    home = flow__owned_worker ? flow__depot_of(pool, flow__pool_home_node(pool)) : NULL;
    if (flow__unlikely(home && !m))
        m = flow__magazine_make(pool, home->node);
    if (flow__likely(home && m && flow__magazine_enter(m))) {
        if (flow__unlikely(load_relaxed(&m->node) != home->node))
            flow__magazine_move(pool, m, home->node);
        put(pool, m, c, block);
        flow__magazine_leave(m);
    } else {
        give_directly(pool, home, node, block);
    }
    return 0;
}

/* Into an open magazine, which it leaves; apart, so that the quick way needs no stack frame. */
static __attribute__((noinline)) int free_into_full(struct flow_pool *pool,
                                                    struct flow__magazine *m, void *block)
{
    make_room(pool, m);
    put_into(m, block);
    flow__magazine_leave(m);
    return 0;
}

/* The quick way is for blocks of chunks that the magazine remembers: they are ours, of this node, and
 * need no look at the map. */
__attribute__((noinline)) int flow_pool_free(flow_pool *pool, void *block)
{
    struct flow__magazine *m = flow__magazine_own(pool);

    if (flow__likely(m && flow__magazine_enter(m))) {
        struct flow__chunk *c = *flow__seen_chunk(m, block);

        if (flow__likely(!look_inside(pool, c, block))) {
            note_use(pool, c, block, false);
            flow__block_shut(&pool->cut, block);
            if (flow__unlikely(!put_into(m, block)))
                return free_into_full(pool, m, block);
            flow__magazine_leave(m);
            return 0;
        }
        flow__magazine_leave(m);
    }
    return free_by_map(pool, block);
}
