/* SPDX-License-Identifier: MIT
 *
 * Writes the report from what `make perf` has left: the .jsonl files of one folder. Into another go
 * report.html, one page that fetches nothing and has no script, and ratios.svg, the plot for a README.
 * Where we are behind comes before everything else. Gives 1 if a benchmark has failed. */
#include "perf/report/report.h"

#include <stdlib.h>
#include <string.h>

void print_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<')
            fputs("&lt;", out);
        else if (*text == '&')
            fputs("&amp;", out);
        else
            fputc(*text, out);
    }
}

static void cell(FILE *out, const char *class, const char *text)
{
    fprintf(out, "<td class=\"%s\">", class);
    print_escaped(out, text);
    fputs("</td>", out);
}

static const char *workers_text(const struct row *r)
{
    static char text[16];

    if (!r->workers)
        return "-";
    snprintf(text, sizeof text, "%d", r->workers);
    return text;
}

static void print_result(FILE *out, const struct row *r)
{
    fprintf(out, "<td>");
    print_escaped(out, r->who);
    fprintf(out, " <b>%s</b> <span class=\"interval\">%s - %s%s</span></td>", number_text(r->median),
            number_text(r->low), number_text(r->high), weak_text(r));
}

/* ---- the parts of the page ---- */

static void print_head(FILE *out, const struct results *results)
{
    const struct session *s = &results->sessions[0];

    fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
          "<title>libflowcoro measured</title>\n<style>\n"
          "body{font-family:sans-serif;font-size:14px;max-width:1120px;margin:24px auto;padding:0 12px}\n"
          "table{border-collapse:collapse;margin:8px 0 24px}\n"
          "td,th{border-bottom:1px solid #ddd;padding:3px 8px;text-align:left;vertical-align:top}\n"
          "td.number{text-align:right}\n.first{color:#2a7f3f;font-weight:bold}\n"
          ".behind{color:#c0392b;font-weight:bold}\n.undecided{color:#8a6d00;font-weight:bold}\n"
          ".interval{color:#888;font-size:12px}\n"
          ".warning{background:#fdecea;border:1px solid #c0392b;padding:8px}\n"
          "h2{margin-top:36px}\n</style></head><body>\n<h1>libflowcoro measured</h1>\n",
          out);
    fputs("<p>", out);
    print_escaped(out, s->cpu);
    fprintf(out, ", %.0f CPUs, ", s->cpus);
    print_escaped(out, s->kernel);
    fprintf(out,
            "; commit %s, %s. Medians of interleaved runs, each a process of its own; in grey the "
            "interval that holds the median with 95 %%; of fewer than six values, whose number stands beside "
            "it then, it is all of them, and holds it with less. Less is better everywhere. How each work is "
            "done, and by whom, is told at the top of its program in <code>perf/</code> and in "
            "<code>perf/rivals/</code>; the raw values lie beside this page.</p>\n",
            s->commit, s->ended);
}

static void print_absent(FILE *out, const struct results *results)
{
    fputs("<p class=\"warning\">There are no figures of:", out);
    for (size_t i = 0; i < results->n_absent; i++)
        fprintf(out, "%s %s (%s)", i ? "," : "", results->absent[i].bench,
                results->absent[i].failed ? "FAILED" : "not run");
    fputs(".</p>\n", out);
}

static void print_warnings(FILE *out, const struct results *results)
{
    size_t loud = 0, quick = 0, other = 0;

    for (size_t i = 0; i < results->n_sessions; i++) {
        loud += !results->sessions[i].quiet;
        quick += results->sessions[i].quick;
        other += strcmp(results->sessions[i].commit, results->sessions[0].commit) != 0;
    }
    if (results->n_absent)
        print_absent(out, results);
    if (other)
        fprintf(out,
                "<p class=\"warning\">Measured at another commit than %s: %zu of %zu programs; see the "
                "table of the environment.</p>\n",
                results->sessions[0].commit, other, results->n_sessions);
    if (loud)
        fprintf(out,
                "<p class=\"warning\">The machine was NOT QUIET during %zu of %zu programs; see the "
                "table of the environment. Their figures prove nothing.</p>\n",
                loud, results->n_sessions);
    if (quick)
        fprintf(out,
                "<p class=\"warning\">A quick run: %zu of %zu programs did less work, in too short a time "
                "for exact figures.</p>\n",
                quick, results->n_sessions);
}

