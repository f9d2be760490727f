/* SPDX-License-Identifier: MIT
 *
 * Offloaded calls: results, deadlines and cancellation before and after the start, who releases an owned
 * argument, wrong calls, and what a stop leaves.
 * Runs with FLOW_TEST_WORKERS workers. Nothing here is judged by time, but by gates and counts. */
#include "sync/syscall.h"
#include "tests/support/gate.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- system calls that fail on demand ---- */

/* Put in place once: helpers may still look at the table when a runtime is gone. */
static atomic_bool no_memory, no_threads;

/* A thread that stays in its call until the runtime is stopped, or as long as it can be waited for. */
static __thread bool lingers;
static _Atomic(void *) lingering_for;
static atomic_bool is_stopped, is_released;

static void *allocate(size_t bytes)
{
    void *p = atomic_load(&no_memory) ? NULL : flow__sys_real.allocate(bytes);

    if (lingers) {
        flow_deadline patience = flow_after(FLOW_MS(200));

        atomic_store(&lingering_for, p);
        while (!atomic_load(&is_stopped) && flow_now() < patience)
            test_nap(FLOW_MS(1));
    }
    return p;
}

static void release(void *p)
{
    if (p && p == atomic_load(&lingering_for))
        atomic_store(&is_released, true);
    flow__sys_real.release(p);
}

static int create_thread(pthread_t *thread, size_t stack_bytes, void *(*run)(void *), void *arg)
{
    return atomic_load(&no_threads) ? -EAGAIN : flow__sys_real.thread_create(thread, stack_bytes, run, arg);
}

/* ---- results ---- */

static flow_result answer(void *arg)
{
    return flow_ok_i64((intptr_t)arg * 2);
}

static flow_result refuse(void *arg)
{
    (void)arg;
    return flow_err(-ENOENT);
}

static flow_result who_am_i(void *name)
{
    EXPECT_EQ(flow_self().id, 0);
    EXPECT_EQ(flow_sleep(1), -EPERM);
    EXPECT_EQ(flow_yield(), -EPERM);
    EXPECT_EQ(flow_offload(FLOW_LANE_FILE, answer, NULL, FLOW_FOREVER).error, -EPERM);
    pthread_getname_np(pthread_self(), name, 16);
    return flow_ok(name);
}

static flow_result get_results(void *unused)
{
    char name[16] = "";
    bool abandoned = true;
    struct gate gate = {.open = true};
    flow_lane *lane = NULL;
    struct flow_lane_options options = FLOW_LANE_INIT;

    (void)unused;
    EXPECT_EQ(flow_offload(FLOW_LANE_FILE, answer, (void *)21, FLOW_FOREVER).i64, 42);
    EXPECT_EQ(flow_offload(FLOW_LANE_DNS, answer, (void *)4, flow_after(PATIENCE)).i64, 8);
    EXPECT_EQ(flow_offload(FLOW_LANE_CPU, refuse, NULL, FLOW_FOREVER).error, -ENOENT);
    EXPECT(flow_offload(FLOW_LANE_FILE, who_am_i, name, FLOW_FOREVER).ptr == name);
    EXPECT(strcmp(name, "flow-file") == 0);

    EXPECT_EQ(flow_offload_owned(FLOW_LANE_CPU, wait_at_gate, &gate, release_gate, &abandoned, FLOW_FOREVER).i64, 100);
    EXPECT(!abandoned);
    EXPECT_EQ(flow_offload_owned(FLOW_LANE_CPU, wait_at_gate, &gate, release_gate, NULL, FLOW_FOREVER).i64, 101);
    EXPECT_EQ(atomic_load(&gate.released), 0);

    options.name = "a name that is too long";
    EXPECT_EQ(flow_lane_create(&lane, &options), 0);
    EXPECT(flow_offload(lane, who_am_i, name, FLOW_FOREVER).ptr == name);
    EXPECT(strncmp(name, "flow-a name th", 14) == 0);
    end_lane(lane);
    return flow_ok(NULL);
}

static void test_results_and_errors_come_back(void **state)
{
    (void)state;
    test_in_coroutine(get_results);
}

