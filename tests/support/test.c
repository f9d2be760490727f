/* SPDX-License-Identifier: MIT
 *
 * See test.h. The record of failures is written by any thread, once, and read by the test's. */
#include "tests/support/test.h"
#include "sync/spin.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- expectations ---- */

static atomic_uint failures;
static atomic_bool first_is_complete;
static char first[400];

static void note(const char *file, int line, const char *format, ...)
{
    va_list args;
    int n;

    if (atomic_fetch_add(&failures, 1) != 0)
        return;
    n = snprintf(first, sizeof first, "%s:%d: ", file, line);
    va_start(args, format);
    vsnprintf(first + n, sizeof first - (size_t)n, format, args);
    va_end(args);
    atomic_store(&first_is_complete, true);
}

void test__note_failure(const char *file, int line, const char *text)
{
    note(file, line, "expected %s", text);
}

void test__expect_equal(const char *file, int line, const char *text, long long actual, long long expected)
{
    if (actual != expected)
        note(file, line, "%s is %lld, expected %lld", text, actual, expected);
}

bool test_failed(void)
{
    return atomic_load(&failures) != 0;
}

void test__judge(const char *file, int line)
{
    unsigned n = atomic_load(&failures);

    if (n == 0)
        return;
    while (!atomic_load(&first_is_complete))
        test_nap(FLOW_US(100));
    print_error("%u expectations failed in coroutines or threads, first of all\n%s\n", n, first);
    atomic_store(&first_is_complete, false);
    atomic_store(&failures, 0);
    _fail(file, line);
}

/* ---- the time limit ---- */

static void time_is_up(int signal_number)
{
    static const char text[] = "time limit: the live coroutines follow\n";

    (void)signal_number;
    alarm(10); /* once more, with the default action, in case the dump hangs */
    if (write(2, text, sizeof text - 1) < 0)
        _exit(124);
    flow_dump(2);
    _exit(124);
}

void test_limit(unsigned seconds)
{
    struct sigaction action = {.sa_handler = time_is_up, .sa_flags = (int)(SA_RESETHAND | SA_NODEFER)};

    sigaction(SIGALRM, &action, NULL);
    alarm(seconds);
}

int test_setup(void **state)
{
    (void)state;
    test_limit(TEST_ROUNDS(60, 240));
    return 0;
}

int test_teardown(void **state)
{
    (void)state;
    flow_stop(flow_after(FLOW_S(2)));
    atomic_store(&first_is_complete, false);
    atomic_store(&failures, 0);
    test_limit(0);
    return 0;
}

/* ---- the runtime ---- */

long test_storm_size(long usual)
{
    const char *text = getenv("FLOW_TEST_STORM");

    return text ? atol(text) : usual;
}

int test_workers(void)
{
    const char *text = getenv("FLOW_TEST_WORKERS");

    int n = text ? atoi(text) : 2;

    if (n < 1 || n > TEST_MOST_WORKERS) {
        fprintf(stderr, "FLOW_TEST_WORKERS is \"%s\": it must be from 1 to %d\n", text, TEST_MOST_WORKERS);
        exit(2);
    }
    return n;
}

struct flow_options test_options(void)
{
    struct flow_options options = FLOW_OPTIONS_INIT;

    options.workers = test_workers();
    options.stall_ns = 0; /* a debug build would add its monitor to the threads that tests count, */
    options.report_leaks = false; /* and tell of all that they leave behind on purpose */
    return options;
}

void test_start_with(const struct flow_options *options)
{
    int r = flow_start(options);

    if (r)
        fail_msg("flow_start: %d: %s", r, flow_start_error());
}

void test_start(void)
{
    struct flow_options options = test_options();

    test_start_with(&options);
}

void test_start_driven(void)
{
    struct flow_options options = test_options();

    options.workers = 0;
    test_start_with(&options);
}

void test_start_stacks(size_t stack_bytes)
{
    struct flow_options options = test_options();

    options.stack_bytes = stack_bytes;
    test_start_with(&options);
}

