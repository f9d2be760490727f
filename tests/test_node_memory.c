/* SPDX-License-Identifier: MIT
 *
 * Control blocks and stacks of several nodes, without a runtime: where they lie, that they come
 * back to where they belong, and who lends to whom when a node has none left. The machines are
 * fixtures; what is bound to which of their nodes is written down instead of done. */
#include "core/arena.h"
#include "core/registry.h"
#include "core/stack.h"
#include "numa/topology.h"
#include "sync/syscall.h"
#include "tests/support/machine.h"
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

enum { NODES = 4, MAX_BINDS = 256 };

static struct flow__topology topology;

static struct {
    char *start, *end;
    int node_id;
} binds[MAX_BINDS];
static int n_binds;

static int note_bind(void *start, size_t bytes, int node_id)
{
    assert_true(n_binds < MAX_BINDS);
    binds[n_binds].start = start;
    binds[n_binds].end = (char *)start + bytes;
    binds[n_binds++].node_id = node_id;
    return 0;
}

/* The node of the last bind that covers all of these bytes; -1: there is none. */
static int bound_to(const void *start, size_t bytes)
{
    const char *first = start, *end = first + bytes;

    for (int i = n_binds - 1; i >= 0; i--)
        if (binds[i].start <= first && end <= binds[i].end)
            return binds[i].node_id;
    return -1;
}

static void open_machine(const struct machine *machine)
{
    flow__sys.bind = note_bind;
    assert_int_equal(flow__topology_read(&topology, machine_open(machine)), 0);
    flow__arena_open(&topology);
    n_binds = 0;
}

static void close_machine(void)
{
    flow__arena_close();
    flow__topology_free(&topology);
    machine_close();
    flow__sys = flow__sys_real;
}

/* ---- who is near ---- */

static void check_order(int node, const int *expected, int n)
{
    int at = node;

    for (int i = 0; i < n; i++) {
        at = flow__arena_next_near(node, at);
        assert_int_equal(at, expected[i]);
    }
    assert_int_equal(flow__arena_next_near(node, at), -1);
}

static void test_nodes_by_distance(void **state)
{
    (void)state;
    open_machine(&machine_four_nodes);
    check_order(0, (int[]){1, 2, 3}, 3);
    check_order(1, (int[]){0, 2, 3}, 3);
    check_order(2, (int[]){3, 0, 1}, 3);
    check_order(3, (int[]){2, 0, 1}, 3);
    close_machine();
    open_machine(&machine_three_nodes);
    check_order(0, (int[]){1, 2}, 2);
    check_order(1, (int[]){2, 0}, 2);
    check_order(2, (int[]){1, 0}, 2);
    close_machine();
    open_machine(&machine_one_node);
    check_order(0, NULL, 0);
    close_machine();
    assert_int_equal(flow__arena_next_near(0, 0), -1); /* without a runtime */
}

/* ---- control blocks ---- */

enum { MOST_BLOCKS = 4000 };

static struct flow__block_cache blocks[NODES];
static struct flow__task *taken[MOST_BLOCKS + 1];

static void open_blocks(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    uint32_t share[NODES] = {a, b, c, d};

    open_machine(&machine_four_nodes);
    assert_int_equal(flow__registry_open(share, 3), 0);
    for (int i = 0; i < NODES; i++)
        flow__block_cache_open(&blocks[i], i);
}

static void close_blocks(void)
{
    assert_no_failures();
    flow__registry_close();
    close_machine();
}

static int node_of(const struct flow__task *t)
{
    return flow__node_of_slot(flow__slot_of(t));
}

/* All of a cache's blocks, until there are none anywhere. */
static uint32_t take_all(int node)
{
    uint32_t n = 0;

    while (n < MOST_BLOCKS && (taken[n] = flow__block_take(&blocks[node])))
        n++;
    assert_null(flow__block_take(&blocks[node]));
    return n;
}

