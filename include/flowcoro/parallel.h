/* SPDX-License-Identifier: MIT
 *
 * Loops over a range whose pieces may run at the same time: jobs (flowcoro/job.h) made by halving.
 *
 * On a machine of several memory nodes each node is first offered a share of the range, in the order of
 * the indices and as large as its workers are many; idle workers then take pieces wherever they are, and
 * shares of nodes that have no time for them. What nobody has begun when the caller comes to it, it does itself.
 * A piece may do whatever a coroutine may, but it leaves the RCU read-side sections that it enters: to wait for
 * the others within one stops the program. Outside of coroutines all is run on the calling thread, in order.
 *
 * On the stack of the caller, and of each task that a part becomes (which is as large), a loop takes at most
 * 5 KiB and 13 values; the rest is for the pieces. */
#ifndef FLOWCORO_PARALLEL_H
#define FLOWCORO_PARALLEL_H

#include <flowcoro/base.h>

#include <stdbool.h>

FLOW_BEGIN_DECLS

/* One piece: the indices from begin up to, but not with, end. 0 or a negative errno. */
typedef int (*flow_range_fn)(int64_t begin, int64_t end, void *arg);

/* Calls fn for pieces of at most `grain` indices that together make begin to end, and waits for all.
 * grain 0: chosen, for some eight pieces a worker. From anywhere; may suspend a coroutine.
 * Returns 0, or what a plain loop over the pieces would have: the error of the first piece, by index,
 * that failed. Pieces behind it are not begun any more, and those that run elsewhere are cancelled, as siblings
 * or for the reason for which the caller is; it returns when they have ended. -ECANCELED: the caller was
 * cancelled before every piece had begun. -EINVAL: fn is NULL, grain is negative, or the end is before the
 * beginning. */
FLOW_API int flow_parallel_for(int64_t begin, int64_t end, int64_t grain, flow_range_fn fn,
                               void *arg);

#define FLOW_REDUCTION_BYTES 256 /* a value is no larger */

/* How to make one value of a range. Initialise with FLOW_REDUCTION_INIT. */
struct flow_reduction {
    size_t size;          /* sizeof(struct flow_reduction) */
    size_t bytes;         /* of a value, 1 to FLOW_REDUCTION_BYTES; values are aligned to 16 */
    const void *identity; /* the value of no index at all: 0 of a sum; read before `value` is written */
    /* Adds the indices from begin up to end to *value, which holds those before. 0 or a negative
     * errno. */
    int (*fold)(int64_t begin, int64_t end, void *value, void *arg);
    /* Adds *right to *value; right's indices are those behind value's. Must not suspend. */
    void (*combine)(void *value, const void *right, void *arg);
    void *arg; /* for both */
    /* The pieces and the order in which values are combined depend on begin, end and grain alone:
     * rounded sums are then the same to the last bit with any number of workers. Else a value that
     * need not be combined is folded on, which is quicker. */
    bool deterministic;
};

#define FLOW_REDUCTION_INIT                                                                        \
    {                                                                                              \
        sizeof(struct flow_reduction), 0, NULL, NULL, NULL, NULL, false                            \
    }

/* Reduces the range to one value, which goes to *value. As flow_parallel_for; after an error *value
 * means nothing. combine need not be commutative. `deterministic`: at most 1,024 parts, which run at the same
 * time; with grain 0 each is a piece. -EINVAL also: a size or a field of *how that is not as above. */
FLOW_API int flow_parallel_reduce(int64_t begin, int64_t end, int64_t grain,
                                  const struct flow_reduction *how, void *value);

FLOW_END_DECLS

#endif
