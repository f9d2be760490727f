/* SPDX-License-Identifier: MIT
 *
 * Semaphores, events, rwlocks, wait groups and barriers against sequential models, with random operations.
 * Runs with FLOW_TEST_WORKERS = 1, 2, 4. */
#include "tests/support/test.h"

#include <errno.h>
#include <stdatomic.h>

#define GENEROUS flow_after(FLOW_S(60))

static atomic_ulong seed;

static uint64_t new_seed(void)
{
    uint64_t s = atomic_fetch_add(&seed, 0x1234567);

    return test_random(&s);
}

/* ---- against a model: one coroutine does random things to one primitive, and after each lets all
 * others run until nobody can go on. They were started by flow_spawn_now, so all is on one worker
 * and the model knows who must have gone on, in which order. ---- */

enum { WAITING = 1, PASSED = 2, GONE = 3, LEFT = 4 };

struct party {
    flow_task task;
    int kind;  /* what it waits for: units, ... */
    int state; /* in the model */
    int gives; /* what its wait returns */
    atomic_int result;
    atomic_bool returned;
    struct flow_event leave; /* of one that holds something */
};

enum { PARTIES = 64, FEW_MORE = 8 }; /* a few more to let the last ones go on */

struct table {
    struct party party[PARTIES + FEW_MORE];
    int n; /* parties ever: those below wait in the order of their numbers */
    atomic_int returned[PARTIES + FEW_MORE], n_returned;
    int n_seen;
    int (*wait)(struct party *party);  /* the primitive's own */
    int (*leave)(struct party *party); /* to be called later, or NULL */
};

static struct table table;

static flow_result be_party(void *arg)
{
    struct party *party = arg;

    party->result = table.wait(party);
    party->returned = true;
    table.returned[table.n_returned++] = (int)(party - table.party);
    if (table.leave && party->result == 0) {
        EXPECT_EQ(flow_event_wait(&party->leave, FLOW_FOREVER), 0);
        EXPECT_EQ(table.leave(party), 0);
    }
    return flow_ok(NULL);
}

static void join_parties(void)
{
    for (int i = 0; i < table.n; i++)
        EXPECT_EQ(flow_join(table.party[i].task, NULL, GENEROUS), 0);
    table.n = table.n_seen = 0;
    table.n_returned = 0;
}

static struct party *new_party(int kind)
{
    struct party *party = &table.party[table.n++];

    *party = (struct party){.kind = kind, .state = WAITING};
    EXPECT_EQ(flow_spawn_now(&party->task, be_party, party), 0);
    return party;
}

static struct party *waiting_party(uint64_t random)
{
    for (int i = 0; i < table.n; i++) {
        struct party *party = &table.party[(i + (int)(random % PARTIES)) % table.n];

        if (party->state == WAITING)
            return party;
    }
    return NULL;
}

/* Those that the model has let pass have returned, in the order in which it did, and nobody
 * else has. `passed` lists them. */
static void compare(const int *passed, int n)
{
    for (int i = 0; i < 4; i++)
        EXPECT_EQ(flow_yield(), 0);
    EXPECT_EQ(table.n_returned - table.n_seen, n);
    for (int i = 0; i < n && table.n_seen + i < table.n_returned; i++) {
        EXPECT_EQ(table.returned[table.n_seen + i], passed[i]);
        EXPECT_EQ(table.party[passed[i]].result,
                  table.party[passed[i]].state == GONE ? -ECANCELED : table.party[passed[i]].gives);
    }
    table.n_seen = table.n_returned;
}

/* ---- semaphore ---- */

static struct flow_semaphore semaphore;

static int acquire(struct party *party)
{
    return flow_semaphore_acquire(&semaphore, (uint32_t)party->kind, FLOW_FOREVER);
}

