/* SPDX-License-Identifier: MIT
 *
 * What lies below a stack: a page that faults, by one of two means, or a canary. See the header. */
#include "core/guard.h"

#include "core/reserve.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif

#define CANARY 0x5afe57ac5afe57acull

/* A guard that is only said to be there is worse than none, and some emulators and
 * old kernels say so. The kernel must refuse to write to the page. */
static bool guard_works(char *page)
{
    return syscall(SYS_clock_gettime, CLOCK_MONOTONIC, page) < 0 && errno == EFAULT;
}

enum flow__guard flow__guard_probe(size_t page_bytes)
{
    char *page = flow__reserve(page_bytes, 0);
    enum flow__guard found = FLOW__GUARD_CANARY;

    if (!page)
        return FLOW__GUARD_MPROTECT;
    if (!flow__sys.advise(page, page_bytes, MADV_GUARD_INSTALL) && guard_works(page))
        found = FLOW__GUARD_MADVISE;
    else if (!flow__sys.protect(page, page_bytes, PROT_NONE) && guard_works(page))
        found = FLOW__GUARD_MPROTECT;
    flow__sys.unmap(page, page_bytes);
    return found;
}

static void write_canary(char *slot)
{
    uint64_t *word = (uint64_t *)slot;

    for (int i = 0; i < FLOW__CANARY_WORDS; i++)
        word[i] = CANARY;
}

bool flow__stack_intact(const char *slot)
{
    const uint64_t *word = (const uint64_t *)slot;

    if (flow__stacks.guard != FLOW__GUARD_CANARY)
        return true;
    for (int i = 0; i < FLOW__CANARY_WORDS; i++)
        if (word[i] != CANARY)
            return false;
    return true;
}

int flow__guard_install(char *slot)
{
    struct flow__stack_region *r = &flow__stacks;

    switch (r->guard) {
    case FLOW__GUARD_MADVISE:
        return flow__sys.advise(slot, r->page_bytes, MADV_GUARD_INSTALL);
    case FLOW__GUARD_MPROTECT:
        return flow__sys.protect(slot, r->page_bytes, PROT_NONE);
    default:
        write_canary(slot);
        return 0;
    }
}

/* Called by the debugger's script only, so the compiler does not see who needs it. Only the kind of
 * guard that is no mapping of its own is in the way. */
__attribute__((used)) void flow__guards_lift(void)
{
    struct flow__stack_region *r = &flow__stacks;

    for (int c = 0; r->guard == FLOW__GUARD_MADVISE && c < FLOW__STACK_CLASSES; c++)
        for (int node = 0; node < r->n_nodes; node++)
            flow__sys.advise(flow__stack_slot(c, node, 0),
                             flow__stack_depot(c, node)->n_slots * flow__stack_bytes(c),
                             MADV_GUARD_REMOVE);
}

__attribute__((used)) void flow__guards_restore(void)
{
    struct flow__stack_region *r = &flow__stacks;

    for (int c = 0; r->guard == FLOW__GUARD_MADVISE && c < FLOW__STACK_CLASSES; c++)
        for (int node = 0; node < r->n_nodes; node++)
            for (uint32_t i = 0; i < flow__stack_depot(c, node)->n_slots; i++)
                flow__guard_install(flow__stack_slot(c, node, i));
}
