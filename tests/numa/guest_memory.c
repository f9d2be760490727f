/* SPDX-License-Identifier: MIT
 *
 * In the guest: on which node the memory of workers and tasks lies, as move_pages() tells. Expected
 * is the node of the worker's CPU, or the nearest one that has memory and is allowed. */
#include "core/worker.h"
#include "tests/numa/guest.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <numaif.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PER_WORKER = 200, MOST = GUEST_MOST * PER_WORKER };

/* ---- pages and where they should be ---- */

static struct guest_sys sys;
static uint64_t allowed = UINT64_MAX; /* nodes, by bit */

static struct {
    void *pages[MOST];
    int expected[MOST];
    size_t n;
} asked;

static int expected_node(const struct flow__worker *w)
{
    struct guest_sys some = sys;

    for (int i = 0; i < sys.n_nodes; i++)
        if (!(allowed >> sys.nodes[i] & 1))
            some.memory_bytes[i] = 0;
    return guest_memory_node(&some, sys.node_of_cpu[sys.cpus[w->index]]);
}

static void ask(const void *address, const struct flow__worker *w)
{
    REQUIRE(asked.n < MOST);
    asked.pages[asked.n] = (void *)((uintptr_t)address & ~(uintptr_t)4095);
    asked.expected[asked.n++] = expected_node(w);
}

/* Every page must be where it should be. */
static void judge(const char *what)
{
    static int found[MOST];
    size_t right = 0, wrong = asked.n;

    guest_node_of_pages(asked.pages, asked.n, found);
    for (size_t i = 0; i < asked.n; i++) {
        right += found[i] == asked.expected[i];
        if (found[i] != asked.expected[i] && wrong == asked.n)
            wrong = i;
    }
    child_note("local pages: %.1f %% of %zu %s", 100.0 * (double)right / (double)asked.n, asked.n,
               what);
    if (wrong < asked.n)
        child_note("the first page that is elsewhere: %zu, on node %d instead of %d", wrong,
                   found[wrong], asked.expected[wrong]);
    REQUIRE_EQUAL(right, asked.n);
    asked.n = 0;
}

/* ---- tasks that stay ---- */

static struct live {
    const void *stack;
    struct flow__task *block;
    struct flow__worker *home, *spawner;
} live[MOST];

static atomic_int n_live;
static int wanted;

/* A page further down is touched too: not only the one with the header must be local. */
static flow_result stay(void *arg)
{
    struct live *me = arg;
    volatile char deep[6000];

    deep[0] = 1;
    me->stack = (const void *)deep;
    me->block = flow__self();
    me->home = me->block->home;
    flow_yield();
    atomic_fetch_add(&n_live, 1);
    flow_sleep_until(FLOW_FOREVER);
    return flow_ok(NULL);
}

static flow_result spawn_staying(void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    struct live *mine = arg;

    options.worker = flow__self()->home->index;
    options.flags = FLOW_PINNED;
    for (int i = 0; i < PER_WORKER; i++) {
        mine[i].spawner = flow__self()->home;
        REQUIRE_EQUAL(flow_spawn_with(NULL, &options, stay, &mine[i]), 0);
    }
    return flow_ok(NULL);
}

static flow_result spawn_anywhere(void *arg)
{
    for (int i = 0; i < wanted; i++) {
        live[i].spawner = flow__self()->home;
        REQUIRE_EQUAL(flow_spawn(NULL, stay, &live[i]), 0);
        if (i % 100 == 0)
            flow_yield();
    }
    return flow_ok(arg);
}

static void on_worker(int worker, flow_fn fn, void *arg)
{
    struct flow_spawn_options options = FLOW_SPAWN_INIT;
    flow_task task;

    options.worker = worker;
    options.flags = FLOW_PINNED;
    REQUIRE_EQUAL(flow_spawn_with(&task, &options, fn, arg), 0);
    REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
}

static void start(void)
{
    guest_read_sys(&sys);
    REQUIRE_EQUAL(flow_start(NULL), 0);
    REQUIRE_EQUAL(flow__runtime.n_workers, sys.n_cpus);
}

static void judge_live(const char *when)
{
    char what[128];

    WAIT_UNTIL(atomic_load(&n_live) == wanted);
    for (int i = 0; i < wanted; i++)
        ask(live[i].stack, live[i].home);
    snprintf(what, sizeof what, "live stacks%s", when);
    judge(what);
    for (int i = 0; i < wanted; i++)
        ask(live[i].block, live[i].spawner);
    snprintf(what, sizeof what, "control blocks%s", when);
    judge(what);
}

