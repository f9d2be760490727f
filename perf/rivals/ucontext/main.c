/* SPDX-License-Identifier: MIT
 *
 * glibc's swapcontext, there and back; it changes the signal mask each time. See perf/rivals/README. */
#include "../rival.h"

#include <gnu/libc-version.h>
#include <ucontext.h>

static ucontext_t here, there;
static uint64_t value;

static void bounce(void)
{
    for (;;) {
        value++;
        swapcontext(&there, &here);
    }
}

static uint64_t there_and_back(uint64_t n, int workers)
{
    static char stack[65536];

    (void)workers;
    value = 0;
    getcontext(&there);
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = sizeof stack;
    makecontext(&there, bounce, 0);
    for (uint64_t i = 0; i < n; i++)
        swapcontext(&here, &there);
    return value;
}

int main(int argc, char **argv)
{
    static const struct rival_case cases[] = {
        {"switch there and back with the FP environment", there_and_back, RIVAL_EIGHTH}};
    char version[64];

    snprintf(version, sizeof version, "glibc %s", gnu_get_libc_version());
    return rival_main(argc, argv, version, cases, 1);
}
