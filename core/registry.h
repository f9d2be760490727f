/* SPDX-License-Identifier: MIT
 *
 * The control blocks of all tasks, in one reserved, type-stable region: slot
 * number <-> address is arithmetic, and a handle is {generation, slot}.
 *
 * Free blocks: a list in each worker (owner only), chains of FLOW__CHAIN blocks in
 * the depot (locked), and the part of the region that was never used. A block is pushed and popped
 * without an atomic operation; every FLOW__CHAIN of them costs one lock. */
#ifndef FLOW_CORE_REGISTRY_H
#define FLOW_CORE_REGISTRY_H

#include "core/task.h"
#include "sync/lock.h"

#define FLOW__CHAIN 64u

struct flow__registry {
    struct flow__task *base; /* set once while no worker runs; read by everyone */
    uint32_t n_blocks;       /* for tasks; handles beyond this are forged */
    uint32_t n_stand_ins;    /* blocks after these, for foreign threads that wait */
    uint32_t used_stand_ins; /* under the foreign threads' lock, as the next */
    struct flow__link *stand_ins;
    flow__atomic(uint32_t) used; /* blocks ever handed out */
    char *mapping;
    size_t mapped_bytes;
    struct flow__lock lock;
    struct flow__link
        *chains; /* of FLOW__CHAIN blocks each; the next chain hangs on the second block */
};

extern struct flow__registry flow__registry __attribute__((visibility("hidden")));

/* The free blocks of one worker (owner only), or of all foreign threads (under their lock). */
struct flow__block_cache {
    struct flow__link *list; /* n blocks, fewer than 2 chains */
    uint32_t n;
    struct flow__link *spare;         /* NULL or a whole chain */
    uint32_t next_unused, end_unused; /* slots that were never used */
};

/* Reserves room for n blocks and so many stand-ins. 0 or -ENOMEM. */
int flow__registry_open(uint32_t n_blocks, uint32_t n_stand_ins);
void flow__registry_close(void);

/* A stand-in, or NULL. Foreign threads only, under their lock. */
struct flow__task *flow__stand_in_take(void);
void flow__stand_in_give(struct flow__task *t);

/* The slow parts of the two calls below. */
struct flow__task *flow__block_refill(struct flow__block_cache *cache);
void flow__block_flush(struct flow__block_cache *cache);

/* A free block, or NULL: life has its generation and FREE, wait its old epoch,
 * stack and detail are NULL, timed is false. */
static inline struct flow__task *flow__block_take(struct flow__block_cache *cache)
{
    struct flow__link *link = cache->list;

    if (flow__unlikely(!link))
        return flow__block_refill(cache);
    cache->list = link->next;
    cache->n--;
    return flow__task_of_link(link);
}

static inline void flow__block_give(struct flow__block_cache *cache, struct flow__task *t)
{
    t->link.next = cache->list;
    cache->list = &t->link;
    if (flow__unlikely(++cache->n == FLOW__CHAIN))
        flow__block_flush(cache);
}

static inline uint32_t flow__slot_of(const struct flow__task *t)
{
    return (uint32_t)(t - flow__registry.base);
}

/* Makes a handle's id. */
static inline uint64_t flow__id_of(const struct flow__task *t, uint64_t life)
{
    return (life & ~(uint64_t)UINT32_MAX) | flow__slot_of(t);
}

/* The block a handle points into, or NULL if it cannot be one; its generation is still to be
 * compared. Generations begin with 1, so 0 is nobody's. */
static inline struct flow__task *flow__block_of(uint64_t id)
{
    uint32_t slot = (uint32_t)id;

    return flow__likely(slot < flow__registry.n_blocks && id >> 32) ? &flow__registry.base[slot]
                                                                    : NULL;
}

#endif
