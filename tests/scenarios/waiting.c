/* SPDX-License-Identifier: MIT
 *
 * Scenarios: tasks that wait for each other, in a scope. */
#include "tests/scenarios/scenarios.h"

#include <errno.h>

/* ---- channels ---- */

struct pipes {
    struct flow_chan *numbers, *signals;
    atomic_long sum;
};

static flow_result send_numbers(void *arg)
{
    struct pipes *p = arg;
    int64_t some[4] = {1, 2, 3, 4};
    int r = 0;

    for (int64_t i = 0; i < 100 && r >= 0; i++)
        r = i % 10 ? flow_chan_send(p->numbers, &some[i % 4], FLOW_FOREVER)
                   : flow_chan_send_many(p->numbers, some, 4, FLOW_FOREVER);
    if (r >= 0)
        r = flow_chan_send(p->signals, NULL, FLOW_FOREVER);
    return ended(r < 0 ? r : 0);
}

static flow_result receive_numbers(void *arg)
{
    struct pipes *p = arg;
    int64_t number;
    int ends = 0;

    while (ends < 2) {
        struct flow_case cases[] = {flow_on_recv(p->numbers, &number),
                                    flow_on_recv(p->signals, NULL)};
        int i = flow_select(cases, 2, FLOW_FOREVER);

        if (i < 0)
            return flow_err(i);
        if (cases[i].error)
            return flow_err(cases[i].error);
        ends += i == 1;
        if (i == 0)
            atomic_fetch_add(&p->sum, number);
    }
    while (flow_chan_try_recv(p->numbers, &number) == 0)
        atomic_fetch_add(&p->sum, number);
    return flow_ok(NULL);
}

static flow_result send_and_receive(void *arg)
{
    struct pipes p = {0};
    struct flow_scope scope;
    int r;

    (void)arg;
    if (!fine(flow_chan_create(&p.numbers, sizeof(int64_t), 8)))
        return flow_ok(NULL);
    if (fine(flow_chan_create(&p.signals, 0, 0))) {
        REQUIRE_EQUAL(flow_scope_open(&scope, NULL), 0);
        together(&scope, send_numbers, &p);
        together(&scope, send_numbers, &p);
        together(&scope, receive_numbers, &p);
        r = flow_scope_close(&scope);
        if (fine(r))
            REQUIRE_EQUAL(atomic_load(&p.sum), 660);
        REQUIRE_EQUAL(flow_chan_destroy(p.signals, NULL, NULL), 0);
    }
    REQUIRE_EQUAL(flow_chan_destroy(p.numbers, NULL, NULL), 0);
    return flow_ok(NULL);
}

void channels(void)
{
    fine(in_task(send_and_receive));
}

/* ---- locks and the like ---- */

struct locks {
    struct flow_mutex mutex;
    struct flow_rwlock rwlock;
    struct flow_condition condition;
    struct flow_semaphore semaphore;
    struct flow_event event;
    struct flow_waitgroup group;
    struct flow_barrier barrier;
    struct flow_once once;
    long turn, guarded;
};

enum { PARTIES = 20, TURNS = 10 };

static int note_once(void *arg)
{
    ((struct locks *)arg)->guarded++;
    return 0;
}

/* They take turns, each time under another lock. */
static int take_turns(struct locks *l)
{
    int r = 0;

    for (int i = 0; i < TURNS && !r; i++) {
        if ((r = flow_mutex_lock(&l->mutex, FLOW_FOREVER)))
            break;
        l->turn++;
        while (!r && l->turn < (i + 1) * PARTIES)
            r = flow_condition_wait(&l->condition, &l->mutex, FLOW_FOREVER);
        flow_condition_broadcast(&l->condition);
        flow_mutex_unlock(&l->mutex);
        if (r || (r = flow_semaphore_acquire(&l->semaphore, 1, FLOW_FOREVER)))
            break;
        r = flow_yield();
        flow_semaphore_release(&l->semaphore, 1);
        if (!r && !(r = (i % 2 ? flow_rwlock_write : flow_rwlock_read)(&l->rwlock, FLOW_FOREVER)))
            flow_rwlock_unlock(&l->rwlock);
        if (!r && (r = flow_barrier_wait(&l->barrier, FLOW_FOREVER)) > 0)
            r = 0;
    }
    return r;
}

static flow_result be_party(void *arg)
{
    struct locks *l = arg;
    int r = flow_once_call(&l->once, note_once, l, FLOW_FOREVER);

    if (!r)
        r = take_turns(l);
    flow_waitgroup_done(&l->group);
    if (!r)
        r = flow_event_wait(&l->event, FLOW_FOREVER);
    return ended(r);
}

