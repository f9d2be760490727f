/* SPDX-License-Identifier: MIT
 *
 * What coroutines of any workers, and foreign threads, wait on for each other: mutex, semaphore,
 * event.
 *
 * They lie in the program's own memory, need no call to be made ready (the _INIT macros; all zero
 * bytes are a new mutex, an empty semaphore, an event of manual reset that is not set) and none to
 * be let go: when nobody uses one any more its memory may be used again, also by the one who
 * was woken last. Their fields are the library's. None may be copied or moved in use.
 *
 * Common to all, where not said otherwise:
 *   - From a coroutine, which is suspended, or a foreign thread, which is blocked.
 *   - First come, first served.
 *   - FLOW_NOW as the deadline polls. What needs no waiting succeeds at once, also past the
 *     deadline, for a cancelled task, and before flow_start.
 *   - -ETIMEDOUT, -ECANCELED (the caller was cancelled, or flow_stop ends a thread's wait): nothing
 *     was taken. -EDEADLK: the caller is in a read-side section of liburcu, or, with workers = 0,
 *     nothing can ever wake it. -ENOMEM: too many threads wait at once. -ESHUTDOWN, -ENOTSUP: it
 *     would have to wait, and there is no runtime.
 *   - What one did before it unlocked, released or set is seen by the one whom that lets go on.
 *   - No signal handlers. */
#ifndef FLOWCORO_SYNC_H
#define FLOWCORO_SYNC_H

#include <flowcoro/base.h>

#include <stdbool.h>

FLOW_BEGIN_DECLS

/* ---- mutex ---- */

/* One owner at a time: a task, wherever it runs, or a thread. A task may hold it while it sleeps.
 *
 * Who comes when it is free gets it, also before those who wait: that keeps a busy mutex fast. Who
 * waits is woken in turn, and one that was woken twice and still found it taken gets it handed
 * over directly at the next unlock; so everybody has it after a bounded number of others. */
struct flow_mutex {
    uintptr_t word;
    uint32_t guard, woken;
    void *queue[2], *next;
};

#define FLOW_MUTEX_INIT                                                                            \
    {                                                                                              \
        0, 0, 0, {0, 0}, 0                                                                         \
    }

/* 0: the caller is the owner now. -EDEADLK: it is already. -EOWNERDEAD: the caller is the owner now,
 * but the task that had it has ended without unlocking it, so what it guards may be half changed; it
 * is said once. (A thread that ends with it is not noticed.) */
FLOW_API int flow_mutex_lock(struct flow_mutex *m, flow_deadline deadline);

/* The same without waiting; -EBUSY if it is taken. Never suspends. */
FLOW_API int flow_mutex_trylock(struct flow_mutex *m);

/* -EPERM: the caller is not the owner. Never suspends, and works for a cancelled task too. */
FLOW_API int flow_mutex_unlock(struct flow_mutex *m);

/* ---- semaphore ---- */

/* A number of units, at most UINT32_MAX. */
struct flow_semaphore {
    uint64_t word;
    uint32_t guard, unused;
    void *queue[2];
};

#define FLOW_SEMAPHORE_INIT(units)                                                                 \
    {                                                                                              \
        (uint64_t)(uint32_t)(units) << 1, 0, 0,                                                    \
        {                                                                                          \
            0, 0                                                                                   \
        }                                                                                          \
    }

/* Takes n units at once, or waits until they are there. Strictly in turn: one that waits for many is
 * not overtaken by those who want few. -EINVAL: n is 0. */
FLOW_API int flow_semaphore_acquire(struct flow_semaphore *s, uint32_t n, flow_deadline deadline);

/* Adds n units, which first go to those who wait. -EOVERFLOW: there would be too many; nothing was
 * added. Never suspends. */
FLOW_API int flow_semaphore_release(struct flow_semaphore *s, uint32_t n);

/* Units that are there just now. Never suspends. */
FLOW_API uint32_t flow_semaphore_value(const struct flow_semaphore *s);

/* ---- event ---- */

/* Something that happens. Manual reset: once set, everybody passes until it is reset. Automatic
 * reset: each set lets exactly one pass; setting it twice before anyone waits is setting it once. */
struct flow_event {
    uint32_t word, guard;
    void *queue[2];
};

#define FLOW_EVENT_INIT                                                                            \
    {                                                                                              \
        0, 0,                                                                                      \
        {                                                                                          \
            0, 0                                                                                   \
        }                                                                                          \
    }
#define FLOW_EVENT_AUTO_INIT                                                                       \
    {                                                                                              \
        4, 0,                                                                                      \
        {                                                                                          \
            0, 0                                                                                   \
        }                                                                                          \
    }

FLOW_API int flow_event_wait(struct flow_event *e, flow_deadline deadline);

/* 0 also if it is set already. Never suspends. */
FLOW_API int flow_event_set(struct flow_event *e);

/* From now on it must be set again. Never suspends. */
FLOW_API void flow_event_reset(struct flow_event *e);

/* Never suspends. */
FLOW_API bool flow_event_is_set(const struct flow_event *e);

FLOW_END_DECLS

#endif
