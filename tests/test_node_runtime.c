/* SPDX-License-Identifier: MIT
 *
 * A running runtime on several nodes: that tasks, their stacks and control blocks belong to the
 * nodes they should, come home, and are lent where one node has none left; what happens where the
 * system refuses memory policies; what flow_memory_check says. The nodes are a fixture's, so where
 * pages really lie is checked only as far as this machine goes: make check-numa does the rest. */
#include "tests/support/child.h"
#include "tests/support/faults.h"
#include "tests/support/machine.h"

#include "core/arena.h"
#include "core/worker.h"
#include "sync/syscall.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NODES = 4, WORKERS = 8 };

static int pretend_bind(void *start, size_t bytes, int node_id)
{
    (void)start, (void)bytes, (void)node_id;
    return 0;
}

static struct flow_options four_nodes(void)
{
    struct flow_options o = test_options();

    machine_use(&machine_four_nodes);
    o.workers = WORKERS;
    return o;
}

static void start_on_four_nodes(void)
{
    struct flow_options o = four_nodes();

    flow__sys.bind = pretend_bind;
    test_start_with(&o);
}

static struct {
    char *start, *end;
    int node_id;
} binds[512];
static atomic_int n_binds;

static int note_bind(void *start, size_t bytes, int node_id)
{
    int i = atomic_fetch_add(&n_binds, 1);

    REQUIRE(i < 512);
    binds[i].start = start;
    binds[i].end = (char *)start + bytes;
    binds[i].node_id = node_id;
    return 0;
}

/* The node of the last bind that covers all of these bytes; -1: there is none. */
static int bound_to(const void *start, size_t bytes)
{
    const char *first = start, *end = first + bytes;

    for (int i = atomic_load(&n_binds) - 1; i >= 0; i--)
        if (binds[i].start <= first && end <= binds[i].end)
            return binds[i].node_id;
    return -1;
}

static flow_task spawn_on(int worker, flow_fn fn, void *arg)
{
    struct flow_spawn_options with = FLOW_SPAWN_INIT;
    flow_task task;

    with.worker = worker;
    with.flags = FLOW_PINNED;
    REQUIRE_EQUAL(flow_spawn_with(&task, &with, fn, arg), 0);
    return task;
}

/* Runs fn(arg) on each worker in turn. */
static void on_each_worker(flow_fn fn, void *arg)
{
    for (int i = 0; i < WORKERS; i++) {
        flow_task task = spawn_on(i, fn, arg);

        REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
    }
}

static struct flow__worker *own_worker(void)
{
    return flow__self()->home;
}

/* ---- where tasks live ---- */

static flow_result sleep_for_ever(void *arg)
{
    (void)arg;
    return flow_err(flow_sleep_until(FLOW_FOREVER));
}

static flow_result look_around(void *arg)
{
    struct flow__worker *w = own_worker();
    flow_task child;

    (void)arg;
    REQUIRE_EQUAL(w->index / 2, w->node);
    REQUIRE_EQUAL(flow__stack_node(flow__self()->stack), w->node);
    REQUIRE_EQUAL(w->timers.node, w->node);
    REQUIRE_EQUAL(w->blocks.node, w->node);
    for (int i = 0; i < 300; i++) {
        REQUIRE_EQUAL(flow_spawn(&child, sleep_for_ever, NULL), 0);
        REQUIRE_EQUAL(flow__node_of_slot((uint32_t)child.id), w->node);
        REQUIRE_EQUAL(flow_cancel(child), 0);
        REQUIRE_EQUAL(flow_detach(child), 0);
    }
    return flow_ok(NULL);
}

CASE(tasks_have_memory_of_their_node)
{
    start_on_four_nodes();
    on_each_worker(look_around, NULL);
    test_stop();
}

static flow_result check_binds(void *arg)
{
    struct flow__worker *w = own_worker();
    int node_id = flow__runtime.topology.nodes[w->node].node_id;

    REQUIRE_EQUAL(bound_to(w, sizeof *w), node_id);
    REQUIRE_EQUAL(bound_to(w->ready.entry, w->ready.capacity * sizeof *w->ready.entry), node_id);
    REQUIRE_EQUAL(bound_to(w->timers.heap, w->timers.heap_capacity * sizeof *w->timers.heap),
                  node_id);
    REQUIRE_EQUAL(bound_to(flow__self()->stack, flow__stack_bytes(flow__self()->stack_class)),
                  node_id);
    return flow_ok(arg);
}

