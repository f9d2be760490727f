/* SPDX-License-Identifier: MIT
 *
 * Actors (coroutines) that start, join, cancel, wait and call, and foreign threads that do what they
 * may. All that they do is counted; what must be equal when all of it is over stands in
 * torture_settle(). */
#include "tests/programs/watch.h"
#include "tests/torture/torture.h"

#include <alloca.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_CHILDREN = 6, HANDLES = 64, LETTERS = 256 };

struct torture_counts did;

/* ---- handles that anyone may cancel ---- */

static atomic_uint_least64_t handles[HANDLES];

static void show_handle(flow_task task, uint64_t r)
{
    atomic_store(&handles[r % HANDLES], task.id);
}

static void cancel_somebody(uint64_t r)
{
    flow_task task = {atomic_load(&handles[r % HANDLES])};
    int result;

    if (!task.id)
        return;
    result = flow_cancel(task);
    EXPECT(result == 0 || result == -ESRCH);
    if (result)
        COUNT(cancels_too_late);
    else
        COUNT(cancels);
}

/* ---- invitations to wake ---- */

static struct {
    pthread_mutex_t lock;
    flow_waker waker[LETTERS];
    unsigned first, n;
} letters = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool post_letter(flow_waker waker)
{
    bool room;

    pthread_mutex_lock(&letters.lock);
    room = letters.n < LETTERS;
    if (room)
        letters.waker[(letters.first + letters.n++) % LETTERS] = waker;
    pthread_mutex_unlock(&letters.lock);
    return room;
}

static void wake(flow_waker waker)
{
    int r = flow_wake(waker);

    EXPECT(r == 0 || r == -ESRCH);
    if (r == 0) {
        COUNT(wakes);
        EXPECT_EQ(flow_wake(waker), -ESRCH); /* one invitation, one wake */
    } else {
        COUNT(wakes_too_late);
    }
}

static bool open_letter(void)
{
    flow_waker waker;
    bool any;

    pthread_mutex_lock(&letters.lock);
    any = letters.n > 0;
    if (any) {
        waker = letters.waker[letters.first];
        letters.first = (letters.first + 1) % LETTERS;
        letters.n--;
    }
    pthread_mutex_unlock(&letters.lock);
    if (any)
        wake(waker);
    return any;
}

struct publication {
    uint64_t r;
    bool published;
};

static int publish(flow_waker waker, void *arg)
{
    struct publication *p = arg;

    COUNT(suspended);
    switch (p->r % 16) {
    case 0:
        return 1;
    case 1:
        return -EBADF;
    case 2: /* woken before it sleeps */
        p->published = true;
        COUNT(published);
        wake(waker);
        return 0;
    default:
        p->published = post_letter(waker);
        if (!p->published)
            return 1;
        COUNT(published);
        return 0;
    }
}

static int suspend(uint64_t r, flow_deadline deadline)
{
    struct publication p = {.r = r};
    int result = flow_suspend(publish, &p, deadline);

    if (p.published && result == 0)
        COUNT(woken_suspensions);
    EXPECT(result == 0 || result == -ECANCELED || (result == -EBADF && r % 16 == 1) ||
           (result == -ETIMEDOUT && deadline != FLOW_FOREVER));
    return result == -ECANCELED ? result : 0;
}

/* ---- what a task may do; 0 or -ECANCELED ---- */

struct life {
    uint64_t random;
    int depth;
};

static uint64_t chance(struct life *l)
{
    return test_random(&l->random);
}

static flow_deadline shortly(struct life *l)
{
    return flow_after((int64_t)(chance(l) % FLOW_US(400)));
}

static int some_sleep(struct life *l)
{
    flow_deadline until = shortly(l);
    int r = watch_sleep_until(until);

    COUNT(sleeps);
    EXPECT(r == 0 || r == -ECANCELED);
    EXPECT(r || flow_now() >= until); /* never early */
    return r;
}

static int some_yields(struct life *l)
{
    int r = 0;

    for (uint64_t n = chance(l) % 20; n > 0 && !r; n--)
        r = flow_yield();
    COUNT(yields);
    EXPECT(r == 0 || r == -ECANCELED);
    return r;
}

static flow_result blocking_call(void *arg)
{
    uint64_t *n = arg;

    if (*n % 4 == 0)
        test_nap((int64_t)(*n % FLOW_US(100)));
    *n = ~*n;
    return flow_ok_u64(*n);
}

static void release_number(void *number)
{
    COUNT(owned_released);
    free(number);
}

static flow_lane *some_lane(uint64_t r)
{
    static flow_lane *const lanes[] = {FLOW_LANE_FILE, FLOW_LANE_DNS, FLOW_LANE_CPU};

    return lanes[r % 3];
}

