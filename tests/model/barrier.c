/* SPDX-License-Identifier: MIT
 *
 * flow_barrier. Two parties, one of which gives up at its deadline, about when the other comes, and then comes
 * for good: each passes once, and one of them is told that it was the last. Who has given up is not counted:
 * else somebody waits for ever, or passes alone. */
#include "tests/model/callers.h"

#include "core/waiter.c"
#include "core/waitgroup.c"

static struct barrier barrier;
static struct flow_barrier *const b = (struct flow_barrier *)&barrier;
static int last;

static void setup(void)
{
    model_open_callers(2);
    barrier.parties = 2;
}

static void thread(int self)
{
    int r = -ETIMEDOUT;

    if (self == 0)
        r = flow_barrier_wait(b, MODEL_SOON);
    if (r == -ETIMEDOUT)
        r = flow_barrier_wait(b, FLOW_FOREVER);
    MODEL_CHECK(r == 0 || r == 1);
    if (r == 1)
        last = last + 1;
}

static void check(void)
{
    MODEL_CHECK(last == 1);
    MODEL_CHECK(barrier.arrived == 0);
    MODEL_CHECK(barrier.queue.first == NULL && barrier.queue.last == NULL);
    MODEL_CHECK(flow__spin_is_free(&barrier.guard));
    for (int i = 0; i < 2; i++)
        model_check_idle(i);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"barrier", 2, setup, thread, check, 3, 0, 0, 2},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
