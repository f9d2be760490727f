/* SPDX-License-Identifier: MIT
 *
 * What the runs of a benchmark have given: rows of values, and notes. Used by the parent only. */
#ifndef FLOW_PERF_ROWS_H
#define FLOW_PERF_ROWS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* name: WORK/WHO, see bench_value(). Values with the same name, workers, n and unit are one row's. */
void rows_add(const char *name, int workers, uint64_t n, const char *unit, double value);
void rows_note(const char *text); /* repeated ones are kept once */

void rows_print_table(FILE *out);
/* The last line says that all is there. */
void rows_print_json(FILE *out, const char *bench);
void rows_print_notes(FILE *out);

/* A string for JSON, in quotes. */
void json_string(FILE *out, const char *text);

#endif
