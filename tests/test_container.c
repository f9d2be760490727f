/* SPDX-License-Identifier: MIT
 *
 * flow_ring, flow_queue, flow_stack: against plain models, from many threads, from coroutines, with
 * threads frozen in the middle of a call, and with memory short. */
#include "tests/support/faults.h"
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* tests/test_queue_links.c compiles all of this once more, with segments of so few cells that their
 * pages cannot be given back. */
#ifdef FLOW__QUEUE_CELLS
#define PAGES_GO_BACK 0
#else
#define PAGES_GO_BACK 1
#endif

#define PRODUCERS 4
#define CONSUMERS 4

/* ---- one face for all ---- */

enum kind { RING, RING_SINGLE, QUEUE, STACK };

struct box {
    enum kind kind;
    union {
        flow_ring *ring;
        flow_queue *queue;
        flow_stack *stack;
    };
};

static int box_open(struct box *b, enum kind kind, size_t capacity)
{
    b->kind = kind;
    switch (kind) {
    case RING:
    case RING_SINGLE:
        return flow_ring_create(&b->ring, capacity, kind == RING ? FLOW_RING_MPMC : FLOW_RING_SPSC);
    case QUEUE:
        return flow_queue_create(&b->queue);
    default:
        return flow_stack_create(&b->stack);
    }
}

static int64_t box_close(struct box *b)
{
    return b->kind == QUEUE   ? flow_queue_destroy(b->queue)
           : b->kind == STACK ? flow_stack_destroy(b->stack)
                              : flow_ring_destroy(b->ring);
}

static size_t box_push(struct box *b, void **items, size_t n)
{
    if (b->kind == QUEUE)
        return n == 1 ? flow_queue_push(b->queue, items[0]) == 0
                      : flow_queue_push_n(b->queue, items, n);
    if (b->kind == STACK)
        return n > 0 && flow_stack_push(b->stack, items[0]) == 0;
    return n == 1 ? flow_ring_push(b->ring, items[0]) == 0 : flow_ring_push_n(b->ring, items, n);
}

static size_t box_pop(struct box *b, void **items, size_t n)
{
    if (b->kind == QUEUE)
        return n == 1 ? flow_queue_pop(b->queue, items) == 0 : flow_queue_pop_n(b->queue, items, n);
    if (b->kind == STACK)
        return n > 0 && flow_stack_pop(b->stack, items) == 0;
    return n == 1 ? flow_ring_pop(b->ring, items) == 0 : flow_ring_pop_n(b->ring, items, n);
}

static size_t box_count(struct box *b)
{
    return b->kind == QUEUE   ? flow_queue_count(b->queue)
           : b->kind == STACK ? flow_stack_count(b->stack)
                              : flow_ring_count(b->ring);
}

/* ---- against a model, on one thread ---- */

#define MODEL_MOST 20000

static struct {
    uintptr_t item[MODEL_MOST];
    size_t first, n;
} model;

static uintptr_t model_pop(enum kind kind)
{
    if (kind == STACK)
        return model.item[(model.first + --model.n) % MODEL_MOST];
    model.n--;
    return model.item[model.first++ % MODEL_MOST];
}

static void compare_with_model(enum kind kind, size_t capacity, uint64_t seed)
{
    size_t most = kind == QUEUE || kind == STACK ? MODEL_MOST : capacity;
    uintptr_t next = 1;
    void *items[64];
    struct box b;

    model.first = model.n = 0;
    assert_int_equal(box_open(&b, kind, capacity), 0);
    for (int i = 0; i < TEST_ROUNDS(300000, 60000); i++) {
        size_t n = test_random(&seed) % 64, moved;
        /* Long stretches in which it fills and in which it empties. */
        bool push = test_random(&seed) % 8 < (i / 4096 % 2 ? 5u : 3u);

        if (push) {
            if (n > MODEL_MOST - model.n)
                n = MODEL_MOST - model.n;
            for (size_t k = 0; k < n; k++)
                items[k] = (void *)next++;
            moved = box_push(&b, items, n);
            assert_int_equal(moved, kind == STACK        ? n > 0
                                    : n < most - model.n ? n
                                                         : most - model.n);
            for (size_t k = 0; k < moved; k++)
                model.item[(model.first + model.n++) % MODEL_MOST] = (uintptr_t)items[k];
        } else {
            moved = box_pop(&b, items, n);
            if (kind == QUEUE) { /* a batch ends at the end of a segment */
                assert_true(moved <= n && moved <= model.n);
                assert_true(moved > 0 || n == 0 || model.n == 0);
            } else {
                n = kind == STACK && n > 1 ? 1 : n;
                assert_int_equal(moved, n < model.n ? n : model.n);
            }
            for (size_t k = 0; k < moved; k++)
                assert_int_equal((uintptr_t)items[k], model_pop(kind));
        }
        assert_int_equal(box_count(&b), model.n);
    }
    assert_int_equal(box_close(&b), model.n);
}

