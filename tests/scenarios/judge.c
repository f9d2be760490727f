/* SPDX-License-Identifier: MIT
 *
 * What the scenarios judge their calls by, and what they share. */
#include "tests/scenarios/scenarios.h"

#include <errno.h>

struct scenario_faults scenario_faults;

bool fine(int r)
{
    if (r == 0)
        return true;
    REQUIRE(scenario_faults.injecting && any_fault_fired());
    REQUIRE(r == -ENOMEM || r == -EAGAIN || r == -ECANCELED);
    atomic_fetch_add(&scenario_faults.n_errors, 1);
    return false;
}

flow_result nothing(void *arg)
{
    return flow_ok(arg);
}

flow_result ended(int r)
{
    return r ? flow_err(r) : flow_ok(NULL);
}

int in_task(flow_fn fn)
{
    flow_result result = {0};
    int r = flow_sync_wait(fn, NULL, &result, FLOW_FOREVER);

    return r ? r : result.error;
}

flow_result yield_or_sleep(void *arg)
{
    intptr_t i = (intptr_t)arg;
    int r = i % 3 ? flow_sleep(FLOW_US(100)) : flow_yield();

    return ended(r);
}

void together(struct flow_scope *scope, flow_fn fn, void *arg)
{
    if (!fine(flow_scope_spawn(scope, NULL, fn, arg)))
        REQUIRE_EQUAL(flow_scope_cancel(scope), 0);
}
