/* SPDX-License-Identifier: MIT
 *
 * How a process ends, or does not: stack overflows, abort, exit, pthread_exit and
 * pthread_cancel, fork and exec, and signals. With FLOW_TEST_WORKERS workers. */
#include "tests/support/child.h"

#include "sync/syscall.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
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

static void start_class(size_t stack_bytes)
{
    struct flow_options o = test_options();

    o.stack_bytes = stack_bytes;
    test_start_with(&o);
}

struct named {
    const char *name;
    flow_fn fn;
    void *arg;
};

static flow_result say_id_and_go_on(void *arg)
{
    struct named *n = arg;

    dprintf(STDOUT_FILENO, "id of %s is %#llx\n", n->name, (unsigned long long)flow_self().id);
    return n->fn(n->arg);
}

/* Runs fn as a task with a name, which prints its id first, so
 * that a report can be compared with it. */
static flow_result run_named(const char *name, size_t stack_bytes, flow_fn fn, void *arg)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    struct named n = {name, fn, arg};
    flow_result r = {0};
    flow_task task;

    o.name = name;
    o.stack_bytes = stack_bytes;
    REQUIRE_EQUAL(flow_spawn_with(&task, &o, say_id_and_go_on, &n), 0);
    REQUIRE_EQUAL(flow_join(task, &r, FLOW_FOREVER), 0);
    return r;
}

/* ---- stack overflow ---- */

static volatile int sink;

__attribute__((noinline)) static int recurse(int depth)
{
    volatile char frame[200];

    frame[depth % 200] = (char)depth;
    sink = depth;
    /* Without an end: the condition is not known to the compiler. */
    return sink >= 0 ? recurse(depth + 1) + frame[depth % 200] : 0;
}

static flow_result overflow_by_recursion(void *arg)
{
    (void)arg;
    return flow_ok_i64(recurse(0));
}

__attribute__((noinline)) static int big_frame(int n)
{
    volatile char frame[200 * 1024];

    for (size_t i = sizeof frame; i-- > 0; i -= i > 512 ? 512 : i)
        frame[i] = (char)n;
    return frame[0] + frame[sizeof frame - 1];
}

static flow_result overflow_by_a_big_frame(void *arg)
{
    return flow_ok_i64(big_frame(arg != NULL));
}

/* Uses so much of its stack and returns. */
__attribute__((noinline)) static int use(size_t bytes)
{
    volatile char *frame = __builtin_alloca(bytes);

    for (size_t i = 0; i < bytes; i++)
        frame[i] = 1;
    return frame[bytes - 1];
}

static flow_result use_much(void *bytes)
{
    return flow_ok_i64(use((size_t)bytes));
}

/* Goes down to the last bytes of its stack, and returns: only a canary
 * notices. Stacks are aligned to their size. */
__attribute__((noinline)) static int descend(uintptr_t slot)
{
    volatile char frame[64];

    frame[0] = 1;
    if ((uintptr_t)frame > slot + 512)
        return descend(slot) + frame[0];
    for (volatile char *p = (volatile char *)slot; p < (volatile char *)slot + 64; p++)
        *p = 1;
    return frame[0];
}

static flow_result overflow_by_a_little(void *stack_bytes)
{
    char here;

    return flow_ok_i64(descend((uintptr_t)&here & ~((uintptr_t)stack_bytes - 1)));
}

static int refuse(void *start, size_t bytes, int advice)
{
    (void)start, (void)bytes, (void)advice;
    return -EINVAL;
}

static int refuse_guards_only(void *start, size_t bytes, int advice)
{
    return advice == 102 ? -EINVAL : flow__sys_real.advise(start, bytes, advice);
}

/* "guard:class:how" */
static void use_guard(const char *guard)
{
    if (!strcmp(guard, "madvise"))
        return;
    flow__sys.advise = refuse_guards_only;
    if (!strcmp(guard, "canary"))
        flow__sys.protect = refuse;
}

struct overflow {
    char guard[16], how[16];
    size_t kib;
};

static struct overflow parse_overflow(const char *arg)
{
    struct overflow o;

