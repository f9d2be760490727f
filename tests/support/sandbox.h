/* SPDX-License-Identifier: MIT
 *
 * What a container's seccomp profile does to us. For the rest of the process, so in a CASE. */
#ifndef FLOW_TESTS_SANDBOX_H
#define FLOW_TESTS_SANDBOX_H

#include <stdbool.h>

/* These system calls (at most 8) give `error` from now on, here and in what is executed. Skips the case
 * where seccomp itself is refused. Threads that exist already are not affected. */
void sandbox_refuse(const long *calls, int n, int error);

/* So does mbind; unless only_mbind, get_mempolicy and move_pages do too. */
void sandbox_refuse_memory_policy(int error, bool only_mbind);

/* So does sched_setaffinity. */
void sandbox_refuse_pinning(int error);

#endif
