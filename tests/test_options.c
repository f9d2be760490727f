/* SPDX-License-Identifier: MIT
 *
 * Options: every name, range, suffix and environment variable; what a start says that fails;
 * and what the machine then is, by flow_info and by the system itself. */
#include "tests/support/child.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct flow_options few(int workers)
{
    struct flow_options o = FLOW_OPTIONS_INIT;

    o.workers = workers;
    return o;
}

static struct flow_info info_now(void)
{
    struct flow_info info = {.size = sizeof info};

    REQUIRE_EQUAL(flow_info(&info), 0);
    return info;
}

/* ---- values ---- */

enum field { WORKERS, STACK, TASKS, SPIN, PER_NODE, LEAVE };

static const char *const names[] = {"workers", "stack_bytes",      "max_tasks",
                                    "spin_ns", "workers_per_node", "leave_cpus"};

static void set(struct flow_options *o, enum field field, int64_t value)
{
    switch (field) {
    case WORKERS:
        o->workers = (int)value;
        break;
    case STACK:
        o->stack_bytes = (size_t)value;
        break;
    case TASKS:
        o->max_tasks = (size_t)value;
        break;
    case SPIN:
        o->spin_ns = value;
        break;
    case PER_NODE:
        o->workers = FLOW_WORKERS_AUTO;
        o->workers_per_node = (int)value;
        break;
    case LEAVE:
        o->leave_cpus = (int)value;
        break;
    }
}

CASE(a_value_out_of_range_is_refused_and_named)
{
    static const struct {
        enum field field;
        int64_t value;
    } bad[] = {{WORKERS, -2},      {WORKERS, 1025},   {WORKERS, INT32_MAX}, {WORKERS, INT32_MIN},
               {STACK, 0},         {STACK, 8192},     {STACK, 16383},       {STACK, 16385},
               {STACK, 48 * 1024}, {STACK, 2 << 20},  {STACK, -1},          {TASKS, 0},
               {TASKS, 67000001},  {TASKS, -1},       {SPIN, -1},           {SPIN, 1000001},
               {SPIN, INT64_MAX},  {SPIN, INT64_MIN}, {PER_NODE, -1},       {PER_NODE, 1025},
               {LEAVE, -1},        {LEAVE, 65536}};
    struct flow_info info = {.size = sizeof info};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct flow_options o = few(1);

        set(&o, bad[i].field, bad[i].value);
        REQUIRE_EQUAL(flow_start(&o), -EINVAL);
        REQUIRE(strstr(flow_start_error(), names[bad[i].field]));
        REQUIRE_EQUAL(flow_info(&info), -ESHUTDOWN);
    }
}

CASE(a_size_that_is_not_ours_is_refused)
{
    struct flow_options o = few(1);

    o.size--;
    REQUIRE_EQUAL(flow_start(&o), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "size"));
    o.size = 0;
    REQUIRE_EQUAL(flow_start(&o), -EINVAL);
    REQUIRE_EQUAL(flow_options_parse(&o, "workers=1"), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "size"));
}

CASE(the_edges_of_every_range_are_accepted)
{
    static const struct {
        enum field field;
        int64_t value;
    } good[] = {{WORKERS, 0}, {WORKERS, -1},     {STACK, 16384}, {STACK, 1 << 20},
                {TASKS, 1},   {TASKS, 67000000}, {SPIN, 0},      {SPIN, 1000000}};

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct flow_options o = few(1);

        if (TEST_EMULATED && good[i].value > 1000000)
            continue; /* the emulator notes each page of a mapping, and has little room for that */
        set(&o, good[i].field, good[i].value);
        test_start_with(&o);
        REQUIRE_EQUAL(strlen(flow_start_error()), 0);
        if (good[i].field == STACK)
            REQUIRE_EQUAL(info_now().stack_bytes, good[i].value);
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    }
}

