/* SPDX-License-Identifier: MIT
 *
 * Stealing, and the groups of workers that memory nodes make, on machines that are not there
 * (FLOW_TOPOLOGY): many workers on the CPUs that there are. What is judged is who ran what, that
 * everything ran, and who woke whom; never how long it took. */
#include "core/queues.h"
#include "core/steal.h"
#include "tests/support/child.h"
#include "tests/support/machine.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#define MAX_WORKERS 16

static struct flow__runtime *rt = &flow__runtime;

/* ---- who wakes whom ---- */

static struct {
    flow__atomic(uint64_t) crossing; /* wake-ups of a worker by one of another node */
    flow__atomic(uint64_t) sleeps, timed_sleeps;
} seen;

static struct flow__worker *worker_of_word(flow__atomic(uint32_t) * word)
{
    for (int i = 0; rt->workers && i < rt->n_workers; i++)
        if (word == &rt->workers[i].parker.word)
            return &rt->workers[i];
    return NULL;
}

static int watched_wake(flow__atomic(uint32_t) * word, int n)
{
    struct flow__worker *self = flow__owned_worker, *woken = self ? worker_of_word(word) : NULL;

    if (woken && woken->group != self->group)
        fetch_add_relaxed(&seen.crossing, 1);
    return flow__sys_real.futex_wake(word, n);
}

static int watched_wait(flow__atomic(uint32_t) * word, uint32_t expected, int64_t deadline)
{
    if (flow__owned_worker) {
        fetch_add_relaxed(&seen.sleeps, 1);
        fetch_add_relaxed(&seen.timed_sleeps, deadline != INT64_MAX);
    }
    return flow__sys_real.futex_wait(word, expected, deadline);
}

static void start_on(const struct machine *machine, int workers)
{
    struct flow_options o = test_options();

    o.workers = workers;
    memset(&seen, 0, sizeof seen);
    flow__sys.futex_wake = watched_wake;
    flow__sys.futex_wait = watched_wait;
    machine_use(machine);
    test_start_with(&o);
}

static void stop(void)
{
    test_stop();
    flow__sys = flow__sys_real;
    machine_close();
}

static int node_here(void)
{
    return flow__owned_worker->node;
}

/* ---- tasks ---- */

static struct {
    flow__atomic(uint64_t) ran_on[MAX_WORKERS];
    flow__atomic(uint64_t) ran;
    flow__atomic(bool) go;
} tally;

static void tally_begin(void)
{
    memset(&tally, 0, sizeof tally);
}

static void spin(int rounds)
{
    for (int i = 0; i < rounds; i++)
        flow__pause();
}

static flow_result work(void *arg)
{
    spin((int)(intptr_t)arg);
    fetch_add_relaxed(&tally.ran_on[flow__owned_worker->index], 1);
    fetch_add_seq(&tally.ran, 1);
    return flow_ok(NULL);
}

static bool every_worker_ran_something(void)
{
    for (int i = 0; i < rt->n_workers; i++)
        if (load_relaxed(&tally.ran_on[i]) == 0)
            return false;
    return true;
}

static void spawn_at(int worker, unsigned flags, flow_fn fn, void *arg)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;

    o.worker = worker;
    o.flags = flags;
    REQUIRE_EQUAL(flow_spawn_with(NULL, &o, fn, arg), 0);
}

/* The matrix and the workers' counters tell one story. At rest. */
static void require_sums(void)
{
    struct flow_stats s = test_stats();
    uint64_t steals = 0, tasks = 0, remote_steals = 0, remote_tasks = 0;

    for (int from = 0; from < rt->topology.n_nodes; from++)
        for (int to = 0; to < rt->topology.n_nodes; to++) {
            uint64_t n = 0, k = 0;

            REQUIRE_EQUAL(flow_stats_steals(from, to, &n, &k), 0);
            REQUIRE(k >= n);
            REQUIRE(from == to || k <= 32 * n);
            steals += n, tasks += k;
            if (from != to)
                remote_steals += n, remote_tasks += k;
        }
    REQUIRE_EQUAL(steals, s.total.steals);
    REQUIRE_EQUAL(tasks, s.total.stolen);
    REQUIRE_EQUAL(remote_steals, s.total.remote_steals);
    REQUIRE_EQUAL(remote_tasks, s.total.remote_stolen);
    REQUIRE(s.total.remote_dispatches <= s.total.dispatches);
    REQUIRE(s.total.remote_dispatches <= remote_tasks);
    REQUIRE(remote_tasks == 0 || s.total.remote_dispatches > 0);
}

/* ---- groups ---- */

