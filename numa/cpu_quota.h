/* SPDX-License-Identifier: MIT
 *
 * How much CPU time the control groups grant us. More workers than that would
 * only be throttled together, in the middle of whatever they do. */
#ifndef FLOW_NUMA_CPU_QUOTA_H
#define FLOW_NUMA_CPU_QUOTA_H

/* CPUs granted, for example 1.5; 0 if unlimited or unknown. root is put before the paths /proc/self/cgroup and
 * /sys/fs/cgroup; NULL for the live system. */
double flow__cpu_quota(const char *root);

#endif
