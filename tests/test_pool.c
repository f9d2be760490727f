/* SPDX-License-Identifier: MIT
 *
 * Pools of blocks: options, figures after every step, growth, caps, misuse, memory that is short, and
 * crossing frees between workers and foreign threads. Nodes: tests/test_pool_nodes.c. */
#include "core/magazine.h"
#include "tests/support/child.h"
#include "tests/support/faults.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MANY 5000

static struct flow_pool_stats stats_of(flow_pool *pool)
{
    struct flow_pool_stats s = {.size = sizeof s};

    REQUIRE_EQUAL(flow_pool_stats(pool, &s), 0);
    return s;
}

static flow_pool *pool_of(struct flow_pool_options o)
{
    flow_pool *pool = NULL;

    REQUIRE_EQUAL(flow_pool_create(&pool, &o), 0);
    return pool;
}

static struct flow_pool_options options(size_t block_bytes)
{
    struct flow_pool_options o = FLOW_POOL_INIT;

    o.block_bytes = block_bytes;
    return o;
}

/* Every figure that follows from the others is checked here. */
static void require_figures(flow_pool *pool, uint64_t total, uint64_t used)
{
    struct flow_pool_stats s = stats_of(pool);

    REQUIRE_EQUAL(s.total_blocks, total);
    REQUIRE_EQUAL(s.used_blocks, used);
    REQUIRE_EQUAL(s.free_blocks, total - used);
    REQUIRE(flow__pool_is_sound(pool));
}

