/* SPDX-License-Identifier: MIT
 *
 * An unbounded queue of pointers; the table of concurrent use is in <flowcoro/container.h>.
 *
 * Items lie in segments of CELLS cells, linked in order. Every push and every pop has a ticket from
 * one of two 64-bit counters; ticket t belongs to cell t % CELLS of the segment of round t / CELLS.
 * A cell's word says what became of its latest ticket:
 *
 *   word < t << 2     ticket t has not got there yet, whatever the number is: cells are not cleared
 *   t << 2 | FILLED   the item is there
 *   t << 2 | SKIPPED  the consumer of t would not wait; the producer takes another ticket
 *
 * A push takes its ticket, writes the item, then sets FILLED with a CAS. A pop takes its ticket only
 * after it has seen FILLED; when it meets a cell whose producer was stopped between its two
 * steps, it waits for a moment, then sets SKIPPED with a CAS. So nobody waits for a thread that does
 * not run, and no lock is taken anywhere. (That a consumer may spoil a cell is from LCRQ: Morrison and
 * Afek, "Fast Concurrent Queues for x86 Processors", 2013.)
 *
 * Segments are named by small numbers and stay mapped until destroy. Each word that names one
 * carries a round with it, `round:40 | number:24`: in `tail` and `head` the round of the segment named,
 * in a segment's `next` its own. So whoever has read such a word knows for which tickets the
 * segment was, a thread that slept meanwhile cannot change a link of a later use, and a ticket that
 * is still to be had proves that its segment has not been reused. (Rounds wrap after 10^15 tickets.)
 *
 * A segment is in use until CELLS + 2 things are done with it: each cell (by who popped its item, or
 * by the producer that finds it SKIPPED) and the moves of `head` and `tail` to the next segment. Who
 * does the last one makes it a spare. A thread that was stopped with a ticket in its hand keeps one
 * segment from that, and no other.
 *
 * Invariants: head <= tail; tickets from head's to tail's lie in linked segments; each segment is
 * linked, a spare, or in the hands of one call. */
#include "sync/syscall.h"

#include <errno.h>
#include <flowcoro/container.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef FLOW__QUEUE_CELLS /* a test makes it small, so that segments change often */
#define FLOW__QUEUE_CELLS 1024u
#endif
#define CELLS       FLOW__QUEUE_CELLS /* a power of two, at most 1024 */
#define CELL_BYTES  (CELLS * sizeof(struct cell))
#define WARM        2    /* spares that keep their pages */
#define PATIENCE    flow__rounds(1000) /* pauses before a cell is skipped */
#define NUMBER_BITS 24
#define NUMBER_MASK (((uint64_t)1 << NUMBER_BITS) - 1)
#define FIRST_BITS  4 /* the first block has 16 segments, each other as many as all before it */
#define BLOCKS      (NUMBER_BITS - FIRST_BITS + 1)

enum { FILLED = 1, SKIPPED = 2 };

struct cell {
    flow__atomic(uint64_t) word; /* by the ticket's producer; SKIPPED by any consumer */
    flow__plain(void *) item; /* between ticket and FILLED the producer's, afterwards the consumer's */
};

struct segment {
    flow__atomic(uint64_t) next;  /* round:40 of this segment | number:24 of the next, or 0 */
    flow__atomic(uint32_t) done;  /* by whoever is done with something */
    flow__atomic(uint32_t) spare; /* the next spare */
};

struct end {
    flow__cache_aligned flow__atomic(uint64_t) ticket; /* the next one to be taken */
    flow__atomic(uint64_t) segment; /* of that ticket, or one before it: round:40 | number:24 */
};

struct flow_queue {
    struct end tail, head;
    /* Spares, with and without pages: tag:40 | number:24 of the first. Written by anyone. */
    flow__cache_aligned flow__atomic(uint64_t) warm;
    flow__atomic(uint64_t) cold;
    flow__atomic(int) n_warm;      /* at most this many are in `warm` */
    flow__atomic(uint32_t) n_used; /* numbers that were ever given out, with 0 */
    flow__atomic(size_t) bytes;
    bool whole_pages; /* constant: the cells of a segment share no page with others' */
    flow__atomic(char *) block[BLOCKS]; /* written once: segments, then their cells */
};

/* ---- segments ---- */

static int block_of(uint32_t number)
{
    int bit = number ? 31 - __builtin_clz(number) : 0;

    return bit < FIRST_BITS ? 0 : bit - FIRST_BITS + 1;
}

static uint32_t block_first(int b)
{
    return b ? (uint32_t)1 << (FIRST_BITS + b - 1) : 0;
}

