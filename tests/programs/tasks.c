/* SPDX-License-Identifier: MIT
 *
 * Programs about tasks: points in time, who wins a wait, joining, scopes, shields, jobs. */
#include "tests/programs/programs.h"
#include "tests/programs/watch.h"

#include <errno.h>

enum { MOST = 6, TRIES = 5 };

/* ---- points in time ---- */

static flow_result sleeper(void *chance)
{
    struct chance *c = chance;

    for (int i = 0; i < TRIES; i++) {
        flow_deadline deadline = soon(c) + FLOW_US(1);

        EXPECT_EQ(watch_sleep_until(deadline), 0);
        expect_time(deadline);
        note_done(0xb00);
    }
    return flow_ok(NULL);
}

flow_result run_sleepers(void *seed)
{
    struct chance c = {(uintptr_t)seed}, own[MOST];
    flow_task tasks[MOST];
    int n = 1 + (int)roll_below(&c, MOST);

    for (int i = 0; i < n; i++) {
        own[i] = chance_for(&c);
        start_task(&c, &tasks[i], sleeper, &own[i]);
    }
    while (n > 0)
        join_task(tasks[--n]);
    return flow_ok(NULL);
}

/* ---- one suspension, and several who end it ---- */

struct contest {
    struct chance chance[4];
    flow_waker waker;
    flow_task waiter;
    flow_deadline deadline;
    atomic_bool published, cancelled;
    atomic_int wakes, outcome, asked;
};

static int publish(flow_waker waker, void *contest)
{
    struct contest *t = contest;

    t->waker = waker;
    atomic_store(&t->published, true);
    return 0;
}

/* Nobody gets this one's waker; who has an older one must not end it. */
static int publish_nowhere(flow_waker waker, void *unused)
{
    (void)waker, (void)unused;
    return 0;
}

static void wait_once_more(struct contest *t)
{
    flow_deadline deadline = soon(&t->chance[0]) + FLOW_US(2);
    int r = flow_suspend(publish_nowhere, NULL, deadline);

    EXPECT(r == -ECANCELED || r == -ETIMEDOUT);
    if (r == -ETIMEDOUT)
        expect_time(deadline);
}

static flow_result waiter(void *contest)
{
    struct contest *t = contest;
    bool cancelled = false;
    int r;

    for (uint64_t n = roll_below(&t->chance[0], 4); n > 0; n--)
        cancelled = flow_yield() != 0;
    r = flow_suspend(publish, t, t->deadline);
    EXPECT(!cancelled || r == -ECANCELED);
    if (r == -ETIMEDOUT)
        expect_time(t->deadline);
    EXPECT(r == 0 || r == -ECANCELED || (r == -ETIMEDOUT && t->deadline != FLOW_FOREVER));
    atomic_store(&t->outcome, r);
    wait_once_more(t);
    return flow_ok(NULL);
}

static flow_result waker(void *contest)
{
    struct contest *t = contest;
    struct chance *c = &t->chance[1 + atomic_fetch_add(&t->asked, 1)];
    int r;

    dawdle(c);
    while (!atomic_load(&t->published))
        if (atomic_load(&t->cancelled) || flow_sleep(FLOW_US(1)))
            return flow_ok(NULL); /* it may never have run */
    r = flow_wake(t->waker);
    EXPECT(r == 0 || r == -ESRCH);
    atomic_fetch_add(&t->wakes, r == 0);
    return flow_ok(NULL);
}

/* One of 0, timed out, cancelled; woken if and only if one wake has succeeded. */
static void contend(struct chance *c)
{
    struct contest t = {.deadline = heads(c) ? soon(c) : FLOW_FOREVER};
    flow_task wakers[2];
    int cancelled = -ESRCH;

    atomic_init(&t.outcome, 1);
    for (int i = 0; i < 4; i++)
        t.chance[i] = chance_for(c);
    start_task(c, &t.waiter, waiter, &t);
    for (int i = 0; i < 2; i++)
        start_task(c, &wakers[i], waker, &t);
    dawdle(c);
    if (roll_below(c, 3) == 0) {
        cancelled = flow_cancel(t.waiter);
        EXPECT(cancelled == 0 || cancelled == -ESRCH);
        atomic_store(&t.cancelled, cancelled == 0);
    }
    for (int i = 0; i < 2; i++)
        join_task(wakers[i]);
    flow_result result = flow_err(-EPROTO);

    EXPECT_EQ(flow_join(t.waiter, &result, FLOW_FOREVER), 0);
    EXPECT(result.error == 0 || (result.error == -ECANCELED && cancelled == 0));
    if (result.error)
        atomic_store(&t.outcome, -ECANCELED); /* it has never run */
    EXPECT_EQ(atomic_load(&t.wakes), atomic_load(&t.outcome) == 0);
    EXPECT(atomic_load(&t.outcome) != -ECANCELED || cancelled == 0);
    note_done(0xc00 + (uint64_t)(int64_t)atomic_load(&t.outcome));
}

