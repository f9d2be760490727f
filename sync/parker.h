/* SPDX-License-Identifier: MIT
 *
 * How idle workers sleep and how work finds one of them: one word per worker
 * that it sleeps on, and one `flow__idle` per group of workers that counts who
 * looks for work and who sleeps.
 *
 * The lost-wake-up argument. Work is published in two ways.
 *   To the group (a ring, the shared queue): the publisher pushes, passes a full
 *   barrier, then reads the group's state; it wakes a sleeper only if somebody sleeps
 *   and nobody searches. The sleeper announces itself in the state (a full barrier),
 *   then looks at every queue once more, then sleeps. Of push-then-read and
 *   announce-then-look at least one sees the other. The same holds for a searcher that
 *   gives up: it leaves the count of searchers first and looks again after that; so "somebody
 *   searches" is a promise that the work will be seen.
 *   To one worker (its inbox): the push is the barrier; then the word is read.
 *   The worker sets its word to PARKED (a full barrier), then looks into its inbox.
 *
 * A wake in flight counts as a searcher, so at most one is in flight; who was
 * woken wakes the next one if it leaves work behind.
 *
 * Searchers may go by hints (core/group.h); the look after an announcement is at the
 * queues themselves. So a hint that is missing delays work, and never loses it.
 *
 * Several groups. Who publishes to a group reads the state of that group, and its sleepers look at the
 * queues of their own group only. The argument holds in each of them by itself: work in a group
 * is seen by a worker of the group, for the publisher either finds a sleeper to wake, or a
 * searcher, or all are awake and each will look before it sleeps. That another group helps makes
 * it quicker, no more. For this one sleeper of a group may stand sentry: it sleeps on the map
 * like the others, looks up now and then without leaving it, and is the last to be woken for
 * work of its own group and the first for help.
 *
 * The lookout. Some places are filled and emptied again all the time before anybody who was woken for them
 * could come (LIFO slots). One sleeper may look at these now and then of its own accord; while it stands, who
 * publishes there wakes nobody. It says that it stands after it is announced, and, when it ends, says so
 * (a full barrier) and then looks at these places; a publisher pushes (a full barrier) and then reads
 * whether somebody stands. So what was pushed without a wake is seen, at the latest then. (Instead of looking
 * it may search, or make sure after its barrier that somebody searches.)
 *
 * Word: RUNNING -> PARKED and anything -> RUNNING by its worker; PARKED -> NOTIFIED or
 * SUMMONED by the one waker whose CAS wins. Only the worker itself enters and leaves
 * the map and the count, so both may still show one that was just woken. */
#ifndef FLOW_SYNC_PARKER_H
#define FLOW_SYNC_PARKER_H

#include "sync/atomic.h"

#include <stddef.h>

#define FLOW__MAX_WORKERS 1024

enum {
    FLOW__RUNNING,
    FLOW__PARKED,
    FLOW__NOTIFIED, /* woken for something in its inbox */
    FLOW__SUMMONED, /* woken to search; it is counted as a searcher already */
};

struct flow__parker {
    flow__atomic(uint32_t) word;
};

static inline struct flow__parker *flow__parker_of(struct flow__parker *parkers, size_t stride,
                                                   int worker)
{
    return (struct flow__parker *)((char *)parkers + (size_t)worker * stride);
}

struct flow__idle {
    /* Low half: searchers. High half: sleepers. Written by every worker as it
     * changes its mind, read at every spawn. */
    flow__cache_aligned flow__atomic(uint64_t) state;
    flow__atomic(bool) lookout; /* one stands; written by who becomes it and ends being it */
    flow__cache_aligned flow__atomic(uint64_t) map[FLOW__MAX_WORKERS / 64]; /* who sleeps */
    flow__atomic(int) sentry; /* 1 + the worker, or 0; written by who becomes it and ends being it */
    int n_workers; /* constant while threads run */
};

#define FLOW__ONE_SEARCHER ((uint64_t)1)
#define FLOW__ONE_SLEEPER  ((uint64_t)1 << 32)

/* After work was published and a full barrier: is somebody to be woken? */
static inline bool flow__idle_wants_wake(struct flow__idle *idle)
{
    uint64_t s = load_seq(&idle->state);

    return s >= FLOW__ONE_SLEEPER && (uint32_t)s == 0;
}

/* The same after it was published where a lookout looks. */
static inline bool flow__idle_wants_wake_for_slot(struct flow__idle *idle)
{
    return flow__idle_wants_wake(idle) && !load_seq(&idle->lookout);
}

/* How many sleep or search, of those who have announced it before a full barrier of the caller's. */
static inline uint32_t flow__idle_count(struct flow__idle *idle)
{
    uint64_t s = load_seq(&idle->state);

    return (uint32_t)(s >> 32) + (uint32_t)s;
}

/* Wakes one sleeper to search, unless somebody searches already; the sentry only if there is no
 * other. parkers is indexed by worker, `stride` bytes apart. True if it woke one. Any thread. */
bool flow__idle_wake_one(struct flow__idle *idle, struct flow__parker *parkers, size_t stride);

/* Wakes the sentry, or any sleeper if there is none, though it may be that somebody searches.
 * True if it woke one. Any thread. */
bool flow__idle_call(struct flow__idle *idle, struct flow__parker *parkers, size_t stride);

/* A sleeper, announced and not yet asleep, becomes the sentry. False: there is one. */
bool flow__idle_stand_sentry(struct flow__idle *idle, int worker);
void flow__idle_end_sentry(struct flow__idle *idle);

/* A sleeper, announced and not yet asleep, becomes the lookout. False: there is one. */
bool flow__idle_stand_lookout(struct flow__idle *idle);

/* Ends that: then search, or see to it that somebody does, since others may have published without waking
 * anybody. */
void flow__idle_end_lookout(struct flow__idle *idle);

static inline bool flow__idle_has_sentry(struct flow__idle *idle)
{
    return load_seq(&idle->sentry) != 0;
}

/* Do all workers sleep? */
static inline bool flow__idle_all_sleep(struct flow__idle *idle)
{
    return load_seq(&idle->state) >> 32 == (uint64_t)idle->n_workers;
}

/* Wakes one certain worker if it sleeps. True if it did. Any thread. */
bool flow__parker_notify(struct flow__parker *parker);

/* Becomes a searcher, unless half of the workers are. */
bool flow__idle_start_search(struct flow__idle *idle);

/* Stops searching. True if it was the last one: it must then either have found
 * work (and wake the next if there is more) or look at every queue once more. */
bool flow__idle_end_search(struct flow__idle *idle);

/* Announces that the worker is about to sleep: look at every queue after this,
 * then flow__parker_sleep or flow__parker_cancel. */
void flow__parker_announce(struct flow__parker *parker, struct flow__idle *idle, int worker);

/* Takes the announcement back. Returns what the word had become: RUNNING if
 * nobody had woken us, else NOTIFIED or SUMMONED. */
uint32_t flow__parker_cancel(struct flow__parker *parker, struct flow__idle *idle, int worker);

/* After an announcement: sleeps until woken or the deadline. True if nobody has woken it: it
 * stays announced, and may go on sleeping. */
bool flow__parker_wait(struct flow__parker *parker, int64_t deadline);

/* flow__parker_wait, then flow__parker_cancel. */
uint32_t flow__parker_sleep(struct flow__parker *parker, struct flow__idle *idle, int worker,
                            int64_t deadline);

#endif
