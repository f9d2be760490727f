/* SPDX-License-Identifier: MIT
 *
 * Semaphores. Any thread.
 *
 * word   units << 1 | WAITERS. Without WAITERS it changes by CAS, and the queue is empty. With it,
 *        everything happens under the guard: units are given to the waiters in turn, each when all that
 *        it wants is there.
 *
 * A release touches the semaphore last with its CAS, or while somebody is still in
 * flow_semaphore_acquire(): who took the units may free its memory. */
#include "core/waiter.h"

#include <flowcoro/sync.h>

#include <errno.h>

#define WAITERS ((uint64_t)1)

struct semaphore {
    flow__atomic(uint64_t) word; /* anyone */
    struct flow__spin guard;
    uint32_t unused;
    struct flow__waiters queue; /* under guard; a waiter's value: the units that it wants */
};

_Static_assert(sizeof(struct semaphore) == sizeof(struct flow_semaphore), "one and the same");

static inline struct semaphore *inside(struct flow_semaphore *s)
{
    return (struct semaphore *)(void *)s;
}

static inline uint64_t units_of(uint64_t word)
{
    return word >> 1;
}

/* True if nobody waits and n units were there. */
static inline bool take(struct semaphore *s, uint32_t n)
{
    uint64_t seen = load_relaxed(&s->word);

    while (!(seen & WAITERS) && units_of(seen) >= n)
        /* [SEM-1] acquire: pairs with [SEM-2]; what was done before the release is visible. */
        if (cas_acquire(&s->word, &seen, seen - ((uint64_t)n << 1)))
            return true;
    return false;
}

/* Under the guard: takes n units, or sees to it that releases look into the queue. */
static bool take_or_announce(struct semaphore *s, uint32_t n)
{
    uint64_t seen = load_relaxed(&s->word), next;
    bool enough;

    do {
        enough = !(seen & WAITERS) && units_of(seen) >= n;
        next = enough ? seen - ((uint64_t)n << 1) : seen | WAITERS;
    } while (!cas_acquire(&s->word, &seen, next)); /* [SEM-1] */
    return enough;
}

/* Under the guard, with WAITERS set: gives the units there are, and then `more`, to those whose turn it
 * is. False: nobody waits who needs `more`; then it was not added, and WAITERS is gone. What is left is
 * never too much: less than the next one wants, or than the `more` of which somebody has had some. */
static bool give(struct semaphore *s, uint64_t more, struct flow__claimed *claimed)
{
    uint64_t units = units_of(load_relaxed(&s->word));
    struct flow__waiter *first;

    while ((first = s->queue.first) && units + more >= (uint64_t)first->value) {
        if (!flow__waiter_claim(first))
            continue;
        if (units < (uint64_t)first->value) {
            units += more;
            more = 0;
        }
        units -= (uint64_t)first->value;
        flow__claimed_add(claimed, first);
    }
    /* [SEM-2] release: pairs with [SEM-1]. */
    if (!first && more > 0) {
        store_release(&s->word, units << 1);
        return false;
    }
    store_release(&s->word, (units + more) << 1 | (first ? WAITERS : 0));
    return true;
}

/* One that waited for many has left: those behind it may want less. */
static void let_others_in(struct semaphore *s, struct flow__worker *w)
{
    struct flow__claimed claimed;

    flow__claimed_init(&claimed);
    flow__spin_lock(&s->guard);
    if (load_relaxed(&s->word) & WAITERS)
        give(s, 0, &claimed);
    flow__spin_unlock(&s->guard);
    flow__claimed_resume(w, &claimed);
}

static __attribute__((noinline)) int acquire_slowly(struct semaphore *s, uint32_t n,
                                                    flow_deadline deadline)
{
    struct flow__waiter waiter = {.value = n};
    struct flow__task *self;
    int r;

    self = flow__caller_begin(&r);
    if (!self)
        return r;
    flow__spin_lock(&s->guard);
    if (take_or_announce(s, n)) {
        flow__spin_unlock(&s->guard);
        r = 0;
    } else {
        flow__note_object(self, s);
        r = flow__waiter_wait(self, &s->guard, &s->queue, &waiter, false, FLOW__WHY_SEMAPHORE,
                              deadline);
        if (r)
            let_others_in(s, self->home);
    }
    flow__caller_end(self);
    return r;
}

int flow_semaphore_acquire(struct flow_semaphore *semaphore, uint32_t n, flow_deadline deadline)
{
    struct semaphore *s = inside(semaphore);

    if (flow__unlikely(n == 0))
        return -EINVAL;
    return flow__likely(take(s, n)) ? 0 : acquire_slowly(s, n, deadline);
}

/* 0, or -EAGAIN: nobody waits for it, look again. */
static int pass_on(struct semaphore *s, uint32_t n)
{
    struct flow__claimed claimed;
    struct flow__worker *w;
    int r = flow__resumer_begin(&w);
    bool given = false;

    if (r == -EPERM)
        return r;
    if (r == -ENOTSUP) {
        fetch_and_seq(&s->word, ~WAITERS);
        return -EAGAIN;
    }
    flow__claimed_init(&claimed);
    flow__spin_lock(&s->guard);
    if (r)
        s->queue = (struct flow__waiters){NULL, NULL};
    if (load_relaxed(&s->word) & WAITERS)
        given = give(s, n, &claimed);
    flow__spin_unlock(&s->guard);
    flow__claimed_resume(w, &claimed);
    if (!r)
        flow__resumer_end(w);
    return given ? 0 : -EAGAIN;
}

static __attribute__((noinline)) int release_slowly(struct semaphore *s, uint32_t n)
{
    uint64_t seen = load_relaxed(&s->word);
    int r;

    for (;;) {
        if (!(seen & WAITERS)) {
            if (units_of(seen) + n > UINT32_MAX)
                return -EOVERFLOW;
            if (cas_release(&s->word, &seen, seen + ((uint64_t)n << 1))) /* [SEM-2] */
                return 0;
            continue;
        }
        r = pass_on(s, n);
        if (r != -EAGAIN)
            return r;
        seen = load_relaxed(&s->word);
    }
}

int flow_semaphore_release(struct flow_semaphore *semaphore, uint32_t n)
{
    struct semaphore *s = inside(semaphore);
    uint64_t seen = load_relaxed(&s->word);

    /* [SEM-2] release: pairs with [SEM-1]. */
    if (!(seen & WAITERS) && units_of(seen) + n <= UINT32_MAX &&
        cas_release(&s->word, &seen, seen + ((uint64_t)n << 1)))
        return 0;
    return release_slowly(s, n);
}

uint32_t flow_semaphore_value(const struct flow_semaphore *semaphore)
{
    return (uint32_t)units_of(load_relaxed(&inside((struct flow_semaphore *)semaphore)->word));
}
