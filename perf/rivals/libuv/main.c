/* SPDX-License-Identifier: MIT
 *
 * libuv: timers of its loop, which count in milliseconds; waking the loop; its thread pool. A loop is
 * one thread, so workers only matter to the pool. See perf/rivals/README. */
#include "../rival.h"

#include <unistd.h>
#include <uv.h>

static void check(int error, const char *what)
{
    if (error) {
        fprintf(stderr, "%s: %s\n", what, uv_strerror(error));
        exit(1);
    }
}

/* ---- timers ---- */

static uv_timer_t *new_timers(uv_loop_t *loop, uint64_t n)
{
    uv_timer_t *timers = calloc(n, sizeof *timers);

    if (!timers)
        abort();
    for (uint64_t i = 0; i < n; i++)
        check(uv_timer_init(loop, &timers[i]), "uv_timer_init");
    return timers;
}

static void never(uv_timer_t *timer)
{
    (void)timer;
    abort();
}

static uint64_t far_ms(uint64_t i)
{
    return 10000 + (uint64_t)rival_spread(i, 50000);
}

/* n timers that never fire; a million times, in no order, one is stopped and set anew. */
static uint64_t rearm(uint64_t n, int workers)
{
    enum { OPS = 1000000 };
    uv_loop_t *loop = uv_default_loop();
    uv_timer_t *timers = new_timers(loop, n);
    uint64_t stride = rival_stride(n), at = 0;
    int64_t start = 0;

    (void)workers;
    for (uint64_t i = 0; i < n; i++)
        check(uv_timer_start(&timers[i], never, far_ms(i), 0), "uv_timer_start");
    for (uint64_t i = 0; i < OPS + OPS / 4; i++) {
        if (i == OPS / 4)
            start = rival_now();
        at = (at + stride) % n;
        uv_timer_stop(&timers[at]);
        check(uv_timer_start(&timers[at], never, far_ms(i), 0), "uv_timer_start");
    }
    rival_figure("ns", (double)(rival_now() - start) / OPS);
    return n;
}

static uint64_t fired;

static void fire(uv_timer_t *timer)
{
    (void)timer;
    fired++;
}

/* n timers of 10 to 50 ms, until all have fired. */
static uint64_t sleepers(uint64_t n, int workers)
{
    uv_loop_t *loop = uv_default_loop();
    static uv_timer_t *timers; /* made in the first round; a timer that has fired may be set anew */

    (void)workers;
    if (!timers)
        timers = new_timers(loop, n);
    fired = 0;
    uv_update_time(loop);
    for (uint64_t i = 0; i < n; i++)
        check(uv_timer_start(&timers[i], fire, 10 + (uint64_t)rival_spread(i, 40), 0), "timer");
    uv_run(loop, UV_RUN_DEFAULT);
    return fired;
}

static struct {
    int64_t *late, begin;
    uint64_t n, done;
} sleep_in_turn;

#define SLEEP_NS 900000 /* libuv's next is a millisecond */

static void woke(uv_timer_t *timer)
{
    int64_t late = rival_now() - sleep_in_turn.begin - SLEEP_NS;

    sleep_in_turn.late[sleep_in_turn.done++] = late;
    if (sleep_in_turn.done == sleep_in_turn.n)
        return;
    uv_update_time(timer->loop);
    sleep_in_turn.begin = rival_now();
    check(uv_timer_start(timer, woke, 1, 0), "uv_timer_start");
}

/* As the clock of a loop is cut to milliseconds its timers may fire up to one early; a millisecond
 * from now can then be less than 900 us. Such a sleep counts as it is. */
static uint64_t sleep_late(uint64_t n, int workers)
{
    uv_loop_t *loop = uv_default_loop();
    uv_timer_t timer;

    (void)workers;
    sleep_in_turn.n = n;
    sleep_in_turn.late = calloc(n, sizeof *sleep_in_turn.late);
    check(uv_timer_init(loop, &timer), "uv_timer_init");
    sleep_in_turn.begin = rival_now();
    check(uv_timer_start(&timer, woke, 1, 0), "uv_timer_start");
    uv_run(loop, UV_RUN_DEFAULT);
    rival_percentiles(sleep_in_turn.late, n);
    return n;
}