static void test_ranges_of_blocks(void **state)
{
    (void)state;
    open_blocks(100, 20000, 1, 64);
    assert_int_equal((uintptr_t)flow__registry.base % FLOW__HUGE_BYTES, 0);
    assert_int_equal(flow__registry.stride * sizeof(struct flow__task) % FLOW__HUGE_BYTES, 0);
    assert_true(flow__registry.stride >= 20000);
    for (int i = 0; i < NODES; i++) {
        struct flow__block_depot *d = &flow__registry.depot[i];
        struct flow__task *t = flow__block_take(&blocks[i]);
        uint64_t id = flow__id_of(t, load_relaxed(&t->life));

        assert_int_equal(node_of(t), i);
        assert_int_equal(flow__slot_of(t), d->first);
        assert_int_equal((uintptr_t)t % FLOW__HUGE_BYTES, 0);
        assert_ptr_equal(flow__block_of(id), t);
        assert_int_equal(bound_to(t, (d->end - d->first) * sizeof *t), topology.nodes[i].node_id);
        assert_int_equal(node_of(&flow__registry.base[d->end - 1]), i);
    }
    /* A handle into the gap behind a range leads to a block that never lived. */
    assert_int_equal(flow__block_of((uint64_t)1 << 32 | 5000)->life, 0);
    assert_null(flow__block_of((uint64_t)1 << 32 | flow__registry.stride * NODES));
    assert_true(flow__slot_of(flow__stand_in_take()) >= flow__registry.stride * NODES);
    close_blocks();
}

static void test_the_walk_sees_what_was_handed_out(void **state)
{
    uint32_t n[NODES] = {0};

    (void)state;
    open_blocks(100, 200, 0, 64);
    flow__block_take(&blocks[0]);
    flow__block_take(&blocks[3]);
    for (struct flow__slots at = FLOW__ALL_SLOTS; flow__slots_next(&at);) {
        assert_int_equal(flow__node_of_slot(at.slot), at.node);
        n[at.node]++;
    }
    assert_int_equal(n[0], FLOW__CHAIN);
    assert_int_equal(n[1] + n[2], 0);
    assert_int_equal(n[3], FLOW__CHAIN);
    close_blocks();
}

static void test_freed_blocks_go_home_in_a_chain(void **state)
{
    struct flow__block_depot *home;
    struct flow__task *t;

    (void)state;
    open_blocks(200, 200, 200, 200);
    home = &flow__registry.depot[0];
    for (uint32_t i = 0; i < FLOW__CHAIN; i++)
        taken[i] = flow__block_take(&blocks[0]);
    for (uint32_t i = 0; i < FLOW__CHAIN; i++) {
        assert_null(home->chains);
        assert_int_equal(blocks[3].n_away, i);
        flow__block_give(&blocks[3], taken[i]);
        /* It is not used there meanwhile. */
        t = flow__block_take(&blocks[3]);
        assert_int_equal(node_of(t), 3);
        flow__block_give(&blocks[3], t);
    }
    assert_int_equal(blocks[3].n_away, 0);
    assert_null(blocks[3].away);
    assert_non_null(home->chains);
    assert_null(home->loose);
    assert_int_equal(load_relaxed(&flow__registry.sent_home), FLOW__CHAIN);
    /* And is used again at home before what was never used. */
    t = flow__block_take(&blocks[0]);
    assert_true(flow__slot_of(t) < FLOW__CHAIN);
    assert_int_equal(load_relaxed(&home->used), FLOW__CHAIN);
    close_blocks();
}

static void test_blocks_of_several_nodes_each_go_home(void **state)
{
    static const uint32_t freed[NODES] = {10, 0, 33, 20}; /* 63: one fewer than a chain */

    (void)state;
    open_blocks(200, 200, 200, 200);
    for (int node = 0; node < NODES; node++)
        for (uint32_t i = 0; i < freed[node]; i++)
            taken[i * NODES + (uint32_t)node] = flow__block_take(&blocks[node]);
    for (uint32_t i = 0; i < 40 * NODES; i++) /* mixed */
        if (i / NODES < freed[i % NODES])
            flow__block_give(&blocks[1], taken[i]);
    assert_int_equal(blocks[1].n_away, 63);
    flow__blocks_go_home(&blocks[1]);
    assert_int_equal(blocks[1].n_away, 0);
    for (int node = 0; node < NODES; node++)
        assert_int_equal(flow__registry.depot[node].n_loose, freed[node]);

    /* With those that come later they become a chain. */
    for (int i = 0; i < 31; i++)
        flow__block_give(&blocks[0], flow__block_take(&blocks[2]));
    assert_null(flow__registry.depot[2].chains);
    flow__blocks_go_home(&blocks[0]);
    assert_non_null(flow__registry.depot[2].chains);
    assert_int_equal(flow__registry.depot[2].n_loose, 0);
    flow__blocks_go_home(&blocks[1]); /* nothing more */
    assert_int_equal(load_relaxed(&flow__registry.sent_home), 63 + 31);
    close_blocks();
}

