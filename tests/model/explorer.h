/* SPDX-License-Identifier: MIT
 *
 * The explorer: runs the code of sync/ and core/ in every order that its bounds allow.
 *
 * This header is the second back end of sync/atomic.h (compiled with -DFLOW_MODEL='"tests/model/
 * explorer.h"'), so that what is explored is the very code that the library is made of. Each model
 * thread is a coroutine on one real thread. Before each atomic operation and plain access to shared
 * memory, and before each system call of the table, it asks the explorer who goes on. Answers are
 * enumerated depth first; what states.h says is left out. A search that ends has seen all.
 *
 * Memory is that of x86-64 (TSO): a store may wait in its thread's buffer, behind earlier stores of
 * it, until any later moment; read-modify-writes and system calls empty the buffer first, and
 * membarrier all threads' buffers. Plain writes are not buffered. Weaker orders (relaxed against acquire) cannot be told apart here.
 *
 * Bounds of a schedule: how often a thread is taken off that could go on (`preemptions`), how many
 * stores begin a wait in an empty buffer (`delays`), how many futex waits end without reason
 * (`spurious`). A time-out while others can go on counts as a preemption. */
#ifndef FLOW_TESTS_MODEL_EXPLORER_H
#define FLOW_TESTS_MODEL_EXPLORER_H

#ifdef __cplusplus
#include "tests/model/relacy_run.h"
#else

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum model_rmw { MODEL_EXCHANGE, MODEL_ADD, MODEL_SUB, MODEL_OR, MODEL_AND };

struct model_place {
    const char *function;
    int line;
};

uint64_t model_load(struct model_place at, const void *p, size_t bytes);
void model_store(struct model_place at, void *p, size_t bytes, uint64_t value);
uint64_t model_rmw(struct model_place at, void *p, size_t bytes, enum model_rmw what, uint64_t value);
bool model_cas(struct model_place at, void *p, size_t bytes, void *expected, uint64_t value);
void model_pause(void); /* somebody else is to make a step, if anybody can */
int model_self(void);    /* the thread's number */
int model_choose(int n); /* any of 0 to n - 1: the search tries them all */

/* Set in setup(): clears what makes states differ and is never looked at, such as counters. */
extern void (*model_forget)(void);

/* Nobody may look at it any more, until model_alive(p). */
void model_dead(const void *p, size_t bytes);
void model_alive(const void *p);

#define MODEL_HERE         ((struct model_place){__func__, __LINE__})
#define MODEL_LOAD(p)      ((__typeof__(*(p)))model_load(MODEL_HERE, (p), sizeof *(p)))
#define MODEL_STORE(p, v)  model_store(MODEL_HERE, (p), sizeof *(p), (uint64_t)(v))
#define MODEL_RMW(p, o, v)                                                                         \
    ({                                                                                             \
        __typeof__(*(p)) model_was =                                                               \
            (__typeof__(*(p)))model_rmw(MODEL_HERE, (p), sizeof *(p), (o), (uint64_t)(v));         \
        model_was;                                                                                 \
    })
#define MODEL_CAS(p, expected, v) model_cas(MODEL_HERE, (p), sizeof *(p), (expected), (uint64_t)(v))

#define flow__atomic(type) __typeof__(type)
#define flow__plain(type)  __typeof__(type)

#define load_relaxed(p) MODEL_LOAD(p)
#define load_acquire(p) MODEL_LOAD(p)
#define load_seq(p)     MODEL_LOAD(p)

#define store_relaxed(p, v) MODEL_STORE(p, v)
#define store_release(p, v) MODEL_STORE(p, v)

#define exchange_acquire(p, v) MODEL_RMW(p, MODEL_EXCHANGE, v)
#define exchange_seq(p, v)     MODEL_RMW(p, MODEL_EXCHANGE, v)

#define fetch_add_relaxed(p, v) MODEL_RMW(p, MODEL_ADD, v)
#define fetch_add_seq(p, v)     MODEL_RMW(p, MODEL_ADD, v)
#define fetch_sub_relaxed(p, v) MODEL_RMW(p, MODEL_SUB, v)
#define fetch_sub_seq(p, v)     MODEL_RMW(p, MODEL_SUB, v)
#define fetch_or_seq(p, v)      MODEL_RMW(p, MODEL_OR, v)
#define fetch_and_seq(p, v)     MODEL_RMW(p, MODEL_AND, v)

#define cas_acquire(p, expected, v) MODEL_CAS(p, expected, v)
#define cas_release(p, expected, v) MODEL_CAS(p, expected, v)
#define cas_seq(p, expected, v)     MODEL_CAS(p, expected, v)

#define count_up(p, n)     store_relaxed(p, load_relaxed(p) + (n))
#define compiler_barrier() ((void)0)
#define flow__pause()      model_pause()
#define flow__rounds(n)    1

/* ---- what a model consists of ---- */

#define MODEL_THREADS 4
#define MODEL_ANY     1000 /* a bound that is none */

struct model {
    const char *name;
    int n_threads;
    void (*setup)(void);       /* before the threads, by itself; memory of flow__sys begins anew */
    void (*thread)(int self);  /* 0 to n_threads - 1 */
    void (*check)(void);       /* after them */
    int preemptions, delays, spurious; /* the bounds of `make check-model` */
    int quick;                 /* preemptions in `make check`; delays and spurious are 1 at most */
};

/* Explores each model; 0 if none failed. Arguments: quick | full | replay NAME STRING. */
int model_main(int argc, char **argv, const struct model *models, int n);

/* Ends the program with the schedule's string if it does not hold. */
#define MODEL_CHECK(holds) model_check(holds, #holds, __LINE__)
void model_check(bool holds, const char *what, int line);

/* For values that go in and must come out once: small numbers as pointers. */
void model_taken(const void *item);         /* notes that it came out */
void model_all_taken_once(int first, int n); /* did each of first, first + 1, ... ? */
static inline void *model_item(int number)
{
    return (void *)(intptr_t)number;
}

#endif /* __cplusplus */

#endif
