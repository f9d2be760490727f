/* SPDX-License-Identifier: MIT
 *
 * flow_parallel_for and flow_parallel_reduce against plain loops. FLOW_TEST_WORKERS. */
#include "core/worker.h"
#include "tests/support/machine.h"
#include "tests/support/test.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define MOST 5000

static uint64_t seed;

/* ---- every index once ---- */

struct marks {
    atomic_uchar times[MOST];
    int64_t base, largest;
    uint64_t waits; /* one piece in so many sleeps or yields; 0: none */
    atomic_int pieces;
};

static int mark(int64_t begin, int64_t end, void *arg)
{
    struct marks *marks = arg;

    EXPECT(begin < end);
    EXPECT(end - begin <= marks->largest);
    atomic_fetch_add(&marks->pieces, 1);
    for (int64_t i = begin; i < end; i++)
        atomic_fetch_add(&marks->times[i - marks->base], 1);
    if (marks->waits && (uint64_t)begin % marks->waits == 0)
        EXPECT_EQ(begin & 1 ? flow_yield() : flow_sleep(FLOW_US(20)), 0);
    return 0;
}

static bool waits_are_possible = true;

static void mark_all(struct marks *marks, int64_t base, int64_t n, int64_t grain)
{
    memset(marks, 0, sizeof *marks);
    marks->base = base;
    marks->largest = grain ? grain : n;
    marks->waits = waits_are_possible ? test_random(&seed) % 3 * 7 : 0;
    EXPECT_EQ(flow_parallel_for(base, base + n, grain, mark, marks), 0);
    for (int64_t i = 0; i < MOST; i++)
        EXPECT_EQ(atomic_load(&marks->times[i]), i < n);
    if (n > 0)
        EXPECT(atomic_load(&marks->pieces) > 0);
}

static flow_result each_index_once(void *arg)
{
    static const int64_t bases[] = {0, -7, INT64_MIN, INT64_MAX - MOST, 1000000007};
    struct marks *marks = malloc(sizeof *marks);

    (void)arg;
    for (int i = 0; i < TEST_ROUNDS(150, 20); i++) {
        int64_t n = (int64_t)(test_random(&seed) % MOST), grain = 0;

        if (i % 5)
            grain = 1 + (int64_t)(test_random(&seed) % (i % 3 ? 9 : MOST));
        mark_all(marks, bases[i % 5], i == 0 ? 0 : n, grain);
    }
    free(marks);
    return flow_ok(NULL);
}

static void every_index_once(void **state)
{
    (void)state;
    seed = test_seed();
    test_in_coroutine(each_index_once);
}

static void outside_of_coroutines(void **state)
{
    (void)state;
    seed = test_seed();
    waits_are_possible = false;
    each_index_once(NULL);
    waits_are_possible = true;
    assert_no_failures();
}

/* The whole of what an index can be; no piece is looked at twice. */
static atomic_int_fast64_t pieces_seen, length_seen;

static int see(int64_t begin, int64_t end, void *arg)
{
    (void)arg;
    atomic_fetch_add(&pieces_seen, 1);
    atomic_fetch_add(&length_seen, (int64_t)((uint64_t)end - (uint64_t)begin - 1) / 2);
    return 0;
}

static flow_result all_int64(void *arg)
{
    (void)arg;
    atomic_store(&pieces_seen, 0);
    atomic_store(&length_seen, 0);
    EXPECT_EQ(flow_parallel_for(INT64_MIN, INT64_MAX, 0, see, NULL), 0);
    EXPECT(atomic_load(&pieces_seen) >= 2);
    EXPECT(atomic_load(&length_seen) > INT64_MAX - 2 * atomic_load(&pieces_seen) - 2);
    return flow_ok(NULL);
}

static void the_longest_range(void **state)
{
    (void)state;
    test_in_coroutine(all_int64);
}

static void start_two_sockets(int workers)
{
    struct flow_options options = FLOW_OPTIONS_INIT;

    options.workers = workers;
    options.stall_ns = 0;
    test_start_with(&options);
}

static void run_on_the_first_worker(flow_fn fn, void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    flow_task task;

    options.flags = FLOW_PINNED;
    options.worker = 0;
    assert_int_equal(flow_spawn_with(&task, &options, fn, arg), 0);
    assert_int_equal(flow_join(task, NULL, FLOW_FOREVER), 0);
}

