/* SPDX-License-Identifier: MIT
 *
 * Between the parent of a benchmark and the process of one run. */
#ifndef FLOW_PERF_CHILD_H
#define FLOW_PERF_CHILD_H

#include "perf/bench.h"

#define CHANNEL       3   /* the child's end of the pipe */
#define SKIPPED       77  /* the child's exit status; a rival's too */
#define RUN_SECONDS 120 /* a run that takes longer hangs, ours or a rival's */

/* One run: the whole of the child's main(). */
int bench_child_main(const struct bench_suite *suite, const char *run_text);

#endif
