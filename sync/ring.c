/* SPDX-License-Identifier: MIT
 *
 * Bounded rings of pointers; the table of concurrent use is in <flowcoro/container.h>.
 *
 * For many: each cell carries a turn. Turn p: free for the push of position p; p + 1: filled by it;
 * the pop of position p sets p + capacity. A position is claimed by a CAS on `tail` or `head`
 * after its cell was seen to be in that state; nobody but the owner of the position changes the cell
 * then. (Dmitry Vyukov, "Bounded MPMC queue", 2010.) Batches look at the cells of several positions
 * in a row before the CAS: while the counter stands still none of them can have changed.
 *
 * For one and one: two counters, each written by one side, which keeps a copy of the other's to look
 * at the shared line only when the copy says full or empty. (Lamport 1983; the copies are those of
 * Lee, Bu and Chandranmenon, "MCRingBuffer", 2010.) Cells are not used but for their items.
 *
 * Invariant of both: 0 <= tail - head <= capacity. Positions are 64 bits wide and do not wrap. */
#include "sync/syscall.h"

#include <errno.h>
#include <flowcoro/container.h>
#include <sys/mman.h>

#define MOST ((size_t)1 << 30)

struct cell {
    flow__atomic(uint64_t) turn;
    flow__plain(void *) item; /* by the owner of the position */
};

struct side {
    flow__cache_aligned flow__atomic(uint64_t) at;
    uint64_t other; /* one and one: what `at` of the other side was when it was last looked at */
};

struct flow_ring {
    size_t bytes, mask;
    bool single;
    struct side tail; /* written by those who push */
    struct side head; /* written by those who pop */
    flow__cache_aligned struct cell cell[];
};

int flow_ring_create(flow_ring **out, size_t capacity, unsigned flags)
{
    size_t n = 2, bytes;
    flow_ring *r;

    if (!out || capacity == 0 || capacity > MOST || (flags & ~(unsigned)FLOW_RING_SPSC))
        return -EINVAL;
    while (n < capacity)
        n *= 2;
    bytes = sizeof *r + n * sizeof r->cell[0];
    r = flow__sys.map(bytes, PROT_READ | PROT_WRITE, 0);
    if (!r)
        return -ENOMEM;
    r->bytes = bytes;
    r->mask = n - 1;
    r->single = flags & FLOW_RING_SPSC;
    for (size_t i = 0; i < n && !r->single; i++)
        store_relaxed(&r->cell[i].turn, i);
    *out = r;
    return 0;
}

int64_t flow_ring_destroy(flow_ring *r)
{
    int64_t left;

    if (!r)
        return 0;
    left = (int64_t)flow_ring_count(r);
    flow__sys.unmap(r, r->bytes);
    return left;
}

size_t flow_ring_count(flow_ring *r)
{
    /* Head first: what is pushed or popped meanwhile can not make the difference negative. */
    uint64_t head = load_acquire(&r->head.at); /* [CELL-5] acquire: keeps the two loads in order */
    uint64_t n = load_relaxed(&r->tail.at) - head;

    return n > r->mask + 1 ? r->mask + 1 : (size_t)n;
}

size_t flow_ring_capacity(const flow_ring *r)
{
    return r->mask + 1;
}

/* ---- one and one ---- */

/* How many places, at most n, are free for the producer. */
static inline size_t room(flow_ring *r, uint64_t tail, size_t n)
{
    size_t capacity = r->mask + 1;

    if (capacity - (tail - r->tail.other) < n)
        /* [CELL-1] acquire: pairs with [CELL-2]; the consumer has read what we will overwrite. */
        r->tail.other = load_acquire(&r->head.at);
    if (capacity - (tail - r->tail.other) < n)
        n = capacity - (size_t)(tail - r->tail.other);
    return n;
}

static inline size_t filled(flow_ring *r, uint64_t head, size_t n)
{
    if (r->head.other - head < n)
        /* [CELL-3] acquire: pairs with [CELL-4]; the items are there. */
        r->head.other = load_acquire(&r->tail.at);
    if (r->head.other - head < n)
        n = (size_t)(r->head.other - head);
    return n;
}