/* From a node that has more workers than the other, so that its part is longer than an int64_t: a signed
 * overflow, for the sanitizer. */
static void the_longest_range_on_uneven_nodes(void **state)
{
    (void)state;
    machine_use(&machine_two_sockets);
    machine_put("affinity", "0-2,4-5\n");
    start_two_sockets(5);
    run_on_the_first_worker(all_int64, NULL);
    test_stop();
    machine_close();
    assert_no_failures();
}

/* ---- loops in loops ---- */

static atomic_int cells;

static int inner(int64_t begin, int64_t end, void *arg)
{
    (void)arg;
    atomic_fetch_add(&cells, (int)(end - begin));
    return flow_yield();
}

static int outer(int64_t begin, int64_t end, void *arg)
{
    for (int64_t i = begin; i < end; i++) {
        int r = flow_parallel_for(0, 100, 10, inner, arg);

        if (r)
            return r;
    }
    return 0;
}

static flow_result nest(void *arg)
{
    atomic_store(&cells, 0);
    EXPECT_EQ(flow_parallel_for(0, 40, 1, outer, arg), 0);
    EXPECT_EQ(atomic_load(&cells), 4000);
    return flow_ok(NULL);
}

static void loops_in_loops(void **state)
{
    (void)state;
    test_in_coroutine(nest);
}

/* ---- errors ---- */

struct failing {
    int64_t at[3]; /* rising */
    bool waits;
    atomic_int_fast64_t begun_before; /* indices below at[0] that were begun */
};

static int fail_there(int64_t begin, int64_t end, void *arg)
{
    struct failing *failing = arg;

    if (end <= failing->at[0])
        atomic_fetch_add(&failing->begun_before, end - begin);
    if (failing->waits && begin % 5 == 0 && flow_yield())
        return -ECANCELED;
    for (int k = 0; k < 3; k++)
        if (begin <= failing->at[k] && failing->at[k] < end)
            return -(1000 + k);
    return 0;
}

static flow_result the_first_error(void *arg)
{
    (void)arg;
    for (int i = 0; i < TEST_ROUNDS(500, 60); i++) {
        struct failing failing = {.waits = i & 1};
        int64_t place = 0;

        for (int k = 0; k < 3; k++)
            failing.at[k] = place += (int64_t)(test_random(&seed) % 300) + 1;
        /* Grain 1: a piece is an index, and all before the first error are done. */
        EXPECT_EQ(flow_parallel_for(0, 1000, 1, fail_there, &failing), -1000);
        EXPECT_EQ(atomic_load(&failing.begun_before), failing.at[0]);
    }
    return flow_ok(NULL);
}

static void an_error_is_the_first_by_index(void **state)
{
    (void)state;
    seed = test_seed();
    test_in_coroutine(the_first_error);
}

/* The pieces behind an error that wait for long are cancelled where they are. */
static int wait_or_fail(int64_t begin, int64_t end, void *arg)
{
    (void)end, (void)arg;
    if (begin == 0)
        return flow_sleep(FLOW_US(100)) ? -EINTR : -EBADMSG;
    return flow_sleep(FLOW_S(1000));
}

static flow_result long_waits(void *arg)
{
    for (int i = 0; i < 20; i++)
        EXPECT_EQ(flow_parallel_for(0, 50, 1, wait_or_fail, arg), -EBADMSG);
    return flow_ok(NULL);
}

static void an_error_cancels_what_runs(void **state)
{
    (void)state;
    test_in_coroutine(long_waits);
}

static int sleep_long(int64_t begin, int64_t end, void *arg)
{
    (void)begin, (void)end;
    atomic_fetch_add((atomic_int *)arg, 1);
    return flow_sleep(FLOW_S(1000));
}

static flow_result loop_that_sleeps(void *arg)
{
    return flow_ok_i64(flow_parallel_for(0, 100, 1, sleep_long, arg));
}

static void cancellation_passes_through(void **state)
{
    (void)state;
    test_start();
    for (int i = 0; i < TEST_ROUNDS(50, 10); i++) {
        atomic_int begun = 0;
        flow_task task;
        flow_result result;

        assert_int_equal(flow_spawn(&task, loop_that_sleeps, &begun), 0);
        while (atomic_load(&begun) < (i & 1 ? 1 : 100))
            test_nap(FLOW_US(20));
        assert_int_equal(flow_cancel(task), 0);
        assert_int_equal(flow_join(task, &result, FLOW_FOREVER), 0);
        assert_int_equal(result.i64, -ECANCELED);
    }
    assert_true(test_wait_until_empty());
    test_stop();
}

