/* SPDX-License-Identifier: MIT
 *
 * flow_fork and flow_sync. FLOW_TEST_WORKERS: whatever is taken by other workers or becomes a task
 * in between, the results are those of plain calls. */
#include "tests/support/test.h"

#include <errno.h>
#include <fenv.h>
#include <stdatomic.h>
#include <stdlib.h>

/* ---- results, in any order ---- */

static uint64_t fib(int n);
FLOW_JOB(fib, uint64_t, int)

static uint64_t fib(int n)
{
    struct fib_job left;
    uint64_t right;

    if (n < 2)
        return (uint64_t)n;
    fib_fork(&left, n - 1);
    right = fib(n - 2);
    return fib_sync(&left) + right;
}

static flow_result fib_untyped(void *arg)
{
    intptr_t n = (intptr_t)arg;
    struct flow_job left;
    flow_result a, b;

    if (n < 2)
        return flow_ok_i64(n);
    flow_fork(&left, fib_untyped, (void *)(n - 1));
    b = fib_untyped((void *)(n - 2));
    a = flow_sync(&left);
    EXPECT(flow_is_ok(a) && flow_is_ok(b));
    return flow_ok_i64(a.i64 + b.i64);
}

static flow_result fib_both(void *arg)
{
    (void)arg;
    EXPECT_EQ(fib(TEST_ROUNDS(27, 18)), TEST_ROUNDS(196418, 2584));
    EXPECT_EQ(fib_untyped((void *)(intptr_t)TEST_ROUNDS(25, 17)).i64, TEST_ROUNDS(75025, 1597));
    return flow_ok(NULL);
}

static void calls_in_a_tree(void **state)
{
    (void)state;
    test_in_coroutine(fib_both);
}

static void without_a_runtime(void **state)
{
    struct flow_job job[3];

    (void)state;
    fib_both(NULL);
    for (int i = 0; i < 3; i++)
        flow_fork(&job[i], fib_untyped, (void *)(intptr_t)(i + 5));
    assert_int_equal(flow_sync(&job[1]).i64, 8);
    assert_int_equal(flow_sync(&job[0]).i64, 5);
    assert_int_equal(flow_sync(&job[2]).i64, 13);
    assert_no_failures();
}

/* A random tree. What a node does besides forking its children is drawn from its seed, so that a
 * plain recursion can foretell the sum. */
#define MOST_CHILDREN 6

struct node {
    uint64_t seed;
    int depth;
    bool plain; /* no jobs and no waiting: the reference */
};

static flow_result walk(void *arg);

static void do_something(uint64_t chance)
{
    switch (chance % 64) {
    case 0:
        EXPECT_EQ(flow_yield(), 0);
        break;
    case 1:
        EXPECT_EQ(flow_sleep(FLOW_US(chance / 64 % 50)), 0);
        break;
    case 2: {
        flow_task task;
        flow_result result;

        EXPECT_EQ(flow_spawn(&task, fib_untyped, (void *)5), 0);
        EXPECT_EQ(flow_join(task, &result, FLOW_FOREVER), 0);
        EXPECT_EQ(result.i64, 5);
        break;
    }
    case 3:
        EXPECT_EQ(flow_sync_wait(fib_untyped, (void *)3, NULL, FLOW_FOREVER), 0);
        break;
    default:
        break;
    }
}

/* Each of the n once, in an order that the seed chooses. */
static void shuffle(int *order, int n, uint64_t *random)
{
    for (int i = 0; i < n; i++)
        order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)(test_random(random) % (uint64_t)(i + 1)), kept = order[i];

        order[i] = order[j];
        order[j] = kept;
    }
}

static uint64_t walk_children(struct node *child, int n, bool plain, uint64_t *random)
{
    struct flow_job job[MOST_CHILDREN];
    int order[MOST_CHILDREN];
    uint64_t sum = 0;

    shuffle(order, n, random);
    if (plain) {
        for (int i = 0; i < n; i++)
            sum += walk(&child[i]).u64;
        return sum;
    }
    for (int i = 0; i < n; i++) {
        flow_fork(&job[i], walk, &child[i]);
        do_something(child[i].seed >> 8);
    }
    for (int i = 0; i < n; i++) {
        /* Half of the nodes sync newest first, the others in any order. */
        flow_result r = flow_sync(&job[child[0].seed & 1 ? n - 1 - i : order[i]]);

        EXPECT(flow_is_ok(r));
        sum += r.u64;
    }
    return sum;
}

