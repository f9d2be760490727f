/* SPDX-License-Identifier: MIT
 *
 * The models of this directory under Relacy, which knows the weak memory of C++11.
 *
 * This header is the third back end of sync/atomic.h (compiled as C++, with
 * -DFLOW_MODEL='"tests/model/relacy.h"'), and relacy_run.h stands in for explorer.h: a model is the same file
 * under both. The explorer knows every order of steps on x86-64; here a load may also
 * return an older value unless something orders it, as on aarch64, and two plain accesses that
 * nothing orders are a data race. That is how a missing acquire or release is found: each item is written by
 * who makes it (model_item) and read by who gets it (model_taken), and what sync/ marks as
 * flow__plain is watched likewise.
 *
 * What it cannot show: a load that is delayed behind a later store of its thread; more than one older
 * value in the search, or two in random runs. (Relacy Race Detector: Dmitry Vyukov, 2008.) */
#ifndef FLOW_TESTS_MODEL_RELACY_H
#define FLOW_TESTS_MODEL_RELACY_H

#include <errno.h>
#include <relacy/relacy.hpp>
#undef new
#undef delete
#undef malloc
#undef calloc
#undef realloc
#undef free
#undef errno
#define errno          (*__errno_location())
#define _Static_assert static_assert

#include <stdint.h>

/* ---- words ---- */

/* Relacy's own objects have constructors and live for one run. Ours are all zero bytes when they are
 * new, as C wants it: they make theirs at their first use in each run, with a first value that every thread has
 * known from the beginning. */
static unsigned model_run; /* since the start, from 1 */

struct model_part {
    model_part *next;
    virtual ~model_part() { }
};
static model_part *model_parts; /* of this run */

template <typename Theirs> struct model_owned : model_part {
    Theirs theirs;
};

template <typename Theirs> static Theirs *model_make(void)
{
    void *memory = malloc(sizeof(model_owned<Theirs>));
    model_owned<Theirs> *part = ::new (memory) model_owned<Theirs>();

    part->next = model_parts;
    model_parts = part;
    return &part->theirs;
}

static void model_end_parts(void)
{
    while (model_part *part = model_parts) {
        model_parts = part->next;
        part->~model_part();
        free(part);
    }
}

template <typename T> struct model_plain {
    rl::var<T> *theirs;
    unsigned run;
    T first;

    model_plain() = default;
    model_plain(T value) : theirs(), run(), first(value) { }
    model_plain(const model_plain &other) : theirs(), run(), first(other) { }
    rl::var<T> &get() const
    {
        model_plain *self = const_cast<model_plain *>(this);

        if (run != model_run) {
            self->theirs = model_make<rl::var<T> >();
            self->run = model_run;
            theirs->value_ = first;
            theirs->initialized_ = true;
        }
        return *theirs;
    }
    operator T() const { return get().load($); }
    T operator->() const { return get().load($); }
    model_plain &operator=(T value)
    {
        get().store(value, $);
        return *this;
    }
    model_plain &operator=(const model_plain &other) { return *this = (T)other; }
};

/* Nobody has read its first value yet; Relacy leaves that open. */
static void (*model_unread)(rl::atomic_data *data);

template <typename T> struct model_atomic {
    typedef rl::generic_atomic<T, true> Theirs;
    Theirs *theirs;
    unsigned run;
    T first;

    model_atomic() = default;
    model_atomic(T value) : theirs(), run(), first(value) { }
    model_atomic(const model_atomic &other) : theirs(), run(), first(other) { }
    Theirs &get()
    {
        if (run != model_run) {
            theirs = model_make<Theirs>();
            run = model_run;
            theirs->value_ = theirs->history_[theirs->last_index_] = first;
            model_unread(theirs->impl_);
        }
        return *theirs;
    }
    /* For setup and check. */
    operator T() const { return const_cast<model_atomic *>(this)->get().load(rl::mo_relaxed, $); }
    model_atomic &operator=(T value)
    {
        get().store(value, rl::mo_relaxed, $);
        return *this;
    }
    model_atomic &operator=(const model_atomic &other) { return *this = (T)other; }
};

template <typename T, typename E, typename V>
static bool model_cas(model_atomic<T> *p, E *expected, V value, rl::memory_order order,
                      rl::memory_order failure, rl::debug_info_param at)
{
    T seen = *expected;
    bool done = p->get().compare_exchange_strong(seen, (T)value, order, at, failure, at);

    *expected = seen;
    return done;
}

template <typename T> struct model_type {
    typedef T of;
};

#define flow__atomic(type) model_atomic<typename model_type<type>::of>
#define flow__plain(type)  model_plain<typename model_type<type>::of>

#define load_relaxed(p) (p)->get().load(rl::mo_relaxed, $)
#define load_acquire(p) (p)->get().load(rl::mo_acquire, $)
#define load_seq(p)     (p)->get().load(rl::mo_seq_cst, $)

#define store_relaxed(p, v) (p)->get().store((v), rl::mo_relaxed, $)
#define store_release(p, v) (p)->get().store((v), rl::mo_release, $)

#define exchange_acquire(p, v) (p)->get().exchange((v), rl::mo_acquire, $)
#define exchange_seq(p, v)     (p)->get().exchange((v), rl::mo_seq_cst, $)

#define fetch_add_relaxed(p, v) (p)->get().fetch_add((v), rl::mo_relaxed, $)
#define fetch_add_seq(p, v)     (p)->get().fetch_add((v), rl::mo_seq_cst, $)
#define fetch_sub_relaxed(p, v) (p)->get().fetch_sub((v), rl::mo_relaxed, $)
#define fetch_sub_seq(p, v)     (p)->get().fetch_sub((v), rl::mo_seq_cst, $)
#define fetch_or_seq(p, v)      (p)->get().fetch_or((v), rl::mo_seq_cst, $)
#define fetch_and_seq(p, v)     (p)->get().fetch_and((v), rl::mo_seq_cst, $)

#define cas_relaxed(p, e, v) model_cas((p), (e), (v), rl::mo_relaxed, rl::mo_relaxed, $)
#define cas_acquire(p, e, v) model_cas((p), (e), (v), rl::mo_acquire, rl::mo_relaxed, $)
#define cas_release(p, e, v) model_cas((p), (e), (v), rl::mo_release, rl::mo_relaxed, $)
#define cas_seq(p, e, v)     model_cas((p), (e), (v), rl::mo_seq_cst, rl::mo_seq_cst, $)

#define count_up(p, n)     store_relaxed(p, load_relaxed(p) + (n))
#define compiler_barrier() ((void)0)
#define flow__pause()      model_pause()
#define model_pause()      rl::yield(1, $)
#define flow__rounds(n)    1

/* For mutants: weaker than what the library has a name for. */
#define exchange_relaxed(p, v) (p)->get().exchange((v), rl::mo_relaxed, $)
#define exchange_release(p, v) (p)->get().exchange((v), rl::mo_release, $)
#define fetch_add_acquire(p, v) (p)->get().fetch_add((v), rl::mo_acquire, $)
#define fetch_add_release(p, v) (p)->get().fetch_add((v), rl::mo_release, $)

#endif