static inline size_t push_single(flow_ring *r, void *const *items, size_t n)
{
    uint64_t tail = load_relaxed(&r->tail.at);

    n = room(r, tail, n);
    if (n == 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        r->cell[(tail + i) & r->mask].item = items[i];
    /* [CELL-4] release: pairs with [CELL-3]. */
    store_release(&r->tail.at, tail + n);
    return n;
}

static inline size_t pop_single(flow_ring *r, void **items, size_t n)
{
    uint64_t head = load_relaxed(&r->head.at);

    n = filled(r, head, n);
    if (n == 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        items[i] = r->cell[(head + i) & r->mask].item;
    /* [CELL-2] release: pairs with [CELL-1] and, for who only counts, with [CELL-5]. */
    store_release(&r->head.at, head + n);
    return n;
}

/* ---- many ---- */

/* Claims up to n positions whose cells have come to the turn `position + due`. */
static inline size_t claim(flow_ring *r, struct side *side, uint64_t due, size_t n, uint64_t *first)
{
    uint64_t at = load_relaxed(&side->at);

    while (n > 0) {
        size_t k = 0;
        uint64_t turn = 0;

        while (k < n) {
            /* [CELL-6] acquire: pairs with [CELL-7] of who had the cell before. */
            turn = load_acquire(&r->cell[(at + k) & r->mask].turn);
            if (turn != at + k + due)
                break;
            k++;
        }
        if (k == 0) {
            uint64_t now = load_relaxed(&side->at);

            if (now == at && (int64_t)(turn - (at + due)) < 0)
                return 0; /* the cell is still the other side's */
            at = now;
            continue;
        }
        if (cas_acquire(&side->at, &at, at + k)) {
            *first = at;
            return k;
        }
    }
    return 0;
}

static inline size_t push_many(flow_ring *r, void *const *items, size_t n)
{
    uint64_t first = 0;

    n = claim(r, &r->tail, 0, n, &first);
    for (size_t i = 0; i < n; i++) {
        struct cell *c = &r->cell[(first + i) & r->mask];

        c->item = items[i];
        /* [CELL-7] release: pairs with [CELL-6]. */
        store_release(&c->turn, first + i + 1);
    }
    return n;
}

static inline size_t pop_many(flow_ring *r, void **items, size_t n)
{
    uint64_t first = 0;

    n = claim(r, &r->head, 1, n, &first);
    for (size_t i = 0; i < n; i++) {
        struct cell *c = &r->cell[(first + i) & r->mask];

        items[i] = c->item;
        store_release(&c->turn, first + i + r->mask + 1); /* [CELL-7] */
    }
    return n;
}

/* One item, as most calls are: the same without the loops. */
static inline int push_one(flow_ring *r, void *item)
{
    uint64_t at = load_relaxed(&r->tail.at);

    for (;;) {
        struct cell *c = &r->cell[at & r->mask];
        int64_t late = (int64_t)(load_acquire(&c->turn) - at); /* [CELL-6] */

        if (flow__likely(late == 0)) {
            if (!cas_acquire(&r->tail.at, &at, at + 1))
                continue;
            c->item = item;
            store_release(&c->turn, at + 1); /* [CELL-7] */
            return 0;
        }
        if (late < 0 && load_relaxed(&r->tail.at) == at)
            return -EAGAIN;
        at = load_relaxed(&r->tail.at);
    }
}

static inline int pop_one(flow_ring *r, void **item)
{
    uint64_t at = load_relaxed(&r->head.at);

    for (;;) {
        struct cell *c = &r->cell[at & r->mask];
        int64_t late = (int64_t)(load_acquire(&c->turn) - (at + 1)); /* [CELL-6] */

        if (flow__likely(late == 0)) {
            if (!cas_acquire(&r->head.at, &at, at + 1))
                continue;
            *item = c->item;
            store_release(&c->turn, at + r->mask + 1); /* [CELL-7] */
            return 0;
        }
        if (late < 0 && load_relaxed(&r->head.at) == at)
            return -EAGAIN;
        at = load_relaxed(&r->head.at);
    }
}

/* ---- both ---- */

size_t flow_ring_push_n(flow_ring *r, void *const *items, size_t n)
{
    return r->single ? push_single(r, items, n) : push_many(r, items, n);
}

size_t flow_ring_pop_n(flow_ring *r, void **items, size_t n)
{
    return r->single ? pop_single(r, items, n) : pop_many(r, items, n);
}

int flow_ring_push(flow_ring *r, void *item)
{
    if (r->single)
        return push_single(r, &item, 1) ? 0 : -EAGAIN;
    return push_one(r, item);
}

int flow_ring_pop(flow_ring *r, void **item)
{
    if (r->single)
        return pop_single(r, item, 1) ? 0 : -EAGAIN;
    return pop_one(r, item);
}
