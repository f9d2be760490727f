/* SPDX-License-Identifier: MIT
 *
 * Queues of waiters; the rules stand in the header. */
#include "core/waiter.h"

#include <errno.h>

bool flow__waiter_claim(struct flow__waiter *waiter)
{
    flow__waiters_remove(waiter);
    return flow__claim_wait(waiter->task, waiter->epoch, FLOW__WAIT_WOKEN);
}

struct flow__waiter *flow__waiters_claim(struct flow__waiters *q)
{
    struct flow__waiter *waiter;

    while ((waiter = q->first))
        if (flow__waiter_claim(waiter))
            return waiter;
    return NULL;
}

void flow__waiter_resume(struct flow__worker *w, struct flow__waiter *waiter)
{
    flow__resume_won(w, waiter->task);
}

int flow__waiters_resume_all(struct flow__worker *w, struct flow__waiters *q, int outcome)
{
    struct flow__waiter *waiter;
    int n = 0;

    for (; (waiter = flow__waiters_claim(q)); n++) {
        waiter->outcome = outcome;
        flow__waiter_resume(w, waiter);
    }
    return n;
}

int flow__waiter_wait(struct flow__task *self, struct flow__spin *lock, struct flow__waiters *q,
                      struct flow__waiter *waiter, bool shielded, enum flow__why why,
                      flow_deadline deadline)
{
    int r = -ETIMEDOUT;

    /* A cancelled task is told so even where it would not have waited. */
    if (deadline != FLOW_NOW || (flow__is_cancelled(self) && !shielded))
        r = flow__arm(self, shielded, &waiter->epoch);
    if (r) {
        flow__spin_unlock(lock);
        return r;
    }
    waiter->task = self;
    waiter->outcome = 0;
    flow__waiters_add(q, waiter);
    flow__spin_unlock(lock);
    r = flow__wait(self, waiter->epoch, why, deadline);
    /* Woken, it was taken out by who claimed it, and, unless it is a thread, handed over to. */
    if (r || flow__has(self, FLOW__IS_THREAD)) {
        flow__spin_lock(lock);
        flow__waiters_remove(waiter);
        flow__spin_unlock(lock);
    }
    return r ? r : waiter->outcome;
}
