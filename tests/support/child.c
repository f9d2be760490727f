/* SPDX-License-Identifier: MIT */
#include "tests/support/child.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct test_case *first, **last = &first;
static bool in_child;

void case_register(struct test_case *c)
{
    *last = c;
    last = &c->next;
}

/* ---- in a child ---- */

void child_fail(const char *file, int line, const char *what)
{
    if (!in_child) {
        fflush(stdout);
        fail_msg("%s:%d: %s", file, line, what);
    }
    dprintf(STDERR_FILENO, "%s:%d: %s\n", file, line, what);
    _exit(CHILD_FAILED);
}

void child_equal(const char *file, int line, const char *a_text, long long a, const char *b_text,
                 long long b)
{
    char text[512];

    if (a == b)
        return;
    snprintf(text, sizeof text, "%s is %lld, but %s is %lld", a_text, a, b_text, b);
    child_fail(file, line, text);
}

void skip_case(const char *reason)
{
    if (in_child) {
        dprintf(STDOUT_FILENO, "skip %s\n", reason);
        _exit(CHILD_SKIPPED);
    }
    printf("skip %s\n", reason);
    fflush(stdout);
    skip();
    abort();
}

void child_note(const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    dprintf(STDOUT_FILENO, "note %s\n", text);
}

static long count_entries(const char *path)
{
    DIR *d = opendir(path);
    long n = 0;

    if (!d)
        return -1;
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

long thread_count(void)
{
    return count_entries("/proc/self/task") - TEST_EMULATED; /* the emulator has one of its own */
}

long descriptor_count(void)
{
    return count_entries("/proc/self/fd") - 1; /* the one that counts */
}

long resident_kb(void)
{
    char line[256];
    long kb = -1;
    FILE *f = fopen("/proc/self/status", "re");

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmRSS: %ld", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb;
}

/* ---- in the parent ---- */

static double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The kernel cannot execute a program of another CPU: who emulates us now has to do it. */
void child_command(char *argv[CHILD_ARGS], const char *name, const char *arg)
{
    static char self[4096];
    char *emulator = getenv("FLOW_TEST_EMULATOR");
    ssize_t bytes = readlink("/proc/self/exe", self, sizeof self - 1);
    int n = 0;

    if (emulator) {
        self[bytes > 0 ? bytes : 0] = 0;
        argv[n++] = emulator;
    }
    argv[n++] = emulator ? self : (char *)"/proc/self/exe";
    argv[n++] = (char *)"--child";
    argv[n++] = (char *)name;
    argv[n++] = (char *)arg;
    argv[n] = NULL;
}

static pid_t begin_child(const char *name, const char *arg, int output)
{
    char *argv[CHILD_ARGS];
    pid_t pid;

    child_command(argv, name, arg);
    fflush(stdout);
    fflush(stderr);
    pid = fork();
    if (pid == 0) {
        dup2(output, STDOUT_FILENO);
        dup2(output, STDERR_FILENO);
        execv(argv[0], argv);
        _exit(127);
    }
    return pid;
}

static void read_some(struct child_end *end, int fd)
{
    char spill[4096];
    bool room = end->n < sizeof end->text - 1;
    ssize_t n = read(fd, room ? end->text + end->n : spill,
                     room ? sizeof end->text - 1 - end->n : sizeof spill);

    if (n > 0 && room)
        end->n += (size_t)n;
}

/* How long a child may take. Under emulation, where all is slow, FLOW_TEST_LIMIT says how long. */
static int limit_seconds(void)
{
    const char *text = getenv("FLOW_TEST_LIMIT");

    return text ? atoi(text) : CHILD_LIMIT_S * TEST_ROUNDS(1, 2);
}

/* Waits for the end of the process, not of its output: a grandchild may keep that open. */
static void watch(struct child_end *end, pid_t pid, int output)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd fds[2] = {{output, POLLIN, 0}, {pidfd, POLLIN, 0}};
    double limit = seconds_now() + limit_seconds();

    while (!(fds[1].revents & POLLIN)) {
        double left = limit - seconds_now();

        if (left <= 0) {
            end->hung = true;
            kill(pid, SIGKILL);
            break;
        }
        if (poll(fds, 2, (int)(left * 1000) + 1) > 0 && (fds[0].revents & POLLIN))
            read_some(end, output);
        if ((fds[0].revents & (POLLHUP | POLLIN)) == POLLHUP)
            fds[0].fd = -1;
    }
    close(pidfd);
}

