/* SPDX-License-Identifier: MIT
 *
 * What the system refuses: the n-th call of each kind, memory, threads, descriptors,
 * guards, whole system calls. Each time the error must come back as an error, nothing may
 * leak and nothing may hang. With FLOW_TEST_WORKERS workers. */
#include "tests/support/child.h"
#include "tests/support/faults.h"
#include "tests/support/machine.h"
#include "tests/support/sandbox.h"

#include "sync/syscall.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GUARD_INSTALL = 102, NOBODY = 65534 };

static flow_result nothing(void *arg)
{
    return flow_ok(arg);
}

static flow_result sleep_for_ever(void *arg)
{
    (void)arg;
    return flow_err(flow_sleep_until(FLOW_FOREVER));
}

static atomic_int n_enomem, n_ok, n_slept;

static flow_result count_and_sleep(void *arg)
{
    atomic_fetch_add(&n_slept, 1);
    return sleep_for_ever(arg);
}

static struct flow_info info_now(void)
{
    struct flow_info info = {.size = sizeof info};

    REQUIRE_EQUAL(flow_info(&info), 0);
    return info;
}

/* ---- the n-th call fails ---- */

enum { TASKS = 200 };

static void release_arg(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static flow_result add_one(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
    return flow_ok_i64(11);
}

static flow_result live_a_little(void *arg)
{
    intptr_t i = (intptr_t)arg;
    int r = i % 3 ? flow_sleep(FLOW_US(200)) : flow_yield();

    return r ? flow_err(r) : flow_ok(arg);
}

/* An offloaded call either runs or says why not; an owned argument is released or stays ours. */
static flow_result offload_both_ways(void *arg)
{
    atomic_int ran = 0, owned = 0;
    bool abandoned = false;
    flow_result r = flow_offload(FLOW_LANE_FILE, add_one, &ran, FLOW_FOREVER);

    (void)arg;
    REQUIRE(r.error == 0 || r.error == -ENOMEM || r.error == -EAGAIN);
    REQUIRE_EQUAL(atomic_load(&ran), r.error == 0);
    if (r.error)
        return r;
    r = flow_offload_owned(FLOW_LANE_DNS, add_one, &owned, release_arg, &abandoned, FLOW_FOREVER);
    REQUIRE(r.error == 0 || r.error == -ENOMEM || r.error == -EAGAIN);
    REQUIRE_EQUAL(abandoned, r.error != 0);
    REQUIRE_EQUAL(atomic_load(&owned), 1); /* run once, or released once */
    return r;
}

struct tally {
    long injected, errors, refused_starts, leaked;
};

static void expect_error(struct tally *t, int r)
{
    if (!r)
        return;
    REQUIRE(r == -ENOMEM || r == -EAGAIN);
    REQUIRE(faults_fired());
    t->errors++;
}

static void use_the_runtime(struct tally *t)
{
    static const char *const names[] = {"a name", NULL, NULL};
    flow_task task[TASKS], joined[TASKS];
    flow_result result[TASKS];
    flow_lane *lane;
    size_t n = 0;
    int r;

    for (intptr_t i = 0; i < TASKS; i++) {
        struct flow_spawn_options o = FLOW_SPAWN_INIT;

        o.name = names[i % 3];
        o.stack_bytes = (size_t)(16 * 1024) << i % 5;
        r = flow_spawn_with(&task[n], &o, i % 20 == 0 ? offload_both_ways : live_a_little,
                            (void *)i);
        expect_error(t, r);
        n += r == 0;
    }
    memcpy(joined, task, sizeof task);
    r = flow_when_all(task, n, result, FLOW_FOREVER);
    if (r == -ENOMEM && flow_join(task[0], &result[0], FLOW_FOREVER) == 0) {
        /* Either its own memory was refused, and all can still be joined one by one ... */
        t->errors++;
        expect_error(t, result[0].error);
        for (size_t i = 1; i < n; i++) {
            REQUIRE_EQUAL(flow_join(task[i], &result[i], FLOW_FOREVER), 0);
            expect_error(t, result[i].error);
        }
    } else { /* ... or a task's was. */
        for (size_t i = 0; i < n; i++)
            expect_error(t, result[i].error);
    }
    r = flow_lane_create(&lane, NULL);
    expect_error(t, r);
    if (!r)
        REQUIRE_EQUAL(flow_lane_destroy(lane), 0);
    for (int i = 0; i < 3; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, sleep_for_ever, NULL), 0);
}

