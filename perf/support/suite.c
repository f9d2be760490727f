/* SPDX-License-Identifier: MIT
 *
 * The harness, see perf/bench.h. The program that the user starts executes itself once for each
 * run of each case; the child writes its values as lines of text to a pipe (CHANNEL), the parent
 * collects them into rows. A line is "name TAB n TAB unit TAB value", "# note" or "! why it was
 * skipped". */
#include "perf/bench.h"
#include "perf/support/child.h"
#include "perf/support/machine.h"
#include "perf/support/rows.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_LISTED 16 /* numbers of workers */

extern char **environ;

struct settings {
    const struct bench_suite *suite;
    int workers[MAX_LISTED + 1]; /* ends with 0 */
    bool workers_given;
    int runs;
    uint64_t n; /* 0: each case's own */
    const char *only;
    const char *json; /* file name, or NULL */
    bool quick, unpinned;
};

static uint64_t n_of(const struct settings *s, const struct bench_case *c)
{
    if (c->fixed_n) {
        bool left_out = (s->n && c->n > s->n) || (s->quick && !s->n && !c->quick_n);

        return left_out ? 0 : c->n;
    }
    if (s->n)
        return s->n;
    return s->quick ? c->quick_n : c->n;
}

static const int *workers_of(const struct settings *s, const struct bench_case *c)
{
    static const int none[] = {-1, 0};

    if (c->no_workers)
        return none;
    return c->workers && !s->workers_given ? c->workers : s->workers;
}

/* Files the child's lines. */
static void collect(FILE *channel, const struct bench_case *c, int workers)
{
    char line[512], text[640], name[96], unit[24];
    uint64_t n;
    double value;

    while (fgets(line, sizeof line, channel)) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0] == '#') {
            rows_note(line + 2);
        } else if (line[0] == '!') {
            if (strstr(line, "no rival "))
                snprintf(text, sizeof text, "%s", line + 2);
            else
                snprintf(text, sizeof text, "%s, %d workers: skipped: %s", c->name, workers,
                         line + 2);
            rows_note(text);
        } else {
            bench_check(
                sscanf(line, "%95[^\t]\t%" SCNu64 "\t%23[^\t]\t%lf", name, &n, unit, &value) == 4,
                "the child wrote '%s'", line);
            rows_add(name, workers, n, unit, value);
        }
    }
}

static pid_t start_child(char **argv, int out)
{
    posix_spawn_file_actions_t actions;
    pid_t child;
    int status;

    bench_check(!posix_spawn_file_actions_init(&actions), "no memory");
    bench_check(!posix_spawn_file_actions_adddup2(&actions, out, CHANNEL), "no memory");
    fflush(NULL);
    status = posix_spawn(&child, "/proc/self/exe", &actions, NULL, argv, environ);
    bench_check(!status, "cannot execute itself: %s", strerror(status));
    posix_spawn_file_actions_destroy(&actions);
    return child;
}