static int owned_call(struct life *l, uint64_t n, flow_deadline deadline)
{
    uint64_t *number = malloc(sizeof *number);
    bool abandoned = false;
    flow_result r;

    *number = n;
    COUNT(owned);
    r = flow_offload_owned(some_lane(chance(l)), blocking_call, number, release_number, &abandoned, deadline);
    EXPECT_EQ(abandoned, r.error != 0);
    if (abandoned)
        return r.error == -ECANCELED ? -ECANCELED : 0;
    EXPECT_EQ(r.u64, ~n);
    EXPECT_EQ(*number, ~n);
    COUNT(owned_returned);
    free(number);
    return 0;
}

static int some_call(struct life *l)
{
    uint64_t n = chance(l), on_stack = n;
    flow_deadline deadline = n % 3 == 0 ? shortly(l) : FLOW_FOREVER;
    flow_result r;

    COUNT(calls);
    if (n % 5 == 0)
        return owned_call(l, n, deadline);
    r = flow_offload(some_lane(chance(l)), blocking_call, &on_stack, deadline);
    EXPECT_EQ(on_stack, r.error ? n : ~n); /* it ran, or it never will */
    EXPECT(r.error ? r.error == -ECANCELED || r.error == -ETIMEDOUT : r.u64 == ~n);
    return r.error == -ECANCELED ? -ECANCELED : 0;
}

static int some_suspension(struct life *l)
{
    uint64_t r = chance(l);

    return suspend(r, r >> 8 & 1 ? shortly(l) : FLOW_FOREVER);
}

static int act(struct life *l);

/* Something that suspends, with a frame that must stay as it is. */
static int act_with_large_frame(struct life *l)
{
    size_t bytes = chance(l) % 3000 + 1;
    unsigned char *frame = alloca(bytes), value = (unsigned char)chance(l);
    int r;

    memset(frame, value, bytes);
    __asm__ volatile("" ::"r"(frame) : "memory");
    r = act(l);
    for (size_t i = 0; i < bytes; i++)
        if (frame[i] != value) {
            EXPECT(!"a frame is whole after a suspension");
            break;
        }
    return r;
}

/* ---- children ---- */

static flow_result answer_for(uint64_t random)
{
    return flow_ok_u64(random * 0x9e3779b97f4a7c15u);
}

/* arg: the seed and, in the low bits, the depth. */
static flow_result child(void *arg)
{
    struct life l = {(uintptr_t)arg, (int)((uintptr_t)arg & 3)};
    uint64_t self = flow_self().id;
    int r = 0;

    COUNT(started);
    EXPECT(self != 0);
    for (uint64_t n = chance(&l) % 4; n > 0 && !r; n--)
        r = act_with_large_frame(&l);
    EXPECT_EQ(flow_self().id, self);
    return r ? flow_err(r) : answer_for((uintptr_t)arg);
}

static struct flow_spawn_options some_options(struct life *l)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    uint64_t r = chance(l);

    o.stack_bytes = r & 1 ? (size_t)32768 << (r >> 8 & 3) : 0;
    if (r & 2)
        o.name = "tortured";
    switch (r >> 2 & 3) {
    case 0:
        o.flags = FLOW_ROAM;
        break;
    case 1:
        o.flags = FLOW_PINNED;
        o.worker = (int)(r >> 16 & 1023) % torture.workers;
        break;
    case 2:
        o.worker = (int)(r >> 16 & 1023) % torture.workers;
        break;
    default:
        break;
    }
    if ((r >> 4 & 7) == 0)
        o.flags |= FLOW_FP_ENVIRONMENT;
    return o;
}

/* One level deeper. In a coroutine or not. */
static uintptr_t child_arg(struct life *l, int depth)
{
    return ((uintptr_t)chance(l) & ~(uintptr_t)3) | (unsigned)depth;
}

static bool spawn_child(struct life *l, flow_task *out, uintptr_t arg, bool in_coroutine)
{
    struct flow_spawn_options options;
    uint64_t r = chance(l);
    int result;

    switch (r % 4) {
    case 0:
        options = some_options(l);
        result = flow_spawn_with(out, &options, child, (void *)arg);
        break;
    case 1:
        if (in_coroutine) {
            result = flow_spawn_now(out, child, (void *)arg);
            break;
        }
        /* fall through */
    default:
        result = flow_spawn(out, child, (void *)arg);
    }
    EXPECT_EQ(result, 0);
    if (result)
        return false;
    COUNT(spawned);
    if (out && r >> 8 & 1)
        show_handle(*out, r >> 16);
    return true;
}

static void check_result(flow_result result, uintptr_t arg)
{
    COUNT(joined);
    if (result.error)
        EXPECT_EQ(result.error, -ECANCELED);
    else
        EXPECT_EQ(result.u64, answer_for(arg).u64);
}

