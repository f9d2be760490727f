/* SPDX-License-Identifier: MIT
 *
 * The harness of the programs in perf/: what each of them measures is a list of
 * cases; running them, collecting the values and printing them is done here.
 *
 * Each run of a case is a freshly executed process of its own. So the first
 * round in it really is cold, memory figures hold nothing of an earlier case, and the luck of
 * one address layout does not decide every run. Runs of different cases alternate
 * (A B C, A B C, not A A B B C C): a machine that is busy for a while then
 * disturbs all of them alike, and medians stay comparable. A case warms up inside its
 * process before it measures, unless cold is what it measures.
 *
 * Nothing here passes or fails by time. A wrong result does fail: see bench_check. */
#ifndef FLOW_PERF_BENCH_H
#define FLOW_PERF_BENCH_H

#include <flowcoro.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One run, as its process sees it. */
struct bench_run {
    int workers; /* 0: the case uses no worker */
    uint64_t n;  /* how many operations, tasks, ...: the case says what of */
    bool quick;
};

struct bench_case {
    const char *name; /* --case selects by a part of it */
    void (*run)(const struct bench_run *run);
    uint64_t n;
    uint64_t quick_n; /* n with --quick; 0 leaves the case out */
    bool fixed_n;     /* the case is about this n: --n may only leave it out, as too large */
    bool no_workers;  /* needs no runtime: run once and not for each number of workers */
};

struct bench_suite {
    const char *name;
    const char *about; /* one line above the table */
    int runs;          /* unless --runs says otherwise */
    const struct bench_case *cases;
    size_t n_cases;
};

#define BENCH_COUNT(array) (sizeof(array) / sizeof *(array))

/* The whole of main(). */
int bench_main(int argc, char **argv, const struct bench_suite *suite);

/* ---- for cases: results; from the case's own thread, never in a coroutine (a small stack) ---- */

/* One measured value. Name and unit say what; values with the same name, n and unit make a row. */
void bench_value(const char *name, uint64_t n, const char *unit, double value);

/* Something a reader of the figures should know; repeated ones are printed once. */
void bench_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- for cases: from anywhere ---- */

/* Ends the run: this machine cannot do it. */
_Noreturn void bench_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

_Noreturn void bench_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A figure for work that was not done is worse than none: stops everything. */
#define bench_check(condition, ...)                                                                \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            bench_fail(__FILE__, __LINE__, __VA_ARGS__);                                           \
    } while (0)

int64_t bench_now(void); /* CLOCK_MONOTONIC, ns */

/* Makes the compiler believe that value is used and that memory may have changed. */
#define bench_keep(value) __asm__ volatile("" : : "g"(value) : "memory")

/* n zeroed elements, in memory that has been touched: no page fault in a timed loop, and none of it
 * in the growth of memory between two samples. Lives as long as the process. */
void *bench_array(uint64_t n, size_t element_bytes);

/* Sorts, so that bench_percentile can look. */
void bench_sort(int64_t *values, size_t n);
int64_t bench_percentile(const int64_t *sorted, size_t n, double percent); /* nearest rank */

/* An element number below n from which repeated adding (mod n) visits all n elements in an order
 * that no prefetcher guesses. */
uint64_t bench_stride(uint64_t n);

/* ---- memory of this process; one thread at a time ---- */

struct bench_memory {
    int64_t rss_bytes;
    int64_t peak_bytes;  /* highest rss so far */
    int64_t table_bytes; /* page tables */
    int64_t vmas;
};

struct bench_memory bench_memory_now(void);

/* Skips the run if the machine, or the cgroup, has less than that. */
void bench_need_memory(uint64_t bytes);

/* ---- the runtime ---- */

/* Starts it with the run's number of workers, and makes sure of it; options may be NULL. */
void bench_start(const struct bench_run *run, const struct flow_options *options);
void bench_stop(void);

/* The same around fn(arg) as a coroutine with a roomy stack, until it has ended. */
void bench_in_coroutine(const struct bench_run *run, const struct flow_options *options, flow_fn fn,
                        void *arg);

struct flow_stats bench_stats(void);

/* ---- rivals: the same work by other libraries, see perf/rivals/README ---- */

struct bench_rival {
    uint64_t checksum;
    double seconds;
    int64_t peak_bytes; /* its highest resident memory */
};

/* Has a rival do a case, with the run's number of workers. Skips the run if it was not built or does
 * not know the case. */
struct bench_rival bench_rival(const struct bench_run *run, const char *rival, const char *name,
                               uint64_t n);

/* Counts an event on the calling thread, whose line no other thread writes: a common counter would
 * cost two workers more than what they are measured at. Never suspends. */
void bench_tally(void);

/* The sum over all threads; what an event's thread wrote before it counted is seen. */
uint64_t bench_tally_sum(void);

#endif