    REQUIRE(sscanf(arg, "%15[^:]:%zu:%15s", o.guard, &o.kib, o.how) == 3);
    return o;
}

CHILD(overflow)
{
    struct overflow o = parse_overflow(arg);
    struct flow_info info = {.size = sizeof info};
    flow_fn fn = !strcmp(o.how, "recursion") ? overflow_by_recursion : overflow_by_a_big_frame;

    use_guard(o.guard);
    test_start();
    REQUIRE_EQUAL(flow_info(&info), 0);
    if (strcmp(info.guard, o.guard))
        skip_case("this system has no such guard");
    /* It has neighbours, which must not be named instead of it. */
    struct flow_spawn_options other = FLOW_SPAWN_INIT;
    other.name = "a neighbour";
    other.stack_bytes = o.kib * 1024;
    for (int i = 0; i < 20; i++)
        REQUIRE_EQUAL(flow_spawn_with(NULL, &other, sleep_for_ever, NULL), 0);
    run_named("the-deep-one", o.kib * 1024, fn, NULL);
}

/* The report: one line with all that is promised. */
static void judge_report(const struct child_end *end, const char *what, const struct overflow *o)
{
    const char *line = strstr(end->text, what), *id = strstr(end->text, "id of the-deep-one is ");
    char copy[512], text[64], number[32];
    unsigned long long address;

    child_must_say(end, what);
    child_must_say(end, "id of the-deep-one is ");
    snprintf(copy, sizeof copy, "%.*s", (int)strcspn(line, "\n"), line);
    REQUIRE(sscanf(id, "id of the-deep-one is %31s", number) == 1);
    REQUIRE(strstr(copy, number));
    REQUIRE(strstr(copy, "\"the-deep-one\""));
    snprintf(text, sizeof text, "stack class %zu KiB", o->kib);
    REQUIRE(strstr(copy, text));
    REQUIRE(strstr(copy, "spawned at 0x"));
    REQUIRE(strstr(copy, "address 0x") &&
            sscanf(strstr(copy, "address 0x"), "address %llx", &address) == 1);
    REQUIRE(address > 4096);
    REQUIRE(strstr(copy, "pc 0x"));
}

static void judge_overflow(const char *guard, size_t kib, const char *how)
{
    static struct child_end end;
    struct overflow o = {.kib = kib};
    char arg[64];

    snprintf(arg, sizeof arg, "%s:%zu:%s", guard, kib, how);
    child_run(&end, "overflow", arg);
    if (end.code == CHILD_SKIPPED)
        skip_case("this system has no such guard");
    child_must_die(&end, SIGSEGV);
    if (!TEST_SANITIZED) /* whose own report may come instead */
        judge_report(&end, "stack overflow in coroutine", &o);
}

static void judge_overflows(const char *guard)
{
    static const size_t classes[] = {16, 64};

    for (int i = 0; i < 2; i++) {
        judge_overflow(guard, classes[i], "recursion");
        judge_overflow(guard, classes[i], "frame");
    }
    judge_overflow(guard, 128, "recursion");
}

JUDGED(a_stack_overflow_is_reported_with_madvise_guards)
{
    judge_overflows("madvise");
}

JUDGED(a_stack_overflow_is_reported_with_mprotect_guards)
{
    judge_overflows("mprotect");
}

CHILD(canary_overrun)
{
    size_t kib = (size_t)atoi(arg);

    use_guard("canary");
    start_class(kib * 1024);
    run_named("the-deep-one", kib * 1024, overflow_by_a_little, (void *)(kib * 1024));
    flow_stop(FLOW_FOREVER); /* by then it has been seen */
}

JUDGED(an_overflow_that_a_canary_sees_is_reported)
{
    static struct child_end end;

    if (TEST_SANITIZED)
        skip_case("a sanitizer sees it first");
    for (int i = 0; i < 2; i++) {
        child_run(&end, "canary_overrun", i ? "64" : "16");
        child_must_die(&end, SIGABRT);
        child_must_say(&end, "overflow");
        child_must_say(&end, "canary");
    }
}

