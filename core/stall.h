/* SPDX-License-Identifier: MIT
 *
 * The stall detector (option stall_ns): looks at what each worker has dispatched, and says so if
 * that has been the same task for too long. By the monitor's thread. */
#ifndef FLOW_CORE_STALL_H
#define FLOW_CORE_STALL_H

#include <stdint.h>

/* open does nothing without the option or without worker threads; 0 or -ENOMEM. close may be called
 * without open. Neither while the monitor runs. */
int flow__stall_open(void);
void flow__stall_close(void);

/* After what time to look next; FLOW_FOREVER: never. */
int64_t flow__stall_tick(void);

/* gap: what it should have been since the last look. */
void flow__stall_look(int64_t now, int64_t gap);

#endif
