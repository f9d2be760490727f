/* SPDX-License-Identifier: MIT
 *
 * The stack region without a runtime: classes and colours, who owns a slot, guard pages in
 * every mode, trimming, and what happens when the system refuses. */
#include "core/stack.h"
#include "tests/support/test.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define GUARD_INSTALL 102 /* MADV_GUARD_INSTALL */

static struct flow__stack_cache cache;

static void open_region(void)
{
    memset(&cache, 0, sizeof cache);
    assert_int_equal(flow__stacks_open(false, false), 0);
}

static void close_region(void)
{
    flow__sys = flow__sys_real;
    flow__stacks_close();
}

/* The classes that exist: at least four pages. */
static int first_class(void)
{
    return flow__stack_class(1);
}

/* Up to the header: that belongs to the room itself. */
static size_t usable_bytes(const char *slot)
{
    return (size_t)((char *)flow__stack_header(slot) - slot) - flow__stacks.page_bytes;
}

static void fill(char *slot, int value)
{
    memset(slot + flow__stacks.page_bytes, value, usable_bytes(slot));
}

/* ---- arithmetic ---- */

static void test_classes(void **state)
{
    (void)state;
    open_region();
    for (int c = first_class(); c < FLOW__STACK_CLASSES; c++) {
        assert_int_equal(flow__stack_class(flow__stack_bytes(c)), c);
        assert_int_equal(flow__stack_class(flow__stack_bytes(c) - 1), c);
        assert_int_equal(flow__stack_class(flow__stack_bytes(c) + 1), c + 1 < FLOW__STACK_CLASSES ? c + 1 : -EINVAL);
    }
    assert_int_equal(flow__stack_bytes(0), 16384);
    assert_int_equal(flow__stack_bytes(FLOW__STACK_CLASSES - 1), 1 << 20);
    assert_int_equal(flow__stack_class(0), first_class());
    assert_int_equal(flow__stack_class(SIZE_MAX), -EINVAL);
    close_region();
}

static void check_address(const char *slot, int class_index, size_t offset)
{
    int found = -1;

    assert_ptr_equal(flow__stack_slot_of((uintptr_t)slot + offset, &found), slot);
    assert_int_equal(found, class_index);
    assert_ptr_equal(flow__stack_header_at((uintptr_t)slot + offset - flow__stacks.base), flow__stack_header(slot));
}

static void test_every_address_leads_to_its_header(void **state)
{
    uint64_t random = test_seed();
    int c;

    (void)state;
    open_region();
    for (c = first_class(); c < FLOW__STACK_CLASSES; c++) {
        size_t bytes = flow__stack_bytes(c);
        uint32_t colours = 0;

        for (int i = 0; i < 40; i++) {
            char *slot = flow__stack_take(&cache, c), *header;

            assert_non_null(slot);
            header = (char *)flow__stack_header(slot);
            assert_int_equal((uintptr_t)slot % bytes, 0);
            assert_int_equal((uintptr_t)header % 16, 0);
            assert_true(header > slot + bytes - 2048);
            assert_true(header + sizeof(struct flow__stack_header) <= slot + bytes);
            colours |= 1u << (slot + bytes - header) / FLOW__CACHE_LINE;
            check_address(slot, c, 0);
            check_address(slot, c, bytes - 1);
            for (int k = 0; k < 50; k++)
                check_address(slot, c, test_random(&random) % bytes);
            /* The stack's first frame lies on the slot, too. */
            check_address(slot, c, (size_t)(header - slot) - 1);
        }
        assert_int_equal(__builtin_popcount(colours), 16);
    }
    assert_null(flow__stack_slot_of(flow__stacks.base - 1, &c));
    assert_null(flow__stack_slot_of(flow__stacks.base + flow__stacks.bytes, &c));
    assert_null(flow__stack_slot_of((uintptr_t)&c, &c));
    close_region();
}

/* ---- caches and depot ---- */

