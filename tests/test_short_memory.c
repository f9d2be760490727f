/* SPDX-License-Identifier: MIT
 *
 * Reading a machine and placing workers while memory is short: the n-th allocation fails, for n = 1,
 * 2, ... until none is left to fail. numa/ calls the C library's allocator, which is replaced here. */
#include "numa/placement.h"
#include "numa/topology.h"
#include "tests/support/heap.h"
#include "tests/support/machine.h"
#include "tests/support/test.h"

#include <errno.h>
#include <stdlib.h>

#if HEAP_COUNTED

/* True if the n-th was reached. Asserts that what is taken was given back. */
static bool disarm(void)
{
    bool reached = heap_disarm();

    assert_int_equal(heap_live(), 0);
    return reached;
}

static void arm(long n)
{
    heap_arm(n, true);
}

/* It may do without what it could not read, but then the table still makes sense. */
static bool read_fails(long n, const char *root)
{
    struct flow__topology t;
    int r;

    arm(n);
    r = flow__topology_read(&t, root);
    if (!r) {
        for (int i = 0; i < t.n_cpus; i++)
            EXPECT(t.cpus[i].node >= 0 && t.cpus[i].node < t.n_nodes && t.cpus[i].core >= 0 &&
                   t.cpus[i].l3_cache >= 0);
        EXPECT(t.n_cpus >= 1 && t.n_nodes >= 1);
        flow__topology_free(&t);
    } else {
        EXPECT_EQ(r, -ENOMEM);
        EXPECT(!t.cpus && !t.nodes && !t.distances);
    }
    return disarm();
}

static void test_reading_a_fixture(void **state)
{
    long n = 1;

    (void)state;
    machine_open(&machine_two_sockets);
    while (read_fails(n, machine_path(".")))
        n++;
    print_message("note %ld allocations, each failed once\n", n - 1);
    assert_true(n > 50);
    assert_no_failures();
    machine_close();
}

static void test_reading_the_live_machine(void **state)
{
    long n = 1;

    (void)state;
    while (read_fails(n, NULL))
        n++;
    assert_true(n > 10);
    assert_no_failures();
}

static void test_placing(void **state)
{
    const struct flow__seating seatings[] = {{.n_workers = 11, .pin = true},
                                             {.per_node = 3, .leave_cpus = 1, .nodes = 1}};
    struct flow__placement p;
    struct flow__topology t;
    int r;

    (void)state;
    machine_open(&machine_two_sockets);
    assert_int_equal(flow__topology_read(&t, machine_path(".")), 0);
    for (int i = 0; i < 2; i++) {
        long n = 1;

        for (;; n++) {
            arm(n);
            r = flow__placement_make(&p, &t, &seatings[i]);
            if (!r)
                flow__placement_free(&p);
            if (!disarm())
                break;
            assert_int_equal(r, -ENOMEM);
            assert_null(p.victims);
        }
        assert_int_equal(r, 0);
        assert_true(n > 7);
    }
    flow__topology_free(&t);
    machine_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reading_a_fixture),
        TEST(test_reading_the_live_machine),
        TEST(test_placing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

#include <stdio.h>

int main(void)
{
    puts("skip: a sanitizer, or a C library that we do not know, has the allocator");
    return 77;
}

#endif
