/* SPDX-License-Identifier: MIT
 *
 * Scopes: nothing outlives them, errors come up through levels, cancellation goes down, deadlines,
 * a million tasks, and their misuse.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "core/scope.h"
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GENEROUS flow_after(FLOW_S(60))

static atomic_long begun, ended;

static flow_result count(void *arg)
{
    atomic_fetch_add(&begun, 1);
    if ((intptr_t)arg % 5 == 1)
        EXPECT_EQ(flow_yield(), 0);
    if ((intptr_t)arg % 50 == 2)
        EXPECT_EQ(flow_sleep(FLOW_US(50)), 0);
    atomic_fetch_add(&ended, 1);
    return flow_ok(NULL);
}

static flow_result nothing(void *arg)
{
    (void)arg;
    return flow_ok(NULL);
}

static flow_result fail_with(void *arg)
{
    return flow_err(-(int)(intptr_t)arg);
}

static flow_result fail_late(void *arg)
{
    flow_sleep(FLOW_US(100));
    return fail_with(arg);
}

/* Waits until it is cancelled, and says why. */
static atomic_int reasons[16];

static flow_result wait_for_cancel(void *arg)
{
    (void)arg;
    EXPECT_EQ(flow_sleep_until(FLOW_FOREVER), -ECANCELED);
    atomic_fetch_add(&reasons[flow_cancel_reason() & 15], 1);
    return flow_err(-ECANCELED);
}

static flow_result wait_and_succeed(void *arg)
{
    wait_for_cancel(arg);
    return flow_ok(NULL);
}

static struct flow_scope_status status_of(struct flow_scope *scope)
{
    struct flow_scope_status status;

    flow_scope_status(scope, &status);
    return status;
}

static void expect_status(struct flow_scope *scope, uint64_t finished, uint64_t failed,
                          uint64_t cancelled, int error)
{
    struct flow_scope_status status = status_of(scope);

    EXPECT_EQ(status.live, 0);
    EXPECT_EQ(status.finished, finished);
    EXPECT_EQ(status.failed, failed);
    EXPECT_EQ(status.cancelled, cancelled);
    EXPECT_EQ(status.error, error);
}

/* ---- nothing outlives it ---- */

