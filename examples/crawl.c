/* SPDX-License-Identifier: MIT
 *
 * Crawls a tree of folders, a task for each, no more than so many folders a second, and no longer than
 * a deadline allows. A scope holds all of them: none is left when it is closed.
 *
 *     crawl FOLDER [FOLDERS_PER_SECOND [MILLISECONDS]]    (10000 and 60000) */
#include <dirent.h>
#include <errno.h>
#include <flowcoro.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct folder {
    char *path;
    DIR *stream;
};

static struct flow_scope scope;
static struct flow_scope_options limits = FLOW_SCOPE_OPTIONS_INIT;
static int64_t interval_ns;
static atomic_llong next_start; /* when the next folder's turn is */
static atomic_ullong folders, entries, failures;
static flow_stack *paths; /* a task that is cancelled before it begins cannot free its own */

/* Waits for one of the turns that come at equal intervals. */
static int wait_for_turn(void)
{
    long long now = flow_now(), seen = atomic_load(&next_start), turn;

    do
        turn = seen > now ? seen : now;
    while (!atomic_compare_exchange_weak(&next_start, &seen, turn + interval_ns));
    return flow_sleep_until(turn);
}

/* On a helper thread, as it may wait for the disk. */
static flow_result open_folder(void *arg)
{
    struct folder *f = arg;

    f->stream = opendir(f->path);
    return f->stream ? flow_ok(NULL) : flow_err(-errno);
}

static flow_result visit(void *path);

static int visit_later(const char *parent, const char *name)
{
    size_t n = strlen(parent) + strlen(name) + 2;
    char *path = malloc(n);

    if (!path || flow_stack_push(paths, path))
        return free(path), -ENOMEM;
    snprintf(path, n, "%s%s%s", parent, *parent ? "/" : "", name);
    return flow_scope_spawn(&scope, NULL, visit, path);
}

static int read_folder(struct folder *f)
{
    struct dirent *entry;
    int error = 0;

    while (!error && (entry = readdir(f->stream))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        atomic_fetch_add(&entries, 1);
        if (entry->d_type == DT_DIR)
            error = visit_later(f->path, entry->d_name);
    }
    closedir(f->stream);
    return error;
}

static flow_result visit(void *path)
{
    struct folder f = {path, NULL};
    int error = wait_for_turn();

    if (!error)
        error = flow_offload(FLOW_LANE_FILE, open_folder, &f, FLOW_FOREVER).error;
    if (error && error != -ECANCELED) {
        fprintf(stderr, "crawl: %s: %s\n", f.path, strerror(-error));
        atomic_fetch_add(&failures, 1);
        return flow_ok(NULL); /* the others go on */
    }
    if (!error) {
        atomic_fetch_add(&folders, 1);
        error = read_folder(&f);
    }
    return error ? flow_err(error) : flow_ok(NULL);
}

static flow_result crawl(void *root)
{
    int error = flow_scope_open(&scope, &limits);

    if (!error && visit_later("", root))
        atomic_fetch_add(&failures, 1);
    error = error ? error : flow_scope_close(&scope);
    printf("%llu folders, %llu entries%s\n", (unsigned long long)folders,
           (unsigned long long)entries, error == -ETIMEDOUT ? ", then the time was up" : "");
    for (void *path; flow_stack_pop(paths, &path) == 0;)
        free(path);
    return flow_ok_i64(error ? error : -(int64_t)failures);
}

int main(int argc, char **argv)
{
    double rate = argc > 2 ? atof(argv[2]) : 10000, ms = argc > 3 ? atof(argv[3]) : 60000;
    flow_result result = flow_err(-EINVAL);

    if (argc < 2 || argc > 4 || !(rate > 0) || !(ms > 0))
        return fprintf(stderr, "usage: crawl FOLDER [FOLDERS_PER_SECOND [MILLISECONDS]]\n"), 2;
    interval_ns = (int64_t)(1e9 / rate);
    limits.deadline = flow_after((int64_t)(ms * 1e6));
    return flow_stack_create(&paths) || flow_run(NULL, crawl, argv[1], &result) || result.i64 != 0;
}
