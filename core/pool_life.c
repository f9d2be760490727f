/* SPDX-License-Identifier: MIT
 *
 * Making, measuring, shrinking and destroying pools. Any thread, seldom. */
#include "core/arena.h"
#include "core/magazine.h"
#include "core/pool.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MOST_BLOCK_BYTES ((size_t)64 << 20)
#define SHOWN_LEAKS      8

/* ---- making ---- */

static int check(const struct flow_pool_options *o)
{
    if (!o || o->size != sizeof *o || o->block_bytes < 1 || o->block_bytes > MOST_BLOCK_BYTES)
        return -EINVAL;
    if (o->alignment & (o->alignment - 1) || o->alignment > (size_t)sysconf(_SC_PAGESIZE))
        return -EINVAL;
    if (o->max_blocks && o->initial_blocks > o->max_blocks)
        return -EINVAL;
    if (o->expansion_factor != o->expansion_factor)
        return -EINVAL;
    return o->node >= -1 && o->node < flow__arena_nodes() ? 0 : -EINVAL;
}

static size_t alignment_of(const struct flow_pool_options *o)
{
    if (o->alignment)
        return o->alignment < 8 ? 8 : o->alignment;
    return o->block_bytes < 16 ? 8 : 16;
}

static double clamp(double factor)
{
    if (factor < FLOW_POOL_FACTOR_LEAST)
        return FLOW_POOL_FACTOR_LEAST;
    return factor > FLOW_POOL_FACTOR_MOST ? FLOW_POOL_FACTOR_MOST : factor;
}

/* Something that user data hardly ever equals. The finalizer of MurmurHash3 (Appleby, 2011). */
static uint64_t make_secret(const struct flow_pool *pool)
{
    uint64_t x = (uint64_t)(uintptr_t)pool ^ (uint64_t)flow__sys.now();

    x = (x ^ x >> 33) * 0xff51afd7ed558ccd;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53;
    return x ^ x >> 33;
}

static void fill_in(struct flow_pool *pool, const struct flow_pool_options *o)
{
    flow__cut_make(&pool->cut, o->block_bytes, alignment_of(o));
    pool->cut.secret = make_secret(pool);
    pool->node = o->node;
    pool->initial_blocks = o->initial_blocks;
    pool->max_blocks = o->max_blocks;
    pool->factor = clamp(o->expansion_factor);
    snprintf(pool->name, sizeof pool->name, "%s", o->name ? o->name : "pool");
    /* Also the registration with the kernel. */
    pool->magazines_work = flow__sys.barrier() == 0;
}

int flow__pool_create(flow_pool **out, const struct flow_pool_options *options,
                      void (*retire)(void *block, void *arg), void *arg)
{
    int r = out ? check(options) : -EINVAL;
    struct flow__depot *d;
    struct flow_pool *pool;

    if (r)
        return r;
    pool = flow__arena_map(sizeof *pool, -1, 0);
    if (!pool)
        return -ENOMEM;
    flow__chunks_open();
    fill_in(pool, options);
    pool->retire = retire;
    pool->retire_arg = arg;
    d = flow__depot_of(pool, flow__pool_home_node(pool));
    r = d ? flow__depot_make_blocks(pool, d, options->initial_blocks) : -ENOMEM;
    if (r) {
        flow_pool_destroy(pool);
        return r;
    }
    *out = pool;
    return 0;
}

int flow_pool_create(flow_pool **out, const struct flow_pool_options *options)
{
    return flow__pool_create(out, options, NULL, NULL);
}

/* ---- looking ---- */

static void add_depot(const struct flow__depot *d, struct flow_pool_stats *stats)
{
    stats->total_blocks += load_relaxed(&d->total);
    stats->free_blocks += load_relaxed(&d->n_free);
    stats->chunks += load_relaxed(&d->n_chunks);
    stats->bytes += load_relaxed(&d->bytes);
    stats->remote_frees += load_relaxed(&d->remote_frees);
    stats->stolen_blocks += load_relaxed(&d->stolen);
}

static uint64_t away_of(const struct flow__magazine *m, int node)
{
    uint32_t n = load_relaxed(&m->n_away);
    uint64_t sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        const struct flow__chunk *c = flow__chunk_at(load_relaxed(&m->away[i]));

        sum += c && c->node == node;
    }
    return sum;
}

