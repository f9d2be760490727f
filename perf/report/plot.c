/* SPDX-License-Identifier: MIT
 *
 * Plots as SVG, written by hand: bars, ratios, growth. Colours come from the page's classes where it has
 * them, and stand in the plot too, so that it is readable alone. */
#include "perf/report/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GOOD    "#2a7f3f"
#define UNSURE  "#d49a00"
#define BAD     "#c0392b"
#define OURS    "#1f5fa8"
#define RIVAL   "#b5b5b5"
#define PALE    "#e3e3e3"
#define FONT    "font-family=\"sans-serif\" font-size=\"11\""

static const char *const palette[] = {OURS,      "#d1702c", "#4c9a2a", "#8e44ad",
                                      "#222222", "#c0392b", "#16a085", "#999999"};

const char *number_text(double value)
{
    static char texts[8][32];
    static unsigned next;
    char *text = texts[next++ % 8];
    double size = fabs(value);

    if (isinf(size))
        snprintf(text, sizeof texts[0], "inf");
    else if (size > 0 && size < 0.1)
        snprintf(text, sizeof texts[0], "%.2g", value);
    else if (size >= 1e6)
        snprintf(text, sizeof texts[0], "%.3gM", value / 1e6);
    else
        snprintf(text, sizeof texts[0], "%.*f", size >= 100 ? 0 : size >= 10 ? 1 : 2, value);
    return text;
}

const char *weak_text(const struct row *r)
{
    static char text[32];

    snprintf(text, sizeof text, is_weak(r) ? " (%d value%s)" : "", r->values, r->values == 1 ? "" : "s");
    return text;
}

static void print_text(FILE *out, double x, double y, const char *anchor, const char *more,
                       const char *text)
{
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" %s>", x, y, anchor, more);
    print_escaped(out, text);
    fputs("</text>\n", out);
}

static void print_line(FILE *out, double x1, double y1, double x2, double y2, const char *colour)
{
    fprintf(out, "<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"%s\"/>\n", x1, y1, x2, y2, colour);
}

/* ---- bars ---- */

static int by_median(const void *a, const void *b)
{
    const struct row *const *x = a, *const *y = b;

    return ((*x)->median > (*y)->median) - ((*x)->median < (*y)->median);
}

void plot_bars(FILE *out, const struct contest *contest)
{
    enum { LABEL = 150, WIDTH = 210, NUMBER = 130, LINE = 14 };
    struct contest c = *contest;
    double most = 0;

    qsort(c.rows, c.n_rows, sizeof *c.rows, by_median);
    for (size_t i = 0; i < c.n_rows; i++)
        most = c.rows[i]->median > most ? c.rows[i]->median : most;
    fprintf(out, "<svg width=\"%d\" height=\"%d\" " FONT ">\n", LABEL + WIDTH + NUMBER,
            (int)c.n_rows * LINE + 2);
    for (size_t i = 0; i < c.n_rows; i++) {
        const struct row *r = c.rows[i];
        double y = (double)i * LINE, scale = most > 0 ? WIDTH / most : 0;
        double high = r->high > most ? most : r->high;
        char number[64];

        print_text(out, LABEL - 5, y + 11, "end", is_ours(r) ? "font-weight=\"bold\"" : "", r->who);
        fprintf(out, "<rect x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"9\" fill=\"%s\"/>\n", LABEL,
                y + 3, r->median * scale, is_ours(r) ? OURS : is_rival(r) ? RIVAL : PALE);
        print_line(out, LABEL + r->low * scale, y + 7.5, LABEL + high * scale, y + 7.5,
                   is_weak(r) ? RIVAL : "#000");
        snprintf(number, sizeof number, "%s%s", number_text(r->median), weak_text(r));
        print_text(out, LABEL + r->median * scale + 5 > LABEL + high * scale + 5
                            ? LABEL + r->median * scale + 5
                            : LABEL + high * scale + 5,
                   y + 11, "start", "", number);
    }
    fputs("</svg>\n", out);
}

/* ---- ratios ---- */

enum { RATIO_LABEL = 300, RATIO_WIDTH = 430, RATIO_RIGHT = 90, RATIO_LINE = 15, RATIO_TOP = 74 };

/* What lies outside is marked at the end of the axis, with its number. */
#define RATIO_LEAST 0.01
#define RATIO_MOST  10.0