/* Why it was cancelled is what the pieces that run elsewhere are told. */
static atomic_int reason_of_piece[2];

static int sleep_and_say_why(int64_t begin, int64_t end, void *arg)
{
    int r;

    (void)end;
    atomic_fetch_add((atomic_int *)arg, 1);
    r = flow_sleep(FLOW_S(1000));
    atomic_store(&reason_of_piece[begin], flow_cancel_reason());
    return r;
}

static flow_result two_that_sleep(void *arg)
{
    return flow_ok_i64(flow_parallel_for(0, 2, 1, sleep_and_say_why, arg));
}

static void and_its_reason(void **state)
{
    (void)state;
    test_start();
    for (int i = 0; i < 10; i++) {
        atomic_int begun = 0;
        flow_task task;
        flow_result result;

        assert_int_equal(flow_spawn(&task, two_that_sleep, &begun), 0);
        while (atomic_load(&begun) < 2)
            test_nap(FLOW_US(20));
        assert_int_equal(flow_cancel_with(task, FLOW_CANCEL_USER + 1), 0);
        assert_int_equal(flow_join(task, &result, FLOW_FOREVER), 0);
        assert_int_equal(result.i64, -ECANCELED);
        assert_int_equal(atomic_load(&reason_of_piece[0]), FLOW_CANCEL_USER + 1);
        assert_int_equal(atomic_load(&reason_of_piece[1]), FLOW_CANCEL_USER + 1);
    }
    test_stop();
}

/* The pieces of clean-up, in a shield, run to their end, wherever they do, though flow_stop has come; also
 * where one waits for another that has not begun. */
#define CLEAN_UPS 64

static atomic_int begun_in_shield, done_in_shield, last_has_begun;

static int clean_up(int64_t begin, int64_t end, void *arg)
{
    (void)end, (void)arg;
    atomic_fetch_add(&begun_in_shield, 1);
    if (begin == CLEAN_UPS - 1)
        atomic_store(&last_has_begun, 1);
    for (int i = 0; i == 0 || (begin == 0 && !atomic_load(&last_has_begun)); i++) {
        int r = i < 10000 ? flow_sleep(FLOW_MS(1)) : -ETIMEDOUT;

        if (r)
            return r;
    }
    atomic_fetch_add(&done_in_shield, 1);
    return 0;
}

static flow_result clean_up_in_a_shield(void *arg)
{
    FLOW_SHIELD(shield);

    (void)arg;
    EXPECT_EQ(flow_parallel_for(0, CLEAN_UPS, 1, clean_up, NULL), 0);
    return flow_ok(NULL);
}

static void flow_stop_does_not_reach_into_a_shield(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        atomic_store(&begun_in_shield, 0);
        atomic_store(&done_in_shield, 0);
        atomic_store(&last_has_begun, 0);
        test_start();
        assert_int_equal(flow_spawn(NULL, clean_up_in_a_shield, NULL), 0);
        while (!atomic_load(&begun_in_shield))
            flow_now();
        test_stop();
        assert_int_equal(atomic_load(&done_in_shield), CLEAN_UPS);
        assert_no_failures();
    }
}

/* An error in it does. */
static flow_result fail_in_a_shield(void *arg)
{
    FLOW_SHIELD(shield);

    return long_waits(arg);
}

static void an_error_in_a_shield_cancels_too(void **state)
{
    (void)state;
    test_in_coroutine(fail_in_a_shield);
}

/* Also where no piece ever waits. */
static int cancel_first(int64_t begin, int64_t end, void *arg)
{
    atomic_fetch_add((atomic_int *)arg, (int)(end - begin));
    if (begin == 0)
        EXPECT_EQ(flow_cancel(flow_self()), 0);
    return 0;
}

static flow_result cancel_itself(void *arg)
{
    (void)arg;
    EXPECT_EQ(flow_parallel_for(0, 1000, 1, cancel_first, &cells), -ECANCELED);
    return flow_ok(NULL);
}

static void no_piece_begins_after_that(void **state)
{
    (void)state;
    atomic_store(&cells, 0);
    test_in_coroutine(cancel_itself);
    assert_true(atomic_load(&cells) < 1000);
}

/* ---- reductions ---- */

