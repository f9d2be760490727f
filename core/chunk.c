/* SPDX-License-Identifier: MIT
 *
 * Making and unmaking chunks; see the header. Any thread, seldom. */
#include "core/chunk.h"

#include "core/arena.h"
#include "sync/lock.h"

#include <string.h>

#define SLAB_BYTES ((size_t)8192)

flow__atomic(struct flow__chunk_leaf *) flow__chunk_top[1 << FLOW__CHUNK_TOP_BITS];

struct flow__chunk flow__no_chunk;

/* The first description's place in a slab holds the link to the next slab. */
struct slab {
    struct slab *next;
};

/* Taken with or without a depot's grow_lock; takes no other lock. All under it, but for the
 * entries of the map, which anyone reads. */
static struct flow__lock map_lock;
static struct flow__chunk_leaf *leaves;
static struct slab *slabs;
static struct flow__chunk *spare; /* descriptions, by next_of_all */
static long n_pools;

void flow__chunks_open(void)
{
    flow__lock(&map_lock);
    n_pools++;
    flow__unlock(&map_lock);
}

static void forget_leaves(void)
{
    while (leaves) {
        struct flow__chunk_leaf *leaf = leaves;

        leaves = leaf->next;
        store_relaxed(&flow__chunk_top[leaf->top_index], NULL); /* there is no pool to read it */
        flow__arena_unmap(leaf, sizeof *leaf);
    }
}

static void forget_descriptions(void)
{
    spare = NULL;
    while (slabs) {
        struct slab *slab = slabs;

        slabs = slab->next;
        flow__arena_unmap(slab, SLAB_BYTES);
    }
}

void flow__chunks_close(void)
{
    flow__lock(&map_lock);
    if (--n_pools == 0) {
        forget_leaves();
        forget_descriptions();
    }
    flow__unlock(&map_lock);
}

void flow__cut_make(struct flow__cut *cut, size_t block_bytes, size_t alignment)
{
    uint64_t odd;

    cut->block_bytes = block_bytes;
    cut->alignment = alignment;
    cut->stride = (block_bytes + alignment - 1) & ~(alignment - 1);
    cut->shift = (unsigned)__builtin_ctzl(cut->stride);
    odd = (uint64_t)cut->stride >> cut->shift;
    cut->inverse = odd; /* right in its lowest 3 bits; each step doubles their number */
    for (int i = 0; i < 5; i++)
        cut->inverse *= 2 - odd * cut->inverse;
    flow__assert(cut->inverse * odd == 1);
}

/* Where block 0 lies. */
static size_t head_bytes(const struct flow__cut *cut, uint32_t n)
{
    size_t bytes = n * sizeof(uint32_t);
    size_t alignment = cut->alignment > FLOW__CACHE_LINE ? cut->alignment : FLOW__CACHE_LINE;

#ifdef FLOW_DEBUG
    bytes += n;
#endif
    return (bytes + alignment - 1) & ~(alignment - 1);
}

size_t flow__chunk_bytes(const struct flow__cut *cut, uint32_t n)
{
    return head_bytes(cut, n) + n * cut->stride;
}

/* ---- under map_lock ---- */

static struct flow__chunk *new_slab(void)
{
    struct slab *slab = flow__arena_map(SLAB_BYTES, -1, 0);
    struct flow__chunk *c = (struct flow__chunk *)slab;

    if (!slab)
        return NULL;
    slab->next = slabs;
    slabs = slab;
    for (size_t i = 1; i < SLAB_BYTES / sizeof *c; i++) {
        c[i].next_of_all = spare;
        spare = &c[i];
    }
    return spare;
}

static struct flow__chunk *take_description(void)
{
    struct flow__chunk *c = spare ? spare : new_slab();

    if (c)
        spare = c->next_of_all;
    return c;
}

static struct flow__chunk_leaf *leaf_of(uintptr_t top_index)
{
    struct flow__chunk_leaf *leaf = load_relaxed(&flow__chunk_top[top_index]);

