/* SPDX-License-Identifier: MIT
 *
 * Stealing: what it takes, and what it costs those who are stolen from.
 *
 *   "spread": one coroutine spawns tasks of 5 us as fast as it can while all other workers sleep;
 *       the time from its first spawn until every worker has begun a task. With FLOW_TOPOLOGY naming
 *       a machine of several nodes the others are called across nodes.
 *   "visit": the ring alone, between two threads: a thief takes half of 64 entries that another thread
 *       has just pushed, one ring after the other, each cold.
 *   "search": one look around, by an idle worker's own code, that finds nothing, while all others
 *       sleep; on a machine of several nodes it looks at those too.
 *   "victim": what a worker's tasks cost while another worker does nothing, and while that one looks
 *       at it all the time, as an idle one does for some microseconds before it sleeps.
 *
 * The last three call core/ and sync/ themselves, hence the static library. */
#include "core/group.h"
#include "core/queues.h"
#include "core/registry.h"
#include "core/steal.h"
#include "perf/bench.h"

#include <pthread.h>
#include <sched.h>

#define TASK_NS        FLOW_US(5)
#define AT_ONCE        512
#define RINGS          256
#define RING_ENTRIES   64
#define MAX_WORKERS    1024
#define PAUSES_BETWEEN 32

static struct flow__worker *this_worker(void)
{
    return flow__self()->home;
}

static void start_with_workers(const struct bench_run *run)
{
    if (run->workers < 2)
        bench_skip("one worker has nobody to steal from");
    bench_start(run, NULL);
}

/* A pinned coroutine on a worker, to its end. */
static flow_task spawn_at(int worker, flow_fn fn, void *arg)
{
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    flow_task task;
    int r;

    how.worker = worker;
    how.flags = FLOW_PINNED;
    how.stack_bytes = (size_t)256 * 1024;
    r = flow_spawn_with(&task, &how, fn, arg);
    bench_check(!r, "flow_spawn_with: %d", r);
    return task;
}

/* ---- spread ---- */

static struct {
    flow__atomic(int64_t) first[MAX_WORKERS]; /* when each worker began its first task */
    flow__atomic(int) n_begun;
    flow__atomic(int64_t) live;
    int workers;
    int64_t *spans;
    uint64_t rounds;
} spread;

static flow_result short_task(void *unused)
{
    int64_t begin = bench_now(), nothing = 0;

    if (cas_seq(&spread.first[this_worker()->index], &nothing, begin))
        fetch_add_seq(&spread.n_begun, 1);
    while (bench_now() - begin < TASK_NS)
        flow__pause();
    fetch_sub_seq(&spread.live, 1);
    return flow_ok(unused);
}

static int64_t time_spread(void)
{
    int64_t begin, last = 0;

    for (int i = 0; i < spread.workers; i++)
        store_relaxed(&spread.first[i], 0);
    store_relaxed(&spread.n_begun, 1); /* this worker is busy: it spawns */
    begin = bench_now();
    store_relaxed(&spread.first[this_worker()->index], begin);
    while (load_seq(&spread.n_begun) < spread.workers) {
        if (load_relaxed(&spread.live) > AT_ONCE) {
            flow_yield();
            continue;
        }
        bench_check(!flow_spawn(NULL, short_task, NULL), "flow_spawn");
        fetch_add_seq(&spread.live, 1);
    }
    for (int i = 0; i < spread.workers; i++)
        last = load_relaxed(&spread.first[i]) > last ? load_relaxed(&spread.first[i]) : last;
    return last - begin;
}

static flow_result spread_root(void *unused)
{
    for (uint64_t i = 0; i < spread.rounds; i++) {
        while (load_seq(&spread.live) > 0)
            flow_yield();
        flow_sleep(FLOW_MS(20)); /* all others sleep then */
        spread.spans[i] = time_spread();
    }
    return flow_ok(unused);
}

static void run_spread(const struct bench_run *run)
{
    start_with_workers(run);
    spread.workers = run->workers;
    spread.rounds = run->n;
    spread.spans = bench_array(run->n, sizeof *spread.spans);
    bench_join(spawn_at(0, spread_root, NULL));
    bench_stop();
    bench_sort(spread.spans, run->n);
    bench_value("spread: until all workers are busy, median", run->n, "ns",
                (double)bench_percentile(spread.spans, run->n, 50));
    bench_value("spread: until all workers are busy, 90 %", run->n, "ns",
                (double)bench_percentile(spread.spans, run->n, 90));
}

/* ---- visit ---- */

static struct {
    struct flow__task_ring *rings;
    flow__atomic(uint64_t) turn; /* even: the owner fills, odd: the thief takes */
    uint64_t rounds;
} visit;

static void await_turn(uint64_t turn)
{
    for (int i = 0; load_acquire(&visit.turn) != turn; i++) {
        flow__pause();
        if (i % 1024 == 1023)
            sched_yield();
    }
}

static void *fill_rings(void *unused)
{
    static int something;

    for (uint64_t round = 0; round < visit.rounds; round++) {
        await_turn(2 * round);
        for (int i = 0; i < RINGS; i++)
            while (flow__ring_count(&visit.rings[i]) < RING_ENTRIES)
                flow__ring_push(&visit.rings[i], &something);
        store_release(&visit.turn, 2 * round + 1);
    }
    return unused;
}