static void behaves_as_a_model(void **state)
{
    static const size_t capacities[] = {2, 4, 64, 1024};
    uint64_t seed = test_seed();

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        compare_with_model(RING, capacities[i], test_random(&seed));
        compare_with_model(RING_SINGLE, capacities[i], test_random(&seed));
    }
    compare_with_model(QUEUE, 0, test_random(&seed));
    compare_with_model(STACK, 0, test_random(&seed));
}

static void says_what_is_wrong(void **state)
{
    flow_ring *ring;
    void *item;

    (void)state;
    assert_int_equal(flow_ring_create(NULL, 8, 0), -EINVAL);
    assert_int_equal(flow_ring_create(&ring, 0, 0), -EINVAL);
    assert_int_equal(flow_ring_create(&ring, ((size_t)1 << 30) + 1, 0), -EINVAL);
    assert_int_equal(flow_ring_create(&ring, 8, 2), -EINVAL);
    assert_int_equal(flow_queue_create(NULL), -EINVAL);
    assert_int_equal(flow_stack_create(NULL), -EINVAL);
    assert_int_equal(flow_ring_destroy(NULL), 0);
    assert_int_equal(flow_queue_destroy(NULL), 0);
    assert_int_equal(flow_stack_destroy(NULL), 0);
    assert_int_equal(flow_ring_create(&ring, 1, 0), 0);
    assert_int_equal(flow_ring_capacity(ring), 2);
    assert_int_equal(flow_ring_pop(ring, &item), -EAGAIN);
    assert_int_equal(flow_ring_push(ring, NULL), 0);
    assert_int_equal(flow_ring_push(ring, ring), 0);
    assert_int_equal(flow_ring_push(ring, NULL), -EAGAIN);
    assert_int_equal(flow_ring_pop(ring, &item), 0);
    assert_null(item);
    assert_int_equal(flow_ring_destroy(ring), 1);
}

/* ---- many threads ---- */

/* An item says who made it and the how-many-th it is. */
#define ITEM(producer, number) ((void *)((uintptr_t)(producer) << 48 | (uintptr_t)(number)))
#define PRODUCER(item)         ((unsigned)((uintptr_t)(item) >> 48))
#define NUMBER(item)           ((uintptr_t)(item) & (((uintptr_t)1 << 48) - 1))

struct crowd {
    struct box box;
    unsigned producers, consumers;
    uint64_t each, seed;
    atomic_uint next_producer, next_consumer;
    atomic_ullong popped, sum;
    atomic_uchar *seen; /* for stacks: each exactly once */
};

static void produce(struct crowd *c)
{
    unsigned me = atomic_fetch_add(&c->next_producer, 1);
    uint64_t seed = c->seed + me, made = 0;
    void *items[8];

    while (made < c->each) {
        size_t n = 1 + test_random(&seed) % 8, done;

        if (n > c->each - made)
            n = (size_t)(c->each - made);
        for (size_t k = 0; k < n; k++)
            items[k] = ITEM(me, made + k);
        done = box_push(&c->box, items, n);
        made += done;
        if (!done && flow_self().id)
            flow_yield();
        else if (!done)
            sched_yield();
    }
}

static void take(struct crowd *c, void *item, uint64_t *last)
{
    unsigned who = PRODUCER(item);
    uint64_t number = NUMBER(item);

    if (who >= c->producers || number >= c->each) {
        EXPECT(!"an item that nobody made");
        return;
    }
    if (c->box.kind == STACK) {
        EXPECT(atomic_fetch_add(&c->seen[who * c->each + number], 1) == 0);
    } else {
        EXPECT(number + 1 > last[who]); /* the order of each producer, as each consumer sees it */
        last[who] = number + 1;
    }
    atomic_fetch_add(&c->sum, number + 1);
}

