/* SPDX-License-Identifier: MIT
 *
 * An awaiter of one's own: coroutines wait for answers of a plain thread that knows only
 * flow_wake(). So any library with a callback can be waited for.
 *
 *     awaiter [QUESTIONS]    (1000) */
#include <flowcoro.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct question {
    uint64_t number, answer;
    flow_waker asker;
    struct question *next;
};

/* The device: it takes questions from a list, in any order. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t asked = PTHREAD_COND_INITIALIZER;
static struct question *open_questions;

static void *answer(void *arg)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!open_questions)
            pthread_cond_wait(&asked, &lock);
        struct question *q = open_questions;
        open_questions = q->next;
        if (!q->asker.task) /* nobody asks any more */
            break;
        q->answer = q->number * q->number;
        flow_wake(q->asker); /* q may be gone after this */
    }
    pthread_mutex_unlock(&lock);
    return arg;
}

/* Called by flow_suspend, on the way to sleep: from here on the answer may come. */
static int publish(flow_waker waker, void *arg)
{
    struct question *q = arg;

    pthread_mutex_lock(&lock);
    q->asker = waker;
    q->next = open_questions;
    open_questions = q;
    pthread_cond_signal(&asked);
    pthread_mutex_unlock(&lock);
    return 0;
}

/* Who was cancelled takes its question back. */
static void forget(struct question *q)
{
    struct question **at = &open_questions;

    pthread_mutex_lock(&lock);
    while (*at && *at != q)
        at = &(*at)->next;
    if (*at)
        *at = q->next;
    pthread_mutex_unlock(&lock);
}

/* The awaiter: an ordinary function that suspends its caller. */
static int ask(uint64_t number, uint64_t *answer)
{
    struct question q = {.number = number};
    int error = flow_suspend(publish, &q, FLOW_FOREVER);

    if (error)
        forget(&q);
    *answer = q.answer;
    return error;
}

static flow_result asker(void *arg)
{
    uint64_t answer;
    int error = ask((uintptr_t)arg, &answer);

    return error ? flow_err(error) : flow_ok_u64(answer);
}

static flow_result ask_all(void *arg)
{
    uint64_t n = *(uint64_t *)arg, sum = 0;
    flow_task *tasks = calloc(n, sizeof *tasks);
    flow_result result;

    for (uint64_t i = 0; tasks && i < n; i++)
        if (flow_spawn(&tasks[i], asker, (void *)(uintptr_t)i))
            return flow_err(-12);
    for (uint64_t i = 0; tasks && i < n; i++)
        if (flow_join(tasks[i], &result, FLOW_FOREVER) == 0 && flow_is_ok(result))
            sum += result.u64;
    free(tasks);
    return flow_ok_u64(sum);
}

int main(int argc, char **argv)
{
    uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
    struct question last;
    flow_result result = flow_err(-1);
    pthread_t thread;

    if (argc > 2 || n < 1 || n > 1000000)
        return fprintf(stderr, "usage: awaiter [QUESTIONS]\n"), 2;
    if (pthread_create(&thread, NULL, answer, NULL) || flow_run(NULL, ask_all, &n, &result))
        return fprintf(stderr, "awaiter: %s\n", flow_start_error()), 1;
    publish((flow_waker){0, 0}, &last);
    pthread_join(thread, NULL);
    printf("%llu answers, their sum is %llu\n", (unsigned long long)n,
           (unsigned long long)result.u64);
    return result.error || result.u64 != (n - 1) * n * (2 * n - 1) / 6;
}