static const char *const outcome_colours[OUTCOMES] = {GOOD, UNSURE, BAD};

static bool same_work(const struct contest *a, const struct contest *b)
{
    return !strcmp(a->ours->bench, b->ours->bench) && !strcmp(a->ours->work, b->ours->work);
}

/* All contests of a work are on the line of the first. */
static bool begins_line(const struct results *results, size_t index)
{
    if (!is_compared(&results->contests[index]))
        return false;
    for (size_t i = 0; i < index; i++)
        if (is_compared(&results->contests[i]) &&
            same_work(&results->contests[i], &results->contests[index]))
            return false;
    return true;
}

static bool is_clipped(double ratio)
{
    return ratio < RATIO_LEAST || ratio > RATIO_MOST;
}

static double ratio_x(double ratio)
{
    return RATIO_LABEL + log(ratio / RATIO_LEAST) / log(RATIO_MOST / RATIO_LEAST) * RATIO_WIDTH;
}

static void print_ratio_axis(FILE *out, double height)
{
    static const double ticks[] = {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10};

    for (size_t i = 0; i < sizeof ticks / sizeof *ticks; i++) {
        char text[16];

        snprintf(text, sizeof text, "%g", ticks[i]);
        print_line(out, ratio_x(ticks[i]), RATIO_TOP - 6, ratio_x(ticks[i]), height,
                   ticks[i] == 1 ? "#000" : PALE);
        print_text(out, ratio_x(ticks[i]), RATIO_TOP - 10, "middle", "", text);
    }
}

/* A ring for one worker or none, a dot for two, a square for more. */
static void print_mark(FILE *out, double x, double y, int workers, const char *colour)
{
    if (workers > 2)
        fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"7\" height=\"7\" fill=\"%s\">", x - 3.5,
                y - 3.5, colour);
    else
        fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" stroke=\"%s\" fill=\"%s\">", x, y, colour,
                workers == 2 ? colour : "#fff");
}

static void end_mark(FILE *out, int workers)
{
    fputs(workers > 2 ? "</rect>\n" : "</circle>\n", out);
}

static void print_ratio(FILE *out, const struct contest *c, double y)
{
    print_mark(out, ratio_x(ratio_of(c)), y, c->ours->workers, outcome_colours[outcome_of(c)]);
    fprintf(out, "<title>%d workers, n = %llu: %s %s; %s %s %s</title>", c->ours->workers,
            (unsigned long long)c->ours->n, c->ours->who, number_text(c->ours->median), c->best->who,
            number_text(c->best->median), c->ours->unit);
    end_mark(out, c->ours->workers);
}

static void print_ratios(FILE *out, const struct results *results, const struct contest *like,
                         enum outcome outcome, double y)
{
    for (size_t i = 0; i < results->n_contests; i++) {
        const struct contest *c = &results->contests[i];

        if (is_compared(c) && same_work(c, like) && outcome_of(c) == outcome && !is_clipped(ratio_of(c)))
            print_ratio(out, c, y);
    }
}

/* An arrow at one end of a line for all contests beyond it, with their ratios. */
static void print_clipped(FILE *out, const struct results *results, const struct contest *like, bool high,
                          double y)
{
    double least = INFINITY, most = 0, x = high ? RATIO_LABEL + RATIO_WIDTH + 2 : RATIO_LABEL + 10;
    enum outcome worst = FIRST;
    char text[48];

    for (size_t i = 0; i < results->n_contests; i++) {
        const struct contest *c = &results->contests[i];

        if (!is_compared(c) || !same_work(c, like) || !is_clipped(ratio_of(c)) ||
            high != (ratio_of(c) > 1))
            continue;
        least = fmin(least, ratio_of(c));
        most = fmax(most, ratio_of(c));
        worst = outcome_of(c) > worst ? outcome_of(c) : worst;
    }
    if (most == 0)
        return;
    fprintf(out, "<path d=\"M%.1f %.1fl%d 5l%d 5z\" fill=\"%s\"/>\n", x, y - 5, high ? 9 : -9,
            high ? -9 : 9, outcome_colours[worst]);
    snprintf(text, sizeof text, least < most ? "%.3g - %.3g" : "%.3g", least, most);
    print_text(out, x + (high ? 13 : 4), y + 4, "start", "", text);
}