static void require_others(int group, const char *expected)
{
    char text[64] = "";

    for (int i = 0; i < rt->n_groups - 1; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), " %d", rt->groups[group].others[i]);
    if (strcmp(text, expected)) {
        fprintf(stderr, "group %d has others%s, not%s\n", group, text, expected);
        REQUIRE(!"others in this order");
    }
}

CASE(a_group_for_each_node)
{
    start_on(&machine_four_nodes, 8);
    REQUIRE_EQUAL(rt->n_groups, 4);
    for (int i = 0; i < 4; i++) {
        struct flow__group *g = &rt->groups[i];

        REQUIRE_EQUAL(g->node, i);
        REQUIRE_EQUAL(g->first, 2 * i);
        REQUIRE_EQUAL(g->n_workers, 2);
        REQUIRE_EQUAL(g->idle.n_workers, 2);
        REQUIRE(flow__group_of_node(i) == g);
        for (int k = 0; k < 2; k++) {
            REQUIRE(rt->workers[2 * i + k].group == g);
            REQUIRE_EQUAL(rt->workers[2 * i + k].n_mates, 1);
            REQUIRE_EQUAL(flow__index_in_group(&rt->workers[2 * i + k]), k);
        }
    }
    REQUIRE(!flow__group_of_node(4));
    REQUIRE(((uintptr_t)rt->groups[1].surplus & 63) == 0);
    require_others(0, " 1 2 3");
    require_others(1, " 0 3 2");
    require_others(3, " 2 1 0");
    REQUIRE_EQUAL(flow__patience(&rt->groups[0], &rt->groups[1]), 5000);
    REQUIRE_EQUAL(flow__patience(&rt->groups[0], &rt->groups[2]), 50000);
    stop();
    start_on(&machine_three_nodes, 6);
    require_others(0, " 1 2");
    require_others(1, " 2 0");
    require_others(2, " 1 0");
    stop();
    start_on(&machine_four_nodes, 3); /* two nodes stay without workers */
    REQUIRE_EQUAL(rt->n_groups, 2);
    REQUIRE_EQUAL(rt->groups[1].n_workers, 1);
    REQUIRE(!flow__group_of_node(2));
    REQUIRE_EQUAL(flow_stats_steals(0, 3, NULL, NULL), 0);
    REQUIRE_EQUAL(flow_stats_steals(0, 4, NULL, NULL), -EINVAL);
    REQUIRE_EQUAL(flow_stats_steals(-1, 0, NULL, NULL), -EINVAL);
    stop();
    REQUIRE_EQUAL(flow_stats_steals(0, 0, NULL, NULL), -ESHUTDOWN);
}

/* ---- a skewed load ---- */

/* Keeps some hundred tasks queued at home until all workers have had some. */
static flow_result spawn_until_spread(void *unused)
{
    (void)unused;
    while (!every_worker_ran_something()) {
        for (int i = 0; i < 200; i++)
            EXPECT_EQ(flow_spawn(NULL, work, (void *)200), 0);
        flow_yield();
    }
    store_relaxed(&tally.go, true);
    return flow_ok(NULL);
}

static void spread_from(const struct machine *machine, int n_workers, int worker)
{
    uint64_t tasks;

    start_on(machine, n_workers);
    tally_begin();
    spawn_at(worker, FLOW_PINNED, spawn_until_spread, NULL);
    WAIT_UNTIL(load_relaxed(&tally.go));
    REQUIRE(test_wait_until_empty());
    REQUIRE_EQUAL(load_relaxed(&tally.ran) + 1, test_stats().total.spawned);
    REQUIRE(test_stats().total.remote_steals > 0);
    require_sums();
    for (int to = 0; to < rt->topology.n_nodes; to++) { /* what came from nowhere else */
        REQUIRE_EQUAL(flow_stats_steals(rt->workers[worker].node, to, NULL, &tasks), 0);
        child_note("%d <- %d: %llu tasks", to, rt->workers[worker].node, (unsigned long long)tasks);
    }
    stop();
}

CASE(a_skewed_load_reaches_every_worker)
{
    spread_from(&machine_four_nodes, 8, 0);
    spread_from(&machine_four_nodes, 8, 5);
    spread_from(&machine_sparse_ids, 8, 3); /* one worker on each node */
    spread_from(&machine_three_nodes, 3, 2);
}

/* ---- what has waited for long enough ---- */

static flow__atomic(int) n_kept, turn; /* turn: 0 nobody's, else of the worker that may look, or -1 */

static flow_result hold_here(void *unused)
{
    exchange_seq(&turn, 1);
    while (!load_seq(&tally.go)) /* not a yield */
        sched_yield();
    return flow_ok(unused);
}

