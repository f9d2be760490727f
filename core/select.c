/* SPDX-License-Identifier: MIT
 *
 * Waiting for the first of several things. On the thread of the caller.
 *
 * A select first tries its cases one by one, in random order. If none goes it locks all its channels,
 * in the order of their addresses, and tries again. If still none goes it puts one waiter into each
 * while it has all locks; all carry the same epoch, so one peer wins the select as a whole. While
 * it holds the locks it is not armed: nobody can win it while it wins another (the
 * way of Go's select). Events and joins need no lock of ours: they are watched once the
 * select is armed, and one that turns out to be ready takes the arming back, if nobody was faster.
 *
 * Who has won: a waiter whose gate is open, or, if the suspension ended with FLOW__WAIT_ENDED, a
 * task. Only the channel or event that has won is not touched again, for it may be gone. */
#include "core/ambient.h"
#include "core/channel.h"
#include "core/event.h"
#include "core/join.h"

#include <flowcoro/select.h>

#define FEW 8 /* cases kept on the stack */

enum { NOBODY = -1 };

/* What a select keeps of one case. */
struct part {
    struct flow_case *is;
    struct flow__task *task; /* a join's, claimed */
    int refused;             /* a join's error */
    bool queued;
    struct flow__waiter waiter;
};

struct selection {
    struct flow__task *self;
    size_t n;
    struct part *part, few[FEW];
    uint16_t *order, few_order[2 * FEW]; /* to try the cases in */
    uint16_t *locks;                     /* the cases with channels, by address */
    size_t n_locks;
    flow_deadline timer; /* the first of the timer cases */
};

/* ---- making ---- */

static bool has_channel(const struct flow_case *c)
{
    return c->kind == FLOW_CASE_SEND || c->kind == FLOW_CASE_RECV;
}

static bool is_valid(const struct flow_case *c)
{
    switch (c->kind) {
    case FLOW_CASE_SEND:
    case FLOW_CASE_RECV:
        return c->chan;
    case FLOW_CASE_EVENT:
        return c->event;
    default:
        return c->kind <= FLOW_CASE_TIMER;
    }
}

static uint64_t next_random(struct flow__task *self)
{
    static flow__atomic(uint64_t) threads; /* all of them: only a source of different numbers */
    uint64_t x = self->home ? ++self->home->selects : fetch_add_relaxed(&threads, 1);

    x *= 0x9e3779b97f4a7c15u; /* the finisher of SplitMix64 (Steele, Lea, Flood, 2014) */
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Fisher and Yates. */
static void shuffle(struct selection *s)
{
    uint64_t random = next_random(s->self);

    for (size_t i = 0; i < s->n; i++) {
        size_t j = (size_t)((random >> 32) * (i + 1) >> 32);

        s->order[i] = s->order[j];
        s->order[j] = (uint16_t)i;
        random = random * 0x5851f42d4c957f2du + 0x14057b7ef767814fu;
    }
}

static int select_open(struct selection *s, struct flow_case *cases, size_t n)
{
    s->n = n;
    s->part = s->few;
    s->order = s->few_order;
    if (n > FEW) {
        s->part = flow__sys.allocate(n * (sizeof *s->part + 2 * sizeof *s->order));
        if (!s->part)
            return -ENOMEM;
        s->order = (uint16_t *)(s->part + n);
    }
    s->locks = s->order + n;
    s->n_locks = 0;
    s->timer = FLOW_FOREVER;
    for (size_t i = 0; i < n; i++) {
        struct part *p = &s->part[i];

        p->is = &cases[i];
        p->task = NULL;
        p->queued = false;
        if (cases[i].kind == FLOW_CASE_JOIN)
            p->refused = flow__claim(cases[i].task.id, s->self, &p->task);
        else if (cases[i].kind == FLOW_CASE_TIMER && cases[i].at < s->timer)
            s->timer = cases[i].at;
    }
    shuffle(s);
    return 0;
}

/* Lets go of the tasks whose cases were not chosen. */
static void select_close(struct selection *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->part[i].is->kind == FLOW_CASE_JOIN && !s->part[i].refused && s->part[i].task)
            flow__unclaim(s->part[i].task);
    if (s->part != s->few)
        flow__sys.release(s->part);
}

/* ---- trying ---- */

/* The case goes: nothing of it is left to do. */
static bool settle(struct part *p, int error)
{
    p->is->error = error;
    return true;
}

static bool settle_join(struct selection *s, struct part *p)
{
    flow_result result = flow__consume(s->self->home, p->task);

    p->task = NULL;
    if (p->is->result)
        *p->is->result = result;
    return settle(p, 0);
}

