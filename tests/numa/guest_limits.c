/* SPDX-License-Identifier: MIT
 *
 * In the guest, where a test may turn the kernel's knobs: strict accounting of memory, and so few
 * mappings that guard pages run out. Its kernel 6.1 has no guard regions, so each stack's guard is
 * a mapping. Every knob is turned back by the parent, however its child ended. */
#include "tests/numa/guest.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

static char knob_before[64];

static void turn(const char *knob, const char *value)
{
    guest_read(knob_before, sizeof knob_before, "/proc/sys/vm/%s", knob);
    guest_write(value, "/proc/sys/vm/%s", knob);
}

static void run_with(const char *knob, const char *value, const char *child)
{
    static struct child_end end;

    turn(knob, value);
    child_run(&end, child, "");
    guest_write(knob_before, "/proc/sys/vm/%s", knob);
    printf("%s", end.text);
    child_must_exit(&end, 0);
}

static flow_result add_one(void *arg)
{
    flow_yield();
    return flow_ok_i64((intptr_t)arg + 1);
}

static flow_result spawn_some(void *arg)
{
    flow_task tasks[100];
    flow_result results[100];

    for (intptr_t i = 0; i < 100; i++)
        REQUIRE_EQUAL(flow_spawn(&tasks[i], add_one, (void *)i), 0);
    REQUIRE_EQUAL(flow_when_all(tasks, 100, results, FLOW_FOREVER), 0);
    for (int i = 0; i < 100; i++)
        REQUIRE_EQUAL(results[i].i64, i + 1);
    return flow_ok(arg);
}

/* ---- overcommit_memory = 2: the kernel counts every byte that could be written ---- */

CHILD(counted_to_the_byte)
{
    struct flow_options options = FLOW_OPTIONS_INIT;
    struct flow_info info = {.size = sizeof info};
    int r = flow_start(&options);

    if (r) {
        /* Not even the smallest regions fit: then it must say so, and with fewer tasks it must go. */
        REQUIRE_EQUAL(r, -ENOMEM);
        REQUIRE(strlen(flow_start_error()) > 0);
        child_note("the defaults do not start: %s", flow_start_error());
        options.max_tasks = 10000;
        r = flow_start(&options);
        if (r)
            child_note("nor do 10,000 tasks: %s", flow_start_error());
        REQUIRE_EQUAL(r, 0);
    }
    REQUIRE_EQUAL(flow_info(&info), 0);
    child_note("vm.overcommit_memory=2: room for %zu MiB of stacks", info.stack_reserve_bytes >> 20);
    REQUIRE_EQUAL(flow_sync_wait(spawn_some, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

JUDGED(it_works_when_the_kernel_does_not_overcommit)
{
    run_with("overcommit_memory", "2", "counted_to_the_byte");
}

/* ---- max_map_count: guards run out ---- */

enum { MAPPINGS = 3000, TASKS = 2500 };

static atomic_int n_staying;

static flow_result stay(void *arg)
{
    atomic_fetch_add(&n_staying, 1);
    flow_sleep_until(FLOW_FOREVER);
    return flow_ok(arg);
}

CHILD(few_mappings)
{
    static flow_task tasks[TASKS];
    struct flow_info info = {.size = sizeof info};
    struct flow_stats stats;
    int refused = 0;

    REQUIRE_EQUAL(flow_start(NULL), 0);
    REQUIRE_EQUAL(flow_info(&info), 0);
    if (strcmp(info.guard, "mprotect") != 0)
        skip_case("this kernel's guards need no mapping each");
    for (int i = 0; i < TASKS; i++)
        REQUIRE_EQUAL(flow_spawn(&tasks[i], stay, NULL), 0);
    WAIT_UNTIL((uint64_t)atomic_load(&n_staying) + test_stats().total.no_stack == TASKS);
    stats = test_stats();
    REQUIRE(stats.guard_failures > 0);
    REQUIRE(stats.total.no_stack > 0);
    for (int i = 0; i < TASKS; i++)
        flow_cancel(tasks[i]);
    for (int i = 0; i < TASKS; i++) {
        flow_result result;

        REQUIRE_EQUAL(flow_join(tasks[i], &result, FLOW_FOREVER), 0);
        refused += result.error == -ENOMEM;
    }
    REQUIRE_EQUAL(refused, stats.total.no_stack);
    child_note("%d mappings: %d tasks had a guarded stack, %d were refused with -ENOMEM", MAPPINGS,
               TASKS - refused, refused);
    REQUIRE_EQUAL(flow_sync_wait(spawn_some, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

JUDGED(stacks_are_refused_when_guards_run_out)
{
    char value[16];

    snprintf(value, sizeof value, "%d", MAPPINGS);
    run_with("max_map_count", value, "few_mappings");
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
