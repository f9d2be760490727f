/* SPDX-License-Identifier: MIT
 *
 * N small tasks, done in four ways with coroutines and in two ways with
 * threads. Every way ("mode") runs in a freshly executed process of its own, so
 * that its time and its memory are all its own: the parent executes this
 * program again with --mode, takes the time from exec to exit and the peak
 * resident set from wait4, and gets what only the child knows through a pipe.
 *
 * All modes do the same: start all N tasks, then join them all and add up their
 * results. A sum that is not the one the parent computes by a plain loop is an error. */
#include <errno.h>
#include <flowcoro.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/child.h"
#include "support/rivals.h"
#include "support/text.h"

#define DEFAULT_TASKS 100000
#define MOST_TASKS    10000000
#define YIELDS        10

/* What a child tells its parent. */
struct report {
    uint64_t checksum;
    uint64_t dispatches, steals, parks;
    int n_threads; /* workers, or threads of the pool */
    struct thread_counts threads;
};

/* A report and what the parent measured. */
struct outcome {
    struct report report;
    struct child_cost cost;
    uint64_t bytes_per_task;
};

struct mode {
    const char *name;
    flow_fn body;            /* a coroutine mode's task; NULL for a rival */
    bool now;                /* flow_spawn_now instead of flow_spawn */
    bool must_be_dispatched; /* at least N dispatches, or the mode did not do what it says */
};

/* The work of one task, and of a rival's: a few integer operations (the last
 * steps of splitmix64), so that what is measured is the cost of being a task. */
static uint64_t mix(uint64_t index)
{
    uint64_t x = index + UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static flow_result compute(void *index)
{
    return flow_ok_u64(mix((uintptr_t)index));
}

static flow_result sleep_then_compute(void *index)
{
    int error = flow_sleep(FLOW_MS(50));
    return error ? flow_err(error) : compute(index);
}

static flow_result yield_then_compute(void *index)
{
    for (int i = 0; i < YIELDS; i++) {
        int error = flow_yield();
        if (error)
            return flow_err(error);
    }
    return compute(index);
}

enum { THREAD_PER_TASK = 4, THREAD_POOL, N_MODES };

static const struct mode modes[N_MODES] = {
    {"inline", compute, true, false},
    {"queued", compute, false, true},
    {"suspended", sleep_then_compute, false, true},
    {"yielding", yield_then_compute, false, true},
    {"thread per task", NULL, false, false},
    {"thread pool", NULL, false, false},
};

/* The child. */

struct crowd {
    const struct mode *mode;
    flow_task *tasks;
    size_t n;
};

static flow_result join_all(const struct crowd *crowd)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < crowd->n; i++) {
        flow_result result;
        int error = flow_join(crowd->tasks[i], &result, FLOW_FOREVER);
        if (error)
            return flow_err(error);
        if (flow_is_err(result))
            return result;
        sum += result.u64;
    }
    return flow_ok_u64(sum);
}

static flow_result run_crowd(void *arg)
{
    const struct crowd *crowd = arg;
    int (*spawn)(flow_task *, flow_fn, void *) = crowd->mode->now ? flow_spawn_now : flow_spawn;
    for (size_t i = 0; i < crowd->n; i++) {
        int error = spawn(&crowd->tasks[i], crowd->mode->body, (void *)(uintptr_t)i);
        if (error)
            return flow_err(error);
    }
    return join_all(crowd);
}

/* The counters must be read before the runtime stops. */
static int collect(struct report *report)
{
    struct flow_stats stats = {.size = sizeof stats};
    int error = flow_stats(&stats);
    if (error)
        return error;
    report->dispatches = stats.total.dispatches;
    report->steals = stats.total.steals;
    report->parks = stats.total.parks;
    report->n_threads = stats.workers;
    return 0;
}

static int run_coroutines(const struct mode *mode, size_t n, struct report *report)
{
    struct flow_options options = FLOW_OPTIONS_INIT;
    struct crowd crowd = {mode, calloc(n, sizeof *crowd.tasks), n};
    flow_result result;

    if (!crowd.tasks)
        return -ENOMEM;
    options.stack_bytes = (size_t)16 * 1024;
    if (options.max_tasks < n + 1)
        options.max_tasks = n + 1;
    int error = flow_start(&options);
    if (error) {
        fprintf(stderr, "hello_world: %s\n", flow_start_error());
        return error;
    }
    error = flow_sync_wait(run_crowd, &crowd, &result, FLOW_FOREVER);
    if (!error)
        error = result.error;
    if (!error)
        error = collect(report);
    if (!error)
        report->checksum = result.u64;
    int left = flow_stop(FLOW_FOREVER);
    free(crowd.tasks);
    return error ? error : left < 0 ? left : 0;
}

