/* SPDX-License-Identifier: MIT
 *
 * Wheel and heap of one worker; the scheme is in the header.
 * Invariant: each armed timer is in exactly one slot list or heap entry, and
 * armed = sum of the lists' lengths + heap_count. A timer in a slot of level l differs
 * from now_tick first in the l-th group of 6 bits, so slots of one level lie in the
 * future in order, and all of a level before all of the next. */
#include "core/timer.h"

#include "core/arena.h"
#include "core/check.h"

#include <errno.h>
#include <string.h>

#define SLOT_BITS 6
#define IN_HEAP   UINT32_MAX

static uint64_t tick_of(int64_t deadline)
{
    return deadline < 0 ? 0 : (uint64_t)deadline >> FLOW__TICK_SHIFT;
}

void flow__timers_init(struct flow__timers *w, int64_t now, int node)
{
    memset(w, 0, sizeof *w);
    w->now_tick = tick_of(now);
    w->node = node;
}

void flow__timers_free(struct flow__timers *w)
{
    flow__arena_unmap(w->heap, w->heap_capacity * sizeof *w->heap);
    w->heap = NULL;
    w->heap_capacity = 0;
}

int flow__timers_reserve(struct flow__timers *w, uint32_t n)
{
    uint32_t capacity = w->heap_capacity ? w->heap_capacity : 256;
    struct flow__heap_entry *heap;

    if (n <= w->heap_capacity)
        return 0;
    while (capacity < n)
        capacity *= 2;
    heap = flow__arena_map(capacity * sizeof *heap, w->node, 0);
    if (!heap)
        return -ENOMEM;
    if (w->heap_count)
        memcpy(heap, w->heap, w->heap_count * sizeof *heap);
    flow__arena_unmap(w->heap, w->heap_capacity * sizeof *heap);
    w->heap = heap;
    w->heap_capacity = capacity;
    return 0;
}

/* ---- the heap: four children a node, for shallow paths ---- */

static void heap_put(struct flow__timers *w, uint32_t i, struct flow__heap_entry e)
{
    w->heap[i] = e;
    e.timer->heap_index = i;
}

static void heap_up(struct flow__timers *w, uint32_t i, struct flow__heap_entry e)
{
    while (i > 0) {
        uint32_t parent = (i - 1) / 4;

        if (w->heap[parent].deadline <= e.deadline)
            break;
        heap_put(w, i, w->heap[parent]);
        i = parent;
    }
    heap_put(w, i, e);
}

static void heap_down(struct flow__timers *w, uint32_t i, struct flow__heap_entry e)
{
    for (;;) {
        uint32_t least = 4 * i + 1, end = least + 4;

        if (least >= w->heap_count)
            break;
        if (end > w->heap_count)
            end = w->heap_count;
        for (uint32_t child = least + 1; child < end; child++)
            if (w->heap[child].deadline < w->heap[least].deadline)
                least = child;
        if (w->heap[least].deadline >= e.deadline)
            break;
        heap_put(w, i, w->heap[least]);
        i = least;
    }
    heap_put(w, i, e);
}

static void heap_add(struct flow__timers *w, struct flow__timer *t)
{
    struct flow__heap_entry e = {t->deadline, t};

    flow__check(w->heap_count < w->heap_capacity); /* the caller reserved it */
    t->where = IN_HEAP;
    heap_up(w, w->heap_count++, e);
}

static void heap_remove(struct flow__timers *w, uint32_t i)
{
    struct flow__heap_entry last = w->heap[--w->heap_count];

    if (i == w->heap_count)
        return;
    if (i > 0 && last.deadline < w->heap[(i - 1) / 4].deadline)
        heap_up(w, i, last);
    else
        heap_down(w, i, last);
}

/* ---- the wheel ---- */

