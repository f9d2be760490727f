/* SPDX-License-Identifier: MIT
 *
 * flow_chan with room for one element, and for none. What was sent is received once or lies there; nobody
 * sleeps while there is something for him, or after the close (either would be a deadlock here).
 *
 * channel: two senders of two elements each, the later of whom closes it in the end; one receiver goes
 * on until it is closed and empty. channel_close: the close comes beside a sender and a receiver.
 * channel_cancel: a receiver with a deadline is cancelled, beside another receiver and a sender.
 * A task's first wait without a deadline is one in its tail, its later ones have a frame. */
#include "tests/model/callers.h"

#include "core/waiter.c"
#define wait_in wait_in_channel /* one of that name is in waiter.c */
#include "core/channel.c"
#include "core/join.c"

static struct flow_chan *chan;
static struct flow__task *a;
static flow__atomic(int) senders_left, n_sent, n_received;

static struct flow_chan *new_chan(size_t capacity)
{
    struct flow_chan *c = flow__sys.map(sizeof *c + capacity * sizeof(void *), 0, 0);

    c->element_bytes = sizeof(void *);
    c->capacity = capacity;
    c->ring_bytes = capacity * sizeof(void *);
    return c;
}

static void setup_with(size_t capacity)
{
    model_open_callers(3);
    a = &blocks[0];
    chan = new_chan(capacity);
    senders_left = 2;
}

static void setup(void)
{
    setup_with(1);
}

static void setup_unbuffered(void)
{
    setup_with(0);
}

static int send(struct flow_chan *c, int number)
{
    void *item = model_item(number);

    return flow_chan_send(c, &item, FLOW_FOREVER);
}

static int receive(struct flow_chan *c, flow_deadline deadline)
{
    void *item = NULL;
    int r = flow_chan_recv(c, &item, deadline);

    if (r == 0) {
        fetch_add_relaxed(&n_received, 1);
        model_taken(item);
    }
    return r;
}

static void check_idle(void)
{
    MODEL_CHECK(chan->inside == 0 && chan->count == 0);
    MODEL_CHECK(chan->senders.first == NULL && chan->receivers.first == NULL);
    for (int i = 0; i < 3; i++)
        model_check_idle(i);
}

/* ---- channel ---- */

static void thread(int self)
{
    if (self == 0) {
        int r;

        while ((r = receive(chan, FLOW_FOREVER)) == 0)
            ;
        MODEL_CHECK(r == -EPIPE);
        return;
    }
    MODEL_CHECK(send(chan, 2 * self - 1) == 0);
    MODEL_CHECK(send(chan, 2 * self) == 0);
    if (fetch_sub_seq(&senders_left, 1) == 1)
        MODEL_CHECK(flow_chan_close(chan) == 0);
}

static void check(void)
{
    check_idle();
    model_all_taken_once(1, 4);
}

/* ---- channel_close: beside who waits ---- */

static void thread_close(int self)
{
    if (self == 2)
        MODEL_CHECK(flow_chan_close(chan) == 0);
    else if (self == 1 && send(chan, 1) == 0)
        store_relaxed(&n_sent, 1);
    else if (self == 0)
        while (receive(chan, FLOW_FOREVER) == 0)
            ;
}

static void check_close(void)
{
    check_idle();
    MODEL_CHECK(n_received == n_sent);
}

/* ---- channel_cancel ---- */

static int cancelled_got;

static void thread_cancel(int self)
{
    if (self == 0) {
        int r = receive(chan, MODEL_SOON);

        MODEL_CHECK(r == 0 || r == -ECANCELED || r == -ETIMEDOUT);
        cancelled_got = r == 0;
        /* What it did not take is for who comes after it. */
        if (r == 0) {
            void *item = model_item(2);

            MODEL_CHECK(flow_chan_try_send(chan, &item) == 0);
        }
    } else if (self == 1) {
        MODEL_CHECK(receive(chan, FLOW_FOREVER) == 0);
    } else {
        MODEL_CHECK(send(chan, 1) == 0);
        flow__cancel_block(&workers[2], a, FLOW_CANCEL_ASKED);
    }
}

static void check_cancel(void)
{
    check_idle();
    model_all_taken_once(1, 1 + cancelled_got);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"channel", 3, setup, thread, check, 1, 1, 0, 0},
        {"channel_unbuffered", 3, setup_unbuffered, thread, check, 1, 1, 0, 0},
        {"channel_close", 3, setup, thread_close, check_close, 2, 1, 0, 0},
        {"channel_close_unbuffered", 3, setup_unbuffered, thread_close, check_close, 2, 1, 0, 0},
        {"channel_cancel", 3, setup, thread_cancel, check_cancel, 1, 1, 0, 0},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
