/* SPDX-License-Identifier: MIT
 *
 * A generator: the prime numbers, one by one, for whoever asks for the next.
 *
 *     primes [HOW_MANY]    (10) */
#include <errno.h>
#include <flowcoro.h>
#include <stdio.h>
#include <stdlib.h>

/* Its state is ordinary local variables; it stands still between two values. */
static int primes(struct flow_generator *g, void *arg)
{
    uint64_t *found = NULL, n = 0;
    int error = 0;

    for (uint64_t candidate = 2; !error; candidate++) {
        uint64_t i = 0;

        while (i < n && found[i] * found[i] <= candidate && candidate % found[i] != 0)
            i++;
        if (i < n && found[i] * found[i] <= candidate)
            continue;
        if ((n & (n - 1)) == 0) { /* room for twice as many */
            uint64_t *more = realloc(found, (n ? 2 * n : 1) * sizeof *found);

            error = more ? 0 : -ENOMEM;
            if (error)
                break;
            found = more;
        }
        found[n++] = candidate;
        error = flow_generator_yield(g, &candidate); /* -ECANCELED: nobody wants any more */
    }
    free(found);
    (void)arg;
    return error;
}

static flow_result print(void *arg)
{
    unsigned long how_many = *(unsigned long *)arg;
    struct flow_generator *g;
    uint64_t prime;
    int error = flow_generator_create(&g, sizeof prime, primes, NULL);

    if (error)
        return flow_err(error);
    while (how_many > 0 && !(error = flow_generator_next(g, &prime, FLOW_FOREVER))) {
        how_many--;
        printf("%llu\n", (unsigned long long)prime);
    }
    flow_generator_close(g);
    return error ? flow_err(error) : flow_ok(NULL);
}

int main(int argc, char **argv)
{
    unsigned long how_many = argc > 1 ? strtoul(argv[1], NULL, 10) : 10;
    flow_result result = flow_err(-EINVAL);

    if (argc > 2 || how_many < 1)
        return fprintf(stderr, "usage: primes [HOW_MANY]\n"), 2;
    return flow_run(NULL, print, &how_many, &result) || !flow_is_ok(result);
}