static void test_cache_is_refilled_and_flushed(void **state)
{
    static char *taken[500];
    int c = first_class() + 1;

    (void)state;
    open_region();
    for (int i = 0; i < 500; i++) {
        taken[i] = flow__stack_take(&cache, c);
        for (int k = 0; k < i; k++)
            assert_ptr_not_equal(taken[k], taken[i]);
        if (i > 0 && i % 8)
            assert_true(taken[i] > taken[i - 1]); /* in the order of addresses */
    }
    assert_in_range(flow__stacks_mapped(), 500, 508);
    for (int i = 0; i < 500; i++) {
        flow__stack_give(&cache, c, taken[i]);
        assert_true(cache.n[c] <= FLOW__STACK_CACHE);
        assert_ptr_equal(cache.slot[c][cache.n[c] - 1], taken[i]); /* the warm one is next */
    }
    /* Everything is somewhere, and once. */
    assert_int_equal(cache.n[c] + flow__stack_depot(c, 0)->n_free, flow__stacks_mapped());
    for (int i = 0; i < 500; i++) {
        taken[i] = flow__stack_take(&cache, c);
        for (int k = 0; k < i; k++)
            assert_ptr_not_equal(taken[k], taken[i]);
    }
    assert_in_range(flow__stacks_mapped(), 500, 508);
    flow__stack_flush(&cache, c, 0);
    assert_int_equal(cache.n[c], 0);
    close_region();
}

#define THREADS 4
#define HELD    80 /* more than a cache, so that the depot is busy */
#define ROUNDS  TEST_ROUNDS(6000000, 80000)

static flow__atomic(uint8_t) owner_of[FLOW__STACK_CLASSES][THREADS * (HELD + FLOW__STACK_CACHE) * 2];
static flow__atomic(bool) trimmer_ends;
static uint64_t thread_seed;
static pthread_barrier_t begin_together;

static flow__atomic(uint8_t) *owner_word(const char *slot, int c)
{
    size_t zone = flow__stacks.base + ((size_t)c << flow__stacks.zone_shift);
    size_t number = ((uintptr_t)slot - zone) / flow__stack_bytes(c);

    if (number >= sizeof owner_of[0] / sizeof owner_of[0][0]) {
        EXPECT(!"more slots than were ever held at once");
        number = 0;
    }
    return &owner_of[c][number];
}

struct held {
    char *slot;
    int class_index;
};

static void take_one(struct flow__stack_cache *own, struct held *h, uint8_t self)
{
    uint64_t *low, *high;
    uint8_t nobody = 0;

    h->slot = flow__stack_take(own, h->class_index);
    EXPECT(h->slot != NULL);
    if (!h->slot)
        return;
    EXPECT(cas_seq(owner_word(h->slot, h->class_index), &nobody, self));
    low = (uint64_t *)(h->slot + flow__stacks.page_bytes);
    high = (uint64_t *)flow__stack_header(h->slot) - 1;
    *low = *high = (uintptr_t)h->slot ^ self;
}

static void give_one(struct flow__stack_cache *own, struct held *h, uint8_t self)
{
    uint64_t *low = (uint64_t *)(h->slot + flow__stacks.page_bytes);
    uint64_t *high = (uint64_t *)flow__stack_header(h->slot) - 1;

    /* Neither another owner nor a trim has been at it. */
    EXPECT_EQ(*low, (uintptr_t)h->slot ^ self);
    EXPECT_EQ(*high, (uintptr_t)h->slot ^ self);
    EXPECT(cas_seq(owner_word(h->slot, h->class_index), &self, 0));
    flow__stack_give(own, h->class_index, h->slot);
    h->slot = NULL;
}

static void *take_and_give(void *arg)
{
    uint8_t self = (uint8_t)(uintptr_t)arg;
    uint64_t random = thread_seed + self;
    struct flow__stack_cache own;
    static struct held all[THREADS + 1][HELD];
    struct held *held = all[self];

    memset(&own, 0, sizeof own);
    pthread_barrier_wait(&begin_together);
    /* On until the trimmer has had its share. */
    for (int i = 0; i < ROUNDS || (i < 50 * ROUNDS && load_relaxed(&flow__stacks.trims) == 0); i++) {
        if (i >= ROUNDS && i % 1024 == 0)
            sched_yield();
        /* In waves: mostly taking, then mostly giving. */
        bool wave = i / 128 % 2;
        struct held *h = &held[test_random(&random) % HELD];

        if (!h->slot && (!wave || i % 4 == 0)) {
            h->class_index = first_class() + (int)(test_random(&random) % 2);
            take_one(&own, h, self);
        } else if (h->slot && (wave || i % 4 == 0)) {
            give_one(&own, h, self);
        }
    }
    for (int i = 0; i < HELD; i++)
        if (held[i].slot)
            give_one(&own, &held[i], self);
    for (int c = 0; c < FLOW__STACK_CLASSES; c++)
        flow__stack_flush(&own, c, 0);
    return NULL;
}

