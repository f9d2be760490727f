/* SPDX-License-Identifier: MIT
 *
 * The stall detector (option stall_ns): a thread of its own that looks at what each worker has
 * dispatched, and says so if that has been the same task for too long. */
#ifndef FLOW_CORE_STALL_H
#define FLOW_CORE_STALL_H

/* Around the worker threads' lives. open does nothing without the option or without worker
 * threads; 0, or a negative errno. close may be called without open. */
int flow__stall_open(void);
void flow__stall_close(void);

#endif
