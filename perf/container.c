/* SPDX-License-Identifier: MIT
 *
 * flow_ring, flow_queue and flow_stack between threads, beside other libraries' rings and queues:
 * perf/rivals/containers.hpp has the same work for them.
 *
 * "pair" is one push and one pop by a thread that is alone, "1x1" and "4x4" so many
 * producers and consumers that pass every item once. A thread that finds the container full or empty
 * pauses, and every 64th time gives the CPU away. */
#include "perf/bench.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>

#define CAPACITY 1024
#define MOST     4 /* producers, and consumers */
#define BATCH    16

struct kind {
    int (*push)(void *container, void *item);
    int (*pop)(void *container, void **item);
};

struct crowd {
    const struct kind *kind;
    void *container;
    uint64_t n;
    unsigned producers;
    atomic_uint next_producer;
    _Alignas(64) atomic_ullong popped;
    _Alignas(64) atomic_ullong sum;
};

static int ring_push(void *ring, void *item)
{
    return flow_ring_push(ring, item);
}

static int ring_pop(void *ring, void **item)
{
    return flow_ring_pop(ring, item);
}

static int queue_push(void *queue, void *item)
{
    return flow_queue_push(queue, item);
}

static int queue_pop(void *queue, void **item)
{
    return flow_queue_pop(queue, item);
}

static int stack_push(void *stack, void *item)
{
    return flow_stack_push(stack, item);
}

static int stack_pop(void *stack, void **item)
{
    return flow_stack_pop(stack, item);
}

static const struct kind ring_kind = {ring_push, ring_pop};
static const struct kind queue_kind = {queue_push, queue_pop};
static const struct kind stack_kind = {stack_push, stack_pop};

static flow_ring *new_ring(unsigned flags)
{
    flow_ring *ring;
    int r = flow_ring_create(&ring, CAPACITY, flags);

    bench_check(!r, "flow_ring_create: %d", r);
    return ring;
}

static flow_queue *new_queue(void)
{
    flow_queue *queue;
    int r = flow_queue_create(&queue);

    bench_check(!r, "flow_queue_create: %d", r);
    return queue;
}

static uint64_t expected_sum(uint64_t n)
{
    return n * (n + 1) / 2;
}

/* ---- alone ---- */

/* Inlined for each container, so that the calls are direct, as a user's are. */
#define TIME_PAIRS(run, name, container, PUSH, POP)                                                \
    do {                                                                                           \
        uint64_t sum_ = 0;                                                                         \
        int64_t start_ = 0;                                                                        \
                                                                                                   \
        for (int round_ = 0; round_ < 2; round_++) {                                               \
            sum_ = 0;                                                                              \
            start_ = bench_now();                                                                  \
            for (uint64_t i_ = 1; i_ <= (run)->n; i_++) {                                          \
                void *item_ = NULL;                                                                \
                                                                                                   \
                bench_check(PUSH(container, (void *)(uintptr_t)i_) == 0, "push failed");           \
                bench_check(POP(container, &item_) == 0, "pop failed");                            \
                sum_ += (uintptr_t)item_;                                                          \
            }                                                                                      \
            start_ = bench_now() - start_;                                                         \
        }                                                                                          \
        bench_check(sum_ == expected_sum((run)->n), "items are wrong");                            \
        bench_value(name, (run)->n, "ns", (double)start_ / (double)(run)->n);                      \
    } while (0)

static void pair_ring(const struct bench_run *run)
{
    flow_ring *ring = new_ring(FLOW_RING_MPMC);

    TIME_PAIRS(run, "pair/flow_ring", ring, flow_ring_push, flow_ring_pop);
    flow_ring_destroy(ring);
}

static void pair_ring_single(const struct bench_run *run)
{
    flow_ring *ring = new_ring(FLOW_RING_SPSC);

    TIME_PAIRS(run, "pair/flow_ring, one and one", ring, flow_ring_push, flow_ring_pop);
    flow_ring_destroy(ring);
}

static void pair_queue(const struct bench_run *run)
{
    flow_queue *queue = new_queue();

    TIME_PAIRS(run, "pair/flow_queue", queue, flow_queue_push, flow_queue_pop);
    flow_queue_destroy(queue);
}

static void pair_stack(const struct bench_run *run)
{
    flow_stack *stack;

    bench_check(!flow_stack_create(&stack), "flow_stack_create");
    TIME_PAIRS(run, "pair/flow_stack", stack, flow_stack_push, flow_stack_pop);
    flow_stack_destroy(stack);
}

/* ---- in batches, alone ---- */

static void batch_ring(const struct bench_run *run)
{
    flow_ring *ring = new_ring(FLOW_RING_MPMC);
    void *items[BATCH] = {0};
    int64_t start = bench_now();

    for (uint64_t i = 0; i < run->n; i += BATCH) {
        bench_check(flow_ring_push_n(ring, items, BATCH) == BATCH, "push_n failed");
        bench_check(flow_ring_pop_n(ring, items, BATCH) == BATCH, "pop_n failed");
    }
    bench_value("pair in batches of 16/flow_ring", run->n, "ns",
                (double)(bench_now() - start) / (double)run->n);
    flow_ring_destroy(ring);
}

/* ---- crowds ---- */

static void relax(int *rounds)
{
    if (++*rounds % 64 == 0)
        sched_yield();
#if defined(__x86_64__)
    else
        __builtin_ia32_pause();
#endif
}

