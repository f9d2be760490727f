/* SPDX-License-Identifier: MIT
 *
 * The tests of tests/test_container.c with a queue whose segments have 4 cells instead of 1,024: what
 * happens from one segment to the next happens all the time. */
#define FLOW__QUEUE_CELLS 4u
#include "sync/queue.c" /* in place of the library's */

#include "tests/test_container.c"
