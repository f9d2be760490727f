/* SPDX-License-Identifier: MIT
 *
 * The two measurements that are off unless asked for: how much of its stack a task has used, and
 * which task keeps a worker. With FLOW_TEST_WORKERS workers, 2 if it is not set; what needs a
 * certain number starts that many. */
#include "sync/syscall.h"
#include "tests/support/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- stacks ---- */

/* What lies on a measured stack besides the frame in question: the library's first frame, the
 * test's own, and those of the calls made from it. */
#if defined(__aarch64__)
enum { PLAIN_FRAMES = 1024 }; /* larger frames: more registers to save, and 16-byte alignment */
#else
enum { PLAIN_FRAMES = 512 };
#endif
enum { OWN_FRAMES = TEST_SANITIZED ? 2048 : PLAIN_FRAMES, KIB = 1024 };

static void start_measured(size_t stack_bytes)
{
    struct flow_options o = test_options();

    o.measure_stacks = true;
    o.stack_bytes = stack_bytes;
    test_start_with(&o);
}

/* A function whose frame is a known size; writes all of it, and goes on to then(arg) down there. */
#define FRAME(kib)                                                                                 \
    static __attribute__((noinline)) void frame_##kib(void (*then)(void *), void *arg)             \
    {                                                                                              \
        volatile char room[(kib) * KIB];                                                           \
                                                                                                   \
        for (size_t i = 0; i < sizeof room; i++)                                                   \
            room[i] = (char)i;                                                                     \
        then(arg);                                                                                 \
        room[0] = room[sizeof room - 1];                                                           \
    }

FRAME(1)
FRAME(4)
FRAME(8)
FRAME(10)
FRAME(40)

/* 16 KiB less a guard page of 4 and the colour of up to 960 bytes leave 11 KiB. */
static const struct known {
    size_t stack_bytes, frame_bytes;
    void (*frame)(void (*then)(void *), void *arg);
} all_known[] = {{16 * KIB, 1 * KIB, frame_1},
                 {16 * KIB, 4 * KIB, frame_4},
                 {16 * KIB, 8 * KIB, frame_8},
                 {16 * KIB, 10 * KIB, frame_10},
                 {64 * KIB, 40 * KIB, frame_40}};
enum { N_KNOWN = sizeof all_known / sizeof *all_known };

static void require_near(size_t used, size_t frame_bytes)
{
    if (used < frame_bytes || used > frame_bytes + frame_bytes / 10 + OWN_FRAMES)
        fprintf(stderr, "a frame of %zu bytes was measured as %zu\n", frame_bytes, used);
    REQUIRE(used >= frame_bytes);
    REQUIRE(used <= frame_bytes + frame_bytes / 10 + OWN_FRAMES);
}

static size_t used_by(flow_task task)
{
    size_t used = 0;

    REQUIRE_EQUAL(flow_stack_used(task, &used), 0);
    return used;
}

static void measure_self(void *used)
{
    *(size_t *)used = used_by(flow_self());
}

static void nothing(void *unused)
{
    (void)unused;
}

/* From the depth itself, and afterwards. */
static flow_result use_and_measure(void *arg)
{
    const struct known *known = arg;
    size_t before = used_by(flow_self()), deep = 0;

    require_near(before, 0);
    known->frame(measure_self, &deep);
    require_near(deep, known->frame_bytes);
    require_near(used_by(flow_self()), known->frame_bytes);
    return flow_ok(NULL);
}

/* Slots are used again: what one task has left there is not the next one's. */
CASE(known_frames_are_measured_by_the_task_itself)
{
    for (int i = 0; i < N_KNOWN; i++) {
        start_measured(all_known[i].stack_bytes);
        for (int j = i; j >= 0; j--)
            REQUIRE_EQUAL(flow_sync_wait(use_and_measure, (void *)&all_known[j], NULL, FLOW_FOREVER), 0);
        test_stop();
    }
}

struct sleeper {
    const struct known *known;
    flow_waker waker;
    atomic_bool waits;
};

static int publish(flow_waker waker, void *arg)
{
    struct sleeper *s = arg;

    s->waker = waker;
    atomic_store(&s->waits, true);
    return 0;
}

