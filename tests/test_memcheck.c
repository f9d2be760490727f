/* SPDX-License-Identifier: MIT
 *
 * What memcheck knows of stacks, in the build that tells it (SANITIZE=valgrind): below the frames of
 * a coroutine nothing may be touched, what it has not written is undefined, and what the slot's last
 * task has left is nobody's. It is asked without a report (VALGRIND_GET_VBITS: 3 is no memory at all).
 * On one worker, so that the stack that comes back is the one that is used next. */
#include "tests/support/test.h"

#include <stdio.h>

#ifdef FLOW_VALGRIND

#include <string.h>
#include <valgrind/memcheck.h>

enum { NO_MEMORY = 3, FRAME = 2000, FAR_BELOW = 4000 };

static unsigned vbits_at(const char *p, unsigned char *vbits)
{
    *vbits = 0;
    return VALGRIND_GET_VBITS(p, vbits, 1);
}

static uintptr_t written;

static flow_result write_a_frame(void *arg)
{
    char frame[FRAME];

    memset(frame, 'x', sizeof frame);
    written = (uintptr_t)frame;
    __asm__ volatile("" : : "r"(frame) : "memory");
    return flow_ok(arg);
}

/* The frame of this task is small: where the last one's lay is below it. */
static flow_result look_at_stack(void *arg)
{
    char here = 1, unset[64];
    unsigned char vbits;

    __asm__ volatile("" : : "r"(unset) : "memory");
    EXPECT(written < (uintptr_t)&here && (uintptr_t)&here - written < FRAME + 500);
    EXPECT_EQ(vbits_at(&here, &vbits), 1);
    EXPECT_EQ(vbits, 0);
    EXPECT_EQ(vbits_at(unset, &vbits), 1);
    EXPECT_EQ(vbits, 0xff);
    EXPECT_EQ(vbits_at((char *)written + 100, &vbits), NO_MEMORY);
    EXPECT_EQ(vbits_at(&here - FAR_BELOW, &vbits), NO_MEMORY);
    return flow_ok(arg);
}

/* The stack of one that sleeps stays what it was while others run. */
static flow_result sleep_with_frame(void *arg)
{
    char frame[FRAME], unset[64];
    unsigned char vbits;

    memset(frame, 'x', sizeof frame);
    __asm__ volatile("" : : "r"(frame), "r"(unset) : "memory");
    for (int i = 0; i < 5; i++) {
        EXPECT_EQ(flow_sleep(FLOW_US(100)), 0);
        EXPECT_EQ(vbits_at(frame + FRAME / 2, &vbits), 1);
        EXPECT_EQ(vbits, 0);
        EXPECT_EQ(vbits_at(unset, &vbits), 1);
        EXPECT_EQ(vbits, 0xff);
    }
    return flow_ok(arg);
}

static flow_result many(void *arg)
{
    flow_task task[20];

    for (int i = 0; i < 20; i++)
        EXPECT_EQ(flow_spawn(&task[i], sleep_with_frame, NULL), 0);
    for (int i = 0; i < 20; i++) {
        EXPECT_EQ(flow_spawn_now(NULL, write_a_frame, NULL), 0);
        EXPECT_EQ(flow_spawn_now(NULL, look_at_stack, NULL), 0);
        EXPECT_EQ(flow_yield(), 0);
    }
    EXPECT_EQ(flow_when_all(task, 20, NULL, FLOW_FOREVER), 0);
    return flow_ok(arg);
}

static void test_stacks(void **state)
{
    struct flow_options o = test_options();
    struct flow_spawn_options small = FLOW_SPAWN_INIT;
    flow_task task;

    (void)state;
    o.workers = 1;
    o.stack_bytes = small.stack_bytes = 16 * 1024; /* neighbours are near */
    test_start_with(&o);
    assert_int_equal(flow_spawn_with(&task, &small, many, NULL), 0);
    assert_int_equal(flow_join(task, NULL, FLOW_FOREVER), 0);
    assert_no_failures();
    test_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_stacks)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    puts("skip: memcheck is told of stacks in the build of SANITIZE=valgrind only");
    return 77;
}

#endif