/* Under the channel's lock. */
static bool try_channel(struct part *p, struct flow__claimed *served)
{
    int r = p->is->kind == FLOW_CASE_SEND ? flow__chan_put(p->is->chan, p->is->from, 1, served)
                                          : flow__chan_take(p->is->chan, p->is->into, 1, served);

    return r ? settle(p, r < 0 ? r : 0) : false;
}

static bool try_other(struct selection *s, struct part *p)
{
    switch (p->is->kind) {
    case FLOW_CASE_JOIN:
        if (p->refused)
            return settle(p, p->refused);
        return flow__has_finished(p->task) && settle_join(s, p);
    case FLOW_CASE_EVENT:
        return flow__event_take(flow__event_of(p->is->event)) && settle(p, 0);
    case FLOW_CASE_TIMER:
        return flow__sys.now() >= p->is->at && settle(p, 0);
    default:
        return false;
    }
}

/* Each channel under its own lock. */
static int try_each(struct selection *s)
{
    for (size_t k = 0; k < s->n; k++) {
        struct part *p = &s->part[s->order[k]];
        struct flow__claimed served;
        bool done;

        if (has_channel(p->is)) {
            flow__claimed_init(&served);
            flow__spin_lock(&p->is->chan->lock);
            done = try_channel(p, &served);
            flow__spin_unlock(&p->is->chan->lock);
            flow__claimed_resume(s->self->home, &served);
        } else {
            done = try_other(s, p);
        }
        if (done)
            return s->order[k];
    }
    return NOBODY;
}

/* All channels are locked. */
static int try_channels(struct selection *s, struct flow__claimed *served)
{
    for (size_t k = 0; k < s->n; k++) {
        struct part *p = &s->part[s->order[k]];

        if (has_channel(p->is) && try_channel(p, served))
            return s->order[k];
    }
    return NOBODY;
}

/* ---- all locks at once ---- */

static struct flow_chan *nth_channel(const struct selection *s, size_t k)
{
    return s->part[s->locks[k]].is->chan;
}

/* Shell's sort: few, mostly, and never many. */
static void sort_channels(struct selection *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (has_channel(s->part[i].is))
            s->locks[s->n_locks++] = (uint16_t)i;
    for (size_t gap = s->n_locks / 2; gap; gap /= 2)
        for (size_t i = gap; i < s->n_locks; i++)
            for (size_t j = i; j >= gap && nth_channel(s, j - gap) > nth_channel(s, j); j -= gap) {
                uint16_t swap = s->locks[j];

                s->locks[j] = s->locks[j - gap];
                s->locks[j - gap] = swap;
            }
}

static void lock_all(struct selection *s)
{
    for (size_t k = 0; k < s->n_locks; k++)
        if (k == 0 || nth_channel(s, k) != nth_channel(s, k - 1))
            flow__spin_lock(&nth_channel(s, k)->lock);
}

static void unlock_all(struct selection *s)
{
    for (size_t k = 0; k < s->n_locks; k++)
        if (k == 0 || nth_channel(s, k) != nth_channel(s, k - 1))
            flow__spin_unlock(&nth_channel(s, k)->lock);
}

/* ---- waiting ---- */

static void queue_all(struct selection *s, uint64_t epoch)
{
    for (size_t k = 0; k < s->n_locks; k++) {
        struct part *p = &s->part[s->locks[k]];
        struct flow_chan *c = p->is->chan;
        bool sends = p->is->kind == FLOW_CASE_SEND;

        flow__waiter_init(&p->waiter, s->self, epoch);
        p->waiter.item = sends ? (void *)(uintptr_t)p->is->from : p->is->into;
        p->waiter.value = 1;
        flow__waiters_add(sends ? &c->senders : &c->receivers, &p->waiter);
        c->inside++;
        p->queued = true;
    }
}

/* False: one is ready already. */
static bool watch_rest(struct selection *s, uint64_t epoch)
{
    for (size_t i = 0; i < s->n; i++) {
        struct part *p = &s->part[i];

        if (p->is->kind == FLOW_CASE_EVENT) {
            flow__waiter_init(&p->waiter, s->self, epoch);
            p->queued = flow__event_watch(flow__event_of(p->is->event), &p->waiter);
        } else if (p->is->kind == FLOW_CASE_JOIN) {
            p->queued = flow__watch_end(p->task, s->self, epoch);
        } else {
            continue;
        }
        if (!p->queued)
            return false;
    }
    return true;
}

