/* SPDX-License-Identifier: MIT
 *
 * For models of what tasks wait for: every thread is a task from its beginning, with the top of a stack of
 * its own. To be included before the sources of core/ that the model is about. */
#ifndef FLOW_TESTS_MODEL_CALLERS_H
#define FLOW_TESTS_MODEL_CALLERS_H

#include "tests/model/core.h"

#define flow__own_header model_own_header
static struct flow__stack_header *model_own_header(void)
{
    return flow__self() ? &model_tops[model_self()] : NULL;
}

/* Only tasks call here. */
struct flow__task *flow__caller_begin(int *error)
{
    (void)error;
    return flow__self();
}

void flow__caller_end(struct flow__task *self)
{
    (void)self;
}

/* Thread i runs blocks[i]. */
static void model_open_callers(int n)
{
    model_open(n);
    for (int i = 0; i < n; i++) {
        model_tops[i].task = model_task(i, i, NULL, NULL, FLOW__LIFE_DETACHED);
        model_running[i] = &blocks[i];
        workers[i].budget = FLOW__BUDGET;
    }
}

#endif