static void slot_add(struct flow__timers *w, struct flow__timer *t, uint64_t tick)
{
    int level = (63 - __builtin_clzll(tick ^ w->now_tick)) / SLOT_BITS;
    uint32_t slot = (tick >> (level * SLOT_BITS)) % FLOW__WHEEL_SLOTS;
    struct flow__timer **head = &w->slot[level][slot];
    uint64_t bit = (uint64_t)1 << slot;

    if (!(w->occupied[level] & bit) || t->deadline < w->earliest[level][slot])
        w->earliest[level][slot] = t->deadline;
    w->occupied[level] |= bit;
    t->where = (uint32_t)level * FLOW__WHEEL_SLOTS + slot;
    t->next = *head;
    t->link = head;
    if (*head)
        (*head)->link = &t->next;
    *head = t;
}

static void place(struct flow__timers *w, struct flow__timer *t)
{
    uint64_t tick = tick_of(t->deadline);

    if (tick <= w->now_tick)
        heap_add(w, t);
    else
        slot_add(w, t, tick);
}

void flow__timer_add(struct flow__timers *w, struct flow__timer *t, int64_t deadline)
{
    t->deadline = deadline;
    place(w, t);
    count_up(&w->armed, 1);
}

void flow__timer_remove(struct flow__timers *w, struct flow__timer *t)
{
    count_up(&w->armed, -1);
    if (t->where == IN_HEAP) {
        heap_remove(w, t->heap_index);
        return;
    }
    *t->link = t->next;
    if (t->next)
        t->next->link = t->link;
    if (!w->slot[t->where / FLOW__WHEEL_SLOTS][t->where % FLOW__WHEEL_SLOTS])
        w->occupied[t->where / FLOW__WHEEL_SLOTS] &= ~((uint64_t)1 << t->where % FLOW__WHEEL_SLOTS);
}

/* The first occupied slot: the lowest level that has one, there the lowest
 * slot (those before now are empty). Returns its first tick; false if all are empty. */
static bool first_slot(const struct flow__timers *w, int *level, uint32_t *slot, uint64_t *tick)
{
    for (int l = 0; l < FLOW__WHEEL_LEVELS; l++) {
        if (!w->occupied[l])
            continue;
        int shift = l * SLOT_BITS, above = shift + SLOT_BITS;

        *level = l;
        *slot = (uint32_t)__builtin_ctzll(w->occupied[l]);
        *tick = (above < 64 ? w->now_tick >> above << above : 0) | (uint64_t)*slot << shift;
        return true;
    }
    return false;
}

/* Moves the wheel to `tick`, emptying every slot whose time has come. */
static void turn_to(struct flow__timers *w, uint64_t tick)
{
    int level;
    uint32_t slot;
    uint64_t start;

    while (first_slot(w, &level, &slot, &start) && start <= tick) {
        struct flow__timer *t = w->slot[level][slot];

        w->slot[level][slot] = NULL;
        w->occupied[level] &= ~((uint64_t)1 << slot);
        w->now_tick = start;
        while (t) {
            struct flow__timer *next = t->next;

            place(w, t);
            t = next;
        }
    }
    if (tick > w->now_tick)
        w->now_tick = tick;
}

struct flow__timer *flow__timers_expired(struct flow__timers *w, int64_t now)
{
    struct flow__timer *t;

    if (tick_of(now) > w->now_tick)
        turn_to(w, tick_of(now));
    if (w->heap_count == 0 || w->heap[0].deadline > now)
        return NULL;
    t = w->heap[0].timer;
    heap_remove(w, 0);
    count_up(&w->armed, -1);
    return t;
}

int64_t flow__timers_next(const struct flow__timers *w)
{
    int64_t next = w->heap_count ? w->heap[0].deadline : INT64_MAX;

    /* The first slot of each level, not of the lowest only: bounds of emptied
     * neighbours may be too low, never too high. */
    for (int l = 0; l < FLOW__WHEEL_LEVELS; l++) {
        if (!w->occupied[l])
            continue;
        int64_t bound = w->earliest[l][__builtin_ctzll(w->occupied[l])];

        if (bound < next)
            next = bound;
    }
    return next;
}