struct flow_stats test_stats(void)
{
    struct flow_stats stats = {.size = sizeof stats};

    EXPECT_EQ(flow_stats(&stats), 0);
    return stats;
}

bool test_wait_until_empty(void)
{
    flow_deadline deadline = flow_after(FLOW_S(20));

    while (test_stats().live != 0) {
        if (flow_now() >= deadline)
            return false;
        test_nap(FLOW_US(200));
    }
    return true;
}

/* What the workers counted adds up to the total; and once no task is left, every stack has come
 * back, a moment later. */
static void expect_conservation(void)
{
    flow_deadline deadline = flow_after(FLOW_S(5));
    struct flow_stats stats = test_stats();
    uint64_t spawned = stats.foreign_spawned, finished = 0;

    if (stats.live != 0)
        return;
    for (int i = 0; i < (stats.workers > 0 ? stats.workers : 1); i++) {
        struct flow_worker_stats one = {0};

        EXPECT_EQ(flow_stats_worker(i, &one), 0);
        spawned += one.spawned;
        finished += one.finished;
    }
    EXPECT_EQ(spawned, stats.total.spawned);
    EXPECT_EQ(finished, stats.total.finished);
    EXPECT_EQ(spawned, finished);
    while (stats.total.stacks_taken != stats.total.stacks_returned && flow_now() < deadline) {
        test_nap(FLOW_US(100));
        stats = test_stats();
    }
    EXPECT_EQ(stats.total.stacks_taken, stats.total.stacks_returned);
}

void test_stop(void)
{
    int r;

    expect_conservation();
    r = flow_stop(flow_after(FLOW_S(30)));
    assert_no_failures();
    assert_int_equal(r, 0);
}

static flow_result run_body(void *body)
{
    (*(void (**)(void))body)();
    return flow_ok(NULL);
}

static void run_and_stop(void (*body)(void), bool on_thread_too)
{
    test_start();
    assert_int_equal(flow_sync_wait(run_body, &body, NULL, flow_after(FLOW_S(30))), 0);
    assert_no_failures();
    if (on_thread_too)
        body();
    assert_no_failures();
    assert_true(test_wait_until_empty());
    test_stop();
}

void test_as_task(void (*body)(void))
{
    run_and_stop(body, false);
}

void test_from_both(void (*body)(void))
{
    run_and_stop(body, true);
}

void test_in_coroutine(flow_fn fn)
{
    int r;

    test_start();
    r = flow_sync_wait(fn, NULL, NULL, FLOW_FOREVER);
    assert_no_failures();
    assert_int_equal(r, 0);
    if (!test_wait_until_empty()) {
        flow_dump(2);
        fail_msg("%s", "tasks are left, see above");
    }
    test_stop();
}

/* ---- time, chance, memory ---- */

uint64_t test_seed(void)
{
    const char *text = getenv("FLOW_TEST_SEED");
    struct timespec now;
    uint64_t seed;

    clock_gettime(CLOCK_REALTIME, &now);
    seed = text ? strtoull(text, NULL, 0) : ((uint64_t)now.tv_sec * 1000000007u ^ (uint64_t)now.tv_nsec);
    print_message("FLOW_TEST_SEED=%llu replays this test\n", (unsigned long long)seed);
    return seed;
}

/* splitmix64 */
uint64_t test_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void test_nap(int64_t span_ns)
{
    struct timespec span = {span_ns / 1000000000, span_ns % 1000000000};

    while (nanosleep(&span, &span) && errno == EINTR)
        ;
}

bool test_is_waited_for(uint32_t *guard, void *const *queue)
{
    struct flow__spin *spin = (void *)guard;
    bool yes;

    flow__spin_lock(spin);
    yes = queue[0] != NULL;
    flow__spin_unlock(spin);
    return yes;
}

size_t test_rss_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long size = 0, resident = 0;

    if (!f)
        return 0;
    if (fscanf(f, "%lu %lu", &size, &resident) != 2)
        resident = 0;
    fclose(f);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}
