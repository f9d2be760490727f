/* SPDX-License-Identifier: MIT
 *
 * Pools: magazines, their closing, blocks that go home, blocks that are taken from other nodes. No block
 * has two users, and in the end each that nobody holds lies in one place. There are as many blocks as are
 * held at most, and they are at their cap: an allocation that fails although one is free is noticed.
 *
 * pool_close: a worker uses its magazine, where all free blocks lie; a foreign thread closes it to get one,
 * and gives it back, upon which magazines are opened again. pool_close_two: two workers and the foreign
 * thread. pool_make: a worker makes its magazine while the foreign thread closes another one.
 * pool_remote: a worker of node 1 frees blocks of node 0 until they go home in a batch, while node 0's
 * worker allocates. pool_steal: workers of nodes 1 and 2 take what node 0 has; pool_steal_home: while its
 * own worker does.
 *
 * Doubles: chunks are there from the start, and the map is a search; membarrier is the explorer's. */
#define FLOW__MAGAZINE       2
#define FLOW__MAGAZINE_GROWN 2
#define FLOW__SEEN_CHUNKS    1
#include "tests/model/explorer.h"

#undef __SANITIZE_THREAD__ /* the explorer's points, not ThreadSanitizer's fibers */
#include "core/worker.h"
#include "numa/node_memory.h"
#undef FLOW__MAX_WORKERS /* so large are the pool's tables */
#undef FLOW__MAX_NODE_IDS
#define FLOW__MAX_WORKERS  3
#define FLOW__MAX_NODE_IDS 3
#define flow__chunk_at     flow__chunk_at_by_map
#include "core/chunk.h"
#undef flow__chunk_at
#define flow__owned_worker model_worker()
#define flow__owned_seat   model_seat()

static struct flow__worker *model_worker(void);
static size_t model_seat(void);
static struct flow__chunk *flow__chunk_at(const void *p);

#include "core/depot.c"
#include "core/magazine.c"
#include "core/pool.c"

#define BLOCK_BYTES 64
#define MOST_BLOCKS 4
#define NOBODY      (-1)

struct flow__runtime flow__runtime;
struct flow__chunk flow__no_chunk;

static struct flow_pool pool;
static struct flow__chunk chunk; /* of node 0: the only one */
static struct flow__worker workers[MODEL_THREADS];
static int n_workers; /* threads from there on are foreign */
static int user[MOST_BLOCKS];
static void *given[MODEL_THREADS][MOST_BLOCKS]; /* what a thread holds from the start */

/* ---- doubles ---- */

static struct flow__worker *model_worker(void)
{
    return model_self() < n_workers ? &workers[model_self()] : NULL;
}

static size_t model_seat(void)
{
    return model_self() < n_workers ? (size_t)model_self() + 1 : 0;
}

static struct flow__chunk *flow__chunk_at(const void *p)
{
    (void)p;
    return &chunk;
}

struct flow__chunk *flow__chunk_make(struct flow_pool *of, const struct flow__cut *cut, int node, uint32_t n)
{
    (void)of, (void)cut, (void)node, (void)n;
    model_check(false, "no pool grows beyond its cap", __LINE__);
    return NULL;
}

void *flow__arena_map(size_t bytes, int node, unsigned flags)
{
    (void)node, (void)flags;
    return flow__sys.map(bytes, 0, 0);
}

int flow__arena_nodes(void)
{
    return 1;
}

static void *allocate(size_t bytes)
{
    return flow__sys.map(bytes, 0, 0);
}

/* ---- a pool of n blocks, all of them in node 0's depot ---- */

static void open_pool(int n_blocks, int workers_here, int n_nodes)
{
    static struct flow__depot depots[FLOW__MAX_NODE_IDS];

    flow__sys.allocate = allocate;
    flow__runtime.n_places = 1;
    n_workers = workers_here;
    for (int i = 0; i < n_workers; i++) {
        workers[i].index = i;
        workers[i].node = i < n_nodes ? i : 0;
    }
    pool.cut = (struct flow__cut){BLOCK_BYTES, BLOCK_BYTES, BLOCK_BYTES, 1, 6, 0x5eed};
    pool.node = -1;
    pool.magazines_work = true;
    pool.max_blocks = pool.total = (uint64_t)n_blocks;
    pool.factor = 2;
    pool.n_depots = n_nodes;
    for (int i = 0; i < n_nodes; i++) {
        depots[i].node = i;
        pool.depot[i] = &depots[i];
    }
    chunk.pool = &pool;
    chunk.n_blocks = chunk.n_indexed = chunk.bound = (uint32_t)n_blocks;
    chunk.free_index = flow__sys.map((size_t)n_blocks * sizeof *chunk.free_index, 0, 0);
    chunk.first = flow__sys.map((size_t)n_blocks * BLOCK_BYTES, 0, 0);
    for (int i = 0; i < n_blocks; i++) {
        chunk.free_index[i] = (uint32_t)i;
        user[i] = NOBODY;
        flow__block_mark(&pool.cut, flow__block_at(&chunk, &pool.cut, (uint32_t)i));
    }
    depots[0].ready = depots[0].ready_last = depots[0].chunks = &chunk;
    depots[0].n_free = depots[0].total = (uint64_t)n_blocks;
    depots[0].n_chunks = 1;
}

