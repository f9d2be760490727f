/* SPDX-License-Identifier: MIT
 *
 * The bare change of stacks, without a scheduler: what everything else costs at least.
 *
 * Measured on the routines of core/arch/switch.h themselves, which is why this program needs the
 * static library. "There and back" is a pair of flow__switch between two contexts. Other libraries
 * also save and load MXCSR and the x87 control word at each switch; the runtime does that only for
 * tasks with FLOW_FP_ENVIRONMENT. So "with the FP environment" is what is compared.
 *
 * "Call and return" is flow__call of a function that ends without ever having switched: what a
 * task that never suspends pays for its stack. A plain call through a pointer is there for scale. No
 * runtime is started: everything happens on the main thread, which is not pinned. */
#include "core/arch/switch.h"
#include "perf/bench.h"

#define STACK_BYTES (64 * 1024)

static _Alignas(64) char stack[STACK_BYTES];

struct bouncer {
    struct flow__context outside, inside;
};

static inline long switch_with_fp(struct flow__context *from, struct flow__context *to, long value)
{
    struct flow__fp_environment own;

    flow__fp_save(&own);
    value = flow__switch(from, to, value);
    flow__fp_load(&own);
    return value;
}

/* Adds one to whatever it is given. Having been switched away from, it must never return. */
static long bounce(void *arg)
{
    struct bouncer *b = arg;
    long value = 0;

    for (;;)
        value = flow__switch(&b->inside, &b->outside, value + 1);
    return 0;
}

static long bounce_with_fp(void *arg)
{
    struct bouncer *b = arg;
    long value = 0;

    for (;;)
        value = switch_with_fp(&b->inside, &b->outside, value + 1);
    return 0;
}

/* A copy for each switch, so that it is called directly. */
#define TIME_SWITCHES(name, SWITCH)                                                                \
    static int64_t name(struct bouncer *b, uint64_t n)                                             \
    {                                                                                              \
        long value = 0;                                                                            \
        int64_t start = bench_now();                                                               \
                                                                                                   \
        for (uint64_t i = 0; i < n; i++)                                                           \
            value = SWITCH(&b->outside, &b->inside, value);                                        \
        start = bench_now() - start;                                                               \
        bench_check((uint64_t)value == n, "%ld of %ld switches came back", value, (long)n);        \
        return start;                                                                              \
    }

TIME_SWITCHES(time_switches, flow__switch)
TIME_SWITCHES(time_switches_with_fp, switch_with_fp)

static void measure_switch(const struct bench_run *run, long (*entry)(void *),
                           int64_t (*time)(struct bouncer *, uint64_t))
{
    struct bouncer b;
    long first = flow__call(&b.outside, stack + STACK_BYTES, entry, &b);

    bench_check(first == 1, "flow__call gave %ld", first);
    time(&b, run->n / 10 + 1);
    bench_value(run->name, run->n, "ns", (double)time(&b, run->n) / (double)run->n);
}

static void run_switch(const struct bench_run *run)
{
    measure_switch(run, bounce, time_switches);
}

static void run_switch_with_fp(const struct bench_run *run)
{
    measure_switch(run, bounce_with_fp, time_switches_with_fp);
}

static long add_one(void *arg)
{
    return *(long *)arg + 1;
}

static int64_t time_calls(uint64_t n)
{
    struct flow__context from;
    long value = 0;
    int64_t start = bench_now();

    for (uint64_t i = 0; i < n; i++)
        value = flow__call(&from, stack + STACK_BYTES, add_one, &value);
    start = bench_now() - start;
    bench_check((uint64_t)value == n, "%ld of %ld calls returned", value, (long)n);
    return start;
}

static void run_call(const struct bench_run *run)
{
    time_calls(run->n / 10 + 1);
    bench_value("call and return/flow", run->n, "ns",
                (double)time_calls(run->n) / (double)run->n);
}

static int64_t time_plain(uint64_t n)
{
    long (*volatile function)(void *) = add_one; /* volatile: or it would be inlined */
    long value = 0;
    int64_t start = bench_now();

    for (uint64_t i = 0; i < n; i++)
        value = function(&value);
    start = bench_now() - start;
    bench_check((uint64_t)value == n, "%ld of %ld calls returned", value, (long)n);
    return start;
}

static void run_plain(const struct bench_run *run)
{
    time_plain(run->n / 10 + 1);
    bench_value("call and return/(plain call)", run->n, "ns",
                (double)time_plain(run->n) / (double)run->n);
}

static void run_rival(const struct bench_run *run)
{
    bench_rival_time(run, run->n);
}

#define WITH_FP "switch there and back with the FP environment"

int main(int argc, char **argv)
{
    static const struct bench_case cases[] = {
        {"switch there and back/flow", run_switch, 20000000, 2000000, .no_workers = true},
        {WITH_FP "/flow", run_switch_with_fp, 20000000, 2000000, .no_workers = true},
        {WITH_FP "/boost_context", run_rival, 20000000, 2000000, .no_workers = true},
        {WITH_FP "/ucontext", run_rival, 1000000, 100000, .no_workers = true},
        {"call and return/flow", run_call, 20000000, 2000000, .no_workers = true},
        {"call and return/(plain)", run_plain, 20000000, 2000000, .no_workers = true},
    };
    static const struct bench_suite suite = {
        .name = "switch",
        .about = "changing stacks without a scheduler",
        .runs = 7,
        .cases = cases,
        .n_cases = BENCH_COUNT(cases),
    };

    return bench_main(argc, argv, &suite);
}
