/* SPDX-License-Identifier: MIT
 *
 * Jobs: calls that may run elsewhere meanwhile. The cheapest parallelism there is.
 *
 *     struct flow_job left;
 *
 *     flow_fork(&left, sort, first_half);
 *     flow_result b = sort(second_half);
 *     flow_result a = flow_sync(&left);
 *
 * flow_fork leaves a note in the caller's frame; flow_sync takes it back and calls the function as
 * any other, on the same stack, unless an idle worker has taken the job meanwhile: then it is a task
 * of its own there, and flow_sync suspends the coroutine, never the worker, until it has ended.
 *
 * A job may do whatever a coroutine may: sleep, lock, wait for input, fork jobs, wait for a
 * sibling. When a coroutine suspends, each job that it has forked and not synced becomes a task that
 * any worker may start, so nothing that waits for such a job waits for ever. In a job that flow_sync
 * calls, flow_self() is the caller's task; in one that was taken it is the job's own. A taken job is in none of
 * the caller's shields and ambient deadlines: the wait in flow_sync is, and what cuts that short cancels the
 * job. flow_stop leaves a job alone that was taken while its caller was in a shield.
 *
 * The rules
 *   - The record is a variable in a frame of the coroutine that forks, as above, or part of one: by
 *     where it lies the library knows whose job it is. On the heap the job may be taken for one of
 *     another coroutine, which may be cancelled or have a smaller stack. A debug build ends the
 *     program when such a job is to become a task.
 *   - Every job that was forked is synced, once, by the coroutine that forked it, and
 *     before the record's frame is left. A debug build ends the program at a coroutine that
 *     returns with a job not synced. In C++ no exception may leave the frame in between.
 *   - Jobs may be synced in any order; the last one forked, first synced is the cheapest.
 *   - What the function does not return, it leaves where its argument points to.
 *
 * Outside of coroutines and without a runtime flow_fork and flow_sync work too: flow_sync makes the
 * call. */
#ifndef FLOWCORO_JOB_H
#define FLOWCORO_JOB_H

#include <flowcoro/base.h>
#include <flowcoro/result.h>
#include <flowcoro/task.h>

#include <stdbool.h>

/* One forked call. Needs no initialisation; all of it belongs to the library between fork and
 * sync. */
struct flow_job {
    flow_fn fn;
    void *arg;
    struct flow_job *older; /* the list of what the thread has forked and nobody has taken */
    struct flow_job *newer; /* not valid in the newest */
    void *task;             /* who runs it, once it was taken */
    uint32_t state, hold;   /* core/job.c */
};

FLOW_BEGIN_DECLS

/* ---- what the inline parts need; not for users ---- */

/* Of each thread: the jobs of the coroutine that it runs just now. */
struct flow__jobs {
    struct flow_job *newest;      /* owner only; the foot if there is none */
    struct flow_job *foot;        /* owner only: one of the two below */
    struct flow_job none, shared; /* shared: below the list there may be jobs that others see */
    uint32_t asked __attribute__((aligned(64))); /* anyone; not 0: flow_fork takes the slow way */
} __attribute__((aligned(64)));

FLOW_API extern __thread struct flow__jobs flow__jobs;
FLOW_API void flow__fork_slowly(struct flow_job *job);
FLOW_API flow_result flow__sync_slowly(struct flow_job *job);

/* The thread's own. Read anew at each use, for a roaming coroutine may have moved to another thread
 * at any suspension: a compiler would keep the address of a thread-local. */
static inline struct flow__jobs *flow__jobs_here(void)
{
    struct flow__jobs *jobs;
#if defined(__x86_64__)
    __asm__ volatile("movq %%fs:0, %0\n\t"
                     "addq flow__jobs@gottpoff(%%rip), %0"
                     : "=r"(jobs)
                     :
                     : "cc");
#elif defined(__aarch64__)
    uint64_t offset;

    __asm__ volatile("mrs %0, tpidr_el0\n\t"
                     "adrp %1, :gottprel:flow__jobs\n\t"
                     "ldr %1, [%1, :gottprel_lo12:flow__jobs]\n\t"
                     "add %0, %0, %1"
                     : "=&r"(jobs), "=&r"(offset));
#else
#error "no flow__jobs_here for this CPU"
#endif
    return jobs;
}

