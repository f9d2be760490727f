/* SPDX-License-Identifier: MIT
 *
 * The depot of control blocks; see the header. Any thread. Memory comes from the
 * kernel zeroed and is touched first when a block is first used, by its worker. */
#include "core/registry.h"

#include "core/reserve.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE ((size_t)2 << 20)

struct flow__registry flow__registry;

int flow__registry_open(uint32_t n_blocks, uint32_t n_stand_ins)
{
    struct flow__registry *r = &flow__registry;
    size_t bytes = ((size_t)n_blocks + n_stand_ins) * sizeof(struct flow__task);

    memset(r, 0, sizeof *r);
    r->mapped_bytes = bytes + HUGE;
    r->mapping = flow__reserve(r->mapped_bytes, 0);
    if (!r->mapping)
        return -ENOMEM;
    r->base = (struct flow__task *)(((uintptr_t)r->mapping + HUGE - 1) & ~(HUGE - 1));
    r->n_blocks = n_blocks;
    r->n_stand_ins = n_stand_ins;
    /* Huge pages save two thirds of the cost of a large batch's first pass. Small programs
     * stay within the first 2 MiB and pay for small pages. */
    if (bytes > HUGE)
        flow__sys.advise((char *)r->base + HUGE, bytes - HUGE, MADV_HUGEPAGE);
    return 0;
}

void flow__registry_close(void)
{
    struct flow__registry *r = &flow__registry;

    r->n_blocks = 0;
    flow__sys.unmap(r->mapping, r->mapped_bytes);
}

static struct flow__link *take_chain(struct flow__registry *r)
{
    struct flow__link *chain = r->chains;

    if (chain) {
        struct flow__link *second = chain->next;

        /* The second block's home field carries the next chain while both are free. */
        r->chains = (struct flow__link *)flow__task_of_link(second)->home;
        flow__task_of_link(second)->home = NULL;
    }
    return chain;
}

static void put_chain(struct flow__registry *r, struct flow__link *chain)
{
    flow__lock(&r->lock);
    flow__task_of_link(chain->next)->home = (struct flow__worker *)r->chains;
    r->chains = chain;
    flow__unlock(&r->lock);
}

static struct flow__task *first_use(uint32_t slot)
{
    struct flow__task *t = &flow__registry.base[slot];

    store_relaxed(&t->life, (uint64_t)1 << 32 | FLOW__LIFE_FREE);
    return t;
}

struct flow__task *flow__block_refill(struct flow__block_cache *cache)
{
    struct flow__registry *r = &flow__registry;
    uint32_t used;

    if (cache->spare) {
        cache->list = cache->spare;
        cache->spare = NULL;
        cache->n = FLOW__CHAIN;
        return flow__block_take(cache);
    }
    if (cache->next_unused < cache->end_unused)
        return first_use(cache->next_unused++);

    flow__lock(&r->lock);
    cache->list = take_chain(r);
    used = load_relaxed(&r->used);
    if (!cache->list) {
        cache->next_unused = used;
        used = r->n_blocks - used < FLOW__CHAIN ? r->n_blocks : used + FLOW__CHAIN;
        cache->end_unused = used;
        store_relaxed(&r->used, used);
    }
    flow__unlock(&r->lock);

    if (cache->list) {
        cache->n = FLOW__CHAIN;
        return flow__block_take(cache);
    }
    return cache->next_unused < cache->end_unused ? first_use(cache->next_unused++) : NULL;
}

struct flow__task *flow__stand_in_take(void)
{
    struct flow__registry *r = &flow__registry;
    struct flow__link *link = r->stand_ins;

    if (link) {
        r->stand_ins = link->next;
        return flow__task_of_link(link);
    }
    return r->used_stand_ins < r->n_stand_ins ? first_use(r->n_blocks + r->used_stand_ins++) : NULL;
}

void flow__stand_in_give(struct flow__task *t)
{
    t->link.next = flow__registry.stand_ins;
    flow__registry.stand_ins = &t->link;
}

void flow__block_flush(struct flow__block_cache *cache)
{
    if (cache->spare)
        put_chain(&flow__registry, cache->spare);
    cache->spare = cache->list;
    cache->list = NULL;
    cache->n = 0;
}
