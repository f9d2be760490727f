/* SPDX-License-Identifier: MIT
 *
 * The map as a picture: a box for each node with its workers as tiles, filled as far as they had
 * their share of the work; an arrow for each pair of nodes between which tasks were stolen; and
 * when each worker became busy. Lengths are in pixels. See map.h. */
#include "map_drawing.h"

#include <inttypes.h>
#include <stdlib.h>

#define MARGIN    32
#define GAP       28  /* between nodes */
#define PAD       14  /* within a node */
#define TILE_W    190 /* with text in it */
#define TILE_H    64
#define SMALL     26  /* without */
#define MOST_FULL 8   /* workers of a node whose tiles have text */
#define NODE_HEAD 72
#define HEADER    92
#define LEAST_W   760 /* of the whole: for the line of text */
#define ROW       22 /* of the table of times */

/* ---- layout ---- */

static bool is_full(const struct map_node *node)
{
    return node->is.workers <= MOST_FULL;
}

static int columns(const struct map_node *node)
{
    return is_full(node) ? (node->is.workers > 4 ? 2 : 1) : 8;
}

static int rows(const struct map_node *node)
{
    return (node->is.workers + columns(node) - 1) / columns(node);
}

static void place_nodes(struct drawing *d)
{
    int x = MARGIN;

    for (int n = 0; n < d->map->info.nodes; n++) {
        const struct map_node *node = &d->map->nodes[n];
        int tile = is_full(node) ? TILE_W + 8 : SMALL + 4, high = is_full(node) ? TILE_H + 8 : SMALL + 4;
        int width = columns(node) * tile + 2 * PAD - (is_full(node) ? 8 : 4);

        d->boxes[n] = (struct box){x, width};
        x += width + GAP;
        if (NODE_HEAD + rows(node) * high + PAD > d->height)
            d->height = NODE_HEAD + rows(node) * high + PAD;
    }
    d->width = x - GAP + MARGIN > LEAST_W ? x - GAP + MARGIN : LEAST_W;
}

/* ---- nodes and workers ---- */

static void draw_full_tile(struct drawing *d, int i, int x, int y)
{
    const struct map_worker *worker = &d->map->workers[i];
    double part = d->most_tasks ? (double)worker->tasks / (double)d->most_tasks : 0;
    char number[27];

    text_addf(d->out, "<rect class=\"tile%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"6\"/>\n",
              i == d->map->spawner ? " spawner" : "", x, y, TILE_W, TILE_H);
    text_addf(d->out, "<rect class=\"bar\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"6\" rx=\"3\"/>\n", x + 10,
              y + TILE_H - 12, part * (TILE_W - 20));
    text_addf(d->out, "<text class=\"strong\" x=\"%d\" y=\"%d\">worker %d</text>\n", x + 10, y + 19, i);
    text_addf(d->out, "<text class=\"end faint\" x=\"%d\" y=\"%d\">%scpu %d</text>\n", x + TILE_W - 10,
              y + 19, worker->pinned ? "" : "not on ", worker->cpu_id);
    text_addf(d->out, "<text x=\"%d\" y=\"%d\">%s tasks</text>\n", x + 10, y + 38,
              text_group(number, worker->tasks));
    text_addf(d->out, "<text class=\"end faint\" x=\"%d\" y=\"%d\">%s queued</text>\n", x + TILE_W - 10,
              y + 38, text_group(number, worker->queued));
}

static void draw_small_tile(struct drawing *d, int i, int x, int y)
{
    const struct map_worker *worker = &d->map->workers[i];
    double part = d->most_tasks ? (double)worker->tasks / (double)d->most_tasks : 0;

    text_addf(d->out,
              "<g><title>worker %d, cpu %d: %" PRIu64 " tasks</title><rect class=\"tile%s\" x=\"%d\" "
              "y=\"%d\" width=\"%d\" height=\"%d\" rx=\"4\"/>"
              "<rect class=\"bar\" x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"%.1f\"/></g>\n",
              i, worker->cpu_id, worker->tasks, i == d->map->spawner ? " spawner" : "", x, y, SMALL,
              SMALL, x + 3, y + 3 + (1 - part) * (SMALL - 6), SMALL - 6, part * (SMALL - 6));
}

