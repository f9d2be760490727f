/* SPDX-License-Identifier: MIT
 *
 * How a worker that has found nothing waits. */
#ifndef FLOW_CORE_PARK_H
#define FLOW_CORE_PARK_H

#include "core/worker.h"

/* After so many summons in vain a worker becomes the lookout, see core/park.c. */
#define FLOW__FRUITLESS_MOST 4

/* Sleeps until there may be work. */
void flow__park(struct flow__worker *w);

/* When the next timer is nearer than a sleep and a wake take, waits for it awake. False if it is
 * not, or if this runtime must not spin. */
bool flow__wait_for_near_timer(struct flow__worker *w);

#endif