static flow_result walk(void *arg)
{
    struct node *node = arg, child[MOST_CHILDREN];
    uint64_t random = node->seed, value = test_random(&random);
    int n = (int)(test_random(&random) % (MOST_CHILDREN + 1));

    if (node->depth == 0 || n == 0)
        return flow_ok_u64(value % 1000);
    for (int i = 0; i < n; i++)
        child[i] = (struct node){test_random(&random), node->depth - 1, node->plain};
    if (!node->plain)
        do_something(value);
    return flow_ok_u64(value % 1000 + walk_children(child, n, node->plain, &random));
}

static uint64_t random_seed;

static flow_result random_trees(void *arg)
{
    (void)arg;
    for (int i = 0; i < TEST_ROUNDS(60, 8); i++) {
        struct node root = {test_random(&random_seed), TEST_ROUNDS(8, 5), true};
        uint64_t expected = walk(&root).u64;

        root.plain = false;
        EXPECT_EQ(walk(&root).u64, expected);
    }
    return flow_ok(NULL);
}

static void random_trees_as_plain_calls(void **state)
{
    (void)state;
    random_seed = test_seed();
    test_in_coroutine(random_trees);
}

static void random_trees_that_roam(void **state)
{
    struct flow_options options = test_options();

    (void)state;
    random_seed = test_seed();
    options.roam = true;
    test_start_with(&options);
    assert_int_equal(flow_sync_wait(random_trees, NULL, NULL, FLOW_FOREVER), 0);
    test_stop();
}

/* ---- jobs that wait ---- */

struct gate {
    atomic_bool open;
};

static flow_result pass_gate(void *arg)
{
    struct gate *gate = arg;

    while (!atomic_load(&gate->open))
        if (flow_yield())
            return flow_err(-ECANCELED);
    return flow_ok_i64(1);
}

static flow_result open_gate(void *arg)
{
    struct gate *gate = arg;

    atomic_store(&gate->open, true);
    return flow_ok_i64(2);
}

/* Each order of forks and syncs: the one that waits must not keep the other from running. */
static flow_result siblings(void *arg)
{
    (void)arg;
    for (int i = 0; i < 4; i++) {
        struct gate gate = {false};
        struct flow_job waits, opens;

        if (i & 1)
            flow_fork(&opens, open_gate, &gate);
        flow_fork(&waits, pass_gate, &gate);
        if (!(i & 1))
            flow_fork(&opens, open_gate, &gate);
        if (i & 2) {
            EXPECT_EQ(flow_sync(&waits).i64, 1);
            EXPECT_EQ(flow_sync(&opens).i64, 2);
        } else {
            EXPECT_EQ(flow_sync(&opens).i64, 2);
            EXPECT_EQ(flow_sync(&waits).i64, 1);
        }
    }
    return flow_ok(NULL);
}

static void a_job_waits_for_its_sibling(void **state)
{
    (void)state;
    test_in_coroutine(siblings);
}

/* Forked and not synced while its coroutine sleeps: somebody else runs it. */
static flow_result forked_then_asleep(void *arg)
{
    struct gate gate = {false};
    struct flow_job job;

    (void)arg;
    flow_fork(&job, open_gate, &gate);
    while (!atomic_load(&gate.open))
        EXPECT_EQ(flow_sleep(FLOW_US(10)), 0);
    EXPECT_EQ(flow_sync(&job).i64, 2);
    return flow_ok(NULL);
}

static void runs_while_its_parent_sleeps(void **state)
{
    (void)state;
    test_in_coroutine(forked_then_asleep);
}

/* Also when a yield goes straight to the next coroutine. */
static flow_result yield_till_open(void *arg)
{
    while (!atomic_load(&((struct gate *)arg)->open))
        if (flow_yield())
            break;
    return flow_ok(NULL);
}