static flow_result use_and_wait(void *arg)
{
    struct sleeper *s = arg;

    s->known->frame(nothing, NULL);
    EXPECT_EQ(flow_suspend(publish, s, FLOW_FOREVER), 0);
    return flow_ok(NULL);
}

static flow_result measure_others(void *unused)
{
    (void)unused;
    for (int i = 0; i < N_KNOWN; i++) {
        struct flow_spawn_options o = FLOW_SPAWN_INIT;
        struct sleeper s = {.known = &all_known[i]};
        flow_task t;

        o.stack_bytes = s.known->stack_bytes;
        REQUIRE_EQUAL(flow_spawn_with(&t, &o, use_and_wait, &s), 0);
        while (!atomic_load(&s.waits))
            flow_yield();
        require_near(used_by(t), s.known->frame_bytes);
        REQUIRE_EQUAL(flow_wake(s.waker), 0);
        REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
    }
    return flow_ok(NULL);
}

CASE(known_frames_are_measured_by_another_task)
{
    start_measured(64 * KIB);
    REQUIRE_EQUAL(flow_sync_wait(measure_others, NULL, NULL, FLOW_FOREVER), 0);
    test_stop();
}

CASE(known_frames_are_measured_by_a_foreign_thread)
{
    for (int i = 0; i < N_KNOWN; i++) {
        struct sleeper s = {.known = &all_known[i]};
        flow_task t;

        start_measured(s.known->stack_bytes);
        REQUIRE_EQUAL(flow_spawn(&t, use_and_wait, &s), 0);
        WAIT_UNTIL(atomic_load(&s.waits));
        require_near(used_by(t), s.known->frame_bytes);
        REQUIRE_EQUAL(flow_wake(s.waker), 0);
        REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
        test_stop();
    }
}

static flow_result use(void *arg)
{
    ((const struct known *)arg)->frame(nothing, NULL);
    return flow_ok(NULL);
}

CASE(the_most_of_all_that_ended_is_counted)
{
    struct flow_worker_stats one;
    uint64_t most = 0;

    start_measured(64 * KIB);
    for (int i = 0; i < 50; i++) {
        REQUIRE_EQUAL(flow_sync_wait(use, (void *)&all_known[i % 4], NULL, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(flow_sync_wait(use, (void *)&all_known[0], NULL, FLOW_FOREVER), 0);
    }
    require_near(test_stats().total.stack_used_most, 10 * KIB);
    REQUIRE_EQUAL(flow_sync_wait(use, (void *)&all_known[4], NULL, FLOW_FOREVER), 0);
    require_near(test_stats().total.stack_used_most, 40 * KIB);
    for (int i = 0; i < test_workers(); i++) {
        REQUIRE_EQUAL(flow_stats_worker(i, &one), 0);
        most = one.stack_used_most > most ? one.stack_used_most : most;
    }
    REQUIRE_EQUAL(most, test_stats().total.stack_used_most);
    test_stop();
}

static flow_result ask_in_vain(void *unused)
{
    size_t used = 77;

    (void)unused;
    REQUIRE_EQUAL(flow_stack_used(flow_self(), &used), -EINVAL);
    REQUIRE_EQUAL(used, 77);
    return flow_ok(NULL);
}

CASE(measuring_is_off_by_default)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    size_t used;

    REQUIRE(!o.measure_stacks);
    REQUIRE_EQUAL(flow_options_parse(&o, "measure_stacks=1"), 0);
    REQUIRE(o.measure_stacks);
    REQUIRE_EQUAL(flow_options_parse(&o, "measure_stacks=2"), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "measure_stacks"));
    REQUIRE_EQUAL(flow_stack_used((flow_task){1}, &used), -ESHUTDOWN);
    start_measured(64 * KIB); /* a runtime that measured leaves nothing to the next */
    REQUIRE_EQUAL(flow_sync_wait(use, (void *)&all_known[0], NULL, FLOW_FOREVER), 0);
    test_stop();
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(ask_in_vain, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(test_stats().total.stack_used_most, 0);
    test_stop();
}

static flow_result wait_for(void *flag)
{
    while (!atomic_load((atomic_bool *)flag))
        flow_yield();
    return flow_ok(NULL);
}

static flow_result ask_for_what_is_not_there(void *unused)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    atomic_bool go = false;
    flow_task t;
    size_t used = 77;

    (void)unused;
    o.worker = 0;
    o.flags = FLOW_PINNED;
    REQUIRE_EQUAL(flow_spawn_with(&t, &o, wait_for, &go), 0);
    /* Not started: it starts on our worker, which we keep. */
    REQUIRE_EQUAL(flow_stack_used(t, &used), -ESRCH);
    flow_yield();
    while (flow_stack_used(t, &used) == -ESRCH)
        flow_yield();
    REQUIRE_EQUAL(flow_stack_used(t, NULL), -EINVAL);
    atomic_store(&go, true);
    while (flow_stack_used(t, &used) == 0)
        flow_yield();
    used = 77;
    REQUIRE_EQUAL(flow_stack_used(t, &used), -ESRCH); /* ended, not joined */
    REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stack_used(t, &used), -ESRCH); /* stale */
    REQUIRE_EQUAL(flow_stack_used((flow_task){0}, &used), -ESRCH);
    REQUIRE_EQUAL(flow_stack_used((flow_task){UINT64_MAX}, &used), -ESRCH);
    REQUIRE_EQUAL(flow_stack_used((flow_task){flow_self().id + ((uint64_t)1 << 40)}, &used), -ESRCH);
    REQUIRE_EQUAL(used, 77);
    return flow_ok(NULL);
}

