/* SPDX-License-Identifier: MIT
 *
 * What coroutines of any workers, and foreign threads, wait on for each other: mutex, rwlock,
 * condition, semaphore, event, wait group, barrier, once.
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

/* ---- rwlock ---- */

/* Many readers, or one writer. While a writer waits, readers that come wait behind it; when it
 * unlocks, all readers that wait go in, and after these the next writer. So neither starves; and who
 * reads must not lock again for reading, for a writer may have come in between. */
struct flow_rwlock {
    uint64_t word;
    uintptr_t owner;
    uint32_t guard, unused;
    void *queues[4];
};

#define FLOW_RWLOCK_INIT                                                                           \
    {                                                                                              \
        0, 0, 0, 0,                                                                                \
        {                                                                                          \
            0, 0, 0, 0                                                                             \
        }                                                                                          \
    }

/* -EDEADLK: the caller has it for writing. */
FLOW_API int flow_rwlock_read(struct flow_rwlock *l, flow_deadline deadline);
FLOW_API int flow_rwlock_write(struct flow_rwlock *l, flow_deadline deadline);

/* Gives up what the caller has. -EPERM: nobody has it, or another one has it for writing; readers are
 * only counted. Never suspends. */
FLOW_API int flow_rwlock_unlock(struct flow_rwlock *l);

/* ---- condition ---- */

/* To wait, with a mutex, until something that it guards has changed. As with POSIX conditions, who
 * comes back looks whether it has, and else waits again. */
struct flow_condition {
    uint32_t guard, n;
    void *queue[2];
};

#define FLOW_CONDITION_INIT                                                                        \
    {                                                                                              \
        0, 0,                                                                                      \
        {                                                                                          \
            0, 0                                                                                   \
        }                                                                                          \
    }

/* Unlocks the mutex, waits for a signal and locks it again, for which it waits even when the deadline
 * has passed or the caller is cancelled. 0 if there was a signal. -EPERM: the caller does not own the
 * mutex. -EOWNERDEAD as flow_mutex_lock. In all cases the caller owns the mutex afterwards, but for
 * -EPERM and for -ESHUTDOWN: there is no runtime, or flow_stop has ended a thread's wait while another
 * one had the mutex. */
FLOW_API int flow_condition_wait(struct flow_condition *c, struct flow_mutex *m,
                                 flow_deadline deadline);

/* Lets the one go on that has waited longest, or all of them, one after the other as the mutex becomes
 * free. The caller may own the mutex, and need not. Never suspends. */
FLOW_API int flow_condition_signal(struct flow_condition *c);
FLOW_API int flow_condition_broadcast(struct flow_condition *c);

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

/* ---- wait group ---- */

/* A count of what is still to be done; to wait until it is 0. It may rise again afterwards. */
struct flow_waitgroup {
    uint64_t word;
    uint32_t guard, unused;
    void *queue[2];
};

#define FLOW_WAITGROUP_INIT                                                                        \
    {                                                                                              \
        0, 0, 0,                                                                                   \
        {                                                                                          \
            0, 0                                                                                   \
        }                                                                                          \
    }

/* n more. Before what it counts begins. -EOVERFLOW: more than UINT32_MAX. Never suspends. */
FLOW_API int flow_waitgroup_add(struct flow_waitgroup *g, uint32_t n);

/* One less. -EINVAL: it is 0 already. Never suspends. */
FLOW_API int flow_waitgroup_done(struct flow_waitgroup *g);

FLOW_API int flow_waitgroup_wait(struct flow_waitgroup *g, flow_deadline deadline);

/* Never suspends. */
FLOW_API uint32_t flow_waitgroup_count(const struct flow_waitgroup *g);

/* ---- barrier ---- */

/* Where n parties wait for each other, again and again. Its memory may be used again when
 * all of them have returned. */
struct flow_barrier {
    uint32_t guard, parties, arrived, unused;
    void *queue[2];
};

#define FLOW_BARRIER_INIT(parties)                                                                 \
    {                                                                                              \
        0, (parties), 0, 0,                                                                        \
        {                                                                                          \
            0, 0                                                                                   \
        }                                                                                          \
    }

/* Returns when n parties are there: 1 to the last one, 0 to the others. Who gives up waiting was not
 * there, and the others go on to wait for n. -EINVAL: it is for 0 parties. */
FLOW_API int flow_barrier_wait(struct flow_barrier *b, flow_deadline deadline);

/* ---- once ---- */

struct flow_once {
    uint32_t done, unused;
    struct flow_mutex mutex;
};

#define FLOW_ONCE_INIT                                                                             \
    {                                                                                              \
        0, 0, FLOW_MUTEX_INIT                                                                      \
    }

/* Calls fn(arg), or waits until the one who does has returned. 0: it has succeeded, now or before.
 * When fn returns an error, that caller gets it, and the next one tries again. -EDEADLK: called by
 * fn itself. fn may suspend. */
FLOW_API int flow_once_call(struct flow_once *o, int (*fn)(void *arg), void *arg,
                            flow_deadline deadline);

FLOW_END_DECLS

#endif
