/* SPDX-License-Identifier: MIT
 *
 * Everything at once for FLOW_TORTURE_SECONDS (4), in rounds: a runtime is
 * started, most often with shuffled scheduling (option shuffle), and stopped again. In a round there run
 *   actors, which start, join, cancel, wait and call, and foreign threads that do what they may;
 *   the programs of tests/programs: each primitive, pools, calls on helper threads, judging themselves;
 *   a channel for all; readers and retirers of RCU objects; tasks that burn the CPU;
 *   1,000 signals a second to threads chosen by chance, workers among them.
 * A line every 10 s. At the end of each round the accounts: spawned = finished, live = 0, stacks and
 * control blocks back, every suspension that was woken was woken by one wake, sent = received + queued.
 * A watchdog ends all, with a dump of all tasks, when it finds waits that should be over (lost_wakeups),
 * or when something hangs. That it can is tested with wake-ups that are lost on purpose.
 *
 * `make torture SECONDS=n` changes the number of workers in each round; in `make check` it is
 * FLOW_TEST_WORKERS. All choices follow from the printed seed, as far as threads leave them alone. */
#include "core/registry.h"
#include "sync/syscall.h"
#include "tests/programs/watch.h"
#include "tests/support/child.h"
#include "tests/torture/torture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ACTORS = 16, PROGRAMS = 12, MAILERS = 6, HOT = 2, REPLACERS = 2, FOREIGN = 3, MOST_WORKERS = 4 };

struct torture torture;

static int seconds(void)
{
    const char *text = getenv("FLOW_TORTURE_SECONDS");

    return text ? atoi(text) : 4;
}

/* ---- a round ---- */

struct cast {
    flow_fn fn;
    int n;
    unsigned flags; /* of every fourth */
};

static const struct cast casts[] = {
    {torture_actor, ACTORS, FLOW_ROAM},  {torture_programs, PROGRAMS, 0},    {torture_mail, MAILERS, FLOW_ROAM},
    {torture_hot, HOT, 0},               {torture_replace, REPLACERS, 0},
};

enum { ALL = ACTORS + PROGRAMS + MAILERS + HOT + REPLACERS };

static void start_cast(struct chance *c, flow_task *tasks)
{
    int made = 0;

    for (size_t i = 0; i < sizeof casts / sizeof *casts; i++)
        for (int k = 0; k < casts[i].n; k++) {
            struct flow_spawn_options o = FLOW_SPAWN_INIT;

            o.flags = k % 4 == 0 ? casts[i].flags : 0;
            assert_int_equal(flow_spawn_with(&tasks[made++], &o, casts[i].fn, (void *)(uintptr_t)roll(c)), 0);
            COUNT(spawned);
            if (casts[i].fn != torture_actor)
                COUNT(started); /* who does not count itself */
        }
}

static void join_cast(flow_task *tasks)
{
    for (int i = 0; i < ALL; i++) {
        flow_result result = flow_err(-EPROTO);

        EXPECT_EQ(flow_join(tasks[i], &result, FLOW_FOREVER), 0);
        EXPECT_EQ(result.error, 0);
    }
}

static void *shaken_foreign(void *seed)
{
    shaker_add();
    torture_foreign(seed);
    shaker_remove();
    return NULL;
}

static struct flow_options round_options(struct chance *c)
{
    struct flow_options options = test_options();

    if (!getenv("FLOW_TEST_WORKERS"))
        options.workers = 1 + (int)roll_below(c, MOST_WORKERS);
    options.stack_bytes = 32768;
    options.shuffle = roll_below(c, 4) ? (int64_t)(roll(c) >> 1 | 1) : 0;
    atomic_store(&torture.workers, options.workers);
    atomic_store(&torture.shuffle, options.shuffle);
    program_stage = (struct program_stage){.watched = true, .workers = options.workers};
    return options;
}

/* Neither in use nor waiting for somebody who still looks at it. */
static void check_that_all_blocks_are_free(void)
{
    for (struct flow__slots at = FLOW__ALL_SLOTS; flow__slots_next(&at);) {
        uint64_t life = load_acquire(&flow__registry.base[at.slot].life);

        if (life && !(life & FLOW__LIFE_FREE))
            fail_msg("block %u is not free: life %#llx", at.slot, (unsigned long long)life);
    }
}

static void settle_round(void)
{
    struct flow_stats s;
    unsigned long ages[TORTURE_AGES];

    torture_settle();
    s = test_stats();
    assert_int_equal(s.live, 0);
    assert_int_equal(s.total.spawned, s.total.finished);
    assert_int_equal(s.total.no_stack, 0);
    check_that_all_blocks_are_free();
    torture_rcu_ages(ages);
    assert_int_equal(ages[2], 0);
    assert_int_equal(ages[3], 0);
}

