/* SPDX-License-Identifier: MIT
 *
 * Every part of the library while the system refuses one call: a scenario is run once to count its
 * calls of each kind, and then again and again with the n-th of a kind failing, for every n, or for
 * some of them where there are many. Each time the program gets a clear error or carries on, what was
 * taken is given back (mappings, memory, descriptors, threads), and nothing hangs. What they do is in tests/scenarios.
 * A line for each scenario; the last one says how many faults were injected in all. */
#include "tests/scenarios/scenarios.h"
#include "tests/support/faults.h"
#include "tests/support/heap.h"
#include "tests/support/machine.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- running them ---- */

static const struct scenario {
    const char *name;
    void (*body)(void); /* faults while it runs, and from then on; NULL: from flow_start on */
    long most;   /* of the n-th calls of a kind; 0: all */
    bool driven; /* workers = 0 */
    int nodes;   /* of which most are a fixture's */
    bool watched; /* with a monitor's thread and measured stacks */
} scenarios[] = {
    {"start", NULL, 0, false},
    {"start, driven", NULL, 0, true},
    {"start, watched", NULL, 12, false, 1, true},
    {"start, two nodes", NULL, 12, false, 2},
    {"spawn", spawns, 12, false},
    {"spawn, driven", spawns, 8, true},
    {"10,000 tasks", ten_thousand_tasks, 2, false},
    {"timers", timers, 8, false},
    {"offload", offload, 12, false},
    {"pools", pools, 12, false},
    {"pools, two nodes", pools, 8, false, 2},
    {"object pools", object_pools, 12, false},
    {"channels, select", channels, 12, false},
    {"locks", locks, 12, false},
    {"scopes", scopes, 12, false},
    {"queue, stack, ring", containers, 12, false},
    {"jobs, loops", jobs, 12, false},
    {"broadcast, generators", broadcast_and_generators, 12, false},
    {"memory of a node", memory_of_a_node, 12, false},
    {"stop", stop, 12, false},
};

enum { N_SCENARIOS = sizeof scenarios / sizeof *scenarios };

/* The kinds of the table; then, where it can be counted, the C library's allocator. */
enum { FAULT_HEAP = FAULT_KINDS, ALL_KINDS };

struct tally {
    long injected, leaked;
};

static __attribute__((unused)) long heap_kept; /* what is taken once in a process */

bool any_fault_fired(void)
{
#if HEAP_COUNTED
    if (atomic_load(&heap.fired))
        return true;
#endif
    return faults_fired();
}

static void arm(int kind, long n, bool forever)
{
    faults_arm(kind < FAULT_KINDS ? (enum fault)kind : FAULT_MAP, kind < FAULT_KINDS ? n : 0, forever);
#if HEAP_COUNTED
    heap_arm(kind == FAULT_HEAP ? n : 0, false);
#endif
    scenario_faults.injecting = n > 0;
    scenario_faults.how = forever ? ALWAYS : kind == FAULT_BARRIER ? BARRIER : ONCE;
}

static long calls_of(int kind)
{
#if HEAP_COUNTED
    if (kind == FAULT_HEAP)
        return atomic_load(&heap.calls);
#endif
    return kind < FAULT_KINDS ? faults_calls((enum fault)kind) : 0;
}

static bool all_is_given_back(long descriptors)
{
    struct faults_balance b = faults_balance();

#if HEAP_COUNTED
    if (heap_live() != heap_kept)
        return false;
#endif
    return b.maps == 0 && b.mapped_bytes == 0 && b.allocations == 0 && thread_count() <= 1 + TEST_TSAN &&
           descriptor_count() == descriptors;
}

/* Helpers end by themselves after the stop. */
static bool has_leaked(const struct scenario *s, int kind, long n, long descriptors)
{
    struct faults_balance b;

    for (int i = 0; i < 20000; i++) {
        if (all_is_given_back(descriptors))
            return false;
        test_nap(FLOW_US(100));
    }
    b = faults_balance();
    fprintf(stderr, "%s, after fault %d no. %ld: %ld maps, %ld bytes of them, %ld allocations, "
                    "%ld threads, %ld descriptors are left\n",
            s->name, kind, n, b.maps, b.mapped_bytes, b.allocations, thread_count() - 1,
            descriptor_count() - descriptors);
#if HEAP_COUNTED
    fprintf(stderr, "and %ld of malloc\n", heap_live() - heap_kept);
#endif
    return true;
}

static void run_once(const struct scenario *s, int kind, long n, bool forever)
{
    struct flow_options o = test_options();
    int r;

    if (s->driven)
        o.workers = 0;
    if (s->watched) {
        o.stall_ns = FLOW_S(5);
        o.dump_signal = SIGUSR1;
        o.measure_stacks = true;
    }
    arm(kind, s->body ? 0 : n, forever);
    r = flow_start(&o);
    if (!fine(r)) {
        REQUIRE(strlen(flow_start_error()) > 10);
        return;
    }
    REQUIRE_EQUAL(strlen(flow_start_error()), 0);
    if (s->body) {
        REQUIRE_EQUAL(in_task(nothing), 0);
        arm(kind, n, forever);
        s->body();
    }
    REQUIRE(flow_stop(FLOW_FOREVER) == 0);
}