/* Helpers end by themselves after the stop. */
static bool all_is_given_back(void)
{
    struct faults_balance b = faults_balance();

    return b.maps == 0 && b.mapped_bytes == 0 && b.allocations == 0;
}

static void scenario(struct tally *t)
{
    struct flow_options o = test_options();
    int r = flow_start(&o);

    if (r) {
        t->refused_starts++;
        expect_error(t, r);
        REQUIRE(strlen(flow_start_error()) > 10);
    } else {
        REQUIRE_EQUAL(strlen(flow_start_error()), 0);
        use_the_runtime(t);
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    }
    for (int i = 0; i < 10000 && !all_is_given_back(); i++)
        test_nap(FLOW_US(100));
    if (!all_is_given_back()) {
        struct faults_balance b = faults_balance();

        fprintf(stderr, "leaked: %ld maps, %ld bytes of them, %ld allocations\n", b.maps,
                b.mapped_bytes, b.allocations);
        t->leaked++;
    }
}

enum { EACH = TEST_EMULATED ? 5 : 1 }; /* of the faults that are many */

/* Until the scenario has not met the fault. */
static void inject(enum fault kind, bool forever, long step)
{
    struct tally t = {0};
    long n = 1, most_errors = 0;

    faults_open();
    /* What is taken once in a process is taken now. */
    faults_arm(kind, 0, false);
    scenario(&t);
    REQUIRE_EQUAL(t.errors + t.leaked, 0);
    for (;; n += step) {
        long before = t.errors;

        faults_arm(kind, n, forever);
        scenario(&t);
        if (t.leaked) {
            fprintf(stderr, "after the %ldth %s\n", n, fault_names[kind]);
            break;
        }
        if (t.errors - before > most_errors)
            most_errors = t.errors - before;
        if (!faults_fired())
            break;
        t.injected++;
    }
    faults_arm(kind, 0, false);
    child_note("%s%s: injected %ld, starts refused %ld, errors returned %ld (at most %ld at once), "
               "leaked %ld, hung 0",
               fault_names[kind], forever ? " from then on" : "", t.injected, t.refused_starts,
               t.errors, most_errors, t.leaked);
    REQUIRE_EQUAL(t.leaked, 0);
    REQUIRE(t.injected > 0);
    if (!forever)
        REQUIRE(most_errors <= 1); /* one refusal is one error */
}

static void skip_under_tsan(void)
{
    if (TEST_TSAN)
        skip_case("too many fibers for the thread sanitizer");
}

CASE(a_refused_map_is_an_error_and_nothing_else)
{
    skip_under_tsan();
    inject(FAULT_MAP, false, 1);
}

CASE(a_refused_advice_is_an_error_and_nothing_else)
{
    skip_under_tsan();
    inject(FAULT_ADVISE, false, 1);
}

CASE(a_refused_allocation_is_an_error_and_nothing_else)
{
    skip_under_tsan();
    inject(FAULT_ALLOCATE, false, EACH);
}

CASE(a_refused_thread_is_an_error_and_nothing_else)
{
    skip_under_tsan();
    inject(FAULT_THREAD, false, 1);
}

static int no_guards(void *start, size_t bytes, int advice)
{
    return advice == GUARD_INSTALL ? -EINVAL : flow__sys_real.advise(start, bytes, advice);
}

