/* SPDX-License-Identifier: MIT
 *
 * The runtime on machines that are not there (FLOW_TOPOLOGY): where its workers are. */
#include "core/worker.h"
#include "tests/support/child.h"
#include "tests/support/machine.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct flow_options workers(int n)
{
    struct flow_options o = FLOW_OPTIONS_INIT;

    o.workers = n;
    return o;
}

static struct flow_info info_now(void)
{
    struct flow_info info = {.size = sizeof info};

    REQUIRE_EQUAL(flow_info(&info), 0);
    return info;
}

/* ---- FLOW_TOPOLOGY ---- */

CASE(workers_have_the_nodes_of_the_fixture_and_run_unpinned)
{
    struct flow_options o = workers(8);
    struct flow_info info;

    machine_use(&machine_four_nodes);
    test_start_with(&o);
    info = info_now();
    REQUIRE_EQUAL(info.workers, 8);
    REQUIRE_EQUAL(info.nodes, 4);
    REQUIRE_EQUAL(info.cpus, 8);
    REQUIRE_EQUAL(info.pinned, 0);
    for (int i = 0; i < 8; i++) {
        REQUIRE_EQUAL(flow__runtime.workers[i].node, i / 2);
        REQUIRE_EQUAL(flow__runtime.workers[i].cpu_id, -1);
    }
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    machine_close();
    test_start_with(NULL); /* the real machine again */
    REQUIRE(info_now().pinned > 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(without_a_number_there_is_a_worker_for_each_cpu_of_the_fixture)
{
    machine_use(&machine_two_sockets);
    test_start_with(NULL);
    REQUIRE_EQUAL(info_now().workers, 8);
    REQUIRE_EQUAL(flow__runtime.workers[7].node, 1);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result count(void *arg)
{
    __atomic_fetch_add((long *)arg, 1, __ATOMIC_RELAXED);
    return flow_err(flow_sleep(1000));
}

/* The lane of flow_offload and spinning go by the CPUs that there really are. */
CASE(a_huge_fixture_works_on_a_small_machine)
{
    struct flow_options o = workers(32);
    cpu_set_t real;
    long n = 0;

    CPU_ZERO(&real);
    REQUIRE_EQUAL(sched_getaffinity(0, sizeof real, &real), 0);
    if (CPU_COUNT(&real) >= 32)
        skip_case("this machine is not small");
    machine_use(&machine_huge);
    test_start_with(&o);
    REQUIRE_EQUAL(info_now().cpus, 2048);
    REQUIRE_EQUAL(flow__runtime.workers[0].spin_max_ns, 0);
    for (int i = 0; i < 2000; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, count, &n), 0);
    WAIT_UNTIL(test_stats().live == 0);
    REQUIRE_EQUAL(n, 2000);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(a_broken_fixture_is_named)
{
    static const struct {
        const char *affinity, *why;
    } broken[] = {
        {NULL, "nothing of CPUs"}, {"", "o data"}, {"x\n", "no sense"}, {"\n", "no sense"}};
    struct flow_options o = workers(1);

    machine_use(NULL);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        if (broken[i].affinity)
            machine_put("affinity", broken[i].affinity);
        REQUIRE_EQUAL(flow_start(&o), -EINVAL);
        REQUIRE(strstr(flow_start_error(), "FLOW_TOPOLOGY="));
        REQUIRE(strstr(flow_start_error(), getenv("FLOW_TOPOLOGY")));
        if (!strstr(flow_start_error(), broken[i].why)) {
            fprintf(stderr, "affinity \"%s\": %s\n", broken[i].affinity, flow_start_error());
            REQUIRE(!"says why");
        }
    }
    setenv("FLOW_TOPOLOGY", "/nowhere/at/all", 1);
    REQUIRE_EQUAL(flow_start(&o), -EINVAL);
    REQUIRE(strstr(flow_start_error(), "/nowhere/at/all"));
    setenv("FLOW_TOPOLOGY", "", 1); /* as if it were not set */
    test_start_with(&o);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
