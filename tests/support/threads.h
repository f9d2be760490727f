/* SPDX-License-Identifier: MIT
 *
 * Threads of a test that meet in the pieces of sync/, without a runtime. */
#ifndef FLOW_TESTS_THREADS_H
#define FLOW_TESTS_THREADS_H

#include "sync/atomic.h"
#include "tests/support/test.h"

#include <pthread.h>
#include <sched.h>

#define MAX_THREADS 8

static pthread_t threads[MAX_THREADS];
static int n_threads;

static inline void begin(void *(*run)(void *), void *arg)
{
    assert_true(n_threads < MAX_THREADS);
    assert_int_equal(pthread_create(&threads[n_threads++], NULL, run, arg), 0);
}

static inline void join_all(void)
{
    while (n_threads > 0)
        pthread_join(threads[--n_threads], NULL);
}

static inline void random_delay(uint64_t *random)
{
    uint64_t r = test_random(random);

    if (r % 64 == 0)
        sched_yield();
    for (uint64_t i = 0; i < (r >> 8) % 64; i++)
        flow__pause();
}

#endif
