/* SPDX-License-Identifier: MIT
 *
 * Blocks of a flow_pool against malloc: glibc's, and mimalloc's, jemalloc's and tcmalloc's where they
 * are installed.
 *
 *   pair      a coroutine takes a block, writes to it and gives it back: the same block every time
 *   thousand  it takes 1,000, then gives them back, oldest first: a worker's store has to grow for them
 *   one way   a coroutine on worker 0 takes and writes blocks, one on worker 1 reads them and gives
 *             them back; pointers go through a ring of 1,024. n blocks, ns for each
 *
 * All allocators run the same loops in the same coroutines, and are called directly; malloc, which
 * another library may replace, through the loader's table. A rival comes in by LD_PRELOAD: its run
 * executes itself once more. The bare list is a free list in the loop's own frame: what no allocator
 * with a call can reach. */
#include "perf/bench.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RING 1024u
#define LOT  1000

/* ---- allocators ---- */

static flow_pool *pool;

static inline void *take_from_pool(size_t bytes)
{
    (void)bytes;
    return flow_pool_alloc(pool);
}

static inline void give_to_pool(void *block)
{
    int r = flow_pool_free(pool, block);

    bench_check(!r, "flow_pool_free: %d", r);
}

static inline void *take_from_malloc(size_t bytes)
{
    return malloc(bytes);
}

static inline void give_to_malloc(void *block)
{
    free(block);
}

/* ---- loops; a copy for each allocator, so that the calls are direct ---- */

struct loop {
    uint64_t n;
    size_t bytes;
    int64_t elapsed_ns;
    uint64_t sum;
};

static inline void touch(void *block, uint64_t value)
{
    bench_check(block, "no block");
    *(uint64_t *)block = value;
    bench_keep(block);
}

#define LOOPS(kind)                                                                                \
    static flow_result pair_##kind(void *arg)                                                      \
    {                                                                                              \
        struct loop *loop = arg;                                                                   \
        int64_t start = 0;                                                                         \
                                                                                                   \
        for (int warm = 1; warm >= 0; warm--) {                                                    \
            start = bench_now();                                                                   \
            for (uint64_t i = 0; i < (warm ? loop->n / 10 : loop->n); i++) {                       \
                void *block = take_from_##kind(loop->bytes);                                       \
                                                                                                   \
                touch(block, i);                                                                   \
                give_to_##kind(block);                                                             \
            }                                                                                      \
        }                                                                                          \
        loop->elapsed_ns = bench_now() - start;                                                    \
        return flow_ok(NULL);                                                                      \
    }                                                                                              \
                                                                                                   \
    static flow_result thousand_##kind(void *arg)                                                  \
    {                                                                                              \
        struct loop *loop = arg;                                                                   \
        void *block[LOT];                                                                          \
        int64_t start = 0;                                                                         \
                                                                                                   \
        for (int warm = 1; warm >= 0; warm--) {                                                    \
            start = bench_now();                                                                   \
            for (uint64_t i = 0; i < (warm ? loop->n / 10 : loop->n); i += LOT) {                  \
                for (int k = 0; k < LOT; k++) {                                                    \
                    block[k] = take_from_##kind(loop->bytes);                                      \
                    touch(block[k], i);                                                            \
                }                                                                                  \
                for (int k = 0; k < LOT; k++)                                                      \
                    give_to_##kind(block[k]);                                                      \
            }                                                                                      \
        }                                                                                          \
        loop->elapsed_ns = bench_now() - start;                                                    \
        return flow_ok(NULL);                                                                      \
    }                                                                                              \
                                                                                                   \
    static flow_result produce_##kind(void *arg)                                                   \
    {                                                                                              \
        struct loop *loop = arg;                                                                   \
                                                                                                   \
        for (uint64_t i = 0; i < loop->n; i++) {                                                   \
            void *block = take_from_##kind(loop->bytes);                                           \
                                                                                                   \
            touch(block, i);                                                                       \
            put(block, i);                                                                         \
        }                                                                                          \
        return flow_ok(NULL);                                                                      \
    }                                                                                              \
                                                                                                   \
    static flow_result consume_##kind(void *arg)                                                   \
    {                                                                                              \
        struct loop *loop = arg;                                                                   \
                                                                                                   \
        for (uint64_t i = 0; i < loop->n; i++) {                                                   \
            void *block = get(i);                                                                  \
                                                                                                   \
            loop->sum += *(uint64_t *)block;                                                       \
            give_to_##kind(block);                                                                 \
        }                                                                                          \
        return flow_ok(NULL);                                                                      \
    }

