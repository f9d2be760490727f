/* SPDX-License-Identifier: MIT
 *
 * See stage.h. Whoever has the baton runs and owns all that stands here; the baton goes from thread to
 * thread under `lock`, which is held only while it does. */
#include "tests/simulation/stage.h"

#include "sync/reclaim.h"
#include "sync/syscall.h"
#include "tests/support/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MOST_ACTORS = 256, DRIFT_NS = 300 };

enum state { UNUSED, CAN_RUN, WAITS, WAITS_FOR_OTHERS };

struct actor {
    enum state state;
    pthread_cond_t turn;
    flow__atomic(uint32_t) * word; /* that it waits on */
    int64_t deadline;
    int result; /* of its wait */
    void *(*run)(void *);
    void *arg;
};

static struct {
    pthread_mutex_t lock;
    struct actor actors[MOST_ACTORS]; /* the first one is the test's own thread */
    int running;                      /* who has the baton */
    int n_actors;                     /* of the table in use */
    uint64_t random, trace;
    int64_t now;
    bool drift;
    struct stage_balance balance;
    struct stage_counts counts;
} stage = {.lock = PTHREAD_MUTEX_INITIALIZER};

static __thread int me;
static pthread_key_t last_key;
static pthread_once_t last_once = PTHREAD_ONCE_INIT;

static uint64_t chance(void)
{
    return test_random(&stage.random);
}

void stage_trace(uint64_t what)
{
    uint64_t h = stage.trace ^ (what + (uint64_t)stage.now * 0x9e3779b97f4a7c15u);

    h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
    stage.trace = h ^ h >> 29;
}

bool stage_is_exact(void)
{
    return !stage.drift;
}

/* ---- who runs ---- */

/* The nearest deadline becomes the present. False: there is none. */
static bool pass_time(void)
{
    int64_t next = INT64_MAX;

    for (int i = 0; i < stage.n_actors; i++)
        if (stage.actors[i].state == WAITS && stage.actors[i].deadline < next)
            next = stage.actors[i].deadline;
    if (next == INT64_MAX)
        return false;
    if (next > stage.now)
        stage.now = next;
    for (int i = 0; i < stage.n_actors; i++)
        if (stage.actors[i].state == WAITS && stage.actors[i].deadline <= stage.now) {
            stage.actors[i].state = CAN_RUN;
            stage.actors[i].result = -ETIMEDOUT;
            stage.counts.timeouts++;
        }
    return true;
}

/* One of those that can run, or -1. */
static int somebody(void)
{
    int n = 0, found = -1;

    for (int i = 0; i < stage.n_actors; i++)
        if (stage.actors[i].state == CAN_RUN && chance() % (uint64_t)++n == 0)
            found = i;
    return found;
}

/* The test's thread waits for all others to end: with nobody else left, it goes on. */
static int next_actor(void)
{
    int next = somebody();

    if (next < 0 && pass_time())
        next = somebody();
    if (next < 0 && stage.actors[0].state == WAITS_FOR_OTHERS) {
        stage.actors[0].state = CAN_RUN;
        next = 0;
    }
    if (next < 0) {
        fprintf(stderr, "simulation: every thread sleeps without a deadline: a wake-up was lost\n");
        flow_dump(STDERR_FILENO);
        abort();
    }
    return next;
}

static void hand_over(int next)
{
    stage.running = next;
    stage.counts.switches++;
    stage_trace(0x1000 + (uint64_t)next);
    pthread_cond_signal(&stage.actors[next].turn);
}

static void wait_for_turn(void)
{
    while (stage.running != me)
        pthread_cond_wait(&stage.actors[me].turn, &stage.lock);
}

static void let_next_run(void)
{
    int next = next_actor();

    if (next == me)
        return;
    pthread_mutex_lock(&stage.lock);
    hand_over(next);
    wait_for_turn();
    pthread_mutex_unlock(&stage.lock);
}

/* Not in a read-side section: liburcu's own waits are not played here. */
static void let_others_run_sometimes(uint64_t seldom)
{
    if (stage.n_actors > 1 && chance() % seldom == 0 && !flow__reclaim_inside())
        let_next_run();
}

/* ---- the system's calls ---- */

static int64_t play_now(void)
{
    if (stage.drift)
        stage.now += (int64_t)(chance() % DRIFT_NS);
    let_others_run_sometimes(4);
    return stage.now;
}

