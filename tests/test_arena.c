/* SPDX-License-Identifier: MIT
 *
 * Memory of a node without a runtime: what is bound to what, what happens where the system
 * refuses, and the public calls on top. Machines are tables made here; which node a call to
 * mbind names is written down by a table entry of our own, since most machines have one node. */
#include "core/arena.h"
#include "numa/node_memory.h"
#include "sync/syscall.h"
#include "tests/support/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_NODES = 8, MAX_BINDS = 64 };

static struct flow__node nodes[MAX_NODES];
static struct flow__cpu cpus[1];
static int distances[MAX_NODES * MAX_NODES];
static struct flow__topology machine = {cpus, nodes, distances, 1, 0, .live = true};

static struct {
    char *start;
    size_t bytes;
    int node_id;
} binds[MAX_BINDS];
static int n_binds, refusal, refused_node;

static int note_bind(void *start, size_t bytes, int node_id)
{
    assert_true(n_binds < MAX_BINDS);
    binds[n_binds].start = start;
    binds[n_binds].bytes = bytes;
    binds[n_binds].node_id = node_id;
    n_binds++;
    return refused_node < 0 || refused_node == node_id ? refusal : 0;
}

/* n nodes of the kernel's numbers 0, 3, 6 ... */
static void make_machine(int n)
{
    machine.n_nodes = n;
    for (int i = 0; i < n; i++)
        nodes[i] = (struct flow__node){3 * i, 1, 1 << 20, true, i};
    flow__sys.bind = note_bind;
    n_binds = refusal = 0;
    refused_node = -1;
}

static void open_machine(void)
{
    flow__arena_open(&machine);
    n_binds = 0; /* without the attempts */
}

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* ---- what is bound ---- */

static void test_one_node_is_never_asked(void **state)
{
    void *p;

    (void)state;
    make_machine(1);
    flow__arena_open(&machine);
    p = flow__arena_map(10000, 0, FLOW__ARENA_HUGE);
    assert_non_null(p);
    assert_int_equal(flow__arena_bind(p, 10000, 0), 0);
    assert_int_equal(n_binds, 0);
    assert_string_equal(flow__arena_policy(), "one node");
    assert_false(flow__arena_needs_touch(0));
    flow__arena_unmap(p, 10000);
    flow__arena_close();
}

static void test_memory_is_bound_to_its_node(void **state)
{
    size_t page = page_bytes();

    (void)state;
    make_machine(4);
    open_machine();
    assert_string_equal(flow__arena_policy(), "bind");
    assert_int_equal(flow__arena_nodes(), 4);
    for (int i = 0; i < 4; i++) {
        char *p = flow__arena_map(3 * page + 1, i, 0);

        assert_non_null(p);
        assert_int_equal(n_binds, i + 1);
        assert_ptr_equal(binds[i].start, p);
        assert_int_equal(binds[i].bytes, 4 * page);
        assert_int_equal(binds[i].node_id, 3 * i);
        assert_false(flow__arena_needs_touch(i));
        assert_int_equal(p[0] | p[3 * page], 0);
        p[3 * page] = 1;
        flow__arena_unmap(p, 3 * page + 1);
    }
    assert_int_equal(flow__arena_bind_failures(), 0);
    flow__arena_close();
}

static void test_no_wish_no_bind(void **state)
{
    static const int no_nodes[] = {-1, -7, 4, MAX_NODES, 1 << 20};
    void *p;

    (void)state;
    make_machine(4);
    open_machine();
    for (size_t i = 0; i < sizeof no_nodes / sizeof *no_nodes; i++) {
        p = flow__arena_map(1, no_nodes[i], 0);
        assert_non_null(p);
        flow__arena_unmap(p, 1);
    }
    assert_int_equal(n_binds, 0);
    flow__arena_close();
    /* Nor without a runtime. */
    p = flow__arena_map(1, 1, 0);
    assert_non_null(p);
    flow__arena_unmap(p, 1);
    assert_int_equal(n_binds, 0);
    assert_int_equal(flow__arena_nodes(), 1);
}

static void test_parts_in_whole_pages(void **state)
{
    size_t page = page_bytes();
    char *p;

    (void)state;
    make_machine(2);
    open_machine();
    p = flow__arena_map(8 * page, -1, 0);
    assert_int_equal(flow__arena_bind(p + 100, page, 1), 0);
    assert_ptr_equal(binds[0].start, p);
    assert_int_equal(binds[0].bytes, 2 * page);
    assert_int_equal(flow__arena_bind(p + page, 2 * page, 1), 0);
    assert_ptr_equal(binds[1].start, p + page);
    assert_int_equal(binds[1].bytes, 2 * page);
    assert_int_equal(flow__arena_bind(p, 0, 1), 0);
    assert_int_equal(n_binds, 2);
    flow__arena_unmap(p, 8 * page);
    flow__arena_close();
}

