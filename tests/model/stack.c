/* SPDX-License-Identifier: MIT
 *
 * flow_stack: threads pop and push back while another is in its pop, so that the same node is on top
 * with another one below it. Each item comes out once. */
#include "sync/stack.c"

#include "tests/model/explorer.h"

static flow_stack *stack;

static void push(int number)
{
    MODEL_CHECK(flow_stack_push(stack, model_item(number)) == 0);
}

static bool pop(void)
{
    void *item;

    if (flow_stack_pop(stack, &item))
        return false;
    model_taken(item);
    return true;
}

static void setup(void)
{
    MODEL_CHECK(flow_stack_create(&stack) == 0);
    for (int i = 1; i <= 3; i++)
        push(i);
}

/* Freed nodes come back last in, first out: two pops and two pushes turn the nodes round. */
static void thread(int self)
{
    if (self == 0) {
        pop();
        push(4);
        return;
    }
    pop();
    pop();
    push(self * 8 + 1);
    push(self * 8 + 2);
}

/* The first thread's stale `next` is in the hands of the third when its CAS comes. */
static void thread_tag(int self)
{
    if (self < 2)
        pop();
    if (self == 1)
        pop();
    if (self > 0)
        push(self + 3);
}

static void check_tag(void)
{
    while (pop())
        ;
    MODEL_CHECK(flow_stack_count(stack) == 0);
    model_all_taken_once(1, 5);
}

static void setup_empty(void)
{
    MODEL_CHECK(flow_stack_create(&stack) == 0);
}

static void thread_new(int self)
{
    push(2 * self + 1);
    push(2 * self + 2);
}

static void check_new(void)
{
    while (pop())
        ;
    model_all_taken_once(1, 4);
}

static void drain(void)
{
    while (pop())
        ;
    MODEL_CHECK(flow_stack_count(stack) == 0);
    model_all_taken_once(1, 4);
    model_all_taken_once(9, 2);
}

static void check(void)
{
    drain();
}

static void check_three(void)
{
    drain();
    model_all_taken_once(17, 2);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"stack", 2, setup, thread, check, MODEL_ANY, MODEL_ANY, 0, 2},
        {"stack_three", 3, setup, thread, check_three, 3, 0, 0, 1},
        {"stack_new", 2, setup_empty, thread_new, check_new, MODEL_ANY, MODEL_ANY, 0, 2},
        {"stack_tag", 3, setup, thread_tag, check_tag, MODEL_ANY, MODEL_ANY, 0, 2},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