CASE(all_of_a_worker_is_bound_to_its_node)
{
    struct flow_options o = four_nodes();

    flow__sys.bind = note_bind;
    test_start_with(&o);
    on_each_worker(check_binds, NULL);
    /* Also what has grown since. */
    for (int i = 0; i < 3000; i++)
        spawn_on(i % 2 ? 3 : 6, sleep_for_ever, NULL);
    WAIT_UNTIL(test_stats().total.stacks_taken >= 3000 + WORKERS);
    on_each_worker(check_binds, NULL);
    REQUIRE(flow__runtime.workers[3].ready.capacity >= 1024);
    flow_stop(FLOW_FOREVER);
}

/* A foreign thread's task is queued on some node; its block comes from there. */
static flow_result compare_nodes(void *arg)
{
    atomic_int *n_same = arg;
    flow_task self = flow_self();

    atomic_fetch_add(n_same, flow__node_of_slot((uint32_t)self.id) == own_worker()->node);
    return flow_ok(NULL);
}

CASE(foreign_threads_tasks_have_blocks_where_they_run)
{
    atomic_int n_same = 0;
    flow_task task;

    start_on_four_nodes();
    for (int i = 0; i < 400; i++) {
        struct flow_spawn_options with = FLOW_SPAWN_INIT;

        with.node = i % NODES;
        REQUIRE_EQUAL(flow_spawn_with(&task, &with, compare_nodes, &n_same), 0);
        REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
        task = spawn_on(i % WORKERS, compare_nodes, &n_same);
        REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
    }
    REQUIRE_EQUAL(n_same, 800);
    /* Where nothing is said the node is chosen, and only another node's thief changes it. */
    for (int i = 0; i < 400; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, compare_nodes, &n_same), 0);
    REQUIRE(test_wait_until_empty());
    child_note("of 400 tasks of a foreign thread %d ran on their block's node", n_same - 800);
    REQUIRE(n_same > 800);
    for (int i = 0; i < NODES; i++)
        REQUIRE(load_relaxed(&flow__registry.depot[i].used) > flow__registry.depot[i].first);
    test_stop();
}

/* ---- coming home ---- */

static flow_result nothing(void *arg)
{
    return flow_ok(arg);
}

enum { BATCH = 500 };

static flow_task batch[BATCH];

static flow_result spawn_batch(void *arg)
{
    (void)arg;
    for (int i = 0; i < BATCH; i++)
        REQUIRE_EQUAL(flow_spawn(&batch[i], nothing, NULL), 0);
    return flow_ok(NULL);
}

static flow_result join_batch(void *arg)
{
    (void)arg;
    for (int i = 0; i < BATCH; i++)
        REQUIRE_EQUAL(flow_join(batch[i], NULL, FLOW_FOREVER), 0);
    return flow_ok(NULL);
}

/* Nothing of another node is kept for use; it may wait for company on its way. */
static flow_result look_into_caches(void *arg)
{
    struct flow__worker *w = own_worker();
    uint32_t n = 0;

    (void)arg;
    for (struct flow__link *at = w->blocks.list; at; at = at->next, n++)
        REQUIRE_EQUAL(flow__node_of_slot(flow__slot_of(flow__task_of_link(at))), w->node);
    for (struct flow__link *at = w->blocks.spare; at; at = at->next)
        REQUIRE_EQUAL(flow__node_of_slot(flow__slot_of(flow__task_of_link(at))), w->node);
    REQUIRE_EQUAL(n, w->blocks.n);
    for (int c = 0; c < FLOW__STACK_CLASSES; c++)
        for (uint32_t i = 0; i < w->stacks.n[c]; i++)
            REQUIRE_EQUAL(flow__stack_node(w->stacks.slot[c][i]), w->node);
    return flow_ok(NULL);
}

