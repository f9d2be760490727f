/* SPDX-License-Identifier: MIT
 *
 * Object pools: a pool of blocks, each with a header that tells whether the object behind it is
 * constructed. Any thread. The pool of blocks never writes beyond a free block's first 8 bytes, which
 * are the header's, so an object stays as it is while nobody uses it. Hooks are called with nothing locked
 * and no magazine in use: they may suspend. */
#include "core/pool.h"

#include <flowcoro/object_pool.h>

#include <errno.h>
#include <string.h>

enum state { ZEROED, CONSTRUCTED, DIRTY /* construct has failed on it */ };

struct header {
    /* The mark's place, see core/chunk.h; the warm-up's link while the object is in use. */
    struct header *next;
    uint64_t state; /* written by the block's user */
};

struct flow_object_pool {
    flow_pool *blocks;
    size_t object_bytes, offset; /* constant, as what follows */
    int (*construct)(void *object, void *arg);
    void (*reset)(void *object, void *arg);
    void (*destroy)(void *object, void *arg);
    void *arg;
    flow__atomic(uint64_t) constructed, failed, destroyed; /* by anyone */
};

static void *object_of(const struct flow_object_pool *pool, struct header *h)
{
    return (char *)h + pool->offset;
}

static struct header *header_of(const struct flow_object_pool *pool, void *object)
{
    /* By numbers: it may be no object at all. */
    return (struct header *)((uintptr_t)object - pool->offset);
}

/* ---- one object ---- */

static int construct(struct flow_object_pool *pool, struct header *h)
{
    void *object = object_of(pool, h);
    int r;

    if (h->state == DIRTY)
        memset(object, 0, pool->object_bytes);
    r = pool->construct ? pool->construct(object, pool->arg) : 0;
    if (r) {
        h->state = DIRTY;
        fetch_add_relaxed(&pool->failed, 1);
        return r < 0 ? r : -EINVAL;
    }
    h->state = CONSTRUCTED;
    fetch_add_relaxed(&pool->constructed, 1);
    return 0;
}

/* For a free block whose memory is about to go. */
static void retire(void *block, void *arg)
{
    struct flow_object_pool *pool = arg;
    struct header *h = block;

    flow__block_open(&pool->blocks->cut, block);
    if (h->state != CONSTRUCTED)
        return;
    if (pool->destroy)
        pool->destroy(object_of(pool, h), pool->arg);
    fetch_add_relaxed(&pool->destroyed, 1);
}

static int no_block(struct flow_object_pool *pool)
{
    flow_pool *blocks = pool->blocks;

    return blocks->max_blocks && load_relaxed(&blocks->total) >= blocks->max_blocks ? -ENOSPC
                                                                                    : -ENOMEM;
}

int flow_object_pool_acquire(flow_object_pool *pool, void **object)
{
    struct header *h = flow_pool_alloc(pool->blocks);

    if (flow__unlikely(!h))
        return no_block(pool);
    if (flow__unlikely(h->state != CONSTRUCTED)) {
        int r = construct(pool, h);

        if (r) {
            flow_pool_free(pool->blocks, h);
            return r;
        }
    }
    *object = object_of(pool, h);
    return 0;
}

int flow_object_pool_release(flow_object_pool *pool, void *object)
{
    struct header *h = header_of(pool, object);
    int r;

    if (!object)
        return 0;
    r = flow__pool_look(pool->blocks, h);
    if (flow__unlikely(r))
        return flow__pool_refuse(pool->blocks, object, r);
    if (pool->reset)
        pool->reset(object, pool->arg);
    return flow_pool_free(pool->blocks, h);
}

/* ---- the pool ---- */

static int warm_up(struct flow_object_pool *pool, size_t n)
{
    struct header *taken = NULL;
    int r = 0;

    while (n-- > 0 && !r) {
        struct header *h = flow_pool_alloc(pool->blocks);

        r = h ? construct(pool, h) : -ENOMEM;
        if (h) {
            h->next = taken;
            taken = h;
        }
    }
    while (taken) {
        struct header *h = taken;

        taken = h->next;
        flow_pool_free(pool->blocks, h);
    }
    return r;
}

static int make_blocks(struct flow_object_pool *pool, const struct flow_object_pool_options *o)
{
    struct flow_pool_options blocks = FLOW_POOL_INIT;

    blocks.block_bytes = pool->offset + o->object_bytes;
    blocks.alignment = o->alignment > sizeof(struct header) ? o->alignment : sizeof(struct header);
    blocks.initial_blocks = o->warm_up;
    blocks.max_blocks = o->max_objects;
    blocks.node = o->node;
    blocks.name = o->name ? o->name : "objects";
    return flow__pool_create(&pool->blocks, &blocks, retire, pool);
}

int flow_object_pool_create(flow_object_pool **out, const struct flow_object_pool_options *options)
{
    const struct flow_object_pool_options *o = options;
    struct flow_object_pool *pool;
    int r;

    if (!out || !o || o->size != sizeof *o || o->object_bytes < 1 ||
        o->object_bytes > SIZE_MAX / 2 || o->alignment & (o->alignment - 1))
        return -EINVAL;
    pool = flow__sys.allocate(sizeof *pool);
    if (!pool)
        return -ENOMEM;
    pool->object_bytes = o->object_bytes;
    pool->offset = o->alignment > sizeof(struct header) ? o->alignment : sizeof(struct header);
    pool->construct = o->construct;
    pool->reset = o->reset;
    pool->destroy = o->destroy;
    pool->arg = o->arg;
    r = make_blocks(pool, o);
    if (r) {
        flow__sys.release(pool);
        return r;
    }
    r = warm_up(pool, o->warm_up);
    if (r) {
        flow_object_pool_destroy(pool);
        return r;
    }
    *out = pool;
    return 0;
}

int flow_object_pool_stats(flow_object_pool *pool, struct flow_object_pool_stats *stats)
{
    struct flow_pool_stats blocks = {.size = sizeof blocks};
    uint64_t alive;

    if (!stats || stats->size != sizeof *stats)
        return -EINVAL;
    flow_pool_stats(pool->blocks, &blocks);
    *stats = (struct flow_object_pool_stats){sizeof *stats, pool->object_bytes};
    stats->max_objects = blocks.max_blocks;
    stats->constructed = load_relaxed(&pool->constructed);
    stats->failed = load_relaxed(&pool->failed);
    stats->destroyed = load_relaxed(&pool->destroyed);
    stats->in_use = blocks.used_blocks;
    alive = stats->constructed - stats->destroyed;
    stats->idle = alive > stats->in_use ? alive - stats->in_use : 0;
    stats->blocks = blocks.total_blocks;
    stats->bytes = blocks.bytes;
    return 0;
}

int flow_object_pool_shrink(flow_object_pool *pool)
{
    return flow_pool_shrink(pool->blocks);
}

int flow_object_pool_destroy(flow_object_pool *pool)
{
    int leaked;

    if (!pool)
        return 0;
    leaked = flow_pool_destroy(pool->blocks);
    flow__sys.release(pool);
    return leaked;
}
