/* SPDX-License-Identifier: MIT
 *
 * Small random programs that judge themselves, each about one or two things that a coroutine can wait
 * on. Each is the function of a task that nobody cancels; its argument is a seed. It starts what tasks
 * it needs, waits until all of them have ended, and says by EXPECT what did not add up. Every one comes
 * to its end in a short time on any number of workers, if no wake-up is lost.
 *
 * The simulation runs them on one thread in virtual time, torture runs them beside everything else. */
#ifndef FLOW_TESTS_PROGRAMS_H
#define FLOW_TESTS_PROGRAMS_H

#include "tests/support/test.h"

#include <stdatomic.h>

struct program {
    const char *name;
    flow_fn run; /* arg: the seed */
};

extern const struct program programs[];
extern const int n_programs;

/* The stage, set before anything runs. */
struct program_stage {
    void (*trace)(uint64_t what); /* is told what has happened; or NULL */
    bool exact;    /* time stands still while anything can run, so waits end exactly at their deadlines */
    bool watched;  /* waits are shown to the watchdog, see watch.h */
    bool no_calls; /* flow_offload has no helper threads */
    int workers;
};
extern struct program_stage program_stage;

/* Over all programs; sent and received are equal when none runs. */
extern struct program_totals {
    atomic_ulong operations, sent, received;
} program_totals;

/* ---- for the programs ---- */

struct chance {
    uint64_t state;
};

static inline uint64_t roll(struct chance *c)
{
    return test_random(&c->state);
}

/* 0 to n - 1. */
static inline uint64_t roll_below(struct chance *c, uint64_t n)
{
    return roll(c) % n;
}

static inline bool heads(struct chance *c)
{
    return roll(c) & 1;
}

/* A seed for somebody else. */
static inline struct chance chance_for(struct chance *c)
{
    return (struct chance){roll(c)};
}

void note_done(uint64_t what);     /* an operation, for the trace and the count */
flow_deadline soon(struct chance *c); /* within some microseconds, in steps of one, so that many meet */
void dawdle(struct chance *c);     /* nothing, some yields or a short sleep; in a shield or not cancelled */

/* A task in one of the ways there are. */
void start_task(struct chance *c, flow_task *out, flow_fn fn, void *arg);
void join_task(flow_task task); /* whose result is no error */

/* After a wait that timed out: not early, and where time is exact not late. */
void expect_time(flow_deadline deadline);

flow_result run_channel(void *seed);
flow_result run_select(void *seed);
flow_result run_broadcast(void *seed);
flow_result run_generator(void *seed);
flow_result run_mutex(void *seed);
flow_result run_rwlock(void *seed);
flow_result run_condition(void *seed);
flow_result run_semaphore(void *seed);
flow_result run_events(void *seed);
flow_result run_meeting(void *seed);
flow_result run_attempts(void *seed);
flow_result run_sleepers(void *seed);
flow_result run_winner(void *seed);
flow_result run_family(void *seed);
flow_result run_scope(void *seed);
flow_result run_shield(void *seed);
flow_result run_jobs(void *seed);
flow_result run_pool(void *seed);
flow_result run_objects(void *seed);
flow_result run_calls(void *seed);

#endif