static void run_visit(const struct bench_run *run)
{
    void *loot[FLOW__RING_SIZE];
    int64_t elapsed = 0, best = INT64_MAX;
    uint64_t taken = 0;
    pthread_t owner;

    visit.rounds = run->n;
    visit.rings = bench_array(RINGS, sizeof *visit.rings);
    bench_check(!pthread_create(&owner, NULL, fill_rings, NULL), "pthread_create");
    for (uint64_t round = 0; round < run->n; round++) {
        int64_t begin, span;

        await_turn(2 * round + 1);
        begin = bench_now();
        for (int i = 0; i < RINGS; i++)
            taken += flow__ring_steal(&visit.rings[i], loot, RING_ENTRIES / 2);
        span = bench_now() - begin;
        elapsed += span;
        best = span < best ? span : best;
        store_release(&visit.turn, 2 * round + 2);
    }
    bench_check(taken == run->n * RINGS * RING_ENTRIES / 2, "%llu entries were taken",
                (unsigned long long)taken);
    pthread_join(owner, NULL);
    bench_value("visit: half of 64, from another thread's ring", run->n, "ns",
                (double)elapsed / (double)run->n / RINGS);
    bench_value("visit: the same, quickest round", run->n, "ns", (double)best / RINGS);
}

/* ---- search ---- */

static struct flow__task *poll_nothing(struct flow__worker *w)
{
    (void)w;
    return NULL;
}

static struct {
    uint64_t n;
    int64_t elapsed;
} search;

static flow_result search_root(void *unused)
{
    struct flow__worker *w = this_worker();
    int64_t kept = w->spin_max_ns, begin;

    flow_sleep(FLOW_MS(50)); /* all others sleep then */
    w->spin_max_ns = w->spin_ns = 0;
    begin = bench_now();
    for (uint64_t i = 0; i < search.n; i++)
        bench_check(!flow__search(w, poll_nothing), "there was something");
    search.elapsed = bench_now() - begin;
    w->spin_max_ns = kept;
    return flow_ok(unused);
}

static void run_search(const struct bench_run *run)
{
    start_with_workers(run);
    search.n = run->n;
    bench_join(spawn_at(0, search_root, NULL));
    bench_stop();
    bench_value("search: a look around that finds nothing", run->n, "ns",
                (double)search.elapsed / (double)run->n);
}

/* ---- victim ---- */

static struct {
    flow__atomic(bool) stands, end; /* the other worker's coroutine */
    bool looks;
    uint64_t n, taken;
    int64_t elapsed;
} victim;

/* Keeps the other worker busy: with nothing, or with looking. What lies there for so long that it may
 * be taken, as after a pause that the system made, is run when it has ended. */
static flow_result stand_by(void *unused)
{
    struct flow__worker *w = this_worker();

    w->spin_max_ns = w->spin_ns = 0;
    store_release(&victim.stands, true);
    while (!load_acquire(&victim.end)) {
        struct flow__task *t = victim.looks ? flow__search(w, poll_nothing) : NULL;

        if (t) {
            flow__push_ring(w, t);
            victim.taken++;
        }
        for (int i = 0; i < PAUSES_BETWEEN; i++)
            flow__pause();
    }
    return flow_ok(unused);
}

static flow_result nothing(void *unused)
{
    return flow_ok(unused);
}

static void spawn_and_join(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        bench_join(bench_spawn(nothing, NULL));
}

static flow_result victim_root(void *unused)
{
    int64_t begin;

    while (!load_acquire(&victim.stands))
        flow_yield();
    spawn_and_join(victim.n / 10);
    begin = bench_now();
    spawn_and_join(victim.n);
    victim.elapsed = bench_now() - begin;
    store_release(&victim.end, true);
    return flow_ok(unused);
}

static void run_victim(const struct bench_run *run, bool looks, const char *name)
{
    flow_task other, root;

    start_with_workers(run);
    victim.looks = looks;
    victim.n = run->n;
    other = spawn_at(1, stand_by, NULL);
    root = spawn_at(0, victim_root, NULL);
    bench_join(root);
    bench_join(other);
    bench_stop();
    bench_value(name, run->n, "ns", (double)victim.elapsed / (double)run->n);
    if (looks)
        bench_value("victim: tasks that were taken all the same", run->n, "count",
                    (double)victim.taken);
}

static void run_left_alone(const struct bench_run *run)
{
    run_victim(run, false, "victim: spawn + join, the other worker is busy");
}

static void run_looked_at(const struct bench_run *run)
{
    run_victim(run, true, "victim: spawn + join, the other worker looks");
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"spread", run_spread, 100, 20},
        {"visit", run_visit, 500, 50, .no_workers = true},
        {"search", run_search, 200000, 20000},
        {"victim left alone", run_left_alone, 3000000, 300000},
        {"victim looked at", run_looked_at, 3000000, 300000},
    };
    static const struct bench_suite suite = {
        .name = "steal",
        .about = "work that moves to idle workers: its cost to them and to others",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