static void consume(struct crowd *c)
{
    uint64_t seed = c->seed + 100 + atomic_fetch_add(&c->next_consumer, 1);
    uint64_t last[PRODUCERS] = {0};
    void *items[8];

    while (atomic_load(&c->popped) < c->producers * c->each) {
        size_t n = box_pop(&c->box, items, 1 + test_random(&seed) % 8);

        for (size_t k = 0; k < n; k++)
            take(c, items[k], last);
        if (n)
            atomic_fetch_add(&c->popped, n);
        else if (flow_self().id)
            flow_yield();
        else
            sched_yield();
    }
}

static void *producer_thread(void *arg)
{
    produce(arg);
    return NULL;
}

static void *consumer_thread(void *arg)
{
    consume(arg);
    return NULL;
}

static flow_result producer_task(void *arg)
{
    produce(arg);
    return flow_ok(NULL);
}

static flow_result consumer_task(void *arg)
{
    consume(arg);
    return flow_ok(NULL);
}

static void crowd_open(struct crowd *c, enum kind kind, uint64_t each)
{
    *c = (struct crowd){.each = each, .seed = test_seed()};
    c->producers = kind == RING_SINGLE ? 1 : PRODUCERS;
    c->consumers = kind == RING_SINGLE ? 1 : CONSUMERS;
    c->seen = calloc(c->producers * each, 1);
    assert_non_null(c->seen);
    assert_int_equal(box_open(&c->box, kind, 256), 0);
}

static void crowd_judge(struct crowd *c)
{
    assert_no_failures();
    assert_int_equal(atomic_load(&c->popped), c->producers * c->each);
    assert_int_equal(atomic_load(&c->sum), c->producers * (c->each * (c->each + 1) / 2));
    assert_int_equal(box_count(&c->box), 0);
    if (c->box.kind == QUEUE && PAGES_GO_BACK)
        assert_true(flow_queue_bytes(c->box.queue) <= (size_t)5 * 16 * 1024);
    assert_int_equal(box_close(&c->box), 0);
    free(c->seen);
}

static void run_threads(enum kind kind)
{
    pthread_t threads[PRODUCERS + CONSUMERS];
    struct crowd c;
    unsigned n = 0;

    crowd_open(&c, kind, TEST_ROUNDS(400000, 30000));
    for (unsigned i = 0; i < c.producers; i++)
        assert_int_equal(pthread_create(&threads[n++], NULL, producer_thread, &c), 0);
    for (unsigned i = 0; i < c.consumers; i++)
        assert_int_equal(pthread_create(&threads[n++], NULL, consumer_thread, &c), 0);
    while (n > 0)
        pthread_join(threads[--n], NULL);
    crowd_judge(&c);
}

static void run_tasks(enum kind kind)
{
    struct crowd c;

    crowd_open(&c, kind, TEST_ROUNDS(100000, 20000));
    test_start();
    for (unsigned i = 0; i < c.producers; i++)
        assert_int_equal(flow_spawn(NULL, producer_task, &c), 0);
    for (unsigned i = 0; i < c.consumers; i++)
        assert_int_equal(flow_spawn(NULL, consumer_task, &c), 0);
    assert_true(test_wait_until_empty());
    test_stop();
    crowd_judge(&c);
}

static void threads_share_a_ring(void **state)
{
    (void)state;
    run_threads(RING);
}

static void two_threads_share_a_single_ring(void **state)
{
    (void)state;
    run_threads(RING_SINGLE);
}

static void threads_share_a_queue(void **state)
{
    (void)state;
    run_threads(QUEUE);
}

static void threads_share_a_stack(void **state)
{
    (void)state;
    run_threads(STACK);
}

static void coroutines_share_each_of_them(void **state)
{
    (void)state;
    run_tasks(RING);
    run_tasks(QUEUE);
    run_tasks(STACK);
}

/* ---- frozen in the middle ---- */

static atomic_int freeze, frozen;

/* What stops a thread wherever it is. */
static void on_freeze(int signo)
{
    (void)signo;
    atomic_fetch_add(&frozen, 1);
    while (atomic_load(&freeze))
        nanosleep(&(struct timespec){0, 20000}, NULL);
    atomic_fetch_sub(&frozen, 1);
}