static uint32_t block_size(int b)
{
    return (uint32_t)1 << (b ? FIRST_BITS + b - 1 : FIRST_BITS);
}

/* Cells first: they are to lie on pages of their own. */
static size_t block_bytes(int b)
{
    return block_size(b) * (CELL_BYTES + sizeof(struct segment));
}

static inline struct cell *cells_of(flow_queue *q, uint32_t number)
{
    int b = block_of(number);

    /* [QUEUE-1] acquire: pairs with [QUEUE-2]. */
    return (struct cell *)(load_acquire(&q->block[b]) + (number - block_first(b)) * CELL_BYTES);
}

static inline struct segment *segment_at(flow_queue *q, uint32_t number)
{
    int b = block_of(number);
    char *block = load_acquire(&q->block[b]); /* [QUEUE-1] */

    return (struct segment *)(block + block_size(b) * CELL_BYTES) + (number - block_first(b));
}

static inline uint32_t number_in(uint64_t word)
{
    return (uint32_t)(word & NUMBER_MASK);
}

static inline uint64_t name(uint64_t round, uint32_t number)
{
    return round << NUMBER_BITS | number;
}

static bool add_block(flow_queue *q, int b)
{
    char *block = flow__sys.map(block_bytes(b), PROT_READ | PROT_WRITE, MAP_NORESERVE),
         *none = NULL;

    if (!block)
        return load_relaxed(&q->block[b]) != NULL;
    /* [QUEUE-2] seq_cst includes release: pairs with [QUEUE-1]; the kernel's zeroes. */
    if (!cas_seq(&q->block[b], &none, block))
        flow__sys.unmap(block, block_bytes(b));
    return true;
}

/* The number of a segment that was never used, or 0: no memory. */
static uint32_t new_segment(flow_queue *q)
{
    uint32_t number = load_relaxed(&q->n_used);

    do {
        if (number > NUMBER_MASK)
            return 0;
        if (!load_relaxed(&q->block[block_of(number)]) && !add_block(q, block_of(number)))
            return 0;
    } while (!cas_seq(&q->n_used, &number, number + 1));
    return number;
}

static void put_spare(flow_queue *q, flow__atomic(uint64_t) * list, uint32_t number)
{
    struct segment *s = segment_at(q, number);
    uint64_t seen = load_relaxed(list);

    do
        store_relaxed(&s->spare, number_in(seen));
    /* [QUEUE-6] seq_cst: its release half pairs with [QUEUE-7]; all is done with this segment. */
    while (!cas_seq(list, &seen, name((seen >> NUMBER_BITS) + 1, number)));
}

static uint32_t take_spare(flow_queue *q, flow__atomic(uint64_t) * list)
{
    /* [QUEUE-7] acquire, as is every CAS that fails: pairs with [QUEUE-6]. */
    uint64_t seen = load_acquire(list);

    while (number_in(seen)) {
        uint32_t next = load_relaxed(&segment_at(q, number_in(seen))->spare);

        /* The tag tells whether it was taken and put back meanwhile. */
        if (cas_seq(list, &seen, name((seen >> NUMBER_BITS) + 1, next)))
            return number_in(seen);
    }
    return 0;
}

/* Makes a segment ready to be linked as that of a round; its number, or 0: no memory. */
static uint32_t take_segment(flow_queue *q, uint64_t round)
{
    uint32_t number = take_spare(q, &q->warm);

    if (number) {
        fetch_sub_relaxed(&q->n_warm, 1);
    } else {
        number = take_spare(q, &q->cold);
        if (!number)
            number = new_segment(q);
        if (!number)
            return 0;
        fetch_add_relaxed(&q->bytes, CELL_BYTES);
    }
    store_relaxed(&segment_at(q, number)->done, 0);
    store_relaxed(&segment_at(q, number)->next, name(round, 0));
    return number;
}

/* A few keep their pages. The others' cells become zero, which is as good as what was there: a
 * thread that still looks at them has no ticket for them. */
static void give_segment(flow_queue *q, uint32_t number)
{
    if (fetch_add_relaxed(&q->n_warm, 1) < WARM || !q->whole_pages ||
        flow__sys.advise(cells_of(q, number), CELL_BYTES, MADV_DONTNEED)) {
        put_spare(q, &q->warm, number);
        return;
    }
    fetch_sub_relaxed(&q->n_warm, 1);
    fetch_sub_relaxed(&q->bytes, CELL_BYTES);
    put_spare(q, &q->cold, number);
}

