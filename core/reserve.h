/* SPDX-License-Identifier: MIT
 *
 * Address space, reserved first and touched as needed. */
#ifndef FLOW_CORE_RESERVE_H
#define FLOW_CORE_RESERVE_H

#include <stdbool.h>
#include <stddef.h>

/* Readable, writable, zeroed memory of which nothing is backed before it is touched,
 * also in a process that locks its memory. flags: 0 or FLOW__MAP_HUGE. NULL if the system
 * refuses. */
void *flow__reserve(size_t bytes, int flags);

/* Would so much leave the program a fair part of its address space? Always, unless that is limited.
 */
bool flow__reserve_is_modest(size_t bytes);

#endif