JUDGED(a_canary_report_names_the_coroutine)
{
    static struct child_end end;

    if (TEST_SANITIZED)
        skip_case("a sanitizer sees it first");
    child_run(&end, "canary_overrun", "64");
    child_must_say(&end, "\"the-deep-one\"");
}

/* All but the guard page, the header and its colour, and a few frames. */
CASE(a_stack_may_be_used_up_to_its_guard)
{
    static const char *const guards[] = {"madvise", "mprotect", "canary"};
    const size_t spare = TEST_SANITIZED ? 24 * 1024 : 4096 + 3072;

    for (int i = 0; i < 3; i++) {
        struct flow_options o = test_options();

        flow__sys = flow__sys_real;
        use_guard(guards[i]);
        test_start_with(&o);
        for (size_t kib = TEST_SANITIZED ? 64 : 16; kib <= 1024; kib *= 2)
            REQUIRE_EQUAL(run_named("deep", kib * 1024, use_much, (void *)(kib * 1024 - spare)).i64,
                          1);
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    }
}

CHILD(overflow_when_driven)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    struct flow_spawn_options named = FLOW_SPAWN_INIT;

    o.workers = 0;
    named.name = "the-deep-one";
    test_start_with(&o);
    REQUIRE_EQUAL(flow_spawn_with(NULL, &named, overflow_by_recursion, NULL), 0);
    flow_drive(FLOW_FOREVER);
}

JUDGED(a_stack_overflow_of_a_driven_coroutine_is_reported)
{
    static struct child_end end;

    child_run(&end, "overflow_when_driven", "");
    child_must_die(&end, SIGSEGV);
    if (!TEST_SANITIZED) {
        child_must_say(&end, "stack overflow in coroutine");
        child_must_say(&end, "\"the-deep-one\"");
    }
}

static flow_result outer_overflow(void *arg)
{
    flow_spawn_now(NULL, overflow_by_recursion, arg);
    return flow_ok(NULL);
}

CHILD(overflow_in_spawn_now)
{
    test_start();
    run_named("the-outer-one", 0, outer_overflow, NULL);
}

JUDGED(a_stack_overflow_in_spawn_now_is_reported)
{
    static struct child_end end;

    child_run(&end, "overflow_in_spawn_now", "");
    child_must_die(&end, SIGSEGV);
    if (!TEST_SANITIZED)
        child_must_say(&end, "stack overflow in coroutine");
}

static void program_handler(int signo, siginfo_t *info, void *context)
{
    (void)info, (void)context;
    dprintf(STDERR_FILENO, "the program's handler saw signal %d\n", signo);
    _exit(23);
}

CHILD(overflow_with_a_handler)
{
    struct sigaction action = {.sa_sigaction = program_handler,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK};

    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGABRT, &action, NULL);
    test_start();
    if (*arg == 'a')
        abort(); /* outside of any coroutine: nothing to report */
    run_named("the-deep-one", 0, overflow_by_recursion, NULL);
}

JUDGED(the_programs_own_handler_comes_after_the_report)
{
    static struct child_end end;

    child_run(&end, "overflow_with_a_handler", "");
    child_must_exit(&end, 23);
    child_must_say(&end, "stack overflow in coroutine");
    child_must_say(&end, "handler saw signal 11");
    child_run(&end, "overflow_with_a_handler", "a");
    child_must_exit(&end, 23);
    child_must_say(&end, "handler saw signal 6");
    if (strstr(end.text, "flowcoro"))
        fail_msg("a report about no coroutine: %s", end.text);
}

CHILD(overflow_unreported)
{
    struct flow_options o = test_options();

    o.no_fatal_report = true;
    test_start_with(&o);
    run_named("the-deep-one", 0, overflow_by_recursion, NULL);
}

JUDGED(no_fatal_report_leaves_the_signals_alone)
{
    static struct child_end end;

    child_run(&end, "overflow_unreported", "");
    child_must_die(&end, SIGSEGV);
    if (strstr(end.text, "flowcoro"))
        fail_msg("it reported: %s", end.text);
}