static void await(flow__atomic(int) * what, int value)
{
    while (load_seq(what) != value)
        sched_yield();
}

/* The first look, on node 1, makes the mark. */
static void look_at_node_0(struct flow__worker *w)
{
    static int64_t before, after;
    int64_t patience = w->node == 1 ? 5000 : 50000; /* 12 and 21 away */

    if (w->node == 1) {
        before = flow__sys.now();
        EXPECT(!flow__anything_ripe(w, before));
        after = flow__sys.now();
    }
    EXPECT(!flow__anything_ripe(w, before + patience - 100));
    EXPECT(flow__anything_ripe(w, after + patience + 2048));
    EXPECT(!load_seq(&w->group->token));
}

/* One on each worker, so that nobody steals or polls meanwhile. */
static flow_result keep_then_look(void *unused)
{
    struct flow__worker *w = flow__owned_worker;

    fetch_add_seq(&n_kept, 1);
    await(&n_kept, 8);
    if (w->index == 0) {
        for (int i = 0; i < 10; i++)
            EXPECT_EQ(flow_spawn(NULL, work, (void *)1), 0);
        exchange_seq(&turn, 2);
    } else if (w->index == 2 || w->index == 4) {
        await(&turn, w->index);
        look_at_node_0(w);
        exchange_seq(&turn, w->index == 2 ? 4 : -1);
    }
    await(&turn, -1);
    return flow_ok(unused);
}

CASE(only_what_has_waited_for_long_enough_is_taken)
{
    start_on(&machine_four_nodes, 8);
    tally_begin();
    for (int i = 0; i < 8; i++)
        spawn_at(i, FLOW_PINNED, keep_then_look, NULL);
    REQUIRE(test_wait_until_empty());
    stop();
}

CASE(the_age_of_a_queue_starts_over_when_its_tasks_have_gone)
{
    struct flow__task *loot[8];
    struct flow__group *g;
    uint32_t n = 0;

    start_on(&machine_one_node, 1);
    g = rt->groups;
    tally_begin();
    spawn_at(0, FLOW_PINNED, hold_here, NULL);
    WAIT_UNTIL(load_seq(&turn) == 1);
    REQUIRE_EQUAL(flow__queue_age(&g->queue, flow__sys.now()), -1);
    for (int i = 0; i < 4; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, work, (void *)1), 0);
    REQUIRE_EQUAL(flow__queue_age(&g->queue, flow__sys.now()), 0);
    REQUIRE(flow__queue_age(&g->queue, flow_after(FLOW_MS(1))) > 900000);
    for (uint32_t taken; (taken = flow__rob_queue(&g->queue, loot + n, 3)) > 0; n += taken)
        REQUIRE_EQUAL(taken, n == 0 ? 2 : 1);
    REQUIRE_EQUAL(n, 4);
    REQUIRE_EQUAL(flow__queue_age(&g->queue, flow__sys.now()), -1);
    for (uint32_t i = 0; i < n; i++)
        flow__submit_from_thread(g, loot[i]);
    REQUIRE_EQUAL(flow__queue_age(&g->queue, flow_after(FLOW_MS(1))), 0);
    store_relaxed(&tally.go, true);
    REQUIRE(test_wait_until_empty());
    REQUIRE_EQUAL(load_seq(&tally.ran), 4);
    stop();
}

/* ---- polls ---- */

static flow__atomic(bool) sent, came;

static flow_result come(void *unused)
{
    store_relaxed(&came, true);
    return flow_ok(unused);
}

static void yield_after_a_millisecond(void)
{
    int64_t until = flow_after(FLOW_MS(1));

    while (flow_now() < until)
        flow__pause();
    flow_yield();
}

static flow_result slow_yielder(void *unused)
{
    int n = 0;

    for (int i = 0; i < 70; i++) /* by now the worker knows how slow this is */
        yield_after_a_millisecond();
    exchange_seq(&turn, 1);
    while (!load_relaxed(&came)) {
        n += load_seq(&sent);
        yield_after_a_millisecond();
    }
    EXPECT(n <= 20);
    while (flow__owned_worker->poll_interval < 61) /* and quick again */
        flow_yield();
    return flow_ok(unused);
}

/* Every 200 us, and not every 61 dispatches of a millisecond: what comes from outside is seen soon. */
CASE(slow_tasks_do_not_keep_a_worker_from_looking)
{
    struct flow_options o = test_options();

    o.workers = 1;
    test_start_with(&o);
    REQUIRE_EQUAL(flow_spawn(NULL, slow_yielder, NULL), 0);
    WAIT_UNTIL(load_seq(&turn) == 1);
    REQUIRE_EQUAL(flow_spawn(NULL, come, NULL), 0);
    exchange_seq(&sent, true);
    REQUIRE(test_wait_until_empty());
    test_stop();
}

