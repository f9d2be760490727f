/* SPDX-License-Identifier: MIT
 *
 * The machine that we run on, asked and changed for real: CPUs, pinning, memory policy, and a
 * sandbox that refuses them. */
#include "numa/cpu_quota.h"
#include "numa/node_memory.h"
#include "numa/placement.h"
#include "numa/topology.h"
#include "tests/support/child.h"
#include "tests/support/machine.h"
#include "tests/support/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct flow__topology machine(void)
{
    struct flow__topology t;

    REQUIRE_EQUAL(flow__topology_read(&t, NULL), 0);
    return t;
}

CASE(default_workers_fit_the_machine)
{
    struct flow__topology t = machine();
    int n = flow__placement_default_workers(t.n_cpus, flow__cpu_quota(NULL));

    REQUIRE(n >= 1 && n <= t.n_cpus);
    flow__topology_free(&t);
}

static void pin_to(int cpu_id)
{
    int r = flow__pin_thread(cpu_id);

    if (r == -EPERM || r == -ENOSYS)
        skip_case("the system refuses to pin");
    REQUIRE_EQUAL(r, 0);
    REQUIRE_EQUAL(sched_getcpu(), cpu_id);
}

CASE(a_thread_can_be_pinned_to_each_cpu)
{
    struct flow__topology t = machine();

    for (int i = 0; i < t.n_cpus; i++)
        pin_to(t.cpus[i].cpu_id);
    flow__topology_free(&t);
    REQUIRE_EQUAL(flow__pin_thread(-1), -EINVAL);
    REQUIRE_EQUAL(flow__pin_thread(INT_MAX), -EINVAL);
    REQUIRE(flow__pin_thread(65535) < 0);
}

CASE(with_one_cpu_allowed_there_is_one_cpu)
{
    const struct flow__seating seating = {.n_workers = 3, .pin = true};
    struct flow__topology all = machine(), t;
    struct flow__placement p;

    for (int i = 0; i < all.n_cpus; i++) {
        pin_to(all.cpus[i].cpu_id);
        t = machine();
        REQUIRE_EQUAL(t.n_cpus, 1);
        REQUIRE_EQUAL(t.cpus[0].cpu_id, all.cpus[i].cpu_id);
        REQUIRE_EQUAL(flow__placement_default_workers(t.n_cpus, 0), 1);
        REQUIRE_EQUAL(flow__placement_make(&p, &t, &seating), 0);
        for (int worker = 0; worker < 3; worker++)
            REQUIRE_EQUAL(p.cpu_id[worker], all.cpus[i].cpu_id);
        flow__placement_free(&p);
        flow__topology_free(&t);
    }
    flow__topology_free(&all);
}

/* As under taskset: only what sched_getaffinity says is ours, and what else there is stays out. */
CASE(a_runtime_that_is_allowed_one_cpu_starts_one_worker_on_it)
{
    struct flow__topology all = machine();
    struct flow_info info = {.size = sizeof info};
    struct flow_topology_worker w = {.size = sizeof w};

    unsetenv("FLOW_TOPOLOGY");
    for (int i = all.n_cpus - 1; i >= 0 && i >= all.n_cpus - 4; i--) {
        pin_to(all.cpus[i].cpu_id);
        test_start_with(NULL);
        REQUIRE_EQUAL(flow_info(&info), 0);
        REQUIRE_EQUAL(info.workers, 1);
        REQUIRE_EQUAL(info.cpus, 1);
        REQUIRE_EQUAL(info.pinned, 1);
        REQUIRE_EQUAL(flow_topology_worker(0, &w), 0);
        REQUIRE_EQUAL(w.cpu_id, all.cpus[i].cpu_id);
        REQUIRE(w.pinned);
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    }
    flow__topology_free(&all);
}

/* ---- a quota of CPUs, in a control group made for it ---- */

static char group[PATH_MAX];

static bool write_text(const char *folder, const char *name, const char *text)
{
    char path[PATH_MAX + 32];
    int fd, n;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : (int)write(fd, text, strlen(text));
    close(fd);
    return n > 0;
}

/* Back to the group above, which may then lose this one. */
static void leave_group(void)
{
    char above[PATH_MAX + 4], pid[16];

    snprintf(pid, sizeof pid, "%d", (int)getpid());
    snprintf(above, sizeof above, "%s/..", group);
    write_text(above, "cgroup.procs", pid);
    rmdir(group);
}

/* A group that grants one CPU, below ours and with us in it; in either version's form. */
static bool enter_group(const char *mount, const char *ours)
{
    char pid[16];
    bool limited;

    snprintf(pid, sizeof pid, "%d", (int)getpid());
    snprintf(group, sizeof group, "%s%s/flow-test-%s", mount, ours, pid);
    if (mkdir(group, 0755))
        return false;
    limited = (write_text(group, "cpu.cfs_period_us", "100000") &&
               write_text(group, "cpu.cfs_quota_us", "100000")) ||
              write_text(group, "cpu.max", "100000 100000");
    if (limited && write_text(group, "cgroup.procs", pid))
        return true;
    rmdir(group);
    return false;
}

