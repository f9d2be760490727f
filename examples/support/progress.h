/* SPDX-License-Identifier: MIT
 *
 * A progress bar on a terminal, drawn by a task of its own. */
#ifndef EXAMPLES_SUPPORT_PROGRESS_H
#define EXAMPLES_SUPPORT_PROGRESS_H

#include <flowcoro.h>
#include <stdatomic.h>

/* Wipes the line the bar is on. Whoever prints to the terminal starts with it. */
#define PROGRESS_WIPE "\r\033[K"

/* The counters are written by the tasks that do the work and read by the bar. */
struct progress {
    int fd;               /* the terminal */
    flow_deadline begin;
    atomic_uint_fast64_t files_done;
    atomic_uint_fast64_t bytes_done;
    atomic_uint_fast64_t files_found;
    atomic_bool found_all; /* files_found is final */
};

/* A task's function, arg a struct progress: redraws ten times a second until it is cancelled. */
flow_result progress_draw(void *arg);

#endif
