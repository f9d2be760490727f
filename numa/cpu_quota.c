/* SPDX-License-Identifier: MIT
 *
 * Reads CPU quotas of control groups, both versions, which may be mounted side by side.
 *
 * A group is held by every quota between itself and the top, so the walk goes all the way up and
 * the smallest counts. In a container the path in /proc/self/cgroup may be the host's, of which only
 * the lower end is mounted: what can not be opened says nothing, and the walk ends at the mount's own
 * top, which then is the container's group. */
#include "numa/cpu_quota.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Integers only: a parser of fractions would obey the program's locale. Returns how many it got. */
static int read_numbers(const char *folder, const char *name, long long *first, long long *second)
{
    char path[PATH_MAX];
    FILE *file;
    int n;

    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path)
        return 0;
    file = fopen(path, "re");
    if (!file)
        return 0;
    n = fscanf(file, "%18lld %18lld", first, second);
    fclose(file);
    return n;
}

/* "150000 100000", or "max 100000", where no number is found. */
static double quota_v2(const char *folder)
{
    long long quota, period;

    if (read_numbers(folder, "cpu.max", &quota, &period) != 2 || quota <= 0 || period <= 0)
        return 0;
    return (double)quota / (double)period;
}

/* Unlimited is a quota of -1. */
static double quota_v1(const char *folder)
{
    long long quota, period, none;

    if (read_numbers(folder, "cpu.cfs_quota_us", &quota, &none) != 1 || quota <= 0)
        return 0;
    if (read_numbers(folder, "cpu.cfs_period_us", &period, &none) != 1 || period <= 0)
        return 0;
    return (double)quota / (double)period;
}

static double smaller(double a, double b)
{
    if (a == 0 || b == 0)
        return a + b;
    return a < b ? a : b;
}

/* From the group up to the mount's top. A path with .. lies outside of our view: only the top is ours. */
static double walk_up(const char *mount, const char *group, double (*quota_of)(const char *))
{
    char folder[PATH_MAX];
    double least = 0;
    size_t top = strlen(mount);

    if (strstr(group, "/.."))
        group = "";
    if ((size_t)snprintf(folder, sizeof folder, "%s%s", mount, group) >= sizeof folder)
        return 0;
    for (;;) {
        least = smaller(least, quota_of(folder));
        if (strlen(folder) <= top)
            return least;
        *strrchr(folder, '/') = '\0';
    }
}

static bool names_cpu(const char *controllers)
{
    for (const char *at = controllers; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, "cpu", 3) == 0 && (at[3] == ',' || !at[3]))
            return true;
    }
    return false;
}

static double quota_under(const char *root, const char *mount, const char *group, double (*quota_of)(const char *))
{
    char path[PATH_MAX];

    if ((size_t)snprintf(path, sizeof path, "%s/sys/fs/cgroup%s%s", root, *mount ? "/" : "", mount) >= sizeof path)
        return 0;
    return walk_up(path, group, quota_of);
}

/* One line, "7:cpu,cpuacct:/a/b". Version 2 has no controllers in it, and is mounted below
 * `unified` where version 1 is in use too. */
static double quota_of_line(const char *root, char *line)
{
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;

    if (!group || group[1] != '/')
        return 0;
    *controllers++ = '\0';
    *group++ = '\0';
    group[strcspn(group, "\n")] = '\0';
    if (!*controllers)
        return smaller(quota_under(root, "", group, quota_v2), quota_under(root, "unified", group, quota_v2));
    if (!names_cpu(controllers))
        return 0;
    return smaller(quota_under(root, controllers, group, quota_v1), quota_under(root, "cpu", group, quota_v1));
}

double flow__cpu_quota(const char *root)
{
    char path[PATH_MAX];
    char *line = NULL;
    size_t capacity = 0;
    double least = 0;
    FILE *file;

    if (!root)
        root = "";
    if ((size_t)snprintf(path, sizeof path, "%s/proc/self/cgroup", root) >= sizeof path)
        return 0;
    file = fopen(path, "re");
    if (!file)
        return 0;
    while (getline(&line, &capacity, file) >= 0)
        least = smaller(least, quota_of_line(root, line));
    free(line);
    fclose(file);
    return least;
}
