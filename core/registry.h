/* SPDX-License-Identifier: MIT
 *
 * The control blocks of all tasks, in one reserved, type-stable region: slot
 * number <-> address is arithmetic, and a handle is {generation, slot}.
 *
 *   region   one range per node, of equal length, bound to it | stand-ins | depots
 *
 * Free blocks: a list in each worker (owner only), chains of FLOW__CHAIN blocks in
 * the depot of their node (locked), and the part of each range that was never used. A block is
 * pushed and popped without an atomic operation; every FLOW__CHAIN of them costs one lock.
 *
 * A block has its home where its range is. Freed by a worker of another node it is not used
 * there: it is put `away`, and FLOW__CHAIN of them go home together. Only when a node has no
 * block left at home do its workers borrow some, from the nearest node that has. So what
 * limits the number of tasks is the sum of all ranges. */
#ifndef FLOW_CORE_REGISTRY_H
#define FLOW_CORE_REGISTRY_H

#include "core/task.h"
#include "sync/lock.h"

#define FLOW__CHAIN 64u

/* The blocks of one node. Invariant, at rest: used - first = blocks in chains and loose +
 * blocks in caches or in use + retired slots. */
struct flow__block_depot {
    flow__cache_aligned struct flow__lock lock; /* of one depot at a time; guards what follows */
    uint32_t first, end;                        /* the range of slots; constant */
    flow__atomic(uint32_t) used; /* slots from first up to this were handed out; read by anyone */
    struct flow__link *chains;   /* of FLOW__CHAIN blocks each; the next hangs on the second block */
    struct flow__link *loose;    /* n_loose blocks, fewer than a chain, that came from elsewhere */
    uint32_t n_loose;
};

struct flow__registry {
    struct flow__task *base; /* set once while no worker runs; read by everyone */
    uint32_t n_blocks;       /* slots for tasks; handles beyond this are forged */
    uint32_t stride;         /* slots from the begin of a range to the next one's */
    int n_nodes;             /* ranges, and depots */
    struct flow__block_depot *depot;
    uint32_t n_stand_ins;    /* blocks after these, for foreign threads that wait */
    flow__atomic(uint32_t) used_stand_ins; /* written under the foreign threads' lock, as the next */
    struct flow__link *stand_ins;
    uint64_t first_life, first_wait; /* a block's two words at its first use */
    char *mapping;
    size_t mapped_bytes;
    /* Written by anyone, seldom: blocks used on another node, blocks freed there and sent home. */
    flow__atomic(uint64_t) borrowed, sent_home;
};

extern struct flow__registry flow__registry __attribute__((visibility("hidden")));

/* The free blocks of one worker (owner only), or of all foreign threads (under their lock). */
struct flow__block_cache {
    struct flow__link *list; /* n blocks of this node, fewer than 2 chains */
    uint32_t n;
    int node;
    uintptr_t home;         /* where its range begins, */
    uintptr_t home_bytes;   /* and how long it is */
    struct flow__link *spare;         /* NULL or a whole chain */
    uint32_t next_unused, end_unused; /* slots that were never used */
    struct flow__link *away;          /* n_away blocks of other nodes, fewer than a chain */
    uint32_t n_away;
    struct flow__link *borrowed; /* of another node, to be used here */
};

/* Reserves room for share[i] blocks of each node (flow__arena_nodes() of them), and so many
 * stand-ins. Generations and epochs begin elsewhere each time. 0 or -ENOMEM. Under flow__start_lock. */
int flow__registry_open(const uint32_t *share, uint32_t n_stand_ins);
void flow__registry_close(void);

/* Touches the first 2 MiB of a node's range, on which the system then puts no other node's memory.
 * By a thread that sits on that node, while nothing is used yet. */
void flow__registry_touch(int node);

/* Makes an empty cache for the workers of a node. */
void flow__block_cache_open(struct flow__block_cache *cache, int node);

/* Sends what is away home before a chain is full, as a worker does that goes to sleep. */
void flow__blocks_go_home(struct flow__block_cache *cache);

/* A stand-in, or NULL. Foreign threads only, under their lock. */
struct flow__task *flow__stand_in_take(void);
void flow__stand_in_give(struct flow__task *t);

/* The slow parts of the two calls below. */
struct flow__task *flow__block_refill(struct flow__block_cache *cache);
void flow__block_flush(struct flow__block_cache *cache);
void flow__block_put_away(struct flow__block_cache *cache, struct flow__task *t);

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
    if (flow__unlikely((uintptr_t)t - cache->home >= cache->home_bytes)) {
        flow__block_put_away(cache, t);
        return;
    }
    t->link.next = cache->list;
    cache->list = &t->link;
    if (flow__unlikely(++cache->n == FLOW__CHAIN))
        flow__block_flush(cache);
}

static inline uint32_t flow__slot_of(const struct flow__task *t)
{
    return (uint32_t)(t - flow__registry.base);
}

/* The node in whose range a task's block lies. */
static inline int flow__node_of_slot(uint32_t slot)
{
    return (int)(slot / flow__registry.stride);
}

/* Makes a handle's id. */
static inline uint64_t flow__id_of(const struct flow__task *t, uint64_t life)
{
    return (life & ~(uint64_t)UINT32_MAX) | flow__slot_of(t);
}

/* The block a handle points into, or NULL if it cannot be one; its generation is still to be
 * compared. None is 0. */
static inline struct flow__task *flow__block_of(uint64_t id)
{
    uint32_t slot = (uint32_t)id;

    return flow__likely(slot < flow__registry.n_blocks && id >> 32) ? &flow__registry.base[slot]
                                                                    : NULL;
}

/* Every slot that was handed out before the walk came to its range:
 *   for (struct flow__slots at = FLOW__ALL_SLOTS; flow__slots_next(&at);) ... at.slot, at.node */
struct flow__slots {
    uint32_t slot, end;
    int node;
};

#define FLOW__ALL_SLOTS                                                                            \
    {                                                                                              \
        0, 0, -1                                                                                   \
    }

static inline bool flow__slots_next(struct flow__slots *at)
{
    const struct flow__registry *r = &flow__registry;

    at->slot++;
    while (at->slot >= at->end) {
        if (at->node + 1 >= r->n_nodes)
            return false;
        at->slot = r->depot[++at->node].first;
        at->end = load_relaxed(&r->depot[at->node].used);
    }
    return true;
}

#endif
