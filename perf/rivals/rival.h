/* SPDX-License-Identifier: MIT
 *
 * What the rivals in C and C++ have in common: see README. A case does its work n times and gives a
 * checksum. It is run twice, first to warm up, and the second run is timed; a case that times a part
 * of itself says so with rival_span(), and one whose figures are what counts gives these with
 * rival_figure(). */
#ifndef PERF_RIVALS_RIVAL_H
#define PERF_RIVALS_RIVAL_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RIVAL_SKIP 77 /* exit status: this rival cannot do that */

enum rival_warm {
    RIVAL_EIGHTH, /* warms up with an eighth of n */
    RIVAL_SAME,   /* with n */
    RIVAL_NOT     /* sees to it itself */
};

struct rival_case {
    const char *name;
    uint64_t (*run)(uint64_t n, int workers);
    enum rival_warm warm;
};

static struct {
    double seconds; /* of the part that counts; negative: all of it */
    double bytes;   /* for each of n, of the first round: later ones use the same memory again */
    char name[8][24];
    double value[8];
    int n;
} rival_said;

static inline int64_t rival_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void rival_span(int64_t ns)
{
    rival_said.seconds = (double)ns / 1e9;
}

static inline void rival_figure(const char *name, double value)
{
    if (rival_said.n == 8)
        abort();
    snprintf(rival_said.name[rival_said.n], sizeof rival_said.name[0], "%s", name);
    rival_said.value[rival_said.n++] = value;
}

static inline void rival_bytes(int64_t bytes, uint64_t n)
{
    if (!rival_said.bytes)
        rival_said.bytes = (double)bytes / (double)n;
    rival_figure("bytes", rival_said.bytes);
}

static inline int rival_compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* Figures p50, p99 and p99.9 of n values; sorts them. Nearest rank, as bench_percentile(). */
static inline void rival_percentiles(int64_t *values, uint64_t n)
{
    static const struct {
        const char *name;
        double percent;
    } wanted[] = {{"p50", 50}, {"p99", 99}, {"p99.9", 99.9}};

    qsort(values, n, sizeof *values, rival_compare);
    for (int i = 0; i < 3; i++) {
        double rank = wanted[i].percent / 100 * (double)n;
        uint64_t above = (uint64_t)rank;

        if ((double)above < rank)
            above++;
        rival_figure(wanted[i].name, (double)values[above ? above - 1 : 0]);
    }
}

static inline int64_t rival_kilobytes_at(const char *path, const char *key)
{
    FILE *file = fopen(path, "r");
    char line[256];
    long kilobytes = -1;

    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, key, strlen(key)))
            kilobytes = atol(line + strlen(key));
    if (file)
        fclose(file);
    return kilobytes;
}

/* Resident memory and its page tables. */
static inline int64_t rival_memory_bytes(void)
{
    return (rival_kilobytes_at("/proc/self/smaps_rollup", "Rss:") +
            rival_kilobytes_at("/proc/self/status", "VmPTE:")) *
           1024;
}

/* Below span, the same one for the same i, in no order; as perf/timers.c. */
static inline int64_t rival_spread(uint64_t i, int64_t span)
{
    uint32_t mixed = (uint32_t)i * 2654435761u;

    return (int64_t)((unsigned __int128)mixed * (uint64_t)span >> 32);
}

/* As bench_stride(): an element number below n with no divisor in common with it. */
static inline uint64_t rival_stride(uint64_t n)
{
    for (uint64_t stride = (uint64_t)((double)n * 0.618) | 1;; stride += 2) {
        uint64_t a = stride, b = n;

        while (b) {
            uint64_t rest = a % b;

            a = b;
            b = rest;
        }
        if (a == 1)
            return stride % n;
    }
}

/* version is told to the reader of the figures. */
static inline int rival_main(int argc, char **argv, const char *version,
                             const struct rival_case *cases, size_t n_cases)
{
    int workers = argc == 4 ? atoi(argv[2]) : 0;
    uint64_t n = argc == 4 ? strtoull(argv[3], NULL, 10) : 0, checksum;
    int64_t start, span;

    if (argc != 4 || !n)
        return 2;
    for (size_t i = 0; i < n_cases; i++) {
        const struct rival_case *c = &cases[i];

        if (strcmp(c->name, argv[1]))
            continue;
        if (c->warm != RIVAL_NOT)
            c->run(c->warm == RIVAL_SAME ? n : n / 8 + 64, workers);
        rival_said.n = 0;
        rival_said.seconds = -1;
        start = rival_now();
        checksum = c->run(n, workers);
        span = rival_now() - start;
        printf("%llu %.9f\n# %s\n", (unsigned long long)checksum,
               rival_said.seconds < 0 ? (double)span / 1e9 : rival_said.seconds, version);
        for (int k = 0; k < rival_said.n; k++)
            printf("%s %.9g\n", rival_said.name[k], rival_said.value[k]);
        return 0;
    }
    return RIVAL_SKIP;
}

#endif