/* The list is the thread's. The library's own build for a ThreadSanitizer that does not take a switch of
 * coroutines for synchronisation (see core/strand.h) must not watch it. */
#ifdef FLOW_TSAN_NO_SYNC
#define FLOW__OF_THE_THREAD __attribute__((noinline, unused, no_sanitize("thread")))
#else
#define FLOW__OF_THE_THREAD inline
#endif

/* Takes the job back if it is the newest and nobody has seen it. */
static FLOW__OF_THE_THREAD bool flow__unfork(struct flow_job *job)
{
    struct flow__jobs *jobs = flow__jobs_here();

    if (__builtin_expect(jobs->newest != job, 0))
        return false;
    jobs->newest = job->older;
    return true;
}

/* ---- for users ---- */

/* Offers fn(arg) to idle workers; flow_sync has its result. job, in a frame of the caller, must
 * stay where it is until then, as must what arg points to. Cannot fail and never suspends. From
 * anywhere. */
static FLOW__OF_THE_THREAD void flow_fork(struct flow_job *job, flow_fn fn, void *arg)
{
    struct flow__jobs *jobs = flow__jobs_here();
    struct flow_job *older = jobs->newest;

    job->fn = fn;
    job->arg = arg;
    job->state = 0;
    if (__builtin_expect(__atomic_load_n(&jobs->asked, __ATOMIC_RELAXED) != 0, 0)) {
        flow__fork_slowly(job);
        return;
    }
    job->older = older;
    older->newer = job;
    jobs->newest = job;
}

/* The result of a forked job: of the call that is made here, or, if another worker has taken it, of
 * its task, for which this suspends. That lasts until the job has ended: a cancelled caller cancels
 * the job and goes on waiting, since the record lies in its frame. If a taken job has not begun when
 * the caller is cancelled, it never does, and the result is -ECANCELED; but in a shield flow_sync
 * then makes the call.
 * -EDEADLK: within an RCU read-side section a job that was taken cannot be waited for; sync
 * it again after the section. From where the job was forked. */
static inline flow_result flow_sync(struct flow_job *job)
{
    return __builtin_expect(flow__unfork(job), 1) ? job->fn(job->arg) : flow__sync_slowly(job);
}

FLOW_END_DECLS

/* Fork and sync of one function, result_type function(argument_type), with its own types, and so
 * that the compiler sees which function it is: the call in sync is then direct. Behind
 *
 *     static uint64_t fib(int n);
 *     FLOW_JOB(fib, uint64_t, int)
 *
 * there are struct fib_job, fib_fork(struct fib_job *job, int argument) and
 * uint64_t fib_sync(struct fib_job *job), which otherwise are as flow_fork and flow_sync. Such a
 * function has no error of its own, so it always runs: where flow_sync would give an error in place
 * of a result, it is called in sync; within an RCU read-side section, where it cannot wait, sync
 * stops the program (a trap). */
#define FLOW_JOB(function, result_type, argument_type)                                             \
    struct function##_job {                                                                        \
        struct flow_job job;                                                                       \
        argument_type argument;                                                                    \
        result_type result;                                                                        \
    };                                                                                             \
                                                                                                   \
    static inline flow_result function##_call(void *arg)                                           \
    {                                                                                              \
        struct function##_job *job = (struct function##_job *)arg;                                 \
                                                                                                   \
        job->result = function(job->argument);                                                     \
        return flow_ok(NULL);                                                                      \
    }                                                                                              \
                                                                                                   \
    static inline void function##_fork(struct function##_job *job, argument_type argument)         \
    {                                                                                              \
        job->argument = argument;                                                                  \
        flow_fork(&job->job, function##_call, job);                                                \
    }                                                                                              \
                                                                                                   \
    static inline result_type function##_sync(struct function##_job *job)                          \
    {                                                                                              \
        if (__builtin_expect(!flow__unfork(&job->job), 0)) {                                       \
            flow_result r = flow__sync_slowly(&job->job);                                          \
                                                                                                   \
            if (!r.error)                                                                          \
                return job->result;                                                                \
            if (r.error == -35)                                                                    \
                __builtin_trap();                                                                  \
        }                                                                                          \
        return function(job->argument);                                                            \
    }

#endif
