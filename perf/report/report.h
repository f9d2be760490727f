/* SPDX-License-Identifier: MIT
 *
 * From the lines of JSON that benchmarks save to one HTML page. */
#ifndef FLOW_PERF_REPORT_H
#define FLOW_PERF_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* One line of a table: what somebody took for a work. */
struct row {
    char bench[32], work[96], who[64], unit[24];
    int workers;
    uint64_t n;
    double median, low, high;
    int runs;
};

/* One benchmark's run. */
struct session {
    char bench[32], cpu[128], governor[64], kernel[208], compiler[64], commit[64], ended[32];
    double cpus, memory_mib, seconds, load_before, load_after, foreign_percent, stolen_percent;
    bool quiet, quick, pinned;
};

struct note {
    char bench[32], text[300];
};

/* Rows with the same bench, work, workers, n and unit: these are compared. */
struct contest {
    const struct row *rows[24];
    size_t n_rows;
    const struct row *ours; /* "flow", or the first that begins so; NULL if none */
    const struct row *best; /* of the rivals; NULL if none */
};

struct results {
    struct row *rows;
    size_t n_rows;
    struct session *sessions;
    size_t n_sessions;
    struct note *notes;
    size_t n_notes;
    struct contest *contests; /* in the order of coming */
    size_t n_contests;
};

/* Adds a file's lines. */
void read_results(struct results *results, const char *path);

/* Fills in the contests. */
void find_contests(struct results *results);

bool is_ours(const struct row *row);
bool is_rival(const struct row *row); /* neither we nor a yardstick */

/* Both have medians, and less is better. */
bool is_decided(const struct contest *contest);
double ratio_of(const struct contest *contest);   /* our median over the best rival's */
bool is_tie(const struct contest *contest);       /* their intervals meet */
int place_of(const struct contest *contest);      /* 1: nobody's median is lower */

void print_escaped(FILE *out, const char *text);
const char *number_text(double value); /* three digits or so; good until the eighth call after */

/* ---- plots: each writes one <svg> ---- */

/* A contest's rows as bars with intervals. */
void plot_bars(FILE *out, const struct contest *contest);

/* For each work the ratio to the best rival, a dot for each number of workers, over a logarithmic axis. */
void plot_ratios(FILE *out, const struct results *results);

/* A work's rows over n (by_n) or over workers, a line for each of who. */
void plot_growth(FILE *out, const struct results *results, const struct contest *like, bool by_n);

/* How many different values of n (or workers) the work of this contest has, all else alike. */
size_t growth_points(const struct results *results, const struct contest *like, bool by_n);

#endif