static void test_a_node_without_memory_uses_the_nearest(void **state)
{
    void *p;

    (void)state;
    make_machine(4);
    nodes[1].memory_allowed = false;
    nodes[1].memory_node = 2;
    open_machine();
    assert_string_equal(flow__arena_policy(), "bind");
    p = flow__arena_map(1, 1, 0);
    assert_int_equal(binds[0].node_id, nodes[2].node_id);
    flow__arena_unmap(p, 1);
    flow__arena_close();

    /* All memory on one node: nothing to choose. */
    make_machine(3);
    for (int i = 0; i < 3; i++)
        nodes[i].memory_node = 1;
    flow__arena_open(&machine);
    assert_int_equal(n_binds, 0);
    assert_string_equal(flow__arena_policy(), "one node");
    flow__arena_close();
}

/* ---- refusals ---- */

static void test_a_system_that_refuses_is_asked_once_for_each_node(void **state)
{
    static const int errors[] = {-EPERM, -ENOSYS, -EINVAL};

    (void)state;
    for (size_t e = 0; e < sizeof errors / sizeof *errors; e++) {
        void *p;

        make_machine(4);
        refusal = errors[e];
        flow__arena_open(&machine);
        assert_int_equal(n_binds, 4);
        assert_string_equal(flow__arena_policy(), "first-touch");
        p = flow__arena_map(1, 2, 0);
        assert_non_null(p);
        assert_int_equal(flow__arena_bind(p, 1, 3), 0);
        assert_int_equal(n_binds, 4);
        assert_int_equal(flow__arena_bind_failures(), 4);
        assert_true(flow__arena_needs_touch(0) && flow__arena_needs_touch(3));
        flow__arena_unmap(p, 1);
        flow__arena_close();
    }
}

static void test_one_node_that_is_refused(void **state)
{
    void *p;

    (void)state;
    make_machine(4);
    refusal = -EINVAL;
    refused_node = nodes[2].node_id;
    open_machine();
    assert_string_equal(flow__arena_policy(), "bind in part");
    assert_int_equal(flow__arena_bind_failures(), 1);
    assert_true(flow__arena_needs_touch(2));
    assert_false(flow__arena_needs_touch(1));
    p = flow__arena_map(1, 2, 0);
    assert_int_equal(n_binds, 0);
    flow__arena_unmap(p, 1);
    flow__arena_close();
}

/* A cpuset that shrinks while we run. */
static void test_a_refusal_later_is_counted(void **state)
{
    char *p;

    (void)state;
    make_machine(2);
    open_machine();
    refusal = -EINVAL;
    p = flow__arena_map(1, 1, 0);
    assert_non_null(p);
    *p = 1;
    assert_int_equal(flow__arena_bind(p, 1, 0), -EINVAL);
    assert_int_equal(flow__arena_bind_failures(), 2);
    assert_string_equal(flow__arena_policy(), "bind");
    flow__arena_unmap(p, 1);
    flow__arena_close();
}

static void *refuse_map(size_t bytes, int prot, int flags)
{
    (void)bytes, (void)prot, (void)flags;
    return NULL;
}

static void test_no_memory(void **state)
{
    (void)state;
    make_machine(2);
    flow__sys.map = refuse_map;
    flow__arena_open(&machine); /* not even the page that is tried */
    assert_string_equal(flow__arena_policy(), "first-touch");
    assert_null(flow__arena_map(1, 1, 0));
    flow__arena_close();
}

/* ---- mappings ---- */

static void test_bounds(void **state)
{
    (void)state;
    assert_null(flow__arena_map(0, -1, 0));
    assert_null(flow__arena_map(SIZE_MAX, -1, 0));
    assert_null(flow__arena_map(SIZE_MAX - 4096, -1, FLOW__ARENA_HUGE));
    assert_null(flow__arena_map(SIZE_MAX / 2, -1, 0));
    flow__arena_unmap(NULL, 4096);
}

static bool is_mapped(void *page)
{
    unsigned char resident;

    return mincore(page, page_bytes(), &resident) == 0;
}

static size_t virtual_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long pages = 0;

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu", &pages), 1);
    fclose(f);
    return pages * page_bytes();
}

static void test_huge_ones_are_aligned_and_no_larger(void **state)
{
    size_t page = page_bytes(), sizes[] = {1, FLOW__HUGE_BYTES, 5 * FLOW__HUGE_BYTES + 3 * page};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t whole = (sizes[i] + page - 1) & ~(page - 1);
        char *p = flow__arena_map(sizes[i], -1, FLOW__ARENA_HUGE);

        assert_non_null(p);
        assert_int_equal((uintptr_t)p % FLOW__HUGE_BYTES, 0);
        p[0] = p[whole - 1] = 1;
        assert_true(is_mapped(p + whole - page));
        flow__arena_unmap(p, sizes[i]);
        assert_false(is_mapped(p));
        assert_false(is_mapped(p + whole - page));
    }
}

