/* SPDX-License-Identifier: MIT
 *
 * Reads the topology from sysfs or from a folder that looks like it.
 *
 * Which CPUs are ours is asked of the kernel's scheduler (sched_getaffinity): in a
 * container the files of sysfs speak of the whole host, or are made up. Everything else
 * about them is read from files which may be missing, cut off or absurd. Each
 * fact is filled in with a plain default first and overwritten only by a file that
 * makes sense: a list that rises, a group that contains its own CPU, distances in the
 * range that ACPI allows.
 *
 * Runs once, on the thread that starts the runtime. Only running out of memory, or not
 * one usable CPU, stops it. */
#include "numa/topology.h"

#include "numa/id_list.h"
#include "numa/node_memory.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIVE_ROOT "/sys/devices/system"

enum {
    MAX_SMT = 16, /* threads of one core; today's largest has 8 */
    CACHE_LEAVES = 10,
    LOCAL_DISTANCE = 10, /* fixed by ACPI, as is the limit */
    REMOTE_DISTANCE = 20,
    MAX_DISTANCE = 255,
};

/* Reads a whole text file. The caller frees *text. */
__attribute__((format(printf, 2, 3))) static int read_text(char **text, const char *format, ...)
{
    char path[PATH_MAX];
    size_t capacity = 0;
    va_list args;
    FILE *file;
    int r = 0, length;

    *text = NULL;
    va_start(args, format);
    length = vsnprintf(path, sizeof path, format, args);
    va_end(args);
    if (length < 0 || (size_t)length >= sizeof path)
        return -ENAMETOOLONG;
    file = fopen(path, "re");
    if (!file)
        return -errno;
    errno = 0;
    if (getdelim(text, &capacity, '\0', file) < 0) {
        r = errno ? -errno : -ENODATA; /* an empty file, or a folder in its place */
        free(*text);
        *text = NULL;
    }
    fclose(file);
    return r;
}

/* --- the CPUs that are ours --- */

/* cpu_set_t ends at 1,024 CPUs, and the kernel refuses a mask that is shorter than its own. */
static int live_affinity(struct flow__id_list *list)
{
    int r = -EINVAL;

    for (size_t n = 1024; n <= FLOW__MAX_ID + 1u && r == -EINVAL; n *= 2) {
        size_t bytes = CPU_ALLOC_SIZE(n);
        cpu_set_t *set = CPU_ALLOC(n);

        if (!set)
            return -ENOMEM;
        r = sched_getaffinity(0, bytes, set) ? -errno : 0;
        for (size_t id = 0; id < n && !r; id++)
            if (CPU_ISSET_S(id, bytes, set))
                r = flow__id_list_add(list, (int)id);
        CPU_FREE(set);
    }
    if (r)
        flow__id_list_free(list);
    return r;
}

static int read_online(struct flow__id_list *list, const char *root)
{
    char *text;
    int r = read_text(&text, "%s/cpu/online", root);

    return r ? r : flow__id_list_take(list, text);
}

/* As the kernel would answer: what the mask allows and is online. */
static int fixture_affinity(struct flow__id_list *list, const char *root)
{
    struct flow__id_list online = {0};
    char *text;
    int kept = 0;
    int r = read_text(&text, "%s/affinity", root);

    if (r)
        return r;
    r = flow__id_list_take(list, text);
    if (r)
        return r;
    r = read_online(&online, root);
    for (int i = 0; i < list->n && !r; i++)
        if (flow__id_list_has(&online, list->ids[i]))
            list->ids[kept++] = list->ids[i];
    if (!r)
        list->n = kept;
    flow__id_list_free(&online);
    return 0;
}

static int read_affinity(struct flow__id_list *list, const char *root, bool live)
{
    int r = live ? live_affinity(list) : fixture_affinity(list, root);

    if (r == -ENOENT || (r && live && r != -ENOMEM))
        r = read_online(list, root);
    if (!r && !list->n) {
        flow__id_list_free(list);
        r = -EINVAL;
    }
    return r;
}

