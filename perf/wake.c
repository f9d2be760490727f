/* SPDX-License-Identifier: MIT
 *
 * From a thread that is not a worker to a coroutine whose worker sleeps: the way of every event
 * that comes from outside, and mostly the kernel's time to get a thread going.
 *
 * The coroutine waits in flow_suspend on worker 0, to which it is pinned; the main thread calls
 * flow_wake; what is measured is the time from just before that call to the coroutine's next
 * instruction. Before each round the main thread sleeps 300 us, longer than any worker spins, and
 * then until worker 0 has counted one more park, so that no round meets a worker that is still
 * awake. The main thread is not pinned: it may share the CPU of the worker or not.
 *
 * Rivals (perf/rivals) rest for 400 us before each round: tokio, libuv's uv_async_send, and a plain
 * condition variable from a thread outside; Go's goroutine has a thread of its own. */
#include "perf/bench.h"

#include <stdatomic.h>
#include <time.h>

#define WARM_ROUNDS 100

static struct {
    uint64_t rounds;
    flow_waker waker;
    _Atomic uint64_t published, resumed;
    int64_t resumed_at; /* published by resumed */
} shared;

static int publish(flow_waker waker, void *unused)
{
    (void)unused;
    shared.waker = waker;
    /* Release: pairs with the acquire in wait_for. */
    atomic_fetch_add_explicit(&shared.published, 1, memory_order_release);
    return 0;
}

static flow_result sleeper(void *unused)
{
    (void)unused;
    for (uint64_t i = 0; i < shared.rounds; i++) {
        int r = flow_suspend(publish, NULL, FLOW_FOREVER);

        shared.resumed_at = bench_now();
        bench_check(!r, "flow_suspend: %d", r);
        atomic_store_explicit(&shared.resumed, i + 1,
                              memory_order_release); /* pairs with wait_for */
    }
    return flow_ok_u64(shared.rounds);
}

/* The main thread sleeps here, so that it leaves its CPU to the worker. */
static void rest(int64_t span_ns)
{
    struct timespec t = {.tv_nsec = span_ns};

    nanosleep(&t, NULL);
}

static void wait_for(_Atomic uint64_t *count, uint64_t value)
{
    int64_t give_up = bench_now() + FLOW_S(10);

    while (atomic_load_explicit(count, memory_order_acquire) < value) {
        bench_check(bench_now() < give_up, "the coroutine does not come");
        rest(FLOW_US(50));
    }
}

static uint64_t parks_of_worker_0(void)
{
    struct flow_worker_stats stats;
    int r = flow_stats_worker(0, &stats);

    bench_check(!r, "flow_stats_worker: %d", r);
    return stats.parks;
}

static void wait_for_park(uint64_t more_than)
{
    int64_t give_up = bench_now() + FLOW_S(10);

    while (parks_of_worker_0() <= more_than) {
        bench_check(bench_now() < give_up, "worker 0 does not park");
        rest(FLOW_US(50));
    }
}

static int64_t one_round(uint64_t i, uint64_t *parks)
{
    int64_t start;
    int r;

    wait_for(&shared.published, i + 1);
    rest(FLOW_US(300));
    wait_for_park(*parks);
    rest(FLOW_US(50)); /* the count comes just before the sleep itself */
    *parks = parks_of_worker_0();
    start = bench_now();
    r = flow_wake(shared.waker);
    bench_check(!r, "flow_wake: %d", r);
    wait_for(&shared.resumed, i + 1);
    bench_check(shared.resumed_at >= start, "resumed before it was woken");
    return shared.resumed_at - start;
}

static void run_wake(const struct bench_run *run)
{
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    int64_t *latency = bench_array(run->n, sizeof *latency);
    uint64_t parks = 0;
    flow_result result;
    flow_task task;
    int r;

    shared.rounds = run->n + WARM_ROUNDS;
    bench_start(run, NULL);
    how.worker = 0;
    how.flags = FLOW_PINNED;
    r = flow_spawn_with(&task, &how, sleeper, NULL);
    bench_check(!r, "flow_spawn_with: %d", r);
    for (uint64_t i = 0; i < shared.rounds; i++) {
        int64_t took = one_round(i, &parks);

        if (i >= WARM_ROUNDS)
            latency[i - WARM_ROUNDS] = took;
    }
    r = flow_join(task, &result, FLOW_FOREVER);
    bench_check(!r && flow_is_ok(result) && result.u64 == shared.rounds, "flow_join: %d", r);
    bench_stop();

    bench_percentiles(run, "us", latency, run->n, 1e-3);
}

static void rival(const struct bench_run *run)
{
    bench_rival_figures(run, "us", 1e-3);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"wake/flow", run_wake, 1000, 200},    {"wake/go", rival, 1000, 200},
        {"wake/tokio", rival, 1000, 200},      {"wake/libuv", rival, 1000, 200},
        {"wake/pthreads", rival, 1000, 200},
    };
    static const struct bench_suite suite = {
        .name = "wake",
        .about = "from a foreign thread's flow_wake until the coroutine runs; n rounds",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
