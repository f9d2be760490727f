/* SPDX-License-Identifier: MIT
 *
 * Programs about what excludes, counts and signals. What a lock guards is plain memory that is half
 * changed while its owner sleeps. */
#include "tests/programs/programs.h"
#include "tests/programs/watch.h"

#include <errno.h>

enum { PARTIES = 5, MOST_ROUNDS = 8 };

struct shared {
    struct flow_mutex mutex;
    struct flow_rwlock rwlock;
    struct flow_condition not_empty, not_full;
    struct flow_semaphore units;
    struct flow_event ping, pong, gate;
    struct flow_waitgroup group;
    struct flow_barrier barrier;
    uint64_t n, half; /* guarded by mutex or rwlock */
    uint64_t capacity, produced, consumed;
    atomic_int inside, readers, writers, arrived, leaders, used, units_all;
    atomic_bool held; /* a lock is */
    int rounds, parties;
};

struct visitor {
    struct shared *s;
    struct chance chance;
    uint64_t done;
};

static void visit(struct chance *c, struct shared *s, flow_fn fn, int n, uint64_t *done)
{
    struct visitor visitors[2 * PARTIES];
    flow_task tasks[2 * PARTIES];

    for (int i = 0; i < n; i++) {
        visitors[i] = (struct visitor){s, chance_for(c), 0};
        start_task(c, &tasks[i], fn, &visitors[i]);
    }
    for (int i = 0; i < n; i++) {
        join_task(tasks[i]);
        *done += visitors[i].done;
    }
}

static bool is_not_held(void *shared)
{
    return !atomic_load(&((struct shared *)shared)->held);
}

/* ---- mutex ---- */

static int lock_somehow(struct visitor *v)
{
    flow_deadline deadline = soon(&v->chance);
    int r;

    switch (roll_below(&v->chance, 3)) {
    case 0:
        return flow_mutex_trylock(&v->s->mutex);
    case 1:
        r = flow_mutex_lock(&v->s->mutex, deadline);
        if (r == -ETIMEDOUT)
            expect_time(deadline);
        return r;
    default:
        return WATCHED("a mutex", is_not_held, v->s, flow_mutex_lock(&v->s->mutex, FLOW_FOREVER));
    }
}

static flow_result use_mutex(void *visitor)
{
    struct visitor *v = visitor;
    struct shared *s = v->s;

    for (int i = 0; i < s->rounds; i++) {
        int r = lock_somehow(v);

        EXPECT(r == 0 || r == -EBUSY || r == -ETIMEDOUT);
        note_done(0x500 + (uint64_t)(int64_t)r);
        if (r == 0) {
            atomic_store(&s->held, true);
            s->half++;
            dawdle(&v->chance);
            EXPECT_EQ(s->half, s->n + 1);
            s->n++;
            v->done++;
            EXPECT_EQ(flow_mutex_lock(&s->mutex, FLOW_NOW), -EDEADLK);
            atomic_store(&s->held, false);
            EXPECT_EQ(flow_mutex_unlock(&s->mutex), 0);
        }
        dawdle(&v->chance);
    }
    return flow_ok(NULL);
}

flow_result run_mutex(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct shared s = {.mutex = FLOW_MUTEX_INIT, .rounds = 1 + (int)roll_below(&c, MOST_ROUNDS)};
    uint64_t done = 0;

    visit(&c, &s, use_mutex, 1 + (int)roll_below(&c, PARTIES), &done);
    EXPECT_EQ(s.n, done);
    EXPECT_EQ(flow_mutex_trylock(&s.mutex), 0);
    EXPECT_EQ(flow_mutex_unlock(&s.mutex), 0);
    return flow_ok(NULL);
}

/* ---- rwlock ---- */

static void read_shared(struct visitor *v)
{
    struct shared *s = v->s;
    uint64_t n = s->n;

    atomic_fetch_add(&s->readers, 1);
    dawdle(&v->chance);
    EXPECT_EQ(atomic_load(&s->writers), 0);
    EXPECT(s->n == n && s->half == n);
    atomic_fetch_sub(&s->readers, 1);
}

static void write_shared(struct visitor *v)
{
    struct shared *s = v->s;

    EXPECT_EQ(atomic_fetch_add(&s->writers, 1), 0);
    EXPECT_EQ(atomic_load(&s->readers), 0);
    s->half++;
    dawdle(&v->chance);
    s->n++;
    v->done++;
    atomic_fetch_sub(&s->writers, 1);
}

