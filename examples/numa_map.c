/* SPDX-License-Identifier: MIT
 *
 * Draws the machine and shows what the runtime does with work that arises in one place only: one
 * coroutine, pinned to one node, spawns all tasks of a load. Workers of its own node help first,
 * then those of other nodes, the nearest before the far ones; the counters say who took how much
 * from whom. A task stays where it was started, and its stack is memory of that node.
 *
 * What each worker finds out it writes into a place of its own, without any lock or atomic: no
 * other worker ever runs the same task. */
#include <errno.h>
#include <flowcoro.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/map.h"

#define MOST_TASKS   10000000
#define MOST_WORK_US 1000000

/* ---- the load ---- */

/* Written by the tasks that a worker runs, one at a time; read when all have ended. */
struct place {
    _Alignas(128) uint64_t tasks;
    int64_t first;
};

static struct load {
    struct map map;
    struct place *places;
    flow_task *tasks;
    int64_t begin;
} load;

static void keep_busy(int64_t span_ns)
{
    for (flow_deadline end = flow_after(span_ns); flow_now() < end;)
        ;
}

/* Half of the work, a wait as for a disk, the other half. It began here, so it goes on here. */
static flow_result work(void *unused)
{
    struct place *place = &load.places[flow_current_worker()];

    (void)unused;
    if (place->tasks++ == 0)
        place->first = flow_now();
    keep_busy(load.map.work_ns / 2);
    int error = flow_sleep(FLOW_MS(1));
    if (error)
        return flow_err(error);
    keep_busy(load.map.work_ns / 2);
    return flow_ok(NULL);
}

/* Half way through, when all workers are in the midst of it, it looks where everything lies. */
static int join_all(void)
{
    for (uint64_t i = 0; i < load.map.n_tasks; i++) {
        flow_result result;
        int error = i == load.map.n_tasks / 2 ? map_look_at_pages(&load.map) : 0;
        if (!error)
            error = flow_join(load.tasks[i], &result, FLOW_FOREVER);
        if (error || flow_is_err(result))
            return error ? error : result.error;
    }
    return 0;
}

static flow_result spawn_all(void *unused)
{
    (void)unused;
    load.begin = flow_now();
    for (uint64_t i = 0; i < load.map.n_tasks; i++) {
        int error = flow_spawn(&load.tasks[i], work, NULL);
        if (error)
            return flow_err(error);
    }
    load.map.spawned_ns = flow_now() - load.begin;
    int error = map_look_at_queues(&load.map);
    if (!error)
        error = join_all();
    load.map.finished_ns = flow_now() - load.begin;
    return error ? flow_err(error) : flow_ok(NULL);
}

static void collect_places(void)
{
    for (int i = 0; i < load.map.info.workers; i++) {
        struct map_worker *worker = &load.map.workers[i];
        const struct place *place = &load.places[i];

        worker->tasks = place->tasks;
        if (place->tasks)
            worker->busy_after_ns = place->first - load.begin;
    }
    load.map.workers[load.map.spawner].busy_after_ns = 0;
}

/* On the first worker of that node. The runtime runs. */
static int run_load(int node)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    flow_result result;
    flow_task task;

    int error = map_begin(&load.map);
    if (error)
        return error;
    if (node >= load.map.info.nodes || load.map.nodes[node].is.workers == 0) {
        fprintf(stderr, "numa_map: no worker sits on node %d\n", node);
        return -ENODEV;
    }
    load.places = aligned_alloc(128, (size_t)load.map.info.workers * sizeof *load.places);
    load.tasks = calloc(load.map.n_tasks, sizeof *load.tasks);
    if (!load.places || !load.tasks)
        return -ENOMEM;
    memset(load.places, 0, (size_t)load.map.info.workers * sizeof *load.places);
    load.map.spawner = options.worker = load.map.nodes[node].is.first_worker;
    options.flags = FLOW_PINNED;
    error = flow_spawn_with(&task, &options, spawn_all, NULL);
    if (!error)
        error = flow_join(task, &result, FLOW_FOREVER);
    if (!error)
        error = result.error;
    if (error)
        return error;
    collect_places();
    return map_end(&load.map);
}

/* ---- showing it ---- */

