/* SPDX-License-Identifier: MIT
 *
 * The public end of a worker's jobs: the owner pushes, takes back and pushes another (the same top and
 * count: only the version differs), beside thieves that steal twice. */
#define FLOW__JOB_DEQUE_SIZE 2u
#include "sync/job_deque.h"

#include "tests/model/explorer.h"

static struct flow__job_deque deque;
static bool pushed[8];

static void push(int number)
{
    pushed[number] = flow__job_deque_push(&deque, model_item(number));
}

static void take(void *entry)
{
    if (entry)
        model_taken(entry);
}

static void setup(void)
{
    deque = (struct flow__job_deque){.word = (uint64_t)0xffff << 8}; /* top wraps */
    push(1);
}

static void thread(int self)
{
    if (self > 0) {
        take(flow__job_deque_steal(&deque));
        take(flow__job_deque_steal(&deque));
        return;
    }
    take(flow__job_deque_take_newest(&deque));
    push(2);
    push(3);
    take(flow__job_deque_take_newest(&deque));
    push(4);
    push(5);
}

static void check(void)
{
    void *entry;

    while ((entry = flow__job_deque_take_newest(&deque)))
        model_taken(entry);
    MODEL_CHECK(flow__job_deque_count(&deque) == 0);
    for (int i = 1; i <= 5; i++)
        if (pushed[i])
            model_all_taken_once(i, 1);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"job_deque", 2, setup, thread, check, MODEL_ANY, MODEL_ANY, 0, 3},
        {"job_deque_two_thieves", 3, setup, thread, check, MODEL_ANY, MODEL_ANY, 0, 1},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
