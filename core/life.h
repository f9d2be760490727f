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

/* The foreign threads' blocks. */
struct flow__task *flow__take_foreign_block(void);
void flow__give_foreign_block(struct flow__task *t);

/* Puts a block whose life word is FREE already back. w: the caller's worker or NULL. */
static inline void flow__give_block(struct flow__worker *w, struct flow__task *t)
{
    /* A generation that has come round would revive old handles: such a slot is not used again. */
    if (flow__unlikely(flow__generation_of(load_relaxed(&t->life)) == 0))
        return;
    if (flow__likely(w != NULL))
        flow__block_give(&w->blocks, t);
    else
        flow__give_foreign_block(t);
}

void flow__drop_detail_slowly(struct flow__task *t);

static inline void flow__drop_detail(struct flow__task *t)
{
    if (flow__unlikely(load_relaxed(&t->detail) != NULL))
        flow__drop_detail_slowly(t);
}

#endif
