/* SPDX-License-Identifier: MIT
 *
 * Runs this very program again and measures it. */
#ifndef EXAMPLES_SUPPORT_CHILD_H
#define EXAMPLES_SUPPORT_CHILD_H

#include <stddef.h>
#include <stdint.h>

struct child_cost {
    uint64_t wall_ns;    /* from exec to exit */
    uint64_t peak_bytes; /* largest resident set */
};

/* In the parent: executes the program with these arguments (NULL-terminated,
 * the name first), waits for it, and receives n_bytes of report from it. 0, or a
 * negative errno after a message on stderr; -EIO if the child failed. Blocks. */
int child_run(char *const arguments[], void *report, size_t n_bytes, struct child_cost *cost);

/* In the child: sends the report, once. 0 or a negative errno. */
int child_send(const void *report, size_t n_bytes);

#endif