/* One run in its own process; false if it cannot be done here. */
static bool run_in_child(const struct settings *s, size_t index, int workers, uint64_t n)
{
    const struct bench_case *c = &s->suite->cases[index];
    char run_text[96];
    char *argv[] = {(char *)s->suite->name, "--child", run_text, NULL};
    int pipe_ends[2], status;
    FILE *channel;
    pid_t child;

    snprintf(run_text, sizeof run_text, "%zu,%d,%" PRIu64 ",%d,%d", index, workers, n, s->quick,
             s->unpinned);
    bench_check(!pipe2(pipe_ends, O_CLOEXEC), "pipe: %s", strerror(errno));
    child = start_child(argv, pipe_ends[1]);
    close(pipe_ends[1]);
    channel = fdopen(pipe_ends[0], "r");
    bench_check(channel, "no memory");
    collect(channel, c, workers);
    fclose(channel);
    while (waitpid(child, &status, 0) < 0)
        bench_check(errno == EINTR, "waitpid: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
        return false;
    bench_check(WIFEXITED(status) && !WEXITSTATUS(status), "%s, %d workers: wait status %#x%s",
                c->name, workers, (unsigned)status,
                WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? " (hung)" : "");
    return true;
}

static bool is_chosen(const struct settings *s, const struct bench_case *c)
{
    return n_of(s, c) && (!s->only || strstr(c->name, s->only));
}

/* Exits if nothing is chosen, or if a case cannot do the n that it is given. */
static void check_cases(const struct settings *s)
{
    size_t chosen = 0;

    for (size_t i = 0; i < s->suite->n_cases; i++) {
        const struct bench_case *c = &s->suite->cases[i];
        const char *needs;

        if (!is_chosen(s, c))
            continue;
        chosen++;
        needs = c->needs ? c->needs(n_of(s, c)) : NULL;
        if (needs) {
            fprintf(stderr, "%s: %s: n must be %s\n", s->suite->name, c->name, needs);
            exit(2);
        }
    }
    if (!chosen) {
        fprintf(stderr, "%s: no case is so named, or has so small an n\n", s->suite->name);
        exit(2);
    }
}

/* Every run of every case, in turn. */
static void run_all(const struct settings *s, struct machine_watch *watch)
{
    bool *impossible = calloc(s->suite->n_cases * MAX_LISTED, sizeof *impossible);

    bench_check(impossible, "no memory");
    for (int run = 0; run < s->runs; run++) {
        for (size_t i = 0; i < s->suite->n_cases; i++) {
            const struct bench_case *c = &s->suite->cases[i];
            const int *workers = workers_of(s, c);

            if (!is_chosen(s, c))
                continue;
            for (size_t w = 0; workers[w]; w++) {
                if (impossible[i * MAX_LISTED + w])
                    continue;
                impossible[i * MAX_LISTED + w] =
                    !run_in_child(s, i, workers[w] < 0 ? 0 : workers[w], n_of(s, c));
                machine_watch_look(watch);
            }
        }
    }
    free(impossible);
}

/* ---- output ---- */

static void save(const struct settings *s, FILE *out, const struct machine_watch *watch)
{
    char extra[96];

    snprintf(extra, sizeof extra, "\"runs\":%d,\"quick\":%s,\"pinned\":%s", s->runs,
             s->quick ? "true" : "false", s->unpinned ? "false" : "true");
    machine_print_json(out, s->suite->name, extra, watch);
    rows_print_json(out, s->suite->name);
    bench_check(!ferror(out) & !fclose(out), "cannot write %s", s->json);
}

static void show(const struct settings *s, const struct machine_watch *watch)
{
    printf("%s: %s\n", s->suite->name, s->suite->about);
    printf("%d interleaved runs, each a process%s%s; covers: how probably the interval holds the median\n",
           s->runs, s->quick ? ", quick" : "", s->unpinned ? ", workers not pinned" : "");
    machine_print(stdout, watch);
    rows_print_table(stdout);
}

/* ---- the command line ---- */

static _Noreturn void usage(const char *program, int status)
{
    fprintf(status ? stderr : stdout,
            "usage: %s [--workers LIST] [--runs N] [--n N] [--case TEXT] [--quick | --full]\n"
            "       [--unpinned] [--json FILE]\n"
            "  --workers   numbers of workers, such as 1,2,4 (1,2; some cases have lists of their own)\n"
            "  --runs      runs of each case\n"
            "  --n         tasks, operations or whatever a case counts, instead of its own number\n"
            "  --case      only cases whose name contains TEXT\n"
            "  --quick     fewer and smaller runs: to try, not to quote; --full is the default\n"
            "  --unpinned  leaves our workers unpinned\n"
            "  --json      lines of JSON with all values too, into FILE; -: these only\n",
            program);
    exit(status);
}

static uint64_t number(const char *text, const char **end)
{
    char *stop;
    uint64_t value;

    errno = 0;
    value = strtoull(text, &stop, 10);
    if (stop == text || errno || *text < '0' || *text > '9')
        value = 0;
    *end = stop;
    return value;
}

static bool parse_number(const char *text, uint64_t most, uint64_t *out)
{
    const char *end;

    *out = number(text, &end);
    return *out && *out <= most && !*end;
}

static bool parse_workers(struct settings *s, const char *text)
{
    s->workers_given = true;
    for (size_t n = 0; n < MAX_LISTED; n++) {
        const char *end;
        uint64_t workers = number(text, &end);

        if (!workers || workers > 1024)
            return false;
        s->workers[n] = (int)workers;
        s->workers[n + 1] = 0;
        if (!*end)
            return true;
        if (*end != ',')
            return false;
        text = end + 1;
    }
    return false;
}

enum { WORKERS = 1, RUNS, N, CASE, QUICK, FULL, UNPINNED, JSON, HELP, CHILD };

static const struct option long_options[] = {
    {"workers", required_argument, NULL, WORKERS},
    {"runs", required_argument, NULL, RUNS},
    {"n", required_argument, NULL, N},
    {"case", required_argument, NULL, CASE},
    {"quick", no_argument, NULL, QUICK},
    {"full", no_argument, NULL, FULL},
    {"unpinned", no_argument, NULL, UNPINNED},
    {"json", required_argument, NULL, JSON},
    {"help", no_argument, NULL, HELP},
    {"child", required_argument, NULL, CHILD},
    {NULL, 0, NULL, 0},
};

/* False if it makes no sense. */
static bool take_option(struct settings *s, int option, uint64_t *runs)
{
    switch (option) {
    case WORKERS:
        return parse_workers(s, optarg);
    case RUNS:
        return parse_number(optarg, 10000, runs);
    case N:
        return parse_number(optarg, 50000000, &s->n);
    case CASE:
        s->only = optarg;
        return true;
    case QUICK:
    case FULL:
        s->quick = option == QUICK;
        return true;
    case UNPINNED:
        s->unpinned = true;
        return true;
    case JSON:
        s->json = optarg;
        return true;
    default:
        return false;
    }
}

int bench_main(int argc, char **argv, const struct bench_suite *suite)
{
    struct settings s = {.suite = suite, .workers = {1, 2, 0}};
    struct machine_watch watch;
    FILE *json = NULL;
    uint64_t runs = 0;
    int option;

    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (option == CHILD)
            return bench_child_main(suite, optarg);
        if (option == HELP)
            usage(argv[0], 0);
        if (!take_option(&s, option, &runs))
            usage(argv[0], 2);
    }
    if (optind != argc)
        usage(argv[0], 2);
    s.runs = runs ? (int)runs : s.quick && suite->runs > 2 ? 2 : suite->runs;

    check_cases(&s);
    if (s.json) {
        json = strcmp(s.json, "-") ? fopen(s.json, "we") : stdout;
        bench_check(json, "cannot write %s: %s", s.json, strerror(errno));
    }

    watch = machine_watch_begin();
    run_all(&s, &watch);
    machine_watch_end(&watch);
    if (json != stdout)
        show(&s, &watch);
    if (json)
        save(&s, json, &watch);
    else
        fflush(stdout);
    rows_print_notes(stderr);
    return 0;
}
