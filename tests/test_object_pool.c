/* SPDX-License-Identifier: MIT
 *
 * Object pools: when hooks run and on what, the bound, warm-up, errors of construct, misuse,
 * figures after every step. */
#include "tests/support/child.h"
#include "tests/support/faults.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What an object is, and what its hooks have seen. */
struct thing {
    uint64_t magic;
    void *memory; /* so that a missing destroy is a leak */
    int uses, resets;
    char rest[100];
};

static struct {
    atomic_long constructed, reset, destroyed, fail_at;
} hooks;

static int construct(void *object, void *arg)
{
    struct thing *t = object;

    REQUIRE(arg == &hooks);
    for (size_t i = 0; i < sizeof *t; i++)
        REQUIRE_EQUAL(((char *)object)[i], 0);
    t->rest[50] = 1; /* must be gone if this fails and somebody tries again */
    if (atomic_load(&hooks.fail_at) > 0 && atomic_fetch_sub(&hooks.fail_at, 1) == 1)
        return -EIO;
    t->magic = 0x7e57;
    t->memory = malloc(10);
    atomic_fetch_add(&hooks.constructed, 1);
    return 0;
}

static void reset(void *object, void *arg)
{
    struct thing *t = object;

    REQUIRE(arg == &hooks);
    REQUIRE_EQUAL(t->magic, 0x7e57);
    t->uses = 0;
    t->resets++;
    atomic_fetch_add(&hooks.reset, 1);
}

static void destroy(void *object, void *arg)
{
    struct thing *t = object;

    REQUIRE(arg == &hooks);
    REQUIRE_EQUAL(t->magic, 0x7e57);
    t->magic = 0;
    free(t->memory);
    atomic_fetch_add(&hooks.destroyed, 1);
}

static struct flow_object_pool_options options(void)
{
    struct flow_object_pool_options o = FLOW_OBJECT_POOL_INIT;

    memset(&hooks, 0, sizeof hooks);
    o.object_bytes = sizeof(struct thing);
    o.construct = construct;
    o.reset = reset;
    o.destroy = destroy;
    o.arg = &hooks;
    return o;
}

static flow_object_pool *pool_of(struct flow_object_pool_options o)
{
    flow_object_pool *pool = NULL;

    REQUIRE_EQUAL(flow_object_pool_create(&pool, &o), 0);
    return pool;
}

static struct flow_object_pool_stats stats_of(flow_object_pool *pool)
{
    struct flow_object_pool_stats s = {.size = sizeof s};

    REQUIRE_EQUAL(flow_object_pool_stats(pool, &s), 0);
    return s;
}

static void require_figures(flow_object_pool *pool, uint64_t in_use, uint64_t idle)
{
    struct flow_object_pool_stats s = stats_of(pool);

    REQUIRE_EQUAL(s.in_use, in_use);
    REQUIRE_EQUAL(s.idle, idle);
    REQUIRE_EQUAL(s.constructed, s.destroyed + in_use + idle);
    REQUIRE_EQUAL(s.constructed, atomic_load(&hooks.constructed));
    REQUIRE_EQUAL(s.destroyed, atomic_load(&hooks.destroyed));
    REQUIRE(s.blocks >= in_use + idle);
}

static struct thing *acquire(flow_object_pool *pool)
{
    void *object = NULL;

    REQUIRE_EQUAL(flow_object_pool_acquire(pool, &object), 0);
    REQUIRE_EQUAL(((struct thing *)object)->magic, 0x7e57);
    REQUIRE_EQUAL(((struct thing *)object)->uses++, 0);
    return object;
}