static long mapping_count(void)
{
    FILE *f = fopen("/proc/self/maps", "re");
    long n = 0;

    REQUIRE(f);
    for (int c; (c = fgetc(f)) != EOF;)
        n += c == '\n';
    fclose(f);
    return n;
}

/* A thread that has ended and was not joined keeps its stack, which the table does not see. */
CASE(threads_of_a_start_that_failed_are_joined)
{
    struct flow_options o = test_options();
    long before = 0;

    if (TEST_SANITIZED || o.workers < 2)
        skip_case("a sanitizer's own mappings, or no thread before the one that is refused");
    faults_open();
    for (int i = 0; i < 60; i++) {
        if (i == 10)
            before = mapping_count();
        faults_arm(FAULT_THREAD, o.workers, false);
        REQUIRE_EQUAL(flow_start(&o), -EAGAIN);
    }
    REQUIRE(mapping_count() < before + 20);
}

CASE(a_refused_protection_is_an_error_and_nothing_else)
{
    struct tally t = {0};
    long n;

    skip_under_tsan();
    faults_open();
    flow__sys.advise = no_guards;
    for (n = 1;; n += EACH) {
        faults_arm(FAULT_PROTECT, n, false);
        scenario(&t);
        REQUIRE_EQUAL(t.leaked, 0);
        if (!faults_fired())
            break;
    }
    child_note("protect: injected %ld, errors returned %ld, leaked %ld, hung 0", n / EACH, t.errors,
               t.leaked);
    REQUIRE(n > 10); /* a guard for each stack */
}

CASE(maps_refused_from_some_time_on)
{
    skip_under_tsan();
    inject(FAULT_MAP, true, 1);
}

CASE(advice_refused_from_some_time_on)
{
    skip_under_tsan();
    inject(FAULT_ADVISE, true, 3);
}

CASE(allocations_refused_from_some_time_on)
{
    skip_under_tsan();
    inject(FAULT_ALLOCATE, true, 2);
}

CASE(threads_refused_from_some_time_on)
{
    skip_under_tsan();
    inject(FAULT_THREAD, true, 1);
}

/* How many waits there are is not determined, so the n-th may not come; then it is not counted. */
static void inject_waits(enum fault kind, long most, bool forever)
{
    struct tally t = {0};
    long fired = 0;

    skip_under_tsan();
    faults_open();
    for (long n = 1; n <= most; n++) {
        faults_arm(kind, n, forever);
        scenario(&t);
        fired += faults_fired();
    }
    faults_arm(kind, 0, false);
    child_note("%s%s: injected %ld, errors returned %ld, leaked %ld, hung 0", fault_names[kind],
               forever ? " from then on" : "", fired, t.errors, t.leaked);
    REQUIRE_EQUAL(t.errors + t.leaked + t.refused_starts, 0);
    REQUIRE(fired > 0);
}

CASE(waits_that_are_interrupted_change_nothing)
{
    inject_waits(FAULT_WAIT_EINTR, TEST_ROUNDS(60, 10), false);
}

CASE(waits_that_come_back_at_once_change_nothing)
{
    inject_waits(FAULT_WAIT_EAGAIN, TEST_ROUNDS(60, 10), false);
}

CASE(no_wait_ever_waits)
{
    inject_waits(FAULT_WAIT_EINTR, 5, true);
    inject_waits(FAULT_WAIT_EAGAIN, 5, true);
}

/* All that a program needs, and it must work. */

static flow_result spawn_and_join_many(void *arg)
{
    flow_task task[TASKS];
    atomic_int ran = 0;

    for (intptr_t i = 0; i < TASKS; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], live_a_little, (void *)i), 0);
    REQUIRE_EQUAL(flow_when_all(task, TASKS, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_offload(FLOW_LANE_FILE, add_one, &ran, FLOW_FOREVER).error, 0);
    REQUIRE_EQUAL(atomic_load(&ran), 1);
    return flow_ok(arg);
}

