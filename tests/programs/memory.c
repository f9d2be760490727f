/* SPDX-License-Identifier: MIT
 *
 * Programs about pools, and about calls on helper threads. */
#include "tests/programs/programs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { USERS = 4, BLOCKS = 12, TRIES = 6 };

/* ---- pools ---- */

struct stock {
    flow_pool *pool;
    flow_object_pool *objects;
    size_t bytes;
    atomic_int constructed, destroyed;
};

struct user {
    struct stock *stock;
    struct chance chance;
};

static void fill(void *block, size_t bytes)
{
    memset(block, (int)((uintptr_t)block >> 4 & 0xff), bytes);
}

static bool is_whole(const unsigned char *block, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (block[i] != ((uintptr_t)block >> 4 & 0xff))
            return false;
    return true;
}

static flow_result use_blocks(void *user)
{
    struct user *u = user;
    void *held[BLOCKS];
    int n = 0;

    for (int i = 0; i < 4 * BLOCKS; i++) {
        if (n < BLOCKS && heads(&u->chance)) {
            held[n] = flow_pool_alloc(u->stock->pool);
            EXPECT(held[n] != NULL);
            if (held[n])
                fill(held[n++], u->stock->bytes);
        } else if (n > 0) {
            EXPECT(is_whole(held[--n], u->stock->bytes));
            EXPECT_EQ(flow_pool_free(u->stock->pool, held[n]), 0);
        }
        if (roll_below(&u->chance, 8) == 0)
            dawdle(&u->chance);
    }
    while (n > 0) {
        EXPECT(is_whole(held[--n], u->stock->bytes));
        EXPECT_EQ(flow_pool_free(u->stock->pool, held[n]), 0);
    }
    note_done(0x1100);
    return flow_ok(NULL);
}

static void let_use(struct chance *c, struct stock *stock, flow_fn fn)
{
    struct user users[USERS];
    flow_task tasks[USERS];
    int n = 1 + (int)roll_below(c, USERS);

    for (int i = 0; i < n; i++) {
        users[i] = (struct user){stock, chance_for(c)};
        start_task(c, &tasks[i], fn, &users[i]);
    }
    while (n > 0)
        join_task(tasks[--n]);
}

flow_result run_pool(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct stock stock = {.bytes = 8 + roll_below(&c, 200)};
    struct flow_pool_options o = FLOW_POOL_INIT;
    struct flow_pool_stats stats = {.size = sizeof stats};

    o.block_bytes = stock.bytes;
    o.initial_blocks = roll_below(&c, 20);
    EXPECT_EQ(flow_pool_create(&stock.pool, &o), 0);
    let_use(&c, &stock, use_blocks);
    EXPECT_EQ(flow_pool_stats(stock.pool, &stats), 0);
    EXPECT_EQ(stats.used_blocks, 0);
    EXPECT_EQ(stats.used_blocks + stats.free_blocks, stats.total_blocks);
    EXPECT_EQ(flow_pool_destroy(stock.pool), 0);
    return flow_ok(NULL);
}

/* ---- object pools ---- */

static int construct(void *object, void *stock)
{
    atomic_fetch_add(&((struct stock *)stock)->constructed, 1);
    fill(object, ((struct stock *)stock)->bytes);
    return 0;
}

static void destroy(void *object, void *stock)
{
    EXPECT(is_whole(object, ((struct stock *)stock)->bytes));
    atomic_fetch_add(&((struct stock *)stock)->destroyed, 1);
}

static flow_result use_objects(void *user)
{
    struct user *u = user;

    for (int i = 0; i < BLOCKS; i++) {
        void *object = NULL;
        int r = flow_object_pool_acquire(u->stock->objects, &object);

        EXPECT(r == 0 || r == -ENOSPC);
        if (r == 0)
            EXPECT(is_whole(object, u->stock->bytes));
        dawdle(&u->chance);
        if (r == 0)
            EXPECT_EQ(flow_object_pool_release(u->stock->objects, object), 0);
        note_done(0x1200);
    }
    return flow_ok(NULL);
}

flow_result run_objects(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct stock stock = {.bytes = 8 + roll_below(&c, 100)};
    struct flow_object_pool_options o = FLOW_OBJECT_POOL_INIT;

    o.object_bytes = stock.bytes;
    o.max_objects = 1 + roll_below(&c, USERS);
    o.construct = construct;
    o.destroy = destroy;
    o.arg = &stock;
    EXPECT_EQ(flow_object_pool_create(&stock.objects, &o), 0);
    let_use(&c, &stock, use_objects);
    EXPECT_EQ(flow_object_pool_destroy(stock.objects), 0);
    EXPECT_EQ(atomic_load(&stock.constructed), atomic_load(&stock.destroyed));
    EXPECT(atomic_load(&stock.constructed) >= 1);
    return flow_ok(NULL);
}

/* ---- calls on helper threads ---- */

static atomic_int owned_released;

static flow_result call(void *number)
{
    uint64_t *n = number;

    *n = ~*n;
    return flow_ok_u64(*n);
}

static void release(void *number)
{
    atomic_fetch_add(&owned_released, 1);
    free(number);
}

static void owned_call(struct chance *c, flow_lane *lane, flow_deadline deadline)
{
    uint64_t *number = malloc(sizeof *number), n = roll(c);
    bool abandoned = false;
    flow_result r;

    *number = n;
    r = flow_offload_owned(lane, call, number, release, &abandoned, deadline);
    EXPECT_EQ(abandoned, r.error != 0);
    EXPECT(r.error == 0 || r.error == -ETIMEDOUT || (r.error == -EAGAIN && deadline == FLOW_NOW));
    if (abandoned)
        return;
    EXPECT_EQ(r.u64, ~n);
    EXPECT_EQ(*number, ~n);
    free(number);
}

static flow_result make_calls(void *user)
{
    static flow_lane *const lanes[] = {FLOW_LANE_FILE, FLOW_LANE_DNS, FLOW_LANE_CPU};
    struct user *u = user;

    for (int i = 0; i < TRIES; i++) {
        flow_lane *lane = lanes[roll_below(&u->chance, 3)];
        flow_deadline deadline = heads(&u->chance) ? soon(&u->chance) : FLOW_FOREVER;
        uint64_t n = roll(&u->chance), on_stack = n;

        if (heads(&u->chance)) {
            owned_call(&u->chance, lane, deadline);
        } else {
            flow_result r = flow_offload(lane, call, &on_stack, deadline);

            EXPECT_EQ(on_stack, r.error ? n : ~n); /* it ran, or it never will */
            EXPECT(r.error ? r.error == -ETIMEDOUT && deadline != FLOW_FOREVER : r.u64 == ~n);
        }
        note_done(0x1300);
        dawdle(&u->chance);
    }
    return flow_ok(NULL);
}

flow_result run_calls(void *seed)
{
    struct chance c = {(uintptr_t)seed};

    if (!program_stage.no_calls)
        let_use(&c, &(struct stock){.bytes = 0}, make_calls);
    return flow_ok(NULL);
}