static void spawn_on_all(void)
{
    int n = flow__runtime.n_workers;

    atomic_store(&n_live, 0);
    wanted = n * PER_WORKER;
    for (int i = 0; i < n; i++)
        on_worker(i, spawn_staying, &live[i * PER_WORKER]);
}

/* The library's own report must find no page elsewhere either, and not too few. */
static void judge_report(const char *when)
{
    struct flow_memory_report report = {.size = sizeof report};
    const struct flow_memory_node *all = &report.total;

    REQUIRE_EQUAL(flow_memory_check(&report), 0);
    child_note("flow_memory_check%s: %.1f %% of %llu pages of stacks, %.1f %% of %llu of control blocks, "
               "%.1f %% of %llu of workers",
               when, 100.0 * (double)all->stacks.local / (double)all->stacks.pages,
               (unsigned long long)all->stacks.pages,
               100.0 * (double)all->blocks.local / (double)all->blocks.pages,
               (unsigned long long)all->blocks.pages,
               100.0 * (double)all->workers.local / (double)all->workers.pages,
               (unsigned long long)all->workers.pages);
    REQUIRE(all->stacks.pages >= 2 * (uint64_t)wanted);
    REQUIRE_EQUAL(all->stacks.local, all->stacks.pages);
    REQUIRE_EQUAL(all->blocks.local, all->blocks.pages);
    REQUIRE_EQUAL(all->workers.local, all->workers.pages);
}

/* ---- what workers own ---- */

static void judge_workers(void)
{
    for (int i = 0; i < flow__runtime.n_workers; i++) {
        struct flow__worker *w = &flow__runtime.workers[i];

        ask(w, w);
        ask(&w->ring, w);
        ask(&w->stats, w);
        ask(w->ready.entry, w);
    }
    judge("pages of workers and their queues");
}

