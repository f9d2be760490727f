/* SPDX-License-Identifier: MIT
 *
 * Dining philosophers: each needs the forks at both sides, a mutex each, to eat. All take the fork
 * with the lower number first, so nobody can wait in a circle.
 *
 *     philosophers [PHILOSOPHERS [MEALS]]    (1000 and 100) */
#include <flowcoro.h>
#include <stdio.h>
#include <stdlib.h>

static struct flow_mutex *fork_at;
static uint64_t *uses; /* of each fork, guarded by it */
static long n, meals;

static int eat(long left, long right)
{
    long first = left < right ? left : right, second = left < right ? right : left;
    int error = flow_mutex_lock(&fork_at[first], FLOW_FOREVER);

    if (error)
        return error;
    error = flow_mutex_lock(&fork_at[second], FLOW_FOREVER);
    if (!error) {
        uses[first]++;
        uses[second]++;
        error = flow_yield(); /* with both in hand */
        flow_mutex_unlock(&fork_at[second]);
    }
    flow_mutex_unlock(&fork_at[first]);
    return error;
}

static flow_result philosopher(void *arg)
{
    long seat = (long)(intptr_t)arg;
    int64_t eaten = 0;

    while (eaten < meals && eat(seat, (seat + 1) % n) == 0)
        eaten++;
    return flow_ok_i64(eaten);
}

static flow_result dinner(void *arg)
{
    flow_task *guests = arg;
    flow_result result;
    int64_t eaten = 0;
    long seated = 0;

    while (seated < n && flow_spawn(&guests[seated], philosopher, (void *)(intptr_t)seated) == 0)
        seated++;
    for (long i = 0; i < seated; i++)
        if (flow_join(guests[i], &result, FLOW_FOREVER) == 0)
            eaten += result.i64;
    return flow_ok_i64(eaten);
}

int main(int argc, char **argv)
{
    flow_result result = flow_err(-1);
    flow_task *guests;
    uint64_t used = 0;

    n = argc > 1 ? atol(argv[1]) : 1000;
    meals = argc > 2 ? atol(argv[2]) : 100;
    if (argc > 3 || n < 2 || n > 1000000 || meals < 1)
        return fprintf(stderr, "usage: philosophers [PHILOSOPHERS [MEALS]]\n"), 2;
    fork_at = calloc((size_t)n, sizeof *fork_at); /* all zero: free mutexes */
    uses = calloc((size_t)n, sizeof *uses);
    guests = calloc((size_t)n, sizeof *guests);
    if (!fork_at || !uses || !guests || flow_run(NULL, dinner, guests, &result) || result.error)
        return fprintf(stderr, "philosophers: %s\n", flow_start_error()), 1;
    for (long i = 0; i < n; i++)
        used += uses[i];
    printf("%ld philosophers ate %lld meals; forks were used %llu times\n", n,
           (long long)result.i64, (unsigned long long)used);
    free(fork_at);
    free(uses);
    free(guests);
    return result.i64 != n * meals || used != 2 * (uint64_t)result.i64;
}