CASE(as_many_workers_as_are_allowed)
{
    struct flow_options o = few(1024);
    int r;

    if (TEST_SLOW)
        skip_case("1,024 threads are too many for a sanitizer or an emulator");
    r = flow_start(&o);
    if (r == -EAGAIN)
        skip_case("this system refuses 1,024 threads");
    REQUIRE_EQUAL(r, 0);
    REQUIRE_EQUAL(info_now().workers, 1024);
    REQUIRE(thread_count() >= 1025);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    WAIT_UNTIL(thread_count() == 1);
}

/* ---- text ---- */

CASE(text_sets_what_it_names)
{
    struct flow_options o = FLOW_OPTIONS_INIT;

    REQUIRE_EQUAL(
        flow_options_parse(&o, "workers=3, no_pinning=1,unguarded_ok=1\troam=1 no_fork_stacks=1\n"
                               "no_fatal_report=1 stack_bytes=128K max_tasks=2M spin_ns=7us"),
        0);
    REQUIRE_EQUAL(o.workers, 3);
    REQUIRE(o.no_pinning && o.unguarded_ok && o.roam && o.no_fork_stacks && o.no_fatal_report);
    REQUIRE_EQUAL(o.stack_bytes, 128 * 1024);
    REQUIRE_EQUAL(o.max_tasks, 2 * 1024 * 1024);
    REQUIRE_EQUAL(o.spin_ns, 7000);
    REQUIRE_EQUAL(flow_options_parse(&o, "roam=0,workers=auto"), 0);
    REQUIRE(!o.roam);
    REQUIRE_EQUAL(o.workers, FLOW_WORKERS_AUTO);
    REQUIRE_EQUAL(flow_options_parse(&o, ""), 0);
    REQUIRE_EQUAL(flow_options_parse(&o, " , ,, \n"), 0);
    REQUIRE_EQUAL(flow_options_parse(&o, "workers=1 workers=2"), 0);
    REQUIRE_EQUAL(o.workers, 2);
}

CASE(sizes_and_spans_take_their_suffixes)
{
    static const struct {
        const char *text;
        enum field field;
        int64_t value;
    } cases[] = {{"stack_bytes=65536", STACK, 65536},
                 {"stack_bytes=16K", STACK, 16384},
                 {"stack_bytes=1M", STACK, 1 << 20},
                 {"max_tasks=1000", TASKS, 1000},
                 {"max_tasks=4K", TASKS, 4096},
                 {"max_tasks=63M", TASKS, 63 << 20},
                 {"spin_ns=5", SPIN, 5},
                 {"spin_ns=5ns", SPIN, 5},
                 {"spin_ns=1000us", SPIN, 1000000},
                 {"spin_ns=1ms", SPIN, 1000000},
                 {"spin_ns=0s", SPIN, 0}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct flow_options o = FLOW_OPTIONS_INIT;
        int64_t value;

        REQUIRE_EQUAL(flow_options_parse(&o, cases[i].text), 0);
        value = cases[i].field == STACK   ? (int64_t)o.stack_bytes
                : cases[i].field == TASKS ? (int64_t)o.max_tasks
                                          : o.spin_ns;
        REQUIRE_EQUAL(value, cases[i].value);
    }
}

CASE(nodes_are_a_set_in_any_order)
{
    static const struct {
        const char *text;
        uint64_t nodes;
    } cases[] = {{"nodes=0", 1},
                 {"nodes=63", (uint64_t)1 << 63},
                 {"nodes=0+2", 5},
                 {"nodes=2+0", 5},
                 {"nodes=1-3", 14},
                 {"nodes=5-5", 32},
                 {"nodes=0+2-3+62-63", 13 | (uint64_t)3 << 62},
                 {"nodes=1+1+0-1", 3},
                 {"nodes=0-63", UINT64_MAX},
                 {"nodes=3,nodes=all", 0},
                 {"nodes=3 nodes=1", 2},
                 {"nodes=2,workers_per_node=3\tleave_cpus=4", 4}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct flow_options o = FLOW_OPTIONS_INIT;

        REQUIRE_EQUAL(o.nodes, 0);
        REQUIRE_EQUAL(flow_options_parse(&o, cases[i].text), 0);
        REQUIRE_EQUAL(o.nodes, cases[i].nodes);
        if (strstr(cases[i].text, "leave_cpus")) {
            REQUIRE_EQUAL(o.workers_per_node, 3);
            REQUIRE_EQUAL(o.leave_cpus, 4);
        }
    }
}