/* The limit is that of all nodes together, and the nearest lends first. */
static void test_exhausted_blocks_come_from_the_nearest(void **state)
{
    static const uint32_t share[NODES] = {100, 70, 130, 65};
    static const int order[NODES] = {2, 3, 0, 1};
    uint32_t n = 0;

    (void)state;
    open_blocks(share[0], share[1], share[2], share[3]);
    assert_int_equal(take_all(2), 365);
    for (int k = 0; k < NODES; k++)
        for (uint32_t i = 0; i < share[order[k]]; i++)
            assert_int_equal(node_of(taken[n++]), order[k]);
    assert_int_equal(load_relaxed(&flow__registry.borrowed), 365 - 130);
    for (int i = 0; i < NODES; i++)
        assert_null(flow__block_take(&blocks[i]));

    for (n = 0; n < 365; n++)
        flow__block_give(&blocks[2], taken[n]);
    flow__blocks_go_home(&blocks[2]);
    assert_int_equal(load_relaxed(&flow__registry.sent_home), 365 - 130);
    for (int node = 0; node < NODES; node++)
        if (node != 2)
            for (uint32_t i = 0; i < share[node]; i++)
                assert_int_equal(node_of(flow__block_take(&blocks[node])), node);
    for (uint32_t i = 0; i < share[2]; i++)
        assert_int_equal(node_of(flow__block_take(&blocks[2])), 2);
    assert_null(flow__block_take(&blocks[1]));
    close_blocks();
}

/* What comes home is used before more of what was borrowed. */
static void test_borrowing_ends_when_blocks_come_home(void **state)
{
    struct flow__task *t;

    (void)state;
    open_blocks(64, 128, 0, 0);
    for (int i = 0; i < 128; i++)
        taken[i] = flow__block_take(&blocks[1]);
    for (int i = 0; i < 128; i++)
        flow__block_give(&blocks[1], taken[i]);
    for (int i = 0; i < 64; i++)
        taken[i] = flow__block_take(&blocks[0]);
    assert_int_equal(node_of(flow__block_take(&blocks[0])), 1);
    assert_non_null(blocks[0].borrowed);
    for (int i = 0; i < 64; i++)
        flow__block_give(&blocks[3], taken[i]); /* from elsewhere, to its depot */
    t = flow__block_take(&blocks[0]);
    assert_int_equal(node_of(t), 0);
    close_blocks();
}

/* ---- blocks from thread to thread ---- */

#define ROUNDS TEST_ROUNDS(300000, 30000)

static flow__atomic(uint8_t) owner_of[MOST_BLOCKS];
static struct flow__inbox inbox[NODES];
static uint64_t thread_seed;
static pthread_barrier_t all_have_sent;

/* Slots are far apart; owners are counted by node and number. */
static flow__atomic(uint8_t) *owner_word(const struct flow__task *t)
{
    uint32_t number = flow__slot_of(t) % flow__registry.stride;

    EXPECT(number < MOST_BLOCKS / NODES);
    return &owner_of[(uint32_t)node_of(t) * (MOST_BLOCKS / NODES) + number % (MOST_BLOCKS / NODES)];
}

static void free_what_has_come(int self)
{
    struct flow__link *link = flow__inbox_take_all(&inbox[self]);

    while (link) {
        struct flow__task *t = flow__task_of_link(link);
        uint8_t used = 1;

        link = link->next;
        EXPECT(cas_seq(owner_word(t), &used, 0));
        flow__block_give(&blocks[self], t);
        EXPECT(blocks[self].n < FLOW__CHAIN && blocks[self].n_away < FLOW__CHAIN);
    }
}

static void *pass_blocks_on(void *arg)
{
    int self = (int)(intptr_t)arg;
    uint64_t random = thread_seed + (uint64_t)self;

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t r = test_random(&random);
        struct flow__task *t = flow__block_take(&blocks[self]);
        uint8_t nobody = 0;

        if (t) {
            EXPECT(cas_seq(owner_word(t), &nobody, 1));
            flow__inbox_push(&inbox[r % NODES], &t->link);
        } else if (i % 64 == 0) {
            sched_yield();
        }
        if (!t || (r >> 32) % 16 == 0)
            free_what_has_come(self);
    }
    pthread_barrier_wait(&all_have_sent);
    free_what_has_come(self);
    return NULL;
}

