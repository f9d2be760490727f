/* SPDX-License-Identifier: MIT
 *
 * Crash reports; see the header. The handler runs on the alternate signal stack of
 * whichever thread crashed. For the line it calls nothing but write(2), and reads the crashed
 * coroutine's control block, which nothing else writes meanwhile; for the backtrace that follows it
 * maps memory and files, and asks the loader (dl_iterate_phdr) for its modules. It stays installed while the
 * program's own handler mends faults. */
#include "core/fatal.h"

#include "core/capture.h"
#include "core/traces.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define SIGNAL_STACK_BYTES ((size_t)64 * 1024)
#define SMALL_STACK_BYTES  ((size_t)32 * 1024) /* below it, there is no room for a backtrace */
#define LINE_BYTES         512

/* An alternate stack of ours, and behind its end the one that the thread had. */
struct signal_stack {
    char bytes[SIGNAL_STACK_BYTES];
    stack_t before;
};

static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT};
static struct sigaction before[3];
static bool installed;
static flow__atomic(unsigned) openings;

/* For each signal, whose crash this thread has reported last, so that one that comes again and again
 * is reported once. */
static __thread struct {
    unsigned opening;
    uint64_t id;
} reported[3];

/* What this thread has just passed on to the program's handler, and from where. */
static __thread struct passed {
    const void *context, *frame;
} passed;

static int index_of(int signo)
{
    int i = 0;

    while (i < 2 && signals[i] != signo)
        i++;
    return i;
}

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

static bool is_overflow(int signo, uintptr_t fault, uintptr_t sp)
{
    int class_index;
    char *slot = flow__stack_slot_of(fault, &class_index);

    if (signo == SIGABRT)
        return false;
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

static bool is_reported(int signo, uint64_t id)
{
    unsigned opening = load_relaxed(&openings);
    int i = index_of(signo);

    if (reported[i].opening == opening && reported[i].id == id)
        return true;
    reported[i].opening = opening;
    reported[i].id = id;
    return false;
}

static void report(int signo, const siginfo_t *info, const struct flow__registers *at)
{
    uintptr_t sp = at->sp, fault = (uintptr_t)info->si_addr;
    bool overflow = is_overflow(signo, fault, sp);
    int class_index = 0;
    char *slot = slot_of_crash(fault, sp, &class_index);
    struct flow__task *t = slot ? flow__stack_header(slot)->task : NULL;
    char bytes[LINE_BYTES];
    struct flow__text l = {bytes, 0, sizeof bytes, STDERR_FILENO, 0};
    struct flow__detail *detail;
    uint64_t id;

    if (!t)
        return;
    id = flow__id_of(t, load_relaxed(&t->life));
    if (is_reported(signo, id))
        return;
    overflow = overflow || !flow__stack_intact(slot);
    detail = load_relaxed(&t->detail);
    flow__text_add(&l, overflow ? "flowcoro: stack overflow in coroutine "
                                : "flowcoro: crash in coroutine ");
    flow__text_hex(&l, id);
    flow__text_add(&l, " ");
    flow__text_name(&l, detail ? detail->name : "");
    flow__text_add(&l, ", spawned at ");
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

/* ---- the handler ---- */

/* An ignored fault ends the program none the less; an ignored signal that was sent does not. */
static bool is_theirs(const struct sigaction *theirs, const siginfo_t *info)
{
    return theirs->sa_handler == SIG_IGN ? info->si_code <= 0 : theirs->sa_handler != SIG_DFL;
}

/* As the kernel would; what it blocks is blocked since ours runs. */
static void call_theirs(const struct sigaction *theirs, int signo, siginfo_t *info, void *context)
{
    sigset_t this_one;

    if (theirs->sa_handler == SIG_IGN)
        return;
    if (theirs->sa_flags & SA_RESETHAND)
        signal(signo, SIG_DFL);
    if (theirs->sa_flags & SA_NODEFER) {
        sigemptyset(&this_one);
        sigaddset(&this_one, signo);
        pthread_sigmask(SIG_UNBLOCK, &this_one, NULL);
    }
    if (theirs->sa_flags & SA_SIGINFO)
        theirs->sa_sigaction(signo, info, context);
    else
        theirs->sa_handler(signo);
}

/* A fault that theirs may mend is no crash before theirs has given it up. */
static void pass_on(const struct sigaction *theirs, int signo, siginfo_t *info, void *context,
                    const struct flow__registers *at)
{
    struct sigaction now;

    if (signo == SIGABRT || is_overflow(signo, (uintptr_t)info->si_addr, at->sp))
        report(signo, info, at);
    call_theirs(theirs, signo, info, context);
    if (!sigaction(signo, NULL, &now) && now.sa_handler == SIG_DFL)
        report(signo, info, at);
}

static void end_by_default(int signo, const siginfo_t *info, const struct flow__registers *at)
{
    report(signo, info, at);
    signal(signo, SIG_DFL);
    /* A fault happens again on return, and leaves a core of the place where it happened. A raised signal
     * must be raised again. */
    if (signo == SIGABRT || info->si_code <= 0)
        raise(signo);
}

/* A handler that the program has set in an earlier run of the runtime on top of ours calls ours in its turn: with
 * the same context, from further down the stack than the system does. Then there is nobody left to ask. (After a
 * longjmp out of the program's handler `passed` is stale, but the system's call comes from the same place.) */
static void on_fatal(int signo, siginfo_t *info, void *context)
{
    struct sigaction theirs = before[index_of(signo)];
    struct passed outer = passed, here = {context, __builtin_frame_address(0)};
    struct flow__registers at;
    int kept = errno;

    flow__take_registers(&at, context);
    if (!is_theirs(&theirs, info) || (here.context == outer.context && here.frame != outer.frame)) {
        end_by_default(signo, info, &at);
    } else {
        passed = here;
        pass_on(&theirs, signo, info, context, &at);
        passed = outer;
    }
    errno = kept;
}

void flow__fatal_open(void)
{
    struct sigaction action = {.sa_sigaction = on_fatal};

    fetch_add_relaxed(&openings, 1);
    for (int i = 0; i < 3; i++) {
        sigaction(signals[i], NULL, &before[i]);
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | (before[i].sa_flags & SA_RESTART);
        action.sa_mask = before[i].sa_mask;
        sigaction(signals[i], &action, NULL);
    }
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
    struct signal_stack *mine;
    stack_t old, now = {.ss_size = SIGNAL_STACK_BYTES};

    *stack = NULL;
    if (sigaltstack(NULL, &old) || (!(old.ss_flags & SS_DISABLE) && old.ss_size >= SMALL_STACK_BYTES))
        return;
    mine = flow__sys.map(sizeof *mine, PROT_READ | PROT_WRITE, MAP_STACK);
    if (!mine)
        return; /* a crash will then be silent, nothing else changes */
    now.ss_sp = mine->bytes;
    mine->before = old;
    if (sigaltstack(&now, NULL)) {
        flow__sys.unmap(mine, sizeof *mine);
        return;
    }
    *stack = mine;
}

void flow__fatal_stack_close(void **stack)
{
    struct signal_stack *mine = *stack;

    if (!mine)
        return;
    sigaltstack(&mine->before, NULL);
    flow__sys.unmap(mine, sizeof *mine);
    *stack = NULL;
}
