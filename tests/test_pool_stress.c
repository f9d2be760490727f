/* SPDX-License-Identifier: MIT
 *
 * Pools under several users at once: blocks that are freed elsewhere than they were taken, a cap that
 * is reached all the time, shrinking meanwhile, runtimes that come and go. All of it with
 * membarrier and where the system refuses that. */
#include "core/pool.h"
#include "tests/support/child.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BOX      256
#define MOST_BOX 4096

static struct flow_pool_stats stats_of(flow_pool *pool)
{
    struct flow_pool_stats s = {.size = sizeof s};

    REQUIRE_EQUAL(flow_pool_stats(pool, &s), 0);
    return s;
}

static flow_pool *pool_of(size_t block_bytes, size_t max_blocks)
{
    struct flow_pool_options o = FLOW_POOL_INIT;
    flow_pool *pool = NULL;

    o.block_bytes = block_bytes;
    o.max_blocks = max_blocks;
    o.initial_blocks = max_blocks < 64 ? max_blocks : 64;
    REQUIRE_EQUAL(flow_pool_create(&pool, &o), 0);
    return pool;
}

static void destroy_empty(flow_pool *pool)
{
    REQUIRE(flow__pool_is_sound(pool));
    REQUIRE_EQUAL(stats_of(pool).used_blocks, 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

static int refuse_barrier(void)
{
    return -ENOSYS;
}

static void pause_here(void)
{
    if (flow__self())
        REQUIRE_EQUAL(flow_yield(), 0);
    sched_yield(); /* there may be more threads than CPUs */
}

/* ---- a box through which blocks go from producers to consumers ---- */

struct crossing {
    flow_pool *pool;
    size_t block_bytes;
    long n_each; /* blocks that a producer makes */
    int n_producers, n_consumers;
    atomic_long taken; /* by consumers */
    atomic_uint seeds;
    atomic_int producers_left;
    uint64_t most_total;
    size_t n_box; /* a larger one for fewer changes of threads, where CPUs are rare */
    _Atomic(uint64_t *) box[MOST_BOX];
};

static void fill(uint64_t *block, size_t bytes, uint64_t value)
{
    for (size_t i = 0; i < bytes / 8; i++)
        block[i] = value + i;
}

static void require_filled(const uint64_t *block, size_t bytes)
{
    for (size_t i = 0; i < bytes / 8; i++)
        REQUIRE_EQUAL(block[i], block[0] + i);
}

static flow_result produce(void *arg)
{
    struct crossing *c = arg;
    uint64_t random = atomic_fetch_add(&c->seeds, 1) * 77777 + 5;

    for (long i = 0; i < c->n_each; i++) {
        uint64_t *block = flow_pool_alloc(c->pool);
        size_t at = test_random(&random) % c->n_box;

        REQUIRE(block);
        fill(block, c->block_bytes, test_random(&random));
        for (;;) {
            uint64_t *none = NULL;

            if (atomic_compare_exchange_strong(&c->box[at], &none, block))
                break;
            at = (at + 1) % c->n_box;
            if (at == 0)
                pause_here();
        }
    }
    atomic_fetch_sub(&c->producers_left, 1);
    return flow_ok(NULL);
}

static flow_result consume(void *arg)
{
    struct crossing *c = arg;
    long all = c->n_each * c->n_producers;
    size_t at = atomic_fetch_add(&c->seeds, 1) * 31 % c->n_box;

    while (atomic_load(&c->taken) < all) {
        uint64_t *block = atomic_load(&c->box[at]) ? atomic_exchange(&c->box[at], NULL) : NULL;

        if (block) {
            require_filled(block, c->block_bytes);
            REQUIRE_EQUAL(flow_pool_free(c->pool, block), 0);
            atomic_fetch_add(&c->taken, 1);
        }
        at = (at + 1) % c->n_box;
        if (at == 0)
            pause_here();
    }
    return flow_ok(NULL);
}

static void *produce_in_thread(void *arg)
{
    produce(arg);
    return NULL;
}

static void *consume_in_thread(void *arg)
{
    consume(arg);
    return NULL;
}

/* n_threads of the producers, and as many consumers, are foreign threads. */
static void cross(struct crossing *c, int n_threads)
{
    flow_task task[16];
    pthread_t thread[16];
    int n_tasks = 0, n_started = 0;

    atomic_store(&c->producers_left, c->n_producers);
    for (int i = 0; i < c->n_producers; i++) {
        if (i < n_threads)
            REQUIRE_EQUAL(pthread_create(&thread[n_started++], NULL, produce_in_thread, c), 0);
        else
            REQUIRE_EQUAL(flow_spawn(&task[n_tasks++], produce, c), 0);
    }
    for (int i = 0; i < c->n_consumers; i++) {
        if (i < n_threads)
            REQUIRE_EQUAL(pthread_create(&thread[n_started++], NULL, consume_in_thread, c), 0);
        else
            REQUIRE_EQUAL(flow_spawn(&task[n_tasks++], consume, c), 0);
    }
    if (n_tasks > 0)
        REQUIRE_EQUAL(flow_when_all(task, (size_t)n_tasks, NULL, FLOW_FOREVER), 0);
    for (int i = 0; i < n_started; i++)
        pthread_join(thread[i], NULL);
    REQUIRE_EQUAL(atomic_load(&c->taken), c->n_each * c->n_producers);
}

static void cross_all_ways(void)
{
    for (int n_threads = 0; n_threads <= 4; n_threads += 2) {
        struct crossing c = {.n_box = BOX,
                             .block_bytes = 72,
                             .n_each = TEST_ROUNDS(20000, 3000),
                             .n_producers = 4,
                             .n_consumers = 4};

        c.pool = pool_of(72, 0);
        if (n_threads < 4)
            test_start();
        cross(&c, n_threads);
        REQUIRE(flow__pool_is_sound(c.pool));
        if (n_threads < 4)
            REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
        /* In flight at most: the box, and one block in each hand; the rest lies in magazines. */
        REQUIRE(stats_of(c.pool).total_blocks <=
                2 * (BOX + 8 + 4 * (FLOW__MAGAZINE_GROWN + FLOW__MAGAZINE)));
        destroy_empty(c.pool);
    }
}

CASE(crossing_frees)
{
    cross_all_ways();
}

CASE(crossing_frees_without_membarrier)
{
    flow__sys.barrier = refuse_barrier;
    cross_all_ways();
}

static atomic_bool shrinking_ends;

static void *shrink_all_the_time(void *pool)
{
    long n = 0;

    while (!atomic_load(&shrinking_ends)) {
        n += flow_pool_shrink(pool);
        stats_of(pool);
        test_nap(FLOW_US(100));
    }
    return (void *)n;
}

CASE(crossing_frees_while_the_pool_shrinks)
{
    for (int n_threads = 0; n_threads <= 4; n_threads += 4) {
        struct crossing c = {.n_box = BOX,
                             .block_bytes = 4000,
                             .n_each = TEST_ROUNDS(10000, 2000),
                             .n_producers = 4,
                             .n_consumers = 4};
        pthread_t thread;

        c.pool = pool_of(4000, 0);
        if (n_threads < 4)
            test_start();
        atomic_store(&shrinking_ends, false);
        REQUIRE_EQUAL(pthread_create(&thread, NULL, shrink_all_the_time, c.pool), 0);
        cross(&c, n_threads);
        atomic_store(&shrinking_ends, true);
        pthread_join(thread, NULL);
        if (n_threads < 4)
            REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
        flow_pool_shrink(c.pool);
        REQUIRE_EQUAL(stats_of(c.pool).total_blocks, 0);
        destroy_empty(c.pool);
    }
}

/* One worker makes, another one frees: a million blocks in the memory of a few thousand. */
CASE(a_million_blocks_one_way_in_bounded_memory)
{
    struct crossing c = {.n_box = MOST_BOX,
                         .block_bytes = 64,
                         .n_each = TEST_ROUNDS(1000000, 50000),
                         .n_producers = 1,
                         .n_consumers = 1};

    c.pool = pool_of(64, 0);
    test_start();
    cross(&c, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE(stats_of(c.pool).total_blocks <= 2 * (MOST_BOX + 2 + 2 * FLOW__MAGAZINE_GROWN));
    child_note("%ld blocks one way: %llu were ever made, %llu raids", c.n_each,
               (unsigned long long)stats_of(c.pool).total_blocks,
               (unsigned long long)stats_of(c.pool).raids);
    destroy_empty(c.pool);
}

/* ---- at the cap: with fewer blocks in use, nobody is ever refused ---- */

/* Each user takes a ticket before a block, and gives it back after the block. There are max_blocks
 * tickets, so whoever has one must get a block, wherever the free ones lie. Blocks go
 * through the box too, so that they are freed elsewhere. */
struct cap {
    flow_pool *pool;
    long max, rounds;
    atomic_long tickets;
    atomic_ullong seed;
    _Atomic(void *) box[BOX];
};

static bool take_ticket(struct cap *c)
{
    if (atomic_fetch_sub(&c->tickets, 1) > 0)
        return true;
    atomic_fetch_add(&c->tickets, 1);
    return false;
}

static void give_block(struct cap *c, void *block)
{
    if (!block)
        return;
    REQUIRE_EQUAL(flow_pool_free(c->pool, block), 0);
    atomic_fetch_add(&c->tickets, 1);
}

static flow_result use_cap(void *arg)
{
    struct cap *c = arg;
    uint64_t random = atomic_fetch_add(&c->seed, 12345);
    void *mine[64] = {0};

    for (long i = 0; i < c->rounds; i++) {
        uint64_t r = test_random(&random);
        void *block = NULL;

        if (r % 16 < 9 && take_ticket(c)) {
            block = flow_pool_alloc(c->pool);
            REQUIRE(block); /* not all are in use: ours is not */
            memset(block, (int)i, 40);
        }
        if (r % 16 == 15) { /* many at once, so that a magazine fills */
            for (int k = 0; k < 64; k++) {
                give_block(c, mine[k]);
                mine[k] = NULL;
            }
        }
        if (r >> 8 & 1) {
            void *before = mine[r >> 16 & 63];

            mine[r >> 16 & 63] = block;
            block = before;
        }
        give_block(c, atomic_exchange(&c->box[r >> 24 & (BOX - 1)], block));
        if ((r >> 40 & 7) == 0)
            pause_here();
    }
    for (int k = 0; k < 64; k++)
        give_block(c, mine[k]);
    return flow_ok(NULL);
}

static void *use_cap_in_thread(void *arg)
{
    use_cap(arg);
    return NULL;
}

static void share_a_cap(long max)
{
    enum { TASKS = 6, THREADS = 2 };
    struct cap c = {.pool = pool_of(40, (size_t)max),
                    .max = max,
                    .rounds = TEST_ROUNDS(40000, 4000),
                    .tickets = max};
    flow_task task[TASKS];
    pthread_t thread[THREADS];
    struct flow_pool_stats s;

    atomic_store(&c.seed, test_seed());
    test_start();
    for (int i = 0; i < TASKS; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], use_cap, &c), 0);
    for (int i = 0; i < THREADS; i++)
        REQUIRE_EQUAL(pthread_create(&thread[i], NULL, use_cap_in_thread, &c), 0);
    REQUIRE_EQUAL(flow_when_all(task, TASKS, NULL, FLOW_FOREVER), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < BOX; i++)
        give_block(&c, atomic_load(&c.box[i]));
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(atomic_load(&c.tickets), max);
    s = stats_of(c.pool);
    REQUIRE(s.total_blocks <= s.max_blocks);
    child_note("a cap of %ld among %d users: nobody refused, %llu raids", max, TASKS + THREADS,
               (unsigned long long)s.raids);
    destroy_empty(c.pool);
}

CASE(nobody_is_refused_below_the_cap)
{
    share_a_cap(1);
    share_a_cap(20);
    share_a_cap(100);
    share_a_cap(50);
    share_a_cap(200);
}

CASE(nobody_is_refused_below_the_cap_without_membarrier)
{
    flow__sys.barrier = refuse_barrier;
    share_a_cap(20);
    share_a_cap(100);
}

/* More users than blocks: some are refused, but never all, and nothing is lost. */
struct share {
    flow_pool *pool;
    int most; /* that one user holds */
    long rounds;
    uint64_t seed;
};

static atomic_long refusals, successes;

static flow_result want_too_much(void *arg)
{
    struct share s = *(struct share *)arg;
    void *block[256];
    int n = 0;

    for (long i = 0; i < s.rounds; i++) {
        uint64_t random = test_random(&s.seed);

        if (n < s.most && random % 3) {
            block[n] = flow_pool_alloc(s.pool);
            atomic_fetch_add(block[n] ? &successes : &refusals, 1);
            n += block[n] != NULL;
        } else if (n > 0) {
            REQUIRE_EQUAL(flow_pool_free(s.pool, block[--n]), 0);
        }
        if (random >> 8 & 1)
            pause_here();
    }
    while (n > 0)
        REQUIRE_EQUAL(flow_pool_free(s.pool, block[--n]), 0);
    return flow_ok(NULL);
}

CASE(more_users_than_blocks)
{
    struct share share[8];
    flow_task task[8];
    uint64_t seed = test_seed();
    flow_pool *pool = pool_of(40, 400);

    test_start();
    for (int i = 0; i < 8; i++) {
        /* Two of them are enough, for the others may begin late. */
        share[i] = (struct share){pool, 250, TEST_ROUNDS(15000, 6000), test_random(&seed)};
        REQUIRE_EQUAL(flow_spawn(&task[i], want_too_much, &share[i]), 0);
    }
    REQUIRE_EQUAL(flow_when_all(task, 8, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE(refusals > 0 && successes > 0);
    REQUIRE_EQUAL(stats_of(pool).total_blocks, 400);
    destroy_empty(pool);
}

/* ---- runtimes come and go ---- */

static void run_once(struct crossing *c, int workers)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    flow_task task[4];

    o.workers = workers;
    test_start_with(&o);
    atomic_store(&c->taken, 0);
    for (int i = 0; i < 4; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], i % 2 ? consume : produce, c), 0);
    if (workers == 0)
        while (atomic_load(&c->taken) < 2 * c->n_each)
            flow_drive(FLOW_NOW);
    REQUIRE_EQUAL(flow_when_all(task, 4, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(a_pool_outlives_runtimes_of_any_size)
{
    static const int workers[] = {1, 4, 0, 2, 8, 0, 1};
    struct crossing c = {
        .n_box = BOX, .block_bytes = 64, .n_each = 2000, .n_producers = 2, .n_consumers = 2};
    void *mine[100];

    c.pool = pool_of(64, 4000);
    for (size_t i = 0; i < sizeof workers / sizeof *workers; i++) {
        run_once(&c, workers[i]);
        REQUIRE(flow__pool_is_sound(c.pool));
        REQUIRE_EQUAL(stats_of(c.pool).used_blocks, 0);
        for (int k = 0; k < 100; k++)
            REQUIRE((mine[k] = flow_pool_alloc(c.pool)));
        REQUIRE_EQUAL(stats_of(c.pool).used_blocks, 100);
        for (int k = 0; k < 100; k++)
            REQUIRE_EQUAL(flow_pool_free(c.pool, mine[k]), 0);
    }
    destroy_empty(c.pool);
}

/* ---- tasks that move ---- */

static flow_result roam_and_allocate(void *pool)
{
    void *block[20];

    for (int round = 0; round < TEST_ROUNDS(500, 60); round++) {
        for (int i = 0; i < 20; i++) {
            REQUIRE((block[i] = flow_pool_alloc(pool)));
            memset(block[i], i, 64);
            if (i % 7 == 0)
                REQUIRE_EQUAL(flow_yield(), 0);
        }
        for (int i = 0; i < 20; i++) {
            REQUIRE_EQUAL(((char *)block[i])[63], i);
            REQUIRE_EQUAL(flow_pool_free(pool, block[i]), 0);
            if (i % 5 == 0)
                REQUIRE_EQUAL(flow_yield(), 0);
        }
    }
    return flow_ok(NULL);
}

CASE(roaming_tasks_use_the_magazine_of_where_they_are)
{
    struct flow_options o = test_options();
    flow_pool *pool = pool_of(64, 0);
    flow_task task[24];

    o.roam = true;
    test_start_with(&o);
    for (int i = 0; i < 24; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], roam_and_allocate, pool), 0);
    REQUIRE_EQUAL(flow_when_all(task, 24, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    destroy_empty(pool);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv); /* FLOW_TEST_WORKERS decides about test_start() */
}