static void *produce(void *arg)
{
    struct crowd *c = arg;
    uint64_t first = atomic_fetch_add(&c->next_producer, 1) + 1;
    int rounds = 0;

    for (uint64_t i = first; i <= c->n; i += c->producers)
        while (c->kind->push(c->container, (void *)(uintptr_t)i))
            relax(&rounds);
    return NULL;
}

static void *consume(void *arg)
{
    struct crowd *c = arg;
    uint64_t mine = 0, got = 0;
    int rounds = 0;
    void *item;

    while (atomic_load_explicit(&c->popped, memory_order_relaxed) < c->n) {
        if (c->kind->pop(c->container, &item) == 0) {
            mine += (uintptr_t)item;
            if (++got % 64 == 0)
                atomic_fetch_add_explicit(&c->popped, 64, memory_order_relaxed);
        } else {
            atomic_fetch_add_explicit(&c->popped, got % 64, memory_order_relaxed);
            got = 0;
            relax(&rounds);
        }
    }
    atomic_fetch_add(&c->sum, mine);
    return NULL;
}

static void pass(struct crowd *c, unsigned consumers)
{
    pthread_t threads[2 * MOST];
    unsigned n = 0;

    for (unsigned i = 0; i < c->producers; i++)
        bench_check(!pthread_create(&threads[n++], NULL, produce, c), "pthread_create");
    for (unsigned i = 0; i < consumers; i++)
        bench_check(!pthread_create(&threads[n++], NULL, consume, c), "pthread_create");
    while (n > 0)
        pthread_join(threads[--n], NULL);
}

static void run_crowd(const struct bench_run *run, const char *name, const struct kind *kind,
                      void *container, unsigned producers, unsigned consumers)
{
    int64_t elapsed = 0;

    for (int round = 0; round < 2; round++) {
        struct crowd c = {
            .kind = kind, .container = container, .n = run->n, .producers = producers};
        int64_t start = bench_now();

        pass(&c, consumers);
        elapsed = bench_now() - start;
        bench_check(atomic_load(&c.sum) == expected_sum(run->n), "items are wrong");
    }
    bench_value(name, run->n, "ns", (double)elapsed / (double)run->n);
}

static void one_to_one_single(const struct bench_run *run)
{
    flow_ring *ring = new_ring(FLOW_RING_SPSC);

    run_crowd(run, "1x1/flow_ring, one and one", &ring_kind, ring, 1, 1);
    flow_ring_destroy(ring);
}

static void crowd_of_ring(const struct bench_run *run, const char *name, unsigned each)
{
    flow_ring *ring = new_ring(FLOW_RING_MPMC);

    run_crowd(run, name, &ring_kind, ring, each, each);
    flow_ring_destroy(ring);
}

static void crowd_of_queue(const struct bench_run *run, const char *name, unsigned each)
{
    flow_queue *queue = new_queue();

    run_crowd(run, name, &queue_kind, queue, each, each);
    flow_queue_destroy(queue);
}

static void one_to_one_ring(const struct bench_run *run)
{
    crowd_of_ring(run, "1x1/flow_ring", 1);
}

static void one_to_one_queue(const struct bench_run *run)
{
    crowd_of_queue(run, "1x1/flow_queue", 1);
}

static void four_to_four_ring(const struct bench_run *run)
{
    crowd_of_ring(run, "4x4/flow_ring", 4);
}

static void four_to_four_queue(const struct bench_run *run)
{
    crowd_of_queue(run, "4x4/flow_queue", 4);
}

static void four_to_four_stack(const struct bench_run *run)
{
    flow_stack *stack;

    bench_check(!flow_stack_create(&stack), "flow_stack_create");
    run_crowd(run, "4x4/flow_stack", &stack_kind, stack, 4, 4);
    flow_stack_destroy(stack);
}

/* ---- rivals ---- */

static void rival(const struct bench_run *run)
{
    bench_rival_time(run, expected_sum(run->n));
}

#define CASE(name, run)                                                                            \
    {                                                                                              \
        name, run, 3000000, 200000, .no_workers = true                                             \
    }
/* ck's consumers spin while a producer is interrupted between its two steps: n is small for it. */
#define RIVALS(work, ck_n)                                                                         \
    CASE(work "/vyukov", rival), {work "/ck", rival, ck_n, (ck_n) / 10, .no_workers = true},       \
        CASE(work "/boost_lockfree", rival), CASE(work "/moodycamel", rival),                      \
        CASE(work "/urcu_wfcq", rival), CASE(work "/urcu_lfq", rival)

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        CASE("pair/flow_ring", pair_ring),
        CASE("pair/flow_ring, one and one", pair_ring_single),
        CASE("pair/flow_queue", pair_queue),
        CASE("pair/flow_stack", pair_stack),
        RIVALS("pair", 3000000),
        CASE("pair in batches of 16/flow_ring", batch_ring),
        CASE("1x1/flow_ring", one_to_one_ring),
        CASE("1x1/flow_ring, one and one", one_to_one_single),
        CASE("1x1/flow_queue", one_to_one_queue),
        RIVALS("1x1", 300000),
        CASE("4x4/flow_ring", four_to_four_ring),
        CASE("4x4/flow_queue", four_to_four_queue),
        CASE("4x4/flow_stack", four_to_four_stack),
        RIVALS("4x4", 300000),
    };
    static const struct bench_suite suite = {
        .name = "container",
        .about = "rings, queues and stacks between threads; ns for each item passed",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
