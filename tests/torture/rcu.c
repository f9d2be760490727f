/* SPDX-License-Identifier: MIT
 *
 * Objects that are replaced and retired through the library's reclamation while others read them, as
 * in the kernel's rcutorture: a reader notes at the end of its section how old its object has become.
 * 0: it is the current one; 1: it was retired meanwhile; 2, 3: one or two grace periods have ended
 * since it was retired, although this reader was inside: reclamation did not wait.
 *
 * An object that a grace period has freed is not given away but made older, retired once more, and used
 * again only after that. */
#include "tests/torture/torture.h"

#include "sync/atomic.h"
#include "sync/reclaim.h"
#include "sync/syscall.h"

#include <errno.h>

enum { OBJECTS = 4096, OLDEST = 3, LAPS_AT_ONCE = 64 };

struct object {
    struct flow__deferred deferred;
    atomic_uint age;
    atomic_uint_least64_t number, again; /* equal while anybody may read them */
    struct object *next;
};

static struct {
    struct object object[OBJECTS];
    struct object *_Atomic current;
    pthread_mutex_t lock;
    struct object *unused, *second_lap; /* under lock */
    atomic_ulong ages[TORTURE_AGES], replaced;
    void (*release)(void *);
} rcu = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void put(struct object **list, struct object *o)
{
    pthread_mutex_lock(&rcu.lock);
    o->next = *list;
    *list = o;
    pthread_mutex_unlock(&rcu.lock);
}

static struct object *take(struct object **list)
{
    struct object *o;

    pthread_mutex_lock(&rcu.lock);
    o = *list;
    if (o)
        *list = o->next;
    pthread_mutex_unlock(&rcu.lock);
    return o;
}

/* A grace period has ended. In the place of the system's. */
static void grow_older(void *p)
{
    struct object *o = p;

    if (o < rcu.object || o >= rcu.object + OBJECTS) {
        rcu.release(p);
        return;
    }
    if (atomic_fetch_add(&o->age, 1) + 1 < OLDEST) {
        put(&rcu.second_lap, o);
        return;
    }
    atomic_store(&o->number, 0xdead);
    put(&rcu.unused, o);
}

void torture_rcu_open(void)
{
    rcu.release = flow__sys.release;
    for (int i = 1; i < OBJECTS; i++)
        put(&rcu.unused, &rcu.object[i]);
    atomic_store(&rcu.current, &rcu.object[0]);
    flow__sys.release = grow_older;
}

void torture_read(uint64_t random)
{
    struct object *o;
    unsigned age;
    uint64_t number;

    flow__reclaim_enter();
    o = atomic_load_explicit(&rcu.current, memory_order_acquire);
    number = atomic_load_explicit(&o->number, memory_order_relaxed);
    for (uint64_t n = random % 64 ? random % 50 : 4000; n > 0; n--)
        flow__pause();
    EXPECT(atomic_load_explicit(&o->again, memory_order_relaxed) == number);
    EXPECT(atomic_load_explicit(&o->number, memory_order_relaxed) == number);
    age = atomic_load(&o->age);
    flow__reclaim_leave();
    atomic_fetch_add_explicit(&rcu.ages[age < TORTURE_AGES ? age : TORTURE_AGES - 1], 1, memory_order_relaxed);
}

/* Those that have seen one grace period go for another. */
static void run_second_laps(void)
{
    for (int i = 0; i < LAPS_AT_ONCE; i++) {
        struct object *o = take(&rcu.second_lap);

        if (!o)
            return;
        flow__reclaim_later(&o->deferred);
    }
}

static void replace(void)
{
    struct object *o = take(&rcu.unused), *old;
    uint64_t number = atomic_fetch_add(&rcu.replaced, 1);

    if (!o)
        return;
    atomic_store(&o->age, 0);
    atomic_store(&o->number, number);
    atomic_store(&o->again, number);
    old = atomic_exchange(&rcu.current, o);
    atomic_fetch_add(&old->age, 1);
    flow__reclaim_later(&old->deferred);
}

flow_result torture_replace(void *seed)
{
    struct chance c = {(uintptr_t)seed};

    while (!atomic_load(&torture.ending)) {
        for (uint64_t n = roll_below(&c, 32); n > 0; n--)
            replace();
        run_second_laps();
        torture_read(roll(&c));
        EXPECT_EQ(heads(&c) ? flow_yield() : flow_sleep((int64_t)roll_below(&c, FLOW_US(100))), 0);
    }
    return flow_ok(NULL);
}

void torture_rcu_ages(unsigned long ages[TORTURE_AGES])
{
    for (int i = 0; i < TORTURE_AGES; i++)
        ages[i] = atomic_load(&rcu.ages[i]);
}
