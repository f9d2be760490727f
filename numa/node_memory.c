/* SPDX-License-Identifier: MIT
 *
 * Thin and honest wrappers of the kernel's memory policy calls. Masks are made here and not
 * by libnuma: its allocators end the process when memory is short, and it sizes
 * masks by what it guessed at load time. */
#include "numa/node_memory.h"

#include <errno.h>
#include <numaif.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int flow__node_memory_allowed(unsigned long *mask)
{
    memset(mask, 0, FLOW__NODE_MASK_WORDS * sizeof *mask);
    /* The kernel wants to be told one bit more than it then uses. */
    return get_mempolicy(NULL, mask, FLOW__MAX_NODE_IDS + 1, NULL, MPOL_F_MEMS_ALLOWED) ? -errno : 0;
}

int flow__node_memory_bind(void *start, size_t bytes, int node_id)
{
    unsigned long mask[FLOW__NODE_MASK_WORDS] = {0};
    size_t bits = 8 * sizeof *mask;

    if (node_id < 0 || node_id >= FLOW__MAX_NODE_IDS)
        return -EINVAL;
    mask[(size_t)node_id / bits] = 1ul << ((size_t)node_id % bits);
    return mbind(start, bytes, MPOL_PREFERRED, mask, FLOW__MAX_NODE_IDS + 1, 0) ? -errno : 0;
}

static int first_allowed_node(void)
{
    unsigned long mask[FLOW__NODE_MASK_WORDS];

    if (flow__node_memory_allowed(mask))
        return -1;
    for (int id = 0; id < FLOW__MAX_NODE_IDS; id++)
        if (flow__node_mask_has(mask, id))
            return id;
    return -1;
}

bool flow__node_memory_probe(void)
{
    size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    int node_id = first_allowed_node();
    void *page;
    bool obeyed;

    if (node_id < 0)
        return false;
    page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return false;
    obeyed = !flow__node_memory_bind(page, bytes, node_id);
    munmap(page, bytes);
    return obeyed;
}

/* get_mempolicy is second because it touches the page, and so changes what it looks at. */
int flow__node_of(const void *address)
{
    uintptr_t page_mask = ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
    void *page = (void *)((uintptr_t)address & page_mask);
    int node_id = -1;

    if (!move_pages(0, 1, &page, NULL, &node_id, 0))
        return node_id;
    if (get_mempolicy(&node_id, NULL, 0, page, MPOL_F_NODE | MPOL_F_ADDR))
        return -errno;
    return node_id;
}
