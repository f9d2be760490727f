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

struct flow__syscalls {
    /* Sleeps while *word == expected, until a wake or the deadline (CLOCK_MONOTONIC ns,
     * INT64_MAX: none). 0, -EAGAIN (word differs), -EINTR, -ETIMEDOUT; may wake spuriously. */
    int (*futex_wait)(flow__atomic(uint32_t) * word, uint32_t expected, int64_t deadline);
    int (*futex_wake)(flow__atomic(uint32_t) * word, int n);
    int64_t (*now)(void);

    void *(*map)(size_t bytes, int prot, int flags); /* anonymous private; NULL if refused */
    int (*unmap)(void *start, size_t bytes);
    int (*protect)(void *start, size_t bytes, int prot);
    int (*advise)(void *start, size_t bytes, int advice);

    void *(*allocate)(size_t bytes); /* zeroed; small and cold things only */
    void (*release)(void *p);

    int (*thread_create)(pthread_t *thread, size_t stack_bytes, void *(*run)(void *), void *arg);
};

extern struct flow__syscalls flow__sys __attribute__((visibility("hidden")));
extern const struct flow__syscalls flow__sys_real __attribute__((visibility("hidden")));

#endif
