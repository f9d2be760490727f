/* SPDX-License-Identifier: MIT
 *
 * In the guest: whom a node robs when a pool can make no more blocks, and a long journey of blocks
 * from the first node to the last. (That blocks are local is guest_memory's.) */
#include "tests/numa/guest.h"

#include <stdatomic.h>
#include <string.h>

enum { BLOCK_BYTES = 256 };

static int n_nodes;
static flow_pool *pool;

static void start(void)
{
    REQUIRE_EQUAL(flow_start(NULL), 0);
    n_nodes = flow_topology_nodes();
}

static struct flow_pool_stats stats_of(int node)
{
    struct flow_pool_stats stats = {.size = sizeof stats};

    REQUIRE_EQUAL(node < 0 ? flow_pool_stats(pool, &stats) : flow_pool_node_stats(pool, node, &stats), 0);
    return stats;
}

static struct flow_topology_node node_at(int node)
{
    struct flow_topology_node is = {.size = sizeof is};

    REQUIRE_EQUAL(flow_topology_node(node, &is), 0);
    return is;
}

static flow_task on_worker(int worker, flow_fn fn, void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    flow_task task;

    options.worker = worker;
    options.flags = FLOW_PINNED;
    REQUIRE_EQUAL(flow_spawn_with(&task, &options, fn, arg), 0);
    return task;
}

static void run_on_node(int node, flow_fn fn, void *arg)
{
    REQUIRE_EQUAL(flow_join(on_worker(node_at(node).first_worker, fn, arg), NULL, FLOW_FOREVER), 0);
}

static flow_result create_here(void *options)
{
    REQUIRE_EQUAL(flow_pool_create(&pool, options), 0);
    return flow_ok(NULL);
}

/* The first blocks are those of node 0. */
static void create(size_t initial_blocks, size_t max_blocks)
{
    struct flow_pool_options options = FLOW_POOL_INIT;

    options.block_bytes = BLOCK_BYTES;
    options.initial_blocks = initial_blocks;
    options.max_blocks = max_blocks;
    run_on_node(0, create_here, &options);
}

/* ---- at the cap ---- */

enum { CAP = 4000, SOME = 300 };

static struct haul {
    int n, wanted, from[GUEST_MOST];
    void *blocks[CAP + 1];
} haul[GUEST_MOST];

static flow_result take_some(void *arg)
{
    struct haul *mine = arg;
    void *block;

    while (mine->n < mine->wanted && (block = flow_pool_alloc(pool))) {
        memset(block, 1, BLOCK_BYTES);
        mine->from[flow_node_of(block)]++;
        mine->blocks[mine->n++] = block;
    }
    return flow_ok(NULL);
}

static flow_result give_all(void *arg)
{
    struct haul *mine = arg;

    while (mine->n > 0)
        REQUIRE_EQUAL(flow_pool_free(pool, mine->blocks[--mine->n]), 0);
    return flow_ok(NULL);
}

static void take(int node, int wanted)
{
    memset(haul[node].from, 0, sizeof haul[node].from);
    haul[node].wanted = haul[node].n + wanted;
    run_on_node(node, take_some, &haul[node]);
}

