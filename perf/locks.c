/* SPDX-License-Identifier: MIT
 *
 * Locks: what one costs that nobody else wants, and a mutex that many want; mutexes next to those of
 * Go, tokio, Boost.Fiber and pthreads (perf/rivals).
 *
 * "alone" is one coroutine that locks and unlocks; likewise a semaphore of one unit, and an rwlock for
 * reading and for writing. "of 8" are eight coroutines that count to n under one mutex; with a short
 * section they hardly meet on one worker, where nobody is interrupted, so there is also one in which
 * each yields while it holds the mutex: then every lock but the first finds it taken, and all of it
 * is waiting, handing over and waking. The count at the end is checked. */
#include "perf/bench.h"

#define MEMBERS 8

static struct {
    struct flow_mutex mutex;
    struct flow_semaphore semaphore;
    struct flow_rwlock rwlock;
    uint64_t count; /* guarded by mutex */
    uint64_t per_member;
} shared = {.semaphore = FLOW_SEMAPHORE_INIT(1)};

struct pairs {
    uint64_t n;
    int64_t mutex_ns, semaphore_ns, read_ns, write_ns;
};

#define TIMED_PAIRS(ns, n, lock, unlock)                                                           \
    do {                                                                                           \
        int64_t start_ = bench_now();                                                              \
        int sum_ = 0;                                                                              \
        for (uint64_t i_ = 0; i_ < (n); i_++) {                                                    \
            sum_ |= (lock);                                                                        \
            sum_ |= (unlock);                                                                      \
        }                                                                                          \
        (ns) = bench_now() - start_;                                                               \
        bench_check(sum_ == 0, #lock " or " #unlock " failed: %d", sum_);                          \
    } while (0)

static flow_result lock_alone(void *arg)
{
    struct pairs *pairs = arg;

    for (int warm = 1; warm >= 0; warm--) {
        uint64_t n = warm ? pairs->n / 16 + 1 : pairs->n;

        TIMED_PAIRS(pairs->mutex_ns, n, flow_mutex_lock(&shared.mutex, FLOW_FOREVER),
                    flow_mutex_unlock(&shared.mutex));
        TIMED_PAIRS(pairs->semaphore_ns, n,
                    flow_semaphore_acquire(&shared.semaphore, 1, FLOW_FOREVER),
                    flow_semaphore_release(&shared.semaphore, 1));
        TIMED_PAIRS(pairs->read_ns, n, flow_rwlock_read(&shared.rwlock, FLOW_FOREVER),
                    flow_rwlock_unlock(&shared.rwlock));
        TIMED_PAIRS(pairs->write_ns, n, flow_rwlock_write(&shared.rwlock, FLOW_FOREVER),
                    flow_rwlock_unlock(&shared.rwlock));
    }
    return flow_ok(NULL);
}

static void run_uncontended(const struct bench_run *run)
{
    struct pairs pairs = {.n = run->n};
    double n = (double)run->n;

    bench_in_coroutine(run, NULL, lock_alone, &pairs);
    bench_value("mutex alone/flow", run->n, "ns", (double)pairs.mutex_ns / n);
    bench_value("semaphore alone/flow", run->n, "ns", (double)pairs.semaphore_ns / n);
    bench_value("rwlock alone, reading/flow", run->n, "ns", (double)pairs.read_ns / n);
    bench_value("rwlock alone, writing/flow", run->n, "ns", (double)pairs.write_ns / n);
}

static flow_result count_under_mutex(void *yields)
{
    for (uint64_t i = 0; i < shared.per_member; i++) {
        int r = flow_mutex_lock(&shared.mutex, FLOW_FOREVER);

        bench_check(!r, "flow_mutex_lock: %d", r);
        shared.count++;
        if (yields)
            flow_yield();
        r = flow_mutex_unlock(&shared.mutex);
        bench_check(!r, "flow_mutex_unlock: %d", r);
    }
    return flow_ok(NULL);
}

struct crowd {
    uint64_t n;
    bool yields;
    int64_t elapsed_ns;
};

static flow_result run_crowd(void *arg)
{
    struct crowd *crowd = arg;
    struct flow_scope scope;
    int64_t start;
    int r;

    shared.per_member = crowd->n / MEMBERS;
    start = bench_now();
    r = flow_scope_open(&scope, NULL);
    for (int i = 0; i < MEMBERS && !r; i++)
        r = flow_scope_spawn(&scope, NULL, count_under_mutex, crowd->yields ? crowd : NULL);
    bench_check(!r, "flow_scope_spawn: %d", r);
    r = flow_scope_close(&scope);
    crowd->elapsed_ns = bench_now() - start;
    bench_check(!r, "flow_scope_close: %d", r);
    bench_check(shared.count == shared.per_member * MEMBERS, "counted to %llu",
                (unsigned long long)shared.count);
    return flow_ok(NULL);
}

static void measure_crowd(const struct bench_run *run, bool yields, const char *name)
{
    struct crowd crowd = {.n = run->n, .yields = yields};

    bench_in_coroutine(run, NULL, run_crowd, &crowd);
    bench_value(name, run->n, "ns", (double)crowd.elapsed_ns / (double)shared.count);
}

static void run_contended(const struct bench_run *run)
{
    measure_crowd(run, false, "mutex of 8/flow");
}

static void run_yielding(const struct bench_run *run)
{
    measure_crowd(run, true, "mutex of 8, each yields inside/flow");
}

static void rival(const struct bench_run *run)
{
    bench_rival_time(run, run->n / MEMBERS * MEMBERS);
}

static const char *of_members(uint64_t n)
{
    return n % MEMBERS == 0 ? NULL : "a multiple of 8";
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"alone/flow", run_uncontended, 5000000, 500000},
        {"mutex alone/go", rival, 5000000, 500000},
        {"mutex alone/tokio", rival, 5000000, 500000},
        {"mutex alone/boost_fiber", rival, 5000000, 500000},
        {"mutex alone/pthreads", rival, 5000000, 500000},
        {"mutex of 8/flow", run_contended, 4000000, 400000, .needs = of_members},
        {"mutex of 8/go", rival, 4000000, 400000, .needs = of_members},
        {"mutex of 8/tokio", rival, 1000000, 100000, .needs = of_members},
        {"mutex of 8/boost_fiber", rival, 2000000, 200000, .needs = of_members},
        {"mutex of 8/pthreads", rival, 4000000, 400000, .needs = of_members},
        {"mutex of 8, each yields inside/flow", run_yielding, 1000000, 100000, .needs = of_members},
        {"mutex of 8, each yields inside/go", rival, 1000000, 50000, .needs = of_members},
        {"mutex of 8, each yields inside/tokio", rival, 500000, 50000, .needs = of_members},
        {"mutex of 8, each yields inside/boost_fiber", rival, 200000, 20000, .needs = of_members},
    };
    static const struct bench_suite suite = {
        .name = "locks",
        .about = "locks, alone and in a crowd; ns for a lock and an unlock",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
