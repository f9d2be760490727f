/* SPDX-License-Identifier: MIT
 *
 * The map as text: a tree of the machine, then what the load has done. See map.h. */
#include "map.h"

#include <inttypes.h>

#define MOST_WORKERS 32 /* of a node, one by one */

static void print_worker(const struct map *map, int i, struct text *out)
{
    const struct map_worker *worker = &map->workers[i];
    char tasks[27], queued[27], span[MAP_TEXT] = "never";

    if (worker->busy_after_ns >= 0)
        map_span(span, worker->busy_after_ns);
    text_addf(out, "worker %-3d %s cpu %-4d %7s queued, %10s tasks, busy after %s%s\n", i,
              worker->pinned ? "on" : "at", worker->cpu_id, text_group(queued, worker->queued),
              text_group(tasks, worker->tasks), span,
              i == map->spawner ? "  <-- spawns all" : "");
}

static void print_share(struct text *out, const char *what, struct flow_memory_pages pages)
{
    char number[27];

    if (pages.pages)
        text_addf(out, "%s %.1f %% of %s", what, map_percent(pages.local, pages.pages),
                  text_group(number, pages.pages));
    else
        text_addf(out, "%s none", what);
}

static void print_shares(struct text *out, const struct flow_memory_node *node)
{
    print_share(out, "stacks", node->stacks);
    print_share(out, ", control blocks", node->blocks);
    print_share(out, ", queues", node->workers);
    text_addf(out, "\n");
}

/* The workers beyond the first ones, in one line. */
static void print_others(const struct map *map, int first, int end, struct text *out)
{
    char number[27];
    uint64_t tasks = 0;

    for (int i = first; i < end; i++)
        tasks += map->workers[i].tasks;
    text_addf(out, "%d more workers with %s tasks\n", end - first, text_group(number, tasks));
}

static void print_node_line(const struct map *map, int n, struct text *out)
{
    const struct map_node *node = &map->nodes[n];
    char bytes[MAP_TEXT], number[27];

    text_addf(out, "node %d", n);
    if (node->is.node_id != n)
        text_addf(out, " (the kernel's %d)", node->is.node_id);
    if (node->is.memory_bytes)
        text_addf(out, ", %s", map_bytes(bytes, node->is.memory_bytes));
    if (node->is.memory_node != n)
        text_addf(out, ", memory from node %d", node->is.memory_node);
    if (!node->is.cpus)
        text_addf(out, ", no CPUs");
    text_addf(out, ", distances");
    for (int to = 0; to < map->info.nodes; to++)
        text_addf(out, " %d", flow_topology_distance(n, to));
    if (node->is.workers)
        text_addf(out, ", %s queued", text_group(number, node->queued));
    if (node->spare_cpus)
        text_addf(out, ", %d CPUs without a worker", node->spare_cpus);
    text_addf(out, "\n");
}

static void print_node(const struct map *map, int n, struct text *out)
{
    bool last = n == map->info.nodes - 1;
    int first = map->nodes[n].is.first_worker, end = first + map->nodes[n].is.workers;
    int shown = end - first > MOST_WORKERS ? first + MOST_WORKERS - 1 : end;

    text_addf(out, "%s ", last ? "└─" : "├─");
    print_node_line(map, n, out);
    if (map->pages_known && first < end) {
        text_addf(out, "%s  │  local pages: ", last ? " " : "│");
        print_shares(out, &map->pages.nodes[n]);
    }
    for (int i = first; i < shown; i++) {
        text_addf(out, "%s  %s ", last ? " " : "│", i == end - 1 ? "└─" : "├─");
        print_worker(map, i, out);
    }
    if (shown < end) {
        text_addf(out, "%s  └─ ", last ? " " : "│");
        print_others(map, shown, end, out);
    }
}

static void print_steals(const struct map *map, struct text *out)
{
    int n = map->info.nodes;
    char number[27];

    text_addf(out, "\nsteals: tasks that workers of one node took from another, and in how many visits"
                   "\nfrom \\ to");
    for (int to = 0; to < n; to++)
        text_addf(out, "%14s %-3d", "node", to);
    for (int from = 0; from < n; from++) {
        text_addf(out, "\n  node %-3d", from);
        for (int to = 0; to < n; to++)
            text_addf(out, "%10s in %-4" PRIu64, text_group(number, map->stolen[from * n + to]),
                      map->steals[from * n + to]);
    }
    text_addf(out, "\n\n");
}

static void print_sums(const struct map *map, struct text *out)
{
    char tasks[27], away[27], spawned[MAP_TEXT], finished[MAP_TEXT], busy[MAP_TEXT];

    text_addf(out, "away: %s of %s tasks (%.1f %%) ran on another node\n",
              text_group(away, map_away(map)), text_group(tasks, map->n_tasks),
              map_percent(map_away(map), map->n_tasks));
    if (map->pages_known) {
        print_share(out, "local pages:", map_all_pages(&map->pages.total));
        text_addf(out, " half way through: ");
        print_shares(out, &map->pages.total);
    } else {
        text_addf(out, "local pages: unknown, the system does not tell or the machine is only "
                       "described\n");
    }
    text_addf(out, "spawned in %s, all done after %s\n", map_span(spawned, map->spawned_ns),
              map_span(finished, map->finished_ns));
    if (map->all_busy_ns >= 0)
        text_addf(out, "every worker was busy after %s\n", map_span(busy, map->all_busy_ns));
    else
        text_addf(out, "not every worker became busy: there was too little to do\n");
}

void map_print(const struct map *map, struct text *out)
{
    char tasks[27], span[MAP_TEXT];

    text_addf(out, "%d workers on %d CPUs and %d nodes; guards by %s, memory: %s\n",
              map->info.workers, map->info.cpus, map->info.nodes, map->info.guard,
              map->info.memory_policy);
    text_addf(out, "load: %s tasks of %s each, all spawned on node %d\n\n",
              text_group(tasks, map->n_tasks), map_span(span, map->work_ns),
              map_spawning_node(map));
    for (int n = 0; n < map->info.nodes; n++)
        print_node(map, n, out);
    print_steals(map, out);
    print_sums(map, out);
}
