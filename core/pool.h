/* SPDX-License-Identifier: MIT
 *
 * Pools of blocks: the parts, and who may touch which.
 *
 *   magazine   free blocks of one worker: `last` and `slot` of its own node, `away` of others. A
 *              worker finds its own by its index; what is left in it after flow_stop belongs to the
 *              same index next time.
 *   depot      a node's chunks, and by them its free blocks
 *   pool       a table of magazines, one of depots
 *
 * Invariants, at any moment at which nobody is inside a call:
 *   used + free == total                                     (of the pool, and of each node)
 *   free of a node == free in its depot + in last and slot of its workers' magazines
 *                     + in anybody's away that are of this node
 *   total <= max_blocks, if that is not 0
 *
 * A magazine is its owner's alone as long as it is open. The owner's every use lies between
 * busy = 1 and busy = 0, and looks in between whether the magazine is closed. To close it, another
 * thread sets `closed`, has every thread of the process pass a barrier (membarrier), and waits until
 * busy is 0: either the owner was seen busy, or it will see the magazine closed. So the owner pays for two plain stores, and
 * no atomic operation. Closed magazines are empty, all closed or none: then blocks go to and from
 * the depots one at a time. Where membarrier is refused there are no magazines.
 *
 *   operation               beside it may run
 *   owner in its magazine   everything; waits for nobody, except for depots' locks
 *   depot calls             everything (the depot's lock)
 *   grow                    everything but grow of the same depot (grow_lock)
 *   close, open, shrink     everything but each other (the pool's lock)
 *   stats                   everything
 *   destroy                 nothing
 *
 * Lock order: pool->lock, grow_locks by rising node, depots' locks by rising node, the map's lock. */
#ifndef FLOW_CORE_POOL_H
#define FLOW_CORE_POOL_H

#include "core/chunk.h"
#include "core/worker.h"
#include "numa/node_memory.h"
#include "sync/lock.h"

/* How many blocks a magazine may hold, at first and when it has grown; how many chunks it remembers. */
#ifndef FLOW__MAGAZINE /* a model makes it small, so that it is full at times */
#define FLOW__MAGAZINE       64
#define FLOW__MAGAZINE_GROWN 1024
#define FLOW__SEEN_CHUNKS    32
#endif
#define FLOW__MAGAZINE_MOST ((size_t)256 << 10) /* bytes of blocks that a magazine may hold */
#define FLOW__MAGAZINE_LOT  256 /* most blocks to or from a depot at once: its lock is held */
#define FLOW__POOL_NODES    FLOW__MAX_NODE_IDS
#define FLOW__FIRST_BLOCKS  64

struct flow__magazine {
    /* Written by the owner; read by who closes. */
    flow__atomic(uint32_t) busy;
    flow__atomic(uint32_t) closed; /* written under the pool's lock */
    uint32_t least, most;          /* constant: of capacity; no more than the least lies away */

    /* While open written by the owner, while closed by who holds the pool's lock; the atomic ones
     * read by anyone. */
    flow__atomic(void *) last; /* freed last: to take it again need not wait for a count in memory */
    flow__atomic(uint32_t) n, n_away;
    flow__atomic(int) node;    /* of `last` and of the blocks in slot */
    uint32_t capacity;         /* of slot: doubled when that is full or empty, until it is closed */
    flow__atomic(uint64_t) remote_frees; /* by the owner; those of former nodes are in the depots */
    struct flow__chunk *seen[FLOW__SEEN_CHUNKS]; /* of that node, or flow__no_chunk */
    flow__atomic(void *) away[FLOW__MAGAZINE];
    void *slot[FLOW__MAGAZINE_GROWN]; /* pages that it does not grow into are never touched */
};

struct flow__depot {
    struct flow__lock grow_lock;
    flow__cache_aligned struct flow__lock lock;
    /* Under lock; the counts are read by anyone. */
    struct flow__chunk *ready, *ready_last; /* have free blocks */
    struct flow__chunk *chunks;             /* all, the youngest first */
    flow__atomic(uint64_t) n_free, total;
    flow__atomic(uint64_t) n_chunks, bytes;
    flow__atomic(uint64_t) stolen, remote_frees;
    int node; /* constant */
};

struct flow_pool {
    /* The tables: entries are written once, under lock, and read by anyone. Pages that no entry is
     * in are never touched. The first by flow__owned_seat, a worker's index + 1: nobody's is NULL. */
    flow__atomic(struct flow__magazine *) magazine[FLOW__MAX_WORKERS + 1];
    flow__atomic(struct flow__depot *) depot[FLOW__POOL_NODES];

    /* Constant. */
    flow__cache_aligned struct flow__cut cut;
    int node; /* of all blocks, or -1 */
    bool magazines_work;
    size_t initial_blocks, max_blocks;
    double factor;
    /* Called for each block that was ever handed out, before its chunk goes; with no lock held. */
    void (*retire)(void *block, void *arg);
    void *retire_arg;
    char name[32];

    flow__cache_aligned flow__atomic(uint64_t) total; /* blocks that exist or are being made */
    flow__atomic(uint64_t) raids;
    struct flow__lock lock;
    flow__atomic(bool) closed; /* written under lock */
    /* Entries of the tables from here on are NULL; written under lock. */
    flow__atomic(uint32_t) n_magazines;
    flow__atomic(int) n_depots;
};

/* As flow_pool_create, with a retire hook. */
int flow__pool_create(flow_pool **out, const struct flow_pool_options *options,
                      void (*retire)(void *block, void *arg), void *arg);

/* The node whose depot serves the caller. */
int flow__pool_home_node(const struct flow_pool *pool);

/* 0; -EINVAL or -EALREADY as flow_pool_free would say; never ends the process. */
int flow__pool_look(flow_pool *pool, const void *block);

/* What flow_pool_free does with such an error. */
int flow__pool_refuse(flow_pool *pool, const void *block, int error);

/* Do the equations hold? For quiet moments. */
bool flow__pool_is_sound(flow_pool *pool);

/* ---- depot.c ---- */

/* A node's depot, made if need be; NULL: no memory. */
struct flow__depot *flow__depot_of(struct flow_pool *pool, int node);

/* Takes at most n free blocks; returns how many. */
uint32_t flow__depot_take(struct flow_pool *pool, struct flow__depot *d, void **out, uint32_t n);

/* The same, the depot's lock held by the caller. */
void *flow__depot_take_one_locked(struct flow_pool *pool, struct flow__depot *d);

/* Takes back n free blocks, all of them its own. */
void flow__depot_give(struct flow_pool *pool, struct flow__depot *d, void *const *blocks,
                      uint32_t n);

/* Makes more blocks if there is no free one. 0 (there may be one now); -ENOSPC at the cap;
 * -ENOMEM. */
int flow__depot_grow(struct flow_pool *pool, struct flow__depot *d);
int flow__depot_make_blocks(struct flow_pool *pool, struct flow__depot *d, uint64_t n);

/* Takes out the chunks that hold no used block, and puts them before a list by next_of_all. */
struct flow__chunk *flow__depot_take_empty(struct flow_pool *pool, struct flow__depot *d,
                                           struct flow__chunk *list);

#endif
