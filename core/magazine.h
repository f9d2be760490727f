/* SPDX-License-Identifier: MIT
 *
 * The magazines of a pool: how their owners use them, and how others close them. The protocol stands
 * in core/pool.h. */
#ifndef FLOW_CORE_MAGAZINE_H
#define FLOW_CORE_MAGAZINE_H

#include "core/pool.h"

/* ---- the owner ---- */

/* The magazine of the worker that runs this thread, or NULL. */
static inline struct flow__magazine *flow__magazine_own(struct flow_pool *pool)
{
    return load_relaxed(&pool->magazine[flow__owned_seat]);
}

static inline void flow__magazine_leave(struct flow__magazine *m)
{
    /* [POOL-5] release: pairs with [POOL-6]; what the owner did to the magazine is visible. */
    store_release(&m->busy, 0);
}

/* True: it is open, and the caller's, who owns it, until flow__magazine_leave. */
static inline bool flow__magazine_enter(struct flow__magazine *m)
{
    flow__assert(load_relaxed(&m->busy) == 0);
    flow__tsan_after(m); /* its slots are moved by memmove, which TSan watches wherever it is called */
    store_relaxed(&m->busy, 1);
    /* [POOL-3] no more than order for the compiler: pairs with [POOL-4], where membarrier makes
     * a full barrier of it, between this store and the load of closed. */
    compiler_barrier();
    /* [POOL-7] acquire: pairs with [POOL-8]; what was done to it while it was closed is visible. */
    if (flow__likely(!load_acquire(&m->closed)))
        return true;
    flow__magazine_leave(m);
    return false;
}

/* Blocks of its node. */
static inline uint32_t flow__magazine_count(const struct flow__magazine *m)
{
    return load_relaxed(&m->n) + (load_relaxed(&m->last) != NULL);
}

/* Where a magazine remembers the chunk that a block lies in: another one of its blocks needs no look at
 * the map. No two chunks share a segment of addresses. */
static inline struct flow__chunk **flow__seen_chunk(struct flow__magazine *m, const void *block)
{
    return &m->seen[((uintptr_t)block >> FLOW__CHUNK_SHIFT) % FLOW__SEEN_CHUNKS];
}

/* Makes the calling worker's magazine. NULL: it is to have none, or there is no memory. The node's
 * depot exists. */
struct flow__magazine *flow__magazine_make(struct flow_pool *pool, int node);

/* For a worker that sits on another node than in the runtime before. While entered. */
void flow__magazine_move(struct flow_pool *pool, struct flow__magazine *m, int node);

/* While entered, or closed: free blocks go home, of the slots all but the `keep` youngest. */
void flow__give_slots_home(struct flow_pool *pool, struct flow__magazine *m, uint32_t keep);
void flow__give_away_home(struct flow_pool *pool, struct flow__magazine *m);

/* ---- anyone ---- */

/* Empties all magazines into the depots and leaves them closed. False: it cannot be done here. Under
 * the pool's lock. */
bool flow__magazines_close(struct flow_pool *pool);

/* Opens them; under the pool's lock. */
void flow__magazines_open(struct flow_pool *pool);

/* If they are closed: opens them unless that would soon leave the depots empty again. */
void flow__magazines_reopen(struct flow_pool *pool);

#endif
