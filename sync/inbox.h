/* SPDX-License-Identifier: MIT
 *
 * Intrusive queue from many threads to one: how a worker is told that one of its
 * coroutines may go on.
 *
 *             push   take_all   is_empty
 *   push       yes      yes        yes
 *   take_all   yes      no         yes       one taker: the owner
 *
 * A stack that the taker empties at one stroke and turns round, so that the
 * order of pushes is kept. Nodes are the caller's; a node is in one inbox at a
 * time. take_all takes everything, so there is no ABA.
 * Invariant: every pushed node is returned by exactly one take_all. */
#ifndef FLOW_SYNC_INBOX_H
#define FLOW_SYNC_INBOX_H

#include "sync/atomic.h"

#include <stddef.h>

struct flow__link {
    flow__plain(struct flow__link *) next;
};

struct flow__inbox {
    flow__atomic(struct flow__link *) newest; /* written by anyone */
};

/* Adds one node. True if the inbox was empty, which makes the caller the one
 * who looks whether the owner sleeps. */
static inline bool flow__inbox_push(struct flow__inbox *inbox, struct flow__link *node)
{
    struct flow__link *seen = load_relaxed(&inbox->newest);

    do
        node->next = seen;
    /* [INBOX-1] seq_cst: its release half pairs with [INBOX-2] and publishes the node; as a
     * full barrier it orders the push before the look at the parker's word, see [PARK-1]. */
    while (!cas_seq(&inbox->newest, &seen, node));
    return seen == NULL;
}

static inline bool flow__inbox_is_empty(struct flow__inbox *inbox)
{
    return load_relaxed(&inbox->newest) == NULL;
}

/* The same for an owner that has announced that it will sleep. */
static inline bool flow__inbox_is_empty_seq(struct flow__inbox *inbox)
{
    return load_seq(&inbox->newest) == NULL;
}

/* Takes all nodes, oldest first, linked by next. Owner only. */
static inline struct flow__link *flow__inbox_take_all(struct flow__inbox *inbox)
{
    /* [INBOX-2] acquire: pairs with [INBOX-1]. */
    struct flow__link *node = exchange_acquire(&inbox->newest, NULL);
    struct flow__link *oldest = NULL;

    while (node) {
        struct flow__link *next = node->next;

        node->next = oldest;
        oldest = node;
        node = next;
    }
    return oldest;
}

#endif
