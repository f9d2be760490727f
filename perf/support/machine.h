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

struct machine_load machine_load_now(void);

struct machine_quiet {
    double seconds;
    double foreign_percent; /* of one CPU, used by others than us */
    double stolen_percent;
    bool quiet; /* neither is more than a trace */
};

struct machine_quiet machine_judge(const struct machine_load *before,
                                   const struct machine_load *after);

/* For a table. */
void machine_print(FILE *out, const struct machine_load *before, const struct machine_load *after);

/* One line of JSON; extra: further members, such as "\"quick\":true", or "". */
void machine_print_json(FILE *out, const char *bench, const char *extra,
                        const struct machine_load *before, const struct machine_load *after);

#endif
