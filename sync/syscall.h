/* SPDX-License-Identifier: MIT
 *
 * The one table through which the library asks the system for anything that may
 * fail or block: memory, threads, futexes, the clock. Tests replace entries to
 * make the n-th call fail or to run on a clock of their own.
 *
 * Written only before flow_start and by single-threaded tests; read by everyone.
 * Every entry returns 0 (or a pointer) or a negative errno; errno is not used. */
#ifndef FLOW_SYNC_SYSCALL_H
#define FLOW_SYNC_SYSCALL_H

#include "sync/atomic.h"

#include <pthread.h>
#include <stddef.h>

/* A flag of `map`: start at a multiple of 2 MiB, so that huge pages fit. None of the kernel's. */
#define FLOW__MAP_HUGE     (1 << 30)
#define FLOW__HUGE_BYTES   ((size_t)2 << 20)
#define FLOW__MAX_BIND_IDS 1024 /* kernel nodes; the largest number that Linux can be built for */

struct flow__syscalls {
    /* Sleeps while *word == expected, until a wake or the deadline (CLOCK_MONOTONIC ns,
     * INT64_MAX: none). 0, -EAGAIN (word differs), -EINTR, -ETIMEDOUT; may wake spuriously. */
    int (*futex_wait)(flow__atomic(uint32_t) * word, uint32_t expected, int64_t deadline);
    int (*futex_wake)(flow__atomic(uint32_t) * word, int n);
    int64_t (*now)(void);
    int (*cpu)(void); /* that the calling thread runs on just now, by the kernel's number */

    /* Anonymous and private; flags beside the kernel's: FLOW__MAP_HUGE. NULL if refused. */
    void *(*map)(size_t bytes, int prot, int flags);
    int (*unmap)(void *start, size_t bytes);
    int (*protect)(void *start, size_t bytes, int prot);
    int (*advise)(void *start, size_t bytes, int advice);
    /* Asks for this kernel node's memory (MPOL_PREFERRED) for pages touched from now on. */
    int (*bind)(void *start, size_t bytes, int node_id);

    /* Every running thread of the process passes a full memory barrier (membarrier); the first call
     * asks for the right to it. -ENOSYS, -EPERM or the like where that is refused. */
    int (*barrier)(void);

    void *(*allocate)(size_t bytes); /* zeroed; small and cold things only */
    void (*release)(void *p);

    int (*thread_create)(pthread_t *thread, size_t stack_bytes, void *(*run)(void *), void *arg);
};

extern struct flow__syscalls flow__sys __attribute__((visibility("hidden")));
extern const struct flow__syscalls flow__sys_real __attribute__((visibility("hidden")));

#endif