/* ---- deadlines and cancellation of plain calls ---- */

static flow_result stop_before_start(void *unused)
{
    struct busy_lane b;
    struct gate late = {.open = true}, cancelled = {.open = true}, polled = {.open = true};
    struct call timed, doomed, poll;
    flow_task timed_task, doomed_task, poll_task;

    (void)unused;
    occupy(&b, 100);
    timed = (struct call){b.lane, wait_at_gate, &late, flow_after(FLOW_MS(5))};
    doomed = (struct call){b.lane, wait_at_gate, &cancelled, FLOW_FOREVER};
    poll = (struct call){b.lane, wait_at_gate, &polled, FLOW_NOW};
    timed_task = call_in_task(&timed);
    doomed_task = call_in_task(&doomed);
    poll_task = call_in_task(&poll);
    EXPECT_EQ(flow_cancel(doomed_task), 0);
    EXPECT_EQ(join_call(doomed_task).error, -ECANCELED);
    EXPECT_EQ(doomed.sleep_after, -ECANCELED);
    EXPECT_EQ(join_call(timed_task).error, -ETIMEDOUT);
    EXPECT_EQ(timed.sleep_after, 0);
    EXPECT_EQ(join_call(poll_task).error, -ETIMEDOUT);
    EXPECT_EQ(atomic_load(&b.gate.inside), 1); /* all of this while the helper was busy */
    vacate(&b);
    EXPECT_EQ(atomic_load(&late.entered), 0);
    EXPECT_EQ(atomic_load(&cancelled.entered), 0);
    EXPECT_EQ(atomic_load(&polled.entered), 0);
    return flow_ok(NULL);
}

static void test_before_its_start_a_call_can_be_stopped(void **state)
{
    (void)state;
    test_in_coroutine(stop_before_start);
}

/* Calls with a deadline that comes after the start, however slow the machine is today. */
static flow_task call_and_begin(struct call *c, struct gate *gate)
{
    for (int64_t span_ns = FLOW_MS(30);; span_ns *= 4) {
        flow_task task;

        c->deadline = flow_after(span_ns);
        task = call_in_task(c);
        for (;;) {
            flow_result result = flow_err(-EPROTO);

            if (atomic_load(&gate->entered))
                return task;
            if (flow_join(task, &result, flow_after(FLOW_US(300))) == 0) {
                EXPECT_EQ(result.error, -ETIMEDOUT); /* too early; once more */
                break;
            }
        }
    }
}

static flow_result cannot_stop_after_start(void *unused)
{
    struct gate timed_gate = {0}, cancelled_gate = {0};
    struct call timed, cancelled;
    flow_task timed_task, cancelled_task;

    (void)unused;
    timed = (struct call){FLOW_LANE_FILE, wait_at_gate, &timed_gate, 0};
    cancelled = (struct call){FLOW_LANE_FILE, wait_at_gate, &cancelled_gate, FLOW_FOREVER};
    cancelled_task = call_in_task(&cancelled);
    wait_for(&cancelled_gate.entered, 1);
    timed_task = call_and_begin(&timed, &timed_gate);
    EXPECT_EQ(flow_cancel(cancelled_task), 0);
    EXPECT_EQ(flow_cancel(cancelled_task), 0);
    flow_sleep_until(timed.deadline + FLOW_MS(5));
    EXPECT_EQ(flow_join(timed_task, NULL, flow_after(FLOW_MS(2))), -ETIMEDOUT);
    EXPECT_EQ(flow_join(cancelled_task, NULL, flow_after(FLOW_MS(2))), -ETIMEDOUT);
    EXPECT_EQ(flow_cancel(timed_task), 0); /* after its deadline, too */
    EXPECT_EQ(flow_join(timed_task, NULL, flow_after(FLOW_MS(2))), -ETIMEDOUT);
    atomic_store(&timed_gate.open, true);
    atomic_store(&cancelled_gate.open, true);
    EXPECT_EQ(join_call(timed_task).i64, 100); /* the result is not lost */
    EXPECT_EQ(join_call(cancelled_task).i64, 100);
    EXPECT_EQ(cancelled.sleep_after, -ECANCELED); /* the cancellation is not, either */
    EXPECT_EQ(timed.sleep_after, -ECANCELED);
    return flow_ok(NULL);
}

