/* SPDX-License-Identifier: MIT
 *
 * Userspace RCU (liburcu, flavour "memb"): the only door to it.
 *
 * Readers are threads, not coroutines: a section never contains a switch. What is
 * read under it: the runtime itself (flow_stop waits for a grace period before it takes the region
 * of control blocks away), and the details of tasks (names), which a dump reads while tasks end.
 * memb, and not qsbr, so that one worker in a long coroutine, or asleep, holds up nobody.
 *
 * Calls are made by registered threads. */
#ifndef FLOW_SYNC_RECLAIM_H
#define FLOW_SYNC_RECLAIM_H

#include <stdbool.h>
#include <stdint.h>

/* In liburcu's word of a thread: how many sections it is in. sync/reclaim.c compares it. */
#define FLOW__RECLAIM_NESTING ((1UL << 4 * sizeof(unsigned long)) - 1)

/* This thread will read. Nothing if it is registered, by the program for instance, whose registration
 * flow__reclaim_unregister leaves alone. */
void flow__reclaim_register(void);
void flow__reclaim_unregister(void);

/* Around a fork; after_fork also in the child. There flow__reclaim_forget_others, before it, leaves the calling
 * thread as the only reader. False: another thread was freeing, and all this must not be used any more. Nobody else
 * may have been in flow__reclaim_wait or flow__reclaim_later. */
void flow__reclaim_before_fork(void);
void flow__reclaim_after_fork(void);
bool flow__reclaim_forget_others(void);

void flow__reclaim_enter(void); /* read-side section; nests */
void flow__reclaim_leave(void);
bool flow__reclaim_inside(void);

/* What flow__reclaim_inside looks at, for a worker, which asks it at each wait of its coroutines: a
 * call into liburcu would be most of that. Of the calling thread, and for this thread only. */
const unsigned long *flow__reclaim_sections(void);

static inline unsigned long flow__reclaim_depth(const unsigned long *sections)
{
    return *sections & FLOW__RECLAIM_NESTING;
}

static inline bool flow__reclaim_is_inside(const unsigned long *sections)
{
    return flow__reclaim_depth(sections) > 0;
}

/* At the start of an object that is freed this way. */
struct flow__deferred {
    struct flow__deferred *next;
};

/* Frees an object (from flow__sys.allocate) after a grace period. Collected in batches; who
 * fills one waits for the grace period, unless it is inside a section: then that is left to who
 * calls this or flow__reclaim_flush next outside of one. */
void flow__reclaim_later(struct flow__deferred *object);

/* Frees what is pending if that is a batch; within a section, the caller's own too, it does nothing. */
void flow__reclaim_flush(void);

/* Returns when every section that was open has been left. Not within a section. */
void flow__reclaim_wait(void);

/* Frees all that is pending. Not within a section. */
void flow__reclaim_drain(void);

/* How many objects wait for their grace period. */
uint64_t flow__reclaim_pending(void);

/* "memb, membarrier" or "memb, fences". */
const char *flow__reclaim_flavour(void);

/* liburcu's version, as found when this library was built. */
const char *flow__reclaim_version(void);

#endif
