/* SPDX-License-Identifier: MIT
 *
 * Memory of a certain node; see the header. Any thread. Never ends anything because a
 * bind was refused: misplaced memory is slow, not wrong. */
#include "core/arena.h"

#include "core/reserve.h"
#include "sync/atomic.h"
#include "sync/syscall.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DONT_BIND = -1 };

/* Written at start and stop, under flow__start_lock; read by anyone at any time. */
static struct {
    flow__atomic(int) n_nodes;                      /* 0 while no runtime runs */
    flow__atomic(int) bind_to[FLOW__MAX_BIND_IDS]; /* of a node: the kernel's number or DONT_BIND */
    flow__atomic(bool) several; /* memory lies on more than one node */
    flow__atomic(uint64_t) failures;
    /* Constant while a runtime runs. */
    const struct flow__topology *topology;
    const char *policy;
} arena;

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* ---- binding ---- */

static void warn_once(int node_id, int error)
{
    static flow__atomic(bool) warned;

    if (!exchange_seq(&warned, true))
        fprintf(stderr,
                "libflowcoro: memory cannot be bound to node %d (mbind: %s); it is placed by "
                "first touch\n",
                node_id, strerror(-error));
}

static int bind_to(void *start, size_t bytes, int node_id)
{
    int r = flow__sys.bind(start, bytes, node_id);

    if (r) {
        fetch_add_relaxed(&arena.failures, 1);
        if (arena.topology->live) /* of FLOW_TOPOLOGY nothing else was to be expected */
            warn_once(node_id, r);
    }
    return r;
}

static int kernel_node(int node)
{
    /* [ARENA-1] acquire: pairs with [ARENA-2]; the entries below n_nodes are in place. */
    if (node < 0 || node >= load_acquire(&arena.n_nodes))
        return DONT_BIND;
    return load_relaxed(&arena.bind_to[node]);
}

int flow__arena_bind(void *start, size_t bytes, int node)
{
    uintptr_t page = page_bytes(), first = (uintptr_t)start & ~(page - 1);
    uintptr_t end = ((uintptr_t)start + bytes + page - 1) & ~(page - 1);
    int node_id = kernel_node(node);

    if (node_id == DONT_BIND || end == first)
        return 0;
    return bind_to((void *)first, end - first, node_id);
}

/* ---- what the system obeys ---- */

static bool has_several(const struct flow__topology *topology)
{
    for (int i = 1; i < topology->n_nodes; i++)
        if (topology->nodes[i].memory_node != topology->nodes[0].memory_node)
            return true;
    return false;
}

/* Some systems know the call and refuse it, others do not know it, some refuse single nodes. */
static bool probe(void *page, const struct flow__topology *topology, int node)
{
    const struct flow__node *memory = &topology->nodes[topology->nodes[node].memory_node];

    if (!memory->memory_allowed)
        return false;
    return !bind_to(page, page_bytes(), memory->node_id);
}

static int probe_all(const struct flow__topology *topology)
{
    void *page = flow__sys.map(page_bytes(), PROT_READ | PROT_WRITE, 0);
    int n_bound = 0;

    for (int i = 0; i < topology->n_nodes; i++) {
        bool works = page && probe(page, topology, i);
        int memory_node = topology->nodes[i].memory_node;

        store_relaxed(&arena.bind_to[i],
                      works ? topology->nodes[memory_node].node_id : DONT_BIND);
        n_bound += works;
    }
    if (page)
        flow__sys.unmap(page, page_bytes());
    return n_bound;
}

void flow__arena_open(const struct flow__topology *topology)
{
    bool several = has_several(topology);
    int n_bound;

    arena.topology = topology;
    store_relaxed(&arena.failures, 0);
    store_relaxed(&arena.several, several);
    for (int i = 0; i < topology->n_nodes; i++)
        store_relaxed(&arena.bind_to[i], DONT_BIND);
    n_bound = several ? probe_all(topology) : 0;
    arena.policy = !several                       ? "one node"
                   : n_bound == topology->n_nodes ? "bind"
                   : n_bound > 0                  ? "bind in part"
                                                  : "first-touch";
    /* [ARENA-2] release: pairs with [ARENA-1]. */
    store_release(&arena.n_nodes, topology->n_nodes);
}

void flow__arena_close(void)
{
    store_release(&arena.n_nodes, 0); /* [ARENA-2] nothing before it matters to [ARENA-1] */
}

bool flow__arena_needs_touch(int node)
{
    return load_relaxed(&arena.several) && kernel_node(node) == DONT_BIND;
}

int flow__arena_nodes(void)
{
    int n = load_acquire(&arena.n_nodes); /* [ARENA-1] */

    return n ? n : 1;
}

/* Is a farther from node than b is, or as far and later in the list? b the node itself: always. */
static bool is_behind(int node, int a, int b)
{
    int far_a = flow__topology_distance(arena.topology, node, a);
    int far_b = flow__topology_distance(arena.topology, node, b);

    return b == node || far_a > far_b || (far_a == far_b && a > b);
}

int flow__arena_next_near(int node, int previous)
{
    int best = -1;

    for (int i = 0; i < load_relaxed(&arena.n_nodes); i++)
        if (i != node && is_behind(node, i, previous) && (best < 0 || !is_behind(node, i, best)))
            best = i;
    return best;
}

const char *flow__arena_policy(void)
{
    return arena.policy;
}

uint64_t flow__arena_bind_failures(void)
{
    return load_relaxed(&arena.failures);
}

/* ---- memory ---- */

static bool to_whole_pages(size_t *bytes)
{
    size_t page = page_bytes();

    if (*bytes == 0 || *bytes > SIZE_MAX / 2)
        return false;
    *bytes = (*bytes + page - 1) & ~(page - 1);
    return true;
}

void *flow__arena_map(size_t bytes, int node, unsigned flags)
{
    bool huge = flags & FLOW__ARENA_HUGE;
    void *p;

    if (!to_whole_pages(&bytes))
        return NULL;
    p = flow__reserve(bytes, huge ? FLOW__MAP_HUGE : 0);
    if (!p)
        return NULL;
    flow__arena_bind(p, bytes, node);
    if (huge)
        flow__sys.advise(p, bytes, MADV_HUGEPAGE);
    return p;
}

void flow__arena_unmap(void *p, size_t bytes)
{
    if (p && to_whole_pages(&bytes))
        flow__sys.unmap(p, bytes);
}
