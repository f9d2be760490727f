/* SPDX-License-Identifier: MIT
 *
 * How long flow_dump takes to tell what a million coroutines wait for, with their backtraces, beside
 * workers that have nothing to do and beside busy ones; and how long these stand still meanwhile.
 *
 * The tasks sleep, a few calls deep. The busy workers each run coroutines that yield to each other; "still" is
 * the longest time between two turns of one of them while the dump goes on. On a machine with no
 * more CPUs than workers it contains what the dumping thread takes of a worker's CPU. */
#include "perf/bench.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <unistd.h>

enum { MEMBERS = 4 }; /* of each busy worker */

static struct {
    atomic_bool watch, end;
    atomic_llong still_ns;
} busy;

static __attribute__((noinline)) int sleep_at_depth(int n)
{
    int r = n > 0 ? sleep_at_depth(n - 1) : (bench_tally(), flow_sleep(FLOW_S(1000)));

    __asm__ volatile("" ::: "memory");
    return r;
}

static flow_result sleeper(void *arg)
{
    sleep_at_depth(4);
    return flow_ok(arg);
}

static flow_result yielder(void *arg)
{
    int64_t last = flow_now();

    while (!atomic_load_explicit(&busy.end, memory_order_relaxed)) {
        int64_t now;

        flow_yield();
        now = flow_now();
        if (atomic_load_explicit(&busy.watch, memory_order_relaxed) &&
            now - last > atomic_load(&busy.still_ns))
            atomic_store(&busy.still_ns, now - last);
        last = now;
    }
    return flow_ok(arg);
}

static void start_yielders(int workers)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;

    o.flags = FLOW_PINNED;
    for (int i = 0; i < workers * MEMBERS; i++) {
        o.worker = i % workers;
        bench_check(!flow_spawn_with(NULL, &o, yielder, NULL), "spawn");
    }
}

static double dump_to(const char *path, uint64_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), r;
    int64_t begun = flow_now();

    bench_check(fd >= 0, "%s", path);
    r = flow_dump(fd);
    bench_check(r >= 0 && (uint64_t)r >= n, "flow_dump: %d", r);
    close(fd);
    return (double)(flow_now() - begun) / 1e9;
}

static void dump_tasks(const struct bench_run *run, bool with_busy)
{
    const char *name = with_busy ? "dump beside busy workers/flow" : "dump/flow";

    bench_need_memory(run->n * 5000);
    bench_start(run, NULL);
    for (uint64_t i = 0; i < run->n; i++)
        bench_check(!flow_spawn(NULL, sleeper, NULL), "spawn");
    while (bench_tally_sum() < run->n)
        usleep(1000);
    if (with_busy)
        start_yielders(run->workers);
    usleep(100000);
    atomic_store(&busy.watch, true);
    bench_value(name, run->n, "s", dump_to("/dev/null", run->n));
    atomic_store(&busy.watch, false);
    if (with_busy)
        bench_value("longest turn meanwhile/flow", run->n, "ms",
                    (double)atomic_load(&busy.still_ns) / 1e6);
    atomic_store(&busy.end, true);
    bench_stop();
}

static void idle(const struct bench_run *run)
{
    dump_tasks(run, false);
}

static void beside_busy(const struct bench_run *run)
{
    dump_tasks(run, true);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"dump/flow", idle, 1000000, 20000},
        {"dump beside busy workers/flow", beside_busy, 1000000, 20000},
    };
    static const struct bench_suite suite = {
        .name = "dump",
        .about = "flow_dump of sleeping coroutines, to /dev/null",
        .runs = 3,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
