/* SPDX-License-Identifier: MIT */
#include "tests/support/faults.h"

#include "sync/syscall.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>

const char *const fault_names[FAULT_KINDS] = {
    "map",           "advise",           "protect",          "bind",
    "allocate",      "thread_create",    "barrier",          "cpu",
    "futex_wait EINTR", "futex_wait EAGAIN"};

enum { GUARD_INSTALL = 102 }; /* MADV_GUARD_INSTALL */

static atomic_int armed_kind;
static atomic_long calls[FAULT_KINDS];
static atomic_long countdown, maps, mapped_bytes, allocations, threads;
static atomic_bool fired, stays, no_guard_install;

static bool fails(enum fault kind)
{
    long left;

    atomic_fetch_add(&calls[kind], 1);
    if (atomic_load(&armed_kind) != (int)kind)
        return false;
    left = atomic_fetch_sub(&countdown, 1);
    if (left != 1 && !(left < 1 && atomic_load(&stays)))
        return false;
    atomic_store(&fired, true);
    return true;
}

static void *map(size_t bytes, int prot, int flags)
{
    void *p = fails(FAULT_MAP) ? NULL : flow__sys_real.map(bytes, prot, flags);

    if (p) {
        atomic_fetch_add(&maps, 1);
        atomic_fetch_add(&mapped_bytes, (long)bytes);
    }
    return p;
}

static int unmap(void *start, size_t bytes)
{
    atomic_fetch_sub(&maps, 1);
    atomic_fetch_sub(&mapped_bytes, (long)bytes);
    return flow__sys_real.unmap(start, bytes);
}

static int protect(void *start, size_t bytes, int prot)
{
    return fails(FAULT_PROTECT) ? -ENOMEM : flow__sys_real.protect(start, bytes, prot);
}

static int advise(void *start, size_t bytes, int advice)
{
    if (advice == GUARD_INSTALL && atomic_load(&no_guard_install))
        return -EINVAL;
    return fails(FAULT_ADVISE) ? -ENOMEM : flow__sys_real.advise(start, bytes, advice);
}

/* A fixture's nodes exist for us alone; what the system says of them does not matter. */
static int bind_memory(void *start, size_t bytes, int node_id)
{
    if (fails(FAULT_BIND))
        return -EPERM;
    flow__sys_real.bind(start, bytes, node_id);
    return 0;
}

static void *allocate(size_t bytes)
{
    void *p = fails(FAULT_ALLOCATE) ? NULL : flow__sys_real.allocate(bytes);

    if (p)
        atomic_fetch_add(&allocations, 1);
    return p;
}

static void release(void *p)
{
    if (p)
        atomic_fetch_sub(&allocations, 1);
    flow__sys_real.release(p);
}

static int thread_create(pthread_t *thread, size_t stack_bytes, void *(*run)(void *), void *arg)
{
    int r =
        fails(FAULT_THREAD) ? -EAGAIN : flow__sys_real.thread_create(thread, stack_bytes, run, arg);

    if (!r)
        atomic_fetch_add(&threads, 1);
    return r;
}

static int futex_wait(flow__atomic(uint32_t) * word, uint32_t expected, int64_t deadline)
{
    /* The kernel does say so when the time is over. */
    if (flow__sys_real.now() >= deadline)
        return -ETIMEDOUT;
    if (fails(FAULT_WAIT_EINTR))
        return sched_yield(), -EINTR; /* where no wait ever waits, others must run all the same */
    if (fails(FAULT_WAIT_EAGAIN))
        return sched_yield(), -EAGAIN;
    return flow__sys_real.futex_wait(word, expected, deadline);
}

static int barrier(void)
{
    return fails(FAULT_BARRIER) ? -ENOSYS : flow__sys_real.barrier();
}

static int cpu(void)
{
    return fails(FAULT_CPU) ? -ENOSYS : flow__sys_real.cpu();
}

void faults_open(void)
{
    atomic_store(&armed_kind, -1);
    flow__sys.barrier = barrier;
    flow__sys.cpu = cpu;
    flow__sys.map = map;
    flow__sys.unmap = unmap;
    flow__sys.protect = protect;
    flow__sys.bind = bind_memory;
    flow__sys.advise = advise;
    flow__sys.allocate = allocate;
    flow__sys.release = release;
    flow__sys.thread_create = thread_create;
    flow__sys.futex_wait = futex_wait;
}

void faults_refuse_guard_install(void)
{
    atomic_store(&no_guard_install, true);
}

void faults_arm(enum fault kind, long n, bool forever)
{
    atomic_store(&armed_kind, -1);
    atomic_store(&fired, false);
    atomic_store(&stays, forever);
    atomic_store(&countdown, n);
    for (int i = 0; i < FAULT_KINDS; i++)
        atomic_store(&calls[i], 0);
    if (n > 0)
        atomic_store(&armed_kind, (int)kind);
}

long faults_calls(enum fault kind)
{
    return atomic_load(&calls[kind]);
}

bool faults_fired(void)
{
    return atomic_load(&fired);
}

struct faults_balance faults_balance(void)
{
    return (struct faults_balance){atomic_load(&maps), atomic_load(&mapped_bytes),
                                   atomic_load(&allocations), atomic_load(&threads)};
}
