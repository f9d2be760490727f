/* SPDX-License-Identifier: MIT
 *
 * See the header. Two ways, for a signal interrupts some blocking calls for good (nanosleep, poll and
 * all that have a time limit return EINTR), and must not change what the program does:
 *   blocked in the kernel  the kernel tells where, in /proc/self/task/TID/syscall, and the thread is
 *       not touched. Only the program counter and the stack pointer are known: the walk ends at
 *       the first function that keeps a frame pointer, if its callee has not saved that.
 *   running                a signal, whose handler copies the registers and the stack. The
 *       thread may be entering a blocking call at this moment; that is the one thing this may disturb.
 * SIGURG is ignored by default and next to nobody uses it; Go takes it for a like purpose. */
#include "core/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#define SIGNAL      SIGURG
#define COPY_BYTES  ((size_t)16 * 1024) /* of the innermost frames */
#define PATIENCE_NS FLOW_MS(20)

enum { NOBODY, ASKED, ANSWERS, ANSWERED };

static struct {
    bool installed;
    struct sigaction before;
    flow__atomic(uint32_t) state;
    struct flow__worker *asked; /* before ASKED */
    /* Written by the handler between ANSWERS and ANSWERED. */
    struct flow__registers registers;
    uintptr_t low, high;
    uintptr_t copy[COPY_BYTES / sizeof(uintptr_t)];
} capture;

/* On a stack that has overflowed sp lies where nothing can be read. */
bool flow__stack_view(uintptr_t sp, struct flow__view *view)
{
    int class_index;
    char *slot = flow__stack_slot_of(sp, &class_index);
    uintptr_t low = (uintptr_t)slot + flow__stacks.page_bytes;

    if (!slot || sp % 8)
        return false;
    view->low = sp > low ? sp : low;
    view->high = (uintptr_t)flow__stack_header(slot);
    view->bytes = (const char *)view->low;
    return view->high > sp;
}

/* ---- by the kernel ---- */

/* "running", or the call's number and arguments, or -1, and at the end sp and pc. */
static bool read_place(int tid, char *text, size_t bytes)
{
    char path[64];
    ssize_t n;
    int fd;

    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", tid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    n = read(fd, text, bytes - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

static bool look_while_blocked(const char *place, struct flow__registers *r,
                               struct flow__view *view)
{
    const char *pc = strrchr(place, ' '), *sp = pc;

    while (sp && sp > place && *--sp != ' ')
        ;
    if (!pc || sp == place)
        return false;
    memset(r, 0, sizeof *r);
    r->sp = strtoull(sp, NULL, 16);
    r->pc = strtoull(pc, NULL, 16);
    r->interrupted = true;
    return flow__stack_view(r->sp, view);
}

/* ---- by a signal ---- */

void flow__take_registers(struct flow__registers *r, const ucontext_t *context)
{
#if defined(__x86_64__)
    const greg_t *from = context->uc_mcontext.gregs;

    r->pc = (uintptr_t)from[REG_RIP];
    r->sp = (uintptr_t)from[REG_RSP];
    r->kept[FLOW__RBX] = (uintptr_t)from[REG_RBX];
    r->kept[FLOW__RBP] = (uintptr_t)from[REG_RBP];
    r->kept[FLOW__R12] = (uintptr_t)from[REG_R12];
    r->kept[FLOW__R13] = (uintptr_t)from[REG_R13];
    r->kept[FLOW__R14] = (uintptr_t)from[REG_R14];
    r->kept[FLOW__R15] = (uintptr_t)from[REG_R15];
#elif defined(__aarch64__)
    r->pc = (uintptr_t)context->uc_mcontext.pc;
    r->sp = (uintptr_t)context->uc_mcontext.sp;
    for (int i = 0; i < FLOW__KEPT; i++)
        r->kept[i] = (uintptr_t)context->uc_mcontext.regs[19 + i];
#endif
    r->known = (1u << FLOW__KEPT) - 1;
    r->interrupted = true;
}

/* Unsanitized: a stack is full of what sanitizers forbid to touch. */
static flow__unsanitized void copy_stack(const struct flow__view *stack)
{
    const volatile uintptr_t *from = (const volatile uintptr_t *)stack->low;
    size_t words = (stack->high - stack->low) / sizeof *from;

    if (words > COPY_BYTES / sizeof *from)
        words = COPY_BYTES / sizeof *from;
    for (size_t i = 0; i < words; i++)
        capture.copy[i] = from[i];
    capture.low = stack->low;
    capture.high = stack->low + words * sizeof *from;
}

static void on_signal(int signo, siginfo_t *info, void *context)
{
    struct flow__view stack;
    uint32_t state = ASKED;

    (void)signo, (void)info;
    /* It may be somebody else's, or come too late. */
    if (load_seq(&capture.state) != ASKED || capture.asked != flow__owned_worker ||
        !cas_seq(&capture.state, &state, ANSWERS))
        return;
    flow__take_registers(&capture.registers, context);
    capture.high = 0;
    if (flow__stack_view(capture.registers.sp, &stack))
        copy_stack(&stack);
    exchange_seq(&capture.state, ANSWERED);
    flow__sys.futex_wake(&capture.state, 1);
}

/* Waits for the answer, or takes the question back. */
static bool await_answer(void)
{
    int64_t deadline = flow__sys.now() + PATIENCE_NS;
    uint32_t state;

    while ((state = load_seq(&capture.state)) != ANSWERED) {
        if (state == ASKED && flow__sys.now() >= deadline &&
            cas_seq(&capture.state, &state, NOBODY))
            return false;
        flow__sys.futex_wait(&capture.state, state, state == ASKED ? deadline : FLOW_FOREVER);
    }
    exchange_seq(&capture.state, NOBODY);
    return capture.high != 0;
}

static bool ask(struct flow__worker *w, struct flow__registers *r, struct flow__view *view)
{
    struct sigaction now;
    int kept = errno;

    if (!capture.installed || sigaction(SIGNAL, NULL, &now) || now.sa_sigaction != on_signal)
        return false;
    capture.asked = w;
    exchange_seq(&capture.state, ASKED);
    if (pthread_kill(w->thread, SIGNAL))
        exchange_seq(&capture.state, NOBODY);
    else if (await_answer()) {
        *r = capture.registers;
        *view = (struct flow__view){capture.low, capture.high, (const char *)capture.copy};
        errno = kept;
        return true;
    }
    errno = kept;
    return false;
}

bool flow__capture(struct flow__worker *w, struct flow__registers *r, struct flow__view *view)
{
    char place[256];

    if (!read_place(load_relaxed(&w->tid), place, sizeof place))
        return false;
    return strncmp(place, "running", 7) ? look_while_blocked(place, r, view) : ask(w, r, view);
}

void flow__capture_open(void)
{
    struct sigaction action = {.sa_sigaction = on_signal,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};

    if (sigaction(SIGNAL, NULL, &capture.before) || (capture.before.sa_flags & SA_SIGINFO) ||
        capture.before.sa_handler != SIG_DFL)
        return;
    sigemptyset(&action.sa_mask);
    capture.installed = !sigaction(SIGNAL, &action, NULL);
}

void flow__capture_allow(void)
{
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGNAL);
    if (capture.installed)
        pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
}

void flow__capture_close(void)
{
    struct sigaction now;

    if (capture.installed && !sigaction(SIGNAL, NULL, &now) && now.sa_sigaction == on_signal)
        sigaction(SIGNAL, &capture.before, NULL);
    capture.installed = false;
}
