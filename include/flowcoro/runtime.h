/* SPDX-License-Identifier: MIT
 *
 * Starting, driving and stopping the runtime. There is one runtime in a
 * process; it may be started again after it was stopped. */
#ifndef FLOWCORO_RUNTIME_H
#define FLOWCORO_RUNTIME_H

#include <flowcoro/base.h>
#include <flowcoro/task.h>

FLOW_BEGIN_DECLS

#define FLOW_WORKERS_AUTO (-1)

/* What FLOW_OPTIONS_INIT sets stall_ns and report_leaks to. */
#ifdef FLOW_DEBUG
#define FLOW_STALL_NS     FLOW_MS(25)
#define FLOW_REPORT_LEAKS 1
#else
#define FLOW_STALL_NS     ((int64_t)0)
#define FLOW_REPORT_LEAKS 0
#endif

/* How to start. Initialise with FLOW_OPTIONS_INIT, then set what differs. */
struct flow_options {
    size_t size;          /* sizeof(struct flow_options) */
    int workers;          /* worker threads, 0 to 1024; 0: no thread, the program calls flow_drive.
                           * FLOW_WORKERS_AUTO: one per CPU this process may use, fewer under a CPU quota */
    int workers_per_node; /* so many on each node that may have workers, 0 to 1024; not together with
                           * a number of workers (0: no say) */
    int leave_cpus;       /* CPUs of each node that get no worker, those whose turn would come last:
                           * second threads of a core before first ones (0). A node that has no more
                           * than these gets none */
    uint64_t nodes;       /* nodes that may have workers, as a set: bit i for node i of
                           * flow_topology_node(), up to 63 (0: all nodes) */
    bool no_pinning;      /* leave the workers unpinned */
    bool unguarded_ok;    /* go on without guard pages when the system refuses them */
    bool roam;            /* every task is FLOW_ROAM unless it says FLOW_PINNED */
    bool no_fork_stacks;  /* stacks do not exist in the child of a fork: quicker forks, but a
                           * coroutine itself must not fork */
    bool no_fatal_report; /* leave the handlers of SIGSEGV, SIGBUS and SIGABRT alone. Otherwise crashes
                           * in coroutines are reported on stderr; a handler that the program had
                           * is called too, and faults other than overflows are reported only if
                           * it leaves the signal with SIG_DFL */
    bool measure_stacks;  /* for flow_stack_used and stack_used_most: each stack is filled with a
                           * pattern before its task starts, so it takes its whole size in memory
                           * and a start costs microseconds */
    bool report_leaks;    /* flow_stop tells on stderr which tasks lived when it began, which had not
                           * ended by its deadline, and which have ended and were never joined or
                           * detached: how many of each place where they were spawned, and the
                           * backtraces of those that live (on with FLOW_DEBUG) */
    size_t stack_bytes;   /* default stack class: a power of two, 16 KiB to 1 MiB (64 KiB) */
    size_t max_tasks;     /* live tasks that are possible; some hundreds more for each worker,
                           * and spawning gives -ENOSPC (4,000,000; 1 to 67,000,000) */
    int64_t spin_ns;      /* how long an idle worker looks for work before it parks, at most
                           * (20 us; 0 to 1 ms); cut to 0 when workers outnumber CPUs */
    int64_t stall_ns;     /* a worker that is kept by one coroutine for longer, as by a blocking
                           * call, is reported on stderr with a backtrace, once for each time, at
                           * most 5 times a minute (0: never; 25 ms with FLOW_DEBUG; 1 ms to 60 s).
                           * One that the system gives no CPU looks the same. Takes a thread, which
                           * looks twice in this span; not with workers = 0. A worker that runs is
                           * sent SIGURG to find out where, unless the program has a handler for it */
    int dump_signal;      /* at this signal all tasks are listed on stderr as by flow_dump, and the
                           * program goes on; 3 is SIGQUIT, that of Ctrl-\ (0: none). Its handler is
                           * put back by flow_stop, and in a child of fork. Takes a thread, the same
                           * as stall_ns, which has it unblocked */
    int64_t shuffle;      /* a test aid: not 0, and workers make every choice that is free by chance
                           * (the next task, when a task must yield, how many are taken and from
                           * whom) and pause now and then; it is slow. The number is the seed of
                           * these choices; with workers = 0 they are the same each time (0 and up) */
};

