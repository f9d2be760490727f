/* SPDX-License-Identifier: MIT
 *
 * Queues of waiters; the rules stand in the header. */
#include "core/waiter.h"

#include <errno.h>

int flow__waiters_claim_all(struct flow__waiters *q, struct flow__claimed *c)
{
    struct flow__waiter *waiter;
    int n = 0;

    for (; (waiter = flow__waiters_claim(q)); n++)
        flow__claimed_add(c, waiter);
    return n;
}

int flow__waiter_leave(struct flow__waiter *waiter, struct flow__spin *lock, int r)
{
    if (r) {
        flow__spin_lock(lock);
        flow__waiters_remove(waiter);
        flow__spin_unlock(lock);
        return r;
    }
    return flow__waiter_handed(waiter);
}

static inline int wait_in(struct flow__task *self, struct flow__spin *lock, struct flow__waiters *q,
                          void (*add)(struct flow__waiters *, struct flow__waiter *),
                          struct flow__waiter *waiter, bool shielded, enum flow__why why,
                          flow_deadline deadline)
{
    uint64_t epoch;
    int r = deadline == FLOW_NOW ? flow__poll_failed(self) : flow__arm(self, shielded, &epoch);

    if (r) {
        flow__spin_unlock(lock);
        return r;
    }
    flow__waiter_init(waiter, self, epoch); /* NOLINT: it is armed */
    add(q, waiter);
    flow__spin_unlock(lock);
    return flow__waiter_leave(waiter, lock, flow__wait(self, epoch, why, deadline));
}

int flow__waiter_wait(struct flow__task *self, struct flow__spin *lock, struct flow__waiters *q,
                      struct flow__waiter *waiter, bool shielded, enum flow__why why,
                      flow_deadline deadline)
{
    return wait_in(self, lock, q, flow__waiters_add, waiter, shielded, why, deadline);
}

int flow__waiter_wait_first(struct flow__task *self, struct flow__spin *lock,
                            struct flow__waiters *q, struct flow__waiter *waiter, bool shielded,
                            enum flow__why why, flow_deadline deadline)
{
    return wait_in(self, lock, q, flow__waiters_add_first, waiter, shielded, why, deadline);
}
