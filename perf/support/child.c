/* SPDX-License-Identifier: MIT
 *
 * What a case calls, in its own process: results, failures, small helpers. See perf/bench.h; the
 * lines that go to the parent are described in suite.c. */
#include "perf/support/child.h"
#include "perf/bench.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static FILE *channel_to_parent;

int bench_child_main(const struct bench_suite *suite, const char *run_text)
{
    struct bench_run run = {0};
    size_t index;
    int quick, unpinned;

    bench_check(sscanf(run_text, "%zu,%d,%" SCNu64 ",%d,%d", &index, &run.workers, &run.n, &quick,
                       &unpinned) == 5 &&
                    index < suite->n_cases,
                "--child is not for users");
    run.name = suite->cases[index].name;
    run.quick = quick;
    run.unpinned = unpinned;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(RUN_SECONDS);
    unsetenv("FLOW_WORKERS"); /* has the last word in flow_start; --workers must have it here */
    channel_to_parent = fdopen(CHANNEL, "w");
    bench_check(channel_to_parent, "--child is not for users");
    suite->cases[index].run(&run);
    bench_check(!fclose(channel_to_parent), "cannot write to the parent");
    return 0;
}

void bench_value(const char *name, uint64_t n, const char *unit, double value)
{
    bench_check(isfinite(value), "%s: %g is no result", name, value);
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

/* ---- helpers ---- */

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

void bench_percentiles(const struct bench_run *run, const char *unit, int64_t *values, size_t n,
                       double scale)
{
    static const struct {
        const char *name;
        double percent;
    } wanted[] = {{"p50", 50}, {"p99", 99}, {"p99.9", 99.9}};
    const char *slash = strrchr(run->name, '/');
    char name[160];

    bench_check(slash, "the case %s does not say who", run->name);
    bench_sort(values, n);
    for (size_t i = 0; i < BENCH_COUNT(wanted); i++) {
        snprintf(name, sizeof name, "%.*s, %s%s", (int)(slash - run->name), run->name,
                 wanted[i].name, slash);
        bench_value(name, run->n, unit,
                    (double)bench_percentile(values, n, wanted[i].percent) * scale);
    }
}

int64_t bench_spread(uint64_t i, int64_t span)
{
    uint32_t mixed = (uint32_t)i * 2654435761u;

    return (int64_t)((unsigned __int128)mixed * (uint64_t)span >> 32);
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
