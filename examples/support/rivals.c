/* SPDX-License-Identifier: MIT
 *
 * Threads as a careful programmer would use them: small stacks, a queue that
 * links the jobs themselves and allocates nothing per push. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include "rivals.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#define THREAD_STACK_BYTES ((size_t)64 * 1024)

/* Thread per task. A thread gets its index as argument, so that, as with the
 * coroutines, nothing is allocated per task but its handle. */

static rival_work thread_work;
static atomic_uint_fast64_t running;
static atomic_uint_fast64_t most_running;

static void *run_as_thread(void *index)
{
    uint64_t now = atomic_fetch_add_explicit(&running, 1, memory_order_relaxed) + 1;
    uint64_t most = atomic_load_explicit(&most_running, memory_order_relaxed);
    while (now > most && !atomic_compare_exchange_weak(&most_running, &most, now))
        continue;
    uint64_t result = thread_work((uintptr_t)index);
    atomic_fetch_sub_explicit(&running, 1, memory_order_relaxed);
    return (void *)(uintptr_t)result;
}

/* Joins threads[from .. to) and adds up what they returned. */
static int join_threads(const pthread_t *threads, size_t from, size_t to, uint64_t *sum)
{
    for (size_t i = from; i < to; i++) {
        void *result;
        int error = pthread_join(threads[i], &result);
        if (error)
            return -error;
        *sum += (uintptr_t)result;
    }
    return 0;
}

static int create_and_join(pthread_t *threads, size_t n, const pthread_attr_t *attributes,
                           uint64_t *sum, struct thread_counts *counts)
{
    size_t created = 0, joined = 0;
    while (created < n) {
        int error = pthread_create(&threads[created], attributes, run_as_thread,
                                   (void *)(uintptr_t)created);
        if (error && (error != EAGAIN || joined == created)) {
            join_threads(threads, joined, created, sum);
            return -error;
        }
        if (error) {
            size_t until = joined + (created - joined + 3) / 4;
            counts->refusals++;
            if ((error = join_threads(threads, joined, until, sum)))
                return error;
            joined = until;
            continue;
        }
        created++;
        if (created - joined > counts->most_unjoined)
            counts->most_unjoined = created - joined;
    }
    return join_threads(threads, joined, created, sum);
}

int rival_thread_per_task(size_t n, rival_work work, uint64_t *sum, struct thread_counts *counts)
{
    pthread_attr_t attributes;
    pthread_t *threads = calloc(n, sizeof *threads);
    if (!threads)
        return -ENOMEM;
    thread_work = work;
    *sum = 0;
    *counts = (struct thread_counts){0};
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
    int error = create_and_join(threads, n, &attributes, sum, counts);
    counts->most_running = atomic_load(&most_running);
    pthread_attr_destroy(&attributes);
    free(threads);
    return error;
}

/* Thread pool. */

struct job {
    struct job *next;
    uint64_t index;
    uint64_t result;
};

struct pool {
    pthread_mutex_t lock; /* guards everything below but work */
    pthread_cond_t not_empty;
    pthread_cond_t all_done;
    struct job *first;
    struct job **last;
    size_t unfinished;
    bool closed;
    rival_work work;
};

static struct job *take_job(struct pool *pool)
{
    while (!pool->first && !pool->closed)
        pthread_cond_wait(&pool->not_empty, &pool->lock);
    struct job *job = pool->first;
    if (job && !(pool->first = job->next))
        pool->last = &pool->first;
    return job;
}

static void *run_pool_thread(void *arg)
{
    struct pool *pool = arg;
    struct job *job;
    pthread_mutex_lock(&pool->lock);
    while ((job = take_job(pool))) {
        pthread_mutex_unlock(&pool->lock);
        job->result = pool->work(job->index);
        pthread_mutex_lock(&pool->lock);
        if (--pool->unfinished == 0)
            pthread_cond_signal(&pool->all_done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static void submit(struct pool *pool, struct job *job)
{
    pthread_mutex_lock(&pool->lock);
    job->next = NULL;
    *pool->last = job;
    pool->last = &job->next;
    pool->unfinished++;
    pthread_cond_signal(&pool->not_empty);
    pthread_mutex_unlock(&pool->lock);
}

static void wait_for_all(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    while (pool->unfinished)
        pthread_cond_wait(&pool->all_done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

static void close_pool(struct pool *pool, const pthread_t *threads, int n_threads)
{
    pthread_mutex_lock(&pool->lock);
    pool->closed = true;
    pthread_cond_broadcast(&pool->not_empty);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
}

static int usable_cpus(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus > 0 ? (int)cpus : 1;
}

int rival_thread_pool(size_t n, rival_work work, uint64_t *sum, int *n_threads)
{
    struct pool pool = {.lock = PTHREAD_MUTEX_INITIALIZER,
                        .not_empty = PTHREAD_COND_INITIALIZER,
                        .all_done = PTHREAD_COND_INITIALIZER,
                        .last = &pool.first,
                        .work = work};
    int cpus = usable_cpus(), started = 0, error = 0;
    struct job *jobs = calloc(n, sizeof *jobs);
    pthread_t *threads = calloc((size_t)cpus, sizeof *threads);
    if (!jobs || !threads)
        error = -ENOMEM;

    while (!error && started < cpus) {
        error = -pthread_create(&threads[started], NULL, run_pool_thread, &pool);
        started += !error;
    }
    for (size_t i = 0; i < n && !error; i++) {
        jobs[i].index = i;
        submit(&pool, &jobs[i]);
    }
    wait_for_all(&pool);
    *sum = 0;
    for (size_t i = 0; i < n && !error; i++)
        *sum += jobs[i].result;
    *n_threads = started;
    close_pool(&pool, threads, started);
    free(threads);
    free(jobs);
    return error;
}
