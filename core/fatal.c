/* SPDX-License-Identifier: MIT
 *
 * Crash reports; see the header. The handler runs on the alternate signal stack of
 * whichever thread crashed. For the line it calls nothing but write(2), and reads the crashed
 * coroutine's control block, which nothing else writes meanwhile; for the backtrace that follows it
 * maps memory and files, and asks the loader (dl_iterate_phdr) for its modules. */
#include "core/fatal.h"

#include "core/capture.h"
#include "core/traces.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define SIGNAL_STACK_BYTES ((size_t)64 * 1024)

static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT};
static struct sigaction before[3];
static bool installed;
static flow__atomic(unsigned) openings;
static __thread unsigned reported[3]; /* in which opening, for each signal */

#define LINE_BYTES 512

static void put(struct flow__text *l)
{
    flow__text_add(l, "\n");
    flow__text_flush(l); /* if that fails there is nobody left to tell */
}

void flow__die(const char *what)
{
    char bytes[LINE_BYTES];
    struct flow__text l = {bytes, 0, sizeof bytes, STDERR_FILENO, 0};

    flow__text_add(&l, "flowcoro: ");
    flow__text_add(&l, what);
    put(&l);
    abort();
}

/* ---- the report ---- */

/* The slot of the coroutine that was running: by the stack pointer, or by a guard page that was touched
 * close to it. On aarch64 compilers lower sp by a page first and then touch what lies above it,
 * so that sp may be in the next slot by then. */
static char *slot_of_crash(uintptr_t fault, uintptr_t sp, int *class_index)
{
    char *slot = flow__stack_slot_of(fault, class_index);
    size_t page = flow__stacks.page_bytes;

    if (slot && fault - (uintptr_t)slot < page && sp <= fault && fault - sp < page)
        return slot;
    return flow__stack_slot_of(sp, class_index);
}

static bool is_overflow(uintptr_t fault, uintptr_t sp)
{
    int class_index;
    char *slot = flow__stack_slot_of(fault, &class_index);

    if (slot && fault - (uintptr_t)slot < flow__stacks.page_bytes)
        return true;
    /* A frame larger than the guard page: the fault is far, but sp has left the usable part. */
    slot = flow__stack_slot_of(sp, &class_index);
    return slot && sp - (uintptr_t)slot < flow__stacks.page_bytes;
}

/* If what it reads is broken too, it faults, and the system ends the program at once. */
static void put_trace(const struct flow__registers *at)
{
    struct flow__traces *traces = flow__traces_open();
    char bytes[LINE_BYTES];
    struct flow__text l = {bytes, 0, sizeof bytes, STDERR_FILENO, 0};
    struct flow__backtrace trace;
    struct flow__view view;

    if (traces && flow__stack_view(at->sp, &view)) {
        trace.n = flow__unwind(flow__traces_cache(traces), at, &view, trace.pc, FLOW__FRAMES,
                               &trace.complete);
        flow__trace_print(&trace, at->pc, flow__traces_symbols(traces), &l);
        flow__text_flush(&l);
    }
    flow__traces_close(traces);
}

static void report(int signo, const siginfo_t *info, const struct flow__registers *at)
{
    uintptr_t sp = at->sp, fault = (uintptr_t)info->si_addr;
    bool overflow = signo != SIGABRT && is_overflow(fault, sp);
    int class_index = 0;
    char *slot = slot_of_crash(fault, sp, &class_index);
    struct flow__task *t = slot ? flow__stack_header(slot)->task : NULL;
    char bytes[LINE_BYTES];
    struct flow__text l = {bytes, 0, sizeof bytes, STDERR_FILENO, 0};
    struct flow__detail *detail;

    if (!t)
        return;
    overflow = overflow || !flow__stack_intact(slot);
    detail = load_relaxed(&t->detail);
    flow__text_add(&l, overflow ? "flowcoro: stack overflow in coroutine "
                                : "flowcoro: crash in coroutine ");
    flow__text_hex(&l, flow__id_of(t, load_relaxed(&t->life)));
    flow__text_add(&l, " \"");
    flow__text_add(&l, detail ? detail->name : "");
    flow__text_add(&l, "\", spawned at ");
    flow__text_hex(&l, (uintptr_t)t->spawn_site);
    flow__text_add(&l, ", stack class ");
    flow__text_number(&l, flow__stack_bytes(class_index) / 1024);
    flow__text_add(&l, " KiB, signal ");
    flow__text_number(&l, (uint64_t)signo);
    if (signo != SIGABRT) {
        flow__text_add(&l, ", address ");
        flow__text_hex(&l, fault);
    }
    flow__text_add(&l, ", pc ");
    flow__text_hex(&l, at->pc);
    put(&l);
    put_trace(at);
}

/* Makes way for the handler before ours. False: that one has called us, as one does that the program has set in
 * an earlier run of the runtime on top of ours. Then it is the system's turn. */
static bool step_aside(int signo)
{
    unsigned opening = load_relaxed(&openings);
    int i = 0;

    while (i < 2 && signals[i] != signo)
        i++;
    if (reported[i] == opening) {
        signal(signo, SIG_DFL);
        return false;
    }
    reported[i] = opening;
    sigaction(signo, &before[i], NULL);
    return true;
}

static void on_fatal(int signo, siginfo_t *info, void *context)
{
    struct flow__registers at;

    if (step_aside(signo)) {
        flow__take_registers(&at, context);
        report(signo, info, &at);
    }
    /* A fault happens again on return, now for the program's own handler or the
     * default one, which leaves a core of the place where it happened. A raised signal must be
     * raised again. */
    if (signo == SIGABRT || info->si_code <= 0)
        raise(signo);
}

void flow__fatal_open(void)
{
    struct sigaction action = {.sa_sigaction = on_fatal, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    sigemptyset(&action.sa_mask);
    fetch_add_relaxed(&openings, 1);
    for (int i = 0; i < 3; i++)
        sigaction(signals[i], &action, &before[i]);
    installed = true;
}

void flow__fatal_close(void)
{
    struct sigaction now;

    if (!installed)
        return;
    installed = false;
    for (int i = 0; i < 3; i++)
        if (!sigaction(signals[i], NULL, &now) && now.sa_sigaction == on_fatal)
            sigaction(signals[i], &before[i], NULL);
}

void flow__fatal_stack_open(void **stack)
{
    stack_t old, mine = {.ss_size = SIGNAL_STACK_BYTES};

    *stack = NULL;
    if (sigaltstack(NULL, &old) || !(old.ss_flags & SS_DISABLE))
        return;
    mine.ss_sp = flow__sys.map(SIGNAL_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_STACK);
    if (!mine.ss_sp)
        return; /* a crash will then be silent, nothing else changes */
    if (sigaltstack(&mine, NULL)) {
        flow__sys.unmap(mine.ss_sp, SIGNAL_STACK_BYTES);
        return;
    }
    *stack = mine.ss_sp;
}

void flow__fatal_stack_close(void **stack)
{
    stack_t off = {.ss_flags = SS_DISABLE};

    if (!*stack)
        return;
    sigaltstack(&off, NULL);
    flow__sys.unmap(*stack, SIGNAL_STACK_BYTES);
    *stack = NULL;
}