/* Is done with n things. */
static inline void finish(flow_queue *q, uint32_t number, uint32_t n)
{
    /* Sequentially consistent: reads and writes of the cells by all who are done come before those of the
     * segment's next use; its other half is this very operation, by the last one. */
    if (flow__unlikely(fetch_add_seq(&segment_at(q, number)->done, n) + n == CELLS + 2))
        give_segment(q, number);
}

/* The name of the segment behind the one that `seen` names, which is made if need be. False: no
 * memory. *next is 0 if that one has been reused already. */
static bool find_next(flow_queue *q, uint64_t seen, uint64_t *next)
{
    struct segment *s = segment_at(q, number_in(seen));
    uint64_t round = seen >> NUMBER_BITS, none = name(round, 0);
    uint64_t link = load_acquire(&s->next); /* [QUEUE-8] */

    if (link == none) {
        uint32_t number = take_segment(q, round + 1);

        if (!number)
            return false;
        /* [QUEUE-8] seq_cst: its release half publishes the new segment to who follows the link. */
        if (cas_seq(&s->next, &none, name(round, number)))
            link = name(round, number);
        else {
            link = none;
            give_segment(q, number);
        }
    }
    *next = link >> NUMBER_BITS == round ? name(round + 1, number_in(link)) : 0;
    return true;
}

/* Moves an end on from the segment that `seen` names, unless somebody else has. False: no memory. */
static bool advance(flow_queue *q, struct end *end, uint64_t seen)
{
    uint32_t number = number_in(seen);
    uint64_t next = 0;

    if (!find_next(q, seen, &next))
        return false;
    /* [QUEUE-9] seq_cst: its release half pairs with [QUEUE-10]. */
    if (next && cas_seq(&end->segment, &seen, next))
        finish(q, number, 1);
    return true;
}

/* Where ticket t lies, seen from an end that names the segment `word`: below CELLS in that
 * segment; else behind it, or, if the result is negative, before it. */
static inline int64_t offset_in(uint64_t word, uint64_t t)
{
    uint64_t base = (word >> NUMBER_BITS) * CELLS;
    int unknown = NUMBER_BITS - __builtin_ctz(CELLS); /* upper bits of base */

    return (int64_t)((t - base) << unknown) >> unknown;
}

/* ---- push ---- */

/* Takes up to *n tickets that lie in one segment; its number, or 0: no memory. */
static uint32_t take_tickets(flow_queue *q, size_t *n, uint64_t *first)
{
    for (;;) {
        /* [QUEUE-10] acquire: pairs with [QUEUE-9]. */
        uint64_t word = load_acquire(&q->tail.segment);
        uint64_t t = load_relaxed(&q->tail.ticket);
        int64_t offset = offset_in(word, t);
        size_t k = *n;

        if (offset >= CELLS && !advance(q, &q->tail, word))
            return 0;
        if (offset < 0 || offset >= CELLS)
            continue;
        if (k > CELLS - (size_t)offset)
            k = CELLS - (size_t)offset;
        if (!cas_seq(&q->tail.ticket, &t, t + k))
            continue;
        *n = k;
        *first = t;
        return number_in(word);
    }
}

/* Puts an item into the cell of a ticket. False: it was skipped. */
static inline bool fill(struct cell *c, uint64_t t, void *item)
{
    uint64_t word = load_relaxed(&c->word);

    c->item = item;
    do
        if (word == (t << 2 | SKIPPED))
            return false;
    /* [QUEUE-4] seq_cst includes release: pairs with [QUEUE-5]. */
    while (!cas_seq(&c->word, &word, t << 2 | FILLED));
    return true;
}

size_t flow_queue_push_n(flow_queue *q, void *const *items, size_t n)
{
    size_t done = 0;

    while (done < n) {
        size_t k = n - done;
        uint64_t first = 0;
        uint32_t number = take_tickets(q, &k, &first), skipped = 0;
        struct cell *cell;

        if (!number)
            break;
        cell = cells_of(q, number);
        for (size_t i = 0; i < k; i++) {
            if (flow__likely(fill(&cell[(first + i) % CELLS], first + i, items[done])))
                done++;
            else
                skipped++;
        }
        if (skipped)
            finish(q, number, skipped);
    }
    return done;
}

int flow_queue_push(flow_queue *q, void *item)
{
    return flow_queue_push_n(q, &item, 1) ? 0 : -ENOMEM;
}

/* ---- pop ---- */

/* Gives a producer that has its ticket a moment, then skips its cell. The segment may have been
 * reused meanwhile. Then h is no longer head's, and our word is older than any that the cell waits
 * for: its producer's CAS takes it for an empty one. */