#define FLOW_OPTIONS_INIT                                                                          \
    {                                                                                              \
        sizeof(struct flow_options), FLOW_WORKERS_AUTO, 0, 0, (uint64_t)0, false, false, false,    \
            false, false, false, FLOW_REPORT_LEAKS, (size_t)64 * 1024, (size_t)4000000,            \
            FLOW_US(20), FLOW_STALL_NS, 0, (int64_t)0                                              \
    }

/* Sets options from text: "name=value" pairs separated by blanks or commas, the
 * names as above; sizes take K, M, G; spans take ns, us, ms, s; switches take
 * 0 or 1; "workers" also takes "auto"; "nodes" takes numbers and ranges between plus signs,
 * such as 0+2-3, or "all". Of workers and workers_per_node the one that comes last counts. A name that does not exist or a value out of range gives
 * -EINVAL, options stay as they were, and flow_start_error() names it. From any thread that does
 * not call it, or flow_start, at the same time. */
FLOW_API int flow_options_parse(struct flow_options *options, const char *text);

/* Starts the runtime. options NULL: the defaults. The environment then has the
 * last word: FLOW_WORKERS=n or auto, FLOW_SHUFFLE=seed, and FLOW_OPTIONS in flow_options_parse()'s form.
 * FLOW_TOPOLOGY=folder makes it believe in another machine, for tests: one that a folder describes
 * as /sys/devices/system does, and besides by the files "affinity" (the CPUs that may be used, such
 * as 0-3,8) and "mems_allowed" (the nodes). Workers then have places on it but are not pinned, and
 * its quota of CPUs is none.
 * From a foreign thread only.
 * Errors, each described by flow_start_error(): -EALREADY it runs already;
 * -EINVAL a bad option or FLOW_TOPOLOGY; -ENOMEM, -EAGAIN no memory or threads: nothing is left
 * behind; -EPERM from inside a coroutine. */
FLOW_API int flow_start(const struct flow_options *options);

/* One line on why the last flow_start, flow_run or flow_options_parse failed; "" if it did not.
 * Valid until the next of these. */
FLOW_API const char *flow_start_error(void);

/* Stops the runtime: new spawns are refused, every live task is cancelled, and
 * once they have ended, or at the deadline, the workers end and all memory goes
 * back. Foreign threads that wait in this library return -ECANCELED first.
 * Returns the number of tasks that had not ended by the deadline (their stacks
 * are gone: nothing they own is cleaned up), 0 if there was none or nothing ran.
 * -EBUSY: at the deadline, and a second later, a worker, or a thread in flow_drive, was still inside
 * a coroutine that does not suspend, or a helper thread inside an offloaded call that uses a
 * coroutine's memory; nothing was freed, call again. -EALREADY: another thread is stopping it. From
 * inside a coroutine it only asks: every task is cancelled and 0 returned; the thread in flow_run, or
 * the next flow_stop, does the rest. */
FLOW_API int flow_stop(flow_deadline deadline);

/* Starts the runtime, runs fn(arg) as its first task, waits until every task
 * has ended, stops the runtime. *out (may be NULL) gets fn's result. Returns 0,
 * or flow_start's errors, or
 *   -EDEADLK   every task waits for another one, and nothing is left that could
 *              wake one: no timer, no offloaded call, no foreign thread. The
 *              tasks are listed on stderr, then cancelled. A thread is known from its
 *              first call of this library on: one that is to wake a task calls
 *              something, such as flow_stats, before all tasks may be waiting.
 *   -ECANCELED another thread's flow_stop came to its deadline before all tasks had ended.
 *   -ESRCH, -EINVAL  fn's own task was joined or detached by somebody else: *out is as it was. */
