/* SPDX-License-Identifier: MIT
 *
 * The report of a crash inside a coroutine: which one, spawned where, on what
 * stack, and whether that stack has overflowed. Then the crash takes its course. */
#ifndef FLOW_CORE_FATAL_H
#define FLOW_CORE_FATAL_H

/* Installs or removes the handlers of SIGSEGV, SIGBUS and SIGABRT. Those of the program come after
 * ours. */
void flow__fatal_open(void);
void flow__fatal_close(void);

/* An alternate signal stack for the calling thread, if it has none. *stack: what to close, or NULL.
 */
void flow__fatal_stack_open(void **stack);
void flow__fatal_stack_close(void **stack);

#endif
