/* SPDX-License-Identifier: MIT
 *
 * What tests/test_fault_scenarios.c runs while the system refuses calls. A scenario does what a program
 * should: it looks at every error, undoes what it began, and starts tasks that need each other in a
 * scope, so that one that could not start ends the others. */
#ifndef TESTS_SCENARIOS_H
#define TESTS_SCENARIOS_H

#include "tests/support/child.h"

#include <stdatomic.h>

/* ---- the scenarios ---- */

void spawns(void);
void ten_thousand_tasks(void);
void timers(void);
void offload(void);
void jobs(void);
void stop(void); /* leaves much to flow_stop */
void pools(void);
void object_pools(void);
void containers(void);
void memory_of_a_node(void);
void channels(void);
void locks(void);
void scopes(void);
void broadcast_and_generators(void);

/* ---- what they share ---- */

/* Which faults there are meanwhile: written while nothing runs, but for the errors. */
extern struct scenario_faults {
    bool injecting;
    enum { ONCE, ALWAYS, BARRIER } how;
    atomic_long n_errors; /* that calls have returned */
} scenario_faults;

/* Says who runs them. */
bool any_fault_fired(void);

/* True: fine. Else it is an error that a program can understand, and there is a reason for it. */
bool fine(int r);

flow_result nothing(void *arg);
flow_result ended(int r);
flow_result yield_or_sleep(void *arg);

/* Runs fn as a task; gives its error. */
int in_task(flow_fn fn);

/* Spawns all of them in the scope, or none: where one could not start, those that wait for it are cancelled. */
void together(struct flow_scope *scope, flow_fn fn, void *arg);

#endif
