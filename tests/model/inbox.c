/* SPDX-License-Identifier: MIT
 *
 * The inbox: two senders of two nodes, one taker. Each node comes out once, those of one sender in
 * their order. */
#include "sync/inbox.h"

#include "tests/model/explorer.h"

static struct flow__inbox inbox;
static struct node {
    struct flow__link link;
    int number;
} nodes[5];
static int last[2];

static void setup(void)
{
    inbox.newest = NULL;
    last[0] = last[1] = 0;
    for (int i = 1; i <= 4; i++)
        nodes[i] = (struct node){.number = i};
}

static void take_all(void)
{
    struct flow__link *link = flow__inbox_take_all(&inbox);

    for (; link; link = link->next) {
        int number = ((struct node *)link)->number;
        int *before = &last[number > 2];

        MODEL_CHECK(number > *before);
        *before = number;
        model_taken(model_item(number));
    }
}

static void thread(int self)
{
    if (self == 0) {
        take_all();
        take_all();
        return;
    }
    flow__inbox_push(&inbox, &nodes[2 * self - 1].link);
    flow__inbox_push(&inbox, &nodes[2 * self].link);
}

static void check(void)
{
    take_all();
    model_all_taken_once(1, 4);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"inbox", 3, setup, thread, check, MODEL_ANY, MODEL_ANY, 0, 2}};

    return model_main(argc, argv, models, 1);
}
