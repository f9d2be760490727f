/* SPDX-License-Identifier: MIT
 *
 * What a runtime costs that has nothing to do: processor time and wake-ups per second.
 *
 * One coroutine lives and sleeps for an hour, so the runtime has a timer to think of and may not
 * simply be off. The processor time is the whole process's, by getrusage. Wake-ups are voluntary
 * context switches of all its threads but the main one, which only sleeps and measures: each time
 * a thread wakes it must give the CPU up again. n is the number of seconds. */
#include "perf/bench.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SETTLE_NS FLOW_MS(500) /* threads started, spinning over */

static flow_result sleeper(void *unused)
{
    (void)unused;
    return flow_err(flow_sleep(FLOW_S(3600)));
}

static void rest(int64_t span_ns)
{
    struct timespec t = {span_ns / 1000000000, span_ns % 1000000000};

    while (nanosleep(&t, &t))
        ;
}

static int64_t processor_ns(void)
{
    struct rusage u;

    bench_check(!getrusage(RUSAGE_SELF, &u), "getrusage failed");
    return ((int64_t)u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000 +
           ((int64_t)u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

/* A thread that ended meanwhile counts nothing. */
static int64_t switches_of_thread(const char *thread_id)
{
    static const char key[] = "voluntary_ctxt_switches:";
    char path[300], line[256];
    int64_t switches = 0;
    FILE *status;

    snprintf(path, sizeof path, "/proc/self/task/%s/status", thread_id);
    status = fopen(path, "r");
    if (!status)
        return 0;
    while (fgets(line, sizeof line, status))
        if (!strncmp(line, key, sizeof key - 1))
            switches = strtoll(line + sizeof key - 1, NULL, 10);
    fclose(status);
    return switches;
}

static int64_t switches_of_others(int *threads)
{
    DIR *tasks = opendir("/proc/self/task");
    int64_t switches = 0;
    struct dirent *entry;

    bench_check(tasks, "cannot read /proc/self/task");
    *threads = 0;
    while ((entry = readdir(tasks))) {
        if (entry->d_name[0] == '.' || strtol(entry->d_name, NULL, 10) == (long)getpid())
            continue;
        ++*threads;
        switches += switches_of_thread(entry->d_name);
    }
    closedir(tasks);
    return switches;
}

static void run_idle(const struct bench_run *run)
{
    int64_t switches, processor, start, elapsed;
    flow_result result;
    flow_task task;
    int threads, r;

    bench_start(run, NULL);
    r = flow_spawn(&task, sleeper, NULL);
    bench_check(!r, "flow_spawn: %d", r);
    rest(SETTLE_NS);

    /* The clock of processor time is read innermost: reading /proc costs some. */
    switches = switches_of_others(&threads);
    start = bench_now();
    processor = processor_ns();
    rest(FLOW_S((int64_t)run->n));
    processor = processor_ns() - processor;
    elapsed = bench_now() - start;
    switches = switches_of_others(&threads) - switches;
    bench_check(threads >= run->workers, "%d threads for %d workers", threads, run->workers);

    r = flow_cancel(task);
    bench_check(!r, "flow_cancel: %d", r);
    r = flow_join(task, &result, FLOW_FOREVER);
    bench_check(!r && result.error == -ECANCELED, "flow_join: %d, result %d", r, result.error);
    bench_stop();

    bench_value("processor time", run->n, "percent", 100 * (double)processor / (double)elapsed);
    bench_value("wake-ups of all threads", run->n, "per second",
                (double)switches * 1e9 / (double)elapsed);
    bench_value("threads beside the main one", run->n, "count", threads);
}

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"idle", run_idle, 10, 2},
    };
    static const struct bench_suite suite = {
        .name = "idle",
        .about = "a runtime with one sleeping coroutine, for n seconds",
        .runs = 2,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