static flow_result use_rwlock(void *visitor)
{
    struct visitor *v = visitor;
    struct shared *s = v->s;

    for (int i = 0; i < s->rounds; i++) {
        bool writes = roll_below(&v->chance, 3) == 0;
        flow_deadline deadline = heads(&v->chance) ? soon(&v->chance) : FLOW_FOREVER;
        int r = writes ? flow_rwlock_write(&s->rwlock, deadline) : flow_rwlock_read(&s->rwlock, deadline);

        EXPECT(r == 0 || (r == -ETIMEDOUT && deadline != FLOW_FOREVER));
        note_done(0x600 + (uint64_t)(int64_t)r);
        if (r == 0) {
            if (writes)
                write_shared(v);
            else
                read_shared(v);
            EXPECT_EQ(flow_rwlock_unlock(&s->rwlock), 0);
        }
        dawdle(&v->chance);
    }
    return flow_ok(NULL);
}

flow_result run_rwlock(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct shared s = {.rwlock = FLOW_RWLOCK_INIT, .rounds = 1 + (int)roll_below(&c, MOST_ROUNDS)};
    uint64_t done = 0;

    visit(&c, &s, use_rwlock, 1 + (int)roll_below(&c, PARTIES), &done);
    EXPECT_EQ(s.n, done);
    EXPECT_EQ(flow_rwlock_write(&s.rwlock, FLOW_NOW), 0);
    EXPECT_EQ(flow_rwlock_unlock(&s.rwlock), 0);
    return flow_ok(NULL);
}

/* ---- condition: a bounded buffer ---- */

/* Waits until the buffer is not at its limit, with deadlines or without. The mutex is held. */
static void wait_until_not(struct visitor *v, struct flow_condition *changed, uint64_t limit)
{
    while (v->s->n == limit) {
        flow_deadline deadline = heads(&v->chance) ? soon(&v->chance) : FLOW_FOREVER;
        int r = flow_condition_wait(changed, &v->s->mutex, deadline);

        EXPECT(r == 0 || (r == -ETIMEDOUT && deadline != FLOW_FOREVER));
    }
}

static flow_result produce(void *visitor)
{
    struct visitor *v = visitor;
    struct shared *s = v->s;

    for (int i = 0; i < s->rounds; i++) {
        EXPECT_EQ(flow_mutex_lock(&s->mutex, FLOW_FOREVER), 0);
        wait_until_not(v, &s->not_full, s->capacity);
        s->n++;
        s->produced++;
        EXPECT_EQ(heads(&v->chance) ? flow_condition_signal(&s->not_empty) : flow_condition_broadcast(&s->not_empty),
                  0);
        EXPECT_EQ(flow_mutex_unlock(&s->mutex), 0);
        note_done(0x700);
        dawdle(&v->chance);
    }
    return flow_ok(NULL);
}

static flow_result consume(void *visitor)
{
    struct visitor *v = visitor;
    struct shared *s = v->s;

    for (int i = 0; i < s->rounds; i++) {
        EXPECT_EQ(flow_mutex_lock(&s->mutex, FLOW_FOREVER), 0);
        wait_until_not(v, &s->not_empty, 0);
        s->n--;
        s->consumed++;
        EXPECT_EQ(flow_mutex_unlock(&s->mutex), 0);
        EXPECT_EQ(flow_condition_signal(&s->not_full), 0);
        note_done(0x701);
        dawdle(&v->chance);
    }
    return flow_ok(NULL);
}

static flow_result produce_or_consume(void *visitor)
{
    struct visitor *v = visitor;

    return atomic_fetch_add(&v->s->arrived, 1) % 2 ? produce(v) : consume(v);
}

flow_result run_condition(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct shared s = {.mutex = FLOW_MUTEX_INIT,
                       .not_empty = FLOW_CONDITION_INIT,
                       .not_full = FLOW_CONDITION_INIT,
                       .capacity = 1 + roll_below(&c, 3),
                       .rounds = 1 + (int)roll_below(&c, MOST_ROUNDS)};
    int pairs = 1 + (int)roll_below(&c, 3);
    uint64_t unused = 0;

    visit(&c, &s, produce_or_consume, 2 * pairs, &unused);
    EXPECT_EQ(s.produced, (uint64_t)(pairs * s.rounds));
    EXPECT_EQ(s.consumed, s.produced);
    EXPECT_EQ(s.n, 0);
    return flow_ok(NULL);
}

