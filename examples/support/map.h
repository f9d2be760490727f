/* SPDX-License-Identifier: MIT
 *
 * What numa_map has found out: the machine, who sits where on it, and what a load that was spawned
 * in one place has done to it. Filled by numa_map.c and map.c, printed by map_text.c, drawn by
 * map_svg.c; belongs to the main thread. */
#ifndef EXAMPLES_SUPPORT_MAP_H
#define EXAMPLES_SUPPORT_MAP_H

#include <flowcoro.h>
#include <stdbool.h>
#include <stdint.h>

#include "text.h"

struct map_worker {
    int node, cpu_id;
    bool pinned;
    uint64_t queued;       /* tasks that waited in its queues when the last one had been spawned */
    uint64_t tasks;        /* of the load, run here */
    int64_t busy_after_ns; /* from the first spawn to its first task; -1: it had none. The spawner's
                            * is busy from the beginning */
};

struct map_node {
    struct flow_topology_node is;
    int spare_cpus; /* without a worker */
    uint64_t queued; /* there and in the queue that its workers share */
    uint64_t tasks;
};

struct map {
    struct flow_info info;
    struct map_worker *workers;
    struct map_node *nodes;
    uint64_t *steals, *stolen; /* [from * info.nodes + to]: visits, tasks */

    /* Where the runtime's pages lay in the middle of the load. */
    bool pages_known; /* the system tells, and the machine is a real one */
    struct flow_memory_report pages;

    /* The load. */
    uint64_t n_tasks;
    int64_t work_ns;       /* of each task */
    int spawner;           /* the worker on which all were spawned */
    int64_t spawned_ns;    /* from the first spawn to the last */
    int64_t finished_ns;   /* and to the end of the last task */
    int64_t all_busy_ns;   /* and until every worker had run one; -1: some never did */
};

/* The machine as the runtime, which must run, sees it. 0 or a negative errno. */
int map_begin(struct map *map);

/* The tasks that wait on each worker just now. */
int map_look_at_queues(struct map *map);

/* Where the pages of live tasks and of workers lie just now. */
int map_look_at_pages(struct map *map);

/* Steals between nodes, and the sums; once all tasks have ended and each worker's numbers are in. */
int map_end(struct map *map);
void map_free(struct map *map);

static inline int map_spawning_node(const struct map *map)
{
    return map->workers[map->spawner].node;
}

/* Tasks that ran on another node than the one on which all were spawned. */
uint64_t map_away(const struct map *map);

/* The pages of a node, or of all, taken together. */
struct flow_memory_pages map_all_pages(const struct flow_memory_node *node);

/* The two ways to show it. */
void map_print(const struct map *map, struct text *out);
void map_draw(const struct map *map, struct text *out);

enum { MAP_TEXT = 32 };

/* A span for people, such as "214 us". buffer holds MAP_TEXT bytes; returns buffer. */
char *map_span(char *buffer, int64_t ns);

/* A number of bytes, such as "1.9 GiB". buffer holds MAP_TEXT bytes; returns buffer. */
char *map_bytes(char *buffer, uint64_t bytes);

/* part of whole in percent; 100 if there is nothing */
double map_percent(uint64_t part, uint64_t whole);

#endif
