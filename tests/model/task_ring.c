/* SPDX-License-Identifier: MIT
 *
 * The ring of tasks, small enough to be full: one owner, two thieves that steal twice (with one
 * steal each the search misses faults). Every entry comes out once; head and tail wrap. */
#define FLOW__RING_SIZE 4u
#include "sync/task_ring.h"

#include "tests/model/explorer.h"

static struct flow__task_ring ring;
static bool pushed[8];

static void push(int number)
{
    pushed[number] = flow__ring_push(&ring, model_item(number));
}

static void setup(void)
{
    ring = (struct flow__task_ring){.head = UINT32_MAX - 2, .tail = UINT32_MAX - 2};
    for (int i = 1; i <= 3; i++)
        push(i);
}

static void owner(void)
{
    void *entry;

    push(4);
    push(5);
    if ((entry = flow__ring_pop(&ring)))
        model_taken(entry);
    push(6);
    if ((entry = flow__ring_pop(&ring)))
        model_taken(entry);
}

static void thief(void)
{
    for (int i = 0; i < 2; i++) {
        void *out[2];
        uint32_t n = flow__ring_steal(&ring, out, 2);

        for (uint32_t k = 0; k < n; k++)
            model_taken(out[k]);
    }
}

static void thread(int self)
{
    self == 0 ? owner() : thief();
}

static void check(void)
{
    void *entry;

    MODEL_CHECK(flow__ring_count(&ring) <= FLOW__RING_SIZE);
    while ((entry = flow__ring_pop(&ring)))
        model_taken(entry);
    for (int i = 1; i <= 6; i++)
        if (pushed[i])
            model_all_taken_once(i, 1);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"task_ring", 2, setup, thread, check, MODEL_ANY, MODEL_ANY, 0, 2},
        {"task_ring_two_thieves", 3, setup, thread, check, 4, 2, 0, 1},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
