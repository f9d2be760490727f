/* SPDX-License-Identifier: MIT
 *
 * The stack region: reserving it, guarding slots, handing them out in batches,
 * taking their pages back. Any worker; a depot's lock is held for a batch, and
 * never together with another lock. Slots are never unmapped before the region is. */
#include "core/stack.h"

#include "core/arena.h"
#include "core/guard.h"
#include "core/reserve.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef FLOW__TSAN
#define ZONE_SHIFT_MAX 33 /* its map of the address space leaves little room */
#else
#define ZONE_SHIFT_MAX 38
#endif
#define ZONE_SHIFT_MIN 22 /* 4 MiB: 4 of the largest stacks */
#define LARGEST_SHIFT  (FLOW__STACK_MIN_SHIFT + FLOW__STACK_CLASSES - 1)
#define BATCH          8u
#define LEAST_SHOWN    16u

struct flow__stack_region flow__stacks;

/* ---- the region ---- */

static uint32_t slots_in_part(int class_index)
{
    return (uint32_t)(((size_t)1 << flow__stacks.part_shift) / flow__stack_bytes(class_index));
}

/* Of a node's depots and the slot numbers that they may have to hold. */
static size_t section_bytes(const struct flow__stack_region *r)
{
    size_t n = FLOW__STACK_CLASSES * sizeof(struct flow__stack_depot);

    for (int c = 0; c < FLOW__STACK_CLASSES; c++)
        n += slots_in_part(c) * sizeof(uint32_t);
    return (n + r->page_bytes - 1) & ~(r->page_bytes - 1);
}

static unsigned bits_for(int n_nodes)
{
    unsigned bits = 0;

    while (1 << bits < n_nodes)
        bits++;
    return bits;
}

/* Room for one of the largest stacks on each node is the least. */
static char *reserve(struct flow__stack_region *r)
{
    unsigned node_bits = bits_for(r->n_nodes), least = LARGEST_SHIFT + node_bits;

    if (least < ZONE_SHIFT_MIN)
        least = ZONE_SHIFT_MIN;
    for (r->zone_shift = ZONE_SHIFT_MAX; r->zone_shift >= least; r->zone_shift--) {
        size_t align = flow__stack_bytes(FLOW__STACK_CLASSES - 1);
        char *p;

        r->part_shift = r->zone_shift - node_bits;
        r->section_bytes = section_bytes(r);
        r->mapped_bytes = ((size_t)FLOW__STACK_CLASSES << r->zone_shift) +
                          (size_t)r->n_nodes * r->section_bytes + align;
        if (!flow__reserve_is_modest(r->mapped_bytes) && r->zone_shift > least)
            continue;
        p = flow__reserve(r->mapped_bytes, 0);
        if (!p)
            continue;
        store_relaxed(&r->base, ((uintptr_t)p + align - 1) & ~(align - 1));
        return p;
    }
    return NULL;
}

static void open_node(struct flow__stack_region *r, int node)
{
    char *section = r->sections + (size_t)node * r->section_bytes;
    uint32_t *numbers = (uint32_t *)((struct flow__stack_depot *)section + FLOW__STACK_CLASSES);

    flow__arena_bind(section, r->section_bytes, node);
    for (int c = 0; c < FLOW__STACK_CLASSES; c++) {
        struct flow__stack_depot *d = flow__stack_depot(c, node);

        flow__arena_bind(flow__stack_slot(c, node, 0), (size_t)1 << r->part_shift, node);
        d->max_slots = slots_in_part(c);
        d->free_slot = numbers;
        numbers += d->max_slots;
    }
}

