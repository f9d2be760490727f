/* SPDX-License-Identifier: MIT
 *
 * Timers: those that never fire, and how late the others do; next to those of libuv, Go and tokio
 * (perf/rivals), of which the first and the last count in milliseconds.
 *
 * Most deadlines of a server are taken back before they come, so the first question is what a
 * cancel and a re-arm cost while many are armed. It is asked twice:
 *   "cancel + re-arm" goes through public interfaces: tasks of ours wait in flow_suspend with a
 *       deadline an hour away; waking one cancels its timer, and it suspends again with a new one. The
 *       same without a deadline, on the same tasks, shows what of this is the timer's. Go's and
 *       tokio's timers too may be set anew by any thread; one goroutine, or task, does it, so our tasks
 *       are on the worker of the one that wakes them. Those of "spread" start on any: about half of the
 *       wakes then cross from one worker to another;
 *   "in one thread" is for timers that no other thread may touch: libuv's, and core/timer.h itself
 *       (hence the static library), on the main thread with a clock that the loop moves. No user can
 *       call that: "internal wheel".
 * Timers are visited in an order that no prefetcher guesses, as answers of clients come.
 *
 * Then lateness: sleeps of 900 us one after the other (a span shorter than a tick of most clocks);
 * 100,000 tasks that each sleep 10 to 50 ms; and 100,000 that were armed beforehand and
 * expire spread over 40 ms. Nobody may ever wake early, which is checked at every sleep. */
#include "core/timer.h"
#include "perf/bench.h"

#include <stdatomic.h>
#include <stdio.h>

/* ---- the wheel alone ---- */

/* Deadlines of 10 to 60 seconds, while time passes, one microsecond per operation: what the wheel
 * does to keep up with it is part of the cost. Each timer is re-armed long before it is due. */
static int64_t time_rearming(struct flow__timers *wheel, struct flow__timer *timers, uint64_t n,
                             uint64_t ops, int64_t *clock)
{
    uint64_t stride = bench_stride(n), at = 0;
    int64_t start = bench_now();

    for (uint64_t i = 0; i < ops; i++) {
        at += stride;
        at -= at >= n ? n : 0;
        flow__timer_remove(wheel, &timers[at]);
        flow__timer_add(wheel, &timers[at], *clock + FLOW_S(10) + bench_spread(i, FLOW_S(50)));
        *clock += FLOW_US(1);
        if (i % 256 == 0)
            bench_check(!flow__timers_expired(wheel, *clock), "a timer is early");
    }
    return bench_now() - start;
}

static void run_wheel(const struct bench_run *run)
{
    struct flow__timers *wheel = bench_array(1, sizeof *wheel);
    struct flow__timer *timers = bench_array(run->n, sizeof *timers);
    uint64_t ops = run->quick ? 200000 : 2000000;
    int64_t clock = bench_now(), elapsed;

    flow__timers_init(wheel, clock, -1);
    bench_check(!flow__timers_reserve(wheel, (uint32_t)run->n), "no memory for the heap");
    for (uint64_t i = 0; i < run->n; i++)
        flow__timer_add(wheel, &timers[i], clock + FLOW_S(10) + bench_spread(i, FLOW_S(50)));
    time_rearming(wheel, timers, run->n, ops / 4, &clock);
    elapsed = time_rearming(wheel, timers, run->n, ops, &clock);

    bench_check(wheel->armed == run->n, "%u timers are armed", (unsigned)wheel->armed);
    for (uint64_t i = 0; i < run->n; i++)
        flow__timer_remove(wheel, &timers[i]);
    bench_check(!wheel->armed && flow__timers_next(wheel) == INT64_MAX, "the wheel is not empty");
    flow__timers_free(wheel);
    bench_value("cancel + re-arm in one thread/flow, internal wheel", run->n, "ns",
                (double)elapsed / (double)ops);
}

/* ---- the same through flow_suspend ---- */

#define WAKES_AT_ONCE 64

static struct {
    uint64_t n;
    bool spread;
    flow_waker *wakers;
    flow_task *tasks;
    _Atomic int64_t deadline; /* of the next suspension; FLOW_FOREVER for none */
    _Atomic bool end;
    uint64_t parked; /* what the tally is when all wait */
    double with_ns, without_ns;
} waiters;

static int publish(flow_waker waker, void *arg)
{
    waiters.wakers[(uintptr_t)arg] = waker;
    bench_tally();
    return 0;
}

static flow_result waiter(void *arg)
{
    while (!atomic_load_explicit(&waiters.end, memory_order_relaxed)) {
        int64_t deadline = atomic_load_explicit(&waiters.deadline, memory_order_relaxed);
        int r;

        if (deadline != FLOW_FOREVER)
            deadline += bench_spread((uintptr_t)arg, FLOW_S(60));
        r = flow_suspend(publish, arg, deadline);
        bench_check(!r, "flow_suspend: %d", r);
    }
    return flow_ok(NULL);
}