static void test_after_its_start_a_call_is_waited_for(void **state)
{
    (void)state;
    test_in_coroutine(cannot_stop_after_start);
}

static flow_result call_when_cancelled(void *arg)
{
    struct gate *gate = arg;
    bool abandoned = false;

    EXPECT_EQ(flow_sleep(PATIENCE), -ECANCELED);
    EXPECT_EQ(flow_offload(FLOW_LANE_FILE, wait_at_gate, gate, FLOW_FOREVER).error, -ECANCELED);
    EXPECT_EQ(atomic_load(&gate->released), 0);
    EXPECT_EQ(flow_offload_owned(FLOW_LANE_FILE, wait_at_gate, gate, release_gate, &abandoned, FLOW_FOREVER).error,
              -ECANCELED);
    EXPECT(abandoned);
    EXPECT_EQ(atomic_load(&gate->released), 1);
    EXPECT_EQ(atomic_load(&gate->entered), 0);
    return flow_ok(NULL);
}

static flow_result spawn_and_cancel(void *unused)
{
    struct gate gate = {.open = true};
    flow_task task;

    (void)unused;
    EXPECT_EQ(flow_spawn_now(&task, call_when_cancelled, &gate), 0);
    EXPECT_EQ(flow_cancel(task), 0);
    join_call(task);
    return flow_ok(NULL);
}

static void test_a_cancelled_task_does_not_call(void **state)
{
    (void)state;
    test_in_coroutine(spawn_and_cancel);
}

/* ---- owned calls ---- */

enum way { BY_DEADLINE, BY_CANCEL };

/* Calls, and is back when the call has been given up while it ran. */
static flow_result abandon(struct call *c, struct gate *gate, enum way way)
{
    for (int64_t span_ns = FLOW_MS(20);; span_ns *= 4) {
        flow_result result;
        flow_task task;

        c->deadline = way == BY_DEADLINE ? flow_after(span_ns) : FLOW_FOREVER;
        task = call_in_task(c);
        if (way == BY_CANCEL) {
            wait_for(&gate->entered, 1);
            EXPECT_EQ(flow_cancel(task), 0);
        }
        result = join_call(task); /* it comes back although the call hangs */
        if (way == BY_CANCEL || c->released_at_return == 0)
            return result;
        EXPECT_EQ(result.error, -ETIMEDOUT); /* before it began; once more */
        atomic_store(&gate->released, 0);
    }
}

static void abandon_running(enum way way)
{
    struct gate *gate = calloc(1, sizeof *gate);
    struct call call = {FLOW_LANE_FILE, wait_at_gate, gate, 0, .owned = true};

    EXPECT_EQ(abandon(&call, gate, way).error, way == BY_DEADLINE ? -ETIMEDOUT : -ECANCELED);
    EXPECT(call.abandoned);
    EXPECT_EQ(call.released_at_return, 0);
    wait_for(&gate->entered, 1);
    EXPECT_EQ(atomic_load(&gate->inside), 1);
    flow_sleep(FLOW_MS(1));
    EXPECT_EQ(atomic_load(&gate->released), 0); /* not while fn uses it */
    atomic_store(&gate->open, true);
    wait_for(&gate->released, 1);
    flow_sleep(FLOW_MS(1));
    EXPECT_EQ(atomic_load(&gate->released), 1);
    free(gate);
}

static void abandon_queued(enum way way)
{
    struct busy_lane b;
    struct gate gate = {.open = true};
    struct call call;
    flow_task task;

    occupy(&b, 100);
    call = (struct call){b.lane, wait_at_gate, &gate, way == BY_DEADLINE ? flow_after(FLOW_MS(5)) : FLOW_FOREVER,
                         .owned = true};
    task = call_in_task(&call);
    if (way == BY_CANCEL)
        EXPECT_EQ(flow_cancel(task), 0);
    EXPECT_EQ(join_call(task).error, way == BY_DEADLINE ? -ETIMEDOUT : -ECANCELED);
    EXPECT(call.abandoned);
    EXPECT_EQ(call.released_at_return, 1); /* by the call itself */
    vacate(&b);
    EXPECT_EQ(atomic_load(&gate.released), 1);
    EXPECT_EQ(atomic_load(&gate.entered), 0);
}