/* The magazines' part in the stats of a node, or of all (-1). */
static void add_magazine(const struct flow__magazine *m, int node, struct flow_pool_stats *stats)
{
    if (node < 0 || node == load_relaxed(&m->node)) {
        stats->free_blocks += flow__magazine_count(m);
        stats->remote_frees += load_relaxed(&m->remote_frees);
    }
    stats->free_blocks += node < 0 ? load_relaxed(&m->n_away) : away_of(m, node);
}

static int measure(flow_pool *pool, int node, struct flow_pool_stats *stats)
{
    if (!stats || stats->size != sizeof *stats)
        return -EINVAL;
    *stats = (struct flow_pool_stats){sizeof *stats, pool->cut.block_bytes, pool->cut.stride};
    stats->max_blocks = pool->max_blocks;
    stats->raids = node < 0 ? load_relaxed(&pool->raids) : 0;
    for (int i = 0; i < load_acquire(&pool->n_depots); i++) { /* [POOL-1] */
        struct flow__depot *d = load_acquire(&pool->depot[i]); /* [POOL-1] */

        if (d && (node < 0 || node == i))
            add_depot(d, stats);
    }
    for (uint32_t i = 0; i < load_relaxed(&pool->n_magazines); i++) {
        struct flow__magazine *m = load_acquire(&pool->magazine[i]); /* [POOL-1] */

        if (m)
            add_magazine(m, node, stats);
    }
    /* Others may have moved blocks between two of our looks. */
    if (stats->free_blocks > stats->total_blocks)
        stats->free_blocks = stats->total_blocks;
    stats->used_blocks = stats->total_blocks - stats->free_blocks;
    return 0;
}

int flow_pool_stats(flow_pool *pool, struct flow_pool_stats *stats)
{
    return measure(pool, -1, stats);
}

int flow_pool_node_stats(flow_pool *pool, int node, struct flow_pool_stats *stats)
{
    return node < 0 || node >= FLOW__POOL_NODES ? -EINVAL : measure(pool, node, stats);
}

/* ---- the equations ---- */

static bool depot_is_sound(struct flow__depot *d)
{
    uint64_t total = 0, n_free = 0, chunks = 0, ready = 0;
    bool sound;

    flow__lock(&d->lock);
    for (struct flow__chunk *c = d->chunks; c; c = c->next_of_all) {
        uint64_t free_here = c->n_indexed + c->n_blocks - load_relaxed(&c->bound);

        total += c->n_blocks;
        n_free += free_here;
        chunks++;
        ready += free_here > 0;
    }
    for (struct flow__chunk *c = d->ready; c; c = c->next)
        ready--;
    sound = total == load_relaxed(&d->total) && n_free == load_relaxed(&d->n_free) &&
            chunks == load_relaxed(&d->n_chunks) && ready == 0;
    flow__unlock(&d->lock);
    return sound;
}

/* By the blocks themselves, which only debug builds know. */
static uint64_t count_used(struct flow_pool *pool, int node)
{
    uint64_t n = 0;

#ifdef FLOW_DEBUG
    struct flow__depot *d = load_relaxed(&pool->depot[node]);

    for (struct flow__chunk *c = d ? d->chunks : NULL; c; c = c->next_of_all)
        for (uint32_t i = 0; i < load_relaxed(&c->bound); i++)
            n += c->in_use[i];
#else
    struct flow_pool_stats stats = {sizeof stats};

    measure(pool, node, &stats);
    n = stats.used_blocks;
#endif
    return n;
}

bool flow__pool_is_sound(flow_pool *pool)
{
    struct flow_pool_stats all = {sizeof all}, one = {sizeof one};
    uint64_t total = 0, used = 0;
    bool sound = true;

    measure(pool, -1, &all);
    for (int i = 0; i < load_relaxed(&pool->n_depots); i++) {
        struct flow__depot *d = load_relaxed(&pool->depot[i]);

        measure(pool, i, &one);
        sound &= !d || depot_is_sound(d);
        sound &= one.used_blocks == count_used(pool, i);
        total += one.total_blocks;
        used += one.used_blocks;
    }
    return sound && total == all.total_blocks && used == all.used_blocks &&
           total == load_relaxed(&pool->total) && (!pool->max_blocks || total <= pool->max_blocks);
}

