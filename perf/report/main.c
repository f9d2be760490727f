/* SPDX-License-Identifier: MIT
 *
 * Writes the report from what `make perf` has left: all .jsonl files of one folder. Into another go
 * report.html, one page that fetches nothing and has no script, and ratios.svg, the plot for a README.
 * Where we are not first comes before everything else. */
#include "perf/report/report.h"

#include <glob.h>
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
    fprintf(out, " <b>%s</b> <span class=\"interval\">%s - %s</span></td>", number_text(r->median),
            number_text(r->low), number_text(r->high));
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
          ".lost{color:#c0392b;font-weight:bold}\n.tie{color:#8a6d00;font-weight:bold}\n"
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
            "interval that holds the median with 95 %%. Less is better everywhere. How each work is "
            "done, and by whom, is told at the top of its program in <code>perf/</code> and in "
            "<code>perf/rivals/</code>; the raw values lie beside this page.</p>\n",
            s->commit, s->ended);
}

static void print_warnings(FILE *out, const struct results *results)
{
    size_t loud = 0, quick = 0;

    for (size_t i = 0; i < results->n_sessions; i++) {
        loud += !results->sessions[i].quiet;
        quick += results->sessions[i].quick;
    }
    if (loud)
        fprintf(out,
                "<p class=\"warning\">The machine was NOT QUIET during %zu of %zu programs; see the "
                "table of the environment. Their figures prove nothing.</p>\n",
                loud, results->n_sessions);
    if (quick)
        fprintf(out,
                "<p class=\"warning\">A quick run: %zu of %zu programs made too few and too short "
                "runs for intervals.</p>\n",
                quick, results->n_sessions);
}

static void print_score(FILE *out, const struct results *results)
{
    size_t decided = 0, first = 0, ties = 0;

    for (size_t i = 0; i < results->n_contests; i++) {
        const struct contest *c = &results->contests[i];

        if (!is_decided(c))
            continue;
        decided++;
        first += ratio_of(c) <= 1;
        ties += ratio_of(c) > 1 && is_tie(c);
    }
    fprintf(out,
            "<p><b>%zu comparisons: first in %zu, not first in %zu</b> (in %zu of these the "
            "intervals meet, so it is undecided).</p>\n",
            decided, first, decided - first, ties);
}

static int by_ratio(const void *a, const void *b)
{
    const struct contest *const *x = a, *const *y = b;
    double rx = ratio_of(*x), ry = ratio_of(*y);

    return (rx < ry) - (rx > ry);
}

static void print_losses(FILE *out, const struct results *results)
{
    const struct contest **lost = calloc(results->n_contests + 1, sizeof *lost);
    size_t n = 0;

    for (size_t i = 0; lost && i < results->n_contests; i++)
        if (is_decided(&results->contests[i]) && ratio_of(&results->contests[i]) > 1)
            lost[n++] = &results->contests[i];
    if (n)
        qsort(lost, n, sizeof *lost, by_ratio);
    fputs("<h2>Where we are not first</h2>\n<table><tr><th>program</th><th>work</th><th>workers</th>"
          "<th>n</th><th>unit</th><th>we</th><th>the best</th><th>ratio</th></tr>\n",
          out);
    for (size_t i = 0; i < n; i++) {
        const struct contest *c = lost[i];

        fputs("<tr>", out);
        cell(out, "", c->ours->bench);
        cell(out, "", c->ours->work);
        cell(out, "number", workers_text(c->ours));
        fprintf(out, "<td class=\"number\">%llu</td>", (unsigned long long)c->ours->n);
        cell(out, "", c->ours->unit);
        print_result(out, c->ours);
        print_result(out, c->best);
        fprintf(out, "<td class=\"number %s\">%s%s</td></tr>\n", is_tie(c) ? "tie" : "lost",
                number_text(ratio_of(c)), is_tie(c) ? " (intervals meet)" : "");
    }
    fputs("</table>\n<p>The reasons, and what was tried: <code>perf/NOTES.md</code>.</p>\n", out);
    free(lost);
}

static void print_contest(FILE *out, const struct contest *c)
{
    const struct row *r = c->ours ? c->ours : c->rows[0];

    fputs("<tr>", out);
    cell(out, "", r->work);
    cell(out, "number", workers_text(r));
    fprintf(out, "<td class=\"number\">%llu</td>", (unsigned long long)r->n);
    cell(out, "", r->unit);
    if (is_decided(c)) {
        int place = place_of(c);
        char text[32];

        snprintf(text, sizeof text, place == 1 ? "first" : is_tie(c) ? "place %d, tie" : "place %d",
                 place);
        cell(out, "number", number_text(ratio_of(c)));
        cell(out, place == 1 ? "first" : is_tie(c) ? "tie" : "lost", text);
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
                "<th>to the best rival</th><th>place</th><th></th></tr>\n",
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

static void print_environment(FILE *out, const struct results *results)
{
    fputs("<h2>Environment</h2>\n<table><tr><th>program</th><th>ended</th><th>seconds</th>"
          "<th>load before</th><th>after</th><th>CPU used by others</th><th>taken by the hypervisor"
          "</th><th>quiet</th><th>workers</th><th>commit</th><th>compiler</th><th>governor</th></tr>\n",
          out);
    for (size_t i = 0; i < results->n_sessions; i++) {
        const struct session *s = &results->sessions[i];

        fprintf(out,
                "<tr><td>%s</td><td>%s</td><td>%.0f</td><td>%.2f</td><td>%.2f</td><td>%.1f %%</td>"
                "<td>%.1f %%</td><td class=\"%s\">%s</td><td>%s</td><td>%s</td><td>%s</td>"
                "<td>%s</td></tr>\n",
                s->bench, s->ended, s->seconds, s->load_before, s->load_after, s->foreign_percent,
                s->stolen_percent, s->quiet ? "first" : "lost", s->quiet ? "yes" : "NO",
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
    char pattern[4096];
    glob_t files;
    FILE *out;

    if (argc != 3) {
        fputs("usage: make_report RESULTS OUT\n", stderr);
        return 2;
    }
    snprintf(pattern, sizeof pattern, "%s/*.jsonl", argv[1]);
    if (glob(pattern, 0, NULL, &files)) {
        fprintf(stderr, "report: no results in %s; `make perf` makes them\n", argv[1]);
        return 1;
    }
    for (size_t i = 0; i < files.gl_pathc; i++)
        read_results(&results, files.gl_pathv[i]);
    globfree(&files);
    find_contests(&results);
    if (!results.n_sessions || !results.n_contests) {
        fputs("report: the results are empty\n", stderr);
        return 1;
    }

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
    print_environment(out, &results);
    finish(out, "report.html");
    return 0;
}
