/* SPDX-License-Identifier: MIT
 *
 * The control block of a task, and the two atomic words that decide everything
 * about it.
 *
 * life   generation:32 | pins:16 | flags:16. Who may do what with the block.
 *        A handle is {slot, generation}; a block whose generation differs is
 *        somebody else's and is not written to. FINISHED is set once, by the
 *        worker that ran the task, after the result is in place. JOINING gives
 *        one joiner the right to the result; WAITING says that its fields `joiner` and
 *        `joiner_epoch` are filled in, and is cleared by whoever is done with them.
 *        DETACHED: whoever finishes it frees it. A pin keeps the block from being
 *        reused while a canceller looks at it; RETIRED means that the last pin frees it.
 *        PRIVATE: a task without a handle ends without an atomic operation; flow_self() takes the
 * flag away.
 *
 * wait   epoch:56 | reason:4 | cancelled:1 | state:3. Which suspension the task is in.
 *        Each suspension has a new epoch, never reused by the block. ARMED -> one of
 *        the three ends is one CAS: whoever wins it, and nobody else, makes the
 *        task ready. An old epoch always loses, so a waker may go stale. The reason (enum
 *        flow_cancel_reason) comes with `cancelled`, and neither changes before the task ends.
 *
 * Blocks lie in one region that is type-stable while the runtime runs: an old
 * handle or waker reads a block that may be another task's, never foreign memory. Of an earlier
 * runtime it fits no better: see choose_first_words() in core/registry.c. */
#ifndef FLOW_CORE_TASK_H
#define FLOW_CORE_TASK_H

#include "core/check.h"
#include "core/strand.h"
#include "core/timer.h"
#include "sync/atomic.h"
#include "sync/inbox.h"
#include "sync/reclaim.h"
#include "sync/spin.h"

#include <flowcoro/task.h>

struct flow__worker;
struct flow__scope;

enum { /* life */
       FLOW__LIFE_FINISHED = 1,
       FLOW__LIFE_JOINING = 2,
       FLOW__LIFE_WAITING = 4,
       FLOW__LIFE_DETACHED = 8,
       FLOW__LIFE_RETIRED = 16,
       FLOW__LIFE_FREE = 32,
       FLOW__LIFE_PRIVATE =
           64, /* no handle was given out: only the task's own thread writes this word */
       FLOW__LIFE_SCOPED = 128, /* DETACHED too: `scope` is told of its end */
};
#define FLOW__LIFE_ONE_PIN        ((uint64_t)1 << 16)
#define FLOW__LIFE_PINS           ((uint64_t)0xffff << 16)
#define flow__generation_of(word) ((uint32_t)((word) >> 32))

enum { /* wait: low 3 bits */
       FLOW__WAIT_NONE,
       FLOW__WAIT_ARMED,
       FLOW__WAIT_WOKEN,
       FLOW__WAIT_TIMED_OUT,
       FLOW__WAIT_CANCELLED,
       FLOW__WAIT_SHIELDED, /* armed, and cancellation does not end it */
       FLOW__WAIT_ENDED,    /* woken by the end of a task */
       FLOW__WAIT_REFUSED,  /* woken, and what it waited for will never be: its waiter says why */
       FLOW__WAIT_STATE = 7,
       FLOW__CANCELLED = 8, /* level-triggered: stays until the task ends */
       FLOW__REASON_SHIFT = 4,
       FLOW__CANCEL_BITS = 15 << 4 | FLOW__CANCELLED,
       FLOW__EPOCH_SHIFT = 8,
};
#define flow__epoch_of(word) ((word) >> FLOW__EPOCH_SHIFT)

enum { /* task->flags: the public FLOW_ROAM, FLOW_PINNED, FLOW_FP_ENVIRONMENT and: */
       FLOW__IS_THREAD = 1 << 8, /* stands for a foreign thread that waits */
       FLOW__NOT_RUN = 1 << 9,   /* set at its end: its function was never called */
       FLOW__SHIELDED = 1 << 10, /* within a shield: its waits do not end by cancellation */
       FLOW__AMBIENT = 1 << 11,  /* has an ambient deadline, see core/ambient.h */
       FLOW__LIMITED = 1 << 12,  /* and that ends the suspension it is in */
       FLOW__TAIL = 1 << 13,     /* has waited as the last deed of a call, and not yielded since */
       FLOW__SPARED = 1 << 14,   /* a job of one in a shield: flow_stop does not cancel it, its syncer may */
};