static void unqueue(struct part *p)
{
    struct flow_chan *c = p->is->chan;

    switch (p->is->kind) {
    case FLOW_CASE_JOIN:
        flow__unwatch_end(p->task);
        break;
    case FLOW_CASE_EVENT:
        flow__event_unwatch(flow__event_of(p->is->event), &p->waiter);
        break;
    default:
        flow__spin_lock(&c->lock);
        flow__waiters_remove(&p->waiter);
        c->inside--;
        flow__spin_unlock(&c->lock);
    }
    p->queued = false;
}

static void unqueue_all_but(struct selection *s, int winner)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->part[i].queued && (int)i != winner)
            unqueue(&s->part[i]);
}

/* The part whose waiter was claimed. It is resumed by opening its gate; a thread may be here
 * before that has happened. */
static int find_open_gate(struct selection *s)
{
    struct flow__spin *last = NULL;

    for (;; flow__spin_wait(last))
        for (size_t i = 0; i < s->n; i++) {
            struct part *p = &s->part[i];

            if (!p->queued || p->is->kind == FLOW_CASE_JOIN)
                continue;
            last = &p->waiter.gate;
            /* [SPIN-1] acquire: the waiter is ours again. */
            if (load_acquire(&last->held) == 0)
                return (int)i;
        }
}

/* After a suspension that ended with r: the case that was done for us, or NOBODY; a join that has
 * ended it is still to be consumed. */
static int find_winner(struct selection *s, int r)
{
    int winner = NOBODY;

    if (r == 0 && (load_relaxed(&s->self->wait) & FLOW__WAIT_STATE) != FLOW__WAIT_ENDED) {
        winner = find_open_gate(s);
        settle(&s->part[winner], s->part[winner].waiter.outcome);
    }
    unqueue_all_but(s, winner);
    return winner;
}

static flow_deadline earlier(flow_deadline a, flow_deadline b)
{
    return a < b ? a : b;
}

/* Waits once. The case that was done, or an error; NOBODY: something is ready, look again. */
static int wait_once(struct selection *s, flow_deadline deadline, int *error)
{
    struct flow__claimed served;
    uint64_t epoch;
    int winner;

    flow__claimed_init(&served);
    lock_all(s);
    winner = try_channels(s, &served);
    *error = winner == NOBODY ? flow__arm(s->self, false, &epoch) : 0;
    if (winner == NOBODY && !*error)
        queue_all(s, epoch);
    unlock_all(s);
    flow__claimed_resume(s->self->home, &served);
    if (winner != NOBODY || *error)
        return winner;
    if (!watch_rest(s, epoch) && flow__disarm(s->self, epoch)) {
        unqueue_all_but(s, NOBODY);
        return NOBODY;
    }
    *error = flow__wait(s->self, epoch, FLOW__WHY_SELECT, earlier(deadline, s->timer));
    return find_winner(s, *error);
}

static int wait_for_case(struct selection *s, flow_deadline deadline)
{
    int winner, error = 0;

    sort_channels(s);
    do {
        winner = wait_once(s, deadline, &error);
        /* An end, a set event that somebody else may take first, or a timer. */
        if (winner == NOBODY && (!error || (error == -ETIMEDOUT && s->timer <= deadline)))
            winner = try_each(s);
    } while (winner == NOBODY && (!error || (error == -ETIMEDOUT && s->timer <= deadline)));
    return winner == NOBODY ? error : winner;
}

static int select_as(struct flow__task *self, struct flow_case *cases, size_t n,
                     flow_deadline deadline)
{
    struct selection s;
    bool ready;
    int r;

    s.self = self;
    if (flow__must_leave(self))
        return -ECANCELED;
    r = select_open(&s, cases, n);
    if (r)
        return r;
    r = try_each(&s);
    ready = r != NOBODY;
    if (!ready)
        r = deadline == FLOW_NOW ? -ETIMEDOUT : wait_for_case(&s, deadline);
    select_close(&s);
    if (ready) /* others may have its tasks meanwhile */
        flow__spend(self, deadline);
    return r;
}

int flow_select(struct flow_case *cases, size_t n, flow_deadline deadline)
{
    struct flow__task *self;
    int r;

    if (n > FLOW_SELECT_MOST || (n && !cases))
        return -EINVAL;
    for (size_t i = 0; i < n; i++)
        if (!is_valid(&cases[i]))
            return -EINVAL;
    self = flow__caller_begin(&r);
    if (!self)
        return r;
    r = select_as(self, cases, n, deadline);
    flow__caller_end(self);
    return r;
}