static void wait_until_parked(void)
{
    while (bench_tally_sum() < waiters.parked) {
        int r = flow_yield();

        bench_check(!r, "flow_yield: %d", r);
    }
}

static void start_waiters(void)
{
    for (uint64_t i = 0; i < waiters.n; i++) {
        void *arg = (void *)(uintptr_t)i;
        int r = waiters.spread ? flow_spawn(&waiters.tasks[i], waiter, arg)
                               : flow_spawn_now(&waiters.tasks[i], waiter, arg);

        bench_check(!r, "flow_spawn: %d", r);
        waiters.parked++;
        if (i % 1024 == 1023)
            wait_until_parked();
    }
    wait_until_parked();
}

/* Wakes every one, which then suspends again; a few at a time, so that wakes are
 * neither alone nor all in one queue. */
static int64_t wake_all(int64_t deadline)
{
    uint64_t stride = bench_stride(waiters.n), at = 0, in_batch = 0;
    int64_t start = bench_now();

    atomic_store_explicit(&waiters.deadline, deadline, memory_order_relaxed);
    for (uint64_t i = 0; i < waiters.n; i++) {
        int r;

        at += stride;
        at -= at >= waiters.n ? waiters.n : 0;
        r = flow_wake(waiters.wakers[at]);
        bench_check(!r, "flow_wake: %d", r);
        waiters.parked++;
        if (++in_batch == WAKES_AT_ONCE) {
            wait_until_parked();
            in_batch = 0;
        }
    }
    wait_until_parked();
    return bench_now() - start;
}

static void end_waiters(void)
{
    atomic_store_explicit(&waiters.end, true, memory_order_relaxed);
    for (uint64_t i = 0; i < waiters.n; i++) {
        int r = flow_wake(waiters.wakers[i]);

        bench_check(!r, "flow_wake: %d", r);
    }
    for (uint64_t i = 0; i < waiters.n; i++)
        bench_join(waiters.tasks[i]);
}

/* Alternates with and without a deadline. The first pass after each change is not counted: it still
 * meets what the passes before it armed. */
static flow_result waiters_root(void *arg)
{
    const struct bench_run *run = arg;
    uint64_t passes = (run->quick ? 50000 : 400000) / waiters.n + 1;
    int64_t far = flow_after(FLOW_S(3600)), with = 0, without = 0;
    struct flow_stats before, after;

    waiters.deadline = far;
    start_waiters();
    before = bench_stats();
    for (uint64_t i = 0; i < passes; i++) {
        wake_all(far);
        with += wake_all(far);
        wake_all(FLOW_FOREVER);
        without += wake_all(FLOW_FOREVER);
    }
    after = bench_stats();
    bench_check(after.total.timers_armed - before.total.timers_armed + (uint64_t)run->workers >=
                    2 * passes * waiters.n,
                "%llu timers were armed",
                (unsigned long long)(after.total.timers_armed - before.total.timers_armed));
    bench_check(after.total.timers_fired == before.total.timers_fired,
                "a timer of an hour has fired");
    waiters.with_ns = (double)with / (double)(passes * waiters.n);
    waiters.without_ns = (double)without / (double)(passes * waiters.n);
    end_waiters();
    return flow_ok(NULL);
}

static void time_waiters(const struct bench_run *run, bool spread)
{
    struct flow_options options = FLOW_OPTIONS_INIT;

    waiters.n = run->n;
    waiters.spread = spread;
    waiters.wakers = bench_array(run->n, sizeof *waiters.wakers);
    waiters.tasks = bench_array(run->n, sizeof *waiters.tasks);
    options.stack_bytes = (size_t)16 * 1024;
    bench_need_memory(run->n * 5000);
    bench_in_coroutine(run, &options, waiters_root, (void *)run);
}

static void run_waiters(const struct bench_run *run)
{
    time_waiters(run, false);
    bench_value("wake + suspend again, with a deadline", run->n, "ns", waiters.with_ns);
    bench_value("wake + suspend again", run->n, "ns", waiters.without_ns);
    bench_value("cancel + re-arm/flow, in tasks", run->n, "ns",
                waiters.with_ns - waiters.without_ns);
}

static void run_spread_waiters(const struct bench_run *run)
{
    time_waiters(run, true);
    bench_value("wake + suspend again, spread, with a deadline", run->n, "ns", waiters.with_ns);
    bench_value("wake + suspend again, spread", run->n, "ns", waiters.without_ns);
}

/* ---- 900 us, again and again ---- */

struct sleeps {
    uint64_t n;
    int64_t *late;
};