/* Made on the first node, joined and so freed on the last, over and over. */
CASE(blocks_freed_on_another_node_go_home)
{
    struct flow_stats s;
    uint32_t used;

    start_on_four_nodes();
    for (int i = 0; i < 20; i++) {
        REQUIRE_EQUAL(flow_join(spawn_on(0, spawn_batch, NULL), NULL, FLOW_FOREVER), 0);
        REQUIRE_EQUAL(flow_join(spawn_on(7, join_batch, NULL), NULL, FLOW_FOREVER), 0);
    }
    s = test_stats();
    on_each_worker(look_into_caches, NULL);
    used = load_relaxed(&flow__registry.depot[0].used) - flow__registry.depot[0].first;
    child_note("20 times %d tasks from node 0 to 3: %llu blocks sent home, node 0 ever used %u",
               BATCH, (unsigned long long)s.blocks_sent_home, used);
    REQUIRE(s.blocks_sent_home >= 20 * BATCH / 2);
    REQUIRE_EQUAL(s.blocks_borrowed, 0);
    /* They are used again, not new ones each time. */
    REQUIRE(used < 3 * BATCH);
    test_stop();
}

static atomic_int n_moved;

/* Goes on until it is on another node than where it began, or enough others are. */
static flow_result roam(void *arg)
{
    int begun = flow__stack_node(flow__self()->stack);
    flow_deadline give_up = flow_after(FLOW_S(10));

    (void)arg;
    while (own_worker()->node == begun && atomic_load(&n_moved) < 20 && flow_now() < give_up) {
        flow_deadline until = flow_after(FLOW_US(20)); /* others wait long enough to be taken away */

        while (flow_now() < until)
            ;
        REQUIRE_EQUAL(flow_yield(), 0);
    }
    if (own_worker()->node != begun)
        atomic_fetch_add(&n_moved, 1);
    return flow_ok(NULL);
}

CASE(stacks_of_tasks_that_roamed_go_home)
{
    struct flow_spawn_options with = FLOW_SPAWN_INIT;
    struct flow_stats s;

    start_on_four_nodes();
    with.flags = FLOW_ROAM;
    with.worker = 0; /* to begin with */
    for (int i = 0; i < 50; i++)
        REQUIRE_EQUAL(flow_spawn_with(NULL, &with, roam, NULL), 0);
    REQUIRE(test_wait_until_empty());
    on_each_worker(look_into_caches, NULL);
    WAIT_UNTIL((s = test_stats()).stacks_sent_home >= (uint64_t)atomic_load(&n_moved));
    child_note("%d of 50 tasks ended on another node, %llu stacks sent home",
               atomic_load(&n_moved), (unsigned long long)s.stacks_sent_home);
    REQUIRE(atomic_load(&n_moved) > 0);
    test_stop();
}

/* ---- lending ---- */

static flow_result spawn_all_there_are(void *arg)
{
    int *n = arg, r;

    while ((r = flow_spawn(NULL, sleep_for_ever, NULL)) == 0)
        ++*n;
    REQUIRE_EQUAL(r, -ENOSPC);
    return flow_ok(NULL);
}

/* max_tasks is a limit for all nodes together: one worker can have them all. */
CASE(one_node_may_use_the_blocks_of_all)
{
    enum { LIMIT = TEST_EMULATED ? 5000 : 20000 };
    struct flow_options o = four_nodes();
    struct flow_stats s;
    int n = 0, again = 0;

    flow__sys.bind = pretend_bind;
    o.max_tasks = LIMIT;
    test_start_with(&o);
    REQUIRE_EQUAL(flow_join(spawn_on(5, spawn_all_there_are, &n), NULL, FLOW_FOREVER), 0);
    s = test_stats();
    child_note("max_tasks %d on 4 nodes: one worker spawned %d, %llu blocks borrowed", LIMIT, n,
               (unsigned long long)s.blocks_borrowed);
    REQUIRE(n >= LIMIT && n <= LIMIT + (WORKERS + NODES) * 5 * 64);
    REQUIRE(s.blocks_borrowed >= LIMIT * 3 / 5);
    flow_stop(FLOW_FOREVER);
    test_start_with(&o);
    REQUIRE_EQUAL(flow_join(spawn_on(0, spawn_all_there_are, &again), NULL, FLOW_FOREVER), 0);
    REQUIRE(again >= LIMIT);
    flow_stop(FLOW_FOREVER);
}