static flow_result spawn_and_close(void *arg)
{
    struct flow_scope scope;
    flow_task task, other;

    (void)arg;
    for (int n = 0; n <= 300; n = n * 2 + 1) {
        atomic_store(&begun, 0);
        atomic_store(&ended, 0);
        EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
        for (intptr_t i = 0; i < n; i++)
            EXPECT_EQ(flow_scope_spawn(&scope, i % 2 ? &task : NULL, count, (void *)i), 0);
        EXPECT_EQ(flow_scope_wait(&scope, FLOW_FOREVER), 0);
        EXPECT_EQ(atomic_load(&ended), n);
        EXPECT_EQ(status_of(&scope).live, 0);
        for (intptr_t i = 0; i < n; i++)
            EXPECT_EQ(flow_scope_spawn(&scope, NULL, count, (void *)i), 0);
        EXPECT_EQ(flow_scope_close(&scope), 0);
        EXPECT_EQ(atomic_load(&ended), 2 * n);
        expect_status(&scope, 2 * (uint64_t)n, 0, 0, 0);
    }

    /* Existing tasks: not begun, suspended, ended. */
    EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
    atomic_store(&ended, 0);
    for (intptr_t i = 0; i < 100; i++) {
        EXPECT_EQ((i % 3 ? flow_spawn : flow_spawn_now)(&task, count, (void *)i), 0);
        if (i % 7 == 0)
            EXPECT_EQ(flow_yield(), 0);
        EXPECT_EQ(flow_scope_add(&scope, task), 0);
        if (flow_scope_add(&scope, task) != -EINVAL)
            EXPECT_EQ(flow_scope_add(&scope, task), -ESRCH);
    }
    EXPECT_EQ(flow_scope_wait(&scope, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_spawn_now(&task, fail_with, (void *)(intptr_t)EIO), 0);
    EXPECT_EQ(flow_spawn(&other, wait_for_cancel, NULL), 0);
    EXPECT_EQ(flow_scope_add(&scope, other), 0);
    EXPECT_EQ(flow_scope_add(&scope, task), 0); /* cancels the other one */
    EXPECT_EQ(flow_scope_add(&scope, flow_self()), -EDEADLK);
    EXPECT_EQ(flow_scope_close(&scope), -EIO);
    return flow_ok(NULL);
}

static void test_nothing_outlives_it(void **state)
{
    (void)state;
    test_in_coroutine(spawn_and_close);
    assert_int_equal(atomic_load(&ended), 100);
}

/* ---- errors ---- */

static flow_result errors(void *arg)
{
    struct flow_scope_options collect = FLOW_SCOPE_OPTIONS_INIT;
    struct flow_scope scope;
    flow_task task;
    int r;

    (void)arg;
    memset(reasons, 0, sizeof reasons);
    EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
    for (int i = 0; i < 20; i++)
        EXPECT_EQ(flow_scope_spawn(&scope, NULL, i % 2 ? wait_for_cancel : wait_and_succeed, NULL),
                  0);
    for (int i = 0; i < 5; i++)
        EXPECT_EQ(flow_yield(), 0);
    EXPECT_EQ(flow_scope_spawn(&scope, NULL, fail_late, (void *)(intptr_t)EIO), 0);
    EXPECT_EQ(flow_scope_wait(&scope, FLOW_FOREVER), 0);
    r = flow_scope_spawn(&scope, NULL, count, NULL);
    EXPECT_EQ(r, -ECANCELED); /* it takes no more */
    EXPECT_EQ(flow_spawn(&task, count, NULL), 0);
    EXPECT_EQ(flow_scope_add(&scope, task), -ECANCELED);
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0); /* still ours */
    EXPECT_EQ(flow_scope_close(&scope), -EIO);
    EXPECT_EQ(status_of(&scope).failed, 1);
    EXPECT_EQ(status_of(&scope).finished, 21);
    EXPECT(reasons[FLOW_CANCEL_SIBLING] > 0);

    /* One that was cancelled alone is no failure. */
    EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
    EXPECT_EQ(flow_scope_spawn(&scope, &task, wait_for_cancel, NULL), 0);
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), -EINVAL);
    EXPECT_EQ(flow_detach(task), -EINVAL);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_EQ(flow_scope_wait(&scope, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_scope_spawn(&scope, NULL, count, NULL), 0);
    EXPECT_EQ(flow_scope_close(&scope), -ECANCELED);
    expect_status(&scope, 2, 0, 1, 0);

    /* The first error is the one. */
    collect.flags = FLOW_SCOPE_COLLECT;
    EXPECT_EQ(flow_scope_open(&scope, &collect), 0);
    for (int error = EIO; error < EIO + 3; error++) {
        EXPECT_EQ(flow_scope_spawn(&scope, NULL, fail_with, (void *)(intptr_t)error), 0);
        EXPECT_EQ(flow_scope_wait(&scope, FLOW_FOREVER), 0);
    }
    EXPECT_EQ(flow_scope_close(&scope), -EIO);
    expect_status(&scope, 3, 3, 0, -EIO);

    /* All have their chance. */
    collect.flags = FLOW_SCOPE_COLLECT;
    EXPECT_EQ(flow_scope_open(&scope, &collect), 0);
    for (intptr_t i = 0; i < 60; i++)
        EXPECT_EQ(flow_scope_spawn(&scope, NULL, i % 3 ? count : fail_with, (void *)(i + 1)), 0);
    r = flow_scope_close(&scope);
    EXPECT(r < 0 && -r % 3 == 1);
    expect_status(&scope, 60, 20, 0, r);
    return flow_ok(NULL);
}

static void test_errors(void **state)
{
    (void)state;
    test_in_coroutine(errors);
}

/* Through levels: each opens a scope for the next, with some that just wait. */
static flow_result descend(void *arg)
{
    intptr_t depth = (intptr_t)arg;
    struct flow_scope scope;

    if (depth == 0)
        return fail_late((void *)(intptr_t)EBADMSG);
    EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
    EXPECT_EQ(flow_scope_spawn(&scope, NULL, wait_for_cancel, NULL), 0);
    EXPECT_EQ(flow_scope_spawn(&scope, NULL, wait_and_succeed, NULL), 0);
    EXPECT_EQ(flow_scope_spawn(&scope, NULL, descend, (void *)(depth - 1)), 0); /* last: it may fail at once */
    return flow_err(flow_scope_close(&scope));
}

