/* SPDX-License-Identifier: MIT
 *
 * flow_mutex. Nobody waits for ever (that would be a deadlock here), what it guards is never seen
 * half-done, and in the end it is free and nobody is in its queue.
 *
 * mutex: an owner comes back twice, beside two others. mutex_cancel: one waits with a deadline and is
 * cancelled, beside an owner and one that comes later: what it was given is passed on, or it is the
 * owner. mutex_dead: a task ends with the mutex while two wait; it is handed over, and the next one is told. */
#include "tests/model/callers.h"

#include "core/waiter.c"
#include "core/mutex.c"
#include "core/join.c"

static struct flow__mutex mutex;
static struct flow_mutex *const m = (struct flow_mutex *)&mutex;
static struct flow__task *a;
static flow__atomic(int) inside;
static int guarded, handed_dead;

static void setup(void)
{
    model_open_callers(3);
    a = &blocks[1];
}

static void guard(void)
{
    MODEL_CHECK(load_relaxed(&inside) == 0);
    store_relaxed(&inside, 1);
    guarded = guarded + 1;
    store_relaxed(&inside, 0);
}

static int lock(flow_deadline deadline)
{
    int r = flow_mutex_lock(m, deadline);

    if (r == 0 || r == -EOWNERDEAD) {
        guard();
        handed_dead += r == -EOWNERDEAD;
    }
    return r;
}

static void unlock(void)
{
    MODEL_CHECK(flow_mutex_unlock(m) == 0);
}

static void lock_and_unlock(void)
{
    MODEL_CHECK(lock(FLOW_FOREVER) == 0);
    unlock();
}

static void check_free(void)
{
    MODEL_CHECK(mutex.word == 0);
    MODEL_CHECK(mutex.queue.first == NULL && mutex.queue.last == NULL);
    MODEL_CHECK(flow__spin_is_free(&mutex.guard));
    for (int i = 0; i < 3; i++)
        model_check_idle(i);
}

/* ---- mutex ---- */

static void thread(int self)
{
    int times = self == 0 ? 3 : 1;

    for (int i = 0; i < times; i++)
        lock_and_unlock();
}

static void check(void)
{
    check_free();
    MODEL_CHECK(guarded == 5);
}

/* ---- mutex_cancel ---- */

static void thread_cancel(int self)
{
    if (self == 1) {
        int r = lock(MODEL_SOON);

        MODEL_CHECK(r == 0 || r == -ECANCELED || r == -ETIMEDOUT);
        if (r == 0)
            unlock();
        return;
    }
    lock_and_unlock();
    if (self == 2)
        flow__cancel_block(&workers[2], a, FLOW_CANCEL_ASKED);
}

/* ---- mutex_dead ---- */

static void thread_dead(int self)
{
    if (self == 0) {
        int r = lock(FLOW_FOREVER);

        MODEL_CHECK(r == 0);
        blocks[0].stack = (char *)((uintptr_t)1 << 60); /* the mutex does not lie there */
        flow__mutex_orphan(&workers[0], &blocks[0], model_tops[0].held);
    } else {
        int r = lock(FLOW_FOREVER);

        MODEL_CHECK(r == 0 || r == -EOWNERDEAD);
        unlock();
    }
}

static void check_dead(void)
{
    MODEL_CHECK(guarded == 3);
    MODEL_CHECK(handed_dead + (mutex.word == FLOW__MUTEX_DEAD) == 1);
    mutex.word = 0;
    check_free();
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"mutex", 3, setup, thread, check, 2, 0, 0, 1},
        {"mutex_cancel", 3, setup, thread_cancel, check_free, 2, 0, 0, 1},
        {"mutex_dead", 3, setup, thread_dead, check_dead, 2, 0, 0, 1},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
