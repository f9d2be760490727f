/* SPDX-License-Identifier: MIT
 *
 * Broadcast: every listener receives every element, if it is not too slow.
 *
 * The last `capacity` elements are kept. Sending never waits: it overwrites the oldest. A listener
 * that had not received that one yet goes on with the oldest there is, and is told how many it has
 * missed. So received + missed = sent since it began to listen. */
#ifndef FLOWCORO_BROADCAST_H
#define FLOWCORO_BROADCAST_H

#include <flowcoro/base.h>

FLOW_BEGIN_DECLS

struct flow_broadcast;

/* One who listens; lies where its user wants it, needs no end, and is used by one call at a time. */
struct flow_listener {
    struct flow_broadcast *from;
    uint64_t next; /* the number of the element that comes next */
};

/* Makes one. capacity is at least 1. -EINVAL: out is NULL, or too large a product; -ENOMEM. From
 * anywhere, also before flow_start; never suspends. */
FLOW_API int flow_broadcast_create(struct flow_broadcast **out, size_t element_bytes,
                                   size_t capacity);

/* Frees it; NULL is let be. -EBUSY: somebody waits in it, and nothing was done. Nobody may be inside
 * another call on it, or begin one. From anywhere, also after flow_stop; never suspends. */
FLOW_API int flow_broadcast_destroy(struct flow_broadcast *b);

/* Sends a copy of *element to all who listen. -EPIPE: it is closed. From a coroutine or a foreign
 * thread; never suspends. */
FLOW_API int flow_broadcast_send(struct flow_broadcast *b, const void *element);

/* Nothing more will be sent: listeners get what is left, then -EPIPE. -EPIPE: it was closed already.
 * From a coroutine or a foreign thread; never suspends. */
FLOW_API int flow_broadcast_close(struct flow_broadcast *b);

/* Begins to listen: *listener will receive what is sent from now on. From anywhere; never suspends. */
FLOW_API void flow_broadcast_listen(struct flow_broadcast *b, struct flow_listener *listener);

/* Waits for the listener's next element. *missed (may be NULL) gets the number of those that were
 * overwritten before it. -EPIPE: closed, and all received; -ETIMEDOUT; -ECANCELED, as
 * flow_chan_recv. Suspends a coroutine, blocks a foreign thread. */
FLOW_API int flow_listener_recv(struct flow_listener *listener, void *element, uint64_t *missed,
                                flow_deadline deadline);

FLOW_END_DECLS

#endif