static void on_both(flow_fn fn)
{
    REQUIRE_EQUAL(fn(NULL).error, 0);
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(fn, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- the life of objects ---- */

static flow_result life(void *unused)
{
    struct flow_object_pool_options o = options();
    struct thing *t[20], *again;
    flow_object_pool *pool;

    (void)unused;
    pool = pool_of(o);
    REQUIRE_EQUAL(stats_of(pool).object_bytes, sizeof(struct thing));
    REQUIRE_EQUAL(stats_of(pool).max_objects, 1024);
    require_figures(pool, 0, 0);
    for (int i = 0; i < 20; i++) {
        t[i] = acquire(pool);
        require_figures(pool, (uint64_t)i + 1, 0);
    }
    for (int i = 0; i < 20; i++) {
        REQUIRE_EQUAL(flow_object_pool_release(pool, t[i]), 0);
        require_figures(pool, 19 - (uint64_t)i, (uint64_t)i + 1);
        REQUIRE_EQUAL(atomic_load(&hooks.reset), i + 1);
    }
    /* Used again, not made again: what is not reset is still there. */
    for (int i = 0; i < 20; i++) {
        t[i] = acquire(pool);
        REQUIRE_EQUAL(t[i]->resets, 1);
    }
    REQUIRE_EQUAL(atomic_load(&hooks.constructed), 20);
    require_figures(pool, 20, 0);
    for (int i = 0; i < 20; i++)
        REQUIRE_EQUAL(flow_object_pool_release(pool, t[i]), 0);
    again = acquire(pool);
    REQUIRE_EQUAL(again->resets, 2);
    REQUIRE_EQUAL(flow_object_pool_release(pool, again), 0);
    REQUIRE_EQUAL(flow_object_pool_release(pool, NULL), 0);
    REQUIRE_EQUAL(atomic_load(&hooks.destroyed), 0);
    REQUIRE_EQUAL(flow_object_pool_destroy(pool), 0);
    REQUIRE_EQUAL(atomic_load(&hooks.constructed), 20);
    REQUIRE_EQUAL(atomic_load(&hooks.destroyed), 20);
    return flow_ok(NULL);
}

CASE(objects_are_made_once_reset_at_each_release_and_destroyed_once)
{
    on_both(life);
}

static flow_result bound(void *unused)
{
    struct flow_object_pool_options o = options();
    struct thing *t[300];
    flow_object_pool *pool;
    void *none = &none;

    (void)unused;
    for (size_t max = 1; max <= 300; max = max * 7 + 1) {
        memset(&hooks, 0, sizeof hooks);
        o.max_objects = max;
        pool = pool_of(o);
        for (int round = 0; round < 3; round++) {
            for (size_t i = 0; i < max; i++)
                t[i] = acquire(pool);
            REQUIRE_EQUAL(flow_object_pool_acquire(pool, &none), -ENOSPC);
            REQUIRE(none == &none);
            require_figures(pool, max, 0);
            REQUIRE_EQUAL(stats_of(pool).max_objects, max);
            REQUIRE_EQUAL(flow_object_pool_release(pool, t[0]), 0);
            REQUIRE(acquire(pool) == t[0]);
            for (size_t i = 0; i < max; i++)
                REQUIRE_EQUAL(flow_object_pool_release(pool, t[i]), 0);
            require_figures(pool, 0, max);
        }
        REQUIRE_EQUAL(atomic_load(&hooks.constructed), max);
        REQUIRE_EQUAL(flow_object_pool_destroy(pool), 0);
        REQUIRE_EQUAL(atomic_load(&hooks.destroyed), max);
    }
    return flow_ok(NULL);
}

CASE(a_bound_is_kept)
{
    on_both(bound);
}

static flow_result warm(void *unused)
{
    struct flow_object_pool_options o = options();
    flow_object_pool *pool;

    (void)unused;
    o.warm_up = 100;
    o.max_objects = 100;
    pool = pool_of(o);
    require_figures(pool, 0, 100);
    REQUIRE_EQUAL(atomic_load(&hooks.constructed), 100);
    REQUIRE_EQUAL(atomic_load(&hooks.reset), 0);
    for (int i = 0; i < 100; i++)
        acquire(pool);
    require_figures(pool, 100, 0);
    REQUIRE_EQUAL(atomic_load(&hooks.constructed), 100);
    REQUIRE_EQUAL(stats_of(pool).blocks, 100);
    return flow_ok_i64(flow_object_pool_destroy(pool));
}

CASE(warm_up_makes_them_ahead)
{
    REQUIRE_EQUAL(warm(NULL).i64, 100); /* all still in use */
    REQUIRE_EQUAL(atomic_load(&hooks.destroyed), 0);
    hooks.constructed = 0;
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(warm, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    _exit(0); /* no look for leaks: what a leaked object owns is lost */
}

static flow_result failures(void *unused)
{
    struct flow_object_pool_options o = options();
    flow_object_pool *pool = (flow_object_pool *)&o;
    struct thing *t;
    void *object;

    (void)unused;
    /* While warming up: nothing is left. */
    o.warm_up = 50;
    for (int n = 1; n <= 50; n += 7) {
        memset(&hooks, 0, sizeof hooks);
        atomic_store(&hooks.fail_at, n);
        REQUIRE_EQUAL(flow_object_pool_create(&pool, &o), -EIO);
        REQUIRE(pool == (flow_object_pool *)&o);
        REQUIRE_EQUAL(atomic_load(&hooks.constructed), n - 1);
        REQUIRE_EQUAL(atomic_load(&hooks.destroyed), n - 1);
    }
    /* Later: the block is free again, and zeroed for the next try. */
    memset(&hooks, 0, sizeof hooks);
    o.warm_up = 0;
    o.max_objects = 2;
    pool = pool_of(o);
    for (int i = 0; i < 5; i++) {
        atomic_store(&hooks.fail_at, 1);
        REQUIRE_EQUAL(flow_object_pool_acquire(pool, &object), -EIO);
        require_figures(pool, 0, 0);
    }
    REQUIRE_EQUAL(stats_of(pool).failed, 5);
    t = acquire(pool);
    require_figures(pool, 1, 0);
    REQUIRE_EQUAL(flow_object_pool_release(pool, t), 0);
    REQUIRE_EQUAL(flow_object_pool_destroy(pool), 0);
    REQUIRE_EQUAL(atomic_load(&hooks.destroyed), 1);
    return flow_ok(NULL);
}

CASE(errors_of_construct_are_the_callers)
{
    on_both(failures);
}

static flow_result shrink(void *unused)
{
    struct flow_object_pool_options o = options();
    struct thing *t[500];
    flow_object_pool *pool;

    (void)unused;
    o.max_objects = 0;
    pool = pool_of(o);
    for (int i = 0; i < 500; i++)
        t[i] = acquire(pool);
    for (int i = 1; i < 500; i++)
        REQUIRE_EQUAL(flow_object_pool_release(pool, t[i]), 0);
    REQUIRE(flow_object_pool_shrink(pool) >= 1);
    REQUIRE(atomic_load(&hooks.destroyed) > 0);
    REQUIRE(atomic_load(&hooks.destroyed) < 499);
    require_figures(pool, 1, 499 - (uint64_t)atomic_load(&hooks.destroyed));
    REQUIRE_EQUAL(flow_object_pool_release(pool, t[0]), 0);
    REQUIRE_EQUAL(flow_object_pool_shrink(pool), 1);
    require_figures(pool, 0, 0);
    REQUIRE_EQUAL(stats_of(pool).blocks, 0);
    REQUIRE_EQUAL(atomic_load(&hooks.destroyed), 500);
    acquire(pool)->uses = 0; /* and it still works */
    require_figures(pool, 1, 0);
    REQUIRE_EQUAL(flow_object_pool_shrink(pool), 0);
    REQUIRE_EQUAL(flow_object_pool_destroy(pool), 1);
    return flow_ok(NULL);
}

CASE(shrinking_destroys_idle_objects)
{
    on_both(shrink);
    _exit(0);
}

static flow_result without_hooks(void *unused)
{
    struct flow_object_pool_options o = FLOW_OBJECT_POOL_INIT;
    flow_object_pool *pool;
    void *object, *first;

    (void)unused;
    for (size_t alignment = 1; alignment <= 4096; alignment *= 2) {
        o.object_bytes = 100;
        o.alignment = alignment;
        o.warm_up = 3;
        pool = pool_of(o);
        REQUIRE_EQUAL(flow_object_pool_acquire(pool, &object), 0);
        REQUIRE_EQUAL((uintptr_t)object % alignment, 0);
        for (int i = 0; i < 100; i++)
            REQUIRE_EQUAL(((char *)object)[i], 0);
        memset(object, 7, 100);
        first = object;
        REQUIRE_EQUAL(flow_object_pool_release(pool, object), 0);
        REQUIRE_EQUAL(flow_object_pool_acquire(pool, &object), 0);
        REQUIRE(object == first);
        REQUIRE_EQUAL(((char *)object)[0], 7); /* as it was left */
        REQUIRE_EQUAL(((char *)object)[99], 7);
        REQUIRE_EQUAL(flow_object_pool_release(pool, object), 0);
        REQUIRE_EQUAL(flow_object_pool_destroy(pool), 0);
    }
    return flow_ok(NULL);
}

CASE(hooks_may_be_missing)
{
    on_both(without_hooks);
}

CASE(bad_options_are_refused)
{
    struct flow_object_pool_options o = options();
    flow_object_pool *pool;
    struct flow_object_pool_stats s = {.size = 1};

    REQUIRE_EQUAL(flow_object_pool_create(NULL, &o), -EINVAL);
    REQUIRE_EQUAL(flow_object_pool_create(&pool, NULL), -EINVAL);
    o.object_bytes = 0;
    REQUIRE_EQUAL(flow_object_pool_create(&pool, &o), -EINVAL);
    o.object_bytes = SIZE_MAX;
    REQUIRE_EQUAL(flow_object_pool_create(&pool, &o), -EINVAL);
    o.object_bytes = (size_t)64 << 20; /* the header comes on top */
    REQUIRE_EQUAL(flow_object_pool_create(&pool, &o), -EINVAL);
    o = options();
    o.alignment = 24;
    REQUIRE_EQUAL(flow_object_pool_create(&pool, &o), -EINVAL);
    o = options();
    o.max_objects = 10;
    o.warm_up = 11;
    REQUIRE_EQUAL(flow_object_pool_create(&pool, &o), -EINVAL);
    o = options();
    o.size = 8;
    REQUIRE_EQUAL(flow_object_pool_create(&pool, &o), -EINVAL);
    o = options();
    o.node = 7;
    REQUIRE_EQUAL(flow_object_pool_create(&pool, &o), -EINVAL);
    o.node = -1;
    pool = pool_of(o);
    REQUIRE_EQUAL(flow_object_pool_stats(pool, &s), -EINVAL);
    REQUIRE_EQUAL(flow_object_pool_stats(pool, NULL), -EINVAL);
    REQUIRE_EQUAL(flow_object_pool_destroy(pool), 0);
    REQUIRE_EQUAL(flow_object_pool_destroy(NULL), 0);
}

/* ---- hooks that suspend ---- */

static int construct_slowly(void *object, void *arg)
{
    (void)object, (void)arg;
    return flow_sleep(FLOW_US(50));
}

static void tidy_slowly(void *object, void *arg)
{
    (void)object, (void)arg;
    REQUIRE_EQUAL(flow_sleep(FLOW_US(50)), 0);
}

static flow_result use_slow_objects(void *pool)
{
    for (int i = 0; i < 20; i++) {
        void *object[3];

        for (int k = 0; k < 3; k++)
            REQUIRE_EQUAL(flow_object_pool_acquire(pool, &object[k]), 0);
        for (int k = 0; k < 3; k++)
            REQUIRE_EQUAL(flow_object_pool_release(pool, object[k]), 0);
        if (i % 10 == 9)
            REQUIRE(flow_object_pool_shrink(pool) >= 0);
    }
    return flow_ok(NULL);
}

static flow_result destroy_slowly(void *pool)
{
    return flow_ok_i64(flow_object_pool_destroy(pool));
}

CASE(hooks_may_suspend)
{
    struct flow_object_pool_options o = FLOW_OBJECT_POOL_INIT;
    flow_object_pool *pool;
    flow_task task[20];
    flow_result r;

    test_start();
    o.object_bytes = 64;
    o.max_objects = 60;
    o.construct = construct_slowly;
    o.reset = o.destroy = tidy_slowly;
    pool = pool_of(o);
    for (int i = 0; i < 20; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], use_slow_objects, pool), 0);
    REQUIRE_EQUAL(flow_when_all(task, 20, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_sync_wait(destroy_slowly, pool, &r, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(r.i64, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- misuse ---- */

#ifdef FLOW_DEBUG
#define DIES 1
#else
#define DIES 0
#endif

CHILD(misuse_objects)
{
    flow_object_pool *pool = pool_of(options());
    struct thing *t = acquire(pool), *u = acquire(pool);
    long foreign[40] = {0};
    int expected = -EINVAL, r = 0;

    if (!strcmp(arg, "twice")) {
        expected = -EALREADY;
        REQUIRE_EQUAL(flow_object_pool_release(pool, t), 0);
        r = flow_object_pool_release(pool, t);
    } else if (!strcmp(arg, "interior")) {
        r = flow_object_pool_release(pool, (char *)t + 16);
    } else if (!strcmp(arg, "foreign")) {
        r = flow_object_pool_release(pool, foreign + 20);
    }
    REQUIRE_EQUAL(r, expected);
    /* Nothing was reset that is not an object of ours. */
    REQUIRE_EQUAL(atomic_load(&hooks.reset), expected == -EALREADY);
    REQUIRE_EQUAL(flow_object_pool_release(pool, u), 0);
    if (expected != -EALREADY)
        REQUIRE_EQUAL(flow_object_pool_release(pool, t), 0);
    REQUIRE_EQUAL(flow_object_pool_destroy(pool), 0);
}

JUDGED(misuse_is_an_error_and_fatal_in_debug_builds)
{
    static const char *const what[] = {"twice", "interior", "foreign"};
    static struct child_end end;

    for (int i = 0; i < 3; i++) {
        child_run(&end, "misuse_objects", what[i]);
        if (DIES)
            child_must_die(&end, SIGABRT);
        else
            child_must_exit(&end, 0);
        if (DIES)
            child_must_say(&end, "pool \"objects\": ");
    }
}

/* ---- memory is short ---- */

static void with_fault(enum fault kind, long n, bool *fired)
{
    struct faults_balance before = faults_balance(), after;
    struct flow_object_pool_options o = options();
    flow_object_pool *pool;
    void *object[200];
    int got = 0, r;

    o.warm_up = 10;
    faults_arm(kind, n, false);
    r = flow_object_pool_create(&pool, &o);
    REQUIRE(r == 0 || r == -ENOMEM);
    while (r == 0 && got < 200) {
        int acquired = flow_object_pool_acquire(pool, &object[got]);

        REQUIRE(acquired == 0 || acquired == -ENOMEM);
        if (acquired)
            break;
        got++;
    }
    *fired = faults_fired();
    faults_arm(kind, 0, false);
    REQUIRE(got == 200 || *fired);
    while (got > 0)
        REQUIRE_EQUAL(flow_object_pool_release(pool, object[--got]), 0);
    if (r == 0)
        REQUIRE_EQUAL(flow_object_pool_destroy(pool), 0);
    REQUIRE_EQUAL(atomic_load(&hooks.constructed), atomic_load(&hooks.destroyed));
    after = faults_balance();
    REQUIRE_EQUAL(after.maps, before.maps);
    REQUIRE_EQUAL(after.mapped_bytes, before.mapped_bytes);
    REQUIRE_EQUAL(after.allocations, before.allocations);
}

CASE(memory_that_is_short_gives_clean_errors)
{
    static const enum fault kinds[] = {FAULT_MAP, FAULT_ALLOCATE};

    faults_open();
    for (int k = 0; k < 2; k++) {
        bool fired = true;
        long n;

        for (n = 1; fired; n++)
            with_fault(kinds[k], n, &fired);
        REQUIRE(n > 2);
        child_note("%s: each of %ld calls failed once", fault_names[kinds[k]], n - 2);
    }
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