CASE(what_cannot_be_measured_is_refused)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    flow_task t;
    size_t used;

    start_measured(64 * KIB);
    o.worker = 0;
    o.flags = FLOW_PINNED;
    REQUIRE_EQUAL(flow_spawn_with(&t, &o, ask_for_what_is_not_there, NULL), 0);
    REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stack_used(t, &used), -ESRCH);
    REQUIRE_EQUAL(flow_stack_used(t, NULL), -EINVAL);
    test_stop();
}

/* Tasks come and go on the same slots while threads measure them: a figure is never above what
 * one of these tasks uses. */
static _Atomic uint64_t shown;
static atomic_bool over;

static flow_result show_and_use(void *unused)
{
    (void)unused;
    atomic_store(&shown, flow_self().id);
    frame_4(nothing, NULL);
    flow_yield();
    return flow_ok(NULL);
}

static flow_result use_more(void *unused)
{
    (void)unused;
    frame_10(nothing, NULL);
    return flow_ok(NULL);
}

static void *measure_what_is_shown(void *good)
{
    while (!atomic_load(&over)) {
        size_t used = 0;
        int r = flow_stack_used((flow_task){atomic_load(&shown)}, &used);

        REQUIRE(r == 0 || r == -ESRCH);
        REQUIRE(used <= 4 * KIB + OWN_FRAMES + 4 * KIB / 10);
        *(long *)good += !r;
    }
    return NULL;
}

static flow_result come_and_go(void *unused)
{
    (void)unused;
    for (int i = 0; i < TEST_ROUNDS(20000, 2000); i++) {
        flow_task t, u;

        REQUIRE_EQUAL(flow_spawn(&t, show_and_use, NULL), 0);
        REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(flow_spawn(&u, use_more, NULL), 0);
        REQUIRE_EQUAL(flow_join(u, NULL, FLOW_FOREVER), 0);
    }
    return flow_ok(NULL);
}

CASE(measuring_races_with_the_end_of_the_task)
{
    pthread_t thread;
    long good = 0;

    start_measured(16 * KIB);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, measure_what_is_shown, &good), 0);
    REQUIRE_EQUAL(flow_sync_wait(come_and_go, NULL, NULL, FLOW_FOREVER), 0);
    atomic_store(&over, true);
    pthread_join(thread, NULL);
    child_note("measured a task that came and went %ld times", good);
    test_stop();
}

static int refuse(void *start, size_t bytes, int what)
{
    (void)start, (void)bytes, (void)what;
    return -EINVAL;
}