/* ---- giving memory back ---- */

/* The free blocks that were handed out before; with no lock held. */
static void retire_blocks(struct flow_pool *pool, struct flow__chunk *c)
{
    for (uint32_t i = 0; pool->retire && i < c->n_indexed; i++)
        pool->retire(flow__block_at(c, &pool->cut, c->free_index[i]), pool->retire_arg);
}

static int unmake_chunks(struct flow_pool *pool, struct flow__chunk *c)
{
    int n = 0;

    for (struct flow__chunk *next; c; c = next, n++) {
        next = c->next_of_all;
        retire_blocks(pool, c);
        flow__chunk_unmake(c);
    }
    return n;
}

/* Under the pool's lock, with the magazines closed: an open one might remember such a chunk. */
static struct flow__chunk *take_empty_chunks(struct flow_pool *pool)
{
    struct flow__chunk *empty = NULL;

    for (int i = 0; i < load_relaxed(&pool->n_depots); i++) {
        struct flow__depot *d = load_relaxed(&pool->depot[i]);

        if (d)
            empty = flow__depot_take_empty(pool, d, empty);
    }
    return empty;
}

int flow_pool_shrink(flow_pool *pool)
{
    struct flow__chunk *empty = NULL;
    bool were_closed;

    flow__lock(&pool->lock);
    were_closed = load_relaxed(&pool->closed);
    if (flow__magazines_close(pool)) {
        empty = take_empty_chunks(pool);
        if (!were_closed)
            flow__magazines_open(pool);
    }
    flow__unlock(&pool->lock);
    return unmake_chunks(pool, empty);
}

static void empty_magazines(struct flow_pool *pool)
{
    for (uint32_t i = 0; i < load_relaxed(&pool->n_magazines); i++) {
        struct flow__magazine *m = load_relaxed(&pool->magazine[i]);

        if (!m)
            continue;
        flow__give_slots_home(pool, m, 0);
        flow__give_away_home(pool, m);
        flow__arena_unmap(m, sizeof *m);
        store_relaxed(&pool->magazine[i], NULL);
    }
}

/* One line for the blocks that their users have forgotten. */
static void report_leaks(struct flow_pool *pool, uint64_t n)
{
#ifdef FLOW_DEBUG
    int shown = 0;

    fprintf(stderr, "flowcoro: pool \"%s\": %llu blocks of %zu bytes were not freed:", pool->name,
            (unsigned long long)n, pool->cut.block_bytes);
    for (int node = 0; node < load_relaxed(&pool->n_depots); node++) {
        struct flow__depot *d = load_relaxed(&pool->depot[node]);

        for (struct flow__chunk *c = d ? d->chunks : NULL; c; c = c->next_of_all)
            for (uint32_t i = 0; i < load_relaxed(&c->bound) && shown < SHOWN_LEAKS; i++)
                if (c->in_use[i] && shown++ < SHOWN_LEAKS)
                    fprintf(stderr, " %p", flow__block_at(c, &pool->cut, i));
    }
    fprintf(stderr, "%s\n", n > SHOWN_LEAKS ? " ..." : "");
#else
    (void)pool, (void)n;
#endif
}

int flow_pool_destroy(flow_pool *pool)
{
    struct flow_pool_stats stats = {sizeof stats};

    if (!pool)
        return 0;
    flow__assert(flow__pool_is_sound(pool));
    empty_magazines(pool);
    measure(pool, -1, &stats);
    if (stats.used_blocks)
        report_leaks(pool, stats.used_blocks);
    for (int i = 0; i < load_relaxed(&pool->n_depots); i++) {
        struct flow__depot *d = load_relaxed(&pool->depot[i]);

        if (!d)
            continue;
        unmake_chunks(pool, d->chunks);
        flow__arena_unmap(d, sizeof *d);
    }
    flow__chunks_close();
    flow__arena_unmap(pool, sizeof *pool);
    return stats.used_blocks > INT32_MAX ? INT32_MAX : (int)stats.used_blocks;
}
