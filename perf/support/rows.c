/* SPDX-License-Identifier: MIT
 *
 * Rows of values, their medians and intervals; the table and the lines of JSON. See rows.h. */
#include "perf/support/rows.h"
#include "perf/bench.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

void rows_add(const char *name, int workers, uint64_t n, const char *unit, double value)
{
    struct row *r = row_of(name, workers, n, unit);

    r->values = grown(r->values, r->count, sizeof *r->values);
    r->values[r->count++] = value;
}

void rows_note(const char *text)
{
    for (size_t i = 0; i < collected.n_notes; i++)
        if (!strcmp(collected.notes[i], text))
            return;
    collected.notes = grown(collected.notes, collected.n_notes, sizeof *collected.notes);
    collected.notes[collected.n_notes] = strdup(text);
    bench_check(collected.notes[collected.n_notes], "no memory");
    collected.n_notes++;
}

/* ---- medians ---- */

/* The interval of n sorted values from the rank-th smallest (from 1) to the rank-th largest covers
 * the median of what they were drawn from with the probability that is returned: the closest one
 * that has 95 %, or, below six values, all of them, which have less. */
static double median_interval(size_t n, size_t *rank)
{
    double log_choices = -(double)n * log(2); /* a logarithm, as 0.5^n is 0 from 1,075 on */
    double below = exp(log_choices); /* how probable fewer than rank of n values below the median are */
    double chosen = below;

    for (*rank = 1; *rank < n / 2; (*rank)++) {
        log_choices += log((double)(n - *rank + 1) / (double)*rank);
        below += exp(log_choices);
        if (2 * below > 0.05)
            break;
        chosen = below;
    }
    return 1 - 2 * chosen;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

struct summary {
    double median, low, high, coverage;
};

/* Sorts the values. */
static struct summary summary_of(struct row *r)
{
    struct summary s;
    size_t rank;

    qsort(r->values, r->count, sizeof *r->values, compare_doubles);
    s.coverage = median_interval(r->count, &rank);
    s.median = (r->values[(r->count - 1) / 2] + r->values[r->count / 2]) / 2;
    s.low = r->values[rank - 1];
    s.high = r->values[r->count - rank];
    return s;
}

/* ---- output ---- */

static const char *short_number(char *buffer, size_t bytes, double value)
{
    double size = value < 0 ? -value : value;

    snprintf(buffer, bytes, "%.*f", size >= 1000 ? 0 : size >= 10 ? 1 : 2, value);
    return buffer;
}

void rows_print_table(FILE *out)
{
    char median[32], range[72], low[32], high[32], workers[16];

    fprintf(out, "%-44s %7s %9s %-10s %9s  %-19s %s\n", "work/who", "workers", "n", "unit", "median",
            "interval", "covers");
    for (size_t i = 0; i < collected.n_rows; i++) {
        struct row *r = &collected.rows[i];
        struct summary s = summary_of(r);

        snprintf(workers, sizeof workers, r->workers ? "%d" : "-", r->workers);
        snprintf(range, sizeof range, "%s - %s", short_number(low, sizeof low, s.low),
                 short_number(high, sizeof high, s.high));
        fprintf(out, "%-44s %7s %9" PRIu64 " %-10s %9s  %-19s %5.1f %%\n", r->name, workers, r->n,
                r->unit, short_number(median, sizeof median, s.median), range, 100 * s.coverage);
    }
    fputc('\n', out);
}

void json_string(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', out);
        fputc((unsigned char)*text < ' ' ? ' ' : *text, out);
    }
    fputc('"', out);
}

static void print_row(FILE *out, const char *bench, struct row *r)
{
    struct summary s = summary_of(r);
    const char *slash = strrchr(r->name, '/');

    fprintf(out, "{\"bench\":\"%s\",\"work\":\"%.*s\",\"who\":\"%s\",\"workers\":%d,\"n\":%" PRIu64,
            bench, (int)(slash ? slash - r->name : (int)strlen(r->name)), r->name,
            slash ? slash + 1 : "flow", r->workers, r->n);
    fprintf(out,
            ",\"unit\":\"%s\",\"median\":%.6g,\"low\":%.6g,\"high\":%.6g,\"coverage\":%.4f,\"values\":[",
            r->unit, s.median, s.low, s.high, s.coverage);
    for (size_t i = 0; i < r->count; i++)
        fprintf(out, "%s%.6g", i ? "," : "", r->values[i]);
    fputs("]}\n", out);
}

void rows_print_json(FILE *out, const char *bench)
{
    for (size_t i = 0; i < collected.n_rows; i++)
        print_row(out, bench, &collected.rows[i]);
    for (size_t i = 0; i < collected.n_notes; i++) {
        fprintf(out, "{\"bench\":\"%s\",\"note\":", bench);
        json_string(out, collected.notes[i]);
        fputs("}\n", out);
    }
    fprintf(out, "{\"bench\":\"%s\",\"complete\":true}\n", bench);
}

void rows_print_notes(FILE *out)
{
    for (size_t i = 0; i < collected.n_notes; i++)
        fprintf(out, "note: %s\n", collected.notes[i]);
}