static bool limit_to_one_cpu(void)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[PATH_MAX], controllers[256], ours[PATH_MAX / 2];
    bool entered = false;

    while (!entered && file && fgets(line, sizeof line, file)) {
        controllers[0] = 0;
        if (sscanf(line, "%*d::%2047s", ours) == 1)
            entered = enter_group("/sys/fs/cgroup", ours);
        else if (sscanf(line, "%*d:%255[^:]:%2047s", controllers, ours) == 2 &&
                 (!strcmp(controllers, "cpu") || !strncmp(controllers, "cpu,", 4)))
            entered = enter_group("/sys/fs/cgroup/cpu", ours);
    }
    if (file)
        fclose(file);
    return entered;
}

static struct flow_info started(const struct flow_options *o)
{
    struct flow_info info = {.size = sizeof info};

    test_start_with(o);
    REQUIRE_EQUAL(flow_info(&info), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    return info;
}

CASE(a_quota_caps_the_number_of_workers_unless_one_is_given)
{
    struct flow_options o = FLOW_OPTIONS_INIT;

    unsetenv("FLOW_TOPOLOGY");
    if (flow__cpu_quota(NULL) > 0)
        skip_case("there is a quota here already");
    if (!limit_to_one_cpu())
        skip_case("no control group can be made here");
    atexit(leave_group);
    REQUIRE(flow__cpu_quota(NULL) == 1);
    REQUIRE_EQUAL(started(&o).workers, 1);
    REQUIRE(started(&o).cpu_quota == 1);
    o.workers = 2;
    REQUIRE_EQUAL(started(&o).workers, 2);
    machine_use(&machine_four_nodes); /* another machine, whose CPUs are all granted */
    o.workers = FLOW_WORKERS_AUTO;
    REQUIRE_EQUAL(started(&o).workers, 8);
    REQUIRE(started(&o).cpu_quota == 0);
    o.workers_per_node = 1;
    REQUIRE_EQUAL(started(&o).workers, 4);
}

/* ---- memory ---- */

CASE(the_kernel_says_where_a_page_lies)
{
    size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    char *page = mmap(NULL, 2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *pages[2] = {page, page + bytes};
    int node_ids[2];

    REQUIRE(page != MAP_FAILED);
    page[100] = 1;
    if (flow__page_node_ids(pages, 2, node_ids))
        skip_case("move_pages is refused here");
    REQUIRE(node_ids[0] >= 0);
    REQUIRE_EQUAL(node_ids[1], -ENOENT);
    REQUIRE_EQUAL(flow__page_node_id(page + 100), node_ids[0]);
    REQUIRE_EQUAL(page[bytes], 0);
    munmap(page, 2 * bytes);
    REQUIRE(flow__page_node_id(page) < 0);
}

/* ---- sandboxes ---- */

static void live_without_memory_policy(int error)
{
    static _Alignas(65536) char page[65536];
    struct flow__topology t;
    void *at = page;
    int node_id;

    sandbox_refuse_memory_policy(error, false);
    REQUIRE_EQUAL(flow__page_node_id(page), -error);
    REQUIRE_EQUAL(flow__page_node_ids(&at, 1, &node_id), -error);
    t = machine();
    REQUIRE(t.nodes[t.nodes[0].memory_node].memory_allowed);
    flow__topology_free(&t);
}

CASE(a_sandbox_that_forbids_memory_policy)
{
    live_without_memory_policy(EPERM);
}

CASE(a_sandbox_that_knows_no_memory_policy)
{
    live_without_memory_policy(ENOSYS);
}

CHILD(start_where_pinning_is_forbidden)
{
    struct flow_info info = {.size = sizeof info};
    struct flow_topology_worker w = {.size = sizeof w};
    struct flow_options o = FLOW_OPTIONS_INIT;

    unsetenv("FLOW_TOPOLOGY");
    o.workers = 2;
    sandbox_refuse_pinning(EPERM);
    REQUIRE_EQUAL(flow__pin_thread(sched_getcpu()), -EPERM);
    for (int i = 0; i < 2; i++) {
        test_start_with(&o);
        REQUIRE_EQUAL(flow_info(&info), 0);
        REQUIRE_EQUAL(info.pinned, 0);
        REQUIRE_EQUAL(flow_topology_worker(1, &w), 0);
        REQUIRE(!w.pinned);
        REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    }
}

/* Unpinned then, and otherwise as ever; said once. */
JUDGED(a_sandbox_that_forbids_pinning)
{
    static struct child_end end;
    char *first;

    child_run(&end, "start_where_pinning_is_forbidden", "");
    if (end.code == CHILD_SKIPPED)
        skip_case("seccomp is refused here");
    child_must_exit(&end, 0);
    child_must_say(&end, "cannot be pinned to CPU");
    first = strstr(end.text, "cannot be pinned");
    assert_null(strstr(first + 1, "cannot be pinned"));
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
