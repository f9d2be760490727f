/* SPDX-License-Identifier: MIT
 *
 * Stopping: what becomes of tasks that live, of foreign threads that wait or call, who may stop, and from
 * where. Runs with FLOW_TEST_WORKERS workers where it does not say otherwise. */
#include "core/runtime.h"
#include "sync/syscall.h"
#include "tests/support/child.h"
#include "tests/support/every_call.h"
#include "tests/support/tasks.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <urcu/urcu-memb.h>

static atomic_int entered, cancelled, ended;

static flow_result count_cancelled(int r)
{
    if (r == -ECANCELED)
        atomic_fetch_add(&cancelled, 1);
    atomic_fetch_add(&ended, 1);
    return flow_err(r);
}

static flow_result live_asleep(void *arg)
{
    (void)arg;
    atomic_fetch_add(&entered, 1);
    return count_cancelled(flow_sleep(FLOW_S(1000)));
}

static flow_result live_joining(void *arg)
{
    flow_task *other = arg;

    atomic_fetch_add(&entered, 1);
    return count_cancelled(flow_join(*other, NULL, FLOW_FOREVER));
}

static flow_result live_suspended(void *arg)
{
    atomic_fetch_add(&entered, 1);
    return count_cancelled(flow_suspend(publish_nothing, arg, FLOW_FOREVER));
}

static flow_result live_in_when_any(void *arg)
{
    atomic_fetch_add(&entered, 1);
    return count_cancelled(flow_when_any(arg, 1, NULL, NULL, FLOW_FOREVER));
}

static flow_result live_yielding(void *arg)
{
    int r;

    (void)arg;
    atomic_fetch_add(&entered, 1);
    while (!(r = flow_yield()))
        ;
    return count_cancelled(r);
}

/* Once begun, the call is waited for, and its result is given. */
static flow_result live_offloaded(void *arg)
{
    flow_result r;

    (void)arg;
    atomic_fetch_add(&entered, 1);
    r = flow_offload(FLOW_LANE_FILE, nap_30_ms, NULL, FLOW_FOREVER);
    REQUIRE(r.error == -ECANCELED || (r.error == 0 && r.i64 == 5));
    atomic_fetch_add(&ended, 1);
    return r;
}

CASE(stop_cancels_all_that_live_whatever_they_wait_for)
{
    flow_fn const fns[] = {live_asleep, live_suspended, live_yielding, live_offloaded};
    enum { EACH = 50 };
    static flow_task victim[2 * EACH];
    flow_deadline begin;

    test_start_stacks(16 * 1024);
    for (int i = 0; i < EACH; i++) {
        for (size_t k = 0; k < sizeof fns / sizeof *fns; k++)
            REQUIRE_EQUAL(flow_spawn(NULL, fns[k], NULL), 0);
        REQUIRE_EQUAL(flow_spawn(&victim[2 * i], sleep_for_ever, NULL), 0);
        REQUIRE_EQUAL(flow_spawn(NULL, live_joining, &victim[2 * i]), 0);
        REQUIRE_EQUAL(flow_spawn(&victim[2 * i + 1], sleep_for_ever, NULL), 0);
        REQUIRE_EQUAL(flow_spawn(NULL, live_in_when_any, &victim[2 * i + 1]), 0);
    }
    WAIT_UNTIL(atomic_load(&entered) == 6 * EACH);
    begin = flow_now();
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE(flow_now() - begin < FLOW_S(5));
    REQUIRE_EQUAL(atomic_load(&ended), 6 * EACH);
    /* A joiner may find its task cancelled before it is cancelled itself. */
    REQUIRE(atomic_load(&cancelled) >= 3 * EACH);
}

static atomic_bool release_spinner, spinner_runs, ran;

static flow_result spin(void *arg)
{
    atomic_store(&spinner_runs, true);
    while (!atomic_load(&release_spinner))
        ;
    return flow_ok(arg);
}

static flow_result note_that_it_ran(void *arg)
{
    atomic_store(&ran, true);
    return flow_ok(arg);
}

static void *stop_for_ever(void *out)
{
    *(int *)out = flow_stop(FLOW_FOREVER);
    return NULL;
}