static void work(void)
{
    flow_result r = {0};

    REQUIRE_EQUAL(flow_sync_wait(spawn_and_join_many, (void *)5, &r, FLOW_FOREVER), 0);
    REQUIRE(r.error == 0 && r.ptr == (void *)5);
}

/* A worker makes room for waking a task before it starts it; where
 * there is none the task is refused. */
CASE(no_room_for_more_started_tasks)
{
    enum { MANY = 4000 };
    static flow_task task[MANY];
    struct flow_options o = test_options();
    long slept, refused = 0;

    skip_under_tsan();
    o.stack_bytes = 16 * 1024;
    faults_open();
    faults_arm(FAULT_MAP, 0, false);
    test_start_with(&o);
    WAIT_UNTIL(info_now().pinned == o.workers || o.no_pinning);
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    test_nap(FLOW_MS(5)); /* its workers have their signal stacks */
    faults_arm(FAULT_MAP, 1, true);
    for (int i = 0; i < MANY; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], count_and_sleep, NULL), 0);
    WAIT_UNTIL(test_stats().total.no_stack + (uint64_t)atomic_load(&n_slept) == MANY);
    faults_arm(FAULT_MAP, 0, false);
    slept = atomic_load(&n_slept);
    REQUIRE(slept > 0 && slept < MANY);
    for (int i = 0; i < MANY; i++)
        flow_cancel(task[i]);
    for (int i = 0; i < MANY; i++) {
        flow_result r;

        REQUIRE_EQUAL(flow_join(task[i], &r, FLOW_FOREVER), 0);
        REQUIRE(r.error == -ENOMEM || r.error == -ECANCELED);
        refused += r.error == -ENOMEM;
    }
    REQUIRE_EQUAL(slept + refused, MANY);
    child_note("without memory for more, %ld tasks slept and %ld were refused", slept, refused);
    REQUIRE_EQUAL(refused, test_stats().total.no_stack);
    work();
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    WAIT_UNTIL(all_is_given_back());
}

/* ---- stacks that cannot be guarded ---- */

static void stop_guarding(void)
{
    flow__sys.advise = no_guards;
}

/* With a stack of another size than those that each worker has from the start. */
static flow_result run_on_a_new_stack(void)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    flow_result r;
    flow_task task;

    o.stack_bytes = 256 * 1024;
    REQUIRE_EQUAL(flow_spawn_with(&task, &o, nothing, NULL), 0);
    REQUIRE_EQUAL(flow_join(task, &r, FLOW_FOREVER), 0);
    return r;
}

