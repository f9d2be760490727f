/* SPDX-License-Identifier: MIT
 *
 * How many CPUs the cgroup grants: both versions, from files that may be broken. */
#include "numa/cpu_quota.h"
#include "tests/support/machine.h"
#include "tests/support/test.h"

#include <limits.h>
#include <string.h>

static void assert_quota(double expected)
{
    double quota = flow__cpu_quota(machine_path("."));

    if (quota < expected - 1e-9 || quota > expected + 1e-9)
        fail_msg("quota is %g, not %g", quota, expected);
}

static void test_quota_v2(void **state)
{
    (void)state;
    assert_quota(0);
    machine_put("proc/self/cgroup", "0::/a/b/c\n");
    assert_quota(0);
    machine_put("sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
    assert_quota(0);
    machine_put("sys/fs/cgroup/a/cpu.max", "150000 100000\n");
    assert_quota(1.5);
    machine_put("sys/fs/cgroup/a/b/c/cpu.max", "250000 50000\n");
    assert_quota(1.5); /* the smallest on the way up */
    machine_put("sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    assert_quota(0.5);
    machine_put("sys/fs/cgroup/other/cpu.max", "1000 100000\n");
    assert_quota(0.5);
}

static void test_quota_v2_at_the_top_of_a_container(void **state)
{
    (void)state;
    machine_put("sys/fs/cgroup/cpu.max", "200000 100000\n");
    machine_put("proc/self/cgroup", "0::/\n");
    assert_quota(2);
    machine_put("proc/self/cgroup", "0::/host/only/knows/this\n");
    assert_quota(2);
    machine_put("proc/self/cgroup", "0::/../sibling\n");
    machine_put("sys/fs/sibling/cpu.max", "1000 100000\n");
    assert_quota(2);
}

static void test_quota_v1(void **state)
{
    (void)state;
    machine_put("proc/self/cgroup", "12:cpuset:/x\n7:cpu,cpuacct:/a/b\n1:name=systemd:/x\n0::/a\n");
    assert_quota(0);
    machine_put("sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", "-1\n");
    machine_put("sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us", "100000\n");
    assert_quota(0);
    machine_put("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "300000\n");
    assert_quota(0);
    machine_put("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
    assert_quota(3);
    machine_put("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us",
                "250000\n"); /* the other name of the same mount */
    machine_put("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
    assert_quota(2.5);
    machine_put("sys/fs/cgroup/unified/a/cpu.max", "100000 100000\n");
    assert_quota(1);
    machine_put("proc/self/cgroup", "7:cpuacct,cpux:/a\n");
    assert_quota(0);
}

static void test_quota_garbage(void **state)
{
    static const char *const groups[] = {"",      "\n",   "0\n",           "0:\n",
                                         "0::\n", "::\n", "0::relative\n", "7:cpu:\n"};
    static const char *const limits[] = {
        "",          "x\n",         "100000\n", "0 100000\n",  "100000 0\n",
        "-5 1000\n", "100000 -5\n", "max\n",    "100000 max\n"};

    (void)state;
    machine_put("sys/fs/cgroup/cpu.max", "100000 100000\n");
    machine_put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n");
    machine_put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        machine_put("proc/self/cgroup", groups[i]);
        assert_quota(0);
    }
    machine_put("proc/self/cgroup", "0::/\n");
    assert_quota(1);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        machine_put("sys/fs/cgroup/cpu.max", limits[i]);
        assert_quota(0);
    }
}

static void test_root_that_is_too_long(void **state)
{
    char path[2 * PATH_MAX];

    (void)state;
    memset(path, 'a', sizeof path);
    path[sizeof path - 1] = '\0';
    assert_true(flow__cpu_quota(path) == 0);
}

static void test_live_quota(void **state)
{
    (void)state;
    assert_true(flow__cpu_quota(NULL) >= 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(test_quota_v2),
        MACHINE_TEST(test_quota_v2_at_the_top_of_a_container),
        MACHINE_TEST(test_quota_v1),
        MACHINE_TEST(test_quota_garbage),
        MACHINE_TEST(test_root_that_is_too_long),
        MACHINE_TEST(test_live_quota),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