flow_result run_winner(void *seed)
{
    struct chance c = {(uintptr_t)seed};

    for (int i = 0; i < TRIES; i++)
        contend(&c);
    return flow_ok(NULL);
}

/* ---- families ---- */

static flow_result relative(void *seed);

static uint64_t answer_of(uintptr_t seed)
{
    return seed * 0x9e3779b97f4a7c15u;
}

/* The depth is in the low bits. */
static uintptr_t child_seed(struct chance *c, uintptr_t seed)
{
    return ((uintptr_t)roll(c) & ~(uintptr_t)3) | ((seed & 3) + 1);
}

static void expect_answer(flow_result result, uintptr_t seed, bool cancelled)
{
    if (result.error)
        EXPECT(result.error == -ECANCELED && cancelled);
    else
        EXPECT_EQ(result.u64, answer_of(seed));
}

static void join_at_last(flow_task task, uintptr_t seed, bool cancelled)
{
    flow_result result = flow_err(-EPROTO);

    EXPECT_EQ(flow_join(task, &result, FLOW_FOREVER), 0);
    expect_answer(result, seed, cancelled);
}

static void one_child(struct chance *c, uintptr_t seed)
{
    uintptr_t its = child_seed(c, seed);
    flow_deadline deadline = heads(c) ? soon(c) : FLOW_NOW;
    flow_result result = flow_err(-EPROTO);
    flow_task task;
    int r;

    start_task(c, &task, relative, (void *)its);
    r = flow_join(task, &result, deadline);
    if (r == 0) {
        expect_answer(result, its, false);
        return;
    }
    EXPECT_EQ(r, -ETIMEDOUT);
    expect_time(deadline);
    if (heads(c)) {
        join_at_last(task, its, false);
        return;
    }
    r = flow_cancel(task);
    EXPECT(r == 0 || r == -ESRCH);
    join_at_last(task, its, r == 0);
}

static size_t some_children(struct chance *c, uintptr_t seed, flow_task *tasks, uintptr_t *seeds)
{
    size_t n = 1 + roll_below(c, MOST - 1);

    for (size_t i = 0; i < n; i++) {
        seeds[i] = child_seed(c, seed);
        start_task(c, &tasks[i], relative, (void *)seeds[i]);
    }
    return n;
}

static void all_children(struct chance *c, uintptr_t seed)
{
    flow_task tasks[MOST];
    uintptr_t seeds[MOST];
    flow_result results[MOST];
    size_t n = some_children(c, seed, tasks, seeds);
    int r = flow_when_all(tasks, n, results, soon(c));

    EXPECT(r == 0 || r == -ETIMEDOUT);
    for (size_t i = 0; i < n; i++) {
        if (r)
            join_at_last(tasks[i], seeds[i], false);
        else
            expect_answer(results[i], seeds[i], false);
    }
}

static void any_child(struct chance *c, uintptr_t seed)
{
    flow_task tasks[MOST];
    uintptr_t seeds[MOST];
    size_t n = some_children(c, seed, tasks, seeds), winner = n;
    flow_result result = flow_err(-EPROTO);

    EXPECT_EQ(flow_when_any(tasks, n, &winner, &result, FLOW_FOREVER), 0);
    EXPECT(winner < n);
    if (winner < n)
        expect_answer(result, seeds[winner], false);
    for (size_t i = 0; i < n; i++)
        EXPECT_EQ(flow_join(tasks[i], NULL, FLOW_NOW), -ESRCH);
}

static void let_go_of_child(struct chance *c, uintptr_t seed)
{
    flow_task task;

    start_task(c, &task, relative, (void *)child_seed(c, seed));
    EXPECT_EQ(flow_detach(task), 0);
    EXPECT(flow_join(task, NULL, FLOW_NOW) < 0);
}