static flow_result sleep_in_turn(void *arg)
{
    struct sleeps *s = arg;

    for (uint64_t i = 0; i < s->n; i++) {
        int64_t start = flow_now();
        int r = flow_sleep(FLOW_US(900));

        s->late[i] = flow_now() - start - FLOW_US(900);
        bench_check(!r, "flow_sleep: %d", r);
        bench_check(s->late[i] >= 0, "woke %lld ns early", (long long)-s->late[i]);
    }
    return flow_ok(NULL);
}

static void run_sleeps(const struct bench_run *run)
{
    struct sleeps s = {.n = run->n, .late = bench_array(run->n, sizeof *s.late)};

    bench_in_coroutine(run, NULL, sleep_in_turn, &s);
    bench_percentiles(run, "us", s.late, s.n, 1e-3);
}

/* ---- many sleepers ---- */

enum { COLD, WARM, ROUNDS };

/* So long for each of n, and at most so long, more is slept in the first round, so that all are asleep at
 * once. If some wake before the last ones have started, that round has made fewer stacks than
 * the second needs, and the slower it was the fewer. Go's and tokio's tasks do the same; libuv's
 * timers are all made beforehand. */
#define LONGER_EACH FLOW_US(25)
#define LONGER_MOST FLOW_S(3)

static struct {
    uint64_t n;
    flow_task *tasks;
    int64_t *late; /* of each task */
    int64_t base;  /* "armed beforehand": deadlines are counted from here */
    int64_t longer;
    int64_t done_ns;
    int64_t most_late_ns[ROUNDS], last_late_ns[ROUNDS];
} sleepers;

static void spawn_sleepers(flow_fn fn)
{
    for (uint64_t i = 0; i < sleepers.n; i++)
        sleepers.tasks[i] = bench_spawn(fn, (void *)(uintptr_t)i);
}

static void join_sleepers(void)
{
    for (uint64_t i = 0; i < sleepers.n; i++) {
        flow_result result = bench_join(sleepers.tasks[i]);

        bench_check(result.u64 == i, "a wrong result");
        bench_check(sleepers.late[i] >= 0, "woke %lld ns early", (long long)-sleepers.late[i]);
    }
}

static flow_result sleep_a_while(void *arg)
{
    uint64_t i = (uintptr_t)arg;
    int64_t span = FLOW_MS(10) + bench_spread(i, FLOW_MS(40)) + sleepers.longer, start = flow_now();
    int r = flow_sleep(span);

    sleepers.late[i] = flow_now() - start - span;
    bench_check(!r, "flow_sleep: %d", r);
    return flow_ok_u64(i);
}

static flow_result sleepers_once(void *unused)
{
    int64_t start = bench_now();

    (void)unused;
    spawn_sleepers(sleep_a_while);
    join_sleepers();
    sleepers.done_ns = bench_now() - start;
    return flow_ok(NULL);
}

static flow_result sleepers_twice(void *unused)
{
    int64_t longer = LONGER_EACH * (int64_t)sleepers.n;

    sleepers.longer = longer < LONGER_MOST ? longer : LONGER_MOST;
    sleepers_once(unused);
    sleepers.longer = 0;
    return sleepers_once(unused);
}

static void prepare_sleepers(const struct bench_run *run)
{
    sleepers.n = run->n;
    sleepers.tasks = bench_array(run->n, sizeof *sleepers.tasks);
    sleepers.late = bench_array(run->n, sizeof *sleepers.late);
    bench_need_memory(run->n * 5000);
}

static void run_sleepers(const struct bench_run *run)
{
    prepare_sleepers(run);
    bench_in_coroutine(run, NULL, sleepers_twice, NULL);
    bench_value("sleepers/flow", run->n, "ms", (double)sleepers.done_ns / 1e6);
}

static void run_cold_sleepers(const struct bench_run *run)
{
    prepare_sleepers(run);
    bench_in_coroutine(run, NULL, sleepers_once, NULL);
    bench_value("sleepers, cold/flow", run->n, "ms", (double)sleepers.done_ns / 1e6);
}

#define EXPIRY_SPAN FLOW_MS(40)

static flow_result sleep_until_mine(void *arg)
{
    uint64_t i = (uintptr_t)arg;
    int64_t deadline = sleepers.base + bench_spread(i, EXPIRY_SPAN);
    int r;

    bench_tally();
    r = flow_sleep_until(deadline);
    sleepers.late[i] = flow_now() - deadline;
    bench_check(!r, "flow_sleep_until: %d", r);
    return flow_ok_u64(i);
}

