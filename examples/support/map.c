/* SPDX-License-Identifier: MIT
 *
 * Asks the library what it knows of the machine and of steals. See map.h. */
#include "map.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int ask_workers(struct map *map)
{
    for (int i = 0; i < map->info.workers; i++) {
        struct flow_topology_worker is = {.size = sizeof is};
        int error = flow_topology_worker(i, &is);
        if (error)
            return error;
        map->workers[i] = (struct map_worker){
            .node = is.node, .cpu_id = is.cpu_id, .pinned = is.pinned, .busy_after_ns = -1};
    }
    return 0;
}

static bool has_worker(const struct map *map, int cpu_id)
{
    for (int i = 0; i < map->info.workers; i++)
        if (map->workers[i].cpu_id == cpu_id)
            return true;
    return false;
}

static int ask_nodes(struct map *map)
{
    for (int i = 0; i < map->info.nodes; i++) {
        map->nodes[i].is.size = sizeof map->nodes[i].is;
        int error = flow_topology_node(i, &map->nodes[i].is);
        if (error)
            return error;
    }
    for (int i = 0; i < map->info.cpus; i++) {
        struct flow_topology_cpu cpu = {.size = sizeof cpu};
        int error = flow_topology_cpu(i, &cpu);
        if (error)
            return error;
        map->nodes[cpu.node].spare_cpus += !has_worker(map, cpu.cpu_id);
    }
    return 0;
}

int map_begin(struct map *map)
{
    map->info.size = sizeof map->info;
    int error = flow_info(&map->info);
    if (error)
        return error;
    size_t n = (size_t)map->info.nodes;
    map->workers = calloc((size_t)map->info.workers, sizeof *map->workers);
    map->nodes = calloc(n, sizeof *map->nodes);
    map->steals = calloc(n * n, sizeof *map->steals);
    map->stolen = calloc(n * n, sizeof *map->stolen);
    map->pages.size = sizeof map->pages;
    map->pages.n_nodes = n;
    map->pages.nodes = calloc(n, sizeof *map->pages.nodes);
    if (!map->workers || !map->nodes || !map->steals || !map->stolen || !map->pages.nodes)
        return -ENOMEM;
    error = ask_workers(map);
    return error ? error : ask_nodes(map);
}

int map_look_at_queues(struct map *map)
{
    for (int i = 0; i < map->info.workers; i++) {
        struct flow_worker_stats stats;
        int error = flow_stats_worker(i, &stats);
        if (error)
            return error;
        map->workers[i].queued = stats.queued;
    }
    for (int n = 0; n < map->info.nodes; n++) {
        int error = flow_stats_queued(n, &map->nodes[n].queued);
        if (error)
            return error;
    }
    return 0;
}

int map_look_at_pages(struct map *map)
{
    int error = flow_memory_check(&map->pages);

    /* A sandbox may forbid the question. */
    if (error == -EPERM || error == -ENOSYS)
        return 0;
    map->pages_known = !error && !getenv("FLOW_TOPOLOGY");
    return error;
}

static void add_up(struct map *map)
{
    map->all_busy_ns = 0;
    for (int i = 0; i < map->info.workers; i++) {
        const struct map_worker *worker = &map->workers[i];

        map->nodes[worker->node].tasks += worker->tasks;
        if (worker->busy_after_ns < 0)
            map->all_busy_ns = -1;
        else if (map->all_busy_ns >= 0 && worker->busy_after_ns > map->all_busy_ns)
            map->all_busy_ns = worker->busy_after_ns;
    }
}

int map_end(struct map *map)
{
    int n = map->info.nodes;

    for (int i = 0; i < n * n; i++) {
        int error = flow_stats_steals(i / n, i % n, &map->steals[i], &map->stolen[i]);
        if (error)
            return error;
    }
    add_up(map);
    return 0;
}

void map_free(struct map *map)
{
    free(map->workers);
    free(map->nodes);
    free(map->steals);
    free(map->stolen);
    free(map->pages.nodes);
}

uint64_t map_away(const struct map *map)
{
    return map->n_tasks - map->nodes[map_spawning_node(map)].tasks;
}

struct flow_memory_pages map_all_pages(const struct flow_memory_node *node)
{
    return (struct flow_memory_pages){
        .pages = node->stacks.pages + node->blocks.pages + node->workers.pages,
        .local = node->stacks.local + node->blocks.local + node->workers.local,
    };
}

char *map_span(char *buffer, int64_t ns)
{
    if (ns < 10000)
        snprintf(buffer, MAP_TEXT, "%" PRId64 " ns", ns);
    else if (ns < 10000000)
        snprintf(buffer, MAP_TEXT, "%" PRId64 " us", ns / 1000);
    else
        snprintf(buffer, MAP_TEXT, "%" PRId64 " ms", ns / 1000000);
    return buffer;
}

char *map_bytes(char *buffer, uint64_t bytes)
{
    if (bytes < (uint64_t)1 << 30)
        snprintf(buffer, MAP_TEXT, "%.0f MiB", (double)bytes / (1 << 20));
    else
        snprintf(buffer, MAP_TEXT, "%.1f GiB", (double)bytes / (1 << 30));
    return buffer;
}

double map_percent(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 100.0;
}