/* ---- the ring: one producer, one consumer, each with a copy of the other's place ---- */

static struct {
    _Alignas(128) _Atomic uint64_t head; /* by the consumer */
    uint64_t tail_seen;
    _Alignas(128) _Atomic uint64_t tail; /* by the producer */
    uint64_t head_seen;
    _Alignas(128) void *slot[RING];
} ring;

static void rest(int round)
{
    if (round % 1000 == 999)
        sched_yield(); /* somebody else has the other's CPU */
}

static inline void put(void *block, uint64_t i)
{
    /* Acquire: pairs with the release in get(); the slot has been read. */
    for (int round = 0; i - ring.head_seen == RING; round++) {
        ring.head_seen = atomic_load_explicit(&ring.head, memory_order_acquire);
        rest(round);
    }
    ring.slot[i % RING] = block;
    /* Release: pairs with the acquire in get(); the block and its slot are written. */
    atomic_store_explicit(&ring.tail, i + 1, memory_order_release);
}

static inline void *get(uint64_t i)
{
    void *block;

    for (int round = 0; i == ring.tail_seen; round++) {
        ring.tail_seen = atomic_load_explicit(&ring.tail, memory_order_acquire); /* put() */
        rest(round);
    }
    block = ring.slot[i % RING];
    atomic_store_explicit(&ring.head, i + 1, memory_order_release); /* put() */
    return block;
}

LOOPS(pool)
LOOPS(malloc)

/* ---- measuring ---- */

static void make_pool(size_t bytes)
{
    struct flow_pool_options o = FLOW_POOL_INIT;
    int r;

    o.block_bytes = bytes;
    r = flow_pool_create(&pool, &o);
    bench_check(!r, "flow_pool_create: %d", r);
}

static void end_pool(void)
{
    int leaked = flow_pool_destroy(pool);

    bench_check(!leaked, "%d blocks were not freed", leaked);
    pool = NULL;
}

/* fn in a coroutine of a runtime with one worker. */
static void alone(const struct bench_run *run, const char *name, flow_fn fn, size_t bytes)
{
    struct bench_run one = *run;
    struct loop loop = {.n = run->n, .bytes = bytes};

    one.workers = 1;
    make_pool(bytes);
    bench_in_coroutine(&one, NULL, fn, &loop);
    end_pool();
    bench_value(name, run->n, "ns", (double)loop.elapsed_ns / (double)run->n);
}

static flow_task pinned(int worker, flow_fn fn, void *arg)
{
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    flow_task task;
    int r;

    how.worker = worker;
    how.flags = FLOW_PINNED;
    r = flow_spawn_with(&task, &how, fn, arg);
    bench_check(!r, "flow_spawn_with: %d", r);
    return task;
}

static void across(const struct bench_run *run, const char *name, flow_fn produce, flow_fn consume,
                   size_t bytes)
{
    struct bench_run two = *run;
    struct loop loop = {.n = run->n, .bytes = bytes};
    int64_t start;

    if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
        bench_skip("needs two CPUs");
    two.workers = 2;
    make_pool(bytes);
    bench_start(&two, NULL);
    for (int warm = 1; warm >= 0; warm--) {
        flow_task task[2];
        int r;

        loop.n = warm ? run->n / 10 : run->n;
        loop.sum = 0;
        memset(&ring, 0, sizeof ring);
        start = bench_now();
        task[0] = pinned(0, produce, &loop);
        task[1] = pinned(1, consume, &loop);
        r = flow_when_all(task, 2, NULL, FLOW_FOREVER);
        bench_check(!r, "flow_when_all: %d", r);
        loop.elapsed_ns = bench_now() - start;
        bench_check(loop.sum == loop.n * (loop.n - 1) / 2, "blocks are lost or mixed up");
    }
    bench_stop();
    end_pool();
    bench_value(name, run->n, "ns", (double)loop.elapsed_ns / (double)run->n);
}

/* ---- rivals ---- */

