/* SPDX-License-Identifier: MIT
 *
 * Bytes, lines, words and CRC-32 of every regular file below some paths, one
 * task per file. Who does what:
 *
 *   walker    a task: finds files, spawns their tasks, joins the oldest one when
 *             in_flight of them are out; so memory is bounded whatever the tree
 *   file      a task per file: has each chunk read on a helper thread and counts
 *             it on its worker, so reading overlaps with counting on every CPU
 *   root      the first task: outlives the walker, and takes over what it left
 *             behind when Ctrl-C cancelled it
 *   bar       on a terminal: one task draws, another counts files ahead of the walker
 *
 * The ring of jobs and the report belong to the walker until root has joined it,
 * then to root; so neither needs a lock. Joining in the order of spawning also
 * prints files in the order of the walk. */
#include <errno.h>
#include <fcntl.h>
#include <flowcoro.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/digest.h"
#include "support/interrupt.h"
#include "support/progress.h"
#include "support/report.h"
#include "support/walk.h"

#define CHUNK_BYTES       ((size_t)128 * 1024)
#define DEFAULT_IN_FLIGHT 64
#define MOST_IN_FLIGHT    4096

/* One file. Between spawn and join it belongs to its task. */
struct job {
    flow_task task;
    struct progress *progress;
    char *path;
    char *chunk; /* CHUNK_BYTES, made at first use and kept for the next file */
    int fd;      /* -1 while not open */
    bool opened;
    struct digest digest;
};

struct batch {
    char **paths;
    int n_paths;
    size_t in_flight;

    struct job *jobs; /* a ring of in_flight: count of them from first on are out */
    size_t first;
    size_t count;

    struct report report;
    int output_error; /* standard output failed: a negative errno */
    bool bar;
    struct progress progress;
};

/* On a helper thread. The path was a regular file a moment ago: O_NOFOLLOW and
 * O_NONBLOCK see to it that a link or fifo in its place neither leads astray nor blocks. */
