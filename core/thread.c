/* SPDX-License-Identifier: MIT
 *
 * What a worker's thread needs of the system: its name, its CPU, its alternate signal
 * stack, and what happens when user code does to it what must not be done
 * to a worker: end it, cancel it, call exit() on a coroutine's small stack. */
#include "core/capture.h"
#include "core/fatal.h"
#include "core/worker.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define LOOK_AT_CPU_NS FLOW_MS(10)
#define REPIN_LEAST_NS FLOW_MS(100)
#define REPIN_MOST_NS  FLOW_S(10)

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t worker_key;

/* Runs when a thread ends with the key still set, which no worker of its own accord does. */
static void worker_was_ended(void *worker)
{
    (void)worker;
    flow__die("pthread_exit was called in a coroutine: it would take a worker with it");
}

/* exit() runs the program's handlers. On a coroutine's stack they may not fit, so the
 * first handler that runs, which is this one unless the program registered others later, goes to
 * the worker's own stack and calls exit() again there; the C library goes on with the handlers that
 * are left. */
static flow__unsanitized long exit_elsewhere(void *status)
{
    exit((int)(intptr_t)status);
}

static void leave_coroutine(int status, void *unused)
{
    struct flow__task *self = flow__self();
    struct flow__context here;
    uintptr_t top;

    (void)unused;
    if (!self)
        return;
    /* Below what the scheduler has saved of itself, its thread's stack is free. */
    top = ((uintptr_t)self->home->strand.context.sp - 256) & ~(uintptr_t)15;
    flow__call(&here, (void *)top, exit_elsewhere, (void *)(intptr_t)status);
}

static void prepare_process(void)
{
    flow__check(pthread_key_create(&worker_key, worker_was_ended) == 0);
    on_exit(leave_coroutine, NULL);
}

static void name_thread(struct flow__worker *w)
{
    char name[16];

    snprintf(name, sizeof name, "flow-worker-%u", (unsigned)w->index % 1000u);
    pthread_setname_np(pthread_self(), name);
}

/* A CPU that has gone since start, or a sandbox that forbids it: then it runs unpinned. */
static void pin(struct flow__worker *w)
{
    static flow__atomic(bool) warned;
    int r = flow__pin_thread(w->cpu_id);

    if (r) {
        if (!exchange_seq(&warned, true))
            fprintf(stderr,
                    "libflowcoro: worker %d cannot be pinned to CPU %d (%s); it runs unpinned\n",
                    w->index, w->cpu_id, strerror(-r));
        return;
    }
    store_relaxed(&w->pinned, true);
    fetch_add_relaxed(&flow__runtime.pinned, 1);
    w->look_at_cpu_at = 0;
}

/* Its CPU has gone offline, or its cpuset has shrunk: the system has moved the thread and
 * widened its mask, and says nothing. The worker goes on elsewhere. It shares that CPU with
 * somebody, so it does not spin. */
static void note_moved(struct flow__worker *w)
{
    store_relaxed(&w->pinned, false);
    fetch_sub_relaxed(&flow__runtime.pinned, 1);
    flow__count(w, moved);
    w->spin_kept_ns = w->spin_max_ns;
    w->spin_max_ns = w->spin_ns = 0;
    w->look_at_cpu_ns = REPIN_LEAST_NS;
}

/* Back to its CPU if the system would let it run there. If somebody gave the thread a mask
 * without that CPU, it stays where it was put. */
static void try_to_return(struct flow__worker *w)
{
    if (!flow__thread_may_run_on(w->cpu_id) || flow__pin_thread(w->cpu_id)) {
        w->look_at_cpu_ns =
            2 * w->look_at_cpu_ns < REPIN_MOST_NS ? 2 * w->look_at_cpu_ns : REPIN_MOST_NS;
        return;
    }
    store_relaxed(&w->pinned, true);
    fetch_add_relaxed(&flow__runtime.pinned, 1);
    flow__count(w, returned);
    w->spin_max_ns = w->spin_kept_ns;
    w->look_at_cpu_ns = LOOK_AT_CPU_NS;
}

void flow__look_at_cpu(struct flow__worker *w, int64_t now)
{
    if (!load_relaxed(&w->pinned)) {
        try_to_return(w);
    } else {
        int cpu_id = flow__sys.cpu();

        w->look_at_cpu_ns = LOOK_AT_CPU_NS;
        if (cpu_id >= 0 && cpu_id != w->cpu_id)
            note_moved(w);
    }
    w->look_at_cpu_at = now + w->look_at_cpu_ns;
}

void flow__process_begin(void)
{
    pthread_once(&once, prepare_process);
}

void flow__thread_begin(struct flow__worker *w)
{
    int unused;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &unused);
    pthread_setspecific(worker_key, w);
    store_relaxed(&w->tid, gettid());
    name_thread(w);
    if (w->cpu_id >= 0)
        pin(w);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0,
          0); /* nanoseconds; the default of 50 us would be added to each sleep */
    flow__fatal_stack_open(&w->signal_stack);
    flow__capture_allow();
}

void flow__thread_end(struct flow__worker *w)
{
    flow__fatal_stack_close(&w->signal_stack);
    pthread_setspecific(worker_key, NULL);
}