int flow__stacks_open(bool unguarded_ok, bool dont_fork)
{
    struct flow__stack_region *r = &flow__stacks;
    size_t bytes;
    char *base, *p;

    store_relaxed(&r->bytes, 0);
    store_relaxed(&r->trims, 0);
    store_relaxed(&r->guard_failures, 0);
    store_relaxed(&r->borrowed, 0);
    store_relaxed(&r->sent_home, 0);
    r->page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    r->unguarded_ok = unguarded_ok;
    r->guard = flow__guard_probe(r->page_bytes);
    r->n_nodes = flow__arena_nodes();
    p = reserve(r);
    if (!p)
        return -ENOMEM;
    r->mapping = p;
    base = (char *)load_relaxed(&r->base);
    bytes = (size_t)FLOW__STACK_CLASSES << r->zone_shift;
    /* A huge page would make each small stack cost 2 MiB. Refused where there are none anyway. */
    flow__sys.advise(base, bytes, MADV_NOHUGEPAGE);
    /* A core file has what was ever handed out, and not a terabyte of what was not: see show(). */
    flow__sys.advise(base, bytes, MADV_DONTDUMP);
    if (dont_fork)
        flow__sys.advise(base, bytes, MADV_DONTFORK);
    r->sections = base + bytes;
    for (int node = 0; node < r->n_nodes; node++)
        open_node(r, node);
    store_release(&r->bytes, bytes);
    return 0;
}

#if defined(FLOW__ASAN) || FLOW__HEADER_STAYS
static void forget_slot(char *slot, int class_index)
{
#ifdef FLOW__ASAN
    size_t page = flow__stacks.page_bytes, bytes = flow__stack_bytes(class_index) - page;

    __lsan_unregister_root_region(slot + page, bytes);
    __asan_unpoison_memory_region(slot + page, bytes);
#else
    struct flow__stack_header *header = flow__stack_top(slot, class_index);
#ifdef FLOW__TSAN
    if (header->fiber)
        __tsan_destroy_fiber(header->fiber);
#else
    VALGRIND_STACK_DEREGISTER(header->known_as);
#endif
#endif
}

static void forget_slots(void)
{
    for (int c = 0; c < FLOW__STACK_CLASSES; c++)
        for (int node = 0; node < flow__stacks.n_nodes; node++)
            for (uint32_t i = 0; i < flow__stack_depot(c, node)->n_slots; i++)
                forget_slot(flow__stack_slot(c, node, i), c);
}
#else
static void forget_slots(void)
{
}
#endif

void flow__stacks_close(void)
{
    store_relaxed(&flow__stacks.bytes, 0);
    forget_slots();
    flow__sys.unmap(flow__stacks.mapping, flow__stacks.mapped_bytes);
}

int flow__stack_class(size_t bytes)
{
    for (int c = 0; c < FLOW__STACK_CLASSES; c++)
        if (bytes <= flow__stack_bytes(c) && flow__stack_bytes(c) >= 4 * flow__stacks.page_bytes)
            return c;
    return -EINVAL;
}

static uint32_t slot_number(int class_index, const char *slot)
{
    uintptr_t offset = (uintptr_t)slot - load_relaxed(&flow__stacks.base);

    return (uint32_t)((offset & (((uintptr_t)1 << flow__stacks.part_shift) - 1)) /
                      flow__stack_bytes(class_index));
}

/* ---- slots that were never used ---- */

/* A slot that was never used. It is guarded here, or refused. */
static int prepare(char *slot, int class_index)
{
    struct flow__stack_region *r = &flow__stacks;

    (void)class_index;
    if (flow__guard_install(slot)) {
        /* Memory may be short for want of what idle stacks hold. */
        for (int node = 0; node < r->n_nodes; node++)
            flow__stacks_trim(node, UINT32_MAX, 0);
        if (flow__guard_install(slot)) {
            fetch_add_relaxed(&r->guard_failures, 1);
            if (!r->unguarded_ok)
                return -ENOMEM;
        }
    }
#ifdef FLOW__ASAN
    __lsan_register_root_region(slot + r->page_bytes,
                                flow__stack_bytes(class_index) - r->page_bytes);
#endif
#ifdef FLOW_VALGRIND
    struct flow__stack_header *header = flow__stack_top(slot, class_index);
    header->known_as = VALGRIND_STACK_REGISTER(slot + r->page_bytes, (char *)header - 1);
#endif
    return 0;
}

