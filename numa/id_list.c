/* SPDX-License-Identifier: MIT
 *
 * A list that rises is the only one that makes sense: whatever else the text says is refused. */
#include "numa/id_list.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

int flow__id_list_add(struct flow__id_list *list, int id)
{
    if (list->n == list->capacity) {
        int capacity = list->capacity ? 2 * list->capacity : 16;
        int *ids = realloc(list->ids, (size_t)capacity * sizeof *ids);

        if (!ids)
            return -ENOMEM;
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->n++] = id;
    return 0;
}

void flow__id_list_free(struct flow__id_list *list)
{
    free(list->ids);
    *list = (struct flow__id_list){0};
}

static int compare_ints(const void *a, const void *b)
{
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

void flow__id_list_sort(struct flow__id_list *list)
{
    if (list->n)
        qsort(list->ids, (size_t)list->n, sizeof *list->ids, compare_ints);
}

bool flow__id_list_has(const struct flow__id_list *list, int id)
{
    return list->n && bsearch(&id, list->ids, (size_t)list->n, sizeof id, compare_ints);
}

int flow__parse_id(const char **at, int max)
{
    char *end;
    long value;

    if (!isdigit((unsigned char)**at) || (**at == '0' && isdigit((unsigned char)(*at)[1])))
        return -1;
    value = strtol(*at, &end, 10);
    if (value > max)
        return -1;
    *at = end;
    return (int)value;
}

static int add_range(struct flow__id_list *list, int first, int last)
{
    int r = 0;

    for (int id = first; id <= last && !r; id++)
        r = flow__id_list_add(list, id);
    return r;
}

static int parse_list(struct flow__id_list *list, const char *at)
{
    while (*at && *at != '\n') {
        int first = flow__parse_id(&at, FLOW__MAX_ID), last = first, r;

        if (first >= 0 && *at == '-') {
            at++;
            last = flow__parse_id(&at, FLOW__MAX_ID);
        }
        if (first < 0 || last < first || (list->n && first <= list->ids[list->n - 1]))
            return -EINVAL;
        r = add_range(list, first, last);
        if (r)
            return r;
        if (*at == ',')
            at++;
        else if (*at && *at != '\n')
            return -EINVAL;
    }
    return 0;
}

int flow__id_list_take(struct flow__id_list *list, char *text)
{
    int r;

    *list = (struct flow__id_list){0};
    r = parse_list(list, text);
    free(text);
    if (r)
        flow__id_list_free(list);
    return r;
}
