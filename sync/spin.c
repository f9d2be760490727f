/* SPDX-License-Identifier: MIT
 *
 * Waiting for a spin lock; see the header. Any thread. */
#include "sync/spin.h"

#include "sync/syscall.h"

#include <sched.h>

#define LOOKS  flow__rounds(16) /* longer than any holder needs that runs */
/* Each look takes the line from the holder, who, more often than not, is about to take the lock again:
 * two workers get on best if they disturb each other seldom. Some 400 ns. */
#define PAUSES flow__rounds(16)
#define YIELDS flow__rounds(64)
#define NAP_NS 50000

void flow__spin_wait(struct flow__spin *s)
{
    flow__atomic(uint32_t) never = 0;

    for (int i = 0; i < LOOKS; i++) {
        for (int k = 0; k < PAUSES; k++)
            flow__pause();
        if (load_relaxed(&s->held) == 0)
            return;
    }
    for (int i = 0; i < YIELDS; i++) {
        sched_yield();
        if (load_relaxed(&s->held) == 0)
            return;
    }
    flow__sys.futex_wait(&never, 0, flow__sys.now() + NAP_NS);
}
