/* SPDX-License-Identifier: MIT
 *
 * The depot of a node: its chunks, and its free blocks as numbers in the chunks' indexes. Any
 * thread, under the depot's lock. A block is never written to here, except for the mark of one that was
 * never used: what was freed elsewhere stays in that CPU's cache until somebody wants it. */
#include "core/pool.h"

#include "core/arena.h"

#include <errno.h>

/* ---- the chunks that have free blocks; under the lock ---- */

static uint32_t free_of(const struct flow__chunk *c)
{
    return c->n_indexed + c->n_blocks - load_relaxed(&c->bound);
}

static void list_as_ready(struct flow__depot *d, struct flow__chunk *c)
{
    c->next = NULL;
    c->previous = d->ready_last;
    *(d->ready_last ? &d->ready_last->next : &d->ready) = c;
    d->ready_last = c;
}

static void unlist(struct flow__depot *d, struct flow__chunk *c)
{
    *(c->previous ? &c->previous->next : &d->ready) = c->next;
    *(c->next ? &c->next->previous : &d->ready_last) = c->previous;
}

/* The number of blocks, so that nobody sees more free ones than there are. */
static void count_free(struct flow__depot *d, int64_t change)
{
    store_relaxed(&d->n_free, load_relaxed(&d->n_free) + (uint64_t)change);
}

/* Blocks that were used before: they may be warm, and on other pages than the ones not yet touched. */
static uint32_t take_indexed(struct flow_pool *pool, struct flow__depot *d, void **out, uint32_t n)
{
    uint32_t got = 0;

    for (struct flow__chunk *c = d->ready, *next; c && got < n; c = next) {
        next = c->next;
        while (c->n_indexed > 0 && got < n)
            out[got++] = flow__block_at(c, &pool->cut, c->free_index[--c->n_indexed]);
        if (free_of(c) == 0)
            unlist(d, c);
    }
    return got;
}

static uint32_t take_unused(struct flow_pool *pool, struct flow__depot *d, void **out, uint32_t n)
{
    struct flow__chunk *c = d->ready;
    uint32_t bound, got = 0;

    if (!c)
        return 0;
    bound = load_relaxed(&c->bound);
    while (got < n && bound < c->n_blocks)
        out[got++] = flow__block_at(c, &pool->cut, bound++);
    store_relaxed(&c->bound, bound);
    if (free_of(c) == 0)
        unlist(d, c);
    return got;
}

uint32_t flow__depot_take(struct flow_pool *pool, struct flow__depot *d, void **out, uint32_t n)
{
    bool unused = false;
    uint32_t got;

    flow__lock(&d->lock);
    got = take_indexed(pool, d, out, n);
    if (got == 0) {
        got = take_unused(pool, d, out, n);
        unused = true;
    }
    count_free(d, -(int64_t)got);
    flow__unlock(&d->lock);
    /* Outside of the lock: it may be the page's first touch. */
    for (uint32_t i = 0; unused && i < got; i++)
        flow__block_mark(&pool->cut, out[i]);
    return got;
}

void *flow__depot_take_one_locked(struct flow_pool *pool, struct flow__depot *d)
{
    void *block = NULL;
    uint32_t got = take_indexed(pool, d, &block, 1);

    if (got == 0)
        got = take_unused(pool, d, &block, 1);
    count_free(d, -(int64_t)got);
    return block;
}

void flow__depot_give(struct flow_pool *pool, struct flow__depot *d, void *const *blocks,
                      uint32_t n)
{
    struct flow__chunk *c = &flow__no_chunk;

    flow__lock(&d->lock);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t number = flow__block_number(c, &pool->cut, blocks[i]);

        if (number >= c->n_blocks) { /* another chunk than the last one's */
            c = flow__chunk_at(blocks[i]);
            number = flow__block_number(c, &pool->cut, blocks[i]);
        }
        flow__assert(number < load_relaxed(&c->bound) && c->node == d->node);
        if (flow__unlikely(free_of(c) == 0))
            list_as_ready(d, c);
        c->free_index[c->n_indexed++] = (uint32_t)number;
    }
    count_free(d, n);
    flow__unlock(&d->lock);
}

/* ---- growing; under grow_lock ---- */

/* Blocks that the pool may still make, at most `want`; they count as made from now on. */
static uint64_t reserve(struct flow_pool *pool, uint64_t want)
{
    uint64_t total = load_relaxed(&pool->total), n;

    do {
        uint64_t room = pool->max_blocks ? pool->max_blocks - total : UINT64_MAX - total;

        n = want < room ? want : room;
    } while (!cas_seq(&pool->total, &total, total + n));
    return n;
}