/* ---- nodes that cannot help themselves ---- */

static flow_result spawn_and_hold(void *n)
{
    uint64_t before = load_seq(&tally.ran);

    for (intptr_t i = 0; i < (intptr_t)n; i++)
        EXPECT_EQ(flow_spawn(NULL, work, (void *)50), 0);
    while (load_seq(&tally.ran) < before + (uint64_t)(intptr_t)n)
        sched_yield();
    store_relaxed(&tally.go, true);
    return flow_ok(NULL);
}

/* All workers of node 0 are kept by coroutines that do not return before all the tasks that lie in
 * one's queue have run. Nobody there polls; so others must come. */
static void rescue(const struct machine *machine, int workers, int on_node, int64_t nap)
{
    start_on(machine, workers);
    for (int round = 0; round < 5; round++) {
        tally_begin();
        test_nap(nap); /* long: the sentries of an idle process sleep without end */
        for (int i = 1; i < on_node; i++) {
            exchange_seq(&turn, 0);
            spawn_at(i, FLOW_PINNED, hold_here, NULL);
            WAIT_UNTIL(load_seq(&turn) == 1); /* or it would run what lies beside it */
        }
        spawn_at(0, FLOW_PINNED, spawn_and_hold, (void *)(intptr_t)(round % 2 ? 1 : 100));
        REQUIRE(test_wait_until_empty());
        for (int i = 0; i < on_node; i++)
            REQUIRE_EQUAL(load_relaxed(&tally.ran_on[i]), 0);
    }
    if (nap) /* else a sentry watches still, from the start or the last round */
        REQUIRE(test_stats().total.calls > 0);
    require_sums();
    stop();
}

CASE(a_node_that_is_stuck_is_helped)
{
    rescue(&machine_four_nodes, 8, 2, FLOW_MS(150));
    rescue(&machine_four_nodes, 8, 2, 0);
    rescue(&machine_sparse_ids, 8, 1, FLOW_MS(150));
    rescue(&machine_sparse_ids, 2, 1, FLOW_MS(60));
    rescue(&machine_sparse_ids, 2, 1, 0);
    rescue(&machine_one_node, 4, 1, 0); /* by mates, from its ring */
}

/* At a poll, with an age made up by looks: a task that no flag shows lies in the ring. */
static flow_result poll_with_old_work(void *unused)
{
    struct flow__worker *w = flow__owned_worker;
    int64_t before, after;
    uint64_t calls;

    await(&turn, 1); /* its mate is kept */
    while (!flow__others_sleep(w->group))
        sched_yield();
    calls = load_relaxed(&w->stats.calls);
    flow__ring_push(&w->ring, w);
    before = flow__sys.now();
    flow__review_surplus(w, before);
    after = flow__sys.now();
    flow__review_surplus(w, before + FLOW__PATIENCE_NEAR_NS - 100);
    EXPECT_EQ(load_relaxed(&w->stats.calls), calls);
    flow__review_surplus(w, after + FLOW__PATIENCE_NEAR_NS + 2048);
    EXPECT_EQ(load_relaxed(&w->stats.calls), calls + 1);
    flow__review_surplus(w, after + FLOW__PATIENCE_NEAR_NS + 2048 + 100000); /* too soon again */
    EXPECT_EQ(load_relaxed(&w->stats.calls), calls + 1);
    EXPECT(flow__ring_pop(&w->ring) == w);
    store_relaxed(&tally.go, true);
    return flow_ok(unused);
}

CASE(a_busy_node_whose_work_waits_calls_for_help)
{
    start_on(&machine_four_nodes, 8);
    tally_begin();
    spawn_at(1, FLOW_PINNED, hold_here, NULL);
    spawn_at(0, FLOW_PINNED, poll_with_old_work, NULL);
    REQUIRE(test_wait_until_empty());
    stop();
}

/* Two nodes of two workers. Node 0 is stuck, and relies on the sentry of node 1 that watches; that one
 * is called away and kept too. So its mate, which sleeps without end, must be asked. */
static flow_result spawn_and_call_the_sentry_away(void *unused)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    int sentry;

    for (int i = 0; i < 10; i++)
        EXPECT_EQ(flow_spawn(NULL, work, (void *)50), 0);
    sentry = load_seq(&rt->groups[1].idle.sentry) - 1;
    if (sentry >= 0) {
        o.worker = 2 + sentry;
        o.flags = FLOW_PINNED;
        EXPECT_EQ(flow_spawn_with(NULL, &o, hold_here, NULL), 0);
    }
    while (load_seq(&tally.ran) < 10)
        sched_yield();
    store_relaxed(&tally.go, true);
    return flow_ok(unused);
}