CASE(text_that_is_wrong_changes_nothing_and_is_named)
{
    static const struct {
        const char *text, *named;
    } bad[] = {{"worker=1", "\"worker\""},
               {"Workers=1", "\"Workers\""},
               {"workers2=1", "\"workers2\""},
               {"=1", "\"\""},
               {"stack=64K", "\"stack\""},
               {"workers", "workers"},
               {"workers=", "workers"},
               {"workers=x", "workers"},
               {"workers=2x", "workers"},
               {"workers=2 3", "\"3\""},
               {"workers =2", "workers"},
               {"workers=1K", "workers"},
               {"workers=1025", "workers"},
               {"workers=-2", "workers"},
               {"workers=99999999999999999999", "workers"},
               {"workers=4294967297", "workers"},
               {"workers=AUTO", "workers"},
               {"roam=2", "roam"},
               {"roam=-1", "roam"},
               {"roam=true", "roam"},
               {"roam=auto", "roam"},
               {"no_pinning=", "no_pinning"},
               {"unguarded_ok=9", "unguarded_ok"},
               {"no_fork_stacks=3", "no_fork_stacks"},
               {"no_fatal_report=256", "no_fatal_report"},
               {"stack_bytes=15K", "stack_bytes"},
               {"stack_bytes=48K", "stack_bytes"},
               {"stack_bytes=2M", "stack_bytes"},
               {"stack_bytes=64k", "stack_bytes"},
               {"stack_bytes=64KB", "stack_bytes"},
               {"stack_bytes=64ms", "stack_bytes"},
               {"stack_bytes=9999999999G", "stack_bytes"},
               {"max_tasks=0", "max_tasks"},
               {"max_tasks=1G", "max_tasks"},
               {"max_tasks=-5", "max_tasks"},
               {"nodes=", "nodes"},
               {"nodes=64", "nodes"},
               {"nodes=-1", "nodes"},
               {"nodes=1-", "nodes"},
               {"nodes=3-1", "nodes"},
               {"nodes=1+", "nodes"},
               {"nodes=+1", "nodes"},
               {"nodes=1++2", "nodes"},
               {"nodes=1-2-3", "nodes"},
               {"nodes=1:2", "nodes"},
               {"nodes=0,2", "\"2\""},
               {"nodes=01", "nodes"},
               {"nodes=0x1", "nodes"},
               {"nodes=ALL", "nodes"},
               {"nodes=auto", "nodes"},
               {"nodes=99999999999999999999", "nodes"},
               {"workers_per_node=-1", "workers_per_node"},
               {"workers_per_node=1025", "workers_per_node"},
               {"workers_per_node=auto", "\"auto\""},
               {"leave_cpus=-1", "leave_cpus"},
               {"leave_cpus=65536", "leave_cpus"},
               {"leave_cpus=auto", "\"auto\""},
               {"leave_cpus=1K", "leave_cpus"},
               {"spin_ns=2ms", "spin_ns"},
               {"spin_ns=1s", "spin_ns"},
               {"spin_ns=1K", "spin_ns"},
               {"spin_ns=-1", "spin_ns"},
               {"spin_ns=1m", "spin_ns"},
               {"roam=1 workers=1 rome=1", "\"rome\""}};
    const struct flow_options before = {.size = sizeof before,
                                        .workers = 7,
                                        .stack_bytes = 65536,
                                        .max_tasks = 9,
                                        .spin_ns = 11,
                                        .nodes = 6,
                                        .leave_cpus = 2};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct flow_options o = before;

        if (flow_options_parse(&o, bad[i].text) != -EINVAL ||
            !strstr(flow_start_error(), bad[i].named)) {
            fprintf(stderr, "text \"%s\", error \"%s\"\n", bad[i].text, flow_start_error());
            REQUIRE(!"refused, with its name");
        }
        REQUIRE(o.workers == before.workers && o.roam == before.roam &&
                o.stack_bytes == before.stack_bytes && o.max_tasks == before.max_tasks &&
                o.spin_ns == before.spin_ns && o.nodes == before.nodes &&
                o.leave_cpus == before.leave_cpus && o.workers_per_node == 0);
    }
    REQUIRE_EQUAL(flow_options_parse(NULL, "roam=1"), -EINVAL);
    struct flow_options o = before;
    REQUIRE_EQUAL(flow_options_parse(&o, NULL), -EINVAL);
    REQUIRE(strlen(flow_start_error()) > 0);
    REQUIRE_EQUAL(flow_options_parse(&o, "roam=1"), 0);
    REQUIRE_EQUAL(strlen(flow_start_error()), 0);
}

