/* SPDX-License-Identifier: MIT
 *
 * The harness, see perf/bench.h. The program that the user starts executes itself once for each
 * run of each case; the child writes its values as lines of text to a pipe (CHANNEL), the parent
 * collects them into rows. A line is "name TAB n TAB unit TAB value", "# note" or "! why it was
 * skipped". */
#include "perf/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHANNEL       3   /* the child's end of the pipe */
#define SKIPPED       77  /* the child's exit status */
#define CHILD_SECONDS 600 /* a run that takes longer hangs */
#define MAX_LISTED    16  /* numbers of workers */

extern char **environ;

/* ---- rows ---- */

struct row {
    char name[96];
    char unit[24];
    int workers;
    uint64_t n;
    double *values;
    size_t count;
};

static struct {
    struct row *rows;
    size_t n_rows;
    char **notes;
    size_t n_notes;
} collected;

static void *grown(void *array, size_t count, size_t element_bytes)
{
    void *p = realloc(array, (count + 1) * element_bytes);

    bench_check(p, "no memory");
    return p;
}

static struct row *row_of(const char *name, int workers, uint64_t n, const char *unit)
{
    struct row *r;

    for (size_t i = 0; i < collected.n_rows; i++) {
        r = &collected.rows[i];
        if (r->workers == workers && r->n == n && !strcmp(r->name, name) && !strcmp(r->unit, unit))
            return r;
    }
    collected.rows = grown(collected.rows, collected.n_rows, sizeof *collected.rows);
    r = &collected.rows[collected.n_rows++];
    memset(r, 0, sizeof *r);
    snprintf(r->name, sizeof r->name, "%s", name);
    snprintf(r->unit, sizeof r->unit, "%s", unit);
    r->workers = workers;
    r->n = n;
    return r;
}

static void collect_value(const char *name, int workers, uint64_t n, const char *unit, double value)
{
    struct row *r = row_of(name, workers, n, unit);

    r->values = grown(r->values, r->count, sizeof *r->values);
    r->values[r->count++] = value;
}

static void collect_note(const char *text)
{
    for (size_t i = 0; i < collected.n_notes; i++)
        if (!strcmp(collected.notes[i], text))
            return;
    collected.notes = grown(collected.notes, collected.n_notes, sizeof *collected.notes);
    collected.notes[collected.n_notes] = strdup(text);
    bench_check(collected.notes[collected.n_notes], "no memory");
    collected.n_notes++;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Sorts the values; the minimum is then the first. */
static double median_of(struct row *r)
{
    qsort(r->values, r->count, sizeof *r->values, compare_doubles);
    return (r->values[(r->count - 1) / 2] + r->values[r->count / 2]) / 2;
}

static void print_json(const char *bench)
{
    for (size_t i = 0; i < collected.n_rows; i++) {
        struct row *r = &collected.rows[i];
        double median = median_of(r);

        printf("{\"bench\":\"%s\",\"case\":\"%s\",\"workers\":%d,\"n\":%" PRIu64
               ",\"unit\":\"%s\",\"median\":%.3f,\"min\":%.3f,\"runs\":%zu}\n",
               bench, r->name, r->workers, r->n, r->unit, median, r->values[0], r->count);
    }
}

static const char *short_number(char *buffer, size_t bytes, double value)
{
    double size = value < 0 ? -value : value;

    snprintf(buffer, bytes, "%.*f", size >= 1000 ? 0 : size >= 10 ? 1 : 2, value);
    return buffer;
}

static void print_table(const struct bench_suite *suite, int runs)
{
    char median_text[32], min_text[32], workers_text[16];

    printf("%s: %s\n", suite->name, suite->about);
    printf("%d interleaved runs, each a process; %ld CPUs online\n\n", runs,
           sysconf(_SC_NPROCESSORS_ONLN));
    printf("%-44s %7s %9s %-11s %10s %10s\n", "case", "workers", "n", "unit", "median", "min");
    for (size_t i = 0; i < collected.n_rows; i++) {
        struct row *r = &collected.rows[i];
        double median = median_of(r);

        snprintf(workers_text, sizeof workers_text, r->workers ? "%d" : "-", r->workers);
        printf("%-44s %7s %9" PRIu64 " %-11s %10s %10s\n", r->name, workers_text, r->n, r->unit,
               short_number(median_text, sizeof median_text, median),
               short_number(min_text, sizeof min_text, r->values[0]));
    }
    printf("\n");
}

/* ---- the parent ---- */

struct settings {
    const struct bench_suite *suite;
    int workers[MAX_LISTED];
    int n_workers;
    int runs;
    uint64_t n; /* 0: each case's own */
    const char *only;
    bool quick, json;
};

static uint64_t n_of(const struct settings *s, const struct bench_case *c)
{
    if (c->fixed_n) {
        bool left_out = (s->n && c->n > s->n) || (s->quick && !s->n && !c->quick_n);

        return left_out ? 0 : c->n;
    }
    if (s->n)
        return s->n;
    return s->quick ? c->quick_n : c->n;
}

/* Files the child's lines. */
static void collect(FILE *channel, const struct bench_case *c, int workers)
{
    char line[512], text[640], name[96], unit[24];
    uint64_t n;
    double value;

    while (fgets(line, sizeof line, channel)) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0] == '#') {
            collect_note(line + 2);
        } else if (line[0] == '!') {
            snprintf(text, sizeof text, "%s, %d workers: skipped: %s", c->name, workers, line + 2);
            collect_note(text);
        } else {
            bench_check(
                sscanf(line, "%95[^\t]\t%" SCNu64 "\t%23[^\t]\t%lf", name, &n, unit, &value) == 4,
                "the child wrote '%s'", line);
            collect_value(name, workers, n, unit, value);
        }
    }
}

