/* SPDX-License-Identifier: MIT
 *
 * A strand is a place to go on from: a saved context, and what the sanitizers
 * need to know of its stack. A task has one, a worker has one for its scheduler.
 * This is the only file that knows of sanitizers' fibers; in a plain build a
 * strand is a stack pointer and flow__go is the bare switch. */
#ifndef FLOW_CORE_STRAND_H
#define FLOW_CORE_STRAND_H

#include "core/arch/switch.h"

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define FLOW__ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FLOW__ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define FLOW__TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define FLOW__TSAN 1
#endif

#ifdef FLOW__ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif
#ifdef FLOW__TSAN
#include <sanitizer/tsan_interface.h>
#endif

#ifdef FLOW_VALGRIND /* memcheck is told where stacks lie */
#include <valgrind/memcheck.h>
#endif

/* ThreadSanitizer takes a switch for synchronisation: what a coroutine did comes before all that its
 * worker does later. True, but it hides races that would show had the two coroutines been on
 * two workers. With FLOW_TSAN_NO_SYNC it does not, and what orders coroutines is what the library
 * promises: its atomics, and, where a switch or the owner's plain memory comes last, these two: a task
 * begins after its spawn, goes on after who has woken it, and who called it goes on after it. */
#if defined(FLOW__TSAN) && defined(FLOW_TSAN_NO_SYNC)
/* With workers = 0 a switch is synchronisation even so: one thread runs all, no two can meet, and who
 * drives may look at what was done meanwhile. */
extern unsigned flow__tsan_switch __attribute__((visibility("hidden")));
#define FLOW__TSAN_SWITCH          flow__tsan_switch
#define flow__tsan_driven(yes)     (flow__tsan_switch = (yes) ? 0 : __tsan_switch_to_fiber_no_sync)
#define flow__tsan_before(address) __tsan_release(address)
#define flow__tsan_after(address)  __tsan_acquire(address)
#else
#define FLOW__TSAN_SWITCH          0
#define flow__tsan_driven(yes)     ((void)(yes))
#define flow__tsan_before(address) ((void)(address))
#define flow__tsan_after(address)  ((void)(address))
#endif

/* For code that changes stacks: the sanitizers' own notes at a function's entry and exit would
 * be made on two stacks. For the same reason what calls a switch is always inlined. */
#if defined(__clang__)
#define flow__unsanitized                                                                          \
    __attribute__((disable_sanitizer_instrumentation,                                              \
                   no_sanitize("address", "thread", "undefined")))
#else
#define flow__unsanitized __attribute__((no_sanitize_address, no_sanitize_thread))
#endif
#define flow__always_inline __attribute__((always_inline))

struct flow__strand {
    struct flow__context context;
#ifdef FLOW__ASAN
    void *fake_stack;
    const void *stack_low;
    size_t stack_bytes;
#endif
#ifdef FLOW__TSAN
    void *fiber;
#endif
};

/* flow__switch, its value taken as an int: so a caller that returns an int can end in
 * it with a jump, and costs no frame whose return would be mispredicted. */
__attribute__((visibility("hidden"))) int flow__switch_status(struct flow__context *from,
                                                              struct flow__context *to,
                                                              long value) __asm__("flow__switch");

/* What the return of flow__go or flow__call means. */
enum {
    FLOW__FINISHED = 0,  /* flow__call: the task came to its end */
    FLOW__SUSPENDED = 1, /* the task will be resumed by its scheduler */
};

/* Leaves `from`, which goes on when somebody goes to it; its flow__go then returns their value. */
static inline flow__always_inline int flow__go(struct flow__strand *from, struct flow__strand *to,
                                               long value)
{
#ifdef FLOW__ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack_low, to->stack_bytes);
#endif
#ifdef FLOW__TSAN
    __tsan_switch_to_fiber(to->fiber, FLOW__TSAN_SWITCH);
#endif
    flow__tsan_after(to);
#ifdef FLOW__ASAN
    int r = flow__switch_status(&from->context, &to->context, value);
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
    return r;
#else
    return flow__switch_status(&from->context, &to->context, value);
#endif
}

/* Leaves a stack for good. */
_Noreturn static inline flow__always_inline void flow__go_last(struct flow__strand *from,
                                                               struct flow__strand *to, long value)
{
#ifdef FLOW__ASAN
    __sanitizer_start_switch_fiber(NULL, to->stack_low, to->stack_bytes);
#endif
#ifdef FLOW__TSAN
    __tsan_switch_to_fiber(to->fiber, FLOW__TSAN_SWITCH);
#endif
    flow__switch(&from->context, &to->context, value);
    __builtin_unreachable();
}

/* Around the call of a new stack's first function, on the caller's side. */
static inline flow__always_inline void flow__before_call(struct flow__strand *from,
                                                         struct flow__strand *callee)
{
    (void)from, (void)callee;
#ifdef FLOW__ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, callee->stack_low, callee->stack_bytes);
#endif
#ifdef FLOW__TSAN
    __tsan_switch_to_fiber(callee->fiber, FLOW__TSAN_SWITCH);
#endif
    flow__tsan_after(callee);
}

static inline flow__always_inline void flow__after_call(struct flow__strand *from)
{
    (void)from;
#ifdef FLOW__ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
    flow__tsan_after(from);
}

/* At the start of the first function of a new stack; tells where the caller's stack lies. */
static inline flow__always_inline void flow__arrive(struct flow__strand *caller)
{
    (void)caller;
#ifdef FLOW__ASAN
    __sanitizer_finish_switch_fiber(NULL, &caller->stack_low, &caller->stack_bytes);
#endif
}

/* Before that function returns to its caller. */
static inline flow__always_inline void flow__before_return(struct flow__strand *caller)
{
    (void)caller;
#ifdef FLOW__ASAN
    __sanitizer_start_switch_fiber(NULL, caller->stack_low, caller->stack_bytes);
#endif
#ifdef FLOW__TSAN
    __tsan_switch_to_fiber(caller->fiber, FLOW__TSAN_SWITCH);
#endif
}

#endif
