/* SPDX-License-Identifier: MIT
 *
 * Sums, the list of the largest files, and their two forms: for people and as
 * JSON lines. Only report_write does I/O. */
#include "report.h"
#include "progress.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG_BYTES 32768

/* Larger first; of equals the one whose path sorts first, so that the list does
 * not depend on the order of the directory. */
static bool goes_before(const struct large_file *entry, uint64_t bytes, const char *path)
{
    if (entry->bytes != bytes)
        return entry->bytes > bytes;
    return strcmp(entry->path, path) < 0;
}

static void note_largest(struct report *report, const char *path, uint64_t bytes)
{
    int place = report->n_largest;
    while (place > 0 && !goes_before(&report->largest[place - 1], bytes, path))
        place--;
    if (place == REPORT_LARGEST)
        return;
    char *copy = strdup(path);
    if (!copy) {
        report->out.out_of_memory = true;
        return;
    }
    if (report->n_largest == REPORT_LARGEST)
        free(report->largest[--report->n_largest].path);
    memmove(&report->largest[place + 1], &report->largest[place],
            (size_t)(report->n_largest - place) * sizeof report->largest[0]);
    report->largest[place] = (struct large_file){bytes, copy};
    report->n_largest++;
}

static void print_file(struct report *report, const char *path, const struct digest *digest)
{
    struct text *out = &report->out;
    if (report->json) {
        text_addf(out, "{\"type\":\"file\",");
        text_add_json_path(out, path);
        text_addf(out, ",\"bytes\":%" PRIu64 ",\"lines\":%" PRIu64 ",\"words\":%" PRIu64
                       ",\"crc32\":\"%08" PRIx32 "\"}\n",
                  digest->bytes, digest->lines, digest->words, digest->crc);
        return;
    }
    text_addf(out, "%12" PRIu64 " %10" PRIu64 " %10" PRIu64 " %08" PRIx32 " ", digest->bytes,
              digest->lines, digest->words, digest->crc);
    text_add_name(out, path);
    text_addf(out, "\n");
}

void report_file(struct report *report, const char *path, const struct digest *digest)
{
    if (!report->json && !report->totals_only && report->files == 0)
        text_addf(&report->out, "%12s %10s %10s %8s path\n", "bytes", "lines", "words", "crc32");
    report->files++;
    report->bytes += digest->bytes;
    report->lines += digest->lines;
    report->words += digest->words;
    note_largest(report, path, digest->bytes);
    if (!report->totals_only)
        print_file(report, path, digest);
}

static const char *error_text(int error)
{
    switch (error) {
    case -ELOOP:
        return "symbolic link, not followed";
    case -EMEDIUMTYPE:
        return "neither a regular file nor a directory";
    default:
        return strerror(-error);
    }
}

static void print_error(struct report *report, const char *path, int error)
{
    if (report->json) {
        text_addf(&report->out, "{\"type\":\"error\",");
        text_add_json_path(&report->out, path);
        text_addf(&report->out, ",\"error\":\"%s\"}\n", error_text(error));
        return;
    }
    text_addf(&report->err, "%sfile_batch: ", report->progress_bar ? PROGRESS_WIPE : "");
    text_add_name(&report->err, path);
    text_addf(&report->err, ": %s\n", error_text(error));
}

void report_error(struct report *report, const char *path, int error)
{
    if (error == -EACCES || error == -EPERM)
        report->unreadable++;
    else if (error == -ENOENT || error == -ENOTDIR || error == -ESTALE)
        report->vanished++;
    else
        report->other_errors++;
    print_error(report, path, error);
}

uint64_t report_errors(const struct report *report)
{
    return report->unreadable + report->vanished + report->other_errors;
}

static void total(struct report *report, const char *name, uint64_t n)
{
    char digits[27];
    text_addf(&report->out, "%-12s %20s\n", name, text_group(digits, n));
}

static void print_largest(struct report *report)
{
    char digits[27];
    if (report->n_largest)
        text_addf(&report->out, "\nthe largest:\n");
    for (int i = 0; i < report->n_largest; i++) {
        text_addf(&report->out, "%33s  ", text_group(digits, report->largest[i].bytes));
        text_add_name(&report->out, report->largest[i].path);
        text_addf(&report->out, "\n");
    }
}

static void print_totals(struct report *report, bool interrupted, double seconds)
{
    struct text *out = &report->out;
    if (!report->totals_only && report->files)
        text_addf(out, "\n");
    if (interrupted)
        text_addf(out, "interrupted: these are the totals of the files that were completed\n");
    total(report, "files", report->files);
    total(report, "bytes", report->bytes);
    total(report, "lines", report->lines);
    total(report, "words", report->words);
    total(report, "errors", report_errors(report));
    if (report_errors(report))
        text_addf(out, "  unreadable %" PRIu64 ", vanished %" PRIu64 ", other %" PRIu64 "\n",
                  report->unreadable, report->vanished, report->other_errors);
    if (interrupted)
        total(report, "unfinished", report->unfinished);
    text_addf(out, "%-12s %18.3f s\n", "time", seconds);
    text_addf(out, "%-12s %13.1f MB/s, %.0f files/s\n", "speed",
              (double)report->bytes / 1e6 / seconds, (double)report->files / seconds);
    print_largest(report);
}

static void print_json_totals(struct report *report, bool interrupted, int64_t wall_ns)
{
    struct text *out = &report->out;
    text_addf(out, "{\"type\":\"totals\",\"files\":%" PRIu64 ",\"bytes\":%" PRIu64
                   ",\"lines\":%" PRIu64 ",\"words\":%" PRIu64 ",\"errors\":%" PRIu64
                   ",\"unreadable\":%" PRIu64 ",\"vanished\":%" PRIu64 ",\"unfinished\":%" PRIu64
                   ",\"interrupted\":%s,\"wall_ns\":%" PRId64 ",\"largest\":[",
              report->files, report->bytes, report->lines, report->words, report_errors(report),
              report->unreadable, report->vanished, report->unfinished,
              interrupted ? "true" : "false", wall_ns);
    for (int i = 0; i < report->n_largest; i++) {
        text_addf(out, "%s{", i ? "," : "");
        text_add_json_path(out, report->largest[i].path);
        text_addf(out, ",\"bytes\":%" PRIu64 "}", report->largest[i].bytes);
    }
    text_addf(out, "]}\n");
}

void report_totals(struct report *report, bool interrupted, int64_t wall_ns)
{
    if (wall_ns < 1)
        wall_ns = 1;
    if (report->json)
        print_json_totals(report, interrupted, wall_ns);
    else
        print_totals(report, interrupted, (double)wall_ns / 1e9);
}

bool report_is_long(const struct report *report)
{
    return report->out.used >= LONG_BYTES || report->err.used > 0;
}

int report_write(struct report *report)
{
    /* When both go to one terminal the bar is on the line where the text begins. */
    if (report->progress_bar && report->out.used && isatty(STDOUT_FILENO))
        text_add(&report->err, PROGRESS_WIPE, strlen(PROGRESS_WIPE));
    text_write(&report->err, STDERR_FILENO);
    return text_write(&report->out, STDOUT_FILENO);
}

void report_free(struct report *report)
{
    for (int i = 0; i < report->n_largest; i++)
        free(report->largest[i].path);
    text_free(&report->out);
    text_free(&report->err);
}
