/* SPDX-License-Identifier: MIT
 *
 * liburcu behind our names. Deferred frees are collected until a batch is full;
 * the thread that fills it waits for one grace period for all of it. That thread
 * may be a worker: it happens once in 256 named tasks and takes some
 * microseconds with membarrier. No call_rcu, hence no helper thread.
 *
 * liburcu keeps a list of the threads that read, in which the child of a fork would wait for threads that it
 * does not have. So those that we registered are listed here too, and the child takes them out. */
#include "sync/reclaim.h"

#include "sync/lock.h"

#include <urcu/urcu-memb.h>

#include <urcu/static/urcu-memb.h> /* for the place of a thread's word; no function is used */

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BATCH 256

static struct {
    struct flow__lock lock;
    struct flow__deferred *list; /* under lock */
    flow__atomic(uint64_t) pending;
    flow__atomic(int) drains; /* in progress */
} deferred;

struct reader {
    struct cds_list_head here;       /* in readers.list */
    struct urcu_reader *in_liburcu; /* NULL: it is not there */
};

static struct {
    struct flow__lock lock; /* around liburcu's own; held while the process forks */
    struct cds_list_head list;
} readers = {.list = CDS_LIST_HEAD_INIT(readers.list)};

static __thread struct reader own;

/* ThreadSanitizer does not see into liburcu: what a grace period orders is told to it here. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#include <sanitizer/tsan_interface.h>
static char grace_period;
#define tell_tsan_leave()  __tsan_release(&grace_period)
#define tell_tsan_waited() __tsan_acquire(&grace_period)
#endif
#endif
#ifndef tell_tsan_leave
#define tell_tsan_leave()  ((void)0)
#define tell_tsan_waited() ((void)0)
#endif

static void join_readers(void)
{
    flow__lock(&readers.lock);
    urcu_memb_register_thread();
    if (!own.in_liburcu)
        cds_list_add(&own.here, &readers.list);
    own.in_liburcu = &URCU_TLS(urcu_memb_reader);
    flow__unlock(&readers.lock);
}

static void leave_readers(void)
{
    flow__lock(&readers.lock);
    cds_list_del(&own.here);
    own.in_liburcu = NULL;
    if (URCU_TLS(urcu_memb_reader).registered) /* the program may have ended that */
        urcu_memb_unregister_thread();
    flow__unlock(&readers.lock);
}

void flow__reclaim_register(void)
{
    if (!URCU_TLS(urcu_memb_reader).registered) /* else the program has done it, or we have */
        join_readers();
}

void flow__reclaim_unregister(void)
{
    if (own.in_liburcu)
        leave_readers();
}

void flow__reclaim_before_fork(void)
{
    flow__lock(&readers.lock);
}

void flow__reclaim_after_fork(void)
{
    flow__unlock(&readers.lock);
}

bool flow__reclaim_forget_others(void)
{
    struct cds_list_head *at, *next;

    /* It had a lock of liburcu's, and some of the list was on its stack. */
    if (load_relaxed(&deferred.drains) > 0)
        return false;
    cds_list_for_each_safe(at, next, &readers.list) {
        struct reader *r = cds_list_entry(at, struct reader, here);

        if (r == &own)
            continue;
        cds_list_del(&r->here);
        if (r->in_liburcu->registered) /* the program may have ended that */
            cds_list_del(&r->in_liburcu->node);
    }
    return true;
}

void flow__reclaim_enter(void)
{
    urcu_memb_read_lock();
}

void flow__reclaim_leave(void)
{
    tell_tsan_leave();
    urcu_memb_read_unlock();
}

bool flow__reclaim_inside(void)
{
    return urcu_memb_read_ongoing();
}

_Static_assert(FLOW__RECLAIM_NESTING == URCU_GP_CTR_NEST_MASK, "as liburcu has it");

const unsigned long *flow__reclaim_sections(void)
{
    return &URCU_TLS(urcu_memb_reader).ctr;
}

void flow__reclaim_wait(void)
{
    urcu_memb_synchronize_rcu();
    tell_tsan_waited();
}

void flow__reclaim_drain(void)
{
    struct flow__deferred *object, *next;

    fetch_add_seq(&deferred.drains, 1);
    flow__lock(&deferred.lock);
    object = deferred.list;
    deferred.list = NULL;
    flow__unlock(&deferred.lock);
    flow__reclaim_wait();
    for (; object; object = next) {
        next = object->next;
        flow__sys.release(object);
        fetch_sub_relaxed(&deferred.pending, 1);
    }
    fetch_sub_seq(&deferred.drains, 1);
}

void flow__reclaim_flush(void)
{
    if (load_relaxed(&deferred.pending) >= BATCH && !flow__reclaim_inside())
        flow__reclaim_drain();
}

void flow__reclaim_later(struct flow__deferred *object)
{
    flow__lock(&deferred.lock);
    object->next = deferred.list;
    deferred.list = object;
    flow__unlock(&deferred.lock);
    fetch_add_relaxed(&deferred.pending, 1);
    flow__reclaim_flush();
}

uint64_t flow__reclaim_pending(void)
{
    return load_relaxed(&deferred.pending);
}

const char *flow__reclaim_flavour(void)
{
    long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);

    return commands > 0 && (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED) ? "memb, membarrier"
                                                                         : "memb, fences";
}

const char *flow__reclaim_version(void)
{
    return FLOW__LIBURCU_VERSION;
}
