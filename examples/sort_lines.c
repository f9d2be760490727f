/* SPDX-License-Identifier: MIT
 *
 * Sorts the lines of a file as `LC_ALL=C sort` does, with a merge sort whose halves are jobs.
 *
 *     sort_lines FILE */
#include <errno.h>
#include <flowcoro.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FEW 512 /* lines that qsort(3) sorts */

struct line {
    const char *text;
    size_t n;
};

struct part {
    struct line *line, *scratch;
    size_t n;
};

static int compare(const void *a, const void *b)
{
    const struct line *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->n < y->n ? x->n : y->n);

    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static void merge(struct part p, size_t half)
{
    size_t i = 0, j = half;

    for (size_t k = 0; k < p.n; k++) {
        bool first = j == p.n || (i < half && compare(&p.line[i], &p.line[j]) <= 0);

        p.scratch[k] = first ? p.line[i++] : p.line[j++];
    }
    memcpy(p.line, p.scratch, p.n * sizeof *p.line);
}

static flow_result sort(void *arg)
{
    struct part p = *(struct part *)arg;
    size_t half = p.n / 2;
    struct part left = {p.line, p.scratch, half};
    struct part right = {p.line + half, p.scratch + half, p.n - half};
    struct flow_job job;

    if (p.n <= FEW) {
        qsort(p.line, p.n, sizeof *p.line, compare);
        return flow_ok(NULL);
    }
    flow_fork(&job, sort, &left); /* an idle worker may take it */
    flow_result second = sort(&right), first = flow_sync(&job);
    if (first.error || second.error)
        return first.error ? first : second;
    merge(p, half);
    return flow_ok(NULL);
}

static char *read_file(const char *path, size_t *n)
{
    FILE *file = fopen(path, "re");
    char *text = NULL;
    size_t capacity = 0, got = 1;

    for (*n = 0; file && got > 0; *n += got) {
        if (*n == capacity)
            text = realloc(text, capacity = capacity ? 2 * capacity : 65536);
        got = text ? fread(text + *n, 1, capacity - *n, file) : 0;
    }
    if (!file || ferror(file) || !text)
        return NULL;
    fclose(file);
    return text;
}

/* The lines of a text, without their ends. */
static size_t split(const char *text, size_t n, struct line *line)
{
    size_t count = 0;

    for (size_t i = 0, end; i < n; i = end + 1, count++) {
        const char *newline = memchr(text + i, '\n', n - i);

        end = newline ? (size_t)(newline - text) : n;
        if (line)
            line[count] = (struct line){text + i, end - i};
    }
    return count;
}

int main(int argc, char **argv)
{
    size_t n, count;
    char *text = argc == 2 ? read_file(argv[1], &n) : NULL;
    struct part all;
    flow_result result;

    if (!text)
        return fprintf(stderr, "usage: sort_lines FILE: %s\n", strerror(errno)), 2;
    count = split(text, n, NULL);
    all = (struct part){calloc(2 * count + 1, sizeof *all.line), NULL, count};
    if (!all.line)
        return fprintf(stderr, "sort_lines: no memory\n"), 1;
    all.scratch = all.line + count;
    split(text, n, all.line);
    if (flow_run(NULL, sort, &all, &result) || result.error)
        return fprintf(stderr, "sort_lines: %s\n", flow_start_error()), 1;
    for (size_t i = 0; i < count; i++)
        printf("%.*s\n", (int)all.line[i].n, all.line[i].text);
    free(all.line);
    free(text);
    return fflush(stdout) ? 1 : 0;
}