/* ---- depots and caches ---- */

/* Lets core files have a depot's first n slots, and, lest this be asked for often, as many again; both
 * parts are one mapping each. */
static void show(struct flow__stack_depot *d, int class_index, int node, uint32_t n)
{
    uint32_t most = 2 * n < LEAST_SHOWN ? LEAST_SHOWN : 2 * n;

    if (n <= d->shown)
        return;
    if (most > d->max_slots)
        most = d->max_slots;
    flow__sys.advise(flow__stack_slot(class_index, node, d->shown),
                     (most - d->shown) * flow__stack_bytes(class_index), MADV_DODUMP);
    d->shown = most;
}

/* Slots that were never used, into out[]; returns how many. The grow lock keeps
 * others from growing meanwhile, so that what could not be guarded is given back. */
static uint32_t grow(int class_index, int node, char **out, uint32_t most)
{
    struct flow__stack_depot *d = flow__stack_depot(class_index, node);
    uint32_t first, n = 0;

    flow__lock(&d->grow_lock);
    flow__lock(&d->lock);
    first = d->n_slots;
    flow__unlock(&d->lock);
    while (n < most && first + n < d->max_slots) {
        char *slot = flow__stack_slot(class_index, node, first + n);

        if (prepare(slot, class_index))
            break;
        out[n++] = slot;
    }
    show(d, class_index, node, first + n);
    flow__lock(&d->lock);
    d->n_slots = first + n;
    flow__unlock(&d->lock);
    flow__unlock(&d->grow_lock);
    return n;
}

static uint32_t take_free(int class_index, int node, char **out, uint32_t most)
{
    struct flow__stack_depot *d = flow__stack_depot(class_index, node);
    uint32_t n = 0;

    flow__lock(&d->lock);
    while (n < most && d->n_free > 0)
        out[n++] = flow__stack_slot(class_index, node, d->free_slot[--d->n_free]);
    if (d->trimmed > d->n_free)
        d->trimmed = d->n_free;
    flow__unlock(&d->lock);
    return n;
}

static uint32_t grow_cache(int class_index, int node, char **slots)
{
    uint32_t n = grow(class_index, node, slots, BATCH);

    /* The lowest on top, so that slots are used in address order. */
    for (uint32_t i = 0; i < n / 2; i++) {
        char *other = slots[n - 1 - i];

        slots[n - 1 - i] = slots[i];
        slots[i] = other;
    }
    return n;
}

/* One at a time: it should not stay longer than it is needed. */
static uint32_t borrow(int class_index, int node, char **slots)
{
    for (int near = flow__arena_next_near(node, node); near >= 0;
         near = flow__arena_next_near(node, near))
        if (take_free(class_index, near, slots, 1) || grow(class_index, near, slots, 1)) {
            fetch_add_relaxed(&flow__stacks.borrowed, 1);
            return 1;
        }
    return 0;
}

int flow__stack_refill(struct flow__stack_cache *cache, int class_index)
{
    char **slots = cache->slot[class_index];
    uint32_t n = take_free(class_index, cache->node, slots, FLOW__STACK_CACHE / 2);

    if (n == 0)
        n = grow_cache(class_index, cache->node, slots);
    if (n == 0)
        n = borrow(class_index, cache->node, slots);
    cache->n[class_index] = n;
    return n ? 0 : -ENOMEM;
}

/* Each to the depot of its node, whose lock is kept for those that follow. */
static void put_free(int class_index, char **slots, uint32_t n)
{
    struct flow__stack_depot *locked = NULL;

    for (uint32_t i = 0; i < n; i++) {
        struct flow__stack_depot *d = flow__stack_depot(class_index, flow__stack_node(slots[i]));

        if (d != locked) {
            if (locked)
                flow__unlock(&locked->lock);
            flow__lock(&d->lock);
            locked = d;
        }
        d->free_slot[d->n_free++] = /* NOLINT: every slot has a depot */
            slot_number(class_index, slots[i]);
    }
    if (locked)
        flow__unlock(&locked->lock);
}