static int make_cpus(struct flow__topology *topology, const char *root, bool live)
{
    struct flow__id_list list = {0};
    int r = read_affinity(&list, root, live);

    if (r)
        return r;
    topology->cpus = calloc((size_t)list.n, sizeof *topology->cpus);
    if (!topology->cpus) {
        flow__id_list_free(&list);
        return -ENOMEM;
    }
    topology->n_cpus = list.n;
    for (int i = 0; i < list.n; i++)
        topology->cpus[i] = (struct flow__cpu){list.ids[i], -1, -1, -1};
    flow__id_list_free(&list);
    return 0;
}

/* --- who shares a core and a cache --- */

static int *core_of(struct flow__cpu *cpu)
{
    return &cpu->core;
}

static int *l3_cache_of(struct flow__cpu *cpu)
{
    return &cpu->l3_cache;
}

/* Gives all members of a group that a file of `cpu` lists the same name. One file per group
 * is enough, which on a machine with 2,048 CPUs saves most of the reading. */
static int name_group(struct flow__topology *topology, const struct flow__cpu *cpu, char *text,
                      int max_members, int *(*field)(struct flow__cpu *))
{
    struct flow__id_list list;
    int r = flow__id_list_take(&list, text);

    if (r)
        return r;
    if (list.n > max_members || !flow__id_list_has(&list, cpu->cpu_id))
        r = -EINVAL;
    for (int i = 0; i < list.n && !r; i++) {
        int member = flow__topology_find_cpu(topology, list.ids[i]);

        if (member >= 0 && *field(&topology->cpus[member]) < 0)
            *field(&topology->cpus[member]) = list.ids[0];
    }
    flow__id_list_free(&list);
    return r;
}

/* Linux 5.4 renamed thread_siblings_list. */
static int read_core(struct flow__topology *topology, struct flow__cpu *cpu, const char *root)
{
    char *text;
    int r = read_text(&text, "%s/cpu/cpu%d/topology/core_cpus_list", root, cpu->cpu_id);

    if (r)
        r = read_text(&text, "%s/cpu/cpu%d/topology/thread_siblings_list", root, cpu->cpu_id);
    return r ? r : name_group(topology, cpu, text, MAX_SMT, core_of);
}

static bool is_l3(const struct flow__cpu *cpu, const char *root, int leaf)
{
    char *text;
    bool is;

    if (read_text(&text, "%s/cpu/cpu%d/cache/index%d/level", root, cpu->cpu_id, leaf))
        return false;
    is = text[0] == '3' && (!text[1] || text[1] == '\n');
    free(text);
    return is;
}

static int read_l3(struct flow__topology *topology, struct flow__cpu *cpu, const char *root)
{
    char *text;
    int leaf = 0;
    int r;

    while (leaf < CACHE_LEAVES && !is_l3(cpu, root, leaf))
        leaf++;
    if (leaf == CACHE_LEAVES)
        return -ENOENT;
    r = read_text(&text, "%s/cpu/cpu%d/cache/index%d/shared_cpu_list", root, cpu->cpu_id, leaf);
    return r ? r : name_group(topology, cpu, text, INT_MAX, l3_cache_of);
}

static int read_groups(struct flow__topology *topology, const char *root)
{
    for (int i = 0; i < topology->n_cpus; i++) {
        struct flow__cpu *cpu = &topology->cpus[i];

        if (cpu->core < 0 && read_core(topology, cpu, root) == -ENOMEM)
            return -ENOMEM;
        if (cpu->l3_cache < 0 && read_l3(topology, cpu, root) == -ENOMEM)
            return -ENOMEM;
        if (cpu->core < 0)
            cpu->core = cpu->cpu_id;
        if (cpu->l3_cache < 0)
            cpu->l3_cache = cpu->cpu_id;
    }
    return 0;
}

/* --- nodes --- */