/* If we are cancelled meanwhile, the child goes on alone; it uses nothing of ours. */
static void join_or_let_go(flow_task task, uintptr_t arg)
{
    flow_result result;
    int r = flow_join(task, &result, FLOW_FOREVER);

    if (r == 0) {
        check_result(result, arg);
        EXPECT_EQ(flow_join(task, NULL, FLOW_NOW), -ESRCH);
        return;
    }
    EXPECT_EQ(r, -ECANCELED);
    EXPECT_EQ(flow_detach(task), 0);
}

static int one_child(struct life *l, bool in_coroutine)
{
    uintptr_t arg = child_arg(l, l->depth + 1);
    uint64_t r = chance(l);
    flow_result result;
    flow_task task;
    int joined;

    if (r % 8 == 0)
        return spawn_child(l, NULL, arg, in_coroutine) ? 0 : -EPROTO;
    if (!spawn_child(l, &task, arg, in_coroutine))
        return -EPROTO;
    if (r % 8 < 4) {
        join_or_let_go(task, arg);
        return 0;
    }
    joined = flow_join(task, &result, r % 8 == 4 ? FLOW_NOW : shortly(l));
    if (joined == 0) {
        check_result(result, arg);
        return 0;
    }
    EXPECT(joined == -ETIMEDOUT || joined == -ECANCELED);
    COUNT(timed_out);
    if (r & 8) {
        int cancelled = flow_cancel(task);

        EXPECT(cancelled == 0 || cancelled == -ESRCH);
    }
    join_or_let_go(task, arg);
    return joined == -ECANCELED ? joined : 0;
}

static size_t some_children(struct life *l, flow_task *tasks, uintptr_t *args, bool in_coroutine)
{
    size_t n = chance(l) % MOST_CHILDREN + 1, made = 0;

    for (size_t i = 0; i < n; i++) {
        args[made] = child_arg(l, l->depth + 1);
        made += spawn_child(l, &tasks[made], args[made], in_coroutine);
    }
    return made;
}

static int all_of_some(struct life *l, bool in_coroutine)
{
    flow_task tasks[MOST_CHILDREN];
    uintptr_t args[MOST_CHILDREN];
    flow_result results[MOST_CHILDREN];
    size_t n = some_children(l, tasks, args, in_coroutine);
    int r = flow_when_all(tasks, n, results, chance(l) % 2 ? shortly(l) : FLOW_FOREVER);

    COUNT(all);
    if (r == -ETIMEDOUT || r == -ECANCELED) {
        /* One of the results may be -ECANCELED, too: then the tasks are gone. */
        for (size_t i = 0; i < n; i++) {
            flow_result result;
            int one = flow_join(tasks[i], &result, FLOW_FOREVER);

            EXPECT(one == 0 || one == -ESRCH || one == -ECANCELED);
            if (one == 0)
                check_result(result, args[i]);
            if (one == -ECANCELED)
                EXPECT_EQ(flow_detach(tasks[i]), 0);
        }
        return 0;
    }
    EXPECT_EQ(r, 0);
    for (size_t i = 0; i < n && !r; i++)
        check_result(results[i], args[i]);
    return 0;
}

static int any_of_some(struct life *l, bool in_coroutine)
{
    flow_task tasks[MOST_CHILDREN];
    uintptr_t args[MOST_CHILDREN];
    size_t n = some_children(l, tasks, args, in_coroutine), winner = n;
    flow_result result;
    int r = flow_when_any(tasks, n, &winner, &result, chance(l) % 2 ? shortly(l) : FLOW_FOREVER);

    COUNT(any);
    if (r == 0) {
        EXPECT(winner < n);
        check_result(result, args[winner]);
        for (size_t i = 0; i < n; i++)
            EXPECT_EQ(flow_join(tasks[i], NULL, FLOW_NOW), -ESRCH);
        return 0;
    }
    EXPECT(r == -ETIMEDOUT || r == -ECANCELED);
    for (size_t i = 0; i < n; i++)
        join_or_let_go(tasks[i], args[i]);
    return 0;
}

/* What involves children; also for foreign threads. */
static int act_with_children(struct life *l, bool in_coroutine)
{
    switch (chance(l) % 6) {
    case 0:
        return all_of_some(l, in_coroutine);
    case 1:
        return any_of_some(l, in_coroutine);
    default:
        return one_child(l, in_coroutine);
    }
}

static flow_result come_and_go(void *arg)
{
    COUNT(started);
    return flow_ok(arg);
}