CASE(the_handlers_of_the_program_come_back_after_the_stop)
{
    struct sigaction action = {.sa_sigaction = program_handler,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK},
                     now;

    sigaction(SIGBUS, &action, NULL);
    for (int i = 0; i < 3; i++) {
        test_start();
        REQUIRE_EQUAL(sigaction(SIGBUS, NULL, &now), 0);
        REQUIRE(now.sa_sigaction != program_handler);
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
        REQUIRE_EQUAL(sigaction(SIGBUS, NULL, &now), 0);
        REQUIRE(now.sa_sigaction == program_handler);
    }
}

/* ---- crashes ---- */

static flow_result abort_inside(void *arg)
{
    (void)arg;
    abort();
}

static flow_result null_inside(void *arg)
{
    return flow_ok_i64(*(volatile int *)arg);
}

static flow_result raise_inside(void *signo)
{
    raise((int)(intptr_t)signo);
    return flow_ok(NULL);
}

CHILD(crash)
{
    test_start();
    if (!strcmp(arg, "abort"))
        run_named("the-crashing-one", 0, abort_inside, NULL);
    else if (!strcmp(arg, "null"))
        run_named("the-crashing-one", 0, null_inside, (void *)16);
    else if (!strcmp(arg, "raise"))
        run_named("the-crashing-one", 0, raise_inside, (void *)SIGSEGV);
    else if (!strcmp(arg, "bus"))
        run_named("the-crashing-one", 0, raise_inside, (void *)SIGBUS);
}

JUDGED(a_crash_inside_a_coroutine_names_it)
{
    static const struct {
        const char *how;
        int signo;
    } ways[] = {{"abort", SIGABRT}, {"null", SIGSEGV}, {"raise", SIGSEGV}, {"bus", SIGBUS}};
    static struct child_end end;

    for (int i = 0; i < 4; i++) {
        child_run(&end, "crash", ways[i].how);
        child_must_die(&end, ways[i].signo);
        child_must_say(&end, "crash in coroutine");
        child_must_say(&end, "\"the-crashing-one\"");
        if (strstr(end.text, "stack overflow in coroutine"))
            fail_msg("%s was no overflow: %s", ways[i].how, end.text);
    }
}

/* ---- exit ---- */

static atomic_int parked_ones;

static flow_result count_and_sleep(void *arg)
{
    atomic_fetch_add(&parked_ones, 1);
    return sleep_for_ever(arg);
}

static void a_thousand_live_ones(void)
{
    static const char *const names[] = {NULL, "a name"};

    for (int i = 0; i < 1000; i++) {
        struct flow_spawn_options o = FLOW_SPAWN_INIT;

        o.name = names[i % 2];
        REQUIRE_EQUAL(flow_spawn_with(NULL, &o, count_and_sleep, NULL), 0);
    }
    WAIT_UNTIL(atomic_load(&parked_ones) == 1000);
}

CHILD(exit_with_a_thousand)
{
    start_class(16 * 1024);
    a_thousand_live_ones();
    exit(0);
}

JUDGED(exit_with_a_thousand_live_coroutines_succeeds)
{
    static struct child_end end;

    for (int i = 0; i < TEST_ROUNDS(25, 2); i++) {
        child_run(&end, "exit_with_a_thousand", "");
        child_must_exit(&end, 0);
    }
}

CHILD(return_with_a_thousand)
{
    start_class(16 * 1024);
    a_thousand_live_ones();
}

JUDGED(main_may_return_with_a_thousand_live_coroutines)
{
    static struct child_end end;

    child_run(&end, "return_with_a_thousand", "");
    child_must_exit(&end, 0);
}

static void handler_that_needs_a_stack(void)
{
    dprintf(STDOUT_FILENO, "handler: %d\n", big_frame(0));
}

static void second_handler(void)
{
    dprintf(STDOUT_FILENO, "the handler that was registered first is last\n");
}

static flow_result exit_inside(void *status)
{
    exit((int)(intptr_t)status);
}

static flow_result exit_from_spawn_now(void *status)
{
    flow_spawn_now(NULL, exit_inside, status);
    return flow_ok(NULL);
}

