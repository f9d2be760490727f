/* SPDX-License-Identifier: MIT
 *
 * Sending to and receiving from one channel; the state and its invariants are in the header.
 * Runs on whatever thread calls: a coroutine's, or a foreign one, which gets a stand-in
 * only when it has to wait. Nothing here waits under the lock, nor resumes anyone. */
#include "core/channel.h"

#include "core/ambient.h"

#include <limits.h>

int flow_chan_create(struct flow_chan **out, size_t element_bytes, size_t capacity)
{
    struct flow_chan *c;
    void *memory;
    size_t ring_bytes;

    if (!out || __builtin_mul_overflow(element_bytes, capacity, &ring_bytes) ||
        ring_bytes > PTRDIFF_MAX - sizeof *c - FLOW__CACHE_LINE || capacity > PTRDIFF_MAX)
        return -EINVAL;
    memory = flow__sys.allocate(sizeof *c + ring_bytes + FLOW__CACHE_LINE - 1);
    if (!memory)
        return -ENOMEM;
    c = (struct flow_chan *)(((uintptr_t)memory + FLOW__CACHE_LINE - 1) &
                             ~(uintptr_t)(FLOW__CACHE_LINE - 1));
    memset(c, 0, sizeof *c);
    c->memory = memory;
    c->element_bytes = element_bytes;
    c->capacity = capacity;
    c->ring_bytes = ring_bytes;
    *out = c;
    return 0;
}

int flow_chan_destroy(struct flow_chan *c, void (*drop)(void *element, void *arg), void *arg)
{
    bool busy;

    if (!c)
        return 0;
    flow__spin_lock(&c->lock);
    busy = c->inside > 0;
    flow__spin_unlock(&c->lock);
    if (busy)
        return -EBUSY;
    for (; drop && c->count; c->count--) {
        drop(c->ring + c->head, arg);
        c->head = flow__chan_step(c, c->head, 1);
    }
    flow__sys.release(c->memory);
    return 0;
}

size_t flow_chan_count(struct flow_chan *c)
{
    size_t count;

    flow__spin_lock(&c->lock);
    count = c->count;
    flow__spin_unlock(&c->lock);
    return count;
}

/* ---- steps ---- */

/* Which of the two a call does, and with what. */
struct transfer {
    struct flow_chan *chan;
    bool sends;
    char *at; /* what is sent, or where it goes */
    size_t n, element_bytes;
};

/* Under the lock: as many as go without waiting. */
static inline int attempt(const struct transfer *t, struct flow__claimed *served)
{
    size_t n = flow__min(t->n, FLOW__CHAN_BATCH);

    return t->sends ? flow__chan_put(t->chan, t->at, n, served)
                    : flow__chan_take(t->chan, t->at, n, served);
}

/* Does not touch the channel: whoever was served last may have destroyed it. */
static inline void advance(struct transfer *t, size_t n)
{
    t->at += n * t->element_bytes;
    t->n -= n;
}

/* For one that was not served. */
static __attribute__((noinline)) int leave_queue(struct flow_chan *c, struct flow__waiter *waiter,
                                                 int r)
{
    flow__spin_lock(&c->lock);
    flow__waiters_remove(waiter);
    c->inside--;
    flow__spin_unlock(&c->lock);
    return r;
}

/* The caller has the lock and must wait. Returns how many were passed on, or an error. */
static int wait_for_peer(struct flow__task *self, const struct transfer *t, flow_deadline deadline)
{
    struct flow_chan *c = t->chan;
    struct flow__waiter waiter = {.item = t->at, .value = (int64_t)t->n};
    uint64_t epoch;
    int r = flow__arm(self, false, &epoch);

    if (r) {
        flow__spin_unlock(&c->lock);
        return r;
    }
    flow__waiter_init(&waiter, self, epoch);
    flow__waiters_add(t->sends ? &c->senders : &c->receivers, &waiter);
    c->inside++;
    flow__spin_unlock(&c->lock);
    flow__note_object(self, c);
    r = flow__wait(self, epoch, t->sends ? FLOW__WHY_SEND : FLOW__WHY_RECV, deadline);
    if (r)
        return leave_queue(c, &waiter, r);
    r = flow__waiter_handed(&waiter);
    return r ? r : (int)waiter.value;
}