static flow_result relative(void *arg)
{
    uintptr_t seed = (uintptr_t)arg;
    struct chance c = {seed};

    for (uint64_t n = roll_below(&c, 4); n > 0; n--)
        if (heads(&c) ? flow_yield() : watch_sleep_until(soon(&c)))
            return flow_err(-ECANCELED);
    return flow_ok_u64(answer_of(seed));
}

static flow_result sync_waited(void *arg)
{
    return relative(arg);
}

flow_result run_family(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    uintptr_t its = child_seed(&c, 0);
    flow_result result = flow_err(-EPROTO);

    for (int i = 0; i < TRIES; i++) {
        switch (roll_below(&c, 4)) {
        case 0:
            all_children(&c, 0);
            break;
        case 1:
            any_child(&c, 0);
            break;
        case 2:
            let_go_of_child(&c, 0);
            break;
        default:
            one_child(&c, 0);
            break;
        }
        note_done(0xd00);
    }
    EXPECT_EQ(flow_sync_wait(sync_waited, (void *)its, &result, FLOW_FOREVER), 0);
    expect_answer(result, its, false);
    return flow_ok(NULL);
}

/* ---- scopes ---- */

/* The scope's deadline may have passed. */
static void dawdle_cancellable(struct chance *c)
{
    int r = heads(c) ? flow_yield() : 0;

    EXPECT(r == 0 || r == -ECANCELED);
}

struct brood {
    struct flow_scope *scope;
    atomic_int living;
    atomic_uint_least64_t random;
    bool one_fails;
};

static flow_result fledgling(void *brood)
{
    struct brood *b = brood;
    struct chance c = {atomic_fetch_add(&b->random, 0x1234567)};
    int r = 0;

    atomic_fetch_add(&b->living, 1);
    if (roll_below(&c, 4) == 0)
        (void)flow_scope_spawn(b->scope, NULL, fledgling, b); /* refused when it is cancelled */
    for (uint64_t n = roll_below(&c, 3); n > 0 && !r; n--)
        r = watch_sleep_until(soon(&c));
    EXPECT(r == 0 || r == -ECANCELED);
    atomic_fetch_sub(&b->living, 1);
    if (r == 0 && b->one_fails && heads(&c))
        r = -EBADF;
    return r ? flow_err(r) : flow_ok(NULL);
}

static flow_result adopted(void *unused)
{
    int r = flow_sleep(FLOW_US(2));

    return r ? flow_err(r) : flow_ok(unused);
}

/* In the ways there are: without a handle, with one and perhaps cancelled, or given to it later. */
static void add_to_scope(struct chance *c, struct brood *b)
{
    flow_task task;
    int r;

    switch (roll_below(c, 3)) {
    case 0:
        r = flow_scope_spawn(b->scope, NULL, fledgling, b);
        break;
    case 1:
        r = flow_scope_spawn(b->scope, &task, fledgling, b);
        if (r == 0)
            dawdle_cancellable(c);
        if (r == 0 && heads(c))
            EXPECT(flow_cancel(task) != -EINVAL);
        break;
    default:
        start_task(c, &task, adopted, NULL);
        r = flow_scope_add(b->scope, task);
        if (r)
            EXPECT_EQ(flow_detach(task), 0);
        break;
    }
    EXPECT(r == 0 || r == -ECANCELED);
}

flow_result run_scope(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct flow_scope_options o = FLOW_SCOPE_OPTIONS_INIT;
    struct flow_scope_status status;
    struct flow_scope scope;
    struct brood b = {.scope = &scope, .one_fails = roll_below(&c, 3) == 0};
    flow_deadline deadline = heads(&c) ? soon(&c) : FLOW_FOREVER;
    int r;

    o.deadline = deadline;
    o.flags = heads(&c) ? FLOW_SCOPE_COLLECT : 0;
    atomic_init(&b.random, roll(&c));
    EXPECT_EQ(flow_scope_open(&scope, &o), 0);
    for (uint64_t n = roll_below(&c, MOST); n > 0; n--)
        add_to_scope(&c, &b);
    if (roll_below(&c, 4) == 0)
        EXPECT_EQ(flow_scope_cancel(&scope), 0);
    r = flow_scope_close(&scope);
    EXPECT_EQ(atomic_load(&b.living), 0);
    flow_scope_status(&scope, &status);
    EXPECT_EQ(status.live, 0);
    EXPECT(r == 0 || r == -ECANCELED || (r == -EBADF && b.one_fails) ||
           (r == -ETIMEDOUT && deadline != FLOW_FOREVER));
    if (r == 0)
        EXPECT(status.failed == 0 && status.cancelled == 0);
    if (r == -EBADF)
        EXPECT(status.failed > 0 && status.error == -EBADF);
    /* Whoever slept at the deadline was woken then. */
    if (program_stage.exact && deadline != FLOW_FOREVER)
        EXPECT(flow_now() <= deadline);
    note_done(0xe00 + (uint64_t)(int64_t)r);
    return flow_ok(NULL);
}

