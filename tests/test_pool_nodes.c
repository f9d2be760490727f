/* SPDX-License-Identifier: MIT
 *
 * Pools on a machine of four nodes (a fixture): blocks go home, each node grows by itself, a node at
 * the cap takes from the nearest one that has free blocks. Where the pages really lie is what make
 * check-numa looks at. */
#include "core/pool.h"
#include "tests/support/child.h"
#include "tests/support/faults.h"
#include "tests/support/machine.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MANY   2000
#define STOLEN (8 * FLOW__MAGAZINE / 2)

/* Worker 2 * n is the first one of node n. */
static void start_on_four_nodes(void)
{
    struct flow_options o = FLOW_OPTIONS_INIT;

    machine_use(&machine_four_nodes);
    o.workers = 8;
    test_start_with(&o);
}

static void stop(void)
{
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    machine_close();
}

struct job {
    flow_pool *pool;
    int n;
    int first; /* place in block[] */
    bool may_fail;
    int worker_node;
};

static void *block[MANY];

static flow_result take(void *arg)
{
    struct job *j = arg;
    int64_t got = 0;

    REQUIRE_EQUAL(flow__self()->home->node, j->worker_node);
    for (int i = 0; i < j->n; i++) {
        block[j->first + i] = flow_pool_alloc(j->pool);
        REQUIRE(block[j->first + i] || j->may_fail);
        got += block[j->first + i] != NULL;
    }
    return flow_ok_i64(got);
}

static flow_result give(void *arg)
{
    struct job *j = arg;

    for (int i = 0; i < j->n; i++)
        REQUIRE_EQUAL(flow_pool_free(j->pool, block[j->first + i]), 0);
    return flow_ok(NULL);
}

