/* SPDX-License-Identifier: MIT
 *
 * flow_dump for who knows that the runtime stays meanwhile: a coroutine, or a thread that flow_stop
 * joins. */
#ifndef FLOW_CORE_DUMP_H
#define FLOW_CORE_DUMP_H

/* As flow_dump. By a thread that is registered with RCU; not within a section. */
int flow__dump(int fd);

#endif
