/* SPDX-License-Identifier: MIT
 *
 * The library's system calls, counted, and the n-th of a kind made to fail. What is taken and
 * given back through the table is counted too, so that a leak is a difference. */
#ifndef FLOW_TESTS_FAULTS_H
#define FLOW_TESTS_FAULTS_H

#include <stdbool.h>
#include <stddef.h>

enum fault {
    FAULT_MAP,
    FAULT_ADVISE,
    FAULT_PROTECT,
    FAULT_BIND,
    FAULT_ALLOCATE,
    FAULT_THREAD,
    FAULT_BARRIER,    /* membarrier */
    FAULT_CPU,        /* getcpu */
    FAULT_WAIT_EINTR, /* a futex wait that comes back too early */
    FAULT_WAIT_EAGAIN,
    FAULT_KINDS,
};

extern const char *const fault_names[FAULT_KINDS];

/* Puts the counting table in place. Before flow_start. */
void faults_open(void);

/* The system knows of no guard pages by madvise, so that stacks are guarded by `protect`. */
void faults_refuse_guard_install(void);

/* From now on the n-th call of this kind fails (0: none), and with `forever` every later one too. */
void faults_arm(enum fault kind, long n, bool forever);

/* Has it failed since it was armed? How many calls of a kind were there since then? */
bool faults_fired(void);
long faults_calls(enum fault kind);

struct faults_balance {
    long maps, mapped_bytes, allocations, threads;
};

/* Taken and not yet given back (threads: created). */
struct faults_balance faults_balance(void);

#endif
