/* SPDX-License-Identifier: MIT */
#include "tests/numa/guest.h"

#include <fcntl.h>
#include <numaif.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool guest_is(const char *machine)
{
    const char *name = getenv("machine");

    return name && !strcmp(name, machine);
}

static void format_path(char *path, size_t bytes, const char *format, va_list args)
{
    REQUIRE(vsnprintf(path, bytes, format, args) < (int)bytes);
}

static int open_path(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);

    if (fd < 0)
        child_fail(path, 0, "can not be opened");
    return fd;
}

void guest_read(char *text, size_t bytes, const char *format, ...)
{
    char path[256];
    va_list args;
    ssize_t n;
    int fd;

    va_start(args, format);
    format_path(path, sizeof path, format, args);
    va_end(args);
    fd = open_path(path, O_RDONLY);
    n = read(fd, text, bytes - 1);
    close(fd);
    REQUIRE(n >= 0);
    while (n > 0 && text[n - 1] == '\n')
        n--;
    text[n] = 0;
}

void guest_write(const char *text, const char *format, ...)
{
    char path[256];
    va_list args;
    ssize_t n;
    int fd;

    va_start(args, format);
    format_path(path, sizeof path, format, args);
    va_end(args);
    fd = open_path(path, O_WRONLY);
    n = write(fd, text, strlen(text));
    close(fd);
    if (n != (ssize_t)strlen(text))
        child_fail(path, 0, "can not be written");
}

void guest_make_cgroup(const char *name)
{
    char path[256];

    guest_write("+cpuset", "/sys/fs/cgroup/cgroup.subtree_control");
    snprintf(path, sizeof path, "/sys/fs/cgroup/%s", name);
    REQUIRE_EQUAL(mkdir(path, 0755), 0);
}

void guest_join_cgroup(const char *name)
{
    char pid[16];

    snprintf(pid, sizeof pid, "%d", (int)getpid());
    guest_write(pid, "/sys/fs/cgroup/%s/cgroup.procs", name);
}

int guest_numbers(const char *text, int *numbers)
{
    int n = 0;

    while (*text) {
        char *end;
        long first = strtol(text, &end, 10), last = first;

        if (end == text)
            break;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        for (; first <= last; first++) {
            REQUIRE(n < GUEST_MOST);
            numbers[n++] = (int)first;
        }
        text = end + strspn(end, ", ");
    }
    return n;
}

static void read_node(struct guest_sys *sys, int i)
{
    char text[4096], *total;
    int id = sys->nodes[i], cpus[GUEST_MOST], n;

    guest_read(text, sizeof text, "/sys/devices/system/node/node%d/cpulist", id);
    n = guest_numbers(text, cpus);
    for (int k = 0; k < n; k++) {
        REQUIRE(cpus[k] < GUEST_MOST);
        sys->node_of_cpu[cpus[k]] = id;
    }
    guest_read(text, sizeof text, "/sys/devices/system/node/node%d/distance", id);
    REQUIRE_EQUAL(guest_numbers(text, sys->distance[i]), sys->n_nodes);
    guest_read(text, sizeof text, "/sys/devices/system/node/node%d/meminfo", id);
    total = strstr(text, "MemTotal:");
    REQUIRE(total != NULL);
    sys->memory_bytes[i] = strtoull(total + strlen("MemTotal:"), NULL, 10) * 1024;
}

void guest_read_sys(struct guest_sys *sys)
{
    char text[4096];

    memset(sys, 0, sizeof *sys);
    guest_read(text, sizeof text, "/sys/devices/system/node/online");
    sys->n_nodes = guest_numbers(text, sys->nodes);
    guest_read(text, sizeof text, "/sys/devices/system/cpu/online");
    sys->n_cpus = guest_numbers(text, sys->cpus);
    for (int i = 0; i < sys->n_nodes; i++)
        read_node(sys, i);
}

int guest_memory_node(const struct guest_sys *sys, int node)
{
    int from = 0, best = -1;

    while (sys->nodes[from] != node)
        from++;
    for (int i = 0; i < sys->n_nodes; i++)
        if (sys->memory_bytes[i] &&
            (best < 0 || sys->distance[from][i] < sys->distance[from][best]))
            best = i;
    return sys->nodes[best];
}

void guest_node_of_pages(void **pages, size_t n, int *nodes)
{
    REQUIRE_EQUAL(move_pages(0, n, pages, NULL, nodes, 0), 0);
}
