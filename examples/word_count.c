/* SPDX-License-Identifier: MIT
 *
 * Lines, words and bytes of files, as wc(1) counts them, in a pipeline of channels:
 *
 *     reader --pieces--> one parser per worker --counts--> merger
 *
 *     word_count FILE...    prints the sums over all files */
#include <errno.h>
#include <fcntl.h>
#include <flowcoro.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE ((size_t)256 * 1024)

struct piece { /* ends where a word ends */
    const char *text;
    size_t n;
};

struct counts {
    uint64_t lines, words, bytes;
};

static struct flow_chan *pieces, *counts;

/* On a helper thread, which may wait for the disk. The mapping lives until the program ends. */
static flow_result load(void *arg)
{
    struct piece *whole = arg;
    struct stat status;
    int fd = open(whole->text, O_RDONLY | O_CLOEXEC);
    int error = fd < 0 || fstat(fd, &status) ? -errno : 0;
    void *text = NULL;

    if (!error && status.st_size > 0)
        text = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (text == MAP_FAILED)
        error = -errno;
    if (fd >= 0)
        close(fd);
    *whole = (struct piece){text, error ? 0 : (size_t)status.st_size};
    return error ? flow_err(error) : flow_ok(NULL);
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static flow_result reader(void *arg)
{
    int error = 0;

    for (char **path = arg; *path && error != -ECANCELED; path++) {
        struct piece rest = {*path, 0}, p;
        int r = flow_offload(FLOW_LANE_FILE, load, &rest, FLOW_FOREVER).error;

        for (; !r && rest.n > 0; rest = (struct piece){rest.text + p.n, rest.n - p.n}) {
            p = (struct piece){rest.text, rest.n < PIECE ? rest.n : PIECE};
            while (p.n < rest.n && !is_blank(p.text[p.n]))
                p.n++;
            r = flow_chan_send(pieces, &p, FLOW_FOREVER);
        }
        if (r)
            fprintf(stderr, "word_count: %s: %s\n", *path, strerror(-r));
        error = r ? r : error;
    }
    flow_chan_close(pieces);
    return error ? flow_err(error) : flow_ok(NULL);
}

static flow_result parser(void *arg)
{
    struct counts sum = {0, 0, 0};
    struct piece p;

    for (; flow_chan_recv(pieces, &p, FLOW_FOREVER) == 0; sum.bytes += p.n)
        for (size_t i = 0; i < p.n; i++) {
            sum.lines += p.text[i] == '\n';
            sum.words += !is_blank(p.text[i]) && (i == 0 || is_blank(p.text[i - 1]));
        }
    return flow_chan_send(counts, &sum, FLOW_FOREVER) ? flow_err(-EPIPE) : flow_ok(arg);
}

static flow_result merger(void *paths)
{
    struct flow_info info = {.size = sizeof info};
    struct counts sum = {0, 0, 0}, one;
    flow_result result = flow_err(-ENOMEM);
    flow_task task;

    if (flow_info(&info) || flow_spawn(&task, reader, paths))
        return result;
    for (int i = 0; i < info.workers; i++)
        if (flow_spawn(NULL, parser, NULL))
            return result;
    for (int i = 0; i < info.workers; i++) {
        flow_chan_recv(counts, &one, FLOW_FOREVER);
        sum = (struct counts){sum.lines + one.lines, sum.words + one.words, sum.bytes + one.bytes};
    }
    flow_join(task, &result, FLOW_FOREVER);
    printf("%llu %llu %llu\n", (unsigned long long)sum.lines, (unsigned long long)sum.words,
           (unsigned long long)sum.bytes);
    return result;
}

int main(int argc, char **argv)
{
    flow_result result = flow_err(-EINVAL);

    if (argc < 2 || flow_chan_create(&pieces, sizeof(struct piece), 16) ||
        flow_chan_create(&counts, sizeof(struct counts), 16))
        return fprintf(stderr, "usage: word_count FILE...\n"), 2;
    return flow_run(NULL, merger, argv + 1, &result) || !flow_is_ok(result);
}