void flow__stack_flush(struct flow__stack_cache *cache, int class_index, uint32_t keep)
{
    uint32_t n = cache->n[class_index] - keep;

    /* The oldest go: what was used last is warm. */
    put_free(class_index, cache->slot[class_index], n);
    memmove(cache->slot[class_index], cache->slot[class_index] + n, keep * sizeof(char *));
    cache->n[class_index] = keep;
}

void flow__stacks_go_home(struct flow__stack_cache *cache)
{
    for (uint32_t i = 0; i < cache->n_away; i++) {
        uintptr_t offset = (uintptr_t)cache->away[i] - load_relaxed(&flow__stacks.base);

        put_free((int)(offset >> flow__stacks.zone_shift), &cache->away[i], 1);
    }
    fetch_add_relaxed(&flow__stacks.sent_home, cache->n_away);
    cache->n_away = 0;
}

void flow__stack_give_back(struct flow__stack_cache *cache, int class_index, char *slot)
{
    if (flow__likely(flow__stack_node(slot) == cache->node)) {
        flow__stack_give(cache, class_index, slot);
        return;
    }
    cache->away[cache->n_away++] = slot;
    if (cache->n_away == FLOW__STACKS_AWAY)
        flow__stacks_go_home(cache);
}

/* ---- trimming ---- */

static void trim_slot(char *slot, size_t bytes)
{
    size_t page = flow__stacks.page_bytes;

    if (FLOW__HEADER_STAYS)
        bytes -= page;
    flow__sys.advise(slot + page, bytes - page, MADV_DONTNEED);
    fetch_add_relaxed(&flow__stacks.trims, 1);
}

static uint32_t trim_depot(int class_index, int node, uint32_t *most, uint32_t keep)
{
    struct flow__stack_depot *d = flow__stack_depot(class_index, node);
    uint32_t left;

    flow__lock(&d->lock);
    while (*most > 0 && d->trimmed + keep < d->n_free) {
        uint32_t number = d->free_slot[d->trimmed];

        /* Under the lock, lest a refill hand the slot out: a microsecond each,
         * so the lock is opened after every one. */
        trim_slot(flow__stack_slot(class_index, node, number), flow__stack_bytes(class_index));
        d->trimmed++;
        --*most;
        flow__unlock(&d->lock);
        flow__lock(&d->lock);
    }
    left = d->n_free > d->trimmed + keep ? d->n_free - d->trimmed - keep : 0;
    flow__unlock(&d->lock);
    return left;
}

uint32_t flow__stacks_trim(int node, uint32_t most, uint32_t keep)
{
    uint32_t left = 0;

    for (int c = 0; c < FLOW__STACK_CLASSES; c++)
        left += trim_depot(c, node, &most, keep);
    return left;
}

/* ---- questions ---- */

uint64_t flow__stacks_mapped(void)
{
    uint64_t n = 0;

    for (int c = 0; c < FLOW__STACK_CLASSES; c++)
        for (int node = 0; node < flow__stacks.n_nodes; node++) {
            struct flow__stack_depot *d = flow__stack_depot(c, node);

            flow__lock(&d->lock);
            n += d->n_slots;
            flow__unlock(&d->lock);
        }
    return n;
}

char *flow__stack_slot_of(uintptr_t address, int *class_index)
{
    uintptr_t offset = address - load_relaxed(&flow__stacks.base);

    if (offset >= load_relaxed(&flow__stacks.bytes))
        return NULL;
    *class_index = (int)(offset >> flow__stacks.zone_shift);
    return (char *)(load_relaxed(&flow__stacks.base) +
                    (offset & ~(flow__stack_bytes(*class_index) - 1)));
}
