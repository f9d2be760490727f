/* SPDX-License-Identifier: MIT
 *
 * Generators: a task and its one consumer, of whom one waits while the other runs.
 *
 * Under the lock: at most one of the two queues has somebody who can be won, but while a
 * consumer's deadline has passed. `value` is where a value lies that nobody has taken, in the
 * frame of the producer that waits; or NULL.
 *
 * Either side arms itself, queues itself, wins the other and resumes it after letting go of the
 * lock. The consumer alone creates and frees; the producer does not touch the generator after
 * its last step, whose end the consumer awaits by joining it. */
#include "core/ambient.h"
#include "core/join.h"
#include "core/waiter.h"

#include <flowcoro/generator.h>

#include <errno.h>
#include <string.h>

enum state { FRESH, SPAWNED, RUNNING, ENDED };

struct flow_generator {
    struct flow__spin lock; /* guards what follows, but for the constants */
    enum state state;
    bool starting; /* a consumer spawns its task */
    bool closing;  /* yields fail, within a shield too */
    const void *value;
    int end; /* what next returns once it has ended */
    struct flow__waiters producer, consumer;
    flow__atomic(uint64_t) id; /* of its task, or 0; the right to join that is the generator's.
                                  Anyone may ask: is it me? */
    size_t value_bytes; /* constant, as the next */
    flow_generator_fn fn;
    void *arg;
};

int flow_generator_create(struct flow_generator **out, size_t value_bytes, flow_generator_fn fn,
                          void *arg)
{
    struct flow_generator *g;

    if (!out || !fn)
        return -EINVAL;
    g = flow__sys.allocate(sizeof *g);
    if (!g)
        return -ENOMEM;
    memset(g, 0, sizeof *g);
    g->value_bytes = value_bytes;
    g->fn = fn;
    g->arg = arg;
    *out = g;
    return 0;
}

static void copy(const struct flow_generator *g, void *to, const void *from)
{
    if (g->value_bytes)
        memcpy(to, from, g->value_bytes);
}

/* Is it the generator's function that asks? */
static bool is_own(const struct flow_generator *g, struct flow__task *self)
{
    return flow__id_of(self, load_relaxed(&self->life)) == load_relaxed(&g->id);
}

/* NULL: there was none yet, or the runtime that it belonged to has been stopped. Inside of one. */
static struct flow__task *task_of(const struct flow_generator *g)
{
    uint64_t id = load_relaxed(&g->id);
    struct flow__task *t = flow__block_of(id);

    return t && flow__generation_of(load_relaxed(&t->life)) == id >> 32 ? t : NULL;
}

/* Under the lock: takes the right to join the task while nobody else can have its handle. Called by the
 * task itself before its function, and, as it may never run, by the one who has spawned it. */
static void claim(struct flow_generator *g, flow_task task)
{
    struct flow__task *t;

    if (load_relaxed(&g->id))
        return;
    flow__check(flow__claim(task.id, NULL, &t) == 0);
    store_relaxed(&g->id, task.id);
}

/* Under the lock: arms and queues self, then wins whoever waits on the other side. 0 or an error; *other
 * may be NULL. */
static int change_sides(struct flow__task *self, struct flow__waiter *waiter,
                        struct flow__waiters *own, struct flow__waiters *others,
                        struct flow__waiter **other)
{
    uint64_t epoch;
    int r = flow__arm(self, false, &epoch);

    if (r)
        return r;
    flow__waiter_init(waiter, self, epoch);
    flow__waiters_add(own, waiter);
    *other = flow__waiters_claim(others);
    return 0;
}

/* ---- the producer ---- */

int flow_generator_yield(struct flow_generator *g, const void *value)
{
    struct flow__task *self = flow__self();
    struct flow__waiter waiter, *consumer;
    int r;

    if (!self || !is_own(g, self))
        return -EPERM;
    flow__spin_lock(&g->lock);
    r = g->closing ? -ECANCELED
                   : change_sides(self, &waiter, &g->producer, &g->consumer, &consumer);
    if (r) {
        flow__spin_unlock(&g->lock);
        return r;
    }
    if (consumer)
        copy(g, consumer->item, value);
    else
        g->value = value ? value : "";
    flow__spin_unlock(&g->lock);
    if (consumer)
        flow__waiter_resume(self->home, consumer);
    flow__note_object(self, g);
    r = flow__wait(self, waiter.epoch, FLOW__WHY_SEND, FLOW_FOREVER);
    if (!r)
        r = waiter.outcome;
    if (r) {
        flow__spin_lock(&g->lock);
        flow__waiters_remove(&waiter);
        g->value = NULL;
        flow__spin_unlock(&g->lock);
    }
    return r;
}

static flow_result produce(void *generator)
{
    struct flow_generator *g = generator;
    struct flow__waiter *consumer;
    flow_task self = flow_self();
    int r;

    flow__spin_lock(&g->lock);
    claim(g, self);
    g->state = RUNNING;
    flow__spin_unlock(&g->lock);
    r = g->fn(g, g->arg);
    flow__spin_lock(&g->lock);
    g->state = ENDED;
    g->end = r < 0 ? r : -EPIPE;
    consumer = flow__waiters_claim(&g->consumer);
    if (consumer)
        consumer->outcome = g->end;
    flow__spin_unlock(&g->lock);
    if (consumer)
        flow__waiter_resume(flow__self()->home, consumer);
    return flow_ok(NULL);
}

/* ---- the consumer ---- */

/* Under the lock, which it lets go of meanwhile. A coroutine runs the function at once, up to its first
 * value or wait. */
