/* SPDX-License-Identifier: MIT
 *
 * Chunks: the pieces of memory that pools cut into blocks, and the map that tells
 * which chunk an address lies in, so that no foreign pointer is ever followed.
 *
 *   chunk  [ index of free blocks | block 0 | block 1 | ... ]   one mapping of one node
 *   map    two levels over the address space, one entry for 2 MiB; a chunk begins at a multiple
 *          of 2 MiB, so an entry never has two
 *
 * What describes a chunk lies apart from it: a user who writes beyond a block cannot
 * reach it, and a reader with a foreign pointer may look at a description whose chunk is gone.
 * Descriptions and leaves of the map are kept as long as a pool exists.
 *
 * A block is free or in use. A free one that was handed out before carries the pool's mark in its
 * first 8 bytes; an allocation wipes it out. That is how a second free is noticed.
 *
 * Concurrent use: flow__chunk_at and what is constant, beside anything. The free index, under
 * the lock of the node's depot. Making and unmaking, from any thread. */
#ifndef FLOW_CORE_CHUNK_H
#define FLOW_CORE_CHUNK_H

#include "core/check.h"
#include "core/strand.h"
#include "sync/atomic.h"

#include <flowcoro/pool.h>

#define FLOW__CHUNK_SHIFT     21 /* bytes of a segment: what one entry of the map stands for */
#define FLOW__CHUNK_LEAF_BITS 13
#define FLOW__CHUNK_TOP_BITS  14 /* with the others: 48 bits, all that user space has */
#define FLOW__CHUNK_MOST      ((size_t)1 << 30) /* bytes of blocks, unless a single one is larger */

/* How a pool cuts its chunks. Constant. */
struct flow__cut {
    size_t block_bytes, stride, alignment;
    /* stride is odd << shift, and inverse * odd is 1 (mod 2^64); see flow__block_number. */
    uint64_t inverse;
    unsigned shift;
    uint64_t secret; /* of the mark */
};

struct flow__chunk {
    /* Constant while pool is set, which is what tells that the chunk exists. */
    flow__atomic(struct flow_pool *) pool;
    char *first; /* block 0 */
    uint32_t *free_index;
    uint8_t *in_use; /* of each block; debug builds only */
    char *mapping;
    size_t mapped_bytes;
    int node;
    uint32_t n_blocks;
    /* Blocks below were handed to a magazine at least once. Written under the depot's lock, read by
     * anyone; changes seldom once the chunk is warm. */
    flow__cache_aligned flow__atomic(uint32_t) bound;

    /* Under the depot's lock. */
    flow__cache_aligned uint32_t n_indexed; /* free_index[0 .. n_indexed) */
    struct flow__chunk *next, *previous;    /* of the depot's chunks that have free blocks */
    struct flow__chunk *next_of_all;
};

struct flow__chunk_leaf {
    flow__atomic(struct flow__chunk *) chunk[1 << FLOW__CHUNK_LEAF_BITS];
    struct flow__chunk_leaf *next; /* of all leaves; under the map's lock */
    uint32_t top_index;
};

extern flow__atomic(struct flow__chunk_leaf *) flow__chunk_top[1 << FLOW__CHUNK_TOP_BITS]
    __attribute__((visibility("hidden")));

/* Has no blocks; for who wants no NULL. */
extern struct flow__chunk flow__no_chunk __attribute__((visibility("hidden")));

/* A pool begins or ends to exist; with the last one the map and the descriptions go. */
void flow__chunks_open(void);
void flow__chunks_close(void);

void flow__cut_make(struct flow__cut *cut, size_t block_bytes, size_t alignment);

/* Bytes of address space that a chunk of n blocks takes. */
size_t flow__chunk_bytes(const struct flow__cut *cut, uint32_t n);

/* A chunk of n blocks, none of them ever used, as a part of the map. NULL: the system refuses. */
struct flow__chunk *flow__chunk_make(struct flow_pool *pool, const struct flow__cut *cut, int node,
                                     uint32_t n);

/* Takes it off the map, and its memory away. All its blocks must be free. */
void flow__chunk_unmake(struct flow__chunk *c);

/* The chunk that an address lies in or near, or NULL. It may be another pool's. */
static inline struct flow__chunk *flow__chunk_at(const void *p)
{
    uintptr_t segment = (uintptr_t)p >> FLOW__CHUNK_SHIFT;
    uintptr_t top_index = segment >> FLOW__CHUNK_LEAF_BITS;
    struct flow__chunk_leaf *leaf;

    if (flow__unlikely(top_index >> FLOW__CHUNK_TOP_BITS))
        return NULL;
    /* [CHUNK-1] acquire: pairs with [CHUNK-2]; the leaf is zeroed, the description filled in. */
    leaf = load_acquire(&flow__chunk_top[top_index]);
    if (flow__unlikely(!leaf))
        return NULL;
    /* [CHUNK-1] */
    return load_acquire(&leaf->chunk[segment & ((1 << FLOW__CHUNK_LEAF_BITS) - 1)]);
}

/* The number of the block that begins at p; n_blocks or more if none does. An exact division by
 * multiplying with the inverse modulo 2^64: what is no multiple of the stride gives a quotient
 * beyond all blocks (Granlund and Montgomery, "Division by Invariant Integers", 1994, section 9). */
static inline uint64_t flow__block_number(const struct flow__chunk *c, const struct flow__cut *cut,
                                          const void *p)
{
    uint64_t q = (uint64_t)((uintptr_t)p - (uintptr_t)c->first) * cut->inverse;

    return q >> cut->shift | q << (-cut->shift & 63);
}

static inline void *flow__block_at(const struct flow__chunk *c, const struct flow__cut *cut,
                                   uint32_t number)
{
    return c->first + number * cut->stride;
}

/* ---- marks and poison ---- */

#ifdef FLOW__ASAN
#define flow__marks static __attribute__((noinline, unused)) flow__unsanitized
#else
#define flow__marks static inline
#endif

flow__marks bool flow__block_is_marked(const struct flow__cut *cut, const void *block)
{
    return *(const uint64_t *)block == (cut->secret ^ (uintptr_t)block);
}

flow__marks void flow__block_mark(const struct flow__cut *cut, void *block)
{
    *(uint64_t *)block = cut->secret ^ (uintptr_t)block;
}

flow__marks void flow__block_wipe(void *block)
{
    *(uint64_t *)block = 0;
}

/* For its user from now on; or nobody's, and AddressSanitizer stops who touches it. */
static inline void flow__block_open(const struct flow__cut *cut, void *block)
{
    (void)cut;
    flow__tsan_after(block);
    flow__block_wipe(block);
#ifdef FLOW__ASAN
    __asan_unpoison_memory_region(block, cut->block_bytes);
#endif
}

static inline void flow__block_shut(const struct flow__cut *cut, void *block)
{
    flow__block_mark(cut, block);
    flow__tsan_before(block); /* who is given it next comes after who had it */
#ifdef FLOW__ASAN
    __asan_poison_memory_region(block, cut->stride);
#endif
}

#endif
