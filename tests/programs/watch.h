/* SPDX-License-Identifier: MIT
 *
 * The watchdog's view of who waits for what. A wait says when it should be over; one that goes on
 * although that has been so for a long time has lost its wake-up. */
#ifndef FLOW_TESTS_PROGRAMS_WATCH_H
#define FLOW_TESTS_PROGRAMS_WATCH_H

#include "flowcoro.h"

#include <stdbool.h>
#include <stdint.h>

/* Is what the object's waiter waits for there? Called by the watchdog's thread at any time of the
 * wait; may look at the object only in ways that are allowed beside any others. */
typedef bool (*watch_over)(void *object);

int watch_begin(const char *what, watch_over over, void *object); /* a ticket */
void watch_end(int ticket);

/* Whatever the call returns; shown as `what` while it is made. */
#define WATCHED(what, over, object, call)                                                          \
    ({                                                                                             \
        int ticket_ = watch_begin(what, over, object);                                             \
        int result_ = (call);                                                                      \
        watch_end(ticket_);                                                                        \
        result_;                                                                                   \
    })

/* flow_sleep_until, shown. */
bool watch_time(void *deadline);
int watch_sleep_until(flow_deadline deadline);

/* For the watchdog, now and then: how many waits it finds that have been over for longer than
 * patience_ns. Each is counted, and reported on stderr, once. */
unsigned watch_look(int64_t now, int64_t patience_ns);

#endif