static flow_result yield_straight(void *arg)
{
    struct gate gate = {false};
    flow_task other;

    (void)arg;
    EXPECT_EQ(flow_yield(), 0); /* not as the call of a foreign thread's task any more */
    EXPECT_EQ(flow_spawn_now(&other, yield_till_open, &gate), 0);
    for (int i = 0; i < 10; i++) {
        uint64_t before = test_stats().total.spawned;
        struct flow_job job;

        flow_fork(&job, fib_untyped, (void *)1);
        EXPECT_EQ(flow_yield(), 0);
        EXPECT_EQ(flow_sync(&job).i64, 1);
        /* Only now: a thief that took it before the yield counts it when it starts it. */
        EXPECT_EQ(test_stats().total.spawned, before + 1);
    }
    atomic_store(&gate.open, true);
    EXPECT_EQ(flow_join(other, NULL, FLOW_FOREVER), 0);
    return flow_ok(NULL);
}

static void each_yield_hands_them_out(void **state)
{
    (void)state;
    test_in_coroutine(yield_straight);
}

/* A coroutine that never suspends: only a thief can have run the job. */
static flow_result without_a_suspension(void *arg)
{
    struct gate gate = {false};
    struct flow_job job, small;

    (void)arg;
    flow_fork(&job, open_gate, &gate);
    while (test_workers() > 1 && !atomic_load(&gate.open)) {
        flow_fork(&small, fib_untyped, (void *)1); /* looks whether a thief has asked */
        EXPECT_EQ(flow_sync(&small).i64, 1);
    }
    EXPECT_EQ(flow_sync(&job).i64, 2);
    return flow_ok(NULL);
}

static void an_idle_worker_takes_it(void **state)
{
    (void)state;
    test_in_coroutine(without_a_suspension);
}

/* A flow_spawn_now child forks, suspends, and its parent, which has forked too, goes on. */
static flow_result nested_child(void *arg)
{
    struct flow_job job[3];
    intptr_t suspends = (intptr_t)arg;
    int64_t sum = 0;

    for (int i = 0; i < 3; i++)
        flow_fork(&job[i], fib_untyped, (void *)(intptr_t)(i + 5));
    if (suspends)
        EXPECT_EQ(flow_yield(), 0);
    for (int i = 0; i < 3; i++)
        sum += flow_sync(&job[i]).i64;
    EXPECT_EQ(sum, 5 + 8 + 13);
    return flow_ok_i64(sum);
}

static flow_result nested(void *arg)
{
    (void)arg;
    for (int i = 0; i < TEST_ROUNDS(2000, 200); i++) {
        struct flow_job before, after;
        flow_task child[2];
        flow_result result;

        flow_fork(&before, fib_untyped, (void *)7);
        for (int k = 0; k < 2; k++)
            EXPECT_EQ(flow_spawn_now(&child[k], nested_child, (void *)(intptr_t)((i >> k) & 1)), 0);
        flow_fork(&after, fib_untyped, (void *)6);
        if (i & 4)
            EXPECT_EQ(flow_sync(&before).i64, 13);
        EXPECT_EQ(flow_sync(&after).i64, 8);
        if (!(i & 4))
            EXPECT_EQ(flow_sync(&before).i64, 13);
        for (int k = 0; k < 2; k++) {
            EXPECT_EQ(flow_join(child[k], &result, FLOW_FOREVER), 0);
            EXPECT_EQ(result.i64, 26);
        }
    }
    return flow_ok(NULL);
}

static void within_spawn_now(void **state)
{
    (void)state;
    test_in_coroutine(nested);
}

/* ---- many, and deep ---- */

#define MANY ((intptr_t)TEST_ROUNDS(15000, 3000)) /* their records take most of the stack */

static atomic_int n_run;

static flow_result count_run(void *arg)
{
    atomic_fetch_add(&n_run, 1);
    return flow_ok(arg);
}