/* Has everybody asleep a while before the first deadline, or tries again with more time. */
static void expire_once(int round, uint64_t *asleep)
{
    for (int64_t lead = FLOW_MS(300);; lead *= 2) {
        bool in_time;
        int r;

        bench_check(lead < FLOW_S(60), "the sleepers do not come to rest");
        sleepers.base = flow_after(lead);
        *asleep += sleepers.n;
        spawn_sleepers(sleep_until_mine);
        r = flow_sleep_until(sleepers.base - FLOW_MS(50));
        bench_check(!r, "flow_sleep_until: %d", r);
        in_time = bench_tally_sum() == *asleep && flow_now() < sleepers.base - FLOW_MS(20);
        join_sleepers();
        if (in_time)
            break;
    }
    for (uint64_t i = 0; i < sleepers.n; i++) {
        int64_t after_last = sleepers.late[i] + bench_spread(i, EXPIRY_SPAN) - EXPIRY_SPAN;

        if (i == 0 || sleepers.late[i] > sleepers.most_late_ns[round])
            sleepers.most_late_ns[round] = sleepers.late[i];
        if (i == 0 || after_last > sleepers.last_late_ns[round])
            sleepers.last_late_ns[round] = after_last;
    }
}

static flow_result expiry_root(void *unused)
{
    uint64_t asleep = 0;

    (void)unused;
    for (int round = COLD; round < ROUNDS; round++)
        expire_once(round, &asleep);
    return flow_ok(NULL);
}

static void run_expiry(const struct bench_run *run)
{
    prepare_sleepers(run);
    bench_in_coroutine(run, NULL, expiry_root, NULL);
    bench_value("expiry over 40 ms, the last one late by", run->n, "ms",
                (double)sleepers.last_late_ns[WARM] / 1e6);
    bench_value("expiry over 40 ms, any one late by", run->n, "ms",
                (double)sleepers.most_late_ns[WARM] / 1e6);
}

/* ---- rivals ---- */

static void rival_rearm(const struct bench_run *run)
{
    struct bench_rival r = bench_rival(run);

    bench_check(r.checksum == run->n, "%s: wrong", run->name);
    bench_value(run->name, run->n, "ns", bench_rival_figure(&r, "ns"));
}

static void rival_late(const struct bench_run *run)
{
    bench_rival_figures(run, "us", 1e-3);
}

static void rival_sleepers(const struct bench_run *run)
{
    struct bench_rival r = bench_rival(run);

    bench_check(r.checksum == run->n, "%s: not all woke", run->name);
    bench_value(run->name, run->n, "ms", r.seconds * 1e3);
}

#define REARM(size)                                                                                \
    {"cancel + re-arm/flow, in tasks", run_waiters, size, 1, true},                                \
        {"cancel + re-arm/go", rival_rearm, size, 1, true},                                        \
    {                                                                                              \
        "cancel + re-arm/tokio", rival_rearm, size, 1, true                                        \
    }
#define REARM_IN_ONE_THREAD(size)                                                                  \
    {"cancel + re-arm in one thread/flow, internal wheel", run_wheel, size, 1, true, true},        \
    {                                                                                              \
        "cancel + re-arm in one thread/libuv", rival_rearm, size, 1, true, true                    \
    }
#define SLEEPERS(n, quick_n, list)                                                                 \
    {"sleepers, cold/flow", run_cold_sleepers, n, quick_n, .workers = list},                       \
        {"sleepers/flow", run_sleepers, n, quick_n, .workers = list},                              \
        {"sleepers/libuv", rival_sleepers, n, quick_n, .workers = list},                           \
        {"sleepers/go", rival_sleepers, n, quick_n, .workers = list},                              \
    {                                                                                              \
        "sleepers/tokio", rival_sleepers, n, quick_n, .workers = list                              \
    }

int main(int argc, char **argv)
{
    static const int both[] = {1, 2, 0}, two[] = {2, 0};
    static const struct bench_case cases[] = {
        REARM(1000),
        REARM(100000),
        {"wake + suspend again, spread/flow", run_spread_waiters, 1000, 1, true, .workers = two},
        REARM_IN_ONE_THREAD(1000),
        REARM_IN_ONE_THREAD(100000),
        REARM_IN_ONE_THREAD(1000000),
        {"sleep of 900 us, late/flow", run_sleeps, 500, 100},
        {"sleep of 900 us, late/libuv", rival_late, 500, 100},
        {"sleep of 900 us, late/go", rival_late, 500, 100},
        {"sleep of 900 us, late/tokio", rival_late, 500, 100},
        SLEEPERS(100000, 20000, both),
        SLEEPERS(1000000, 0, two),
        {"expiry/flow", run_expiry, 100000, 20000},
    };
    static const struct bench_suite suite = {
        .name = "timers",
        .about = "cancel and re-arm with n armed; lateness; many sleepers",
        .runs = 6,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