void child_run(struct child_end *end, const char *name, const char *arg)
{
    double begin = seconds_now();
    int fds[2], status;
    struct pollfd more;
    pid_t pid;

    memset(end, 0, offsetof(struct child_end, text));
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    pid = begin_child(name, arg, fds[1]);
    assert_true(pid > 0);
    close(fds[1]);
    watch(end, pid, fds[0]);
    waitpid(pid, &status, 0);
    more = (struct pollfd){fds[0], POLLIN, 0};
    while (poll(&more, 1, 0) > 0 && (more.revents & POLLIN))
        read_some(end, fds[0]);
    close(fds[0]);
    end->text[end->n] = 0;
    end->code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    end->signo = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    end->seconds = seconds_now() - begin;
}

static void show(const struct child_end *end)
{
    printf("child: exit status %d, signal %d%s, %.2f s; it wrote:\n%s\n", end->code, end->signo,
           end->hung ? ", HUNG" : "", end->seconds, end->text);
    fflush(stdout);
}

/* Whatever its exit status: it may have gone by _exit, or been killed as it should. */
static void must_not_race(const struct child_end *end)
{
    if (!strstr(end->text, "WARNING: ThreadSanitizer: data race") &&
        !strstr(end->text, "runtime error: "))
        return;
    show(end);
    fail_msg("a sanitizer has reported in the child");
}

void child_must_exit(const struct child_end *end, int code)
{
    must_not_race(end);
    if (!end->hung && !end->signo && end->code == code)
        return;
    show(end);
    fail_msg("the child did not exit with status %d", code);
}

void child_must_die(const struct child_end *end, int signo)
{
    must_not_race(end);
    if (!end->hung &&
        (end->signo == signo ||
         (TEST_SANITIZED && (end->signo || (end->code > 0 && end->code != CHILD_FAILED)))))
        return;
    show(end);
    fail_msg("the child was not killed by signal %d", signo);
}

void child_must_say(const struct child_end *end, const char *text)
{
    if (strstr(end->text, text))
        return;
    show(end);
    fail_msg("the child did not say \"%s\"", text);
}

/* The child's notes are notes of ours. */
static void relay(const struct child_end *end)
{
    char *copy = strdup(end->text), *save, *line;

    for (line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (!strncmp(line, "note ", 5) || !strncmp(line, "skip ", 5))
            printf("%s\n", line);
    fflush(stdout);
    free(copy);
}

static void run_case(void **state)
{
    static struct child_end end;
    struct test_case *c = *state;

    if (c->kind == IS_JUDGED) {
        c->body("");
        return;
    }
    child_run(&end, c->name, "");
    relay(&end);
    if (end.code == CHILD_SKIPPED)
        skip();
    child_must_exit(&end, 0);
}

static int child_main(const char *name, const char *arg)
{
    in_child = true;
    test_limit((unsigned)limit_seconds() * 9 / 10); /* a dump before the parent kills us */
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (struct test_case *c = first; c; c = c->next)
        if (!strcmp(c->name, name)) {
            c->body(arg);
            return 0;
        }
    return 127;
}

int cases_main(int argc, char **argv)
{
    static struct CMUnitTest tests[256];
    size_t n = 0;

    /* The environment would have the last word about options. */
    if (argc != 4 || strcmp(argv[1], "--child")) {
        unsetenv("FLOW_WORKERS");
        unsetenv("FLOW_OPTIONS");
    }
    if (argc == 4 && !strcmp(argv[1], "--child"))
        return child_main(argv[2], argv[3]);
    for (struct test_case *c = first; c; c = c->next)
        if (c->kind != IS_CHILD && (argc < 2 || strstr(c->name, argv[1])) &&
            n < sizeof tests / sizeof *tests)
            tests[n++] = (struct CMUnitTest){c->name, run_case, NULL, NULL, c};
    return _cmocka_run_group_tests(argv[0], tests, n, NULL, NULL);
}
