/* SPDX-License-Identifier: MIT
 *
 * The monitor: one thread, flow-monitor, that looks for stalled workers (option stall_ns) and dumps
 * all tasks at a signal (option dump_signal). There is none if neither is asked for. */
#ifndef FLOW_CORE_MONITOR_H
#define FLOW_CORE_MONITOR_H

/* Around the worker threads' lives. 0 or a negative errno: -EINVAL, the signal cannot be had. close
 * may be called without open. */
int flow__monitor_open(void);
void flow__monitor_close(void);

/* In the child of a fork, where the thread is missing: the signal is the program's again. */
void flow__monitor_in_child(void);

#endif