static int open_file(struct job *job)
{
    struct stat status;
    int fd = open(job->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = fstat(fd, &status) ? -errno : S_ISREG(status.st_mode) ? 0 : -EMEDIUMTYPE;
    if (error) {
        close(fd);
        return error;
    }
    job->fd = fd;
    job->opened = true;
    return 0;
}

static void close_file(struct job *job)
{
    if (job->fd >= 0)
        close(job->fd);
    job->fd = -1;
}

/* On a helper thread: opens the file if need be, reads a chunk, and closes the
 * file at its end, so that a small file costs one trip. Returns the bytes read. */
static flow_result read_chunk(void *arg)
{
    struct job *job = arg;
    size_t used = 0;
    int error = job->opened ? 0 : open_file(job);
    if (error)
        return flow_err(error);
    while (used < CHUNK_BYTES) {
        ssize_t n = read(job->fd, job->chunk + used, CHUNK_BYTES - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            error = -errno;
        if (n <= 0) {
            close_file(job);
            break;
        }
        used += (size_t)n;
    }
    return error ? flow_err(error) : flow_ok_u64(used);
}

/* A file's task. Cancelled, it gives up at the next chunk. */
static flow_result process_file(void *arg)
{
    struct job *job = arg;
    struct progress *progress = job->progress;
    do {
        flow_result chunk = flow_offload(FLOW_LANE_FILE, read_chunk, job, FLOW_FOREVER);
        if (flow_is_err(chunk)) {
            close_file(job);
            return chunk;
        }
        digest_add(&job->digest, job->chunk, chunk.u64);
        atomic_fetch_add_explicit(&progress->bytes_done, chunk.u64, memory_order_relaxed);
    } while (job->fd >= 0);
    return flow_ok(NULL);
}

static flow_result write_report(void *report)
{
    return flow_ok_i64(report_write(report));
}

/* Writes what has been gathered. A cancelled walker keeps it: root writes it later. */
static int flush_report(struct batch *batch)
{
    flow_result written = flow_offload(FLOW_LANE_FILE, write_report, &batch->report, FLOW_FOREVER);
    if (flow_is_err(written))
        return written.error;
    if (written.i64 && !batch->output_error)
        batch->output_error = (int)written.i64;
    return (int)written.i64;
}

/* Joins the oldest task and takes its result into the report. */
static int reap_oldest(struct batch *batch)
{
    struct job *job = &batch->jobs[batch->first];
    flow_result result;
    int error = flow_join(job->task, &result, FLOW_FOREVER);
    if (error)
        return error;
    if (flow_is_ok(result))
        report_file(&batch->report, job->path, &job->digest);
    else if (result.error == -ECANCELED)
        batch->report.unfinished++;
    else
        report_error(&batch->report, job->path, result.error);
    atomic_fetch_add_explicit(&batch->progress.files_done, 1, memory_order_relaxed);
    free(job->path);
    job->path = NULL;
    batch->first = (batch->first + 1) % batch->in_flight;
    batch->count--;
    return 0;
}

static int spawn_job(struct batch *batch, const char *path)
{
    struct job *job = &batch->jobs[(batch->first + batch->count) % batch->in_flight];
    char *chunk = job->chunk ? job->chunk : malloc(CHUNK_BYTES);
    *job = (struct job){.progress = &batch->progress, .chunk = chunk, .fd = -1};
    job->path = strdup(path);
    int error = chunk && job->path ? flow_spawn(&job->task, process_file, job) : -ENOMEM;
    if (error) {
        free(job->path);
        job->path = NULL;
        return error;
    }
    batch->count++;
    return 0;
}

/* The walker's visitor. A full ring makes the walk wait. */
static int submit_file(void *context, const char *path, int error)
{
    struct batch *batch = context;
    if (!error && batch->count == batch->in_flight) {
        int stopped = reap_oldest(batch);
        if (stopped)
            return stopped;
    }
    if (!error)
        error = spawn_job(batch, path);
    if (error)
        report_error(&batch->report, path, error);
    return report_is_long(&batch->report) ? flush_report(batch) : 0;
}

static flow_result walk_paths(void *arg)
{
    struct batch *batch = arg;
    int error = 0;
    for (int i = 0; i < batch->n_paths && !error; i++)
        error = walk_tree(batch->paths[i], submit_file, batch);
    while (!error && batch->count)
        error = reap_oldest(batch);
    return error ? flow_err(error) : flow_ok(NULL);
}

static int count_found(void *context, const char *path, int error)
{
    struct batch *batch = context;
    (void)path;
    if (!error)
        atomic_fetch_add_explicit(&batch->progress.files_found, 1, memory_order_relaxed);
    return 0;
}

static flow_result count_paths(void *arg)
{
    struct batch *batch = arg;
    int error = 0;
    for (int i = 0; i < batch->n_paths && !error; i++)
        error = walk_tree(batch->paths[i], count_found, batch);
    atomic_store_explicit(&batch->progress.found_all, !error, memory_order_relaxed);
    return flow_ok(NULL);
}

static void end_task(flow_task task)
{
    if (!task.id)
        return;
    flow_cancel(task);
    flow_join(task, NULL, FLOW_FOREVER);
}

/* What a walker that was stopped has left behind: unfinished files are given up,
 * results that are there count. */
static void wind_up(struct batch *batch)
{
    for (size_t i = 0; i < batch->count; i++)
        flow_cancel(batch->jobs[(batch->first + i) % batch->in_flight].task);
    while (batch->count && reap_oldest(batch) == 0)
        continue;
}

static flow_result run_batch(void *arg)
{
    struct batch *batch = arg;
    flow_task walker, bar = {0}, counter = {0};
    flow_result walked;

    int error = flow_spawn(&walker, walk_paths, batch);
    if (error)
        return flow_err(error);
    interrupt_target(walker);
    if (batch->bar) {
        flow_spawn(&bar, progress_draw, &batch->progress);
        flow_spawn(&counter, count_paths, batch);
    }
    error = flow_join(walker, &walked, FLOW_FOREVER);
    wind_up(batch);
    end_task(counter);
    end_task(bar);
    if (!batch->output_error)
        flush_report(batch);
    if (!error)
        error = walked.error;
    if (error == -ECANCELED || batch->output_error)
        error = 0; /* the report and output_error tell these */
    return error ? flow_err(error) : flow_ok(NULL);
}

/* Each file in flight is a descriptor, and so is each level of the tree. */
static void allow_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "file_batch: %s: %s\n", what, why);
    return EXIT_FAILURE;
}

