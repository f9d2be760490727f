/* SPDX-License-Identifier: MIT
 *
 * A stage for the whole library: its system calls are played here, so that a seed decides about
 * everything. Time is virtual; it goes on when nobody can run, to the next deadline. Threads
 * that the library makes (helpers of flow_offload) are real ones, but only one of them runs at a
 * time, and who comes next when one waits, wakes another or looks at the clock is chosen by chance.
 *
 * The trace is a hash of all that happened, with its virtual time: two runs of a seed are the same
 * if their traces are. What the library takes and gives back is counted.
 *
 * Used by one thread of the test, which opens and closes it around flow_start and flow_stop. */
#ifndef FLOW_TESTS_SIMULATION_STAGE_H
#define FLOW_TESTS_SIMULATION_STAGE_H

#include <stdbool.h>
#include <stdint.h>

/* drift: each look at the clock makes it go on a little, as a busy machine's does; else time stands
 * still while anything can run, and whoever waits for a point in time wakes exactly then. */
void stage_open(uint64_t seed, bool drift);

/* Runs the threads that are left to their end, puts the system's calls back, and returns the trace. */
uint64_t stage_close(void);

/* Notes something that has happened. By whoever runs. */
void stage_trace(uint64_t what);

/* Is time exact? */
bool stage_is_exact(void);

/* What is taken and not given back: mapped bytes and allocations. */
struct stage_balance {
    int64_t mapped_bytes, allocations;
};
struct stage_balance stage_balance(void);

/* What was played, for the summary. */
struct stage_counts {
    uint64_t switches, threads, waits, timeouts;
    int64_t virtual_ns;
};
struct stage_counts stage_counts(void); /* since the start of the process */

#endif
