/*
 * The one place where a thread changes stacks, and what C and assembly agree on about it.
 *
 * A context that is not running is one pointer: its stack pointer, below which nothing is kept and
 * at which flow__switch or flow__call has laid the callee-saved registers and the return address.
 * Both lay the same frame, so either kind of suspended context can be resumed by flow__switch, and
 * the unwind tables stay true on both sides of the moment at which the stack pointer changes.
 *
 * The floating-point control registers belong to the thread and are not part of a context: saving
 * them costs several times the switch. Who needs them kept calls flow__fp_save and flow__fp_load.
 */
#ifndef FLOW__ARCH_SWITCH_H
#define FLOW__ARCH_SWITCH_H

#define FLOW__CONTEXT_SP 0 /* offset of sp in struct flow__context; switch.S knows it */

#ifndef __ASSEMBLER__

#include <stddef.h>
#include <stdint.h>

struct flow__context {
	void *sp; /* known to switch.S */
};

_Static_assert(offsetof(struct flow__context, sp) == FLOW__CONTEXT_SP, "switch.S reads sp here");
_Static_assert(sizeof(void *) == 8, "switch.S moves 64-bit words");

/*
 * Saves the callee-saved registers on the current stack, stores the stack pointer in from->sp and
 * goes on in `to`, whose own flow__switch or flow__call returns `value`. `to` must be suspended,
 * and is used up: it must be saved again before it is resumed again.
 * `from` may be resumed by any thread as soon as from->sp is stored and the store is visible there,
 * but no earlier than the code that goes on in `to` says so: until then this thread is on its stack.
 */
__attribute__((visibility("hidden")))
long flow__switch(struct flow__context *from, struct flow__context *to, long value);

/*
 * Saves the current context in *from exactly as flow__switch does, moves to the stack that ends at
 * stack_top (16-byte aligned) and calls entry(arg) there.
 * If entry returns, the caller's stack is taken back and entry's value is returned by an ordinary
 * return, which the CPU predicts. If instead somebody does flow__switch(x, from, v), flow__call
 * returns v on the caller's stack, and from then on entry must never return.
 * Backtraces of what runs on the new stack end here.
 */
__attribute__((visibility("hidden")))
long flow__call(struct flow__context *from, void *stack_top, long (*entry)(void *arg), void *arg);

/* The stack pointer, read anew at each call: never kept from before a switch. */
static inline uintptr_t flow__stack_pointer(void)
{
	uintptr_t sp;
#if defined(__x86_64__)
	__asm__ volatile("mov %%rsp, %0" : "=r"(sp));
#elif defined(__aarch64__)
	__asm__ volatile("mov %0, sp" : "=r"(sp));
#else
#error "no flow__stack_pointer for this CPU"
#endif
	return sp;
}

/* Rounding, traps and precision: what <fenv.h> sets in the CPU for one thread. */
struct flow__fp_environment {
#if defined(__x86_64__)
	uint32_t mxcsr;
	uint16_t x87_control;
#else
	uint64_t fpcr;
#endif
};

/* What a thread starts with: round to nearest, nothing traps. */
static const struct flow__fp_environment flow__fp_default = {
#if defined(__x86_64__)
	.mxcsr = 0x1f80, .x87_control = 0x037f,
#else
	.fpcr = 0,
#endif
};

static inline void flow__fp_save(struct flow__fp_environment *environment)
{
#if defined(__x86_64__)
	__asm__ volatile("stmxcsr %0" : "=m"(environment->mxcsr));
	__asm__ volatile("fnstcw %0" : "=m"(environment->x87_control));
#else
	__asm__ volatile("mrs %0, fpcr" : "=r"(environment->fpcr));
#endif
}

/* The memory clobber orders it against calls and stores; arithmetic in registers may still move over it. */
static inline void flow__fp_load(const struct flow__fp_environment *environment)
{
#if defined(__x86_64__)
	__asm__ volatile("ldmxcsr %0" : : "m"(environment->mxcsr) : "memory");
	__asm__ volatile("fldcw %0" : : "m"(environment->x87_control) : "memory");
#else
	__asm__ volatile("msr fpcr, %0" : : "r"(environment->fpcr) : "memory");
#endif
}

#endif /* __ASSEMBLER__ */
#endif