static int play_wait(flow__atomic(uint32_t) * word, uint32_t expected, int64_t deadline)
{
    struct actor *a = &stage.actors[me];

    stage.counts.waits++;
    stage_trace(0x2000);
    if (load_seq(word) != expected)
        return -EAGAIN;
    if (chance() % 32 == 0)
        return chance() % 2 ? -EINTR : 0; /* as the kernel may */
    if (deadline <= stage.now)
        return -ETIMEDOUT;
    a->word = word;
    a->deadline = deadline;
    a->result = 0;
    a->state = WAITS;
    let_next_run();
    return a->result;
}

static int play_wake(flow__atomic(uint32_t) * word, int n)
{
    int woken = 0;

    stage_trace(0x3000 + (uint64_t)n);
    for (int i = 0; i < stage.n_actors && woken < n; i++) {
        struct actor *a = &stage.actors[i];

        if (a->state != WAITS || a->word != word)
            continue;
        a->state = CAN_RUN;
        a->result = 0;
        woken++;
    }
    if (woken)
        let_others_run_sometimes(2);
    return woken;
}

/* Runs at the end of a thread. The first time other keys' destructors, the library's among them,
 * may be still to come: so once more. */
static void thread_ends(void *again)
{
    if (again == &stage) {
        pthread_setspecific(last_key, &last_key);
        return;
    }
    stage_trace(0x4000);
    stage.actors[me].state = UNUSED;
    pthread_mutex_lock(&stage.lock);
    hand_over(next_actor());
    pthread_mutex_unlock(&stage.lock);
}

static void make_last_key(void)
{
    pthread_key_create(&last_key, thread_ends);
}

static void *play_thread(void *actor)
{
    struct actor *a = actor;

    me = (int)(a - stage.actors);
    pthread_setspecific(last_key, &stage);
    pthread_mutex_lock(&stage.lock);
    wait_for_turn();
    pthread_mutex_unlock(&stage.lock);
    return a->run(a->arg);
}

static int play_create(pthread_t *thread, size_t stack_bytes, void *(*run)(void *), void *arg)
{
    struct actor *a = stage.actors;
    int r;

    pthread_once(&last_once, make_last_key);
    while (a < stage.actors + MOST_ACTORS && a->state != UNUSED)
        a++;
    if (a == stage.actors + MOST_ACTORS)
        return -EAGAIN;
    a->run = run;
    a->arg = arg;
    a->state = CAN_RUN;
    if (a >= stage.actors + stage.n_actors)
        stage.n_actors = (int)(a - stage.actors) + 1;
    stage.counts.threads++;
    stage_trace(0x5000);
    r = flow__sys_real.thread_create(thread, stack_bytes, play_thread, a);
    if (r)
        a->state = UNUSED;
    return r;
}

/* ---- what is taken and given back ---- */

static void *play_map(size_t bytes, int prot, int flags)
{
    void *p = flow__sys_real.map(bytes, prot, flags);

    if (p)
        stage.balance.mapped_bytes += (int64_t)bytes;
    return p;
}

static int play_unmap(void *start, size_t bytes)
{
    if (start)
        stage.balance.mapped_bytes -= (int64_t)bytes;
    return flow__sys_real.unmap(start, bytes);
}

static void *play_allocate(size_t bytes)
{
    void *p = flow__sys_real.allocate(bytes);

    stage.balance.allocations += p != NULL;
    return p;
}

static void play_release(void *p)
{
    stage.balance.allocations -= p != NULL;
    flow__sys_real.release(p);
}

struct stage_balance stage_balance(void)
{
    return stage.balance;
}

struct stage_counts stage_counts(void)
{
    return stage.counts;
}

/* ---- opening and closing ---- */

void stage_open(uint64_t seed, bool drift)
{
    stage.random = seed;
    stage.trace = 0;
    stage.drift = drift;
    stage.now = FLOW_S(1000);
    stage.n_actors = 1;
    stage.running = me = 0;
    for (int i = 0; i < MOST_ACTORS; i++)
        pthread_cond_init(&stage.actors[i].turn, NULL);
    stage.actors[0].state = CAN_RUN;
    flow__sys.now = play_now;
    flow__sys.futex_wait = play_wait;
    flow__sys.futex_wake = play_wake;
    flow__sys.thread_create = play_create;
    flow__sys.map = play_map;
    flow__sys.unmap = play_unmap;
    flow__sys.allocate = play_allocate;
    flow__sys.release = play_release;
}

uint64_t stage_close(void)
{
    stage.actors[0].state = WAITS_FOR_OTHERS;
    let_next_run();
    stage.counts.virtual_ns += stage.now - FLOW_S(1000);
    flow__sys = flow__sys_real;
    return stage.trace;
}