/* x -> a x + b, composed: the order matters, and nothing is rounded. */
struct affine {
    uint64_t a, b;
};

static struct affine after(struct affine first, struct affine then)
{
    return (struct affine){then.a * first.a, then.a * first.b + then.b};
}

static struct affine step(int64_t i)
{
    return (struct affine){2 * (uint64_t)i + 3, (uint64_t)i * (uint64_t)i + 1};
}

static int fold_affine(int64_t begin, int64_t end, void *value, void *arg)
{
    struct affine *all = value;
    uint64_t chance = (uint64_t)begin * 0x9e3779b97f4a7c15u >> 60;

    (void)arg;
    EXPECT_EQ((uintptr_t)value % 16, 0);
    if (chance == 0)
        EXPECT_EQ(flow_yield(), 0);
    for (int64_t i = begin; i < end; i++)
        *all = after(*all, step(i));
    return 0;
}

static void combine_affine(void *value, const void *right, void *arg)
{
    struct affine *all = value;

    EXPECT_EQ((uintptr_t)right % 16, 0);
    (void)arg;
    *all = after(*all, *(const struct affine *)right);
}

static flow_result compose(void *arg)
{
    static const struct affine same = {1, 0};

    (void)arg;
    for (int i = 0; i < TEST_ROUNDS(300, 40); i++) {
        struct flow_reduction how = FLOW_REDUCTION_INIT;
        int64_t begin = (int64_t)(test_random(&seed) % 1000) - 500;
        int64_t end = begin + (int64_t)(test_random(&seed) % 3000);
        _Alignas(16) struct affine expected = same, found;

        how.bytes = sizeof found;
        how.identity = &same;
        how.fold = fold_affine;
        how.combine = combine_affine;
        how.deterministic = i & 1;
        for (int64_t k = begin; k < end; k++)
            expected = after(expected, step(k));
        EXPECT_EQ(flow_parallel_reduce(begin, end, i & 2 ? 0 : 1 + i % 50, &how, &found), 0);
        EXPECT_EQ(found.a, expected.a);
        EXPECT_EQ(found.b, expected.b);
    }
    return flow_ok(NULL);
}

static void what_does_not_commute(void **state)
{
    (void)state;
    seed = test_seed();
    test_in_coroutine(compose);
}

/* Numbers whose sum depends on where it is rounded. */
static int fold_sum(int64_t begin, int64_t end, void *value, void *arg)
{
    double *sum = value;

    (void)arg;
    if (begin % 512 == 0)
        EXPECT_EQ(flow_yield(), 0);
    for (int64_t i = begin; i < end; i++)
        *sum += (double)(int64_t)((uint64_t)i * 0x9e3779b97f4a7c15u) *
                ((double)((uint64_t)i * (uint64_t)i % 1009) + 0.1);
    return 0;
}

static void combine_sum(void *value, const void *right, void *arg)
{
    (void)arg;
    *(double *)value += *(const double *)right;
}

static flow_result sum_up(void *arg)
{
    static const double zero;
    struct flow_reduction how = FLOW_REDUCTION_INIT;
    int64_t grain = *(int64_t *)arg;
    _Alignas(16) double sum;

    how.bytes = sizeof sum;
    how.identity = &zero;
    how.fold = fold_sum;
    how.combine = combine_sum;
    how.deterministic = true;
    EXPECT_EQ(flow_parallel_reduce(0, TEST_ROUNDS(8000, 2000), grain, &how, &sum), 0);
    return flow_ok_f64(sum);
}

static void the_same_to_the_last_bit(void **state)
{
    static const struct machine *const machines[] = {NULL, &machine_one_node, &machine_two_sockets,
                                                     &machine_three_nodes};
    int64_t grains[] = {0, 7};

    (void)state;
    for (int g = 0; g < 2; g++) {
        flow_result first = {0};

        for (int i = 0; i < 12; i++) {
            struct flow_options options = FLOW_OPTIONS_INIT;
            flow_result result;

            options.workers = i % 4 + 1;
            options.stall_ns = 0;
            if (machines[i / 3])
                machine_use(machines[i / 3]);
            test_start_with(&options);
            assert_int_equal(flow_sync_wait(sum_up, &grains[g], &result, FLOW_FOREVER), 0);
            test_stop();
            if (machines[i / 3])
                machine_close();
            if (i == 0)
                first = result;
            assert_int_equal(result.u64, first.u64); /* the bits */
        }
    }
}

