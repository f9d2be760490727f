/* SPDX-License-Identifier: MIT
 *
 * What check_gdb_flow.sh debugs: one coroutine in each kind of state, and a place to stop at when
 * they are all there. Functions must stay frames of their own. */
#include <flowcoro.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FRAME __attribute__((noinline)) static
#define KEEP  __asm__ volatile("" ::: "memory") /* so that no call before it is a jump */

/* For gdb. */
flow_task sleeping, receiving, joining, locking, roaming, spinning, queued, stopping;

static struct flow_mutex mutex = FLOW_MUTEX_INIT;
static struct flow_chan *channel;
static atomic_bool go_on = true, spins;
static volatile int sink;

__attribute__((noinline)) void stop_here(void)
{
    sink++;
}

__attribute__((noinline)) void stop_in_coroutine(void)
{
    sink++;
}

FRAME void sleep_inner(int seconds)
{
    flow_sleep(FLOW_S(seconds));
    KEEP;
}

FRAME void sleep_outer(int seconds)
{
    sleep_inner(seconds);
    KEEP;
}

FRAME flow_result sleeper(void *arg)
{
    sleep_outer(1234);
    KEEP;
    return flow_ok(arg);
}

FRAME flow_result receiver(void *arg)
{
    int element;

    flow_chan_recv(channel, &element, FLOW_FOREVER);
    KEEP;
    return flow_ok(arg);
}

FRAME flow_result joiner(void *arg)
{
    flow_join(sleeping, NULL, FLOW_FOREVER);
    KEEP;
    return flow_ok(arg);
}

FRAME flow_result locker(void *arg)
{
    flow_mutex_lock(&mutex, FLOW_FOREVER);
    KEEP;
    return flow_ok(arg);
}

/* Moves between workers until it sleeps. */
FRAME flow_result roamer(void *arg)
{
    for (int i = 0; i < 100; i++)
        flow_yield();
    sleep_outer(4321);
    KEEP;
    return flow_ok(arg);
}

FRAME void spin_inner(void)
{
    atomic_store(&spins, true);
    while (atomic_load(&go_on))
        sink++;
    KEEP;
}

FRAME flow_result spinner(void *arg)
{
    spin_inner();
    KEEP;
    return flow_ok(arg);
}

FRAME flow_result stopper(void *arg)
{
    stop_in_coroutine();
    KEEP;
    return flow_ok(arg);
}

FRAME void spawn(flow_task *out, const char *name, flow_fn fn, int worker, unsigned flags)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;

    o.name = name;
    o.worker = worker;
    o.flags = flags;
    if (flow_spawn_with(out, &o, fn, NULL))
        abort();
}

static bool is_in_dump(const char *what)
{
    static char text[65536];
    FILE *file = tmpfile();
    size_t n;

    if (!file || flow_dump(fileno(file)) < 0)
        abort();
    rewind(file);
    n = fread(text, 1, sizeof text - 1, file);
    text[n] = 0;
    fclose(file);
    return strstr(text, what) != NULL;
}

static void wait_for(const char *what)
{
    while (!is_in_dump(what))
        usleep(1000);
}

/* With an argument it leaves a core file. */
int main(int argc, char **argv)
{
    struct flow_options o = FLOW_OPTIONS_INIT;

    (void)argv;
    o.workers = 2;
    o.max_tasks = 1000;
    if (flow_start(&o) || flow_chan_create(&channel, sizeof(int), 0) ||
        flow_mutex_lock(&mutex, FLOW_FOREVER))
        abort();
    spawn(&sleeping, "a sleeper", sleeper, -1, 0);
    spawn(&receiving, "", receiver, -1, 0);
    spawn(&joining, "", joiner, -1, 0);
    spawn(&locking, "", locker, -1, 0);
    spawn(&roaming, "a roamer", roamer, -1, FLOW_ROAM);
    wait_for("waits for recv");
    wait_for("waits for join");
    wait_for("waits for mutex");
    wait_for("\"a roamer\" waiting");
    spawn(&spinning, "", spinner, 1, FLOW_PINNED);
    while (!atomic_load(&spins))
        usleep(1000);
    spawn(&queued, "", sleeper, 1, FLOW_PINNED);
    stop_here();
    if (argc > 1)
        abort();
    spawn(&stopping, "", stopper, 0, FLOW_PINNED);
    flow_join(stopping, NULL, FLOW_FOREVER);
    atomic_store(&go_on, false);
    flow_mutex_unlock(&mutex);
    return flow_stop(FLOW_FOREVER);
}