static flow_result fork_many(void *arg)
{
    struct flow_job job[MANY];

    (void)arg;
    for (int round = 0; round < 3; round++) {
        atomic_store(&n_run, 0);
        for (intptr_t i = 0; i < MANY; i++)
            flow_fork(&job[i], count_run, (void *)i);
        if (round == 2)
            EXPECT_EQ(flow_yield(), 0);
        for (intptr_t i = 0; i < MANY; i++) {
            intptr_t k = round == 0 ? MANY - 1 - i : i;

            EXPECT_EQ((intptr_t)flow_sync(&job[k]).ptr, k);
        }
        EXPECT_EQ(atomic_load(&n_run), MANY);
    }
    return flow_ok(NULL);
}

static flow_result on_a_large_stack(flow_fn fn, void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    flow_task task;
    flow_result result;

    test_start();
    options.stack_bytes = (size_t)1 << 20;
    assert_int_equal(flow_spawn_with(&task, &options, fn, arg), 0);
    assert_int_equal(flow_join(task, &result, FLOW_FOREVER), 0);
    test_stop();
    return result;
}

static void many_at_once(void **state)
{
    (void)state;
    assert_int_equal(on_a_large_stack(fork_many, NULL).error, 0);
}

#define DEPTH TEST_ROUNDS((intptr_t)4000, 1000)

static flow_result go_deep(void *arg)
{
    intptr_t depth = (intptr_t)arg;
    struct flow_job job;
    flow_result r;

    if (depth == 0)
        return flow_ok_i64(0);
    flow_fork(&job, go_deep, (void *)(depth - 1));
    r = flow_sync(&job);
    r.i64++;
    return r;
}

static void deep_recursion(void **state)
{
    (void)state;
    assert_int_equal(on_a_large_stack(go_deep, (void *)DEPTH).i64, DEPTH);
}

/* A job that becomes a task has a stack as large as its parent's. */
static flow_result use_stack(void *arg)
{
    volatile char room[600 * 1024];

    for (size_t i = 0; i < sizeof room; i += 1024)
        room[i] = 1;
    EXPECT_EQ(flow_yield(), 0);
    return flow_ok_i64(room[1024] + (arg != NULL));
}

static flow_result fork_large(void *arg)
{
    struct flow_job job[2];

    for (int i = 0; i < 2; i++)
        flow_fork(&job[i], use_stack, arg);
    EXPECT_EQ(flow_yield(), 0);
    for (int i = 0; i < 2; i++)
        EXPECT_EQ(flow_sync(&job[i]).i64, 1);
    return flow_ok(NULL);
}

static void a_large_stack_is_inherited(void **state)
{
    (void)state;
    on_a_large_stack(fork_large, NULL);
}

/* ---- cancellation ---- */

static flow_result sleep_long(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
    return flow_sleep(FLOW_S(100)) ? flow_err(-ECANCELED) : flow_ok(NULL);
}

static flow_result cancelled_in_sync(void *arg)
{
    struct flow_job job[4];

    for (int i = 0; i < 4; i++)
        flow_fork(&job[i], sleep_long, arg);
    for (int i = 3; i >= 0; i--)
        EXPECT_EQ(flow_sync(&job[i]).error, -ECANCELED);
    EXPECT_EQ(flow_yield(), -ECANCELED);
    return flow_ok_i64(4);
}

static void cancelled_while_it_syncs(void **state)
{
    (void)state;
    test_start();
    for (int i = 0; i < TEST_ROUNDS(200, 20); i++) {
        atomic_int begun = 0;
        flow_task task;
        flow_result result;

        assert_int_equal(flow_spawn(&task, cancelled_in_sync, &begun), 0);
        if (i & 1)
            while (atomic_load(&begun) == 0)
                test_nap(FLOW_US(20));
        test_nap(FLOW_US(i % 7 * 20));
        assert_int_equal(flow_cancel(task), 0);
        assert_int_equal(flow_join(task, &result, FLOW_FOREVER), 0);
        assert_true(result.error == -ECANCELED || result.i64 == 4);
    }
    assert_true(test_wait_until_empty());
    test_stop();
}