/* ---- semaphore ---- */

static bool all_units_are_there(void *shared)
{
    struct shared *s = shared;

    return flow_semaphore_value(&s->units) == (uint32_t)atomic_load(&s->units_all);
}

static flow_result use_units(void *visitor)
{
    struct visitor *v = visitor;
    struct shared *s = v->s;
    int all = atomic_load(&s->units_all);

    for (int i = 0; i < s->rounds; i++) {
        uint32_t n = 1 + (uint32_t)roll_below(&v->chance, (uint64_t)all);
        flow_deadline deadline = heads(&v->chance) ? soon(&v->chance) : FLOW_FOREVER;
        int r = WATCHED("units", all_units_are_there, s, flow_semaphore_acquire(&s->units, n, deadline));

        EXPECT(r == 0 || (r == -ETIMEDOUT && deadline != FLOW_FOREVER));
        note_done(0x800 + (uint64_t)(int64_t)r);
        if (r == 0) {
            EXPECT(atomic_fetch_add(&s->used, (int)n) + (int)n <= all);
            dawdle(&v->chance);
            atomic_fetch_sub(&s->used, (int)n);
            EXPECT_EQ(flow_semaphore_release(&s->units, n), 0);
        } else if (deadline != FLOW_FOREVER) {
            expect_time(deadline);
        }
    }
    return flow_ok(NULL);
}

flow_result run_semaphore(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    uint32_t units = 1 + (uint32_t)roll_below(&c, 4);
    struct shared s = {.units = FLOW_SEMAPHORE_INIT(units), .rounds = 1 + (int)roll_below(&c, MOST_ROUNDS)};
    uint64_t unused = 0;

    atomic_init(&s.units_all, (int)units);
    visit(&c, &s, use_units, 1 + (int)roll_below(&c, PARTIES), &unused);
    EXPECT_EQ(flow_semaphore_value(&s.units), units);
    return flow_ok(NULL);
}

/* ---- events ---- */

static bool is_set(void *event)
{
    return flow_event_is_set(event);
}

static flow_result answer(void *visitor)
{
    struct visitor *v = visitor;

    for (int i = 0; i < v->s->rounds; i++) {
        EXPECT_EQ(WATCHED("an event", is_set, &v->s->ping, flow_event_wait(&v->s->ping, FLOW_FOREVER)), 0);
        v->done++;
        dawdle(&v->chance);
        EXPECT_EQ(flow_event_set(&v->s->pong), 0);
    }
    EXPECT_EQ(flow_event_wait(&v->s->ping, FLOW_NOW), -ETIMEDOUT); /* each set let one pass */
    return flow_ok(NULL);
}

static flow_result pass_gate(void *visitor)
{
    struct visitor *v = visitor;
    flow_deadline deadline = soon(&v->chance);
    int r = flow_event_wait(&v->s->gate, deadline);

    EXPECT(r == 0 || r == -ETIMEDOUT);
    if (r)
        expect_time(deadline);
    EXPECT_EQ(WATCHED("a gate", is_set, &v->s->gate, flow_event_wait(&v->s->gate, FLOW_FOREVER)), 0);
    EXPECT(atomic_load(&v->s->arrived) == 1); /* it was opened */
    note_done(0x900);
    return flow_ok(NULL);
}

static void open_gate(struct chance *c, struct shared *s)
{
    struct visitor visitors[PARTIES];
    flow_task tasks[PARTIES];

    for (int i = 0; i < PARTIES; i++) {
        visitors[i] = (struct visitor){s, chance_for(c), 0};
        start_task(c, &tasks[i], pass_gate, &visitors[i]);
    }
    dawdle(c);
    dawdle(c);
    atomic_store(&s->arrived, 1);
    EXPECT_EQ(flow_event_set(&s->gate), 0);
    for (int i = 0; i < PARTIES; i++)
        join_task(tasks[i]);
}