static void print_ratio_head(FILE *out, const struct results *results)
{
    static const struct {
        int workers;
        double x;
        const char *text;
    } marks[] = {{1, 480, "1 worker or none"}, {2, 600, "2 workers"}, {3, 685, "more"}};
    struct score score = score_of(results);
    char text[80];

    print_text(out, 8, 16, "start", "font-weight=\"bold\" font-size=\"13\"",
               "Our time or memory over that of the best rival (less is better)");
    snprintf(text, sizeof text, "%zu comparisons:", score.all);
    print_text(out, 8, 36, "start", "", text);
    for (int i = 0; i < OUTCOMES; i++) {
        char colour[48];

        snprintf(colour, sizeof colour, "font-weight=\"bold\" fill=\"%s\"", outcome_colours[i]);
        snprintf(text, sizeof text, "%s in %zu", outcome_names[i], score.of[i]);
        print_text(out, 120 + 110 * i, 36, "start", colour, text);
    }
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        print_mark(out, marks[i].x, 32, marks[i].workers, "#000");
        end_mark(out, marks[i].workers);
        print_text(out, marks[i].x + 9, 36, "start", "", marks[i].text);
    }
}

void plot_ratios(FILE *out, const struct results *results)
{
    double height = RATIO_TOP, y = RATIO_TOP;

    for (size_t i = 0; i < results->n_contests; i++)
        height += begins_line(results, i) ? RATIO_LINE : 0;
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%.0f\" " FONT ">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
            RATIO_LABEL + RATIO_WIDTH + RATIO_RIGHT, height + 10);
    print_ratio_head(out, results);
    print_ratio_axis(out, height);
    for (size_t i = 0; i < results->n_contests; i++) {
        const struct contest *c = &results->contests[i];

        if (!begins_line(results, i))
            continue;
        print_text(out, RATIO_LABEL - 10, y + 11, "end", "", c->ours->work);
        for (int outcome = FIRST; outcome < OUTCOMES; outcome++) /* so that no worse mark is covered */
            print_ratios(out, results, c, outcome, y + 7.5);
        print_clipped(out, results, c, false, y + 7.5);
        print_clipped(out, results, c, true, y + 7.5);
        y += RATIO_LINE;
    }
    fputs("</svg>\n", out);
}

/* ---- growth ---- */

static double growth_x(const struct row *r, bool by_n)
{
    return by_n ? (double)r->n : r->workers;
}

static bool grows_with(const struct row *r, const struct row *like, bool by_n)
{
    return !strcmp(r->bench, like->bench) && !strcmp(r->work, like->work) &&
           !strcmp(r->unit, like->unit) &&
           (by_n ? r->workers == like->workers : r->n == like->n && r->workers > 0);
}

size_t growth_points(const struct results *results, const struct contest *like, bool by_n)
{
    const struct row *first = like->rows[0];
    double seen[32];
    size_t n = 0;

    for (size_t i = 0; i < results->n_rows; i++) {
        const struct row *r = &results->rows[i];
        size_t k = 0;

        if (!grows_with(r, first, by_n) || strcmp(r->who, first->who))
            continue;
        while (k < n && seen[k] != growth_x(r, by_n))
            k++;
        if (k == n && n < 32)
            seen[n++] = growth_x(r, by_n);
    }
    return n;
}

struct axes {
    double x_low, x_high, y_low, y_high; /* logarithms */
};

enum { PLOT_LEFT = 60, PLOT_WIDTH = 400, PLOT_TOP = 30, PLOT_HEIGHT = 210, PLOT_KEY = 130 };

static double at_x(const struct axes *a, double x)
{
    return PLOT_LEFT + (log10(x) - a->x_low) / (a->x_high - a->x_low) * PLOT_WIDTH;
}

static double at_y(const struct axes *a, double y)
{
    return PLOT_TOP + PLOT_HEIGHT - (log10(y) - a->y_low) / (a->y_high - a->y_low) * PLOT_HEIGHT;
}

static struct axes find_axes(const struct results *results, const struct row *like, bool by_n)
{
    struct axes a = {99, -99, 99, -99};

    for (size_t i = 0; i < results->n_rows; i++) {
        const struct row *r = &results->rows[i];

        if (!grows_with(r, like, by_n) || r->median <= 0)
            continue;
        a.x_low = fmin(a.x_low, log10(growth_x(r, by_n)));
        a.x_high = fmax(a.x_high, log10(growth_x(r, by_n)));
        a.y_low = fmin(a.y_low, log10(r->median));
        a.y_high = fmax(a.y_high, log10(r->median));
    }
    a.y_low = floor(a.y_low);
    a.y_high = fmax(ceil(a.y_high), a.y_low + 1);
    a.x_high = fmax(a.x_high, a.x_low + 0.1);
    return a;
}

