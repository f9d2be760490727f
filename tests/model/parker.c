/* SPDX-License-Identifier: MIT
 *
 * How workers sleep. A lost wake-up is a deadlock here, since nobody has a deadline.
 *
 * parker_inbox: two senders push to one worker, and who finds the inbox empty notifies it.
 * parker_group: two workers search, leave the search, announce, look and sleep as core/scheduler.c does;
 * one publisher adds two pieces of work to their group and wakes at most one for each. Whoever was
 * summoned is a searcher already, and wakes the next one when it leaves work behind.
 * parker_lookout: a publisher fills a slot, of which it tells nobody while a lookout stands; that one is called away
 * and comes back no more. The other worker must take what is in the slot.
 * parker_claim: two publishers and one worker; one claims the wake and finds that the worker does not
 * sleep yet, while the other trusts in that claim. */
#include "sync/parker.c"

#include "sync/inbox.h"
#include "tests/model/explorer.h"

#define PIECES 2

static struct flow__idle idle;
static struct flow__parker parkers[2];
static struct flow__inbox inbox;
static struct flow__link nodes[2];
static flow__atomic(int) slot, is_away;
static flow__atomic(int) queue, left; /* pieces that wait; those that nobody has done */

static void begin(int n_workers)
{
    idle.state = 0;
    idle.map[0] = 0;
    idle.sentry = 0;
    idle.lookout = false;
    idle.n_workers = n_workers;
    parkers[0].word = parkers[1].word = FLOW__RUNNING;
}

static void check_idle(void)
{
    MODEL_CHECK(idle.state == 0);
    MODEL_CHECK(idle.map[0] == 0);
}

/* ---- one worker's inbox ---- */

static void setup_inbox(void)
{
    begin(1);
    inbox.newest = NULL;
}

static void receive(void)
{
    for (int got = 0; got < 2;) {
        struct flow__link *link = flow__inbox_take_all(&inbox);

        for (; link; link = link->next)
            got++;
        if (got == 2)
            return;
        flow__parker_announce(&parkers[0], &idle, 0);
        if (flow__inbox_is_empty_seq(&inbox))
            flow__parker_sleep(&parkers[0], &idle, 0, INT64_MAX);
        else
            flow__parker_cancel(&parkers[0], &idle, 0);
    }
}

static void thread_inbox(int self)
{
    if (self == 0)
        receive();
    else if (flow__inbox_push(&inbox, &nodes[self - 1]))
        flow__parker_notify(&parkers[0]);
}

/* ---- a group ---- */

static void setup_group(void)
{
    begin(2);
    queue = 0;
    left = PIECES;
}

static bool take_piece(void)
{
    int n = load_seq(&queue);

    while (n > 0)
        if (cas_seq(&queue, &n, n - 1))
            return true;
    return false;
}

static void wake(void)
{
    if (flow__idle_wants_wake(&idle))
        flow__idle_wake_one(&idle, parkers, sizeof parkers[0]);
}

/* The last piece ends the run: both are told. */
static void work(void)
{
    if (fetch_sub_seq(&left, 1) == 1)
        for (int i = 0; i < 2; i++)
            flow__parker_notify(&parkers[i]);
}

static bool search(bool *searching)
{
    bool found;

    if (!*searching)
        *searching = flow__idle_start_search(&idle);
    found = take_piece();
    if (*searching) {
        *searching = false;
        if (flow__idle_end_search(&idle) && found && load_seq(&queue) > 0)
            wake();
        if (!found)
            found = take_piece();
    }
    return found;
}

static void worker(int self, bool searching)
{
    while (load_seq(&left) > 0) {
        uint32_t became;

        if (search(&searching)) {
            work();
            continue;
        }
        flow__parker_announce(&parkers[self], &idle, self);
        if (load_seq(&queue) > 0 || load_seq(&left) == 0)
            became = flow__parker_cancel(&parkers[self], &idle, self);
        else
            became = flow__parker_sleep(&parkers[self], &idle, self, INT64_MAX);
        searching = became == FLOW__SUMMONED;
    }
    if (searching)
        flow__idle_end_search(&idle);
}

static void thread_group(int self)
{
    if (self < 2) {
        worker(self, false);
        return;
    }
    for (int i = 0; i < PIECES; i++) {
        fetch_add_seq(&queue, 1);
        wake();
    }
}

/* ---- a claim in vain ---- */

/* The worker has announced itself and has not yet looked. */
static void setup_claim(void)
{
    setup_group();
    begin(1);
    flow__parker_announce(&parkers[0], &idle, 0);
}

static void worker_announced(void)
{
    bool searching = (load_seq(&queue) > 0
                          ? flow__parker_cancel(&parkers[0], &idle, 0)
                          : flow__parker_sleep(&parkers[0], &idle, 0, INT64_MAX)) == FLOW__SUMMONED;

    worker(0, searching);
}

static void thread_claim(int self)
{
    if (self == 0) {
        worker_announced();
        return;
    }
    fetch_add_seq(&queue, 1);
    wake();
}

/* ---- a lookout ---- */

static void setup_lookout(void)
{
    begin(2);
    slot = is_away = 0;
}

static void be_called_away(void)
{
    uint32_t became;
    bool stands;

    flow__parker_announce(&parkers[0], &idle, 0);
    stands = flow__idle_stand_lookout(&idle);
    became = flow__parker_sleep(&parkers[0], &idle, 0, INT64_MAX);
    if (stands)
        flow__idle_end_lookout(&idle);
    if (became == FLOW__SUMMONED)
        flow__idle_end_search(&idle);
    if (load_seq(&slot))
        wake();
    store_release(&is_away, 1);
}

/* Who is to sleep beside a filled slot looks at it again, as the lookout, unless there is one. */
static void take_slot(void)
{
    bool searching = false;

    for (;;) {
        uint32_t became = FLOW__RUNNING;
        bool taken = exchange_seq(&slot, 0);

        if (searching)
            flow__idle_end_search(&idle);
        if (taken)
            return;
        flow__parker_announce(&parkers[1], &idle, 1);
        if (load_seq(&slot) && flow__idle_stand_lookout(&idle)) {
            became = flow__parker_cancel(&parkers[1], &idle, 1);
            flow__idle_end_lookout(&idle);
        } else {
            became = flow__parker_sleep(&parkers[1], &idle, 1, INT64_MAX);
        }
        searching = became == FLOW__SUMMONED;
    }
}

static void fill_slot(void)
{
    exchange_seq(&slot, 1);
    if (flow__idle_wants_wake_for_slot(&idle))
        flow__idle_wake_one(&idle, parkers, sizeof parkers[0]);
    while (!load_acquire(&is_away) && !flow__parker_notify(&parkers[0]))
        model_pause();
}

static void check_lookout(void)
{
    check_idle();
    MODEL_CHECK(!slot && !idle.lookout);
}

static void thread_lookout(int self)
{
    if (self == 0)
        be_called_away();
    else if (self == 1)
        take_slot();
    else
        fill_slot();
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"parker_inbox", 3, setup_inbox, thread_inbox, check_idle, MODEL_ANY, MODEL_ANY, MODEL_ANY, 2},
        {"parker_group", 3, setup_group, thread_group, check_idle, 4, 2, 0, 1},
        {"parker_lookout", 3, setup_lookout, thread_lookout, check_lookout, 3, 2, 0, 1},
        {"parker_claim", 3, setup_claim, thread_claim, check_idle, MODEL_ANY, MODEL_ANY, 1, 2},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
