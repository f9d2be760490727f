/* SPDX-License-Identifier: MIT
 *
 * Offloaded calls: results, deadlines and cancellation before and after the start, who releases an owned
 * argument, limits and life of lanes and helpers, and what a stop leaves.
 * Runs with FLOW_TEST_WORKERS workers. Nothing here is judged by time, but by gates and counts. */
#include "sync/syscall.h"
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE FLOW_S(20)

/* ---- system calls that fail, or dawdle, on demand ---- */

/* Put in place once: helpers may still look at the table when a runtime is gone. */
static atomic_bool no_memory, no_threads, slow_to_time_out;

static void *allocate(size_t bytes)
{
    return atomic_load(&no_memory) ? NULL : flow__sys_real.allocate(bytes);
}

static int create_thread(pthread_t *thread, size_t stack_bytes, void *(*run)(void *), void *arg)
{
    return atomic_load(&no_threads) ? -EAGAIN : flow__sys_real.thread_create(thread, stack_bytes, run, arg);
}

static int wait_on_futex(flow__atomic(uint32_t) *word, uint32_t expected, int64_t deadline)
{
    int r = flow__sys_real.futex_wait(word, expected, deadline);

    if (r == -ETIMEDOUT && atomic_load(&slow_to_time_out))
        test_nap(FLOW_MS(2));
    return r;
}

/* ---- blocking calls to offload ---- */

/* Calls that wait at a gate; counts who is inside, and who came out. */
struct gate {
    atomic_bool open;
    atomic_int entered, inside, most_inside, left, released;
    atomic_int opens_at; /* opens itself when so many are inside */
};

static void raise_to(atomic_int *most, int n)
{
    int seen = atomic_load(most);

    while (seen < n && !atomic_compare_exchange_weak(most, &seen, n))
        ;
}

static flow_result wait_at_gate(void *arg)
{
    struct gate *gate = arg;
    int inside = atomic_fetch_add(&gate->inside, 1) + 1;
    int64_t until = flow_now() + PATIENCE;

    EXPECT_EQ(flow_self().id, 0);
    atomic_fetch_add(&gate->entered, 1);
    raise_to(&gate->most_inside, inside);
    if (inside == atomic_load(&gate->opens_at))
        atomic_store(&gate->open, true);
    while (!atomic_load(&gate->open)) {
        if (flow_now() > until) {
            EXPECT(!"the gate opens in time");
            break;
        }
        test_nap(FLOW_US(200));
    }
    atomic_fetch_sub(&gate->inside, 1);
    return flow_ok_i64(atomic_fetch_add(&gate->left, 1) + 100);
}

static void release_gate(void *arg)
{
    atomic_fetch_add(&((struct gate *)arg)->released, 1);
}

static void wait_for(atomic_int *count, int n)
{
    int64_t until = flow_now() + PATIENCE;

    while (atomic_load(count) < n && flow_now() < until)
        flow_sleep(FLOW_US(200));
    EXPECT_EQ(atomic_load(count), n);
}

static flow_lane *new_lane(unsigned max_threads, unsigned max_queued)
{
    struct flow_lane_options options = FLOW_LANE_INIT;
    flow_lane *lane = NULL;

    options.max_threads = max_threads;
    options.max_queued = max_queued;
    EXPECT_EQ(flow_lane_create(&lane, &options), 0);
    return lane;
}

static void end_lane(flow_lane *lane)
{
    int r;
    int64_t until = flow_now() + PATIENCE;

    /* A helper may not have counted itself out of its last call yet. */
    while ((r = flow_lane_destroy(lane)) == -EBUSY && flow_now() < until)
        flow_sleep(FLOW_US(200));
    EXPECT_EQ(r, 0);
}

/* ---- coroutines that call ---- */

struct call {
    flow_lane *lane;
    flow_fn fn;
    void *arg;
    flow_deadline deadline;
    bool owned, abandoned;
    int released_at_return;
    int sleep_after; /* what the next suspending call said */
};