/* One run in its own process; false if it cannot be done here. */
static bool run_in_child(const struct settings *s, size_t index, int workers, uint64_t n)
{
    const struct bench_case *c = &s->suite->cases[index];
    posix_spawn_file_actions_t actions;
    char run_text[96];
    char *argv[] = {(char *)s->suite->name, "--child", run_text, NULL};
    int pipe_ends[2], status;
    FILE *channel;
    pid_t child;

    snprintf(run_text, sizeof run_text, "%zu,%d,%" PRIu64 ",%d", index, workers, n, s->quick);
    bench_check(!pipe2(pipe_ends, O_CLOEXEC), "pipe: %s", strerror(errno));
    bench_check(!posix_spawn_file_actions_init(&actions), "no memory");
    bench_check(!posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], CHANNEL), "no memory");
    fflush(NULL);
    status = posix_spawn(&child, "/proc/self/exe", &actions, NULL, argv, environ);
    bench_check(!status, "cannot execute itself: %s", strerror(status));
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_ends[1]);

    channel = fdopen(pipe_ends[0], "r");
    bench_check(channel, "no memory");
    collect(channel, c, workers);
    fclose(channel);
    while (waitpid(child, &status, 0) < 0)
        bench_check(errno == EINTR, "waitpid: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
        return false;
    bench_check(WIFEXITED(status) && !WEXITSTATUS(status), "%s, %d workers: wait status %#x%s",
                c->name, workers, (unsigned)status,
                WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? " (hung)" : "");
    return true;
}

/* Every run of every case, in turn. */
static void run_all(const struct settings *s)
{
    bool *impossible = calloc(s->suite->n_cases * MAX_LISTED, sizeof *impossible);

    bench_check(impossible, "no memory");
    for (int run = 0; run < s->runs; run++) {
        for (size_t i = 0; i < s->suite->n_cases; i++) {
            const struct bench_case *c = &s->suite->cases[i];
            uint64_t n = n_of(s, c);

            if (!n || (s->only && !strstr(c->name, s->only)))
                continue;
            for (int w = 0; w < (c->no_workers ? 1 : s->n_workers); w++)
                if (!impossible[i * MAX_LISTED + (size_t)w])
                    impossible[i * MAX_LISTED + (size_t)w] =
                        !run_in_child(s, i, c->no_workers ? 0 : s->workers[w], n);
        }
    }
    free(impossible);
}

