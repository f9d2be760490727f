/* SPDX-License-Identifier: MIT
 *
 * The whole runtime played by one thread: virtual time, and every choice from a seed (option shuffle
 * and tests/simulation/stage.h). Each seed makes a random set of the programs in tests/programs run
 * beside each other. It fails if one of them finds something wrong, if something waits for ever, if
 * memory is left after flow_stop, or if a second run of the seed is not the same in each step.
 *
 *   FLOW_TEST_SEEDS=n   how many seeds (1,000; fewer under a sanitizer)
 *   FLOW_TEST_SEED=s    only this one */
#include "tests/programs/programs.h"
#include "tests/simulation/stage.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_PROGRAMS = 12 };

struct play {
    uint64_t seed, trace;
    char programs[160]; /* their names */
};

/* ---- one seed ---- */

static flow_result run_programs(void *play)
{
    struct play *p = play;
    struct chance c = {p->seed ^ 0x5eed};
    flow_task tasks[MOST_PROGRAMS];
    int n = 1 + (int)roll_below(&c, MOST_PROGRAMS);

    p->programs[0] = 0;
    for (int i = 0; i < n; i++) {
        const struct program *program = &programs[roll_below(&c, (uint64_t)n_programs)];
        size_t used = strlen(p->programs);

        snprintf(p->programs + used, sizeof p->programs - used, " %s", program->name);
        EXPECT_EQ(flow_spawn(&tasks[i], program->run, (void *)(uintptr_t)roll(&c)), 0);
    }
    for (int i = 0; i < n; i++)
        join_task(tasks[i]);
    return flow_ok(NULL);
}

/* Everything that could differ from one run of a seed to the next. */
static void trace_stats(void)
{
    struct flow_stats s = {.size = sizeof s};

    if (flow_stats(&s))
        return;
    stage_trace(s.total.spawned);
    stage_trace(s.total.finished);
    stage_trace(s.total.dispatches);
    stage_trace(s.total.switches);
    stage_trace(s.total.timers_armed);
    stage_trace(s.total.timers_fired);
    stage_trace(s.total.stacks_taken);
    EXPECT_EQ(s.total.spawned, s.total.finished + s.live);
}

static void play_seed(struct play *p)
{
    struct flow_options options = FLOW_OPTIONS_INIT;
    struct stage_balance before = stage_balance(), after;
    unsigned long sent = atomic_load(&program_totals.sent) - atomic_load(&program_totals.received);
    int r;

    options.workers = 0;
    options.shuffle = p->seed % 8 ? (int64_t)(p->seed >> 1 | 1) : 0; /* sometimes as it is for users */
    options.stall_ns = 0;
    program_stage = (struct program_stage){.trace = stage_trace, .exact = p->seed % 4 != 1};
    stage_open(p->seed, !program_stage.exact);
    r = flow_start(&options);
    EXPECT_EQ(r, 0);
    if (r == 0) {
        EXPECT_EQ(flow_sync_wait(run_programs, p, NULL, FLOW_FOREVER), 0);
        while ((r = flow_drive(FLOW_FOREVER)) > 0) /* what was detached */
            ;
        EXPECT_EQ(r, 0);
        trace_stats();
        EXPECT_EQ(test_stats().live, 0);
        EXPECT_EQ(flow_stop(FLOW_FOREVER), 0);
    }
    p->trace = stage_close();
    after = stage_balance();
    EXPECT_EQ(after.mapped_bytes - before.mapped_bytes, 0);
    EXPECT_EQ(after.allocations - before.allocations, 0);
    EXPECT_EQ(atomic_load(&program_totals.sent) - atomic_load(&program_totals.received), sent);
}

/* ---- many ---- */

static struct play playing; /* for the message at the time limit and at a signal */

static void say_seed(int signal_number)
{
    char text[300];
    int n = snprintf(text, sizeof text, "simulation: signal %d in seed %llu:%s\n", signal_number,
                     (unsigned long long)playing.seed, playing.programs);

    if (write(2, text, (size_t)n) < 0 || signal_number != SIGALRM)
        signal(SIGABRT, SIG_DFL);
    if (signal_number == SIGALRM) {
        flow_dump(2);
        _exit(124);
    }
    raise(SIGABRT);
}

static void judge_seed(struct play *p)
{
    p->programs[0] = 0;
    test_limit(TEST_ROUNDS(30, 120));
    signal(SIGALRM, say_seed);
    signal(SIGABRT, say_seed);
    play_seed(p);
    if (test_failed())
        print_error("FLOW_TEST_SEED=%llu:%s\n", (unsigned long long)p->seed, p->programs);
    assert_no_failures();
}

static uint64_t nth_seed(uint64_t i)
{
    return i * 0x9e3779b97f4a7c15u >> 8;
}

static void test_seeds(void **state)
{
    const char *one = getenv("FLOW_TEST_SEED"), *many = getenv("FLOW_TEST_SEEDS");
    uint64_t n = many ? strtoull(many, NULL, 0) : TEST_ROUNDS(1000, 60);
    flow_deadline begin = flow_now();

    (void)state;
    if (one) {
        playing.seed = strtoull(one, NULL, 0);
        judge_seed(&playing);
        print_message("note: seed %s:%s: trace %016llx\n", one, playing.programs,
                      (unsigned long long)playing.trace);
        return;
    }
    for (uint64_t i = 1; i <= n; i++) {
        playing.seed = nth_seed(i);
        judge_seed(&playing);
    }
    struct stage_counts c = stage_counts();

    print_message("note: simulation: %llu seeds in %.1f s, %lu operations, sent %lu = received %lu, %llu threads, "
                  "%llu switches, %llu waits, %.1f ms of virtual time\n",
                  (unsigned long long)n, (double)(flow_now() - begin) / 1e9, atomic_load(&program_totals.operations),
                  atomic_load(&program_totals.sent), atomic_load(&program_totals.received),
                  (unsigned long long)c.threads, (unsigned long long)c.switches, (unsigned long long)c.waits,
                  (double)c.virtual_ns / 1e6);
}

/* A seed is the same in each of its steps, and another one is not. */
static void test_replay(void **state)
{
    enum { SEEDS = 12 };
    uint64_t traces[SEEDS];

    (void)state;
    for (int round = 0; round < 2; round++)
        for (uint64_t i = 0; i < SEEDS; i++) {
            playing.seed = nth_seed(1000 + i);
            judge_seed(&playing);
            if (round == 0)
                traces[i] = playing.trace;
            else
                assert_int_equal(playing.trace, traces[i]);
        }
    for (int i = 1; i < SEEDS; i++)
        assert_int_not_equal(traces[i], traces[i - 1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_seeds),
        TEST(test_replay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