static flow_result call_it(void *arg)
{
    struct call *c = arg;
    flow_result r;

    if (c->owned)
        r = flow_offload_owned(c->lane, c->fn, c->arg, release_gate, &c->abandoned, c->deadline);
    else
        r = flow_offload(c->lane, c->fn, c->arg, c->deadline);
    if (c->owned)
        c->released_at_return = atomic_load(&((struct gate *)c->arg)->released);
    c->sleep_after = flow_sleep(1000);
    return r;
}

static flow_task call_in_task(struct call *c)
{
    flow_task task;

    EXPECT_EQ(flow_spawn_now(&task, call_it, c), 0); /* it has submitted when this returns */
    return task;
}

static flow_result join_call(flow_task task)
{
    flow_result result = flow_err(-EPROTO);

    EXPECT_EQ(flow_join(task, &result, FLOW_FOREVER), 0);
    return result;
}

/* A lane whose one helper stands at a gate. */
struct busy_lane {
    flow_lane *lane;
    struct gate gate;
    struct call call;
    flow_task task;
};

static void occupy(struct busy_lane *b, unsigned max_queued)
{
    memset(b, 0, sizeof *b);
    b->lane = new_lane(1, max_queued);
    b->call = (struct call){b->lane, wait_at_gate, &b->gate, FLOW_FOREVER};
    b->task = call_in_task(&b->call);
    wait_for(&b->gate.entered, 1);
}

static void let_through(struct busy_lane *b)
{
    atomic_store(&b->gate.open, true);
    EXPECT_EQ(join_call(b->task).i64, 100);
}

