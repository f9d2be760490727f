/* SPDX-License-Identifier: MIT
 *
 * A thread of its own that looks for waits which should be over, prints a line now and then, and ends
 * a process that has lost a wake-up or hangs, with a list of all coroutines. */
#include "tests/torture/torture.h"

#include "tests/programs/watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LOOK_NS = 100000000, MOST_NODES = 8 };

static struct {
    pthread_t thread;
    atomic_bool end;
    atomic_ulong lost;
    int64_t every_ns, patience_ns, begin, last_at;
    uint64_t last_operations;
    char stats[200]; /* of the runtime, when it was last asked */
    char nodes[200];
} report;

uint64_t report_operations(void)
{
    return atomic_load(&did.operations) + atomic_load(&program_totals.operations);
}

/* As the kernel sees it, page by page. */
static void note_nodes(void)
{
    struct flow_memory_node nodes[MOST_NODES];
    struct flow_memory_report r = {.size = sizeof r, .nodes = nodes, .n_nodes = MOST_NODES};
    size_t used = 0;

    memset(nodes, 0, sizeof nodes);
    if (flow_memory_check(&r))
        return;
    for (size_t i = 0; i < r.n_nodes && i < MOST_NODES; i++)
        used += (size_t)snprintf(report.nodes + used, sizeof report.nodes - used, "%snode %zu %llu KiB",
                                 i ? ", " : "", i,
                                 (unsigned long long)(nodes[i].stacks.pages + nodes[i].blocks.pages +
                                                      nodes[i].workers.pages) *
                                     (unsigned long long)sysconf(_SC_PAGESIZE) / 1024);
}

/* Between two rounds there is nothing to ask; then the last answer stands. */
static void note_stats(void)
{
    struct flow_stats s = {.size = sizeof s};

    if (flow_stats(&s))
        return;
    snprintf(report.stats, sizeof report.stats, "spawned %llu = finished %llu + live %llu",
             (unsigned long long)s.total.spawned, (unsigned long long)s.total.finished, (unsigned long long)s.live);
    note_nodes();
}

void report_line(const char *prefix)
{
    int64_t now = flow_now();
    uint64_t operations = report_operations();
    double seconds = (double)(now - report.last_at) / 1e9;
    unsigned long sent, received, queued, ages[TORTURE_AGES];

    torture_mail_count(&sent, &received, &queued);
    torture_rcu_ages(ages);
    print_message("%storture %.0f s: round %d (workers %d, shuffle %lld), %.0f ops/s, %s, sent %lu = received %lu + "
                  "queued %lu + in hand %ld, lost_wakeups=%lu, RCU age %lu %lu %lu %lu, signals %lu, %s, RSS %zu KiB, "
                  "seed %llu\n",
                  prefix, (double)(now - report.begin) / 1e9, atomic_load(&torture.round),
                  atomic_load(&torture.workers), (long long)atomic_load(&torture.shuffle),
                  (double)(operations - report.last_operations) / (seconds > 0 ? seconds : 1), report.stats, sent,
                  received, queued, (long)(sent - received - queued), atomic_load(&report.lost), ages[0], ages[1], ages[2],
                  ages[3], shaker_signals(), report.nodes, test_rss_bytes() / 1024,
                  (unsigned long long)torture.seed);
    fflush(stdout); /* it may be a pipe that somebody watches */
    report.last_at = now;
    report.last_operations = operations;
}

/* What hangs can not be waited for. */
static _Noreturn void end(const char *why, int status)
{
    report_line("");
    if (dprintf(2, "%s; the live coroutines follow\n", why) > 0)
        flow_dump(2);
    _exit(status);
}

/* At once, while it can be seen who waits. */
static void end_if_a_wakeup_is_lost(int64_t now)
{
    unsigned long lost = watch_look(now, report.patience_ns);

    atomic_fetch_add(&report.lost, lost);
    if (lost)
        end("FAILED: wake-ups were lost", REPORT_LOST);
}

static void end_if_it_hangs(int64_t now)
{
    if (now >= atomic_load(&torture.hard_limit))
        end("time limit: something waits for ever", 124);
}

static void *look_and_report(void *unused)
{
    int64_t next = report.begin + report.every_ns;

    while (!atomic_load(&report.end)) {
        int64_t now = flow_now();

        end_if_a_wakeup_is_lost(now);
        end_if_it_hangs(now);
        if (now >= next) {
            note_stats();
            report_line("");
            next += report.every_ns;
        }
        test_nap(LOOK_NS);
    }
    return unused;
}

void report_open(int64_t every_ns, int64_t patience_ns)
{
    report.every_ns = every_ns;
    report.patience_ns = patience_ns;
    report.begin = report.last_at = flow_now();
    atomic_store(&report.end, false);
    if (pthread_create(&report.thread, NULL, look_and_report, NULL))
        fail_msg("%s", "no thread for the watchdog");
}

void report_close(void)
{
    atomic_store(&report.end, true);
    pthread_join(report.thread, NULL);
    note_stats();
    report.last_at = report.begin;
    report.last_operations = 0;
}
