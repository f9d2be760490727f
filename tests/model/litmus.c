/* SPDX-License-Identifier: MIT
 *
 * Does the explorer see what it must? Dekker's entry: each raises its flag with a full barrier and
 * looks at the other's. With plain stores both may enter, which the mutants check. */
#include "sync/atomic.h"
#include "tests/model/explorer.h"

static flow__atomic(int) flag[2];
static bool entered[2];

static void setup(void)
{
    flag[0] = flag[1] = 0;
}

static void thread(int self)
{
    exchange_seq(&flag[self], 1);
    entered[self] = load_seq(&flag[1 - self]) == 0;
}

static void check(void)
{
    MODEL_CHECK(!(entered[0] && entered[1]));
}

int main(int argc, char **argv)
{
    static const struct model models[] = {{"litmus", 2, setup, thread, check, MODEL_ANY, MODEL_ANY, 0, 9}};

    return model_main(argc, argv, models, 1);
}
