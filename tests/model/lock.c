/* SPDX-License-Identifier: MIT
 *
 * The two locks, three threads each: what they guard is never seen half-done, and nobody sleeps for
 * ever. */
#include "sync/lock.h"

#include <sched.h>
#define sched_yield() model_pause()
#include "sync/spin.c"
#include "tests/model/explorer.h"

static struct flow__lock lock;
static struct flow__spin spin;
static flow__atomic(int) inside;
static flow__plain(int) total;

static void setup(void)
{
    lock.word = 0;
    spin.held = 0;
    inside = 0;
    total = 0;
}

static void guarded(void)
{
    MODEL_CHECK(load_relaxed(&inside) == 0);
    store_relaxed(&inside, 1);
    total = total + 1;
    store_relaxed(&inside, 0);
}

static void thread_lock(int self)
{
    (void)self;
    flow__lock(&lock);
    guarded();
    flow__unlock(&lock);
}

static void thread_spin(int self)
{
    (void)self;
    flow__spin_lock(&spin);
    guarded();
    flow__spin_unlock(&spin);
}

static void check(void)
{
    MODEL_CHECK(lock.word == 0);
    MODEL_CHECK(flow__spin_is_free(&spin));
}

static void check_three(void)
{
    check();
    MODEL_CHECK(total == 3);
}

static void check_two(void)
{
    check();
    MODEL_CHECK(total == 2);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"lock", 2, setup, thread_lock, check_two, MODEL_ANY, MODEL_ANY, MODEL_ANY, 2},
        {"lock_three", 3, setup, thread_lock, check_three, MODEL_ANY, MODEL_ANY, 0, 1},
        {"spin", 2, setup, thread_spin, check_two, MODEL_ANY, MODEL_ANY, 0, 2},
        {"spin_three", 3, setup, thread_spin, check_three, MODEL_ANY, MODEL_ANY, 0, 0},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
