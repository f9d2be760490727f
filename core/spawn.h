/* SPDX-License-Identifier: MIT
 *
 * The beginning of a task's life, for all files that make one. */
#ifndef FLOW_CORE_SPAWN_H
#define FLOW_CORE_SPAWN_H

#include "core/worker.h"

/* Fills in a block that was just taken: a task of the default kind, but for more `flags`, that has not been
 * queued. `life` has the flags that it begins with. */
static inline void flow__reset_task(struct flow__task *t, flow_fn fn, void *arg, void *site,
                                    uint32_t flags, unsigned life)
{
    struct flow__runtime *rt = &flow__runtime;

    t->fn = fn;
    t->arg = arg;
    t->spawn_site = site;
    store_relaxed(&t->flags, flags | (rt->options.roam ? FLOW_ROAM : 0));
    t->stack_class = (uint8_t)rt->default_class;
    /* A new life: not cancelled, not waiting; the epoch goes on counting. */
    store_relaxed(&t->wait, load_relaxed(&t->wait) >> FLOW__EPOCH_SHIFT << FLOW__EPOCH_SHIFT);
    /* [LIFE-1] release: pairs with [LIFE-2]; who reads this generation sees the fields above. */
    store_release(&t->life, load_relaxed(&t->life) >> 32 << 32 | life);
    flow__tsan_before(&t->strand); /* it begins after what its spawner has done */
}

/* flow_spawn_with, for a scope or, if that is NULL, for nobody; site is where it is called. */
int flow__spawn_into(struct flow__scope *scope, flow_task *out,
                     const struct flow_spawn_options *options, flow_fn fn, void *arg, void *site);

#endif
