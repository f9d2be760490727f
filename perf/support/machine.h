/* SPDX-License-Identifier: MIT
 *
 * The machine that figures come from, and whether it had anything else to do meanwhile. */
#ifndef FLOW_PERF_MACHINE_H
#define FLOW_PERF_MACHINE_H

#include <stdbool.h>
#include <stdio.h>

struct machine_load {
    double load_average;   /* of the last minute */
    double busy_seconds;   /* all CPUs together, since boot */
    double stolen_seconds; /* that the hypervisor gave to others */
    double own_seconds;    /* this process and its children that have ended */
    double clock_seconds;
};

/* What the machine did from the beginning to the end, in stretches of some seconds. */
struct machine_watch {
    struct machine_load begin, stretch, end;
    double worst_percent; /* of one CPU, used by others than us or taken by the hypervisor, in the worst stretch */
};

struct machine_watch machine_watch_begin(void);
void machine_watch_look(struct machine_watch *watch); /* often, when no child runs */
void machine_watch_end(struct machine_watch *watch);

/* For a table. */
void machine_print(FILE *out, const struct machine_watch *watch);

/* One line of JSON; extra: further members, such as "\"quick\":true", or "". */
void machine_print_json(FILE *out, const char *bench, const char *extra,
                        const struct machine_watch *watch);

#endif
