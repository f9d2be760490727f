/* SPDX-License-Identifier: MIT
 *
 * See watch.h. A slot is its waiter's from begin to end; the watchdog looks at the object under the
 * slot's lock, so that the waiter does not go away with it meanwhile. */
#include "tests/programs/watch.h"

#include "tests/programs/programs.h"

#include <sched.h>
#include <stdio.h>

enum { SLOTS = 4096, NO_TICKET = -1 };

static struct slot {
    atomic_flag lock; /* over all below */
    bool taken, reported;
    const char *what;
    watch_over over;
    void *object;
    int64_t over_since; /* the watchdog's; 0: it was not */
} slots[SLOTS] = {[0 ... SLOTS - 1] = {.lock = ATOMIC_FLAG_INIT}};

static void lock_slot(struct slot *s)
{
    while (atomic_flag_test_and_set_explicit(&s->lock, memory_order_acquire))
        sched_yield();
}

static void unlock_slot(struct slot *s)
{
    atomic_flag_clear_explicit(&s->lock, memory_order_release);
}

int watch_begin(const char *what, watch_over over, void *object)
{
    static atomic_uint next;

    if (!program_stage.watched)
        return NO_TICKET;
    for (int tries = 0; tries < 8; tries++) {
        struct slot *s = &slots[atomic_fetch_add_explicit(&next, 1, memory_order_relaxed) % SLOTS];
        bool free_now;

        lock_slot(s);
        free_now = !s->taken;
        if (free_now) {
            s->taken = true;
            s->reported = false;
            s->what = what;
            s->over = over;
            s->object = object;
            s->over_since = 0;
        }
        unlock_slot(s);
        if (free_now)
            return (int)(s - slots);
    }
    return NO_TICKET;
}

void watch_end(int ticket)
{
    if (ticket == NO_TICKET)
        return;
    lock_slot(&slots[ticket]);
    slots[ticket].taken = false;
    unlock_slot(&slots[ticket]);
}

bool watch_time(void *deadline)
{
    return flow_now() > *(flow_deadline *)deadline;
}

int watch_sleep_until(flow_deadline deadline)
{
    return WATCHED("a point in time", watch_time, &deadline, flow_sleep_until(deadline));
}

static bool is_lost(struct slot *s, int64_t now, int64_t patience_ns)
{
    if (!s->taken || s->reported)
        return false;
    if (!s->over(s->object)) {
        s->over_since = 0;
        return false;
    }
    if (!s->over_since)
        s->over_since = now;
    return now - s->over_since > patience_ns;
}

unsigned watch_look(int64_t now, int64_t patience_ns)
{
    unsigned lost = 0;

    for (struct slot *s = slots; s < slots + SLOTS; s++) {
        lock_slot(s);
        if (is_lost(s, now, patience_ns)) {
            lost++;
            fprintf(stderr, "lost wake-up: waits for %s, which has been there for %.1f s\n", s->what,
                    (double)(now - s->over_since) / 1e9);
            s->reported = true;
        }
        unlock_slot(s);
    }
    return lost;
}
