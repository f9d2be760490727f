/* SPDX-License-Identifier: MIT
 *
 * The end of a block's life, for all files that may free one. */
#ifndef FLOW_CORE_LIFE_H
#define FLOW_CORE_LIFE_H

#include "core/worker.h"

static inline uint64_t flow__next_life(uint64_t word)
{
    return ((word >> 32) + 1) << 32 | FLOW__LIFE_FREE;
}

/* The foreign threads' blocks: for a task that a group is to run, counted as spawned under the same lock;
 * back to where it belongs. */
struct flow__task *flow__take_foreign_block(struct flow__group *g);
void flow__give_foreign_block(struct flow__task *t);

/* Of a task that was not queued after all. */
void flow__uncount_foreign_spawn(void);

/* Puts a block back whose life word is FREE already, and is given as `life`. w owns the caller. */
static inline void flow__give_block_to(struct flow__worker *w, struct flow__task *t, uint64_t life)
{
    /* A generation that has come round would revive old handles: such a slot is not used again. */
    if (flow__likely(flow__generation_of(life) != 0))
        flow__block_give(&w->blocks, t);
}

/* The same where w may be NULL: a foreign thread. */
static inline void flow__give_block(struct flow__worker *w, struct flow__task *t, uint64_t life)
{
    if (flow__likely(w != NULL))
        flow__give_block_to(w, t, life);
    else if (flow__generation_of(life) != 0)
        flow__give_foreign_block(t);
}

void flow__drop_detail_slowly(struct flow__task *t);

static inline void flow__drop_detail(struct flow__task *t)
{
    if (flow__unlikely(load_relaxed(&t->detail) != NULL))
        flow__drop_detail_slowly(t);
}

#endif
