/* SPDX-License-Identifier: MIT
 *
 * Making, emptying, closing and opening magazines; see core/magazine.h. Owners, or who holds the
 * pool's lock; nothing suspends. */
#include "core/magazine.h"

#include <string.h>

#define NAP_NS 50000 /* while an owner that was preempted is inside its magazine */

/* ---- giving blocks home; by the owner, or under the pool's lock while closed ---- */

/* Gives free blocks of any nodes home, those of a node together. blocks[] is changed. */
static void give_home(struct flow_pool *pool, void **blocks, uint32_t n)
{
    while (n > 0) {
        int node = flow__chunk_at(blocks[n - 1])->node;
        uint32_t others = 0;
        void *batch[FLOW__MAGAZINE];
        uint32_t n_batch = 0;

        for (uint32_t i = 0; i < n; i++) {
            if (flow__chunk_at(blocks[i])->node == node)
                batch[n_batch++] = blocks[i];
            else
                blocks[others++] = blocks[i];
        }
        flow__depot_give(pool, load_relaxed(&pool->depot[node]), batch, n_batch);
        n = others;
    }
}

void flow__give_away_home(struct flow_pool *pool, struct flow__magazine *m)
{
    uint32_t n = load_relaxed(&m->n_away);
    void *blocks[FLOW__MAGAZINE];

    for (uint32_t i = 0; i < n; i++)
        blocks[i] = load_relaxed(&m->away[i]);
    give_home(pool, blocks, n);
    store_relaxed(&m->n_away, 0);
}

void flow__give_slots_home(struct flow_pool *pool, struct flow__magazine *m, uint32_t keep)
{
    /* Exists if anything of it is here; it is not made now, for that takes the pool's lock. */
    struct flow__depot *home = load_relaxed(&pool->depot[load_relaxed(&m->node)]);
    uint32_t n = load_relaxed(&m->n) - keep;
    void *last = load_relaxed(&m->last);

    if (n > 0)
        flow__depot_give(pool, home, m->slot, n);
    memmove(m->slot, m->slot + n, keep * sizeof *m->slot);
    store_relaxed(&m->n, keep);
    if (keep > 0 || !last)
        return;
    flow__depot_give(pool, home, &last, 1);
    store_relaxed(&m->last, NULL);
}

/* ---- closing and opening; under the pool's lock ---- */

static void open_magazine(struct flow__magazine *m)
{
    /* [POOL-8] release: pairs with [POOL-7]. */
    store_release(&m->closed, 0);
}

void flow__magazines_open(struct flow_pool *pool)
{
    for (uint32_t i = 0; i < load_relaxed(&pool->n_magazines); i++) {
        struct flow__magazine *m = load_relaxed(&pool->magazine[i]);

        if (m)
            open_magazine(m);
    }
    store_relaxed(&pool->closed, false);
}

static void wait_for_owner(struct flow__magazine *m)
{
    /* [POOL-6] acquire: pairs with [POOL-5]. */
    for (int i = 0; load_acquire(&m->busy); i++) {
        if (i < 100)
            flow__pause();
        else
            flow__sys.futex_wait(&m->busy, 1, flow__sys.now() + NAP_NS); /* nobody wakes us */
    }
}

bool flow__magazines_close(struct flow_pool *pool)
{
    if (load_relaxed(&pool->closed) || load_relaxed(&pool->n_magazines) == 0)
        return true;
    for (uint32_t i = 0; i < load_relaxed(&pool->n_magazines); i++) {
        struct flow__magazine *m = load_relaxed(&pool->magazine[i]);

        if (m)
            store_relaxed(&m->closed, 1);
    }
    /* [POOL-4] a full barrier in every thread: pairs with [POOL-3]. */
    if (flow__sys.barrier()) {
        flow__magazines_open(pool);
        return false;
    }
    for (uint32_t i = 0; i < load_relaxed(&pool->n_magazines); i++) {
        struct flow__magazine *m = load_relaxed(&pool->magazine[i]);

        if (m) {
            wait_for_owner(m);
            flow__give_slots_home(pool, m, 0);
            flow__give_away_home(pool, m);
            m->chunk = &flow__no_chunk; /* flow_pool_shrink may take it away */
        }
    }
    store_relaxed(&pool->closed, true);
    fetch_add_relaxed(&pool->raids, 1);
    return true;
}

static uint64_t free_in_depots(struct flow_pool *pool)
{
    int n = load_acquire(&pool->n_depots); /* [POOL-1] */
    uint64_t sum = 0;

    for (int i = 0; i < n; i++) {
        struct flow__depot *d = load_acquire(&pool->depot[i]); /* [POOL-1] */

        sum += d ? load_relaxed(&d->n_free) : 0;
    }
    return sum;
}

/* So many free blocks that filling the magazines does not soon leave the depots empty again. */
static bool has_plenty(struct flow_pool *pool)
{
    uint64_t quarter = load_relaxed(&pool->total) / 4;
    uint64_t fill = (uint64_t)load_relaxed(&pool->n_magazines) * FLOW__MAGAZINE / 2;

    return free_in_depots(pool) > (quarter < fill ? quarter : fill);
}

void flow__magazines_reopen(struct flow_pool *pool)
{
    if (!has_plenty(pool))
        return;
    flow__lock(&pool->lock);
    if (load_relaxed(&pool->closed) && has_plenty(pool))
        flow__magazines_open(pool);
    flow__unlock(&pool->lock);
}

/* ---- making and moving ---- */

static uint32_t capacity_for(const struct flow_pool *pool)
{
    size_t most = FLOW__MAGAZINE_MOST / pool->cut.stride;

    if (pool->max_blocks && most > pool->max_blocks / (2 * (size_t)flow__runtime.n_places))
        most = pool->max_blocks / (2 * (size_t)flow__runtime.n_places);
    return most > FLOW__MAGAZINE ? FLOW__MAGAZINE : (uint32_t)most;
}

struct flow__magazine *flow__magazine_make(struct flow_pool *pool, int node)
{
    uint32_t capacity = pool->magazines_work ? capacity_for(pool) : 0;
    struct flow__magazine *m;
    void *p;

    if (capacity < 2)
        return NULL;
    p = flow__sys.allocate(sizeof *m + FLOW__CACHE_LINE);
    if (!p)
        return NULL;
    m = (struct flow__magazine *)(((uintptr_t)p + FLOW__CACHE_LINE - 1) &
                                  ~(uintptr_t)(FLOW__CACHE_LINE - 1));
    m->allocation = p;
    m->capacity = capacity;
    m->chunk = &flow__no_chunk;
    store_relaxed(&m->node, node);
    flow__lock(&pool->lock);
    store_relaxed(&m->closed, load_relaxed(&pool->closed));
    store_release(&pool->magazine[flow__owned_seat], m); /* [POOL-2] also for stats */
    if (load_relaxed(&pool->n_magazines) <= (uint32_t)flow__owned_seat)
        store_relaxed(&pool->n_magazines, (uint32_t)flow__owned_seat + 1);
    flow__unlock(&pool->lock);
    return m;
}

void flow__magazine_move(struct flow_pool *pool, struct flow__magazine *m, int node)
{
    struct flow__depot *old = load_relaxed(&pool->depot[load_relaxed(&m->node)]);

    flow__give_slots_home(pool, m, 0);
    flow__give_away_home(pool, m);
    fetch_add_relaxed(&old->remote_frees, load_relaxed(&m->remote_frees));
    store_relaxed(&m->remote_frees, 0);
    store_relaxed(&m->node, node);
    m->chunk = &flow__no_chunk;
}
