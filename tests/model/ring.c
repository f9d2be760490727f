/* SPDX-License-Identifier: MIT
 *
 * flow_ring with two cells: for many, item by item and in batches, and for one and one. Each item that
 * was let in comes out once, and those of one producer in their order. */
#include "sync/ring.c"

#include "tests/model/explorer.h"

static flow_ring *ring;
static bool in[16];

static void begin(unsigned flags)
{
    MODEL_CHECK(flow_ring_create(&ring, 2, flags) == 0);
    for (int i = 0; i < 16; i++)
        in[i] = false;
}

static void setup_many(void)
{
    begin(FLOW_RING_MPMC);
}

static void setup_single(void)
{
    begin(FLOW_RING_SPSC);
}

static void push(int number)
{
    in[number] = flow_ring_push(ring, model_item(number)) == 0;
}

static void push_batch(int number)
{
    void *items[] = {model_item(number), model_item(number + 1)};
    size_t n = flow_ring_push_n(ring, items, 2);

    for (size_t i = 0; i < n; i++)
        in[(size_t)number + i] = true;
}

/* Items 8 and above are another producer's. */
static void out(void *item, int *last)
{
    int number = (int)(intptr_t)item;

    model_taken(item);
    MODEL_CHECK(number > last[number >= 8]);
    last[number >= 8] = number;
}

static void pop(int *last)
{
    void *item;

    if (flow_ring_pop(ring, &item) == 0)
        out(item, last);
}

static void thread_items(int self)
{
    int last[2] = {0};

    if (self == 0) {
        for (int i = 1; i <= 3; i++)
            push(i);
    } else if (self == 1) {
        for (int i = 0; i < 3; i++)
            pop(last);
    } else {
        push(8);
        pop(last);
    }
}

static void thread_batches(int self)
{
    int last[2] = {0};

    if (self == 0) {
        push_batch(1);
        push_batch(3);
        return;
    }
    for (int i = 0; i < 2; i++) {
        void *items[2];
        size_t n = flow_ring_pop_n(ring, items, 2);

        for (size_t k = 0; k < n; k++)
            out(items[k], last);
    }
}

static void check(void)
{
    void *item;

    MODEL_CHECK(flow_ring_count(ring) <= 2);
    while (flow_ring_pop(ring, &item) == 0)
        model_taken(item);
    for (int i = 1; i < 16; i++)
        if (in[i])
            model_all_taken_once(i, 1);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"ring", 2, setup_many, thread_items, check, MODEL_ANY, MODEL_ANY, 0, 2},
        {"ring_three", 3, setup_many, thread_items, check, MODEL_ANY, MODEL_ANY, 0, 1},
        {"ring_batches", 3, setup_many, thread_batches, check, MODEL_ANY, MODEL_ANY, 0, 1},
        {"ring_single", 2, setup_single, thread_items, check, MODEL_ANY, MODEL_ANY, 0, 2},
        {"ring_single_batches", 2, setup_single, thread_batches, check, MODEL_ANY, MODEL_ANY, 0, 2},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
