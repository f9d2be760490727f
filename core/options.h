/* SPDX-License-Identifier: MIT
 *
 * Checking options, and saying which one is wrong. */
#ifndef FLOW_CORE_OPTIONS_H
#define FLOW_CORE_OPTIONS_H

#include <flowcoro/runtime.h>

/* given (NULL: defaults) with the environment's changes, checked. 0 or -EINVAL. */
int flow__options_read(struct flow_options *out, const struct flow_options *given);

/* Sets the text of flow_start_error() and returns error. */
__attribute__((format(printf, 2, 3))) int flow__start_failed(int error, const char *format, ...);
void flow__start_succeeded(void);

#endif
