/* SPDX-License-Identifier: MIT
 *
 * The real entries of the system-call table. Runs on any thread; owns nothing. */
#include "sync/syscall.h"

#include <errno.h>
#include <link.h>
#include <linux/futex.h>
#include <sched.h>
#include <linux/membarrier.h>
#include <linux/mempolicy.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int real_futex_wait(flow__atomic(uint32_t) * word, uint32_t expected, int64_t deadline)
{
    int64_t ns = deadline < 0 ? 0 : deadline;
    struct timespec at = {ns / 1000000000, ns % 1000000000};
    long r = syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expected,
                     deadline == INT64_MAX ? NULL : &at, NULL, FUTEX_BITSET_MATCH_ANY);

    return r < 0 ? -errno : 0;
}

static int real_futex_wake(flow__atomic(uint32_t) * word, int n)
{
    long r = syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);

    return r < 0 ? -errno : (int)r;
}

static int64_t real_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void *map_anywhere(size_t bytes, int prot, int flags)
{
    void *p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

/* Too much is asked for, and what lies beside the aligned part given back. */
static void *map_aligned(size_t bytes, int prot, int flags, size_t align)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) & ~(page - 1);
    char *p = map_anywhere(whole + align, prot, flags), *start;

    if (!p)
        return NULL;
    start = (char *)(((uintptr_t)p + align - 1) & ~(align - 1));
    if (start > p)
        munmap(p, (size_t)(start - p));
    munmap(start + whole, align - (size_t)(start - p));
    return start;
}

static int real_cpu(void)
{
    int cpu_id = sched_getcpu();

    return cpu_id < 0 ? -errno : cpu_id;
}

static void *real_map(size_t bytes, int prot, int flags)
{
    if (flags & FLOW__MAP_HUGE)
        return map_aligned(bytes, prot, flags & ~FLOW__MAP_HUGE, FLOW__HUGE_BYTES);
    return map_anywhere(bytes, prot, flags);
}

static int real_unmap(void *start, size_t bytes)
{
    return munmap(start, bytes) ? -errno : 0;
}

static int real_protect(void *start, size_t bytes, int prot)
{
    return mprotect(start, bytes, prot) ? -errno : 0;
}

static int real_advise(void *start, size_t bytes, int advice)
{
    return madvise(start, bytes, advice) ? -errno : 0;
}

/* The mask is made here and not by libnuma: its allocators end the process when memory is
 * short. A wish (MPOL_PREFERRED): when the node is full the kernel takes the next one
 * instead of killing us. */
static int real_bind(void *start, size_t bytes, int node_id)
{
    enum { BITS = 8 * sizeof(unsigned long) };
    unsigned long mask[FLOW__MAX_BIND_IDS / BITS] = {0};

    if (node_id < 0 || node_id >= FLOW__MAX_BIND_IDS)
        return -EINVAL;
    mask[node_id / BITS] = 1ul << (node_id % BITS);
    /* The kernel wants to be told one bit more than it then uses. */
    return syscall(SYS_mbind, start, bytes, MPOL_PREFERRED, mask, FLOW__MAX_BIND_IDS + 1, 0)
               ? -errno
               : 0;
}

static int membarrier(int command)
{
    return syscall(SYS_membarrier, command, 0, 0) ? -errno : 0;
}

static int real_barrier(void)
{
    int r = membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);

    if (r == -EPERM && !membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED))
        r = membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    return r;
}

static void *real_allocate(size_t bytes)
{
    return calloc(1, bytes);
}

static size_t tls_bytes; /* at most */
static pthread_once_t tls_once = PTHREAD_ONCE_INIT;

static int add_tls(struct dl_phdr_info *object, size_t unused, void *sum)
{
    (void)unused;
    for (int i = 0; i < object->dlpi_phnum; i++)
        if (object->dlpi_phdr[i].p_type == PT_TLS)
            *(size_t *)sum += object->dlpi_phdr[i].p_memsz + object->dlpi_phdr[i].p_align;
    return 0;
}

static void measure_tls(void)
{
    dl_iterate_phdr(add_tls, &tls_bytes);
}

/* glibc takes a thread's copy of the program's thread-local variables out of its stack, so that much comes on
 * top. Threads of ours take no asynchronous signals: those belong to the program's own
 * threads. (But for a worker where stalls are looked for, see core/capture.c, and for the monitor, which asks for
 * one.) Blocked before the thread exists, so that there is no gap. */
static int real_thread_create(pthread_t *thread, size_t stack_bytes, void *(*run)(void *),
                              void *arg)
{
    sigset_t block, before;
    pthread_attr_t attributes;
    int r = pthread_attr_init(&attributes);

    if (r)
        return -r;
    pthread_once(&tls_once, measure_tls);
    if (stack_bytes)
        pthread_attr_setstacksize(&attributes, stack_bytes + tls_bytes);
    sigfillset(&block);
    sigdelset(&block, SIGSEGV);
    sigdelset(&block, SIGBUS);
    sigdelset(&block, SIGFPE);
    sigdelset(&block, SIGILL);
    sigdelset(&block, SIGTRAP);
    sigdelset(&block, SIGABRT);
    sigdelset(&block, SIGSYS);
    pthread_sigmask(SIG_SETMASK, &block, &before);
    r = pthread_create(thread, &attributes, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return -r;
}

#define REAL_CALLS                                                                                 \
    {                                                                                              \
        real_futex_wait, real_futex_wake, real_now, real_cpu, real_map, real_unmap, real_protect,            \
            real_advise, real_bind, real_barrier, real_allocate, free, real_thread_create          \
    }

struct flow__syscalls flow__sys = REAL_CALLS;
const struct flow__syscalls flow__sys_real = REAL_CALLS;
