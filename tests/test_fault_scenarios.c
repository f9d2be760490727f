/* SPDX-License-Identifier: MIT
 *
 * Every part of the library while the system refuses one call: a scenario is run once to count its
 * calls of each kind, and then again and again with the n-th of a kind failing, for every n, or for
 * some of them where there are many. Each time the program gets a clear error or carries on, what was
 * taken is given back (mappings, memory, descriptors, threads), and nothing hangs.
 *
 * What a scenario does it does as a program should: it looks at every error, undoes what it
 * began, and starts tasks that need each other in a scope, so that one that could not start ends the others.
 * A line for each scenario; the last one says how many faults were injected in all. */
#include "tests/support/child.h"
#include "tests/support/faults.h"
#include "tests/support/heap.h"
#include "tests/support/machine.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- what a scenario says of an error ---- */

static atomic_long n_errors;
static bool injecting; /* written while nothing runs, as the next */
static enum { ONCE, ALWAYS, BARRIER } injected_how;

static bool any_fired(void)
{
#if HEAP_COUNTED
    if (atomic_load(&heap.fired))
        return true;
#endif
    return faults_fired();
}

/* True: fine. Else it is an error that a program can understand, and there is a reason for it. */
static bool fine(int r)
{
    if (r == 0)
        return true;
    REQUIRE(injecting && any_fired());
    REQUIRE(r == -ENOMEM || r == -EAGAIN || r == -ECANCELED);
    atomic_fetch_add(&n_errors, 1);
    return false;
}

static flow_result nothing(void *arg)
{
    return flow_ok(arg);
}

static flow_result ended(int r)
{
    return r ? flow_err(r) : flow_ok(NULL);
}

/* Runs fn as a task; gives its error. */
static int in_task(flow_fn fn)
{
    flow_result result = {0};
    int r = flow_sync_wait(fn, NULL, &result, FLOW_FOREVER);

    return r ? r : result.error;
}

/* ---- spawning, from a coroutine and from a thread ---- */

enum { SPAWNS = 150 };

static flow_result yield_or_sleep(void *arg)
{
    intptr_t i = (intptr_t)arg;
    int r = i % 3 ? flow_sleep(FLOW_US(100)) : flow_yield();

    return ended(r);
}

static void spawn_all_ways(void)
{
    static const char *const names[] = {"a name", NULL, NULL};
    flow_task task[SPAWNS];
    flow_result result;
    size_t n = 0;
    int r;

    for (intptr_t i = 0; i < SPAWNS; i++) {
        struct flow_spawn_options o = FLOW_SPAWN_INIT;

        o.name = names[i % 3];
        o.stack_bytes = (size_t)(16 * 1024) << i % 7;
        o.flags = i % 11 == 0 ? FLOW_ROAM : i % 13 == 0 ? FLOW_FP_ENVIRONMENT : 0;
        if (flow_self().id && i % 5 == 0)
            r = flow_spawn_now(&task[n], yield_or_sleep, (void *)i);
        else
            r = flow_spawn_with(&task[n], &o, yield_or_sleep, (void *)i);
        n += fine(r);
    }
    r = flow_when_all(task, n, NULL, FLOW_FOREVER);
    if (r == 0 || r != -ENOMEM) { /* its own memory was not refused */
        fine(r);
        return;
    }
    for (size_t i = 0; i < n; i++)
        if (flow_join(task[i], &result, FLOW_FOREVER) == 0) /* where when_all has left any */
            fine(result.error);
}

static flow_result spawn_in_coroutine(void *arg)
{
    spawn_all_ways();
    return flow_ok(arg);
}

static void spawns(void)
{
    fine(in_task(spawn_in_coroutine));
    spawn_all_ways();
}

/* ---- 10,000 tasks that live at once ---- */

enum { TASKS = TEST_EMULATED ? 500 : TEST_ASAN ? 2000 : 10000 };

static struct flow_event open_up;
static atomic_long begun;

static flow_result wait_for_opening(void *arg)
{
    int r;

    (void)arg;
    atomic_fetch_add(&begun, 1);
    r = flow_event_wait(&open_up, FLOW_FOREVER);
    return ended(r);
}

