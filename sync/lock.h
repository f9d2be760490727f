/* SPDX-License-Identifier: MIT
 *
 * A small mutex for cold paths (shared queues, depots, registration). Any
 * thread; held for well under a microsecond; never across a suspension, a system call that
 * blocks, or another lock unless the order is written at both.
 *
 * Word: 0 free, 1 held, 2 held and somebody may sleep. The algorithm is the
 * third mutex of Drepper, "Futexes Are Tricky" (2011). */
#ifndef FLOW_SYNC_LOCK_H
#define FLOW_SYNC_LOCK_H

#include "sync/syscall.h"

struct flow__lock {
    flow__atomic(uint32_t) word;
};

static inline void flow__lock(struct flow__lock *l)
{
    uint32_t seen = 0;

    /* [LOCK-1] acquire: pairs with [LOCK-2]; what the last holder wrote is visible. */
    if (flow__likely(cas_acquire(&l->word, &seen, 1)))
        return;
    for (int i = 0; i < flow__rounds(100); i++) {
        flow__pause();
        seen = 0;
        if (load_relaxed(&l->word) == 0 && cas_acquire(&l->word, &seen, 1))
            return;
    }
    /* From here on the word says 2: it may be more cautious than the truth, never less. */
    while (exchange_acquire(&l->word, 2) != 0)
        flow__sys.futex_wait(&l->word, 2, INT64_MAX);
}

static inline void flow__unlock(struct flow__lock *l)
{
    /* [LOCK-2] seq_cst includes release: pairs with [LOCK-1]. */
    if (exchange_seq(&l->word, 0) == 2)
        flow__sys.futex_wake(&l->word, 1);
}

#endif