CASE(a_task_that_has_not_started_never_runs_when_the_runtime_stops)
{
    struct flow_spawn_options pinned = FLOW_SPAWN_INIT;
    flow_task spinner;
    pthread_t thread;
    int r = -1;

    pinned.worker = 0;
    pinned.flags = FLOW_PINNED;
    test_start();
    REQUIRE_EQUAL(flow_spawn_with(&spinner, &pinned, spin, NULL), 0);
    WAIT_UNTIL(atomic_load(&spinner_runs));
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_spawn_with(NULL, &pinned, note_that_it_ran, NULL), 0);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, stop_for_ever, &r), 0);
    WAIT_UNTIL(flow_spawn(NULL, return_argument, NULL) == -ESHUTDOWN);
    /* cancel_all() is short; the spinner is asked too, and that can be seen. */
    WAIT_UNTIL(flow_cancel(spinner) == 0);
    test_nap(FLOW_MS(20));
    atomic_store(&release_spinner, true);
    pthread_join(thread, NULL);
    REQUIRE_EQUAL(r, 0);
    REQUIRE(!atomic_load(&ran));

    test_start_driven();
    REQUIRE_EQUAL(flow_spawn(NULL, note_that_it_ran, NULL), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE(!atomic_load(&ran));
}

static flow_result ignore_cancellation(void *arg)
{
    atomic_fetch_add(&entered, 1);
    for (;;)
        flow_yield();
    return flow_ok(arg);
}

CASE(stop_reports_how_many_tasks_ignore_it)
{
    const int64_t span = TEST_ROUNDS(FLOW_S(1), FLOW_S(5)); /* 100 tasks need time to end */
    flow_deadline begin;

    test_start_stacks(16 * 1024);
    for (int i = 0; i < 7; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, ignore_cancellation, NULL), 0);
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, live_asleep, NULL), 0);
    WAIT_UNTIL(atomic_load(&entered) == 107);
    begin = flow_now();
    REQUIRE_EQUAL(flow_stop(flow_after(span)), 7);
    REQUIRE(flow_now() - begin >= span);
    REQUIRE(flow_now() - begin < FLOW_S(20));
    REQUIRE_EQUAL(atomic_load(&ended), 100);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(return_argument, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(stop_at_once_reports_and_frees_too)
{
    for (int round = 0; round < TEST_ROUNDS(50, 10); round++) {
        int r;

        test_start_stacks(16 * 1024);
        for (int i = 0; i < 100; i++)
            REQUIRE_EQUAL(flow_spawn(NULL, sleep_for_ever, NULL), 0);
        r = flow_stop(FLOW_NOW);
        REQUIRE(r >= 0 && r <= 100);
    }
}

CASE(without_workers_stop_reports_them_as_well)
{
    test_start_driven();
    for (int i = 0; i < 7; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, ignore_cancellation, NULL), 0);
    REQUIRE_EQUAL(flow_spawn(NULL, sleep_for_ever, NULL), 0);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), 8);
    REQUIRE_EQUAL(flow_stop(flow_after(FLOW_MS(500))), 7);
    every_call_gives(-ESHUTDOWN);
}

CASE(a_worker_inside_a_coroutine_that_spins_makes_stop_say_ebusy)
{
    struct flow_stats stats = {.size = sizeof stats};
    flow_deadline begin;

    test_start();
    REQUIRE_EQUAL(flow_spawn(NULL, spin, NULL), 0);
    WAIT_UNTIL(atomic_load(&spinner_runs));
    begin = flow_now();
    REQUIRE_EQUAL(flow_stop(flow_after(FLOW_MS(20))), -EBUSY);
    REQUIRE(flow_now() - begin < FLOW_S(10));
    REQUIRE_EQUAL(flow_start(NULL), -EALREADY);
    REQUIRE_EQUAL(flow_spawn(NULL, return_argument, NULL), -ESHUTDOWN);
    REQUIRE_EQUAL(flow_stats(&stats), 0); /* nothing was freed */
    REQUIRE_EQUAL(stats.live, 1);
    REQUIRE_EQUAL(flow_stop(FLOW_NOW), -EBUSY);
    atomic_store(&release_spinner, true);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(return_argument, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result stop_from_inside(void *arg)
{
    int r = flow_stop(FLOW_FOREVER), again = flow_stop(FLOW_NOW);

    REQUIRE_EQUAL(r, 0);
    REQUIRE_EQUAL(again, 0);
    REQUIRE_EQUAL(flow_spawn(NULL, return_argument, NULL), -ESHUTDOWN);
    REQUIRE_EQUAL(flow_spawn_now(NULL, return_argument, NULL), -ESHUTDOWN);
    REQUIRE_EQUAL(flow_yield(), -ECANCELED); /* we are among those who are asked to end */
    return flow_ok(arg);
}

static flow_result stop_among_others(void *arg)
{
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, live_asleep, NULL), 0);
    while (atomic_load(&entered) < 100)
        REQUIRE_EQUAL(flow_yield(), 0);
    return stop_from_inside(arg);
}

