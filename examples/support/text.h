/* SPDX-License-Identifier: MIT
 *
 * A growing buffer of output. Coroutines append to it and have it written on a
 * helper thread, since a write to a pipe or terminal may block. A buffer
 * belongs to one task at a time. */
#ifndef EXAMPLES_SUPPORT_TEXT_H
#define EXAMPLES_SUPPORT_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
    char *data;
    size_t used;
    size_t capacity;
    bool out_of_memory; /* something is missing; text_write then fails */
};

void text_add(struct text *text, const char *data, size_t n_bytes);
void text_addf(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A file name for people: control characters and backslashes as in C. */
void text_add_name(struct text *text, const char *name);

/* A file name as JSON: "path":"..." and, only where the name is not UTF-8 (the
 * wrong bytes are then U+FFFD), "path_hex":"..." with its exact bytes. */
void text_add_json_path(struct text *text, const char *path);

/* Writes all of it to fd and empties it; 0 or a negative errno. May block. */
int text_write(struct text *text, int fd);

void text_free(struct text *text);

/* n with a comma between groups of three digits. buffer holds 27 bytes; returns buffer. */
char *text_group(char *buffer, uint64_t n);

#endif
