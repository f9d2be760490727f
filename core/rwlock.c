/* SPDX-License-Identifier: MIT
 *
 * Locks for many readers or one writer. Any thread.
 *
 * Phase-fair, after Brandenburg and Anderson: while a writer waits, readers that come wait too; when
 * a writer unlocks, all readers that wait then go in together; when the last of them has left, the
 * next writer does. So a reader waits for one writer at most, and a writer for one phase of readers
 * between it and the writer before.
 *
 * word   readers << 2 | WAITERS | WRITER. Without WAITERS it changes by CAS and both queues are
 *        empty; with it, only under the guard. An unlock touches the lock last with its CAS, or while
 *        somebody who waits keeps it alive. */
#include "core/mutex.h"

#include <errno.h>

#define WRITER     ((uint64_t)1)
#define WAITERS    ((uint64_t)2)
#define ONE_READER ((uint64_t)4)

struct rwlock {
    flow__atomic(uint64_t) word;   /* anyone */
    flow__atomic(uintptr_t) owner; /* written by the writer, or for it; others compare */
    struct flow__spin guard;
    uint32_t unused;
    struct flow__waiters readers, writers; /* under guard; a waiter's item: who it is */
};

_Static_assert(sizeof(struct rwlock) == sizeof(struct flow_rwlock), "one and the same");

static inline struct rwlock *inside(struct flow_rwlock *l)
{
    return (struct rwlock *)(void *)l;
}

static inline bool anyone_waits(struct rwlock *l)
{
    return l->readers.first || l->writers.first;
}

/* ---- who goes next ---- */

/* Under the guard, with WAITERS set: takes away what the caller gives up, and lets in whose turn it
 * is. False: nobody waits; then nothing was taken away, and WAITERS is gone. */
static bool advance(struct rwlock *l, uint64_t given_up, bool readers_first,
                    struct flow__claimed *claimed)
{
    uint64_t old = load_relaxed(&l->word) & ~WAITERS, next = old - given_up;
    struct flow__waiter *writer = NULL;

    if (!(next & WRITER)) {
        if (readers_first || !l->writers.first)
            next += ONE_READER * (uint64_t)flow__waiters_claim_all(&l->readers, claimed);
        if (next == 0 && (writer = flow__waiters_claim(&l->writers))) {
            flow__claimed_add(claimed, writer);
            store_relaxed(&l->owner, (uintptr_t)writer->item);
            next = WRITER;
        }
        if (!writer && !l->writers.first)
            next += ONE_READER * (uint64_t)flow__waiters_claim_all(&l->readers, claimed);
    }
    if (!claimed->first && !anyone_waits(l)) {
        store_relaxed(&l->word, old);
        return false;
    }
    /* [RWLOCK-2] release: pairs with [RWLOCK-1]. */
    store_release(&l->word, next | (anyone_waits(l) ? WAITERS : 0));
    return true;
}

/* ---- locking ---- */

/* Under the guard: in at once, or sees to it that unlocks look into the queues. */
static bool enter_or_announce(struct rwlock *l, bool writes)
{
    uint64_t seen = load_relaxed(&l->word), next;
    bool alone = !anyone_waits(l), free;

    do {
        free = alone && (writes ? (seen & ~WAITERS) == 0 : !(seen & WRITER));
        next = !free ? seen | WAITERS : writes ? WRITER : (seen & ~WAITERS) + ONE_READER;
    } while (!cas_acquire(&l->word, &seen, next)); /* [RWLOCK-1] */
    return free;
}

/* One has stopped waiting: others may have waited for it alone. */
static void let_others_in(struct rwlock *l, struct flow__worker *w)
{
    struct flow__claimed claimed;

    flow__claimed_init(&claimed);
    flow__spin_lock(&l->guard);
    if (load_relaxed(&l->word) & WAITERS)
        advance(l, 0, false, &claimed);
    flow__spin_unlock(&l->guard);
    flow__claimed_resume(w, &claimed);
}

