/* SPDX-License-Identifier: MIT
 *
 * Blocking calls to offload, which wait at a gate so that a test knows where they are; the lanes they go to,
 * and the coroutines that make them. All but wait_at_gate and release_gate are for coroutines; all EXPECT. */
#ifndef FLOW_TESTS_GATE_H
#define FLOW_TESTS_GATE_H

#include "tests/support/test.h"

#include <stdatomic.h>

#define PATIENCE FLOW_S(20) /* for what comes at once if it comes at all */

/* Counts who is inside, and who came out. */
struct gate {
    atomic_bool open;
    atomic_int entered, inside, most_inside, left, released;
    atomic_int opens_at; /* opens itself when so many are inside */
};

/* To be offloaded, with a gate: how many have left before, + 100. */
flow_result wait_at_gate(void *gate);
void release_gate(void *gate); /* the argument of an owned call; only counted */
void wait_for(atomic_int *count, int n);

flow_lane *new_lane(unsigned max_threads, unsigned max_queued);
void end_lane(flow_lane *lane);

struct call {
    flow_lane *lane;
    flow_fn fn;
    void *arg;
    flow_deadline deadline;
    bool owned, abandoned;
    int released_at_return;
    int sleep_after; /* what the next suspending call said */
};

flow_task call_in_task(struct call *c); /* it has submitted when this returns */
flow_result join_call(flow_task task);

/* A lane whose one helper stands at a gate. */
struct busy_lane {
    flow_lane *lane;
    struct gate gate;
    struct call call;
    flow_task task;
};

void occupy(struct busy_lane *b, unsigned max_queued);
void let_through(struct busy_lane *b);
void vacate(struct busy_lane *b); /* and ends the lane */

#endif
