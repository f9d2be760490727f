/* SPDX-License-Identifier: MIT
 *
 * A lane of one helper at a time, which is given two jobs, one after the other, and is closed as flow_stop
 * does it. Thread 0 is the worker of the caller and then the one that stops; threads 1 and 2 are what the
 * system makes of the first and the second helper; the last one cancels, where there is one.
 *
 * idle: the helper may leave, since nothing came, when the next job is queued. Each job is run.
 * close: it sleeps without end when the lane is closed, and leaves.
 * frame: the call has a deadline and is cancelled; its job, in the caller's frame, is run to its end or never.
 * owned: the same with a job on the heap, which may be left to the helper; it is released once.
 * Freed memory is not looked at again. */
#include "tests/model/core.h"

#include "core/join.c"
#define pthread_setname_np(...) (0)
#define pthread_detach(...)     (0)
#include "core/offload.c"

#define JOB_DONE 7

static flow_lane *lane;
static struct flow__task *a;
static void *(*helper_run[2])(void *);
static flow__atomic(int) n_helpers, over;
static flow__atomic(int) n_begun, n_ended, n_released;
static flow_result outcome;
static bool abandoned;

/* ---- doubles ---- */

flow_deadline flow_after(int64_t span_ns)
{
    return span_ns == FLOW_FOREVER ? FLOW_FOREVER : MODEL_SOON;
}

bool flow__foreign_stands_by(bool yes)
{
    return yes;
}

void flow__foreign_gone(void)
{
    fetch_sub_seq(&flow__process.foreign_threads, 1);
}

static int create(pthread_t *thread, size_t bytes, void *(*run)(void *), void *arg)
{
    int i = load_relaxed(&n_helpers);

    MODEL_CHECK(i < 2 && arg == lane);
    helper_run[i] = run;
    store_release(&n_helpers, i + 1);
    return 0;
}

/* Each piece has its size before it. */
static void *allocate(size_t bytes)
{
    size_t *p = flow__sys.map(bytes + sizeof *p, 0, 0);

    *p = bytes;
    return p + 1;
}

static void release(void *p)
{
    if (p)
        model_dead(p, ((size_t *)p)[-1]);
}

/* ---- the jobs ---- */

static flow_result job(void *arg)
{
    (void)arg;
    fetch_add_relaxed(&n_begun, 1);
    fetch_add_relaxed(&n_ended, 1);
    return flow_ok(model_item(JOB_DONE));
}

static void release_arg(void *arg)
{
    (void)arg;
    fetch_add_relaxed(&n_released, 1);
}

static flow_result run_two(void *unused)
{
    (void)unused;
    for (int i = 1; i <= 2; i++) {
        flow_result r = flow_offload(lane, job, NULL, FLOW_FOREVER);

        MODEL_CHECK(r.error == 0 && r.ptr == model_item(JOB_DONE));
        MODEL_CHECK(load_relaxed(&n_ended) == i);
    }
    return flow_ok(NULL);
}

static flow_result run_frame(void *unused)
{
    (void)unused;
    outcome = flow_offload(lane, job, NULL, MODEL_SOON);
    MODEL_CHECK(load_relaxed(&n_begun) == load_relaxed(&n_ended));
    MODEL_CHECK(outcome.error ? load_relaxed(&n_begun) == 0 : outcome.ptr == model_item(JOB_DONE));
    return flow_ok(NULL);
}

static flow_result run_owned(void *unused)
{
    (void)unused;
    outcome = flow_offload_owned(lane, job, NULL, release_arg, &abandoned, MODEL_SOON);
    MODEL_CHECK(abandoned == (outcome.error != 0));
    return flow_ok(NULL);
}

/* ---- the threads ---- */

static void setup(flow_fn fn, int64_t idle_ns)
{
    struct flow_lane_options o = FLOW_LANE_INIT;

    model_open(1);
    flow__sys.thread_create = create;
    flow__sys.allocate = allocate;
    flow__sys.release = release;
    o.max_threads = 1;
    o.idle_ns = idle_ns;
    lane = make_lane(&o);
    a = model_task(0, 0, fn, NULL, 0);
}

static void setup_idle(void)
{
    setup(run_two, 1);
}

static void setup_close(void)
{
    setup(run_two, FLOW_FOREVER);
}

static void setup_frame(void)
{
    setup(run_frame, FLOW_FOREVER);
}

static void setup_owned(void)
{
    setup(run_owned, FLOW_FOREVER);
}

/* The end of flow_stop. */
static void stop(void)
{
    flow__offload_orphan();
    while (flow__offload_busy())
        model_pause();
    flow__offload_close();
    store_release(&over, 1);
}

static void helper(int i)
{
    for (bool last = false; load_acquire(&n_helpers) <= i; last = load_acquire(&over)) {
        if (last)
            return;
        model_pause();
    }
    helper_run[i](lane);
}

static void thread(int self)
{
    if (self == 0) {
        model_run(a);
        stop();
    } else if (self < 3) {
        helper(self - 1);
    } else {
        flow__cancel_block(NULL, a, FLOW_CANCEL_ASKED);
    }
}

/* One helper is enough. */
static void thread_cancelled(int self)
{
    thread(self == 2 ? 3 : self);
}

static void check(void)
{
    model_check_idle(0);
    MODEL_CHECK(flow__process.offload_threads == 0 && flow__process.foreign_threads == 0);
    MODEL_CHECK(flow__runtime.offloads_open == 0 && flow__runtime.offloads_running == 0);
    MODEL_CHECK(!lanes);
}

static void check_two(void)
{
    check();
    MODEL_CHECK(n_ended == 2);
}

/* What was given back is the callee's to release, else the caller's. */
static void check_owned(void)
{
    check();
    MODEL_CHECK(n_released == abandoned);
    MODEL_CHECK(n_begun == n_ended && n_begun <= 1);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"offload_idle", 3, setup_idle, thread, check_two, 2, 1, 0, 1},
        {"offload_close", 3, setup_close, thread, check_two, 2, 1, 0, 0},
        {"offload_frame", 3, setup_frame, thread_cancelled, check, 2, 1, 0, 1},
        {"offload_owned", 3, setup_owned, thread_cancelled, check_owned, 2, 1, 0, 0},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
