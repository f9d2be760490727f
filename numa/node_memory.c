/* SPDX-License-Identifier: MIT
 *
 * Thin and honest wrappers of the kernel's questions about memory. Masks are made here and not
 * by libnuma, which sizes them by what it guessed at load time. */
#include "numa/node_memory.h"

#include <errno.h>
#include <numaif.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

int flow__node_memory_allowed(unsigned long *mask)
{
    memset(mask, 0, FLOW__NODE_MASK_WORDS * sizeof *mask);
    /* The kernel wants to be told one bit more than it then uses. */
    return get_mempolicy(NULL, mask, FLOW__MAX_NODE_IDS + 1, NULL, MPOL_F_MEMS_ALLOWED) ? -errno : 0;
}

/* get_mempolicy is second because it touches the page, and so changes what it looks at. */
int flow__page_node_id(const void *address)
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

int flow__page_node_ids(void **pages, size_t n, int *node_ids)
{
    return move_pages(0, n, pages, NULL, node_ids, 0) ? -errno : 0;
}
