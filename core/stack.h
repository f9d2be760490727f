/* SPDX-License-Identifier: MIT
 *
 * Stacks: aligned power-of-two slots in one reserved region, so that the stack
 * pointer alone tells the running task.
 *
 *   region   one zone per class (16 KiB to 1 MiB), equal powers of two | the nodes' depots
 *   zone     one part per node, equal powers of two, each bound to its node
 *   slot     [ guard page | stack, growing down ... | header, colour ]
 *
 * The header holds the slot's present task. It and the first frames are shifted by a
 * colour of 0 to 15 cache lines, for otherwise the first lines of all stacks
 * would compete for the same cache sets.
 *
 * A free slot is in a worker's cache or in the depot of its class and node; a depot is a stack
 * of slot numbers whose lowest `trimmed` entries have given their pages back.
 *
 * A slot has its home where its part is. One that a roaming task leaves on a worker of
 * another node is put `away` there, and goes home with some others. Only when a node's part is
 * used up do its workers borrow from the nearest node that has slots. */
#ifndef FLOW_CORE_STACK_H
#define FLOW_CORE_STACK_H

#include "core/task.h"
#include "sync/lock.h"

#define FLOW__STACK_CLASSES   7
#define FLOW__STACK_MIN_SHIFT 14
#define FLOW__STACK_CACHE     32
#define FLOW__STACKS_AWAY     8
#define FLOW__CANARY_WORDS    8 /* at a slot's low end where nothing guards it */

enum flow__guard { FLOW__GUARD_MADVISE, FLOW__GUARD_MPROTECT, FLOW__GUARD_CANARY };

/* At the top of each stack; the owner's only, but for the waiter while it is in a queue. What a task
 * has put here is gone again when it ends, but for the tail. */
struct flow__stack_header {
    struct flow__task *task; /* first: in one line with the first frames */
    struct flow__mutex *held; /* mutexes that the task owns */
    uintptr_t innermost;      /* its shields, ambient deadlines and scopes; see core/ambient.h */
    int64_t open_jobs;        /* jobs of the task that were shown or made tasks of, and not synced */
    /* For dumps, which read them from other threads, while the task waits: */
    const void *waits_for; /* what its reason is about, where that has an address */
    int64_t waits_since;   /* its worker's polled_at */
    struct flow__waiter tail; /* of a wait that is the last deed of a call, see flow__tail_wait */
#if defined(FLOW__TSAN)
    void *fiber, *padding; /* ThreadSanitizer's, kept with the slot */
#elif defined(FLOW_VALGRIND)
    size_t known_as, padding; /* the stack's number there, kept with the slot */
#endif
};

_Static_assert(sizeof(struct flow__stack_header) % 16 == 0, "frames begin below it");

#if defined(FLOW__TSAN) || defined(FLOW_VALGRIND)
#define FLOW__HEADER_STAYS 1 /* trimming leaves it alone */
#else
#define FLOW__HEADER_STAYS 0
#endif

/* The slots of one class on one node. */
struct flow__stack_depot {
    flow__cache_aligned struct flow__lock grow_lock; /* before lock; of one depot at a time */
    struct flow__lock lock;
    uint32_t n_slots; /* slots that were ever handed out */
    uint32_t max_slots;
    uint32_t shown; /* slots that core files have; under grow_lock */
    uint32_t n_free, trimmed;
    uint32_t *free_slot;
};

struct flow__stack_region {
    /* Read by everyone; written at start and stop, in such an order that no stack pointer of
     * another thread ever seems to be inside. bytes is 0 also in the child of a fork. */
    flow__atomic(uintptr_t) base;
    flow__atomic(size_t) bytes;
    unsigned zone_shift;
    bool measured; /* see core/measure.h; set before anything starts */
    /* cold */
    bool unguarded_ok;
    enum flow__guard guard;
    size_t page_bytes;
    char *mapping;
    size_t mapped_bytes;
    int n_nodes;
    unsigned part_shift;     /* a node's part of a zone */
    char *sections;          /* one per node: its depots, and their slot numbers */
    size_t section_bytes;
    flow__atomic(uint64_t) trims, guard_failures;
    flow__atomic(uint64_t) borrowed, sent_home; /* slots used on, or left on, another node */
};

extern struct flow__stack_region flow__stacks __attribute__((visibility("hidden")));

/* Free slots of one worker, by class. Owner only. */
struct flow__stack_cache {
    int node;
    uint32_t n_away;
    char *away[FLOW__STACKS_AWAY]; /* slots of other nodes */
    uint32_t n[FLOW__STACK_CLASSES];
    char *slot[FLOW__STACK_CLASSES][FLOW__STACK_CACHE];
};

/* Reserves the region (half as much, and again, where the system refuses) and finds out which
 * guard works. 0 or -ENOMEM. */
int flow__stacks_open(bool unguarded_ok, bool dont_fork);
void flow__stacks_close(void);

/* The smallest class that holds `bytes`; -EINVAL if none does. */
int flow__stack_class(size_t bytes);