CASE(a_very_long_wrong_name_is_cut_and_not_run_over)
{
    static char text[5000];
    struct flow_options o = FLOW_OPTIONS_INIT;

    memset(text, 'x', sizeof text - 1);
    REQUIRE_EQUAL(flow_options_parse(&o, text), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "xxx"));
    REQUIRE(strlen(flow_start_error()) < 300);
    memcpy(text, "workers=", 8);
    REQUIRE_EQUAL(flow_options_parse(&o, text), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "workers"));
}

/* ---- the environment ---- */

CASE(the_environment_has_the_last_word)
{
    struct flow_options o = few(1);

    setenv("FLOW_WORKERS", "3", 1);
    test_start_with(&o);
    REQUIRE_EQUAL(info_now().workers, 3);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);

    setenv("FLOW_OPTIONS", "stack_bytes=32K", 1);
    test_start_with(&o);
    REQUIRE_EQUAL(info_now().workers, 3);
    REQUIRE_EQUAL(info_now().stack_bytes, 32 * 1024);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);

    setenv("FLOW_OPTIONS", "workers=2", 1);
    test_start_with(NULL);
    REQUIRE_EQUAL(info_now().workers, 2);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);

    setenv("FLOW_WORKERS", "auto", 1);
    unsetenv("FLOW_OPTIONS");
    test_start_with(&o);
    REQUIRE(info_now().workers >= 1);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);

    setenv("FLOW_WORKERS", "0000000000000000000000003", 1);
    test_start_with(&o);
    REQUIRE_EQUAL(info_now().workers, 3);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);

    setenv("FLOW_WORKERS", "", 1);
    test_start_with(&o);
    REQUIRE_EQUAL(info_now().workers, 1);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(an_environment_that_is_wrong_stops_the_start)
{
    static const char *const bad[] = {"0x",       "-2",        "1025",
                                      "two",      "1 roam=1",  "99999999999999999999999999999",
                                      "3   rest", "3,roam=1x", "3                        rest",
                                      " 3",       "3 ",        "stack_bytes=128K"};
    struct flow_options o = few(1);

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        setenv("FLOW_WORKERS", bad[i], 1);
        REQUIRE_EQUAL(flow_start(&o), -EINVAL);
        REQUIRE(strstr(flow_start_error(), "workers"));
    }
    unsetenv("FLOW_WORKERS");
    setenv("FLOW_SHUFFLE", "1 workers=3", 1);
    REQUIRE_EQUAL(flow_start(&o), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "shuffle"));
    unsetenv("FLOW_SHUFFLE");
    setenv("FLOW_OPTIONS", "stak_bytes=64K", 1);
    REQUIRE_EQUAL(flow_start(&o), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "stak_bytes"));
    unsetenv("FLOW_OPTIONS");
    test_start_with(&o);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- what there is then ---- */

