/* SPDX-License-Identifier: MIT
 *
 * The room sync/ on real threads: task ring and the age of its entries, inbox, lock, reclamation, system calls.
 * No runtime runs here. Models of the same headers are explored elsewhere; this is about the
 * machine and the compiler. Every random choice follows from the printed seed. */
#include "sync/inbox.h"
#include "sync/lock.h"
#include "sync/reclaim.h"
#include "sync/task_ring.h"
#include "tests/support/threads.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the ring ---- */

static struct flow__task_ring ring;

static void *entry(uintptr_t n)
{
    return (void *)n;
}

static void ring_begin_at(uint32_t index)
{
    memset(&ring, 0, sizeof ring);
    store_relaxed(&ring.head, index);
    store_relaxed(&ring.tail, index);
    store_relaxed(&ring.age.mark, index); /* as if it had run on to there */
}

static void test_ring_is_a_bounded_fifo(void **state)
{
    static const uint32_t starts[] = {0, 1, 255, UINT32_MAX - 300, UINT32_MAX - 255, UINT32_MAX - 3, UINT32_MAX};

    (void)state;
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        uintptr_t in = 1, out = 1;

        ring_begin_at(starts[s]);
        assert_null(flow__ring_pop(&ring));
        for (int round = 0; round < 5; round++) {
            while (flow__ring_push(&ring, entry(in)))
                in++;
            assert_int_equal(in - out, FLOW__RING_SIZE);
            assert_int_equal(flow__ring_count(&ring), FLOW__RING_SIZE);
            for (int i = 0; i < 100; i++) {
                assert_ptr_equal(flow__ring_peek(&ring, 0), entry(out));
                assert_ptr_equal(flow__ring_pop(&ring), entry(out++));
            }
            assert_int_equal(flow__ring_count(&ring), FLOW__RING_SIZE - 100);
        }
        while (out < in)
            assert_ptr_equal(flow__ring_pop(&ring), entry(out++));
        assert_null(flow__ring_pop(&ring));
        assert_int_equal(flow__ring_count(&ring), 0);
    }
}

static void test_ring_steals_half_rounded_up(void **state)
{
    (void)state;
    for (uint32_t n = 0; n <= FLOW__RING_SIZE; n++)
        for (uint32_t most = 1; most <= FLOW__RING_SIZE; most *= 2) {
            uint32_t start = UINT32_MAX - n / 2, want = (n + 1) / 2 < most ? (n + 1) / 2 : most;
            void *loot[FLOW__RING_SIZE + 1];

            ring_begin_at(start);
            for (uint32_t i = 0; i < n; i++)
                assert_true(flow__ring_push(&ring, entry(i + 1)));
            loot[want] = entry(12345);
            assert_int_equal(flow__ring_steal(&ring, loot, most), want);
            for (uint32_t i = 0; i < want; i++)
                assert_ptr_equal(loot[i], entry(i + 1));
            assert_ptr_equal(loot[want], entry(12345));
            assert_int_equal(flow__ring_count(&ring), n - want);
            for (uint32_t i = want; i < n; i++)
                assert_ptr_equal(flow__ring_pop(&ring), entry(i + 1));
            assert_null(flow__ring_pop(&ring));
        }
}

/* One owner, three thieves. Entries are numbers in the order of the pushes, so every
 * taker must see its own takes rise. */
#define THIEVES       3
#define RING_ENTRIES  3000
#define RING_MOST     100000

static struct {
    flow__atomic(uint8_t) taken[RING_MOST];
    flow__atomic(uint32_t) n_taken, n_steals[THIEVES];
    flow__atomic(bool) end, late; /* late: who has stolen twice leaves the rest to the others */
    uint64_t seed;
} race;

static uintptr_t note_taken(void *taken, uintptr_t before)
{
    uintptr_t n = (uintptr_t)taken;

    EXPECT(n > before);
    if (n == 0 || n >= RING_MOST) {
        EXPECT(n > 0 && n < RING_MOST);
        return before;
    }
    EXPECT_EQ(fetch_add_relaxed(&race.taken[n], 1), 0);
    fetch_add_seq(&race.n_taken, 1);
    return n;
}