struct victim {
    struct box *box;
    bool pushes;
    atomic_bool *end;
    uint64_t moved;
};

static void *push_or_pop_until_end(void *arg)
{
    struct victim *v = arg;
    void *items[4];

    while (!atomic_load(v->end)) {
        if (v->pushes) {
            for (size_t k = 0; k < 4; k++)
                items[k] = ITEM(0, v->moved + k);
            v->moved += box_push(v->box, items, v->moved % 3 ? 4 : 1);
        } else {
            size_t n = box_pop(v->box, items, 4);

            v->moved += n;
            if (n == 0)
                sched_yield();
        }
    }
    return NULL;
}

/* What the test's own thread has pushed and popped, of all producers. */
struct tally {
    uint64_t pushed, popped;
};

static void pop_all_but(struct box *b, size_t n, struct tally *tally)
{
    void *item;

    while (box_count(b) > n && box_pop(b, &item, 1))
        tally->popped++;
}

/* Items go through in order, and memory does not grow. */
static void pass_through_queue(struct box *b, uint64_t n, struct tally *tally)
{
    const size_t depth = 3000;
    size_t before = 0;
    uint64_t next = 0;
    void *item = NULL;

    pop_all_but(b, 4, tally);
    for (uint64_t i = 0; i < n + depth; i++) {
        if (i < n) {
            item = ITEM(1, i);
            assert_int_equal(box_push(b, &item, 1), 1);
            tally->pushed++;
        }
        if (i < depth)
            continue;
        if (i == depth)
            before = flow_queue_bytes(b->queue);
        do {
            assert_int_equal(box_pop(b, &item, 1), 1);
            tally->popped++;
        } while (PRODUCER(item) != 1);
        assert_int_equal(NUMBER(item), next++);
    }
    assert_true(flow_queue_bytes(b->queue) <= before + (size_t)4 * 16 * 1024);
}

/* The nodes near the top are taken and put back in many orders. */
static void shuffle_stack(struct box *b, uint64_t n, uint64_t *seed, struct tally *tally)
{
    void *items[4];

    pop_all_but(b, 4, tally);
    for (uint64_t i = 0; i < n; i++) {
        size_t k = test_random(seed) % 4, got = 0;

        for (size_t j = 0; j < k; j++) {
            items[j] = ITEM(1, 0);
            assert_int_equal(box_push(b, &items[j], 1), 1);
        }
        tally->pushed += k;
        while (got < k && box_pop(b, items, 1))
            got++;
        tally->popped += got;
    }
}

/* A producer and a consumer stand still somewhere in a call, again and again: the others go on, and
 * what was pushed was popped in the end. */
static void others_go_on_while_threads_are_frozen(enum kind kind, int rounds, uint64_t n)
{
    struct sigaction action = {.sa_handler = on_freeze}, old;
    atomic_bool end = false;
    struct box b;
    struct victim producer = {&b, true, &end, 0}, consumer = {&b, false, &end, 0};
    struct tally tally = {0, 0};
    uint64_t seed = test_seed();
    pthread_t threads[2];

    assert_int_equal(box_open(&b, kind, 0), 0);
    assert_int_equal(sigaction(SIGUSR1, &action, &old), 0);
    assert_int_equal(pthread_create(&threads[0], NULL, push_or_pop_until_end, &producer), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, push_or_pop_until_end, &consumer), 0);
    for (int i = 0; i < rounds; i++) {
        test_nap((int64_t)(test_random(&seed) % 100000));
        atomic_store(&freeze, 1);
        pthread_kill(threads[0], SIGUSR1);
        pthread_kill(threads[1], SIGUSR1);
        while (atomic_load(&frozen) < 2)
            sched_yield();
        if (kind == QUEUE)
            pass_through_queue(&b, n, &tally);
        else
            shuffle_stack(&b, n, &seed, &tally);
        atomic_store(&freeze, 0);
        while (atomic_load(&frozen) > 0)
            sched_yield();
    }
    atomic_store(&end, true);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    sigaction(SIGUSR1, &old, NULL);
    pop_all_but(&b, 0, &tally);
    assert_int_equal(tally.popped + consumer.moved, tally.pushed + producer.moved);
    if (kind == QUEUE && PAGES_GO_BACK)
        assert_true(flow_queue_bytes(b.queue) <= (size_t)5 * 16 * 1024);
    assert_int_equal(box_close(&b), 0);
}

