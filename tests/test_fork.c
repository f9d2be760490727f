/* SPDX-License-Identifier: MIT
 *
 * fork and exec: a child is refused or may start anew, a parent goes on, and what is executed inherits
 * nothing. With FLOW_TEST_WORKERS workers. */
#include "tests/support/child.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static flow_result nothing(void *arg)
{
    return flow_ok(arg);
}

static flow_result sleep_for_ever(void *arg)
{
    (void)arg;
    return flow_err(flow_sleep_until(FLOW_FOREVER));
}

/* ---- fork ---- */

static int keep_nothing(flow_waker waker, void *arg)
{
    (void)waker, (void)arg;
    return 0;
}

static void release_nothing(void *arg)
{
    (void)arg;
}

/* The number of the first call that did not give -ENOTSUP, or 0. */
static int refused_everywhere(flow_task task)
{
    struct flow_info info = {.size = sizeof info};
    struct flow_stats stats = {.size = sizeof stats};
    struct flow_worker_stats worker;
    flow_waker waker = {task.id, 1};
    flow_task spawned;
    flow_lane *lane;
    int n = 0;

#define REFUSED(call)                                                                              \
    do {                                                                                           \
        n++;                                                                                       \
        if ((call) != -ENOTSUP)                                                                    \
            return n;                                                                              \
    } while (0)
    REFUSED(flow_start(NULL));
    REFUSED(flow_stop(FLOW_NOW));
    REFUSED(flow_stop(FLOW_FOREVER));
    REFUSED(flow_run(NULL, nothing, NULL, NULL));
    REFUSED(flow_drive(FLOW_NOW));
    REFUSED(flow_info(&info));
    REFUSED(flow_dump(STDERR_FILENO));
    REFUSED(flow_stats(&stats));
    REFUSED(flow_stats_worker(0, &worker));
    REFUSED(flow_spawn(&spawned, nothing, NULL)); /* 10 */
    REFUSED(flow_spawn_now(&spawned, nothing, NULL));
    REFUSED(flow_spawn_with(&spawned, NULL, nothing, NULL));
    REFUSED(flow_join(task, NULL, FLOW_FOREVER));
    REFUSED(flow_join(task, NULL, FLOW_NOW));
    REFUSED(flow_detach(task));
    REFUSED(flow_cancel(task));
    REFUSED(flow_yield());
    REFUSED(flow_sleep(1));
    REFUSED(flow_sleep(0));
    REFUSED(flow_sleep_until(FLOW_NOW)); /* 20 */
    REFUSED(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER));
    REFUSED(flow_when_all(&task, 1, NULL, FLOW_FOREVER));
    REFUSED(flow_when_any(&task, 1, NULL, NULL, FLOW_FOREVER));
    REFUSED(flow_suspend(keep_nothing, NULL, FLOW_FOREVER));
    REFUSED(flow_wake(waker));
    REFUSED(flow_offload(FLOW_LANE_FILE, nothing, NULL, FLOW_FOREVER).error);
    REFUSED(flow_offload_owned(FLOW_LANE_FILE, nothing, NULL, release_nothing, NULL, FLOW_FOREVER)
                .error);
    REFUSED(flow_lane_create(&lane, NULL));
    return flow_self().id ? 100 : 0;
}

struct forking {
    flow_task task;
    atomic_bool stop;
    atomic_long work;
};

/* Forks; the child tries everything and leaves. The parent waits
 * without blocking a worker for long. */
static void fork_and_judge(struct forking *f)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        alarm(10);
        _exit(refused_everywhere(f->task));
    }
    REQUIRE(pid > 0);
    REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        fprintf(stderr, "the child of fork: status %#x\n", status);
    REQUIRE(WIFEXITED(status));
    REQUIRE_EQUAL(WEXITSTATUS(status), 0);
}