/* Refills an empty cache or empties half of a full one; the slow part of the
 * two calls below. 0 or -ENOMEM. */
int flow__stack_refill(struct flow__stack_cache *cache, int class_index);
void flow__stack_flush(struct flow__stack_cache *cache, int class_index, uint32_t keep);

/* A slot comes back from a task that may have taken it on another node. */
void flow__stack_give_back(struct flow__stack_cache *cache, int class_index, char *slot);

/* Sends home what is away, as a worker does that goes to sleep. */
void flow__stacks_go_home(struct flow__stack_cache *cache);

/* Gives back the pages of at most `most` slots that lie idle in a node's depots, the coldest first.
 * Returns how many are still untrimmed beyond what is kept warm. */
uint32_t flow__stacks_trim(int node, uint32_t most, uint32_t keep);
uint64_t flow__stacks_mapped(void);

/* The slot that contains an address of the region, or NULL; its class. */
char *flow__stack_slot_of(uintptr_t address, int *class_index);

/* The node in whose part a slot lies. */
static inline int flow__stack_node(const char *slot)
{
    uintptr_t offset = (uintptr_t)slot - load_relaxed(&flow__stacks.base);

    return (int)((offset & (((uintptr_t)1 << flow__stacks.zone_shift) - 1)) >>
                 flow__stacks.part_shift);
}

static inline struct flow__stack_depot *flow__stack_depot(int class_index, int node)
{
    return (struct flow__stack_depot *)(flow__stacks.sections +
                                        (size_t)node * flow__stacks.section_bytes) +
           class_index;
}

/* A slot by its number in the part of a class on a node. */
static inline char *flow__stack_slot(int class_index, int node, uint32_t number)
{
    return (char *)load_relaxed(&flow__stacks.base) +
           ((size_t)class_index << flow__stacks.zone_shift) +
           ((size_t)node << flow__stacks.part_shift) +
           ((size_t)number << (FLOW__STACK_MIN_SHIFT + class_index));
}

/* Is the slot's canary intact? Always true where there is a guard page. */
bool flow__stack_intact(const char *slot);

static inline size_t flow__stack_bytes(int class_index)
{
    return (size_t)1 << (FLOW__STACK_MIN_SHIFT + class_index);
}

static inline struct flow__stack_header *flow__stack_header_at(uintptr_t offset)
{
    unsigned shift = FLOW__STACK_MIN_SHIFT + (unsigned)(offset >> flow__stacks.zone_shift);
    uintptr_t slot = offset >> shift;

    return (struct flow__stack_header *)(load_relaxed(&flow__stacks.base) + ((slot + 1) << shift) -
                                         (slot & 15) * FLOW__CACHE_LINE) -
           1;
}

/* Also the top of the stack: frames grow down from here. */
static inline struct flow__stack_header *flow__stack_header(const char *slot)
{
    return flow__stack_header_at((uintptr_t)slot - load_relaxed(&flow__stacks.base));
}

/* The same, quicker, when the class is known. */
static inline struct flow__stack_header *flow__stack_top(const char *slot, int class_index)
{
    unsigned shift = FLOW__STACK_MIN_SHIFT + (unsigned)class_index;
    uintptr_t colour = ((uintptr_t)slot - load_relaxed(&flow__stacks.base)) >> shift & 15;

    return (struct flow__stack_header *)(slot + ((uintptr_t)1 << shift) -
                                         colour * FLOW__CACHE_LINE) -
           1;
}

/* The header of the stack we are on, or NULL outside of coroutines. No thread-local is read, so this
 * is right also in a coroutine that has just moved to another thread. */
static inline struct flow__stack_header *flow__own_header(void)
{
    uintptr_t offset = flow__stack_pointer() - load_relaxed(&flow__stacks.base);
    struct flow__stack_header *header;

    if (flow__unlikely(offset >= load_relaxed(&flow__stacks.bytes)))
        return NULL;
    header = flow__stack_header_at(offset);
    if (!header)
        __builtin_unreachable();
    return header;
}

/* The task whose stack we are on, or NULL. */
static inline struct flow__task *flow__self(void)
{
    struct flow__stack_header *header = flow__own_header();

    return flow__likely(header != NULL) ? header->task : NULL;
}

/* A stack for a task that starts; NULL if there is none to be had. */
static inline char *flow__stack_take(struct flow__stack_cache *cache, int class_index)
{
    if (flow__unlikely(cache->n[class_index] == 0) && flow__stack_refill(cache, class_index))
        return NULL;
    return cache->slot[class_index][--cache->n[class_index]];
}

static inline void flow__stack_give(struct flow__stack_cache *cache, int class_index, char *slot)
{
    if (flow__unlikely(cache->n[class_index] == FLOW__STACK_CACHE))
        flow__stack_flush(cache, class_index, FLOW__STACK_CACHE / 2);
    cache->slot[class_index][cache->n[class_index]++] = slot;
}

#endif
