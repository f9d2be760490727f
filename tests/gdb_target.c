/*
 * What check_gdb.sh debugs: a coroutine entered by flow__call, which switches away and is resumed
 * by flow__switch, with functions of its own on either side. Each function here must stay a frame.
 */
#include "core/arch/switch.h"

#define FRAME __attribute__((noinline))

static struct flow__context main_context, task_context;
static char stack[65536] __attribute__((aligned(16)));
static volatile long sink; /* written after each call, so that none becomes a jump */

FRAME void stop_when_entered(void)
{
	sink++;
}

FRAME void stop_when_resumed(void)
{
	sink++;
}

FRAME static long task_inner(long value)
{
	long got = flow__switch(&task_context, &main_context, value);

	sink += got;
	stop_when_resumed();
	sink++;
	return got;
}

FRAME static long task_entry(void *arg)
{
	stop_when_entered();
	sink += (long)arg;
	sink += task_inner(1);
	sink += task_inner(2);
	__builtin_trap();
	return 0;
}

FRAME static long plain_entry(void *arg)
{
	sink++;
	return (long)arg;
}

FRAME static void main_starts(void)
{
	sink += flow__call(&main_context, stack + sizeof(stack), task_entry, (void *)1);
	sink++;
}

/* The frame that called flow__call is gone by now; the task's backtrace must not need it. */
FRAME static void main_resumes(long value)
{
	volatile char overwritten[512];

	for (unsigned i = 0; i < sizeof(overwritten); i++)
		overwritten[i] = 0x55;
	sink += flow__switch(&main_context, &task_context, value);
	sink++;
}

FRAME static void main_calls_plainly(void)
{
	struct flow__context caller;

	sink += flow__call(&caller, stack + sizeof(stack) / 2, plain_entry, (void *)3);
	sink++;
}

int main(void)
{
	main_starts();
	main_resumes(7);
	main_calls_plainly();
	return 0;
}
