/* SPDX-License-Identifier: MIT
 *
 * The machine, as /proc and /sys show it. See machine.h.
 *
 * Quiet is judged by processor time and not by the load average, which is kept too: that one
 * counts our own threads, and remembers the benchmark before this one for minutes. */
#include "perf/support/machine.h"
#include "perf/bench.h"
#include "perf/support/rows.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

/* /proc/stat counts in ticks of 10 ms, so a trace of foreign time is always seen, and more of it in
 * a short stretch. */
enum {
    QUIET_FOREIGN_PERCENT = 4,
    QUIET_STOLEN_PERCENT = 1,
    QUIET_WORST_PERCENT = 15,
    STRETCH_SECONDS = 10
};

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static double own_seconds(int whose)
{
    struct rusage u;

    bench_check(!getrusage(whose, &u), "getrusage failed");
    return seconds_of(u.ru_utime) + seconds_of(u.ru_stime);
}

static struct machine_load load_now(void)
{
    uint64_t user = 0, nice = 0, system = 0, idle, wait, irq = 0, soft = 0, stolen = 0;
    double tick = 1.0 / (double)sysconf(_SC_CLK_TCK);
    struct machine_load load = {0};
    FILE *stat = fopen("/proc/stat", "r");

    bench_check(stat, "cannot read /proc/stat");
    bench_check(fscanf(stat,
                       "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
                       " %" SCNu64 " %" SCNu64,
                       &user, &nice, &system, &idle, &wait, &irq, &soft, &stolen) >= 7,
                "/proc/stat is not as expected");
    fclose(stat);
    if (getloadavg(&load.load_average, 1) != 1)
        load.load_average = -1;
    load.busy_seconds = (double)(user + nice + system + irq + soft) * tick;
    load.stolen_seconds = (double)stolen * tick;
    load.own_seconds = own_seconds(RUSAGE_SELF) + own_seconds(RUSAGE_CHILDREN);
    load.clock_seconds = (double)bench_now() / 1e9;
    return load;
}

struct quiet {
    double seconds;
    double foreign_percent; /* of one CPU, used by others than us */
    double stolen_percent;
};

static struct quiet judge(const struct machine_load *before, const struct machine_load *after)
{
    struct quiet q = {.seconds = after->clock_seconds - before->clock_seconds};
    double busy = after->busy_seconds - before->busy_seconds;
    double own = after->own_seconds - before->own_seconds;

    q.foreign_percent = busy > own ? 100 * (busy - own) / q.seconds : 0;
    q.stolen_percent = 100 * (after->stolen_seconds - before->stolen_seconds) / q.seconds;
    return q;
}

static bool is_quiet(const struct machine_watch *w)
{
    struct quiet q = judge(&w->begin, &w->end);

    return q.foreign_percent < QUIET_FOREIGN_PERCENT && q.stolen_percent < QUIET_STOLEN_PERCENT &&
           w->worst_percent < QUIET_WORST_PERCENT;
}

struct machine_watch machine_watch_begin(void)
{
    struct machine_load now = load_now();

    return (struct machine_watch){.begin = now, .stretch = now};
}

static void end_stretch(struct machine_watch *w, const struct machine_load *now)
{
    struct quiet q = judge(&w->stretch, now);

    if (q.foreign_percent + q.stolen_percent > w->worst_percent)
        w->worst_percent = q.foreign_percent + q.stolen_percent;
    w->stretch = *now;
}

void machine_watch_look(struct machine_watch *w)
{
    struct machine_load now = load_now();

    if (now.clock_seconds - w->stretch.clock_seconds >= STRETCH_SECONDS)
        end_stretch(w, &now);
}

/* The rest is too short to be judged alone, unless it is all there is. */
void machine_watch_end(struct machine_watch *w)
{
    w->end = load_now();
    if (w->stretch.clock_seconds == w->begin.clock_seconds)
        end_stretch(w, &w->end);
}

/* The first line of a command's or a file's output; "" if there is none. */
static void first_line(char *text, size_t bytes, FILE *file, int (*close_it)(FILE *))
{
    text[0] = '\0';
    if (!file)
        return;
    if (!fgets(text, (int)bytes, file))
        text[0] = '\0';
    close_it(file);
    text[strcspn(text, "\n")] = '\0';
}

