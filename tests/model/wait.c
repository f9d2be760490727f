/* SPDX-License-Identifier: MIT
 *
 * Who ends a suspension, and what is left of it.
 *
 * winner: a task waits with a deadline; one other wakes it, one cancels it. One of the three ends the wait,
 * and all agree which. Then it waits again, shielded, for a second waker; neither what the first wait has
 * left nor the first waker, used once more, ends that.
 * queue: it waits in a queue for an item, and again there are a deadline and a canceller. The item is
 * handed over or left. When the call returns its frame is gone; if it was handed the item, so are the lock
 * and the queue, which it may have freed.
 * thread: the same with a foreign thread, which sees that it was claimed before it is resumed. */
#include "tests/model/core.h"

#include "core/join.c"
#include "core/waiter.c"

static struct flow__task *a;
static uint64_t a_id;

static void setup(flow_fn fn)
{
    model_open(3);
    a = model_task(0, 0, fn, NULL, 0);
    a_id = model_id(a);
    for (int i = 1; i < 3; i++)
        model_running[i] = model_task(i, i, NULL, NULL, FLOW__LIFE_DETACHED);
}

static int cancelled;

static void cancel(void)
{
    cancelled = flow__cancel_id(&workers[2], a_id, FLOW_CANCEL_ASKED);
    MODEL_CHECK(cancelled == 0 || cancelled == -ESRCH);
}

static void check_ended(void)
{
    MODEL_CHECK(flow__is_cancelled(a) == (cancelled == 0));
    for (int i = 0; i < 3; i++)
        model_check_idle(i);
}

/* ---- winner ---- */

enum { NOT_YET, PUBLISHED, REFUSED, AGAIN };

static flow__atomic(int) stage;
static flow_waker waker;
static uint64_t second_epoch;
static flow__atomic(int) n_woken, second_woken;
static int first_wait;

static int publish(flow_waker it, void *unused)
{
    (void)unused;
    waker = it;
    store_release(&stage, PUBLISHED);
    return 0;
}

static void wait_again(void)
{
    MODEL_CHECK(flow__arm(a, true, &second_epoch) == 0);
    store_release(&stage, AGAIN);
    MODEL_CHECK(flow__wait(a, second_epoch, FLOW__WHY_WAKER, FLOW_FOREVER) == 0);
    MODEL_CHECK(load_acquire(&second_woken));
}

static flow_result run_winner(void *unused)
{
    (void)unused;
    first_wait = flow_suspend(publish, NULL, MODEL_SOON);
    MODEL_CHECK(first_wait == 0 || first_wait == -ECANCELED || first_wait == -ETIMEDOUT);
    MODEL_CHECK(first_wait != -ECANCELED || flow__is_cancelled(a));
    MODEL_CHECK(first_wait != -ETIMEDOUT || load_relaxed(&model_late));
    MODEL_CHECK(workers[0].timers.armed == 0 && !a->timed);
    if (load_relaxed(&stage) == NOT_YET)
        store_release(&stage, REFUSED);
    wait_again();
    return flow_ok(NULL);
}

static void setup_winner(void)
{
    setup(run_winner);
}

static int wait_for(int first, int second)
{
    int s;

    while ((s = load_acquire(&stage)) != first && s != second)
        model_pause();
    return s;
}

static void wake_twice(void)
{
    if (wait_for(PUBLISHED, AGAIN) == PUBLISHED && flow_wake(waker) == 0)
        fetch_add_relaxed(&n_woken, 1);
    wait_for(AGAIN, AGAIN);
    if (waker.task && flow_wake(waker) == 0)
        fetch_add_relaxed(&n_woken, 1);
    store_release(&second_woken, 1);
    MODEL_CHECK(flow__win(&workers[1], a, second_epoch, FLOW__WAIT_WOKEN));
}

static void thread_winner(int self)
{
    if (self == 0)
        model_run(a);
    else if (self == 1)
        wake_twice();
    else
        cancel();
}

static void check_winner(void)
{
    check_ended();
    MODEL_CHECK(n_woken == (first_wait == 0));
}

/* ---- queue ---- */

static struct {
    struct flow__spin lock;
    struct flow__waiters queue;
    flow__atomic(int) items; /* that nobody waited for */
} thing;
static struct flow__waiter waiter; /* the frame of who waits */
static flow__atomic(int) got;

/* What it waited for is gone: its own. */
static void has_returned(int r)
{
    MODEL_CHECK(r == 0 || r == -ECANCELED || r == -ETIMEDOUT);
    if (r == 0) {
        MODEL_CHECK(waiter.item == model_item(7));
        store_relaxed(&got, 1);
        model_dead(&thing, sizeof thing);
    }
    model_dead(&waiter, sizeof waiter);
}

static void wait_in_queue(struct flow__task *self)
{
    flow__spin_lock(&thing.lock);
    if (load_relaxed(&thing.items)) {
        flow__spin_unlock(&thing.lock);
        return;
    }
    has_returned(flow__waiter_wait(self, &thing.lock, &thing.queue, &waiter, false,
                                   FLOW__WHY_SEMAPHORE, MODEL_SOON));
}

static flow_result run_queue(void *unused)
{
    (void)unused;
    wait_in_queue(a);
    MODEL_CHECK(workers[0].timers.armed == 0 && !a->timed);
    return flow_ok(NULL);
}

static void setup_queue(void)
{
    setup(run_queue);
}

static void hand_over(void)
{
    struct flow__waiter *w;

    flow__spin_lock(&thing.lock);
    w = flow__waiters_claim(&thing.queue);
    if (w)
        w->item = model_item(7);
    else
        store_relaxed(&thing.items, 1);
    flow__spin_unlock(&thing.lock);
    if (w)
        flow__waiter_resume(&workers[1], w);
}

static void thread_queue(int self)
{
    if (self == 0)
        model_run(a);
    else if (self == 1)
        hand_over();
    else
        cancel();
}

static void check_queue(void)
{
    check_ended();
    MODEL_CHECK(got + thing.items == 1);
    MODEL_CHECK(thing.queue.first == NULL && thing.queue.last == NULL);
}

/* ---- thread ---- */

static void setup_thread(void)
{
    setup(NULL);
    a = model_stand_in(0);
}

static void thread_thread(int self)
{
    if (self == 0) {
        flow__reclaim_enter();
        wait_in_queue(a);
        flow__reclaim_leave();
    } else if (self == 1) {
        hand_over();
    } else {
        flow__cancel_block(&workers[2], a, FLOW_CANCEL_STOP); /* as flow_stop does */
    }
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"winner", 3, setup_winner, thread_winner, check_winner, 3, 1, 0, 1},
        {"queue", 3, setup_queue, thread_queue, check_queue, 3, 1, 0, 1},
        {"thread", 3, setup_thread, thread_thread, check_queue, MODEL_ANY, 1, 0, 1},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