static void *trim_always(void *unused)
{
    (void)unused;
    while (!load_acquire(&trimmer_ends)) {
        flow__stacks_trim(0, 16, 4);
        sched_yield();
    }
    return NULL;
}

static void test_no_slot_has_two_owners(void **state)
{
    pthread_t thread[THREADS], trimmer;
    uint64_t n_free = 0;

    (void)state;
    thread_seed = test_seed();
    open_region();
    pthread_barrier_init(&begin_together, NULL, THREADS);
    assert_int_equal(pthread_create(&trimmer, NULL, trim_always, NULL), 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, take_and_give, (void *)(i + 1)), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    store_release(&trimmer_ends, true);
    pthread_join(trimmer, NULL);
    assert_no_failures();
    for (int c = 0; c < FLOW__STACK_CLASSES; c++)
        n_free += flow__stack_depot(c, 0)->n_free;
    assert_int_equal(n_free, flow__stacks_mapped());
    print_message("%llu slots, %llu trims\n", (unsigned long long)n_free,
                  (unsigned long long)load_relaxed(&flow__stacks.trims));
    assert_true(load_relaxed(&flow__stacks.trims) > 0);
    close_region();
}

/* ---- guards ---- */

static int refuse_guard_advice(void *start, size_t bytes, int advice)
{
    return advice == GUARD_INSTALL ? -EINVAL : flow__sys_real.advise(start, bytes, advice);
}

/* As an emulator does: it says yes and does nothing. */
static int pretend_guard_advice(void *start, size_t bytes, int advice)
{
    return advice == GUARD_INSTALL ? 0 : flow__sys_real.advise(start, bytes, advice);
}

static int refuse_protect(void *start, size_t bytes, int prot)
{
    (void)start, (void)bytes, (void)prot;
    return -EACCES;
}

/* What a child that writes there ends with: 0 or a signal. */
static int write_in_child(char *at)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        *(volatile char *)at = 1;
        _exit(0);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void check_guards(void)
{
    size_t page = flow__stacks.page_bytes;

    for (int c = first_class(); c < FLOW__STACK_CLASSES; c++)
        for (int i = 0; i < 9; i++) { /* one more than a batch */
            char *slot = flow__stack_take(&cache, c);

            assert_non_null(slot);
            /* A child takes long under an emulator: there the last of a class, but for the smallest. */
            if (i % 8 || (TEST_EMULATED && i == 0 && c > first_class()))
                continue;
            assert_int_equal(write_in_child(slot), SIGSEGV);
            assert_int_equal(write_in_child(slot + page - 1), SIGSEGV);
            assert_int_equal(write_in_child(slot + page), 0);
            assert_int_equal(write_in_child((char *)flow__stack_header(slot) - 1), 0);
            assert_true(flow__stack_intact(slot));
        }
}

static void test_guard_pages_fault(void **state)
{
    (void)state;
    open_region();
    if (flow__stacks.guard == FLOW__GUARD_CANARY) {
        close_region();
        print_message("skip: this system guards nothing\n");
        skip();
    }
    check_guards();
    close_region();
}

static void test_mprotect_guards_fault(void **state)
{
    (void)state;
    flow__sys.advise = refuse_guard_advice;
    open_region();
    assert_int_equal(flow__stacks.guard, FLOW__GUARD_MPROTECT);
    check_guards();
    close_region();

    flow__sys.advise = pretend_guard_advice;
    open_region();
    assert_int_equal(flow__stacks.guard, FLOW__GUARD_MPROTECT);
    close_region();
}