static void draw_head(struct drawing *d, int n)
{
    const struct map_node *node = &d->map->nodes[n];
    struct flow_memory_pages pages = map_all_pages(&d->map->pages.nodes[n]);
    int x = d->boxes[n].x + PAD;
    char bytes[MAP_TEXT] = "no memory", number[27];

    if (node->is.memory_bytes)
        map_bytes(bytes, node->is.memory_bytes);
    text_addf(d->out, "<text class=\"name\" x=\"%d\" y=\"%d\">node %d</text>\n", x, d->top + 25, n);
    text_addf(d->out, "<text class=\"end faint\" x=\"%d\" y=\"%d\">%s%s</text>\n",
              d->boxes[n].x + d->boxes[n].width - PAD, d->top + 25,
              node->is.cpus ? "" : "no CPUs, ", bytes);
    text_addf(d->out, "<text x=\"%d\" y=\"%d\">", x, d->top + 44);
    if (d->map->pages_known && pages.pages)
        text_addf(d->out, "%.1f %% of %s pages local", map_percent(pages.local, pages.pages),
                  text_group(number, pages.pages));
    else if (node->is.workers)
        text_addf(d->out, "%s tasks", text_group(number, node->tasks));
    text_addf(d->out, "</text>\n");
    text_addf(d->out, "<text class=\"faint\" x=\"%d\" y=\"%d\">", x, d->top + 61);
    if (node->is.node_id != n)
        text_addf(d->out, "the kernel's %d; ", node->is.node_id);
    if (node->is.memory_node != n)
        text_addf(d->out, "memory from node %d; ", node->is.memory_node);
    if (node->is.workers)
        text_addf(d->out, "%s queued", text_group(number, node->queued));
    if (node->is.workers > 1)
        text_addf(d->out, "; %s stolen within", text_group(number, drawing_stolen(d, n, n)));
    text_addf(d->out, "</text>\n");
}

static void draw_node(struct drawing *d, int n)
{
    const struct map_node *node = &d->map->nodes[n];
    int first = node->is.first_worker;

    text_addf(d->out, "<rect class=\"node%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"12\"/>\n",
              node->is.memory_bytes ? "" : " bare", d->boxes[n].x, d->top, d->boxes[n].width, d->height);
    draw_head(d, n);
    for (int i = 0; i < node->is.workers; i++) {
        int column = i % columns(node), row = i / columns(node);
        int x = d->boxes[n].x + PAD, y = d->top + NODE_HEAD;

        if (is_full(node))
            draw_full_tile(d, first + i, x + column * (TILE_W + 8), y + row * (TILE_H + 8));
        else
            draw_small_tile(d, first + i, x + column * (SMALL + 4), y + row * (SMALL + 4));
    }
}

/* ---- when each worker became busy ---- */

static void draw_times(struct drawing *d, int y)
{
    int left = MARGIN + 70, right = d->width - MARGIN - 80;
    int64_t latest = 1;
    char span[MAP_TEXT];

    for (int i = 0; i < d->map->info.workers; i++)
        if (d->map->workers[i].busy_after_ns > latest)
            latest = d->map->workers[i].busy_after_ns;
    text_addf(d->out, "<text class=\"strong\" x=\"%d\" y=\"%d\">When each worker became busy</text>\n",
              MARGIN, y);
    for (int n = 0; n < d->map->info.nodes; n++) {
        int row = y + 26 + n * ROW;

        text_addf(d->out, "<text x=\"%d\" y=\"%d\">node %d</text>\n", MARGIN, row + 4,
                  n);
        text_addf(d->out, "<path class=\"axis\" d=\"M%d %d H%d\"/>\n", left, row, right);
    }
    for (int i = 0; i < d->map->info.workers; i++) {
        const struct map_worker *worker = &d->map->workers[i];

        if (worker->busy_after_ns < 0)
            continue;
        text_addf(d->out,
                  "<circle class=\"first\" cx=\"%.1f\" cy=\"%d\" r=\"5\"><title>worker %d: %s</title>"
                  "</circle>\n",
                  left + (double)worker->busy_after_ns / (double)latest * (right - left),
                  y + 26 + worker->node * ROW, i, map_span(span, worker->busy_after_ns));
    }
    y += 26 + d->map->info.nodes * ROW;
    text_addf(d->out, "<text class=\"faint\" x=\"%d\" y=\"%d\">0</text>\n", left, y);
    text_addf(d->out, "<text class=\"faint\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", right, y,
              map_span(span, latest));
}