static __attribute__((noinline)) int lock_slowly(struct rwlock *l, bool writes,
                                                 flow_deadline deadline)
{
    uintptr_t me = flow__mutex_me();
    struct flow__waiter waiter = {.item = (void *)me};
    struct flow__task *self;
    int r;

    if (load_relaxed(&l->owner) == me)
        return -EDEADLK;
    self = flow__caller_begin(&r);
    if (!self)
        return r;
    flow__spin_lock(&l->guard);
    if (enter_or_announce(l, writes)) {
        if (writes)
            store_relaxed(&l->owner, me);
        flow__spin_unlock(&l->guard);
        r = 0;
    } else {
        flow__note_object(self, l);
        r = flow__waiter_wait(self, &l->guard, writes ? &l->writers : &l->readers, &waiter, false,
                              FLOW__WHY_RWLOCK, deadline);
        if (r)
            let_others_in(l, self->home);
    }
    flow__caller_end(self);
    return r;
}

int flow_rwlock_read(struct flow_rwlock *lock, flow_deadline deadline)
{
    struct rwlock *l = inside(lock);
    uint64_t seen = load_relaxed(&l->word);

    while (!(seen & (WRITER | WAITERS)))
        /* [RWLOCK-1] acquire: pairs with [RWLOCK-2]; what was done before the unlock is visible. */
        if (cas_acquire(&l->word, &seen, seen + ONE_READER))
            return 0;
    return lock_slowly(l, false, deadline);
}

int flow_rwlock_write(struct flow_rwlock *lock, flow_deadline deadline)
{
    struct rwlock *l = inside(lock);
    uintptr_t me = flow__mutex_me();
    uint64_t nobody = 0;

    if (!cas_acquire(&l->word, &nobody, WRITER)) /* [RWLOCK-1] */
        return lock_slowly(l, true, deadline);
    store_relaxed(&l->owner, me);
    return 0;
}

/* ---- unlocking ---- */

/* 0, or -EAGAIN: nobody waits, look again. */
static int pass_on(struct rwlock *l, uint64_t given_up)
{
    struct flow__claimed claimed;
    struct flow__worker *w;
    int r = flow__resumer_begin(&w);
    bool done = false;

    if (r == -EPERM)
        return r;
    if (r == -ENOTSUP) {
        fetch_and_seq(&l->word, ~WAITERS);
        return -EAGAIN;
    }
    flow__claimed_init(&claimed);
    flow__spin_lock(&l->guard);
    if (r)
        l->readers = l->writers = (struct flow__waiters){NULL, NULL};
    if (load_relaxed(&l->word) & WAITERS)
        done = advance(l, given_up, given_up == WRITER, &claimed);
    flow__spin_unlock(&l->guard);
    flow__claimed_resume(w, &claimed);
    if (!r)
        flow__resumer_end(w);
    return done ? 0 : -EAGAIN;
}

static __attribute__((noinline)) int unlock_slowly(struct rwlock *l, uint64_t given_up)
{
    uint64_t seen;
    int r;

    for (;;) {
        seen = load_relaxed(&l->word);
        /* [RWLOCK-2] release: pairs with [RWLOCK-1]. */
        while (!(seen & WAITERS) && seen >= given_up)
            if (cas_release(&l->word, &seen, seen - given_up))
                return 0;
        if ((seen & ~WAITERS) < given_up)
            return -EPERM;
        r = pass_on(l, given_up);
        if (r != -EAGAIN)
            return r;
    }
}

int flow_rwlock_unlock(struct flow_rwlock *lock)
{
    struct rwlock *l = inside(lock);
    uint64_t seen = load_relaxed(&l->word), given_up = seen & WRITER ? WRITER : ONE_READER;

    if (given_up == WRITER) {
        if (load_relaxed(&l->owner) != flow__mutex_me())
            return -EPERM;
        store_relaxed(&l->owner, 0);
    }
    /* [RWLOCK-2] */
    if (!(seen & WAITERS) && seen >= given_up && cas_release(&l->word, &seen, seen - given_up))
        return 0;
    return unlock_slowly(l, given_up);
}