static flow_result exit_after_a_sleep(void *status)
{
    flow_sleep(FLOW_MS(1));
    exit((int)(intptr_t)status);
}

CHILD(exit_inside)
{
    struct flow_options o = test_options();
    flow_fn fn = strchr(arg, 'n')   ? exit_from_spawn_now
                 : strchr(arg, 's') ? exit_after_a_sleep
                                    : exit_inside;

    atexit(second_handler);
    atexit(handler_that_needs_a_stack);
    o.stack_bytes = TEST_SANITIZED ? 64 * 1024 : 16 * 1024;
    if (strchr(arg, '0'))
        o.workers = 0;
    test_start_with(&o);
    flow_sync_wait(fn, (void *)5, NULL, FLOW_FOREVER);
    REQUIRE(!"this is not reached");
}

JUDGED(exit_inside_a_coroutine_runs_handlers_on_a_big_stack)
{
    static const char *const ways[] = {"", "n", "s", "0", "0n", "0s"};
    static struct child_end end;

    if (TEST_SANITIZED)
        skip_case("a frame of 200 KiB is more than a sanitizer leaves of a worker's stack");
    for (int i = 0; i < 6; i++) {
        child_run(&end, "exit_inside", ways[i]);
        child_must_exit(&end, 5);
        child_must_say(&end, "handler: 0\n");
        child_must_say(&end, "registered first is last");
    }
}

static flow_result leave_at_once(void *arg)
{
    (void)arg;
    _exit(6);
}

CHILD(quick_exit_inside)
{
    start_class(16 * 1024);
    a_thousand_live_ones();
    flow_sync_wait(leave_at_once, NULL, NULL, FLOW_FOREVER);
}

JUDGED(underscore_exit_inside_a_coroutine_works)
{
    static struct child_end end;

    child_run(&end, "quick_exit_inside", "");
    child_must_exit(&end, 6);
}

/* ---- ending threads ---- */

static flow_result end_the_thread(void *arg)
{
    pthread_exit(arg);
}

CHILD(thread_exit_inside)
{
    test_start();
    flow_sync_wait(end_the_thread, NULL, NULL, FLOW_FOREVER);
}

JUDGED(pthread_exit_in_a_coroutine_aborts_with_a_message)
{
    static struct child_end end;

    if (TEST_TSAN)
        skip_case("the thread sanitizer ends such a thread in its own way");
    child_run(&end, "thread_exit_inside", "");
    child_must_die(&end, SIGABRT);
    child_must_say(&end, "pthread_exit was called in a coroutine");
}

/* ---- what a coroutine leaves open ---- */

static flow_result leave_scope_open(void *late)
{
    struct flow_scope scope;
    struct flow_ambient shield;

    REQUIRE_EQUAL(flow_scope_open(&scope, NULL), 0);
    REQUIRE_EQUAL(flow_shield_begin(&shield), 0); /* the scope is not the innermost */
    if (late)
        flow_yield();
    return flow_ok(NULL);
}

CHILD(scope_left_open)
{
    test_start();
    flow_sync_wait(leave_scope_open, *arg ? (void *)leave_scope_open : NULL, NULL, FLOW_FOREVER);
}

JUDGED(an_open_scope_at_the_end_of_a_coroutine_stops_the_program)
{
    static struct child_end end;

    for (int late = 0; late < 2; late++) {
        child_run(&end, "scope_left_open", late ? "late" : "");
        child_must_die(&end, SIGABRT);
        child_must_say(&end, "ended with an open scope");
    }
}

static flow_result leave_shield_open(void *arg)
{
    struct flow_ambient shield, limit;

    REQUIRE_EQUAL(flow_deadline_ambient() == FLOW_FOREVER, true);
    REQUIRE_EQUAL(flow_yield(), 0);
    REQUIRE_EQUAL(flow_shield_begin(&shield), 0);
    REQUIRE_EQUAL(flow_deadline_push(&limit, FLOW_NOW), 0);
    return flow_ok(arg);
}

