/* SPDX-License-Identifier: MIT
 *
 * The C library's allocator, counted, and its n-th call made to fail: for what does not go through
 * the table of system calls. Included by the one source of a program that wants it, since it
 * replaces malloc and its kin for the whole program; not there (HEAP_COUNTED is 0) under a
 * sanitizer, which has the allocator, or with a C library that we do not know.
 *
 * What lives is what this program's own code has taken and nobody has freed, or with `all` also what
 * the C library took for itself. */
#ifndef FLOW_TESTS_HEAP_H
#define FLOW_TESTS_HEAP_H

#include "tests/support/test.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined __GLIBC__ && !TEST_SANITIZED

#define HEAP_COUNTED 1

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void __libc_free(void *);
extern char __executable_start, etext;

enum { HEAP_SLOTS = 1 << 15 };

static struct {
    atomic_long countdown, calls;
    atomic_bool counting, all, fired;
    atomic_flag lock;
    long live; /* under the lock, as the table of addresses */
    void *address[HEAP_SLOTS];
} heap = {.lock = ATOMIC_FLAG_INIT};

static void heap_enter(void)
{
    while (atomic_flag_test_and_set(&heap.lock))
        sched_yield();
}

static void heap_leave(void)
{
    atomic_flag_clear(&heap.lock);
}

static size_t heap_slot(const void *p)
{
    return ((uintptr_t)p >> 4) * 0x9e3779b97f4a7c15ull >> 49;
}

/* The chain of an address ends at an empty slot; what is taken out leaves the table's own address. */
static void heap_note(void *p)
{
    size_t i = heap_slot(p);

    heap_enter();
    for (size_t n = 0; n < HEAP_SLOTS; n++, i = (i + 1) % HEAP_SLOTS)
        if (!heap.address[i] || heap.address[i] == (void *)heap.address) {
            heap.address[i] = p;
            heap.live++;
            break;
        }
    heap_leave();
}

static void heap_forget(void *p)
{
    size_t i = heap_slot(p);

    heap_enter();
    for (size_t n = 0; n < HEAP_SLOTS && heap.address[i]; n++, i = (i + 1) % HEAP_SLOTS)
        if (heap.address[i] == p) {
            heap.address[i] = (void *)heap.address;
            heap.live--;
            break;
        }
    heap_leave();
}

static bool heap_refuses(void)
{
    if (!atomic_load(&heap.counting))
        return false;
    atomic_fetch_add(&heap.calls, 1);
    if (atomic_fetch_sub(&heap.countdown, 1) != 1)
        return false;
    atomic_store(&heap.fired, true);
    errno = ENOMEM;
    return true;
}

static void *heap_taken(void *p, const void *caller)
{
    bool ours = (const char *)caller >= &__executable_start && (const char *)caller < &etext;

    if (p && atomic_load(&heap.counting) && (ours || atomic_load(&heap.all)))
        heap_note(p);
    return p;
}

/* So that the C library itself uses them too. */
#define HEAP_VISIBLE __attribute__((visibility("default")))

HEAP_VISIBLE void *malloc(size_t bytes)
{
    return heap_refuses() ? NULL : heap_taken(__libc_malloc(bytes), __builtin_return_address(0));
}

HEAP_VISIBLE void *calloc(size_t n, size_t bytes)
{
    return heap_refuses() ? NULL : heap_taken(__libc_calloc(n, bytes), __builtin_return_address(0));
}

HEAP_VISIBLE void *realloc(void *p, size_t bytes)
{
    void *moved;

    if (heap_refuses())
        return NULL;
    if (p)
        heap_forget(p); /* before another thread can be given its address */
    moved = __libc_realloc(p, bytes);
    return heap_taken(moved ? moved : bytes ? p : NULL, __builtin_return_address(0)) ? moved : NULL;
}

HEAP_VISIBLE void free(void *p)
{
    if (p)
        heap_forget(p);
    __libc_free(p);
}

/* From now on calls are counted, and the n-th fails (0: none). */
static void heap_arm(long n, bool all)
{
    atomic_store(&heap.counting, false);
    atomic_store(&heap.fired, false);
    atomic_store(&heap.calls, 0);
    atomic_store(&heap.countdown, n);
    atomic_store(&heap.all, all);
    atomic_store(&heap.counting, true);
}

/* No call fails any more; what is taken is not counted, what is freed is. True if one failed. */
static __attribute__((unused)) bool heap_disarm(void)
{
    atomic_store(&heap.counting, false);
    return atomic_load(&heap.fired);
}

static long heap_live(void)
{
    long n;

    heap_enter();
    n = heap.live;
    heap_leave();
    return n;
}

#else
#define HEAP_COUNTED 0
#endif

#endif