static void print_score(FILE *out, const struct results *results)
{
    struct score score = score_of(results);

    fprintf(out, "<p><b>%zu comparisons:", score.all);
    for (int i = 0; i < OUTCOMES; i++)
        fprintf(out, "%s <span class=\"%s\">%s in %zu</span>", i ? "," : "", outcome_names[i],
                outcome_names[i], score.of[i]);
    fputs("</b>. First: our interval lies below those of all rivals. Behind: a rival's interval lies below "
          "ours. Undecided: neither, as intervals meet or are of fewer than six values.</p>\n",
          out);
}

static int by_ratio(const void *a, const void *b)
{
    const struct contest *const *x = a, *const *y = b;
    double rx = ratio_of(*x), ry = ratio_of(*y);

    return (rx < ry) - (rx > ry);
}

/* The contests with this outcome, the worst first. */
static void print_outcome(FILE *out, const struct results *results, enum outcome outcome)
{
    const struct contest **chosen = calloc(results->n_contests + 1, sizeof *chosen);
    size_t n = 0;

    for (size_t i = 0; chosen && i < results->n_contests; i++)
        if (is_compared(&results->contests[i]) && outcome_of(&results->contests[i]) == outcome)
            chosen[n++] = &results->contests[i];
    if (n)
        qsort(chosen, n, sizeof *chosen, by_ratio);
    fprintf(out,
            "<h2>Where we are %s: %zu</h2>\n<table><tr><th>program</th><th>work</th><th>workers</th>"
            "<th>n</th><th>unit</th><th>we</th><th>the best</th><th>ratio</th></tr>\n",
            outcome_names[outcome], n);
    for (size_t i = 0; i < n; i++) {
        const struct contest *c = chosen[i];

        fputs("<tr>", out);
        cell(out, "", c->ours->bench);
        cell(out, "", c->ours->work);
        cell(out, "number", workers_text(c->ours));
        fprintf(out, "<td class=\"number\">%llu</td>", (unsigned long long)c->ours->n);
        cell(out, "", c->ours->unit);
        print_result(out, c->ours);
        print_result(out, c->best);
        fprintf(out, "<td class=\"number %s\">%s</td></tr>\n", outcome_names[outcome],
                number_text(ratio_of(c)));
    }
    fputs("</table>\n", out);
    free(chosen);
}

static void print_losses(FILE *out, const struct results *results)
{
    print_outcome(out, results, BEHIND);
    fputs("<p>The reasons, and what was tried: <code>perf/NOTES.md</code>.</p>\n", out);
    print_outcome(out, results, UNDECIDED);
}

static void print_contest(FILE *out, const struct contest *c)
{
    const struct row *r = c->ours ? c->ours : c->rows[0];

    fputs("<tr>", out);
    cell(out, "", r->work);
    cell(out, "number", workers_text(r));
    fprintf(out, "<td class=\"number\">%llu</td>", (unsigned long long)r->n);
    cell(out, "", r->unit);
    if (is_compared(c)) {
        const char *outcome = outcome_names[outcome_of(c)];

        cell(out, "number", number_text(ratio_of(c)));
        cell(out, outcome, outcome);
    } else {
        fputs("<td></td><td></td>", out);
    }
    fputs("<td>", out);
    plot_bars(out, c);
    fputs("</td></tr>\n", out);
}

static void print_benches(FILE *out, const struct results *results)
{
    for (size_t s = 0; s < results->n_sessions; s++) {
        const char *bench = results->sessions[s].bench;

        fprintf(out,
                "<h2>%s</h2>\n<table><tr><th>work</th><th>workers</th><th>n</th><th>unit</th>"
                "<th>to the best rival</th><th></th><th></th></tr>\n",
                bench);
        for (size_t i = 0; i < results->n_contests; i++)
            if (!strcmp(results->contests[i].rows[0]->bench, bench))
                print_contest(out, &results->contests[i]);
        fputs("</table>\n", out);
    }
}

/* Once for each work: with the first contest of it that has the fewest workers, or n. */
static bool is_first_of_its_kind(const struct results *results, size_t index, bool by_n)
{
    const struct row *r = results->contests[index].rows[0];

    for (size_t i = 0; i < index; i++) {
        const struct row *o = results->contests[i].rows[0];

        if (!strcmp(o->bench, r->bench) && !strcmp(o->work, r->work) && !strcmp(o->unit, r->unit) &&
            (by_n ? o->workers == r->workers : o->n == r->n))
            return false;
    }
    return true;
}

