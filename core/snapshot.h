/* SPDX-License-Identifier: MIT
 *
 * What one task is doing, seen from any other thread while it goes on: for the dump. Nothing is
 * locked and no worker is stopped or disturbed; a task is read, and then read again to see whether it
 * has stood still meanwhile.
 *
 * A suspended coroutine can be told by two things. Its wait word is armed, and as soon as it is
 * won another word stands there for good, since each suspension has its own epoch. And its stack
 * pointer is there: it is taken away before each suspension (flow__arm, flow_yield) and only the
 * switch puts it back. So who finds an armed word, then a stack pointer, and after having read the
 * stack the same word again, has read the stack of a suspended coroutine. */
#ifndef FLOW_CORE_SNAPSHOT_H
#define FLOW_CORE_SNAPSHOT_H

#include "core/unwind.h"
#include "core/worker.h"

enum flow__activity {
    FLOW__TASK_QUEUED,  /* has not started */
    FLOW__TASK_READY,   /* waits for its worker's turn */
    FLOW__TASK_RUNNING, /* or is being called by one that does */
    FLOW__TASK_WAITING,
    FLOW__TASK_ACTIVE, /* it starts and stops too often to be caught at either */
};

struct flow__backtrace {
    int n;
    bool complete;
    uintptr_t pc[FLOW__FRAMES];
};

struct flow__snapshot {
    uint64_t id;
    enum flow__activity activity;
    enum flow__why why; /* while it waits, and */
    const void *object; /* what for; NULL: nothing to name */
    uint64_t awaited;   /* or the id of a task, or 0 */
    int64_t since;      /* by the clock of its worker, which is up to 200 us late, or as much as
                            * its coroutine has run without a suspension */
    int64_t deadline;   /* FLOW_FOREVER: none */
    bool cancelled;
    int worker, node; /* -1: none yet */
    int stack_class;
    const char *stack;   /* NULL: none yet */
    size_t stack_in_use; /* of a suspended one: bytes below its top */
    const void *mutex;   /* one that it holds, or NULL */
    void *spawn_site;
    char name[FLOW__NAME_BYTES];
    struct flow__backtrace trace; /* n = 0: it did not stand still, or has none */
};

/* Fills in *s; false if the block is no live task (any more). cache NULL: without a backtrace. Within
 * an RCU read-side section. */
bool flow__snapshot(struct flow__task *t, struct flow__unwind_cache *cache,
                    struct flow__snapshot *s);

#endif
