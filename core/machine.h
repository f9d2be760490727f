/* SPDX-License-Identifier: MIT
 *
 * The machine that the runtime runs on: read when it starts, constant while it runs. */
#ifndef FLOW_CORE_MACHINE_H
#define FLOW_CORE_MACHINE_H

#include "core/worker.h"

/* Fills rt->topology, placement, cpu_quota, n_seats, real_cpus and the number of workers. Within
 * flow_start. 0, or flow_start's error with its text set, and then nothing is left. */
int flow__machine_read(struct flow__runtime *rt);
void flow__machine_forget(struct flow__runtime *rt);

/* The machine for whoever asks: the runtime's, or without one what is read at the first question
 * and kept until the next start. */
struct flow__machine_view {
    const struct flow__topology *topology;
    bool runs; /* it is the runtime's, whose placement may be looked at too */
    enum { FLOW__VIEW_OF_TASK, FLOW__VIEW_OF_FOREIGN, FLOW__VIEW_OF_NOBODYS } kind;
};

/* From any coroutine and thread: until the view is left nothing of it changes. 0; -ENOTSUP in the
 * child of a fork; -EPERM in a worker outside of coroutines; -ENOMEM or -EINVAL: no machine can be
 * read. A coroutine must not suspend in between. */
int flow__machine_enter(struct flow__machine_view *view);
void flow__machine_leave(const struct flow__machine_view *view);

/* Somebody has such a view of the machine without a runtime, or is about to: a fork's child can have none. */
bool flow__machine_is_asked(void);

/* The CPU of a worker's seat, pinned or not. */
static inline int flow__seat_cpu_id(const struct flow__runtime *rt, int worker)
{
    return rt->topology.cpus[rt->placement.seat[worker]].cpu_id;
}

#endif