static void print_growth(FILE *out, const struct results *results)
{
    fputs("<h2>Growth</h2>\n", out);
    for (int by_n = 1; by_n >= 0; by_n--)
        for (size_t i = 0; i < results->n_contests; i++)
            if (results->contests[i].best && is_first_of_its_kind(results, i, by_n) &&
                growth_points(results, &results->contests[i], by_n) >= 3)
                plot_growth(out, results, &results->contests[i], by_n);
}

/* What perf/instructions/count.sh has left. */
static void print_instructions(FILE *out, const struct results *results)
{
    fputs("<h2>Instructions</h2>\n<p>Executed in one turn of each loop of "
          "<code>perf/instructions/loops.c</code>, as callgrind counts them.</p>\n"
          "<table><tr><th>loop</th><th>instructions</th></tr>\n",
          out);
    for (size_t i = 0; i < results->n_rows; i++) {
        if (strcmp(results->rows[i].bench, "instructions"))
            continue;
        fputs("<tr>", out);
        cell(out, "", results->rows[i].work);
        cell(out, "number", number_text(results->rows[i].median));
        fputs("</tr>\n", out);
    }
    fputs("</table>\n", out);
}

static void print_environment(FILE *out, const struct results *results)
{
    fputs("<h2>Environment</h2>\n<table><tr><th>program</th><th>ended</th><th>seconds</th>"
          "<th>load before</th><th>after</th><th>CPU used by others</th><th>taken by the hypervisor"
          "</th><th>both at worst</th><th>quiet</th><th>workers</th><th>commit</th><th>compiler</th>"
          "<th>governor</th></tr>\n",
          out);
    for (size_t i = 0; i < results->n_sessions; i++) {
        const struct session *s = &results->sessions[i];

        fprintf(out,
                "<tr><td>%s</td><td>%s</td><td>%.0f</td><td>%.2f</td><td>%.2f</td><td>%.1f %%</td>"
                "<td>%.1f %%</td><td>%.1f %%</td><td class=\"%s\">%s</td><td>%s</td><td>%s</td><td>%s</td>"
                "<td>%s</td></tr>\n",
                s->bench, s->ended, s->seconds, s->load_before, s->load_after, s->foreign_percent,
                s->stolen_percent, s->worst_percent, s->quiet ? "first" : "behind", s->quiet ? "yes" : "NO",
                s->pinned ? "pinned" : "not pinned", s->commit, s->compiler, s->governor);
    }
    fputs("</table>\n<h2>Notes of the programs</h2>\n<ul>\n", out);
    for (size_t i = 0; i < results->n_notes; i++) {
        fprintf(out, "<li>%s: ", results->notes[i].bench);
        print_escaped(out, results->notes[i].text);
        fputs("</li>\n", out);
    }
    fputs("</ul>\n</body></html>\n", out);
}

/* ---- files ---- */

static FILE *create(const char *folder, const char *name)
{
    char path[4096];
    FILE *out;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    out = fopen(path, "w");
    if (!out) {
        perror(path);
        exit(1);
    }
    return out;
}

static void finish(FILE *out, const char *name)
{
    if (ferror(out) | fclose(out)) {
        perror(name);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    struct results results = {0};
    int status = 0;
    FILE *out;

    if (argc < 4) {
        fputs("usage: make_report RESULTS OUT BENCHMARK...\n", stderr);
        return 2;
    }
    for (int i = 3; i < argc; i++)
        read_results(&results, argv[1], argv[i]);
    for (size_t i = 0; i < results.n_absent; i++) {
        fprintf(stderr, "report: no figures of %s: it %s\n", results.absent[i].bench,
                results.absent[i].failed ? "failed" : "was not run");
        status |= results.absent[i].failed;
    }
    if (!results.n_sessions) {
        fprintf(stderr, "report: no results in %s; `make perf` makes them\n", argv[1]);
        return 1;
    }
    read_results(&results, argv[1], "instructions");
    find_contests(&results);

    out = create(argv[2], "ratios.svg");
    plot_ratios(out, &results);
    finish(out, "ratios.svg");
    out = create(argv[2], "report.html");
    print_head(out, &results);
    print_warnings(out, &results);
    print_score(out, &results);
    plot_ratios(out, &results);
    print_losses(out, &results);
    print_growth(out, &results);
    print_benches(out, &results);
    print_instructions(out, &results);
    print_environment(out, &results);
    finish(out, "report.html");
    return status;
}