static int let_pass(uint32_t *units, int *passed, int n)
{
    for (int i = 0; i < table.n; i++) {
        struct party *party = &table.party[i];

        if (party->state != WAITING)
            continue;
        if ((uint32_t)party->kind > *units)
            break;
        *units -= (uint32_t)party->kind;
        party->state = PASSED;
        passed[n++] = i;
    }
    return n;
}

static flow_result model_semaphore(void *arg)
{
    int rounds = TEST_ROUNDS(30000, 3000), passed[PARTIES];
    uint64_t random = new_seed();
    uint32_t units = 3;

    (void)arg;
    semaphore = (struct flow_semaphore)FLOW_SEMAPHORE_INIT(3);
    table = (struct table){.wait = acquire};
    for (int i = 0; i < rounds; i++) {
        uint64_t r = test_random(&random);
        struct party *party;
        int n = 0, want = 1 + (int)(r >> 32 & 3);
        bool any = waiting_party(0) != NULL;

        switch (r % 5) {
        case 0:
        case 1:
            if (table.n < PARTIES) {
                new_party(want);
                n = let_pass(&units, passed, 0);
            }
            break;
        case 2:
            if (units + (uint32_t)want < 12) {
                EXPECT_EQ(flow_semaphore_release(&semaphore, (uint32_t)want), 0);
                units += (uint32_t)want;
                n = let_pass(&units, passed, 0);
            }
            break;
        case 3:
            party = waiting_party(r >> 40);
            if (party) {
                EXPECT_EQ(flow_cancel(party->task), 0);
                party->state = GONE;
                passed[n++] = (int)(party - table.party);
                n = let_pass(&units, passed, n);
            }
            break;
        default:
            EXPECT_EQ(flow_semaphore_acquire(&semaphore, (uint32_t)want, FLOW_NOW),
                      !any && units >= (uint32_t)want ? 0 : -ETIMEDOUT);
            if (!any && units >= (uint32_t)want)
                units -= (uint32_t)want;
        }
        compare(passed, n);
        EXPECT_EQ(flow_semaphore_value(&semaphore), units);
        if (table.n == PARTIES && !waiting_party(0))
            join_parties();
        else if (table.n == PARTIES && r % 3 == 0)
            while ((party = waiting_party(0))) {
                passed[0] = (int)(party - table.party);
                EXPECT_EQ(flow_cancel(party->task), 0);
                party->state = GONE;
                compare(passed, let_pass(&units, passed, 1));
            }
    }
    while (waiting_party(0)) {
        EXPECT_EQ(flow_semaphore_release(&semaphore, 1), 0);
        units++;
        compare(passed, let_pass(&units, passed, 0));
    }
    join_parties();
    EXPECT_EQ(semaphore.word, (uint64_t)units << 1);
    EXPECT(!semaphore.queue[0] && !semaphore.queue[1]);
    return flow_ok(NULL);
}

static void test_semaphore_model(void **state)
{
    (void)state;
    atomic_store(&seed, test_seed());
    test_in_coroutine(model_semaphore);
}

/* ---- events ---- */

static struct flow_event event;

static int await_event(struct party *party)
{
    (void)party;
    return flow_event_wait(&event, FLOW_FOREVER);
}

static int pass_event(bool *set, bool automatic, int *passed, int n)
{
    for (int i = 0; i < table.n && *set; i++) {
        if (table.party[i].state != WAITING)
            continue;
        table.party[i].state = PASSED;
        passed[n++] = i;
        *set = !automatic;
    }
    return n;
}

