/* SPDX-License-Identifier: MIT
 *
 * What file_batch has found out, and how it is printed: a line per file while
 * the batch runs, the totals after it. A report belongs to one task at a time. */
#ifndef EXAMPLES_SUPPORT_REPORT_H
#define EXAMPLES_SUPPORT_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "digest.h"
#include "text.h"

#define REPORT_LARGEST 10

struct large_file {
    uint64_t bytes;
    char *path;
};

struct report {
    bool json;
    bool totals_only;  /* no line per file */
    bool progress_bar; /* messages wipe it first */

    struct text out; /* not yet written to standard output */
    struct text err; /* not yet written to standard error */

    uint64_t files, bytes, lines, words; /* of files that were read to their end */
    uint64_t unreadable, vanished, other_errors;
    uint64_t unfinished; /* begun or queued when the batch was interrupted */
    struct large_file largest[REPORT_LARGEST];
    int n_largest;
};

void report_file(struct report *report, const char *path, const struct digest *digest);
void report_error(struct report *report, const char *path, int error);
uint64_t report_errors(const struct report *report);

/* Appends the totals to report->out. */
void report_totals(struct report *report, bool interrupted, int64_t wall_ns);

/* There is enough to write that it is worth a call. */
bool report_is_long(const struct report *report);

/* Writes both texts; 0 or a negative errno of standard output. May block. */
int report_write(struct report *report);

void report_free(struct report *report);

#endif
