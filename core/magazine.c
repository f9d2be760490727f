/* SPDX-License-Identifier: MIT
 *
 * Making, emptying, closing and opening magazines; see core/magazine.h. Owners, or who holds the
 * pool's lock; nothing suspends. */
#include "core/magazine.h"

#include "core/arena.h"

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
    flow__tsan_before(m);
    store_relaxed(&m->n, keep);
    if (keep > 0 || !last)
        return;
    flow__depot_give(pool, home, &last, 1);
    store_relaxed(&m->last, NULL);
}

static void forget_chunks(struct flow__magazine *m)
{
    for (int i = 0; i < FLOW__SEEN_CHUNKS; i++)
        m->seen[i] = &flow__no_chunk;
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
        if (i < flow__rounds(100))
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
            forget_chunks(m); /* flow_pool_shrink may take them away */
            m->capacity = m->least;
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

/* At most n, fewer of large blocks, and in all magazines no more than a part of the pool's cap. */
static uint32_t capacity_for(const struct flow_pool *pool, uint32_t n, size_t part)
{
    size_t most = FLOW__MAGAZINE_MOST / pool->cut.stride;
    size_t share = pool->max_blocks / (part * (size_t)flow__runtime.n_places);

    if (pool->max_blocks && most > share)
        most = share;
    return most > n ? n : (uint32_t)most;
}

struct flow__magazine *flow__magazine_make(struct flow_pool *pool, int node)
{
    uint32_t least = pool->magazines_work ? capacity_for(pool, FLOW__MAGAZINE, 2) : 0;
    /* A pool near its cap should not have to raid them all the time. */
    uint32_t most = capacity_for(pool, FLOW__MAGAZINE_GROWN, 16);
    struct flow__magazine *m;

    if (least < 2)
        return NULL;
    m = flow__arena_map(sizeof *m, -1, 0); /* the owner touches it first */
    if (!m)
        return NULL;
    m->least = m->capacity = least;
    m->most = most > least ? most : least;
    forget_chunks(m);
    store_relaxed(&m->node, node);
    flow__lock(&pool->lock);
    store_relaxed(&m->closed, load_relaxed(&pool->closed));
    store_release(&pool->magazine[flow__owned_seat], m); /* [POOL-2] also for stats */
    if (load_relaxed(&pool->n_magazines) <= (uint32_t)flow__owned_seat)
        store_relaxed(&pool->n_magazines, (uint32_t)flow__owned_seat + 1);
    flow__unlock(&pool->lock);
    flow__tsan_before(m);
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
    forget_chunks(m);
}