static int run_mode(const struct mode *mode, size_t n, struct report *report)
{
    if (mode == &modes[THREAD_PER_TASK])
        return rival_thread_per_task(n, mix, &report->checksum, &report->threads);
    if (mode == &modes[THREAD_POOL])
        return rival_thread_pool(n, mix, &report->checksum, &report->n_threads);
    return run_coroutines(mode, n, report);
}

static int be_child(const struct mode *mode, size_t n)
{
    struct report report = {0};
    int error = run_mode(mode, n, &report);
    if (error) {
        fprintf(stderr, "hello_world: %s, %zu tasks: %s\n", mode->name, n, strerror(-error));
        return EXIT_FAILURE;
    }
    return child_send(&report, sizeof report) ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* The parent. */

static int run_process(const struct mode *mode, size_t n, struct outcome *outcome)
{
    char count[24];
    char *arguments[] = {"hello_world", "--mode", (char *)mode->name, count, NULL};
    snprintf(count, sizeof count, "%zu", n);
    return child_run(arguments, &outcome->report, sizeof outcome->report, &outcome->cost);
}

/* Twice: with one task for what the process costs by itself, then with n. */
static int measure(const struct mode *mode, size_t n, struct outcome *outcome)
{
    struct outcome one;
    int error = run_process(mode, 1, &one);
    if (!error)
        error = run_process(mode, n, outcome);
    if (error)
        return error;
    outcome->bytes_per_task = 0;
    uint64_t peak = outcome->cost.peak_bytes, base = one.cost.peak_bytes;
    if (n > 1 && peak > base)
        outcome->bytes_per_task = (peak - base) / (n - 1);
    return 0;
}

static bool is_right(const struct mode *mode, size_t n, const struct report *report,
                     uint64_t checksum)
{
    if (report->checksum != checksum) {
        fprintf(stderr, "hello_world: %s: checksum %016" PRIx64 " instead of %016" PRIx64 "\n",
                mode->name, report->checksum, checksum);
        return false;
    }
    if (mode->must_be_dispatched && report->dispatches < n) {
        fprintf(stderr, "hello_world: %s: %" PRIu64 " dispatches for %zu tasks\n", mode->name,
                report->dispatches, n);
        return false;
    }
    return true;
}

static double per_second(const struct outcome *outcome, size_t n)
{
    return (double)n * 1e9 / (double)outcome->cost.wall_ns;
}

static void print_json(const struct mode *mode, size_t n, const struct outcome *outcome)
{
    const struct report *report = &outcome->report;
    printf("{\"mode\":\"%s\",\"tasks\":%zu,\"wall_ns\":%" PRIu64 ",\"tasks_per_second\":%.0f,"
           "\"ns_per_task\":%.1f,\"bytes_per_task\":%" PRIu64 ",\"dispatches\":%" PRIu64
           ",\"steals\":%" PRIu64 ",\"parks\":%" PRIu64 ",\"checksum\":\"%016" PRIx64 "\"}\n",
           mode->name, n, outcome->cost.wall_ns, per_second(outcome, n),
           (double)outcome->cost.wall_ns / (double)n, outcome->bytes_per_task, report->dispatches,
           report->steals, report->parks, report->checksum);
    fflush(stdout);
}

static void print_counter(int width, const struct mode *mode, uint64_t n)
{
    char digits[27];
    printf(" %*s", width, mode->body ? text_group(digits, n) : "-");
}

static void print_ratio(int width, double ratio)
{
    printf(" %*.*fx", width, ratio < 10 ? 3 : 1, ratio);
}

static void print_row(const struct mode *mode, size_t n, const struct outcome *outcomes)
{
    const struct outcome *outcome = &outcomes[mode - modes];
    char digits[27];
    double speed = per_second(outcome, n);
    printf("%-16s", mode->name);
    printf(" %12s", text_group(digits, (uint64_t)speed));
    printf(" %10.1f", (double)outcome->cost.wall_ns / (double)n);
    printf(" %10s", text_group(digits, outcome->bytes_per_task));
    print_counter(11, mode, outcome->report.dispatches);
    print_counter(8, mode, outcome->report.steals);
    print_counter(8, mode, outcome->report.parks);
    print_ratio(8, speed / per_second(&outcomes[THREAD_PER_TASK], n));
    print_ratio(7, speed / per_second(&outcomes[THREAD_POOL], n));
    printf("\n");
}

static void print_thread_note(const struct thread_counts *threads)
{
    char unjoined[27], running[27], refusals[27];
    printf("\nThread per task: at most %s threads existed at once (not yet joined), %s of them\n"
           "running at once; the system refused another one %s times.\n",
           text_group(unjoined, threads->most_unjoined), text_group(running, threads->most_running),
           text_group(refusals, threads->refusals));
}

static void print_table(size_t n, uint64_t checksum, const struct outcome *outcomes)
{
    char digits[27];
    printf("%s tasks per mode. Each mode is a process of its own, and its time is that of the\n"
           "whole process, from exec to exit. Every mode's results add up to %016" PRIx64 ".\n\n",
           text_group(digits, n), checksum);
    printf("%-16s %12s %10s %10s %11s %8s %8s %18s\n", "", "", "", "", "", "", "",
           "times as fast as");
    printf("%-16s %12s %10s %10s %11s %8s %8s %9s %8s\n", "mode", "tasks/s", "ns/task",
           "bytes/task", "dispatches", "steals", "parks", "thr/task", "pool");
    for (int i = 0; i < N_MODES; i++)
        print_row(&modes[i], n, outcomes);
    printf("\ninline     runs where it is spawned, never waits\n"
           "queued     runs on one of %d workers\n"
           "suspended  sleeps 50 ms, all tasks at once: the time includes these 50 ms\n"
           "yielding   yields %d times\n"
           "The thread pool has %d threads. Both rivals only compute: they never sleep or yield.\n",
           outcomes[1].report.n_threads, YIELDS, outcomes[THREAD_POOL].report.n_threads);
    print_thread_note(&outcomes[THREAD_PER_TASK].report.threads);
    printf("bytes/task: peak resident set less that of the same mode with 1 task, per task more;\n"
           "what the kernel keeps for a thread or in page tables is not in it.\n");
}

static uint64_t expected_checksum(size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += mix(i);
    return sum;
}

static int run_all(size_t n, bool json)
{
    static struct outcome outcomes[N_MODES];
    uint64_t checksum = expected_checksum(n);
    bool terminal = !json && isatty(STDERR_FILENO);
    int failures = 0;

    for (int i = 0; i < N_MODES; i++) {
        if (terminal)
            fprintf(stderr, "\r\033[K%s ...", modes[i].name);
        int error = measure(&modes[i], n, &outcomes[i]);
        if (terminal)
            fprintf(stderr, "\r\033[K");
        if (error) {
            fprintf(stderr, "hello_world: %s failed\n", modes[i].name);
            return EXIT_FAILURE;
        }
        failures += !is_right(&modes[i], n, &outcomes[i].report, checksum);
        if (json)
            print_json(&modes[i], n, &outcomes[i]);
    }
    if (!json)
        print_table(n, checksum, outcomes);
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}

static const char help[] =
    "Usage: hello_world [N] [--json]\n"
    "Runs N small tasks (1 to 10000000; 100000) as coroutines, as threads and on a thread\n"
    "pool, each way in a process of its own, and prints how fast they were.\n"
    "\n"
    "  --json    one JSON line per mode; wall_ns is the whole process, exec to exit\n"
    "  --help    this text\n"
    "\n"
    "Exit status: 0 all results were right, 1 one was not or a mode failed, 2 wrong usage.\n";

static int usage_error(const char *complaint, const char *value)
{
    fprintf(stderr, "hello_world: %s%s\nTry: hello_world --help\n", complaint, value);
    return 2;
}

static bool parse_tasks(const char *text, size_t *n)
{
    char *end;
    errno = 0;
    unsigned long long parsed = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || parsed < 1 || parsed > MOST_TASKS)
        return false;
    *n = (size_t)parsed;
    return true;
}

static const struct mode *find_mode(const char *name)
{
    for (int i = 0; i < N_MODES; i++) {
        if (strcmp(modes[i].name, name) == 0)
            return &modes[i];
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {"mode", required_argument, NULL, 'm'}, /* for the child processes */
        {0},
    };
    const struct mode *mode = NULL;
    size_t n = DEFAULT_TASKS;
    bool json = false;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'j':
            json = true;
            break;
        case 'h':
            fputs(help, stdout);
            return EXIT_SUCCESS;
        case 'm':
            if (!(mode = find_mode(optarg)))
                return usage_error("there is no mode ", optarg);
            break;
        default:
            fputs("Try: hello_world --help\n", stderr); /* getopt has said what is wrong */
            return 2;
        }
    }
    if (argc - optind > 1)
        return usage_error("one number is enough, not also ", argv[optind + 1]);
    if (optind < argc && !parse_tasks(argv[optind], &n))
        return usage_error("the number of tasks is 1 to 10000000, not ", argv[optind]);
    return mode ? be_child(mode, n) : run_all(n, json);
}