static int refuse_guards(void *start, size_t bytes, int advice)
{
    return advice == 102 ? -EINVAL : flow__sys_real.advise(start, bytes, advice);
}

/* There the slot's lowest words are the canary: a task that ends would die of a wrong one. */
CASE(canaries_stay_intact)
{
    struct flow_info info = {.size = sizeof info};

    flow__sys.advise = refuse_guards;
    flow__sys.protect = refuse;
    start_measured(16 * KIB);
    REQUIRE_EQUAL(flow_info(&info), 0);
    REQUIRE(!strcmp(info.guard, "canary"));
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_sync_wait(use_and_measure, (void *)&all_known[i % 4], NULL, FLOW_FOREVER), 0);
    test_stop();
}

/* ---- stalls ---- */

enum { STALL_MS = 50 };

static void start_watched(int workers)
{
    struct flow_options o = test_options();

    o.workers = workers;
    o.stall_ns = FLOW_MS(STALL_MS);
    test_start_with(&o);
}

static void run_pinned(int worker, const char *name, flow_fn fn, void *arg, flow_task *out)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;

    o.name = name;
    o.worker = worker;
    o.flags = FLOW_PINNED;
    REQUIRE_EQUAL(flow_spawn_with(out, &o, fn, arg), 0);
}

static int count_of(const char *text, const char *what)
{
    int n = 0;

    for (; (text = strstr(text, what)); text += strlen(what))
        n++;
    return n;
}

static const char kept[] = "has been kept for";

static flow_result block(void *unused)
{
    (void)unused;
    usleep(10 * STALL_MS * 1000);
    return flow_ok(NULL);
}

static flow_result block_and_say_who(void *unused)
{
    fprintf(stderr, "the id is %#llx\n", (unsigned long long)flow_self().id);
    return block(unused);
}

CHILD(stall_once)
{
    flow_task t;

    start_watched(2);
    run_pinned(1, "the-sleeper", block_and_say_who, NULL, &t);
    REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
    test_stop();
}

JUDGED(a_stall_is_reported_once_with_all_that_is_known)
{
    static struct child_end end;
    char id[32], text[128];
    const char *line;
    int worker;
    long ms;

    child_run(&end, "stall_once", "");
    child_must_exit(&end, 0);
    child_must_say(&end, kept);
    assert_int_equal(count_of(end.text, "flowcoro:"), 1);
    line = strstr(end.text, "flowcoro: worker");
    assert_non_null(line);
    assert_int_equal(sscanf(line, "flowcoro: worker %d has been kept for %ld ms", &worker, &ms), 2);
    assert_int_equal(worker, 1);
    assert_true(ms >= STALL_MS);
    child_must_say(&end, "\"the-sleeper\", spawned at 0x");
    line = strstr(end.text, "the id is ");
    assert_non_null(line);
    assert_int_equal(sscanf(line, "the id is %31s", id), 1);
    snprintf(text, sizeof text, "by coroutine %s \"the-sleeper\"", id);
    child_must_say(&end, text);
}

CHILD(stall_with_a_bad_name)
{
    flow_task t;

    start_watched(1);
    run_pinned(0, "a\nflowcoro: \x1b", block, NULL, &t);
    REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
    test_stop();
}

JUDGED(a_name_cannot_make_lines_of_a_report)
{
    static struct child_end end;

    child_run(&end, "stall_with_a_bad_name", "");
    child_must_exit(&end, 0);
    child_must_say(&end, " \"a?flowcoro: ?\", spawned at 0x");
}

/* ---- with a backtrace ---- */

#define KEEP  __asm__ volatile("" ::: "memory") /* so that no call before it is a jump */

__attribute__((noinline, used)) static void sleep_in_the_kernel(void)
{
    block(NULL);
    KEEP;
}

__attribute__((noinline, used)) static void run_in_circles(void)
{
    flow_deadline end = flow_after(FLOW_MS(10 * STALL_MS));

    while (flow_now() < end)
        ;
    KEEP;
}