static int fold_indices(int64_t begin, int64_t end, void *value, void *arg)
{
    (void)arg;
    for (; begin < end; begin++)
        *(int64_t *)value += begin;
    return 0;
}

static void combine_indices(void *value, const void *right, void *arg)
{
    (void)arg;
    *(int64_t *)value += *(const int64_t *)right;
}

static flow_result sum_into_the_identity(void *arg)
{
    struct flow_reduction how = FLOW_REDUCTION_INIT;

    (void)arg;
    for (int i = 0; i < TEST_ROUNDS(200, 20); i++) {
        _Alignas(16) int64_t sum = 0;

        how.bytes = sizeof sum;
        how.identity = &sum;
        how.fold = fold_indices;
        how.combine = combine_indices;
        how.deterministic = i & 1;
        EXPECT_EQ(flow_parallel_reduce(0, 1000, 10, &how, &sum), 0);
        EXPECT_EQ(sum, 499500);
    }
    return flow_ok(NULL);
}

static void identity_and_value_may_be_one_variable(void **state)
{
    (void)state;
    test_in_coroutine(sum_into_the_identity);
}

static int fold_error(int64_t begin, int64_t end, void *value, void *arg)
{
    (void)end, (void)value, (void)arg;
    return begin >= 50 ? -ERANGE : 0;
}

static flow_result reduce_error(void *arg)
{
    static const double zero;
    struct flow_reduction how = FLOW_REDUCTION_INIT;
    double sum;

    (void)arg;
    how.bytes = sizeof sum;
    how.identity = &zero;
    how.fold = fold_error;
    how.combine = combine_sum;
    for (int i = 0; i < 2; i++) {
        how.deterministic = i;
        EXPECT_EQ(flow_parallel_reduce(0, 100, 10, &how, &sum), -ERANGE);
        EXPECT_EQ(flow_parallel_reduce(0, 50, 10, &how, &sum), 0);
    }
    return flow_ok(NULL);
}

static void a_fold_may_fail(void **state)
{
    (void)state;
    test_in_coroutine(reduce_error);
}

/* ---- on the smallest stack ---- */

static int fail_at_once(int64_t begin, int64_t end, void *arg)
{
    (void)begin, (void)end, (void)arg;
    return -EBADMSG;
}

static int fold_nothing(int64_t begin, int64_t end, void *value, void *arg)
{
    (void)begin, (void)end, (void)value;
    return *(int *)arg;
}

static void combine_nothing(void *value, const void *right, void *arg)
{
    (void)value, (void)right, (void)arg;
}

static flow_result many_small_pieces(void *arg)
{
    static const char identity[FLOW_REDUCTION_BYTES];
    struct flow_reduction how = FLOW_REDUCTION_INIT;
    _Alignas(16) char value[FLOW_REDUCTION_BYTES];
    int error;

    (void)arg;
    how.bytes = sizeof value;
    how.identity = identity;
    how.fold = fold_nothing;
    how.combine = combine_nothing;
    how.arg = &error;
    EXPECT_EQ(flow_parallel_for(INT64_MIN, INT64_MAX, 1, fail_at_once, NULL), -EBADMSG);
    for (int i = 0; i < 2; i++) {
        how.deterministic = i;
        error = -ERANGE;
        EXPECT_EQ(flow_parallel_reduce(INT64_MIN, INT64_MAX, 1, &how, value), -ERANGE);
        error = 0;
        EXPECT_EQ(flow_parallel_reduce(0, TEST_ROUNDS(1 << 18, 1 << 12), 1, &how, value), 0);
    }
    return flow_ok(NULL);
}

static void any_number_of_pieces_on_the_smallest_stack(void **state)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    flow_task task;

    (void)state;
    if (TEST_SANITIZED)
        skip(); /* larger frames */
    options.stack_bytes = (size_t)16 * 1024;
    test_start();
    assert_int_equal(flow_spawn_with(&task, &options, many_small_pieces, NULL), 0);
    assert_int_equal(flow_join(task, NULL, FLOW_FOREVER), 0);
    test_stop();
    assert_no_failures();
}

/* ---- nodes ---- */

struct shares {
    atomic_int of[MACHINE_MAX_NODES]; /* indices that were done on a node */
};

