/* SPDX-License-Identifier: MIT
 *
 * The depots of control blocks; see the header. Any thread. Memory comes from the
 * kernel zeroed and is touched first when a block is first used, by a worker of its node. */
#include "core/registry.h"

#include "core/arena.h"
#include "core/reserve.h"
#include "sync/syscall.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOTS_PER_HUGE_PAGE ((uint32_t)(FLOW__HUGE_BYTES / sizeof(struct flow__task)))

struct flow__registry flow__registry;

/* ---- the region ---- */

/* Ranges of several nodes begin at huge pages, or one page would lie on one of them and serve two. */
static uint32_t stride_for(const uint32_t *share, int n_nodes)
{
    uint32_t most = 1;

    for (int i = 0; i < n_nodes; i++)
        most = share[i] > most ? share[i] : most;
    if (n_nodes == 1)
        return most;
    return (most + SLOTS_PER_HUGE_PAGE - 1) / SLOTS_PER_HUGE_PAGE * SLOTS_PER_HUGE_PAGE;
}

/* Huge pages save two thirds of the cost of a large batch's first pass. Small programs
 * stay within the first 2 MiB of a range and pay for small pages. */
static void open_range(struct flow__registry *r, int node, uint32_t n)
{
    struct flow__block_depot *d = &r->depot[node];
    size_t bytes = (size_t)n * sizeof(struct flow__task);
    char *start;

    d->first = (uint32_t)node * r->stride;
    d->end = d->first + n;
    store_relaxed(&d->used, d->first);
    start = (char *)(r->base + d->first);
    flow__arena_bind(start, bytes, node);
    if (bytes > FLOW__HUGE_BYTES)
        flow__sys.advise(start + FLOW__HUGE_BYTES, bytes - FLOW__HUGE_BYTES, MADV_HUGEPAGE);
}

/* Handles and wakers of an earlier opening must not fit: each one begins as far as can be from what all
 * earlier ones have used, which multiples of the golden ratio do. In the lower half of the generations and of
 * the epochs, so that as many are left to every block. */
static void choose_first_words(struct flow__registry *r)
{
    static uint64_t n_opened;
    uint64_t spread = n_opened++ * UINT64_C(0x9e3779b97f4a7c15);

    r->first_life = ((spread >> 33) + 1) << 32 | FLOW__LIFE_FREE;
    r->first_wait = spread >> (FLOW__EPOCH_SHIFT + 1) << FLOW__EPOCH_SHIFT;
}

int flow__registry_open(const uint32_t *share, uint32_t n_stand_ins)
{
    struct flow__registry *r = &flow__registry;
    size_t slots;

    memset(r, 0, sizeof *r);
    choose_first_words(r);
    r->n_nodes = flow__arena_nodes();
    r->stride = stride_for(share, r->n_nodes);
    slots = (size_t)r->stride * (size_t)r->n_nodes;
    if (slots > UINT32_MAX - n_stand_ins)
        return -ENOMEM;
    r->mapped_bytes = (slots + n_stand_ins) * sizeof(struct flow__task) +
                      (size_t)r->n_nodes * sizeof(struct flow__block_depot);
    r->mapping = flow__reserve(r->mapped_bytes, FLOW__MAP_HUGE);
    if (!r->mapping)
        return -ENOMEM;
    r->base = (struct flow__task *)r->mapping;
    r->n_blocks = (uint32_t)slots;
    r->n_stand_ins = n_stand_ins;
    r->depot = (struct flow__block_depot *)(r->base + slots + n_stand_ins);
    for (int i = 0; i < r->n_nodes; i++)
        open_range(r, i, share[i]);
    return 0;
}

/* A queued task's argument, a result that nobody has joined, a name: blocks are where they can be
 * found, so LeakSanitizer looks into those that are used or have been. */
#ifdef FLOW__ASAN
static void show_blocks(uint32_t first, uint32_t n)
{
    __lsan_register_root_region(&flow__registry.base[first], n * sizeof(struct flow__task));
}