/* ---- the child ---- */

static FILE *channel_to_parent;

static int child_main(const struct bench_suite *suite, const char *run_text)
{
    struct bench_run run = {0};
    size_t index;
    int quick;

    bench_check(sscanf(run_text, "%zu,%d,%" SCNu64 ",%d", &index, &run.workers, &run.n, &quick) ==
                        4 &&
                    index < suite->n_cases,
                "--child is not for users");
    run.quick = quick;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(CHILD_SECONDS);
    unsetenv("FLOW_WORKERS"); /* has the last word in flow_start; --workers must have it here */
    channel_to_parent = fdopen(CHANNEL, "w");
    bench_check(channel_to_parent, "--child is not for users");
    suite->cases[index].run(&run);
    bench_check(!fclose(channel_to_parent), "cannot write to the parent");
    return 0;
}

void bench_value(const char *name, uint64_t n, const char *unit, double value)
{
    fprintf(channel_to_parent, "%s\t%" PRIu64 "\t%s\t%.17g\n", name, n, unit, value);
}

void bench_note(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("# ", channel_to_parent);
    vfprintf(channel_to_parent, format, args);
    fputc('\n', channel_to_parent);
    va_end(args);
}

/* stdio would buffer on the stack, which may be a coroutine's small one: hence static text and
 * write(2). _exit, since the runtime is running. */
void bench_skip(const char *format, ...)
{
    static char text[400] = "! ";
    va_list args;

    va_start(args, format);
    vsnprintf(text + 2, sizeof text - 3, format, args);
    va_end(args);
    strcat(text, "\n");
    if (write(CHANNEL, text, strlen(text)) < 0)
        _exit(1);
    _exit(SKIPPED);
}

void bench_fail(const char *file, int line, const char *format, ...)
{
    static char text[400];
    size_t used = (size_t)snprintf(text, sizeof text, "%s:%d: ", file, line);
    va_list args;

    va_start(args, format);
    vsnprintf(text + used, sizeof text - used - 1, format, args);
    va_end(args);
    strcat(text, "\n");
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        _exit(1);
    abort();
}

/* ---- the command line ---- */

static _Noreturn void usage(const char *program, int status)
{
    fprintf(status ? stderr : stdout,
            "usage: %s [--workers LIST] [--runs N] [--n N] [--case TEXT] [--quick] [--json]\n"
            "  --workers  numbers of workers, such as 1,2,4 (1,2)\n"
            "  --runs     runs of each case\n"
            "  --n        tasks, operations or whatever a case counts, instead of its own number\n"
            "  --case     only cases whose name contains TEXT\n"
            "  --quick    fewer and smaller runs\n"
            "  --json     one line of JSON for each row\n",
            program);
    exit(status);
}

static uint64_t number(const char *text, const char **end)
{
    char *stop;
    uint64_t value;

    errno = 0;
    value = strtoull(text, &stop, 10);
    if (stop == text || errno || *text < '0' || *text > '9')
        value = 0;
    *end = stop;
    return value;
}

static bool parse_number(const char *text, uint64_t most, uint64_t *out)
{
    const char *end;

    *out = number(text, &end);
    return *out && *out <= most && !*end;
}

static bool parse_workers(struct settings *s, const char *text)
{
    s->n_workers = 0;
    for (;;) {
        const char *end;
        uint64_t workers = number(text, &end);

        if (!workers || workers > 1024 || s->n_workers == MAX_LISTED)
            return false;
        s->workers[s->n_workers++] = (int)workers;
        if (!*end)
            return true;
        if (*end != ',')
            return false;
        text = end + 1;
    }
}