CASE(all_is_local_that_workers_spawn)
{
    start();
    spawn_on_all();
    judge_live("");
    judge_workers();
    judge_report("");
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result work_a_little(void *arg)
{
    volatile char deep[6000];

    for (int i = 0; i < 5000; i++)
        deep[i] = (char)i;
    if ((uintptr_t)arg & 1)
        flow_yield();
    return flow_ok((void *)(uintptr_t)deep[0]);
}

/* Half of them are nobody's: their blocks are free where they end. */
static flow_result churn(void *arg)
{
    enum { WAVE = 200 };
    flow_task tasks[WAVE];

    while (test_stats().total.remote_dispatches < 1000) {
        for (uintptr_t i = 0; i < WAVE; i++) {
            REQUIRE_EQUAL(flow_spawn(NULL, work_a_little, (void *)i), 0);
            REQUIRE_EQUAL(flow_spawn(&tasks[i], work_a_little, (void *)i), 0);
        }
        REQUIRE_EQUAL(flow_when_all(tasks, WAVE, NULL, FLOW_FOREVER), 0);
    }
    return flow_ok(arg);
}

/* Tasks are stolen and end elsewhere; their blocks and stacks must not stay there. */
CASE(all_is_local_after_much_stealing)
{
    struct flow_stats stats;

    start();
    on_worker(0, churn, NULL);
    WAIT_UNTIL(test_stats().live == 0);
    stats = test_stats();
    child_note("%llu tasks ran on another node; %llu blocks went home from there",
               (unsigned long long)stats.total.remote_dispatches,
               (unsigned long long)stats.blocks_sent_home);
    spawn_on_all();
    judge_live(" after much stealing");
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* All spawned from one worker: a stack belongs to who starts the task, its block to the spawner. */
CASE(stolen_tasks_have_stacks_where_they_run)
{
    int away = 0;

    start();
    wanted = 10 * PER_WORKER;
    on_worker(0, spawn_anywhere, NULL);
    judge_live(" of a skewed load");
    judge_report(" of a skewed load");
    for (int i = 0; i < wanted; i++)
        away += live[i].home->node != live[i].spawner->node;
    child_note("%d of %d tasks ran on another node than they were spawned on", away, wanted);
    REQUIRE(away > 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- blocks of pools ---- */

static flow_pool *pool;

static struct share {
    void *blocks[PER_WORKER];
} shares[GUEST_MOST];

static flow_result take_share(void *arg)
{
    struct share *share = arg;

    for (int i = 0; i < PER_WORKER; i++) {
        share->blocks[i] = flow_pool_alloc(pool);
        REQUIRE(share->blocks[i] != NULL);
        memset(share->blocks[i], 1, 256);
    }
    return flow_ok(NULL);
}

static flow_result give_share(void *arg)
{
    struct share *share = arg;

    for (int i = 0; i < PER_WORKER; i++)
        REQUIRE_EQUAL(flow_pool_free(pool, share->blocks[i]), 0);
    return flow_ok(NULL);
}

/* Twice; in between every worker frees the blocks of another one, mostly of another node. */
static void judge_pool(const char *when)
{
    struct flow_pool_options options = FLOW_POOL_INIT;
    struct flow_pool_stats stats = {.size = sizeof stats};
    int n = flow__runtime.n_workers;
    char what[64];

    options.block_bytes = 256;
    REQUIRE_EQUAL(flow_pool_create(&pool, &options), 0);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < n; i++) {
            on_worker(i, take_share, &shares[i]);
            for (int k = 0; k < PER_WORKER; k++)
                ask(shares[i].blocks[k], &flow__runtime.workers[i]);
        }
        snprintf(what, sizeof what, "pool blocks%s%s", round ? " after remote frees" : "", when);
        judge(what);
        for (int i = 0; i < n; i++)
            on_worker((i + 3) % n, give_share, &shares[i]);
    }
    REQUIRE_EQUAL(flow_pool_stats(pool, &stats), 0);
    REQUIRE(stats.remote_frees > 0);
    REQUIRE_EQUAL(stats.stolen_blocks, 0);
    REQUIRE_EQUAL(flow_pool_destroy(pool), 0);
}

CASE(pool_blocks_are_local)
{
    start();
    judge_pool("");
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- memory for users ---- */

CASE(alloc_on_node_gives_memory_of_each_node)
{
    enum { BYTES = 1 << 20 };
    static void *pages[BYTES / 4096];
    static int found[BYTES / 4096];

    start();
    for (int node = 0; node < sys.n_nodes; node++) {
        char *p;

        REQUIRE_EQUAL(flow_alloc_on_node((void **)&p, BYTES, node), 0);
        memset(p, 1, BYTES);
        for (size_t i = 0; i < BYTES / 4096; i++)
            pages[i] = p + 4096 * i;
        guest_node_of_pages(pages, BYTES / 4096, found);
        for (size_t i = 0; i < BYTES / 4096; i++)
            REQUIRE_EQUAL(found[i], guest_memory_node(&sys, sys.nodes[node]));
        REQUIRE_EQUAL(flow_free_on_node(p, BYTES), 0);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- where binding is refused ---- */

static void refuse_binding(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mbind, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_set_mempolicy, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};

    REQUIRE_EQUAL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    REQUIRE_EQUAL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

CHILD(without_mbind)
{
    struct flow_info info = {.size = sizeof info};

    refuse_binding();
    start();
    REQUIRE_EQUAL(flow_info(&info), 0);
    REQUIRE(!strcmp(info.memory_policy, "first-touch"));
    REQUIRE(test_stats().bind_failures > 0);
    spawn_on_all();
    judge_live(" without mbind");
    judge_workers();
    judge_report(" without mbind");
    judge_pool(" without mbind");
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

JUDGED(all_is_local_where_mbind_is_refused)
{
    static struct child_end end;
    const char *warning;

    child_run(&end, "without_mbind", "");
    printf("%s", end.text);
    child_must_exit(&end, 0);
    child_must_say(&end, "memory cannot be bound");
    warning = strstr(end.text, "memory cannot be bound");
    assert_null(strstr(warning + 1, "memory cannot be bound")); /* once is enough */
}

/* ---- a policy of the process's own ---- */

/* As under `numactl --interleave=all`: what is bound stays where it belongs. */
CASE(all_is_local_though_the_process_interleaves)
{
    unsigned long all = 0;

    guest_read_sys(&sys);
    for (int i = 0; i < sys.n_nodes; i++)
        if (sys.memory_bytes[i])
            all |= 1ul << sys.nodes[i];
    REQUIRE_EQUAL(set_mempolicy(MPOL_INTERLEAVE, &all, GUEST_MOST), 0);
    start();
    spawn_on_all();
    judge_live(" under interleaving");
    judge_workers();
    judge_pool(" under interleaving");
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- a cpuset that allows only some nodes' memory ---- */

static const char *some_nodes(void)
{
    return guest_is("four") ? "0,2" : guest_is("memoryless") ? "2" : "1-2";
}

CASE(memory_comes_from_allowed_nodes)
{
    int nodes[GUEST_MOST], n = guest_numbers(some_nodes(), nodes);

    guest_make_cgroup("mems");
    guest_write(some_nodes(), "/sys/fs/cgroup/mems/cpuset.mems");
    guest_join_cgroup("mems");
    allowed = 0;
    for (int i = 0; i < n; i++)
        allowed |= (uint64_t)1 << nodes[i];
    start();
    spawn_on_all();
    judge_live(" within a cpuset");
    judge_workers();
    judge_report(" within a cpuset");
    judge_pool(" within a cpuset");
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
