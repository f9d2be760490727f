/* SPDX-License-Identifier: MIT
 *
 * Sleeping and waking of workers; the argument is in the header. */
#include "sync/parker.h"

#include "sync/syscall.h"

#include <errno.h>

static bool claim(struct flow__parker *parker, uint32_t as)
{
    uint32_t seen = FLOW__PARKED;

    if (load_seq(&parker->word) != FLOW__PARKED || !cas_seq(&parker->word, &seen, as))
        return false;
    flow__sys.futex_wake(&parker->word, 1);
    return true;
}

/* The next worker from `from` on that is on the map and really sleeps, or -1. */
static int next_sleeper(struct flow__idle *idle, struct flow__parker *parkers, size_t stride,
                        int from)
{
    for (int worker = from; worker < idle->n_workers; worker = (worker | 63) + 1) {
        uint64_t sleeping = load_seq(&idle->map[worker / 64]) & (~(uint64_t)0 << (worker % 64));

        for (; sleeping; sleeping &= sleeping - 1) {
            int found = (worker & ~63) + __builtin_ctzll(sleeping);

            if (load_seq(&flow__parker_of(parkers, stride, found)->word) == FLOW__PARKED)
                return found;
        }
    }
    return -1;
}

static bool claim_sentry(struct flow__idle *idle, struct flow__parker *parkers, size_t stride,
                         uint32_t as)
{
    int sentry = load_seq(&idle->sentry);

    return sentry > 0 && claim(flow__parker_of(parkers, stride, sentry - 1), as);
}

bool flow__idle_wake_one(struct flow__idle *idle, struct flow__parker *parkers, size_t stride)
{
    uint64_t s = load_relaxed(&idle->state);

    while (s >= FLOW__ONE_SLEEPER && (uint32_t)s == 0) {
        if (!cas_seq(&idle->state, &s, s + FLOW__ONE_SEARCHER))
            continue;
        for (int w = -1; (w = next_sleeper(idle, parkers, stride, w + 1)) >= 0;)
            if (w + 1 != load_relaxed(&idle->sentry) &&
                claim(flow__parker_of(parkers, stride, w), FLOW__SUMMONED))
                return true;
        if (claim_sentry(idle, parkers, stride, FLOW__SUMMONED))
            return true;
        /* Whom the state counts was just woken, or was not on the map yet. While we held the
         * claim a publisher may have trusted in it and a worker gone to sleep: look again. */
        s = fetch_sub_seq(&idle->state, FLOW__ONE_SEARCHER) - FLOW__ONE_SEARCHER;
        if (next_sleeper(idle, parkers, stride, 0) < 0)
            return false;
    }
    return false;
}

bool flow__idle_call(struct flow__idle *idle, struct flow__parker *parkers, size_t stride)
{
    if (claim_sentry(idle, parkers, stride, FLOW__NOTIFIED))
        return true;
    for (int w = -1; (w = next_sleeper(idle, parkers, stride, w + 1)) >= 0;)
        if (claim(flow__parker_of(parkers, stride, w), FLOW__NOTIFIED))
            return true;
    return false;
}

bool flow__idle_stand_sentry(struct flow__idle *idle, int worker)
{
    int nobody = 0;

    return load_relaxed(&idle->sentry) == 0 && cas_seq(&idle->sentry, &nobody, worker + 1);
}

void flow__idle_end_sentry(struct flow__idle *idle)
{
    exchange_seq(&idle->sentry, 0);
}

bool flow__idle_stand_lookout(struct flow__idle *idle)
{
    bool nobody = false;

    return cas_seq(&idle->lookout, &nobody, true);
}

void flow__idle_end_lookout(struct flow__idle *idle)
{
    exchange_seq(&idle->lookout, false);
}

bool flow__parker_notify(struct flow__parker *parker)
{
    /* [PARK-1] seq_cst: pairs with [PARK-2]. The caller's push came before, as a full barrier;
     * either we see PARKED here or the worker sees the push after it set PARKED. */
    return claim(parker, FLOW__NOTIFIED);
}

bool flow__idle_start_search(struct flow__idle *idle)
{
    uint64_t s = load_relaxed(&idle->state);

    do {
        if (2 * (int)(uint32_t)s >= idle->n_workers)
            return false;
    } while (!cas_seq(&idle->state, &s, s + FLOW__ONE_SEARCHER));
    return true;
}

bool flow__idle_end_search(struct flow__idle *idle)
{
    return (uint32_t)fetch_sub_seq(&idle->state, FLOW__ONE_SEARCHER) == 1;
}

void flow__parker_announce(struct flow__parker *parker, struct flow__idle *idle, int worker)
{
    /* [PARK-2] seq_cst, all three: pairs with [PARK-1] and with flow__idle_wants_wake()
     * after a publisher's barrier. The word first: who finds us on the map must be able to
     * wake us; the state last: whom it counts is on the map. */
    exchange_seq(&parker->word, FLOW__PARKED);
    fetch_or_seq(&idle->map[worker / 64], (uint64_t)1 << (worker % 64));
    fetch_add_seq(&idle->state, FLOW__ONE_SLEEPER);
}

uint32_t flow__parker_cancel(struct flow__parker *parker, struct flow__idle *idle, int worker)
{
    uint32_t was = exchange_seq(&parker->word, FLOW__RUNNING);

    fetch_and_seq(&idle->map[worker / 64], ~((uint64_t)1 << (worker % 64)));
    fetch_sub_seq(&idle->state, FLOW__ONE_SLEEPER);
    return was == FLOW__PARKED ? FLOW__RUNNING : was;
}

bool flow__parker_wait(struct flow__parker *parker, int64_t deadline)
{
    while (load_acquire(&parker->word) == FLOW__PARKED) {
        int r = flow__sys.futex_wait(&parker->word, FLOW__PARKED, deadline);

        if (r == -ETIMEDOUT || (r && deadline != INT64_MAX && flow__sys.now() >= deadline))
            return true;
    }
    return false;
}

uint32_t flow__parker_sleep(struct flow__parker *parker, struct flow__idle *idle, int worker,
                            int64_t deadline)
{
    flow__parker_wait(parker, deadline);
    return flow__parker_cancel(parker, idle, worker);
}