static void *thief(void *arg)
{
    int index = (int)(intptr_t)arg;
    uint64_t random = race.seed + (uint64_t)index;
    uintptr_t last = 0;

    while (!load_acquire(&race.end)) {
        void *loot[FLOW__RING_SIZE];
        uint32_t n;

        if (load_relaxed(&race.late) && load_relaxed(&race.n_steals[index]) >= 2) {
            sched_yield();
            continue;
        }
        n = flow__ring_steal(&ring, loot, (uint32_t)(test_random(&random) % FLOW__RING_SIZE) + 1);

        for (uint32_t i = 0; i < n; i++)
            last = note_taken(loot[i], last);
        if (n)
            fetch_add_seq(&race.n_steals[index], 1);
        else
            random_delay(&random);
    }
    return NULL;
}

static bool every_thief_has_stolen_twice(void)
{
    for (int i = 0; i < THIEVES; i++)
        if (load_relaxed(&race.n_steals[i]) < 2)
            return false;
    return true;
}

/* Returns how many entries were pushed. If the owner is `stuffing`, the ring is always
 * full, so that a slot is filled anew the moment it was taken. */
static uint32_t own_ring(uint64_t *random, bool stuffing)
{
    uintptr_t next = 1, last = 0;
    void *popped;

    while (next <= RING_ENTRIES || (!every_thief_has_stolen_twice() && next < RING_MOST)) {
        uint64_t choice = test_random(random);

        /* Bursts, so that the ring is full, empty and in between. */
        for (uint64_t i = stuffing ? 10000 : choice >> 8 & 127; i > 0 && next < RING_MOST; i--) {
            if (flow__ring_push(&ring, entry(next)))
                next++;
            else if (!stuffing)
                break;
        }
        if (next > RING_ENTRIES) { /* what is still needed is for the thieves */
            store_relaxed(&race.late, true);
            sched_yield();
            continue;
        }
        for (uint64_t i = stuffing ? 0 : choice >> 16 & 127; i > 0; i--) {
            popped = flow__ring_pop(&ring);
            if (!popped)
                break;
            last = note_taken(popped, last);
        }
        if ((choice & 255) == 0)
            sched_yield();
    }
    store_relaxed(&race.late, true);
    while ((popped = flow__ring_pop(&ring)))
        last = note_taken(popped, last);
    return (uint32_t)next - 1;
}

static void test_ring_hands_out_every_entry_once(void **state)
{
    uint64_t random = test_seed();

    (void)state;
    for (int round = 0; round < TEST_ROUNDS(150, 30); round++) {
        uint32_t pushed;

        memset(&race, 0, sizeof race);
        race.seed = test_random(&random);
        ring_begin_at(round % 2 ? UINT32_MAX - (uint32_t)(test_random(&random) % RING_ENTRIES) : (uint32_t)round);
        for (intptr_t i = 0; i < THIEVES; i++)
            begin(thief, (void *)i);
        pushed = own_ring(&random, round % 3 == 0);
        /* A thief may still have to count what it took. */
        for (int i = 0; i < 5000 && load_seq(&race.n_taken) < pushed; i++)
            test_nap(FLOW_MS(1));
        store_release(&race.end, true);
        join_all();
        assert_int_equal(load_seq(&race.n_taken), pushed);
        for (uint32_t i = 1; i <= pushed; i++)
            if (load_relaxed(&race.taken[i]) != 1)
                fail_msg("entry %u was taken %u times", i, load_relaxed(&race.taken[i]));
        assert_true(every_thief_has_stolen_twice());
        assert_no_failures();
    }
}

/* ---- the inbox ---- */

#define PUSHERS        4
#define PUSHED_BY_EACH TEST_ROUNDS(100000, 20000)

struct letter {
    struct flow__link link;
    int pusher;
    uint32_t number;
};

static struct flow__inbox inbox;
static flow__atomic(uint64_t) pushes_into_empty;
static flow__atomic(int) pushers_left;

static void *pusher(void *arg)
{
    struct letter *letters = arg;
    uint64_t random = (uintptr_t)arg, into_empty = 0;

    for (int i = 0; i < PUSHED_BY_EACH; i++) {
        into_empty += flow__inbox_push(&inbox, &letters[i].link);
        if (test_random(&random) % 16 == 0)
            random_delay(&random);
    }
    fetch_add_seq(&pushes_into_empty, into_empty);
    fetch_sub_seq(&pushers_left, 1);
    return NULL;
}

