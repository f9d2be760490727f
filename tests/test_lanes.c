/* SPDX-License-Identifier: MIT
 *
 * Lanes and their helpers: limits, order, how they come and go, and that workers go on meanwhile.
 * Runs with FLOW_TEST_WORKERS workers. Nothing here is judged by time, but by gates and counts. */
#include "sync/syscall.h"
#include "tests/support/gate.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

static flow_result answer(void *arg)
{
    return flow_ok_i64((intptr_t)arg * 2);
}

/* ---- limits ---- */

static flow_result fill_the_queue(void *unused)
{
    struct busy_lane b;
    struct gate open = {.open = true}, polled = {.open = true};
    struct call queued[2], waits;
    flow_task task[2], waits_task;
    bool abandoned = false;

    (void)unused;
    occupy(&b, 2);
    for (int i = 0; i < 2; i++) {
        queued[i] = (struct call){b.lane, wait_at_gate, &open, FLOW_FOREVER};
        task[i] = call_in_task(&queued[i]);
    }
    EXPECT_EQ(flow_offload(b.lane, wait_at_gate, &polled, FLOW_NOW).error, -EAGAIN);
    EXPECT_EQ(flow_offload_owned(b.lane, wait_at_gate, &polled, release_gate, &abandoned, FLOW_NOW).error, -EAGAIN);
    EXPECT(abandoned);
    EXPECT_EQ(atomic_load(&polled.released), 1);
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

/* Put in place once: helpers may still look at the table when a runtime is gone. */
static atomic_bool slow_to_time_out;

static int wait_on_futex(flow__atomic(uint32_t) *word, uint32_t expected, int64_t deadline)
{
    int r = flow__sys_real.futex_wait(word, expected, deadline);

    if (r == -ETIMEDOUT && atomic_load(&slow_to_time_out))
        test_nap(FLOW_MS(2));
    return r;
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

/* ---- helpers' threads ---- */

static flow_result get_cpus(void *set)
{
    EXPECT_EQ(sched_getaffinity(0, sizeof(cpu_set_t), set), 0);
    return flow_ok(set);
}

static flow_result get_cpus_of_a_helper(void *set)
{
    return flow_offload(FLOW_LANE_CPU, get_cpus, set, FLOW_FOREVER);
}

/* Its maker has one. */
static void test_a_helper_runs_on_the_cpus_of_the_process(void **state)
{
    cpu_set_t process, helper;

    (void)state;
    get_cpus(&process);
    test_start();
    assert_int_equal(flow_sync_wait(get_cpus_of_a_helper, &helper, NULL, FLOW_FOREVER), 0);
    assert_true(CPU_EQUAL(&helper, &process));
    test_stop();
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_full_queue),
        TEST(test_a_lane_has_no_more_helpers_than_it_may),
        TEST(test_calls_are_served_in_order),
        TEST(test_idle_helpers_go_away),
        TEST(test_a_helper_that_gives_up_misses_no_call),
        TEST(test_lanes_come_and_go),
        TEST(test_a_helper_runs_on_the_cpus_of_the_process),
        TEST(test_blocking_calls_do_not_stop_workers),
        TEST(test_thousands_of_calls),
    };

    flow__sys.futex_wait = wait_on_futex;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