/* All blocks that may exist are made on nodes 0 and 2, and free again. Node 1 is near 0, 3 near 2. */
CASE(at_its_cap_a_pool_takes_blocks_from_the_nearest_node)
{
    start();
    create(CAP / 2, CAP);
    take(0, CAP / 2);
    take(2, CAP / 2);
    REQUIRE_EQUAL(haul[0].from[0], CAP / 2);
    REQUIRE_EQUAL(haul[2].from[2], CAP / 2);
    REQUIRE_EQUAL(stats_of(-1).total_blocks, CAP);
    run_on_node(0, give_all, &haul[0]);
    run_on_node(2, give_all, &haul[2]);
    take(1, SOME);
    take(3, SOME);
    child_note("at its cap of %d blocks: node 1 took %d from node 0 and %d from node 2, node 3 took %d and %d",
               CAP, haul[1].from[0], haul[1].from[2], haul[3].from[0], haul[3].from[2]);
    REQUIRE_EQUAL(haul[1].from[0], SOME);
    REQUIRE_EQUAL(haul[3].from[2], SOME);
    REQUIRE(stats_of(1).stolen_blocks >= SOME);
    REQUIRE(stats_of(3).stolen_blocks >= SOME);
    /* The rest goes to whoever asks, near blocks before far ones; and then there is none. */
    take(1, CAP);
    REQUIRE_EQUAL(haul[1].n + haul[3].n, CAP);
    REQUIRE_EQUAL(stats_of(-1).free_blocks, 0);
    REQUIRE_EQUAL(stats_of(-1).total_blocks, CAP);
    take(0, 1);
    REQUIRE_EQUAL(haul[0].n, 0);
    run_on_node(1, give_all, &haul[1]);
    run_on_node(3, give_all, &haul[3]);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- from the first node to the last ---- */

enum { JOURNEYS = 1000000, ON_THE_WAY = 1024 };

static struct {
    _Alignas(128) atomic_uint sent;
    _Alignas(128) atomic_uint received;
    _Alignas(128) void *slots[ON_THE_WAY];
} road;

static long rss_before_kb, rss_most_kb;

static flow_result produce(void *arg)
{
    int mine = node_at(flow_current_node()).memory_node;
    intptr_t strangers = 0;

    (void)arg;
    for (unsigned i = 0; i < JOURNEYS; i++) {
        unsigned *block = flow_pool_alloc(pool);

        REQUIRE(block != NULL);
        block[2] = i;
        if (i % 1000 == 0)
            strangers += flow_node_of(block) != mine;
        while (i - atomic_load(&road.received) == ON_THE_WAY)
            flow_yield();
        road.slots[i % ON_THE_WAY] = block;
        atomic_store(&road.sent, i + 1);
    }
    return flow_ok_i64(strangers);
}

static flow_result consume(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < JOURNEYS; i++) {
        unsigned *block;

        while (atomic_load(&road.sent) == i)
            flow_yield();
        block = road.slots[i % ON_THE_WAY];
        REQUIRE_EQUAL(block[2], i);
        REQUIRE_EQUAL(flow_pool_free(pool, block), 0);
        atomic_store(&road.received, i + 1);
    }
    return flow_ok(NULL);
}

CASE(a_million_blocks_from_the_first_node_to_the_last)
{
    struct flow_pool_stats stats;
    flow_task producer, consumer;
    flow_result result;

    start();
    create(64, 0);
    rss_before_kb = resident_kb();
    producer = on_worker(node_at(0).first_worker, produce, NULL);
    consumer = on_worker(node_at(n_nodes - 1).first_worker, consume, NULL);
    while (atomic_load(&road.received) < JOURNEYS) {
        long now = resident_kb();

        rss_most_kb = now > rss_most_kb ? now : rss_most_kb;
        test_nap(FLOW_MS(50));
    }
    REQUIRE_EQUAL(flow_join(producer, &result, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_join(consumer, NULL, FLOW_FOREVER), 0);
    stats = stats_of(-1);
    child_note("%d blocks went from node 0 to node %d, at most %d at once: the pool has %llu blocks, "
               "resident memory grew by at most %ld kB",
               JOURNEYS, n_nodes - 1, ON_THE_WAY, (unsigned long long)stats.total_blocks,
               rss_most_kb - rss_before_kb);
    child_note("local pages: %.1f %% of %d blocks looked at; %llu remote frees",
               100.0 - 100.0 * (double)result.i64 / (JOURNEYS / 1000), JOURNEYS / 1000,
               (unsigned long long)stats.remote_frees);
    REQUIRE_EQUAL(result.i64, 0);
    REQUIRE(stats.remote_frees > JOURNEYS - 10000);
    REQUIRE(stats.total_blocks <= 8 * ON_THE_WAY);
    REQUIRE_EQUAL(stats.used_blocks, 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
