/* SPDX-License-Identifier: MIT
 *
 * See the header. The signal's handler only leaves word and wakes the thread, which makes no call of
 * the public interface and is no foreign thread: it can wake no task, so it does not count where a
 * deadlock is looked for. It takes no lock of a worker's. */
#include "core/monitor.h"

#include "core/dump.h"
#include "core/stall.h"
#include "core/worker.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#define STACK_BYTES ((size_t)256 * 1024)

enum { ENDS = 1, DUMPS = 2 };

static struct {
    flow__atomic(uint32_t) word; /* what it is asked for; it sleeps on it */
    bool open;
    pthread_t thread;
    struct sigaction before;
} monitor;

/* ---- the signal ---- */

static void on_signal(int unused)
{
    int kept = errno;

    (void)unused;
    fetch_or_seq(&monitor.word, DUMPS);
    flow__sys.futex_wake(&monitor.word, 1);
    errno = kept;
}

/* Those of faults are not for asking questions. */
static bool may_be_taken(int signo)
{
    return signo != SIGSEGV && signo != SIGBUS && signo != SIGABRT && signo != SIGILL &&
           signo != SIGFPE && signo != SIGTRAP;
}

static int take_signal(int signo)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART};

    if (signo == 0)
        return 0;
    sigemptyset(&action.sa_mask);
    /* In two calls, since another thread may fork between them. */
    if (!may_be_taken(signo) || sigaction(signo, NULL, &monitor.before) || sigaction(signo, &action, NULL))
        return -EINVAL;
    return 0;
}

/* Unless the program has taken it meanwhile. */
static void give_signal_back(int signo)
{
    struct sigaction now;

    if (signo && !sigaction(signo, NULL, &now) && now.sa_handler == on_signal)
        sigaction(signo, &monitor.before, NULL);
}

/* Every other thread may have it blocked. */
static void let_signal_come(int signo)
{
    sigset_t set;

    sigemptyset(&set);
    if (signo && !sigaddset(&set, signo))
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* ---- the thread ---- */

static void dump_for_signal(void)
{
    static const char head[] = "flowcoro: the live tasks, as asked for by a signal\n";

    fetch_and_seq(&monitor.word, ~(uint32_t)DUMPS); /* one that comes now asks for another dump */
    if (write(STDERR_FILENO, head, sizeof head - 1) > 0)
        flow__dump(STDERR_FILENO);
}

static void *run(void *unused)
{
    int64_t last = flow__sys.now(), tick = flow__stall_tick();
    uint32_t word;

    (void)unused;
    pthread_setname_np(pthread_self(), "flow-monitor");
    let_signal_come(flow__runtime.options.dump_signal);
    flow__reclaim_register();
    while (!((word = load_seq(&monitor.word)) & ENDS)) {
        int64_t now;

        if (word & DUMPS)
            dump_for_signal();
        else
            flow__sys.futex_wait(&monitor.word, 0,
                                 tick == FLOW_FOREVER ? FLOW_FOREVER : last + tick);
        now = flow__sys.now();
        if (tick == FLOW_FOREVER || now < last + tick)
            continue;
        flow__stall_look(now, tick);
        last = now;
        tick = flow__stall_tick();
    }
    flow__reclaim_unregister();
    return NULL;
}

int flow__monitor_open(void)
{
    const struct flow_options *o = &flow__runtime.options;
    int r = flow__stall_open();

    store_relaxed(&monitor.word, 0);
    if (!r)
        r = take_signal(o->dump_signal);
    if (!r && (o->dump_signal || flow__stall_tick() != FLOW_FOREVER)) {
        r = flow__sys.thread_create(&monitor.thread, STACK_BYTES, run, NULL);
        monitor.open = !r;
    }
    if (r) {
        give_signal_back(o->dump_signal);
        flow__stall_close();
    }
    return r;
}

void flow__monitor_in_child(void)
{
    give_signal_back(flow__runtime.options.dump_signal);
}

void flow__monitor_close(void)
{
    give_signal_back(flow__runtime.options.dump_signal);
    if (monitor.open) {
        fetch_or_seq(&monitor.word, ENDS);
        flow__sys.futex_wake(&monitor.word, 1);
        pthread_join(monitor.thread, NULL);
        monitor.open = false;
    }
    flow__stall_close();
}
