/* SPDX-License-Identifier: MIT
 *
 * The timers of one worker: a hierarchical wheel for what is far, a heap for
 * what is near. One thread, no lock.
 *
 * A timer whose 65-microsecond tick has not come lies in a wheel slot: adding and
 * removing it is a list operation, which is all that most deadlines ever cost.
 * When a slot's time comes its timers go down a level, and from the lowest level to
 * the heap, from which they fire in exact order of their deadlines, never early.
 * Each slot keeps a lower bound of its deadlines, so that a sleeping worker
 * is woken for a deadline and not for a tick.
 *
 * Levels are chosen by the highest differing bit of the tick and now, 6 bits a level
 * (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987, scheme 7). */
#ifndef FLOW_CORE_TIMER_H
#define FLOW_CORE_TIMER_H

#include "sync/atomic.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FLOW__TICK_SHIFT   16
#define FLOW__WHEEL_LEVELS 8
#define FLOW__WHEEL_SLOTS  64

struct flow__timer {
    struct flow__timer *next, **link; /* in a wheel slot */
    int64_t deadline;
    uint32_t where; /* see timer.c */
    uint32_t heap_index;
};

struct flow__heap_entry {
    int64_t deadline;
    struct flow__timer *timer;
};

struct flow__timers {
    uint64_t now_tick;
    uint64_t occupied[FLOW__WHEEL_LEVELS];
    struct flow__timer *slot[FLOW__WHEEL_LEVELS][FLOW__WHEEL_SLOTS];
    int64_t earliest[FLOW__WHEEL_LEVELS][FLOW__WHEEL_SLOTS]; /* no timer of the slot is before */
    struct flow__heap_entry *heap;
    uint32_t heap_count, heap_capacity;
    int node;
    flow__atomic(uint32_t) armed; /* in wheel and heap; written by the owner */
};

/* node: where its memory comes from, as in core/arena.h. */
void flow__timers_init(struct flow__timers *timers, int64_t now, int node);
void flow__timers_free(struct flow__timers *timers);

/* Makes room for n timers at once, so that adding one cannot fail. 0 or -ENOMEM. */
int flow__timers_reserve(struct flow__timers *timers, uint32_t n);

/* Arms a timer. deadline may be in the past; it must not be FLOW_FOREVER. */
void flow__timer_add(struct flow__timers *timers, struct flow__timer *timer, int64_t deadline);

/* Disarms it; the timer must be armed. */
void flow__timer_remove(struct flow__timers *timers, struct flow__timer *timer);

/* Takes the earliest timer that has expired at `now` out, or NULL. */
struct flow__timer *flow__timers_expired(struct flow__timers *timers, int64_t now);

/* No timer expires before this; INT64_MAX if there is none. */
int64_t flow__timers_next(const struct flow__timers *timers);

#endif