/* ---- shields ---- */

static flow_result shielded(void *chance)
{
    struct chance *c = chance;
    struct flow_ambient shield = FLOW_AMBIENT_INIT, limit = FLOW_AMBIENT_INIT;
    flow_deadline early = soon(c), deadline = early + FLOW_US(1);
    int r = flow_sleep_until(deadline);

    EXPECT(r == 0 || r == -ECANCELED);
    EXPECT_EQ(flow_shield_begin(&shield), 0);
    deadline = flow_after(FLOW_US(3));
    EXPECT_EQ(flow_sleep_until(deadline), 0);
    expect_time(deadline);
    EXPECT_EQ(flow_deadline_push(&limit, early = flow_after(FLOW_US(2))), 0);
    EXPECT_EQ(flow_sleep_until(flow_after(FLOW_US(5))), -ECANCELED);
    expect_time(early);
    EXPECT_EQ(flow_deadline_pop(&limit), 0);
    EXPECT_EQ(flow_yield(), 0);
    EXPECT_EQ(flow_shield_end(&shield), 0);
    if (r || flow_cancel_reason()) {
        EXPECT_EQ(flow_sleep_until(soon(c)), -ECANCELED);
        EXPECT_EQ(flow_yield(), -ECANCELED);
    }
    return flow_ok_i64(r);
}

flow_result run_shield(void *seed)
{
    struct chance c = {(uintptr_t)seed}, own[MOST];
    flow_task tasks[MOST];
    int n = 1 + (int)roll_below(&c, MOST - 1);

    for (int i = 0; i < n; i++) {
        own[i] = chance_for(&c);
        start_task(&c, &tasks[i], shielded, &own[i]);
    }
    dawdle(&c);
    for (int i = 0; i < n; i++) {
        bool asked = heads(&c);
        int r = asked ? flow_cancel_with(tasks[i], FLOW_CANCEL_USER) : -ESRCH;
        flow_result result = flow_err(-EPROTO);

        EXPECT(r == 0 || r == -ESRCH);
        EXPECT_EQ(flow_join(tasks[i], &result, FLOW_FOREVER), 0);
        EXPECT(result.error == 0 || (r == 0 && result.error == -ECANCELED));
        EXPECT(result.error || result.i64 == 0 || r == 0);
        note_done(0xf00 + (uint64_t)(int64_t)result.error);
    }
    return flow_ok(NULL);
}

/* ---- jobs ---- */

struct sum {
    uint64_t from, to, seed;
};

static flow_result add_up(void *sum)
{
    struct sum *s = sum;
    struct chance c = {s->seed + s->from};

    if (s->to - s->from < 4) {
        uint64_t n = 0;

        for (uint64_t i = s->from; i < s->to; i++)
            n += i;
        if (roll_below(&c, 4) == 0)
            dawdle(&c); /* which makes tasks of what was forked and not synced */
        return flow_ok_u64(n);
    }
    uint64_t middle = s->from + (s->to - s->from) / 2;
    struct sum low = {s->from, middle, s->seed}, high = {middle, s->to, s->seed};
    struct flow_job job;

    flow_fork(&job, add_up, &low);
    flow_result b = add_up(&high), a = flow_sync(&job);

    EXPECT(a.error == 0 && b.error == 0);
    return flow_ok_u64(a.u64 + b.u64);
}

flow_result run_jobs(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct sum all = {0, 8 + roll_below(&c, 200), roll(&c)};
    flow_result result = add_up(&all);

    EXPECT_EQ(result.error, 0);
    EXPECT_EQ(result.u64, all.to * (all.to - 1) / 2);
    note_done(0x1000);
    return flow_ok(NULL);
}