static void event_round(uint64_t r, bool automatic, bool *set)
{
    int passed[PARTIES], n = 0;
    struct party *party = waiting_party(r >> 32);

    if (table.n == PARTIES) {
        if (!party)
            join_parties();
        r = party ? 1 + r % 2 : 0;
    }
    switch (r % 5) {
    case 0:
        new_party(0);
        n = pass_event(set, automatic, passed, 0);
        break;
    case 1:
        if (party) {
            EXPECT_EQ(flow_cancel(party->task), 0);
            party->state = GONE;
            passed[n++] = (int)(party - table.party);
        }
        break;
    case 2:
        EXPECT_EQ(flow_event_set(&event), 0);
        *set = true;
        n = pass_event(set, automatic, passed, 0);
        break;
    case 3:
        flow_event_reset(&event);
        *set = false;
        break;
    default:
        EXPECT_EQ(flow_event_wait(&event, FLOW_NOW), *set ? 0 : -ETIMEDOUT);
        *set = *set && !automatic;
    }
    compare(passed, n);
    EXPECT_EQ(flow_event_is_set(&event), *set);
}

static flow_result model_event(void *arg)
{
    int rounds = TEST_ROUNDS(30000, 3000);
    bool automatic = arg != NULL, set = false;
    uint64_t random = new_seed();

    event =
        automatic ? (struct flow_event)FLOW_EVENT_AUTO_INIT : (struct flow_event)FLOW_EVENT_INIT;
    table = (struct table){.wait = await_event};
    for (int i = 0; i < rounds; i++)
        event_round(test_random(&random), automatic, &set);
    while (waiting_party(0))
        event_round(2, automatic, &set);
    join_parties();
    EXPECT(!event.queue[0] && !event.queue[1]);
    return flow_ok(NULL);
}

static void test_event_model(void **state)
{
    (void)state;
    atomic_store(&seed, test_seed());
    test_start();
    assert_int_equal(flow_sync_wait(model_event, NULL, NULL, FLOW_FOREVER), 0);
    assert_int_equal(flow_sync_wait(model_event, &event, NULL, FLOW_FOREVER), 0);
    assert_true(test_wait_until_empty());
    test_stop();
}

/* ---- rwlock ---- */

static struct flow_rwlock rwlock;

static int lock_for(struct party *party)
{
    return party->kind ? flow_rwlock_write(&rwlock, FLOW_FOREVER)
                       : flow_rwlock_read(&rwlock, FLOW_FOREVER);
}

static int unlock_for(struct party *party)
{
    (void)party;
    return flow_rwlock_unlock(&rwlock);
}

struct rw_model {
    int readers, writer;
};

static int waiting_of(int kind)
{
    int n = 0;

    for (int i = 0; i < table.n; i++)
        n += table.party[i].state == WAITING && table.party[i].kind == kind;
    return n;
}

static int admit(struct rw_model *m, int kind, int most, int *passed, int n)
{
    for (int i = 0; i < table.n && most > 0; i++) {
        if (table.party[i].state != WAITING || table.party[i].kind != kind)
            continue;
        table.party[i].state = PASSED;
        passed[n++] = i;
        most--;
        *(kind ? &m->writer : &m->readers) += 1;
    }
    return n;
}

/* The rule: after a writer the readers that wait; else a writer, when nobody is inside; readers
 * while no writer waits. */
static int advance(struct rw_model *m, bool after_writer, int *passed, int n)
{
    if (m->writer)
        return n;
    if (after_writer || waiting_of(1) == 0)
        n = admit(m, 0, PARTIES, passed, n);
    return m->readers ? n : admit(m, 1, 1, passed, n);
}

static struct party *holding_party(uint64_t random)
{
    for (int i = 0; i < table.n; i++) {
        struct party *party = &table.party[(i + (int)(random % PARTIES)) % table.n];

        if (party->state == PASSED)
            return party;
    }
    return NULL;
}

static int let_leave(struct rw_model *m, struct party *party, int *passed)
{
    bool wrote = party->kind;

    EXPECT_EQ(flow_event_set(&party->leave), 0);
    party->state = LEFT;
    *(wrote ? &m->writer : &m->readers) -= 1;
    return advance(m, wrote, passed, 0);
}