static int count_node(int64_t begin, int64_t end, void *arg)
{
    struct shares *shares = arg;
    int node = flow_current_node();

    EXPECT(node >= 0 && node < MACHINE_MAX_NODES);
    if (node >= 0 && node < MACHINE_MAX_NODES)
        atomic_fetch_add(&shares->of[node], (int)(end - begin));
    return flow_sleep(FLOW_MS(2));
}

static flow_result spread(void *arg)
{
    EXPECT_EQ(flow_parallel_for(0, 64, 1, count_node, arg), 0);
    return flow_ok(NULL);
}

/* Pieces that sleep leave every worker time to begin its own share. */
static void each_node_has_a_share(void **state)
{
    struct flow_options options = FLOW_OPTIONS_INIT;
    struct shares shares = {0};
    int sum = 0;

    (void)state;
    options.workers = 8;
    options.stall_ns = 0;
    machine_use(&machine_four_nodes);
    test_start_with(&options);
    assert_int_equal(flow_sync_wait(spread, &shares, NULL, FLOW_FOREVER), 0);
    for (int i = 0; i < 4; i++) {
        assert_true(atomic_load(&shares.of[i]) > 0);
        sum += atomic_load(&shares.of[i]);
    }
    assert_int_equal(sum, 64);
    test_stop();
    machine_close();
}

static flow_result each_index_once_there(void *arg)
{
    return each_index_once(arg);
}

static void every_index_once_on_nodes_of_any_size(void **state)
{
    struct flow_options options = FLOW_OPTIONS_INIT;

    (void)state;
    seed = test_seed();
    options.workers = 5; /* not the same number on each */
    options.stall_ns = 0;
    machine_use(&machine_three_nodes);
    test_start_with(&options);
    assert_int_equal(flow_sync_wait(each_index_once_there, NULL, NULL, FLOW_FOREVER), 0);
    test_stop();
    machine_close();
}

/* Two nodes of two workers, some of which compute until they are told: never later than `late`. */
static atomic_int n_computing;
static atomic_bool computed_enough;
static flow_deadline late;

static flow_result compute(void *arg)
{
    atomic_fetch_add(&n_computing, 1);
    while (!atomic_load(&computed_enough)) {
        EXPECT(flow_now() < late);
        if (flow_now() >= late)
            break;
        sched_yield();
    }
    return flow_ok(arg);
}

static atomic_int far_part_has_begun;

static int count_far(int64_t begin, int64_t end, void *arg)
{
    bool *waits = arg;

    if (begin >= 32)
        atomic_fetch_add(&far_part_has_begun, (int)(end - begin));
    /* Nobody but the other worker of this node has time for it. */
    while (*waits && begin == 0 && !atomic_load(&far_part_has_begun) && flow_now() < late)
        sched_yield();
    return 0;
}

static int fail_first(int64_t begin, int64_t end, void *arg)
{
    (void)end, (void)arg;
    return begin == 0 ? -EBADMSG : 0;
}

static int miss_the_deadline(int64_t begin, int64_t end, void *arg)
{
    (void)end, (void)arg;
    return begin == 0 ? flow_sleep(FLOW_S(1000)) : 0;
}

static flow_result loop_beside_computing(void *arg)
{
    int first = (int)(intptr_t)arg; /* of the workers that compute; ours is 0 */
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    struct flow_ambient ambient = FLOW_AMBIENT_INIT;
    bool waits = first > 1;
    flow_task task[4];

    options.flags = FLOW_PINNED;
    late = flow_after(FLOW_S(20));
    atomic_store(&n_computing, 0);
    atomic_store(&computed_enough, false);
    for (options.worker = first; options.worker < 4; options.worker++)
        EXPECT_EQ(flow_spawn_with(&task[options.worker], &options, compute, NULL), 0);
    while (atomic_load(&n_computing) < 4 - first && flow_now() < late)
        flow_sleep(FLOW_US(100));
    atomic_store(&far_part_has_begun, 0);
    EXPECT_EQ(flow_parallel_for(0, 64, 1, count_far, &waits), 0);
    EXPECT_EQ(atomic_load(&far_part_has_begun), 32);
    EXPECT_EQ(flow_parallel_for(0, 64, 1, fail_first, NULL), -EBADMSG);
    EXPECT_EQ(flow_deadline_push(&ambient, flow_after(FLOW_MS(5))), 0);
    EXPECT_EQ(flow_parallel_for(0, 64, 1, miss_the_deadline, NULL), -ECANCELED);
    EXPECT_EQ(flow_deadline_pop(&ambient), 0);
    atomic_store(&computed_enough, true);
    for (int i = first; i < 4; i++)
        EXPECT_EQ(flow_join(task[i], NULL, FLOW_FOREVER), 0);
    return flow_ok(NULL);
}