CASE(a_sentry_that_is_called_away_is_replaced)
{
    start_on(&machine_four_nodes, 4);
    REQUIRE_EQUAL(rt->n_groups, 2);
    for (int round = 0; round < 60; round++) {
        tally_begin();
        test_nap(round % 4 == 3 ? FLOW_MS(60) : round % 16 * FLOW_MS(1));
        spawn_at(1, FLOW_PINNED, hold_here, NULL);
        spawn_at(0, FLOW_PINNED, spawn_and_call_the_sentry_away, NULL);
        REQUIRE(test_wait_until_empty());
    }
    stop();
}

/* The same for what foreign threads queue there. */
CASE(what_threads_spawn_does_not_wait_for_a_stuck_node)
{
    start_on(&machine_four_nodes, 8);
    for (int round = 0; round < 20; round++) {
        tally_begin();
        spawn_at(0, FLOW_PINNED, hold_here, NULL);
        spawn_at(1, FLOW_PINNED, hold_here, NULL);
        test_nap(round % 2 ? FLOW_MS(60) : 0);
        for (int i = 0; i < 8; i++)
            REQUIRE_EQUAL(flow_spawn(NULL, work, (void *)50), 0);
        WAIT_UNTIL(load_seq(&tally.ran) == 8);
        store_relaxed(&tally.go, true);
        REQUIRE(test_wait_until_empty());
    }
    stop();
}

static flow_result keep_here(void *unused)
{
    fetch_add_seq(&n_kept, 1);
    return hold_here(unused);
}

/* One task, into the queue of the stuck node one time in four: it prefers one where somebody rests.
 * The other node's sentry sleeps without end by then. */
CASE(a_thread_that_queues_at_a_stuck_node_calls_for_help)
{
    start_on(&machine_four_nodes, 4);
    for (int round = 0; round < 40; round++) {
        tally_begin();
        WAIT_UNTIL(!load_seq(&rt->groups[1].watching) && flow__others_sleep(&rt->groups[0]));
        store_relaxed(&n_kept, 0);
        spawn_at(0, FLOW_PINNED, keep_here, NULL);
        spawn_at(1, FLOW_PINNED, keep_here, NULL);
        WAIT_UNTIL(load_seq(&n_kept) == 2);
        REQUIRE_EQUAL(flow_spawn(NULL, work, (void *)1), 0);
        WAIT_UNTIL(load_seq(&tally.ran) == 1);
        store_relaxed(&tally.go, true);
        REQUIRE(test_wait_until_empty());
    }
    REQUIRE(load_relaxed(&rt->foreign_calls) > 0);
    stop();
}

/* ---- tasks for a node ---- */

static flow_result stay(void *node)
{
    EXPECT_EQ(node_here(), (int)(intptr_t)node);
    spin(100);
    EXPECT_EQ(flow_yield(), 0);
    EXPECT_EQ(node_here(), (int)(intptr_t)node);
    fetch_add_seq(&tally.ran, 1);
    return flow_ok(NULL);
}

static flow_result spawn_for_nodes(void *each)
{
    for (intptr_t i = 0; i < 4 * (intptr_t)each; i++) {
        struct flow_spawn_options o = FLOW_SPAWN_INIT;

        o.node = (int)i % 4;
        EXPECT_EQ(flow_spawn_with(NULL, &o, stay, (void *)(intptr_t)o.node), 0);
    }
    return flow_ok(NULL);
}

CASE(a_task_for_a_node_starts_there)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;

    start_on(&machine_four_nodes, 8);
    tally_begin();
    o.node = 3;
    for (intptr_t i = 0; i < 500; i++) /* more than node 3 can do at once, while others rest */
        REQUIRE_EQUAL(flow_spawn_with(NULL, &o, stay, (void *)3), 0);
    REQUIRE(test_wait_until_empty());
    REQUIRE_EQUAL(flow_spawn(NULL, spawn_for_nodes, (void *)200), 0);
    REQUIRE(test_wait_until_empty());
    REQUIRE_EQUAL(load_seq(&tally.ran), 1300);
    REQUIRE(test_stats().total.node_wakes > 0);
    o.node = 4;
    REQUIRE_EQUAL(flow_spawn_with(NULL, &o, stay, NULL), -EINVAL);
    stop();
    start_on(&machine_four_nodes, 3);
    o.node = 3;
    REQUIRE_EQUAL(flow_spawn_with(NULL, &o, stay, NULL), -EINVAL); /* it has no worker */
    stop();
}

