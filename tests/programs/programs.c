/* SPDX-License-Identifier: MIT
 *
 * What the programs share, and the list of them. */
#include "tests/programs/programs.h"
#include "tests/programs/watch.h"

#include <errno.h>

const struct program programs[] = {
    {"channel", run_channel},   {"select", run_select},     {"broadcast", run_broadcast},
    {"generator", run_generator}, {"mutex", run_mutex},     {"rwlock", run_rwlock},
    {"condition", run_condition}, {"semaphore", run_semaphore}, {"events", run_events},
    {"meeting", run_meeting},   {"sleepers", run_sleepers}, {"winner", run_winner},
    {"family", run_family},     {"scope", run_scope},       {"shield", run_shield},
    {"jobs", run_jobs},         {"pool", run_pool},         {"objects", run_objects},
    {"calls", run_calls},       {"once", run_attempts},
};
const int n_programs = sizeof programs / sizeof *programs;

struct program_stage program_stage;
struct program_totals program_totals;

void note_done(uint64_t what)
{
    atomic_fetch_add_explicit(&program_totals.operations, 1, memory_order_relaxed);
    if (program_stage.trace)
        program_stage.trace(what);
}

flow_deadline soon(struct chance *c)
{
    return flow_after((int64_t)(roll_below(c, 12)) * FLOW_US(1));
}

void dawdle(struct chance *c)
{
    switch (roll_below(c, 6)) {
    case 0:
    case 1:
        EXPECT_EQ(flow_yield(), 0);
        break;
    case 2:
        EXPECT_EQ(flow_yield(), 0);
        EXPECT_EQ(flow_yield(), 0);
        break;
    case 3:
        EXPECT_EQ(watch_sleep_until(soon(c)), 0);
        break;
    default:
        break;
    }
}

void expect_time(flow_deadline deadline)
{
    flow_deadline now = flow_now();

    EXPECT(now >= deadline);
    if (program_stage.exact && deadline != FLOW_NOW)
        EXPECT_EQ(now - deadline, 0);
}

static struct flow_spawn_options some_options(struct chance *c)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    int worker = (int)roll_below(c, program_stage.workers > 0 ? (uint64_t)program_stage.workers : 1);

    switch (roll_below(c, 4)) {
    case 0:
        o.flags = FLOW_ROAM;
        break;
    case 1:
        o.flags = FLOW_PINNED;
        o.worker = worker;
        break;
    case 2:
        o.worker = worker;
        o.stack_bytes = 16384u << roll_below(c, 3);
        break;
    default:
        o.flags = FLOW_FP_ENVIRONMENT;
        o.name = "of a program";
        break;
    }
    return o;
}

void start_task(struct chance *c, flow_task *out, flow_fn fn, void *arg)
{
    struct flow_spawn_options options;
    int r;

    switch (roll_below(c, 4)) {
    case 0:
        options = some_options(c);
        r = flow_spawn_with(out, &options, fn, arg);
        break;
    case 1:
        r = flow_spawn_now(out, fn, arg);
        break;
    default:
        r = flow_spawn(out, fn, arg);
        break;
    }
    EXPECT_EQ(r, 0);
}

void join_task(flow_task task)
{
    flow_result result = flow_err(-EPROTO);

    EXPECT_EQ(flow_join(task, &result, FLOW_FOREVER), 0);
    EXPECT_EQ(result.error, 0);
    EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -ESRCH);
}
