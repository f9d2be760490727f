/* SPDX-License-Identifier: MIT
 *
 * Text for reports, without stdio: nothing is allocated, no lock is taken and no errno left behind,
 * so that it can be made in a signal handler, and a million lines cost little. */
#ifndef FLOW_CORE_TEXT_H
#define FLOW_CORE_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* Initialise with bytes, capacity and fd. */
struct flow__text {
    char *bytes;
    size_t n, capacity;
    int fd;    /* where it is written when bytes are full; -1: what does not fit is left out */
    int error; /* 0, or why a write has failed: a negative errno; then nothing more is written */
};

void flow__text_add(struct flow__text *t, const char *s);
void flow__text_number(struct flow__text *t, uint64_t v);
void flow__text_hex(struct flow__text *t, uint64_t v);

/* A task's name, in quotes. It is the program's and a line is ours: control characters become '?'. */
void flow__text_name(struct flow__text *t, const char *name);

/* A span, to the millisecond if it is longer than that: "12 us", "1234 ms". */
void flow__text_span(struct flow__text *t, int64_t ns);

/* Writes what is there. */
void flow__text_flush(struct flow__text *t);

#endif