/* ---- the whole ---- */

static const char style[] =
    "<style>\n"
    "text{font:13px 'DejaVu Sans',Verdana,sans-serif;fill:#1f2933}\n"
    ".title{font-size:20px;font-weight:bold}.name{font-size:16px;font-weight:bold}\n"
    ".strong{font-weight:bold}.faint{fill:#66717d;font-size:12px}.end{text-anchor:end}\n"
    ".node{fill:#eef2f6;stroke:#b6c2cf;stroke-width:1.2}.bare{stroke-dasharray:6 4}\n"
    ".tile{fill:#fff;stroke:#ccd5de}.spawner{stroke:#2f6fb5;stroke-width:2.5}\n"
    ".bar,.first{fill:#2f6fb5}.axis{stroke:#d5dce3;fill:none}\n"
    ".arrow{fill:none;stroke-opacity:.85}\n"
    ".label{font-weight:bold;text-anchor:middle;paint-order:stroke;stroke:#fff;stroke-width:5px}\n"
    "</style>\n";

static void draw_header(struct drawing *d)
{
    const struct map *map = d->map;
    struct flow_memory_pages all = map_all_pages(&map->pages.total);
    char tasks[27], busy[MAP_TEXT], away[27];

    text_addf(d->out,
              "<text class=\"title\" x=\"%d\" y=\"44\">%s tasks, all spawned on node %d</text>\n", MARGIN,
              text_group(tasks, map->n_tasks), map_spawning_node(map));
    text_addf(d->out,
              "<text x=\"%d\" y=\"68\">%d workers on %d nodes; %s%s; %s tasks (%.1f %%) ran on another "
              "node</text>\n",
              MARGIN, map->info.workers, map->info.nodes,
              map->all_busy_ns < 0 ? "not every worker became busy" : "all were busy after ",
              map->all_busy_ns < 0 ? "" : map_span(busy, map->all_busy_ns),
              text_group(away, map_away(map)), map_percent(map_away(map), map->n_tasks));
    text_addf(d->out, "<text class=\"faint\" x=\"%d\" y=\"87\">", MARGIN);
    if (map->pages_known)
        text_addf(d->out, "local pages: %.1f %%; ", map_percent(all.local, all.pages));
    text_addf(d->out, "memory: %s; arrows: tasks stolen, green near, red far</text>\n",
              map->info.memory_policy);
}

void map_draw(const struct map *map, struct text *out)
{
    struct drawing d = {.map = map, .out = out};
    int table, height;

    d.boxes = calloc((size_t)map->info.nodes, sizeof *d.boxes);
    if (!d.boxes) {
        out->out_of_memory = true;
        return;
    }
    drawing_survey(&d);
    place_nodes(&d);
    d.top = HEADER + 20 + drawing_reach(d.above);
    table = d.top + d.height + drawing_reach(d.below) + 40;
    height = table + 26 + map->info.nodes * ROW + 24;
    text_addf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                   "viewBox=\"0 0 %d %d\">\n%s<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
              d.width, height, d.width, height, style);
    draw_header(&d);
    for (int n = 0; n < map->info.nodes; n++)
        draw_node(&d, n);
    drawing_arrows(&d);
    draw_times(&d, table);
    text_addf(out, "</svg>\n");
    free(d.boxes);
}
