/* SPDX-License-Identifier: MIT
 *
 * An unbounded stack of pointers; the table of concurrent use is in <flowcoro/container.h>.
 *
 * Two lists of nodes, the stack itself and the free nodes, each with an anchor of one word: tag:32 |
 * number:32 of its first node. Every change of an anchor is a CAS that raises the tag, so a node that
 * was taken and put back meanwhile is noticed (to be deceived, a thread would have to sleep
 * through exactly 2^32 changes). (Treiber, "Coping with Parallelism", 1986; the tag is IBM's, System/370
 * Principles of Operation.)
 *
 * Nodes are type-stable: they lie in blocks of doubling size that stay until destroy, so to look at a
 * node that somebody else has taken is harmless, and nothing waits for a thread that was stopped. Number 0
 * is no node.
 * Invariant: every node that was ever used is in one of the lists or in the hands of one call. */
#include "sync/syscall.h"

#include <errno.h>
#include <flowcoro/container.h>
#include <sys/mman.h>

#define FIRST_BITS 6 /* the first block has 64 nodes, each other as many as all before it */
#define BLOCKS     (33 - FIRST_BITS)

struct node {
    flow__atomic(uint32_t) next; /* by who has the node; read by anyone */
    flow__plain(void *) item;
};

struct flow_stack {
    flow__cache_aligned flow__atomic(uint64_t) top;
    flow__cache_aligned flow__atomic(uint64_t) free;
    flow__cache_aligned flow__atomic(uint64_t) used; /* numbers that were ever given out */
    flow__atomic(int64_t) count;
    flow__atomic(struct node *) block[BLOCKS]; /* written once, by anyone */
};

static int block_of(uint32_t number)
{
    int bit = 31 - __builtin_clz(number);

    return bit < FIRST_BITS ? 0 : bit - FIRST_BITS + 1;
}

static size_t block_bytes(int b)
{
    return sizeof(struct node) << (b ? FIRST_BITS + b - 1 : FIRST_BITS);
}

/* The node of a number that was given out. */
static inline struct node *node_at(flow_stack *s, uint32_t number)
{
    int b = block_of(number);
    uint32_t first = b ? (uint32_t)1 << (FIRST_BITS + b - 1) : 0;

    /* [STACK-1] acquire: pairs with [STACK-2]. */
    return &load_acquire(&s->block[b])[number - first];
}

static inline uint64_t anchor(uint64_t old, uint32_t number)
{
    return ((old >> 32) + 1) << 32 | number;
}

static void put(flow_stack *s, flow__atomic(uint64_t) * list, uint32_t number)
{
    struct node *n = node_at(s, number);
    uint64_t seen = load_relaxed(list);

    do
        store_relaxed(&n->next, (uint32_t)seen);
    /* [STACK-3] seq_cst: its release half pairs with [STACK-4] and publishes the node. */
    while (!cas_seq(list, &seen, anchor(seen, number)));
}

/* The number of the first node, or 0. */
static uint32_t take(flow_stack *s, flow__atomic(uint64_t) * list)
{
    /* [STACK-4] acquire, as is every CAS that fails: pairs with [STACK-3]. */
    uint64_t seen = load_acquire(list);

    while ((uint32_t)seen) {
        uint32_t next = load_relaxed(&node_at(s, (uint32_t)seen)->next);

        if (cas_seq(list, &seen, anchor(seen, next)))
            return (uint32_t)seen;
    }
    return 0;
}

static int add_block(flow_stack *s, int b)
{
    struct node *nodes = flow__sys.map(block_bytes(b), PROT_READ | PROT_WRITE, MAP_NORESERVE);
    struct node *none = NULL;

    if (!nodes)
        return load_relaxed(&s->block[b]) ? 0 : -ENOMEM;
    /* [STACK-2] seq_cst includes release: pairs with [STACK-1]; the kernel's zeroes. */
    if (!cas_seq(&s->block[b], &none, nodes))
        flow__sys.unmap(nodes, block_bytes(b));
    return 0;
}

/* A node that was never used, or a negative errno. */
static int64_t new_node(flow_stack *s)
{
    uint64_t number = load_relaxed(&s->used);

    do {
        int b, r;

        if (number + 1 > UINT32_MAX)
            return -ENOSPC;
        b = block_of((uint32_t)number + 1);
        r = load_relaxed(&s->block[b]) ? 0 : add_block(s, b);
        if (r)
            return r;
    } while (!cas_seq(&s->used, &number, number + 1));
    return (int64_t)number + 1;
}

int flow_stack_push(flow_stack *s, void *item)
{
    int64_t number = take(s, &s->free);

    if (!number)
        number = new_node(s);
    if (number < 0)
        return (int)number;
    node_at(s, (uint32_t)number)->item = item;
    fetch_add_relaxed(&s->count, 1);
    put(s, &s->top, (uint32_t)number);
    return 0;
}

int flow_stack_pop(flow_stack *s, void **item)
{
    uint32_t number = take(s, &s->top);

    if (!number)
        return -EAGAIN;
    *item = node_at(s, number)->item;
    fetch_sub_relaxed(&s->count, 1);
    put(s, &s->free, number);
    return 0;
}

size_t flow_stack_count(flow_stack *s)
{
    int64_t n = load_relaxed(&s->count);

    return n > 0 ? (size_t)n : 0;
}

int flow_stack_create(flow_stack **out)
{
    flow_stack *s;

    if (!out)
        return -EINVAL;
    s = flow__sys.map(sizeof *s, PROT_READ | PROT_WRITE, 0);
    if (!s)
        return -ENOMEM;
    *out = s;
    return 0;
}

int64_t flow_stack_destroy(flow_stack *s)
{
    int64_t left;

    if (!s)
        return 0;
    left = load_relaxed(&s->count);
    for (int b = 0; b < BLOCKS; b++)
        if (load_relaxed(&s->block[b]))
            flow__sys.unmap(load_relaxed(&s->block[b]), block_bytes(b));
    flow__sys.unmap(s, sizeof *s);
    return left;
}