static void *let_go_soon(void *unused)
{
    test_nap(FLOW_MS(30));
    store_relaxed(&tally.go, true);
    return unused;
}

CASE(what_is_queued_for_a_node_ends_with_the_runtime)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    pthread_t helper;

    start_on(&machine_four_nodes, 8);
    tally_begin();
    spawn_at(6, FLOW_PINNED, hold_here, NULL);
    spawn_at(7, FLOW_PINNED, hold_here, NULL);
    o.node = 3;
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_spawn_with(NULL, &o, stay, (void *)3), 0);
    REQUIRE_EQUAL(pthread_create(&helper, NULL, let_go_soon, NULL), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(pthread_join(helper, NULL), 0);
    flow__sys = flow__sys_real;
    machine_close();
}

/* ---- wake-ups stay on their node ---- */

static flow_result fan_out(void *depth)
{
    intptr_t d = (intptr_t)depth;

    work((void *)20);
    for (int i = 0; i < 2 && d > 0; i++)
        EXPECT_EQ(flow_spawn(NULL, fan_out, (void *)(d - 1)), 0);
    if (d % 3 == 0)
        flow_yield();
    return flow_ok(NULL);
}

static uint64_t calls_of_workers(void)
{
    return test_stats().total.calls - load_relaxed(&rt->foreign_calls);
}

CASE(a_wake_up_crosses_nodes_only_as_a_call_for_help)
{
    start_on(&machine_four_nodes, 8);
    for (int round = 0; round < 30; round++) {
        tally_begin();
        spawn_at((round * 3) % 8, FLOW_PINNED, fan_out, (void *)(intptr_t)(round % 2 ? 9 : 3));
        REQUIRE(test_wait_until_empty());
        REQUIRE_EQUAL(load_seq(&tally.ran), round % 2 ? 1023 : 15);
        test_nap(round % 4 ? 0 : FLOW_MS(40));
    }
    WAIT_UNTIL(load_relaxed(&seen.crossing) == calls_of_workers()); /* a call is counted when it was made */
    REQUIRE_EQUAL(test_stats().total.node_wakes, 0);
    child_note("%llu wake-ups of %llu crossed", (unsigned long long)load_relaxed(&seen.crossing),
               (unsigned long long)test_stats().total.wakes);
    require_sums();
    stop();
}

CASE(an_idle_process_of_several_nodes_sleeps_without_end)
{
    uint64_t before = 0;
    int quiet = 0;

    start_on(&machine_four_nodes, 8);
    tally_begin();
    REQUIRE_EQUAL(flow_spawn(NULL, fan_out, (void *)9), 0);
    REQUIRE(test_wait_until_empty());
    /* 64 us to 16 ms, doubled: then nothing. A busy machine may delay that. */
    for (int i = 0; i < 60 && quiet < 3; i++) {
        test_nap(FLOW_MS(150));
        quiet = load_relaxed(&seen.sleeps) == before ? quiet + 1 : 0;
        before = load_relaxed(&seen.sleeps);
    }
    REQUIRE_EQUAL(quiet, 3);
    stop();
}

/* ---- everything at once, with many parks ---- */

static flow__atomic(uint64_t) lives; /* tasks begun; each is counted once at its end */

static void delay(uint64_t *random)
{
    uint64_t r = test_random(random);

    if (r % 32 == 0)
        sched_yield();
    spin((int)(r >> 8 & 63));
}

static int slow_wait(flow__atomic(uint32_t) * word, uint32_t expected, int64_t deadline)
{
    static __thread flow__atomic(uint64_t) last; /* coroutines too wait here, for a lock */
    uint64_t random = load_relaxed(&last) ^ (uintptr_t)&last;

    delay(&random);
    store_relaxed(&last, random);
    return flow__sys_real.futex_wait(word, expected, deadline);
}

static flow_result leaf(void *seed)
{
    uint64_t random = (uint64_t)(uintptr_t)seed;

    fetch_add_seq(&lives, 1);
    delay(&random);
    if (test_random(&random) % 4 == 0)
        flow_yield();
    if (test_random(&random) % 16 == 0)
        flow_sleep((int64_t)(test_random(&random) % FLOW_US(200)));
    return flow_ok(NULL);
}

