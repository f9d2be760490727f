/* SPDX-License-Identifier: MIT
 *
 * Choices made by chance; what for stands in the header. Owner only, without locks: what thieves
 * may take at the same time is moved by the owner's own pops and pushes. */
#include "core/shuffle.h"

#include "core/queues.h"

#define MOST_PAUSES  2000  /* some tens of microseconds */
#define NAP_NS       50000 /* at most */
#define MOST_TURNS   8     /* places by which a queue is turned */
#define SHORT_BUDGET 4

/* splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014). */
static uint64_t chance(struct flow__worker *w)
{
    uint64_t z = w->chance += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint32_t below(struct flow__worker *w, uint32_t n)
{
    return (uint32_t)((chance(w) >> 32) * n >> 32);
}

void flow__shuffle_open(struct flow__worker *w)
{
    w->allowance = FLOW__BUDGET;
    w->shuffled = flow__runtime.options.shuffle != 0;
    w->chance = (uint64_t)flow__runtime.options.shuffle + ((uint64_t)w->index << 48);
}

uint32_t flow__shuffle_some(struct flow__worker *w, uint32_t n)
{
    return 1 + below(w, n);
}

/* ---- what is ready ---- */

/* Any of them may be the next one. */
static void mix_ready(struct flow__worker *w)
{
    struct flow__ready *r = &w->ready;
    uint32_t n = flow__ready_count(r);
    struct flow__task **first = &r->entry[r->head & r->mask], **other, *t;

    if (n < 2)
        return;
    other = &r->entry[(r->head + below(w, n)) & r->mask];
    t = *first;
    *first = *other;
    *other = t;
}

static void turn_ring(struct flow__worker *w)
{
    uint32_t n = flow__ring_count(&w->ring);
    struct flow__task *t;

    if (n < 2)
        return;
    for (n = below(w, n < MOST_TURNS ? n : MOST_TURNS); n > 0; n--) {
        t = flow__ring_pop(&w->ring);
        if (!t)
            return; /* thieves took the rest */
        flow__ring_push(&w->ring, t);
    }
    /* One that was on its way to sleep may not have seen what we held in our hand. */
    if (w->n_victims > 0)
        flow__fence_and_wake_searcher(w);
}

static void turn_own(struct flow__worker *w)
{
    if (w->own.count < 2)
        return;
    for (uint32_t n = below(w, MOST_TURNS); n > 0; n--)
        flow__list_append(&w->own, flow__list_take(&w->own));
}

/* Of the kinds: see next_local() and pop_unstarted() in core/scheduler.c. */
static void choose_kind(struct flow__worker *w)
{
    uint64_t r = chance(w);

    w->ready_streak = r & 1 ? 0 : FLOW__READY_STREAK;
    w->start_streak = 0;
    w->lifo_streak = r & 2 ? 0 : UINT32_MAX;
    w->own_turn = r & 4 ? 7 : 0;
}

/* ---- time ---- */

/* Naps only where threads run: with workers = 0 the clock may be the test's. */
static void pause_sometimes(struct flow__worker *w)
{
    uint64_t r = chance(w);
    flow__atomic(uint32_t) nobody = 0;

    if (flow__runtime.n_workers == 0)
        return;
    if (r % 16 == 0)
        for (uint32_t n = below(w, MOST_PAUSES); n > 0; n--)
            flow__pause();
    if (r % 1024 == 1)
        flow__sys.futex_wait(&nobody, 0, flow__sys.now() + below(w, NAP_NS));
}

void flow__shuffle(struct flow__worker *w)
{
    w->until_poll = 1;
    w->allowance = 1 + (int32_t)below(w, chance(w) % 4 ? SHORT_BUDGET : FLOW__BUDGET);
    flow__drain_inbox(w);
    mix_ready(w);
    turn_ring(w);
    turn_own(w);
    choose_kind(w);
    pause_sometimes(w);
}

/* ---- whom to rob ---- */

/* The row is this worker's; nobody else reads it after the start. */
void flow__shuffle_victims(struct flow__worker *w)
{
    uint16_t *all = flow__runtime.placement.victims, *row = all + (w->victims - all);

    for (int n = w->n_mates; n > 1; n--) {
        uint32_t other = below(w, (uint32_t)n);
        uint16_t last = row[n - 1];

        row[n - 1] = row[other];
        row[other] = last;
    }
    pause_sometimes(w);
}
