/* SPDX-License-Identifier: MIT
 *
 * Stopping: refuse, cancel, wait, end the threads, take everything down. On a foreign
 * thread; a coroutine may only ask for it. */
#include "core/fatal.h"
#include "core/leak.h"
#include "core/machine.h"
#include "core/monitor.h"
#include "core/offload.h"
#include "core/runtime.h"

#include <flowcoro/cancel.h>

#include <errno.h>
#include <pthread.h>

#define CANCEL_AGAIN_NS  FLOW_MS(50)
#define STOP_PATIENCE_NS FLOW_S(1) /* for a worker, or who drives, to leave its coroutine */

static void cancel_if_live(struct flow__worker *w, uint32_t slot)
{
    struct flow__task *t = &flow__registry.base[slot];
    uint64_t life = load_acquire(&t->life);

    if (life != 0 && !(life & (FLOW__LIFE_FREE | FLOW__LIFE_FINISHED)) && !flow__has(t, FLOW__SPARED))
        flow__cancel_block(w, t, FLOW_CANCEL_STOP);
}

void flow__cancel_all(void)
{
    struct flow__task *self = flow__self();
    struct flow__worker *w = self ? self->home : NULL;

    for (struct flow__slots at = FLOW__ALL_SLOTS; flow__slots_next(&at);)
        cancel_if_live(w, at.slot);
    for (uint32_t i = 0; i < load_relaxed(&flow__registry.used_stand_ins); i++)
        cancel_if_live(w, flow__registry.n_blocks + i);
}

/* Ends also those waits of foreign threads that cancellation does not: no task will run any more.
 */
static void release_foreign_threads(void)
{
    struct flow__registry *r = &flow__registry;

    for (struct flow__task *t = r->base + r->n_blocks;
         t < r->base + r->n_blocks + load_relaxed(&r->used_stand_ins); t++)
        flow__win(NULL, t, flow__epoch_of(load_acquire(&t->wait)), FLOW__WAIT_CANCELLED);
}

static bool is_empty(struct flow__runtime *rt)
{
    return flow__live_tasks() == 0 && load_seq(&rt->foreign_waiting) == 0;
}

/* A task spawned in the moment in which all others were cancelled may have been missed, so
 * they are cancelled again as long as some are left. */
static void cancel_until_empty(struct flow__runtime *rt, flow_deadline deadline)
{
    bool over = false;

    while (!over && flow__sys.now() < deadline) {
        flow_deadline next = flow_after(CANCEL_AGAIN_NS);

        over = flow__wait_until(rt, is_empty, next < deadline ? next : deadline);
        if (!over)
            flow__cancel_all();
    }
}

static bool threads_have_left(struct flow__runtime *rt)
{
    return load_seq(&rt->threads_left) == rt->n_workers && load_seq(&rt->foreign_waiting) == 0;
}

static bool helpers_have_let_go(struct flow__runtime *rt)
{
    (void)rt;
    return !flow__offload_busy();
}

static void drive_until_empty(struct flow__runtime *rt, flow_deadline deadline)
{
    int n = 0;

    while (flow__live_tasks() > 0) {
        bool was_dead = n == -EDEADLK;

        n = flow__drive_seated(&rt->workers[0], deadline,
                               &(struct flow__driving){.for_stop = true});
        if (flow__sys.now() >= deadline || (was_dead && n == -EDEADLK))
            return;
        if (n == -EDEADLK)
            flow__cancel_all();
    }
}

static void free_details(void)
{
    for (struct flow__slots at = FLOW__ALL_SLOTS; flow__slots_next(&at);)
        flow__sys.release(load_relaxed(&flow__registry.base[at.slot].detail));
}

static void close_all(struct flow__runtime *rt)
{
    flow__monitor_close(); /* it sends signals to the threads */
    /* The destructors of what coroutines have left in them find the runtime, and do not wait for our lock. */
    for (int i = 0; i < rt->n_workers; i++)
        pthread_join(rt->workers[i].thread, NULL);
    /* [STOP-2] release: pairs with [STOP-1]. */
    store_release(&rt->state, FLOW__STOPPED);
    flow__reclaim_wait();
    flow__offload_close();
    flow__fatal_close();
    flow__reclaim_drain();
    free_details();
    flow__close_workers(rt);
    flow__close_memory();
    flow__machine_forget(rt);
}

static flow_deadline with_patience(flow_deadline deadline)
{
    flow_deadline now = flow__sys.now(), from = deadline > now ? deadline : now;

    return from < FLOW_FOREVER - STOP_PATIENCE_NS ? from + STOP_PATIENCE_NS : FLOW_FOREVER;
}

static int stop(flow_deadline deadline)
{
    struct flow__runtime *rt = &flow__runtime;
    flow_deadline patience;
    uint64_t left;

    exchange_seq(&rt->state, FLOW__STOPPING);
    /* A foreign thread that still saw the runtime running has counted what it spawns once it has left. */
    flow__reclaim_wait();
    if (!load_relaxed(&rt->workers_end)) {
        flow__leaks_at_begin();
        flow__cancel_all();
        if (rt->n_workers == 0) {
            if (!flow__take_the_seat(rt, with_patience(deadline)))
                return -EBUSY;
            flow__cancel_all(); /* what the driver's coroutine was spawning meanwhile */
            drive_until_empty(rt, deadline);
        } else {
            cancel_until_empty(rt, deadline);
        }
    }
    flow__tell_workers_to_end(rt);
    release_foreign_threads();
    if (rt->n_workers == 0) {
        exchange_seq(&rt->driver, 3); /* for good: nobody waits for the seat any more */
        flow__sys.futex_wake(&rt->driver, INT32_MAX);
    }
    patience = with_patience(deadline);
    if (!flow__wait_until(rt, threads_have_left, patience))
        return -EBUSY;
    flow__offload_orphan();
    if (!flow__wait_until(rt, helpers_have_let_go, patience))
        return -EBUSY;
    left = flow__live_tasks();
    flow__leaks_at_end();
    close_all(rt);
    flow__leave_the_seat(rt);
    return left > INT32_MAX ? INT32_MAX : (int)left;
}

static int request_stop(struct flow__runtime *rt)
{
    int running = FLOW__RUNNING_STATE;

    if (cas_seq(&rt->state, &running, FLOW__STOPPING))
        flow__cancel_all();
    return 0;
}

int flow_stop(flow_deadline deadline)
{
    static flow__atomic(bool) busy;
    struct flow__runtime *rt = &flow__runtime;
    int state = load_acquire(&rt->state), r;
    bool apart;

    if (state == FLOW__FORKED)
        return -ENOTSUP;
    if (state == FLOW__STOPPED)
        return 0;
    if (flow__self())
        return request_stop(rt);
    if (flow__owned_worker)
        return -EPERM; /* a worker outside of coroutines: a handler of exit() */
    if (exchange_seq(&busy, true))
        return -EALREADY;
    flow__lock(&flow__start_lock);
    apart = flow__foreign_stands_by(true);
    r = load_acquire(&rt->state) == FLOW__STOPPED ? 0 : stop(deadline);
    flow__foreign_stands_by(apart);
    store_release(&busy, false); /* before the lock is free: a child of fork may then start anew */
    flow__unlock(&flow__start_lock);
    return r;
}