/* Also what was taken around them goes back. */
static void test_huge_ones_leave_nothing_behind(void **state)
{
    size_t before = virtual_bytes();

    (void)state;
    for (int i = 0; i < 100; i++)
        flow__arena_unmap(flow__arena_map(3 * FLOW__HUGE_BYTES + 1, -1, FLOW__ARENA_HUGE),
                          3 * FLOW__HUGE_BYTES + 1);
    assert_true(virtual_bytes() < before + ((size_t)32 << 20));
}

/* ---- the real system ---- */

static void test_the_system_puts_pages_where_it_is_told(void **state)
{
    struct flow__topology live;

    (void)state;
    assert_int_equal(flow__topology_read(&live, NULL), 0);
    for (int i = 0; i < live.n_nodes; i++) {
        int node_id = live.nodes[live.nodes[i].memory_node].node_id;
        char *p = flow__arena_map(1, -1, 0);
        int r = flow__sys.bind(p, page_bytes(), node_id);

        if (r)
            print_message("node %d: mbind says %d\n", node_id, r);
        p[0] = 1;
        if (!r && flow__page_node_id(p) != -EPERM && flow__page_node_id(p) != -ENOSYS)
            assert_int_equal(flow__page_node_id(p), node_id);
        assert_int_equal(flow__sys.bind(p + 1, page_bytes(), node_id), r ? r : -EINVAL);
        for (int id = 64; id < FLOW__MAX_BIND_IDS && live.n_nodes == 1; id += 63)
            assert_true(flow__sys.bind(p, page_bytes(), id) < 0); /* there is no such node */
        assert_int_equal(flow__sys.bind(p, page_bytes(), -1), -EINVAL);
        assert_int_equal(flow__sys.bind(p, page_bytes(), FLOW__MAX_BIND_IDS), -EINVAL);
        flow__arena_unmap(p, 1);
    }
    flow__topology_free(&live);
}

/* ---- the public calls ---- */

static void test_public_calls(void **state)
{
    size_t page = page_bytes();
    void *p = &page, *const untouched = p;
    char *c;

    (void)state;
    make_machine(2);
    open_machine();
    assert_int_equal(flow_alloc_on_node(NULL, 1, 0), -EINVAL);
    assert_int_equal(flow_alloc_on_node(&p, 0, 0), -EINVAL);
    assert_int_equal(flow_alloc_on_node(&p, 1, -2), -EINVAL);
    assert_int_equal(flow_alloc_on_node(&p, 1, 2), -EINVAL);
    assert_int_equal(flow_alloc_on_node(&p, SIZE_MAX, 0), -ENOMEM);
    assert_int_equal(flow_alloc_on_node(&p, SIZE_MAX / 2, 0), -ENOMEM);
    assert_ptr_equal(p, untouched);
    assert_int_equal(n_binds, 0);

    assert_int_equal(flow_alloc_on_node(&p, page + 1, 1), 0);
    assert_int_equal(n_binds, 1);
    assert_int_equal(binds[0].node_id, 3);
    c = p;
    assert_int_equal(c[0] | c[2 * page - 1], 0);
    c[2 * page - 1] = 1;
    assert_int_equal(flow_free_on_node(c + 1, page), -EINVAL);
    assert_int_equal(flow_free_on_node(c, 0), -EINVAL);
    assert_int_equal(flow_free_on_node(c, page + 1), 0);
    assert_false(is_mapped(c));
    assert_int_equal(flow_free_on_node(NULL, 1), 0);
    flow__arena_close();

    /* Without a runtime. */
    assert_int_equal(flow_alloc_on_node(&p, 1, 1), -EINVAL);
    assert_int_equal(flow_alloc_on_node(&p, 1, 0), 0);
    assert_int_equal(flow_free_on_node(p, 1), 0);
    assert_int_equal(flow_alloc_on_node(&p, 1, -1), 0);
    assert_int_equal(flow_free_on_node(p, 1), 0);
    assert_int_equal(n_binds, 1);
}

static int teardown(void **state)
{
    flow__sys = flow__sys_real;
    flow__arena_close();
    return test_teardown(state);
}

#define ARENA_TEST(function) cmocka_unit_test_setup_teardown(function, test_setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ARENA_TEST(test_one_node_is_never_asked),
        ARENA_TEST(test_memory_is_bound_to_its_node),
        ARENA_TEST(test_no_wish_no_bind),
        ARENA_TEST(test_parts_in_whole_pages),
        ARENA_TEST(test_a_node_without_memory_uses_the_nearest),
        ARENA_TEST(test_a_system_that_refuses_is_asked_once_for_each_node),
        ARENA_TEST(test_one_node_that_is_refused),
        ARENA_TEST(test_a_refusal_later_is_counted),
        ARENA_TEST(test_no_memory),
        ARENA_TEST(test_bounds),
        ARENA_TEST(test_huge_ones_are_aligned_and_no_larger),
        ARENA_TEST(test_huge_ones_leave_nothing_behind),
        ARENA_TEST(test_the_system_puts_pages_where_it_is_told),
        ARENA_TEST(test_public_calls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