static void hide_blocks(void)
{
    const struct flow__registry *r = &flow__registry;

    for (int i = 0; i < r->n_nodes; i++) {
        const struct flow__block_depot *d = &r->depot[i];
        uint32_t used = load_relaxed(&d->used), n;

        for (uint32_t at = d->first; at < used; at += n) {
            n = used - at < FLOW__CHAIN ? used - at : FLOW__CHAIN;
            __lsan_unregister_root_region(&r->base[at], n * sizeof(struct flow__task));
        }
    }
}
#else
static void show_blocks(uint32_t first, uint32_t n)
{
    (void)first, (void)n;
}

static void hide_blocks(void)
{
}
#endif

void flow__registry_close(void)
{
    struct flow__registry *r = &flow__registry;

    hide_blocks();
    r->n_blocks = 0;
    flow__sys.unmap(r->mapping, r->mapped_bytes);
}

void flow__registry_touch(int node)
{
    const struct flow__block_depot *d = &flow__registry.depot[node];
    volatile char *start = (volatile char *)(flow__registry.base + d->first);
    size_t bytes = (size_t)(d->end - d->first) * sizeof(struct flow__task);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    for (size_t at = 0; at < bytes && at < FLOW__HUGE_BYTES; at += page)
        start[at] = 0;
}

/* ---- one depot, under its lock ---- */

static struct flow__link *take_chain(struct flow__block_depot *d)
{
    struct flow__link *chain = d->chains;

    if (chain) {
        struct flow__link *second = chain->next;

        /* The second block's home field carries the next chain while both are free. */
        d->chains = (struct flow__link *)flow__task_of_link(second)->home;
        flow__task_of_link(second)->home = NULL;
    }
    return chain;
}

static void put_chain(struct flow__block_depot *d, struct flow__link *chain)
{
    flow__task_of_link(chain->next)->home = (struct flow__worker *)d->chains;
    d->chains = chain;
}

static void put_loose(struct flow__block_depot *d, struct flow__link *link)
{
    link->next = d->loose;
    d->loose = link;
    if (++d->n_loose < FLOW__CHAIN)
        return;
    put_chain(d, d->loose);
    d->loose = NULL;
    d->n_loose = 0;
}

/* Up to a chain of free blocks, the warmest first: a list of *n, or NULL and slots that were never
 * used. 0: the depot is empty. */
static uint32_t take_some(struct flow__block_depot *d, struct flow__link **list, uint32_t *unused)
{
    uint32_t n = FLOW__CHAIN, used = load_relaxed(&d->used);

    *list = take_chain(d);
    if (*list)
        return n;
    if (d->loose) {
        n = d->n_loose;
        *list = d->loose;
        d->loose = NULL;
        d->n_loose = 0;
        return n;
    }
    if (n > d->end - used)
        n = d->end - used;
    *unused = used;
    store_relaxed(&d->used, used + n);
    if (n)
        show_blocks(used, n);
    return n;
}

/* ---- caches ---- */

void flow__block_cache_open(struct flow__block_cache *cache, int node)
{
    const struct flow__registry *r = &flow__registry;

    memset(cache, 0, sizeof *cache);
    if (node < 0 || node >= r->n_nodes)
        node = 0;
    cache->node = node;
    cache->home = (uintptr_t)(r->base + r->depot[node].first);
    cache->home_bytes = (size_t)r->stride * sizeof(struct flow__task);
}

static struct flow__task *first_use(uint32_t slot)
{
    struct flow__task *t = &flow__registry.base[slot];

    store_relaxed(&t->wait, flow__registry.first_wait);
    store_relaxed(&t->life, flow__registry.first_life);
    return t;
}

static struct flow__task *take_unused(struct flow__block_cache *cache)
{
    return cache->next_unused < cache->end_unused ? first_use(cache->next_unused++) : NULL;
}

static struct flow__task *take_borrowed(struct flow__block_cache *cache)
{
    struct flow__link *link = cache->borrowed;

    if (!link)
        return NULL;
    cache->borrowed = link->next;
    return flow__task_of_link(link);
}