CASE(stop_inside_a_coroutine_is_a_request)
{
    flow_result out;
    int r;

    /* flow_run does the rest, and still gives the first task's result ... */
    struct flow_options o = test_options();
    REQUIRE_EQUAL(flow_run(&o, stop_among_others, (void *)42, &out), 0);
    REQUIRE(out.error == 0 && out.ptr == (void *)42);
    REQUIRE_EQUAL(atomic_load(&ended), 100);
    every_call_gives(-ESHUTDOWN);
    /* ... or the next flow_stop. */
    test_start();
    r = flow_sync_wait(stop_from_inside, (void *)1, &out, FLOW_FOREVER);
    REQUIRE(r == 0 || r == -ECANCELED); /* waiting threads are told, too */
    REQUIRE_EQUAL(flow_start(NULL), -EALREADY);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    o.workers = 0;
    REQUIRE_EQUAL(flow_run(&o, stop_from_inside, (void *)43, &out), 0);
    REQUIRE(out.error == 0 && out.ptr == (void *)43);
}

/* Whoever drives does not turn in circles while the tasks take their time to end. */
static flow_result stop_and_take_time(void *arg)
{
    struct flow_ambient shield = FLOW_AMBIENT_INIT;
    uint64_t parks;

    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    parks = test_stats().total.parks;
    REQUIRE_EQUAL(flow_shield_begin(&shield), 0);
    REQUIRE_EQUAL(flow_sleep(FLOW_MS(20)), 0);
    REQUIRE_EQUAL(flow_shield_end(&shield), 0);
    REQUIRE(test_stats().total.parks > parks);
    return flow_ok(arg);
}

CASE(a_stop_from_inside_lets_the_driver_sleep)
{
    struct flow_options o = test_options();
    flow_result out;

    o.workers = 0;
    REQUIRE_EQUAL(flow_run(&o, stop_and_take_time, (void *)44, &out), 0);
    REQUIRE(out.error == 0 && out.ptr == (void *)44);
}

/* flow_stop, slower than a thread that drives in a loop: each time it wakes to find the seat free, that thread
 * has been on its way for a while. */
static atomic_ulong n_drives;
static atomic_bool stopped;
static pthread_t stopper;

static int wake_slowly(flow__atomic(uint32_t) *word, uint32_t expected, int64_t deadline)
{
    int r = flow__sys_real.futex_wait(word, expected, deadline);

    if (word == &flow__runtime.driver && pthread_equal(pthread_self(), stopper)) {
        unsigned long seen = atomic_load(&n_drives);

        while (atomic_load(&n_drives) < seen + 3)
            test_nap(FLOW_US(100));
    }
    return r;
}

static flow_result sleep_all_the_same(void *unused)
{
    struct flow_ambient shield = FLOW_AMBIENT_INIT;

    REQUIRE_EQUAL(flow_shield_begin(&shield), 0);
    flow_sleep_until(FLOW_FOREVER);
    return flow_ok(unused);
}

static void *drive_in_a_loop(void *unused)
{
    while (!atomic_load(&stopped)) {
        flow_drive(flow_after(FLOW_MS(5)));
        atomic_fetch_add(&n_drives, 1);
    }
    return unused;
}

CASE(a_thread_that_drives_in_a_loop_leaves_the_seat_to_flow_stop)
{
    pthread_t thread;

    stopper = pthread_self();
    flow__sys.futex_wait = wake_slowly;
    test_start_driven();
    REQUIRE_EQUAL(flow_spawn(NULL, sleep_all_the_same, NULL), 0);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, drive_in_a_loop, NULL), 0);
    WAIT_UNTIL(atomic_load(&n_drives) > 0);
    REQUIRE_EQUAL(flow_stop(flow_after(FLOW_MS(TEST_SLOW ? 3000 : 300))), 1);
    atomic_store(&stopped, true);
    pthread_join(thread, NULL);
    flow__sys = flow__sys_real;
}