/* A quarter of little address space for each node: stacks are lent, too. */
CASE(stacks_are_lent_where_address_space_is_scarce)
{
    struct flow_options o = four_nodes();
    struct rlimit limit = {(rlim_t)1 << 30, (rlim_t)1 << 30};
    struct flow_spawn_options with = FLOW_SPAWN_INIT;
    struct flow_stats s;
    unsigned part;
    int n;

    if (TEST_SANITIZED)
        skip_case("sanitizers need all address space");
    flow__sys.bind = pretend_bind;
    o.max_tasks = 10000;
    if (TEST_EMULATED)
        skip_case("the emulator does not set this limit");
    REQUIRE_EQUAL(setrlimit(RLIMIT_AS, &limit), 0);
    test_start_with(&o);
    part = flow__stacks.part_shift;
    REQUIRE(part >= 20 && part <= 24);
    n = 3 << (part - 20); /* of the largest class: three parts' worth, all on one node */
    with.worker = 2;
    with.stack_bytes = 1 << 20;
    for (int i = 0; i < n; i++)
        REQUIRE_EQUAL(flow_spawn_with(NULL, &with, sleep_for_ever, NULL), 0);
    WAIT_UNTIL((s = test_stats()).total.stacks_taken >= (uint64_t)n);
    child_note("parts of %u KiB: %d large stacks on one node, %llu borrowed", 1u << (part - 10), n,
               (unsigned long long)s.stacks_borrowed);
    REQUIRE_EQUAL(s.total.no_stack, 0);
    REQUIRE(s.stacks_borrowed > 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- flow_memory_check ---- */

static struct flow_memory_report report_now(struct flow_memory_node *nodes, size_t n)
{
    struct flow_memory_report report = {sizeof report, nodes, n, {{0, 0}, {0, 0}, {0, 0}}};
    int r = flow_memory_check(&report);

    if (r == -EPERM || r == -ENOSYS)
        skip_case("move_pages is refused here");
    REQUIRE_EQUAL(r, 0);
    return report;
}

static flow_result check_inside(void *arg)
{
    struct flow_memory_node nodes[NODES];
    struct flow_memory_report report = report_now(nodes, NODES);

    REQUIRE(report.total.stacks.pages > 0);
    return flow_ok(arg);
}

static struct flow_memory_pages sum(const struct flow_memory_node *nodes, size_t offset)
{
    struct flow_memory_pages all = {0, 0};

    for (int i = 0; i < NODES; i++) {
        const struct flow_memory_pages *p =
            (const struct flow_memory_pages *)((const char *)&nodes[i] + offset);

        REQUIRE(p->local <= p->pages);
        all.pages += p->pages;
        all.local += p->local;
    }
    return all;
}

static void check_sum(const struct flow_memory_report *report, size_t offset)
{
    struct flow_memory_pages all = sum(report->nodes, offset);
    const struct flow_memory_pages *total =
        (const struct flow_memory_pages *)((const char *)&report->total + offset);

    REQUIRE_EQUAL(all.pages, total->pages);
    REQUIRE_EQUAL(all.local, total->local);
}

CASE(a_report_counts_every_page_where_it_belongs)
{
    struct flow_memory_node nodes[NODES + 1], few[2];
    struct flow_memory_report report = {.size = sizeof report};
    bool one_node_really = flow_topology_nodes() == 1;

    REQUIRE_EQUAL(flow_memory_check(&report), -ESHUTDOWN);
    start_on_four_nodes();
    for (int i = 0; i < WORKERS; i++)
        for (int k = 0; k < 10 * (i / 2); k++) /* 0, 20, 40, 60 on the nodes */
            spawn_on(i, sleep_for_ever, NULL);
    WAIT_UNTIL(test_stats().total.stacks_taken >= 120 && (report_now(nodes, NODES), true) &&
               nodes[1].stacks.pages >= 20 && nodes[2].stacks.pages >= 40 &&
               nodes[3].stacks.pages >= 60);
    test_nap(FLOW_MS(20)); /* all have left their stacks, and change no more */
    memset(nodes, 0xff, sizeof nodes);
    report = report_now(nodes, NODES + 1);
    REQUIRE_EQUAL(report.n_nodes, NODES);
    check_sum(&report, offsetof(struct flow_memory_node, stacks));
    check_sum(&report, offsetof(struct flow_memory_node, blocks));
    check_sum(&report, offsetof(struct flow_memory_node, workers));
    REQUIRE_EQUAL(nodes[NODES].stacks.pages, UINT64_MAX); /* not touched */
    for (int i = 0; i < NODES; i++) {
        REQUIRE(nodes[i].stacks.pages >= 20 * (uint64_t)i);
        REQUIRE(i || nodes[i].stacks.pages == 0);
        REQUIRE(nodes[i].workers.pages >= 2);
        /* Of the fixture's nodes this machine has the first only. */
        if (one_node_really) {
            REQUIRE_EQUAL(nodes[i].stacks.local, 0);
            REQUIRE_EQUAL(nodes[i].workers.local, i ? 0 : nodes[i].workers.pages);
        }
    }
    /* Each once; each node's begin with a page of their own. */
    REQUIRE(report.total.blocks.pages >= 120 * sizeof(struct flow__task) / 4096);
    REQUIRE(report.total.blocks.pages <= 160 * sizeof(struct flow__task) / 4096 + 2 * NODES);
    if (one_node_really) {
        REQUIRE_EQUAL(nodes[0].blocks.local, nodes[0].blocks.pages);
        REQUIRE_EQUAL(nodes[1].blocks.local, 0);
    }

    report = report_now(few, 2);
    REQUIRE_EQUAL(report.n_nodes, NODES);
    REQUIRE_EQUAL(few[1].stacks.pages, nodes[1].stacks.pages);
    REQUIRE_EQUAL(report.total.workers.pages, sum(nodes, offsetof(struct flow_memory_node, workers)).pages);
    REQUIRE_EQUAL(report_now(NULL, 7).n_nodes, NODES);
    report.size--;
    REQUIRE_EQUAL(flow_memory_check(&report), -EINVAL);
    REQUIRE_EQUAL(flow_memory_check(NULL), -EINVAL);
    on_each_worker(check_inside, NULL);
    flow_stop(FLOW_FOREVER);
}

CASE(on_the_real_machine_all_pages_are_local)
{
    struct flow_memory_node nodes[64];
    struct flow_memory_report report;

    test_start();
    for (int i = 0; i < 200; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, sleep_for_ever, NULL), 0);
    WAIT_UNTIL((report = report_now(nodes, 64)).total.stacks.pages >= 200);
    child_note("stacks %llu of %llu, blocks %llu of %llu, workers %llu of %llu pages local",
               (unsigned long long)report.total.stacks.local,
               (unsigned long long)report.total.stacks.pages,
               (unsigned long long)report.total.blocks.local,
               (unsigned long long)report.total.blocks.pages,
               (unsigned long long)report.total.workers.local,
               (unsigned long long)report.total.workers.pages);
    if (report.n_nodes == 1)
        REQUIRE_EQUAL(report.total.stacks.local, report.total.stacks.pages);
    REQUIRE_EQUAL(report.total.workers.local, report.total.workers.pages);
    flow_stop(FLOW_FOREVER);
}

static atomic_bool looker_ends;

static flow_result look_all_the_time(void *arg)
{
    (void)arg;
    while (!atomic_load(&looker_ends)) {
        report_now(NULL, 0);
        REQUIRE(flow_yield() == 0);
    }
    return flow_ok(NULL);
}

static flow_result live_a_little(void *arg)
{
    if ((intptr_t)arg % 3 == 0)
        flow_sleep(FLOW_US((intptr_t)arg % 50));
    return flow_ok(NULL);
}

CASE(a_report_while_tasks_come_and_go)
{
    flow_task looker;

    start_on_four_nodes();
    looker = spawn_on(3, look_all_the_time, NULL);
    for (intptr_t i = 0; i < TEST_ROUNDS(20000, 2000); i++) {
        flow_task task;

        if (flow_spawn(&task, live_a_little, (void *)i) == 0)
            REQUIRE_EQUAL(flow_detach(task), 0);
        if (i % 256 == 0)
            report_now(NULL, 0);
    }
    atomic_store(&looker_ends, true);
    REQUIRE_EQUAL(flow_join(looker, NULL, FLOW_FOREVER), 0);
    REQUIRE(test_wait_until_empty());
    test_stop();
}

/* ---- huge pages ---- */

/* Over all mappings of the region: kilobytes of huge pages, and those without the flag "nh". */
static void read_smaps(long *huge_kb, int *n_mappings, int *n_willing)
{
    uintptr_t base = load_relaxed(&flow__stacks.base), from, to;
    uintptr_t end = base + load_relaxed(&flow__stacks.bytes);
    FILE *f = fopen("/proc/self/smaps", "re");
    bool inside = false;
    char *line = NULL;
    size_t room = 0;
    long kb;

    REQUIRE(f != NULL);
    *huge_kb = *n_mappings = *n_willing = 0;
    while (getline(&line, &room, f) > 0) {
        if (sscanf(line, "%lx-%lx", &from, &to) == 2) {
            inside = from >= base && from < end;
            *n_mappings += inside;
        }
        if (inside && sscanf(line, "AnonHugePages: %ld", &kb) == 1)
            *huge_kb += kb;
        if (inside && !strncmp(line, "VmFlags:", 8) && !strstr(line, " nh"))
            ++*n_willing;
    }
    free(line);
    fclose(f);
}

static flow_result touch_all_of_it(void *arg)
{
    char much[200 * 1024];

    memset(much, 1, sizeof much);
    __asm__ volatile("" : : "r"(much) : "memory");
    return sleep_for_ever(arg);
}

CASE(stacks_of_no_node_are_huge_pages)
{
    struct flow_spawn_options with = FLOW_SPAWN_INIT;
    long huge_kb;
    int n_mappings, n_willing;

    if (TEST_EMULATED)
        skip_case("the emulator does not pass advice about huge pages on");
    start_on_four_nodes();
    with.stack_bytes = 256 * 1024;
    for (int i = 0; i < 100; i++) {
        with.worker = i % WORKERS;
        REQUIRE_EQUAL(flow_spawn_with(NULL, &with, touch_all_of_it, NULL), 0);
    }
    WAIT_UNTIL(test_stats().total.stacks_taken >= 100);
    test_nap(FLOW_MS(20));
    read_smaps(&huge_kb, &n_mappings, &n_willing);
    REQUIRE(n_mappings > 0);
    REQUIRE_EQUAL(huge_kb, 0);
    REQUIRE_EQUAL(n_willing, 0);
    flow_stop(FLOW_FOREVER);
}

/* ---- the system refuses ---- */

/* As containers do. */
static void refuse_memory_policy(unsigned error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mbind, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_get_mempolicy, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_set_mempolicy, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_move_pages, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0))
        skip_case("seccomp filters are not to be had here");
}

