/* SPDX-License-Identifier: MIT
 *
 * LeakSanitizer, AddressSanitizer and coroutines, in the build that has it (SANITIZE=address): what a coroutine lost is
 * found, and what only a suspended or running coroutine, a queued task, a result or a pool's block
 * still points to is no leak. Each in a process of its own, whose report is read here.
 *
 * Addresses lie about; a stale copy of the pointer in some frame would hide the leak. So what
 * is lost was allocated deep down in a frame that is wiped afterwards. */
#include "tests/support/child.h"

#if TEST_ASAN

#include <sanitizer/asan_interface.h>
#include <sanitizer/lsan_interface.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Sizes that nothing else asks for; each names its leak in a report. */
enum { LOST_FIRST = 4321, LOST_AFTER_WAIT = 5432, LOST_BY_CALLEE = 6543, KEPT = 7654 };

static char *volatile passing_by;

__attribute__((noinline)) static void lose(size_t bytes)
{
    passing_by = malloc(bytes);
    memset(passing_by, 'x', bytes);
    passing_by = NULL;
}

/* Overwrites what calls have left below the caller's frame. */
__attribute__((noinline)) static void wipe(void)
{
    volatile char below[4096];

    for (size_t i = 0; i < sizeof below; i++)
        below[i] = 1;
}

static flow_result lose_and_end(void *arg)
{
    lose(LOST_BY_CALLEE);
    wipe();
    return flow_ok(arg);
}

static flow_result lose_three(void *arg)
{
    (void)arg;
    lose(LOST_FIRST);
    wipe();
    REQUIRE_EQUAL(flow_sleep(FLOW_MS(1)), 0); /* it has been on the way through the scheduler */
    lose(LOST_AFTER_WAIT);
    wipe();
    REQUIRE_EQUAL(flow_spawn_now(NULL, lose_and_end, NULL), 0);
    return flow_ok(NULL);
}

CHILD(loses_memory)
{
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(lose_three, NULL, NULL, FLOW_FOREVER), 0);
    wipe();
    if (!strcmp(arg, "and stops"))
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static void judge_losses(const char *how)
{
    static struct child_end end;

    child_run(&end, "loses_memory", how);
    child_must_exit(&end, 1);
    child_must_say(&end, "LeakSanitizer: detected memory leaks");
    child_must_say(&end, "leak of 4321 byte(s) in 1 object(s)");
    child_must_say(&end, "leak of 5432 byte(s) in 1 object(s)");
    child_must_say(&end, "leak of 6543 byte(s) in 1 object(s)");
    child_must_say(&end, "in lose_three");
    child_must_say(&end, "in lose_and_end");
    child_must_say(&end, "16296 byte(s) leaked in 3 allocation(s)"); /* and nothing else */
}

JUDGED(what_a_coroutine_loses_is_found_after_a_stop)
{
    judge_losses("and stops");
}

JUDGED(what_a_coroutine_loses_is_found_while_its_stack_lives_on)
{
    judge_losses("");
}

/* ---- what is kept ---- */

static atomic_bool there, let_go, gone;

/* The one pointer is a local of a frame that waits. */
static flow_result keep_and_wait(void *arg)
{
    char *volatile kept = malloc(KEPT);
    bool drop = arg != NULL;

    memset(kept, 'x', KEPT);
    atomic_store(&there, true);
    while (!atomic_load(&let_go))
        REQUIRE_EQUAL(flow_sleep(FLOW_US(100)), 0);
    if (!drop)
        free(kept);
    kept = NULL;
    wipe();
    atomic_store(&gone, true);
    return flow_err(flow_sleep_until(FLOW_FOREVER));
}

static flow_result pause_once(void *arg)
{
    REQUIRE_EQUAL(flow_yield(), 0);
    return flow_ok(arg);
}

/* The same in a coroutine that never leaves its worker. */
static flow_result keep_and_run(void *arg)
{
    char *kept = malloc(KEPT);

    (void)arg;
    memset(kept, 'x', KEPT);
    atomic_store(&there, true);
    while (!atomic_load(&let_go))
        ;
    free(kept);
    return flow_ok(NULL);
}

static void check_while(flow_fn fn)
{
    flow_task task;

    test_start();
    REQUIRE_EQUAL(flow_spawn(&task, fn, NULL), 0);
    WAIT_UNTIL(atomic_load(&there));
    test_nap(FLOW_MS(2));
    REQUIRE_EQUAL(__lsan_do_recoverable_leak_check(), 0);
    atomic_store(&let_go, true);
}

