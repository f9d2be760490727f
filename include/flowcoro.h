/* SPDX-License-Identifier: MIT
 *
 * libflowcoro: stackful coroutines on one pinned worker per CPU.
 * This umbrella includes every public header; each also stands alone. */
#ifndef FLOWCORO_H
#define FLOWCORO_H

#include <flowcoro/base.h>
#include <flowcoro/broadcast.h>
#include <flowcoro/cancel.h>
#include <flowcoro/channel.h>
#include <flowcoro/container.h>
#include <flowcoro/generator.h>
#include <flowcoro/job.h>
#include <flowcoro/memory.h>
#include <flowcoro/object_pool.h>
#include <flowcoro/offload.h>
#include <flowcoro/pool.h>
#include <flowcoro/parallel.h>
#include <flowcoro/result.h>
#include <flowcoro/runtime.h>
#include <flowcoro/select.h>
#include <flowcoro/scope.h>
#include <flowcoro/stats.h>
#include <flowcoro/sync.h>
#include <flowcoro/task.h>
#include <flowcoro/topology.h>

#endif