static struct flow_info info_now(void)
{
    struct flow_info info = {.size = sizeof info};

    REQUIRE_EQUAL(flow_info(&info), 0);
    return info;
}

CHILD(where_memory_policy_is_refused)
{
    int error = atoi(arg);
    struct flow_memory_report report = {.size = sizeof report};
    struct flow_options o = four_nodes();
    void *p;

    refuse_memory_policy((unsigned)error);
    for (int i = 0; i < 3; i++) {
        test_start_with(&o);
        REQUIRE(!strcmp(info_now().memory_policy, "first-touch"));
        REQUIRE_EQUAL(test_stats().bind_failures, NODES);
        on_each_worker(look_around, NULL);
        REQUIRE_EQUAL(flow_memory_check(&report), -error);
        REQUIRE_EQUAL(flow_alloc_on_node(&p, 100000, 3), 0);
        memset(p, 1, 100000);
        REQUIRE_EQUAL(flow_free_on_node(p, 100000), 0);
        REQUIRE_EQUAL(test_stats().bind_failures, NODES);
        test_stop();
    }
}

/* Nobody is warned about a fixture's nodes; so this machine is called a real one. */
CHILD(real_nodes_where_memory_policy_is_refused)
{
    struct flow__topology t;

    REQUIRE_EQUAL(flow__topology_read(&t, machine_open(&machine_four_nodes)), 0);
    t.live = true;
    refuse_memory_policy((unsigned)atoi(arg));
    for (int i = 0; i < 3; i++) {
        flow__arena_open(&t);
        REQUIRE(!strcmp(flow__arena_policy(), "first-touch"));
        REQUIRE_EQUAL(flow__arena_bind_failures(), NODES);
        flow__arena_close();
    }
    flow__topology_free(&t);
}