int bench_main(int argc, char **argv, const struct bench_suite *suite)
{
    enum { WORKERS = 1, RUNS, N, CASE, QUICK, JSON, HELP, CHILD };
    static const struct option long_options[] = {
        {"workers", required_argument, NULL, WORKERS},
        {"runs", required_argument, NULL, RUNS},
        {"n", required_argument, NULL, N},
        {"case", required_argument, NULL, CASE},
        {"quick", no_argument, NULL, QUICK},
        {"json", no_argument, NULL, JSON},
        {"help", no_argument, NULL, HELP},
        {"child", required_argument, NULL, CHILD},
        {NULL, 0, NULL, 0},
    };
    struct settings s = {.suite = suite, .workers = {1, 2}, .n_workers = 2};
    uint64_t runs = 0;
    int option;

    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        bool ok = true;

        switch (option) {
        case WORKERS:
            ok = parse_workers(&s, optarg);
            break;
        case RUNS:
            ok = parse_number(optarg, 10000, &runs);
            break;
        case N:
            ok = parse_number(optarg, 50000000, &s.n);
            break;
        case CASE:
            s.only = optarg;
            break;
        case QUICK:
            s.quick = true;
            break;
        case JSON:
            s.json = true;
            break;
        case CHILD:
            return child_main(suite, optarg);
        case HELP:
            usage(argv[0], 0);
        default:
            ok = false;
        }
        if (!ok)
            usage(argv[0], 2);
    }
    if (optind != argc)
        usage(argv[0], 2);
    s.runs = runs ? (int)runs : s.quick && suite->runs > 2 ? 2 : suite->runs;

    run_all(&s);
    if (s.json)
        print_json(suite->name);
    else
        print_table(suite, s.runs);
    fflush(stdout);
    for (size_t i = 0; i < collected.n_notes; i++)
        fprintf(stderr, "note: %s\n", collected.notes[i]);
    return 0;
}

/* ---- helpers of the cases ---- */

int64_t bench_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* mmap, and not calloc, which gives memory that nobody has touched. */
void *bench_array(uint64_t n, size_t element_bytes)
{
    void *p = mmap(NULL, n * element_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (p == MAP_FAILED)
        bench_skip("no memory for an array of %" PRIu64 " elements", n);
    return p;
}

static int compare_int64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

void bench_sort(int64_t *values, size_t n)
{
    qsort(values, n, sizeof *values, compare_int64);
}

int64_t bench_percentile(const int64_t *sorted, size_t n, double percent)
{
    double rank = percent / 100 * (double)n;
    size_t above = (size_t)rank; /* values at or below the rank, rounded down */

    if ((double)above < rank)
        above++;
    return sorted[above ? above - 1 : 0];
}

uint64_t bench_stride(uint64_t n)
{
    for (uint64_t stride = (uint64_t)((double)n * 0.618) | 1;; stride += 2) {
        uint64_t a = stride, b = n; /* their greatest common divisor must be 1 */

        while (b) {
            uint64_t rest = a % b;

            a = b;
            b = rest;
        }
        if (a == 1)
            return stride % n;
    }
}

/* ---- memory ---- */

/* Static: callers may stand on a small stack. */
static char proc_text[1 << 16];

static bool read_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t used = 0;
    ssize_t got;

    if (fd < 0)
        return false;
    while (used < sizeof proc_text - 1 &&
           (got = read(fd, proc_text + used, sizeof proc_text - 1 - used)) > 0)
        used += (size_t)got;
    close(fd);
    proc_text[used] = '\0';
    return used > 0;
}

/* The bytes of a line such as "VmPTE:  12 kB" in what was read last; -1 without such a line. */
static int64_t kilobytes_at(const char *key)
{
    const char *at = strstr(proc_text, key);

    return at ? strtoll(at + strlen(key), NULL, 10) * 1024 : -1;
}