static int write_svg(const char *path)
{
    struct text svg = {0};
    FILE *file = fopen(path, "we");
    int error = file ? 0 : -errno;

    if (file) {
        map_draw(&load.map, &svg);
        error = text_write(&svg, fileno(file));
        if (fclose(file) && !error)
            error = -errno;
    }
    if (error)
        fprintf(stderr, "numa_map: %s: %s\n", path, strerror(-error));
    text_free(&svg);
    return error;
}

static int show(const char *svg_path)
{
    struct text text = {0};

    map_print(&load.map, &text);
    int error = text_write(&text, STDOUT_FILENO);
    text_free(&text);
    if (error)
        fprintf(stderr, "numa_map: standard output: %s\n", strerror(-error));
    return error || !svg_path ? error : write_svg(svg_path);
}

static int run(const struct flow_options *options, int node, const char *svg_path)
{
    int error = flow_start(options);

    if (error) {
        fprintf(stderr, "numa_map: %s\n", flow_start_error());
        return error;
    }
    error = run_load(node);
    if (error && error != -ENODEV)
        fprintf(stderr, "numa_map: the load: %s\n", strerror(-error));
    if (!error)
        error = show(svg_path);
    flow_stop(FLOW_FOREVER);
    map_free(&load.map);
    free(load.places);
    free(load.tasks);
    return error;
}

/* ---- the command line ---- */

static const char help[] =
    "Usage: numa_map [--tasks N] [--work US] [--node N] [--workers N] [--svg FILE]\n"
    "Shows the machine as the runtime sees it, and where tasks run and their stacks lie when one\n"
    "coroutine on one node spawns them all.\n"
    "\n"
    "  --tasks N     so many (1 to 10000000; 20000)\n"
    "  --work US     each keeps its CPU for so many microseconds (0 to 1000000; 20)\n"
    "  --node N      on which node they are spawned (0)\n"
    "  --workers N   worker threads (1 to 1024; one per CPU)\n"
    "  --svg FILE    draws the same as a picture\n"
    "  --help        this text\n"
    "\n"
    "With FLOW_TOPOLOGY=FOLDER it runs on a machine that a folder like /sys/devices/system describes.\n"
    "Exit status: 0 done, 1 it failed, 2 wrong usage.\n";

static int usage_error(const char *complaint, const char *value)
{
    fprintf(stderr, "numa_map: %s%s\nTry: numa_map --help\n", complaint, value);
    return 2;
}

static bool parse_number(const char *text, long least, long most, long *n)
{
    char *end;

    errno = 0;
    long parsed = strtol(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || parsed < least || parsed > most)
        return false;
    *n = parsed;
    return true;
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"tasks", required_argument, NULL, 't'}, {"work", required_argument, NULL, 'w'},
        {"node", required_argument, NULL, 'n'},  {"workers", required_argument, NULL, 'k'},
        {"svg", required_argument, NULL, 's'},   {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct flow_options options = FLOW_OPTIONS_INIT;
    long tasks = 20000, work_us = 20, node = 0, workers = FLOW_WORKERS_AUTO;
    const char *svg_path = NULL;
    int option;

    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 't':
            if (!parse_number(optarg, 1, MOST_TASKS, &tasks))
                return usage_error("--tasks takes 1 to 10000000, not ", optarg);
            break;
        case 'w':
            if (!parse_number(optarg, 0, MOST_WORK_US, &work_us))
                return usage_error("--work takes 0 to 1000000 microseconds, not ", optarg);
            break;
        case 'n':
            if (!parse_number(optarg, 0, 1023, &node))
                return usage_error("--node takes the number of a node, not ", optarg);
            break;
        case 'k':
            if (!parse_number(optarg, 1, 1024, &workers))
                return usage_error("--workers takes 1 to 1024, not ", optarg);
            break;
        case 's':
            svg_path = optarg;
            break;
        case 'h':
            fputs(help, stdout);
            return EXIT_SUCCESS;
        default:
            fputs("Try: numa_map --help\n", stderr); /* getopt has said what is wrong */
            return 2;
        }
    }
    if (optind < argc)
        return usage_error("it takes no argument ", argv[optind]);
    load.map.n_tasks = (uint64_t)tasks;
    load.map.work_ns = FLOW_US(work_us);
    options.workers = (int)workers;
    if (options.max_tasks < load.map.n_tasks + 1)
        options.max_tasks = load.map.n_tasks + 1;
    return run(&options, (int)node, svg_path) ? EXIT_FAILURE : EXIT_SUCCESS;
}
