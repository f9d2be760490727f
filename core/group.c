/* SPDX-License-Identifier: MIT
 *
 * Making the groups, at start; looks over all of them. */
#include "core/group.h"

#include <errno.h>
#include <sys/mman.h>

static int count_groups(const struct flow__placement *placement)
{
    int n = 1;

    for (int i = 1; i < placement->n_workers; i++)
        n += placement->node[i] != placement->node[i - 1];
    return n;
}

static void open_group(struct flow__group *g, const struct flow__placement *placement, int first)
{
    g->node = placement->node[first];
    g->first = first;
    while (first + g->n_workers < placement->n_workers &&
           placement->node[first + g->n_workers] == g->node)
        g->n_workers++;
    g->idle.n_workers = g->n_workers;
    flow__list_init(&g->queue.list);
}

int flow__groups_open(struct flow__runtime *rt)
{
    int first = 0;

    rt->n_groups = count_groups(&rt->placement);
    rt->groups_bytes = (size_t)rt->n_groups * sizeof *rt->groups;
    rt->groups = flow__sys.map(rt->groups_bytes, PROT_READ | PROT_WRITE, 0);
    if (!rt->groups)
        return -ENOMEM;
    for (int i = 0; i < rt->n_groups; i++) {
        open_group(&rt->groups[i], &rt->placement, first);
        first += rt->groups[i].n_workers;
    }
    return 0;
}

void flow__groups_close(struct flow__runtime *rt)
{
    flow__sys.unmap(rt->groups, rt->groups_bytes);
    rt->groups = NULL;
}

struct flow__group *flow__group_of_node(int node)
{
    struct flow__runtime *rt = &flow__runtime;

    for (int i = 0; i < rt->n_groups; i++)
        if (rt->groups[i].node == node)
            return &rt->groups[i];
    return NULL;
}

uint64_t flow__groups_queued(void)
{
    struct flow__runtime *rt = &flow__runtime;
    uint64_t n = 0;

    for (int i = 0; i < rt->n_groups; i++)
        n += load_seq(&rt->groups[i].queue.count);
    return n;
}