__attribute__((noinline, used)) static flow_result stall_as_told(void *by_running)
{
    if (by_running)
        run_in_circles();
    else
        sleep_in_the_kernel();
    KEEP;
    return flow_ok(NULL);
}

static volatile sig_atomic_t urgent;

static void on_urgent(int unused)
{
    (void)unused;
    urgent = 1;
}

CHILD(stall_with_backtrace)
{
    bool runs = !strcmp(arg, "runs"), own = !strcmp(arg, "own");
    int64_t begun;
    flow_task t;

    if (own)
        signal(SIGURG, on_urgent);
    start_watched(2);
    begun = flow_now();
    run_pinned(1, "", stall_as_told, runs || own ? "" : NULL, &t);
    REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
    /* Nothing has cut it short. */
    REQUIRE(flow_now() - begun >= FLOW_MS(10 * STALL_MS));
    test_stop();
    REQUIRE(!urgent);
    REQUIRE(signal(SIGURG, SIG_DFL) == (own ? on_urgent : SIG_DFL));
}

static void must_show(const struct child_end *end, const char *const names[], int n)
{
    const char *at = end->text;
    char what[64];

    for (int i = 0; i < n && at; i++) {
        snprintf(what, sizeof what, " %s+0x", names[i]);
        at = strstr(at, what);
    }
    if (!at)
        print_error("%s", end->text);
    assert_non_null(at);
}

/* By the kernel: nothing but where it stands. With frame pointers, as in a debug build and under
 * sanitizers, that is not enough for more than the first frames. */
JUDGED(where_it_blocks_is_told)
{
    static struct child_end end;

    child_run(&end, "stall_with_backtrace", "blocks");
    child_must_exit(&end, 0);
    assert_int_equal(count_of(end.text, kept), 1);
    if (TEST_SLOW)
        skip_case("a sanitizer's functions stand between, or an emulator");
    must_show(&end,
              (const char *const[]){"sleep_in_the_kernel", "stall_as_told",
                                    "flow__task_main", "flow__call"},
              4);
}

#define FOUR_OF(name) FOUR_OF_(name)
#define FOUR_OF_(name) name##name##name##name
#define LONG_NAME FOUR_OF(FOUR_OF(a_function_with_)) /* 256 characters */

static int gate[2], reports[2];

__attribute__((noinline)) static void LONG_NAME(int depth)
{
    char unused;

    if (depth > 0)
        LONG_NAME(depth - 1);
    else
        REQUIRE_EQUAL(read(gate[0], &unused, 1), 1);
    KEEP;
}

static flow_result block_deep_inside(void *unused)
{
    (void)unused;
    LONG_NAME(40);
    return flow_ok(NULL);
}

static void *copy_reports(void *unused)
{
    char bytes[4096];
    ssize_t n;

    (void)unused;
    while ((n = read(reports[0], bytes, sizeof bytes)) > 0)
        REQUIRE_EQUAL(write(STDOUT_FILENO, bytes, (size_t)n), n);
    return NULL;
}

/* The report is longer than what standard error takes, and the stall ends while it is written. */
CHILD(stall_that_ends)
{
    struct pollfd begins;
    pthread_t reader;
    flow_task t;

    REQUIRE_EQUAL(pipe(gate), 0);
    REQUIRE_EQUAL(pipe(reports), 0);
    REQUIRE(fcntl(reports[1], F_SETPIPE_SZ, 4096) > 0);
    REQUIRE(dup2(reports[1], STDERR_FILENO) == STDERR_FILENO);
    close(reports[1]);
    start_watched(2);
    run_pinned(1, "", block_deep_inside, NULL, &t);
    begins = (struct pollfd){.fd = reports[0], .events = POLLIN};
    REQUIRE_EQUAL(poll(&begins, 1, 20000), 1);
    REQUIRE_EQUAL(write(gate[1], "", 1), 1);
    REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(pthread_create(&reader, NULL, copy_reports, NULL), 0);
    test_stop();
    close(STDERR_FILENO);
    REQUIRE_EQUAL(pthread_join(reader, NULL), 0);
}