/* More than any queue holds. One at a time, for the sanitizers' sake. */
static int burst(struct life *l)
{
    static atomic_flag busy = ATOMIC_FLAG_INIT;
    static flow_task tasks[700];
    static flow_result results[700];
    size_t n = chance(l) % 700 + 1;

    if (atomic_flag_test_and_set(&busy))
        return 0;
    for (size_t i = 0; i < n; i++) {
        EXPECT_EQ(flow_spawn(&tasks[i], come_and_go, &tasks[i]), 0);
        COUNT(spawned);
    }
    EXPECT_EQ(flow_when_all(tasks, n, results, FLOW_FOREVER), 0);
    for (size_t i = 0; i < n; i++)
        EXPECT(results[i].ptr == &tasks[i]);
    COUNT(bursts);
    atomic_flag_clear(&busy);
    return 0;
}

static void look_around(uint64_t r)
{
    struct flow_stats stats = {.size = sizeof stats};

    if (r % 64 == 0) {
        EXPECT(flow_dump(torture.dev_null) >= 0);
        COUNT(dumps);
        return;
    }
    EXPECT_EQ(flow_stats(&stats), 0);
    EXPECT_EQ(stats.total.spawned, stats.total.finished + stats.live);
    EXPECT(stats.live < 1000000);
    COUNT(looks);
}

static int act(struct life *l)
{
    uint64_t r = chance(l);

    switch (r % 16) {
    case 0:
    case 1:
        return some_sleep(l);
    case 2:
    case 3:
        return some_yields(l);
    case 4:
    case 5:
    case 6:
        return some_suspension(l);
    case 7:
        return some_call(l);
    case 8:
        cancel_somebody(r >> 8);
        return 0;
    case 9:
        open_letter();
        return 0;
    case 10:
        look_around(r >> 8);
        return 0;
    default:
        return l->depth < 2 ? act_with_children(l, true) : some_yields(l);
    }
}

/* ---- actors and threads ---- */

flow_result torture_actor(void *seed)
{
    struct life l = {(uintptr_t)seed, 0};
    uint64_t n = 0;

    COUNT(started);
    for (; !atomic_load_explicit(&torture.ending, memory_order_relaxed); n++) {
        EXPECT_EQ(act_with_large_frame(&l), 0); /* nobody cancels an actor */
        if (chance(&l) % 256 == 0)
            burst(&l);
        torture_read(chance(&l));
        COUNT(operations);
    }
    return flow_ok_u64(n);
}

static flow_result waited_for(void *seed)
{
    COUNT(started);
    return child_arg(&(struct life){(uintptr_t)seed, 0}, 0) & 4 ? flow_ok(seed)
           : flow_sleep(FLOW_US(50))                            ? flow_err(-ECANCELED)
                                                                : flow_ok(seed);
}

/* An even seed: one that never waits for a task, so that there is always somebody to open letters. */
void *torture_foreign(void *seed)
{
    struct life l = {(uintptr_t)seed, 1};
    bool waits = (uintptr_t)seed & 1;

    while (!atomic_load(&torture.all_ended)) {
        uint64_t r = chance(&l);
        flow_result result;

        if (!open_letter() && r % 4 == 0)
            test_nap((int64_t)(r % FLOW_US(200)));
        if (r % 3 == 0)
            cancel_somebody(r >> 8);
        if (r % 16 == 5)
            look_around(r >> 8);
        if (r % 8 == 3)
            torture_read(r >> 8);
        if (!waits || atomic_load(&torture.ending))
            continue;
        if (r % 8 == 1)
            act_with_children(&l, false);
        if (r % 32 == 2) {
            EXPECT_EQ(flow_sync_wait(waited_for, (void *)(uintptr_t)(r | 1), &result, FLOW_FOREVER), 0);
            EXPECT(result.u64 == (r | 1));
            COUNT(spawned), COUNT(joined);
        }
    }
    return NULL;
}

/* ---- the accounts ---- */

void torture_forget(void)
{
    while (open_letter())
        ; /* of suspensions that ended otherwise */
    for (int i = 0; i < HANDLES; i++)
        atomic_store(&handles[i], 0); /* the next runtime's may look the same */
}

#define SHOWN(field) atomic_load(&did.field)

void torture_settle(void)
{
    flow_deadline until = flow_after(FLOW_S(10));

    /* Abandoned calls may still be running. */
    while (SHOWN(owned) != SHOWN(owned_returned) + SHOWN(owned_released) && flow_now() < until)
        test_nap(FLOW_MS(1));
    assert_true(SHOWN(started) <= SHOWN(spawned)); /* the others were cancelled before */
    assert_int_equal(SHOWN(woken_suspensions), SHOWN(wakes));
    assert_int_equal(letters.n, 0);
    assert_int_equal(SHOWN(published), SHOWN(wakes) + SHOWN(wakes_too_late));
    assert_int_equal(SHOWN(owned), SHOWN(owned_returned) + SHOWN(owned_released));
}
