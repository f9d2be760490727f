/* SPDX-License-Identifier: MIT
 *
 * Pools of blocks of one size, in memory of the node that uses them.
 *
 * A worker takes and gives blocks from a small store of its own, without an atomic operation; stores
 * are filled from and emptied into their node's depot. A store holds up to 64 blocks, and grows with
 * use to 1,024, but not beyond 256 KiB, nor all stores of a pool beyond a 16th of max_blocks;
 * flow_pool_shrink makes it small again. A block goes home to its own node's depot wherever it is
 * freed, together with others. Pools may be made, used and destroyed with or without a running
 * runtime, by coroutines and by foreign threads; blocks outlive flow_stop. None of these functions
 * suspends. In the child of a fork a pool must not be used. */
#ifndef FLOWCORO_POOL_H
#define FLOWCORO_POOL_H

#include <flowcoro/base.h>

FLOW_BEGIN_DECLS

typedef struct flow_pool flow_pool;

#define FLOW_POOL_FACTOR_LEAST 1.1
#define FLOW_POOL_FACTOR_MOST  5.0

/* For flow_pool_create. Initialise with FLOW_POOL_INIT, then set block_bytes and what differs. */
struct flow_pool_options {
    size_t size;             /* sizeof(struct flow_pool_options) */
    size_t block_bytes;      /* 1 to 64 MiB */
    size_t alignment;        /* of every block: a power of two, up to a page; less than 8 means 8.
                              * 0: 16, or 8 for blocks of less than 16 bytes */
    size_t initial_blocks;   /* made at once; also what another node begins with; 0: none is made at
                              * once, and nodes begin with 64 */
    double expansion_factor; /* a node without a free block grows to so many times its blocks, but in
                              * pieces of at most 1 GiB; clamped to 1.1 to 5.0 */
    size_t max_blocks;       /* of all nodes together; 0: no limit */
    int node;                /* all blocks from this node, as flow_info counts them; -1: from the
                              * worker's own, or for a foreign thread from the one it runs on */
    const char *name;        /* for reports, copied, at most 31 bytes are used; NULL: "pool" */
};

#define FLOW_POOL_INIT                                                                             \
    {                                                                                              \
        sizeof(struct flow_pool_options), 0, 0, 64, 2.0, 0, -1, NULL                               \
    }

/* Makes a pool; *out belongs to the caller. From anywhere. -EINVAL: an option is out of range, or
 * there is no such node (without a runtime there is only node 0). -ENOMEM. */
FLOW_API int flow_pool_create(flow_pool **out, const struct flow_pool_options *options);

/* A block; what it holds is unspecified. From anywhere.
 *
 * NULL only if at one moment of the call max_blocks blocks were in use, or the system
 * refused memory and no block of the pool was free. Free blocks in the stores of other workers
 * are fetched before that, and free blocks of other nodes taken, the nearest node's first. The one
 * exception: where the system lets us begin with membarrier(2) and later forbids it, what lies in
 * other workers' stores stays there. */
FLOW_API void *flow_pool_alloc(flow_pool *pool);

/* Gives a block back; from anywhere, whoever took it. NULL: nothing happens. 0;
 *   -EALREADY  the block is free already. Found unless somebody wrote to it since: its first
 *              8 bytes are the pool's then. A debug build finds it always
 *   -EINVAL    not the beginning of a block of this pool; nothing is read or written there
 * In debug builds (FLOW_DEBUG) both errors end the process with a message. Two threads that free the
 * same block at the same moment are not promised anything. */
FLOW_API int flow_pool_free(flow_pool *pool, void *block);

/* Of a pool, or of one of its nodes. used_blocks + free_blocks == total_blocks always holds. While
 * other threads use the pool the figures are as of slightly different moments. */
struct flow_pool_stats {
    size_t size;            /* sizeof(struct flow_pool_stats), set by the caller */
    size_t block_bytes;     /* as asked for */
    size_t stride_bytes;    /* from one block to the next */
    uint64_t total_blocks;  /* that exist */
    uint64_t free_blocks;   /* of these, wherever they lie */
    uint64_t used_blocks;
    uint64_t max_blocks;    /* of the whole pool; 0: no limit */
    uint64_t chunks;        /* pieces of memory that they lie in */
    uint64_t bytes;         /* address space of these; pages that were never touched included */
    uint64_t remote_frees;  /* blocks freed by a worker of another node than the block's; of a node:
                             * by workers of this one */
    uint64_t stolen_blocks; /* free blocks taken from another node when no more could be made; of a
                             * node: taken by this one */
    uint64_t raids;         /* times all workers' stores were emptied for want of free blocks, or by
                             * flow_pool_shrink; of a node: 0 */
};

/* Fills *stats; exact when nobody uses the pool meanwhile. From anywhere. -EINVAL if stats->size
 * is not known. */
FLOW_API int flow_pool_stats(flow_pool *pool, struct flow_pool_stats *stats);

/* The same of one node, from 0. All 0 for a node that never had a block. -EINVAL: node is
 * negative or no machine has so many. */
FLOW_API int flow_pool_node_stats(flow_pool *pool, int node, struct flow_pool_stats *stats);

/* Gives the memory of chunks that hold no used block back to the system; empties the workers'
 * stores before. Returns the number of chunks. From anywhere; others may use the pool. */
FLOW_API int flow_pool_shrink(flow_pool *pool);

/* Destroys the pool and gives all memory back. Returns how many blocks were still in use: their
 * memory is gone too. Debug builds list the first of them on stderr. NULL: nothing happens. From
 * anywhere, when nobody uses the pool any more. */
FLOW_API int flow_pool_destroy(flow_pool *pool);

FLOW_END_DECLS

#endif