FLOW_API int flow_run(const struct flow_options *options, flow_fn fn, void *arg, flow_result *out);

/* Runs what is ready, on this thread; for a runtime with workers = 0. When
 * nothing is ready it waits for a timer or a wake-up until the deadline; with
 * FLOW_NOW it never waits. Returns the number of dispatches, 0 if the deadline came first;
 * when tasks yield straight to one another, the turns of all but the first are not in this number.
 * -EDEADLK: with FLOW_FOREVER, tasks live but nothing can ever wake one (they
 * are listed on stderr); another thread that has called this library might, until it ends, also one
 * that waits in it. -EINVAL: the runtime has workers of its own. -EPERM:
 * from inside a coroutine. -EBUSY: another thread is driving, or about to for flow_stop. */
FLOW_API int flow_drive(flow_deadline deadline);

/* How the machine let us start. Text fields are static. */
struct flow_info {
    size_t size;                /* sizeof(struct flow_info), set by the caller */
    int workers;                /* worker threads */
    int cpus;                   /* CPUs this process may use */
    double cpu_quota;           /* CPUs granted by cgroup cpu.max; 0 if unlimited */
    int nodes;                  /* memory nodes this process may use */
    int pinned;                 /* workers that are pinned: could be, and were not moved since */
    const char *guard;          /* "madvise", "mprotect", "canary" */
    const char *memory_policy;  /* "one node", "bind" (each worker's memory from its node),
                                 * "bind in part" (some nodes refuse), "first-touch" (the system
                                 * refuses: memory comes from the node of the pinned worker that
                                 * uses it first) */
    const char *rcu;            /* liburcu flavour and how it orders readers */
    const char *version;        /* of this library */
    const char *libnuma;        /* "2" */
    const char *liburcu;        /* "0.13" */
    size_t stack_bytes;         /* the default class */
    size_t stack_reserve_bytes; /* address space reserved for stacks */
};

/* Fills *info. -EINVAL if info->size is not known, -ESHUTDOWN if nothing runs.
 * From anywhere; never suspends. */
FLOW_API int flow_info(struct flow_info *info);

/* Writes what every live task is doing to fd, as text. A line for each:
 *   task 0x1000003e8 "name" waiting, waits for mutex at 0x55d0c8a4 since 12 ms, worker 0, node 0,
 *   stack 64 KiB, 4 KiB touched, 472 B in use, spawned at 0x55d0c0bf, trace 3
 * "queued" has not started; "ready" waits for its worker's turn; "running" ones, and those that are
 * "active" (they start and stop too often), are not disturbed and have no backtrace. A wait names
 * its kind and the address of what it is for (of a join: the task), since when (to some 200 us, or as
 * long as a coroutine of its worker has run without a pause) and for how long at most. "holds mutex"
 * names one of those that it has locked. Then the number of tasks, then the backtraces, the most
 * frequent first, each with the number of tasks that have it and were spawned at the same place, their
 * first few ids, and a line for each frame, the innermost first:
 *   trace 3: 2 tasks, spawned at 0x55d0c0bf main+0x10f (server+0x3a9f): 0x1000003e8, 0x1000003e9
 *       0x55d0c8ee flow__waiter_wait+0x9d (server+0x138ed)
 * A function is named if the file's symbols are not stripped; the number in parentheses suits
 * addr2line -e server. Workers go on meanwhile and tasks come and go; a million tasks take one or
 * two seconds. Returns the number of tasks written or a negative errno. From anywhere, with some 8 KiB
 * of stack; never suspends, but write(2) may block: then flow_stop waits for it. */
FLOW_API int flow_dump(int fd);

FLOW_END_DECLS

#endif