static void test_inbox_keeps_each_pushers_order(void **state)
{
    struct letter *letters = calloc((size_t)PUSHERS * (size_t)PUSHED_BY_EACH, sizeof *letters);
    uint32_t next[PUSHERS] = {0};
    uint64_t taken = 0, hauls = 0;
    bool last_look = false;

    (void)state;
    assert_non_null(letters);
    assert_true(flow__inbox_is_empty(&inbox));
    assert_null(flow__inbox_take_all(&inbox));
    store_release(&pushers_left, PUSHERS);
    for (int p = 0; p < PUSHERS; p++) {
        struct letter *own = letters + (size_t)p * (size_t)PUSHED_BY_EACH;

        for (int i = 0; i < PUSHED_BY_EACH; i++)
            own[i] = (struct letter){.pusher = p, .number = (uint32_t)i};
        begin(pusher, own);
    }
    while (!last_look) {
        struct flow__link *link;

        last_look = load_seq(&pushers_left) == 0;
        link = flow__inbox_take_all(&inbox);
        hauls += link != NULL;
        for (; link; taken++) {
            struct letter *letter = (struct letter *)link;

            link = link->next;
            EXPECT_EQ(letter->number, next[letter->pusher]);
            next[letter->pusher] = letter->number + 1;
        }
    }
    join_all();
    assert_no_failures();
    assert_int_equal(taken, (uint64_t)PUSHERS * (uint64_t)PUSHED_BY_EACH);
    /* Whoever finds it empty is the one who wakes the owner: once for each haul. */
    assert_int_equal(load_seq(&pushes_into_empty), hauls);
    assert_true(flow__inbox_is_empty(&inbox));
    free(letters);
}

/* ---- the lock ---- */

#define LOCK_ROUNDS TEST_ROUNDS(100000, 20000)

static struct flow__lock lock;
static uint64_t guarded_count; /* under lock */
static int guarded_holders;    /* under lock */
static flow__atomic(uint64_t) n_waits;

static int counted_futex_wait(flow__atomic(uint32_t) *word, uint32_t expected, int64_t deadline)
{
    fetch_add_relaxed(&n_waits, 1);
    return flow__sys_real.futex_wait(word, expected, deadline);
}

static void *locker(void *arg)
{
    uint64_t random = (uintptr_t)arg;

    for (int i = 0; i < LOCK_ROUNDS; i++) {
        flow__lock(&lock);
        EXPECT_EQ(++guarded_holders, 1);
        guarded_count++;
        if (test_random(&random) % 256 == 0)
            sched_yield(); /* others must sleep now */
        guarded_holders--;
        flow__unlock(&lock);
    }
    return NULL;
}

static void test_lock_excludes_and_wakes(void **state)
{
    (void)state;
    flow__sys.futex_wait = counted_futex_wait;
    flow__lock(&lock);
    for (intptr_t i = 1; i <= 5; i++)
        begin(locker, (void *)i);
    while (load_relaxed(&n_waits) == 0) /* for they do not only spin */
        sched_yield();
    flow__unlock(&lock);
    join_all();
    flow__sys = flow__sys_real;
    assert_no_failures();
    assert_int_equal(guarded_count, 5 * LOCK_ROUNDS);
    assert_int_equal(load_relaxed(&lock.word), 0);
}

/* ---- how long the oldest has waited ---- */

static int64_t time_of_look;

static int64_t told_time(void)
{
    return time_of_look;
}

static int64_t age_at(int64_t t)
{
    int64_t age;

    time_of_look = t;
    flow__sys.now = told_time;
    age = flow__ring_age(&ring, t);
    flow__sys.now = flow__sys_real.now;
    return age;
}

static void test_age_is_counted_from_the_first_look(void **state)
{
    static const uint32_t starts[] = {0, 1, UINT32_MAX - 5, UINT32_MAX};

    (void)state;
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        int64_t t = 1000000000ll * 3600 * 1000; /* a thousand hours up */

        ring_begin_at(starts[s]);
        assert_int_equal(age_at(t), -1);
        for (uintptr_t i = 1; i <= 10; i++)
            assert_true(flow__ring_push(&ring, entry(i)));
        assert_int_equal(age_at(t), 0);
        for (uintptr_t i = 11; i <= 20; i++)
            assert_true(flow__ring_push(&ring, entry(i)));
        assert_in_range(age_at(t + 50000), 50000 - 2048, 50000);
        for (uintptr_t i = 1; i <= 9; i++) /* one is left of those that were seen */
            assert_ptr_equal(flow__ring_pop(&ring), entry(i));
        assert_in_range(age_at(t + 90000), 90000 - 2048, 90000);
        assert_ptr_equal(flow__ring_pop(&ring), entry(10));
        assert_int_equal(age_at(t + 100000), 0); /* 11 to 20: seen just now */
        assert_in_range(age_at(t + 130000), 30000 - 2048, 30000);
        for (uintptr_t i = 11; i <= 20; i++)
            assert_ptr_equal(flow__ring_pop(&ring), entry(i));
        assert_int_equal(age_at(t + 200000), -1);
        assert_true(flow__ring_push(&ring, entry(21)));
        assert_int_equal(age_at(t + 300000), 0); /* and not since the mark */
    }
}

