/* SPDX-License-Identifier: MIT
 *
 * What a runtime costs that has nothing to do: processor time and wake-ups per second.
 *
 * One coroutine lives and sleeps for an hour, so the runtime has a timer to think of and may not
 * simply be off. Both figures come from /proc, of all threads of the process, our own main thread left
 * out, which only sleeps and measures; so rivals' processes (perf/rivals) are looked at in the same
 * way. Wake-ups are voluntary context switches: each time a thread wakes it must give the CPU up
 * again. n is the number of seconds. */
#include "perf/bench.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
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

/* ---- a process's threads, as /proc shows them ---- */

struct activity {
    int64_t processor_ns, wake_ups;
    int threads;
};

/* A thread that ended meanwhile counts nothing. */
static void add_thread(struct activity *a, pid_t pid, const char *thread_id)
{
    static const char key[] = "voluntary_ctxt_switches:";
    char path[300], line[256];
    long long ns = 0;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)pid, thread_id);
    file = fopen(path, "r");
    if (file && fscanf(file, "%lld", &ns) == 1)
        a->processor_ns += ns;
    if (file)
        fclose(file);
    snprintf(path, sizeof path, "/proc/%d/task/%s/status", (int)pid, thread_id);
    file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, key, sizeof key - 1))
            a->wake_ups += strtoll(line + sizeof key - 1, NULL, 10);
    if (file)
        fclose(file);
    a->threads++;
}

/* except: a thread that is left out, or 0. */
static struct activity activity_of(pid_t pid, pid_t except)
{
    struct activity a = {0};
    struct dirent *entry;
    char path[64];
    DIR *tasks;

    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    tasks = opendir(path);
    bench_check(tasks, "cannot read %s", path);
    while ((entry = readdir(tasks)))
        if (entry->d_name[0] != '.' && strtol(entry->d_name, NULL, 10) != (long)except)
            add_thread(&a, pid, entry->d_name);
    closedir(tasks);
    return a;
}

static void watch(const struct bench_run *run, const char *who, pid_t pid, pid_t except)
{
    struct activity before, after;
    char name[64];
    double seconds;
    int64_t start;

    rest(SETTLE_NS);
    before = activity_of(pid, except);
    start = bench_now();
    rest(FLOW_S((int64_t)run->n));
    after = activity_of(pid, except);
    seconds = (double)(bench_now() - start) / 1e9;
    snprintf(name, sizeof name, "idle, processor time/%s", who);
    bench_value(name, run->n, "us per second",
                (double)(after.processor_ns - before.processor_ns) / 1e3 / seconds);
    snprintf(name, sizeof name, "idle, wake-ups/%s", who);
    bench_value(name, run->n, "per second", (double)(after.wake_ups - before.wake_ups) / seconds);
    snprintf(name, sizeof name, "idle, threads/%s", who);
    bench_value(name, run->n, "count", after.threads);
}

static void run_idle(const struct bench_run *run)
{
    flow_result result;
    flow_task task;
    int r;

    bench_start(run, NULL);
    task = bench_spawn(sleeper, NULL);
    watch(run, "flow", getpid(), getpid());
    r = flow_cancel(task);
    bench_check(!r, "flow_cancel: %d", r);
    r = flow_join(task, &result, FLOW_FOREVER);
    bench_check(!r && result.error == -ECANCELED, "flow_join: %d, result %d", r, result.error);
    bench_stop();
}

static void rival(const struct bench_run *run)
{
    const char *who = strrchr(run->name, '/') + 1;
    struct bench_rival_process process = bench_rival_start(run, who, "idle", run->n);
    struct bench_rival r;

    watch(run, who, process.pid, 0);
    r = bench_rival_end(&process);
    bench_check(r.checksum == run->n, "%s went wrong", run->name);
}

int main(int argc, char **argv)
{
    static const int two[] = {2, 0};
    static const struct bench_case cases[] = {
        {"idle/flow", run_idle, 2, 1, .workers = two},
        {"idle/go", rival, 2, 1, .workers = two},
        {"idle/tokio", rival, 2, 1, .workers = two},
        {"idle/libuv", rival, 2, 1, .workers = two},
    };
    static const struct bench_suite suite = {
        .name = "idle",
        .about = "a runtime with one sleeping coroutine, for n seconds",
        .runs = 6,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
