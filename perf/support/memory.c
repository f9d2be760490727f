/* SPDX-License-Identifier: MIT
 *
 * What this process takes of the machine's memory, and whether there is enough. See perf/bench.h. */
#include "perf/bench.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Static: callers may stand on a small stack. */
static char proc_text[1 << 16];

static bool read_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t used = 0;
    ssize_t got;

    if (fd < 0)
        return false;
    while (used < sizeof proc_text - 1 &&
           (got = read(fd, proc_text + used, sizeof proc_text - 1 - used)) > 0)
        used += (size_t)got;
    close(fd);
    proc_text[used] = '\0';
    return used > 0;
}

/* The bytes of a line such as "VmPTE:  12 kB" in what was read last; -1 without such a line. */
static int64_t kilobytes_at(const char *key)
{
    const char *at = strstr(proc_text, key);

    return at ? strtoll(at + strlen(key), NULL, 10) * 1024 : -1;
}

static int64_t count_lines(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int64_t lines = 0;
    ssize_t got;

    bench_check(fd >= 0, "cannot read %s", path);
    while ((got = read(fd, proc_text, sizeof proc_text)) > 0)
        for (ssize_t i = 0; i < got; i++)
            lines += proc_text[i] == '\n';
    close(fd);
    return lines;
}

/* VmRSS and statm may lag by some pages on each CPU; smaps_rollup counts, where there is one. */
struct bench_memory bench_memory_now(void)
{
    struct bench_memory m = {0};

    bench_check(read_file("/proc/self/status"), "cannot read /proc/self/status");
    m.rss_bytes = kilobytes_at("\nVmRSS:");
    m.peak_bytes = kilobytes_at("\nVmHWM:");
    m.table_bytes = kilobytes_at("\nVmPTE:");
    bench_check(m.rss_bytes > 0 && m.peak_bytes > 0 && m.table_bytes > 0,
                "/proc/self/status lacks a line");
    if (read_file("/proc/self/smaps_rollup") && kilobytes_at("\nRss:") > 0)
        m.rss_bytes = kilobytes_at("\nRss:");
    if (m.peak_bytes < m.rss_bytes)
        m.peak_bytes = m.rss_bytes;
    m.vmas = count_lines("/proc/self/maps");
    return m;
}

void bench_need_memory(uint64_t bytes)
{
    static const char *const limits[] = {
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    };
    uint64_t available = UINT64_MAX;

    if (read_file("/proc/meminfo") && kilobytes_at("\nMemAvailable:") > 0)
        available = (uint64_t)kilobytes_at("\nMemAvailable:");
    for (size_t i = 0; i < BENCH_COUNT(limits); i++) {
        uint64_t limit = read_file(limits[i]) ? strtoull(proc_text, NULL, 10) : 0; /* "max": 0 */

        if (limit && limit < available)
            available = limit;
    }
    if (available < bytes)
        bench_skip("needs %" PRIu64 " MiB of memory, there are %" PRIu64, bytes >> 20,
                   available >> 20);
}
