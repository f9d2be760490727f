/* SPDX-License-Identifier: MIT
 *
 * Reads what benchmarks have saved (perf/support/rows.c, machine.c): one flat object a line, of which
 * we know all keys. */
#include "perf/report/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where the value of a key begins; NULL if the line has no such key. */
static const char *value_of(const char *line, const char *key)
{
    char quoted[40];
    const char *at;

    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    at = strstr(line, quoted);
    return at ? at + strlen(quoted) : NULL;
}

static void read_text(const char *line, const char *key, char *text, size_t bytes)
{
    const char *at = value_of(line, key);
    size_t n = 0;

    if (at && *at == '"')
        for (at++; *at && *at != '"' && n < bytes - 1; at++) {
            if (*at == '\\' && at[1])
                at++;
            text[n++] = *at;
        }
    text[n] = '\0';
}

static double read_number(const char *line, const char *key)
{
    const char *at = value_of(line, key);

    return at ? strtod(at, NULL) : 0;
}

static bool read_bool(const char *line, const char *key)
{
    const char *at = value_of(line, key);

    return at && !strncmp(at, "true", 4);
}

/* Room for one more. */
static void *grown(void *array, size_t count, size_t element_bytes)
{
    void *p = count & (count - 1) ? array : realloc(array, (count ? 2 * count : 1) * element_bytes);

    if (!p) {
        fputs("report: no memory\n", stderr);
        exit(1);
    }
    memset((char *)p + count * element_bytes, 0, element_bytes);
    return p;
}

static void read_row(struct results *results, const char *line)
{
    struct row *r;
    const char *at = value_of(line, "values");

    results->rows = grown(results->rows, results->n_rows, sizeof *results->rows);
    r = &results->rows[results->n_rows++];
    read_text(line, "bench", r->bench, sizeof r->bench);
    read_text(line, "work", r->work, sizeof r->work);
    read_text(line, "who", r->who, sizeof r->who);
    read_text(line, "unit", r->unit, sizeof r->unit);
    r->workers = (int)read_number(line, "workers");
    r->n = (uint64_t)read_number(line, "n");
    r->median = read_number(line, "median");
    r->low = read_number(line, "low");
    r->high = read_number(line, "high");
    r->coverage = read_number(line, "coverage");
    for (r->values = 1; at && *at && *at != ']'; at++)
        r->values += *at == ',';
}

static void read_session(struct results *results, const char *line)
{
    struct session *s;

    results->sessions = grown(results->sessions, results->n_sessions, sizeof *results->sessions);
    s = &results->sessions[results->n_sessions++];
    read_text(line, "bench", s->bench, sizeof s->bench);
    read_text(line, "cpu", s->cpu, sizeof s->cpu);
    read_text(line, "governor", s->governor, sizeof s->governor);
    read_text(line, "kernel", s->kernel, sizeof s->kernel);
    read_text(line, "compiler", s->compiler, sizeof s->compiler);
    read_text(line, "commit", s->commit, sizeof s->commit);
    read_text(line, "ended", s->ended, sizeof s->ended);
    s->cpus = read_number(line, "cpus");
    s->memory_mib = read_number(line, "memory_mib");
    s->seconds = read_number(line, "seconds");
    s->load_before = read_number(line, "load_before");
    s->load_after = read_number(line, "load_after");
    s->foreign_percent = read_number(line, "foreign_percent");
    s->stolen_percent = read_number(line, "stolen_percent");
    s->worst_percent = read_number(line, "worst_percent");
    s->quiet = read_bool(line, "quiet");
    s->quick = read_bool(line, "quick");
    s->pinned = read_bool(line, "pinned");
}

static void read_note(struct results *results, const char *line)
{
    struct note n = {0};

    read_text(line, "bench", n.bench, sizeof n.bench);
    read_text(line, "note", n.text, sizeof n.text);
    for (size_t i = 0; i < results->n_notes; i++)
        if (!strcmp(results->notes[i].text, n.text))
            return;
    results->notes = grown(results->notes, results->n_notes, sizeof *results->notes);
    results->notes[results->n_notes++] = n;
}

static void add_absent(struct results *results, const char *bench, bool failed)
{
    results->absent = grown(results->absent, results->n_absent, sizeof *results->absent);
    results->absent[results->n_absent++] = (struct absent){bench, failed};
}