/* Passes on what goes at once, else waits for one peer, unless the deadline is FLOW_NOW. Returns how
 * many were passed on, 0 only if nothing goes; or an error. */
static int step(struct flow__task *self, const struct transfer *t, flow_deadline deadline)
{
    struct flow__claimed served;
    int r;

    flow__claimed_init(&served);
    flow__spin_lock(&t->chan->lock);
    r = attempt(t, &served);
    if (r == 0 && deadline != FLOW_NOW)
        return wait_for_peer(self, t, deadline);
    flow__spin_unlock(&t->chan->lock);
    flow__claimed_resume(self ? self->home : NULL, &served);
    return r;
}

/* Receiving ends with the first that came; sending goes on until all are gone. */
static int transfer(struct flow__task *self, struct transfer t, flow_deadline deadline)
{
    size_t wanted = t.n;
    int r = 0;

    while (t.n && (r = step(self, &t, !t.sends && t.n < wanted ? FLOW_NOW : deadline)) > 0)
        advance(&t, (size_t)r);
    return t.n < wanted ? (int)(wanted - t.n) : r;
}

static int as_coroutine(struct flow__task *self, struct transfer t, flow_deadline deadline)
{
    int r;

    if (flow__must_leave(self))
        return -ECANCELED;
    r = transfer(self, t, deadline);
    if (deadline == FLOW_NOW)
        return r ? r : -ETIMEDOUT;
    if (r > 0)
        flow__spend(self, deadline);
    return r;
}

/* Without a stand-in; 0 where the call would have to wait. */
static int try(const struct transfer *t)
{
    struct flow__task *self = flow__self();
    int r = self ? 0 : flow__foreign_enter();

    if (r)
        return r;
    r = transfer(self, *t, FLOW_NOW);
    if (!self)
        flow__foreign_leave();
    return r;
}

static int as_thread(struct transfer t, flow_deadline deadline)
{
    struct flow__task *self;
    int r = try(&t), waited;

    if (r < 0 || (size_t)r == t.n || (r > 0 && !t.sends))
        return r;
    if (deadline == FLOW_NOW)
        return r ? r : -ETIMEDOUT;
    advance(&t, (size_t)r);
    self = flow__caller_begin(&waited);
    if (self) {
        waited = transfer(self, t, deadline);
        flow__caller_end(self);
    }
    return waited > 0 ? r + waited : r ? r : waited;
}

static inline int run(struct transfer t, flow_deadline deadline)
{
    struct flow__task *self = flow__self();

    return flow__likely(self != NULL) ? as_coroutine(self, t, deadline) : as_thread(t, deadline);
}

/* ---- the calls ---- */

static inline struct transfer sending(struct flow_chan *c, const void *elements, size_t n)
{
    return (struct transfer){c, true, (char *)(uintptr_t)elements, n, c->element_bytes};
}

static inline struct transfer receiving(struct flow_chan *c, void *elements, size_t n)
{
    return (struct transfer){c, false, elements, n, c->element_bytes};
}

/* A count as what a call for one element returns. */
static inline int one(int r, int none)
{
    return r > 0 ? 0 : r ? r : none;
}

/* ---- users on several workers ----
 *
 * Two workers that use a channel by turns spend their time on passing its lines to and fro: some
 * 100 ns for a call of 4, and a waiter of the other worker is woken by several such passes. It
 * goes quicker in bursts. So who finds that the other one is at it just now lets it go on for a
 * while, which costs what one wake does: before an element is taken where few are left, or put where
 * little room is, if calls follow each other quickly; and before it waits, unless its worker has
 * something else to do. It holds nothing meanwhile, and does not look. */

#define SOON_NS      1000 /* calls that follow each other so soon do nothing else */
#define LINGER_NS    500
#define LINGER_LOOKS 64 /* at a clock that stands still */