/* A worker in a coroutine, or a foreign thread: the same must hold for both. */
static void on_both(flow_fn fn)
{
    REQUIRE_EQUAL(fn(NULL).error, 0);
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(fn, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(fn(NULL).error, 0); /* a foreign thread while a runtime runs */
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- options ---- */

static void require_refused(struct flow_pool_options o)
{
    flow_pool *pool = (flow_pool *)1;

    REQUIRE_EQUAL(flow_pool_create(&pool, &o), -EINVAL);
    REQUIRE(pool == (flow_pool *)1);
}

CASE(options_out_of_range_are_refused)
{
    struct flow_pool_options o = options(64);
    flow_pool *pool;

    REQUIRE_EQUAL(flow_pool_create(NULL, &o), -EINVAL);
    REQUIRE_EQUAL(flow_pool_create(&pool, NULL), -EINVAL);
    o.size--;
    require_refused(o);
    require_refused(options(0));
    require_refused(options(((size_t)64 << 20) + 1));
    for (size_t alignment = 3; alignment < 64; alignment += 9) {
        o = options(64);
        o.alignment = alignment;
        require_refused(o);
    }
    o = options(64);
    o.alignment = 2 * (size_t)sysconf(_SC_PAGESIZE);
    require_refused(o);
    o = options(64);
    o.max_blocks = 63; /* initial_blocks is 64 */
    require_refused(o);
    o = options(64);
    o.expansion_factor = __builtin_nan("");
    require_refused(o);
    o = options(64);
    o.node = 1; /* without a runtime there is only 0 */
    require_refused(o);
    o.node = -2;
    require_refused(o);
    REQUIRE_EQUAL(flow_pool_destroy(NULL), 0);
}

CASE(stats_of_a_wrong_size_or_node_are_refused)
{
    flow_pool *pool = pool_of(options(64));
    struct flow_pool_stats s = {.size = sizeof s - 1};

    REQUIRE_EQUAL(flow_pool_stats(pool, &s), -EINVAL);
    REQUIRE_EQUAL(flow_pool_stats(pool, NULL), -EINVAL);
    s.size = sizeof s;
    REQUIRE_EQUAL(flow_pool_node_stats(pool, -1, &s), -EINVAL);
    REQUIRE_EQUAL(flow_pool_node_stats(pool, 1 << 20, &s), -EINVAL);
    REQUIRE_EQUAL(flow_pool_node_stats(pool, 0, &s), 0);
    REQUIRE_EQUAL(s.total_blocks, 64);
    REQUIRE_EQUAL(flow_pool_node_stats(pool, 5, &s), 0);
    REQUIRE_EQUAL(s.total_blocks, 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

/* ---- figures ---- */

static flow_result figures_after_every_step(void *unused)
{
    struct flow_pool_options o = options(48);
    void *block[10];
    struct flow_pool_stats s;
    flow_pool *pool;

    (void)unused;
    o.initial_blocks = 10;
    pool = pool_of(o);
    s = stats_of(pool);
    REQUIRE_EQUAL(s.block_bytes, 48);
    REQUIRE_EQUAL(s.stride_bytes, 48);
    REQUIRE_EQUAL(s.max_blocks, 0);
    REQUIRE_EQUAL(s.chunks, 1);
    REQUIRE(s.bytes >= 480 && s.bytes < 1000);
    require_figures(pool, 10, 0);
    for (int i = 0; i < 10; i++) {
        block[i] = flow_pool_alloc(pool);
        REQUIRE(block[i]);
        memset(block[i], i, 48);
        require_figures(pool, 10, (uint64_t)i + 1);
    }
    for (int i = 0; i < 10; i++) {
        for (int k = 0; k < 48; k++)
            REQUIRE_EQUAL(((char *)block[i])[k], i); /* nobody else's */
        REQUIRE_EQUAL(flow_pool_free(pool, block[i]), 0);
        require_figures(pool, 10, 9 - (uint64_t)i);
    }
    for (int i = 0; i < 10; i++)
        REQUIRE((block[i] = flow_pool_alloc(pool)));
    require_figures(pool, 10, 10);
    s = stats_of(pool);
    REQUIRE_EQUAL(s.chunks, 1);
    REQUIRE_EQUAL(s.raids, 0);
    REQUIRE_EQUAL(s.stolen_blocks + s.remote_frees, 0);
    for (int i = 0; i < 10; i++)
        REQUIRE_EQUAL(flow_pool_free(pool, block[i]), 0);
    REQUIRE_EQUAL(flow_pool_free(pool, NULL), 0);
    require_figures(pool, 10, 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    return flow_ok(NULL);
}

CASE(figures_are_exact_after_every_step)
{
    on_both(figures_after_every_step);
}

static void require_growth(double given, size_t first, const uint64_t *totals, int n_totals)
{
    struct flow_pool_options o = options(32);
    static void *block[20000];
    uint64_t used = 0;
    flow_pool *pool;

    o.initial_blocks = first;
    o.expansion_factor = given;
    pool = pool_of(o);
    for (int i = 0; i < n_totals; i++) {
        while (used < totals[i]) {
            REQUIRE((block[used++] = flow_pool_alloc(pool)));
            if (used == totals[i] || (i > 0 && used == totals[i - 1] + 1))
                require_figures(pool, totals[i], used);
        }
        REQUIRE_EQUAL(stats_of(pool).chunks, i + 1);
    }
    while (used > 0)
        REQUIRE_EQUAL(flow_pool_free(pool, block[--used]), 0);
    require_figures(pool, totals[n_totals - 1], 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

static flow_result growth(void *unused)
{
    static const uint64_t twice[] = {64, 128, 256, 512, 1024, 2048};
    static const uint64_t least[] = {100, 110, 121, 133, 146, 161};
    static const uint64_t most[] = {10, 50, 250, 1250, 6250};
    static const uint64_t single[] = {1, 2, 3, 4, 5, 6, 7, 8};

    (void)unused;
    require_growth(2.0, 64, twice, 6);
    require_growth(1.1, 100, least, 6);
    require_growth(1.0, 100, least, 6); /* clamped */
    require_growth(-3, 100, least, 6);
    require_growth(5.0, 10, most, 5);
    require_growth(1e300, 10, most, 5); /* clamped */
    require_growth(1.1, 1, single, 8);  /* at least one more */
    return flow_ok(NULL);
}

CASE(growth_follows_the_factor)
{
    on_both(growth);
}

CASE(nothing_is_made_before_it_is_wanted)
{
    struct flow_pool_options o = options(100);
    flow_pool *pool;
    void *block;

    o.initial_blocks = 0;
    pool = pool_of(o);
    require_figures(pool, 0, 0);
    REQUIRE_EQUAL(stats_of(pool).bytes, 0);
    block = flow_pool_alloc(pool);
    require_figures(pool, 64, 1);
    REQUIRE_EQUAL(flow_pool_free(pool, block), 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

/* ---- places of blocks ---- */

static int by_address(const void *a, const void *b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;

    return (x > y) - (x < y);
}

static void require_apart(size_t block_bytes, size_t alignment, int n)
{
    struct flow_pool_options o = options(block_bytes);
    uintptr_t *block = calloc((size_t)n, sizeof *block);
    size_t expected = alignment ? alignment : block_bytes < 16 ? 8 : 16;
    flow_pool *pool;

    o.alignment = alignment;
    o.initial_blocks = 3;
    pool = pool_of(o);
    for (int i = 0; i < n; i++) {
        block[i] = (uintptr_t)flow_pool_alloc(pool);
        REQUIRE(block[i]);
        REQUIRE_EQUAL(block[i] % expected, 0);
        for (size_t k = 0; k < block_bytes; k += block_bytes > 100000 ? 4096 : TEST_ROUNDS(1, 16))
            ((volatile char *)block[i])[k] = 0x5a;
        ((volatile char *)block[i])[block_bytes - 1] = 0x5a;
    }
    require_figures(pool, stats_of(pool).total_blocks, (uint64_t)n);
    qsort(block, (size_t)n, sizeof *block, by_address);
    for (int i = 1; i < n; i++)
        REQUIRE(block[i] - block[i - 1] >= block_bytes);
    for (int i = 0; i < n; i++)
        REQUIRE_EQUAL(flow_pool_free(pool, (void *)block[i]), 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    free(block);
}

static flow_result sizes_and_alignments(void *unused)
{
    (void)unused;
    for (size_t bytes = 1; bytes <= 40; bytes++)
        require_apart(bytes, 0, 200);
    for (size_t alignment = 8; alignment <= 4096; alignment *= 2)
        for (size_t bytes = 1; bytes < 10000; bytes = bytes * 3 + 1)
            require_apart(bytes, alignment, 70);
    require_apart((size_t)1 << 20, 0, 5);
    require_apart(((size_t)5 << 20) + 3, 4096, 4);
    require_apart((size_t)TEST_ROUNDS(64, 8) << 20, 0, 2);
    return flow_ok(NULL);
}

CASE(blocks_are_aligned_and_apart)
{
    on_both(sizes_and_alignments);
}

/* ---- caps ---- */

static flow_result up_to_the_cap(void *arg)
{
    static const size_t caps[] = {1, 2, 3, 7, 64, 65, 100, 1000};
    static void *block[1001];

    (void)arg;
    for (size_t c = 0; c < sizeof caps / sizeof *caps; c++) {
        struct flow_pool_options o = options(64);
        flow_pool *pool;

        o.initial_blocks = caps[c] / 3;
        o.max_blocks = caps[c];
        pool = pool_of(o);
        for (int round = 0; round < 5; round++) {
            for (size_t i = 0; i < caps[c]; i++)
                REQUIRE((block[i] = flow_pool_alloc(pool)));
            require_figures(pool, caps[c], caps[c]);
            for (int i = 0; i < 3; i++)
                REQUIRE(!flow_pool_alloc(pool));
            require_figures(pool, caps[c], caps[c]);
            /* One is free, and it is found, wherever it lies. */
            REQUIRE_EQUAL(flow_pool_free(pool, block[0]), 0);
            require_figures(pool, caps[c], caps[c] - 1);
            REQUIRE(flow_pool_alloc(pool) == block[0]);
            for (size_t i = 0; i < caps[c]; i++)
                REQUIRE_EQUAL(flow_pool_free(pool, block[i]), 0);
            require_figures(pool, caps[c], 0);
        }
        REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    }
    return flow_ok(NULL);
}

CASE(null_at_the_cap_and_not_before)
{
    on_both(up_to_the_cap);
}

struct hoard {
    flow_pool *pool;
    int n;
    void *block[4096];
};

/* Takes n blocks and gives them back, so that many lie in this worker's magazine. */
static flow_result hoard(void *arg)
{
    struct hoard *h = arg;

    for (int i = 0; i < h->n; i++)
        REQUIRE((h->block[i] = flow_pool_alloc(h->pool)));
    for (int i = 0; i < h->n; i++)
        REQUIRE_EQUAL(flow_pool_free(h->pool, h->block[i]), 0);
    return flow_ok_i64(flow__self()->home->index);
}

static flow_result take_all(void *arg)
{
    struct hoard *h = arg;

    for (int i = 0; i < h->n; i++)
        REQUIRE((h->block[i] = flow_pool_alloc(h->pool)));
    REQUIRE(!flow_pool_alloc(h->pool));
    return flow_ok(NULL);
}

static void run_on(int worker, flow_fn fn, void *arg)
{
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    flow_result result;
    flow_task task;

    how.worker = worker;
    how.flags = FLOW_PINNED;
    REQUIRE_EQUAL(flow_spawn_with(&task, &how, fn, arg), 0);
    REQUIRE_EQUAL(flow_join(task, &result, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(result.error, 0);
}

static uint64_t in_magazines(flow_pool *pool)
{
    uint64_t n = 0;

    for (int i = 0; i <= FLOW__MAX_WORKERS; i++) {
        struct flow__magazine *m = load_relaxed(&pool->magazine[i]);

        n += m ? flow__magazine_count(m) + load_relaxed(&m->n_away) : 0;
    }
    return n;
}

/* hoard's n blocks, several times on one worker; how many lie in its magazine then. */
static uint64_t hoarded(flow_pool *pool, int n)
{
    static struct hoard h;

    h.pool = pool;
    h.n = n;
    for (int i = 0; i < 8; i++)
        run_on(0, hoard, &h);
    REQUIRE(flow__pool_is_sound(pool));
    return in_magazines(pool);
}

CASE(a_magazine_grows_with_use_until_it_is_closed)
{
    struct flow_pool_options o = options(64);
    flow_pool *pool, *large = pool_of(options(1024)), *capped;
    void *held;

    o.initial_blocks = 4096;
    pool = pool_of(o);
    held = flow_pool_alloc(pool); /* keeps the chunk */
    test_start();
    REQUIRE(hoarded(pool, 10) <= FLOW__MAGAZINE);
    REQUIRE(hoarded(pool, 1000) >= FLOW__MAGAZINE_GROWN / 2);
    REQUIRE(hoarded(pool, 4000) <= FLOW__MAGAZINE_GROWN + 1);
    REQUIRE_EQUAL(flow_pool_shrink(pool), 0);
    require_figures(pool, 4096, 1);
    REQUIRE(hoarded(pool, 10) <= FLOW__MAGAZINE);
    REQUIRE_EQUAL(flow_pool_free(pool, held), 0);
    REQUIRE(hoarded(large, 4000) <= FLOW__MAGAZINE_MOST / 1024 + 1);
    o.max_blocks = o.initial_blocks = 4000;
    capped = pool_of(o);
    REQUIRE(hoarded(capped, 4000) <= 4000 / 16 + 1);
    REQUIRE_EQUAL(stats_of(capped).raids, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    REQUIRE_EQUAL(flow_pool_destroy(large), 0);
    REQUIRE_EQUAL(flow_pool_destroy(capped), 0);
}

/* Blocks in the magazines of workers that do nothing are found by another worker, by a
 * foreign thread, and after the runtime is gone. */
CASE(free_blocks_in_other_magazines_are_found)
{
    struct flow_pool_options o = options(64);
    struct flow_options runtime = test_options();
    static struct hoard h;
    void *block[1000];

    o.max_blocks = o.initial_blocks = 1000;
    for (int finder = 0; finder < 3; finder++) {
        h.pool = pool_of(o);
        runtime.workers = 4;
        test_start_with(&runtime);
        h.n = 200;
        for (int w = 0; w < 4; w++)
            run_on(w, hoard, &h);
        require_figures(h.pool, 1000, 0);
        REQUIRE(in_magazines(h.pool) >= 3 * 32); /* or the rest proves nothing */
        h.n = 1000;
        if (finder == 0) {
            run_on(2, take_all, &h);
            for (int i = 0; i < h.n; i++)
                block[i] = h.block[i];
        }
        if (finder == 2)
            REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
        if (finder > 0) {
            for (int i = 0; i < 1000; i++)
                REQUIRE((block[i] = flow_pool_alloc(h.pool)));
            REQUIRE(!flow_pool_alloc(h.pool));
        }
        require_figures(h.pool, 1000, 1000);
        REQUIRE_EQUAL(in_magazines(h.pool), 0);
        REQUIRE(stats_of(h.pool).raids >= 1);
        REQUIRE(stats_of(h.pool).raids <= 3); /* and not one for each block */
        for (int i = 0; i < 1000; i++)
            REQUIRE_EQUAL(flow_pool_free(h.pool, block[i]), 0);
        require_figures(h.pool, 1000, 0);
        if (finder < 2) {
            /* They are in use again. */
            h.n = 200;
            run_on(1, hoard, &h);
            REQUIRE(in_magazines(h.pool) > 0);
            REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
        }
        require_figures(h.pool, 1000, 0);
        REQUIRE_EQUAL(flow_pool_destroy(h.pool), 0);
    }
}

/* ---- misuse ---- */

/* In a debug build the process ends, and says why; in another one there is an error. */
#ifdef FLOW_DEBUG
#define DIES 1
#else
#define DIES 0
#endif

static struct {
    const char *what;
    int error;
    const char *says;
} const misuses[] = {
    {"twice", -EALREADY, "is free already"},
    {"twice later", -EALREADY, "is free already"},
    {"interior", -EINVAL, "is not where a block of it begins"},
    {"header", -EINVAL, "is not where a block of it begins"},
    {"beyond", -EINVAL, "is not where a block of it begins"},
    {"never", -EINVAL, "is not where a block of it begins"},
    {"other pool", -EINVAL, "belongs to another pool"},
    {"remembered", -EINVAL, "belongs to another pool"},
    {"heap", -EINVAL, "belongs to no pool"},
    {"stack", -EINVAL, "belongs to no pool"},
    {"static", -EINVAL, "belongs to no pool"},
    {"small number", -EINVAL, "belongs to no pool"},
    {"kernel", -EINVAL, "belongs to no pool"},
};

static int misuse(const char *what)
{
    struct flow_pool_options o = options(48);
    flow_pool *pool = pool_of(o), *other = pool_of(o);
    char *a = flow_pool_alloc(pool), *b = flow_pool_alloc(pool), *c = flow_pool_alloc(other);
    static char here[64];
    char local[64], *heap = malloc(64);
    int r = 1;

    REQUIRE(a && b && c);
    memset(a, 1, 48);
    memset(b, 2, 48);
    if (!strcmp(what, "twice")) {
        REQUIRE_EQUAL(flow_pool_free(pool, a), 0);
        r = flow_pool_free(pool, a);
    } else if (!strcmp(what, "twice later")) {
        REQUIRE_EQUAL(flow_pool_free(pool, a), 0);
        REQUIRE_EQUAL(flow_pool_free(pool, b), 0);
        flow_pool_shrink(other); /* also when they lie in the depot, and not in a magazine */
        r = flow_pool_free(pool, a);
    } else if (!strcmp(what, "interior")) {
        for (int i = 1; i < 47; i++)
            r = flow_pool_free(pool, a + i);
        r = flow_pool_free(pool, a + 16);
    } else if (!strcmp(what, "header")) {
        r = flow_pool_free(pool, flow__chunk_at(a)->first - 48);
    } else if (!strcmp(what, "beyond")) {
        r = flow_pool_free(pool, flow__chunk_at(a)->first + 64 * 48);
    } else if (!strcmp(what, "never")) {
        r = flow_pool_free(pool, flow__chunk_at(a)->first + 63 * 48);
    } else if (!strcmp(what, "other pool")) {
        r = flow_pool_free(pool, c);
    } else if (!strcmp(what, "remembered")) {
        /* A chunk that the magazine remembered is gone, and its description another pool's. */
        flow_pool *third;

        REQUIRE_EQUAL(flow_pool_free(pool, a), 0);
        REQUIRE_EQUAL(flow_pool_free(pool, b), 0);
        REQUIRE_EQUAL(flow_pool_shrink(pool), 1);
        third = pool_of(o);
        a = flow_pool_alloc(third);
        r = flow_pool_free(pool, a);
        REQUIRE_EQUAL(flow_pool_free(third, a), 0);
        REQUIRE_EQUAL(flow_pool_destroy(third), 0);
    } else if (!strcmp(what, "heap")) {
        r = flow_pool_free(pool, heap);
    } else if (!strcmp(what, "stack")) {
        r = flow_pool_free(pool, local);
    } else if (!strcmp(what, "static")) {
        r = flow_pool_free(pool, here);
    } else if (!strcmp(what, "small number")) {
        r = flow_pool_free(pool, (void *)8);
    } else if (!strcmp(what, "kernel")) {
        r = flow_pool_free(pool, (void *)0xffff888000001000);
    }
    free(heap);
    /* Nothing was harmed. */
    REQUIRE(flow__pool_is_sound(pool) && flow__pool_is_sound(other));
    flow_pool_free(other, c);
    REQUIRE_EQUAL(flow_pool_destroy(other), 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), !strcmp(what, "remembered") ? 0
                                           : strncmp(what, "twice", 5) ? 2
                                           : what[5]                   ? 0
                                                                       : 1);
    return r;
}

static flow_result misuse_as_task(void *what)
{
    return flow_ok_i64(misuse(what));
}

CHILD(misuse_a_pool)
{
    bool inside = arg[0] == '+';
    flow_result r = {0};
    int result;

    if (inside) {
        test_start();
        REQUIRE_EQUAL(flow_sync_wait(misuse_as_task, (void *)(arg + 1), &r, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
        result = (int)r.i64;
    } else {
        result = misuse(arg + 1);
    }
    for (size_t i = 0; i < sizeof misuses / sizeof *misuses; i++)
        if (!strcmp(misuses[i].what, arg + 1))
            REQUIRE_EQUAL(result, misuses[i].error);
}

JUDGED(misuse_is_an_error_and_fatal_in_debug_builds)
{
    static struct child_end end;
    char what[64];

    for (size_t i = 0; i < 2 * sizeof misuses / sizeof *misuses; i++) {
        snprintf(what, sizeof what, "%c%s", i % 2 ? '+' : '-', misuses[i / 2].what);
        child_run(&end, "misuse_a_pool", what);
        if (DIES) {
            child_must_die(&end, SIGABRT);
            child_must_say(&end, misuses[i / 2].says);
        } else {
            child_must_exit(&end, 0);
        }
    }
}

CASE(leaked_blocks_are_counted)
{
    struct flow_pool_options o = options(64);
    flow_pool *pool;
    void *block[20];

    o.name = "leaky";
    for (int leaked = 0; leaked <= 20; leaked += 5) {
        pool = pool_of(o);
        for (int i = 0; i < 20; i++)
            block[i] = flow_pool_alloc(pool);
        for (int i = leaked; i < 20; i++)
            REQUIRE_EQUAL(flow_pool_free(pool, block[i]), 0);
        REQUIRE_EQUAL(flow_pool_destroy(pool), leaked);
    }
}

#ifdef FLOW_DEBUG

CHILD(leak_three)
{
    struct flow_pool_options o = options(24);
    flow_pool *pool;

    o.name = "leaky";
    pool = pool_of(o);
    for (int i = 0; i < 3; i++)
        printf("took %p\n", flow_pool_alloc(pool));
    fflush(stdout);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 3);
}

JUDGED(leaked_blocks_are_listed_in_debug_builds)
{
    static struct child_end end;
    char *line, *save, *copy;

    child_run(&end, "leak_three", "");
    child_must_exit(&end, 0);
    child_must_say(&end, "pool \"leaky\": 3 blocks of 24 bytes were not freed:");
    copy = strdup(end.text);
    for (line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (!strncmp(line, "took ", 5))
            assert_non_null(strstr(strstr(end.text, "not freed:"), line + 5));
    free(copy);
}

#endif

/* ---- memory is short ---- */

struct short_of {
    enum fault kind;
    bool forever;
};

/* Makes, fills, empties, shrinks and destroys a pool while the n-th call fails, and perhaps all
 * later ones. 1 if one did. */
static flow_result use_with_fault(struct short_of how, long n)
{
    struct faults_balance before = faults_balance(), after;
    struct flow_pool_options o = options(1000);
    static void *block[MANY];
    const int many = TEST_ROUNDS(MANY, MANY / 5);
    bool fired;
    flow_pool *pool;
    int got = 0, r;

    o.expansion_factor = 1.5;
    faults_arm(how.kind, n, how.forever);
    r = flow_pool_create(&pool, &o);
    REQUIRE(r == 0 || r == -ENOMEM);
    while (r == 0 && got < many && (block[got] = flow_pool_alloc(pool)))
        memset(block[got++], 1, 1000);
    fired = faults_fired();
    /* A smaller piece is tried before one gives up, so a single failure is not noticed. */
    REQUIRE(got == many || fired);
    REQUIRE(r || how.forever || got == many || got == 0);
    faults_arm(how.kind, 0, false);
    if (r == 0) {
        uint64_t total = stats_of(pool).total_blocks;

        if (got < many)
            REQUIRE_EQUAL(total, got); /* none was free */
        require_figures(pool, total, (uint64_t)got);
        while (got > 0)
            REQUIRE_EQUAL(flow_pool_free(pool, block[--got]), 0);
        require_figures(pool, total, 0);
        REQUIRE((block[0] = flow_pool_alloc(pool)));
        REQUIRE_EQUAL(flow_pool_free(pool, block[0]), 0);
        REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    }
    after = faults_balance();
    REQUIRE_EQUAL(after.maps, before.maps);
    REQUIRE_EQUAL(after.mapped_bytes, before.mapped_bytes);
    REQUIRE_EQUAL(after.allocations, before.allocations);
    return flow_ok_i64(fired);
}

static flow_result use_with_each_fault(void *arg)
{
    struct short_of *how = arg;
    long n = 1;

    while (use_with_fault(*how, n).i64)
        n++;
    return flow_ok_i64(n - 1);
}

static void with_each_fault(enum fault kind, bool forever)
{
    struct short_of how = {kind, forever};
    int64_t outside = use_with_each_fault(&how).i64;
    flow_result inside;

    test_start();
    REQUIRE_EQUAL(flow_sync_wait(use_with_each_fault, &how, &inside, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE(outside + inside.i64 > 0);
    child_note("%s fails %s: %lld places from a thread, %lld from a coroutine", fault_names[kind],
               forever ? "from then on" : "once", (long long)outside, (long long)inside.i64);
}

CASE(no_memory_at_any_place_gives_a_clean_error)
{
    faults_open();
    for (int forever = 0; forever < 2; forever++) {
        with_each_fault(FAULT_MAP, forever);
        with_each_fault(FAULT_ADVISE, forever);
    }
}

/* The system has only small pieces left. */
static void *map_small(size_t bytes, int prot, int flags)
{
    return bytes > 256 * 1024 ? NULL : flow__sys_real.map(bytes, prot, flags);
}

CASE(smaller_chunks_are_made_when_large_ones_are_refused)
{
    struct flow_pool_options o = options(1000);
    flow_pool *pool;
    static void *block[MANY];

    o.expansion_factor = 5.0;
    pool = pool_of(o);
    flow__sys.map = map_small;
    for (int i = 0; i < MANY; i++)
        REQUIRE((block[i] = flow_pool_alloc(pool)));
    flow__sys.map = flow__sys_real.map;
    REQUIRE(stats_of(pool).chunks > MANY * 1000 / (256 * 1024));
    for (int i = 0; i < MANY; i++)
        REQUIRE_EQUAL(flow_pool_free(pool, block[i]), 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

/* Other workers' free blocks are found before a call fails for want of memory. */
CASE(without_memory_free_blocks_in_other_magazines_are_found)
{
    struct flow_options runtime = test_options();
    static struct hoard h;
    uint64_t total, got = 0;

    faults_open();
    h.pool = pool_of(options(64));
    runtime.workers = 4;
    test_start_with(&runtime);
    h.n = 200;
    for (int w = 0; w < 4; w++)
        run_on(w, hoard, &h);
    REQUIRE(in_magazines(h.pool) >= 3 * 32);
    total = stats_of(h.pool).total_blocks;
    faults_arm(FAULT_MAP, 1, true);
    while (got < MANY && (h.block[got] = flow_pool_alloc(h.pool)))
        got++;
    REQUIRE_EQUAL(got, total);
    faults_arm(FAULT_MAP, 0, false);
    for (uint64_t i = 0; i < got; i++)
        REQUIRE_EQUAL(flow_pool_free(h.pool, h.block[i]), 0);
    require_figures(h.pool, total, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_pool_destroy(h.pool), 0);
}

/* The exception that flow_pool_alloc's comment makes. */
static int barrier_forbidden(void)
{
    return -EPERM;
}

CASE(a_barrier_that_is_forbidden_later_leaves_the_pool_sound)
{
    struct flow_pool_options o = options(64);
    struct flow_options runtime = test_options();
    static struct hoard h;
    int got = 0;

    o.max_blocks = o.initial_blocks = 1000;
    h.pool = pool_of(o);
    runtime.workers = 4;
    test_start_with(&runtime);
    h.n = 200;
    for (int w = 0; w < 4; w++)
        run_on(w, hoard, &h);
    flow__sys.barrier = barrier_forbidden;
    while (got < 1001 && (h.block[got] = flow_pool_alloc(h.pool)))
        got++;
    REQUIRE_EQUAL(got, 1000 - (int)in_magazines(h.pool));
    require_figures(h.pool, 1000, (uint64_t)got);
    h.n = 20; /* owners still have what is theirs */
    for (int w = 0; w < 4; w++) {
        static struct hoard mine;

        mine.pool = h.pool;
        mine.n = 20;
        run_on(w, hoard, &mine);
    }
    REQUIRE_EQUAL(flow_pool_shrink(h.pool), 0);
    require_figures(h.pool, 1000, (uint64_t)got);
    while (got > 0)
        REQUIRE_EQUAL(flow_pool_free(h.pool, h.block[--got]), 0);
    require_figures(h.pool, 1000, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_pool_destroy(h.pool), 0);
}

/* ---- shrinking ---- */

static flow_result shrink(void *unused)
{
    struct flow_pool_options o = options(64);
    static void *block[1024];
    flow_pool *pool;

    (void)unused;
    pool = pool_of(o);
    for (int i = 0; i < 1024; i++)
        REQUIRE((block[i] = flow_pool_alloc(pool)));
    require_figures(pool, 1024, 1024);
    REQUIRE_EQUAL(stats_of(pool).chunks, 5); /* 64, 64, 128, 256, 512 */
    REQUIRE_EQUAL(flow_pool_shrink(pool), 0);
    for (int i = 0; i < 1023; i++)
        REQUIRE_EQUAL(flow_pool_free(pool, block[i]), 0);
    REQUIRE_EQUAL(flow_pool_shrink(pool), 4); /* all but the one that the last block lies in */
    require_figures(pool, 512, 1);
    REQUIRE_EQUAL(stats_of(pool).chunks, 1);
    memset(block[1023], 1, 64);
    REQUIRE_EQUAL(flow_pool_free(pool, block[1023]), 0);
    require_figures(pool, 512, 0);
    REQUIRE_EQUAL(flow_pool_shrink(pool), 1);
    require_figures(pool, 0, 0);
    REQUIRE_EQUAL(stats_of(pool).bytes, 0);
    REQUIRE(!flow__chunk_at(block[0]) && !flow__chunk_at(block[1023]));
    REQUIRE_EQUAL(flow_pool_shrink(pool), 0);
    /* It begins anew. */
    REQUIRE((block[0] = flow_pool_alloc(pool)));
    require_figures(pool, 64, 1);
    REQUIRE_EQUAL(flow_pool_free(pool, block[0]), 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    return flow_ok(NULL);
}

CASE(shrinking_gives_empty_chunks_back)
{
    on_both(shrink);
}

/* ---- what AddressSanitizer sees ---- */

#if TEST_ASAN

CHILD(touch)
{
    flow_pool *pool = pool_of(options(40));
    volatile char *block = flow_pool_alloc(pool);

    if (!strcmp(arg, "free block")) {
        flow_pool_free(pool, (void *)block);
        block[20] = 1;
    } else if (!strcmp(arg, "beyond")) {
        block[40] = 1;
    } else if (!strcmp(arg, "never used")) {
        block[48 * 5] = 1;
    }
    puts("nobody noticed");
}

JUDGED(sanitizer_stops_who_touches_a_free_block)
{
    static const char *const what[] = {"free block", "beyond", "never used"};
    static struct child_end end;

    for (int i = 0; i < 3; i++) {
        child_run(&end, "touch", what[i]);
        child_must_die(&end, SIGABRT);
        child_must_say(&end, "use-after-poison");
    }
}

#endif

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