static int count_text(const char *in, const char *text)
{
    int n = 0;

    while ((in = strstr(in, text))) {
        in += strlen(text);
        n++;
    }
    return n;
}

JUDGED(a_refused_memory_policy_is_said_once_and_harmless)
{
    static const int errors[] = {EPERM, ENOSYS};
    static struct child_end end;

    for (int i = 0; i < 2; i++) {
        char text[16];

        snprintf(text, sizeof text, "%d", errors[i]);
        child_run(&end, "where_memory_policy_is_refused", text);
        if (end.code == CHILD_SKIPPED)
            skip_case("seccomp filters are not to be had here");
        child_must_exit(&end, 0);
        assert_int_equal(count_text(end.text, "memory cannot be bound"), 0);
        child_run(&end, "real_nodes_where_memory_policy_is_refused", text);
        child_must_exit(&end, 0);
        assert_int_equal(count_text(end.text, "memory cannot be bound"), 1);
        child_must_say(&end, strerror(errors[i]));
    }
}

CHILD(one_node_without_memory_policy)
{
    machine_use(&machine_one_node);
    refuse_memory_policy(EPERM);
    test_start();
    REQUIRE(!strcmp(info_now().memory_policy, "one node"));
    REQUIRE_EQUAL(test_stats().bind_failures, 0);
    test_stop();
}