/* From a depot into the cache: how many. */
static uint32_t fetch(struct flow__block_cache *cache, int node, struct flow__link **list)
{
    struct flow__block_depot *d = &flow__registry.depot[node];
    uint32_t n, first = 0;

    flow__lock(&d->lock);
    n = take_some(d, list, &first);
    flow__unlock(&d->lock);
    if (n && !*list) {
        cache->next_unused = first;
        cache->end_unused = first + n;
    }
    return n;
}

/* Nothing is left at home. A borrowed list is handed out block by block, with a look at home
 * before each: nothing should be borrowed for longer than needed. */
static struct flow__task *borrow(struct flow__block_cache *cache)
{
    struct flow__task *t = take_borrowed(cache);

    for (int node = flow__arena_next_near(cache->node, cache->node); !t && node >= 0;
         node = flow__arena_next_near(cache->node, node)) {
        uint32_t n = fetch(cache, node, &cache->borrowed);

        fetch_add_relaxed(&flow__registry.borrowed, n);
        t = cache->borrowed ? take_borrowed(cache) : take_unused(cache);
    }
    return t;
}

struct flow__task *flow__block_refill(struct flow__block_cache *cache)
{
    struct flow__task *t;

    if (cache->spare) {
        cache->list = cache->spare;
        cache->spare = NULL;
        cache->n = FLOW__CHAIN;
        return flow__block_take(cache);
    }
    t = take_unused(cache);
    if (t)
        return t;
    cache->n = fetch(cache, cache->node, &cache->list);
    if (cache->list)
        return flow__block_take(cache);
    cache->n = 0;
    t = take_unused(cache);
    return t ? t : borrow(cache);
}

void flow__block_flush(struct flow__block_cache *cache)
{
    struct flow__block_depot *d = &flow__registry.depot[cache->node];

    if (cache->spare) {
        flow__lock(&d->lock);
        put_chain(d, cache->spare);
        flow__unlock(&d->lock);
    }
    cache->spare = cache->list;
    cache->list = NULL;
    cache->n = 0;
}

/* ---- blocks of other nodes ---- */

/* Those of one node among the blocks that are away; one lock for all of them. */
static struct flow__link *send_home(struct flow__link *list, int node)
{
    struct flow__block_depot *d = &flow__registry.depot[node];
    struct flow__link *rest = NULL, *next;

    flow__lock(&d->lock);
    for (; list; list = next) {
        next = list->next;
        if (flow__node_of_slot(flow__slot_of(flow__task_of_link(list))) == node) {
            put_loose(d, list);
        } else {
            list->next = rest;
            rest = list;
        }
    }
    flow__unlock(&d->lock);
    return rest;
}

void flow__blocks_go_home(struct flow__block_cache *cache)
{
    fetch_add_relaxed(&flow__registry.sent_home, cache->n_away);
    while (cache->away)
        cache->away =
            send_home(cache->away, flow__node_of_slot(flow__slot_of(flow__task_of_link(cache->away))));
    cache->n_away = 0;
}

void flow__block_put_away(struct flow__block_cache *cache, struct flow__task *t)
{
    t->link.next = cache->away;
    cache->away = &t->link;
    if (++cache->n_away == FLOW__CHAIN)
        flow__blocks_go_home(cache);
}

/* ---- stand-ins ---- */

struct flow__task *flow__stand_in_take(void)
{
    struct flow__registry *r = &flow__registry;
    struct flow__link *link = r->stand_ins;
    struct flow__task *t;
    uint32_t n;

    if (link) {
        r->stand_ins = link->next;
        return flow__task_of_link(link);
    }
    n = load_relaxed(&r->used_stand_ins);
    if (n == r->n_stand_ins)
        return NULL;
    t = first_use(r->n_blocks + n);
    store_relaxed(&r->used_stand_ins, n + 1);
    return t;
}

void flow__stand_in_give(struct flow__task *t)
{
    t->link.next = flow__registry.stand_ins;
    flow__registry.stand_ins = &t->link;
}
