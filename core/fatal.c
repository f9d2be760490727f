/* SPDX-License-Identifier: MIT
 *
 * Crash reports; see the header. The handler runs on the alternate signal stack of
 * whichever thread crashed and calls nothing but write(2), sigaction and raise. It
 * reads the crashed coroutine's control block, which nothing else writes meanwhile. */
#include "core/fatal.h"

#include "core/worker.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define SIGNAL_STACK_BYTES ((size_t)64 * 1024)

static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT};
static struct sigaction before[3];
static bool installed;

/* ---- a line of text without stdio ---- */

struct line {
    char text[512];
    size_t n;
};

static void add(struct line *l, const char *s)
{
    while (*s && l->n < sizeof l->text - 1)
        l->text[l->n++] = *s++;
}

static void add_number(struct line *l, uint64_t v, unsigned base)
{
    char digits[24];
    int i = sizeof digits;

    digits[--i] = 0;
    do
        digits[--i] = "0123456789abcdef"[v % base];
    while (v /= base);
    if (base == 16)
        add(l, "0x");
    add(l, digits + i);
}

static void put(struct line *l)
{
    add(l, "\n");
    if (write(STDERR_FILENO, l->text, l->n) < 0)
        return; /* there is nobody left to tell */
}

void flow__die(const char *what)
{
    struct line l = {.n = 0};

    add(&l, "flowcoro: ");
    add(&l, what);
    put(&l);
    abort();
}

/* ---- the report ---- */

static uintptr_t program_counter(const ucontext_t *context)
{
#if defined(__x86_64__)
    return (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return (uintptr_t)context->uc_mcontext.pc;
#endif
}

static uintptr_t stack_pointer(const ucontext_t *context)
{
#if defined(__x86_64__)
    return (uintptr_t)context->uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
    return (uintptr_t)context->uc_mcontext.sp;
#endif
}

/* The coroutine that was running: by the stack pointer or, when that has run off
 * its slot into the guard page or beyond, by the address that could not be touched. */
static struct flow__task *task_at(uintptr_t sp, int *class_index)
{
    char *slot = flow__stack_slot_of(sp, class_index);

    return slot ? flow__stack_header(slot)->task : NULL;
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

static void report(int signo, const siginfo_t *info, const ucontext_t *context)
{
    uintptr_t sp = stack_pointer(context), fault = (uintptr_t)info->si_addr;
    bool overflow = signo != SIGABRT && is_overflow(fault, sp);
    int class_index = 0;
    struct flow__task *t = task_at(sp, &class_index);
    const char *slot = flow__stack_slot_of(sp, &class_index);
    struct line l = {.n = 0};
    struct flow__detail *detail;

    if (!t)
        return;
    overflow = overflow || !flow__stack_intact(slot);
    detail = load_relaxed(&t->detail);
    add(&l, overflow ? "flowcoro: stack overflow in coroutine " : "flowcoro: crash in coroutine ");
    add_number(&l, flow__id_of(t, load_relaxed(&t->life)), 16);
    add(&l, " \"");
    add(&l, detail ? detail->name : "");
    add(&l, "\", spawned at ");
    add_number(&l, (uintptr_t)t->spawn_site, 16);
    add(&l, ", stack class ");
    add_number(&l, flow__stack_bytes(class_index) / 1024, 10);
    add(&l, " KiB, signal ");
    add_number(&l, (uint64_t)signo, 10);
    if (signo != SIGABRT) {
        add(&l, ", address ");
        add_number(&l, fault, 16);
    }
    add(&l, ", pc ");
    add_number(&l, program_counter(context), 16);
    put(&l);
}

static void on_fatal(int signo, siginfo_t *info, void *context)
{
    for (int i = 0; i < 3; i++)
        if (signals[i] == signo)
            sigaction(signo, &before[i], NULL);
    report(signo, info, context);
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
