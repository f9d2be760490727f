/* SPDX-License-Identifier: MIT
 *
 * Two workers with the scheduler's real loop: searching, parking, stealing, leaving. Thread 2 is a foreign
 * thread that spawns and then stops the runtime.
 *
 * stop: a task is spawned just before the stop, and is run, or ended unrun, once; all workers leave, and
 * nobody looks at what flow_stop takes down.
 * searcher: one task is queued for all, which wakes a worker to search, and one for worker 0; this one spawns
 * two others and blocks its thread until the first of them has run. The other worker must be woken for that,
 * so who runs a task may not be counted as one who searches.
 *
 * No task suspends here. Jobs, stacks and what is closed beside the workers are left out. */
#include "tests/model/core.h"

#include "core/group.c"
#include "core/join.c"
#define send_home send_home_from_here
#include "core/park.c"
#include "core/steal.c"

#define FLOW__LIBNUMA_VERSION "none"
#define start start_runtime
#define threads_have_left threads_have_left_again
#include "core/runtime.c"
#undef start
#undef threads_have_left

/* What is taken down when they have left. */
static void join_worker(pthread_t thread);
static void close_workers(struct flow__runtime *rt);
static void close_memory(void);
#define flow__close_workers              close_workers
#define flow__close_memory               close_memory
#define pthread_join(thread, result) join_worker(thread)
#include "core/stop.c"

static flow__atomic(int) has_left[2];
static flow__atomic(int) n_run;
static flow__atomic(uint32_t) first_has_run;
static uint16_t victims[2] = {1, 0};
static struct flow__block_depot depot[1];

/* ---- doubles ---- */

static void join_worker(pthread_t thread)
{
    while (!load_acquire(&has_left[thread]))
        model_pause();
}

static void release(void *p)
{
    MODEL_CHECK(!p);
}

static void close_workers(struct flow__runtime *rt)
{
    model_dead(workers, sizeof workers);
    model_dead(&group, sizeof group);
}

static void close_memory(void)
{
    model_dead(blocks, sizeof blocks);
}

#define NOTHING(name, ...)                                                                         \
    void name(__VA_ARGS__)                                                                         \
    {                                                                                              \
    }
NOTHING(flow__jobs_open, struct flow__worker *w, struct flow__jobs *aside)
NOTHING(flow__leaks_at_begin, void)
NOTHING(flow__leaks_at_end, void)
NOTHING(flow__leave_the_seat, struct flow__runtime *rt)
NOTHING(flow__machine_forget, struct flow__runtime *rt)
NOTHING(flow__monitor_close, void)
NOTHING(flow__fatal_close, void)
NOTHING(flow__offload_close, void)
NOTHING(flow__offload_orphan, void)
NOTHING(flow__reclaim_drain, void)
NOTHING(flow__reclaim_register, void)
NOTHING(flow__reclaim_unregister, void)
NOTHING(flow__thread_begin, struct flow__worker *w)
NOTHING(flow__thread_end, struct flow__worker *w)

const unsigned long *flow__reclaim_sections(void)
{
    return &model_outside;
}

bool flow__offload_busy(void)
{
    return false;
}

struct flow__task *flow__steal_job(struct flow__worker *w, struct flow__worker *victim)
{
    return NULL;
}

bool flow__job_is_offered(struct flow__worker *victim)
{
    return false;
}

uint32_t flow__stacks_trim(int node, uint32_t most, uint32_t keep)
{
    return 0;
}

/* ---- the threads ---- */

static void setup(void)
{
    model_open(2);
    flow__sys.release = release;
    flow__registry.depot = depot;
    depot[0].first = 0;
    depot[0].end = depot[0].used = MODEL_BLOCKS;
    flow__registry.n_stand_ins = 0;
    for (int i = 0; i < 2; i++) {
        struct flow__worker *w = &workers[i];

        w->n_victims = w->n_mates = 1;
        w->victims = &victims[i];
        w->until_poll = w->poll_interval = 1;
        w->look_at_cpu_at = INT64_MAX;
        w->offers = false;
        w->thread = (pthread_t)i;
        w->stacks.n[0] = 1;
        w->stacks.slot[0][0] = model_slot(i);
    }
    for (int i = 0; i < 4; i++)
        blocks[i].life = (uint64_t)1 << 32 | FLOW__LIFE_FREE;
}

static void run_worker(int i)
{
    flow__worker_main(&workers[i]);
    store_release(&has_left[i], 1);
}

/* As flow_spawn does it. */
static struct flow__task *make(int n, flow_fn fn)
{
    flow__reset_task(&blocks[n], fn, NULL, NULL, FLOW__LIFE_DETACHED);
    return &blocks[n];
}

static void spawn_from_thread(int n, flow_fn fn)
{
    struct flow__task *t = make(n, fn);

    fetch_add_seq(&flow__runtime.foreign_spawned, 1);
    flow__submit_from_thread(flow__choose_group(), t);
}

/* As flow_spawn_with for worker 0, which may have been woken to search when it comes. */
static void spawn_home(flow_fn fn)
{
    struct flow__task *t = make(0, fn);

    fetch_add_seq(&flow__runtime.foreign_spawned, 1);
    flow__submit_to(NULL, &workers[0], t);
}

static void spawn(int n, flow_fn fn)
{
    struct flow__worker *w = flow__self()->home;
    struct flow__task *t = make(n, fn);

    flow__count(w, spawned);
    flow__submit(w, t);
}

static flow_result count_run(void *unused)
{
    fetch_add_relaxed(&n_run, 1);
    return flow_ok(NULL);
}

static void check(void)
{
    MODEL_CHECK(flow__live_tasks() == 0);
    MODEL_CHECK(group.idle.state == 0 && group.idle.map[0] == 0);
    MODEL_CHECK(flow__runtime.state == FLOW__STOPPED);
}

static void thread_stop(int self)
{
    if (self < 2) {
        run_worker(self);
        return;
    }
    spawn_from_thread(0, count_run);
    MODEL_CHECK(stop(FLOW_FOREVER) == 0);
}

static void check_stop(void)
{
    check();
    MODEL_CHECK(n_run <= 1);
}

static flow_result run_first(void *unused)
{
    store_release(&first_has_run, 1);
    flow__sys.futex_wake(&first_has_run, 1);
    return count_run(NULL);
}

static flow_result run_and_block(void *unused)
{
    spawn(1, run_first);
    spawn(2, count_run);
    while (!load_acquire(&first_has_run))
        flow__sys.futex_wait(&first_has_run, 0, INT64_MAX);
    return count_run(NULL);
}

static void thread_searcher(int self)
{
    if (self < 2) {
        run_worker(self);
        return;
    }
    spawn_from_thread(3, count_run);
    spawn_home(run_and_block);
    flow__wait_until(&flow__runtime, is_empty, FLOW_FOREVER);
    MODEL_CHECK(stop(FLOW_FOREVER) == 0);
}

static void check_searcher(void)
{
    check();
    MODEL_CHECK(n_run == 4);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"stop", 3, setup, thread_stop, check_stop, 2, 0, 0, 1},
        {"searcher", 3, setup, thread_searcher, check_searcher, 1, 0, 0, 0},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
