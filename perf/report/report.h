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
    double median, low, high, coverage;
    int values;
};

/* One benchmark's run. */
struct session {
    char bench[32], cpu[128], governor[64], kernel[208], compiler[64], commit[64], ended[32];
    double cpus, memory_mib, seconds, load_before, load_after, foreign_percent, stolen_percent,
        worst_percent;
    bool quiet, quick, pinned;
};

struct note {
    char bench[32], text[300];
};

/* A benchmark that the page has no figures of. */
struct absent {
    const char *bench;
    bool failed; /* or it was not run */
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
    struct absent *absent;
    size_t n_absent;
    struct contest *contests; /* in the order of coming */
    size_t n_contests;
};

/* Adds what a benchmark has left in its file, if it came to its end. */
void read_results(struct results *results, const char *folder, const char *bench);

/* Fills in the contests. */
void find_contests(struct results *results);

bool is_ours(const struct row *row);
bool is_rival(const struct row *row); /* neither we nor a yardstick */

/* We and a rival have medians, and less is better. */
bool is_compared(const struct contest *contest);
double ratio_of(const struct contest *contest); /* our median over the best rival's */

/* Does its interval hold the median with less than 95 %? That is so below six values. */
bool is_weak(const struct row *row);

/* First: our interval lies below those of all rivals. Behind: some rival's lies below ours. Undecided:
 * neither. The intervals of weak rows decide nothing. */
enum outcome { FIRST, UNDECIDED, BEHIND, OUTCOMES };

enum outcome outcome_of(const struct contest *contest);

/* The same name in the score, the tables' cells and classes, and the plots. */
extern const char *const outcome_names[OUTCOMES];

/* Of all compared contests, by outcome. */
struct score {
    size_t all, of[OUTCOMES];
};

struct score score_of(const struct results *results);

void print_escaped(FILE *out, const char *text);
const char *number_text(double value); /* three digits or so; good until the eighth call after */
const char *weak_text(const struct row *row); /* " (2 values)", or "" if it is not weak; until the next call */

/* ---- plots: each writes one <svg> ---- */

/* A contest's rows as bars with intervals. */
void plot_bars(FILE *out, const struct contest *contest);

/* A line for each work with the ratios to the best rival of all its contests, over a logarithmic axis. */
void plot_ratios(FILE *out, const struct results *results);

/* A work's rows over n (by_n) or over workers, a line for each of who. */
void plot_growth(FILE *out, const struct results *results, const struct contest *like, bool by_n);

/* How many different values of n (or workers) the work of this contest has, all else alike. */
size_t growth_points(const struct results *results, const struct contest *like, bool by_n);

#endif
