/* SPDX-License-Identifier: MIT
 *
 * A program as a user writes it: built against an installed library by check_install.sh. */
#include <flowcoro.h>

#include <stdio.h>

enum { N_TASKS = 100 };

static flow_result square(void *arg)
{
    int64_t n = (int64_t)(intptr_t)arg;

    if (flow_yield())
        return flow_err(-1);
    return flow_ok_i64(n * n);
}

static flow_result sum_of_squares(void *arg)
{
    flow_task tasks[N_TASKS];
    flow_result results[N_TASKS];
    int64_t sum = 0;
    int error;

    (void)arg;
    for (int i = 0; i < N_TASKS; i++) {
        error = flow_spawn(&tasks[i], square, (void *)(intptr_t)i);
        if (error)
            return flow_err(error);
    }
    error = flow_when_all(tasks, N_TASKS, results, FLOW_FOREVER);
    if (error)
        return flow_err(error);
    for (int i = 0; i < N_TASKS; i++)
        sum += flow_unwrap_i64(results[i]);
    return flow_ok_i64(sum);
}

int main(void)
{
    flow_result result;
    int error = flow_run(NULL, sum_of_squares, NULL, &result);

    if (error || flow_is_err(result) || result.i64 != 328350) {
        fprintf(stderr, "flow_run %d (%s), result %d, sum %lld\n", error, flow_start_error(), result.error,
                (long long)result.i64);
        return 1;
    }
    printf("%s: %lld\n", flow_version(), (long long)result.i64);
    return 0;
}
