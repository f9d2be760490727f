/* SPDX-License-Identifier: MIT
 *
 * 1,000 signals a second to threads chosen by chance, the library's own among them, so that system
 * calls end early (EINTR) and code is stopped between any two instructions: the handler takes its
 * time. One signal restarts system calls, the other does not.
 *
 * The library's threads block all signals that are not faults; here they are made to accept these. */
#include "tests/torture/torture.h"

#include "sync/atomic.h"
#include "sync/syscall.h"

#include <signal.h>
#include <stdlib.h>

enum { THREADS = 256, PERIOD_NS = 1000000, MOST_PAUSES = 400 };

static struct {
    pthread_mutex_t lock;
    pthread_t thread[THREADS]; /* under lock, as all to `random` */
    bool used[THREADS];
    uint64_t random;
    pthread_t shaker;
    atomic_bool end;
    atomic_ulong taken;
} shaken = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void take_signal(int signal_number)
{
    unsigned long n = atomic_fetch_add_explicit(&shaken.taken, 1, memory_order_relaxed);

    (void)signal_number;
    for (unsigned long i = n * 2654435761u % MOST_PAUSES; i > 0; i--)
        flow__pause();
}

static void signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGUSR2);
    sigaddset(set, SIGURG);
}

void shaker_add(void)
{
    sigset_t set;

    pthread_mutex_lock(&shaken.lock);
    for (int i = 0; i < THREADS; i++)
        if (!shaken.used[i]) {
            shaken.used[i] = true;
            shaken.thread[i] = pthread_self();
            break;
        }
    pthread_mutex_unlock(&shaken.lock);
    signals(&set);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void shaker_remove(void)
{
    sigset_t set;

    signals(&set);
    pthread_mutex_lock(&shaken.lock);
    for (int i = 0; i < THREADS; i++)
        if (shaken.used[i] && pthread_equal(shaken.thread[i], pthread_self()))
            shaken.used[i] = false;
    pthread_mutex_unlock(&shaken.lock);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* ---- the library's threads ---- */

struct start {
    void *(*run)(void *);
    void *arg;
};

static void *run_shaken(void *start)
{
    struct start s = *(struct start *)start;
    void *result;

    free(start);
    shaker_add();
    result = s.run(s.arg);
    shaker_remove();
    return result;
}

static int create_shaken(pthread_t *thread, size_t stack_bytes, void *(*run)(void *), void *arg)
{
    struct start *start = malloc(sizeof *start);
    int r;

    *start = (struct start){run, arg};
    r = flow__sys_real.thread_create(thread, stack_bytes, run_shaken, start);
    if (r)
        free(start);
    return r;
}

/* ---- the thread that shakes ---- */

static void shake_one(void)
{
    int n = 0, chosen = -1;

    pthread_mutex_lock(&shaken.lock);
    for (int i = 0; i < THREADS; i++)
        if (shaken.used[i] && test_random(&shaken.random) % (uint64_t)++n == 0)
            chosen = i;
    if (chosen >= 0)
        pthread_kill(shaken.thread[chosen], test_random(&shaken.random) & 1 ? SIGUSR2 : SIGURG);
    pthread_mutex_unlock(&shaken.lock);
}

static void *shake(void *unused)
{
    while (!atomic_load(&shaken.end)) {
        shake_one();
        test_nap(PERIOD_NS);
    }
    return unused;
}

void shaker_open(uint64_t seed)
{
    struct sigaction action = {.sa_handler = take_signal}, restarting = {.sa_handler = take_signal};

    restarting.sa_flags = SA_RESTART;
    sigaction(SIGUSR2, &action, NULL);
    sigaction(SIGURG, &restarting, NULL);
    shaken.random = seed;
    atomic_store(&shaken.end, false);
    flow__sys.thread_create = create_shaken;
    if (pthread_create(&shaken.shaker, NULL, shake, NULL))
        fail_msg("%s", "no thread for the signals");
}

void shaker_close(void)
{
    atomic_store(&shaken.end, true);
    pthread_join(shaken.shaker, NULL);
}

unsigned long shaker_signals(void)
{
    return atomic_load(&shaken.taken);
}
