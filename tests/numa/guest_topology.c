/* SPDX-License-Identifier: MIT
 *
 * In the guest: what the library makes of the machine, against what /sys and
 * numactl say, and where it puts its workers. */
#include "numa/topology.h"
#include "tests/numa/guest.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static struct flow__topology topology;
static struct guest_sys sys;

static void read_both(void)
{
    guest_read_sys(&sys);
    REQUIRE_EQUAL(flow__topology_read(&topology, NULL), 0);
}

CASE(the_machine_is_the_one_that_was_asked_for)
{
    static const struct {
        const char *name;
        int n_nodes, n_cpus, distances[4];
    } machines[] = {
        {"four", 4, 8, {10, 12, 21, 21}},
        {"memoryless", 3, 6, {10, 21, 30}},
        {"cpuless", 3, 4, {10, 21, 17}},
    };

    read_both();
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++) {
        if (!guest_is(machines[i].name))
            continue;
        REQUIRE_EQUAL(topology.n_nodes, machines[i].n_nodes);
        REQUIRE_EQUAL(topology.n_cpus, machines[i].n_cpus);
        for (int to = 0; to < topology.n_nodes; to++)
            REQUIRE_EQUAL(flow__topology_distance(&topology, 0, to), machines[i].distances[to]);
        return;
    }
    REQUIRE(!"the machine's name is known");
}

CASE(nodes_and_distances_are_what_sys_says)
{
    read_both();
    REQUIRE_EQUAL(topology.n_nodes, sys.n_nodes);
    for (int i = 0; i < sys.n_nodes; i++) {
        const struct flow__node *node = &topology.nodes[i];

        REQUIRE_EQUAL(node->node_id, sys.nodes[i]);
        REQUIRE_EQUAL(node->memory_bytes, sys.memory_bytes[i]);
        REQUIRE_EQUAL(node->memory_allowed, sys.memory_bytes[i] > 0);
        REQUIRE_EQUAL(topology.nodes[node->memory_node].node_id, guest_memory_node(&sys, sys.nodes[i]));
        for (int k = 0; k < sys.n_nodes; k++)
            REQUIRE_EQUAL(flow__topology_distance(&topology, i, k), sys.distance[i][k]);
    }
    child_note("%d CPUs on %d nodes; distances from node 0 up to %d", topology.n_cpus, topology.n_nodes,
               flow__topology_distance(&topology, 0, topology.n_nodes - 1));
}

/* The lowest number in a list of CPUs under /sys. */
static int lowest(int cpu, const char *file)
{
    int numbers[GUEST_MOST];
    char text[256];

    guest_read(text, sizeof text, "/sys/devices/system/cpu/cpu%d/%s", cpu, file);
    REQUIRE(guest_numbers(text, numbers) > 0);
    return numbers[0];
}

CASE(cpus_cores_and_caches_are_what_sys_says)
{
    read_both();
    REQUIRE_EQUAL(topology.n_cpus, sys.n_cpus);
    for (int i = 0; i < sys.n_cpus; i++) {
        const struct flow__cpu *cpu = &topology.cpus[i];

        REQUIRE_EQUAL(cpu->cpu_id, sys.cpus[i]);
        REQUIRE_EQUAL(topology.nodes[cpu->node].node_id, sys.node_of_cpu[sys.cpus[i]]);
        REQUIRE_EQUAL(cpu->core, lowest(cpu->cpu_id, "topology/core_cpus_list"));
        REQUIRE_EQUAL(cpu->l3_cache, lowest(cpu->cpu_id, "cache/index3/shared_cpu_list"));
    }
}

/* "node 2 cpus: 4 5", "node 2 size: 950 MB" */
static void compare_node_line(int id, const char *what, const char *rest)
{
    int node = 0, cpus[GUEST_MOST], n;

    while (topology.nodes[node].node_id != id)
        REQUIRE(++node < topology.n_nodes);
    if (!strcmp(what, "size:"))
        REQUIRE_EQUAL(topology.nodes[node].memory_bytes >> 20, strtoull(rest, NULL, 10));
    if (strcmp(what, "cpus:") != 0)
        return;
    n = guest_numbers(rest, cpus);
    REQUIRE_EQUAL(topology.nodes[node].n_cpus, n);
    for (int i = 0; i < n; i++)
        REQUIRE_EQUAL(topology.cpus[flow__topology_find_cpu(&topology, cpus[i])].node, node);
}

