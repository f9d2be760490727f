/* SPDX-License-Identifier: MIT
 *
 * Turns SIGINT and SIGTERM into the cancellation of one task. */
#ifndef EXAMPLES_SUPPORT_INTERRUPT_H
#define EXAMPLES_SUPPORT_INTERRUPT_H

#include <flowcoro.h>

/* Blocks both signals in the calling thread, and so in all that it makes later,
 * and waits for them on a thread of its own. The first signal cancels the
 * target; the second ends the process at once. 0 or a negative errno.
 * Call before flow_start, from the main thread. */
int interrupt_begin(void);

/* Names the task to cancel. If the signal came already, cancels it now. From
 * anywhere; never suspends. */
void interrupt_target(flow_task task);

/* The number of the signal that came, 0 if none did. From anywhere. */
int interrupt_signal(void);

/* Ends the thread. */
void interrupt_end(void);

#endif
