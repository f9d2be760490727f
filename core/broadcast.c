/* SPDX-License-Identifier: MIT
 *
 * One to many. A ring of the last elements, numbered as they were sent; a listener is a number. On the
 * thread of the caller. Nothing waits under the lock, nor resumes anyone.
 *
 * Under the lock: who waits has received all there is, so an element that is sent is the next one of
 * each of them, and goes straight to where they want it. `inside` as in core/channel.h. */
#include "core/ambient.h"
#include "core/waiter.h"

#include <flowcoro/broadcast.h>

#include <errno.h>
#include <string.h>

struct flow_broadcast {
    struct flow__spin lock; /* guards what follows, but for the constants */
    bool closed;
    uint64_t sent;
    uint64_t inside;
    size_t element_bytes, capacity; /* constant */
    struct flow__waiters listeners;
    char ring[] __attribute__((aligned(16)));
};

int flow_broadcast_create(struct flow_broadcast **out, size_t element_bytes, size_t capacity)
{
    struct flow_broadcast *b;
    size_t ring_bytes;

    if (!out || capacity == 0 || __builtin_mul_overflow(element_bytes, capacity, &ring_bytes) ||
        ring_bytes > PTRDIFF_MAX - sizeof *b)
        return -EINVAL;
    b = flow__sys.allocate(sizeof *b + ring_bytes);
    if (!b)
        return -ENOMEM;
    memset(b, 0, sizeof *b);
    b->element_bytes = element_bytes;
    b->capacity = capacity;
    *out = b;
    return 0;
}

int flow_broadcast_destroy(struct flow_broadcast *b)
{
    bool busy;

    if (!b)
        return 0;
    flow__spin_lock(&b->lock);
    busy = b->inside > 0;
    flow__spin_unlock(&b->lock);
    if (busy)
        return -EBUSY;
    flow__sys.release(b);
    return 0;
}

static char *place_of(struct flow_broadcast *b, uint64_t number)
{
    return b->ring + number % b->capacity * b->element_bytes;
}

static void copy(const struct flow_broadcast *b, void *to, const void *from)
{
    if (b->element_bytes)
        memcpy(to, from, b->element_bytes);
}

/* ---- sending ---- */

/* To all who wait: the element, or why there will be none. */
static void pass_on(struct flow_broadcast *b, const void *element, int outcome,
                    struct flow__claimed *served)
{
    struct flow__waiter *to;

    while ((to = flow__waiters_claim(&b->listeners))) {
        if (!outcome)
            copy(b, to->item, element);
        to->outcome = outcome;
        b->inside--;
        flow__claimed_add(served, to);
    }
}

/* Under the lock. */
static int send_or_close(struct flow_broadcast *b, const void *element, bool closes,
                         struct flow__claimed *served)
{
    if (b->closed)
        return -EPIPE;
    if (!closes)
        copy(b, place_of(b, b->sent++), element);
    b->closed = closes;
    pass_on(b, element, closes ? -EPIPE : 0, served);
    return 0;
}

static int tell_all(struct flow_broadcast *b, const void *element, bool closes)
{
    struct flow__claimed served;
    struct flow__worker *w;
    int r = flow__resumer_begin(&w);

    if (r)
        return r;
    flow__claimed_init(&served);
    flow__spin_lock(&b->lock);
    r = send_or_close(b, element, closes, &served);
    flow__spin_unlock(&b->lock);
    flow__claimed_resume(w, &served);
    flow__resumer_end(w);
    return r;
}

int flow_broadcast_send(struct flow_broadcast *b, const void *element)
{
    return tell_all(b, element, false);
}

int flow_broadcast_close(struct flow_broadcast *b)
{
    return tell_all(b, NULL, true);
}

/* ---- listening ---- */

void flow_broadcast_listen(struct flow_broadcast *b, struct flow_listener *listener)
{
    listener->from = b;
    flow__spin_lock(&b->lock);
    listener->next = b->sent;
    flow__spin_unlock(&b->lock);
}

/* Under the lock: the next element, if it has been sent. */
static bool take(struct flow_broadcast *b, struct flow_listener *l, void *element, uint64_t *missed)
{
    if (l->next == b->sent)
        return false;
    if (b->sent - l->next > b->capacity) {
        *missed = b->sent - b->capacity - l->next;
        l->next = b->sent - b->capacity;
    }
    copy(b, element, place_of(b, l->next++));
    return true;
}

/* Under the lock, which it lets go of. */
static int wait_for_next(struct flow__task *self, struct flow_listener *l, void *element,
                         flow_deadline deadline)
{
    struct flow_broadcast *b = l->from;
    struct flow__waiter waiter = {.item = element};
    uint64_t epoch;
    int r = flow__arm(self, false, &epoch);

    if (r) {
        flow__spin_unlock(&b->lock);
        return r;
    }
    flow__waiter_init(&waiter, self, epoch);
    flow__waiters_add(&b->listeners, &waiter);
    b->inside++;
    flow__spin_unlock(&b->lock);
    flow__note_object(self, b);
    r = flow__wait(self, epoch, FLOW__WHY_RECV, deadline);
    if (r) {
        flow__spin_lock(&b->lock);
        flow__waiters_remove(&waiter);
        b->inside--;
        flow__spin_unlock(&b->lock);
        return r;
    }
    r = flow__waiter_handed(&waiter);
    l->next += r == 0;
    return r;
}

static int receive(struct flow__task *self, struct flow_listener *l, void *element,
                   uint64_t *missed, flow_deadline deadline)
{
    struct flow_broadcast *b = l->from;
    bool taken;

    if (flow__must_leave(self))
        return -ECANCELED;
    flow__spin_lock(&b->lock);
    taken = take(b, l, element, missed);
    if (!taken && !b->closed && deadline != FLOW_NOW)
        return wait_for_next(self, l, element, deadline);
    if (!taken) {
        int r = b->closed ? -EPIPE : -ETIMEDOUT;

        flow__spin_unlock(&b->lock);
        return r;
    }
    flow__spin_unlock(&b->lock);
    flow__spend(self, deadline);
    return 0;
}

int flow_listener_recv(struct flow_listener *listener, void *element, uint64_t *missed,
                       flow_deadline deadline)
{
    uint64_t unasked = 0, *count = missed ? missed : &unasked;
    struct flow__task *self;
    int r;

    *count = 0;
    self = flow__caller_begin(&r);
    if (!self)
        return r;
    r = receive(self, listener, element, count, deadline);
    flow__caller_end(self);
    return r;
}