/* At the end everybody can have everything, and it is there once. */
static void test_blocks_wander_between_nodes(void **state)
{
    static const uint32_t share[NODES] = {900, 200, 1000, 64};
    pthread_t thread[NODES];
    uint32_t n;

    (void)state;
    thread_seed = test_seed();
    open_blocks(share[0], share[1], share[2], share[3]);
    memset(owner_of, 0, sizeof owner_of);
    pthread_barrier_init(&all_have_sent, NULL, NODES);
    for (intptr_t i = 0; i < NODES; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, pass_blocks_on, (void *)i), 0);
    for (int i = 0; i < NODES; i++)
        pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&all_have_sent);
    assert_no_failures();
    for (int i = 0; i < NODES; i++)
        flow__blocks_go_home(&blocks[i]);
    n = 0;
    for (int i = 0; i < NODES; i++) {
        uint32_t here = take_all(i);

        for (uint32_t k = 0; k < here; k++) {
            uint8_t nobody = 0;

            assert_true(cas_seq(owner_word(taken[k]), &nobody, 1));
            assert_null(taken[k]->home); /* where chains hang meanwhile */
        }
        n += here;
    }
    print_message("%u blocks, %llu borrowed, %llu sent home\n", n,
                  (unsigned long long)load_relaxed(&flow__registry.borrowed),
                  (unsigned long long)load_relaxed(&flow__registry.sent_home));
    assert_int_equal(n, 900 + 200 + 1000 + 64);
    assert_true(load_relaxed(&flow__registry.sent_home) > 0);
    close_blocks();
}

/* ---- stacks ---- */

static struct flow__stack_cache stacks[NODES];

static void open_stacks(const struct machine *machine)
{
    open_machine(machine);
    assert_int_equal(flow__stacks_open(false, false), 0);
    memset(stacks, 0, sizeof stacks);
    for (int i = 0; i < NODES; i++)
        stacks[i].node = i;
}

static void close_stacks(void)
{
    assert_no_failures();
    flow__sys = flow__sys_real;
    flow__stacks_close();
    close_machine();
}

static int first_class(void)
{
    return flow__stack_class(1);
}

static void check_address(char *slot, int class_index, size_t offset)
{
    uintptr_t address = (uintptr_t)slot + offset;
    int found = -1;

    assert_ptr_equal(flow__stack_slot_of(address, &found), slot);
    assert_int_equal(found, class_index);
    assert_ptr_equal(flow__stack_header_at(address - load_relaxed(&flow__stacks.base)),
                     flow__stack_header(slot));
    assert_ptr_equal(flow__stack_top(slot, class_index), flow__stack_header(slot));
}

static void test_parts_of_zones(void **state)
{
    uint64_t random = test_seed();

    (void)state;
    open_stacks(&machine_four_nodes);
    assert_int_equal(flow__stacks.part_shift, flow__stacks.zone_shift - 2);
    for (int c = first_class(); c < FLOW__STACK_CLASSES; c++)
        for (int node = 0; node < NODES; node++)
            for (int i = 0; i < 20; i++) {
                char *slot = flow__stack_take(&stacks[node], c);
                size_t bytes = flow__stack_bytes(c);

                assert_non_null(slot);
                assert_int_equal((uintptr_t)slot % bytes, 0);
                assert_int_equal(flow__stack_node(slot), node);
                assert_int_equal(bound_to(slot, bytes), topology.nodes[node].node_id);
                check_address(slot, c, 0);
                check_address(slot, c, bytes - 1);
                check_address(slot, c, test_random(&random) % bytes);
                memset(flow__stack_header(slot), 0, sizeof(struct flow__stack_header));
            }
    assert_int_equal(load_relaxed(&flow__stacks.borrowed), 0);
    close_stacks();
}

/* Where nodes are no power of two in number the last parts are nobody's. */
static void test_parts_of_three_nodes(void **state)
{
    (void)state;
    open_stacks(&machine_three_nodes);
    assert_int_equal(flow__stacks.n_nodes, 3);
    for (int node = 0; node < 3; node++)
        assert_int_equal(flow__stack_node(flow__stack_take(&stacks[node], 2)), node);
    close_stacks();
}

