/* SPDX-License-Identifier: MIT
 *
 * Cases that run in a process of their own: this program, executed anew. So each one meets
 * a runtime that was never started, may die, hang, leak or fork, and a failed
 * requirement may end it from any thread and from inside a coroutine.
 *
 *   CASE(name) { ... }   a test: passes when it returns (or calls exit(0))
 *   JUDGED(name) { ... } a test in the parent, where cmocka's assertions may be used; it runs
 *   CHILD(name) { ... }  these, with child_run(), and judges how they ended
 *
 * main() calls cases_main(). `program part-of-a-name` runs fewer. */
#ifndef FLOW_TESTS_CHILD_H
#define FLOW_TESTS_CHILD_H

#include "tests/support/test.h"

#include <stdio.h>

enum { CHILD_LIMIT_S = 60, CHILD_FAILED = 99, CHILD_SKIPPED = 77 };

struct child_end {
    int code;  /* exit status, or -1 */
    int signo; /* the signal that killed it, or 0 */
    bool hung; /* it ran into the limit and was killed */
    double seconds;
    size_t n;
    char text[65536]; /* what it wrote to stdout and stderr */
};

enum case_kind { IS_CASE, IS_JUDGED, IS_CHILD };

struct test_case {
    const char *name;
    enum case_kind kind;
    void (*body)(const char *arg);
    struct test_case *next;
};

void case_register(struct test_case *c);
int cases_main(int argc, char **argv);

#define CASE_OF(kind, name)                                                                        \
    static void body_of_##name(const char *arg);                                                   \
    __attribute__((constructor)) static void register_##name(void)                                 \
    {                                                                                              \
        static struct test_case c = {#name, kind, body_of_##name, NULL};                           \
        case_register(&c);                                                                         \
    }                                                                                              \
    static void body_of_##name(const char *arg __attribute__((unused)))

#define CASE(name)   CASE_OF(IS_CASE, name)
#define JUDGED(name) CASE_OF(IS_JUDGED, name)
#define CHILD(name)  CASE_OF(IS_CHILD, name)

/* Runs CHILD(name) with arg ("" for none) to its end. */
void child_run(struct child_end *end, const char *name, const char *arg);

/* In the parent: fails the test, showing what the child wrote, unless this is so. */
void child_must_exit(const struct child_end *end, int code);
void child_must_die(const struct child_end *end,
                    int signo); /* under a sanitizer: by whatever means */
void child_must_say(const struct child_end *end, const char *text);

/* In a child: what must be so. Ends the child at once, from anywhere. */
#define REQUIRE(condition)                                                                         \
    ((condition) ? (void)0 : child_fail(__FILE__, __LINE__, #condition " does not hold"))
#define REQUIRE_EQUAL(a, b) child_equal(__FILE__, __LINE__, #a, (long long)(a), #b, (long long)(b))

_Noreturn void child_fail(const char *file, int line, const char *what);
void child_equal(const char *file, int line, const char *a_text, long long a, const char *b_text,
                 long long b);

/* In a child or a JUDGED case: ends it as skipped. */
_Noreturn void skip_case(const char *reason);

/* A line for the log of the whole run. */
void child_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* For what cannot be waited for otherwise; at most 20 s. */
#define WAIT_UNTIL(condition)                                                                      \
    do {                                                                                           \
        int rounds_ = 0;                                                                           \
        while (!(condition)) {                                                                     \
            REQUIRE(rounds_++ < 100000 && "in time: " #condition);                                 \
            test_nap(FLOW_US(200));                                                                \
        }                                                                                          \
    } while (0)

/* What execv(argv[0], argv) takes to run CHILD(name) with arg, in a process of whatever kind. */
enum { CHILD_ARGS = 6 };
void child_command(char *argv[CHILD_ARGS], const char *name, const char *arg);

/* Of this process. */
long thread_count(void);
long descriptor_count(void);
long resident_kb(void);

#endif