    if (leaf)
        return leaf;
    leaf = flow__arena_map(sizeof *leaf, -1, 0);
    if (!leaf)
        return NULL;
    leaf->top_index = (uint32_t)top_index;
    leaf->next = leaves;
    leaves = leaf;
    /* [CHUNK-2] release: pairs with [CHUNK-1]. */
    store_release(&flow__chunk_top[top_index], leaf);
    return leaf;
}

static uintptr_t last_segment(const struct flow__chunk *c)
{
    return ((uintptr_t)c->mapping + c->mapped_bytes - 1) >> FLOW__CHUNK_SHIFT;
}

static bool put_on_map(struct flow__chunk *c)
{
    uintptr_t begin = (uintptr_t)c->mapping >> FLOW__CHUNK_SHIFT, end = last_segment(c);

    if (end >> FLOW__CHUNK_LEAF_BITS >> FLOW__CHUNK_TOP_BITS)
        return false;
    for (uintptr_t i = begin >> FLOW__CHUNK_LEAF_BITS; i <= end >> FLOW__CHUNK_LEAF_BITS; i++)
        if (!leaf_of(i))
            return false;
    for (uintptr_t s = begin; s <= end; s++)
        /* [CHUNK-2] release: pairs with [CHUNK-1]. */
        store_release(&leaf_of(s >> FLOW__CHUNK_LEAF_BITS)
                           ->chunk[s & ((1 << FLOW__CHUNK_LEAF_BITS) - 1)],
                      c);
    return true;
}

static void take_off_map(struct flow__chunk *c)
{
    for (uintptr_t s = (uintptr_t)c->mapping >> FLOW__CHUNK_SHIFT; s <= last_segment(c); s++)
        store_relaxed(&leaf_of(s >> FLOW__CHUNK_LEAF_BITS)
                           ->chunk[s & ((1 << FLOW__CHUNK_LEAF_BITS) - 1)],
                      NULL); /* nobody looks for a block of it any more */
}

/* ---- chunks ---- */

static void describe(struct flow__chunk *c, const struct flow__cut *cut, char *mapping, int node,
                     uint32_t n)
{
    memset(c, 0, sizeof *c);
    c->mapping = mapping;
    c->mapped_bytes = flow__chunk_bytes(cut, n);
    c->free_index = (uint32_t *)mapping;
    c->first = mapping + head_bytes(cut, n);
    c->n_blocks = n;
    c->node = node;
#ifdef FLOW_DEBUG
    c->in_use = (uint8_t *)(c->free_index + n);
#endif
}

struct flow__chunk *flow__chunk_make(struct flow_pool *pool, const struct flow__cut *cut, int node,
                                     uint32_t n)
{
    size_t bytes = flow__chunk_bytes(cut, n);
    char *mapping = flow__arena_map(bytes, node, FLOW__ARENA_HUGE);
    struct flow__chunk *c;

    if (!mapping)
        return NULL;
    flow__lock(&map_lock);
    c = take_description();
    if (c) {
        describe(c, cut, mapping, node, n);
        store_release(&c->pool, pool); /* [CHUNK-2] before the entries of the map */
        if (!put_on_map(c)) {
            store_relaxed(&c->pool, NULL);
            c->next_of_all = spare;
            spare = c;
            c = NULL;
        }
    }
    flow__unlock(&map_lock);
    if (!c) {
        flow__arena_unmap(mapping, bytes);
        return NULL;
    }
#ifdef FLOW__ASAN
    __lsan_register_root_region(c->first, n * cut->stride);
    __asan_poison_memory_region(c->first, n * cut->stride);
#endif
    return c;
}

void flow__chunk_unmake(struct flow__chunk *c)
{
#ifdef FLOW__ASAN
    size_t bytes = (size_t)(c->mapping + c->mapped_bytes - c->first);

    __lsan_unregister_root_region(c->first, bytes);
    __asan_unpoison_memory_region(c->first, bytes);
#endif
    store_relaxed(&c->pool, NULL);
    flow__lock(&map_lock);
    take_off_map(c);
    flow__unlock(&map_lock);
    flow__arena_unmap(c->mapping, c->mapped_bytes);
    flow__lock(&map_lock);
    c->next_of_all = spare;
    spare = c;
    flow__unlock(&map_lock);
}
