/* SPDX-License-Identifier: MIT
 *
 * The parts of tests/test_torture.c: actors.c, traffic.c, rcu.c, shaker.c, report.c. Rounds of a
 * runtime are started and stopped by the test's thread; within a round all parts run at once. */
#ifndef FLOW_TESTS_TORTURE_H
#define FLOW_TESTS_TORTURE_H

#include "tests/programs/programs.h"
#include "tests/support/test.h"

#include <pthread.h>
#include <stdatomic.h>

/* Written by the test's thread. */
extern struct torture {
    atomic_bool ending;    /* coroutines begin nothing new */
    atomic_bool all_ended; /* foreign threads may go */
    atomic_int round, workers;
    atomic_llong shuffle, hard_limit;
    uint64_t seed;
    int dev_null;
} torture;

/* ---- actors.c ---- */

extern struct torture_counts {
    atomic_ulong spawned, started, cancelled_before_start, joined, timed_out, cancels, cancels_too_late;
    atomic_ulong suspended, published, woken_suspensions, wakes, wakes_too_late;
    atomic_ulong sleeps, yields, any, all, calls, owned, owned_returned, owned_released, dumps, looks, bursts;
    atomic_ulong operations;
} did;

#define COUNT(field) atomic_fetch_add_explicit(&did.field, 1, memory_order_relaxed)

flow_result torture_actor(void *seed);
void *torture_foreign(void *seed); /* an even seed: one that never waits for a task */
void torture_forget(void);         /* at the end of a round, what could be used in the next one */
void torture_settle(void);         /* when nothing runs: what must be equal is */

/* ---- traffic.c ---- */

flow_result torture_programs(void *seed);   /* runs one after the other */
flow_result torture_mail(void *seed);       /* sends to and receives from one channel for all */
flow_result torture_hot(void *seed);        /* keeps the CPU busy with what others may steal */
void torture_mail_open(void);
void torture_mail_close(void);              /* and judges: sent = received + queued */
void torture_mail_count(unsigned long *sent, unsigned long *received, unsigned long *queued);

/* ---- rcu.c ---- */

enum { TORTURE_AGES = 4 };

void torture_rcu_open(void); /* before flow_start: replaces flow__sys.release */
void torture_read(uint64_t random);    /* by a thread that the library knows; never suspends */
flow_result torture_replace(void *seed); /* a coroutine that retires one object after the other */
void torture_rcu_ages(unsigned long ages[TORTURE_AGES]);

/* ---- shaker.c ---- */

void shaker_open(uint64_t seed); /* before flow_start: replaces flow__sys.thread_create */
void shaker_add(void);           /* the calling thread is shaken, too, until shaker_remove() */
void shaker_remove(void);
void shaker_close(void);
unsigned long shaker_signals(void);

/* ---- report.c ---- */

/* A thread that prints a line now and then and looks for waits that go on for patience_ns after they
 * should be over: then the process ends with status REPORT_LOST. After torture.hard_limit with 124. */
enum { REPORT_LOST = 3 };
void report_open(int64_t every_ns, int64_t patience_ns);
void report_close(void);
void report_line(const char *prefix);
uint64_t report_operations(void);

#endif
