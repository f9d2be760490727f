/* SPDX-License-Identifier: MIT
 *
 * The bar's task sleeps on the runtime's timers and writes on a helper thread,
 * so a terminal that was stopped with Ctrl-S holds up nothing but the bar. */
#include "progress.h"
#include "text.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#define LONGEST_BAR 40

struct frame {
    struct text text;
    int fd;
};

static int terminal_columns(int fd)
{
    struct winsize size;
    if (ioctl(fd, TIOCGWINSZ, &size) || size.ws_col == 0)
        return 80;
    return size.ws_col;
}

static int format_figures(char *out, size_t n_bytes, struct progress *progress)
{
    char done[27], found[27];
    uint64_t files_done = atomic_load_explicit(&progress->files_done, memory_order_relaxed);
    uint64_t files_found = atomic_load_explicit(&progress->files_found, memory_order_relaxed);
    uint64_t bytes_done = atomic_load_explicit(&progress->bytes_done, memory_order_relaxed);
    double megabytes = (double)bytes_done / 1e6;
    double seconds = (double)(flow_now() - progress->begin) / 1e9;
    bool final = atomic_load_explicit(&progress->found_all, memory_order_relaxed);

    if (files_found < files_done)
        files_found = files_done; /* the count of files is behind the work on them */
    return snprintf(out, n_bytes, " %s of %s%s files, %.1f MB, %.0f MB/s",
                    text_group(done, files_done), text_group(found, files_found),
                    final ? "" : "+", megabytes, seconds > 0 ? megabytes / seconds : 0.0);
}

static int bar_cells(struct progress *progress, int length)
{
    uint64_t done = atomic_load_explicit(&progress->files_done, memory_order_relaxed);
    uint64_t found = atomic_load_explicit(&progress->files_found, memory_order_relaxed);
    if (found == 0)
        return 0;
    return done >= found ? length : (int)((uint64_t)length * done / found);
}

static void draw_frame(struct text *text, struct progress *progress)
{
    static const char full[LONGEST_BAR + 1] = "########################################";
    static const char empty[LONGEST_BAR + 1] = "........................................";
    char figures[160];
    int columns = terminal_columns(progress->fd);
    int width = format_figures(figures, sizeof figures, progress);
    int bar = columns - width - 3; /* two brackets, and the last column stays free */

    text_add(text, PROGRESS_WIPE, strlen(PROGRESS_WIPE));
    if (bar > LONGEST_BAR)
        bar = LONGEST_BAR;
    if (bar >= 4) {
        int cells = bar_cells(progress, bar);
        text_addf(text, "[%.*s%.*s]", cells, full, bar - cells, empty);
    }
    text_addf(text, "%.*s", columns - 1, figures);
}

/* On a helper thread. A terminal that is gone is no reason to stop the work. */
static flow_result write_frame(void *arg)
{
    struct frame *frame = arg;
    text_write(&frame->text, frame->fd);
    return flow_ok(NULL);
}

flow_result progress_draw(void *arg)
{
    struct progress *progress = arg;
    struct frame frame = {.fd = progress->fd};
    do {
        draw_frame(&frame.text, progress);
        if (flow_offload(FLOW_LANE_FILE, write_frame, &frame, FLOW_FOREVER).error)
            break;
    } while (flow_sleep(FLOW_MS(100)) == 0);
    text_free(&frame.text);
    return flow_ok(NULL);
}
