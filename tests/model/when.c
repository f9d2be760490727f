/* SPDX-License-Identifier: MIT
 *
 * flow_when_any and flow_when_all, while two others run the tasks that are waited for: each task is consumed
 * once or still the caller's, and its block is free once.
 *
 * any: both end, before the deadline or after. any_cancels: one ends, the other waits until it is cancelled;
 * so when_any returns only if it cancels it. all: both end, before the deadline or after. */
#include "tests/model/callers.h"

#include "core/join.c"
#define claim claim_for_all /* one of that name is in parker.c */
#include "core/when.c"

static flow_task tasks[2];

static flow_result end(void *number)
{
    return flow_ok(number);
}

static flow_result wait_for_ever(void *number)
{
    uint64_t epoch;
    int r = flow__arm(flow__self(), false, &epoch);

    if (r == 0)
        r = flow__wait(flow__self(), epoch, FLOW__WHY_SLEEP, FLOW_FOREVER);
    MODEL_CHECK(r == -ECANCELED);
    return flow_ok(number);
}

/* Block 0 is the caller's; threads 1 and 2 are workers that run blocks 1 and 2. */
static void set_up(flow_fn second)
{
    model_open_callers(1);
    flow__runtime.n_workers = flow__runtime.n_places = groups[0].n_workers = groups[0].idle.n_workers = 3;
    for (int i = 1; i < 3; i++) {
        model_open_worker(i);
        tasks[i - 1].id = model_id(model_task(i, i, i == 2 ? second : end, model_item(i), 0));
    }
}

static void set_up_two(void)
{
    set_up(end);
}

static void set_up_waiting(void)
{
    set_up(wait_for_ever);
}

/* They are still ours. */
static void join_both(void)
{
    for (int i = 0; i < 2; i++) {
        flow_result result = {0};

        MODEL_CHECK(flow_join(tasks[i], &result, FLOW_FOREVER) == 0);
        MODEL_CHECK(result.ptr == model_item(1 + i));
    }
}

static void any(flow_deadline deadline)
{
    size_t winner = 2;
    flow_result result = {0};
    int r = flow_when_any(tasks, 2, &winner, &result, deadline);

    if (r) {
        MODEL_CHECK(r == -ETIMEDOUT && deadline == MODEL_SOON);
        join_both();
        return;
    }
    MODEL_CHECK(winner < 2 && result.error == 0);
    MODEL_CHECK(result.ptr == model_item(1 + (int)winner));
}

static void thread_any(int self)
{
    if (self == 0)
        any(MODEL_SOON);
    else
        model_run(&blocks[self]);
}

static void thread_any_cancels(int self)
{
    if (self == 0)
        any(FLOW_FOREVER);
    else
        model_run(&blocks[self]);
}

static void thread_all(int self)
{
    flow_result results[2] = {{0}, {0}};
    int r;

    if (self > 0) {
        model_run(&blocks[self]);
        return;
    }
    r = flow_when_all(tasks, 2, results, MODEL_SOON);
    MODEL_CHECK(r == 0 || r == -ETIMEDOUT);
    if (r)
        join_both();
    for (int i = 0; i < 2; i++)
        MODEL_CHECK(results[i].ptr == (r ? NULL : model_item(1 + i)));
}

static void check(void)
{
    for (int i = 1; i < 3; i++) {
        MODEL_CHECK(model_times_free(&blocks[i], 3) == 1);
        MODEL_CHECK((uint32_t)blocks[i].life == FLOW__LIFE_FREE);
    }
    for (int i = 0; i < 3; i++)
        model_check_idle(i);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"when_any", 3, set_up_two, thread_any, check, 3, 0, 0, 1},
        {"when_any_cancels", 3, set_up_waiting, thread_any_cancels, check, 3, 0, 0, 1},
        {"when_all", 3, set_up_two, thread_all, check, 3, 0, 0, 1},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