static void cpu_model(char *text, size_t bytes)
{
    FILE *info = fopen("/proc/cpuinfo", "r");
    char line[256];

    snprintf(text, bytes, "unknown");
    while (info && fgets(line, sizeof line, info)) {
        char *colon = strchr(line, ':');

        if (!colon || strncmp(line, "model name", 10))
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(text, bytes, "%s", colon + 2);
        break;
    }
    if (info)
        fclose(info);
}

static void commit(char *text, size_t bytes)
{
    char command[4200], path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);

    path[n > 0 ? n : 0] = '\0';
    if (strrchr(path, '/'))
        *strrchr(path, '/') = '\0';
    snprintf(command, sizeof command,
             "git -C '%s' describe --always --dirty --abbrev=10 2>/dev/null", path);
    first_line(text, bytes, popen(command, "r"), pclose);
}

struct facts {
    char cpu[128], governor[64], commit[64], kernel[208], when[32];
    long cpus, memory_mib;
};

static struct facts facts(void)
{
    struct facts f;
    struct utsname u;
    time_t now = time(NULL);

    cpu_model(f.cpu, sizeof f.cpu);
    first_line(f.governor, sizeof f.governor,
               fopen("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "r"), fclose);
    if (!f.governor[0])
        snprintf(f.governor, sizeof f.governor, "none to be seen");
    commit(f.commit, sizeof f.commit);
    uname(&u);
    snprintf(f.kernel, sizeof f.kernel, "%s %s %s", u.sysname, u.release, u.machine);
    strftime(f.when, sizeof f.when, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    f.cpus = sysconf(_SC_NPROCESSORS_ONLN);
    f.memory_mib = sysconf(_SC_PHYS_PAGES) / 1024 * (sysconf(_SC_PAGESIZE) / 1024);
    return f;
}

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

void machine_print(FILE *out, const struct machine_watch *watch)
{
    struct quiet q = judge(&watch->begin, &watch->end);
    struct facts f = facts();

    fprintf(out, "%s, %ld CPUs, governor %s; %s; %s; commit %s\n", f.cpu, f.cpus, f.governor,
            f.kernel, COMPILER, f.commit[0] ? f.commit : "unknown");
    fprintf(out,
            "load average %.2f before, %.2f after; others used %.1f %% of a CPU, the hypervisor "
            "took %.1f %%, both at worst %.1f %% (of %d s): %s\n\n",
            watch->begin.load_average, watch->end.load_average, q.foreign_percent, q.stolen_percent,
            watch->worst_percent, STRETCH_SECONDS,
            is_quiet(watch) ? "quiet" : "NOT QUIET, do not trust these figures");
}

void machine_print_json(FILE *out, const char *bench, const char *extra,
                        const struct machine_watch *watch)
{
    struct quiet q = judge(&watch->begin, &watch->end);
    struct facts f = facts();

    fprintf(out, "{\"bench\":\"%s\",\"cpu\":", bench);
    json_string(out, f.cpu);
    fprintf(out, ",\"cpus\":%ld,\"memory_mib\":%ld,\"governor\":", f.cpus, f.memory_mib);
    json_string(out, f.governor);
    fputs(",\"kernel\":", out);
    json_string(out, f.kernel);
    fputs(",\"compiler\":", out);
    json_string(out, COMPILER);
    fputs(",\"commit\":", out);
    json_string(out, f.commit);
    fprintf(out,
            ",\"ended\":\"%s\",\"seconds\":%.1f,\"load_before\":%.2f,\"load_after\":%.2f,"
            "\"foreign_percent\":%.2f,\"stolen_percent\":%.2f,\"worst_percent\":%.2f,\"quiet\":%s%s%s}\n",
            f.when, q.seconds, watch->begin.load_average, watch->end.load_average, q.foreign_percent,
            q.stolen_percent, watch->worst_percent, is_quiet(watch) ? "true" : "false",
            extra[0] ? "," : "", extra);
}