/* The first coroutine that spawns has to fetch blocks: here it waits for that until everybody was cancelled. */
static flow_result sleep_long(void *arg)
{
    (void)arg;
    return flow_err(flow_sleep(FLOW_S(1000)));
}

static flow_result spawn_a_sleeper(void *arg)
{
    REQUIRE_EQUAL(flow_spawn_now(NULL, sleep_long, NULL), 0);
    return flow_ok(arg);
}

CASE(what_a_driven_coroutine_spawns_while_all_are_cancelled_is_cancelled_too)
{
    struct flow__lock *blocks;
    pthread_t driver, thread;
    int r = -1;

    test_start_driven();
    blocks = &flow__registry.depot[0].lock;
    REQUIRE_EQUAL(flow_spawn(NULL, spawn_a_sleeper, NULL), 0);
    flow__lock(blocks);
    REQUIRE_EQUAL(pthread_create(&driver, NULL, drive_in_a_loop, NULL), 0);
    WAIT_UNTIL(load_relaxed(&blocks->word) == 2); /* it waits */
    REQUIRE_EQUAL(pthread_create(&thread, NULL, stop_for_ever, &r), 0);
    WAIT_UNTIL(load_seq(&flow__runtime.seat_wanted));
    flow__unlock(blocks);
    pthread_join(thread, NULL);
    REQUIRE_EQUAL(r, 0);
    atomic_store(&stopped, true);
    pthread_join(driver, NULL);
}

static flow_result note_job(void *arg)
{
    atomic_fetch_add(&ended, 1);
    return flow_ok(arg);
}

static flow_result fork_in_a_shield(void *arg)
{
    struct flow_ambient shield = FLOW_AMBIENT_INIT;
    struct flow_job job;
    flow_result r;

    atomic_fetch_add(&entered, 1);
    REQUIRE_EQUAL(flow_sleep(FLOW_S(1000)), -ECANCELED);
    REQUIRE_EQUAL(flow_shield_begin(&shield), 0);
    flow_fork(&job, note_job, arg);
    REQUIRE_EQUAL(flow_sleep(FLOW_MS(1)), 0); /* it becomes a task */
    r = flow_sync(&job);
    REQUIRE(r.error == 0 && r.ptr == arg);
    REQUIRE_EQUAL(flow_shield_end(&shield), 0);
    return flow_ok(arg);
}

CASE(a_job_that_is_forked_in_a_shield_runs_even_so)
{
    test_start();
    REQUIRE_EQUAL(flow_spawn(NULL, fork_in_a_shield, (void *)5), 0);
    WAIT_UNTIL(atomic_load(&entered) == 1);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(atomic_load(&ended), 1);
}

static atomic_int waiter_result;
static atomic_bool waiter_waits;

static void *wait_on_a_foreign_thread(void *task)
{
    atomic_store(&waiter_waits, true);
    atomic_store(&waiter_result, flow_join(*(flow_task *)task, NULL, FLOW_FOREVER));
    return NULL;
}

static flow_result sleep_and_resist(void *arg)
{
    (void)arg;
    atomic_fetch_add(&entered, 1);
    flow_sleep_until(FLOW_FOREVER);
    while (!atomic_load(&release_spinner))
        flow_yield();
    return flow_ok(NULL);
}

CASE(a_foreign_thread_that_waits_gets_ecanceled_from_the_stop)
{
    pthread_t thread;
    flow_task task;
    int left;

    test_start();
    REQUIRE_EQUAL(flow_spawn(&task, sleep_and_resist, NULL), 0);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, wait_on_a_foreign_thread, &task), 0);
    WAIT_UNTIL(atomic_load(&waiter_waits) && atomic_load(&entered) == 1);
    test_nap(FLOW_MS(20)); /* into its join, most likely */
    left = flow_stop(flow_after(FLOW_MS(100)));
    pthread_join(thread, NULL);
    REQUIRE(atomic_load(&waiter_result) == -ECANCELED || atomic_load(&waiter_result) == -ESHUTDOWN);
    REQUIRE_EQUAL(left, 1);
}

