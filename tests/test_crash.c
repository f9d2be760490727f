/* SPDX-License-Identifier: MIT
 *
 * What is reported of a crash: stack overflows, found by whatever guard there is, and others, with the
 * coroutine's name; the program's own handlers still come. With FLOW_TEST_WORKERS workers. */
#include "tests/support/child.h"

#include "sync/syscall.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef FLOW_DEBUG
#include <urcu/urcu-memb.h>
#endif

static flow_result sleep_for_ever(void *arg)
{
    (void)arg;
    return flow_err(flow_sleep_until(FLOW_FOREVER));
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
    if (!TEST_SANITIZED && !strcmp(how, "recursion"))
        child_must_say(&end, " recurse+0x");
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
    test_start_stacks(kib * 1024);
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
    struct flow_spawn_options named = FLOW_SPAWN_INIT;

    named.name = "the-deep-one";
    test_start_driven();
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

/* ---- faults that the program's handler takes care of ---- */

static char *barrier; /* a page that may not be touched before the handler has allowed it */
static bool handler_gives_up, handler_jumps;
static sigjmp_buf back_from_fault;
static int n_handled;

static void set_barrier(void)
{
    REQUIRE_EQUAL(mprotect(barrier, 4096, PROT_NONE), 0);
}

static bool is_blocked(int signo)
{
    sigset_t now;

    pthread_sigmask(SIG_SETMASK, NULL, &now);
    return sigismember(&now, signo);
}

static void take_care(int signo)
{
    n_handled++;
    if (handler_jumps)
        siglongjmp(back_from_fault, 1);
    if (handler_gives_up)
        signal(signo, SIG_DFL);
    else
        mprotect(barrier, 4096, PROT_READ | PROT_WRITE);
}

/* A fault of the barrier, or what was sent; any other fault ends the program. */
static void take_care_of_info(int signo, siginfo_t *info, void *context)
{
    char *at = info->si_addr;

    if (info->si_code > 0 && !handler_gives_up && (at < barrier || at >= barrier + 4096))
        program_handler(signo, info, context);
    if (!is_blocked(SIGUSR1) || !is_blocked(signo))
        _exit(25);
    take_care(signo);
}

static void own_faults(const char *how)
{
    struct sigaction action = {.sa_sigaction = take_care_of_info, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    sigaddset(&action.sa_mask, SIGUSR1);
    if (strcmp(how, "info")) {
        action.sa_flags = SA_ONSTACK | (!strcmp(how, "once") ? SA_RESETHAND : 0);
        action.sa_handler = take_care;
    }
    barrier = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(barrier != MAP_FAILED);
    REQUIRE_EQUAL(sigaction(SIGSEGV, &action, NULL), 0);
    REQUIRE_EQUAL(sigaction(SIGBUS, &action, NULL), 0);
}

static flow_result touch_barrier(void *arg)
{
    for (int i = 0; i < 3; i++) {
        set_barrier();
        *(volatile char *)barrier = 1;
    }
    return flow_ok(arg);
}

static flow_result jump_out_of_faults(void *arg)
{
    static int i; /* a local one would be unspecified after a jump */

    for (i = 0; i < 3; i++)
        if (!sigsetjmp(back_from_fault, 1))
            *(volatile char *)barrier = 1;
    return flow_ok(arg);
}

CHILD(mended_faults)
{
    own_faults(arg);
    test_start();
    touch_barrier(NULL);
    run_named("the-mended-one", 0, touch_barrier, NULL);
    REQUIRE_EQUAL(n_handled, 6);
    REQUIRE_EQUAL(raise(SIGBUS), 0); /* is sent, and is the handler's too */
    REQUIRE_EQUAL(n_handled, 7);
    run_named("the-deep-one", 0, overflow_by_recursion, NULL);
}

CHILD(jumps_out_of_faults)
{
    own_faults("plain");
    handler_jumps = true;
    test_start();
    run_named("the-mended-one", 0, jump_out_of_faults, NULL);
    REQUIRE_EQUAL(n_handled, 3);
}

CHILD(ignored_signals)
{
    signal(SIGSEGV, SIG_IGN);
    test_start();
    for (int i = 0; i < 3; i++)
        run_named("the-raising-one", 0, raise_inside, (void *)SIGSEGV);
    run_named("the-deep-one", 0, overflow_by_recursion, NULL);
}

static void must_not_say_crash(const struct child_end *end)
{
    if (strstr(end->text, "crash in coroutine"))
        fail_msg("a fault that was mended is reported: %s", end->text);
}

JUDGED(a_fault_that_the_program_mends_is_no_crash_and_overflows_are_still_reported)
{
    static struct child_end end;

    child_run(&end, "mended_faults", "info");
    must_not_say_crash(&end);
    if (!TEST_SANITIZED)
        child_must_say(&end, "stack overflow in coroutine");
    child_must_exit(&end, 23);
    child_must_say(&end, "the program's handler saw signal 11");
    child_run(&end, "jumps_out_of_faults", "");
    child_must_exit(&end, 0);
    must_not_say_crash(&end);
    child_run(&end, "ignored_signals", "");
    child_must_die(&end, SIGSEGV);
    must_not_say_crash(&end);
    if (!TEST_SANITIZED)
        child_must_say(&end, "stack overflow in coroutine");
}

static flow_result touch_barrier_once(void *arg)
{
    *(volatile char *)barrier = 1;
    return flow_ok(arg);
}

CHILD(fault_given_up)
{
    own_faults(arg);
    handler_gives_up = true;
    test_start();
    run_named("the-crashing-one", 0, touch_barrier_once, NULL);
}

/* By SIG_DFL, or by SA_RESETHAND: the fault is about to end the program. */
JUDGED(a_fault_that_the_program_gives_up_is_a_crash)
{
    static const char *const how[] = {"info", "plain", "once"};
    static struct child_end end;

    for (int i = 0; i < 3; i++) {
        const char *line;

        child_run(&end, "fault_given_up", how[i]);
        child_must_die(&end, SIGSEGV);
        line = strstr(end.text, "crash in coroutine");
        child_must_say(&end, "crash in coroutine");
        child_must_say(&end, "\"the-crashing-one\"");
        assert_null(strstr(line + 1, "crash in coroutine"));
    }
}

/* A thread's own alternate stack, the smallest that there is, with a page before it that faults. */
static void take_small_stack(stack_t *small)
{
    char *lowest = mmap(NULL, 4096 + (size_t)SIGSTKSZ, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    REQUIRE(lowest != MAP_FAILED);
    REQUIRE_EQUAL(mprotect(lowest, 4096, PROT_NONE), 0);
    *small = (stack_t){.ss_sp = lowest + 4096, .ss_size = (size_t)SIGSTKSZ};
    REQUIRE_EQUAL(sigaltstack(small, NULL), 0);
}

static flow_result look_at_alternate_stack(void *now)
{
    REQUIRE_EQUAL(sigaltstack(NULL, now), 0);
    return flow_ok(NULL);
}

CHILD(crash_on_a_small_stack)
{
    struct flow_spawn_options named = FLOW_SPAWN_INIT;
    stack_t small, now;

    named.name = "the-crashing-one";
    take_small_stack(&small);
    test_start_driven();
    REQUIRE_EQUAL(flow_spawn(NULL, look_at_alternate_stack, &now), 0);
    flow_drive(FLOW_FOREVER);
    REQUIRE(now.ss_sp != small.ss_sp && now.ss_size >= 32 * 1024);
    REQUIRE_EQUAL(sigaltstack(NULL, &now), 0);
    REQUIRE(now.ss_sp == small.ss_sp && now.ss_size == small.ss_size);
    REQUIRE_EQUAL(flow_spawn_with(NULL, &named, null_inside, (void *)16), 0);
    flow_drive(FLOW_FOREVER);
}

JUDGED(a_small_alternate_stack_of_the_program_is_replaced_while_it_drives)
{
    static struct child_end end;

    if (TEST_SANITIZED)
        skip_case("a sanitizer has an alternate stack of its own");
    child_run(&end, "crash_on_a_small_stack", "");
    child_must_die(&end, SIGSEGV);
    child_must_say(&end, "crash in coroutine");
    child_must_say(&end, " null_inside+0x");
    child_must_say(&end, " flow__call+0x");
}

/* ---- crashes ---- */

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
    else if (!strcmp(arg, "name"))
        run_named("a\nflowcoro: \x1b\x7f", 0, abort_inside, NULL);
}

JUDGED(a_crash_inside_a_coroutine_names_it)
{
    static const struct {
        const char *how;
        int signo;
        const char *frame;
    } ways[] = {{"abort", SIGABRT, " abort_inside+0x"},
                {"null", SIGSEGV, " null_inside+0x"},
                {"raise", SIGSEGV, " raise_inside+0x"},
                {"bus", SIGBUS, " raise_inside+0x"}};
    static struct child_end end;

    for (int i = 0; i < 4; i++) {
        child_run(&end, "crash", ways[i].how);
        child_must_die(&end, ways[i].signo);
        if (TEST_SANITIZED && ways[i].signo != SIGABRT)
            continue; /* a sanitizer's handler takes care of it */
        child_must_say(&end, "crash in coroutine");
        child_must_say(&end, "\"the-crashing-one\"");
        if (!TEST_SANITIZED) { /* which stand between, without frames that can be followed */
            child_must_say(&end, ways[i].frame);
            child_must_say(&end, " flow__call+0x");
        }
        if (strstr(end.text, "stack overflow in coroutine"))
            fail_msg("%s was no overflow: %s", ways[i].how, end.text);
    }
}

JUDGED(a_name_cannot_make_lines_of_a_report)
{
    static struct child_end end;

    child_run(&end, "crash", "name");
    child_must_die(&end, SIGABRT);
    child_must_say(&end, " \"a?flowcoro: ??\", spawned at 0x");
}

static struct sigaction beneath;

static void call_the_one_beneath(int signo, siginfo_t *info, void *context)
{
    static int n;

    dprintf(STDERR_FILENO, "the upper handler saw signal %d\n", signo);
    if (++n == 20)
        _exit(24);
    beneath.sa_sigaction(signo, info, context);
}

/* The second runtime's handler is on top of the program's, and that on top of the first one's. */
CHILD(crash_with_handlers_in_a_ring)
{
    struct sigaction action = {.sa_sigaction = call_the_one_beneath,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK};

    test_start();
    REQUIRE_EQUAL(sigaction(SIGSEGV, &action, &beneath), 0);
    REQUIRE(beneath.sa_flags & SA_SIGINFO);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    test_start();
    run_named("the-crashing-one", 0, *arg == 'r' ? raise_inside : null_inside,
              (void *)(intptr_t)(*arg == 'r' ? SIGSEGV : 16));
}

JUDGED(a_handler_that_calls_the_one_before_it_ends_after_a_second_start)
{
    static struct child_end end;

    if (TEST_SANITIZED)
        skip_case("a sanitizer has handlers of its own");
    for (int i = 0; i < 2; i++) {
        const char *line;

        child_run(&end, "crash_with_handlers_in_a_ring", i ? "raise" : "null");
        child_must_die(&end, SIGSEGV);
        child_must_say(&end, "the upper handler saw signal 11");
        line = strstr(end.text, "crash in coroutine");
        assert_non_null(line);
        assert_null(strstr(line + 1, "crash in coroutine"));
    }
}

#ifdef FLOW_DEBUG
/* It would hold up every grace period, and somebody else would leave the section. */
static flow_result yield_inside_section(void *arg)
{
    urcu_memb_read_lock();
    flow_yield();
    urcu_memb_read_unlock();
    return flow_ok(arg);
}

CHILD(yield_in_a_section)
{
    (void)arg;
    test_start();
    run_named("the-reader", 0, yield_inside_section, NULL);
}

JUDGED(a_yield_in_a_read_side_section_is_caught_with_a_backtrace)
{
    static struct child_end end;

    child_run(&end, "yield_in_a_section", "");
    child_must_die(&end, SIGABRT);
    child_must_say(&end, "!flow__reclaim_inside() does not hold");
    child_must_say(&end, "\"the-reader\"");
    child_must_say(&end, " yield_inside_section+0x");
}
#endif

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