/* Lets go of the lock for a while. */
static void linger(struct flow__worker *w, struct flow_chan *c, int64_t now)
{
    int64_t until = now + LINGER_NS;

    c->changed_at = 0; /* once, until the other one has been here again */
    flow__spin_unlock(&c->lock);
    for (int looks = 0; looks < LINGER_LOOKS && now < until; looks++) {
        for (int i = 0; i < 4 && flow__inbox_is_empty(&w->inbox); i++)
            flow__pause();
        now = flow__inbox_is_empty(&w->inbox) ? flow__sys.now() : until;
    }
    flow__spin_lock(&c->lock);
    c->user = w;
}

/* Under the lock: w takes over from another user. n: the calls that need not wait. */
static __attribute__((noinline)) void take_over(struct flow__worker *w, struct flow_chan *c,
                                                size_t n)
{
    bool first = c->user == NULL;
    int64_t now;

    c->user = w;
    if (first || c->capacity < 2 || w->spin_max_ns == 0 || w->n_victims == 0)
        return;
    now = flow__sys.now();
    if (n > 0 && n < c->capacity / 2 && now - c->changed_at < SOON_NS)
        linger(w, c, now);
    else
        c->changed_at = now;
}

/* Under the lock, before it waits: true if it has lingered instead. */
static __attribute__((noinline)) bool linger_first(struct flow__worker *w, struct flow_chan *c)
{
    int64_t now = flow__sys.now(), since = now - c->changed_at;

    if (since < 4 * SOON_NS && !flow__ready_count(&w->ready) && !flow__has_unstarted(w)) {
        linger(w, c, now);
        return true;
    }
    c->changed_at = 0;
    return false;
}

/* ---- one element, by a coroutine: as above, but short ----
 *
 * A call that finds room or an element is over after one look. What it cannot do at once it
 * leaves, as its last deed, to a function that holds the lock and suspends, as its own last deed: so
 * no frame lies between the switch and the caller. */

static __attribute__((noinline)) int send_in_general(struct flow_chan *c, const void *element,
                                                     flow_deadline deadline)
{
    return one(run(sending(c, element, 1), deadline), 0);
}

static __attribute__((noinline)) int recv_in_general(struct flow_chan *c, void *element,
                                                     flow_deadline deadline)
{
    return one(run(receiving(c, element, 1), deadline), 0);
}

void flow__chan_leave_by_tail(struct flow__stack_header *top)
{
    leave_queue((struct flow_chan *)(uintptr_t)top->waits_for, &top->tail, 0);
}

/* The same as wait_in, where there is more to think of. */
static __attribute__((noinline)) int wait_with_frame(struct flow__task *self, struct flow_chan *c,
                                                     bool sends, void *item)
{
    struct transfer t = {c, sends, item, 1, c->element_bytes};

    return one(wait_for_peer(self, &t, FLOW_FOREVER), 0);
}

/* Under the lock, which it lets go of: waits for ever in one of the queues. */
static inline flow__always_inline int wait_in(struct flow__stack_header *top, struct flow_chan *c,
                                              struct flow__waiters *q, void *item)
{
    struct flow__task *self = top->task;
    struct flow__waiter *waiter = &top->tail;
    bool sends = q == &c->senders;
    uint64_t epoch = flow__arm_tail(self);

    if (flow__unlikely(!epoch))
        return wait_with_frame(self, c, sends, item);
    waiter->item = item;
    waiter->value = 1;
    flow__waiter_init(waiter, self, epoch);
    flow__waiters_add(q, waiter);
    c->inside++;
    flow__spin_unlock(&c->lock);
    return flow__tail_wait(top, sends ? FLOW__WHY_SEND : FLOW__WHY_RECV, c);
}

static __attribute__((noinline)) int rest(struct flow__task *self)
{
    if (!flow__reclaim_is_inside(self->home->sections))
        flow_yield();
    return 0;
}

/* flow__spend as the last deed. */
static inline flow__always_inline int done(struct flow__task *self, flow_deadline deadline)
{
    return deadline != FLOW_NOW && flow__unlikely(--self->home->budget <= 0) ? rest(self) : 0;
}

