/* SPDX-License-Identifier: MIT
 *
 * Plots as SVG, written by hand: bars, ratios, growth. Colours come from the page's classes where it has
 * them, and stand in the plot too, so that it is readable alone. */
#include "perf/report/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GOOD    "#2a7f3f"
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

    if (size >= 1e6)
        snprintf(text, sizeof texts[0], "%.3gM", value / 1e6);
    else
        snprintf(text, sizeof texts[0], "%.*f", size >= 100 ? 0 : size >= 10 ? 1 : 2, value);
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
    enum { LABEL = 150, WIDTH = 210, NUMBER = 70, LINE = 14 };
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

        print_text(out, LABEL - 5, y + 11, "end", is_ours(r) ? "font-weight=\"bold\"" : "", r->who);
        fprintf(out, "<rect x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"9\" fill=\"%s\"/>\n", LABEL,
                y + 3, r->median * scale, is_ours(r) ? OURS : is_rival(r) ? RIVAL : PALE);
        print_line(out, LABEL + r->low * scale, y + 7.5, LABEL + high * scale, y + 7.5, "#000");
        print_text(out, LABEL + r->median * scale + 5 > LABEL + high * scale + 5
                            ? LABEL + r->median * scale + 5
                            : LABEL + high * scale + 5,
                   y + 11, "start", "", number_text(r->median));
    }
    fputs("</svg>\n", out);
}

/* ---- ratios ---- */

/* Is this the contest that stands for its work and number of workers? Of several n, the one in which
 * most take part, and of these the largest n. */
static bool stands_for_its_work(const struct results *results, const struct contest *c)
{
    for (size_t i = 0; i < results->n_contests; i++) {
        const struct contest *o = &results->contests[i];

        if (o == c || !is_decided(o) || o->ours->workers != c->ours->workers ||
            strcmp(o->ours->bench, c->ours->bench) || strcmp(o->ours->work, c->ours->work))
            continue;
        if (o->n_rows > c->n_rows || (o->n_rows == c->n_rows && o->ours->n > c->ours->n))
            return false;
    }
    return true;
}

static bool is_shown(const struct results *results, const struct contest *c)
{
    return is_decided(c) && c->ours->workers <= 2 && !strstr(c->ours->work, "memory") &&
           stands_for_its_work(results, c);
}

static bool same_work(const struct contest *a, const struct contest *b)
{
    return !strcmp(a->ours->bench, b->ours->bench) && !strcmp(a->ours->work, b->ours->work);
}

enum { RATIO_LABEL = 250, RATIO_WIDTH = 460, RATIO_LINE = 15, RATIO_TOP = 44 };

/* From a hundredth of the best rival's time to four times as much. */
static double ratio_x(double ratio)
{
    double low = log(0.01), high = log(4);
    double at = log(ratio < 0.01 ? 0.01 : ratio > 4 ? 4 : ratio);

    return RATIO_LABEL + (at - low) / (high - low) * RATIO_WIDTH;
}

static void print_ratio_axis(FILE *out, double height)
{
    static const double ticks[] = {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4};

    for (size_t i = 0; i < sizeof ticks / sizeof *ticks; i++) {
        char text[16];

        snprintf(text, sizeof text, "%g", ticks[i]);
        print_line(out, ratio_x(ticks[i]), RATIO_TOP - 6, ratio_x(ticks[i]), height,
                   ticks[i] == 1 ? "#000" : PALE);
        print_text(out, ratio_x(ticks[i]), RATIO_TOP - 10, "middle", "", text);
    }
}

static void print_ratio(FILE *out, const struct contest *c, double y)
{
    const char *colour = ratio_of(c) <= 1 ? GOOD : BAD;

    fprintf(out,
            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" stroke=\"%s\" fill=\"%s\"><title>%s: %s; %s: "
            "%s %s</title></circle>\n",
            ratio_x(ratio_of(c)), y, colour, c->ours->workers == 2 ? colour : "#fff", c->ours->who,
            number_text(c->ours->median), c->best->who, number_text(c->best->median),
            c->ours->unit);
}

void plot_ratios(FILE *out, const struct results *results)
{
    size_t lines = 0;
    double y = RATIO_TOP;

    for (size_t i = 0; i < results->n_contests; i++) {
        size_t j = 0;

        if (!is_shown(results, &results->contests[i]))
            continue;
        while (j < i && !(is_shown(results, &results->contests[j]) &&
                          same_work(&results->contests[j], &results->contests[i])))
            j++;
        lines += j == i;
    }
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" " FONT ">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
            RATIO_LABEL + RATIO_WIDTH + 20, RATIO_TOP + (int)lines * RATIO_LINE + 10);
    print_text(out, 8, 16, "start", "font-weight=\"bold\" font-size=\"13\"",
               "Our time over that of the best rival (less is better)");
    print_text(out, RATIO_LABEL + RATIO_WIDTH, 16, "end", "",
               "ring: 1 worker or none; dot: 2 workers; red: we are not first");
    print_ratio_axis(out, RATIO_TOP + (double)lines * RATIO_LINE);
    for (size_t i = 0; i < results->n_contests; i++) {
        const struct contest *c = &results->contests[i];
        size_t j = 0;

        if (!is_shown(results, c))
            continue;
        while (j < i &&
               !(is_shown(results, &results->contests[j]) && same_work(&results->contests[j], c)))
            j++;
        if (j < i)
            continue; /* drawn with the first of its work */
        print_text(out, RATIO_LABEL - 10, y + 11, "end", "", c->ours->work);
        for (j = i; j < results->n_contests; j++)
            if (is_shown(results, &results->contests[j]) && same_work(&results->contests[j], c))
                print_ratio(out, &results->contests[j], y + 7.5);
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