/* A few tasks of all kinds, some of them waited for. */
static flow_result branch(void *seed)
{
    uint64_t random = (uint64_t)(uintptr_t)seed;
    flow_task kids[8];
    int n = (int)(test_random(&random) % 8) + 1;

    fetch_add_seq(&lives, 1);
    for (int i = 0; i < n; i++) {
        struct flow_spawn_options o = FLOW_SPAWN_INIT;
        uint64_t choice = test_random(&random);

        if (choice % 8 == 0)
            o.node = (int)(choice >> 8 & 3);
        else if (choice % 8 == 1)
            o.worker = (int)(choice >> 8 & 7);
        else if (choice % 8 < 5)
            o.flags = FLOW_ROAM;
        EXPECT_EQ(flow_spawn_with(i % 2 ? &kids[i] : NULL, &o, leaf, (void *)(uintptr_t)choice), 0);
    }
    if (test_random(&random) % 2)
        flow_yield();
    for (int i = 1; i < n; i += 2)
        EXPECT_EQ(flow_join(kids[i], NULL, FLOW_FOREVER), 0);
    return flow_ok_i64(n + 1);
}

static void *plant(void *seed)
{
    uint64_t random = (uint64_t)(uintptr_t)seed;
    uint64_t total = 0;

    for (int i = 0; i < TEST_ROUNDS(3000, 300); i++) {
        flow_result result;

        EXPECT_EQ(flow_sync_wait(branch, (void *)(uintptr_t)test_random(&random), &result,
                                 flow_after(FLOW_S(20))),
                  0);
        total += (uint64_t)result.i64;
        for (uint64_t pause = test_random(&random) % 64; pause > 0; pause--)
            delay(&random);
        if (test_random(&random) % 512 == 0)
            test_nap(FLOW_MS(20)); /* all fall asleep */
    }
    return (void *)(uintptr_t)total;
}

static void torture(const struct machine *machine, bool roam)
{
    struct flow_options o = test_options();
    uint64_t seed = test_seed(), total = 0;
    pthread_t threads[3];
    void *sum;

    machine_use(machine);
    o.workers = 8;
    o.roam = roam;
    o.spin_ns = 0;
    store_relaxed(&lives, 0);
    flow__sys.futex_wait = slow_wait;
    test_start_with(&o);
    for (size_t i = 0; i < 3; i++)
        REQUIRE_EQUAL(pthread_create(&threads[i], NULL, plant, (void *)(uintptr_t)(seed + i)), 0);
    for (size_t i = 0; i < 3; i++) {
        REQUIRE_EQUAL(pthread_join(threads[i], &sum), 0);
        total += (uint64_t)(uintptr_t)sum;
    }
    REQUIRE(test_wait_until_empty());
    REQUIRE_EQUAL(load_seq(&lives), total);
    require_sums();
    child_note("%llu tasks, %llu steals, of these remote %llu, %llu parks", (unsigned long long)total,
               (unsigned long long)test_stats().total.steals,
               (unsigned long long)test_stats().total.remote_steals,
               (unsigned long long)test_stats().total.parks);
    stop();
}

CASE(no_wake_up_is_lost_among_four_nodes)
{
    torture(&machine_four_nodes, false);
    torture(&machine_four_nodes, true);
}

CASE(no_wake_up_is_lost_among_eight_nodes_of_one_worker)
{
    torture(&machine_sparse_ids, false);
}

/* One task after the other for one node, each queued just when the worker there falls asleep. */
static void *feed(void *node)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    uint64_t random = (uint64_t)(uintptr_t)node + 1;

    o.node = (int)(intptr_t)node;
    for (int i = 0; i < TEST_ROUNDS(20000, 2000); i++) {
        flow_task task;

        EXPECT_EQ(flow_spawn_with(&task, &o, work, (void *)1), 0);
        EXPECT_EQ(flow_join(task, NULL, flow_after(FLOW_S(20))), 0);
        spin((int)(test_random(&random) % 256));
    }
    return NULL;
}

CASE(no_task_for_a_node_is_overlooked_by_who_falls_asleep)
{
    struct flow_options o = test_options();
    pthread_t threads[2];

    machine_use(&machine_sparse_ids);
    o.workers = 2;
    o.spin_ns = 0;
    tally_begin();
    test_start_with(&o);
    for (intptr_t i = 0; i < 2; i++)
        REQUIRE_EQUAL(pthread_create(&threads[i], NULL, feed, (void *)i), 0);
    for (int i = 0; i < 2; i++)
        REQUIRE_EQUAL(pthread_join(threads[i], NULL), 0);
    REQUIRE_EQUAL(load_seq(&tally.ran_on[0]), TEST_ROUNDS(20000, 2000));
    REQUIRE_EQUAL(load_seq(&tally.ran_on[1]), TEST_ROUNDS(20000, 2000));
    test_stop();
    machine_close();
}

/* ---- CPUs that go away ---- */

static flow__atomic(int) elsewhere; /* the worker that seems to be on another CPU, or -1 */

