/* SPDX-License-Identifier: MIT
 *
 * Numbers of CPUs or nodes as the kernel's files list them, "0-3,8". No list is
 * shared between threads. */
#ifndef FLOW_NUMA_ID_LIST_H
#define FLOW_NUMA_ID_LIST_H

#include <stdbool.h>

enum { FLOW__MAX_ID = 65535 /* far above what Linux supports; a larger number is garbage */ };

struct flow__id_list { /* rising, without repetitions */
    int *ids;
    int n, capacity;
};

/* 0 or -ENOMEM. The caller keeps the order, or sorts. */
int flow__id_list_add(struct flow__id_list *list, int id);
void flow__id_list_sort(struct flow__id_list *list);
bool flow__id_list_has(const struct flow__id_list *list, int id);
void flow__id_list_free(struct flow__id_list *list);

/* The list that a text says; an empty line is an empty list. Frees text. 0, -ENOMEM or -EINVAL, and
 * then the list is empty. */
int flow__id_list_take(struct flow__id_list *list, char *text);

/* A number of at most `max`, written as the kernel writes it, with *at moved behind it; -1 if there
 * is none. */
int flow__parse_id(const char **at, int max);

#endif
