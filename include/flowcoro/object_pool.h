/* SPDX-License-Identifier: MIT
 *
 * Objects that are costly to make, kept for the next user: a flow_pool whose blocks stay
 * constructed while nobody uses them. With a bound, and hooks that make, tidy up and end an object.
 *
 * From coroutines and foreign threads, with or without a running runtime, like pools. The calls here
 * do not suspend unless a hook does: hooks run on the caller's thread, in its coroutine, with
 * nothing locked, and may do whatever the caller may, but for using the same object. */
#ifndef FLOWCORO_OBJECT_POOL_H
#define FLOWCORO_OBJECT_POOL_H

#include <flowcoro/base.h>
#include <flowcoro/pool.h>

FLOW_BEGIN_DECLS

typedef struct flow_object_pool flow_object_pool;

/* For flow_object_pool_create. Initialise with FLOW_OBJECT_POOL_INIT, then set object_bytes and what
 * differs. Each hook may be NULL, and gets `arg`. */
struct flow_object_pool_options {
    size_t size;         /* sizeof(struct flow_object_pool_options) */
    size_t object_bytes; /* 1 byte to nearly 64 MiB */
    size_t alignment;    /* as in flow_pool_options; what is in front of an object takes so many bytes
                          * again, at least 16 */
    size_t warm_up;      /* objects constructed by flow_object_pool_create */
    size_t max_objects;  /* that exist at one time, in use or not; 0: no bound */
    int node;            /* as in flow_pool_options */
    const char *name;    /* as in flow_pool_options */
    /* Makes an object in zeroed memory. 0, or a negative errno that the acquiring call returns. */
    int (*construct)(void *object, void *arg);
    /* At each release: makes the object ready for its next user. */
    void (*reset)(void *object, void *arg);
    /* Ends an object that is not in use, before its memory goes. */
    void (*destroy)(void *object, void *arg);
    void *arg;
};

#define FLOW_OBJECT_POOL_INIT                                                                      \
    {                                                                                              \
        sizeof(struct flow_object_pool_options), 0, 0, 0, 1024, -1, NULL, NULL, NULL, NULL, NULL   \
    }

/* Makes a pool; *out belongs to the caller. From anywhere. -EINVAL: an option is out of range, or
 * warm_up is beyond max_objects; -ENOMEM; or construct's error, and then all objects made until then
 * were destroyed. */
FLOW_API int flow_object_pool_create(flow_object_pool **out,
                                     const struct flow_object_pool_options *options);

/* *object gets one that is the caller's until it is released: one that was released before, or else a
 * new one. -ENOSPC: max_objects are in use. -ENOMEM. Or construct's error. */
FLOW_API int flow_object_pool_acquire(flow_object_pool *pool, void **object);

/* Resets an object and keeps it; from anywhere, whoever acquired it. NULL: nothing happens. 0;
 * -EALREADY and -EINVAL as flow_pool_free, then nothing is reset, and debug builds end the process. */
FLOW_API int flow_object_pool_release(flow_object_pool *pool, void *object);

struct flow_object_pool_stats {
    size_t size;          /* sizeof(struct flow_object_pool_stats), set by the caller */
    size_t object_bytes;
    uint64_t max_objects; /* 0: no bound */
    uint64_t in_use;
    uint64_t idle;        /* constructed, and nobody's */
    uint64_t constructed; /* ever, successfully */
    uint64_t failed;      /* times construct gave an error */
    uint64_t destroyed;   /* constructed == destroyed + in_use + idle */
    uint64_t blocks;      /* with room for an object, constructed or not */
    uint64_t bytes;       /* address space of these */
};

/* Fills *stats; exact when nobody uses the pool meanwhile. From anywhere. -EINVAL if stats->size
 * is not known. */
FLOW_API int flow_object_pool_stats(flow_object_pool *pool, struct flow_object_pool_stats *stats);

/* Destroys idle objects wherever a whole chunk of memory holds no object in use, and gives these chunks
 * back to the system. Returns the number of chunks. From anywhere; others may use the pool. */
FLOW_API int flow_object_pool_shrink(flow_object_pool *pool);

/* Destroys idle objects and the pool. Returns how many objects were still in use: their memory is gone
 * too, and the destroy hook is not called for them, since somebody may be using them. NULL: nothing
 * happens. From anywhere, when nobody uses the pool any more. */
FLOW_API int flow_object_pool_destroy(flow_object_pool *pool);

FLOW_END_DECLS

#endif