static void play_round(struct chance *c, int64_t span_ns)
{
    struct flow_options options = round_options(c);
    pthread_t threads[FOREIGN];
    flow_task tasks[ALL];

    atomic_store(&torture.ending, false);
    atomic_store(&torture.all_ended, false);
    atomic_store(&torture.hard_limit, flow_after(span_ns + FLOW_S(TEST_ROUNDS(40, 100))));
    test_start_with(&options);
    torture_mail_open();
    for (int i = 0; i < FOREIGN; i++) {
        uintptr_t own = ((uintptr_t)roll(c) & ~(uintptr_t)1) | (i > 0);

        assert_int_equal(pthread_create(&threads[i], NULL, shaken_foreign, (void *)own), 0);
    }
    start_cast(c, tasks);
    test_nap(span_ns);
    atomic_store(&torture.ending, true);
    join_cast(tasks);
    assert_true(test_wait_until_empty()); /* the detached ones, too: foreign threads still open letters */
    atomic_store(&torture.all_ended, true);
    for (int i = 0; i < FOREIGN; i++)
        pthread_join(threads[i], NULL);
    torture_forget();
    assert_no_failures();
    torture_mail_close();
    settle_round();
    test_stop(); /* which judges the stacks */
    assert_int_equal(atomic_load(&program_totals.sent), atomic_load(&program_totals.received));
}

/* ---- all of them ---- */

static void print_summary(void)
{
    report_line("note: ");
    print_message("note: %lu actors' tasks, %lu joined, woken %lu = wakes %lu (%lu late), cancels %lu (%lu late), "
                  "timeouts %lu, calls %lu, owned %lu = returned %lu + released %lu, when_any %lu, when_all %lu, "
                  "bursts %lu, dumps %lu\n",
                  atomic_load(&did.spawned), atomic_load(&did.joined), atomic_load(&did.woken_suspensions),
                  atomic_load(&did.wakes), atomic_load(&did.wakes_too_late), atomic_load(&did.cancels),
                  atomic_load(&did.cancels_too_late), atomic_load(&did.timed_out), atomic_load(&did.calls),
                  atomic_load(&did.owned), atomic_load(&did.owned_returned), atomic_load(&did.owned_released),
                  atomic_load(&did.any), atomic_load(&did.all), atomic_load(&did.bursts), atomic_load(&did.dumps));
}

static void test_everything_at_once(void **state)
{
    flow_deadline until = flow_after(FLOW_S((int64_t)seconds())), now;
    int64_t round_ns = FLOW_S((int64_t)seconds()) / 4;
    struct chance c = {torture.seed = test_seed()};

    (void)state;
    if (round_ns > FLOW_S(5))
        round_ns = FLOW_S(5);
    test_limit(0); /* there is the watchdog's */
    torture.dev_null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_true(torture.dev_null >= 0);
    atomic_store(&torture.hard_limit, FLOW_FOREVER);
    torture_rcu_open();
    shaker_open(roll(&c));
    report_open(FLOW_S(10), FLOW_S(TEST_ROUNDS(10, 60)));
    shaker_add();
    while ((now = flow_now()) < until) {
        atomic_fetch_add(&torture.round, 1);
        play_round(&c, until - now < round_ns ? until - now : round_ns);
    }
    shaker_remove();
    report_close();
    shaker_close(); /* flow__sys stays as it is: threads of lanes that have ended may still read it */
    close(torture.dev_null);
    print_summary();
    assert_true(atomic_load(&did.wakes) && atomic_load(&did.cancels) && atomic_load(&did.timed_out) &&
                atomic_load(&did.any) && atomic_load(&did.all) && atomic_load(&did.calls) &&
                atomic_load(&did.bursts));
    test_limit(60);
}

/* ---- one owner, others that wait for something to take ---- */

static atomic_uint runs;

static flow_result run_once(void *arg)
{
    atomic_fetch_add(&runs, 1);
    return flow_ok(arg);
}

static flow_result spawn_wait_join(void *unused)
{
    uint64_t random = test_seed();
    flow_deadline until = flow_after(FLOW_MS(TEST_ROUNDS(700, 300)));
    unsigned n = 0;

    (void)unused;
    while (flow_now() < until) {
        uint64_t r = test_random(&random);
        /* Thieves take the latest task when it has lain for some microseconds. */
        flow_deadline then = flow_now() + (int64_t)(r % FLOW_US(12));
        flow_task tasks[3];
        size_t made = r >> 32 & 7 ? 1 : 3;

        for (size_t i = 0; i < made; i++)
            EXPECT_EQ(flow_spawn(&tasks[i], run_once, &tasks[i]), 0);
        while (flow_now() < then)
            ;
        for (size_t i = made; i-- > 0;) {
            flow_result result = flow_err(-EPROTO);

            EXPECT_EQ(flow_join(tasks[i], &result, FLOW_FOREVER), 0);
            EXPECT(result.ptr == &tasks[i]);
        }
        n += (unsigned)made;
        EXPECT_EQ(atomic_load(&runs), n);
        if ((r >> 40 & 63) == 0)
            flow_sleep(FLOW_US(50)); /* others park */
    }
    print_message("%u tasks, %llu stolen\n", n, (unsigned long long)test_stats().total.stolen);
    return flow_ok(NULL);
}

