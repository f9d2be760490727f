/* SPDX-License-Identifier: MIT
 *
 * The lanes' life; the calls are public. */
#ifndef FLOW_CORE_OFFLOAD_H
#define FLOW_CORE_OFFLOAD_H

#include <stdbool.h>

/* Makes the built-in lanes. 0 or -ENOMEM. */
int flow__offload_open(void);

/* Ends all lanes. Helpers that are inside a call nobody waits for go on by themselves. */
void flow__offload_close(void);

/* No coroutine will ever run again: calls that wait for a helper are dropped, those that own their
 * argument are left to their helper. */
void flow__offload_orphan(void);

/* Does a helper still use what a suspended coroutine owns? */
bool flow__offload_busy(void);

/* Is the calling thread a helper? */
bool flow__offload_is_helper(void);

#endif
