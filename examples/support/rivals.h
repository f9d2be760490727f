/* SPDX-License-Identifier: MIT
 *
 * The same work without coroutines, as hello_world's rivals. */
#ifndef EXAMPLES_SUPPORT_RIVALS_H
#define EXAMPLES_SUPPORT_RIVALS_H

#include <stddef.h>
#include <stdint.h>

typedef uint64_t (*rival_work)(uint64_t index);

struct thread_counts {
    uint64_t most_unjoined; /* threads that existed at once: created and not yet joined */
    uint64_t most_running;  /* of these, inside their function at once */
    uint64_t refusals;      /* times the system had no further thread to give */
};

/* Each runs work(0) .. work(n - 1), stores the sum of the results in *sum, and
 * returns 0 or a negative errno. */

/* A thread each: all are created, then joined. Where the system refuses another
 * one, the oldest quarter is joined first. Stacks of 64 KiB. */
int rival_thread_per_task(size_t n, rival_work work, uint64_t *sum, struct thread_counts *counts);

/* One thread per CPU, one queue under a mutex and a condition variable. */
int rival_thread_pool(size_t n, rival_work work, uint64_t *sum, int *n_threads);

#endif