/* Executes this very run with another allocator in place. */
static void become(const char *library)
{
    static char command[4096];
    char *argv[8] = {0}, *at = command;
    const char *loaded = getenv("LD_PRELOAD");
    ssize_t n;
    int fd;

    if (loaded && strstr(loaded, library)) {
        bench_check(dlopen(library, RTLD_LAZY | RTLD_NOLOAD), "%s is not in place", library);
        return;
    }
    if (!dlopen(library, RTLD_LAZY | RTLD_LOCAL) &&
        strstr(dlerror(), "cannot open shared object")) /* jemalloc only comes in at the start */
        bench_skip("%s is not installed", library);
    fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    n = read(fd, command, sizeof command - 1);
    bench_check(n > 0, "no /proc/self/cmdline");
    for (int i = 0; i < 7 && at < command + n; i++, at += strlen(at) + 1)
        argv[i] = at;
    setenv("LD_PRELOAD", library, 1);
    execv("/proc/self/exe", argv);
    bench_check(false, "cannot execute itself");
}

static void glibc(void) {}

static void mimalloc(void)
{
    become("libmimalloc.so.2");
}

static void jemalloc(void)
{
    become("libjemalloc.so.2");
}

static void tcmalloc(void)
{
    become("libtcmalloc_minimal.so.4");
}

static void flow(void) {}

#define RUNS(who, kind, bytes)                                                                     \
    static void pair_##who##_##bytes(const struct bench_run *run)                                  \
    {                                                                                              \
        who();                                                                                     \
        alone(run, "pair, " #bytes " B/" #who, pair_##kind, bytes);                               \
    }                                                                                              \
    static void thousand_##who##_##bytes(const struct bench_run *run)                              \
    {                                                                                              \
        who();                                                                                     \
        alone(run, "thousand, " #bytes " B/" #who, thousand_##kind, bytes);                       \
    }                                                                                              \
    static void one_way_##who##_##bytes(const struct bench_run *run)                               \
    {                                                                                              \
        who();                                                                                     \
        across(run, "one way, " #bytes " B/" #who, produce_##kind, consume_##kind, bytes);        \
    }

RUNS(flow, pool, 64)
RUNS(glibc, malloc, 64)
RUNS(mimalloc, malloc, 64)
RUNS(jemalloc, malloc, 64)
RUNS(tcmalloc, malloc, 64)
RUNS(flow, pool, 256)
RUNS(glibc, malloc, 256)
RUNS(mimalloc, malloc, 256)
RUNS(jemalloc, malloc, 256)
RUNS(tcmalloc, malloc, 256)

static void pair_bare(const struct bench_run *run)
{
    struct link {
        struct link *next;
        uint64_t rest[7];
    } *list, *some = bench_array(64, sizeof *some);
    int64_t start;

    for (int i = 0; i < 63; i++)
        some[i].next = &some[i + 1];
    list = some;
    start = bench_now();
    for (uint64_t i = 0; i < run->n; i++) {
        struct link *block = list;

        list = block->next;
        bench_keep(list);
        touch(block, i);
        block->next = list;
        list = block;
        bench_keep(list);
    }
    bench_value("pair, 64 B/(bare free list)", run->n, "ns",
                (double)(bench_now() - start) / (double)run->n);
}

#define CASE(work, who, bytes, n)                                                                  \
    {                                                                                              \
        #work " " #bytes "/" #who, work##_##who##_##bytes, n, (n) / 10, .no_workers = true         \
    }
#define CASES(bytes)                                                                               \
    CASE(pair, flow, bytes, 50000000), CASE(pair, glibc, bytes, 20000000),                         \
        CASE(pair, mimalloc, bytes, 20000000), CASE(pair, jemalloc, bytes, 20000000),              \
        CASE(pair, tcmalloc, bytes, 20000000), CASE(thousand, flow, bytes, 20000000),              \
        CASE(thousand, glibc, bytes, 10000000), CASE(thousand, mimalloc, bytes, 10000000),         \
        CASE(thousand, jemalloc, bytes, 10000000), CASE(thousand, tcmalloc, bytes, 10000000),      \
        CASE(one_way, flow, bytes, 5000000), CASE(one_way, glibc, bytes, 2000000),                 \
        CASE(one_way, mimalloc, bytes, 3000000), CASE(one_way, jemalloc, bytes, 3000000),          \
        CASE(one_way, tcmalloc, bytes, 3000000)

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"pair 64/(bare)", pair_bare, 50000000, 5000000, .no_workers = true},
        CASES(64),
        CASES(256),
    };
    static const struct bench_suite suite = {
        .name = "pool",
        .about = "taking a block and giving it back, on one worker and across two",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
