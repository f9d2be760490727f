/* SPDX-License-Identifier: MIT
 *
 * flow_queue with two cells to a segment, so that every other item changes the segment, and with a
 * consumer that skips a late producer's cell at once.
 *
 * queue_change: two producers and a consumer. queue_reuse: one thread pushes and pops until segments
 * have been used again and again, while two others are in the middle of one call. */
#define FLOW__QUEUE_CELLS 2u
#include "sync/queue.c"

#include "tests/model/explorer.h"

static flow_queue *queue;
static int pushed;

static void push(int number)
{
    MODEL_CHECK(flow_queue_push(queue, model_item(number)) == 0);
}

static bool pop(void)
{
    void *item;

    if (flow_queue_pop(queue, &item))
        return false;
    model_taken(item);
    return true;
}

static void setup(void)
{
    MODEL_CHECK(flow_queue_create(&queue) == 0);
    push(1);
    pushed = 1;
}

static void check(void)
{
    while (pop())
        ;
    MODEL_CHECK(flow_queue_count(queue) == 0);
    model_all_taken_once(1, pushed);
    /* It is still whole: with items in three segments and empty again. */
    for (int i = 40; i < 46; i++)
        push(i);
    while (pop())
        ;
    model_all_taken_once(40, 6);
    MODEL_CHECK(load_relaxed(&queue->n_used) <= 10);
}

static void thread_change(int self)
{
    if (self == 0) {
        push(2);
        push(3);
    } else if (self == 1) {
        push(4);
        push(5);
    } else {
        for (int i = 0; i < 3; i++)
            pop();
    }
}

static void check_change(void)
{
    pushed = 5;
    check();
}

static void thread_pair(int self)
{
    if (self == 0) {
        push(2);
        push(3);
        push(4);
    } else {
        int before = 0;

        for (int i = 0; i < 4; i++) {
            void *item;

            if (flow_queue_pop(queue, &item))
                continue;
            MODEL_CHECK((int)(intptr_t)item > before);
            before = (int)(intptr_t)item;
            model_taken(item);
        }
    }
}

static void check_pair(void)
{
    pushed = 4;
    check();
}

static void thread_reuse(int self)
{
    if (self == 1) {
        push(2);
        return;
    }
    if (self == 2) {
        pop();
        return;
    }
    for (int i = 3; i < 13; i++) {
        push(i);
        pop();
    }
}

static void check_reuse(void)
{
    pushed = 12;
    check();
}

/* Two spares and more to begin with; the tickets are at the end of a segment. */
static void setup_spares(void)
{
    setup();
    for (int i = 50; i < 57; i++)
        push(i);
    for (int i = 0; i < 7; i++)
        pop();
}

/* The pusher's stale `spare` is in use when its CAS comes. */
static void thread_spares(int self)
{
    if (self == 0) {
        push(2);
        return;
    }
    for (int i = 3; i < 8; i++)
        push(i);
    for (int i = 0; i < 4; i++)
        pop();
}

static void check_spares(void)
{
    for (int i = 8; i < 14; i++)
        push(i);
    while (pop())
        ;
    model_all_taken_once(1, 13);
    model_all_taken_once(50, 7);
    pushed = 13;
    check();
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"queue_pair", 2, setup, thread_pair, check_pair, 5, 2, 0, 2},
        {"queue_change", 3, setup, thread_change, check_change, 3, 0, 0, 1},
        {"queue_reuse", 3, setup, thread_reuse, check_reuse, 2, 0, 0, 1},
        {"queue_spares", 2, setup_spares, thread_spares, check_spares, 4, 1, 0, 2},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
