/*
 * The stack switch: every callee-saved register survives it, values go both ways, flow__call returns
 * by itself or is resumed, contexts nest, and a new stack starts aligned.
 *
 * What runs on another stack only records; cmocka's asserts longjmp, so they are made on the test's
 * own stack. With -DFLOW_TEST_PLAIN the same tests run without cmocka (see check_arm64.sh).
 */
#include "core/arch/switch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifdef FLOW_TEST_PLAIN
#define assert_true(condition) \
	((condition) ? (void)0 : plain_failure(#condition, __FILE__, __LINE__))
static void plain_failure(const char *condition, const char *file, int line)
{
	fprintf(stderr, "%s:%d: failed: %s\n", file, line, condition);
	exit(1);
}
#else
#include <cmocka.h>
#endif

enum {
	N_ROUND_TRIPS = 100000,
	N_PLAIN_CALLS = 100000,
	N_NESTED = 1000,
	STACK_BYTES = 16384,
	TIME_LIMIT_S = 120,
};

/*
 * One call with every callee-saved register set from `fill` before it and stored to `after` behind
 * it. The caller's own registers are kept, so a lost register shows as a difference, not as a crash.
 */
#if defined(__x86_64__)
#define ARCH "x86-64"
#define N_REGISTERS 6 /* rbx rbp r12-r15 */
#else
#define ARCH "aarch64"
#define N_REGISTERS 19 /* x19-x29 d8-d15 */
#endif

struct filled_call {
	uintptr_t function;
	uintptr_t argument[4];
	uint64_t fill[N_REGISTERS];
	uint64_t after[N_REGISTERS];
};
_Static_assert(offsetof(struct filled_call, fill) == 40, "call_filled knows it");
_Static_assert(offsetof(struct filled_call, after) == 40 + 8 * N_REGISTERS, "call_filled knows it");

long call_filled(struct filled_call *call);

#if defined(__x86_64__)
__asm__(
	"	.text\n"
	"	.globl	call_filled\n"
	"	.type	call_filled, @function\n"
	"call_filled:\n"
	"	endbr64\n"
	"	push	%rbx\n"
	"	push	%rbp\n"
	"	push	%r12\n"
	"	push	%r13\n"
	"	push	%r14\n"
	"	push	%r15\n"
	"	push	%rdi\n" /* also aligns the stack */
	"	mov	%rdi, %rax\n"
	"	mov	8(%rax), %rdi\n"
	"	mov	16(%rax), %rsi\n"
	"	mov	24(%rax), %rdx\n"
	"	mov	32(%rax), %rcx\n"
	"	mov	40(%rax), %rbx\n"
	"	mov	48(%rax), %rbp\n"
	"	mov	56(%rax), %r12\n"
	"	mov	64(%rax), %r13\n"
	"	mov	72(%rax), %r14\n"
	"	mov	80(%rax), %r15\n"
	"	call	*(%rax)\n"
	"	pop	%rcx\n"
	"	mov	%rbx, 88(%rcx)\n"
	"	mov	%rbp, 96(%rcx)\n"
	"	mov	%r12, 104(%rcx)\n"
	"	mov	%r13, 112(%rcx)\n"
	"	mov	%r14, 120(%rcx)\n"
	"	mov	%r15, 128(%rcx)\n"
	"	pop	%r15\n"
	"	pop	%r14\n"
	"	pop	%r13\n"
	"	pop	%r12\n"
	"	pop	%rbp\n"
	"	pop	%rbx\n"
	"	ret\n"
	"	.size	call_filled, . - call_filled\n");
#elif defined(__aarch64__)
__asm__(
	"	.text\n"
	"	.globl	call_filled\n"
	"	.type	call_filled, %function\n"
	"call_filled:\n"
	"	hint	34\n" /* bti c */
	"	stp	x29, x30, [sp, -176]!\n"
	"	stp	x19, x20, [sp, 16]\n"
	"	stp	x21, x22, [sp, 32]\n"
	"	stp	x23, x24, [sp, 48]\n"
	"	stp	x25, x26, [sp, 64]\n"
	"	stp	x27, x28, [sp, 80]\n"
	"	stp	d8, d9, [sp, 96]\n"
	"	stp	d10, d11, [sp, 112]\n"
	"	stp	d12, d13, [sp, 128]\n"
	"	stp	d14, d15, [sp, 144]\n"
	"	str	x0, [sp, 160]\n"
	"	mov	x9, x0\n"
	"	ldp	x0, x1, [x9, 8]\n"
	"	ldp	x2, x3, [x9, 24]\n"
	"	ldp	x19, x20, [x9, 40]\n"
	"	ldp	x21, x22, [x9, 56]\n"
	"	ldp	x23, x24, [x9, 72]\n"
	"	ldp	x25, x26, [x9, 88]\n"
	"	ldp	x27, x28, [x9, 104]\n"
	"	ldr	x29, [x9, 120]\n"
	"	ldp	d8, d9, [x9, 128]\n"
	"	ldp	d10, d11, [x9, 144]\n"
	"	ldp	d12, d13, [x9, 160]\n"
	"	ldp	d14, d15, [x9, 176]\n"
	"	ldr	x9, [x9]\n"
	"	blr	x9\n"
	"	ldr	x9, [sp, 160]\n"
	"	add	x9, x9, 192\n"
	"	stp	x19, x20, [x9]\n"
	"	stp	x21, x22, [x9, 16]\n"
	"	stp	x23, x24, [x9, 32]\n"
	"	stp	x25, x26, [x9, 48]\n"
	"	stp	x27, x28, [x9, 64]\n"
	"	str	x29, [x9, 80]\n"
	"	stp	d8, d9, [x9, 88]\n"
	"	stp	d10, d11, [x9, 104]\n"
	"	stp	d12, d13, [x9, 120]\n"
	"	stp	d14, d15, [x9, 136]\n"
	"	ldp	x19, x20, [sp, 16]\n"
	"	ldp	x21, x22, [sp, 32]\n"
	"	ldp	x23, x24, [sp, 48]\n"
	"	ldp	x25, x26, [sp, 64]\n"
	"	ldp	x27, x28, [sp, 80]\n"
	"	ldp	d8, d9, [sp, 96]\n"
	"	ldp	d10, d11, [sp, 112]\n"
	"	ldp	d12, d13, [sp, 128]\n"
	"	ldp	d14, d15, [sp, 144]\n"
	"	ldp	x29, x30, [sp], 176\n"
	"	ret\n"
	"	.size	call_filled, . - call_filled\n");
#endif

static uint64_t random_state;
static unsigned long n_switches; /* calls of flow__switch and flow__call whose registers were checked */

static uint64_t next_random(void) /* splitmix64 */
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static unsigned registers_lost(const struct filled_call *call)
{
	unsigned lost = 0;

	for (int i = 0; i < N_REGISTERS; i++)
		if (call->fill[i] != call->after[i])
			lost |= 1u << i;
	return lost;
}

static long call_with_random_registers(struct filled_call *call, unsigned *lost)
{
	for (int i = 0; i < N_REGISTERS; i++)
		call->fill[i] = next_random();
	long value = call_filled(call);
	*lost |= registers_lost(call);
	return value;
}

static long switch_filled(struct flow__context *from, struct flow__context *to, long value,
			  unsigned *lost)
{
	struct filled_call call = {
		.function = (uintptr_t)flow__switch,
		.argument = { (uintptr_t)from, (uintptr_t)to, (uintptr_t)value },
	};
	n_switches++;
	return call_with_random_registers(&call, lost);
}

static long call_entry_filled(struct flow__context *from, void *stack_top, long (*entry)(void *),
			      void *arg, unsigned *lost)
{
	struct filled_call call = {
		.function = (uintptr_t)flow__call,
		.argument = { (uintptr_t)from, (uintptr_t)stack_top, (uintptr_t)entry, (uintptr_t)arg },
	};
	n_switches++;
	return call_with_random_registers(&call, lost);
}

/* The top of a new stack; the tests' stacks live until the program ends. */
static void *new_stack_top(void)
{
	char *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(stack != MAP_FAILED);
	return stack + STACK_BYTES;
}

static bool on_stack(const char *stack_top)
{
	uintptr_t sp = flow__stack_pointer();

	return sp < (uintptr_t)stack_top && sp >= (uintptr_t)stack_top - STACK_BYTES;
}

/* A coroutine that answers each value with its complement until it is told to stop. */
struct echo {
	struct flow__context caller, self;
	const char *stack_top;
	unsigned lost;
	unsigned long n_off_stack;
	unsigned long n_resumed;
};

static long echo_entry(void *arg)
{
	struct echo *echo = arg;
	long value = 0;

	for (;;) {
		echo->n_off_stack += !on_stack(echo->stack_top);
		value = switch_filled(&echo->self, &echo->caller, ~value, &echo->lost);
		echo->n_resumed++;
	}
	return 0; /* never: the loop above has no end */
}

static void test_switch_keeps_registers_on_both_sides(void **state)
{
	struct echo echo = { .stack_top = new_stack_top() };
	unsigned lost = 0;
	unsigned long n_wrong_values = 0;

	(void)state;
	long first = call_entry_filled(&echo.caller, (void *)echo.stack_top, echo_entry, &echo, &lost);
	for (int i = 0; i < N_ROUND_TRIPS; i++) {
		long value = (long)next_random();
		n_wrong_values += switch_filled(&echo.caller, &echo.self, value, &lost) != ~value;
	}
	assert_true(first == ~0L);
	assert_true(lost == 0);
	assert_true(echo.lost == 0);
	assert_true(n_wrong_values == 0);
	assert_true(echo.n_off_stack == 0);
	assert_true(echo.n_resumed == N_ROUND_TRIPS);
}

/* Overwrites every callee-saved register by way of its own prologue and epilogue, then returns. */
static long returning_entry(void *arg)
{
	struct filled_call call = { .function = (uintptr_t)registers_lost };
	unsigned lost = 0;

	call.argument[0] = (uintptr_t)&call;
	call_with_random_registers(&call, &lost);
	return lost ? -1 : ~(long)arg;
}

static void test_call_returns_the_value_of_entry(void **state)
{
	void *stack_top = new_stack_top();
	struct flow__context caller;
	unsigned lost = 0;
	unsigned long n_wrong_values = 0;

	(void)state;
	for (int i = 0; i < N_PLAIN_CALLS; i++) {
		long value = (long)(next_random() >> 1);
		n_wrong_values += call_entry_filled(&caller, stack_top, returning_entry, (void *)value,
						    &lost) != ~value;
	}
	assert_true(lost == 0);
	assert_true(n_wrong_values == 0);
}

/* A chain of N_NESTED stacks: each level calls the next from its own stack. */
struct level {
	struct flow__context caller, self;
	const char *stack_top;
	struct level *next; /* NULL at the deepest */
	bool returns;       /* by itself; else it switches back and is resumed twice */
	bool wrong;
	unsigned lost;
	long resumed_with[2];
};

static long level_entry(void *arg)
{
	struct level *level = arg;
	struct level *next = level->next;
	long depth = 1;

	if (next)
		depth += call_entry_filled(&next->caller, (void *)next->stack_top, level_entry, next,
					   &level->lost);
	level->wrong = !on_stack(level->stack_top);
	if (level->returns)
		return depth;
	level->resumed_with[0] = switch_filled(&level->self, &level->caller, depth, &level->lost);
	level->wrong |= !on_stack(level->stack_top);
	level->resumed_with[1] = switch_filled(&level->self, &level->caller, ~depth, &level->lost);
	abort(); /* its caller has gone on: there is nothing to return to */
}

static struct level *new_chain(bool returns)
{
	struct level *levels = calloc(N_NESTED, sizeof(*levels));

	assert_true(levels != NULL);
	for (int i = 0; i < N_NESTED; i++) {
		levels[i].stack_top = new_stack_top();
		levels[i].returns = returns;
		levels[i].next = i + 1 < N_NESTED ? &levels[i + 1] : NULL;
	}
	return levels;
}

static void free_chain(struct level *levels)
{
	for (int i = 0; i < N_NESTED; i++)
		munmap((char *)levels[i].stack_top - STACK_BYTES, STACK_BYTES);
	free(levels);
}

static void assert_chain_sound(const struct level *levels)
{
	for (int i = 0; i < N_NESTED; i++)
		assert_true(!levels[i].wrong && levels[i].lost == 0);
}

static void test_nested_calls_return(void **state)
{
	struct level *levels = new_chain(true);
	unsigned lost = 0;

	(void)state;
	long depth = call_entry_filled(&levels->caller, (void *)levels->stack_top, level_entry, levels,
				       &lost);
	assert_true(depth == N_NESTED);
	assert_true(lost == 0);
	assert_chain_sound(levels);
	free_chain(levels);
}

static void shuffle(int *order, int n)
{
	for (int i = 0; i < n; i++)
		order[i] = i;
	for (int i = n - 1; i > 0; i--) {
		int j = (int)(next_random() % (unsigned)(i + 1)), swapped = order[i];
		order[i] = order[j];
		order[j] = swapped;
	}
}

static void test_nested_calls_switch_away_and_are_resumed(void **state)
{
	static int order[N_NESTED];
	struct level *levels = new_chain(false);
	unsigned lost = 0;
	unsigned long n_wrong = 0;

	(void)state;
	long depth = call_entry_filled(&levels->caller, (void *)levels->stack_top, level_entry, levels,
				       &lost);
	assert_true(depth == N_NESTED);
	shuffle(order, N_NESTED);
	for (int i = 0; i < N_NESTED; i++) {
		struct level *level = &levels[order[i]];
		long value = switch_filled(&level->caller, &level->self, order[i], &lost);
		n_wrong += value != ~(long)(N_NESTED - order[i]);
		n_wrong += level->resumed_with[0] != order[i];
	}
	assert_true(n_wrong == 0);
	assert_true(lost == 0);
	assert_chain_sound(levels);
	free_chain(levels);
}

struct alignment {
	uintptr_t frame, vector;
	double third;
};

static long alignment_entry(void *arg)
{
	struct alignment *alignment = arg;
	_Alignas(16) char vector[16];
	void *address = vector;

	alignment->frame = (uintptr_t)__builtin_frame_address(0);
	__asm__ volatile("" : "+r"(address)); /* else the compiler folds the check to what it assumes */
	alignment->vector = (uintptr_t)address;
#if defined(__x86_64__)
	if (alignment->vector % 16 == 0)
		__asm__ volatile("movaps %%xmm0, (%0)" : : "r"(address) : "memory");
#endif
	return 0;
}

static void test_new_stack_is_aligned(void **state)
{
	char *stack_top = new_stack_top();
	struct flow__context caller;

	(void)state;
	for (int offset = 0; offset < 256; offset += 16) {
		struct alignment alignment = { .frame = 1, .vector = 1 };
		flow__call(&caller, stack_top - offset, alignment_entry, &alignment);
		assert_true(alignment.frame % 16 == 0);
		assert_true(alignment.vector % 16 == 0);
	}
}

static long fp_entry(void *arg)
{
	struct flow__fp_environment *seen = arg;

	flow__fp_save(seen);
	flow__fp_load(&flow__fp_default);
	return 0;
}

static double third(void)
{
	volatile double one = 1, three = 3;

	return one / three;
}

static bool same_control(struct flow__fp_environment a, struct flow__fp_environment b)
{
#if defined(__x86_64__)
	const uint32_t flags = 0x3f; /* what has happened so far, not how to go on */
	return (a.mxcsr & ~flags) == (b.mxcsr & ~flags) && a.x87_control == b.x87_control;
#else
	return a.fpcr == b.fpcr;
#endif
}

static void test_fp_environment_belongs_to_the_thread(void **state)
{
	struct flow__fp_environment at_start, upwards = flow__fp_default, in_entry, after;
	struct flow__context caller;

	(void)state;
#if defined(__x86_64__)
	upwards.mxcsr |= 2u << 13;
	upwards.x87_control |= 2u << 10;
#else
	upwards.fpcr |= 1u << 22;
#endif
	flow__fp_save(&at_start);
	double nearest = third();
	flow__fp_load(&upwards);
	double rounded_up = third();
	flow__call(&caller, new_stack_top(), fp_entry, &in_entry);
	flow__fp_save(&after);
	double nearest_again = third();
	flow__fp_load(&at_start);

	assert_true(same_control(at_start, flow__fp_default));
	assert_true(same_control(in_entry, upwards));
	assert_true(same_control(after, flow__fp_default));
	assert_true(rounded_up > nearest);
	assert_true(nearest_again == nearest);
}

static void take_seed(void)
{
	const char *text = getenv("FLOW_TEST_SEED");
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	random_state = text ? strtoull(text, NULL, 0) : (uint64_t)now.tv_nsec << 32 ^ (uint64_t)getpid();
	printf("test_switch: seed FLOW_TEST_SEED=0x%llx\n", (unsigned long long)random_state);
	fflush(stdout);
}

#ifdef FLOW_TEST_PLAIN
struct CMUnitTest {
	void (*run)(void **state);
	const char *name;
};
#define cmocka_unit_test(test) { .run = test, .name = #test }
static int cmocka_run_group_tests(const struct CMUnitTest *tests, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		tests[i].run(NULL);
		printf("ok %s\n", tests[i].name);
	}
	return 0;
}
#define cmocka_run_group_tests(tests, setup, teardown) \
	cmocka_run_group_tests(tests, sizeof(tests) / sizeof((tests)[0]))
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_switch_keeps_registers_on_both_sides),
		cmocka_unit_test(test_call_returns_the_value_of_entry),
		cmocka_unit_test(test_nested_calls_return),
		cmocka_unit_test(test_nested_calls_switch_away_and_are_resumed),
		cmocka_unit_test(test_new_stack_is_aligned),
		cmocka_unit_test(test_fp_environment_belongs_to_the_thread),
	};

	alarm(TIME_LIMIT_S);
	take_seed();
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	if (!failed)
		printf(ARCH ": %lu switches, registers kept\n", n_switches);
	return failed;
}