/* Lists the folders nodeN: only nodes that are online have one. */
static int list_nodes(struct flow__id_list *list, const char *root)
{
    char path[PATH_MAX];
    struct dirent *entry;
    DIR *folder;
    int r = 0;

    if ((size_t)snprintf(path, sizeof path, "%s/node", root) >= sizeof path)
        return -ENAMETOOLONG;
    folder = opendir(path);
    if (!folder)
        return -errno;
    while (!r && (entry = readdir(folder))) {
        const char *at = entry->d_name + 4;
        int id =
            strncmp(entry->d_name, "node", 4) ? -1 : flow__parse_id(&at, FLOW__MAX_NODE_IDS - 1);

        if (id >= 0 && !*at)
            r = flow__id_list_add(list, id);
    }
    closedir(folder);
    flow__id_list_sort(list);
    return r;
}

/* A kernel without NUMA has no nodes: all memory is one. */
static void make_single_node(struct flow__topology *topology, bool live)
{
    struct flow__node *node = &topology->nodes[0];
    long pages = live ? sysconf(_SC_PHYS_PAGES) : 0;

    if (pages > 0)
        node->memory_bytes = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
    node->memory_allowed = true;
}

/* From the line "Node 0 MemTotal:  7039188 kB"; 0 if there is none. */
static uint64_t read_memory_bytes(const char *root, int node_id)
{
    char *text, *at;
    unsigned long long kilobytes = 0;

    if (read_text(&text, "%s/node/node%d/meminfo", root, node_id))
        return 0;
    at = strstr(text, "MemTotal:");
    if (at) {
        at += strlen("MemTotal:");
        at += strspn(at, " \t");
        if (isdigit((unsigned char)*at))
            kilobytes = strtoull(at, NULL, 10);
    }
    free(text);
    return kilobytes > UINT64_MAX / 1024 ? 0 : (uint64_t)kilobytes * 1024;
}

/* A CPU belongs to the first node that claims it. */
static int claim_cpus(struct flow__topology *topology, int node, const char *root)
{
    struct flow__id_list list;
    char *text;
    int r = read_text(&text, "%s/node/node%d/cpulist", root, topology->nodes[node].node_id);

    if (!r)
        r = flow__id_list_take(&list, text);
    if (r)
        return r;
    for (int i = 0; i < list.n; i++) {
        int cpu = flow__topology_find_cpu(topology, list.ids[i]);

        if (cpu >= 0 && topology->cpus[cpu].node < 0)
            topology->cpus[cpu].node = node;
    }
    flow__id_list_free(&list);
    return 0;
}

/* One number per node that is online, in the order of their ids. Written to row only as a whole. */
static void parse_distances(int *row, int n, int self, const char *at)
{
    int values[FLOW__MAX_NODE_IDS] = {0};

    for (int i = 0; i < n; i++) {
        at += strspn(at, " \t");
        values[i] = flow__parse_id(&at, MAX_DISTANCE);
        if (values[i] < LOCAL_DISTANCE)
            return;
    }
    at += strspn(at, " \t\n");
    if (!*at && values[self] == LOCAL_DISTANCE)
        memcpy(row, values, (size_t)n * sizeof *row);
}

static void read_distances(struct flow__topology *topology, int node, const char *root)
{
    int *row = topology->distances + (size_t)node * (size_t)topology->n_nodes;
    char *text;

    for (int i = 0; i < topology->n_nodes; i++)
        row[i] = i == node ? LOCAL_DISTANCE : REMOTE_DISTANCE;
    if (read_text(&text, "%s/node/node%d/distance", root, topology->nodes[node].node_id))
        return;
    parse_distances(row, topology->n_nodes, node, text);
    free(text);
}

static int fixture_mems_allowed(unsigned long *mask, const char *root)
{
    struct flow__id_list list;
    char *text;
    int r = read_text(&text, "%s/mems_allowed", root);

    if (!r)
        r = flow__id_list_take(&list, text);
    if (r)
        return r;
    memset(mask, 0, FLOW__NODE_MASK_WORDS * sizeof *mask);
    for (int i = 0; i < list.n && list.ids[i] < FLOW__MAX_NODE_IDS; i++)
        mask[(size_t)list.ids[i] / (8 * sizeof *mask)] |=
            1ul << ((size_t)list.ids[i] % (8 * sizeof *mask));
    flow__id_list_free(&list);
    return 0;
}

