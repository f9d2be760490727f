/* SPDX-License-Identifier: MIT */
#include "tests/support/machine.h"

#include "tests/support/test.h"

#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[PATH_MAX];
static pid_t owner; /* a child of fork leaves the folder alone */

const struct machine machine_one_node = {1, 4, 1, 4, {0}, {"10\n"}};
const struct machine machine_two_sockets = {2, 2, 2, 2, {0, 1}, {"10 21\n", "21 10\n"}};
const struct machine machine_four_nodes = {
    4, 2, 1, 2, {0, 1, 2, 3}, {"10 12 21 21\n", "12 10 21 21\n", "21 21 10 12\n", "21 21 12 10\n"}};
const struct machine machine_several_l3 = {1, 8, 1, 4, {0}, {"10\n"}};
const struct machine machine_three_nodes = {
    3, 2, 1, 2, {0, 1, 2}, {"10 21 31\n", "21 10 12\n", "31 12 10\n"}};
const struct machine machine_sparse_ids = {
    8,
    1,
    1,
    1,
    {0, 1, 4, 5, 8, 12, 64, 255},
    {"10 11 12 13 14 15 16 17\n", "11 10 12 13 14 15 16 17\n", "12 12 10 13 14 15 16 17\n",
     "13 13 13 10 14 15 16 17\n", "14 14 14 14 10 15 16 17\n", "15 15 15 15 15 10 16 17\n",
     "16 16 16 16 16 16 10 17\n", "17 17 17 17 17 17 17 10\n"}};
const struct machine machine_huge = {8,
                                     128,
                                     2,
                                     16,
                                     {0, 1, 2, 3, 4, 5, 6, 7},
                                     {"10 12 12 12 32 32 32 32\n", "12 10 12 12 32 32 32 32\n",
                                      "12 12 10 12 32 32 32 32\n", "12 12 12 10 32 32 32 32\n",
                                      "32 32 32 32 10 12 12 12\n", "32 32 32 32 12 10 12 12\n",
                                      "32 32 32 32 12 12 10 12\n", "32 32 32 32 12 12 12 10\n"}};

static void must(int holds, const char *what)
{
    if (holds)
        return;
    perror(what);
    abort();
}

const char *machine_path(const char *path)
{
    static char full[2 * PATH_MAX];

    snprintf(full, sizeof full, "%s/%s", root, path);
    return full;
}

static void make_parents(char *path)
{
    for (char *slash = strchr(path + strlen(root) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0755);
        *slash = '/';
    }
}

void machine_put(const char *path, const char *text)
{
    char full[2 * PATH_MAX];
    FILE *file;

    snprintf(full, sizeof full, "%s", machine_path(path));
    make_parents(full);
    file = fopen(full, "we");
    must(file != NULL, full);
    must(fputs(text, file) >= 0, full);
    must(fclose(file) == 0, full);
}

void machine_put_cpu(int cpu_id, const char *name, const char *text)
{
    char path[128];

    snprintf(path, sizeof path, "cpu/cpu%d/%s", cpu_id, name);
    machine_put(path, text);
}

void machine_put_node(int node_id, const char *name, const char *text)
{
    char path[128];

    snprintf(path, sizeof path, "node/node%d/%s", node_id, name);
    machine_put(path, text);
}

void machine_put_memory(int node_id, long kilobytes)
{
    char text[256];

    snprintf(text, sizeof text, "Node %d MemTotal:       %ld kB\nNode %d MemFree:        1 kB\n",
             node_id, kilobytes, node_id);
    machine_put_node(node_id, "meminfo", text);
}

void machine_remove(const char *path)
{
    must(remove(machine_path(path)) == 0, path);
}

/* CPUs of some neighbouring cores, as a list. */
static const char *cpus_of(const struct machine *machine, int first_core, int n)
{
    static char text[256];
    int n_cores = machine->n_nodes * machine->cores_per_node;
    int length = 0;

    text[0] = '\0';
    for (int thread = 0; thread < machine->threads && n; thread++) {
        int first = first_core + thread * n_cores;

        length += snprintf(text + length, sizeof text - (size_t)length, n > 1 ? "%s%d-%d" : "%s%d",
                           thread ? "," : "", first, first + n - 1);
    }
    snprintf(text + length, sizeof text - (size_t)length, "\n");
    return text;
}

static void put_cache(const struct machine *machine, int cpu_id, int core)
{
    machine_put_cpu(cpu_id, "cache/index0/level", "1\n");
    machine_put_cpu(cpu_id, "cache/index0/shared_cpu_list", cpus_of(machine, core, 1));
    machine_put_cpu(cpu_id, "cache/index1/level", "3\n");
    machine_put_cpu(cpu_id, "cache/index1/shared_cpu_list",
                    cpus_of(machine, core - core % machine->cores_per_l3, machine->cores_per_l3));
}

/* Of a huge machine only the first CPU of each core and cache has the files: the reader is content
 * with these, and ten times as many would take half a minute to write. */
static void put_cpu(const struct machine *machine, int core, int thread)
{
    int n_cores = machine->n_nodes * machine->cores_per_node;
    int cpu_id = core + thread * n_cores;
    int all = n_cores <= 512;

    if (all || thread == 0)
        machine_put_cpu(cpu_id, "topology/core_cpus_list", cpus_of(machine, core, 1));
    if (all || (thread == 0 && core % machine->cores_per_l3 == 0))
        put_cache(machine, cpu_id, core);
}

static void put_machine(const struct machine *machine)
{
    int n_cores = machine->n_nodes * machine->cores_per_node;

    for (int core = 0; core < n_cores; core++)
        for (int thread = 0; thread < machine->threads; thread++)
            put_cpu(machine, core, thread);
    machine_put("cpu/online", cpus_of(machine, 0, n_cores));
    machine_put("affinity", cpus_of(machine, 0, n_cores));
    for (int i = 0; i < machine->n_nodes; i++) {
        int first_core = i * machine->cores_per_node;

        machine_put_node(machine->node_id[i], "cpulist",
                         cpus_of(machine, first_core, machine->cores_per_node));
        machine_put_node(machine->node_id[i], "distance", machine->distance[i]);
        machine_put_memory(machine->node_id[i], MACHINE_GIB_IN_KB);
    }
}

const char *machine_open(const struct machine *machine)
{
    static int registered;
    const char *tmp = getenv("TMPDIR");

    if (!tmp) /* some disks take a millisecond for each of the small files */
        tmp = access("/dev/shm", W_OK | X_OK) ? "/tmp" : "/dev/shm";
    machine_close();
    if (!registered++)
        must(atexit(machine_close) == 0, "atexit");
    snprintf(root, sizeof root, "%s/flow-machine-XXXXXX", tmp);
    must(mkdtemp(root) != NULL, root);
    owner = getpid();
    if (machine)
        put_machine(machine);
    return root;
}

const char *machine_use(const struct machine *machine)
{
    machine_open(machine);
    must(setenv("FLOW_TOPOLOGY", root, 1) == 0, "setenv");
    return root;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status, (void)kind, (void)walk;
    return remove(path);
}

void machine_close(void)
{
    const char *used = getenv("FLOW_TOPOLOGY");

    if (!root[0] || owner != getpid())
        return;
    if (used && !strcmp(used, root))
        unsetenv("FLOW_TOPOLOGY");
    must(nftw(root, remove_entry, 16, FTW_DEPTH | FTW_PHYS) == 0, root);
    root[0] = '\0';
}

int machine_setup(void **state)
{
    machine_open(NULL);
    return test_setup(state);
}

int machine_teardown(void **state)
{
    machine_close();
    return test_teardown(state);
}
