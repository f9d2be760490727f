/* SPDX-License-Identifier: MIT
 *
 * What the explorer knows of the model's memory, and the two things that it leaves out by it.
 *
 * Steps that nobody sees. Words (8 bytes) that one thread alone uses, or that all only read, need no
 * scheduling point: to be taken off before such an access is the same as to be taken off after it.
 * Which words are shared is learned: whenever a schedule finds a new one, the search begins anew
 * with a point there. The search that ends has found none, so none was missed: the first access
 * that made a difference would have been seen as one. (The same holds under the bound on
 * preemptions; CHESS leaves out data accesses in this way.)
 *
 * States that were seen. Where there is a choice, the whole state is hashed: static memory, arena, the
 * threads' stacks, buffers and what is left of each bound. From a state that was met before nothing new
 * can come, and the schedule is left. A state is told by a 64-bit hash; with n states two of them are
 * taken for one with a probability of n^2 / 2^65, for ten million 0.000003. */
#ifndef FLOW_TESTS_MODEL_STATES_H
#define FLOW_TESTS_MODEL_STATES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A variable of the explorer that is no part of the model's state. */
#define NO_STATE __attribute__((section("explorer")))

/* At the program's begin. arena: memory that the model is given piece by piece. places: a power of two;
 * three quarters of them take a state each, and what comes then is not noted. */
void states_open(char *arena, size_t arena_bytes, uint64_t places);

/* Another model, or the search begins anew: forgets the states; without `keep` also what is shared. */
void states_reset(bool keep);

/* Static memory as it was when states_open was called, and an empty arena. */
void states_restore(void);

/* Notes an access; true if it needs a scheduling point. */
bool states_touch(const void *p, size_t bytes, int thread, bool writes);

/* Is a word shared that had no points in this schedule? */
bool states_have_learned(void);

/* The state, but for the stacks: these are added by the caller. */
uint64_t states_hash(size_t arena_used);
uint64_t states_hash_more(uint64_t hash, const void *p, size_t bytes);

/* True if it was noted before; notes it. */
bool states_seen(uint64_t hash);
uint64_t states_count(void);

#endif