static int seeming_cpu(void)
{
    struct flow__worker *w = flow__owned_worker;
    int cpu_id = flow__sys_real.cpu();

    return w && w->index == load_relaxed(&elsewhere) ? cpu_id + 1 : cpu_id;
}

static void start_pinned(void)
{
    struct flow_options o = test_options();

    o.workers = 2;
    test_start_with(&o);
    if (load_relaxed(&rt->pinned) != 2 || rt->workers[0].cpu_id == rt->workers[1].cpu_id)
        skip_case("two workers cannot be pinned to two CPUs here");
}

static uint64_t moved(void)
{
    spawn_at(1, FLOW_PINNED, work, (void *)1); /* so that it polls */
    return test_stats().total.moved;
}

static uint64_t returned(void)
{
    spawn_at(1, FLOW_PINNED, work, (void *)1);
    return test_stats().total.returned;
}

/* On the worker that moves: between two looks at its CPU it stays what it is, however slow all else. */
static flow_result see_it_move(void *rounds)
{
    struct flow__worker *w = &rt->workers[1];

    for (uint64_t round = 1; round <= (uintptr_t)rounds; round++) {
        store_relaxed(&elsewhere, 1);
        while (load_relaxed(&w->stats.moved) < round)
            flow_yield();
        store_relaxed(&elsewhere, -1);
        EXPECT_EQ(load_relaxed(&w->stats.moved), round);
        EXPECT(!load_relaxed(&w->pinned));
        EXPECT_EQ(w->spin_max_ns, 0);
        EXPECT_EQ(load_relaxed(&rt->pinned), 1);
        while (load_relaxed(&w->stats.returned) < round)
            flow_yield();
        EXPECT(load_relaxed(&w->pinned));
        EXPECT(w->spin_max_ns > 0);
        EXPECT_EQ(load_relaxed(&rt->pinned), 2);
    }
    return flow_ok(NULL);
}

CASE(a_worker_off_its_cpu_is_counted_and_goes_on)
{
    tally_begin();
    store_relaxed(&elsewhere, -1);
    flow__sys.cpu = seeming_cpu;
    start_pinned();
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(moved(), 0);
    spawn_at(1, FLOW_PINNED, see_it_move, (void *)2);
    REQUIRE(test_wait_until_empty());
    REQUIRE_EQUAL(test_stats().total.moved, 2);
    REQUIRE_EQUAL(test_stats().total.returned, 2);
    REQUIRE_EQUAL(load_relaxed(&rt->workers[0].stats.moved), 0);
    REQUIRE_EQUAL(load_seq(&tally.ran) + 1, test_stats().total.finished);
    test_stop();
    flow__sys = flow__sys_real;
}

static pid_t worker_thread;

static flow_result tell_thread(void *unused)
{
    worker_thread = gettid();
    return flow_ok(unused);
}

static void set_mask(int cpu_id, int and_cpu_id)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu_id, &set);
    CPU_SET(and_cpu_id, &set);
    REQUIRE_EQUAL(sched_setaffinity(worker_thread, sizeof set, &set), 0);
}

/* As a cpuset that shrinks and grows again. */
CASE(a_worker_whose_mask_was_changed_goes_on_and_returns_when_it_may)
{
    cpu_set_t set;
    int home, other;

    tally_begin();
    start_pinned();
    home = rt->workers[1].cpu_id;
    other = rt->workers[0].cpu_id;
    spawn_at(1, FLOW_PINNED, tell_thread, NULL);
    REQUIRE(test_wait_until_empty());
    set_mask(other, other);
    WAIT_UNTIL(moved() == 1);
    for (int i = 0; i < 50; i++) { /* several times as long as until it first tries */
        test_nap(FLOW_MS(10));
        REQUIRE_EQUAL(returned(), 0);
    }
    set_mask(home, other);
    WAIT_UNTIL(returned() == 1);
    REQUIRE_EQUAL(sched_getaffinity(worker_thread, sizeof set, &set), 0);
    REQUIRE(CPU_COUNT(&set) == 1 && CPU_ISSET(home, &set));
    REQUIRE(test_wait_until_empty());
    test_stop();
}

CASE(workers_that_are_not_pinned_are_never_missed)
{
    struct flow_options o = test_options();

    tally_begin();
    o.workers = 2;
    o.no_pinning = true;
    store_relaxed(&elsewhere, 1);
    flow__sys.cpu = seeming_cpu;
    test_start_with(&o);
    for (int i = 0; i < 20; i++, test_nap(FLOW_MS(5)))
        REQUIRE_EQUAL(moved(), 0);
    REQUIRE(test_wait_until_empty());
    test_stop();
    flow__sys = flow__sys_real;
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