static int64_t count_lines(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int64_t lines = 0;
    ssize_t got;

    bench_check(fd >= 0, "cannot read %s", path);
    while ((got = read(fd, proc_text, sizeof proc_text)) > 0)
        for (ssize_t i = 0; i < got; i++)
            lines += proc_text[i] == '\n';
    close(fd);
    return lines;
}

/* VmRSS and statm may lag by some pages on each CPU; smaps_rollup counts, where there is one. */
struct bench_memory bench_memory_now(void)
{
    struct bench_memory m = {0};

    bench_check(read_file("/proc/self/status"), "cannot read /proc/self/status");
    m.rss_bytes = kilobytes_at("\nVmRSS:");
    m.peak_bytes = kilobytes_at("\nVmHWM:");
    m.table_bytes = kilobytes_at("\nVmPTE:");
    bench_check(m.rss_bytes > 0 && m.peak_bytes > 0 && m.table_bytes > 0,
                "/proc/self/status lacks a line");
    if (read_file("/proc/self/smaps_rollup") && kilobytes_at("\nRss:") > 0)
        m.rss_bytes = kilobytes_at("\nRss:");
    if (m.peak_bytes < m.rss_bytes)
        m.peak_bytes = m.rss_bytes;
    m.vmas = count_lines("/proc/self/maps");
    return m;
}

void bench_need_memory(uint64_t bytes)
{
    static const char *const limits[] = {
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    };
    uint64_t available = UINT64_MAX;

    if (read_file("/proc/meminfo") && kilobytes_at("\nMemAvailable:") > 0)
        available = (uint64_t)kilobytes_at("\nMemAvailable:");
    for (size_t i = 0; i < BENCH_COUNT(limits); i++) {
        const char *end;
        uint64_t limit = read_file(limits[i]) ? number(proc_text, &end) : 0; /* 0 also for "max" */

        if (limit && limit < available)
            available = limit;
    }
    if (available < bytes)
        bench_skip("needs %" PRIu64 " MiB of memory, there are %" PRIu64, bytes >> 20,
                   available >> 20);
}

/* ---- the runtime ---- */

void bench_start(const struct bench_run *run, const struct flow_options *options)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    struct flow_info info = {.size = sizeof info};
    int r;

    if (options)
        o = *options;
    o.workers = run->workers;
    r = flow_start(&o);
    bench_check(!r, "flow_start: %d: %s", r, flow_start_error());
    r = flow_info(&info);
    bench_check(!r, "flow_info: %d", r);
    bench_check(info.workers == run->workers, "%d workers instead of %d; does FLOW_OPTIONS say so?",
                info.workers, run->workers);
    if (info.pinned < info.workers)
        bench_note("only %d of %d workers are pinned", info.pinned, info.workers);
    if (info.workers > info.cpus)
        bench_note("%d workers on %d CPUs", info.workers, info.cpus);
}

void bench_stop(void)
{
    int r = flow_stop(flow_after(FLOW_S(60)));

    bench_check(!r, "flow_stop: %d", r);
}

void bench_in_coroutine(const struct bench_run *run, const struct flow_options *options, flow_fn fn,
                        void *arg)
{
    struct flow_spawn_options how = FLOW_SPAWN_INIT;
    flow_task task;
    flow_result result;
    int r;

    bench_start(run, options);
    how.name = "bench";
    how.stack_bytes = (size_t)256 * 1024;
    r = flow_spawn_with(&task, &how, fn, arg);
    bench_check(!r, "flow_spawn_with: %d", r);
    r = flow_join(task, &result, FLOW_FOREVER);
    bench_check(!r && flow_is_ok(result), "flow_join: %d, result %d", r, result.error);
    bench_stop();
}

struct flow_stats bench_stats(void)
{
    struct flow_stats stats = {.size = sizeof stats};
    int r = flow_stats(&stats);

    bench_check(!r, "flow_stats: %d", r);
    return stats;
}

/* ---- rivals ---- */