CASE(what_a_suspended_coroutine_holds_is_no_leak)
{
    check_while(keep_and_wait);
    WAIT_UNTIL(atomic_load(&gone));
    REQUIRE_EQUAL(__lsan_do_recoverable_leak_check(), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(what_a_running_coroutine_holds_is_no_leak)
{
    check_while(keep_and_run);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* The same program, and then it is one: so the check above can fail. */
CHILD(keeps_and_then_drops)
{
    test_start();
    REQUIRE_EQUAL(flow_spawn(NULL, keep_and_wait, (void *)1), 0);
    WAIT_UNTIL(atomic_load(&there));
    test_nap(FLOW_MS(2));
    REQUIRE_EQUAL(__lsan_do_recoverable_leak_check(), 0);
    atomic_store(&let_go, true);
    WAIT_UNTIL(atomic_load(&gone));
    test_nap(FLOW_MS(2));
}

JUDGED(until_it_drops_it)
{
    static struct child_end end;

    child_run(&end, "keeps_and_then_drops", "");
    child_must_exit(&end, 1);
    child_must_say(&end, "7654 byte(s) leaked in 1 allocation(s)");
    child_must_say(&end, "in keep_and_wait");
}

/* Each switch back tells where the stack of the one who drives lies. */
CASE(what_a_thread_holds_that_drives_is_no_leak)
{
    char *volatile kept = malloc(KEPT);

    memset(kept, 'x', KEPT);
    test_start_driven();
    REQUIRE_EQUAL(flow_spawn(NULL, pause_once, NULL), 0);
    while (flow_drive(FLOW_NOW) > 0)
        ;
    wipe();
    REQUIRE_EQUAL(__lsan_do_recoverable_leak_check(), 0);
    free(kept);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result free_it(void *arg)
{
    free(arg);
    return flow_ok(NULL);
}

static flow_result give_memory(void *arg)
{
    (void)arg;
    return flow_ok(malloc(KEPT));
}

/* Nobody drives, so nothing runs: what is queued has its argument in a control block alone. */
CASE(the_argument_of_a_queued_task_is_no_leak)
{
    struct flow_spawn_options named = FLOW_SPAWN_INIT;

    named.name = "its name is memory too";
    test_start_driven();
    for (int i = 0; i < 200; i++)
        REQUIRE_EQUAL(flow_spawn_with(NULL, &named, free_it, malloc(KEPT)), 0);
    wipe();
    REQUIRE_EQUAL(__lsan_do_recoverable_leak_check(), 0);
    while (flow_drive(FLOW_NOW) > 0)
        ;
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(a_result_that_nobody_has_joined_is_no_leak)
{
    flow_result r;
    flow_task task;

    test_start();
    REQUIRE_EQUAL(flow_spawn(&task, give_memory, NULL), 0);
    WAIT_UNTIL(test_stats().live == 0);
    wipe();
    REQUIRE_EQUAL(__lsan_do_recoverable_leak_check(), 0);
    REQUIRE_EQUAL(flow_join(task, &r, FLOW_FOREVER), 0);
    free(r.ptr);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(what_a_block_of_a_pool_points_to_is_no_leak)
{
    struct flow_pool_options o = FLOW_POOL_INIT;
    flow_pool *pool;
    void **block;

    o.block_bytes = 64;
    test_start();
    REQUIRE_EQUAL(flow_pool_create(&pool, &o), 0);
    block = flow_pool_alloc(pool);
    REQUIRE(block);
    *block = malloc(KEPT);
    REQUIRE_EQUAL(__lsan_do_recoverable_leak_check(), 0);
    free(*block);
    REQUIRE_EQUAL(flow_pool_free(pool, block), 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- what AddressSanitizer believes of a stack that had another owner ---- */

static char *poisoned;

/* As a frame leaves it that never returns: by a jump out of it that the sanitizer does not see. */
static flow_result leave_poison(void *arg)
{
    char below[3000] = "";

    poisoned = below;
    __asan_poison_memory_region(below, sizeof below);
    return arg ? flow_err(flow_sleep_until(FLOW_FOREVER)) : flow_ok(NULL);
}

__attribute__((noinline)) static void write_below(void)
{
    volatile char below[8000];

    for (size_t i = 0; i < sizeof below; i++)
        below[i] = 1;
}

static flow_result use_stack_again(void *arg)
{
    char here;

    REQUIRE(poisoned - &here < 8000 && &here - poisoned < 8000); /* the same stack */
    write_below();
    return flow_ok(arg);
}

static flow_result reuse_a_stack(void *arg)
{
    for (int i = 0; i < 10; i++) {
        REQUIRE_EQUAL(flow_spawn_now(NULL, leave_poison, NULL), 0);
        REQUIRE_EQUAL(flow_spawn_now(NULL, use_stack_again, NULL), 0);
    }
    return flow_ok(arg);
}

CASE(a_stack_is_clean_for_its_next_task)
{
    test_start();
    REQUIRE_EQUAL(flow_sync_wait(reuse_a_stack, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* The address space of stacks is somebody else's after the stop. */
CASE(the_memory_of_stacks_is_clean_after_a_stop)
{
    uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    char *page;

    test_start();
    REQUIRE_EQUAL(flow_spawn(NULL, leave_poison, (void *)1), 0);
    WAIT_UNTIL(poisoned && test_stats().total.switches > 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    page = mmap((void *)((uintptr_t)poisoned & ~(page_bytes - 1)), page_bytes,
                PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    REQUIRE(page != MAP_FAILED);
    for (size_t i = 0; i < page_bytes; i++)
        ((volatile char *)page)[i] = 1;
    munmap(page, page_bytes);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}

#else

int main(void)
{
    puts("skip: LeakSanitizer is in the build of SANITIZE=address only");
    return 77;
}

#endif