/* The totals, on the main thread once the runtime has stopped. */
static int conclude(struct batch *batch)
{
    int signal_number = interrupt_signal();
    if (batch->bar)
        text_add(&batch->report.err, PROGRESS_WIPE, strlen(PROGRESS_WIPE));
    batch->report.progress_bar = false;
    report_totals(&batch->report, signal_number != 0, flow_now() - batch->progress.begin);
    int error = batch->output_error ? batch->output_error : report_write(&batch->report);
    if (error)
        return fail("standard output", strerror(-error));
    if (signal_number)
        return 128 + signal_number;
    return report_errors(&batch->report) ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int run(struct batch *batch)
{
    flow_result result = flow_ok(NULL);
    batch->jobs = calloc(batch->in_flight, sizeof *batch->jobs);
    if (!batch->jobs)
        return fail("jobs", strerror(ENOMEM));
    digest_prepare();
    allow_descriptors();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of write(2), reported as such */
    int error = interrupt_begin();
    if (error)
        return fail("signal thread", strerror(-error));

    batch->progress.begin = flow_now();
    batch->progress.fd = STDERR_FILENO;
    error = flow_run(NULL, run_batch, batch, &result);
    interrupt_end();
    if (error)
        return fail("runtime", *flow_start_error() ? flow_start_error() : strerror(-error));
    if (flow_is_err(result))
        return fail("batch", strerror(-result.error));
    return conclude(batch);
}

static void free_batch(struct batch *batch)
{
    for (size_t i = 0; batch->jobs && i < batch->in_flight; i++)
        free(batch->jobs[i].chunk);
    free(batch->jobs);
    report_free(&batch->report);
}

static const char help[] =
    "Usage: file_batch [OPTION]... PATH...\n"
    "Counts bytes, lines and words and computes the CRC-32 of every regular file at or\n"
    "below the PATHs, one concurrent task per file. Symbolic links are never followed.\n"
    "\n"
    "  --in-flight N   files worked on at a time, 1 to 4096 (64)\n"
    "  --totals        no line per file\n"
    "  --json          JSON: a line per file or error, then one with the totals\n"
    "  --help          this text\n"
    "\n"
    "Lines are newline characters, words those of `LC_ALL=C wc -w`, CRC-32 is zlib's.\n"
    "Ctrl-C stops the batch and prints the totals of the files completed so far; a\n"
    "second one ends it at once.\n"
    "\n"
    "Exit status: 0 all files were read, 1 some were not, 2 wrong usage, 130 interrupted.\n";

static int usage_error(const char *complaint, const char *value)
{
    fprintf(stderr, "file_batch: %s%s\nTry: file_batch --help\n", complaint, value);
    return 2;
}

static bool parse_in_flight(const char *text, size_t *in_flight)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || n < 1 || n > MOST_IN_FLIGHT)
        return false;
    *in_flight = n;
    return true;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"in-flight", required_argument, NULL, 'n'},
        {"totals", no_argument, NULL, 't'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    static struct batch batch = {.in_flight = DEFAULT_IN_FLIGHT};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'n':
            if (!parse_in_flight(optarg, &batch.in_flight))
                return usage_error("--in-flight takes a number from 1 to 4096, not ", optarg);
            break;
        case 't':
            batch.report.totals_only = true;
            break;
        case 'j':
            batch.report.json = true;
            break;
        case 'h':
            fputs(help, stdout);
            return EXIT_SUCCESS;
        default:
            fputs("Try: file_batch --help\n", stderr); /* getopt has said what is wrong */
            return 2;
        }
    }
    if (optind == argc)
        return usage_error("no PATH was given", "");
    batch.paths = argv + optind;
    batch.n_paths = argc - optind;
    batch.bar = batch.report.progress_bar = isatty(STDERR_FILENO);
    int status = run(&batch);
    free_batch(&batch);
    return status;
}