/* Beside this program: build/perf/fork_join, build/perf/rivals/tbb. */
static void find_rival(char *path, size_t bytes, const char *rival)
{
    ssize_t n = readlink("/proc/self/exe", path, bytes - 1);
    char *slash;

    bench_check(n > 0, "/proc/self/exe: %s", strerror(errno));
    path[n] = '\0';
    slash = strrchr(path, '/');
    bench_check(slash, "%s", path);
    snprintf(slash, bytes - (size_t)(slash - path), "/rivals/%s", rival);
    if (access(path, X_OK))
        bench_skip("no rival %s; `make rivals` says why", rival);
}

/* Runs the program with its output into the pipe; returns its process. */
static pid_t start_rival(char **argv, int out)
{
    posix_spawn_file_actions_t actions;
    pid_t child;
    int r;

    bench_check(!posix_spawn_file_actions_init(&actions), "no memory");
    bench_check(!posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO), "no memory");
    r = posix_spawn(&child, argv[0], &actions, NULL, argv, environ);
    bench_check(!r, "cannot execute %s: %s", argv[0], strerror(r));
    posix_spawn_file_actions_destroy(&actions);
    return child;
}

struct bench_rival bench_rival(const struct bench_run *run, const char *rival, const char *name,
                               uint64_t n)
{
    struct bench_rival result = {0};
    char path[4096], workers[16], number_text[24];
    char *argv[] = {path, (char *)name, workers, number_text, NULL};
    int pipe_ends[2], status, fields;
    struct rusage usage;
    FILE *out;
    pid_t child;

    find_rival(path, sizeof path, rival);
    snprintf(workers, sizeof workers, "%d", run->workers);
    snprintf(number_text, sizeof number_text, "%" PRIu64, n);
    bench_check(!pipe2(pipe_ends, O_CLOEXEC), "pipe: %s", strerror(errno));
    child = start_rival(argv, pipe_ends[1]);
    close(pipe_ends[1]);
    out = fdopen(pipe_ends[0], "r");
    bench_check(out, "no memory");
    fields = fscanf(out, "%" SCNu64 " %lf", &result.checksum, &result.seconds);
    fclose(out);
    while (wait4(child, &status, 0, &usage) < 0)
        bench_check(errno == EINTR, "wait4: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
        bench_skip("%s does not do this", rival);
    bench_check(WIFEXITED(status) && !WEXITSTATUS(status) && fields == 2,
                "%s %s: wait status %#x, %d of 2 numbers", rival, name, (unsigned)status, fields);
    result.peak_bytes = (int64_t)usage.ru_maxrss * 1024;
    return result;
}

/* One line a thread, written by it alone, read by who sums. */
static struct {
    _Alignas(64) _Atomic uint64_t count;
} tallies[1024 + 8];
static _Atomic unsigned n_tallies;
static _Thread_local unsigned my_tally; /* its number + 1 */

/* Not inlined, so that no compiler keeps the address of a thread-local across a suspension. */
__attribute__((noinline)) void bench_tally(void)
{
    _Atomic uint64_t *count;

    if (!my_tally) {
        my_tally = atomic_fetch_add_explicit(&n_tallies, 1, memory_order_relaxed) + 1;
        bench_check(my_tally <= BENCH_COUNT(tallies), "too many threads");
    }
    count = &tallies[my_tally - 1].count;
    /* Release: pairs with the acquire in bench_tally_sum. One writer, so no locked operation. */
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + 1,
                          memory_order_release);
}

/* A thread that has just begun to count may be missed; callers wait for a number and ask again. */
uint64_t bench_tally_sum(void)
{
    unsigned used = atomic_load_explicit(&n_tallies, memory_order_relaxed);
    uint64_t sum = 0;

    for (unsigned i = 0; i < used && i < BENCH_COUNT(tallies); i++)
        sum += atomic_load_explicit(&tallies[i].count,
                                    memory_order_acquire); /* pairs with bench_tally */
    return sum;
}