static void skip(struct cell *c, uint64_t h)
{
    uint64_t word = load_relaxed(&c->word);

    for (int i = 0; i < PATIENCE && word >> 2 < h; i++) {
        flow__pause();
        word = load_relaxed(&c->word);
    }
    if (word >> 2 < h)
        cas_seq(&c->word, &word, h << 2 | SKIPPED);
}

/* How many cells from ticket h on are filled, at most n; *word is what the first that is not says. */
static inline size_t count_filled(struct cell *cell, uint64_t h, size_t n, uint64_t *word)
{
    size_t k = 0;

    if (n > CELLS - h % CELLS)
        n = CELLS - (size_t)(h % CELLS);
    for (; k < n; k++) {
        /* [QUEUE-5] acquire: pairs with [QUEUE-4]; the item is there. */
        *word = load_acquire(&cell[(h + k) % CELLS].word);
        if (*word != ((h + k) << 2 | FILLED))
            break;
    }
    return k;
}

/* Ticket h is head's and its cell is not filled. False: the queue is empty. */
static bool get_over(flow_queue *q, struct cell *c, uint64_t h, uint64_t word)
{
    if (word == (h << 2 | SKIPPED)) {
        cas_seq(&q->head.ticket, &h, h + 1); /* its producer sees to the rest */
        return true;
    }
    if (load_seq(&q->tail.ticket) == h)
        return false;
    if (word >> 2 < h)
        skip(c, h);
    return true;
}

size_t flow_queue_pop_n(flow_queue *q, void **items, size_t n)
{
    while (n > 0) {
        uint64_t seen = load_acquire(&q->head.segment); /* [QUEUE-10] */
        uint64_t h = load_seq(&q->head.ticket), word = 0;
        int64_t offset = offset_in(seen, h);
        struct cell *cell;
        size_t k;

        if (offset >= CELLS) {
            if (load_seq(&q->tail.ticket) == h)
                return 0;
            advance(q, &q->head, seen); /* who took ticket h has linked its segment */
        }
        if (offset < 0 || offset >= CELLS)
            continue;
        cell = cells_of(q, number_in(seen));
        k = count_filled(cell, h, n, &word);
        if (k == 0) {
            if (!get_over(q, &cell[h % CELLS], h, word))
                return 0;
            continue;
        }
        if (!cas_seq(&q->head.ticket, &h, h + k))
            continue;
        for (size_t i = 0; i < k; i++)
            items[i] = cell[(h + i) % CELLS].item;
        finish(q, number_in(seen), (uint32_t)k);
        return k;
    }
    return 0;
}

int flow_queue_pop(flow_queue *q, void **item)
{
    return flow_queue_pop_n(q, item, 1) ? 0 : -EAGAIN;
}

/* ---- the whole ---- */

size_t flow_queue_count(flow_queue *q)
{
    uint64_t head = load_seq(&q->head.ticket), tail = load_seq(&q->tail.ticket);

    return (size_t)(tail - head);
}

size_t flow_queue_bytes(flow_queue *q)
{
    return load_relaxed(&q->bytes);
}

static void unmap_all(flow_queue *q)
{
    for (int b = 0; b < BLOCKS; b++)
        if (load_relaxed(&q->block[b]))
            flow__sys.unmap(load_relaxed(&q->block[b]), block_bytes(b));
    flow__sys.unmap(q, sizeof *q);
}

int flow_queue_create(flow_queue **out)
{
    flow_queue *q;
    uint32_t number;

    if (!out)
        return -EINVAL;
    q = flow__sys.map(sizeof *q, PROT_READ | PROT_WRITE, 0);
    if (!q)
        return -ENOMEM;
    q->whole_pages = CELL_BYTES % (size_t)sysconf(_SC_PAGESIZE) == 0;
    store_relaxed(&q->n_used, 1); /* 0 names nothing */
    number = take_segment(q, 1);
    if (!number) {
        unmap_all(q);
        return -ENOMEM;
    }
    /* Tickets begin with round 1, so that zeroed words are older than all of them. */
    store_relaxed(&q->tail.ticket, CELLS);
    store_relaxed(&q->head.ticket, CELLS);
    store_relaxed(&q->tail.segment, name(1, number));
    store_relaxed(&q->head.segment, name(1, number));
    *out = q;
    return 0;
}

int64_t flow_queue_destroy(flow_queue *q)
{
    int64_t left = 0;
    void *item;

    if (!q)
        return 0;
    while (flow_queue_pop(q, &item) == 0)
        left++;
    unmap_all(q);
    return left;
}