/* A tree whose jobs sleep and yield, cancelled at any moment: it comes back, with the sum or without. */
static flow_result tree_to_cancel(void *arg)
{
    intptr_t depth = (intptr_t)arg;
    struct flow_job job[3];
    int64_t sum = 1;
    int error = 0;

    if (depth == 0)
        return flow_ok_i64(flow_sleep(FLOW_US(5)) ? 0 : 1);
    for (int i = 0; i < 3; i++)
        flow_fork(&job[i], tree_to_cancel, (void *)(depth - 1));
    if (depth % 2)
        error = flow_yield();
    for (int i = 0; i < 3; i++) {
        flow_result r = flow_sync(&job[depth == 2 ? i : 2 - i]);

        if (r.error)
            error = r.error;
        sum += r.error ? 0 : r.i64;
    }
    return error ? flow_err(error) : flow_ok_i64(sum);
}

static void cancelled_at_any_moment(void **state)
{
    uint64_t random = test_seed();
    int cancelled = 0;

    (void)state;
    test_start();
    for (int i = 0; i < TEST_ROUNDS(300, 40); i++) {
        flow_task task;
        flow_result result;

        assert_int_equal(flow_spawn(&task, tree_to_cancel, (void *)4), 0);
        for (uint64_t k = test_random(&random) % 300 * (uint64_t)(i % 8); k > 0; k--)
            flow_now();
        flow_cancel(task); /* or it has ended */
        assert_int_equal(flow_join(task, &result, FLOW_FOREVER), 0);
        if (result.error)
            assert_int_equal(result.error, -ECANCELED);
        cancelled += result.error != 0;
    }
    assert_true(cancelled > 0);
    assert_true(test_wait_until_empty());
    test_stop();
}

/* A job that becomes a task of a cancelled coroutine does not begin; one that is called does. */
static flow_result count_begun(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
    return flow_ok_i64(3);
}

static flow_result cancel_and_fork(void *arg)
{
    atomic_int begun = 0;
    struct flow_job job;

    (void)arg;
    EXPECT_EQ(flow_cancel(flow_self()), 0);
    flow_fork(&job, count_begun, &begun);
    for (int i = 0; i < 50; i++) /* its turn would come */
        EXPECT_EQ(flow_yield(), -ECANCELED);
    EXPECT_EQ(flow_sync(&job).error, -ECANCELED);
    EXPECT_EQ(atomic_load(&begun), 0);
    return flow_ok(NULL);
}

/* A typed one has no error to return, so it is called. */
static flow_result cancel_and_fork_typed(void *arg)
{
    struct fib_job job;

    (void)arg;
    EXPECT_EQ(flow_cancel(flow_self()), 0);
    fib_fork(&job, 12);
    EXPECT_EQ(flow_yield(), -ECANCELED);
    EXPECT_EQ(fib_sync(&job), 144);
    return flow_ok(NULL);
}

static void in_a_cancelled_coroutine(void **state)
{
    flow_task task;

    (void)state;
    test_start();
    for (int i = 0; i < 200; i++) {
        assert_int_equal(flow_spawn(&task, i & 1 ? cancel_and_fork : cancel_and_fork_typed, NULL), 0);
        assert_int_equal(flow_join(task, NULL, FLOW_FOREVER), 0);
    }
    test_stop();
}

/* ---- what a job sees ---- */

static flow_result own_task(void *arg)
{
    (void)arg;
    return flow_ok_u64(flow_self().id);
}

static flow_result look_at_self(void *arg)
{
    struct flow_job job;
    uint64_t id;

    (void)arg;
    for (int i = 0; i < 100; i++) {
        flow_fork(&job, own_task, NULL);
        if (i & 1)
            EXPECT_EQ(flow_yield(), 0); /* now it is a task, and has a stack of its own */
        id = flow_sync(&job).u64;
        if (i & 1)
            EXPECT(id != flow_self().id);
        if (test_workers() == 1 && !(i & 1))
            EXPECT_EQ(id, flow_self().id);
        if (id != flow_self().id)
            EXPECT_EQ(flow_cancel((flow_task){id}), -ESRCH);
    }
    return flow_ok(NULL);
}

static void who_it_is(void **state)
{
    (void)state;
    test_in_coroutine(look_at_self);
}

/* Nobody but flow_sync can have its result. */
static flow_result join_me(void *arg)
{
    *(flow_task *)arg = flow_self();
    return flow_sleep(FLOW_MS(2)) ? flow_err(-ECANCELED) : flow_ok_i64(5);
}