enum flow__why { /* what a task waits for; for dumps */
                 FLOW__WHY_NOTHING,
                 FLOW__WHY_JOIN,
                 FLOW__WHY_ALL,
                 FLOW__WHY_ANY,
                 FLOW__WHY_SLEEP,
                 FLOW__WHY_WAKER,
                 FLOW__WHY_OFFLOAD,
                 FLOW__WHY_SYNC,
                 FLOW__WHY_SCOPE,
                 FLOW__WHY_MUTEX,
                 FLOW__WHY_RWLOCK,
                 FLOW__WHY_SEMAPHORE,
                 FLOW__WHY_CONDITION,
                 FLOW__WHY_EVENT,
                 FLOW__WHY_WAITGROUP,
                 FLOW__WHY_BARRIER,
                 FLOW__WHY_SEND,
                 FLOW__WHY_RECV,
                 FLOW__WHY_SELECT,
};

/* One who stands in a queue, see core/waiter.h. */
struct flow__waiter {
    struct flow__waiter *next, *prev;
    struct flow__waiters *in; /* the queue it stands in, or NULL */
    struct flow__task *task;
    uint64_t epoch;
    struct flow__spin gate; /* a thread's: held until it is resumed */
    int outcome;            /* 0, or a negative errno for the one who waits */
    void *item;             /* what is handed over, or where it goes */
    int64_t value;          /* whatever the two sides agree on */
};

struct flow__waiters {
    struct flow__waiter *first, *last;
};

#define FLOW__NAME_BYTES 32

/* Seldom needed parts of a task; freed after a grace period, since a dump may read it. */
struct flow__detail {
    struct flow__deferred deferred;
    char name[FLOW__NAME_BYTES];
};

struct flow__task {
    /* The first cache line: all that a switch needs, and a wake by another worker. */
    struct flow__strand strand;  /* its stack pointer while it is suspended */
    struct flow__link link;      /* in the one queue that holds it */
    flow__atomic(uint64_t) life; /* anyone */
    flow__atomic(uint64_t) wait; /* anyone */
    struct flow__worker
        *home; /* its worker from its start on; written while nobody else may wake it */
    struct flow__strand
        *back; /* where its next suspension goes; bit 0: it is being called, see flow__start */
    char *stack;                  /* lowest address of its stack slot, NULL before it starts */
    flow__atomic(uint32_t) flags; /* written by who makes it and then by itself; a late waker may
                                     read it beside the next spawn */
    uint8_t stack_class;
    bool timed;
    bool abroad; /* it was queued on another node; by the one whose queue holds it, until it runs */
    flow__atomic(uint8_t) why;

    /* The second one. A timer that comes or goes writes to its neighbours in its slot, whose first
     * lines somebody else may be about to use. */
    union {
        struct { /* until it starts */
            flow_fn fn;
            void *arg;
        };
        struct flow__timer timer; /* while `timed`: of the present suspension; home worker only */
        struct flow__fp_environment *fp; /* while it calls a task with another one: its own */
        flow_result result;       /* from its end on */
    };
    union {
        struct flow__task *joiner; /* guarded by JOINING and WAITING */
        struct flow__scope *scope; /* of a SCOPED one; see core/scope.h */
    };
    union {
        uint64_t joiner_epoch;
        uint32_t sibling[2]; /* of a SCOPED one: next and previous; under the scope's guard */
    };
    flow__atomic(struct flow__detail *) detail;
    void *spawn_site;
} __attribute__((aligned(128)));

#if !defined(FLOW__ASAN) && !defined(FLOW__TSAN)
_Static_assert(sizeof(struct flow__task) == 128, "a queued task costs two cache lines");
_Static_assert(offsetof(struct flow__task, timer) == FLOW__CACHE_LINE, "and a wake touches one");
#endif

static inline struct flow__task *flow__task_of_link(struct flow__link *link)
{
    return (struct flow__task *)((char *)link - offsetof(struct flow__task, link));
}

static inline struct flow__task *flow__task_of_strand(struct flow__strand *strand)
{
    return (struct flow__task *)((char *)strand - offsetof(struct flow__task, strand));
}

static inline struct flow__task *flow__task_of_timer(struct flow__timer *timer)
{
    return (struct flow__task *)((char *)timer - offsetof(struct flow__task, timer));
}

static inline bool flow__has(struct flow__task *t, uint32_t flag)
{
    return load_relaxed(&t->flags) & flag;
}

static inline bool flow__is_cancelled(struct flow__task *t)
{
    return load_relaxed(&t->wait) & FLOW__CANCELLED;
}

/* enum flow_cancel_reason; 0: it is not cancelled. */
static inline int flow__reason_of(struct flow__task *t)
{
    return (int)(load_relaxed(&t->wait) >> FLOW__REASON_SHIFT & 15);
}

/* Is it cancelled, and not within a shield? */
static inline bool flow__heeds_cancel(struct flow__task *t)
{
    return flow__unlikely(flow__is_cancelled(t)) && !flow__has(t, FLOW__SHIELDED);
}

#endif
