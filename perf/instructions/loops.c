/* SPDX-License-Identifier: MIT
 *
 * The loops whose instructions are counted, by count.sh and compare.sh: loops NAME N runs one of them
 * N times, on one worker; the main thread only waits. So two runs under callgrind give the same
 * number, whatever else the machine does; the difference between two N's leaves the start of the
 * process out. It says nothing of caches, of mispredicted branches, nor of what a second worker costs.
 *
 * This file is also compiled against older sources, so it uses the public interface only; but for the
 * bare switch, which has none. */
#include "core/arch/switch.h"

#include <flowcoro.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "loops: line %d: %s\n", __LINE__, #condition);                         \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static uint64_t n;

/* ---- switch: there and back ---- */

static _Alignas(64) char stack[65536];

struct bouncer {
    struct flow__context outside, inside;
};

static long bounce(void *arg)
{
    struct bouncer *b = arg;
    long value = 0;

    for (;;)
        value = flow__switch(&b->inside, &b->outside, value + 1);
    return 0;
}

static flow_result loop_switch(void *arg)
{
    struct bouncer b;
    long value = flow__call(&b.outside, stack + sizeof stack, bounce, &b);

    for (uint64_t i = 1; i < n; i++)
        value = flow__switch(&b.outside, &b.inside, value);
    CHECK((uint64_t)value == n);
    return flow_ok(arg);
}

/* ---- tasks ---- */

static flow_result twice(void *arg)
{
    return flow_ok_u64((uint64_t)(uintptr_t)arg * 2);
}

static flow_result loop_spawn(void *arg)
{
    for (uint64_t i = 0; i < n; i++) {
        flow_result result;
        flow_task task;

        CHECK(!flow_spawn(&task, twice, (void *)1));
        CHECK(!flow_join(task, &result, FLOW_FOREVER) && result.u64 == 2);
    }
    return flow_ok(arg);
}

static flow_result loop_spawn_now(void *arg)
{
    for (uint64_t i = 0; i < n; i++)
        CHECK(!flow_spawn_now(NULL, twice, arg));
    return flow_ok(arg);
}

static flow_result yielder(void *arg)
{
    for (uint64_t i = 0; i < n; i++)
        CHECK(!flow_yield());
    return flow_ok(arg);
}

/* Runs fn in two tasks, which n operations of each make n times there and back. */
static flow_result in_a_pair(flow_fn first, flow_fn second)
{
    flow_task pair[2];

    CHECK(!flow_spawn(&pair[0], first, NULL) && !flow_spawn(&pair[1], second, NULL));
    CHECK(!flow_when_all(pair, 2, NULL, FLOW_FOREVER));
    return flow_ok(NULL);
}

static flow_result loop_yield(void *unused)
{
    (void)unused;
    return in_a_pair(yielder, yielder);
}

/* ---- wake: two tasks that wake each other and wait ---- */

static flow_waker waker;
static bool published;

static int publish(flow_waker w, void *unused)
{
    (void)unused;
    waker = w;
    published = true;
    return 0;
}

static flow_result sleeper(void *arg)
{
    for (uint64_t i = 0; i < n; i++)
        CHECK(!flow_suspend(publish, NULL, FLOW_FOREVER));
    return flow_ok(arg);
}

static flow_result rouser(void *arg)
{
    for (uint64_t i = 0; i < n; i++) {
        while (!published)
            CHECK(!flow_yield());
        published = false;
        CHECK(!flow_wake(waker));
        CHECK(!flow_yield());
    }
    return flow_ok(arg);
}

static flow_result loop_wake(void *unused)
{
    (void)unused;
    return in_a_pair(sleeper, rouser);
}

/* ---- fork ---- */

static uint64_t leaf(uint64_t x);
FLOW_JOB(leaf, uint64_t, uint64_t)

static __attribute__((noinline)) uint64_t leaf(uint64_t x)
{
    return x & 3;
}

static flow_result loop_fork(void *arg)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i++) {
        struct leaf_job job;

        leaf_fork(&job, 1);
        sum += leaf_sync(&job);
    }
    CHECK(sum == n);
    return flow_ok(arg);
}

/* ---- channels ---- */

static struct flow_chan *there, *back;

static flow_result echo(void *arg)
{
    uint64_t x;

    for (uint64_t i = 0; i < n; i++)
        CHECK(!flow_chan_recv(there, &x, FLOW_FOREVER) && !flow_chan_send(back, &x, FLOW_FOREVER));
    return flow_ok(arg);
}

static flow_result player(void *arg)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t x = i;

        CHECK(!flow_chan_send(there, &x, FLOW_FOREVER) && !flow_chan_recv(back, &x, FLOW_FOREVER));
        CHECK(x == i);
    }
    return flow_ok(arg);
}

static flow_result loop_pingpong(void *unused)
{
    (void)unused;
    CHECK(!flow_chan_create(&there, sizeof(uint64_t), 0));
    CHECK(!flow_chan_create(&back, sizeof(uint64_t), 0));
    return in_a_pair(echo, player);
}

static flow_result sender(void *arg)
{
    for (uint64_t i = 0; i < n; i++)
        CHECK(!flow_chan_send(there, &i, FLOW_FOREVER));
    return flow_ok(arg);
}

static flow_result receiver(void *arg)
{
    uint64_t x;

    for (uint64_t i = 0; i < n; i++)
        CHECK(!flow_chan_recv(there, &x, FLOW_FOREVER) && x == i);
    return flow_ok(arg);
}

static flow_result loop_channel(void *unused)
{
    (void)unused;
    CHECK(!flow_chan_create(&there, sizeof(uint64_t), 128));
    return in_a_pair(sender, receiver);
}

/* ---- mutex, pool ---- */

static flow_result loop_mutex(void *arg)
{
    static struct flow_mutex mutex = FLOW_MUTEX_INIT;

    for (uint64_t i = 0; i < n; i++)
        CHECK(!flow_mutex_lock(&mutex, FLOW_FOREVER) && !flow_mutex_unlock(&mutex));
    return flow_ok(arg);
}

static flow_result loop_pool(void *arg)
{
    struct flow_pool_options options = FLOW_POOL_INIT;
    flow_pool *pool;

    options.block_bytes = 64;
    CHECK(!flow_pool_create(&pool, &options));
    for (uint64_t i = 0; i < n; i++) {
        void *block = flow_pool_alloc(pool);

        CHECK(block && !flow_pool_free(pool, block));
    }
    CHECK(!flow_pool_destroy(pool));
    return flow_ok(arg);
}

/* ---- which ---- */

static const struct {
    const char *name;
    flow_fn run;
} loops[] = {
    {"switch", loop_switch},     {"spawn+join", loop_spawn}, {"spawn_now", loop_spawn_now},
    {"yield", loop_yield},       {"wake", loop_wake},        {"fork+sync", loop_fork},
    {"pingpong", loop_pingpong}, {"channel", loop_channel},  {"mutex", loop_mutex},
    {"pool", loop_pool},
};

/* Without arguments it lists the names. */
int main(int argc, char **argv)
{
    struct flow_options options = FLOW_OPTIONS_INIT;

    options.workers = 1;
    options.stall_ns = 0;
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
        if (argc < 3)
            puts(loops[i].name);
        else if (!strcmp(argv[1], loops[i].name)) {
            flow_result result;

            n = strtoull(argv[2], NULL, 10);
            CHECK(!flow_run(&options, loops[i].run, NULL, &result) && flow_is_ok(result));
            return 0;
        }
    }
    return argc < 3 ? 0 : 2;
}
