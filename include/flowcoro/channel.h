/* SPDX-License-Identifier: MIT
 *
 * Channels: values of one size go from those who send to those who receive, first in, first out.
 *
 * A channel of capacity n keeps up to n elements that nobody has received yet; with capacity 0
 * (rendezvous) a send ends when its element has been received. A sender whose receiver waits copies
 * the element straight to where that one wants it. Any number of coroutines on any workers, and of
 * foreign threads, may send and receive at once; a coroutine is suspended while it waits, a
 * thread blocked. Who waits is served in the order of coming.
 *
 * After flow_chan_close nothing can be sent any more, and receivers get what is left and then
 * -EPIPE. An element is received by exactly one receiver, or it is still in the channel: a call that
 * gives an error has sent or taken nothing.
 *
 * Elements are copied inside a spin lock: keep them small, and send pointers to what is large.
 *
 * Cancellation: every call below with a deadline gives -ECANCELED to a cancelled coroutine, or one whose
 * ambient deadline has passed, even when it would not have had to wait; else a loop over a channel
 * that is never empty would not end. Not within a shield (flowcoro/cancel.h), nor for the try calls:
 * both can be used to clean up.
 * A coroutine whose calls never have to wait gives its turn to others now and then. */
#ifndef FLOWCORO_CHANNEL_H
#define FLOWCORO_CHANNEL_H

#include <flowcoro/base.h>

FLOW_BEGIN_DECLS

struct flow_chan;

/* Makes a channel for elements of element_bytes each, of which `capacity` may lie in it. Elements of
 * 0 bytes are mere signals; their addresses may be NULL. -EINVAL: out is NULL, or the product is
 * too large; -ENOMEM. From anywhere, also before flow_start; never suspends. */
FLOW_API int flow_chan_create(struct flow_chan **out, size_t element_bytes, size_t capacity);

/* Ends a channel; NULL is let be. What was not received is given to drop (NULL: nobody owns it),
 * oldest first, together with arg. -EBUSY: somebody waits in it, and nothing was done. Nobody may be
 * inside another call on it, or begin one. From anywhere, also after flow_stop; never suspends. */
FLOW_API int flow_chan_destroy(struct flow_chan *chan, void (*drop)(void *element, void *arg),
                               void *arg);

/* Sends a copy of *element. Suspends (blocks a foreign thread) until there is room or, with capacity
 * 0, a receiver has it. -EPIPE: the channel is closed; -ETIMEDOUT; -ECANCELED; -EDEADLK as
 * flow_join, and within a read-side section of liburcu. From a coroutine or a foreign
 * thread. */
FLOW_API int flow_chan_send(struct flow_chan *chan, const void *element, flow_deadline deadline);

/* Receives into *element. Suspends (blocks a foreign thread) until there is one. -EPIPE: the channel
 * is closed and empty; others as flow_chan_send. From a coroutine or a foreign thread. */
FLOW_API int flow_chan_recv(struct flow_chan *chan, void *element, flow_deadline deadline);

/* The same without waiting: -EAGAIN where the call above would have to. From a coroutine or a
 * foreign thread; never suspends. */
FLOW_API int flow_chan_try_send(struct flow_chan *chan, const void *element);
FLOW_API int flow_chan_try_recv(struct flow_chan *chan, void *element);

/* Sends n elements in their order; elements of other senders may come between them. Waits until all
 * are sent. Returns how many were: fewer than n when the channel was closed, the time was up or the
 * caller cancelled meanwhile, and that as an error only if there was none. n is at most INT32_MAX
 * (-EINVAL). Errors as flow_chan_send. From a coroutine or a foreign thread. */
FLOW_API int flow_chan_send_many(struct flow_chan *chan, const void *elements, size_t n,
                                 flow_deadline deadline);

/* Waits until there is an element, then takes as many as are there, at most n, without waiting for
 * more. Returns how many. Errors as flow_chan_recv; n is 1 to INT32_MAX (-EINVAL). From a coroutine
 * or a foreign thread. */
FLOW_API int flow_chan_recv_many(struct flow_chan *chan, void *elements, size_t n,
                                 flow_deadline deadline);

/* Says that no more will be sent. All who wait to send get -EPIPE, and as nothing can come any more
 * so do all who wait to receive. -EPIPE: it was closed already, which does no harm. From a coroutine
 * or a foreign thread; never suspends. */
FLOW_API int flow_chan_close(struct flow_chan *chan);

/* How many elements lay in it a moment ago. From anywhere; never suspends. */
FLOW_API size_t flow_chan_count(struct flow_chan *chan);

FLOW_END_DECLS

#endif
