/* SPDX-License-Identifier: MIT
 *
 * A fresh process per measurement, so that neither the memory nor the threads
 * of one leave a trace in the next. */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <flowcoro/base.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define REPORT_FD 3   /* the child's end of the pipe */
#define SPARE_FD  100 /* neither end of a new pipe in a program with so few files */

extern char **environ;

static int complain(const char *name, const char *what, int error)
{
    fprintf(stderr, "%s: %s: %s\n", name, what, strerror(error));
    return -error;
}

static int execute(char *const arguments[], int report_fd, pid_t *child)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    /* By way of a spare one: report_fd may itself be REPORT_FD, and dup2 onto
     * itself would leave close-on-exec set in older C libraries. */
    posix_spawn_file_actions_adddup2(&actions, report_fd, SPARE_FD);
    posix_spawn_file_actions_adddup2(&actions, SPARE_FD, REPORT_FD);
    posix_spawn_file_actions_addclose(&actions, SPARE_FD);
    int error = posix_spawn(child, "/proc/self/exe", &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    return error ? complain(arguments[0], "/proc/self/exe", error) : 0;
}

static ssize_t receive(int fd, void *report, size_t n_bytes)
{
    ssize_t n;
    do
        n = read(fd, report, n_bytes);
    while (n < 0 && errno == EINTR);
    return n;
}

static int reap(pid_t child, const char *name, struct child_cost *cost)
{
    struct rusage usage;
    int status;
    while (wait4(child, &status, 0, &usage) < 0) {
        if (errno != EINTR)
            return complain(name, "wait4", errno);
    }
    /* The peak takes in what this process had when it started the child, so
     * this process must stay small for a child's figure to be its own. */
    cost->peak_bytes = (uint64_t)usage.ru_maxrss * 1024;
    if (WIFSIGNALED(status))
        fprintf(stderr, "%s: child: %s\n", name, strsignal(WTERMSIG(status)));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

int child_run(char *const arguments[], void *report, size_t n_bytes, struct child_cost *cost)
{
    int ends[2];
    pid_t child;
    if (pipe(ends))
        return complain(arguments[0], "pipe", errno);
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);

    flow_deadline begin = flow_now();
    int error = execute(arguments, ends[1], &child);
    close(ends[1]); /* so that the death of the child ends the pipe */
    if (!error) {
        ssize_t received = receive(ends[0], report, n_bytes);
        error = reap(child, arguments[0], cost);
        cost->wall_ns = (uint64_t)(flow_now() - begin);
        if (!error && received != (ssize_t)n_bytes)
            error = -EIO;
    }
    close(ends[0]);
    return error;
}

int child_send(const void *report, size_t n_bytes)
{
    ssize_t n = write(REPORT_FD, report, n_bytes);
    if (n < 0)
        return -errno;
    return n == (ssize_t)n_bytes ? 0 : -EIO;
}
