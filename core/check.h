/* SPDX-License-Identifier: MIT
 *
 * Assertions. flow__check always holds the line; flow__assert only in debug
 * builds (-DFLOW_DEBUG). Both say what and where on stderr and abort. */
#ifndef FLOW_CORE_CHECK_H
#define FLOW_CORE_CHECK_H

/* Writes one line to stderr and aborts. Async-signal-safe. */
_Noreturn __attribute__((cold)) void flow__die(const char *what);

#define FLOW__TEXT2(x) #x
#define FLOW__TEXT(x)  FLOW__TEXT2(x)

#define flow__check(condition)                                                                     \
    (__builtin_expect(!!(condition), 1)                                                            \
         ? (void)0                                                                                 \
         : flow__die(__FILE__ ":" FLOW__TEXT(__LINE__) ": " #condition " does not hold"))

#ifdef FLOW_DEBUG
#define flow__assert(condition) flow__check(condition)
#else
#define flow__assert(condition) ((void)0)
#endif

#endif
