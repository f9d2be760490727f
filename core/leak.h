/* SPDX-License-Identifier: MIT
 *
 * The report of what a program has left behind when it stops the runtime (option report_leaks): on
 * stderr, by the thread that stops. */
#ifndef FLOW_CORE_LEAK_H
#define FLOW_CORE_LEAK_H

/* Before anything is cancelled: what still lives. */
void flow__leaks_at_begin(void);

/* When the workers have left, before memory is given back: what has not ended, and what has and was
 * never joined or detached. */
void flow__leaks_at_end(void);

#endif