/* A thread that has to have its mutex back waits for that whatever happens, but not for a task that nobody
 * runs any more. */
static struct flow_mutex guard = FLOW_MUTEX_INIT;
static struct flow_condition never = FLOW_CONDITION_INIT;

static flow_result take_and_keep(void *arg)
{
    if (flow_mutex_lock(&guard, FLOW_FOREVER))
        return flow_ok(arg);
    return ignore_cancellation(arg);
}

static void *wait_for_the_mutex(void *result)
{
    REQUIRE_EQUAL(flow_mutex_lock(&guard, FLOW_FOREVER), 0);
    atomic_store(&waiter_waits, true);
    *(int *)result = flow_condition_wait(&never, &guard, FLOW_FOREVER);
    return NULL;
}

CASE(a_foreign_thread_that_only_a_task_could_let_go_on_gets_eshutdown)
{
    pthread_t thread;
    int result = 0;

    test_start();
    REQUIRE_EQUAL(pthread_create(&thread, NULL, wait_for_the_mutex, &result), 0);
    WAIT_UNTIL(atomic_load(&waiter_waits));
    REQUIRE_EQUAL(flow_mutex_lock(&guard, FLOW_FOREVER), 0); /* once it waits for the condition */
    REQUIRE_EQUAL(flow_mutex_unlock(&guard), 0);
    REQUIRE_EQUAL(flow_spawn(NULL, take_and_keep, NULL), 0);
    WAIT_UNTIL(atomic_load(&entered) == 1);
    REQUIRE_EQUAL(flow_stop(flow_after(FLOW_MS(200))), 1);
    pthread_join(thread, NULL);
    REQUIRE_EQUAL(result, -ESHUTDOWN);
}

static void *run_until_it_is_stopped(void *options)
{
    return (void *)(intptr_t)flow_run(options, ignore_cancellation, NULL, NULL);
}

CASE(a_stop_that_comes_to_its_deadline_ends_a_flow_run)
{
    for (int driven = 0; driven < 2; driven++) {
        struct flow_options o = test_options();
        pthread_t thread;
        void *result;

        if (driven)
            o.workers = 0;
        atomic_store(&entered, 0);
        REQUIRE_EQUAL(pthread_create(&thread, NULL, run_until_it_is_stopped, &o), 0);
        WAIT_UNTIL(atomic_load(&entered) == 1);
        REQUIRE_EQUAL(flow_stop(flow_after(FLOW_MS(50))), 1);
        pthread_join(thread, &result);
        REQUIRE_EQUAL((intptr_t)result, -ECANCELED);
    }
}

static pthread_key_t key;
static int nodes_seen;

/* The worker has left when it comes here, and flow_stop goes on meanwhile. */
static void look_at_the_machine(void *unused)
{
    (void)unused;
    test_nap(FLOW_MS(30));
    nodes_seen = flow_topology_nodes();
    REQUIRE_EQUAL(flow_spawn(NULL, return_argument, NULL), -ESHUTDOWN);
    REQUIRE_EQUAL(flow_sync_wait(return_argument, NULL, NULL, FLOW_FOREVER), -ESHUTDOWN);
}

static flow_result leave_something(void *unused)
{
    REQUIRE_EQUAL(pthread_setspecific(key, &key), 0);
    return flow_ok(unused);
}

CASE(the_destructor_of_a_thread_specific_datum_may_call_the_library)
{
    struct flow_options o = test_options();

    REQUIRE_EQUAL(pthread_key_create(&key, look_at_the_machine), 0);
    REQUIRE_EQUAL(flow_run(&o, leave_something, NULL, NULL), 0);
    REQUIRE(nodes_seen > 0);
}

static void *stop_and_count(void *out)
{
    int r = flow_stop(FLOW_FOREVER);

    REQUIRE(r == 0 || r == -EALREADY);
    if (r == 0)
        atomic_fetch_add((atomic_int *)out, 1);
    return NULL;
}

