/* SPDX-License-Identifier: MIT
 *
 * Running the tasks of a runtime to their end, and driving one that has no threads of its own. On
 * foreign threads. */
#include "core/fatal.h"
#include "core/job.h"
#include "core/runtime.h"

#include <errno.h>
#include <unistd.h>

/* A thread that drives in a loop is back on the seat before one that was woken gets there: without
 * `seat_wanted` it may have it for ever. A driver looks at that after it has announced its sleep. */
bool flow__take_the_seat(struct flow__runtime *rt, flow_deadline deadline)
{
    bool taken;

    exchange_seq(&rt->seat_wanted, true);
    for (;;) {
        uint32_t nobody = 0;

        taken = cas_acquire(&rt->driver, &nobody, 1);
        if (taken || flow__sys.now() >= deadline)
            break;
        flow__parker_notify(&rt->workers[0].parker);
        flow__wait_for_driver(NULL, 0, deadline);
    }
    exchange_seq(&rt->seat_wanted, false);
    return taken;
}

void flow__leave_the_seat(struct flow__runtime *rt)
{
    if (exchange_seq(&rt->driver, 0) == 2)
        flow__sys.futex_wake(&rt->driver, INT32_MAX);
}

static bool is_over_or_dead(struct flow__runtime *rt)
{
    /* A coroutine has asked for the end: as in cancel_until_empty(). */
    if (load_relaxed(&rt->state) == FLOW__STOPPING)
        flow__cancel_all();
    return flow__live_tasks() == 0 || load_seq(&rt->workers_end) || flow__nothing_can_happen();
}

int flow__drive_seated(struct flow__worker *w, flow_deadline deadline,
                       const struct flow__driving *how)
{
    struct flow__jobs aside;
    int64_t n;

    flow__own_worker(w);
    flow__jobs_open(w, &aside);
    flow__fp_save(&w->fp);
    flow__fatal_stack_open(&w->signal_stack);
#ifdef FLOW__TSAN
    w->strand.fiber = __tsan_get_current_fiber();
#endif
    n = flow__worker_drive(w, deadline, how);
    store_relaxed(&w->current, NULL);
    flow__jobs_close(&aside);
    flow__fatal_stack_close(&w->signal_stack);
    flow__own_worker(NULL);
    return n > INT32_MAX ? INT32_MAX : (int)n;
}

static int drive(flow_deadline deadline, const struct flow__driving *how)
{
    struct flow__runtime *rt = &flow__runtime;
    uint32_t nobody = 0;
    bool apart;
    int r;

    if (flow__self())
        return -EPERM;
    r = flow__foreign_enter();
    if (r)
        return r;
    /* Once we have the seat, flow_stop waits for us to leave it. */
    if (rt->n_workers > 0)
        r = -EINVAL;
    else if (load_seq(&rt->seat_wanted) || !cas_acquire(&rt->driver, &nobody, 1))
        r = -EBUSY;
    flow__foreign_leave();
    if (r)
        return r;
    apart = flow__foreign_stands_by(true);
    r = flow__drive_seated(&rt->workers[0], deadline, how);
    flow__foreign_stands_by(apart);
    flow__leave_the_seat(rt);
    if (r == -EDEADLK)
        flow_dump(STDERR_FILENO);
    return r;
}

int flow_drive(flow_deadline deadline)
{
    return drive(deadline, &(struct flow__driving){.for_stop = false});
}

int flow__drive_waiting(struct flow__task *stand_in, uint64_t epoch, flow_deadline deadline)
{
    return drive(deadline, &(struct flow__driving){.stand_in = stand_in, .epoch = epoch});
}

/* Until all tasks have ended: 0, -EDEADLK, or -ECANCELED: another thread's flow_stop has come to its deadline. */
static int run_to_the_end(struct flow__runtime *rt)
{
    if (rt->n_workers == 0) {
        while (flow__live_tasks() > 0) {
            int r = flow_drive(FLOW_FOREVER);

            if (r == -EDEADLK)
                return r;
            if (r == -EBUSY && load_seq(&rt->workers_end))
                return -ECANCELED;
            if (r == -EBUSY)
                flow__wait_for_driver(NULL, 0, FLOW_FOREVER);
        }
        return 0;
    }
    flow__wait_until(rt, is_over_or_dead, FLOW_FOREVER);
    if (flow__live_tasks() == 0)
        return 0;
    if (load_seq(&rt->workers_end))
        return -ECANCELED;
    flow_dump(STDERR_FILENO);
    return -EDEADLK;
}

static int run_root(struct flow__runtime *rt, flow_fn fn, void *arg, flow_result *out)
{
    flow_task root;
    int r = flow_spawn(&root, fn, arg);

    if (r)
        return r;
    r = run_to_the_end(rt);
    if (!r)
        return flow_join(root, out, FLOW_FOREVER);
    flow_detach(root); /* nobody else would, and the stop counts what was not joined */
    return r;
}

int flow_run(const struct flow_options *options, flow_fn fn, void *arg, flow_result *out)
{
    struct flow__runtime *rt = &flow__runtime;
    bool apart;
    int r = flow_start(options);

    if (r)
        return r;
    apart = flow__foreign_stands_by(true);
    /* Counted, so that another thread's flow_stop does not take the runtime away under us. */
    fetch_add_seq(&rt->foreign_waiting, 1);
    r = run_root(rt, fn, arg, out);
    fetch_sub_seq(&rt->foreign_waiting, 1);
    flow__tell_quiet();
    flow_stop(FLOW_FOREVER);
    flow__foreign_stands_by(apart);
    return r;
}