static flow_result live_at_once(void *arg)
{
    flow_task *task = malloc(TASKS * sizeof *task);
    uint64_t refused = test_stats().total.no_stack;
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    flow_result result;
    int n = 0;

    if (!task)
        return flow_err(-ENOMEM);
    atomic_store(&begun, 0);
    flow_event_reset(&open_up);
    o.stack_bytes = 16 * 1024;
    for (int i = 0; i < TASKS; i++)
        n += fine(flow_spawn_with(&task[n], &o, wait_for_opening, arg));
    while (atomic_load(&begun) + (long)(test_stats().total.no_stack - refused) < n)
        REQUIRE_EQUAL(flow_sleep(FLOW_US(100)), 0);
    REQUIRE_EQUAL(flow_event_set(&open_up), 0);
    for (int i = 0; i < n; i++) {
        REQUIRE_EQUAL(flow_join(task[i], &result, FLOW_FOREVER), 0);
        fine(result.error);
    }
    free(task);
    return flow_ok(arg);
}

static void ten_thousand_tasks(void)
{
    fine(in_task(live_at_once));
}

/* ---- timers ---- */

enum { TIMERS = 2000 };

static flow_result sleep_as_told(void *arg)
{
    int r = flow_sleep(FLOW_US((intptr_t)arg % 700));

    return ended(r == -ECANCELED ? 0 : r);
}

static flow_result sleep_in_many(void *arg)
{
    flow_task task[TIMERS];
    flow_result result;
    int n = 0;

    for (intptr_t i = 0; i < TIMERS; i++)
        n += fine(flow_spawn(&task[n], sleep_as_told, (void *)(i * 7919)));
    for (int i = 0; i < n; i += 3)
        flow_cancel(task[i]);
    for (int i = 0; i < n; i++) {
        while (flow_join(task[i], &result, flow_after(FLOW_US(50))) == -ETIMEDOUT)
            ;
        fine(result.error == -ECANCELED ? 0 : result.error);
    }
    return flow_ok(arg);
}

static void timers(void)
{
    fine(in_task(sleep_in_many));
}

/* ---- offloading ---- */

static flow_result count_call(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
    return flow_ok_i64(11);
}

