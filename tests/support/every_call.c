/* SPDX-License-Identifier: MIT */
#include "tests/support/every_call.h"

#include "tests/support/child.h"

#include <unistd.h>

static flow_result nothing(void *arg)
{
    return flow_ok(arg);
}

static int publish_nothing(flow_waker waker, void *arg)
{
    (void)waker, (void)arg;
    return 0;
}

static void release_nothing(void *arg)
{
    (void)arg;
}

void every_call_gives(int error)
{
    struct flow_spawn_options with = FLOW_SPAWN_INIT;
    struct flow_lane_options lane_options = FLOW_LANE_INIT;
    struct flow_info info = {.size = sizeof info};
    struct flow_stats stats = {.size = sizeof stats};
    struct flow_worker_stats worker;
    uint64_t queued;
    flow_task task = {(uint64_t)1 << 32}, spawned;
    flow_waker waker = {(uint64_t)1 << 32, 1};
    flow_lane *lane;
    flow_result out;
    size_t winner;
    bool abandoned = false;

    REQUIRE_EQUAL(flow_spawn(&spawned, nothing, NULL), error);
    REQUIRE_EQUAL(flow_spawn(NULL, nothing, NULL), error);
    REQUIRE_EQUAL(flow_spawn_now(&spawned, nothing, NULL), error);
    REQUIRE_EQUAL(flow_spawn_with(&spawned, &with, nothing, NULL), error);
    REQUIRE_EQUAL(flow_spawn_with(&spawned, NULL, nothing, NULL), error);
    REQUIRE_EQUAL(flow_join(task, &out, FLOW_NOW), error);
    REQUIRE_EQUAL(flow_join(task, &out, FLOW_FOREVER), error);
    REQUIRE_EQUAL(flow_detach(task), error);
    REQUIRE_EQUAL(flow_cancel(task), error);
    REQUIRE_EQUAL(flow_yield(), error);
    REQUIRE_EQUAL(flow_sleep(1), error);
    REQUIRE_EQUAL(flow_sleep(0), error);
    REQUIRE_EQUAL(flow_sleep_until(FLOW_NOW), error);
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, &out, FLOW_FOREVER), error);
    REQUIRE_EQUAL(flow_when_all(&task, 1, &out, FLOW_FOREVER), error);
    REQUIRE_EQUAL(flow_when_any(&task, 1, &winner, &out, FLOW_FOREVER), error);
    REQUIRE_EQUAL(flow_suspend(publish_nothing, NULL, FLOW_FOREVER), error);
    REQUIRE_EQUAL(flow_wake(waker), error);
    REQUIRE_EQUAL(flow_self().id, 0);
    REQUIRE_EQUAL(flow_offload(FLOW_LANE_FILE, nothing, NULL, FLOW_FOREVER).error, error);
    REQUIRE_EQUAL(
        flow_offload_owned(FLOW_LANE_CPU, nothing, NULL, release_nothing, &abandoned, FLOW_FOREVER)
            .error,
        error);
    REQUIRE(abandoned);
    REQUIRE_EQUAL(flow_lane_create(&lane, &lane_options), error);
    REQUIRE_EQUAL(flow_lane_create(&lane, NULL), error);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), error);
    REQUIRE_EQUAL(flow_drive(FLOW_FOREVER), error);
    REQUIRE_EQUAL(flow_info(&info), error);
    REQUIRE_EQUAL(flow_dump(STDERR_FILENO), error);
    REQUIRE_EQUAL(flow_stats(&stats), error);
    REQUIRE_EQUAL(flow_stats_worker(0, &worker), error);
    REQUIRE_EQUAL(flow_stats_queued(0, &queued), error);
    REQUIRE(flow_now() > 0 && flow_after(FLOW_S(1)) > flow_now());
}
