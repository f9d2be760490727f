/* SPDX-License-Identifier: MIT
 *
 * The machine that the runtime runs on: read when it starts, constant while it runs. */
#ifndef FLOW_CORE_MACHINE_H
#define FLOW_CORE_MACHINE_H

#include "core/worker.h"

/* Fills rt->topology, placement, cpu_quota, cpus_to_run_on and the number of workers. Within
 * flow_start. 0, or flow_start's error with its text set, and then nothing is left. */
int flow__machine_read(struct flow__runtime *rt);
void flow__machine_forget(struct flow__runtime *rt);

#endif
