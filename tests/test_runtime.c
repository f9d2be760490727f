/* SPDX-License-Identifier: MIT
 *
 * The runtime as a whole: every call at the wrong time or place, a second start, starts and stops by the
 * thousand, running to the end, the shared library unloaded, no huge pages.
 * Runs with FLOW_TEST_WORKERS workers where it does not say otherwise. */
#include "tests/support/child.h"
#include "tests/support/tasks.h"
#include "tests/support/every_call.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- every call, at the wrong time ---- */

static void release_nothing(void *arg)
{
    (void)arg;
}

static void *everything_is_shut_down(void *unused)
{
    every_call_gives(-ESHUTDOWN);
    return unused;
}

static void everything_is_shut_down_here_and_there(void)
{
    pthread_t thread;

    everything_is_shut_down(NULL);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, everything_is_shut_down, NULL), 0);
    pthread_join(thread, NULL);
}

CASE(before_the_start_and_after_the_stop_every_call_gives_eshutdown)
{
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    everything_is_shut_down_here_and_there();
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(return_argument, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    everything_is_shut_down_here_and_there();
    REQUIRE_EQUAL(flow_stop(FLOW_NOW), 0);
    test_start_driven();
    REQUIRE_EQUAL(flow_sync_wait(return_argument, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    everything_is_shut_down_here_and_there();
}

CASE(a_lane_that_the_stop_has_ended_cannot_be_destroyed_again)
{
    flow_lane *lane;

    test_start();
    REQUIRE_EQUAL(flow_lane_create(&lane, NULL), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_lane_destroy(lane), -ESHUTDOWN);
}

CASE(outside_a_coroutine_what_needs_one_gives_eperm)
{
    bool abandoned = false;

    test_start();
    REQUIRE_EQUAL(flow_yield(), -EPERM);
    REQUIRE_EQUAL(flow_sleep(1), -EPERM);
    REQUIRE_EQUAL(flow_sleep(-1), -EPERM);
    REQUIRE_EQUAL(flow_sleep_until(FLOW_FOREVER), -EPERM);
    REQUIRE_EQUAL(flow_spawn_now(NULL, return_argument, NULL), -EPERM);
    REQUIRE_EQUAL(flow_suspend(publish_nothing, NULL, FLOW_FOREVER), -EPERM);
    REQUIRE_EQUAL(flow_offload(FLOW_LANE_FILE, return_argument, NULL, FLOW_FOREVER).error, -EPERM);
    REQUIRE_EQUAL(
        flow_offload_owned(FLOW_LANE_FILE, return_argument, NULL, release_nothing, &abandoned, FLOW_FOREVER)
            .error,
        -EPERM);
    REQUIRE(abandoned);
    REQUIRE_EQUAL(flow_self().id, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result start_and_drive_inside(void *arg)
{
    struct flow_options o = FLOW_OPTIONS_INIT;

    REQUIRE_EQUAL(flow_start(&o), -EPERM);
    REQUIRE(strlen(flow_start_error()) > 0);
    REQUIRE_EQUAL(flow_run(&o, return_argument, NULL, NULL), -EPERM);
    REQUIRE_EQUAL(flow_drive(FLOW_NOW), -EPERM);
    return flow_ok(arg);
}

CASE(inside_a_coroutine_nothing_can_be_started_or_driven)
{
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(start_and_drive_inside, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    test_start_driven();
    REQUIRE_EQUAL(flow_sync_wait(start_and_drive_inside, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(it_says_which_ways_it_has_found)
{
    struct flow_info info = {.size = sizeof info};

    test_start();
    REQUIRE_EQUAL(flow_info(&info), 0);
    child_note("here: guards by %s, memory policy %s, RCU %s, %d of %d workers pinned", info.guard,
               info.memory_policy, info.rcu, info.pinned, info.workers);
    REQUIRE(strstr("madvise mprotect canary", info.guard));
    REQUIRE(strstr("one node, bind in part, first-touch", info.memory_policy));
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(a_second_start_gives_ealready_and_harms_nothing)
{
    flow_task task;
    flow_result out;

    test_start();
    REQUIRE_EQUAL(flow_spawn(&task, sleep_ms, (void *)20), 0);
    REQUIRE_EQUAL(flow_start(NULL), -EALREADY);
    REQUIRE(strlen(flow_start_error()) > 0);
    REQUIRE_EQUAL(flow_run(NULL, return_argument, NULL, NULL), -EALREADY);
    REQUIRE_EQUAL(flow_join(task, &out, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(out.error, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    test_start();
    REQUIRE_EQUAL(strlen(flow_start_error()), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- again and again ---- */

static flow_result use_everything(void *arg)
{
    struct flow_spawn_options named = FLOW_SPAWN_INIT;
    flow_task task[20];

    named.name = "named";
    for (int i = 0; i < 20; i++) {
        named.stack_bytes = (size_t)(16 * 1024) << i % 3;
        REQUIRE_EQUAL(flow_spawn_with(&task[i], &named, return_argument, arg), 0);
    }
    REQUIRE_EQUAL(flow_when_all(task, 20, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_offload(FLOW_LANE_FILE, return_argument, arg, FLOW_FOREVER).error, 0);
    REQUIRE_EQUAL(flow_sleep(FLOW_US(50)), 0);
    return flow_ok(NULL);
}

CASE(a_thousand_starts_and_stops_leave_memory_and_descriptors_flat)
{
    const int rounds = TEST_ROUNDS(1000, 100), warm = rounds / 5;
    long kb = 0, fds = 0, threads_at_end;

    for (int i = 0; i < rounds; i++) {
        struct flow_stats stats;

        if (i == warm) {
            kb = resident_kb();
            fds = descriptor_count();
        }
        test_start();
        REQUIRE_EQUAL(flow_sync_wait(use_everything, NULL, NULL, FLOW_FOREVER), 0);
        stats = test_stats();
        REQUIRE(stats.offload_threads <= 16);
        REQUIRE_EQUAL(stats.offloaded, 1);
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    }
    WAIT_UNTIL(thread_count() <= 1 + TEST_TSAN);
    threads_at_end = thread_count();
    child_note("%d rounds: RSS %+ld KiB since round %d, descriptors %+ld, threads %ld", rounds,
               resident_kb() - kb, warm, descriptor_count() - fds, threads_at_end);
    REQUIRE_EQUAL(descriptor_count(), fds);
    if (!TEST_SLOW) /* whose own memory grows */
        REQUIRE(resident_kb() - kb < 512);
}

CASE(helpers_of_one_runtime_are_not_counted_by_the_next)
{
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(use_everything, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    test_start();
    WAIT_UNTIL(thread_count() <= 1 + test_workers() + TEST_TSAN);
    REQUIRE_EQUAL(test_stats().offload_threads, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result timer_of_50_ms(void *arg)
{
    (void)arg;
    return sleep_ms((void *)50);
}

/* ---- running ---- */

static flow_result fire_and_forget(void *arg)
{
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, timer_of_50_ms, NULL), 0);
    return flow_ok(arg);
}

CASE(run_waits_for_every_task_and_gives_the_first_ones_result)
{
    struct flow_options o = test_options();
    flow_result out;
    flow_deadline begin = flow_now();

    REQUIRE_EQUAL(flow_run(&o, fire_and_forget, (void *)9, &out), 0);
    REQUIRE(out.error == 0 && out.ptr == (void *)9);
    REQUIRE(flow_now() - begin >= FLOW_MS(50));
    REQUIRE_EQUAL(flow_run(&o, fire_and_forget, NULL, NULL), 0);
    o.stack_bytes = 3;
    REQUIRE_EQUAL(flow_run(&o, return_argument, NULL, &out), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "stack_bytes"));
}

/* ---- the shared library, loaded and unloaded ---- */

CASE(the_shared_library_stays_when_it_is_unloaded)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 64);
    flow_result out;

    REQUIRE(n > 0);
    path[n] = 0;
    for (int i = 0; i < 2; i++)
        *strrchr(path, '/') = 0;
    strcat(path, "/libflowcoro.so");
    if (TEST_SANITIZED)
        skip_case("a library with a sanitizer in it cannot be loaded late");
    if (access(path, R_OK))
        skip_case("the shared library is not built");
    for (int i = 0; i < 10; i++) {
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        int (*start)(const struct flow_options *) = library ? dlsym(library, "flow_start") : NULL;
        int (*wait)(flow_fn, void *, flow_result *, flow_deadline) =
            library ? dlsym(library, "flow_sync_wait") : NULL;
        int (*stop)(flow_deadline) = library ? dlsym(library, "flow_stop") : NULL;

        if (!library)
            child_fail(__FILE__, __LINE__, dlerror());
        REQUIRE(start && wait && stop);
        REQUIRE_EQUAL(start(NULL), i == 0 ? 0 : -EALREADY); /* it is the same one */
        REQUIRE_EQUAL(wait(return_argument, (void *)7, &out, FLOW_FOREVER), 0);
        REQUIRE(out.ptr == (void *)7);
        REQUIRE_EQUAL(dlclose(library), 0);
        REQUIRE_EQUAL(wait(return_argument, (void *)8, &out, FLOW_FOREVER), 0);
        if (i == 9)
            REQUIRE_EQUAL(stop(FLOW_FOREVER), 0);
    }
}

/* ---- stacks and huge pages ---- */

struct huge {
    long kb;
    bool found;
};

static flow_result look_at_smaps(void *out)
{
    struct huge *huge = out;
    uintptr_t here = (uintptr_t)&huge, from, to;
    bool inside = false;
    FILE *f = fopen("/proc/self/smaps", "re");
    char *line = NULL;
    size_t room = 0;

    while (f && getline(&line, &room, f) > 0) {
        if (sscanf(line, "%lx-%lx", &from, &to) == 2)
            inside = here >= from && here < to;
        if (inside && sscanf(line, "AnonHugePages: %ld", &huge->kb) == 1)
            huge->found = true;
    }
    free(line);
    if (f)
        fclose(f);
    return flow_ok(NULL);
}

CASE(stacks_are_not_made_of_huge_pages)
{
    struct flow_spawn_options with = FLOW_SPAWN_INIT;
    struct huge huge = {-1, false};
    flow_task task;

    with.stack_bytes = 256 * 1024;
    test_start_stacks(1 << 20);
    for (int i = 0; i < 50; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, sleep_for_ever, NULL), 0);
    REQUIRE_EQUAL(flow_spawn_with(&task, &with, look_at_smaps, &huge), 0);
    REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
    REQUIRE(huge.found);
    REQUIRE_EQUAL(huge.kb, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
