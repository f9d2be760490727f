/* SPDX-License-Identifier: MIT
 *
 * Atomic operations with their memory order in the name.
 *
 * Everything under sync/ and core/ that several threads touch goes through these
 * names and never through <stdatomic.h>, so that a model checker can put its own
 * operations behind them. This is the C11 back end; it costs nothing. With FLOW_MODEL, the name of
 * another back end's header, that one stands in its place (tests/model/explorer.h).
 *
 * An operation weaker than seq_cst carries a sentence with a [LABEL] at its
 * place of use, and its partner carries the same label. On x86-64 every
 * read-modify-write is a full barrier; `_seq` names say where the algorithm needs
 * that on every machine. */
#ifndef FLOW_SYNC_ATOMIC_H
#define FLOW_SYNC_ATOMIC_H

#ifdef FLOW_MODEL
#include FLOW_MODEL
#else

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define flow__atomic(type) _Atomic(type)

/* Not atomic, and handed from thread to thread by atomic operations beside it: a model looks whether
 * it is. */
#define flow__plain(type) type

#define load_relaxed(p) atomic_load_explicit(p, memory_order_relaxed)
#define load_acquire(p) atomic_load_explicit(p, memory_order_acquire)
#define load_seq(p)     atomic_load_explicit(p, memory_order_seq_cst)

#define store_relaxed(p, v) atomic_store_explicit(p, v, memory_order_relaxed)
#define store_release(p, v) atomic_store_explicit(p, v, memory_order_release)

#define exchange_acquire(p, v) atomic_exchange_explicit(p, v, memory_order_acquire)
#define exchange_seq(p, v)     atomic_exchange_explicit(p, v, memory_order_seq_cst)

#define fetch_add_relaxed(p, v) atomic_fetch_add_explicit(p, v, memory_order_relaxed)
#define fetch_add_seq(p, v)     atomic_fetch_add_explicit(p, v, memory_order_seq_cst)
#define fetch_sub_relaxed(p, v) atomic_fetch_sub_explicit(p, v, memory_order_relaxed)
#define fetch_sub_seq(p, v)     atomic_fetch_sub_explicit(p, v, memory_order_seq_cst)
#define fetch_or_seq(p, v)      atomic_fetch_or_explicit(p, v, memory_order_seq_cst)
#define fetch_and_seq(p, v)     atomic_fetch_and_explicit(p, v, memory_order_seq_cst)

/* For what is not atomic itself: no access moves across it. ThreadSanitizer does not know it. */
#define fence_seq() atomic_thread_fence(memory_order_seq_cst)

/* The compiler moves no access across it; the CPU may. */
#define compiler_barrier() atomic_signal_fence(memory_order_seq_cst)

/* Compare and swap: true if *p was *expected and is now v, else *expected is what was found. */
#define cas_acquire(p, expected, v)                                                                \
    atomic_compare_exchange_strong_explicit(p, expected, v, memory_order_acquire,                  \
                                            memory_order_relaxed)
#define cas_release(p, expected, v)                                                                \
    atomic_compare_exchange_strong_explicit(p, expected, v, memory_order_release,                  \
                                            memory_order_relaxed)
#define cas_seq(p, expected, v)                                                                    \
    atomic_compare_exchange_strong_explicit(p, expected, v, memory_order_seq_cst,                  \
                                            memory_order_seq_cst)

/* A counter with one writer: readers on other threads see some recent value. Compilers
 * do not make one instruction of the load and the store, as they might. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__) &&      \
    !defined(__clang__)
#define count_up(p, n)                                                                             \
    do {                                                                                           \
        if (sizeof *(p) == 8)                                                                      \
            __asm__("addq %1, %0" : "+m"(*(p)) : "er"((int64_t)(n)) : "cc");                       \
        else                                                                                       \
            __asm__("addl %1, %0" : "+m"(*(p)) : "er"((int32_t)(n)) : "cc");                       \
    } while (0)
#else
#define count_up(p, n) store_relaxed(p, load_relaxed(p) + (n))
#endif

/* For loops that wait for another thread. */
static inline void flow__pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* How many rounds to wait before something else is done; a model makes do with one. */
#define flow__rounds(n) (n)

#endif /* FLOW_MODEL */

#define FLOW__CACHE_LINE    64
#define flow__cache_aligned __attribute__((aligned(FLOW__CACHE_LINE)))
#define flow__likely(x)     __builtin_expect(!!(x), 1)
#define flow__unlikely(x)   __builtin_expect(!!(x), 0)

#endif