JUDGED(one_node_never_asks_and_never_warns)
{
    static struct child_end end;

    child_run(&end, "one_node_without_memory_policy", "");
    if (end.code == CHILD_SKIPPED)
        skip_case("seccomp filters are not to be had here");
    child_must_exit(&end, 0);
    assert_int_equal(count_text(end.text, "memory cannot be bound"), 0);
}

/* ---- the n-th bind is refused ---- */

/* Enough that every kind of memory grows. */
static void use_the_runtime(void)
{
    enum { TASKS = 2000 };
    static flow_task task[TASKS];

    for (int i = 0; i < TASKS; i++) {
        struct flow_spawn_options with = FLOW_SPAWN_INIT;

        with.worker = i % 10 ? 0 : i / 10 % WORKERS;
        REQUIRE_EQUAL(flow_spawn_with(&task[i], &with, live_a_little, (void *)(intptr_t)3), 0);
    }
    REQUIRE_EQUAL(flow_when_all(task, TASKS, NULL, FLOW_FOREVER), 0);
}

static bool all_is_given_back(void)
{
    struct faults_balance b = faults_balance();

    return b.maps == 0 && b.mapped_bytes == 0 && b.allocations == 0;
}

/* One start, some work, one stop: how many binds were refused. */
static uint64_t run_once(const struct flow_options *o)
{
    uint64_t refused;

    REQUIRE_EQUAL(flow_start(o), 0);
    use_the_runtime();
    refused = test_stats().bind_failures;
    REQUIRE_EQUAL(refused == 0, !faults_fired());
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    WAIT_UNTIL(all_is_given_back());
    return refused;
}

static void inject_binds(bool forever)
{
    struct flow_options o = four_nodes();
    long n = 0;

    faults_open();
    faults_arm(FAULT_BIND, 0, false);
    REQUIRE_EQUAL(run_once(&o), 0);
    do {
        faults_arm(FAULT_BIND, ++n, forever);
        REQUIRE(run_once(&o) <= 1 || forever);
    } while (faults_fired());
    faults_arm(FAULT_BIND, 0, false);
    child_note("bind%s: injected %ld, errors 0, leaked 0, hung 0",
               forever ? " from then on" : "", n - 1);
    REQUIRE(n > 40);
}

CASE(a_refused_bind_is_counted_and_nothing_else)
{
    if (TEST_TSAN)
        skip_case("too many fibers for the thread sanitizer");
    inject_binds(false);
}

CASE(binds_refused_from_some_time_on)
{
    if (TEST_TSAN)
        skip_case("too many fibers for the thread sanitizer");
    inject_binds(true);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
