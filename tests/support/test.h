/* SPDX-License-Identifier: MIT
 *
 * What the test programs share.
 *
 * cmocka's asserts longjmp, so they may be used on the test's own thread only. In
 * coroutines, workers and helper threads use EXPECT: it records, and
 * assert_no_failures() judges on the test's thread.
 *
 *   FLOW_TEST_WORKERS  workers of test_start() (2)
 *   FLOW_TEST_SEED     replays what test_seed() chose before
 *   FLOW_TEST_STORM    coroutines in a cancel storm: 1000000 take 4 GB and some 10 s */
#ifndef FLOW_TESTS_SUPPORT_TEST_H
#define FLOW_TESTS_SUPPORT_TEST_H

/* cmocka.h wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <flowcoro.h>

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define TEST_TSAN 1
#else
#define TEST_TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define TEST_ASAN 1
#else
#define TEST_ASAN 0
#endif
#ifdef FLOW_VALGRIND
#define TEST_VALGRIND 1
#else
#define TEST_VALGRIND 0
#endif
#define TEST_SANITIZED (TEST_ASAN || TEST_TSAN || TEST_VALGRIND)

/* Built for an emulator of another CPU (make check-arm64): -DFLOW_TEST_EMULATED. */
#ifdef FLOW_TEST_EMULATED
#define TEST_EMULATED 1
#else
#define TEST_EMULATED 0
#endif
#define TEST_SLOW (TEST_SANITIZED || TEST_EMULATED)

/* A number of rounds, or fewer where each takes ten times as long. */
#define TEST_ROUNDS(plain, slow) (TEST_SLOW ? (slow) : (plain))

/* How many coroutines are cancelled at once, unless FLOW_TEST_STORM says another number. */
long test_storm_size(long usual);

/* ---- expectations, from any thread or coroutine ---- */

#define EXPECT(condition)                                                                          \
    ((condition) ? (void)0 : test__note_failure(__FILE__, __LINE__, #condition))

/* Two integers; both are shown. */
#define EXPECT_EQ(actual, expected)                                                                \
    test__expect_equal(__FILE__, __LINE__, #actual, (long long)(actual), (long long)(expected))

void test__note_failure(const char *file, int line, const char *text);
void test__expect_equal(const char *file, int line, const char *text, long long actual, long long expected);

/* Fails the test if an EXPECT has failed since the last call, and shows the first that did. */
#define assert_no_failures() test__judge(__FILE__, __LINE__)
void test__judge(const char *file, int line);

/* Has one failed since? */
bool test_failed(void);

/* ---- the runtime ---- */

enum { TEST_MOST_WORKERS = 64 };
int test_workers(void); /* at most TEST_MOST_WORKERS */
struct flow_options test_options(void); /* the defaults, with test_workers() */

/* Starts the runtime; ends it and asserts that nothing failed and nothing was left: what lives is
 * flow_stop's; if nothing does, all that was spawned has finished and all stacks are back. */
void test_start(void);
void test_start_with(const struct flow_options *options);
void test_start_driven(void); /* without workers */
void test_start_stacks(size_t stack_bytes);
void test_stop(void);

/* Starts, runs fn(NULL) as a task to its end, and stops. */
void test_in_coroutine(flow_fn fn);

/* The same with a test's body, which uses only EXPECT; and then once more on this very thread. */
void test_as_task(void (*body)(void));
void test_from_both(void (*body)(void));

/* Waits until all tasks have ended; false after 20 s. From the test's thread. */
bool test_wait_until_empty(void);

struct flow_stats test_stats(void);

/* ---- time, chance, memory ---- */

/* For every test, as cmocka's setup: after `seconds` all coroutines are dumped and the
 * process ends with status 124. 0 takes the limit away. */
void test_limit(unsigned seconds);
int test_setup(void **state);    /* test_limit(60), 240 under a sanitizer */
int test_teardown(void **state); /* stops a runtime that a failed test has left */

#define TEST(function) cmocka_unit_test_setup_teardown(function, test_setup, test_teardown)

/* A seed, printed; FLOW_TEST_SEED if that is set. */
uint64_t test_seed(void);
uint64_t test_random(uint64_t *state);

/* Sleeps the calling thread. */
void test_nap(int64_t span_ns);

/* Does anybody wait in the queue of a lock or the like, which this guard guards? */
bool test_is_waited_for(uint32_t *guard, void *const *queue);

/* Resident memory of this process. */
size_t test_rss_bytes(void);

#endif