static void test_canary_where_nothing_guards(void **state)
{
    char *slot;

    (void)state;
    flow__sys.advise = refuse_guard_advice;
    flow__sys.protect = refuse_protect;
    open_region();
    assert_int_equal(flow__stacks.guard, FLOW__GUARD_CANARY);
    slot = flow__stack_take(&cache, 2);
    assert_non_null(slot);
    assert_true(flow__stack_intact(slot));
    fill(slot, 7);
    assert_true(flow__stack_intact(slot));
    slot[3] ^= 1;
    assert_false(flow__stack_intact(slot));
    slot[3] ^= 1;
    slot[63] ^= 1;
    assert_false(flow__stack_intact(slot));
    slot[63] ^= 1;
    assert_true(flow__stack_intact(slot));
    /* Trimming keeps it. */
    flow__stack_give(&cache, 2, slot);
    flow__stack_flush(&cache, 2, 0);
    flow__stacks_trim(0, UINT32_MAX, 0);
    assert_true(flow__stack_intact(slot));
    close_region();
}

static int guards_left;

static int run_out_of_guards(void *start, size_t bytes, int advice)
{
    if (advice == GUARD_INSTALL && guards_left-- <= 0)
        return -ENOMEM;
    return flow__sys_real.advise(start, bytes, advice);
}

static int run_out_of_protects(void *start, size_t bytes, int prot)
{
    return guards_left-- > 0 ? flow__sys_real.protect(start, bytes, prot) : -ENOMEM;
}

static void test_a_slot_that_cannot_be_guarded_is_refused(void **state)
{
    char *taken[6];

    (void)state;
    open_region();
    flow__sys.advise = run_out_of_guards;
    flow__sys.protect = run_out_of_protects;
    if (flow__stacks.guard == FLOW__GUARD_CANARY) {
        close_region();
        skip();
    }
    guards_left = 5;
    for (int i = 0; i < 5; i++) {
        taken[i] = flow__stack_take(&cache, 2);
        assert_non_null(taken[i]);
    }
    assert_int_equal(load_relaxed(&flow__stacks.guard_failures), 1);
    assert_null(flow__stack_take(&cache, 2));
    assert_int_equal(load_relaxed(&flow__stacks.guard_failures), 2);
    assert_int_equal(flow__stacks_mapped(), 5);
    /* The refused one is not lost. */
    flow__sys = flow__sys_real;
    taken[5] = flow__stack_take(&cache, 2);
    assert_ptr_equal(taken[5], taken[4] + flow__stack_bytes(2));
    assert_int_equal(write_in_child(taken[5]), SIGSEGV);
    close_region();
}

static void test_unguarded_ok_goes_on_without(void **state)
{
    (void)state;
    memset(&cache, 0, sizeof cache);
    assert_int_equal(flow__stacks_open(true, false), 0);
    flow__sys.advise = run_out_of_guards;
    flow__sys.protect = run_out_of_protects;
    guards_left = 0;
    if (flow__stacks.guard != FLOW__GUARD_CANARY) {
        assert_non_null(flow__stack_take(&cache, 2));
        assert_int_equal(load_relaxed(&flow__stacks.guard_failures), 8);
    }
    close_region();
}

/* ---- the end of the region ---- */

static size_t largest_map;

static void *map_up_to(size_t bytes, int prot, int flags)
{
    return bytes <= largest_map ? flow__sys_real.map(bytes, prot, flags) : NULL;
}

static void test_a_small_region_runs_out(void **state)
{
    char *taken[5] = {NULL};
    int top = FLOW__STACK_CLASSES - 1, n = 0;

    (void)state;
    largest_map = (size_t)40 << 20;
    flow__sys.map = map_up_to;
    open_region();
    assert_int_equal(flow__stacks.zone_shift, 22);
    while (n < 5 && (taken[n] = flow__stack_take(&cache, top)))
        n++;
    assert_int_equal(n, 4);
    assert_null(flow__stack_take(&cache, top));
    flow__stack_give(&cache, top, taken[2]);
    assert_ptr_equal(flow__stack_take(&cache, top), taken[2]);
    assert_null(flow__stack_take(&cache, top));
    /* The whole of the last zone is usable, and no more. */
    fill(taken[3], 1);
    assert_ptr_equal(taken[3] + flow__stack_bytes(top), flow__stacks.base + flow__stacks.bytes);
    close_region();

    largest_map = (size_t)20 << 20;
    flow__sys.map = map_up_to;
    assert_int_equal(flow__stacks_open(false, false), -ENOMEM);
    flow__sys = flow__sys_real;
}

/* ---- trimming ---- */

#define TRIMMED 300

static char *slots[TRIMMED];