static flow_result lock_and_wait(void *arg)
{
    struct locks l = {.mutex = FLOW_MUTEX_INIT,
                      .rwlock = FLOW_RWLOCK_INIT,
                      .condition = FLOW_CONDITION_INIT,
                      .semaphore = FLOW_SEMAPHORE_INIT(2),
                      .event = FLOW_EVENT_INIT,
                      .group = FLOW_WAITGROUP_INIT,
                      .barrier = FLOW_BARRIER_INIT(PARTIES),
                      .once = FLOW_ONCE_INIT};
    struct flow_scope scope;

    (void)arg;
    REQUIRE_EQUAL(flow_waitgroup_add(&l.group, PARTIES), 0);
    REQUIRE_EQUAL(flow_scope_open(&scope, NULL), 0);
    for (int i = 0; i < PARTIES; i++)
        together(&scope, be_party, &l);
    if (flow_waitgroup_wait(&l.group, flow_after(FLOW_MS(1))) == 0)
        REQUIRE_EQUAL(flow_event_set(&l.event), 0);
    else
        flow_event_set(&l.event);
    if (fine(flow_scope_close(&scope))) {
        REQUIRE_EQUAL(l.guarded, 1);
        REQUIRE_EQUAL(l.turn, PARTIES * TURNS);
    }
    return flow_ok(NULL);
}

void locks(void)
{
    fine(in_task(lock_and_wait));
}

/* ---- scopes ---- */

static flow_result nest_scopes(void *arg)
{
    intptr_t depth = (intptr_t)arg;
    struct flow_scope scope;
    flow_task own;

    if (depth == 0)
        return yield_or_sleep(NULL);
    REQUIRE_EQUAL(flow_scope_open(&scope, NULL), 0);
    for (int i = 0; i < 3; i++)
        together(&scope, nest_scopes, (void *)(depth - 1));
    if (fine(flow_spawn(&own, nothing, NULL)))
        if (!fine(flow_scope_add(&scope, own)))
            flow_join(own, NULL, FLOW_FOREVER);
    return ended(flow_scope_close(&scope));
}

static flow_result scopes_in_task(void *arg)
{
    (void)arg;
    return nest_scopes((void *)4);
}

void scopes(void)
{
    fine(in_task(scopes_in_task));
}

/* ---- broadcast and generators ---- */

static int give_squares(struct flow_generator *g, void *arg)
{
    int r = 0;

    (void)arg;
    for (int64_t i = 0; i < 20 && !r; i++) {
        int64_t square = i * i;

        r = flow_generator_yield(g, &square);
    }
    return r;
}

/* While `more` others are begun: each needs a stack. */
static void take_squares(int more)
{
    struct flow_generator *g;
    int64_t value, sum = 0;
    int r, tries = 0;

    if (!fine(flow_generator_create(&g, sizeof value, give_squares, NULL)))
        return;
    do { /* that it could not start at once does not end it; a thread's has been queued by then */
        while ((r = flow_generator_next(g, &value, FLOW_FOREVER)) == 0) {
            sum += value;
            if (value == 1 && more > 0)
                take_squares(more - 1);
        }
    } while (r != -EPIPE && !fine(r) && ++tries < 3);
    REQUIRE(sum == 2470 || scenario_faults.how != ONCE || !flow_self().id);
    REQUIRE_EQUAL(flow_generator_close(g), 0);
}

static flow_result listen_to_all(void *arg)
{
    struct flow_listener listener;
    int64_t value, sum = 0;
    int r;

    flow_broadcast_listen(arg, &listener);
    while ((r = flow_listener_recv(&listener, &value, NULL, FLOW_FOREVER)) == 0)
        sum += value;
    return r == -EPIPE ? flow_ok_i64(sum) : flow_err(r);
}

static flow_result send_to_all(void *arg)
{
    struct flow_broadcast *b;
    struct flow_scope scope;

    (void)arg;
    take_squares(12);
    if (!fine(flow_broadcast_create(&b, sizeof(int64_t), 16)))
        return flow_ok(NULL);
    REQUIRE_EQUAL(flow_scope_open(&scope, NULL), 0);
    for (int i = 0; i < 3; i++)
        together(&scope, listen_to_all, b);
    for (int64_t i = 0; i < 30; i++) {
        REQUIRE_EQUAL(flow_broadcast_send(b, &i), 0);
        flow_yield();
    }
    REQUIRE_EQUAL(flow_broadcast_close(b), 0);
    fine(flow_scope_close(&scope));
    REQUIRE_EQUAL(flow_broadcast_destroy(b), 0);
    return flow_ok(NULL);
}

void broadcast_and_generators(void)
{
    take_squares(0); /* a thread consumes */
    fine(in_task(send_to_all));
}