JUDGED(a_report_that_has_begun_is_made_whole)
{
    static struct child_end end;

    if (TEST_SLOW)
        skip_case("a sanitizer's functions stand between, or an emulator");
    child_run(&end, "stall_that_ends", "");
    child_must_exit(&end, 0);
    assert_int_equal(count_of(end.text, kept), 1);
    assert_true(end.n > 8192);
    child_must_say(&end, " block_deep_inside+0x");
    child_must_say(&end, " flow__call+0x");
    assert_true(end.text[end.n - 1] == '\n');
}

/* By a signal, which the monitor waits for a short time only: where the CPUs are busy with others, the
 * answer may come too late, or the stall be over. So there are several goes at it. */
JUDGED(where_it_runs_is_told)
{
    static struct child_end end;
    int goes = 20;

    do {
        child_run(&end, "stall_with_backtrace", "runs");
        child_must_exit(&end, 0);
    } while (--goes > 0 && !TEST_TSAN && !TEST_EMULATED && !strstr(end.text, "run_in_circles"));
    assert_int_equal(count_of(end.text, kept), 1);
    if (TEST_TSAN || TEST_EMULATED)
        skip_case("ThreadSanitizer delivers signals later; an emulator's thread may wait elsewhere");
    must_show(
        &end,
        (const char *const[]){"run_in_circles", "stall_as_told", "flow__task_main", "flow__call"},
        4);
}

/* What the program does with SIGURG is its own affair. */
JUDGED(a_signal_that_is_in_use_is_left_alone)
{
    static struct child_end end;

    child_run(&end, "stall_with_backtrace", "own");
    child_must_exit(&end, 0);
    assert_int_equal(count_of(end.text, kept), 1);
    assert_null(strstr(end.text, "run_in_circles"));
}

/* Stalls that end just as they are looked at. */
static flow_result stall_a_little(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg;

    for (int i = 0; i < 400; i++) {
        flow_deadline end = flow_after((int64_t)(test_random(&random) % FLOW_MS(4)));

        if (i % 2)
            usleep((useconds_t)(test_random(&random) % 4000));
        else
            while (flow_now() < end)
                ;
        flow_yield();
    }
    return flow_ok(NULL);
}

CASE(it_may_go_on_meanwhile)
{
    struct flow_options o = test_options();
    uint64_t seed = test_seed();

    o.stall_ns = FLOW_MS(1);
    test_start_with(&o);
    for (int i = 0; i < test_workers(); i++)
        run_pinned(i, "now and then", stall_a_little, (void *)(uintptr_t)test_random(&seed), NULL);
    REQUIRE(test_wait_until_empty());
    test_stop();
}

static flow_result block_in_a_call(void *unused)
{
    REQUIRE_EQUAL(flow_spawn_now(NULL, block, unused), 0);
    return flow_ok(NULL);
}

CHILD(stall_of_a_called_task)
{
    flow_task t;

    start_watched(test_workers());
    run_pinned(0, "the-caller", block_in_a_call, NULL, &t);
    REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
    test_stop();
}

JUDGED(a_called_task_that_stalls_is_reported_as_its_caller)
{
    static struct child_end end;

    child_run(&end, "stall_of_a_called_task", "");
    child_must_exit(&end, 0);
    assert_int_equal(count_of(end.text, "\"the-caller\""), 1);
}

/* A task that was reached by the direct way from one coroutine to the next is the one named. */
static flow_result yield_then_block(void *arg)
{
    for (int i = 0; i < 5; i++)
        flow_yield();
    return arg ? block(NULL) : flow_ok(NULL);
}