/* A worker's magazine, with so many blocks of node 0 in it. */
static void open_magazine_of(int worker, uint32_t n)
{
    struct flow__magazine *m = flow__sys.map(sizeof *m, 0, 0);
    void *blocks[MOST_BLOCKS];

    m->least = m->most = m->capacity = FLOW__MAGAZINE;
    m->node = workers[worker].node;
    forget_chunks(m);
    pool.magazine[worker + 1] = m;
    if (pool.n_magazines < (uint32_t)worker + 2)
        pool.n_magazines = (uint32_t)worker + 2;
    n = flow__depot_take(&pool, pool.depot[0], blocks, n);
    for (uint32_t i = 0; i < n; i++)
        put(&pool, m, &chunk, blocks[i]);
}

static int number_of(const void *block)
{
    return (int)flow__block_number(&chunk, &pool.cut, block);
}

static void now_used(void *block, int by)
{
    MODEL_CHECK(user[number_of(block)] == NOBODY);
    user[number_of(block)] = by;
}

/* It is in use from the start, and node 0's. */
static void give(int thread, int n)
{
    for (int i = 0; i < n; i++) {
        void *block = NULL;

        flow__depot_take(&pool, pool.depot[0], &block, 1);
        flow__block_wipe(block);
        now_used(block, thread);
        given[thread][i] = block;
    }
}

/* ---- what threads do ---- */

static void *alloc(void)
{
    void *block = flow_pool_alloc(&pool);

    MODEL_CHECK(block != NULL);
    now_used(block, model_self());
    return block;
}

static void free_block(void *block)
{
    MODEL_CHECK(user[number_of(block)] == model_self());
    user[number_of(block)] = NOBODY;
    MODEL_CHECK(flow_pool_free(&pool, block) == 0);
}

static void alloc_and_free(int times)
{
    for (int i = 0; i < times; i++)
        free_block(alloc());
}

/* ---- in the end ---- */

static int times_free(const void *block)
{
    int n = 0;

    for (uint32_t i = 0; i < chunk.n_indexed; i++)
        n += (int)chunk.free_index[i] == number_of(block);
    for (int i = 0; i <= FLOW__MAX_WORKERS; i++) {
        struct flow__magazine *m = pool.magazine[i];

        for (uint32_t k = 0; m && k < m->n; k++)
            n += m->slot[k] == block;
        for (uint32_t k = 0; m && k < m->n_away; k++)
            n += m->away[k] == block;
        n += m && m->last == block;
    }
    return n;
}

static void check(void)
{
    for (uint32_t i = 0; i < chunk.n_blocks; i++)
        MODEL_CHECK(times_free(flow__block_at(&chunk, &pool.cut, i)) == (user[i] == NOBODY));
    MODEL_CHECK(pool.depot[0]->n_free == chunk.n_indexed);
    MODEL_CHECK((pool.depot[0]->ready == &chunk) == (chunk.n_indexed > 0));
    for (int i = 0; i <= FLOW__MAX_WORKERS; i++) {
        struct flow__magazine *m = pool.magazine[i];

        MODEL_CHECK(!m || (m->busy == 0 && m->closed == pool.closed));
        MODEL_CHECK(!m || !m->closed || (m->n == 0 && m->n_away == 0 && !m->last));
    }
}

/* ---- pool_close ---- */

static void setup_close(void)
{
    open_pool(2, 1, 1);
    open_magazine_of(0, 2);
}

static void setup_make(void)
{
    open_pool(2, 2, 1);
    open_magazine_of(0, 2);
    pool.max_blocks = pool.total = 2 * FLOW__MAGAZINE; /* else it has none; the others are held */
}

static void thread_make(int self)
{
    if (self > 0)
        alloc_and_free(1);
}

static void setup_close_two(void)
{
    open_pool(3, 2, 1);
    open_magazine_of(0, 2);
    open_magazine_of(1, 1);
}

static void thread_close(int self)
{
    alloc_and_free(self < n_workers ? 2 : 1);
}

static void thread_once(int self)
{
    (void)self;
    alloc_and_free(1);
}

/* ---- pool_remote ---- */

static void setup_remote(void)
{
    open_pool(4, 2, 2);
    open_magazine_of(0, 1);
    open_magazine_of(1, 1);
    give(1, 2);
}

/* One of the two that worker 0 holds may be one that lies away: it is found there. */
static void thread_remote(int self)
{
    if (self == 0) {
        void *a = alloc(), *b = alloc();

        free_block(a);
        free_block(b);
    } else {
        free_block(given[1][0]);
        free_block(given[1][1]);
    }
}

/* ---- pool_steal ---- */

static void setup_steal(void)
{
    open_pool(2, 3, 3);
    open_magazine_of(1, 0);
    open_magazine_of(2, 0);
}

static void thread_steal(int self)
{
    if (self > 0)
        alloc_and_free(1);
}

static void setup_steal_home(void)
{
    open_pool(3, 3, 3);
    for (int i = 0; i < 3; i++)
        open_magazine_of(i, 0);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"pool_close", 2, setup_close, thread_close, check, 2, 1, 0, 1},
        {"pool_close_two", 3, setup_close_two, thread_once, check, 1, 1, 0, 0},
        {"pool_make", 3, setup_make, thread_make, check, 2, 1, 0, 0},
        {"pool_remote", 2, setup_remote, thread_remote, check, 2, 1, 0, 0},
        {"pool_steal", 3, setup_steal, thread_steal, check, 2, 1, 0, 1},
        {"pool_steal_home", 3, setup_steal_home, thread_once, check, 2, 1, 0, 0},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
