/* SPDX-License-Identifier: MIT */
#include "tests/support/gate.h"

#include <errno.h>
#include <string.h>

static void raise_to(atomic_int *most, int n)
{
    int seen = atomic_load(most);

    while (seen < n && !atomic_compare_exchange_weak(most, &seen, n))
        ;
}

flow_result wait_at_gate(void *arg)
{
    struct gate *gate = arg;
    int inside = atomic_fetch_add(&gate->inside, 1) + 1;
    int64_t until = flow_now() + PATIENCE;

    EXPECT_EQ(flow_self().id, 0);
    atomic_fetch_add(&gate->entered, 1);
    raise_to(&gate->most_inside, inside);
    if (inside == atomic_load(&gate->opens_at))
        atomic_store(&gate->open, true);
    while (!atomic_load(&gate->open)) {
        if (flow_now() > until) {
            EXPECT(!"the gate opens in time");
            break;
        }
        test_nap(FLOW_US(200));
    }
    atomic_fetch_sub(&gate->inside, 1);
    return flow_ok_i64(atomic_fetch_add(&gate->left, 1) + 100);
}

void release_gate(void *arg)
{
    atomic_fetch_add(&((struct gate *)arg)->released, 1);
}

void wait_for(atomic_int *count, int n)
{
    int64_t until = flow_now() + PATIENCE;

    while (atomic_load(count) < n && flow_now() < until)
        flow_sleep(FLOW_US(200));
    EXPECT_EQ(atomic_load(count), n);
}

flow_lane *new_lane(unsigned max_threads, unsigned max_queued)
{
    struct flow_lane_options options = FLOW_LANE_INIT;
    flow_lane *lane = NULL;

    options.max_threads = max_threads;
    options.max_queued = max_queued;
    EXPECT_EQ(flow_lane_create(&lane, &options), 0);
    return lane;
}

void end_lane(flow_lane *lane)
{
    int r;
    int64_t until = flow_now() + PATIENCE;

    /* A helper may not have counted itself out of its last call yet. */
    while ((r = flow_lane_destroy(lane)) == -EBUSY && flow_now() < until)
        flow_sleep(FLOW_US(200));
    EXPECT_EQ(r, 0);
}

static flow_result call_it(void *arg)
{
    struct call *c = arg;
    flow_result r;

    if (c->owned)
        r = flow_offload_owned(c->lane, c->fn, c->arg, release_gate, &c->abandoned, c->deadline);
    else
        r = flow_offload(c->lane, c->fn, c->arg, c->deadline);
    if (c->owned)
        c->released_at_return = atomic_load(&((struct gate *)c->arg)->released);
    c->sleep_after = flow_sleep(1000);
    return r;
}

flow_task call_in_task(struct call *c)
{
    flow_task task;

    EXPECT_EQ(flow_spawn_now(&task, call_it, c), 0);
    return task;
}

flow_result join_call(flow_task task)
{
    flow_result result = flow_err(-EPROTO);

    EXPECT_EQ(flow_join(task, &result, FLOW_FOREVER), 0);
    return result;
}

void occupy(struct busy_lane *b, unsigned max_queued)
{
    memset(b, 0, sizeof *b);
    b->lane = new_lane(1, max_queued);
    b->call = (struct call){b->lane, wait_at_gate, &b->gate, FLOW_FOREVER};
    b->task = call_in_task(&b->call);
    wait_for(&b->gate.entered, 1);
}

void let_through(struct busy_lane *b)
{
    atomic_store(&b->gate.open, true);
    EXPECT_EQ(join_call(b->task).i64, 100);
}

void vacate(struct busy_lane *b)
{
    let_through(b);
    end_lane(b->lane);
}
