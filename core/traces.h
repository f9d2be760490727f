/* SPDX-License-Identifier: MIT
 *
 * Backtraces by their number: equal ones of tasks that were spawned at the same place are one entry,
 * with a count and the first few tasks. One thread, for one dump. */
#ifndef FLOW_CORE_TRACES_H
#define FLOW_CORE_TRACES_H

#include "core/snapshot.h"
#include "core/symbol.h"
#include "core/text.h"

struct flow__traces;

/* The memory for one dump, touched as far as it is used; NULL: the system refuses. */
struct flow__traces *flow__traces_open(void);
void flow__traces_close(struct flow__traces *traces);

/* For flow__snapshot. */
struct flow__unwind_cache *flow__traces_cache(struct flow__traces *traces);

/* Counts a task; the number of its entry, from 1, or 0: there are too many different ones. */
unsigned flow__traces_add(struct flow__traces *traces, const struct flow__snapshot *s);

/* All entries, those with the most tasks first. */
void flow__traces_print(struct flow__traces *traces, struct flow__text *out);

struct flow__symbols *flow__traces_symbols(struct flow__traces *traces);

/* One backtrace, a line for each frame, after an indent. All of it are return addresses, unless the
 * first is this one, where somebody stands. */
void flow__trace_print(const struct flow__backtrace *trace, uintptr_t interrupted_at,
                       struct flow__symbols *symbols, struct flow__text *out);

#endif