/* One timer of an hour; ends after n seconds and one. */
static uint64_t idle(uint64_t n, int workers)
{
    uv_loop_t *loop = uv_default_loop();
    uv_timer_t hour, end;

    (void)workers;
    check(uv_timer_init(loop, &hour) || uv_timer_init(loop, &end), "uv_timer_init");
    check(uv_timer_start(&hour, never, 3600000, 0), "uv_timer_start");
    uv_unref((uv_handle_t *)&hour);
    check(uv_timer_start(&end, fire, (n + 1) * 1000, 0), "uv_timer_start");
    uv_run(loop, UV_RUN_DEFAULT);
    return n;
}

/* ---- a thread wakes the loop ---- */

static struct {
    uv_async_t async;
    uv_sem_t done;
    int64_t woken_at, delay; /* handed over by the loop's and the semaphore's own order */
    uint64_t left;
} waker;

static void woken(uv_async_t *async)
{
    waker.delay = rival_now() - waker.woken_at;
    if (--waker.left == 0)
        uv_close((uv_handle_t *)async, NULL);
    uv_sem_post(&waker.done);
}

static void run_loop(void *loop)
{
    uv_run(loop, UV_RUN_DEFAULT);
}

static uint64_t wake(uint64_t n, int workers)
{
    enum { WARM = 100 };
    int64_t *delays = calloc(n, sizeof *delays);
    uv_thread_t thread;

    (void)workers;
    waker.left = n + WARM;
    check(uv_sem_init(&waker.done, 0), "uv_sem_init");
    check(uv_async_init(uv_default_loop(), &waker.async, woken), "uv_async_init");
    check(uv_thread_create(&thread, run_loop, uv_default_loop()), "uv_thread_create");
    for (uint64_t i = 0; i < n + WARM; i++) {
        usleep(400);
        waker.woken_at = rival_now();
        check(uv_async_send(&waker.async), "uv_async_send");
        uv_sem_wait(&waker.done);
        if (i >= WARM)
            delays[i - WARM] = waker.delay;
    }
    uv_thread_join(&thread);
    rival_percentiles(delays, n);
    return n;
}

/* ---- a burst of work for the pool, from the loop's thread ---- */

struct work {
    uv_work_t request;
    int64_t queued_at, delay;
};

static void begin_work(uv_work_t *request)
{
    struct work *w = (struct work *)request;

    w->delay = rival_now() - w->queued_at;
}

static void end_work(uv_work_t *request, int status)
{
    (void)request;
    check(status, "work");
}

static uint64_t burst(uint64_t n, int workers)
{
    enum { SIZE = 1000 };
    struct work *work = calloc(SIZE, sizeof *work);
    int64_t *delays = calloc(n * SIZE, sizeof *delays);
    char threads[16];

    snprintf(threads, sizeof threads, "%d", workers);
    setenv("UV_THREADPOOL_SIZE", threads, 1);
    for (uint64_t round = 0; round < n + 4; round++) {
        usleep(5000);
        for (int i = 0; i < SIZE; i++) {
            work[i].queued_at = rival_now();
            check(uv_queue_work(uv_default_loop(), &work[i].request, begin_work, end_work), "work");
        }
        uv_run(uv_default_loop(), UV_RUN_DEFAULT);
        for (int i = 0; round >= 4 && i < SIZE; i++)
            delays[(round - 4) * SIZE + (uint64_t)i] = work[i].delay;
    }
    rival_percentiles(delays, n * SIZE);
    return n;
}

int main(int argc, char **argv)
{
    static const struct rival_case cases[] = {
        {"cancel + re-arm in one thread", rearm, RIVAL_NOT},
        {"sleepers", sleepers, RIVAL_SAME},
        {"sleep of 900 us, late", sleep_late, RIVAL_NOT},
        {"idle", idle, RIVAL_NOT},
        {"wake", wake, RIVAL_NOT},
        {"burst", burst, RIVAL_NOT},
    };
    char version[64];

    snprintf(version, sizeof version, "libuv %s", uv_version_string());
    return rival_main(argc, argv, version, cases, sizeof cases / sizeof *cases);
}