static void rw_round(struct rw_model *m, uint64_t r)
{
    struct party *waiting = waiting_party(r >> 32), *holding = holding_party(r >> 40);
    int passed[PARTIES], n = 0, kind = (int)(r >> 16 & 3) == 0;
    bool idle = !waiting;

    if (table.n == PARTIES) {
        if (!waiting && !holding)
            join_parties();
        r = waiting && r % 2 ? 1 : holding ? 2 : 0;
    }
    switch (r % 4) {
    case 0:
        new_party(kind);
        if (idle && !m->writer && !(kind && m->readers))
            n = admit(m, kind, 1, passed, 0);
        break;
    case 1:
        if (waiting) {
            EXPECT_EQ(flow_cancel(waiting->task), 0);
            waiting->state = GONE;
            passed[n++] = (int)(waiting - table.party);
            n = advance(m, false, passed, n);
        }
        break;
    case 2:
        if (holding)
            n = let_leave(m, holding, passed);
        break;
    default: /* what cannot be had at once leaves no trace */
        if (idle && !m->writer && !(kind && m->readers)) {
            EXPECT_EQ((kind ? flow_rwlock_write : flow_rwlock_read)(&rwlock, FLOW_NOW), 0);
            EXPECT_EQ(flow_rwlock_unlock(&rwlock), 0);
        } else {
            EXPECT_EQ((kind ? flow_rwlock_write : flow_rwlock_read)(&rwlock, FLOW_NOW), -ETIMEDOUT);
        }
    }
    compare(passed, n);
    EXPECT_EQ(__atomic_load_n(&rwlock.word, __ATOMIC_RELAXED) >> 2, m->readers);
    EXPECT_EQ(__atomic_load_n(&rwlock.word, __ATOMIC_RELAXED) & 1, m->writer);
}

static flow_result model_rwlock(void *arg)
{
    int rounds = TEST_ROUNDS(30000, 3000), passed[PARTIES];
    struct rw_model m = {0, 0};
    uint64_t random = new_seed();
    struct party *party;

    (void)arg;
    table = (struct table){.wait = lock_for, .leave = unlock_for};
    for (int i = 0; i < rounds; i++)
        rw_round(&m, test_random(&random));
    while ((party = holding_party(0)))
        compare(passed, let_leave(&m, party, passed));
    EXPECT(!waiting_party(0));
    join_parties();
    EXPECT_EQ(rwlock.word, 0);
    for (int i = 0; i < 4; i++)
        EXPECT(!rwlock.queues[i]);
    return flow_ok(NULL);
}

static void test_rwlock_model(void **state)
{
    (void)state;
    atomic_store(&seed, test_seed());
    test_in_coroutine(model_rwlock);
}

/* ---- wait group ---- */

static struct flow_waitgroup group;

static int await_group(struct party *party)
{
    (void)party;
    return flow_waitgroup_wait(&group, FLOW_FOREVER);
}

static int pass_all(int *passed, int n)
{
    for (int i = 0; i < table.n; i++)
        if (table.party[i].state == WAITING) {
            table.party[i].state = PASSED;
            passed[n++] = i;
        }
    return n;
}

