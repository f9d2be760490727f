/* SPDX-License-Identifier: MIT
 *
 * What every other public header needs: the version, linkage, deadlines.
 *
 * Conventions of the whole interface
 *   - A call returns 0 (or a count) or a negative errno; errno itself is
 *     neither read nor set, and is unspecified after a suspension.
 *   - A deadline is a point on CLOCK_MONOTONIC in nanoseconds; a span is a
 *     number of nanoseconds and its name ends in _ns.
 *   - Each function says where it may be called from:
 *       coroutine       a function that runs under flow_spawn and its kin
 *       foreign thread  any other thread of the process
 *     No function may be called from a signal handler unless it says so.
 *   - Who holds liburcu's read lock (flavour memb) must not wait: what would suspend a
 *     coroutine, or block a thread for one, gives -EDEADLK. flow_yield checks this only in
 *     debug builds; flow_start, flow_run, flow_drive and flow_stop do not check it.
 *   - Workers are registered with liburcu, and so is any other thread from its first call to its
 *     end, unless the program has registered it itself before that; then the program
 *     unregisters it, after its last call. Who is registered must not register again.
 *   - Before flow_start and after flow_stop every call that needs the runtime
 *     gives -ESHUTDOWN; in the child of a fork it gives -ENOTSUP. Unless the runtime was there, or about
 *     to be, when it forked, the child may start its own. */
#ifndef FLOWCORO_BASE_H
#define FLOWCORO_BASE_H

#include <stddef.h>
#include <stdint.h>

#define FLOW_VERSION_MAJOR 0
#define FLOW_VERSION_MINOR 1
#define FLOW_VERSION_PATCH 0

#define FLOW_API __attribute__((visibility("default")))

#ifdef __cplusplus
#define FLOW_BEGIN_DECLS extern "C" {
#define FLOW_END_DECLS   }
#else
#define FLOW_BEGIN_DECLS
#define FLOW_END_DECLS
#endif

/* A point in time: nanoseconds of CLOCK_MONOTONIC. */
typedef int64_t flow_deadline;

#define FLOW_FOREVER ((flow_deadline)INT64_MAX) /* never expires */
#define FLOW_NOW     ((flow_deadline)0)         /* already expired: poll, do not wait */

/* Spans in nanoseconds. */
#define FLOW_US(n) ((int64_t)(n)*1000)
#define FLOW_MS(n) ((int64_t)(n)*1000000)
#define FLOW_S(n)  ((int64_t)(n)*1000000000)

FLOW_BEGIN_DECLS

/* The current time of the clock that deadlines are measured on.
 * From anywhere, also from a signal handler; never suspends. */
FLOW_API flow_deadline flow_now(void);

/* The deadline span_ns from now. Saturates: a huge span gives FLOW_FOREVER, a
 * negative one a deadline in the past. From anywhere; never suspends. */
FLOW_API flow_deadline flow_after(int64_t span_ns);

/* The version of the library that is linked in, as "major.minor.patch". */
FLOW_API const char *flow_version(void);

FLOW_END_DECLS

#endif
