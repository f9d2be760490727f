/* SPDX-License-Identifier: MIT
 *
 * Reserving address space; see the header. Any thread. */
#include "core/reserve.h"

#include "sync/syscall.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* Has the program called mlockall(MCL_FUTURE)? Then a new page is there before it is touched. */
static bool memory_is_locked(void)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char resident = 0;
    void *page = flow__sys.map(page_bytes, PROT_READ | PROT_WRITE, 0);

    if (!page)
        return true;
    if (mincore(page, page_bytes, &resident))
        resident = 0;
    flow__sys.unmap(page, page_bytes);
    return resident & 1;
}

/* The kernel would fill the whole of a writable mapping at once; an inaccessible one it leaves
 * empty, and unlocked it is like any other. */
static void *reserve_unlocked(size_t bytes, int flags)
{
    void *p = flow__sys.map(bytes, PROT_NONE, MAP_NORESERVE | flags);

    if (!p)
        return NULL;
    munlock(p, bytes);
    if (flow__sys.protect(p, bytes, PROT_READ | PROT_WRITE)) {
        flow__sys.unmap(p, bytes);
        return NULL;
    }
    return p;
}

void *flow__reserve(size_t bytes, int flags)
{
    return memory_is_locked() ? reserve_unlocked(bytes, flags)
                              : flow__sys.map(bytes, PROT_READ | PROT_WRITE, MAP_NORESERVE | flags);
}

bool flow__reserve_is_modest(size_t bytes)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY ||
           bytes <= limit.rlim_cur / 2;
}