static inline flow__always_inline int served(struct flow__task *self, struct flow_chan *c,
                                             struct flow__waiter *peer, flow_deadline deadline)
{
    c->inside--;
    flow__spin_unlock(&c->lock);
    flow__waiter_resume(self->home, peer);
    return done(self, deadline);
}

/* With the lock; all that may be. */
static __attribute__((noinline)) int send_with_lock(struct flow__stack_header *top,
                                                    struct flow_chan *c, const void *element,
                                                    flow_deadline deadline)
{
    struct flow__waiter *peer;

    if (flow__unlikely(c->closed))
        goto in_general;
    if (c->receivers.first && (peer = flow__waiters_claim(&c->receivers))) {
        flow__chan_copy(c, peer->item, element, 1);
        peer->value = 1;
        return served(top->task, c, peer, deadline);
    }
    if (c->count < c->capacity) {
        flow__chan_push(c, element, 1);
        flow__spin_unlock(&c->lock);
        return done(top->task, deadline);
    }
    if (flow__likely(deadline == FLOW_FOREVER))
        return c->changed_at && linger_first(top->task->home, c)
                   ? send_with_lock(top, c, element, deadline)
                   : wait_in(top, c, &c->senders, (void *)(uintptr_t)element);
in_general:
    flow__spin_unlock(&c->lock);
    return send_in_general(c, element, deadline);
}

static __attribute__((noinline)) int send_across(struct flow__stack_header *top,
                                                        struct flow_chan *c, const void *element,
                                                        flow_deadline deadline)
{
    take_over(top->task->home, c, c->capacity - c->count);
    return send_with_lock(top, c, element, deadline);
}

static __attribute__((noinline)) int send_with_patience(struct flow__stack_header *top,
                                                        struct flow_chan *c, const void *element,
                                                        flow_deadline deadline)
{
    flow__spin_lock(&c->lock);
    if (c->user != top->task->home)
        return send_across(top, c, element, deadline);
    return send_with_lock(top, c, element, deadline);
}

/* Cancelled, or with an ambient deadline that may have passed: as_coroutine() finds out. */
static inline bool may_have_to_leave(struct flow__task *self)
{
    return flow__is_cancelled(self) || flow__has(self, FLOW__AMBIENT);
}

int flow_chan_send(struct flow_chan *c, const void *element, flow_deadline deadline)
{
    struct flow__stack_header *top = flow__own_header();

    if (flow__unlikely(!top || may_have_to_leave(top->task)))
        return send_in_general(c, element, deadline);
    if (flow__unlikely(!flow__spin_try(&c->lock)))
        return send_with_patience(top, c, element, deadline);
    if (flow__unlikely(c->user != top->task->home))
        return send_across(top, c, element, deadline);
    if (flow__unlikely(c->closed || c->receivers.first || c->count == c->capacity ||
                       c->element_bytes != sizeof(uint64_t)))
        return send_with_lock(top, c, element, deadline);
    flow__chan_push_word(c, element);
    flow__spin_unlock(&c->lock);
    return done(top->task, deadline);
}

/* The peer's first element comes after the ring's; more of a batch fills the ring up. */
static inline flow__always_inline int recv_from_peer(struct flow__task *self, struct flow_chan *c,
                                                     struct flow__waiter *peer, void *element,
                                                     flow_deadline deadline)
{
    size_t direct = c->count == 0, queued;

    if (direct)
        flow__chan_copy(c, element, peer->item, 1);
    else
        flow__chan_pop(c, element, 1);
    queued = flow__min((size_t)peer->value - direct, c->capacity - c->count);
    if (queued)
        flow__chan_push(c, (char *)peer->item + direct * c->element_bytes, queued);
    peer->value = (int64_t)(direct + queued);
    return served(self, c, peer, deadline);
}