static flow_result abandon_in_every_way(void *unused)
{
    (void)unused;
    abandon_running(BY_DEADLINE);
    abandon_running(BY_CANCEL);
    abandon_queued(BY_DEADLINE);
    abandon_queued(BY_CANCEL);
    return flow_ok(NULL);
}

static void test_an_owned_call_can_be_abandoned(void **state)
{
    (void)state;
    test_in_coroutine(abandon_in_every_way);
}

/* The end of fn and the deadline at the same moment: one of them wins, and
 * what the call says is what is true. */
static flow_result short_work(void *arg)
{
    struct gate *gate = arg;

    atomic_fetch_add(&gate->entered, 1);
    test_nap(FLOW_US(50));
    return flow_ok(gate);
}

static void release_to_heap(void *arg)
{
    struct gate *gate = arg;

    EXPECT_EQ(atomic_fetch_add(&gate->released, 1), 0);
}

static flow_result race_owned(void *unused)
{
    int n_abandoned = 0, n_returned = 0, n = TEST_ROUNDS(2000, 300);
    struct gate *gates = calloc((size_t)n, sizeof *gates);
    uint64_t random = (uintptr_t)unused + test_seed();

    for (int i = 0; i < n; i++) {
        bool abandoned = i & 1;
        flow_deadline deadline = flow_after((int64_t)(test_random(&random) % FLOW_US(300)));
        flow_result r = flow_offload_owned(FLOW_LANE_FILE, short_work, &gates[i], release_to_heap, &abandoned, deadline);

        EXPECT_EQ(abandoned, r.error != 0);
        EXPECT(r.error == -ETIMEDOUT || r.ptr == &gates[i]);
        if (abandoned)
            n_abandoned++;
        else
            n_returned++, atomic_fetch_add(&gates[i].released, 1);
    }
    for (int i = 0; i < n; i++) {
        wait_for(&gates[i].released, 1);
        EXPECT(atomic_load(&gates[i].entered) <= 1);
    }
    print_message("%d returned, %d abandoned\n", n_returned, n_abandoned);
    EXPECT(n_abandoned > 0);
    free(gates);
    return flow_ok(NULL);
}

static void test_an_owned_argument_is_released_exactly_once(void **state)
{
    (void)state;
    test_in_coroutine(race_owned);
}

/* The same race of a plain call, whose job lies on the stack that goes on at once. */
static flow_result race_plain(void *unused)
{
    uint64_t random = (uintptr_t)unused + test_seed();
    int n_done = 0, n = TEST_ROUNDS(2000, 300);

    for (int i = 0; i < n; i++) {
        struct gate gate = {.open = true};
        flow_deadline deadline = flow_after((int64_t)(test_random(&random) % FLOW_US(200)));
        flow_result r = flow_offload(FLOW_LANE_FILE, short_work, &gate, deadline);

        if (r.error)
            EXPECT_EQ(r.error, -ETIMEDOUT);
        else
            EXPECT(r.ptr == &gate);
        EXPECT_EQ(atomic_load(&gate.entered), r.error == 0);
        n_done += r.error == 0;
    }
    print_message("%d of %d began in time\n", n_done, n);
    return flow_ok(NULL);
}

static void test_a_plain_call_runs_or_times_out(void **state)
{
    (void)state;
    test_in_coroutine(race_plain);
}

/* ---- errors ---- */

static void expect_owned_error(flow_lane *lane, flow_fn fn, flow_deadline deadline, int error)
{
    struct gate gate = {.open = true};
    bool abandoned = false;

    EXPECT_EQ(flow_offload_owned(lane, fn, &gate, release_gate, &abandoned, deadline).error, error);
    EXPECT(abandoned);
    EXPECT_EQ(atomic_load(&gate.released), 1);
    EXPECT_EQ(atomic_load(&gate.entered), 0);
}