static void test_returned_stacks_go_home(void **state)
{
    struct flow__stack_depot *home;
    char *slot[40];
    int c = first_class() + 1;

    (void)state;
    open_stacks(&machine_four_nodes);
    home = flow__stack_depot(c, 1);
    for (int i = 0; i < 40; i++)
        slot[i] = flow__stack_take(&stacks[1], c);
    flow__stack_flush(&stacks[1], c, 0);
    for (int i = 0; i < 40; i++) {
        uint32_t before = home->n_free;

        flow__stack_give_back(&stacks[2], c, slot[i]);
        assert_int_equal(stacks[2].n[c], 0); /* not for use here */
        assert_int_equal(stacks[2].n_away, (i + 1) % FLOW__STACKS_AWAY);
        assert_int_equal(home->n_free,
                         before + (stacks[2].n_away == 0 ? FLOW__STACKS_AWAY : 0));
    }
    assert_int_equal(load_relaxed(&flow__stacks.sent_home), 40);
    assert_int_equal(home->n_free, home->n_slots);
    assert_int_equal(flow__stack_depot(c, 2)->n_slots, 0);

    /* One's own goes into the cache; and what is left before a sleep, home. */
    slot[0] = flow__stack_take(&stacks[2], c);
    slot[1] = flow__stack_take(&stacks[1], c);
    flow__stack_give_back(&stacks[2], c, slot[0]);
    assert_ptr_equal(flow__stack_take(&stacks[2], c), slot[0]);
    flow__stack_give_back(&stacks[2], c, slot[1]);
    flow__stacks_go_home(&stacks[2]);
    flow__stack_flush(&stacks[1], c, 0);
    assert_int_equal(home->n_free, home->n_slots);
    close_stacks();
}

static size_t largest_map;

static void *map_up_to(size_t bytes, int prot, int flags)
{
    return bytes <= largest_map ? flow__sys_real.map(bytes, prot, flags) : NULL;
}

/* The least that is possible: one of the largest stacks on each node. */
static void test_exhausted_stacks_come_from_the_nearest(void **state)
{
    static const int order[NODES] = {3, 2, 0, 1};
    int top = FLOW__STACK_CLASSES - 1;
    char *slot[NODES];

    (void)state;
    largest_map = (size_t)40 << 20;
    flow__sys.map = map_up_to;
    open_stacks(&machine_four_nodes);
    assert_int_equal(flow__stacks.zone_shift, 22);
    for (int i = 0; i < NODES; i++) {
        slot[i] = flow__stack_take(&stacks[3], top);
        assert_non_null(slot[i]);
        assert_int_equal(flow__stack_node(slot[i]), order[i]);
    }
    assert_int_equal(load_relaxed(&flow__stacks.borrowed), 3);
    for (int i = 0; i < NODES; i++)
        assert_null(flow__stack_take(&stacks[i], top));
    /* They go home when they come back, and are lent again. */
    for (int i = 0; i < NODES; i++)
        flow__stack_give_back(&stacks[3], top, slot[i]);
    assert_int_equal(stacks[3].n[top], 1);
    assert_int_equal(stacks[3].n_away, 3);
    flow__stacks_go_home(&stacks[3]);
    for (int node = 0; node < NODES - 1; node++)
        assert_int_equal(flow__stack_node(flow__stack_take(&stacks[node], top)), node);
    close_stacks();
}

/* A cache that holds a borrowed slot, as after a task that never waited, gives it to its home. */
static void test_a_flush_sorts_by_node(void **state)
{
    int c = first_class();
    char *mine, *other;

    (void)state;
    open_stacks(&machine_four_nodes);
    mine = flow__stack_take(&stacks[0], c);
    other = flow__stack_take(&stacks[3], c);
    flow__stack_flush(&stacks[0], c, 0);
    flow__stack_flush(&stacks[3], c, 0);
    flow__stack_give(&stacks[0], c, other);
    flow__stack_give(&stacks[0], c, mine);
    flow__stack_flush(&stacks[0], c, 0);
    for (int node = 0; node < NODES; node += 3)
        assert_int_equal(flow__stack_depot(c, node)->n_free, flow__stack_depot(c, node)->n_slots);
    close_stacks();
}