static flow_result yield_in_pairs(void *unused)
{
    flow_task a, b;

    (void)unused;
    run_pinned(0, "innocent", yield_then_block, NULL, &a);
    run_pinned(0, "guilty", yield_then_block, "", &b);
    REQUIRE_EQUAL(flow_join(a, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_join(b, NULL, FLOW_FOREVER), 0);
    return flow_ok(NULL);
}

CHILD(stall_after_yields)
{
    flow_task t;

    start_watched(test_workers());
    run_pinned(0, "innocent", yield_in_pairs, NULL, &t);
    REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
    test_stop();
}

JUDGED(who_stalls_after_yields_is_named)
{
    static struct child_end end;

    child_run(&end, "stall_after_yields", "");
    child_must_exit(&end, 0);
    assert_int_equal(count_of(end.text, "\"guilty\""), 1);
    assert_int_equal(count_of(end.text, "innocent"), 0);
}

/* Two workers. One is blocked until the other has run what was queued at the blocked one. */
static atomic_int steps;

static flow_result step(void *unused)
{
    (void)unused;
    atomic_fetch_add(&steps, 1);
    return flow_ok(NULL);
}

static flow_result queue_and_block(void *unused)
{
    (void)unused;
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, step, NULL), 0);
    WAIT_UNTIL(atomic_load(&steps) == 100); /* blocks this worker */
    return block(NULL);
}

CHILD(stall_with_a_queue)
{
    flow_task t;

    start_watched(2);
    run_pinned(0, "the-blocker", queue_and_block, NULL, &t);
    REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
    test_stop();
}

JUDGED(others_run_the_queue_of_a_stalled_worker)
{
    static struct child_end end;

    child_run(&end, "stall_with_a_queue", "");
    child_must_exit(&end, 0);
    assert_int_equal(count_of(end.text, "\"the-blocker\""), 1);
}

static flow_result stall_again_and_again(void *unused)
{
    (void)unused;
    for (int i = 0; i < 8; i++) {
        usleep(4 * STALL_MS * 1000);
        flow_sleep(FLOW_MS(1));
    }
    return flow_ok(NULL);
}

CHILD(stall_eight_times)
{
    flow_task t;

    start_watched(test_workers());
    run_pinned(0, "again", stall_again_and_again, NULL, &t);
    REQUIRE_EQUAL(flow_join(t, NULL, FLOW_FOREVER), 0);
    test_stop();
}

JUDGED(five_reports_a_minute_and_a_count_of_the_rest)
{
    static struct child_end end;
    const char *line;

    child_run(&end, "stall_eight_times", "");
    child_must_exit(&end, 0);
    assert_int_equal(count_of(end.text, kept), 5);
    line = strstr(end.text, "flowcoro: 3 more");
    if (!line) /* on a busy machine the monitor may have missed one */
        line = strstr(end.text, "flowcoro: 2 more");
    assert_non_null(line);
    child_must_say(&end, " more stalls were not reported\n");
}

/* All workers are busy all the time, and never with the same task for long; unless the machine
 * keeps one from running, which the tasks see in the clock. */
static struct {
    atomic_llong last; /* the worker's coroutines' */
    atomic_llong longest;
} turns[64];

static flow_result yield_for_a_while(void *worker)
{
    flow_deadline end = flow_after(FLOW_MS(4 * STALL_MS)), now;
    int w = (int)(intptr_t)worker;

    do {
        now = flow_now();
        if (now - turns[w].last > atomic_load(&turns[w].longest))
            atomic_store(&turns[w].longest, now - turns[w].last);
        turns[w].last = now;
        flow_yield();
    } while (now < end);
    return flow_ok(NULL);
}

CHILD(stall_nobody)
{
    long long longest = 0;

    REQUIRE(test_workers() <= 64);
    start_watched(test_workers());
    for (int w = 0; w < test_workers(); w++)
        turns[w].last = flow_now();
    for (int i = 0; i < 10 * test_workers(); i++)
        run_pinned(i % test_workers(), "busy", yield_for_a_while, (void *)(intptr_t)(i % test_workers()), NULL);
    REQUIRE(test_wait_until_empty());
    test_nap(FLOW_MS(4 * STALL_MS)); /* nobody has anything to do */
    test_stop();
    for (int w = 0; w < test_workers(); w++)
        if (atomic_load(&turns[w].longest) > longest)
            longest = atomic_load(&turns[w].longest);
    printf("longest turn %lld\n", longest);
}