/* While one thread pushes and pops, and others steal and look: an age is never more than the time since
 * the oldest was pushed. Entries are the times of their pushes, in units of 1,024 ns. */
static flow__atomic(bool) ageing;
static flow__atomic(uint64_t) n_ages;

static void *looker(void *unused)
{
    while (load_acquire(&ageing)) {
        int64_t now = flow__sys.now();
        uint32_t head = load_acquire(&ring.head);
        uintptr_t oldest = (uintptr_t)load_relaxed(&ring.slot[head & (FLOW__RING_SIZE - 1)]);
        int64_t age = flow__ring_age(&ring, now);

        /* The same one before and after: then `oldest` was it. */
        if (age <= 0 || load_seq(&ring.head) != head)
            continue;
        EXPECT(age >> FLOW__AGE_SHIFT <= (now >> FLOW__AGE_SHIFT) - (int64_t)oldest);
        fetch_add_relaxed(&n_ages, 1);
    }
    return unused;
}

static void *taker(void *unused)
{
    uint64_t random = 7;

    while (load_acquire(&ageing)) {
        void *loot[FLOW__RING_SIZE];

        if (test_random(&random) % 16 == 0)
            flow__ring_steal(&ring, loot, 4);
        random_delay(&random);
    }
    return unused;
}

static void test_an_age_is_never_too_high(void **state)
{
    const int least = TEST_VALGRIND ? 4000 : TEST_ROUNDS(200000, 40000);
    uint64_t random = test_seed();

    (void)state;
    ring_begin_at((uint32_t)test_random(&random));
    store_release(&ageing, true);
    begin(looker, NULL);
    begin(looker, NULL);
    begin(taker, NULL);
    for (int i = 0; i < 3000000 && (i < least || load_relaxed(&n_ages) < 100); i++) {
        if (test_random(&random) % 3)
            flow__ring_push(&ring, entry((uintptr_t)(flow__sys.now() >> FLOW__AGE_SHIFT)));
        else
            flow__ring_pop(&ring);
        if (i % 64 == 0)
            sched_yield();
    }
    store_release(&ageing, false);
    join_all();
    assert_no_failures();
    assert_true(load_relaxed(&n_ages) >= 100);
}

/* ---- reclamation ---- */

static flow__atomic(int) reader_step; /* 1: inside its section, 2: may leave, 3: has left */
static flow__atomic(unsigned) n_released;

static void counted_release(void *p)
{
    fetch_add_seq(&n_released, 1);
    flow__sys_real.release(p);
}

static void *reader(void *arg)
{
    (void)arg;
    flow__reclaim_register();
    flow__reclaim_enter();
    EXPECT(flow__reclaim_inside());
    exchange_seq(&reader_step, 1);
    while (load_seq(&reader_step) < 2)
        test_nap(FLOW_MS(1));
    test_nap(FLOW_MS(20));
    exchange_seq(&reader_step, 3);
    flow__reclaim_leave();
    EXPECT(!flow__reclaim_inside());
    flow__reclaim_unregister();
    return NULL;
}

static void test_reclaim_waits_for_readers(void **state)
{
    (void)state;
    flow__sys.release = counted_release;
    flow__reclaim_register();
    begin(reader, NULL);
    while (load_seq(&reader_step) < 1)
        test_nap(FLOW_MS(1));
    for (int i = 0; i < 100; i++)
        flow__reclaim_later(flow__sys.allocate(16));
    assert_int_equal(load_seq(&n_released), 0);
    assert_int_equal(flow__reclaim_pending(), 100);
    exchange_seq(&reader_step, 2);
    flow__reclaim_drain();
    assert_int_equal(load_seq(&reader_step), 3);
    assert_int_equal(load_seq(&n_released), 100);
    assert_int_equal(flow__reclaim_pending(), 0);
    join_all();
    for (int i = 0; i < 1000; i++) {
        flow__reclaim_later(flow__sys.allocate(16));
        assert_true(flow__reclaim_pending() < 512); /* bounded without a drain */
    }
    flow__reclaim_drain();
    assert_int_equal(load_seq(&n_released), 1100);

    /* Whoever reads cannot wait: it frees when it has left. */
    flow__reclaim_enter();
    flow__reclaim_enter();
    for (int i = 0; i < 1000; i++)
        flow__reclaim_later(flow__sys.allocate(16));
    flow__reclaim_flush();
    assert_int_equal(load_seq(&n_released), 1100);
    flow__reclaim_leave();
    assert_true(flow__reclaim_inside());
    flow__reclaim_flush();
    assert_int_equal(load_seq(&n_released), 1100);
    flow__reclaim_leave();
    assert_false(flow__reclaim_inside());
    flow__reclaim_flush();
    assert_true(flow__reclaim_pending() < 512);
    flow__reclaim_drain();
    assert_int_equal(flow__reclaim_pending(), 0);
    assert_int_equal(load_seq(&n_released), 2100);
    flow__reclaim_unregister();
    flow__sys = flow__sys_real;
    assert_no_failures();
}