static void dirty_and_give_back(int c, int n)
{
    for (int i = 0; i < n; i++) {
        slots[i] = flow__stack_take(&cache, c);
        fill(slots[i], 0x77);
    }
    for (int i = 0; i < n; i++)
        flow__stack_give(&cache, c, slots[i]);
    flow__stack_flush(&cache, c, 0);
}

static bool has_value(const char *slot, int value)
{
    for (size_t i = 0; i < usable_bytes(slot) - flow__stacks.page_bytes; i++)
        if (slot[flow__stacks.page_bytes + i] != value)
            return false;
    return true;
}

static void test_trimming_gives_memory_back(void **state)
{
    size_t bytes = TRIMMED * flow__stack_bytes(2), before, dirty, after;

    (void)state;
    open_region();
    before = test_rss_bytes();
    dirty_and_give_back(2, TRIMMED);
    dirty = test_rss_bytes();
    assert_true(dirty - before > bytes / 2);
    assert_int_equal(flow__stacks_trim(0, 0, 0), flow__stacks_mapped());
    assert_int_equal(flow__stacks_trim(0, UINT32_MAX, 0), 0);
    after = test_rss_bytes();
    print_message("RSS %zu -> %zu -> %zu KiB\n", before / 1024, dirty / 1024, after / 1024);
    assert_true(dirty > after && dirty - after > bytes / 2);
    assert_int_equal(load_relaxed(&flow__stacks.trims), flow__stacks_mapped());

    /* Usable, guarded, and zero. */
    for (int i = 0; i < TRIMMED; i++) {
        char *slot = flow__stack_take(&cache, 2);

        assert_true(has_value(slot, 0));
        fill(slot, 0x55);
        assert_true(has_value(slot, 0x55));
        if (i % 100 == 0 && flow__stacks.guard != FLOW__GUARD_CANARY)
            assert_int_equal(write_in_child(slot), SIGSEGV);
    }
    close_region();
}

static void test_trimming_takes_the_coldest_and_keeps_some(void **state)
{
    uint32_t n, left;

    (void)state;
    open_region();
    dirty_and_give_back(1, TRIMMED);
    n = (uint32_t)flow__stacks_mapped();
    left = flow__stacks_trim(0, 10, 50);
    assert_int_equal(left, n - 60);
    assert_int_equal(load_relaxed(&flow__stacks.trims), 10);
    left = flow__stacks_trim(0, UINT32_MAX, 50);
    assert_int_equal(left, 0);
    assert_int_equal(load_relaxed(&flow__stacks.trims), n - 50);
    assert_int_equal(flow__stacks_trim(0, UINT32_MAX, 50), 0);
    assert_int_equal(load_relaxed(&flow__stacks.trims), n - 50);
    /* The 50 used last are still warm. They come in batches of 16. */
    for (uint32_t i = 0; i < n; i++) {
        char *slot = flow__stack_take(&cache, 1);

        if (i < 48 || i >= 64)
            assert_true(has_value(slot, i < 48 ? 0x77 : 0));
    }
    close_region();
}

static void test_trimming_does_not_touch_what_came_back(void **state)
{
    uint32_t n;

    (void)state;
    open_region();
    dirty_and_give_back(1, 100);
    n = (uint32_t)flow__stacks_mapped();
    flow__stacks_trim(0, UINT32_MAX, 0);
    dirty_and_give_back(1, 64); /* from the depot's top, over trimmed ones below */
    assert_int_equal(flow__stacks_trim(0, 0, 0), 64);
    assert_int_equal(flow__stacks_trim(0, UINT32_MAX, 0), 0);
    assert_int_equal(load_relaxed(&flow__stacks.trims), n + 64);
    close_region();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_classes),
        TEST(test_every_address_leads_to_its_header),
        TEST(test_cache_is_refilled_and_flushed),
        TEST(test_no_slot_has_two_owners),
        TEST(test_guard_pages_fault),
        TEST(test_mprotect_guards_fault),
        TEST(test_canary_where_nothing_guards),
        TEST(test_a_slot_that_cannot_be_guarded_is_refused),
        TEST(test_unguarded_ok_goes_on_without),
        TEST(test_a_small_region_runs_out),
        TEST(test_trimming_gives_memory_back),
        TEST(test_trimming_takes_the_coldest_and_keeps_some),
        TEST(test_trimming_does_not_touch_what_came_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
