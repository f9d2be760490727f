/* SPDX-License-Identifier: MIT
 *
 * How a process or a coroutine ends, or does not: exit, pthread_exit and pthread_cancel, and what a
 * coroutine has left open at its end. With FLOW_TEST_WORKERS workers. */
#include "sync/reclaim.h"
#include "tests/support/child.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static flow_result nothing(void *arg)
{
    return flow_ok(arg);
}

static flow_result sleep_for_ever(void *arg)
{
    (void)arg;
    return flow_err(flow_sleep_until(FLOW_FOREVER));
}

__attribute__((noinline)) static int big_frame(int n)
{
    volatile char frame[200 * 1024];

    for (size_t i = sizeof frame; i-- > 0; i -= i > 512 ? 512 : i)
        frame[i] = (char)n;
    return frame[0] + frame[sizeof frame - 1];
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
    test_start_stacks(16 * 1024);
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
    test_start_stacks(16 * 1024);
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
    test_start_stacks(16 * 1024);
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

/* A piece that enters a section and does not leave it, when the part behind it has its own task already. */
static int stay_in_a_section(int64_t begin, int64_t end, void *arg)
{
    (void)end;
    if (flow_sleep(begin ? FLOW_S(1000) : FLOW_MS(1)))
        return -ECANCELED;
    flow__reclaim_enter();
    return strchr(arg, 'f') ? -EIO : 0;
}

static flow_result loop_in_a_section(void *arg)
{
    return flow_ok_i64(flow_parallel_for(0, 2, 1, stay_in_a_section, arg));
}

CHILD(section_left_open)
{
    test_start();
    flow_sync_wait(loop_in_a_section, (void *)(intptr_t)arg, NULL, FLOW_FOREVER);
    flow_stop(FLOW_FOREVER);
}

JUDGED(a_piece_that_stays_in_a_section_stops_the_process)
{
    static struct child_end end;

    for (int i = 0; i < 2; i++) {
        child_run(&end, "section_left_open", i ? "fails" : "");
        child_must_die(&end, SIGABRT);
        child_must_say(&end, "has not left its RCU read-side section");
    }
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

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