/* Twice, so that the second one has the first one's stack. */
CHILD(shield_left_open)
{
    struct flow_options options = test_options();

    options.workers = 1;
    test_start_with(&options);
    for (int i = 0; i < 2; i++)
        REQUIRE_EQUAL(flow_sync_wait(leave_shield_open, NULL, NULL, FLOW_FOREVER), 0);
    flow_stop(FLOW_FOREVER);
}

JUDGED(an_open_shield_stops_a_debug_build_only)
{
    static struct child_end end;

    child_run(&end, "shield_left_open", "");
#ifdef FLOW_DEBUG
    child_must_die(&end, SIGABRT);
    child_must_say(&end, "ended with an open shield");
#else
    child_must_exit(&end, 0);
#endif
}

static flow_result say_who_runs_me(void *out)
{
    *(pthread_t *)out = pthread_self();
    return flow_ok(NULL);
}

static flow_result reach_cancellation_points(void *arg)
{
    for (int i = 0; i < 20; i++) {
        test_nap(FLOW_US(100)); /* nanosleep is one */
        pthread_testcancel();
        flow_yield();
    }
    return flow_ok(arg);
}

CASE(pthread_cancel_of_a_worker_has_no_effect)
{
    pthread_t worker;
    flow_result r;

    if (TEST_TSAN)
        skip_case("the thread sanitizer intercepts pthread_cancel");
    test_start();
    for (int i = 0; i < 20; i++) {
        REQUIRE_EQUAL(flow_sync_wait(say_who_runs_me, &worker, NULL, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(pthread_cancel(worker), 0);
        REQUIRE_EQUAL(flow_sync_wait(reach_cancellation_points, (void *)7, &r, FLOW_FOREVER), 0);
        REQUIRE(r.ptr == (void *)7);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static void *use_and_be_cancelled(void *ready)
{
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    atomic_store((atomic_bool *)ready, true);
    for (;;)
        test_nap(FLOW_MS(1));
    return NULL;
}

CASE(a_foreign_thread_may_be_cancelled_outside_of_our_calls)
{
    if (TEST_SANITIZED)
        skip_case("a sanitizer stumbles over the unwinding of a cancelled thread");
    test_start();
    for (int i = 0; i < 20; i++) {
        atomic_bool ready = false;
        pthread_t thread;

        REQUIRE_EQUAL(pthread_create(&thread, NULL, use_and_be_cancelled, &ready), 0);
        WAIT_UNTIL(atomic_load(&ready));
        pthread_cancel(thread);
        pthread_join(thread, NULL);
        REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
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
    char *const argv[] = {(char *)"/proc/self/exe", (char *)"--child", (char *)"print_descriptors",
                          (char *)"", NULL};

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

CASE(a_program_that_is_executed_inherits_no_descriptors_pinning_or_mask)
{
    static char text[4096], here[4096], inside[4096];

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
    /* ... and from a coroutine too, although its worker is pinned and blocks every signal. */
    REQUIRE_EQUAL(flow_sync_wait(list_signals_and_cpus, inside, NULL, FLOW_FOREVER), 0);
    if (strcmp(inside, here))
        fprintf(stderr, "inside:\n%soutside:\n%s", inside, here);
    REQUIRE(!strcmp(inside, here));
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- signals ---- */

static atomic_long n_signals[65];

/* More stack than a coroutine of the smallest class has left. */
static void on_signal(int signo)
{
    volatile char frame[12 * 1024];

    for (size_t i = 0; i < sizeof frame; i += 512)
        frame[i] = 1;
    atomic_fetch_add(&n_signals[signo], 1);
}

static flow_result part_of_the_load(void *arg)
{
    intptr_t depth = (intptr_t)arg;
    flow_task task[3];
    flow_result r[3];
    int64_t sum = 1;

    if (depth == 0) {
        REQUIRE_EQUAL(flow_sleep(FLOW_US(100)), 0);
        REQUIRE_EQUAL(flow_yield(), 0);
        return flow_ok_i64(1);
    }
    for (int i = 0; i < 3; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], part_of_the_load, (void *)(depth - 1)), 0);
    REQUIRE_EQUAL(flow_when_all(task, 3, r, FLOW_FOREVER), 0);
    for (int i = 0; i < 3; i++)
        sum += r[i].i64;
    return flow_ok_i64(sum);
}

static flow_result timeouts_of_the_load(void *arg)
{
    flow_deadline at = flow_after(FLOW_MS(5));

    (void)arg;
    REQUIRE_EQUAL(flow_suspend(keep_nothing, NULL, at), -ETIMEDOUT);
    REQUIRE(flow_now() >= at);
    return flow_offload(FLOW_LANE_FILE, nothing, (void *)1, FLOW_FOREVER);
}

static void load_under_signals(int workers)
{
    struct flow_options o = test_options();
    struct itimerval often = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    struct sigaction action = {.sa_handler = on_signal};
    flow_deadline end;
    long rounds = 0;

    sigaction(SIGALRM, &action, NULL);
    sigaction(SIGPROF, &action, NULL);
    o.workers = workers;
    o.stack_bytes = 16 * 1024;
    test_start_with(&o);
    setitimer(ITIMER_REAL, &often, NULL);
    setitimer(ITIMER_PROF, &often, NULL);
    end = flow_after(FLOW_MS(700));
    while (flow_now() < end) {
        flow_task task;
        flow_result r = {0};

        REQUIRE_EQUAL(flow_sync_wait(part_of_the_load, (void *)4, &r, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(r.error, 0);
        REQUIRE_EQUAL(r.i64, 121);
        if (rounds++ % 10)
            continue;
        REQUIRE_EQUAL(flow_spawn(&task, timeouts_of_the_load, NULL), 0);
        REQUIRE_EQUAL(flow_join(task, &r, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(r.error, 0);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    setitimer(ITIMER_REAL, &off, NULL);
    setitimer(ITIMER_PROF, &off, NULL);
    child_note("%ld rounds at %d workers under %ld SIGALRM and %ld SIGPROF", rounds, workers,
               atomic_load(&n_signals[SIGALRM]), atomic_load(&n_signals[SIGPROF]));
    REQUIRE(atomic_load(&n_signals[SIGALRM]) > 20);
    REQUIRE(rounds > 0);
}

CASE(signals_at_1_khz_change_nothing)
{
    if (TEST_SANITIZED)
        skip_case("16 KiB stacks are too small for a sanitizer");
    load_under_signals(test_workers());
}

/* The driver's thread takes signals, on a coroutine's stack unless the program says SA_ONSTACK. */
CASE(a_driver_lives_with_signals_on_its_alternate_stack)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    struct itimerval often = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    flow_deadline end;

    if (TEST_SANITIZED)
        skip_case("16 KiB stacks are too small for a sanitizer");
    sigaction(SIGALRM, &action, NULL);
    o.workers = 0;
    o.stack_bytes = 16 * 1024;
    test_start_with(&o);
    setitimer(ITIMER_REAL, &often, NULL);
    end = flow_after(FLOW_MS(400));
    while (flow_now() < end) {
        flow_result r = {0};

        REQUIRE_EQUAL(flow_sync_wait(part_of_the_load, (void *)4, &r, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(r.i64, 121);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    setitimer(ITIMER_REAL, &off, NULL);
    REQUIRE(atomic_load(&n_signals[SIGALRM]) > 20);
}

/* Blocking calls on helpers are not interrupted either: signals go to the program's threads. */
CASE(signals_do_not_interrupt_offloaded_calls)
{
    struct itimerval often = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    struct sigaction action = {.sa_handler = on_signal};
    flow_task task[8];
    flow_result r;

    sigaction(SIGALRM, &action, NULL);
    test_start();
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < 8; i++) {
        REQUIRE_EQUAL(flow_spawn(&task[i], timeouts_of_the_load, NULL), 0);
        test_nap(FLOW_MS(10));
    }
    for (int i = 0; i < 8; i++) {
        REQUIRE_EQUAL(flow_join(task[i], &r, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(r.error, 0);
    }
    setitimer(ITIMER_REAL, &off, NULL);
    REQUIRE(atomic_load(&n_signals[SIGALRM]) > 5);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
