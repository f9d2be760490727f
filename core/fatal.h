/* SPDX-License-Identifier: MIT
 *
 * The report of a crash inside a coroutine: which one, spawned where, on what
 * stack, and whether that stack has overflowed. Then the crash takes its course.
 *
 * Where the program has a handler of its own, that is called by ours, on the alternate stack, and ours stays
 * installed. A fault that it may mend is reported only if it leaves the signal with the default (by
 * itself or by SA_RESETHAND), or passes it on to ours; an overflow or an abort is reported before it is called. */
#ifndef FLOW_CORE_FATAL_H
#define FLOW_CORE_FATAL_H

/* Installs or removes the handlers of SIGSEGV, SIGBUS and SIGABRT. */
void flow__fatal_open(void);
void flow__fatal_close(void);

/* An alternate signal stack for the calling thread, if it has none or one that is too small for a report; close
 * puts back what it had. *stack: what to close, or NULL. */
void flow__fatal_stack_open(void **stack);
void flow__fatal_stack_close(void **stack);

#endif