CASE(a_stack_that_cannot_be_guarded_is_refused)
{
    struct flow_options o = test_options();
    struct flow_stats stats;

    test_start_with(&o);
    if (strcmp(info_now().guard, "madvise"))
        skip_case("this system has no madvise guards");
    stop_guarding();
    REQUIRE_EQUAL(run_on_a_new_stack().error, -ENOMEM);
    stats = test_stats();
    REQUIRE(stats.guard_failures > 0);
    REQUIRE_EQUAL(stats.total.no_stack, 1);
    REQUIRE_EQUAL(stats.live, 0);
    flow__sys.advise = flow__sys_real.advise;
    REQUIRE_EQUAL(run_on_a_new_stack().error, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(the_first_task_has_a_stack_since_the_start)
{
    flow_result r;

    test_start();
    stop_guarding();
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, &r, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(r.error, 0);
    REQUIRE_EQUAL(test_stats().guard_failures, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(unless_that_was_said_to_be_fine)
{
    struct flow_options o = test_options();

    o.unguarded_ok = true;
    test_start_with(&o);
    if (strcmp(info_now().guard, "madvise"))
        skip_case("this system has no madvise guards");
    stop_guarding();
    REQUIRE_EQUAL(run_on_a_new_stack().error, 0);
    REQUIRE(test_stats().guard_failures > 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* vm.max_map_count: each mprotect guard costs two mappings. */
CASE(stacks_end_where_the_kernel_has_no_more_mappings)
{
    enum { MANY = 40000 };
    static flow_task task[MANY];
    struct flow_stats stats;
    long most = 0;
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");

    if (TEST_SANITIZED)
        skip_case("a sanitizer needs mappings of its own");
    if (!f || fscanf(f, "%ld", &most) != 1 || most > 70000)
        skip_case("vm.max_map_count is large or not known");
    fclose(f);
    flow__sys.advise = no_guards;
    test_start_stacks(16 * 1024);
    REQUIRE(!strcmp(info_now().guard, "mprotect"));
    for (int i = 0; i < MANY; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], count_and_sleep, NULL), 0);
    WAIT_UNTIL((stats = test_stats()).total.no_stack + (uint64_t)atomic_load(&n_slept) == MANY);
    child_note("%d stacks under mprotect guards, then -ENOMEM for %llu tasks; vm.max_map_count %ld",
               atomic_load(&n_slept), (unsigned long long)stats.total.no_stack, most);
    REQUIRE(stats.total.no_stack > 0 && stats.guard_failures > 0);
    REQUIRE(atomic_load(&n_slept) > most / 2 - 1500);
    for (int i = 0; i < MANY; i++)
        flow_cancel(task[i]);
    for (int i = 0; i < MANY; i++) {
        flow_result r;

        REQUIRE_EQUAL(flow_join(task[i], &r, FLOW_FOREVER), 0);
        REQUIRE(r.error == -ENOMEM || r.error == -ECANCELED);
        atomic_fetch_add(r.error == -ENOMEM ? &n_enomem : &n_ok, 1);
    }
    REQUIRE_EQUAL(atomic_load(&n_enomem), stats.total.no_stack);
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0); /* others go on */
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static void limit_to(int resource, rlim_t n)
{
    struct rlimit limit = {n, n};

    REQUIRE_EQUAL(setrlimit(resource, &limit), 0);
    if (TEST_EMULATED && resource == RLIMIT_AS)
        skip_case("the emulator does not set this limit");
}

static void become_nobody(void)
{
    if (geteuid() == 0 && (setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY)))
        skip_case("this root may not become another user");
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* /proc/self is readable again */
}

/* ---- limits ---- */

static void under_address_space(rlim_t bytes, size_t max_tasks, bool must_work)
{
    struct flow_options o = test_options();
    int r;

    if (TEST_SANITIZED)
        skip_case("a sanitizer needs terabytes of address space");
    limit_to(RLIMIT_AS, bytes);
    o.max_tasks = max_tasks;
    r = flow_start(&o);
    child_note("RLIMIT_AS %llu MiB, max_tasks %zu: %d %s", (unsigned long long)bytes >> 20,
               max_tasks, r, flow_start_error());
    if (r) {
        REQUIRE_EQUAL(r, -ENOMEM);
        REQUIRE(strlen(flow_start_error()) > 10);
        REQUIRE(!must_work);
        REQUIRE_EQUAL(thread_count(), 1);
        return;
    }
    REQUIRE(info_now().stack_reserve_bytes < bytes);
    work();
    /* The program has room for itself: half of the limit at least,
     * less what malloc reserves for each thread. */
    if (bytes >= (rlim_t)1 << 30) {
        void *p = malloc(bytes / 16);

        REQUIRE(p);
        free(p);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(it_starts_in_4_gib_of_address_space)
{
    under_address_space((rlim_t)4 << 30, 4000000, true);
}

CASE(it_starts_in_256_mib_of_address_space_with_fewer_tasks)
{
    under_address_space((rlim_t)256 << 20, 10000, true);
}

CASE(in_256_mib_four_million_tasks_are_refused_with_text)
{
    under_address_space((rlim_t)256 << 20, 4000000, false);
}

CASE(in_hardly_any_address_space_it_says_so)
{
    under_address_space((rlim_t)24 << 20, 10000, false);
}

CASE(without_threads_to_be_had_the_start_fails_cleanly)
{
    struct flow_options o = test_options();

    if (TEST_SANITIZED)
        skip_case("a sanitizer's own thread counts");
    become_nobody();
    limit_to(RLIMIT_NPROC, 1);
    for (int i = 0; i < 10; i++) {
        REQUIRE_EQUAL(flow_start(&o), -EAGAIN);
        REQUIRE(strstr(flow_start_error(), "thread"));
        REQUIRE_EQUAL(thread_count(), 1);
    }
    o.workers = 0; /* needs none */
    test_start_with(&o);
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result offload_and_give_its_error(void *arg)
{
    atomic_int ran = 0;

    (void)arg;
    return flow_offload(FLOW_LANE_FILE, add_one, &ran, FLOW_FOREVER);
}

CASE(without_helpers_to_be_had_an_offload_says_so_and_with_one_it_queues)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    flow_task task[50];
    flow_result r;

    if (TEST_SANITIZED)
        skip_case("a sanitizer's own thread counts");
    become_nobody();
    limit_to(RLIMIT_NPROC, 50);
    o.workers = 1;
    test_start_with(&o);
    /* Other processes of this user may count too, so the limit is found, not known. */
    struct rlimit limit;
    getrlimit(RLIMIT_NPROC, &limit);
    limit.rlim_cur = 1;
    REQUIRE_EQUAL(setrlimit(RLIMIT_NPROC, &limit), 0);
    REQUIRE_EQUAL(flow_sync_wait(offload_and_give_its_error, NULL, &r, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(r.error, -EAGAIN);
    do {
        limit.rlim_cur++;
        REQUIRE_EQUAL(setrlimit(RLIMIT_NPROC, &limit), 0);
        REQUIRE_EQUAL(flow_sync_wait(offload_and_give_its_error, NULL, &r, FLOW_FOREVER), 0);
    } while (r.error == -EAGAIN && limit.rlim_cur < 50);
    REQUIRE_EQUAL(r.error, 0);
    for (int i = 0; i < 50; i++)
        REQUIRE_EQUAL(flow_spawn(&task[i], offload_and_give_its_error, NULL), 0);
    for (int i = 0; i < 50; i++) {
        REQUIRE_EQUAL(flow_join(task[i], &r, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(r.error, 0);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(without_descriptors_to_be_had_stacks_are_still_guarded)
{
    struct flow_info before;
    struct flow_options o = test_options();

    test_start_with(&o);
    before = info_now();
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    struct rlimit some, none;
    REQUIRE_EQUAL(getrlimit(RLIMIT_NOFILE, &some), 0);
    none = (struct rlimit){0, some.rlim_max};
    REQUIRE_EQUAL(setrlimit(RLIMIT_NOFILE, &none), 0);
    test_start_with(&o);
    REQUIRE(!strcmp(info_now().guard, before.guard));
    work();
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(setrlimit(RLIMIT_NOFILE, &some), 0);
}

/* Everything that is mapped is locked, and a guard cannot be installed into locked memory. */
static void under_locked_memory(void)
{
    struct flow_options o = test_options();

    o.max_tasks = 10000;
    test_start_with(&o);
    child_note("locked memory: guard %s, %zu MiB for stacks, RSS %ld MiB", info_now().guard,
               info_now().stack_reserve_bytes >> 20, resident_kb() >> 10);
    REQUIRE(resident_kb() >> 10 < 64); /* what is only reserved is not locked */
    REQUIRE(!strcmp(info_now().guard, "mprotect") || !strcmp(info_now().guard, "madvise"));
    work();
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(it_works_when_all_memory_is_locked)
{
    if (TEST_SANITIZED)
        skip_case("a sanitizer's shadow would be locked too");
    limit_to(RLIMIT_AS, (rlim_t)1 << 30); /* all of it may become resident */
    if (mlockall(MCL_CURRENT | MCL_FUTURE))
        skip_case("memory may not be locked here");
    under_locked_memory();
}

CASE(it_works_when_little_memory_may_be_locked)
{
    if (TEST_SANITIZED)
        skip_case("a sanitizer's shadow would be locked too");
    struct rlimit limit;
    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (limit.rlim_max < 128 << 20)
        skip_case("RLIMIT_MEMLOCK may not be set to what the smallest region needs");
    limit_to(RLIMIT_MEMLOCK, 128 << 20);
    become_nobody();
    if (mlockall(MCL_FUTURE))
        skip_case("memory may not be locked here");
    under_locked_memory();
}

/* Two guards a mapping: mprotect runs into vm.max_map_count. Then spawning is refused, never unguarded. */
static int advise_without_guards(void *start, size_t bytes, int advice)
{
    return advice == 102 /* MADV_GUARD_INSTALL */ ? -EINVAL
                                                  : flow__sys_real.advise(start, bytes, advice);
}

static flow_result sleep_until_cancelled(void *unused)
{
    (void)unused;
    return flow_err(flow_sleep_until(FLOW_FOREVER));
}

static flow_result park_forty_thousand(void *unused)
{
    enum { MANY = 40000 };
    flow_task *task = calloc(MANY, sizeof *task);
    struct flow_stats stats = {.size = sizeof stats};
    int refused = 0;

    (void)unused;
    for (int i = 0; i < MANY; i++) {
        int r = flow_spawn_now(&task[i], sleep_until_cancelled, NULL);

        REQUIRE(r == 0 || r == -ENOMEM);
        refused += r != 0;
    }
    REQUIRE(refused > 0 && refused < MANY / 2);
    REQUIRE_EQUAL(flow_stats(&stats), 0);
    REQUIRE(stats.guard_failures >= (uint64_t)refused);
    child_note("mprotect guards: %d stacks, %d refused", MANY - refused, refused);
    for (int i = 0; i < MANY; i++) {
        if (!task[i].id)
            continue;
        REQUIRE_EQUAL(flow_cancel(task[i]), 0);
        REQUIRE_EQUAL(flow_join(task[i], NULL, FLOW_FOREVER), 0);
    }
    free(task);
    REQUIRE_EQUAL(flow_spawn_now(NULL, nothing, NULL), 0); /* and it goes on */
    return flow_ok(NULL);
}

CASE(when_no_more_stack_can_be_guarded_it_is_refused)
{
    FILE *limit = fopen("/proc/sys/vm/max_map_count", "r");
    long maps = 0;

    if (TEST_SANITIZED)
        skip_case("40,000 live coroutines are too many for a sanitizer");
    if (!limit || fscanf(limit, "%ld", &maps) != 1 || maps > 70000)
        skip_case("vm.max_map_count is larger than usual");
    fclose(limit);
    flow__sys.advise = advise_without_guards;
    test_start_stacks(16 * 1024);
    REQUIRE_EQUAL(flow_sync_wait(park_forty_thousand, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(on_one_cpu)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    cpu_set_t allowed, one;
    int cpu = 0;

    REQUIRE_EQUAL(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    while (!CPU_ISSET(cpu, &allowed))
        cpu++;
    for (int i = cpu; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &allowed))
            cpu = i; /* the last one: 0 would also be a guess */
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    REQUIRE_EQUAL(sched_setaffinity(0, sizeof one, &one), 0);
    test_start_with(&o);
    REQUIRE_EQUAL(info_now().cpus, 1);
    REQUIRE_EQUAL(info_now().workers, 1);
    WAIT_UNTIL(info_now().pinned == 1);
    work();
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    o.workers = 4;
    test_start_with(&o);
    work();
    REQUIRE_EQUAL(info_now().cpus, 1);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- system calls refused by a sandbox ---- */

/* Blocks from here and from a coroutine: other workers' stores are emptied by membarrier, or not at all. */
static flow_result use_blocks(void *pool)
{
    void *block[200];

    for (int i = 0; i < 200; i++)
        REQUIRE((block[i] = flow_pool_alloc(pool)));
    for (int i = 0; i < 200; i++)
        REQUIRE_EQUAL(flow_pool_free(pool, block[i]), 0);
    return flow_ok(pool);
}

static void use_a_pool(void)
{
    struct flow_pool_options o = FLOW_POOL_INIT;
    flow_pool *pool;

    o.block_bytes = 48;
    REQUIRE_EQUAL(flow_pool_create(&pool, &o), 0);
    use_blocks(pool);
    REQUIRE_EQUAL(flow_sync_wait(use_blocks, pool, NULL, FLOW_FOREVER), 0);
    REQUIRE(flow_pool_shrink(pool) >= 0);
    use_blocks(pool);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

/* In a process that began under the filter, as in a container. */
CHILD(in_the_sandbox)
{
    struct flow_info info;

    if (strstr(arg, "mbind"))
        machine_use(&machine_two_sockets); /* with one node nothing is bound */
    test_start();
    info = info_now();
    if (strstr(arg, "mbind"))
        REQUIRE(!strcmp(info.memory_policy, "first-touch"));
    if (strstr(arg, "madvise"))
        REQUIRE(!strcmp(info.guard, "mprotect"));
    if (strstr(arg, "membarrier"))
        REQUIRE(strstr(info.rcu, "fences"));
    if (strstr(arg, "affinity"))
        REQUIRE_EQUAL(info.pinned, 0);
    for (int i = 0; i < 3; i++)
        work();
    use_a_pool();
    child_note("%s: guard %s, memory %s, rcu \"%s\", pinned %d", arg, info.guard,
               info.memory_policy, info.rcu, info_now().pinned);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static void in_a_sandbox(const long *calls, int n, int error, const char *what)
{
    char *argv[CHILD_ARGS];

    if (TEST_SANITIZED)
        skip_case("a sanitizer needs these calls itself");
    child_command(argv, "in_the_sandbox", what);
    sandbox_refuse(calls, n, error);
    execv(argv[0], argv);
    REQUIRE(!"executed");
}

/* One call, or several at once. */
#define SANDBOX(name, error, ...)                                                                  \
    CASE(name)                                                                                     \
    {                                                                                              \
        static const long calls[] = {__VA_ARGS__};                                                 \
        in_a_sandbox(calls, sizeof calls / sizeof *calls, error, #name);                           \
    }

SANDBOX(membarrier_refused_with_eperm, EPERM, SYS_membarrier)
SANDBOX(membarrier_refused_with_enosys, ENOSYS, SYS_membarrier)
SANDBOX(madvise_refused_with_eperm, EPERM, SYS_madvise)
SANDBOX(madvise_refused_with_enosys, ENOSYS, SYS_madvise)
SANDBOX(mbind_refused_with_eperm, EPERM, SYS_mbind)
SANDBOX(mbind_refused_with_enosys, ENOSYS, SYS_mbind)
SANDBOX(affinity_refused_with_eperm, EPERM, SYS_sched_setaffinity)
SANDBOX(affinity_refused_with_enosys, ENOSYS, SYS_sched_setaffinity)
SANDBOX(rseq_refused_with_enosys, ENOSYS, SYS_rseq)
SANDBOX(mbind_membarrier_madvise_refused_with_eperm, EPERM, SYS_mbind, SYS_membarrier, SYS_madvise)
SANDBOX(mbind_membarrier_madvise_refused_with_enosys, ENOSYS, SYS_mbind, SYS_membarrier, SYS_madvise)
SANDBOX(madvise_membarrier_affinity_refused_with_enosys, ENOSYS, SYS_madvise, SYS_membarrier,
        SYS_sched_setaffinity, SYS_rseq, SYS_mbind, SYS_get_mempolicy, SYS_move_pages, SYS_getcpu)

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
