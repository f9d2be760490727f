/* SPDX-License-Identifier: MIT
 *
 * Threads that are not workers: how they are let into the runtime, and what stands for
 * one of them while it waits.
 *
 * A foreign thread's every call runs inside an RCU read-side section, left only
 * while it blocks; flow_stop changes the state, then waits for a grace period, and only then
 * takes the memory away. A thread is counted, and registered with liburcu unless the program has
 * done that, at its first call; a destructor of thread-specific data undoes both. */
#include "core/group.h"
#include "core/life.h"

#include <errno.h>
#include <pthread.h>

static __thread bool known;
static __thread bool counted_apart; /* in flow_run: not somebody who might still wake a task */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;

static void thread_ends(void *unused)
{
    (void)unused;
    if (!known)
        return;
    if (!counted_apart)
        flow__foreign_gone();
    known = false;
    flow__reclaim_unregister();
}

static void make_key(void)
{
    flow__check(pthread_key_create(&key, thread_ends) == 0);
}

static void be_known(void)
{
    flow__reclaim_register();
    if (known)
        return;
    pthread_once(&once, make_key);
    pthread_setspecific(key, &known);
    known = true;
}

bool flow__foreign_stands_by(bool yes)
{
    bool before = counted_apart, counted = known && !before;

    be_known();
    if (counted == yes)
        fetch_add_seq(&flow__process.foreign_threads, yes ? -1 : 1);
    counted_apart = yes;
    return before;
}

bool flow__foreign_is_counted(void)
{
    return known && !counted_apart;
}

int flow__foreign_enter(void)
{
    int state = load_acquire(&flow__runtime.state);

    if (state == FLOW__FORKED)
        return -ENOTSUP;
    if (state == FLOW__STOPPED)
        return -ESHUTDOWN;
    /* A worker outside of coroutines: a handler of exit(). It must not wait for itself. */
    if (flow__unlikely(flow__owned_worker != NULL))
        return -EPERM;
    if (flow__unlikely(!known))
        flow__foreign_stands_by(false);
    else
        flow__reclaim_register(); /* each time, as the program may have unregistered it */
    flow__reclaim_enter();
    /* [STOP-1] acquire, inside the section: pairs with [STOP-2]; if the runtime is still
     * there now, flow_stop will wait for us to leave. */
    if (load_acquire(&flow__runtime.state) != FLOW__STOPPED)
        return 0;
    flow__reclaim_leave();
    return -ESHUTDOWN;
}

void flow__foreign_leave(void)
{
    flow__reclaim_leave();
    flow__reclaim_flush();
}

void flow__foreign_gone(void)
{
    fetch_sub_seq(&flow__process.foreign_threads, 1);
    flow__tell_quiet();
    if (flow__foreign_enter())
        return;
    if (flow__runtime.n_workers == 0)
        flow__parker_notify(&flow__runtime.workers[0].parker);
    flow__foreign_leave();
}

struct flow__task *flow__take_foreign_block(struct flow__group *g)
{
    struct flow__runtime *rt = &flow__runtime;
    struct flow__task *t;

    flow__lock(&rt->foreign_lock);
    t = flow__block_take(&g->foreign_blocks);
    if (t)
        store_relaxed(&rt->foreign_spawned, load_relaxed(&rt->foreign_spawned) + 1);
    flow__unlock(&rt->foreign_lock);
    return t;
}

void flow__uncount_foreign_spawn(void)
{
    struct flow__runtime *rt = &flow__runtime;

    flow__lock(&rt->foreign_lock);
    store_relaxed(&rt->foreign_spawned, load_relaxed(&rt->foreign_spawned) - 1);
    flow__unlock(&rt->foreign_lock);
}

void flow__give_foreign_block(struct flow__task *t)
{
    struct flow__runtime *rt = &flow__runtime;
    struct flow__group *g = flow__group_of_node(flow__node_of_slot(flow__slot_of(t)));

    flow__lock(&rt->foreign_lock);
    flow__block_give(&g->foreign_blocks, t);
    flow__unlock(&rt->foreign_lock);
}

struct flow__task *flow__foreign_self(void)
{
    struct flow__runtime *rt = &flow__runtime;
    struct flow__task *t;
    uint64_t life;

    flow__lock(&rt->foreign_lock);
    t = flow__stand_in_take();
    flow__unlock(&rt->foreign_lock);
    if (!t)
        return NULL;
    t->home = NULL;
    store_relaxed(&t->flags, FLOW__IS_THREAD);
    store_relaxed(&t->wait, load_relaxed(&t->wait) >> FLOW__EPOCH_SHIFT << FLOW__EPOCH_SHIFT);
    life = load_relaxed(&t->life);
    store_release(&t->life, (life & ~(uint64_t)UINT32_MAX) | FLOW__LIFE_DETACHED);
    return t;
}

/* Nobody has its handle and nobody pins it; an old waker is harmless to a free block. */
void flow__foreign_release(struct flow__task *stand_in)
{
    struct flow__runtime *rt = &flow__runtime;

    store_release(&stand_in->life, load_relaxed(&stand_in->life) | FLOW__LIFE_FREE);
    flow__lock(&rt->foreign_lock);
    flow__stand_in_give(stand_in);
    flow__unlock(&rt->foreign_lock);
}

struct flow__task *flow__caller_begin(int *error)
{
    struct flow__task *self = flow__self();

    if (flow__likely(self != NULL))
        return self;
    *error = flow__foreign_enter();
    if (*error)
        return NULL;
    self = flow__foreign_self();
    if (self)
        return self;
    *error = -ENOMEM;
    flow__foreign_leave();
    return NULL;
}

void flow__caller_end(struct flow__task *self)
{
    if (flow__likely(!flow__has(self, FLOW__IS_THREAD)))
        return;
    flow__foreign_release(self);
    flow__foreign_leave();
}
