/* SPDX-License-Identifier: MIT
 *
 * Guards below stacks: which kind works on this machine, and putting one there. */
#ifndef FLOW_CORE_GUARD_H
#define FLOW_CORE_GUARD_H

#include "core/stack.h"

/* The best that works. Any thread. */
enum flow__guard flow__guard_probe(size_t page_bytes);

/* Of the kind that was found, at a slot's low end. 0 or a negative errno. */
int flow__guard_install(char *slot);

/* For `flow core` in core/flowcoro-gdb.py, which calls them while all other threads stand still: a
 * debugger cannot read guard pages, and leaves out of a core file all that follows one. */
void flow__guards_lift(void);
void flow__guards_restore(void);

#endif
