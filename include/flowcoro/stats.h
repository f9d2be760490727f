/* SPDX-License-Identifier: MIT
 *
 * Counters. Each is written by one worker and may be read at any time from
 * anywhere; a sum over workers is exact once the runtime is at rest. */
#ifndef FLOWCORO_STATS_H
#define FLOWCORO_STATS_H

#include <flowcoro/base.h>

FLOW_BEGIN_DECLS

struct flow_worker_stats {
    uint64_t spawned;     /* tasks created by this worker */
    uint64_t finished;    /* tasks that ended here, cancelled ones among them */
    uint64_t dispatches;  /* tasks started or resumed by the scheduler, or run by a join */
    uint64_t started_now; /* flow_spawn_now calls */
    uint64_t switches;    /* changes of stack */
    uint64_t steals;      /* successful visits to another worker's queue, or another node's */
    uint64_t stolen;      /* tasks taken by them */
    uint64_t parks;       /* times the worker slept */
    uint64_t wakes;       /* sleeping workers it woke */
    uint64_t timers_armed;
    uint64_t timers_fired;
    uint64_t stacks_taken; /* stacks handed out */
    uint64_t stacks_returned;
    uint64_t overflows;    /* times its queue was full and half went to the shared one */
    uint64_t remote_wakes; /* wake-ups sent to other workers */
    uint64_t no_stack;     /* tasks that ended with -ENOMEM because no stack could be had */
    /* Between memory nodes. Dispatches less remote_dispatches are the local ones. */
    uint64_t remote_steals;     /* part of steals: from another node */
    uint64_t remote_stolen;     /* part of stolen: tasks taken by them, some more than once */
    uint64_t remote_dispatches; /* part of dispatches: tasks that were queued on another node */
    uint64_t node_wakes;        /* part of remote_wakes: to another node; and tasks spawned for one.
                                 * All other wakes stay on the node */
    uint64_t searches;          /* times it had nothing to do and looked around */
    uint64_t remote_searches;   /* looks at other nodes */
    uint64_t calls;             /* sleepers of another node asked for help */
    /* Of the worker's thread. It is away as long as moved is more than returned. */
    uint64_t moved;    /* times it was found on another CPU than its own: that has gone offline, or the
                        * cpuset has shrunk, or somebody has changed the thread's mask */
    uint64_t returned; /* times it was pinned again, as its mask allowed that */
    uint64_t queued;   /* just now, not a counter: tasks in its own queues that wait to start, or roam and
                        * are ready; others may take them */
    /* The most that a task which ended here has used of its stack, in bytes; 0 unless
     * stacks are measured (option measure_stacks). A total is the maximum, not the sum. */
    uint64_t stack_used_most;
};

struct flow_stats {
    size_t size;                    /* sizeof(struct flow_stats), set by the caller */
    int workers;                    /* how many there are */
    uint64_t live;                  /* spawned and not finished */
    struct flow_worker_stats total; /* the sum, with foreign threads' share */
    uint64_t foreign_spawned;       /* part of total.spawned */
    uint64_t foreign_wakes;         /* part of total.wakes */
    uint64_t stacks_mapped;         /* stack slots that exist, in use or cached */
    uint64_t stacks_trimmed;        /* times a cached stack gave its pages back */
    uint64_t offloaded;             /* blocking calls begun on helper threads */
    uint64_t offload_threads;       /* helper threads alive */
    uint64_t guard_failures;        /* stacks refused because they could not be guarded */
    uint64_t blocks_borrowed;       /* control blocks used on a node whose own were used up */
    uint64_t blocks_sent_home;      /* freed on another node than their own, and sent back */
    uint64_t stacks_borrowed;       /* the same of stacks */
    uint64_t stacks_sent_home;
    uint64_t bind_failures;         /* times the system refused to bind memory to a node */
    uint64_t reclaim_pending;       /* objects that wait for an RCU grace period */
};

/* Fills *stats. -EINVAL if stats->size is not known, -ESHUTDOWN if nothing
 * runs. From anywhere; never suspends. */
FLOW_API int flow_stats(struct flow_stats *stats);

/* How often workers of one node (to) have taken tasks that were queued on another node (from), or by
 * another worker of the same node (from == to), and how many tasks. Nodes are numbered from 0 to
 * flow_info.nodes - 1; a node without workers has 0. steals and tasks may be NULL. -EINVAL: no such
 * node. -ESHUTDOWN if nothing runs. From anywhere; never suspends. */
FLOW_API int flow_stats_steals(int from, int to, uint64_t *steals, uint64_t *tasks);

/* How many tasks wait on a node just now to start, or roam and are ready: in its workers' queues
 * (flow_worker_stats.queued) and in those that they share. A node without workers has 0. -EINVAL: no
 * such node, or tasks is NULL. -ESHUTDOWN if nothing runs. From anywhere; never suspends. */
FLOW_API int flow_stats_queued(int node, uint64_t *tasks);

/* One worker's counters, worker from 0. -EINVAL if there is no such worker. */
FLOW_API int flow_stats_worker(int worker, struct flow_worker_stats *stats);

FLOW_END_DECLS

#endif
