/* SPDX-License-Identifier: MIT
 *
 * Runs the rivals' programs, see perf/bench.h and perf/rivals/README. */
#include "perf/bench.h"
#include "perf/support/child.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Ends the run with what `make rivals` has found to be missing. */
static _Noreturn void rival_is_missing(const char *path, const char *rival)
{
    char file[4200], why[200] = "`make rivals` makes it";
    FILE *missing;

    snprintf(file, sizeof file, "%s.missing", path);
    missing = fopen(file, "r");
    if (missing && fgets(why, sizeof why, missing))
        why[strcspn(why, "\n")] = '\0';
    bench_skip("no rival %s: %s", rival, why);
}

/* Beside this program: build/perf/fork_join, build/perf/rivals/tbb. */
static void find_rival(char *path, size_t bytes, const char *rival)
{
    ssize_t n = readlink("/proc/self/exe", path, bytes - 1);
    char *slash;

    bench_check(n > 0, "/proc/self/exe: %s", strerror(errno));
    path[n] = '\0';
    slash = strrchr(path, '/');
    bench_check(slash, "%s", path);
    snprintf(slash, bytes - (size_t)(slash - path), "/rivals/%s", rival);
    if (access(path, X_OK))
        rival_is_missing(path, rival);
}

/* Runs the program with its output into the pipe; returns its process, which ends with ours. */
static pid_t start_program(char **argv, int out)
{
    pid_t parent = getpid(), child = fork();

    bench_check(child >= 0, "fork: %s", strerror(errno));
    if (child)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent && dup2(out, STDOUT_FILENO) >= 0)
        execv(argv[0], argv);
    _exit(126);
}

struct bench_rival_process bench_rival_start(const struct bench_run *run, const char *rival,
                                             const char *work, uint64_t n)
{
    struct bench_rival_process p = {.rival = rival, .work = work};
    char path[4096], workers[16], number[24];
    char *argv[] = {path, (char *)work, workers, number, NULL};
    int pipe_ends[2];

    find_rival(path, sizeof path, rival);
    snprintf(workers, sizeof workers, "%d", run->workers);
    snprintf(number, sizeof number, "%" PRIu64, n);
    bench_check(!pipe2(pipe_ends, O_CLOEXEC), "pipe: %s", strerror(errno));
    alarm(2 * RUN_SECONDS); /* the rival's limit is kept by us, and leaves time to check its result */
    p.until_ns = bench_now() + FLOW_S(RUN_SECONDS);
    p.pid = start_program(argv, pipe_ends[1]);
    close(pipe_ends[1]);
    p.out = pipe_ends[0];
    return p;
}

/* Waited for, so that its processor time is known to be ours. */
static int end_program(const struct bench_rival_process *p, struct rusage *usage)
{
    int status;

    close(p->out);
    while (wait4(p->pid, &status, 0, usage) < 0)
        bench_check(errno == EINTR, "wait4: %s", strerror(errno));
    return status;
}

/* All that the rival writes, until it closes its output. Some queues take minutes when a thread is
 * interrupted in the wrong place. */
static void read_output(const struct bench_rival_process *p, char *text, size_t bytes)
{
    struct pollfd out = {.fd = p->out, .events = POLLIN};
    struct rusage usage;
    size_t used = 0;

    for (;;) {
        int64_t left_ms = (p->until_ns - bench_now()) / 1000000;
        int r = poll(&out, 1, left_ms > 0 ? (int)left_ms : 0);
        ssize_t got;

        if (r == 0) {
            kill(p->pid, SIGKILL);
            end_program(p, &usage);
            bench_skip("%s took more than %d seconds", p->rival, RUN_SECONDS);
        }
        got = r < 0 ? -1 : read(p->out, text + used, bytes - 1 - used);
        bench_check(got >= 0 || errno == EINTR, "read: %s", strerror(errno));
        if (got == 0)
            break;
        used += got > 0 ? (size_t)got : 0;
    }
    text[used] = '\0';
}

static bool read_result(struct bench_rival *result, const struct bench_rival_process *p, char *text)
{
    bool got = false;
    char *rest;

    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        struct bench_figure *f = &result->figures[result->n_figures];

        if (line[0] == '#')
            bench_note("rival %s: %s", p->rival, line + 2);
        else if (!got)
            got = sscanf(line, "%" SCNu64 " %lf", &result->checksum, &result->seconds) == 2;
        else if (result->n_figures < BENCH_COUNT(result->figures) &&
                 sscanf(line, "%23s %lf", f->name, &f->value) == 2)
            result->n_figures++;
    }
    return got;
}

struct bench_rival bench_rival_end(struct bench_rival_process *p)
{
    struct bench_rival result = {0};
    struct rusage usage;
    char text[4096];
    bool got;
    int status;

    read_output(p, text, sizeof text);
    got = read_result(&result, p, text);
    status = end_program(p, &usage);
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
        bench_skip("%s cannot do this", p->rival);
    bench_check(WIFEXITED(status) && !WEXITSTATUS(status) && got, "%s %s: wait status %#x%s",
                p->rival, p->work, (unsigned)status, got ? "" : ", no result");
    result.peak_bytes = (int64_t)usage.ru_maxrss * 1024;
    return result;
}

/* The case's name, WORK/WHO, in its two parts. */
static const char *split_name(const struct bench_run *run, char *work, size_t bytes)
{
    const char *slash = strrchr(run->name, '/');

    bench_check(slash, "the case %s names no rival", run->name);
    snprintf(work, bytes, "%.*s", (int)(slash - run->name), run->name);
    return slash + 1;
}

struct bench_rival bench_rival(const struct bench_run *run)
{
    static char work[96]; /* lives as long as the process that is named by it */
    const char *rival = split_name(run, work, sizeof work);
    struct bench_rival_process p = bench_rival_start(run, rival, work, run->n);

    return bench_rival_end(&p);
}

void bench_rival_time(const struct bench_run *run, uint64_t checksum)
{
    struct bench_rival r = bench_rival(run);

    bench_check(r.checksum == checksum, "%s: checksum %" PRIu64 ", not %" PRIu64, run->name,
                r.checksum, checksum);
    bench_value(run->name, run->n, "ns", r.seconds * 1e9 / (double)run->n);
}

double bench_rival_figure(const struct bench_rival *result, const char *name)
{
    for (size_t i = 0; i < result->n_figures; i++)
        if (!strcmp(result->figures[i].name, name))
            return result->figures[i].value;
    bench_check(false, "the rival gave no %s", name);
    return 0;
}

void bench_rival_figures(const struct bench_run *run, const char *unit, double scale)
{
    struct bench_rival r = bench_rival(run);
    char work[96], name[160];
    const char *rival = split_name(run, work, sizeof work);

    bench_check(r.checksum == run->n, "%s: %" PRIu64 " of %" PRIu64 " were done", run->name,
                r.checksum, run->n);
    bench_check(r.n_figures, "%s: no figures", run->name);
    for (size_t i = 0; i < r.n_figures; i++) {
        snprintf(name, sizeof name, "%s, %s/%s", work, r.figures[i].name, rival);
        bench_value(name, run->n, unit, r.figures[i].value * scale);
    }
}