static flow_result levels(void *arg)
{
    flow_result result;
    flow_task task;

    (void)arg;
    for (int i = 0; i < 50; i++) {
        EXPECT_EQ(flow_spawn(&task, descend, (void *)(intptr_t)(i % 12)), 0);
        EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
        EXPECT_EQ(result.error, -EBADMSG);
    }
    return flow_ok(NULL);
}

static void test_levels(void **state)
{
    (void)state;
    test_in_coroutine(levels);
}

/* ---- a cancelled parent still waits ---- */

static atomic_int cleaned_up;

static flow_result clean_up_slowly(void *arg)
{
    (void)arg;
    EXPECT_EQ(flow_sleep_until(FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_cancel_reason(), FLOW_CANCEL_SCOPE);
    {
        FLOW_SHIELD(shield);
        EXPECT_EQ(flow_sleep(FLOW_US(300)), 0);
    }
    atomic_fetch_add(&cleaned_up, 1);
    return flow_err(-ECANCELED);
}

static flow_result parent(void *arg)
{
    struct flow_scope scope;
    int n = (int)(intptr_t)arg;

    EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
    for (int i = 0; i < n; i++)
        EXPECT_EQ(flow_scope_spawn(&scope, NULL, clean_up_slowly, NULL), 0);
    while (status_of(&scope).live && flow_yield() == 0)
        ;
    EXPECT_EQ(flow_scope_wait(&scope, FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_scope_wait(&scope, FLOW_NOW), -ECANCELED);
    EXPECT_EQ(flow_scope_close(&scope), -ECANCELED);
    EXPECT_EQ(status_of(&scope).live, 0);
    return flow_ok(NULL);
}

static flow_result cancelled_parent(void *arg)
{
    flow_task task;

    (void)arg;
    atomic_store(&cleaned_up, 0);
    EXPECT_EQ(flow_spawn_now(&task, parent, (void *)(intptr_t)100), 0);
    for (int i = 0; i < 10; i++)
        EXPECT_EQ(flow_sleep(FLOW_US(100)), 0);
    EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
    /* Those that had begun have cleaned up, and they were told why. */
    EXPECT(atomic_load(&cleaned_up) > 0);
    return flow_ok(NULL);
}

static void test_cancelled_parent(void **state)
{
    (void)state;
    test_in_coroutine(cancelled_parent);
}

static int leave_early(int n)
{
    FLOW_SCOPE(scope);
    for (int i = 0; i < n; i++)
        EXPECT_EQ(flow_scope_spawn(&scope, NULL, wait_for_cancel, NULL), 0);
    return 7;
}

static int close_oneself(void)
{
    FLOW_SCOPE(scope);
    EXPECT_EQ(flow_scope_spawn(&scope, NULL, fail_with, (void *)(intptr_t)EPIPE), 0);
    return flow_scope_close(&scope);
}

static flow_result use_macro(void *arg)
{
    uint64_t before = test_stats().live;

    (void)arg;
    EXPECT_EQ(leave_early(50), 7);
    EXPECT_EQ(test_stats().live, before);
    EXPECT_EQ(close_oneself(), -EPIPE);
    return flow_ok(NULL);
}

static void test_macro(void **state)
{
    (void)state;
    test_in_coroutine(use_macro);
}

/* ---- deadlines ---- */

static flow_result expect_inherited(void *arg)
{
    struct flow_ambient later, shield;

    EXPECT(flow_deadline_ambient() == *(flow_deadline *)arg);
    EXPECT_EQ(flow_deadline_push(&later, FLOW_FOREVER), 0);
    EXPECT(flow_deadline_ambient() == *(flow_deadline *)arg);
    EXPECT_EQ(flow_sleep_until(FLOW_FOREVER), -ECANCELED);
    EXPECT_EQ(flow_deadline_pop(&later), 0);
    EXPECT_EQ(flow_sleep_until(FLOW_FOREVER), -ECANCELED);
    /* By its own clock, or because its parent was quicker. */
    EXPECT_EQ(flow_cancel_reason(), FLOW_CANCEL_DEADLINE);
    EXPECT_EQ(flow_shield_begin(&shield), 0);
    EXPECT_EQ(flow_cancel_reason(), FLOW_CANCEL_DEADLINE);
    EXPECT_EQ(flow_shield_end(&shield), 0);
    return flow_err(-ECANCELED);
}

/* Has the scope taken it? It must, before its deadline. */
static bool spawn_by(flow_deadline deadline, struct flow_scope *scope, flow_fn fn, void *arg)
{
    int r = flow_scope_spawn(scope, NULL, fn, arg);

    EXPECT(r == 0 || (r == -ECANCELED && flow_now() >= deadline));
    return r == 0;
}

/* Opens one with a deadline that is near, but not so near that it does not take the task. */
static void open_and_add(struct flow_scope *scope, flow_task task)
{
    struct flow_scope_options options = FLOW_SCOPE_OPTIONS_INIT;
    int64_t span = FLOW_MS(2);

    for (;; span *= 2) {
        int r;

        options.deadline = flow_after(span);
        EXPECT_EQ(flow_scope_open(scope, &options), 0);
        r = flow_scope_add(scope, task);
        if (r != -ECANCELED) {
            EXPECT_EQ(r, 0);
            return;
        }
        EXPECT_EQ(flow_scope_close(scope), -ETIMEDOUT);
    }
}

static flow_result deadlines(void *arg)
{
    struct flow_scope_options options = FLOW_SCOPE_OPTIONS_INIT;
    struct flow_ambient limit;
    struct flow_scope scope, inner;
    flow_deadline deadline;
    uint64_t taken = 0;
    flow_task task;

    (void)arg;
    /* Its own: the tasks and the parent see it. */
    options.deadline = deadline = flow_after(FLOW_MS(3));
    EXPECT_EQ(flow_scope_open(&scope, &options), 0);
    EXPECT(flow_deadline_ambient() == deadline);
    for (int i = 0; i < 20; i++)
        taken += spawn_by(deadline, &scope, expect_inherited, &deadline);
    EXPECT_EQ(flow_sleep(FLOW_S(60)), -ECANCELED);
    EXPECT_EQ(flow_cancel_reason(), FLOW_CANCEL_DEADLINE);
    EXPECT_EQ(flow_scope_close(&scope), -ETIMEDOUT);
    EXPECT_EQ(status_of(&scope).finished, taken);
    EXPECT(flow_now() >= deadline);
    EXPECT_EQ(flow_cancel_reason(), 0);
    EXPECT_EQ(flow_yield(), 0);

    /* In time. */
    options.deadline = flow_after(FLOW_S(600));
    EXPECT_EQ(flow_scope_open(&scope, &options), 0);
    EXPECT_EQ(flow_scope_spawn(&scope, NULL, count, NULL), 0);
    EXPECT_EQ(flow_scope_close(&scope), 0);

    /* Inherited through two scopes from a pushed one; a scope's own is later. */
    deadline = flow_after(FLOW_MS(3));
    EXPECT_EQ(flow_deadline_push(&limit, deadline), 0);
    EXPECT_EQ(flow_scope_open(&scope, &options), 0);
    EXPECT_EQ(flow_scope_open(&inner, NULL), 0);
    for (int i = 0; i < 20; i++)
        spawn_by(deadline, i % 2 ? &inner : &scope, expect_inherited, &deadline);
    EXPECT_EQ(flow_scope_close(&scope), -EINVAL); /* not the innermost */
    EXPECT_EQ(flow_scope_close(&inner), -ECANCELED);
    EXPECT_EQ(flow_scope_close(&scope), -ECANCELED);
    EXPECT_EQ(flow_deadline_pop(&limit), 0);
    EXPECT_EQ(flow_yield(), 0);

    /* Added ones do not inherit it, but are cancelled. */
    memset(reasons, 0, sizeof reasons);
    EXPECT_EQ(flow_spawn_now(&task, wait_for_cancel, NULL), 0);
    open_and_add(&scope, task);
    EXPECT_EQ(flow_scope_close(&scope), -ETIMEDOUT);
    EXPECT_EQ(reasons[FLOW_CANCEL_DEADLINE], 1);

    /* An error comes before it. */
    EXPECT_EQ(flow_spawn(&task, fail_with, (void *)(intptr_t)EIO), 0);
    open_and_add(&scope, task);
    EXPECT_EQ(flow_sleep(FLOW_S(60)), -ECANCELED);
    EXPECT_EQ(flow_scope_close(&scope), -EIO);
    return flow_ok(NULL);
}

static void test_deadlines(void **state)
{
    (void)state;
    test_in_coroutine(deadlines);
}

static flow_result too_late(void *arg)
{
    struct flow_scope_options options = FLOW_SCOPE_OPTIONS_INIT;
    struct flow_ambient limit;
    struct flow_scope scope;
    flow_task task;

    (void)arg;
    atomic_store(&begun, 0);
    EXPECT_EQ(flow_spawn(&task, nothing, NULL), 0);
    options.deadline = flow_now();
    EXPECT_EQ(flow_scope_open(&scope, &options), 0);
    EXPECT_EQ(flow_scope_close(&scope), 0); /* nobody was cancelled */
    EXPECT_EQ(flow_scope_open(&scope, &options), 0);
    EXPECT_EQ(flow_scope_spawn(&scope, NULL, count, NULL), -ECANCELED);
    EXPECT_EQ(flow_scope_add(&scope, task), -ECANCELED);
    EXPECT_EQ(flow_scope_close(&scope), -ETIMEDOUT);
    expect_status(&scope, 0, 0, 0, 0);
    EXPECT_EQ(flow_deadline_push(&limit, options.deadline), 0);
    EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
    EXPECT_EQ(flow_scope_add(&scope, task), -ECANCELED);
    EXPECT_EQ(flow_scope_spawn(&scope, NULL, count, NULL), -ECANCELED);
    EXPECT_EQ(flow_scope_close(&scope), -ECANCELED);
    EXPECT_EQ(flow_deadline_pop(&limit), 0);
    EXPECT_EQ(flow_join(task, NULL, GENEROUS), 0);
    EXPECT_EQ(atomic_load(&begun), 0);
    return flow_ok(NULL);
}

static void test_too_late(void **state)
{
    (void)state;
    test_in_coroutine(too_late);
}

/* Whoever comes upon the deadline cancels all of it, so that what was added ends before the close. */
static flow_result come_upon_deadline(void *waits)
{
    struct flow_ambient shield;
    struct flow_scope scope;
    flow_task task;

    memset(reasons, 0, sizeof reasons);
    EXPECT_EQ(flow_spawn_now(&task, wait_for_cancel, NULL), 0);
    open_and_add(&scope, task);
    if (waits) {
        EXPECT_EQ(flow_scope_wait(&scope, FLOW_FOREVER), -ECANCELED);
    } else {
        while (flow_now() < flow_deadline_ambient())
            ;
        EXPECT_EQ(flow_scope_spawn(&scope, NULL, count, NULL), -ECANCELED);
    }
    EXPECT_EQ(flow_shield_begin(&shield), 0);
    EXPECT_EQ(flow_scope_wait(&scope, flow_after(FLOW_S(10))), 0);
    EXPECT_EQ(flow_shield_end(&shield), 0);
    EXPECT_EQ(reasons[FLOW_CANCEL_DEADLINE], 1);
    EXPECT_EQ(flow_scope_close(&scope), -ETIMEDOUT);
    return flow_ok(NULL);
}

static void test_coming_upon_a_deadline(void **state)
{
    (void)state;
    test_start();
    for (intptr_t waits = 0; waits < 2; waits++)
        assert_int_equal(flow_sync_wait(come_upon_deadline, (void *)waits, NULL, FLOW_FOREVER), 0);
    test_stop();
}

/* ---- misuse ---- */

static flow_result use_someone_elses(void *arg)
{
    struct flow_scope *scope = arg;

    EXPECT_EQ(flow_scope_wait(scope, FLOW_FOREVER), -EPERM);
    EXPECT_EQ(flow_scope_close(scope), -EPERM);
    /* What a task of it may do. */
    EXPECT_EQ(flow_scope_spawn(scope, NULL, count, NULL), 0);
    return flow_ok(NULL);
}

static flow_result misuse(void *arg)
{
    struct flow_scope_options options = FLOW_SCOPE_OPTIONS_INIT;
    struct flow_spawn_options spawn = FLOW_SPAWN_INIT;
    struct flow_ambient shield;
    struct flow_scope scope;

    (void)arg;
    EXPECT_EQ(flow_shield_end(NULL), -EINVAL); /* nothing is open */
    EXPECT_EQ(flow_deadline_pop(NULL), -EINVAL);
    memset(&scope, 0, sizeof scope);
    EXPECT_EQ(flow_scope_spawn(&scope, NULL, count, NULL), -EINVAL);
    EXPECT_EQ(flow_scope_cancel(&scope), -EINVAL);
    EXPECT_EQ(flow_scope_wait(&scope, FLOW_NOW), -EINVAL);
    EXPECT_EQ(flow_scope_close(&scope), -EINVAL);
    options.size--;
    EXPECT_EQ(flow_scope_open(&scope, &options), -EINVAL);
    options.size++;
    options.flags = 2;
    EXPECT_EQ(flow_scope_open(&scope, &options), -EINVAL);
    EXPECT_EQ(flow_scope_close(&scope), -EINVAL);

    EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
    EXPECT_EQ(flow_scope_spawn(&scope, NULL, use_someone_elses, &scope), 0);
    EXPECT_EQ(flow_scope_wait(&scope, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_scope_spawn(&scope, NULL, NULL, NULL), -EINVAL);
    spawn.flags = 1u << 31;
    EXPECT_EQ(flow_scope_spawn_with(&scope, NULL, &spawn, count, NULL), -EINVAL);
    EXPECT_EQ(flow_scope_add(&scope, (flow_task){0}), -ESRCH);
    EXPECT_EQ(flow_scope_add(&scope, (flow_task){UINT64_MAX}), -ESRCH);
    EXPECT_EQ(flow_shield_begin(&shield), 0);
    EXPECT_EQ(flow_scope_close(&scope), -EINVAL);
    EXPECT_EQ(flow_shield_end(&shield), 0);
    EXPECT_EQ(flow_shield_end(&scope.ambient), -EINVAL);
    EXPECT_EQ(flow_deadline_pop(&scope.ambient), -EINVAL);
    EXPECT_EQ(flow_scope_cancel(&scope), 0);
    EXPECT_EQ(flow_scope_cancel(&scope), 0);
    EXPECT_EQ(flow_scope_close(&scope), -ECANCELED);
    EXPECT_EQ(flow_scope_close(&scope), -EINVAL);
    flow_scope_leave(&scope);
    expect_status(&scope, 2, 0, 0, 0);
    return flow_ok(NULL);
}

static void test_misuse(void **state)
{
    struct flow_scope scope;

    (void)state;
    assert_int_equal(flow_scope_open(&scope, NULL), -ESHUTDOWN);
    assert_int_equal(flow_scope_close(&scope), -ESHUTDOWN);
    test_start();
    assert_int_equal(flow_scope_open(&scope, NULL), -EPERM);
    assert_int_equal(flow_scope_wait(&scope, FLOW_NOW), -EPERM);
    assert_int_equal(flow_scope_close(&scope), -EPERM);
    assert_int_equal(flow_scope_spawn(&scope, NULL, count, NULL), -EINVAL);
    assert_int_equal(flow_scope_cancel(&scope), -EINVAL);
    test_stop();
    test_in_coroutine(misuse);
}

/* ---- foreign threads ---- */

struct guest {
    struct flow_scope scope;
    struct flow_event opened, done;
};

static flow_result host(void *arg)
{
    struct guest *guest = arg;
    struct flow_scope_status status;

    EXPECT_EQ(flow_scope_open(&guest->scope, NULL), 0);
    EXPECT_EQ(flow_event_set(&guest->opened), 0);
    EXPECT_EQ(flow_event_wait(&guest->done, FLOW_FOREVER), 0);
    EXPECT_EQ(flow_scope_close(&guest->scope), -ECANCELED);
    flow_scope_status(&guest->scope, &status);
    EXPECT_EQ(status.finished, 101);
    return flow_ok(NULL);
}

static void test_threads(void **state)
{
    struct guest guest = {.opened = FLOW_EVENT_INIT, .done = FLOW_EVENT_INIT};
    flow_task task, added;

    (void)state;
    test_start();
    assert_int_equal(flow_spawn(&task, host, &guest), 0);
    assert_int_equal(flow_event_wait(&guest.opened, FLOW_FOREVER), 0);
    for (intptr_t i = 0; i < 100; i++)
        assert_int_equal(
            flow_scope_spawn(&guest.scope, NULL, i % 2 ? nothing : wait_for_cancel, (void *)i), 0);
    assert_int_equal(flow_spawn(&added, nothing, NULL), 0);
    assert_int_equal(flow_scope_add(&guest.scope, added), 0);
    assert_int_equal(flow_scope_cancel(&guest.scope), 0);
    assert_int_equal(flow_scope_spawn(&guest.scope, NULL, count, NULL), -ECANCELED);
    assert_int_equal(flow_event_set(&guest.done), 0);
    assert_int_equal(flow_join(task, NULL, GENEROUS), 0);
    test_stop();
}

/* ---- many ---- */

static flow_result many(void *arg)
{
    struct flow_scope scope;
    long n = (long)(intptr_t)arg;

    /* Spawned, and one of the last fails while most have not begun. */
    EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
    for (long i = 0; i < n; i++)
        EXPECT_EQ(flow_scope_spawn(&scope, NULL, nothing, NULL), 0);
    EXPECT_EQ(flow_scope_close(&scope), 0);
    expect_status(&scope, (uint64_t)n, 0, 0, 0);

    EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
    for (long i = 0; i < n; i++)
        EXPECT_EQ(flow_scope_spawn(&scope, NULL, nothing, NULL), 0);
    EXPECT_EQ(flow_scope_cancel(&scope), 0);
    EXPECT_EQ(flow_scope_close(&scope), -ECANCELED);
    EXPECT_EQ(status_of(&scope).finished, n);
    return flow_ok(NULL);
}

static void test_many(void **state)
{
    intptr_t n = TEST_TSAN || TEST_EMULATED ? 5000 : TEST_ASAN ? 50000 : 1000000;
    flow_deadline begin = flow_now();

    (void)state;
    test_start();
    assert_int_equal(flow_sync_wait(many, (void *)n, NULL, FLOW_FOREVER), 0);
    test_stop();
    print_message("2 x %ld tasks in %.1f s\n", (long)n, (double)(flow_now() - begin) / 1e9);
}

/* ---- at random: a tree of scopes in which tasks fail, are cancelled, and spawn more ---- */

static atomic_ulong seed;
static atomic_long live, closed;
static atomic_int results[128];

static int join_in_any_case(void *task)
{
    return flow_join(*(flow_task *)task, NULL, FLOW_FOREVER);
}

static void plant(struct flow_scope *scope, uint64_t random, flow_fn fn, void *arg)
{
    flow_task task;
    int r;

    if (random % 4 == 0) {
        EXPECT_EQ(flow_spawn(&task, fn, arg), 0);
        if (random >> 4 & 1)
            flow_yield();
        r = flow_scope_add(scope, task);
        if (r) { /* cancelled: it is ours */
            EXPECT_EQ(r, -ECANCELED);
            EXPECT_EQ(flow_shield(join_in_any_case, &task), 0);
        }
        return;
    }
    r = flow_scope_spawn(scope, &task, fn, arg);
    EXPECT(r == 0 || r == -ECANCELED);
    if (r == 0 && random % 16 == 1)
        flow_cancel(task);
}

static flow_result grow(void *arg)
{
    uint64_t s = atomic_fetch_add(&seed, 0x9e3779b9), random = test_random(&s);
    struct flow_scope_options options = FLOW_SCOPE_OPTIONS_INIT;
    intptr_t depth = (intptr_t)arg;
    struct flow_scope scope;
    int r;

    atomic_fetch_add(&live, 1);
    r = random >> 8 & 3 ? 0 : flow_sleep(FLOW_US(random >> 16 & 63));
    if (depth > 0 && !r) {
        if ((random >> 24 & 7) == 0)
            options.deadline = flow_after(FLOW_US(random >> 32 & 255));
        options.flags = random >> 27 & 1 ? FLOW_SCOPE_COLLECT : 0;
        EXPECT_EQ(flow_scope_open(&scope, &options), 0);
        for (uint64_t i = 0; i < random % 6; i++)
            plant(&scope, test_random(&s), grow, (void *)(depth - 1));
        if ((random >> 40 & 7) == 0)
            EXPECT_EQ(flow_scope_cancel(&scope), 0);
        r = flow_scope_close(&scope);
        EXPECT_EQ(status_of(&scope).live, 0);
        atomic_fetch_add(&closed, 1);
    }
    atomic_fetch_sub(&live, 1);
    if ((random >> 48 & 15) == 0)
        r = -EIO;
    return r ? flow_err(r) : flow_ok(NULL);
}

static flow_result grow_trees(void *arg)
{
    flow_result result;
    flow_task task;

    for (intptr_t i = 0; i < (intptr_t)arg; i++) {
        EXPECT_EQ(flow_spawn(&task, grow, (void *)(intptr_t)5), 0);
        if (i % 4 == 0) {
            flow_sleep(FLOW_US(20));
            flow_cancel_with(task, FLOW_CANCEL_USER);
        }
        EXPECT_EQ(flow_join(task, &result, GENEROUS), 0);
        EXPECT_EQ(atomic_load(&live), 0);
        atomic_fetch_add(&results[-result.error & 127], 1);
    }
    return flow_ok(NULL);
}

/* A walk that has got to a task when that one ends goes on with the next: what is told here by hand,
 * as it takes two workers and luck otherwise. */
static flow_result end_under_cursor(void *arg)
{
    struct flow_scope scope;
    struct flow__scope *inside = flow__scope_of(&scope);

    (void)arg;
    EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
    for (int i = 0; i < 20; i++)
        EXPECT_EQ(flow_scope_spawn(&scope, NULL, wait_for_cancel, NULL), 0);
    EXPECT_EQ(flow_scope_cancel(&scope), 0);
    flow__spin_lock(&inside->guard);
    inside->cursor = inside->first;
    flow__spin_unlock(&inside->guard);
    EXPECT_EQ(flow_scope_close(&scope), -ECANCELED);
    EXPECT(inside->cursor == UINT32_MAX);
    return flow_ok(NULL);
}

static void test_end_under_cursor(void **state)
{
    (void)state;
    test_in_coroutine(end_under_cursor);
}

/* ---- a scope that is cancelled while its tasks end cancels nobody else's ---- */

static atomic_bool cancelled_enough;

static flow_result end_soon(void *arg)
{
    for (intptr_t i = 0; i < (intptr_t)arg % 3; i++)
        flow_yield();
    return flow_ok(NULL);
}

static flow_result cancel_often(void *arg)
{
    struct flow_scope scope;
    int rounds = TEST_ROUNDS(3000, 200), r;

    for (int n = 0; n < rounds; n++) {
        EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
        for (intptr_t i = 0; i < 150; i++)
            EXPECT_EQ(flow_scope_spawn(&scope, NULL, end_soon, (void *)i), 0);
        if (n % 2)
            EXPECT_EQ(flow_yield(), 0);
        EXPECT_EQ(flow_scope_cancel(&scope), 0);
        r = flow_scope_close(&scope);
        EXPECT_EQ(r, -ECANCELED);
    }
    atomic_store(&cancelled_enough, true);
    return flow_ok(arg);
}

static flow_result be_a_stranger(void *arg)
{
    struct flow_scope scope;

    while (!atomic_load(&cancelled_enough)) {
        EXPECT_EQ(flow_scope_open(&scope, NULL), 0);
        for (intptr_t i = 0; i < 40; i++)
            EXPECT_EQ(flow_scope_spawn(&scope, NULL, end_soon, (void *)i), 0);
        EXPECT_EQ(flow_scope_close(&scope), 0);
        EXPECT_EQ(flow_yield(), 0);
    }
    return flow_ok(arg);
}

static void test_strangers(void **state)
{
    flow_task task[4];

    (void)state;
    atomic_store(&cancelled_enough, false);
    test_start();
    for (int i = 0; i < 4; i++)
        assert_int_equal(flow_spawn(&task[i], i ? be_a_stranger : cancel_often, NULL), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(flow_join(task[i], NULL, FLOW_FOREVER), 0);
    test_stop();
}

static void test_trees(void **state)
{
    (void)state;
    atomic_store(&seed, test_seed());
    test_start();
    assert_int_equal(
        flow_sync_wait(grow_trees, (void *)(intptr_t)TEST_ROUNDS(3000, 100), NULL, FLOW_FOREVER),
        0);
    test_stop();
    print_message("%ld scopes; trees ok %d, EIO %d, cancelled %d, timed out %d\n",
                  atomic_load(&closed), results[0], results[EIO], results[ECANCELED],
                  results[ETIMEDOUT]);
    assert_true(results[0] && results[EIO] && results[ECANCELED]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_outlives_it),
        TEST(test_errors),
        TEST(test_levels),
        TEST(test_cancelled_parent),
        TEST(test_macro),
        TEST(test_deadlines),
        TEST(test_too_late),
        TEST(test_coming_upon_a_deadline),
        TEST(test_misuse),
        TEST(test_threads),
        TEST(test_many),
        TEST(test_trees),
        TEST(test_strangers),
        TEST(test_end_under_cursor),
    };

    return cmocka_run_group_tests_name("scope", tests, NULL, NULL);
}