static int cpus_allowed(cpu_set_t *set)
{
    CPU_ZERO(set);
    REQUIRE_EQUAL(sched_getaffinity(0, sizeof *set, set), 0);
    return CPU_COUNT(set);
}

CASE(info_agrees_with_the_system)
{
    cpu_set_t allowed;
    struct flow_info info;
    int expected;

    test_start_with(NULL);
    info = info_now();
    REQUIRE_EQUAL(info.cpus, cpus_allowed(&allowed));
    expected = info.cpus;
    if (info.cpu_quota > 0 && info.cpu_quota < expected)
        REQUIRE(info.workers >= 1 && info.workers <= expected);
    else
        REQUIRE_EQUAL(info.workers, expected);
    REQUIRE(info.nodes >= 1);
    REQUIRE(!strcmp(info.guard, "madvise") || !strcmp(info.guard, "mprotect") ||
            !strcmp(info.guard, "canary"));
    REQUIRE(info.nodes > 1 || !strcmp(info.memory_policy, "one node"));
    REQUIRE(strstr(info.rcu, "memb"));
    REQUIRE(!strcmp(info.version, flow_version()));
    REQUIRE(strlen(info.libnuma) > 0 && strlen(info.liburcu) > 0);
    REQUIRE_EQUAL(info.stack_bytes, 64 * 1024);
    REQUIRE(info.stack_reserve_bytes >= (size_t)7 << 22);
    WAIT_UNTIL(info_now().pinned == info.workers);
    child_note("guard %s, memory %s, rcu \"%s\", %d workers on %d CPUs, %zu MiB for stacks",
               info.guard, info.memory_policy, info.rcu, info.workers, info.cpus,
               info.stack_reserve_bytes >> 20);
    info.size = 3;
    REQUIRE_EQUAL(flow_info(&info), -EINVAL);
    REQUIRE_EQUAL(flow_info(NULL), -EINVAL);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(a_stack_class_of_every_size_is_the_default_when_asked_for)
{
    for (size_t bytes = 16 * 1024; bytes <= 1 << 20; bytes *= 2) {
        struct flow_options o = few(1);

        o.stack_bytes = bytes;
        test_start_with(&o);
        REQUIRE_EQUAL(info_now().stack_bytes, bytes);
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    }
}

/* Reads a file of /proc/self/task/<id>/. */
static void read_of_thread(const char *id, const char *file, char *text, size_t bytes)
{
    char path[300];
    FILE *f;
    size_t n;

    snprintf(path, sizeof path, "/proc/self/task/%s/%s", id, file);
    f = fopen(path, "re");
    n = f ? fread(text, 1, bytes - 1, f) : 0;
    text[n] = 0;
    if (f)
        fclose(f);
}

/* Calls look(id, number) for each worker's thread; returns how many there are. */
static int for_each_worker_thread(void (*look)(const char *id, int worker))
{
    DIR *d = opendir("/proc/self/task");
    struct dirent *entry;
    char name[64];
    int n = 0, worker;

    while ((entry = readdir(d))) {
        if (entry->d_name[0] == '.')
            continue;
        read_of_thread(entry->d_name, "comm", name, sizeof name);
        if (sscanf(name, "flow-worker-%d", &worker) != 1)
            continue;
        if (look)
            look(entry->d_name, worker);
        n++;
    }
    closedir(d);
    return n;
}

static uint64_t workers_seen;
static cpu_set_t cpus_of_workers;

static void look_at_pinned(const char *id, int worker)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    REQUIRE_EQUAL(sched_getaffinity(atoi(id), sizeof set, &set), 0);
    REQUIRE_EQUAL(CPU_COUNT(&set), 1);
    CPU_OR(&cpus_of_workers, &cpus_of_workers, &set);
    REQUIRE(!(workers_seen & (uint64_t)1 << worker));
    workers_seen |= (uint64_t)1 << worker;
}