CASE(numactl_says_the_same)
{
    int lines = 0, rows = 0, row[GUEST_MOST], id, used;
    char line[512], what[16];
    FILE *f;

    read_both();
    f = popen("numactl -H", "re");
    REQUIRE(f != NULL);
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "node %d %15s %n", &id, what, &used) == 2) {
            compare_node_line(id, what, line + used);
            lines++;
        } else if (sscanf(line, " %d: %n", &id, &used) == 1) {
            REQUIRE_EQUAL(guest_numbers(line + used, row), topology.n_nodes);
            for (int k = 0; k < topology.n_nodes; k++)
                REQUIRE_EQUAL(flow__topology_distance(&topology, rows, k), row[k]);
            rows++;
        }
    }
    REQUIRE_EQUAL(pclose(f), 0);
    REQUIRE(lines >= 2 * topology.n_nodes);
    REQUIRE_EQUAL(rows, topology.n_nodes);
}

/* Finds the CPUs on which the thread of that name may run. */
static int allowed_cpus(const char *thread, int *cpus)
{
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *entry;
    char text[4096], *list;
    int n = -1;

    REQUIRE(tasks != NULL);
    while (n < 0 && (entry = readdir(tasks))) {
        if (entry->d_name[0] == '.')
            continue;
        guest_read(text, sizeof text, "/proc/self/task/%s/comm", entry->d_name);
        if (strcmp(text, thread) != 0)
            continue;
        guest_read(text, sizeof text, "/proc/self/task/%s/status", entry->d_name);
        list = strstr(text, "Cpus_allowed_list:");
        REQUIRE(list != NULL);
        list += strlen("Cpus_allowed_list:");
        n = guest_numbers(list + strspn(list, " \t"), cpus);
    }
    closedir(tasks);
    return n;
}

CASE(each_cpu_has_a_worker_pinned_to_it)
{
    struct flow_info info = {.size = sizeof info};
    int cpus[GUEST_MOST];
    char name[16];

    guest_read_sys(&sys);
    REQUIRE_EQUAL(flow_start(NULL), 0);
    REQUIRE_EQUAL(flow_info(&info), 0);
    REQUIRE_EQUAL(info.workers, sys.n_cpus);
    REQUIRE_EQUAL(info.pinned, sys.n_cpus);
    REQUIRE_EQUAL(info.nodes, sys.n_nodes);
    for (int i = 0; i < info.workers; i++) {
        snprintf(name, sizeof name, "flow-worker-%d", i);
        REQUIRE_EQUAL(allowed_cpus(name, cpus), 1);
        REQUIRE_EQUAL(cpus[0], sys.cpus[i]);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    child_note("guard pages by %s, memory by %s", info.guard, info.memory_policy);
}

/* Not CPU 0, and not neighbours. */
CASE(within_a_cpuset_only_its_cpus_have_workers)
{
    struct flow_info info = {.size = sizeof info};
    int cpus[GUEST_MOST];

    guest_make_cgroup("cpus");
    guest_write("1,3", "/sys/fs/cgroup/cpus/cpuset.cpus");
    guest_join_cgroup("cpus");
    REQUIRE_EQUAL(flow_start(NULL), 0);
    REQUIRE_EQUAL(flow_info(&info), 0);
    REQUIRE_EQUAL(info.cpus, 2);
    REQUIRE_EQUAL(info.workers, 2);
    REQUIRE_EQUAL(info.pinned, 2);
    REQUIRE_EQUAL(allowed_cpus("flow-worker-0", cpus), 1);
    REQUIRE_EQUAL(cpus[0], 1);
    REQUIRE_EQUAL(allowed_cpus("flow-worker-1", cpus), 1);
    REQUIRE_EQUAL(cpus[0], 3);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