static void vacate(struct busy_lane *b)
{
    let_through(b);
    end_lane(b->lane);
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

/* ---- limits ---- */

static flow_result fill_the_queue(void *unused)
{
    struct busy_lane b;
    struct gate open = {.open = true}, polled = {.open = true};
    struct call queued[2], waits;
    flow_task task[2], waits_task;

    (void)unused;
    occupy(&b, 2);
    for (int i = 0; i < 2; i++) {
        queued[i] = (struct call){b.lane, wait_at_gate, &open, FLOW_FOREVER};
        task[i] = call_in_task(&queued[i]);
    }
    EXPECT_EQ(flow_offload(b.lane, wait_at_gate, &polled, FLOW_NOW).error, -EAGAIN);
    expect_owned_error(b.lane, wait_at_gate, FLOW_NOW, -EAGAIN);
    EXPECT_EQ(flow_offload(b.lane, wait_at_gate, &polled, flow_after(FLOW_MS(3))).error, -ETIMEDOUT);
    waits = (struct call){b.lane, wait_at_gate, &open, FLOW_FOREVER};
    waits_task = call_in_task(&waits);
    EXPECT_EQ(flow_lane_destroy(b.lane), -EBUSY);
    let_through(&b);
    for (int i = 0; i < 2; i++)
        EXPECT(join_call(task[i]).i64 >= 100);
    EXPECT(join_call(waits_task).i64 >= 100);
    EXPECT_EQ(atomic_load(&open.entered), 3);
    EXPECT_EQ(atomic_load(&polled.entered), 0);
    end_lane(b.lane);
    return flow_ok(NULL);
}

static void test_a_full_queue(void **state)
{
    (void)state;
    test_in_coroutine(fill_the_queue);
}

#define MANY 60

static flow_result many_calls_few_helpers(void *unused)
{
    struct gate gate = {.opens_at = 3};
    flow_lane *lane = new_lane(3, 1000);
    static struct call calls[MANY];
    static flow_task tasks[MANY];

    (void)unused;
    for (int i = 0; i < MANY; i++) {
        calls[i] = (struct call){lane, wait_at_gate, &gate, FLOW_FOREVER};
        tasks[i] = call_in_task(&calls[i]);
    }
    for (int i = 0; i < MANY; i++)
        EXPECT(join_call(tasks[i]).i64 >= 100);
    EXPECT_EQ(atomic_load(&gate.most_inside), 3);
    EXPECT_EQ(atomic_load(&gate.left), MANY);
    EXPECT_EQ(test_stats().offload_threads, 3);
    end_lane(lane);
    return flow_ok(NULL);
}

static void test_a_lane_has_no_more_helpers_than_it_may(void **state)
{
    (void)state;
    test_in_coroutine(many_calls_few_helpers);
}

static struct {
    atomic_int next;
    int number[MANY];
} order;

static flow_result note_order(void *arg)
{
    order.number[atomic_fetch_add(&order.next, 1)] = (int)(intptr_t)arg;
    return flow_ok(NULL);
}

static flow_result first_come_first_served(void *unused)
{
    struct busy_lane b;
    static struct call calls[MANY];
    static flow_task tasks[MANY];

    (void)unused;
    memset(&order, 0, sizeof order);
    occupy(&b, 1000);
    for (int i = 0; i < MANY; i++) {
        calls[i] = (struct call){b.lane, note_order, (void *)(intptr_t)i, FLOW_FOREVER};
        tasks[i] = call_in_task(&calls[i]);
    }
    /* Some leave from the front, the middle and the back. */
    for (int i = 0; i < MANY; i += i == 0 ? 7 : 13)
        EXPECT_EQ(flow_cancel(tasks[i]), 0);
    EXPECT_EQ(flow_cancel(tasks[MANY - 1]), 0);
    EXPECT_EQ(join_call(tasks[MANY - 1]).error, -ECANCELED);
    EXPECT_EQ(join_call(tasks[0]).error, -ECANCELED);
    calls[0] = (struct call){b.lane, note_order, (void *)(intptr_t)MANY, FLOW_FOREVER};
    tasks[0] = call_in_task(&calls[0]);
    let_through(&b);
    for (int i = 0; i < MANY - 1; i++)
        join_call(tasks[i]);
    for (int i = 1; i < atomic_load(&order.next); i++)
        EXPECT(order.number[i] > order.number[i - 1]);
    EXPECT_EQ(order.number[atomic_load(&order.next) - 1], MANY);
    end_lane(b.lane);
    return flow_ok(NULL);
}

static void test_calls_are_served_in_order(void **state)
{
    (void)state;
    test_in_coroutine(first_come_first_served);
}

static bool threads_come_down_to(uint64_t n)
{
    int64_t until = flow_now() + PATIENCE;

    while (test_stats().offload_threads != n)
        if (flow_sleep(FLOW_MS(1)) || flow_now() > until)
            return false;
    return true;
}

static flow_result use_and_let_idle(void *unused)
{
    struct flow_lane_options options = FLOW_LANE_INIT;
    flow_lane *lane = NULL;

    (void)unused;
    options.idle_ns = FLOW_MS(10);
    options.max_threads = 8;
    EXPECT_EQ(flow_lane_create(&lane, &options), 0);
    for (int round = 0; round < 3; round++) {
        struct gate gate = {.opens_at = 8};
        struct call calls[8];
        flow_task tasks[8];

        for (int i = 0; i < 8; i++) {
            calls[i] = (struct call){lane, wait_at_gate, &gate, FLOW_FOREVER};
            tasks[i] = call_in_task(&calls[i]);
        }
        for (int i = 0; i < 8; i++)
            join_call(tasks[i]);
        EXPECT_EQ(atomic_load(&gate.most_inside), 8);
        EXPECT(threads_come_down_to(0));
    }
    end_lane(lane);
    return flow_ok(NULL);
}

/* A call that comes just when the only helper has made up its mind. */
static flow_result call_at_the_last_moment(void *unused)
{
    struct flow_lane_options options = FLOW_LANE_INIT;
    flow_lane *lane = NULL;

    (void)unused;
    options.idle_ns = FLOW_MS(5);
    EXPECT_EQ(flow_lane_create(&lane, &options), 0);
    for (int i = 0; i < 40; i++) {
        EXPECT_EQ(flow_offload(lane, answer, (void *)(intptr_t)i, flow_after(PATIENCE)).i64, 2 * i);
        flow_sleep(FLOW_MS(4) + i * FLOW_US(75));
    }
    end_lane(lane);
    return flow_ok(NULL);
}

static void test_a_helper_that_gives_up_misses_no_call(void **state)
{
    (void)state;
    atomic_store(&slow_to_time_out, true);
    test_in_coroutine(call_at_the_last_moment);
    atomic_store(&slow_to_time_out, false);
}

static void test_idle_helpers_go_away(void **state)
{
    (void)state;
    test_in_coroutine(use_and_let_idle);
}

/* ---- lanes ---- */

static int try_options(unsigned max_threads, unsigned max_queued, int64_t idle_ns, size_t size)
{
    struct flow_lane_options options = {size, NULL, max_threads, max_queued, idle_ns};
    flow_lane *lane = NULL;
    int r = flow_lane_create(&lane, &options);

    if (r == 0)
        EXPECT_EQ(flow_lane_destroy(lane), 0);
    return r;
}

static flow_result make_and_end_lanes(void *unused)
{
    size_t size = sizeof(struct flow_lane_options);
    struct gate gate = {0};
    struct call call;
    flow_task task;
    flow_lane *lane = NULL;

    (void)unused;
    EXPECT_EQ(try_options(1, 1, 0, size), 0);
    EXPECT_EQ(try_options(1024, 1000000, INT64_MAX, size), 0);
    EXPECT_EQ(try_options(0, 1, 0, size), -EINVAL);
    EXPECT_EQ(try_options(1025, 1, 0, size), -EINVAL);
    EXPECT_EQ(try_options(1, 0, 0, size), -EINVAL);
    EXPECT_EQ(try_options(1, 1000001, 0, size), -EINVAL);
    EXPECT_EQ(try_options(1, 1, -1, size), -EINVAL);
    EXPECT_EQ(try_options(1, 1, 0, size - 1), -EINVAL);
    EXPECT_EQ(flow_lane_create(NULL, NULL), -EINVAL);
    EXPECT_EQ(flow_lane_destroy(NULL), -EINVAL);
    EXPECT_EQ(flow_lane_destroy(FLOW_LANE_FILE), -EINVAL);
    EXPECT_EQ(flow_lane_destroy(FLOW_LANE_DNS), -EINVAL);
    EXPECT_EQ(flow_lane_destroy(FLOW_LANE_CPU), -EINVAL);

    EXPECT_EQ(flow_lane_create(&lane, NULL), 0);
    call = (struct call){lane, wait_at_gate, &gate, FLOW_FOREVER};
    task = call_in_task(&call);
    EXPECT_EQ(flow_lane_destroy(lane), -EBUSY);
    wait_for(&gate.entered, 1);
    EXPECT_EQ(flow_lane_destroy(lane), -EBUSY);
    atomic_store(&gate.open, true);
    join_call(task);
    end_lane(lane);
    EXPECT(threads_come_down_to(0)); /* at once, not when they have been idle for long */
    for (int i = 0; i < 200; i++) {
        lane = new_lane(1 + (unsigned)i % 4, 10);
        if (i % 3)
            EXPECT_EQ(flow_offload(lane, answer, (void *)7, FLOW_FOREVER).i64, 14);
        end_lane(lane);
    }
    EXPECT(threads_come_down_to(0));
    return flow_ok(NULL);
}

static void test_lanes_come_and_go(void **state)
{
    (void)state;
    test_in_coroutine(make_and_end_lanes);
}

/* ---- workers go on ---- */

static flow_result count_turns(void *arg)
{
    atomic_int *turns = arg;

    while (atomic_load(turns) >= 0 && flow_yield() == 0)
        atomic_fetch_add(turns, 1);
    return flow_ok(NULL);
}

static flow_result overlap(void *unused)
{
    struct gate gate = {.opens_at = 16};
    struct call calls[16];
    flow_task tasks[16], spinner;
    atomic_int turns = 0;

    (void)unused;
    EXPECT_EQ(flow_spawn(&spinner, count_turns, &turns), 0);
    for (int i = 0; i < 16; i++) {
        calls[i] = (struct call){FLOW_LANE_FILE, wait_at_gate, &gate, FLOW_FOREVER};
        tasks[i] = call_in_task(&calls[i]);
    }
    /* The gate opens when all sixteen block at once, so a worker that is stopped by one hangs. */
    for (int i = 0; i < 16; i++)
        EXPECT(join_call(tasks[i]).i64 >= 100);
    EXPECT_EQ(atomic_load(&gate.most_inside), 16);
    while (atomic_load(&turns) == 0 && flow_sleep(FLOW_US(200)) == 0)
        ;
    EXPECT_EQ(flow_cancel(spinner), 0);
    join_call(spinner);
    return flow_ok(NULL);
}

static void test_blocking_calls_do_not_stop_workers(void **state)
{
    (void)state;
    test_in_coroutine(overlap);
}

#define CALLERS 100
#define CALLS   TEST_ROUNDS(60, 15)

static flow_result square(void *arg)
{
    uint64_t *n = arg;

    *n *= *n;
    return flow_ok_u64(*n + 1);
}

static flow_result call_often(void *arg)
{
    static flow_lane *const lanes[] = {FLOW_LANE_FILE, FLOW_LANE_DNS, FLOW_LANE_CPU};

    for (int i = 0; i < CALLS; i++) {
        uint64_t n = (uintptr_t)arg * 1000 + (uint64_t)i, on_stack = n;
        flow_result r = flow_offload(lanes[n % 3], square, &on_stack, i % 2 ? FLOW_FOREVER : flow_after(PATIENCE));

        EXPECT_EQ(r.error, 0);
        EXPECT_EQ(r.u64, n * n + 1);
        EXPECT_EQ(on_stack, n * n);
    }
    return flow_ok(NULL);
}

static flow_result call_from_many(void *unused)
{
    static flow_task tasks[CALLERS];
    uint64_t before = test_stats().offloaded;

    (void)unused;
    for (uintptr_t i = 0; i < CALLERS; i++) {
        struct flow_spawn_options options = FLOW_SPAWN_INIT;

        options.flags = i % 3 == 0 ? FLOW_ROAM : 0;
        EXPECT_EQ(flow_spawn_with(&tasks[i], &options, call_often, (void *)i), 0);
    }
    EXPECT_EQ(flow_when_all(tasks, CALLERS, NULL, FLOW_FOREVER), 0);
    EXPECT_EQ(test_stats().offloaded - before, CALLERS * CALLS);
    return flow_ok(NULL);
}

static void test_thousands_of_calls(void **state)
{
    (void)state;
    test_in_coroutine(call_from_many);
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
        TEST(test_a_full_queue),
        TEST(test_a_lane_has_no_more_helpers_than_it_may),
        TEST(test_calls_are_served_in_order),
        TEST(test_idle_helpers_go_away),
        TEST(test_a_helper_that_gives_up_misses_no_call),
        TEST(test_lanes_come_and_go),
        TEST(test_blocking_calls_do_not_stop_workers),
        TEST(test_thousands_of_calls),
        TEST(test_a_hanging_call_outlives_the_runtime),
        TEST(test_a_stop_waits_for_running_calls),
    };

    flow__sys.allocate = allocate;
    flow__sys.thread_create = create_thread;
    flow__sys.futex_wait = wait_on_futex;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