static void test_each_task_runs_once(void **state)
{
    (void)state;
    atomic_store(&runs, 0);
    test_in_coroutine(spawn_wait_join);
}

/* ---- the watchdog ---- */

static atomic_bool raised;
static flow_waker sleepers_waker;

static bool is_raised(void *unused)
{
    (void)unused;
    return atomic_load(&raised);
}

/* The times are made up. */
CHILD(look_at_waits)
{
    int ticket;

    REQUIRE_EQUAL(watch_begin("nothing", is_raised, NULL), -1);
    program_stage.watched = true;
    ticket = watch_begin("a flag", is_raised, NULL);
    REQUIRE(ticket >= 0);
    REQUIRE_EQUAL(watch_look(1000, 50), 0);
    REQUIRE_EQUAL(watch_look(2000, 50), 0); /* it waits for long, but should */
    atomic_store(&raised, true);
    REQUIRE_EQUAL(watch_look(2010, 50), 0);
    REQUIRE_EQUAL(watch_look(2060, 50), 0); /* it may be on its way */
    atomic_store(&raised, false);
    REQUIRE_EQUAL(watch_look(2070, 50), 0); /* somebody else was quicker */
    atomic_store(&raised, true);
    REQUIRE_EQUAL(watch_look(2080, 50), 0);
    REQUIRE_EQUAL(watch_look(2130, 50), 0);
    REQUIRE_EQUAL(watch_look(2131, 50), 1);
    REQUIRE_EQUAL(watch_look(2200, 50), 0); /* counted */
    watch_end(ticket);
    ticket = watch_begin("a flag", is_raised, NULL);
    REQUIRE_EQUAL(watch_look(3000, 50), 0);
    watch_end(ticket);
    REQUIRE_EQUAL(watch_look(4000, 50), 0); /* it is over */
}

static int keep_waker(flow_waker waker, void *published)
{
    sleepers_waker = waker;
    atomic_store((atomic_bool *)published, true);
    return 0;
}

static flow_result wait_for_flag(void *published)
{
    EXPECT_EQ(WATCHED("a flag", is_raised, NULL, flow_suspend(keep_waker, published, FLOW_FOREVER)), 0);
    return flow_ok(NULL);
}

/* As a sleep whose timer is forgotten. */
static flow_result oversleep(void *published)
{
    flow_deadline deadline = flow_after(FLOW_MS(1));

    atomic_store((atomic_bool *)published, true);
    EXPECT_EQ(WATCHED("a point in time", watch_time, &deadline, flow_sleep_until(FLOW_FOREVER)), 0);
    return flow_ok(NULL);
}

/* Waits, and is woken when the flag is raised, unless that is forgotten. Ends with status 0 if nothing
 * was found. */
CHILD(lose_a_wakeup)
{
    const int64_t patience_ns = FLOW_S(TEST_ROUNDS(1, 5));
    atomic_bool published = false;
    flow_task task;

    program_stage.watched = true;
    atomic_store(&torture.hard_limit, FLOW_FOREVER);
    report_open(FLOW_S(100), patience_ns);
    test_start();
    REQUIRE_EQUAL(flow_spawn(&task, *arg == 't' ? oversleep : wait_for_flag, &published), 0);
    WAIT_UNTIL(atomic_load(&published));
    atomic_store(&raised, true);
    if (*arg == 'w')
        REQUIRE_EQUAL(flow_wake(sleepers_waker), 0);
    REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
    test_nap(patience_ns + FLOW_MS(500)); /* it would be found now */
    report_close();
    test_stop();
}

static void test_lost_wakeups_are_found(void **state)
{
    static const char *const forgotten[] = {"flag", "timer"};
    static struct child_end end;

    (void)state;
    child_run(&end, "look_at_waits", "");
    child_must_exit(&end, 0);
    child_run(&end, "lose_a_wakeup", "woken");
    child_must_exit(&end, 0);
    for (int i = 0; i < 2; i++) {
        child_run(&end, "lose_a_wakeup", forgotten[i]);
        child_must_exit(&end, REPORT_LOST);
        child_must_say(&end, i ? "lost wake-up: waits for a point in time" : "lost wake-up: waits for a flag");
        child_must_say(&end, "lost_wakeups=1,");
        child_must_say(&end, "FAILED: wake-ups were lost");
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_lost_wakeups_are_found),
        TEST(test_everything_at_once),
        TEST(test_each_task_runs_once),
    };

    if (argc > 1)
        return cases_main(argc, argv); /* of the children */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