static int64_t on_node(int node, flow_fn fn, struct job job)
{
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    flow_result result;
    flow_task task;

    job.worker_node = node;
    how.worker = 2 * node;
    how.flags = FLOW_PINNED;
    REQUIRE_EQUAL(flow_spawn_with(&task, &how, fn, &job), 0);
    REQUIRE_EQUAL(flow_join(task, &result, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(result.error, 0);
    return result.i64;
}

static struct flow_pool_stats of_node(flow_pool *pool, int node)
{
    struct flow_pool_stats s = {.size = sizeof s};

    REQUIRE_EQUAL(node < 0 ? flow_pool_stats(pool, &s) : flow_pool_node_stats(pool, node, &s), 0);
    return s;
}

static void require_node(flow_pool *pool, int node, uint64_t total, uint64_t used)
{
    struct flow_pool_stats s = of_node(pool, node);

    REQUIRE_EQUAL(s.total_blocks, total);
    REQUIRE_EQUAL(s.used_blocks, used);
    REQUIRE_EQUAL(s.free_blocks, total - used);
    REQUIRE(flow__pool_is_sound(pool));
}

static flow_pool *make_pool(size_t initial, size_t max, int node)
{
    struct flow_pool_options o = FLOW_POOL_INIT;
    flow_pool *pool;

    o.block_bytes = 64;
    o.initial_blocks = initial;
    o.max_blocks = max;
    o.node = node;
    REQUIRE_EQUAL(flow_pool_create(&pool, &o), 0);
    return pool;
}

static void require_home(int first, int n, int node)
{
    for (int i = first; i < first + n; i++)
        REQUIRE_EQUAL(flow__chunk_at(block[i])->node, node);
}

CASE(each_node_uses_and_grows_its_own)
{
    flow_pool *pool;

    start_on_four_nodes();
    pool = make_pool(64, 0, -1);
    require_node(pool, 0, 64, 0);
    for (int node = 0; node < 4; node++) {
        int n = 50 + 50 * node;

        on_node(node, take, (struct job){.pool = pool, .n = n});
        require_home(0, n, node);
        require_node(pool, node, n <= 64 ? 64 : n <= 128 ? 128 : 256, (uint64_t)n);
        on_node(node, give, (struct job){.pool = pool, .n = n});
        require_node(pool, node, n <= 64 ? 64 : n <= 128 ? 128 : 256, 0);
    }
    REQUIRE_EQUAL(of_node(pool, -1).remote_frees, 0);
    REQUIRE_EQUAL(of_node(pool, -1).stolen_blocks, 0);
    REQUIRE_EQUAL(of_node(pool, -1).total_blocks, 64 + 128 + 256 + 256);
    stop();
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

CASE(a_block_freed_on_another_node_goes_home)
{
    flow_pool *pool;
    uint64_t total;

    start_on_four_nodes();
    pool = make_pool(64, 0, -1);
    on_node(0, take, (struct job){.pool = pool, .n = 1000});
    total = of_node(pool, 0).total_blocks;
    require_node(pool, 0, total, 1000);
    for (int node = 1; node < 4; node++)
        on_node(node, give, (struct job){.pool = pool, .n = 300, .first = 300 * (node - 1)});
    /* Exact, although some wait in the freeing workers' magazines for their batch to be full. */
    require_node(pool, 0, total, 100);
    REQUIRE_EQUAL(of_node(pool, -1).remote_frees, 900);
    for (int node = 1; node < 4; node++) {
        REQUIRE_EQUAL(of_node(pool, node).remote_frees, 300);
        REQUIRE_EQUAL(of_node(pool, node).total_blocks, 0);
    }
    REQUIRE_EQUAL(of_node(pool, 0).remote_frees, 0);
    /* At most a magazine's worth was kept by each. */
    REQUIRE(load_relaxed(&load_relaxed(&pool->depot[0])->n_free) >=
            total - 1000 - 64 + 900 - 3 * FLOW__MAGAZINE);
    /* Home again, they are used there, and none is made anew. */
    on_node(0, take, (struct job){.pool = pool, .n = 700});
    require_home(0, 700, 0);
    require_node(pool, 0, total, 800);
    on_node(0, give, (struct job){.pool = pool, .n = 700});
    on_node(3, give, (struct job){.pool = pool, .n = 100, .first = 900});
    require_node(pool, 0, total, 0);
    stop();
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

/* 10^6 blocks from node 0 to node 3, some hundred at a time. */
CASE(a_million_blocks_from_node_0_to_node_3_in_bounded_memory)
{
    long rounds = TEST_ROUNDS(5000, 300);
    struct flow_pool_stats s;
    flow_pool *pool;

    start_on_four_nodes();
    pool = make_pool(64, 0, -1);
    for (long i = 0; i < rounds; i++) {
        on_node(0, take, (struct job){.pool = pool, .n = 200});
        on_node(3, give, (struct job){.pool = pool, .n = 200});
    }
    s = of_node(pool, -1);
    REQUIRE_EQUAL(s.remote_frees, 200 * rounds);
    REQUIRE_EQUAL(s.used_blocks, 0);
    REQUIRE(s.total_blocks <= 512);
    require_node(pool, 0, s.total_blocks, 0);
    child_note("%ld blocks from node 0 to node 3 in the memory of %llu", 200 * rounds,
               (unsigned long long)s.total_blocks);
    stop();
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

/* ---- at the cap ---- */

CASE(at_the_cap_the_nearest_node_is_robbed_first)
{
    /* 0-1 and 2-3 are at distance 12, all others at 21. */
    static const int order[4][4] = {{0, 1, 2, 3}, {1, 0, 2, 3}, {2, 3, 0, 1}, {3, 2, 0, 1}};

    for (int thief = 0; thief < 4; thief++) {
        flow_pool *pool;
        int taken = 0;

        start_on_four_nodes();
        pool = make_pool(400, 1600, -1);
        for (int node = 0; node < 4; node++) {
            /* Makes the first 400 of the node, and leaves them free. */
            on_node(node, take, (struct job){.pool = pool, .n = 400});
            on_node(node, give, (struct job){.pool = pool, .n = 400});
            require_node(pool, node, 400, 0);
        }
        for (int i = 0; i < 4; i++) {
            /* From the depot, in whole batches; the rest may lie in the magazine of its node. */
            int n = STOLEN;

            if (i == 0)
                n = 400;
            on_node(thief, take, (struct job){.pool = pool, .n = n, .first = taken});
            require_home(taken, n, order[thief][i]);
            REQUIRE(i > 1 || of_node(pool, -1).raids == 0); /* its depot was enough */
            taken += n;
            if (i > 0) { /* the rest of this node is used by itself, so that it has no free ones */
                int left = 400 - n;

                on_node(order[thief][i], take,
                        (struct job){.pool = pool, .n = left, .first = taken});
                taken += left;
            }
            require_node(pool, order[thief][i], 400, 400);
        }
        REQUIRE_EQUAL(taken, 1600);
        REQUIRE_EQUAL(on_node(thief, take,
                              (struct job){.pool = pool, .n = 1, .first = 1600, .may_fail = true}),
                      0);
        REQUIRE(of_node(pool, thief).stolen_blocks >= 3 * STOLEN);
        REQUIRE_EQUAL(of_node(pool, -1).total_blocks, 1600);
        /* All of them go home. */
        on_node(thief, give, (struct job){.pool = pool, .n = 1600});
        for (int node = 0; node < 4; node++)
            require_node(pool, node, 400, 0);
        stop();
        REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    }
}

/* What lies in another node's magazine, or on its way home, is found too. */
CASE(no_block_hides_on_another_node)
{
    flow_pool *pool;

    start_on_four_nodes();
    pool = make_pool(0, 900, -1);
    for (int round = 0; round < 5; round++) {
        on_node(round % 4, take, (struct job){.pool = pool, .n = 900});
        REQUIRE_EQUAL(of_node(pool, -1).used_blocks, 900);
        for (int node = 0; node < 4; node++)
            on_node(node, give, (struct job){.pool = pool, .n = 225, .first = 225 * node});
        REQUIRE_EQUAL(of_node(pool, -1).used_blocks, 0);
        REQUIRE(flow__pool_is_sound(pool));
    }
    /* A foreign thread takes all of them too. */
    for (int i = 0; i < 900; i++)
        REQUIRE((block[i] = flow_pool_alloc(pool)));
    REQUIRE(!flow_pool_alloc(pool));
    for (int i = 0; i < 900; i++)
        REQUIRE_EQUAL(flow_pool_free(pool, block[i]), 0);
    REQUIRE_EQUAL(flow_pool_shrink(pool) > 0, 1);
    REQUIRE_EQUAL(of_node(pool, -1).total_blocks, 0);
    stop();
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

CASE(a_pool_of_one_node_has_blocks_of_that_node_only)
{
    struct flow_pool_options o = FLOW_POOL_INIT;
    flow_pool *pool;

    start_on_four_nodes();
    o.block_bytes = 64;
    o.node = 4;
    REQUIRE_EQUAL(flow_pool_create(&pool, &o), -EINVAL);
    pool = make_pool(64, 0, 2);
    for (int node = 0; node < 4; node++) {
        on_node(node, take, (struct job){.pool = pool, .n = 200, .first = 200 * node});
        require_home(200 * node, 200, 2);
    }
    block[800] = flow_pool_alloc(pool);
    require_home(800, 1, 2);
    REQUIRE_EQUAL(flow_pool_free(pool, block[800]), 0);
    for (int node = 0; node < 4; node++)
        on_node(node, give, (struct job){.pool = pool, .n = 200, .first = 200 * (3 - node)});
    REQUIRE_EQUAL(of_node(pool, -1).used_blocks, 0);
    REQUIRE_EQUAL(of_node(pool, -1).remote_frees, 0);
    require_node(pool, 2, of_node(pool, -1).total_blocks, 0);
    stop();
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

/* ---- a node that was never used, when memory is short ---- */

static flow_result take_without_memory(void *arg)
{
    flow_result result;

    faults_arm(FAULT_MAP, 1, true);
    result = take(arg);
    REQUIRE(faults_fired());
    faults_arm(FAULT_MAP, 0, false);
    return result;
}

CASE(a_node_that_gets_no_memory_takes_what_others_have)
{
    faults_open();
    for (int in_magazines = 0; in_magazines < 2; in_magazines++) {
        flow_pool *pool;

        start_on_four_nodes();
        pool = make_pool(64, 0, -1);
        on_node(1, take, (struct job){.pool = pool, .n = 64});
        if (in_magazines) {
            on_node(0, take, (struct job){.pool = pool, .n = 64, .first = 64});
            on_node(0, give, (struct job){.pool = pool, .n = 64, .first = 64});
        }
        on_node(1, give, (struct job){.pool = pool, .n = 64});
        REQUIRE_EQUAL(of_node(pool, -1).free_blocks, 128);
        REQUIRE_EQUAL(on_node(3, take_without_memory,
                              (struct job){.pool = pool, .n = 130, .may_fail = true}),
                      128);
        require_node(pool, 0, 64, 64);
        require_node(pool, 1, 64, 64);
        REQUIRE_EQUAL(of_node(pool, -1).total_blocks, 128);
        on_node(3, give, (struct job){.pool = pool, .n = 128});
        REQUIRE_EQUAL(of_node(pool, -1).used_blocks, 0);
        REQUIRE(flow__pool_is_sound(pool));
        stop();
        REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    }
}

static flow__atomic(bool) no_pages;

/* A depot fits into a page, a magazine does not. */
static void *map_but_no_pages(size_t bytes, int prot, int flags)
{
    if (load_seq(&no_pages) && bytes <= (size_t)sysconf(_SC_PAGESIZE))
        return NULL;
    return flow__sys_real.map(bytes, prot, flags);
}

static flow_result take_without_a_depot(void *arg)
{
    flow_result result;

    exchange_seq(&no_pages, true);
    result = take(arg);
    exchange_seq(&no_pages, false);
    return result;
}

/* Its magazine is another node's, until it has a depot of its own. */
CASE(a_node_that_gets_memory_later_has_blocks_of_its_own)
{
    flow_pool *pool;

    flow__sys.map = map_but_no_pages;
    start_on_four_nodes();
    pool = make_pool(64, 0, -1);
    on_node(2, take_without_a_depot, (struct job){.pool = pool, .n = 1});
    require_home(0, 1, 0);
    require_node(pool, 0, 64, 1);
    on_node(2, take, (struct job){.pool = pool, .n = 200, .first = 1});
    require_home(65, 136, 2);
    require_node(pool, 0, 64, of_node(pool, 0).used_blocks);
    on_node(2, give, (struct job){.pool = pool, .n = 201});
    require_node(pool, 0, 64, 0);
    require_node(pool, 2, of_node(pool, 2).total_blocks, 0);
    stop();
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

/* ---- a foreign thread on another node than the first ---- */

/* In place of the C library's: CPU 5 of the fixture is on node 2. */
int sched_getcpu(void)
{
    return 5;
}

CASE(a_foreign_thread_begins_with_blocks_of_its_node)
{
    flow_pool *pool;

    start_on_four_nodes();
    flow__runtime.topology.live = true; /* so that it is asked which CPU this is */
    REQUIRE_EQUAL(flow_current_node(), 2);
    pool = make_pool(64, 0, -1);
    require_node(pool, 0, 0, 0);
    require_node(pool, 2, 64, 0);
    block[0] = flow_pool_alloc(pool);
    require_home(0, 1, 2);
    REQUIRE_EQUAL(of_node(pool, -1).total_blocks, 64);
    REQUIRE_EQUAL(flow_pool_free(pool, block[0]), 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    pool = make_pool(64, 0, 3);
    require_node(pool, 3, 64, 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    flow__runtime.topology.live = false;
    stop();
}

/* ---- from one machine to another ---- */

/* Worker 4 sits on node 2 here, and on the only node of the next machine. */
CASE(a_magazine_follows_its_worker_to_another_node)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    flow_pool *pool;
    uint64_t total;

    start_on_four_nodes();
    pool = make_pool(64, 0, -1);
    on_node(0, take, (struct job){.pool = pool, .n = 100, .first = 100});
    on_node(2, take, (struct job){.pool = pool, .n = 100});
    on_node(2, give, (struct job){.pool = pool, .n = 200});
    REQUIRE_EQUAL(of_node(pool, 2).remote_frees, 100);
    stop();
    total = of_node(pool, 2).total_blocks;
    require_node(pool, 2, total, 0);

    machine_use(&machine_one_node);
    o.workers = 5;
    test_start_with(&o);
    {
        struct flow_spawn_options how = FLOW_SPAWN_INIT;
        struct job job = {.pool = pool, .n = 300};
        flow_task task;

        how.worker = 4;
        how.flags = FLOW_PINNED;
        /* It still has some of node 2 when it is given one of node 0. */
        block[500] = flow_pool_alloc(pool);
        require_home(500, 1, 0);
        REQUIRE(of_node(pool, 2).free_blocks > 0);
        {
            struct job one = {.pool = pool, .n = 1, .first = 500};

            REQUIRE_EQUAL(flow_spawn_with(&task, &how, give, &one), 0);
            REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
            require_node(pool, 2, total, 0);
        }
        REQUIRE_EQUAL(flow_spawn_with(&task, &how, take, &job), 0);
        REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
        REQUIRE(flow__pool_is_sound(pool));
        /* The first few may still be what the worker had. */
        require_home(FLOW__MAGAZINE, 300 - FLOW__MAGAZINE, 0);
        REQUIRE_EQUAL(flow_spawn_with(&task, &how, give, &job), 0);
        REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
    }
    require_node(pool, 2, total, 0);
    REQUIRE_EQUAL(of_node(pool, 2).remote_frees, 100);
    stop();
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
