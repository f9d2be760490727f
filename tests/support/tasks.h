/* SPDX-License-Identifier: MIT
 *
 * What the tasks of several tests do, and how they are joined. */
#ifndef FLOW_TESTS_TASKS_H
#define FLOW_TESTS_TASKS_H

#include "tests/support/test.h"

#include <errno.h>
#include <stdatomic.h>

#define GENEROUS flow_after(FLOW_S(30))

/* Where it must fail within a time rather than hang. */
#define EXPECT_JOIN(task, out) EXPECT_EQ(flow_join(task, out, GENEROUS), 0)

static inline flow_result return_argument(void *arg)
{
    return flow_ok(arg);
}

static inline flow_result return_after_yields(void *arg)
{
    for (int64_t i = 0; i < (int64_t)(intptr_t)arg; i++)
        EXPECT_EQ(flow_yield(), 0);
    return flow_ok_i64((int64_t)(intptr_t)arg);
}

static inline flow_result sleep_for_ever(void *arg)
{
    int r = flow_sleep_until(FLOW_FOREVER);

    (void)arg;
    EXPECT_EQ(r, -ECANCELED);
    return flow_err(r);
}

static inline flow_result sleep_ms(void *ms)
{
    int r = flow_sleep(FLOW_MS((intptr_t)ms));

    return r ? flow_err(r) : flow_ok(ms);
}

static inline flow_result nap_30_ms(void *arg)
{
    test_nap(FLOW_MS(30));
    return flow_ok_i64(arg ? 1 : 5);
}

/* Suspends itself, and is woken by whoever finds its waker here. */
struct kept {
    flow_waker waker;
    atomic_bool is_there;
};

static inline int keep_waker(flow_waker waker, void *kept)
{
    ((struct kept *)kept)->waker = waker;
    atomic_store(&((struct kept *)kept)->is_there, true);
    return 0;
}

static inline flow_result suspend_and_keep(void *kept)
{
    int r = flow_suspend(keep_waker, kept, FLOW_FOREVER);

    return r ? flow_err(r) : flow_ok(kept);
}

static inline int publish_nothing(flow_waker waker, void *arg)
{
    (void)waker, (void)arg;
    return 0;
}

#endif