static void frozen_threads_do_not_hold_up_a_queue(void **state)
{
    (void)state;
    others_go_on_while_threads_are_frozen(QUEUE, TEST_ROUNDS(80, 12), TEST_ROUNDS(20000, 5000));
}

static void frozen_threads_do_not_hold_up_a_stack(void **state)
{
    (void)state;
    others_go_on_while_threads_are_frozen(STACK, TEST_ROUNDS(500, 100), 200);
}

/* ---- memory ---- */

static void a_queue_gives_its_memory_back(void **state)
{
    size_t n = TEST_ROUNDS(2000000, 200000);
    struct box b;
    void *item = NULL;

    (void)state;
    assert_int_equal(box_open(&b, QUEUE, 0), 0);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < n; i++)
            assert_int_equal(flow_queue_push(b.queue, ITEM(0, i)), 0);
        assert_true(flow_queue_bytes(b.queue) >= n * 16);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(flow_queue_pop(b.queue, &item), 0);
            assert_int_equal(NUMBER(item), i);
        }
        if (PAGES_GO_BACK)
            assert_true(flow_queue_bytes(b.queue) <= 4 * 16 * 1024);
    }
    assert_int_equal(box_close(&b), 0);
}

static void a_stack_uses_its_nodes_again(void **state)
{
    struct faults_balance before;
    struct box b;
    void *item = NULL;

    (void)state;
    faults_open();
    assert_int_equal(box_open(&b, STACK, 0), 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(box_push(&b, &item, 1), 1);
    before = faults_balance();
    for (int i = 0; i < 100000; i++) {
        assert_int_equal(box_pop(&b, &item, 1), 1);
        assert_int_equal(box_push(&b, &item, 1), 1);
    }
    assert_int_equal(faults_balance().mapped_bytes, before.mapped_bytes);
    assert_int_equal(box_close(&b), 100);
}

static void memory_may_be_short(void **state)
{
    struct faults_balance before, after;
    struct box b;
    void *item = NULL;

    (void)state;
    faults_open();
    before = faults_balance();
    for (int kind = RING; kind <= STACK; kind++) {
        for (int fault = 0; fault < 2; fault++) {
            for (long n = 1; n < 8; n++) {
                size_t pushed = 0;
                int r;

                faults_arm(fault ? FAULT_ALLOCATE : FAULT_MAP, n, true);
                r = box_open(&b, kind, 64);
                if (r) {
                    assert_int_equal(r, -ENOMEM);
                    faults_arm(FAULT_MAP, 0, false);
                    continue;
                }
                item = ITEM(0, 0);
                while (pushed < (TEST_EMULATED ? 10000 : TEST_ROUNDS(300000, 30000)) && box_push(&b, &item, 1))
                    item = ITEM(0, ++pushed);
                /* Not one item, if even the first segment or node could not be had. */
                assert_true(pushed >= 32 || kind == STACK);
                faults_arm(FAULT_MAP, 0, false);
                /* It is as good as new when there is memory again. */
                if (kind == QUEUE || kind == STACK)
                    assert_int_equal(box_push(&b, &item, 1), 1);
                assert_int_equal(box_count(&b), pushed + (kind == QUEUE || kind == STACK));
                assert_int_equal(box_pop(&b, &item, 1), 1);
                box_close(&b);
            }
        }
    }
    after = faults_balance();
    assert_int_equal(after.maps, before.maps);
    assert_int_equal(after.allocations, before.allocations);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(behaves_as_a_model),
        TEST(says_what_is_wrong),
        TEST(threads_share_a_ring),
        TEST(two_threads_share_a_single_ring),
        TEST(threads_share_a_queue),
        TEST(threads_share_a_stack),
        TEST(coroutines_share_each_of_them),
        TEST(frozen_threads_do_not_hold_up_a_queue),
        TEST(frozen_threads_do_not_hold_up_a_stack),
        TEST(a_queue_gives_its_memory_back),
        TEST(a_stack_uses_its_nodes_again),
        TEST(memory_may_be_short),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
