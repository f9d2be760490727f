/* SPDX-License-Identifier: MIT
 *
 * A thread that sits in sigwait. flow_cancel is not for signal handlers, and a
 * thread needs none: it may call whatever a foreign thread may.
 *
 * The signal and the target arrive in either order. Each side stores its own
 * word and then loads the other's, both sequentially consistent, so at least one of
 * them sees both; to cancel twice does no harm. */
#include "interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

static pthread_t watcher;
static sigset_t watched;
static atomic_int seen_signal;
static atomic_bool ending;
static atomic_uint_fast64_t target_id;

static void cancel_target(void)
{
    uint64_t id = atomic_load(&target_id);
    if (id)
        flow_cancel((flow_task){id});
}

static void *watch(void *unused)
{
    (void)unused;
    for (;;) {
        int signal_number = 0;
        sigwait(&watched, &signal_number);
        if (atomic_load(&ending))
            return NULL;
        if (atomic_load(&seen_signal))
            _exit(128 + signal_number);
        atomic_store(&seen_signal, signal_number);
        cancel_target();
    }
}

int interrupt_begin(void)
{
    sigemptyset(&watched);
    sigaddset(&watched, SIGINT);
    sigaddset(&watched, SIGTERM);
    int error = pthread_sigmask(SIG_BLOCK, &watched, NULL);
    if (!error)
        error = pthread_create(&watcher, NULL, watch, NULL);
    return -error;
}

void interrupt_target(flow_task task)
{
    atomic_store(&target_id, task.id);
    if (atomic_load(&seen_signal))
        cancel_target();
}

int interrupt_signal(void)
{
    return atomic_load(&seen_signal);
}

void interrupt_end(void)
{
    atomic_store(&ending, true);
    pthread_kill(watcher, SIGINT); /* only to wake it from sigwait */
    pthread_join(watcher, NULL);
}