CASE(several_threads_may_stop_at_once)
{
    for (int round = 0; round < TEST_ROUNDS(50, 10); round++) {
        atomic_int done = 0;
        pthread_t thread[4];

        test_start_stacks(16 * 1024);
        for (int i = 0; i < 50; i++)
            REQUIRE_EQUAL(flow_spawn(NULL, sleep_for_ever, NULL), 0);
        for (int i = 0; i < 4; i++)
            REQUIRE_EQUAL(pthread_create(&thread[i], NULL, stop_and_count, &done), 0);
        for (int i = 0; i < 4; i++)
            pthread_join(thread[i], NULL);
        REQUIRE(atomic_load(&done) >= 1);
        every_call_gives(-ESHUTDOWN);
    }
}

static atomic_bool stop_calling;

static void *call_all_the_time(void *calls)
{
    while (!atomic_load(&stop_calling)) {
        struct flow_stats stats = {.size = sizeof stats};
        flow_task task;
        int r = flow_spawn(&task, sleep_ms, (void *)1);

        REQUIRE(r == 0 || r == -ESHUTDOWN);
        if (r == 0) {
            r = flow_join(task, NULL, FLOW_FOREVER);
            REQUIRE(r == 0 || r == -ESHUTDOWN || r == -ECANCELED || r == -ESRCH);
            atomic_fetch_add((atomic_long *)calls, 1);
        }
        r = flow_stats(&stats);
        REQUIRE(r == 0 || r == -ESHUTDOWN);
        flow_cancel(task);
        r = flow_sync_wait(return_argument, NULL, NULL, FLOW_FOREVER);
        REQUIRE(r == 0 || r == -ESHUTDOWN || r == -ECANCELED || r == -ESRCH);
    }
    return NULL;
}

CASE(starts_and_stops_under_the_calls_of_other_threads)
{
    atomic_long calls = 0;
    pthread_t thread[3];
    int rounds = 0;
    flow_deadline end = flow_after(FLOW_S(1));

    for (int i = 0; i < 3; i++)
        REQUIRE_EQUAL(pthread_create(&thread[i], NULL, call_all_the_time, &calls), 0);
    while (flow_now() < end) {
        test_start_stacks(16 * 1024);
        test_nap(FLOW_MS(2));
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
        rounds++;
    }
    atomic_store(&stop_calling, true);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    REQUIRE(atomic_load(&calls) > 0);
    child_note("%d starts and stops under %ld calls", rounds, atomic_load(&calls));
}

/* For the end of the section flow_stop waits, so it must not wait for flow_stop. */
static void *ask_in_sections(void *asked)
{
    urcu_memb_register_thread();
    while (!atomic_load(&stop_calling)) {
        urcu_memb_read_lock();
        REQUIRE(flow_topology_nodes() > 0);
        urcu_memb_read_unlock();
        atomic_fetch_add((atomic_long *)asked, 1);
    }
    urcu_memb_unregister_thread();
    return NULL;
}

CASE(who_reads_rcu_may_ask_for_the_machine_beside_a_stop)
{
    atomic_long asked = 0;
    pthread_t thread;

    REQUIRE_EQUAL(pthread_create(&thread, NULL, ask_in_sections, &asked), 0);
    WAIT_UNTIL(atomic_load(&asked) > 0);
    for (int i = 0; i < TEST_ROUNDS(300, 50); i++) {
        test_start_stacks(16 * 1024);
        test_stop();
    }
    atomic_store(&stop_calling, true);
    pthread_join(thread, NULL);
}

static void *spawn_all_the_time(void *spawned)
{
    while (!atomic_load(&stop_calling))
        if (flow_spawn(NULL, return_argument, NULL) == 0)
            atomic_fetch_add((atomic_long *)spawned, 1);
    return NULL;
}

/* That it fails is known only when all else is there. */
CASE(a_start_that_fails_lets_nobody_in)
{
    struct flow_options o = test_options();
    atomic_long spawned = 0;
    pthread_t thread;

    o.dump_signal = SIGKILL;
    REQUIRE_EQUAL(pthread_create(&thread, NULL, spawn_all_the_time, &spawned), 0);
    for (int i = 0; i < TEST_ROUNDS(1000, 100); i++)
        REQUIRE_EQUAL(flow_start(&o), -EINVAL);
    atomic_store(&stop_calling, true);
    pthread_join(thread, NULL);
    REQUIRE_EQUAL(atomic_load(&spawned), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
