/* SPDX-License-Identifier: MIT
 *
 * Walking a stack that is not our own: from a saved context or a signal's registers to the callers,
 * by the tables that the compiler leaves for exceptions (.eh_frame), which every program has and
 * which need no frame pointers.
 *
 * It may be pointed at the stack of a coroutine that goes on meanwhile, and at any rubbish: it reads
 * nothing but the bytes of the given view and the tables of loaded modules, follows nothing that
 * does not move outwards, allocates nothing and calls nothing but dl_iterate_phdr. So the worst that
 * can come out is a wrong list, and whether the stack has stood still is for the caller to find out.
 *
 * Why not a library: libgcc's and libunwind's local walkers read live memory without bounds, and
 * fault when it changes under them; libunwind's remote one costs microseconds a frame. Here what a
 * return address means is worked out once and kept, so that a frame costs some nanoseconds. */
#ifndef FLOW_CORE_UNWIND_H
#define FLOW_CORE_UNWIND_H

#include "core/cfi.h"

#include <stdbool.h>
#include <stdint.h>

#define FLOW__FRAMES 48 /* kept of a backtrace, the innermost ones */

struct flow__registers {
    uintptr_t pc, sp;
    uintptr_t kept[FLOW__KEPT];
    uint32_t known;   /* bit i: kept[i] */
    bool interrupted; /* pc is where it stands, not where a call returns to */
};

/* What may be read: addresses from low up to high, found at bytes. */
struct flow__view {
    uintptr_t low, high;
    const char *bytes;
};

#define FLOW__UNWIND_ROWS 4096 /* a power of two */

/* What is known of some code addresses. Zeroed memory; one thread at a time. */
struct flow__unwind_cache {
    uint32_t n_rows;
    struct flow__cfi_row row[FLOW__UNWIND_ROWS];
};

/* The registers of a context that flow__switch or flow__call has saved at sp. False: not within the
 * view. */
bool flow__registers_of(struct flow__registers *r, uintptr_t sp, const struct flow__view *view);

/* The return addresses from the innermost frame outwards into pc[], at most `most`; returns their
 * number. *complete: the last one is where the stack begins. */
int flow__unwind(struct flow__unwind_cache *cache, const struct flow__registers *from,
                 const struct flow__view *view, uintptr_t *pc, int most, bool *complete);

#endif
