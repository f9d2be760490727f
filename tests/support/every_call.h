/* SPDX-License-Identifier: MIT
 *
 * Each public function that needs the runtime, called once where there is none. */
#ifndef FLOW_TESTS_EVERY_CALL_H
#define FLOW_TESTS_EVERY_CALL_H

/* Ends this process (a CASE or a CHILD) unless all of them give `error`. From any thread. */
void every_call_gives(int error);

#endif