static flow_result call_wrongly(void *unused)
{
    struct gate gate = {.open = true};
    flow_lane *lane = new_lane(2, 10);

    (void)unused;
    EXPECT_EQ(flow_offload(NULL, answer, NULL, FLOW_FOREVER).error, -EINVAL);
    EXPECT_EQ(flow_offload(lane, NULL, NULL, FLOW_FOREVER).error, -EINVAL);
    expect_owned_error(NULL, wait_at_gate, FLOW_FOREVER, -EINVAL);
    expect_owned_error(lane, NULL, FLOW_FOREVER, -EINVAL);
    EXPECT_EQ(flow_offload_owned(lane, wait_at_gate, &gate, NULL, NULL, FLOW_FOREVER).error, -EINVAL);

    atomic_store(&no_memory, true);
    expect_owned_error(lane, wait_at_gate, FLOW_FOREVER, -ENOMEM);
    atomic_store(&no_memory, false);

    /* No helper at all; then it works again. */
    atomic_store(&no_threads, true);
    EXPECT_EQ(flow_offload(lane, answer, NULL, FLOW_FOREVER).error, -EAGAIN);
    expect_owned_error(lane, wait_at_gate, FLOW_FOREVER, -EAGAIN);
    atomic_store(&no_threads, false);
    EXPECT_EQ(flow_offload(lane, answer, (void *)3, FLOW_FOREVER).i64, 6);
    end_lane(lane);
    return flow_ok(NULL);
}

static void test_wrong_calls_fail_and_release(void **state)
{
    (void)state;
    test_in_coroutine(call_wrongly);
}

/* With one helper that works, a second that cannot be had is no error. */
static flow_result queue_behind_the_only_helper(void *unused)
{
    struct gate gate = {0};
    flow_lane *lane = new_lane(4, 10);
    struct call first = {lane, wait_at_gate, &gate, FLOW_FOREVER}, second = first;
    flow_task a, b;

    (void)unused;
    a = call_in_task(&first);
    wait_for(&gate.entered, 1);
    atomic_store(&no_threads, true);
    b = call_in_task(&second);
    atomic_store(&no_threads, false);
    EXPECT_EQ(atomic_load(&gate.entered), 1);
    atomic_store(&gate.open, true);
    EXPECT_EQ(join_call(a).i64 + join_call(b).i64, 100 + 101);
    end_lane(lane);
    return flow_ok(NULL);
}

static void test_one_helper_is_enough(void **state)
{
    (void)state;
    test_in_coroutine(queue_behind_the_only_helper);
}

static void test_outside_of_coroutines(void **state)
{
    struct gate gate = {.open = true};
    bool abandoned = false;
    flow_lane *lane = NULL;

    (void)state;
    assert_int_equal(flow_lane_create(&lane, NULL), -ESHUTDOWN);
    assert_int_equal(flow_offload(FLOW_LANE_FILE, answer, NULL, FLOW_FOREVER).error, -ESHUTDOWN);
    test_start();
    assert_int_equal(flow_offload(FLOW_LANE_FILE, answer, NULL, FLOW_FOREVER).error, -EPERM);
    assert_int_equal(
        flow_offload_owned(FLOW_LANE_FILE, wait_at_gate, &gate, release_gate, &abandoned, FLOW_FOREVER).error, -EPERM);
    assert_int_equal(atomic_load(&gate.released), 1);
    assert_true(abandoned);
    assert_int_equal(atomic_load(&gate.entered), 0);
    test_stop();
}

/* ---- the end of the runtime ---- */

static struct gate lasting;

static flow_result abandon_and_end(void *unused)
{
    struct call call = {FLOW_LANE_DNS, wait_at_gate, &lasting, 0, .owned = true};

    (void)unused;
    EXPECT_EQ(abandon(&call, &lasting, BY_DEADLINE).error, -ETIMEDOUT);
    wait_for(&lasting.entered, 1);
    return flow_ok(NULL);
}

