/* SPDX-License-Identifier: MIT
 *
 * Waiting for a spin lock; see the header. Any thread. */
#include "sync/spin.h"

#include "sync/syscall.h"

#include <sched.h>

#define PAUSES flow__rounds(64) /* longer than any holder needs that runs */
#define YIELDS flow__rounds(64)
#define NAP_NS 50000

void flow__spin_wait(struct flow__spin *s)
{
    flow__atomic(uint32_t) never = 0;

    for (int i = 0; i < PAUSES; i++) {
        if (load_relaxed(&s->held) == 0)
            return;
        flow__pause();
    }
    for (int i = 0; i < YIELDS; i++) {
        sched_yield();
        if (load_relaxed(&s->held) == 0)
            return;
    }
    flow__sys.futex_wait(&never, 0, flow__sys.now() + NAP_NS);
}
