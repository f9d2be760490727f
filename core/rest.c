/* SPDX-License-Identifier: MIT
 *
 * Is anything left to do? The counts and looks by which flow_run, flow_stop and flow_drive
 * tell that all tasks have ended, or that none can ever go on. Any thread. */
#include "core/group.h"

void flow__tell_quiet(void)
{
    struct flow__process *p = &flow__process;

    if (!load_seq(&p->quiet_waiters))
        return;
    fetch_add_seq(&p->quiet_word, 1);
    flow__sys.futex_wake(&p->quiet_word, INT32_MAX);
}

uint64_t flow__live_tasks(void)
{
    struct flow__runtime *rt = &flow__runtime;
    uint64_t finished = 0, spawned = 0;

    /* [LIVE-2] acquire: pairs with [LIVE-1]. Finished first: what is spawned meanwhile may only
     * make the answer larger. */
    for (int i = 0; i < rt->n_places; i++)
        finished += load_acquire(&rt->workers[i].stats.finished);
    for (int i = 0; i < rt->n_places; i++)
        spawned += load_acquire(&rt->workers[i].stats.spawned);
    flow__tsan_after(rt); /* the last count of a worker stands for all that ended there */
    /* Counted before such a task was queued, so before it ended. */
    return spawned + load_relaxed(&rt->foreign_spawned) - finished;
}

static bool is_at_rest(struct flow__worker *w)
{
    return load_seq(&w->parker.word) == FLOW__PARKED && flow__inbox_is_empty_seq(&w->inbox) &&
           load_seq(&w->timers.armed) == 0 && flow__ring_is_empty_seq(&w->ring) &&
           !load_seq(&w->lifo);
}

static bool look_for_rest(uint64_t *announced)
{
    struct flow__runtime *rt = &flow__runtime;
    int64_t outside = 0;

    *announced = 0;
    for (int i = 0; i < rt->n_places; i++) {
        if (!is_at_rest(&rt->workers[i]))
            return false;
        *announced += load_seq(&rt->workers[i].stats.announced);
        outside += load_seq(&rt->workers[i].stats.outside);
    }
    return outside == 0 && flow__groups_queued() == 0 && load_seq(&rt->offloads_open) == 0 &&
           load_seq(&flow__process.foreign_threads) == 0;
}

/* Twice, with no worker having woken in between: then both looks saw one state. */
bool flow__nothing_can_happen(void)
{
    uint64_t before, after;

    return look_for_rest(&before) && look_for_rest(&after) && before == after;
}
