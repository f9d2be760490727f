/* SPDX-License-Identifier: MIT
 *
 * A channel, and the two steps that everything done with one is made of: to put elements in and to
 * take them out, both under its lock and without waiting. core/channel.c and core/select.c wait.
 *
 *   ring        count elements from `head` on, up to the capacity
 *   senders     wait because the ring is full; the oldest's elements come after the ring's
 *   receivers   wait because nothing is there
 *
 * Under the lock, whenever it is free, of the waiters that can still be won:
 *   a sender waits    => count == capacity
 *   a receiver waits  => count == 0, and no sender waits but one of the same select
 *   closed            => nobody waits
 *
 * A waiter's item is where its elements lie or go, its value how many they are; who serves it
 * leaves there how many were passed on, and in outcome what its call returns.
 *
 * Who has served a waiter resumes it after letting go of the lock, and does not touch the channel
 * from then on: the one resumed may destroy it. `inside` counts the waiters that were not served;
 * each of these still has to take itself out, so there is no destroying while there are some. */
#ifndef FLOW_CORE_CHANNEL_H
#define FLOW_CORE_CHANNEL_H

#include "core/waiter.h"

#include <flowcoro/channel.h>

#include <errno.h>
#include <string.h>

/* At most so many elements are passed on under one holding of the lock. */
#define FLOW__CHAN_BATCH 32u

struct flow_chan {
    /* What each call touches, in one line. */
    flow__cache_aligned struct flow__spin lock; /* guards what follows, but for the constants */
    bool closed;
    uint32_t inside;
    const struct flow__worker *user; /* who made the last call; see core/channel.c */
    size_t count;
    size_t head, tail;           /* of the oldest element and of the next one, in bytes */
    size_t capacity, ring_bytes; /* constant */
    /* What a call only reads that finds room, or an element. */
    flow__cache_aligned size_t element_bytes; /* constant */
    struct flow__waiters senders, receivers;
    int64_t changed_at; /* `user` */
    void *memory;       /* constant: what was allocated */
    flow__cache_aligned char ring[];
};

/* Wins the oldest waiter of a queue that can be won, to be resumed later; NULL: there is none. */
static inline struct flow__waiter *flow__chan_serve(struct flow_chan *c, struct flow__waiters *q,
                                                    unsigned how, struct flow__claimed *served)
{
    struct flow__waiter *waiter = q->first ? flow__waiters_claim_as(q, how) : NULL;

    if (!waiter)
        return NULL;
    c->inside--;
    flow__claimed_add(served, waiter);
    return waiter;
}

static inline void flow__chan_copy(const struct flow_chan *c, void *to, const void *from, size_t n)
{
    if (n == 1 && c->element_bytes == sizeof(uint64_t))
        memcpy(to, from, sizeof(uint64_t)); /* a pointer, mostly: one load and one store */
    else if (n > 0 && c->element_bytes > 0)
        memcpy(to, from, n * c->element_bytes);
}

/* The number of elements between the byte `at` of the ring and its end. */
static inline size_t flow__chan_until_wrap(const struct flow_chan *c, size_t at)
{
    return c->element_bytes ? (c->ring_bytes - at) / c->element_bytes : SIZE_MAX;
}

static inline size_t flow__chan_step(const struct flow_chan *c, size_t at, size_t n)
{
    at += n * c->element_bytes;
    return at == c->ring_bytes ? 0 : at;
}

/* There is room for n. */
static inline void flow__chan_push(struct flow_chan *c, const char *from, size_t n)
{
    c->count += n;
    while (n) {
        size_t part = n == 1 ? 1 : flow__chan_until_wrap(c, c->tail);

        if (part > n)
            part = n;
        flow__chan_copy(c, c->ring + c->tail, from, part);
        c->tail = flow__chan_step(c, c->tail, part);
        from += part * c->element_bytes;
        n -= part;
    }
}

/* There are n. */
static inline void flow__chan_pop(struct flow_chan *c, char *into, size_t n)
{
    c->count -= n;
    while (n) {
        size_t part = n == 1 ? 1 : flow__chan_until_wrap(c, c->head);

        if (part > n)
            part = n;
        flow__chan_copy(c, into, c->ring + c->head, part);
        c->head = flow__chan_step(c, c->head, part);
        into += part * c->element_bytes;
        n -= part;
    }
}

/* The same for one element of the size that most have, a pointer's: one load and one store. */
static inline void flow__chan_push_word(struct flow_chan *c, const void *from)
{
    memcpy(c->ring + c->tail, from, sizeof(uint64_t));
    c->count++;
    c->tail = c->tail + sizeof(uint64_t) == c->ring_bytes ? 0 : c->tail + sizeof(uint64_t);
}

static inline void flow__chan_pop_word(struct flow_chan *c, void *into)
{
    memcpy(into, c->ring + c->head, sizeof(uint64_t));
    c->count--;
    c->head = c->head + sizeof(uint64_t) == c->ring_bytes ? 0 : c->head + sizeof(uint64_t);
}

static inline size_t flow__min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Passes on up to n elements (at most FLOW__CHAN_BATCH): to those who wait, and into the ring. Returns
 * how many, or -EPIPE. */
static inline int flow__chan_put(struct flow_chan *c, const char *from, size_t n,
                                 struct flow__claimed *served)
{
    struct flow__waiter *to;
    size_t done = 0, k;

    if (flow__unlikely(c->closed))
        return -EPIPE;
    while (done < n && (to = flow__chan_serve(c, &c->receivers, FLOW__WAIT_WOKEN, served))) {
        k = flow__min(n - done, (size_t)to->value);
        flow__chan_copy(c, to->item, from + done * c->element_bytes, k);
        to->value = (int64_t)k;
        done += k;
    }
    k = flow__min(n - done, c->capacity - c->count);
    flow__chan_push(c, from + done * c->element_bytes, k);
    return (int)(done + k);
}

/* Takes up to n elements (at most FLOW__CHAN_BATCH): from the ring, then from those who wait, who also
 * fill up the ring. Returns how many; 0: there is none yet; -EPIPE: nor will there be. */
static inline int flow__chan_take(struct flow_chan *c, char *into, size_t n,
                                  struct flow__claimed *served)
{
    size_t done = flow__min(n, c->count), direct, queued;
    struct flow__waiter *from;

    flow__chan_pop(c, into, done);
    while ((done < n || c->count < c->capacity) &&
           (from = flow__chan_serve(c, &c->senders, FLOW__WAIT_WOKEN, served))) {
        direct = flow__min(n - done, (size_t)from->value);
        queued = flow__min((size_t)from->value - direct, c->capacity - c->count);
        flow__chan_copy(c, into + done * c->element_bytes, from->item, direct);
        flow__chan_push(c, (char *)from->item + direct * c->element_bytes, queued);
        from->value = (int64_t)(direct + queued);
        done += direct;
    }
    return done ? (int)done : c->closed ? -EPIPE : 0;
}

#endif
