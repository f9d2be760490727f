/* SPDX-License-Identifier: MIT
 *
 * What the system itself gives: a thread for each task, mutexes and conditions. See perf/rivals/README. */
#include "../rival.h"

#include <gnu/libc-version.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>

/* ---- threads ---- */

static void *twice(void *arg)
{
    return (void *)((uintptr_t)arg * 2);
}

static uint64_t spawn_join(uint64_t n, int workers)
{
    uint64_t sum = 0;

    (void)workers;
    for (uint64_t i = 0; i < n; i++) {
        pthread_t thread;
        void *result;

        if (pthread_create(&thread, NULL, twice, (void *)1) || pthread_join(thread, &result))
            abort();
        sum += (uintptr_t)result;
    }
    return sum;
}

/* ---- a mutex ---- */

static struct {
    pthread_mutex_t lock;
    uint64_t counter, each; /* counter: under the lock */
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *count(void *arg)
{
    for (uint64_t i = 0; i < shared.each; i++) {
        pthread_mutex_lock(&shared.lock);
        shared.counter++;
        pthread_mutex_unlock(&shared.lock);
    }
    return arg;
}

/* Has threads run on as many CPUs as there are workers; the next ones inherit it. */
static void keep_to(int cpus)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set))
        abort();
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &set) && cpus-- <= 0)
            CPU_CLR(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        abort();
}

static uint64_t mutex(uint64_t n, int threads, int cpus)
{
    pthread_t thread[8];

    keep_to(cpus);
    shared.counter = 0;
    shared.each = n / (uint64_t)threads;
    for (int i = 0; i < threads; i++)
        if (pthread_create(&thread[i], NULL, count, NULL))
            abort();
    for (int i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    return shared.counter;
}

static uint64_t mutex_alone(uint64_t n, int workers)
{
    return mutex(n, 1, workers);
}

static uint64_t mutex_of_8(uint64_t n, int workers)
{
    return mutex(n, 8, workers);
}

/* ---- waking a thread that waits for a condition ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t condition;
    int64_t woken_at, delay; /* under the lock; 0: none */
    uint64_t rounds;
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0};

static void *sleeper(void *arg)
{
    pthread_mutex_lock(&gate.lock);
    for (uint64_t i = 0; i < gate.rounds; i++) {
        while (!gate.woken_at)
            pthread_cond_wait(&gate.condition, &gate.lock);
        gate.delay = rival_now() - gate.woken_at;
        gate.woken_at = 0;
    }
    pthread_mutex_unlock(&gate.lock);
    return arg;
}

static void rest(long ns)
{
    struct timespec span = {.tv_nsec = ns};

    nanosleep(&span, NULL);
}

/* Once the sleeper has taken what was sent; looks as often as perf/wake.c. */
static int64_t delay_when_taken(void)
{
    for (;;) {
        bool taken;
        int64_t delay;

        rest(50000);
        pthread_mutex_lock(&gate.lock);
        taken = !gate.woken_at;
        delay = gate.delay;
        pthread_mutex_unlock(&gate.lock);
        if (taken)
            return delay;
    }
}

static uint64_t wake(uint64_t n, int workers)
{
    enum { WARM = 100 };
    int64_t *delays = calloc(n, sizeof *delays);
    pthread_t thread;

    (void)workers;
    gate.rounds = n + WARM;
    if (!delays || pthread_create(&thread, NULL, sleeper, NULL))
        abort();
    for (uint64_t i = 0; i < n + WARM; i++) {
        int64_t delay;

        rest(400000);
        pthread_mutex_lock(&gate.lock);
        gate.woken_at = rival_now();
        pthread_mutex_unlock(&gate.lock);
        pthread_cond_signal(&gate.condition);
        delay = delay_when_taken();
        if (i >= WARM)
            delays[i - WARM] = delay;
    }
    pthread_join(thread, NULL);
    rival_percentiles(delays, n);
    free(delays);
    return n;
}

int main(int argc, char **argv)
{
    static const struct rival_case cases[] = {
        {"spawn + join", spawn_join, RIVAL_EIGHTH},
        {"mutex alone", mutex_alone, RIVAL_EIGHTH},
        {"mutex of 8", mutex_of_8, RIVAL_EIGHTH},
        {"wake", wake, RIVAL_NOT},
    };
    char version[64];

    snprintf(version, sizeof version, "glibc %s", gnu_get_libc_version());
    return rival_main(argc, argv, version, cases, sizeof cases / sizeof *cases);
}