static __attribute__((noinline)) int recv_with_lock(struct flow__stack_header *top,
                                                    struct flow_chan *c, void *element,
                                                    flow_deadline deadline)
{
    struct flow__waiter *peer = c->senders.first ? flow__waiters_claim(&c->senders) : NULL;

    if (peer)
        return recv_from_peer(top->task, c, peer, element, deadline);
    if (c->count) {
        flow__chan_pop(c, element, 1);
        flow__spin_unlock(&c->lock);
        return done(top->task, deadline);
    }
    if (flow__likely(!c->closed && deadline == FLOW_FOREVER))
        return c->changed_at && linger_first(top->task->home, c)
                   ? recv_with_lock(top, c, element, deadline)
                   : wait_in(top, c, &c->receivers, element);
    flow__spin_unlock(&c->lock);
    return recv_in_general(c, element, deadline);
}

static __attribute__((noinline)) int recv_across(struct flow__stack_header *top,
                                                        struct flow_chan *c, void *element,
                                                        flow_deadline deadline)
{
    take_over(top->task->home, c, c->count);
    return recv_with_lock(top, c, element, deadline);
}

static __attribute__((noinline)) int recv_with_patience(struct flow__stack_header *top,
                                                        struct flow_chan *c, void *element,
                                                        flow_deadline deadline)
{
    flow__spin_lock(&c->lock);
    if (c->user != top->task->home)
        return recv_across(top, c, element, deadline);
    return recv_with_lock(top, c, element, deadline);
}

int flow_chan_recv(struct flow_chan *c, void *element, flow_deadline deadline)
{
    struct flow__stack_header *top = flow__own_header();

    if (flow__unlikely(!top || may_have_to_leave(top->task)))
        return recv_in_general(c, element, deadline);
    if (flow__unlikely(!flow__spin_try(&c->lock)))
        return recv_with_patience(top, c, element, deadline);
    if (flow__unlikely(c->user != top->task->home))
        return recv_across(top, c, element, deadline);
    if (flow__unlikely(c->senders.first || c->count == 0 || c->element_bytes != sizeof(uint64_t)))
        return recv_with_lock(top, c, element, deadline);
    flow__chan_pop_word(c, element);
    flow__spin_unlock(&c->lock);
    return done(top->task, deadline);
}

int flow_chan_try_send(struct flow_chan *chan, const void *element)
{
    struct transfer t = sending(chan, element, 1);

    return one(try(&t), -EAGAIN);
}

int flow_chan_try_recv(struct flow_chan *chan, void *element)
{
    struct transfer t = receiving(chan, element, 1);

    return one(try(&t), -EAGAIN);
}

int flow_chan_send_many(struct flow_chan *chan, const void *elements, size_t n,
                        flow_deadline deadline)
{
    return n > INT_MAX ? -EINVAL : n ? run(sending(chan, elements, n), deadline) : 0;
}

int flow_chan_recv_many(struct flow_chan *chan, void *elements, size_t n, flow_deadline deadline)
{
    return n == 0 || n > INT_MAX ? -EINVAL : run(receiving(chan, elements, n), deadline);
}

/* ---- closing ---- */

static void refuse_all(struct flow_chan *c, struct flow__waiters *q, struct flow__claimed *served)
{
    struct flow__waiter *waiter;

    while ((waiter = flow__chan_serve(c, q, FLOW__WAIT_REFUSED, served)))
        waiter->outcome = -EPIPE;
}

static int close_as(struct flow__worker *w, struct flow_chan *c)
{
    struct flow__claimed served;
    int r;

    flow__claimed_init(&served);
    flow__spin_lock(&c->lock);
    r = c->closed ? -EPIPE : 0;
    c->closed = true;
    refuse_all(c, &c->senders, &served);
    refuse_all(c, &c->receivers, &served);
    flow__spin_unlock(&c->lock);
    flow__claimed_resume(w, &served);
    return r;
}

int flow_chan_close(struct flow_chan *chan)
{
    struct flow__task *self = flow__self();
    int r;

    if (self)
        return close_as(self->home, chan);
    r = flow__foreign_enter();
    if (r)
        return r;
    r = close_as(NULL, chan);
    flow__foreign_leave();
    return r;
}
