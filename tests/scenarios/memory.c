/* SPDX-License-Identifier: MIT
 *
 * Scenarios: pools, lock-free containers, memory of a node. */
#include "tests/scenarios/scenarios.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- pools ---- */

enum { BLOCKS = 3000, MOST_BLOCKS = 3 * BLOCKS };

static void use_pool(flow_pool *pool)
{
    void **block = malloc(BLOCKS * sizeof *block);
    int n = 0;

    if (!block) {
        fine(-ENOMEM);
        return;
    }
    for (int i = 0; i < BLOCKS; i++) {
        block[n] = flow_pool_alloc(pool);
        if (!block[n]) {
            fine(-ENOMEM);
            continue;
        }
        memset(block[n++], i, 100);
    }
    for (int i = 0; i < n; i++)
        REQUIRE_EQUAL(flow_pool_free(pool, block[i]), 0);
    free(block);
}

static flow_result use_pool_in_task(void *pool)
{
    use_pool(pool);
    return flow_ok(NULL);
}

/* What was refused once does not count against the pool's limit. (Without membarrier what lies in other
 * workers' stores stays there.) */
static void take_all(flow_pool *pool)
{
    void **first = NULL, **block;
    int n = 0, refused = 0;

    while (n < MOST_BLOCKS) {
        block = flow_pool_alloc(pool);
        if (block) {
            *block = first;
            first = block;
            n++;
        } else if (!fine(-ENOMEM) && (scenario_faults.how != ONCE || ++refused > 1)) {
            break;
        }
    }
    REQUIRE(n == MOST_BLOCKS || scenario_faults.how != ONCE);
    for (; first; first = block) {
        block = *first;
        REQUIRE_EQUAL(flow_pool_free(pool, first), 0);
    }
}

void pools(void)
{
    struct flow_pool_options o = FLOW_POOL_INIT;
    flow_task task[2];
    flow_result result;
    flow_pool *pool;
    int n = 0;

    o.block_bytes = 100;
    o.expansion_factor = 1.3;
    o.max_blocks = MOST_BLOCKS;
    if (!fine(flow_pool_create(&pool, &o)))
        return;
    for (int i = 0; i < 2; i++)
        n += fine(flow_spawn(&task[n], use_pool_in_task, pool));
    use_pool(pool); /* a thread's too */
    for (int i = 0; i < n; i++) {
        int r = flow_join(task[i], &result, FLOW_FOREVER);

        fine(r ? r : result.error);
    }
    take_all(pool);
    REQUIRE(flow_pool_shrink(pool) >= 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

static atomic_long constructed;

static int construct(void *object, void *arg)
{
    void **memory = object;

    (void)arg;
    *memory = malloc(24);
    if (!*memory)
        return -ENOMEM;
    atomic_fetch_add(&constructed, 1);
    return 0;
}

static void destroy(void *object, void *arg)
{
    (void)arg;
    free(*(void **)object);
    atomic_fetch_sub(&constructed, 1);
}

static flow_result use_objects(void *pool)
{
    void *object[300];
    int n = 0;

    for (int i = 0; i < 300; i++)
        n += fine(flow_object_pool_acquire(pool, &object[n]));
    for (int i = 0; i < n; i++)
        REQUIRE_EQUAL(flow_object_pool_release(pool, object[i]), 0);
    return flow_ok(NULL);
}

void object_pools(void)
{
    struct flow_object_pool_options o = FLOW_OBJECT_POOL_INIT;
    flow_object_pool *pool;
    flow_result result;
    int r;

    o.object_bytes = 64;
    o.warm_up = 20;
    o.construct = construct;
    o.destroy = destroy;
    atomic_store(&constructed, 0);
    if (fine(flow_object_pool_create(&pool, &o))) {
        r = flow_sync_wait(use_objects, pool, &result, FLOW_FOREVER);
        fine(r ? r : result.error);
        REQUIRE(flow_object_pool_shrink(pool) >= 0);
        REQUIRE_EQUAL(flow_object_pool_destroy(pool), 0);
    }
    REQUIRE_EQUAL(atomic_load(&constructed), 0);
}

/* ---- containers ---- */

void containers(void)
{
    enum { ITEMS = 20000 };
    long in_queue = 0, in_stack = 0, in_ring = 0;
    flow_queue *queue = NULL;
    flow_stack *stack = NULL;
    flow_ring *ring = NULL;
    void *item;

    fine(flow_queue_create(&queue));
    fine(flow_stack_create(&stack));
    fine(flow_ring_create(&ring, 1000, 0));
    for (intptr_t i = 1; i <= ITEMS; i++) {
        in_queue += queue && fine(flow_queue_push(queue, (void *)i));
        in_stack += stack && fine(flow_stack_push(stack, (void *)i));
        in_ring += ring && flow_ring_push(ring, (void *)i) == 0;
    }
    while (queue && flow_queue_pop(queue, &item) == 0)
        in_queue--;
    while (stack && flow_stack_pop(stack, &item) == 0)
        in_stack--;
    while (ring && flow_ring_pop(ring, &item) == 0)
        in_ring--;
    REQUIRE(in_queue == 0 && in_stack == 0 && in_ring == 0);
    REQUIRE_EQUAL(queue ? flow_queue_destroy(queue) : 0, 0);
    REQUIRE_EQUAL(stack ? flow_stack_destroy(stack) : 0, 0);
    REQUIRE_EQUAL(ring ? flow_ring_destroy(ring) : 0, 0);
}

/* ---- blocks of a node ---- */

void memory_of_a_node(void)
{
    void *p[20] = {0};

    for (int i = 0; i < 20; i++) {
        if (fine(flow_alloc_on_node(&p[i], 10000, 0)))
            memset(p[i], i, 10000);
        else
            p[i] = NULL;
    }
    for (int i = 0; i < 20; i++)
        if (p[i])
            REQUIRE_EQUAL(flow_free_on_node(p[i], 10000), 0);
}