void read_results(struct results *results, const char *folder, const char *bench)
{
    static char line[1 << 16];
    struct results before = *results;
    char path[4096];
    bool complete = false;
    FILE *file;

    snprintf(path, sizeof path, "%s/%s.jsonl", folder, bench);
    file = fopen(path, "r");
    if (!file) {
        add_absent(results, bench, false);
        return;
    }
    while (fgets(line, sizeof line, file)) {
        if (value_of(line, "median"))
            read_row(results, line);
        else if (value_of(line, "note"))
            read_note(results, line);
        else if (value_of(line, "cpu"))
            read_session(results, line);
        complete = read_bool(line, "complete");
    }
    fclose(file);
    if (complete)
        return;
    results->n_rows = before.n_rows;
    results->n_sessions = before.n_sessions;
    results->n_notes = before.n_notes;
    add_absent(results, bench, true);
}

/* ---- contests ---- */

bool is_ours(const struct row *row)
{
    return !strncmp(row->who, "flow", 4);
}

bool is_rival(const struct row *row)
{
    return !is_ours(row) && row->who[0] != '(';
}

static struct contest *contest_of(struct results *results, const struct row *row)
{
    for (size_t i = 0; i < results->n_contests; i++) {
        const struct row *r = results->contests[i].rows[0];

        if (r->workers == row->workers && r->n == row->n && !strcmp(r->bench, row->bench) &&
            !strcmp(r->work, row->work) && !strcmp(r->unit, row->unit))
            return &results->contests[i];
    }
    results->contests = grown(results->contests, results->n_contests, sizeof *results->contests);
    return &results->contests[results->n_contests++];
}

/* Work of the same kind need not have the same n: some would take too long with ours. Rows that differ
 * in n only, where each of who has one, are one contest. */
static bool has_other_n(const struct results *results, const struct row *row)
{
    for (size_t i = 0; i < results->n_rows; i++) {
        const struct row *r = &results->rows[i];

        if (r->n != row->n && r->workers == row->workers && !strcmp(r->bench, row->bench) &&
            !strcmp(r->work, row->work) && !strcmp(r->who, row->who))
            return true;
    }
    return false;
}

static const struct row *alone_with(const struct results *results, const struct row *row)
{
    for (size_t i = 0; i < results->n_contests; i++) {
        const struct row *r = results->contests[i].rows[0];

        if (r->workers == row->workers && !strcmp(r->bench, row->bench) &&
            !strcmp(r->work, row->work) && !strcmp(r->unit, row->unit) && !has_other_n(results, r))
            return r;
    }
    return NULL;
}

void find_contests(struct results *results)
{
    for (size_t i = 0; i < results->n_rows; i++) {
        const struct row *row = &results->rows[i], *like = row, *found;
        struct contest *c;

        if (!has_other_n(results, row) && (found = alone_with(results, row)))
            like = found;
        c = contest_of(results, like);
        if (c->n_rows < sizeof c->rows / sizeof *c->rows)
            c->rows[c->n_rows++] = row;
        if (is_ours(row) && (!c->ours || (!strcmp(row->who, "flow") && strcmp(c->ours->who, "flow"))))
            c->ours = row;
        if (is_rival(row) && (!c->best || row->median < c->best->median))
            c->best = row;
    }
}

bool is_compared(const struct contest *c)
{
    static const char *const facts[] = {"percent", "count"};

    if (!c->ours || !c->best)
        return false;
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        if (!strcmp(c->ours->unit, facts[i]))
            return false;
    return true;
}

double ratio_of(const struct contest *c)
{
    if (c->best->median <= 0)
        return c->ours->median <= 0 ? 1 : INFINITY;
    return c->ours->median / c->best->median;
}

bool is_weak(const struct row *row)
{
    return row->coverage < 0.95;
}

/* Surely the quicker. */
static bool is_below(const struct row *a, const struct row *b)
{
    return !is_weak(a) && !is_weak(b) && a->high < b->low;
}

enum outcome outcome_of(const struct contest *c)
{
    enum outcome outcome = FIRST;

    for (size_t i = 0; i < c->n_rows; i++) {
        if (!is_rival(c->rows[i]))
            continue;
        if (is_below(c->rows[i], c->ours))
            return BEHIND;
        if (!is_below(c->ours, c->rows[i]))
            outcome = UNDECIDED;
    }
    return outcome;
}

const char *const outcome_names[OUTCOMES] = {"first", "undecided", "behind"};

struct score score_of(const struct results *results)
{
    struct score score = {0};

    for (size_t i = 0; i < results->n_contests; i++) {
        if (!is_compared(&results->contests[i]))
            continue;
        score.all++;
        score.of[outcome_of(&results->contests[i])]++;
    }
    return score;
}