static flow_result work_all_the_time(void *arg)
{
    struct forking *f = arg;

    while (!atomic_load(&f->stop)) {
        flow_task task;

        REQUIRE_EQUAL(flow_spawn(&task, nothing, NULL), 0);
        REQUIRE_EQUAL(flow_sleep(FLOW_US(50)), 0);
        REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(flow_offload(FLOW_LANE_FILE, nothing, NULL, FLOW_FOREVER).error, 0);
        atomic_fetch_add(&f->work, 1);
    }
    return flow_ok(NULL);
}

static flow_result fork_inside(void *arg)
{
    fork_and_judge(arg);
    return flow_ok(NULL);
}

static void fork_under_load(bool inside, bool no_fork_stacks)
{
    enum { BUSY = 8 };
    struct flow_options o = test_options();
    static struct forking f;
    flow_task busy[BUSY];
    long before;

    if (TEST_TSAN)
        skip_case("the thread sanitizer does not support fork with threads");
    o.no_fork_stacks = no_fork_stacks;
    test_start_with(&o);
    REQUIRE_EQUAL(flow_spawn(&f.task, sleep_for_ever, NULL), 0);
    for (int i = 0; i < BUSY; i++)
        REQUIRE_EQUAL(flow_spawn(&busy[i], work_all_the_time, &f), 0);
    for (int i = 0; i < TEST_ROUNDS(100, 10); i++) {
        before = atomic_load(&f.work);
        if (inside)
            REQUIRE_EQUAL(flow_sync_wait(fork_inside, &f, NULL, FLOW_FOREVER), 0);
        else
            fork_and_judge(&f);
        WAIT_UNTIL(atomic_load(&f.work) > before); /* the parent goes on */
    }
    atomic_store(&f.stop, true);
    REQUIRE_EQUAL(flow_when_all(busy, BUSY, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(a_fork_under_load_leaves_the_child_refused_and_the_parent_unharmed)
{
    fork_under_load(false, false);
}

CASE(a_fork_inside_a_coroutine_under_load_too)
{
    fork_under_load(true, false);
}

CASE(a_fork_without_stacks_too)
{
    fork_under_load(false, true);
}

CASE(a_lane_is_not_destroyed_in_the_child_of_a_fork)
{
    flow_lane *lane;
    int status;
    pid_t pid;

    test_start();
    REQUIRE_EQUAL(flow_lane_create(&lane, NULL), 0);
    pid = fork();
    if (pid == 0) {
        alarm(10);
        _exit(flow_lane_destroy(lane) == -ENOTSUP ? 0 : 1);
    }
    REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
    REQUIRE_EQUAL(status, 0);
    REQUIRE_EQUAL(flow_lane_destroy(lane), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(a_fork_before_the_start_leaves_the_child_free_to_start)
{
    pid_t pid;
    int status;

    for (int round = 0; round < 2; round++) {
        pid = fork();
        if (pid == 0) {
            test_start();
            REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
            REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
            _exit(0);
        }
        REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
        REQUIRE_EQUAL(status, 0);
        /* The second time after a stop. */
        test_start();
        REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    }
}

/* ---- a child that starts anew, of a process with other threads ---- */

static atomic_int n_used;
static atomic_bool may_go;

static void wait_until_may_go(void)
{
    while (!atomic_load(&may_go))
        test_nap(FLOW_MS(1));
}

static void *use_and_stay(void *arg)
{
    struct flow_stats stats = {.size = sizeof stats};

    REQUIRE_EQUAL(flow_stats(&stats), 0);
    atomic_fetch_add(&n_used, 1);
    wait_until_may_go();
    return arg;
}

static flow_result stay(void *arg)
{
    atomic_fetch_add(&n_used, 1);
    wait_until_may_go();
    return flow_ok(arg);
}

static flow_result leave_it_to_a_helper(void *arg)
{
    return flow_offload_owned(FLOW_LANE_FILE, stay, arg, release_nothing, NULL, flow_after(FLOW_MS(20)));
}

static flow_result wait_for_nothing(void *arg)
{
    struct flow_event event = FLOW_EVENT_INIT;

    (void)arg;
    return flow_err(flow_event_wait(&event, FLOW_FOREVER));
}

static flow_result offload_nothing(void *arg)
{
    return flow_offload(FLOW_LANE_FILE, nothing, arg, FLOW_FOREVER);
}

static void *use_a_runtime(void *arg)
{
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_sync_wait(offload_nothing, NULL, NULL, FLOW_FOREVER), 0);
    return arg;
}

static _Noreturn void start_anew(void)
{
    struct flow_options o = test_options();
    pthread_t thread;

    alarm(20);
    test_start();
    REQUIRE_EQUAL(test_stats().offload_threads, 0);
    use_a_runtime(NULL);
    /* Perhaps in the memory of one that is gone. */
    REQUIRE_EQUAL(pthread_create(&thread, NULL, use_a_runtime, NULL), 0);
    pthread_join(thread, NULL);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    /* Nobody else is taken for one who may yet wake it, and nobody is missing. */
    REQUIRE_EQUAL(flow_run(&o, wait_for_nothing, NULL, NULL), -EDEADLK);
    o.workers = 0;
    REQUIRE_EQUAL(flow_run(&o, wait_for_nothing, NULL, NULL), -EDEADLK);
    _exit(0);
}

CASE(a_child_that_starts_anew_does_not_reckon_with_its_parents_threads)
{
    enum { THREADS = 3 };
    pthread_t thread[THREADS];
    flow_result r;
    int status;
    pid_t pid;

    if (TEST_TSAN)
        skip_case("the thread sanitizer does not support fork with threads");
    if (TEST_EMULATED)
        skip_case("qemu-user ends when the child of a process with threads makes one");
    test_start();
    for (int i = 0; i < THREADS; i++)
        REQUIRE_EQUAL(pthread_create(&thread[i], NULL, use_and_stay, NULL), 0);
    do /* until it was begun before the deadline */
        REQUIRE_EQUAL(flow_sync_wait(leave_it_to_a_helper, NULL, &r, FLOW_FOREVER), 0);
    while (atomic_load(&n_used) <= THREADS);
    REQUIRE_EQUAL(r.error, -ETIMEDOUT);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    pid = fork();
    if (pid == 0)
        start_anew();
    REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
    REQUIRE_EQUAL(status, 0);
    atomic_store(&may_go, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
}

/* Helpers that have nothing more to do end just then. */
CASE(a_child_starts_anew_while_threads_of_its_parents_end)
{
    struct flow_options o = test_options();
    int status;
    pid_t pid;

    if (TEST_TSAN)
        skip_case("the thread sanitizer does not support fork with threads");
    if (TEST_EMULATED)
        skip_case("qemu-user ends when the child of a process with threads makes one");
    for (int i = 0; i < TEST_ROUNDS(30, 5); i++) {
        REQUIRE_EQUAL(flow_run(&o, offload_nothing, NULL, NULL), 0);
        pid = fork();
        if (pid == 0) {
            alarm(20);
            _exit(flow_run(&o, offload_nothing, NULL, NULL) ? 1 : 0);
        }
        REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
        REQUIRE_EQUAL(status, 0);
    }
}

/* What somebody waits for in the parent, each with a guard that is taken: as if the fork had met the one who
 * has it there. */
static struct {
    struct flow_mutex mutex, other;
    struct flow_condition condition;
    struct flow_rwlock rwlock;
    struct flow_semaphore semaphore;
    struct flow_event event;
    struct flow_waitgroup group;
} locks;

static int wait_for_lock(int number)
{
    switch (number) {
    case 0:
        return flow_mutex_lock(&locks.mutex, FLOW_FOREVER);
    case 1:
        REQUIRE_EQUAL(flow_mutex_lock(&locks.other, FLOW_FOREVER), 0);
        return flow_condition_wait(&locks.condition, &locks.other, FLOW_FOREVER);
    case 2:
        return flow_rwlock_read(&locks.rwlock, FLOW_FOREVER);
    case 3:
        return flow_semaphore_acquire(&locks.semaphore, 1, FLOW_FOREVER);
    case 4:
        return flow_event_wait(&locks.event, FLOW_FOREVER);
    default:
        return flow_waitgroup_wait(&locks.group, FLOW_FOREVER);
    }
}

static flow_result wait_in_parent(void *number)
{
    REQUIRE_EQUAL(wait_for_lock((int)(intptr_t)number), 0);
    return flow_ok(NULL);
}

static int let_go_of_locks(void)
{
    int n = 0;

#define MUST(call)                                                                                 \
    do {                                                                                           \
        n++;                                                                                       \
        if (!(call))                                                                               \
            return n;                                                                              \
    } while (0)
    locks.mutex.guard = locks.condition.guard = locks.rwlock.guard = 1;
    locks.semaphore.guard = locks.event.guard = locks.group.guard = 1;
    for (int i = 0; i < 2; i++) {
        MUST(flow_mutex_unlock(&locks.mutex) == 0);
        MUST(flow_mutex_lock(&locks.mutex, FLOW_FOREVER) == 0);
    }
    MUST(flow_condition_signal(&locks.condition) == 0);
    MUST(flow_condition_broadcast(&locks.condition) == 0);
    for (int i = 0; i < 2; i++) {
        MUST(flow_rwlock_unlock(&locks.rwlock) == 0);
        MUST(flow_rwlock_write(&locks.rwlock, FLOW_FOREVER) == 0);
    }
    MUST(flow_semaphore_release(&locks.semaphore, 1) == 0);
    MUST(flow_semaphore_acquire(&locks.semaphore, 1, FLOW_FOREVER) == 0);
    MUST(flow_semaphore_value(&locks.semaphore) == 0);
    MUST(flow_event_set(&locks.event) == 0);
    MUST(flow_event_wait(&locks.event, FLOW_FOREVER) == 0);
    MUST(flow_waitgroup_done(&locks.group) == 0);
    MUST(flow_waitgroup_wait(&locks.group, FLOW_FOREVER) == 0);
    return 0;
}

CASE(a_child_of_fork_lets_go_of_locks_whose_guards_were_taken)
{
    enum { N = 6 };
    flow_task task[N];
    int status;
    pid_t pid;

    test_start();
    REQUIRE_EQUAL(flow_mutex_lock(&locks.mutex, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_rwlock_write(&locks.rwlock, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_waitgroup_add(&locks.group, 1), 0);
    for (intptr_t i = 0; i < N; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], wait_in_parent, (void *)i), 0);
#define WAITED_FOR(lock, queue) test_is_waited_for(&locks.lock.guard, locks.lock.queue)
    WAIT_UNTIL(WAITED_FOR(mutex, queue) && WAITED_FOR(condition, queue) && WAITED_FOR(rwlock, queues) &&
               WAITED_FOR(semaphore, queue) && WAITED_FOR(event, queue) && WAITED_FOR(group, queue));
    pid = fork();
    if (pid == 0) {
        alarm(10);
        _exit(let_go_of_locks());
    }
    REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
    REQUIRE_EQUAL(status, 0);
    REQUIRE_EQUAL(flow_mutex_unlock(&locks.mutex), 0);
    REQUIRE_EQUAL(flow_rwlock_unlock(&locks.rwlock), 0);
    REQUIRE_EQUAL(flow_condition_signal(&locks.condition), 0);
    REQUIRE_EQUAL(flow_semaphore_release(&locks.semaphore, 1), 0);
    REQUIRE_EQUAL(flow_event_set(&locks.event), 0);
    REQUIRE_EQUAL(flow_waitgroup_done(&locks.group), 0);
    REQUIRE_EQUAL(flow_when_all(task, N, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- what must not be done ---- */

static flow_result fork_and_return(void *arg)
{
    pid_t pid = fork();
    int status;

    (void)arg;
    if (pid == 0) {
        alarm(10);
        return flow_ok(NULL); /* into a scheduler that is not there */
    }
    REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
    REQUIRE(WIFSIGNALED(status));
    return flow_ok_i64(WTERMSIG(status));
}

CASE(a_coroutine_that_returns_in_the_child_of_a_fork_dies)
{
    flow_result r;

    if (TEST_SANITIZED)
        skip_case("a sanitizer does not support it");
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(fork_and_return, NULL, &r, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(r.i64, SIGABRT);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- fork and exec ---- */

/* Runs a program to its end; its output is in text. */
static void run_program(char *const argv[], bool by_posix_spawn, char *text, size_t bytes)
{
    posix_spawn_file_actions_t actions;
    size_t n = 0;
    int fds[2], status;
    ssize_t got;
    pid_t pid;

    REQUIRE_EQUAL(pipe2(fds, O_CLOEXEC), 0);
    if (by_posix_spawn) {
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
        REQUIRE_EQUAL(posix_spawn(&pid, argv[0], &actions, NULL, argv, environ), 0);
        posix_spawn_file_actions_destroy(&actions);
    } else if ((pid = fork()) == 0) {
        dup2(fds[1], 1);
        execv(argv[0], argv);
        _exit(127);
    }
    close(fds[1]);
    while ((got = read(fds[0], text + n, bytes - 1 - n)) > 0)
        n += (size_t)got;
    text[n] = 0;
    close(fds[0]);
    REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
    REQUIRE_EQUAL(status, 0);
}

CHILD(print_descriptors)
{
    DIR *d = opendir("/proc/self/fd");
    struct dirent *entry;

    while ((entry = readdir(d)))
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(d))
            printf("%s ", entry->d_name);
    closedir(d);
}

static flow_result list_descriptors(void *arg)
{
    char *argv[CHILD_ARGS];

    child_command(argv, "print_descriptors", "");
    for (int by_posix_spawn = 0; by_posix_spawn < 2; by_posix_spawn++) {
        run_program(argv, by_posix_spawn, arg, 4096);
        if (strcmp(arg, "0 1 2 "))
            fprintf(stderr, "descriptors after exec: %s\n", (char *)arg);
        REQUIRE(!strcmp(arg, "0 1 2 "));
    }
    return flow_ok(NULL);
}

static flow_result list_signals_and_cpus(void *arg)
{
    char *const argv[] = {
        (char *)"/bin/sh", (char *)"-c",
        (char *)"while read a b; do case $a in SigBlk:|Cpus_allowed_list:) echo $a $b;; esac; done "
                "< /proc/$$/status",
        NULL};

    run_program(argv, false, arg, 4096);
    return flow_ok(NULL);
}

static flow_result list_in_a_helper(void *text)
{
    return flow_offload(FLOW_LANE_CPU, list_signals_and_cpus, text, FLOW_FOREVER);
}

static void must_be_as_outside(flow_fn fn, const char *outside)
{
    static char inside[4096];

    REQUIRE_EQUAL(flow_sync_wait(fn, inside, NULL, FLOW_FOREVER), 0);
    if (strcmp(inside, outside))
        fprintf(stderr, "inside:\n%soutside:\n%s", inside, outside);
    REQUIRE(!strcmp(inside, outside));
}

CASE(a_program_that_is_executed_inherits_no_descriptors_pinning_or_mask)
{
    static char text[4096], here[4096];

    if (access("/bin/sh", X_OK))
        skip_case("no /bin/sh");
    for (int fd = 3; fd < 1024; fd++) /* what the one who started this program left open */
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    list_signals_and_cpus(here);
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(list_descriptors, text, NULL, FLOW_FOREVER), 0);
    list_descriptors(text);
    /* From the program's own thread all is as it was before ... */
    list_signals_and_cpus(text);
    REQUIRE(!strcmp(text, here));
    /* ... and from a coroutine too, although its worker is pinned and blocks every signal, as helpers do. */
    must_be_as_outside(list_signals_and_cpus, here);
    must_be_as_outside(list_in_a_helper, here);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
