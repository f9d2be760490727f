/* SPDX-License-Identifier: MIT
 *
 * The public side of node memory. Any thread; owns nothing. */
#include "core/arena.h"

#include <flowcoro/memory.h>

#include <errno.h>
#include <unistd.h>

int flow_alloc_on_node(void **p, size_t bytes, int node)
{
    void *start;

    if (!p || bytes == 0 || node < -1 || node >= flow__arena_nodes())
        return -EINVAL;
    start = flow__arena_map(bytes, node, 0);
    if (!start)
        return -ENOMEM;
    *p = start;
    return 0;
}

int flow_free_on_node(void *p, size_t bytes)
{
    if (!p)
        return 0;
    if (bytes == 0 || (uintptr_t)p % (size_t)sysconf(_SC_PAGESIZE))
        return -EINVAL;
    flow__arena_unmap(p, bytes);
    return 0;
}