static int start(struct flow__task *self, struct flow_generator *g)
{
    flow_task task;
    int r;

    /* The function would be within the caller's section, and could not wait. */
    if (flow__is_in_section(self))
        return -EDEADLK;
    g->state = SPAWNED;
    g->starting = true;
    flow__spin_unlock(&g->lock);
    r = flow__has(self, FLOW__IS_THREAD) ? flow_spawn(&task, produce, g)
                                         : flow_spawn_now(&task, produce, g);
    flow__spin_lock(&g->lock);
    g->starting = false;
    if (r)
        g->state = FRESH;
    else
        claim(g, task);
    return r;
}

/* Under the lock: what there is without waiting, or 1. */
static int take(struct flow_generator *g, void *value)
{
    /* It has not ended, and never will: who waited, and the value, were in stacks that are gone. */
    if (flow__unlikely(load_relaxed(&g->id) && g->state != ENDED && !task_of(g)))
        return -ESHUTDOWN;
    if (g->consumer.first || g->starting)
        return -EBUSY;
    if (g->value) {
        copy(g, value, g->value);
        g->value = NULL;
        return 0;
    }
    return g->state == ENDED ? g->end : 1;
}

/* Its function will never run: cancelled before, or there was no stack for it. */
static int ended_unstarted(struct flow_generator *g, struct flow__task *task,
                           struct flow__waiter *waiter)
{
    flow__spin_lock(&g->lock);
    flow__waiters_remove(waiter);
    g->state = ENDED;
    g->end = task->result.error;
    flow__spin_unlock(&g->lock);
    return g->end;
}

/* Waits for the first value of a function that has not begun. */
static int wait_for_start(struct flow__task *self, struct flow_generator *g,
                          struct flow__waiter *waiter, flow_deadline deadline)
{
    struct flow__task *task = task_of(g);
    int r;

    if (!flow__watch_end(task, self, waiter->epoch) && flow__disarm(self, waiter->epoch))
        return ended_unstarted(g, task, waiter);
    r = flow__wait(self, waiter->epoch, FLOW__WHY_RECV, deadline);
    flow__unwatch_end(task);
    if (r == 0 && (load_relaxed(&self->wait) & FLOW__WAIT_STATE) == FLOW__WAIT_ENDED)
        return ended_unstarted(g, task, waiter);
    return flow__waiter_leave(waiter, &g->lock, r);
}

/* Under the lock, which it lets go of. */
static int wait_for_value(struct flow__task *self, struct flow_generator *g, void *value,
                          flow_deadline deadline)
{
    struct flow__waiter waiter = {.item = value}, *producer;
    int r = change_sides(self, &waiter, &g->consumer, &g->producer, &producer);
    bool begun = g->state != SPAWNED;

    flow__spin_unlock(&g->lock);
    if (r)
        return r;
    if (producer)
        flow__waiter_resume(self->home, producer);
    flow__note_object(self, g);
    if (flow__unlikely(!begun))
        return wait_for_start(self, g, &waiter, deadline);
    r = flow__wait(self, waiter.epoch, FLOW__WHY_RECV, deadline);
    return flow__waiter_leave(&waiter, &g->lock, r);
}

static int next(struct flow__task *self, struct flow_generator *g, void *value,
                flow_deadline deadline)
{
    int r;

    if (flow__must_leave(self))
        return -ECANCELED;
    flow__spin_lock(&g->lock);
    r = g->state == FRESH && deadline != FLOW_NOW ? start(self, g) : 0;
    if (!r)
        r = take(g, value);
    if (r == 1 && deadline != FLOW_NOW)
        return wait_for_value(self, g, value, deadline);
    flow__spin_unlock(&g->lock);
    if (r == 0)
        flow__spend(self, deadline);
    return r == 1 ? -ETIMEDOUT : r;
}

int flow_generator_next(struct flow_generator *g, void *value, flow_deadline deadline)
{
    struct flow__task *self;
    int r;

    self = flow__caller_begin(&r);
    if (!self)
        return r;
    r = next(self, g, value, deadline);
    flow__caller_end(self);
    return r;
}

/* Ends its task; 0 or an error. */
static int end(struct flow__task *self, struct flow_generator *g)
{
    struct flow__waiter *producer;
    struct flow__task *task;
    bool busy;
    int r;

    if (is_own(g, self))
        return -EDEADLK;
    flow__spin_lock(&g->lock);
    task = task_of(g);
    busy = g->starting || (task && g->consumer.first);
    if (busy || !task) {
        flow__spin_unlock(&g->lock);
        return busy ? -EBUSY : 0;
    }
    g->closing = true;
    producer = flow__waiters_claim(&g->producer);
    if (producer)
        producer->outcome = -ECANCELED;
    flow__spin_unlock(&g->lock);
    if (producer)
        flow__waiter_resume(self->home, producer);
    flow__cancel_block(self->home, task, FLOW_CANCEL_SCOPE);
    r = flow__await_end(task, self, true, FLOW__WHY_JOIN, FLOW_FOREVER);
    if (!r)
        flow__consume(self->home, task);
    return r;
}

int flow_generator_close(struct flow_generator *g)
{
    struct flow__task *self;
    bool fresh;
    int r = 0;

    if (!g)
        return 0;
    flow__spin_lock(&g->lock);
    fresh = g->state == FRESH;
    flow__spin_unlock(&g->lock);
    if (!fresh) {
        self = flow__caller_begin(&r);
        if (self) {
            r = end(self, g);
            flow__caller_end(self);
        } else if (r == -ESHUTDOWN) {
            r = 0; /* its task has ended, or never will */
        }
    }
    if (!r)
        flow__sys.release(g);
    return r;
}
