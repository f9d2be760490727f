/* SPDX-License-Identifier: MIT
 *
 * The arrows between nodes, above the boxes to the right and below them to the left. They leave on
 * the side to which they go and arrive on the side from which they come, the longest
 * outside, so that those of one node never cross. See map_drawing.h. */
#include "map_drawing.h"

#include <math.h>
#include <stdlib.h>

#define ARC_STEP 44 /* height of an arrow per node that it passes */

void drawing_survey(struct drawing *d)
{
    const struct map *map = d->map;

    d->near = INT32_MAX;
    for (int i = 0; i < map->info.workers; i++)
        if (map->workers[i].tasks > d->most_tasks)
            d->most_tasks = map->workers[i].tasks;
    for (int from = 0; from < map->info.nodes; from++)
        for (int to = 0; to < map->info.nodes; to++) {
            int distance = flow_topology_distance(from, to), passed = abs(to - from);

            if (from == to || drawing_stolen(d, from, to) == 0)
                continue;
            d->near = distance < d->near ? distance : d->near;
            d->far = distance > d->far ? distance : d->far;
            if (drawing_stolen(d, from, to) > d->most_stolen)
                d->most_stolen = drawing_stolen(d, from, to);
            if (to > from && passed > d->above)
                d->above = passed;
            if (to < from && passed > d->below)
                d->below = passed;
        }
}

int drawing_reach(int passed)
{
    return passed ? ARC_STEP * passed + 10 : 0;
}

/* From green where nodes are near to red where they are as far as any. */
static int hue(const struct drawing *d, int distance)
{
    return d->far == d->near ? 165 : 165 - 165 * (distance - d->near) / (d->far - d->near);
}

/* Where on a node's edge the arrow to or from another node begins or ends. */
static double port(const struct drawing *d, int node, int other)
{
    const struct box *box = &d->boxes[node];
    int way = other > node ? 1 : -1, n = way > 0 ? d->map->info.nodes - 1 - node : node;
    int passed = abs(other - node); /* 1 to n; the longest nearest to the middle */
    double part = (n - passed + 0.5) / n;

    return box->x + box->width * (0.5 + way * 0.45 * part);
}

static void draw_arrow(struct drawing *d, int from, int to)
{
    bool over = to > from;
    int passed = abs(to - from), distance = flow_topology_distance(from, to);
    double x1 = port(d, from, to), x2 = port(d, to, from);
    double y = over ? d->top : d->top + d->height, up = over ? -1 : 1;
    double reach = up * drawing_reach(passed) * 4 / 3;
    double wide = 1.5 + 8 * sqrt((double)drawing_stolen(d, from, to) / (double)d->most_stolen);
    double tip = 7 + wide;
    char number[27];

    text_addf(d->out,
              "<path class=\"arrow\" stroke=\"hsl(%d,62%%,45%%)\" stroke-width=\"%.1f\" d=\"M%.1f %.1f "
              "C%.1f %.1f %.1f %.1f %.1f %.1f\"/>\n",
              hue(d, distance), wide, x1, y, x1, y + reach, x2, y + reach, x2, y + up * tip);
    text_addf(d->out, "<path fill=\"hsl(%d,62%%,45%%)\" d=\"M%.1f %.1f l%.1f %.1f h%.1f z\"/>\n",
              hue(d, distance), x2, y + up, -0.6 * tip - 2, up * tip, 1.2 * tip + 4);
    text_addf(d->out, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", (x1 + x2) / 2,
              y + 0.75 * reach + 4, text_group(number, drawing_stolen(d, from, to)));
}

void drawing_arrows(struct drawing *d)
{
    for (int passed = d->map->info.nodes - 1; passed > 0; passed--)
        for (int from = 0; from < d->map->info.nodes; from++)
            for (int to = from - passed; to <= from + passed; to += 2 * passed)
                if (to >= 0 && to < d->map->info.nodes && drawing_stolen(d, from, to))
                    draw_arrow(d, from, to);
}
