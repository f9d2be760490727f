/* SPDX-License-Identifier: MIT
 *
 * What starting, stopping and running share: each on a foreign thread, and seldom. */
#ifndef FLOW_CORE_RUNTIME_H
#define FLOW_CORE_RUNTIME_H

#include "core/worker.h"

/* Keeps two threads from starting and stopping at once. */
extern struct flow__lock flow__start_lock __attribute__((visibility("hidden")));

/* ---- runtime.c ---- */

/* Waits until ready() or the deadline. Whoever changes what ready() looks at calls
 * flow__tell_quiet(). */
bool flow__wait_until(struct flow__runtime *rt, bool (*ready)(struct flow__runtime *),
                      flow_deadline deadline);

/* Gives the calling thread the CPUs of the one that started the runtime. */
void flow__unpin_thread(void);

/* Asks the worker threads to leave. */
void flow__tell_workers_to_end(struct flow__runtime *rt);

/* The parts of a runtime, in the order in which they are taken down. */
void flow__close_workers(struct flow__runtime *rt);
void flow__close_memory(void);

/* ---- stop.c ---- */

/* Cancels every task, and every foreign thread's wait. */
void flow__cancel_all(void);

/* ---- run.c ---- */

/* Without worker threads one thread at a time has the driver's seat. Taking it sends away who
 * drives just now. False: not before the deadline. */
bool flow__take_the_seat(struct flow__runtime *rt, flow_deadline deadline);
void flow__leave_the_seat(struct flow__runtime *rt);

/* Drives for who has the seat: the number of dispatches, or -EDEADLK. */
int flow__drive_seated(struct flow__worker *w, flow_deadline deadline,
                       const struct flow__driving *how);

#endif