CASE(workers_are_named_and_pinned_to_different_cpus)
{
    struct flow_options o = FLOW_OPTIONS_INIT;
    cpu_set_t allowed, both;
    struct flow_info info;

    CPU_ZERO(&cpus_of_workers);
    o.workers = cpus_allowed(&allowed) < 64 ? CPU_COUNT(&allowed) : 63;
    test_start_with(&o);
    WAIT_UNTIL(info_now().pinned == o.workers);
    info = info_now();
    REQUIRE_EQUAL(for_each_worker_thread(look_at_pinned), info.workers);
    REQUIRE_EQUAL(workers_seen, ((uint64_t)1 << info.workers) - 1);
    REQUIRE_EQUAL(CPU_COUNT(&cpus_of_workers), info.workers);
    CPU_AND(&both, &cpus_of_workers, &allowed);
    REQUIRE(CPU_EQUAL(&both, &cpus_of_workers));
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    cpu_set_t after;
    cpus_allowed(&after);
    REQUIRE(CPU_EQUAL(&after, &allowed)); /* the starting thread was left alone */
}

static cpu_set_t allowed_to_all;

static void look_at_unpinned(const char *id, int worker)
{
    cpu_set_t set;

    (void)worker;
    CPU_ZERO(&set);
    REQUIRE_EQUAL(sched_getaffinity(atoi(id), sizeof set, &set), 0);
    REQUIRE(CPU_EQUAL(&set, &allowed_to_all));
}

static flow_result nothing(void *arg)
{
    return flow_ok(arg);
}

