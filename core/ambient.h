/* SPDX-License-Identifier: MIT
 *
 * What surrounds a task: shields, ambient deadlines and scopes, as a chain of records in its
 * frames, the innermost in the header of its stack. The task's own thread only.
 *
 * The flags SHIELDED and AMBIENT of the task tell what the innermost record amounts to, so that a
 * wait looks at one word. A task that a scope has spawned, and that has opened nothing itself, finds
 * its deadline in that scope.
 *
 * The lowest bit of each link says that a scope is among the records from there outwards. */
#ifndef FLOW_CORE_AMBIENT_H
#define FLOW_CORE_AMBIENT_H

#include "core/worker.h"

#include <flowcoro/cancel.h>

enum { FLOW__AMBIENT_SHIELD = 1, FLOW__AMBIENT_DEADLINE, FLOW__AMBIENT_SCOPE };

#define FLOW__HAS_SCOPE ((uintptr_t)1)

/* Opens a record; what holds then is the earlier of the deadline and the present one. 0, or
 * flow__outside(). */
int flow__ambient_open(struct flow_ambient *a, unsigned kind, flow_deadline deadline);

/* Is it the innermost? 0, -EINVAL, or flow__outside(). */
int flow__ambient_check(const struct flow_ambient *a, unsigned kind);

/* Closes what flow__ambient_check has found to be the innermost. */
void flow__ambient_close(struct flow_ambient *a);

/* The deadline in force, or FLOW_FOREVER. */
flow_deadline flow__ambient_deadline(struct flow__task *self);

/* May it wait now? Says also whether cancellation is to be ignored, and leaves LIMITED as
 * flow__wait needs it. For tasks with SHIELDED or AMBIENT. */
bool flow__ambient_allows(struct flow__task *self, bool *shielded);

bool flow__ambient_is_over_slowly(struct flow__task *self);

static inline bool flow__ambient_is_over(struct flow__task *self)
{
    return flow__unlikely(flow__has(self, FLOW__AMBIENT)) && flow__ambient_is_over_slowly(self);
}

/* Does every wait give -ECANCELED now? */
static inline bool flow__must_leave(struct flow__task *self)
{
    return flow__heeds_cancel(self) || flow__ambient_is_over(self);
}

/* At the end of a task that has left something open. */
__attribute__((cold)) void flow__ambient_abandon(struct flow__stack_header *top);

#endif
