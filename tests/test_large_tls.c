/* SPDX-License-Identifier: MIT
 *
 * A program with more thread-local memory than our threads' stacks have bytes: glibc takes each thread's
 * copy out of its stack. */
#include "tests/support/child.h"

#include <string.h>

static __thread char own[1024 * 1024];

static flow_result use_own(void *arg)
{
    memset(own, 1, sizeof own);
    return flow_ok_i64(own[sizeof own - 1] + (intptr_t)arg);
}

static flow_result use_workers_and_helpers(void *arg)
{
    flow_result r = use_own(arg);

    REQUIRE_EQUAL(r.i64, 2);
    r = flow_offload(FLOW_LANE_FILE, use_own, arg, FLOW_FOREVER);
    REQUIRE_EQUAL(r.error, 0);
    return r;
}

static void run_with(int workers)
{
    struct flow_options o = test_options();
    flow_result result;

    o.workers = workers;
    o.stall_ns = FLOW_S(1); /* the monitor is a thread, too */
    REQUIRE_EQUAL(flow_run(&o, use_workers_and_helpers, (void *)1, &result), 0);
    REQUIRE_EQUAL(result.i64, 2);
}

CASE(workers_have_room_for_thread_local_variables)
{
    run_with(2);
}

CASE(without_workers_helpers_have_it)
{
    run_with(0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