CASE(no_pinning_leaves_workers_where_they_may_go)
{
    struct flow_options o = few(2);

    cpus_allowed(&allowed_to_all);
    o.no_pinning = true;
    test_start_with(&o);
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    WAIT_UNTIL(for_each_worker_thread(NULL) == 2);
    for_each_worker_thread(look_at_unpinned);
    REQUIRE_EQUAL(info_now().pinned, 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static void look_at_signals(const char *id, int worker)
{
    char text[4096], *at;
    unsigned long long blocked = 0;
    /* Faults of the thread itself cannot be left to others; all else must be. */
    static const int ours[] = {4, 5, 6, 7, 8, 11, 31}; /* ILL TRAP ABRT BUS FPE SEGV SYS */
    unsigned long long unblockable =
        1ull << 8 | 1ull << 18 | 3ull << 31; /* KILL, STOP, the C library's two */

    (void)worker;
    read_of_thread(id, "status", text, sizeof text);
    at = strstr(text, "SigBlk:");
    REQUIRE(at && sscanf(at, "SigBlk: %llx", &blocked) == 1);
    for (int signo = 1; signo <= 64; signo++) {
        bool fault = false;

        for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
            fault |= ours[i] == signo;
        if (!(unblockable >> (signo - 1) & 1))
            REQUIRE(fault == !(blocked >> (signo - 1) & 1));
    }
}

CASE(workers_block_every_asynchronous_signal)
{
    struct flow_options o = few(3);

    if (TEST_SANITIZED)
        skip_case("a sanitizer's interceptors keep some signals open");
    if (TEST_EMULATED)
        skip_case("the emulator has signal masks of its own");
    o.stall_ns = 0; /* else, in debug builds, SIGURG: see core/capture.c */
    test_start_with(&o);
    REQUIRE_EQUAL(flow_sync_wait(nothing, NULL, NULL, FLOW_FOREVER), 0);
    WAIT_UNTIL(for_each_worker_thread(NULL) == 3);
    for_each_worker_thread(look_at_signals);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static char helper_id[32];

static flow_result name_the_helper(void *arg)
{
    (void)arg;
    snprintf(helper_id, sizeof helper_id, "%d", (int)gettid());
    return flow_ok_i64(7);
}

static flow_result offload_it(void *arg)
{
    return flow_offload(arg, name_the_helper, NULL, FLOW_FOREVER);
}

CASE(helpers_are_named_after_their_lane_and_block_signals_too)
{
    struct flow_options o = few(1);
    struct flow_lane_options l = FLOW_LANE_INIT;
    flow_lane *lane;
    char name[64];
    flow_result r;

    l.name = "a name far too long";
    test_start_with(&o);
    REQUIRE_EQUAL(flow_lane_create(&lane, &l), 0);
    REQUIRE_EQUAL(flow_sync_wait(offload_it, lane, &r, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(r.i64, 7);
    read_of_thread(helper_id, "comm", name, sizeof name);
    REQUIRE(!strncmp(name, "flow-a name fa", 14));
    if (!TEST_SLOW) /* see above */
        look_at_signals(helper_id, 0);
    REQUIRE_EQUAL(flow_sync_wait(offload_it, FLOW_LANE_FILE, &r, FLOW_FOREVER), 0);
    read_of_thread(helper_id, "comm", name, sizeof name);
    REQUIRE(!strcmp(name, "flow-file\n"));
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- max_tasks ---- */

static flow_result wait_for_cancel(void *arg)
{
    (void)arg;
    return flow_err(flow_sleep_until(FLOW_FOREVER));
}

/* How many tasks can be spawned before -ENOSPC; all are joined again. */
static size_t fill(flow_task *task, size_t room)
{
    size_t n = 0;
    int r;

    while (n < room && (r = flow_spawn(&task[n], wait_for_cancel, NULL)) == 0)
        n++;
    REQUIRE(n < room);
    REQUIRE_EQUAL(r, -ENOSPC);
    REQUIRE_EQUAL(flow_spawn(NULL, nothing, NULL), -ENOSPC);
    for (size_t i = 0; i < n; i++)
        REQUIRE_EQUAL(flow_cancel(task[i]), 0);
    for (size_t i = 0; i < n; i++)
        REQUIRE_EQUAL(flow_join(task[i], NULL, FLOW_FOREVER), 0);
    return n;
}

struct filling {
    flow_task *task;
    size_t room, n[3];
};

static flow_result fill_thrice(void *arg)
{
    struct filling *f = arg;

    for (int i = 0; i < 3; i++)
        f->n[i] = fill(f->task, f->room);
    return flow_ok(NULL);
}

CASE(more_than_max_tasks_give_enospc_and_it_recovers)
{
    enum { ROOM = 8000 };
    static flow_task task[ROOM];
    struct flow_options o = few(2);
    struct filling f = {task, ROOM, {0}};
    struct flow_stats stats;

    o.stack_bytes = 16 * 1024;
    o.max_tasks = 500;
    test_start_with(&o);
    for (int i = 0; i < 3; i++)
        REQUIRE(fill(task, ROOM) >= 500);
    REQUIRE_EQUAL(flow_sync_wait(fill_thrice, &f, NULL, FLOW_FOREVER), 0);
    for (int i = 0; i < 3; i++)
        REQUIRE(f.n[i] >= 500);
    /* Caches may hold some back, but not more and more. */
    REQUIRE(f.n[2] + 1000 > f.n[0]);
    stats = test_stats();
    REQUIRE_EQUAL(stats.live, 0);
    REQUIRE_EQUAL(stats.total.spawned, stats.total.finished);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(max_tasks_is_the_number_of_tasks_that_may_live)
{
    enum { ROOM = 8000 };
    static flow_task task[ROOM];
    struct flow_options o = few(1);
    size_t n;

    o.stack_bytes = 16 * 1024;
    o.max_tasks = 500;
    test_start_with(&o);
    n = fill(task, ROOM);
    child_note("max_tasks = 500 let %zu tasks live", n);
    REQUIRE(n >= 500 && n <= 500 + 1024); /* what workers may have in their caches is on top */
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