static void print_axes(FILE *out, const struct axes *a, bool by_n)
{
    for (double e = a->y_low; e <= a->y_high; e++) {
        print_line(out, PLOT_LEFT, at_y(a, pow(10, e)), PLOT_LEFT + PLOT_WIDTH, at_y(a, pow(10, e)),
                   PALE);
        print_text(out, PLOT_LEFT - 6, at_y(a, pow(10, e)) + 4, "end", "",
                   number_text(pow(10, e)));
    }
    for (double x = by_n ? pow(10, ceil(a->x_low)) : 1; log10(x) <= a->x_high + 1e-9;
         x *= by_n ? 10 : 2) {
        char text[24];

        snprintf(text, sizeof text, "%.0f", x);
        print_text(out, at_x(a, x), PLOT_TOP + PLOT_HEIGHT + 15, "middle", "", text);
    }
    print_text(out, PLOT_LEFT + PLOT_WIDTH / 2.0, PLOT_TOP + PLOT_HEIGHT + 30, "middle", "",
               by_n ? "n" : "workers");
}

static void print_series(FILE *out, const struct results *results, const struct row *like,
                         const char *who, const struct axes *a, bool by_n, int number)
{
    const char *colour = palette[number % 8];
    double key = PLOT_TOP + number * 15.0;
    bool first = true;

    fputs("<path d=\"", out);
    for (size_t i = 0; i < results->n_rows; i++) {
        const struct row *r = &results->rows[i];

        if (!grows_with(r, like, by_n) || strcmp(r->who, who) || r->median <= 0)
            continue;
        fprintf(out, "%s%.1f %.1f", first ? "M" : "L", at_x(a, growth_x(r, by_n)),
                at_y(a, r->median));
        first = false;
    }
    fprintf(out, "\" fill=\"none\" stroke=\"%s\" stroke-width=\"%d\"/>\n", colour,
            !strncmp(who, "flow", 4) ? 3 : 1);
    for (size_t i = 0; i < results->n_rows; i++) {
        const struct row *r = &results->rows[i];

        if (grows_with(r, like, by_n) && !strcmp(r->who, who) && r->median > 0)
            fprintf(out,
                    "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"><title>%s</title>"
                    "</circle>\n",
                    at_x(a, growth_x(r, by_n)), at_y(a, r->median), colour,
                    number_text(r->median));
    }
    fprintf(out, "<rect x=\"%d\" y=\"%.1f\" width=\"12\" height=\"3\" fill=\"%s\"/>\n",
            PLOT_LEFT + PLOT_WIDTH + 12, key + 4, colour);
    print_text(out, PLOT_LEFT + PLOT_WIDTH + 28, key + 9, "start", "", who);
}

void plot_growth(FILE *out, const struct results *results, const struct contest *contest, bool by_n)
{
    const struct row *like = contest->rows[0];
    struct axes a = find_axes(results, like, by_n);
    char title[200], alike[64];
    const char *shown[16];
    int n = 0;

    if (by_n)
        snprintf(alike, sizeof alike, "%d worker%s", like->workers, like->workers == 1 ? "" : "s");
    else
        snprintf(alike, sizeof alike, "n = %llu", (unsigned long long)like->n);
    snprintf(title, sizeof title, "%s: %s, %s", like->work, like->unit, alike);
    fprintf(out, "<svg width=\"%d\" height=\"%d\" " FONT ">\n", PLOT_LEFT + PLOT_WIDTH + PLOT_KEY,
            PLOT_TOP + PLOT_HEIGHT + 40);
    print_text(out, PLOT_LEFT, 16, "start", "font-weight=\"bold\"", title);
    print_axes(out, &a, by_n);
    for (size_t i = 0; i < results->n_rows; i++) {
        const struct row *r = &results->rows[i];
        int k = 0;

        if (!grows_with(r, like, by_n))
            continue;
        while (k < n && strcmp(shown[k], r->who))
            k++;
        if (k < n || n == 16)
            continue;
        shown[n] = r->who;
        print_series(out, results, like, r->who, &a, by_n, n++);
    }
    fputs("</svg>\n", out);
}