/* A sandbox may refuse the question; then it refuses binds too and the answer does not matter. */
static void mark_allowed_memory(struct flow__topology *topology, const char *root, bool live)
{
    unsigned long mask[FLOW__NODE_MASK_WORDS];
    int r = live ? flow__node_memory_allowed(mask) : fixture_mems_allowed(mask, root);

    for (int i = 0; i < topology->n_nodes; i++) {
        struct flow__node *node = &topology->nodes[i];

        node->memory_allowed =
            node->memory_bytes && (r || flow__node_mask_has(mask, node->node_id));
    }
}

static int nearest_memory(const struct flow__topology *topology, int from)
{
    int best = -1;

    if (topology->nodes[from].memory_allowed)
        return from;
    for (int to = 0; to < topology->n_nodes; to++)
        if (topology->nodes[to].memory_allowed &&
            (best < 0 || flow__topology_distance(topology, from, to) <
                             flow__topology_distance(topology, from, best)))
            best = to;
    return best < 0 ? from : best;
}

static int allocate_nodes(struct flow__topology *topology, int n)
{
    topology->nodes = calloc((size_t)n, sizeof *topology->nodes);
    topology->distances = calloc((size_t)n * (size_t)n, sizeof *topology->distances);
    topology->n_nodes = n;
    return topology->nodes && topology->distances ? 0 : -ENOMEM;
}

static int make_nodes(struct flow__topology *topology, const char *root, bool live)
{
    struct flow__id_list list = {0};
    int r = list_nodes(&list, root);

    if (r != -ENOMEM)
        r = allocate_nodes(topology, list.n ? list.n : 1);
    for (int i = 0; i < list.n && !r; i++)
        topology->nodes[i].node_id = list.ids[i];
    if (!r && !list.n)
        make_single_node(topology, live);
    else if (!r)
        for (int i = 0; i < list.n; i++)
            topology->nodes[i].memory_bytes = read_memory_bytes(root, list.ids[i]);
    if (!r && list.n)
        mark_allowed_memory(topology, root, live);
    flow__id_list_free(&list);
    return r;
}

/* A CPU that no node claims goes to the first node: wrong at worst, and then only slow. */
static int connect_nodes(struct flow__topology *topology, const char *root)
{
    for (int i = 0; i < topology->n_nodes; i++) {
        read_distances(topology, i, root);
        if (claim_cpus(topology, i, root) == -ENOMEM)
            return -ENOMEM;
    }
    for (int i = 0; i < topology->n_cpus; i++) {
        if (topology->cpus[i].node < 0)
            topology->cpus[i].node = 0;
        topology->nodes[topology->cpus[i].node].n_cpus++;
    }
    for (int i = 0; i < topology->n_nodes; i++)
        topology->nodes[i].memory_node = nearest_memory(topology, i);
    return 0;
}

int flow__topology_read(struct flow__topology *topology, const char *root)
{
    bool live = !root;
    int r;

    *topology = (struct flow__topology){.live = live};
    if (live)
        root = LIVE_ROOT;
    r = make_cpus(topology, root, live);
    if (!r)
        r = read_groups(topology, root);
    if (!r)
        r = make_nodes(topology, root, live);
    if (!r)
        r = connect_nodes(topology, root);
    if (r)
        flow__topology_free(topology);
    return r;
}

void flow__topology_free(struct flow__topology *topology)
{
    free(topology->cpus);
    free(topology->nodes);
    free(topology->distances);
    *topology = (struct flow__topology){0};
}

int flow__topology_find_cpu(const struct flow__topology *topology, int cpu_id)
{
    int low = 0, high = topology->n_cpus;

    while (low < high) {
        int middle = low + (high - low) / 2;

        if (topology->cpus[middle].cpu_id < cpu_id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < topology->n_cpus && topology->cpus[low].cpu_id == cpu_id ? low : -1;
}

int flow__topology_find_node(const struct flow__topology *topology, int node_id)
{
    for (int i = 0; i < topology->n_nodes; i++)
        if (topology->nodes[i].node_id == node_id)
            return i;
    return -1;
}