/* The most that a chunk may have. */
static uint64_t chunk_limit(const struct flow_pool *pool)
{
    uint64_t n = FLOW__CHUNK_MOST / pool->cut.stride;

    return n > 0 ? n : 1;
}

/* How many blocks a node that has `total` makes next. */
static uint64_t next_blocks(const struct flow_pool *pool, uint64_t total)
{
    double more = (double)total * (pool->factor - 1);
    uint64_t first = pool->initial_blocks ? pool->initial_blocks : FLOW__FIRST_BLOCKS;
    uint64_t limit = chunk_limit(pool);
    uint64_t n = more < (double)limit ? (uint64_t)(more + 0.5) : limit;

    if (total == 0)
        n = first < limit ? first : limit;
    return n > 0 ? n : 1;
}

static void link_chunk(struct flow__depot *d, struct flow__chunk *c)
{
    flow__lock(&d->lock);
    c->next_of_all = d->chunks;
    d->chunks = c;
    list_as_ready(d, c);
    store_relaxed(&d->total, load_relaxed(&d->total) + c->n_blocks);
    store_relaxed(&d->n_chunks, load_relaxed(&d->n_chunks) + 1);
    store_relaxed(&d->bytes, load_relaxed(&d->bytes) + c->mapped_bytes);
    count_free(d, c->n_blocks);
    flow__unlock(&d->lock);
}

/* Fewer if the system refuses so many. */
static int make_some(struct flow_pool *pool, struct flow__depot *d)
{
    uint64_t n = reserve(pool, next_blocks(pool, load_relaxed(&d->total)));
    struct flow__chunk *c = NULL;
    uint64_t made = n;

    if (n == 0)
        return -ENOSPC;
    while (!(c = flow__chunk_make(pool, &pool->cut, d->node, (uint32_t)made)) && made > 1)
        made /= 2;
    if (!c)
        made = 0;
    fetch_sub_seq(&pool->total, n - made);
    if (!c)
        return -ENOMEM;
    link_chunk(d, c);
    return 0;
}

int flow__depot_grow(struct flow_pool *pool, struct flow__depot *d)
{
    int r = 0;

    flow__lock(&d->grow_lock);
    if (load_relaxed(&d->n_free) == 0)
        r = make_some(pool, d);
    flow__unlock(&d->grow_lock);
    return r;
}

int flow__depot_make_blocks(struct flow_pool *pool, struct flow__depot *d, uint64_t n)
{
    while (n > 0) {
        uint64_t limit = chunk_limit(pool), now = n < limit ? n : limit;
        struct flow__chunk *c = flow__chunk_make(pool, &pool->cut, d->node, (uint32_t)now);

        if (!c)
            return -ENOMEM;
        fetch_add_seq(&pool->total, now);
        link_chunk(d, c);
        n -= now;
    }
    return 0;
}

struct flow__chunk *flow__depot_take_empty(struct flow_pool *pool, struct flow__depot *d,
                                           struct flow__chunk *empty)
{
    struct flow__chunk **at = &d->chunks;

    flow__lock(&d->lock);
    while (*at) {
        struct flow__chunk *c = *at;

        if (free_of(c) < c->n_blocks) {
            at = &c->next_of_all;
            continue;
        }
        unlist(d, c);
        *at = c->next_of_all;
        c->next_of_all = empty;
        empty = c;
        store_relaxed(&d->total, load_relaxed(&d->total) - c->n_blocks);
        store_relaxed(&d->n_chunks, load_relaxed(&d->n_chunks) - 1);
        store_relaxed(&d->bytes, load_relaxed(&d->bytes) - c->mapped_bytes);
        count_free(d, -(int64_t)c->n_blocks);
        fetch_sub_seq(&pool->total, c->n_blocks);
    }
    flow__unlock(&d->lock);
    return empty;
}

/* ---- depots ---- */

static struct flow__depot *make_depot(struct flow_pool *pool, int node)
{
    struct flow__depot *d;

    flow__lock(&pool->lock);
    d = load_relaxed(&pool->depot[node]);
    if (!d)
        d = flow__arena_map(sizeof *d, node, 0);
    if (d && !load_relaxed(&pool->depot[node])) {
        d->node = node;
        /* [POOL-2] release: pairs with [POOL-1]; the depot is filled in. */
        store_release(&pool->depot[node], d);
        if (node >= load_relaxed(&pool->n_depots))
            store_release(&pool->n_depots, node + 1);
    }
    flow__unlock(&pool->lock);
    return d;
}

struct flow__depot *flow__depot_of(struct flow_pool *pool, int node)
{
    /* [POOL-1] acquire: pairs with [POOL-2]. */
    struct flow__depot *d = load_acquire(&pool->depot[node]);

    return flow__likely(d != NULL) ? d : make_depot(pool, node);
}