/* A run in which a worker did get no CPU for so long says nothing. */
JUDGED(who_stalls_nobody_is_not_reported)
{
    static struct child_end end;

    for (int i = 0; i < 8; i++) {
        const char *line;
        long long longest;

        child_run(&end, "stall_nobody", "");
        child_must_exit(&end, 0);
        line = strstr(end.text, "longest turn");
        assert_non_null(line);
        assert_int_equal(sscanf(line, "longest turn %lld", &longest), 1);
        if (longest >= FLOW_MS(STALL_MS))
            continue;
        assert_int_equal(count_of(end.text, "flowcoro:"), 0);
        return;
    }
    skip_case("this machine is too busy");
}

CASE(one_thread_and_only_where_it_is_of_use)
{
    struct flow_options o = test_options();
    long before;

    o.stall_ns = 0;
    test_start_with(&o);
    before = thread_count();
    test_stop();
    o.stall_ns = FLOW_S(60);
    test_start_with(&o);
    REQUIRE_EQUAL(thread_count(), before + 1);
    test_stop();
    o.workers = 0;
    test_start_with(&o);
    REQUIRE(thread_count() <= 1 + TEST_SANITIZED);
    test_stop();
}

/* With a span of a minute: a monitor that ended only after its sleep would take hours. */
CASE(it_ends_with_the_runtime)
{
    struct flow_options o = test_options();
    long before;

    o.stall_ns = FLOW_S(60);
    test_start_with(&o);
    test_stop();
    before = thread_count();
    for (int i = 0; i < 100; i++) {
        test_start_with(&o);
        test_stop();
    }
    WAIT_UNTIL(thread_count() <= before); /* a joined thread may still be listed for a moment */
}

static int threads_allowed;

static int create_few(pthread_t *thread, size_t stack_bytes, void *(*run)(void *), void *arg)
{
    return threads_allowed-- > 0 ? flow__sys_real.thread_create(thread, stack_bytes, run, arg)
                                 : -EAGAIN;
}

CASE(a_start_that_fails_leaves_no_monitor)
{
    struct flow_options o = test_options();
    long before;

    test_start_with(&o);
    test_stop();
    before = thread_count();
    o.stall_ns = FLOW_S(60);
    flow__sys.thread_create = create_few;
    for (int n = 0; n <= o.workers; n++) {
        threads_allowed = n;
        REQUIRE_EQUAL(flow_start(&o), -EAGAIN);
        REQUIRE(n > 0 || strstr(flow_start_error(), "stall_ns"));
        WAIT_UNTIL(thread_count() <= before);
    }
    threads_allowed = o.workers + 1;
    test_start_with(&o);
    test_stop();
}

CASE(the_span_is_checked)
{
    static const char *const bad[] = {"stall_ns=1", "stall_ns=999999", "stall_ns=61s", "stall_ns=-1"};
    static const char *const good[] = {"stall_ns=0", "stall_ns=1ms", "stall_ns=60s"};
    struct flow_options o = FLOW_OPTIONS_INIT;

    REQUIRE_EQUAL(o.stall_ns, FLOW_STALL_NS);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        REQUIRE_EQUAL(flow_options_parse(&o, bad[i]), -EINVAL);
        REQUIRE(strstr(flow_start_error(), "stall_ns"));
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        REQUIRE_EQUAL(flow_options_parse(&o, good[i]), 0);
    o.stall_ns = FLOW_MS(1) - 1;
    REQUIRE_EQUAL(flow_start(&o), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "stall_ns"));
}

/* The monitor is nobody who might wake a task. */
static flow_task root;

static flow_result join_the_root(void *unused)
{
    (void)unused;
    flow_join(root, NULL, FLOW_FOREVER);
    return flow_ok(NULL);
}

static flow_result wait_for_oneself(void *unused)
{
    flow_task child;

    (void)unused;
    root = flow_self();
    EXPECT_EQ(flow_spawn(&child, join_the_root, NULL), 0);
    flow_join(child, NULL, FLOW_FOREVER);
    return flow_ok(NULL);
}

CASE(a_deadlock_is_still_seen)
{
    struct flow_options o = test_options();

    o.stall_ns = FLOW_MS(STALL_MS);
    REQUIRE_EQUAL(flow_run(&o, wait_for_oneself, NULL, NULL), -EDEADLK);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