static void try_one(struct tally *t, const struct scenario *s, int kind, long n, bool forever)
{
    long descriptors = descriptor_count();

    run_once(s, kind, n, forever);
    t->injected += n > 0 && any_fault_fired();
#if HEAP_COUNTED
    atomic_store(&heap.countdown, 0); /* what looks for leaks needs memory itself */
#endif
    t->leaked += has_leaked(s, kind, n, descriptors);
    REQUIRE_EQUAL(t->leaked, 0);
}

/* The first, the last, and some between: or all of them. */
static void try_kind(struct tally *t, const struct scenario *s, int kind, long calls)
{
    long most = s->most && s->most < calls ? s->most : calls;

    if (TEST_EMULATED && most > 2)
        most = 2;

    for (long i = 0; i < most; i++)
        try_one(t, s, kind, most < 2 ? 1 : 1 + i * (calls - 1) / (most - 1), false);
    try_one(t, s, kind, 1, true);
    try_one(t, s, kind, calls / 2 + 1, true);
}

CHILD(scenario)
{
    const struct scenario *s = &scenarios[atoi(arg)];
    long calls[ALL_KINDS], errors;
    char line[400] = "";
    struct tally t = {0};

    faults_open();
    if (s->nodes > 1)
        machine_use(&machine_two_sockets);
    run_once(s, 0, 0, false);
    WAIT_UNTIL(thread_count() <= 1 + TEST_TSAN); /* helpers have gone too */
#if HEAP_COUNTED
    heap_kept = heap_live();
#endif
    for (int guards = 0; guards < (TEST_EMULATED ? 1 : 2); guards++) { /* it refuses from the start */
        if (guards)
            faults_refuse_guard_install();
        try_one(&t, s, 0, 0, false);
        for (int k = 0; k < ALL_KINDS; k++)
            calls[k] = guards && k != FAULT_PROTECT ? 0 : calls_of(k);
        for (int k = 0; k < ALL_KINDS; k++) {
            if (calls[k] == 0)
                continue;
            try_kind(&t, s, k, calls[k]);
            snprintf(line + strlen(line), sizeof line - strlen(line), "%s %ld, ",
                     k < FAULT_KINDS ? fault_names[k] : "malloc", calls[k]);
        }
    }
    arm(0, 0, false);
    errors = atomic_load(&scenario_faults.n_errors);
    child_note("%-22s calls: %serrors returned %ld, injected %ld, leaked %ld", s->name, line, errors,
               t.injected, t.leaked);
}

/* ---- a test for each ---- */

static long all_injected, all_leaked, all_hung;

static void judge(const char *index)
{
    static struct child_end end;
    long injected = 0, leaked = 0;
    const char *at;

    if (TEST_TSAN || TEST_VALGRIND)
        skip_case("too many fibers for the thread sanitizer, too slow under memcheck");
    child_run(&end, "scenario", index);
    all_hung += end.hung;
    at = strstr(end.text, "note ");
    if (at)
        printf("%.*s\n", (int)strcspn(at, "\n"), at);
    child_must_exit(&end, 0);
    at = strstr(end.text, "injected ");
    assert_true(at && sscanf(at, "injected %ld, leaked %ld", &injected, &leaked) == 2);
    assert_true(injected > 0);
    all_injected += injected;
    all_leaked += leaked;
}

static void test_scenario(void **state)
{
    char index[12];

    snprintf(index, sizeof index, "%d", (int)((const struct scenario *)*state - scenarios));
    judge(index);
}

static void test_none_has_leaked_or_hung(void **state)
{
    (void)state;
    printf("note fault scenarios: injected %ld, leaked %ld, hung %ld\n", all_injected, all_leaked,
           all_hung);
    assert_int_equal(all_leaked + all_hung, 0);
}

int main(int argc, char **argv)
{
    static struct CMUnitTest tests[N_SCENARIOS + 1];

    if (argc == 4 && !strcmp(argv[1], "--child"))
        return cases_main(argc, argv);
    unsetenv("FLOW_WORKERS");
    unsetenv("FLOW_OPTIONS");
    for (int i = 0; i < N_SCENARIOS; i++)
        tests[i] = (struct CMUnitTest){scenarios[i].name, test_scenario, NULL, NULL,
                                       (void *)(uintptr_t)&scenarios[i]};
    tests[N_SCENARIOS] = (struct CMUnitTest){"none has leaked or hung", test_none_has_leaked_or_hung,
                                             NULL, NULL, NULL};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