static flow_result try_to_join(void *arg)
{
    struct flow_job job;
    flow_task task = {0};

    (void)arg;
    flow_fork(&job, join_me, &task);
    EXPECT_EQ(flow_sleep(FLOW_MS(1)), 0);
    if (task.id) {
        EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -EINVAL);
        EXPECT_EQ(flow_detach(task), -EINVAL);
    }
    EXPECT_EQ(flow_sync(&job).i64, 5);
    return flow_ok(NULL);
}

static void its_result_is_for_sync(void **state)
{
    (void)state;
    test_in_coroutine(try_to_join);
}

/* Rounding as its coroutine's, wherever it runs. */
static flow_result third(void *arg)
{
    volatile double one = 1, three = 3;
    flow_result r = flow_ok_f64(one / three);

    (void)arg;
    EXPECT_EQ(flow_yield(), 0);
    return r;
}

static flow_result round_up(void *arg)
{
    struct flow_job job[4];
    flow_result plain = third(NULL), up;

    (void)arg;
    fesetround(FE_UPWARD);
    up = third(NULL);
    EXPECT(up.f64 > plain.f64);
    for (int i = 0; i < 100; i++) {
        for (int k = 0; k < 4; k++)
            flow_fork(&job[k], third, NULL);
        if (i & 1)
            EXPECT_EQ(flow_yield(), 0);
        for (int k = 3; k >= 0; k--)
            EXPECT_EQ(flow_sync(&job[k]).u64, up.u64);
    }
    fesetround(FE_TONEAREST);
    return flow_ok(NULL);
}

static void with_an_fp_environment(flow_fn fn)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    flow_task task;

    if (TEST_VALGRIND)
        skip(); /* it rounds to nearest only */
    test_start();
    options.flags = FLOW_FP_ENVIRONMENT;
    assert_int_equal(flow_spawn_with(&task, &options, fn, NULL), 0);
    assert_int_equal(flow_join(task, NULL, FLOW_FOREVER), 0);
    assert_true(test_wait_until_empty()); /* those that it has called and left to themselves, too */
    test_stop();
    assert_no_failures();
}

static void it_rounds_as_its_coroutine(void **state)
{
    (void)state;
    with_an_fp_environment(round_up);
}

/* Called by one that rounds upward: it suspends, or forks until a thief has had time to ask. */
static flow_result round_to_nearest(void *arg)
{
    atomic_int begun = 0;
    struct flow_job job;
    int forks = arg ? TEST_ROUNDS(20000, 2000) : 0;

    EXPECT_EQ(fegetround(), FE_TONEAREST);
    for (int i = 0; i < forks; i++) {
        flow_fork(&job, count_begun, &begun);
        flow_sync(&job);
    }
    if (!arg)
        EXPECT_EQ(flow_yield(), 0);
    return flow_ok(NULL);
}

static flow_result call_with_spawn_now(void *arg)
{
    return flow_ok_i64(flow_spawn_now(NULL, round_to_nearest, arg));
}

static flow_result rounding(void *arg)
{
    (void)arg;
    return flow_ok_i64(fegetround());
}

static flow_result round_up_and_call(void *arg)
{
    struct flow_job job;

    (void)arg;
    fesetround(FE_UPWARD);
    for (intptr_t i = 0; i < 40; i++) {
        flow_fork(&job, rounding, NULL);
        EXPECT_EQ(flow_spawn_now(NULL, i & 2 ? call_with_spawn_now : round_to_nearest, (void *)(i & 1)), 0);
        EXPECT_EQ(flow_sync(&job).i64, FE_UPWARD);
        EXPECT_EQ(fegetround(), FE_UPWARD);
    }
    fesetround(FE_TONEAREST);
    return flow_ok(NULL);
}

static void it_does_not_round_as_one_that_is_called(void **state)
{
    (void)state;
    with_an_fp_environment(round_up_and_call);
}

/* ---- locks ---- */

struct counter {
    struct flow_mutex mutex;
    int value;
};