flow_result run_events(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct shared s = {.ping = FLOW_EVENT_AUTO_INIT,
                       .pong = FLOW_EVENT_AUTO_INIT,
                       .gate = FLOW_EVENT_INIT,
                       .rounds = 1 + (int)roll_below(&c, MOST_ROUNDS)};
    struct visitor v = {&s, chance_for(&c), 0};
    flow_task task;

    start_task(&c, &task, answer, &v);
    for (int i = 0; i < s.rounds; i++) {
        EXPECT_EQ(flow_event_set(&s.ping), 0);
        EXPECT_EQ(WATCHED("an event", is_set, &s.pong, flow_event_wait(&s.pong, FLOW_FOREVER)), 0);
        note_done(0x901);
    }
    join_task(task);
    EXPECT_EQ(v.done, (uint64_t)s.rounds);
    open_gate(&c, &s);
    return flow_ok(NULL);
}

/* ---- barrier and wait group ---- */

static flow_result meet(void *visitor)
{
    struct visitor *v = visitor;
    struct shared *s = v->s;

    for (int i = 0; i < s->rounds; i++) {
        int r;

        dawdle(&v->chance);
        atomic_fetch_add(&s->arrived, 1);
        r = flow_barrier_wait(&s->barrier, FLOW_FOREVER);
        EXPECT(r == 0 || r == 1);
        EXPECT(atomic_load(&s->arrived) >= (i + 1) * s->parties);
        atomic_fetch_add(&s->leaders, r == 1);
        note_done(0xa00 + (uint64_t)i);
    }
    EXPECT_EQ(flow_waitgroup_done(&s->group), 0);
    return flow_ok(NULL);
}

static bool group_is_done(void *group)
{
    return flow_waitgroup_count(group) == 0;
}

flow_result run_meeting(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    int n = 1 + (int)roll_below(&c, PARTIES);
    struct shared s = {.barrier = FLOW_BARRIER_INIT((uint32_t)n),
                       .group = FLOW_WAITGROUP_INIT,
                       .parties = n,
                       .rounds = 1 + (int)roll_below(&c, MOST_ROUNDS)};
    struct visitor visitors[PARTIES];
    flow_task tasks[PARTIES];
    int r;

    EXPECT_EQ(flow_waitgroup_add(&s.group, (uint32_t)n), 0);
    for (int i = 0; i < n; i++) {
        visitors[i] = (struct visitor){&s, chance_for(&c), 0};
        start_task(&c, &tasks[i], meet, &visitors[i]);
    }
    r = flow_waitgroup_wait(&s.group, soon(&c));
    EXPECT(r == 0 || r == -ETIMEDOUT);
    EXPECT_EQ(WATCHED("a wait group", group_is_done, &s.group, flow_waitgroup_wait(&s.group, FLOW_FOREVER)), 0);
    EXPECT_EQ(atomic_load(&s.arrived), n * s.rounds);
    EXPECT_EQ(atomic_load(&s.leaders), s.rounds);
    for (int i = 0; i < n; i++)
        join_task(tasks[i]);
    return flow_ok(NULL);
}

/* ---- once ---- */

struct attempt {
    struct flow_once once;
    struct chance chance;
    int tries, failures, successes; /* one call at a time is inside */
};

static int try_it(void *attempt)
{
    struct attempt *a = attempt;
    int tries = a->tries;

    dawdle(&a->chance);
    EXPECT_EQ(a->tries, tries);
    a->tries++;
    if (tries < a->failures)
        return -EBADF;
    a->successes++;
    return 0;
}

static flow_result insist(void *attempt)
{
    struct attempt *a = attempt;
    int r;

    do {
        r = flow_once_call(&a->once, try_it, a, FLOW_FOREVER);
        EXPECT(r == 0 || r == -EBADF);
        note_done(0xf80 + (uint64_t)(int64_t)r);
    } while (r == -EBADF);
    EXPECT_EQ(a->successes, 1);
    return flow_ok(NULL);
}

flow_result run_attempts(void *seed)
{
    struct chance c = {(uintptr_t)seed};
    struct attempt a = {.once = FLOW_ONCE_INIT, .chance = chance_for(&c), .failures = (int)roll_below(&c, 3)};
    flow_task tasks[PARTIES];

    for (int i = 0; i < PARTIES; i++)
        start_task(&c, &tasks[i], insist, &a);
    for (int i = 0; i < PARTIES; i++)
        join_task(tasks[i]);
    EXPECT_EQ(a.tries, a.failures + 1);
    return flow_ok(NULL);
}
