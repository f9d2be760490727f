/* SPDX-License-Identifier: MIT
 *
 * What handles are good for, while the task ends and its block becomes another one's.
 *
 * pin: a detached task ends, its block is used again at once, and two others cancel it by its handle. Only
 * itself is ever cancelled; its block is free once.
 * end: a task ends; one other joins it, one detaches it. One of the two has it; its result is read before
 * its block is used again; the block is free once. So it is with two who join it, and with one who
 * joins and one who cancels it, and may hold the block when it is freed.
 * unwatch: a joiner gives up just when the task ends, takes the result, and has the block run another
 * task, for which it waits: what the first end still had to do must not reach the second task. */
#include "tests/model/core.h"

#include "core/join.c"

#define FIRST  41
#define SECOND 42

static struct flow__task *first;
static uint64_t first_id;
static flow__atomic(struct flow__task *) second;
static flow__atomic(int) n_won, n_runs;

static flow_result run_first(void *unused)
{
    (void)unused;
    return flow_ok(model_item(FIRST));
}

static flow_result run_second(void *unused)
{
    (void)unused;
    fetch_add_relaxed(&n_runs, 1);
    MODEL_CHECK(!flow__is_cancelled(flow__self()));
    return flow_ok(model_item(SECOND));
}

static flow_result nothing(void *unused)
{
    (void)unused;
    return (flow_result){0};
}

/* Thread i is a worker that runs task i. */
static void setup(unsigned life)
{
    model_open(3);
    first = model_task(0, 0, run_first, NULL, life);
    first_id = model_id(first);
    for (int i = 1; i < 3; i++)
        model_running[i] = model_task(i, i, nothing, NULL, FLOW__LIFE_DETACHED);
}

/* If the block has come to this worker it is used again. */
static void use_again(unsigned life)
{
    struct flow__worker *w = &workers[model_self()];
    struct flow__task *self = flow__self();

    if (!w->blocks.list)
        return;
    MODEL_CHECK(flow__block_take(&w->blocks) == first);
    flow__reset_task(first, run_second, NULL, NULL, 0, life);
    model_run(first);
    model_running[model_self()] = self;
}

/* ---- pin ---- */

static void setup_pin(void)
{
    setup(FLOW__LIFE_DETACHED);
}

static void thread_pin(int self)
{
    if (self == 0) {
        model_run(first);
    } else {
        int r = flow__cancel_id(&workers[self], first_id, FLOW_CANCEL_ASKED);

        MODEL_CHECK(r == 0 || r == -ESRCH);
    }
    use_again(FLOW__LIFE_DETACHED);
}

static void check_free_once(void)
{
    MODEL_CHECK(model_times_free(first, 3) == 1);
    MODEL_CHECK((uint32_t)first->life == FLOW__LIFE_FREE);
    for (int i = 0; i < 3; i++)
        model_check_idle(i);
}

/* ---- end ---- */

static void setup_end(void)
{
    setup(0);
}

static void join_first(flow_deadline deadline)
{
    flow_result result = {0};
    int r = flow_join((flow_task){first_id}, &result, deadline);

    MODEL_CHECK(r == 0 || r == -ESRCH || r == -EINVAL);
    if (r)
        return;
    MODEL_CHECK(result.error == 0 && result.ptr == model_item(FIRST));
    fetch_add_relaxed(&n_won, 1);
}

static void thread_end(int self)
{
    if (self == 0)
        model_run(first);
    else if (self == 1)
        join_first(FLOW_FOREVER);
    else if (flow_detach((flow_task){first_id}) == 0)
        fetch_add_relaxed(&n_won, 1);
    use_again(FLOW__LIFE_DETACHED);
}

static void check_end(void)
{
    MODEL_CHECK(n_won == 1);
    check_free_once();
}

static void thread_two_joiners(int self)
{
    if (self == 0)
        model_run(first);
    else
        join_first(FLOW_FOREVER);
    use_again(FLOW__LIFE_DETACHED);
}

static void thread_pinned_end(int self)
{
    if (self == 0)
        model_run(first);
    else if (self == 1)
        join_first(FLOW_FOREVER);
    else
        flow__cancel_id(&workers[2], first_id, FLOW_CANCEL_ASKED);
    use_again(FLOW__LIFE_DETACHED);
}

/* ---- unwatch ---- */

/* Thread 2 runs what it is given. */
static void run_what_comes(void)
{
    struct flow__task *t;

    while (!(t = load_acquire(&second)))
        model_pause();
    if (t == first)
        model_run(t);
}

static void join_twice(void)
{
    flow_result result;
    int r = flow_join((flow_task){first_id}, &result, MODEL_SOON);
    uint64_t id;

    if (r == -ETIMEDOUT) {
        join_first(FLOW_FOREVER);
        store_release(&second, flow__self());
        return;
    }
    MODEL_CHECK(r == 0 && result.ptr == model_item(FIRST));
    MODEL_CHECK(flow__block_take(&workers[1].blocks) == first);
    flow__reset_task(first, run_second, NULL, NULL, 0, 0);
    id = model_id(first);
    store_release(&second, first);
    MODEL_CHECK(flow_join((flow_task){id}, &result, FLOW_FOREVER) == 0);
    MODEL_CHECK(result.error == 0 && result.ptr == model_item(SECOND));
}

static void thread_unwatch(int self)
{
    if (self == 0)
        model_run(first);
    else if (self == 1)
        join_twice();
    else
        run_what_comes();
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"pin", 3, setup_pin, thread_pin, check_free_once, MODEL_ANY, 1, 0, 2},
        {"end", 3, setup_end, thread_end, check_end, MODEL_ANY, 1, 0, 2},
        {"two_joiners", 3, setup_end, thread_two_joiners, check_end, MODEL_ANY, 1, 0, 1},
        {"pinned_end", 3, setup_end, thread_pinned_end, check_end, MODEL_ANY, 1, 0, 1},
        {"unwatch", 3, setup_end, thread_unwatch, check_free_once, 3, 1, 0, 1},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