static void test_a_hanging_call_outlives_the_runtime(void **state)
{
    int64_t until;

    (void)state;
    memset(&lasting, 0, sizeof lasting);
    test_start();
    assert_int_equal(flow_sync_wait(abandon_and_end, NULL, NULL, FLOW_FOREVER), 0);
    test_stop();
    assert_int_equal(atomic_load(&lasting.entered), 1);
    assert_int_equal(atomic_load(&lasting.released), 0);
    test_start();
    atomic_store(&lasting.open, true);
    until = flow_now() + PATIENCE;
    while (atomic_load(&lasting.released) == 0 && flow_now() < until)
        test_nap(FLOW_US(200));
    assert_int_equal(atomic_load(&lasting.released), 1);
    test_nap(FLOW_MS(20)); /* its thread ends */
    assert_int_equal(test_stats().offload_threads, 0);
    assert_int_equal(flow_sync_wait(get_results, NULL, NULL, FLOW_FOREVER), 0);
    test_stop();
}

static flow_result nap_a_while(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
    test_nap(FLOW_MS(60));
    return flow_ok(NULL);
}

static flow_lane *narrow;

static flow_result call_and_stay(void *arg)
{
    flow_result r = flow_offload(narrow, nap_a_while, arg, FLOW_FOREVER);

    EXPECT_EQ(atomic_load((atomic_int *)arg) > 0, 1); /* the frame is whole */
    return r;
}

/* Stops while helpers use the callers' frames: at once, and while the callers are still told. */
static void test_a_stop_waits_for_running_calls(void **state)
{
    static const int64_t patience[] = {0, FLOW_MS(1), FLOW_MS(20), FLOW_S(10)};

    (void)state;
    for (size_t p = 0; p < sizeof patience / sizeof *patience; p++) {
        atomic_int begun = 0;
        int64_t until = flow_now() + PATIENCE;
        int r, n;

        test_start();
        narrow = new_lane(2, 100);
        for (int i = 0; i < 5; i++)
            assert_int_equal(flow_spawn(NULL, call_and_stay, &begun), 0);
        while (atomic_load(&begun) < 2 && flow_now() < until)
            test_nap(FLOW_US(200));
        r = flow_stop(patience[p] ? flow_after(patience[p]) : FLOW_NOW);
        while (r == -EBUSY && flow_now() < until)
            r = flow_stop(flow_after(FLOW_MS(100)));
        assert_in_range(r, 0, 5);
        if (patience[p] == FLOW_S(10))
            assert_int_equal(r, 0);
        n = atomic_load(&begun);
        test_nap(FLOW_MS(70));
        assert_int_equal(atomic_load(&begun), n); /* what was queued then never runs */
        assert_no_failures();
    }
}

static void *create_a_lane(void *lane)
{
    int r;

    lingers = true;
    r = flow_lane_create(lane, NULL);
    lingers = false;
    EXPECT_EQ(r, 0);
    return NULL;
}

static void test_a_stop_ends_a_lane_that_is_being_made(void **state)
{
    flow_lane *lane = NULL;
    pthread_t thread;

    (void)state;
    test_start();
    assert_int_equal(pthread_create(&thread, NULL, create_a_lane, &lane), 0);
    while (!atomic_load(&lingering_for))
        test_nap(FLOW_MS(1));
    test_stop();
    atomic_store(&is_stopped, true);
    pthread_join(thread, NULL);
    assert_no_failures();
    assert_true(atomic_load(&is_released));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_results_and_errors_come_back),
        TEST(test_before_its_start_a_call_can_be_stopped),
        TEST(test_after_its_start_a_call_is_waited_for),
        TEST(test_a_cancelled_task_does_not_call),
        TEST(test_an_owned_call_can_be_abandoned),
        TEST(test_an_owned_argument_is_released_exactly_once),
        TEST(test_a_plain_call_runs_or_times_out),
        TEST(test_wrong_calls_fail_and_release),
        TEST(test_one_helper_is_enough),
        TEST(test_outside_of_coroutines),
        TEST(test_a_hanging_call_outlives_the_runtime),
        TEST(test_a_stop_waits_for_running_calls),
        TEST(test_a_stop_ends_a_lane_that_is_being_made),
    };

    flow__sys.allocate = allocate;
    flow__sys.release = release;
    flow__sys.thread_create = create_thread;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
