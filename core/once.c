/* SPDX-License-Identifier: MIT
 *
 * What is done once: a mutex, and a flag that spares it. Any thread. */
#include "core/mutex.h"

#include <errno.h>

struct once {
    flow__atomic(uint32_t) done; /* set by the one who has done it, under the mutex */
    uint32_t unused;
    struct flow_mutex mutex;
};

_Static_assert(sizeof(struct once) == sizeof(struct flow_once), "one and the same");

int flow_once_call(struct flow_once *once, int (*fn)(void *arg), void *arg, flow_deadline deadline)
{
    struct once *o = (struct once *)(void *)once;
    int r;

    /* [ONCE-1] acquire: pairs with [ONCE-2]; what fn did is visible. */
    if (flow__likely(load_acquire(&o->done)))
        return 0;
    r = flow_mutex_lock(&o->mutex, deadline);
    if (r && r != -EOWNERDEAD)
        return r;
    r = load_relaxed(&o->done) ? 0 : fn(arg);
    if (!r)
        store_release(&o->done, 1); /* [ONCE-2] release: pairs with [ONCE-1]. */
    flow_mutex_unlock(&o->mutex);
    return r;
}