static flow_result count_locked(void *arg)
{
    struct counter *counter = arg;
    int before;

    EXPECT_EQ(flow_mutex_lock(&counter->mutex, FLOW_FOREVER), 0);
    before = counter->value;
    if (before % 3 == 0)
        EXPECT_EQ(flow_yield(), 0);
    counter->value = before + 1;
    EXPECT_EQ(flow_mutex_unlock(&counter->mutex), 0);
    return flow_ok(NULL);
}

static flow_result many_lock(void *arg)
{
    struct counter counter = {.value = 0};
    struct flow_job job[20];

    (void)arg;
    for (int i = 0; i < TEST_ROUNDS(200, 40); i++) {
        for (int k = 0; k < 20; k++)
            flow_fork(&job[k], count_locked, &counter);
        for (int k = 19; k >= 0; k--)
            EXPECT_EQ(flow_sync(&job[k]).error, 0);
    }
    EXPECT_EQ(counter.value, 20 * TEST_ROUNDS(200, 40));
    return flow_ok(NULL);
}

static void jobs_lock(void **state)
{
    (void)state;
    test_in_coroutine(many_lock);
}

/* ---- errors ---- */

static flow_result fail_at(void *arg)
{
    intptr_t depth = (intptr_t)arg;
    struct flow_job job;
    flow_result own;

    if (depth == 0)
        return flow_err(-EBADMSG);
    flow_fork(&job, fail_at, (void *)(depth - 1));
    own = flow_yield() ? flow_err(-ECANCELED) : flow_ok(NULL);
    flow_result r = flow_sync(&job);
    return flow_is_err(r) ? r : own;
}

static flow_result errors(void *arg)
{
    (void)arg;
    EXPECT_EQ(fail_at((void *)10).error, -EBADMSG);
    return flow_ok(NULL);
}

static void errors_come_up(void **state)
{
    (void)state;
    test_in_coroutine(errors);
}

/* ---- tiny jobs beside workers that have nothing to do ---- */

static flow_result same(void *arg)
{
    return flow_ok(arg);
}

/* A wake for each job that is shown costs its owner some hundred forks, and there would be 800 in a ms. Who was
 * woken in vain four times, for less than 20 us each, stays away for 100 us: so a worker is woken at most 100
 * times in a ms, however fast or busy the machine is. */
static void tiny_jobs(void)
{
    enum { FORKS = 20000000, MOST_IN_A_MS = 150 };
    struct flow_stats before = {.size = sizeof before}, after = {.size = sizeof after};
    int64_t begin = flow_now(), most;
    struct flow_job job;

    EXPECT_EQ(flow_stats(&before), 0);
    for (intptr_t i = 0; i < FORKS; i++) {
        flow_fork(&job, same, (void *)i);
        EXPECT(flow_sync(&job).i64 == i);
    }
    EXPECT_EQ(flow_stats(&after), 0);
    most = (flow_now() - begin) / FLOW_MS(1) * test_workers() * MOST_IN_A_MS + 1000;
    EXPECT(after.total.wakes - before.total.wakes < (uint64_t)most);
}

static void tiny_jobs_wake_nobody(void **state)
{
    (void)state;
    if (TEST_SANITIZED)
        skip();
    test_as_task(tiny_jobs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(calls_in_a_tree),
        TEST(without_a_runtime),
        TEST(random_trees_as_plain_calls),
        TEST(random_trees_that_roam),
        TEST(a_job_waits_for_its_sibling),
        TEST(runs_while_its_parent_sleeps),
        TEST(each_yield_hands_them_out),
        TEST(an_idle_worker_takes_it),
        TEST(within_spawn_now),
        TEST(many_at_once),
        TEST(deep_recursion),
        TEST(cancelled_while_it_syncs),
        TEST(cancelled_at_any_moment),
        TEST(in_a_cancelled_coroutine),
        TEST(who_it_is),
        TEST(its_result_is_for_sync),
        TEST(it_rounds_as_its_coroutine),
        TEST(it_does_not_round_as_one_that_is_called),
        TEST(a_large_stack_is_inherited),
        TEST(jobs_lock),
        TEST(errors_come_up),
        TEST(tiny_jobs_wake_nobody),
    };

    return cmocka_run_group_tests_name("job", tests, NULL, NULL);
}