static flow__atomic(bool) no_more;

static void *read_and_leave(void *arg)
{
    while (!load_seq(&no_more)) {
        flow__reclaim_register();
        flow__reclaim_unregister();
    }
    return arg;
}

static void *drain(void *arg)
{
    flow__reclaim_drain();
    return arg;
}

/* The exit status of a child that leaves the others behind and goes on alone: 0, or 1 if it may not. */
static int fork_and_go_on(void)
{
    int status;
    pid_t pid;

    flow__reclaim_before_fork();
    pid = fork();
    if (pid == 0) {
        alarm(20);
        if (!flow__reclaim_forget_others())
            _exit(1);
        flow__reclaim_after_fork();
        flow__reclaim_drain();
        begin(read_and_leave, NULL);
        flow__reclaim_wait();
        exchange_seq(&no_more, true);
        pthread_join(threads[n_threads - 1], NULL);
        _exit(0);
    }
    flow__reclaim_after_fork();
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_reclaim_goes_on_in_the_child_of_a_fork(void **state)
{
    (void)state;
    if (TEST_TSAN || TEST_EMULATED) /* qemu-user ends when the child of a process with threads makes one */
        skip();
    flow__reclaim_register();
    for (int i = 0; i < 3; i++)
        begin(read_and_leave, NULL);
    for (int i = 0; i < TEST_ROUNDS(100, 20); i++)
        assert_int_equal(fork_and_go_on(), 0);
    exchange_seq(&no_more, true);
    join_all();
    flow__reclaim_unregister();
}

static void test_reclaim_does_not_if_the_parent_was_freeing(void **state)
{
    int64_t end = flow_after(FLOW_S(20));
    int code;

    (void)state;
    if (TEST_TSAN || TEST_EMULATED)
        skip();
    exchange_seq(&reader_step, 0);
    begin(reader, NULL);
    while (load_seq(&reader_step) < 1)
        test_nap(FLOW_MS(1));
    begin(drain, NULL);
    do
        code = fork_and_go_on();
    while (code == 0 && flow_now() < end); /* it has not come so far yet */
    assert_int_equal(code, 1);
    exchange_seq(&reader_step, 2);
    join_all();
    assert_no_failures();
}

/* ---- the system-call table ---- */

static void test_futex_says_what_happened(void **state)
{
    flow__atomic(uint32_t) word;
    int64_t until = flow_now() + FLOW_MS(3);

    (void)state;
    store_relaxed(&word, 5);
    assert_int_equal(flow__sys.futex_wait(&word, 4, INT64_MAX), -EAGAIN);
    assert_int_equal(flow__sys.futex_wait(&word, 5, 0), -ETIMEDOUT);
    assert_int_equal(flow__sys.futex_wait(&word, 5, until), -ETIMEDOUT);
    assert_true(flow_now() >= until);
    assert_int_equal(flow__sys.futex_wake(&word, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_ring_is_a_bounded_fifo),
        TEST(test_ring_steals_half_rounded_up),
        TEST(test_ring_hands_out_every_entry_once),
        TEST(test_inbox_keeps_each_pushers_order),
        TEST(test_lock_excludes_and_wakes),
        TEST(test_age_is_counted_from_the_first_look),
        TEST(test_an_age_is_never_too_high),
        TEST(test_reclaim_waits_for_readers),
        TEST(test_reclaim_goes_on_in_the_child_of_a_fork),
        TEST(test_reclaim_does_not_if_the_parent_was_freeing),
        TEST(test_futex_says_what_happened),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
