/* SPDX-License-Identifier: MIT
 *
 * Containers of pointers that many threads use at once without waiting for each other. They need
 * no runtime: every call but create and destroy may be made from any coroutine and any thread, and none
 * suspends. The items are the caller's; NULL is an item like any other. To wait for an
 * item, use a channel.
 *
 *   flow_ring    bounded, first in first out; for one producer and one consumer, or for many
 *   flow_queue   unbounded, first in first out
 *   flow_stack   unbounded, last in first out
 *
 * Which calls may run beside which, for all three:
 *
 *              create  push  pop  count  destroy
 *   push         -     yes   yes   yes     no
 *   pop          -     yes   yes   yes     no
 *   count        -     yes   yes   yes     no
 *   destroy      -     no    no    no      no
 *
 * except that a ring made with FLOW_RING_SPSC has one thread at a time that pushes and one that
 * pops. What a thread wrote before it pushed an item is seen by who pops it. */
#ifndef FLOWCORO_CONTAINER_H
#define FLOWCORO_CONTAINER_H

#include <flowcoro/base.h>

FLOW_BEGIN_DECLS

/* ---- ring ---- */

typedef struct flow_ring flow_ring;

enum {
    FLOW_RING_MPMC = 0, /* any number of producers and consumers */
    FLOW_RING_SPSC = 1, /* one producer and one consumer; several times as quick */
};

/* Makes a ring for at least `capacity` items (1 to 2^30), rounded up to a power of two, 2 at least. It takes
 * 16 bytes for each: a ring for many at once, as all its cells are written here, one for two as it is used.
 * -EINVAL: out is NULL, capacity or flags; -ENOMEM. */
FLOW_API int flow_ring_create(flow_ring **out, size_t capacity, unsigned flags);

/* Frees it. What is left in it is dropped: returns how many items that were. NULL is allowed. */
FLOW_API int64_t flow_ring_destroy(flow_ring *ring);

/* Adds an item, or takes the oldest one. 0; -EAGAIN: it is full, or empty. In a ring for many, a
 * thread that was stopped in the middle of its call may make it look so to those behind it. */
FLOW_API int flow_ring_push(flow_ring *ring, void *item);
FLOW_API int flow_ring_pop(flow_ring *ring, void **item);

/* The same for up to n items, which are neighbours in the ring. Returns how many: 0 if it is full
 * or empty. */
FLOW_API size_t flow_ring_push_n(flow_ring *ring, void *const *items, size_t n);
FLOW_API size_t flow_ring_pop_n(flow_ring *ring, void **items, size_t n);

/* How many items it held a moment ago; how many it can hold. */
FLOW_API size_t flow_ring_count(flow_ring *ring);
FLOW_API size_t flow_ring_capacity(const flow_ring *ring);

/* ---- queue ---- */

typedef struct flow_queue flow_queue;

/* Makes an empty queue. -EINVAL: out is NULL; -ENOMEM. */
FLOW_API int flow_queue_create(flow_queue **out);

/* Frees it. What is left in it is dropped: returns how many items that were. NULL is allowed. */
FLOW_API int64_t flow_queue_destroy(flow_queue *queue);

/* Adds an item at the end. 0; -ENOMEM. */
FLOW_API int flow_queue_push(flow_queue *queue, void *item);

/* Takes the oldest item. 0; -EAGAIN: the queue is empty. */
FLOW_API int flow_queue_pop(flow_queue *queue, void **item);

/* Adds n items; those of one call come out in their order, but others' may lie between. Returns how
 * many were added: fewer than n only if memory is short. */
FLOW_API size_t flow_queue_push_n(flow_queue *queue, void *const *items, size_t n);

/* Takes up to n items; returns how many, 0 if it is empty. */
FLOW_API size_t flow_queue_pop_n(flow_queue *queue, void **items, size_t n);

/* How many items it held a moment ago. */
FLOW_API size_t flow_queue_count(flow_queue *queue);

/* The memory in use for items, in bytes. It follows the number of items, also while a consumer or
 * a producer is stopped in the middle of its call: that holds up 16 KiB for each of them. The address
 * space is kept until destroy, and so is the memory where pages are larger than 16 KiB. */
FLOW_API size_t flow_queue_bytes(flow_queue *queue);

/* ---- stack ---- */

typedef struct flow_stack flow_stack;

/* Makes an empty stack. -EINVAL: out is NULL; -ENOMEM. */
FLOW_API int flow_stack_create(flow_stack **out);

/* Frees it. What is left in it is dropped: returns how many items that were. NULL is allowed. */
FLOW_API int64_t flow_stack_destroy(flow_stack *stack);

/* Puts an item on top. 0; -ENOMEM; -ENOSPC: 2^32 - 1 items. Memory for as many items as there ever
 * were at one time is kept until destroy. */
FLOW_API int flow_stack_push(flow_stack *stack, void *item);

/* Takes the top item. 0; -EAGAIN: the stack is empty. */
FLOW_API int flow_stack_pop(flow_stack *stack, void **item);

/* How many items it held a moment ago. Walks nothing: it is counted. */
FLOW_API size_t flow_stack_count(flow_stack *stack);

FLOW_END_DECLS

#endif
