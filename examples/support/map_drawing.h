/* SPDX-License-Identifier: MIT
 *
 * Shared by the two files that draw the map: map_svg.c and map_arrows.c. */
#ifndef EXAMPLES_SUPPORT_MAP_DRAWING_H
#define EXAMPLES_SUPPORT_MAP_DRAWING_H

#include "map.h"

struct box {
    int x, width;
};

struct drawing {
    const struct map *map;
    struct text *out;
    struct box *boxes;
    int width, top, height; /* of the whole; of the row of nodes */
    int above, below;       /* the longest arrows, in nodes passed */
    uint64_t most_tasks;    /* of a worker */
    uint64_t most_stolen;   /* between two nodes */
    int near, far;          /* distances between nodes */
};

static inline uint64_t drawing_stolen(const struct drawing *d, int from, int to)
{
    return d->map->stolen[from * d->map->info.nodes + to];
}

/* Finds the largest of everything, for scales. */
void drawing_survey(struct drawing *d);

/* How far an arrow that passes so many nodes reaches beyond them. */
int drawing_reach(int passed);
void drawing_arrows(struct drawing *d);

#endif
