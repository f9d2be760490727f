/* SPDX-License-Identifier: MIT
 *
 * Workers with the scheduler's real loop: searching, parking, stealing, leaving. The last thread is a foreign
 * one, which stops the runtime.
 *
 * stop: a task is spawned just before the stop, and is run, or ended unrun, once; all workers leave, and
 * nobody looks at what flow_stop takes down.
 * searcher: one task is queued for all, which wakes a worker to search, and one for worker 0; this one spawns
 * two others and blocks its thread until the first of them has run. The other worker must be woken for that,
 * so who runs a task may not be counted as one who searches.
 * foreign: one worker; a second foreign thread spawns a task and detaches it while the first one stops. The task is
 * refused, or counted before the stop looks who is left, and run, or ended unrun, once.
 * nodes: each worker is a group of its own. A task comes for worker 0 at any time in the sleep of the other one's
 * sentry, spawns two and blocks its thread until the first has run: that sentry must watch, or be called.
 * lookout: a task of worker 0 spawns one and blocks its thread until that has run; the other worker was summoned in vain
 * before, and may stand as the lookout, so that nobody wakes it.
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

#define apply apply_options
#include "core/spawn.c"
#undef apply
#define flow__owned_worker ((struct flow__worker *)NULL) /* no worker comes here */
#include "core/foreign.c"
#undef flow__owned_worker

static flow__atomic(int) has_left[2];
static flow__atomic(int) n_run, was_spawned;
static flow__atomic(uint32_t) first_has_run;
static uint16_t victims[2] = {1, 0};
static struct flow__block_depot depot[1];
static struct flow__haul hauls[2][2];
static uint16_t others[2] = {1, 0};
static int distances[] = {10, 12, 12, 10};

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
    model_dead(groups, sizeof groups);
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
NOTHING(flow__reclaim_flush, void)
NOTHING(flow__reclaim_register, void)
NOTHING(flow__reclaim_unregister, void)
NOTHING(flow__thread_begin, struct flow__worker *w)
NOTHING(flow__thread_end, struct flow__worker *w)

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

static void open_n_workers(int n)
{
    model_open(n);
    flow__sys.release = release;
    flow__registry.depot = depot;
    depot[0].first = 0;
    depot[0].end = depot[0].used = MODEL_BLOCKS;
    flow__registry.n_stand_ins = 0;
    for (int i = 0; i < n; i++) {
        struct flow__worker *w = &workers[i];

        w->n_victims = w->n_mates = n - 1;
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

static void setup(void)
{
    open_n_workers(2);
}

static void run_worker(int i)
{
    flow__worker_main(&workers[i]);
    store_release(&has_left[i], 1);
}

/* As flow_spawn does it. */
static struct flow__task *make(int n, flow_fn fn)
{
    flow__reset_task(&blocks[n], fn, NULL, NULL, 0, FLOW__LIFE_DETACHED);
    return &blocks[n];
}

static void spawn_for_all(int n, flow_fn fn)
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
    for (int i = 0; i < 2; i++)
        MODEL_CHECK(groups[i].idle.state == 0 && groups[i].idle.map[0] == 0);
    MODEL_CHECK(flow__runtime.state == FLOW__STOPPED);
}

static void thread_stop(int self)
{
    if (self < 2) {
        run_worker(self);
        return;
    }
    spawn_for_all(0, count_run);
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

static flow_result block(void)
{
    while (!load_acquire(&first_has_run))
        flow__sys.futex_wait(&first_has_run, 0, INT64_MAX);
    return count_run(NULL);
}

static flow_result run_and_block(void *unused)
{
    spawn(1, run_first);
    spawn(2, count_run);
    return block();
}

static void thread_searcher(int self)
{
    if (self < 2) {
        run_worker(self);
        return;
    }
    spawn_for_all(3, count_run);
    spawn_home(run_and_block);
    flow__wait_until(&flow__runtime, is_empty, FLOW_FOREVER);
    MODEL_CHECK(stop(FLOW_FOREVER) == 0);
}

static void check_searcher(void)
{
    check();
    MODEL_CHECK(n_run == 4);
}

static void setup_lookout(void)
{
    open_n_workers(2);
    workers[1].fruitless = FLOW__FRUITLESS_MOST;
    model_most_late = 9;
}

static flow_result run_one_and_block(void *unused)
{
    spawn(1, run_first);
    return block();
}

static void thread_lookout(int self)
{
    if (self < 2) {
        run_worker(self);
        return;
    }
    spawn_home(run_one_and_block);
    flow__wait_until(&flow__runtime, is_empty, FLOW_FOREVER);
    MODEL_CHECK(stop(FLOW_FOREVER) == 0);
}

static void check_lookout(void)
{
    check();
    MODEL_CHECK(n_run == 2);
    MODEL_CHECK(!groups[0].idle.lookout);
}

static void setup_foreign(void)
{
    open_n_workers(1);
    known = true; /* both of them */
    flow__give_foreign_block(&blocks[0]);
}

static void thread_foreign(int self)
{
    flow_task task;
    int r;

    if (self == 0) {
        run_worker(0);
        return;
    }
    if (self == 1) {
        r = flow_spawn(&task, count_run, NULL);
        MODEL_CHECK(r == 0 || r == -ESHUTDOWN);
        was_spawned = r == 0;
        r = r ? r : flow_detach(task);
        MODEL_CHECK(r == 0 || r == -ESHUTDOWN);
        return;
    }
    MODEL_CHECK(stop(FLOW_FOREVER) == 0);
}

static void check_foreign(void)
{
    check();
    MODEL_CHECK(n_run <= was_spawned && flow__runtime.foreign_spawned == was_spawned);
}

/* Each worker becomes a group, of a node near the other's. The pauses of their sentries have their full length,
 * after which one sleeps without end if the other does. More ticks of the clock than any schedule needs. */
static void setup_nodes(void)
{
    struct flow__runtime *rt = &flow__runtime;

    open_n_workers(2);
    rt->n_groups = rt->topology.n_nodes = 2;
    rt->topology.distances = distances;
    for (int i = 0; i < 2; i++) {
        struct flow__group *g = &groups[i];

        g->node = g->first = i;
        g->n_workers = g->idle.n_workers = 1;
        g->others = &others[i];
        g->hauls = hauls[i];
        g->watch_ns = FLOW__WATCH_MOST_NS;
        workers[i].group = g;
        workers[i].n_mates = 0;
        workers[i].offers = false;
    }
    model_most_late = 9;
}

static void thread_nodes(int self)
{
    static flow__atomic(uint32_t) nap;

    if (self < 2) {
        run_worker(self);
        return;
    }
    flow__sys.futex_wait(&nap, 0, MODEL_SOON); /* how long it is in the sleepers' time is open */
    spawn_home(run_and_block);
    flow__wait_until(&flow__runtime, is_empty, FLOW_FOREVER);
    MODEL_CHECK(stop(FLOW_FOREVER) == 0);
}

static void check_nodes(void)
{
    check();
    MODEL_CHECK(n_run == 3);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"stop", 3, setup, thread_stop, check_stop, 2, 0, 0, 1},
        {"foreign", 3, setup_foreign, thread_foreign, check_foreign, 2, 1, 0, 1},
        {"nodes", 3, setup_nodes, thread_nodes, check_nodes, 2, 0, 0, 0},
        {"lookout", 3, setup_lookout, thread_lookout, check_lookout, 1, 0, 0, 0},
        {"searcher", 3, setup, thread_searcher, check_searcher, 1, 0, 0, 0},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
