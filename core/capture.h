/* SPDX-License-Identifier: MIT
 *
 * Where a coroutine stands that is not suspended, for a backtrace: registers and stack of one that does
 * not come back to its scheduler, or has crashed. */
#ifndef FLOW_CORE_CAPTURE_H
#define FLOW_CORE_CAPTURE_H

#include "core/unwind.h"
#include "core/worker.h"

#include <ucontext.h>

/* Those that a signal has interrupted. In its handler. */
void flow__take_registers(struct flow__registers *r, const ucontext_t *context);

/* What may be read of the coroutine's stack on which sp lies; false: it lies on none. */
bool flow__stack_view(uintptr_t sp, struct flow__view *view);

/* Takes SIGURG for it, unless the program has a use for it; and gives it back. */
void flow__capture_open(void);
void flow__capture_close(void);

/* On a worker's thread as it begins, after the open: our threads have all signals blocked. */
void flow__capture_allow(void);

/* By one thread, while the worker's thread lives. The view is good until the next call, if
 * the worker has not gone on meanwhile, which the caller finds out. False: nothing could be seen. */
bool flow__capture(struct flow__worker *w, struct flow__registers *r, struct flow__view *view);

#endif
