/* SPDX-License-Identifier: MIT
 *
 * How much of its stack a task uses, with the option measure_stacks: the stack is filled with a
 * pattern before the task starts, and the lowest word that differs tells how deep it has been. */
#ifndef FLOW_CORE_MEASURE_H
#define FLOW_CORE_MEASURE_H

#include "core/worker.h"

/* On the worker's thread, both: before t starts in the slot, and at its end. */
__attribute__((cold)) void flow__measure_begin(struct flow__task *t, char *slot, int class_index);
__attribute__((cold)) void flow__measure_end(struct flow__worker *w, struct flow__task *t);

#endif