static void test_trimming_is_each_nodes_own(void **state)
{
    char *slot[32];

    (void)state;
    open_stacks(&machine_four_nodes);
    for (int node = 0; node < 2; node++) {
        for (int i = 0; i < 32; i++)
            slot[i] = flow__stack_take(&stacks[node], 2);
        for (int i = 0; i < 32; i++)
            flow__stack_give(&stacks[node], 2, slot[i]);
        flow__stack_flush(&stacks[node], 2, 0);
    }
    assert_int_equal(flow__stacks_trim(1, 0, 0), 32);
    assert_int_equal(flow__stacks_trim(1, UINT32_MAX, 0), 0);
    assert_int_equal(load_relaxed(&flow__stacks.trims), 32);
    assert_int_equal(flow__stacks_trim(0, 0, 0), 32);
    assert_int_equal(flow__stacks_trim(2, 0, 0), 0);
    close_stacks();
}

/* ---- stacks from thread to thread ---- */

enum { IN_TRANSIT = 48 };

static flow__atomic(char *) transit[IN_TRANSIT];

/* Takes on its own node, swaps with somebody, gives back what it got. */
static void *swap_stacks(void *arg)
{
    int self = (int)(intptr_t)arg;
    struct flow__stack_cache *own = &stacks[self];
    uint64_t random = thread_seed + (uint64_t)self;

    for (int i = 0; i < ROUNDS / 2; i++) {
        char *slot = flow__stack_take(own, 2);
        uintptr_t *word;

        EXPECT(slot && flow__stack_node(slot) == self);
        if (!slot)
            break;
        word = (uintptr_t *)flow__stack_header(slot) - 1;
        EXPECT(*word == 0); /* nobody else has it */
        *word = 1;
        slot = exchange_seq(&transit[test_random(&random) % IN_TRANSIT], slot);
        if (!slot)
            continue;
        word = (uintptr_t *)flow__stack_header(slot) - 1;
        EXPECT(*word == 1);
        *word = 0;
        flow__stack_give_back(own, 2, slot);
    }
    flow__stacks_go_home(own);
    flow__stack_flush(own, 2, 0);
    return NULL;
}

static void test_stacks_wander_between_nodes(void **state)
{
    pthread_t thread[NODES];
    uint32_t n = 0;

    (void)state;
    thread_seed = test_seed();
    open_stacks(&machine_four_nodes);
    for (int i = 0; i < IN_TRANSIT; i++)
        store_relaxed(&transit[i], NULL);
    for (intptr_t i = 0; i < NODES; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, swap_stacks, (void *)i), 0);
    for (int i = 0; i < NODES; i++)
        pthread_join(thread[i], NULL);
    assert_no_failures();
    for (int i = 0; i < IN_TRANSIT; i++)
        n += load_relaxed(&transit[i]) != NULL;
    for (int node = 0; node < NODES; node++) {
        struct flow__stack_depot *d = flow__stack_depot(2, node);

        /* Once each. */
        for (uint32_t i = 0; i < d->n_free; i++)
            for (uint32_t k = 0; k < i; k++)
                assert_int_not_equal(d->free_slot[i], d->free_slot[k]);
        n += d->n_free;
    }
    assert_int_equal(n, flow__stacks_mapped());
    assert_int_equal(load_relaxed(&flow__stacks.borrowed), 0);
    assert_true(load_relaxed(&flow__stacks.sent_home) > 0);
    close_stacks();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nodes_by_distance),
        TEST(test_ranges_of_blocks),
        TEST(test_the_walk_sees_what_was_handed_out),
        TEST(test_freed_blocks_go_home_in_a_chain),
        TEST(test_blocks_of_several_nodes_each_go_home),
        TEST(test_exhausted_blocks_come_from_the_nearest),
        TEST(test_borrowing_ends_when_blocks_come_home),
        TEST(test_blocks_wander_between_nodes),
        TEST(test_parts_of_zones),
        TEST(test_parts_of_three_nodes),
        TEST(test_returned_stacks_go_home),
        TEST(test_exhausted_stacks_come_from_the_nearest),
        TEST(test_a_flush_sorts_by_node),
        TEST(test_trimming_is_each_nodes_own),
        TEST(test_stacks_wander_between_nodes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