static void it_does_not_wait_for_a_busy_node(void **state)
{
    (void)state;
    machine_use(&machine_two_sockets);
    start_two_sockets(4);
    for (intptr_t i = 0; i < TEST_ROUNDS(20, 4); i++) {
        run_on_the_first_worker(loop_beside_computing, (void *)(2 - (i & 1)));
        assert_no_failures();
    }
    test_stop();
    machine_close();
}

/* ---- no block, no stack ---- */

static void with_hardly_any_block(void **state)
{
    struct flow_options options = test_options();

    (void)state;
    seed = test_seed();
    options.max_tasks = 1;
    test_start_with(&options);
    assert_int_equal(flow_sync_wait(each_index_once, NULL, NULL, FLOW_FOREVER), 0);
    test_stop();
}

/* ---- misuse ---- */

static void misuse(void **state)
{
    static const double zero;
    struct flow_reduction good = FLOW_REDUCTION_INIT, how;
    struct marks marks;
    double sum;

    (void)state;
    assert_int_equal(flow_parallel_for(0, 10, 1, NULL, NULL), -EINVAL);
    assert_int_equal(flow_parallel_for(0, 10, -1, mark, &marks), -EINVAL);
    assert_int_equal(flow_parallel_for(1, 0, 1, mark, &marks), -EINVAL);
    good.bytes = sizeof sum;
    good.identity = &zero;
    good.fold = fold_sum;
    good.combine = combine_sum;
#define REFUSED(change)                                                                            \
    do {                                                                                           \
        how = good;                                                                                \
        change;                                                                                    \
        assert_int_equal(flow_parallel_reduce(0, 10, 1, &how, &sum), -EINVAL);                     \
    } while (0)
    REFUSED(how.size--);
    REFUSED(how.bytes = 0);
    REFUSED(how.bytes = FLOW_REDUCTION_BYTES + 1);
    REFUSED(how.identity = NULL);
    REFUSED(how.fold = NULL);
    REFUSED(how.combine = NULL);
    assert_int_equal(flow_parallel_reduce(0, 10, 1, NULL, &sum), -EINVAL);
    assert_int_equal(flow_parallel_reduce(0, 10, 1, &good, NULL), -EINVAL);
    assert_int_equal(flow_parallel_reduce(0, 10, -1, &good, &sum), -EINVAL);
    assert_int_equal(flow_parallel_reduce(10, 0, 1, &good, &sum), -EINVAL);
}

static flow_result in_a_section(void *arg)
{
    struct marks *marks = arg;

    flow__reclaim_enter();
    EXPECT_EQ(flow_parallel_for(0, 10, 1, mark, marks), -EDEADLK);
    flow__reclaim_leave();
    return flow_ok(NULL);
}

static void within_an_rcu_section(void **state)
{
    struct marks *marks = calloc(1, sizeof *marks);

    (void)state;
    test_start();
    assert_int_equal(flow_sync_wait(in_a_section, marks, NULL, FLOW_FOREVER), 0);
    assert_int_equal(atomic_load(&marks->pieces), 0);
    test_stop();
    free(marks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_index_once),
        TEST(outside_of_coroutines),
        TEST(the_longest_range),
        TEST(the_longest_range_on_uneven_nodes),
        TEST(loops_in_loops),
        TEST(an_error_is_the_first_by_index),
        TEST(an_error_cancels_what_runs),
        TEST(cancellation_passes_through),
        TEST(and_its_reason),
        TEST(flow_stop_does_not_reach_into_a_shield),
        TEST(an_error_in_a_shield_cancels_too),
        TEST(no_piece_begins_after_that),
        TEST(what_does_not_commute),
        TEST(the_same_to_the_last_bit),
        TEST(identity_and_value_may_be_one_variable),
        TEST(a_fold_may_fail),
        TEST(any_number_of_pieces_on_the_smallest_stack),
        TEST(each_node_has_a_share),
        TEST(every_index_once_on_nodes_of_any_size),
        TEST(it_does_not_wait_for_a_busy_node),
        TEST(with_hardly_any_block),
        TEST(misuse),
        TEST(within_an_rcu_section),
    };

    return cmocka_run_group_tests_name("parallel", tests, NULL, NULL);
}