static flow_result model_waitgroup(void *arg)
{
    int rounds = TEST_ROUNDS(20000, 2000), passed[PARTIES];
    uint64_t random = new_seed();
    uint32_t count = 0;

    (void)arg;
    table = (struct table){.wait = await_group};
    for (int i = 0; i < rounds; i++) {
        uint64_t r = test_random(&random);
        struct party *party = waiting_party(r >> 32);
        int n = 0;

        if (table.n == PARTIES) {
            if (!party)
                join_parties();
            r = party ? r | 3 : r;
        }
        switch (r % 4) {
        case 0:
            new_party(0);
            n = count == 0 ? pass_all(passed, 0) : 0;
            break;
        case 1:
            if (party) {
                EXPECT_EQ(flow_cancel(party->task), 0);
                party->state = GONE;
                passed[n++] = (int)(party - table.party);
            }
            break;
        case 2:
            if (count < 6) {
                EXPECT_EQ(flow_waitgroup_add(&group, 1 + (r >> 60) % 3), 0);
                count += 1 + (r >> 60) % 3;
            }
            break;
        default:
            EXPECT_EQ(flow_waitgroup_done(&group), count ? 0 : -EINVAL);
            if (count && --count == 0)
                n = pass_all(passed, 0);
        }
        compare(passed, n);
        EXPECT_EQ(flow_waitgroup_count(&group), count);
        EXPECT_EQ(flow_waitgroup_wait(&group, FLOW_NOW), count ? -ETIMEDOUT : 0);
    }
    for (; count; count--)
        EXPECT_EQ(flow_waitgroup_done(&group), 0);
    compare(passed, pass_all(passed, 0));
    join_parties();
    EXPECT_EQ(group.word, 0);
    EXPECT_EQ(flow_waitgroup_add(&group, UINT32_MAX), 0);
    EXPECT_EQ(flow_waitgroup_add(&group, 1), -EOVERFLOW);
    EXPECT_EQ(flow_waitgroup_count(&group), UINT32_MAX);
    group = (struct flow_waitgroup)FLOW_WAITGROUP_INIT;
    return flow_ok(NULL);
}

static void test_waitgroup_model(void **state)
{
    (void)state;
    atomic_store(&seed, test_seed());
    test_in_coroutine(model_waitgroup);
}

/* ---- barrier ---- */

enum { BARRIER_OF = 5 };

static struct flow_barrier barrier;

static int await_barrier(struct party *party)
{
    (void)party;
    return flow_barrier_wait(&barrier, FLOW_FOREVER);
}

static flow_result model_barrier(void *arg)
{
    int rounds = TEST_ROUNDS(20000, 2000), passed[PARTIES], inside = 0;
    uint64_t random = new_seed();

    (void)arg;
    barrier = (struct flow_barrier)FLOW_BARRIER_INIT(BARRIER_OF);
    table = (struct table){.wait = await_barrier};
    for (int i = 0; i < rounds; i++) {
        uint64_t r = test_random(&random);
        struct party *party = waiting_party(r >> 32);
        int n = 0;

        if (table.n == PARTIES) {
            if (!party)
                join_parties();
            r = party ? 0 : 1;
        }
        if (r % 4 == 0 && party) {
            EXPECT_EQ(flow_cancel(party->task), 0);
            party->state = GONE;
            passed[n++] = (int)(party - table.party);
            inside--;
        } else if (r % 4 == 2) {
            EXPECT_EQ(flow_barrier_wait(&barrier, FLOW_NOW),
                      inside + 1 == BARRIER_OF ? 1 : -ETIMEDOUT);
            if (inside + 1 == BARRIER_OF) {
                n = pass_all(passed, 0);
                inside = 0;
            }
        } else if (table.n < PARTIES) {
            if (++inside == BARRIER_OF) /* the last one does not wait */
                passed[n++] = table.n;
            party = new_party(0);
            if (inside == BARRIER_OF) {
                party->gives = 1;
                party->state = PASSED;
                n = pass_all(passed, n);
                inside = 0;
            }
        }
        compare(passed, n);
        EXPECT_EQ(barrier.arrived, inside);
    }
    while (waiting_party(0)) {
        while (inside + 1 < BARRIER_OF) {
            new_party(0);
            inside++;
        }
        EXPECT_EQ(flow_barrier_wait(&barrier, FLOW_NOW), 1);
        inside = 0;
        compare(passed, pass_all(passed, 0));
    }
    join_parties();
    EXPECT(!barrier.queue[0]);
    return flow_ok(NULL);
}

static void test_barrier_model(void **state)
{
    (void)state;
    atomic_store(&seed, test_seed());
    test_in_coroutine(model_barrier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_semaphore_model),
        TEST(test_event_model),
        TEST(test_rwlock_model),
        TEST(test_waitgroup_model),
        TEST(test_barrier_model),
    };

    return cmocka_run_group_tests_name("lock_models", tests, NULL, NULL);
}
