/* SPDX-License-Identifier: MIT
 *
 * ck_ring's header is C only: its calls as functions, as flow_ring's are. */
#include <ck_ring.h>
#include <stdlib.h>

struct ring {
    ck_ring_t ring;
    ck_ring_buffer_t buffer[];
};

struct ring *ring_create(unsigned n)
{
    struct ring *r = aligned_alloc(64, sizeof *r + n * sizeof r->buffer[0]);

    if (r)
        ck_ring_init(&r->ring, n);
    return r;
}

bool ring_push(struct ring *r, void *item)
{
    return ck_ring_enqueue_mpmc(&r->ring, r->buffer, item);
}

bool ring_pop(struct ring *r, void **item)
{
    return ck_ring_dequeue_mpmc(&r->ring, r->buffer, item);
}