static void count_release(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

/* A call runs or says why not; what was given away is released or is ours again. */
static flow_result offload_in_lane(void *lane)
{
    atomic_int ran = 0, owned = 0;
    bool abandoned = false;
    flow_result r = flow_offload(lane, count_call, &ran, FLOW_FOREVER);

    fine(r.error);
    REQUIRE_EQUAL(atomic_load(&ran), r.error == 0);
    r = flow_offload_owned(lane, count_call, &owned, count_release, &abandoned, FLOW_FOREVER);
    fine(r.error);
    REQUIRE_EQUAL(abandoned, r.error != 0);
    REQUIRE_EQUAL(atomic_load(&owned), 1);
    return flow_ok(NULL);
}

static flow_result offload_from_many(void *arg)
{
    flow_lane *own = NULL;
    flow_task task[30];
    flow_result result;
    int n = 0;

    (void)arg;
    fine(flow_lane_create(&own, NULL));
    for (int i = 0; i < 30; i++)
        n += fine(flow_spawn(&task[n], offload_in_lane, i % 2 && own ? own : FLOW_LANE_FILE));
    for (int i = 0; i < n; i++) {
        REQUIRE_EQUAL(flow_join(task[i], &result, FLOW_FOREVER), 0);
        fine(result.error);
    }
    if (own)
        REQUIRE_EQUAL(flow_lane_destroy(own), 0);
    return flow_ok(NULL);
}

static void offload(void)
{
    fine(in_task(offload_from_many));
}

/* ---- pools ---- */

enum { BLOCKS = 3000, MOST_BLOCKS = 3 * BLOCKS };

static void use_pool(flow_pool *pool)
{
    void **block = malloc(BLOCKS * sizeof *block);
    int n = 0;

    if (!block) {
        fine(-ENOMEM);
        return;
    }
    for (int i = 0; i < BLOCKS; i++) {
        block[n] = flow_pool_alloc(pool);
        if (!block[n]) {
            fine(-ENOMEM);
            continue;
        }
        memset(block[n++], i, 100);
    }
    for (int i = 0; i < n; i++)
        REQUIRE_EQUAL(flow_pool_free(pool, block[i]), 0);
    free(block);
}

static flow_result use_pool_in_task(void *pool)
{
    use_pool(pool);
    return flow_ok(NULL);
}

/* What was refused once does not count against the pool's limit. (Without membarrier what lies in other
 * workers' stores stays there.) */
static void take_all(flow_pool *pool)
{
    void **first = NULL, **block;
    int n = 0, refused = 0;

    while (n < MOST_BLOCKS) {
        block = flow_pool_alloc(pool);
        if (block) {
            *block = first;
            first = block;
            n++;
        } else if (!fine(-ENOMEM) && (injected_how != ONCE || ++refused > 1)) {
            break;
        }
    }
    REQUIRE(n == MOST_BLOCKS || injected_how != ONCE);
    for (; first; first = block) {
        block = *first;
        REQUIRE_EQUAL(flow_pool_free(pool, first), 0);
    }
}

static void pools(void)
{
    struct flow_pool_options o = FLOW_POOL_INIT;
    flow_task task[2];
    flow_result result;
    flow_pool *pool;
    int n = 0;

    o.block_bytes = 100;
    o.expansion_factor = 1.3;
    o.max_blocks = MOST_BLOCKS;
    if (!fine(flow_pool_create(&pool, &o)))
        return;
    for (int i = 0; i < 2; i++)
        n += fine(flow_spawn(&task[n], use_pool_in_task, pool));
    use_pool(pool); /* a thread's too */
    for (int i = 0; i < n; i++) {
        int r = flow_join(task[i], &result, FLOW_FOREVER);

        fine(r ? r : result.error);
    }
    take_all(pool);
    REQUIRE(flow_pool_shrink(pool) >= 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

static atomic_long constructed;

static int construct(void *object, void *arg)
{
    void **memory = object;

    (void)arg;
    *memory = malloc(24);
    if (!*memory)
        return -ENOMEM;
    atomic_fetch_add(&constructed, 1);
    return 0;
}

static void destroy(void *object, void *arg)
{
    (void)arg;
    free(*(void **)object);
    atomic_fetch_sub(&constructed, 1);
}

static flow_result use_objects(void *pool)
{
    void *object[300];
    int n = 0;

    for (int i = 0; i < 300; i++)
        n += fine(flow_object_pool_acquire(pool, &object[n]));
    for (int i = 0; i < n; i++)
        REQUIRE_EQUAL(flow_object_pool_release(pool, object[i]), 0);
    return flow_ok(NULL);
}

static void object_pools(void)
{
    struct flow_object_pool_options o = FLOW_OBJECT_POOL_INIT;
    flow_object_pool *pool;
    flow_result result;
    int r;

    o.object_bytes = 64;
    o.warm_up = 20;
    o.construct = construct;
    o.destroy = destroy;
    atomic_store(&constructed, 0);
    if (fine(flow_object_pool_create(&pool, &o))) {
        r = flow_sync_wait(use_objects, pool, &result, FLOW_FOREVER);
        fine(r ? r : result.error);
        REQUIRE(flow_object_pool_shrink(pool) >= 0);
        REQUIRE_EQUAL(flow_object_pool_destroy(pool), 0);
    }
    REQUIRE_EQUAL(atomic_load(&constructed), 0);
}

/* ---- tasks that need each other, in a scope ---- */

/* All of them, or none: where one could not start, those that wait for it are cancelled. */
static void together(struct flow_scope *scope, flow_fn fn, void *arg)
{
    if (!fine(flow_scope_spawn(scope, NULL, fn, arg)))
        REQUIRE_EQUAL(flow_scope_cancel(scope), 0);
}

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

static void channels(void)
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

static void locks(void)
{
    fine(in_task(lock_and_wait));
}

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

static void scopes(void)
{
    fine(in_task(scopes_in_task));
}

/* ---- containers ---- */

static void containers(void)
{
    enum { ITEMS = 20000 };
    long in_queue = 0, in_stack = 0, in_ring = 0;
    flow_queue *queue = NULL;
    flow_stack *stack = NULL;
    flow_ring *ring = NULL;
    void *item;

    fine(flow_queue_create(&queue));
    fine(flow_stack_create(&stack));
    fine(flow_ring_create(&ring, 1000, 0));
    for (intptr_t i = 1; i <= ITEMS; i++) {
        in_queue += queue && fine(flow_queue_push(queue, (void *)i));
        in_stack += stack && fine(flow_stack_push(stack, (void *)i));
        in_ring += ring && flow_ring_push(ring, (void *)i) == 0;
    }
    while (queue && flow_queue_pop(queue, &item) == 0)
        in_queue--;
    while (stack && flow_stack_pop(stack, &item) == 0)
        in_stack--;
    while (ring && flow_ring_pop(ring, &item) == 0)
        in_ring--;
    REQUIRE(in_queue == 0 && in_stack == 0 && in_ring == 0);
    REQUIRE_EQUAL(queue ? flow_queue_destroy(queue) : 0, 0);
    REQUIRE_EQUAL(stack ? flow_stack_destroy(stack) : 0, 0);
    REQUIRE_EQUAL(ring ? flow_ring_destroy(ring) : 0, 0);
}

/* ---- jobs ---- */

static flow_result fib(void *arg)
{
    intptr_t n = (intptr_t)arg;
    struct flow_job job;
    flow_result left, right;

    if (n < 2)
        return flow_ok_i64(n);
    flow_fork(&job, fib, (void *)(n - 1));
    if (n == 9)
        flow_yield(); /* what is forked becomes tasks */
    right = fib((void *)(n - 2));
    left = flow_sync(&job);
    if (left.error || right.error)
        return flow_err(left.error ? left.error : right.error);
    return flow_ok_i64(left.i64 + right.i64);
}

static int add_range(int64_t begin, int64_t end, void *arg)
{
    for (int64_t i = begin; i < end; i++)
        atomic_fetch_add((atomic_long *)arg, i);
    return begin % 64 ? 0 : flow_yield();
}

static int fold_range(int64_t begin, int64_t end, void *value, void *arg)
{
    (void)arg;
    for (int64_t i = begin; i < end; i++)
        *(int64_t *)value += i;
    return 0;
}

static void add_up(void *value, const void *right, void *arg)
{
    (void)arg;
    *(int64_t *)value += *(const int64_t *)right;
}

/* A job whose task cannot start is called in sync: these have no error of their own. */
static flow_result fork_and_loop(void *arg)
{
    static const int64_t zero = 0;
    struct flow_reduction how = FLOW_REDUCTION_INIT;
    atomic_long sum = 0;
    int64_t reduced = 0;
    flow_result r = fib((void *)16);

    (void)arg;
    REQUIRE_EQUAL(r.error, 0);
    REQUIRE_EQUAL(r.i64, 987);
    REQUIRE_EQUAL(flow_parallel_for(0, 2000, 16, add_range, &sum), 0);
    REQUIRE_EQUAL(atomic_load(&sum), 1999000);
    how.bytes = sizeof zero;
    how.identity = &zero;
    how.fold = fold_range;
    how.combine = add_up;
    REQUIRE_EQUAL(flow_parallel_reduce(0, 2000, 16, &how, &reduced), 0);
    REQUIRE_EQUAL(reduced, 1999000);
    return flow_ok(NULL);
}

static void jobs(void)
{
    fine(in_task(fork_and_loop));
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
    REQUIRE(sum == 2470 || injected_how != ONCE || !flow_self().id);
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

static void broadcast_and_generators(void)
{
    take_squares(0); /* a thread consumes */
    fine(in_task(send_to_all));
}

static void memory_of_a_node(void)
{
    void *p[20] = {0};

    for (int i = 0; i < 20; i++) {
        if (fine(flow_alloc_on_node(&p[i], 10000, 0)))
            memset(p[i], i, 10000);
        else
            p[i] = NULL;
    }
    for (int i = 0; i < 20; i++)
        if (p[i])
            REQUIRE_EQUAL(flow_free_on_node(p[i], 10000), 0);
}

/* ---- what is left to flow_stop ---- */

static flow_result wait_for_ever(void *arg)
{
    struct flow_event never = FLOW_EVENT_INIT;

    if ((intptr_t)arg % 2)
        return flow_err(flow_event_wait(&never, FLOW_FOREVER));
    return flow_err(flow_sleep_until(flow_after(FLOW_S(1000))));
}

static void stop(void)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    flow_lane *lane;

    o.name = "left behind";
    for (intptr_t i = 0; i < 300; i++)
        fine(flow_spawn_with(NULL, i % 3 ? NULL : &o, wait_for_ever, (void *)i));
    fine(flow_lane_create(&lane, NULL)); /* flow_stop ends it */
}

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

static void arm(int kind, long n, bool forever)
{
    faults_arm(kind < FAULT_KINDS ? (enum fault)kind : FAULT_MAP, kind < FAULT_KINDS ? n : 0, forever);
#if HEAP_COUNTED
    heap_arm(kind == FAULT_HEAP ? n : 0, false);
#endif
    injecting = n > 0;
    injected_how = forever ? ALWAYS : kind == FAULT_BARRIER ? BARRIER : ONCE;
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
    t->injected += n > 0 && any_fired();
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
    errors = atomic_load(&n_errors);
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
