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
#include <stdio.h>
#include <sys/types.h>

/* One run, as its process sees it. */
struct bench_run {
    const char *name; /* the case's */
    int workers; /* 0: the case uses no worker */
    uint64_t n;  /* how many operations, tasks, ...: the case says what of */
    bool quick;
    bool unpinned;
};

struct bench_case {
    const char *name; /* WORK/WHO, see bench_value; --case selects by a part of it */
    void (*run)(const struct bench_run *run);
    uint64_t n;
    uint64_t quick_n; /* n with --quick; 0 leaves the case out */
    bool fixed_n;     /* the case is about this n: --n may only leave it out, as too large */
    bool no_workers;  /* needs no runtime: run once and not for each number of workers */
    const char *(*needs)(uint64_t n); /* what n must be, if this n is not so; else NULL; may be NULL */
    const int *workers; /* unless --workers is given, instead of 1 and 2; ends with 0 */
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

/* One measured value; values with the same name, n and unit make a row. name is WORK/WHO: rows of
 * the same work, workers and n are compared. WHO begins with "flow" if it is us, and stands in
 * parentheses if it is a yardstick and no rival; without WHO it is us. Less is better, but for the
 * units "percent" and "count", which are facts. */
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

/* Spawn and join, and nothing besides in a timed loop; the task must succeed. */
static inline flow_task bench_spawn(flow_fn fn, void *arg)
{
    flow_task task;
    int r = flow_spawn(&task, fn, arg);

    bench_check(!r, "flow_spawn: %d", r);
    return task;
}

static inline flow_result bench_join(flow_task task)
{
    flow_result result;
    int r = flow_join(task, &result, FLOW_FOREVER);

    bench_check(!r && flow_is_ok(result), "flow_join: %d, result %d", r, result.error);
    return result;
}

int64_t bench_now(void); /* CLOCK_MONOTONIC, ns */

/* Makes the compiler believe that value is used and that memory may have changed. */
#define bench_keep(value) __asm__ volatile("" : : "g"(value) : "memory")

/* n zeroed elements, in memory that has been touched: no page fault in a timed loop, and none of it
 * in the growth of memory between two samples. Lives as long as the process. */
void *bench_array(uint64_t n, size_t element_bytes);

/* Sorts, so that bench_percentile can look. */
void bench_sort(int64_t *values, size_t n);
int64_t bench_percentile(const int64_t *sorted, size_t n, double percent); /* nearest rank */

/* Sorts n times and gives the rows "WORK, p50/WHO", p99 and p99.9 of the case WORK/WHO, each value
 * times scale. */
void bench_percentiles(const struct bench_run *run, const char *unit, int64_t *values, size_t n,
                       double scale);

/* An offset below span, the same one for the same i, evenly spread and in no order. */
int64_t bench_spread(uint64_t i, int64_t span);

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

struct bench_figure {
    char name[24];
    double value;
};

struct bench_rival {
    uint64_t checksum;
    double seconds;
    int64_t peak_bytes; /* its highest resident memory */
    struct bench_figure figures[8];
    size_t n_figures;
};

/* A case named WORK/RIVAL: has that rival do that work. Skips the run if it was not built, or does
 * not do this. */
struct bench_rival bench_rival(const struct bench_run *run);

/* The same; checks the checksum, and gives the time for each of n as the case's value. */
void bench_rival_time(const struct bench_run *run, uint64_t checksum);

/* The same where the checksum is n, and what counts are the rival's figures, times scale: rows
 * "WORK, FIGURE/RIVAL". */
void bench_rival_figures(const struct bench_run *run, const char *unit, double scale);

double bench_rival_figure(const struct bench_rival *result, const char *name);

/* In two steps, to look at the process meanwhile. rival and work must live as long as it. */
struct bench_rival_process {
    pid_t pid;
    int out;          /* what it writes comes here */
    int64_t until_ns; /* it is ended then */
    const char *rival, *work;
};

struct bench_rival_process bench_rival_start(const struct bench_run *run, const char *rival,
                                             const char *work, uint64_t n);
struct bench_rival bench_rival_end(struct bench_rival_process *process);

/* Counts an event on the calling thread, whose line no other thread writes: a common counter would
 * cost two workers more than what they are measured at. Never suspends. */
void bench_tally(void);

/* The sum over all threads; what an event's thread wrote before it counted is seen. */
uint64_t bench_tally_sum(void);

#endif
