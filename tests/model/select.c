/* SPDX-License-Identifier: MIT
 *
 * flow_select: exactly one case wins, what it passes on is neither lost nor there twice, and nothing of the
 * select is left in the queues.
 *
 * select: two selects, one after the other, take what two others send to one channel each. select_two:
 * two tasks select from both channels, and a third sends to each. select_cancel: a select with a deadline is
 * cancelled, beside a sender with a deadline. select_send: it offers to one channel and takes from the other,
 * of which others want the same. select_event: it takes from a channel or passes an event of automatic
 * reset, and both come. select_join: it takes from a channel or joins a task, likewise; a join that is not
 * chosen is as if it had not been tried. */
#include "tests/model/callers.h"

#include "core/waiter.c"
#define wait_in wait_in_channel /* one of that name is in waiter.c */
#include "core/channel.c"
#include "core/event.c"
#include "core/join.c"
#include "core/select.c"

static struct flow_chan *chan[2];
static flow__atomic(int) n_sent, n_received;

static struct flow_chan *new_chan(void)
{
    struct flow_chan *c = flow__sys.map(sizeof *c, 0, 0);

    c->element_bytes = sizeof(void *);
    return c;
}

static void setup(void)
{
    model_open_callers(3);
    chan[0] = new_chan();
    chan[1] = new_chan();
}

static void received(void *item)
{
    model_taken(item);
    fetch_add_relaxed(&n_received, 1);
}

static void send(int to, int number, flow_deadline deadline)
{
    void *item = model_item(number);
    int r = flow_chan_send(chan[to], &item, deadline);

    MODEL_CHECK(r == 0 || (deadline != FLOW_FOREVER && (r == -ETIMEDOUT || r == -ECANCELED)));
    if (r == 0)
        fetch_add_relaxed(&n_sent, 1);
}

static int receive_either(flow_deadline deadline)
{
    void *item[2] = {NULL, NULL};
    struct flow_case cases[] = {
        {.kind = FLOW_CASE_RECV, .chan = chan[0], .into = &item[0]},
        {.kind = FLOW_CASE_RECV, .chan = chan[1], .into = &item[1]},
    };
    int r = flow_select(cases, 2, deadline);

    if (r < 0) {
        MODEL_CHECK(!item[0] && !item[1]);
        return r;
    }
    MODEL_CHECK(r < 2 && cases[r].error == 0 && !item[1 - r]);
    received(item[r]);
    return r;
}

static void check(void)
{
    for (int i = 0; i < 2; i++) {
        MODEL_CHECK(chan[i]->inside == 0 && chan[i]->count == 0);
        MODEL_CHECK(chan[i]->senders.first == NULL && chan[i]->receivers.first == NULL);
    }
    for (int i = 0; i < 3; i++)
        model_check_idle(i);
    MODEL_CHECK(n_sent == n_received);
}

static void thread(int self)
{
    if (self > 0) {
        send(self - 1, self, FLOW_FOREVER);
        return;
    }
    MODEL_CHECK(receive_either(FLOW_FOREVER) >= 0);
    MODEL_CHECK(receive_either(FLOW_FOREVER) >= 0);
}

static void thread_two(int self)
{
    if (self < 2) {
        MODEL_CHECK(receive_either(FLOW_FOREVER) >= 0);
        return;
    }
    send(0, 1, FLOW_FOREVER);
    send(1, 2, FLOW_FOREVER);
}

static void check_both(void)
{
    check();
    model_all_taken_once(1, 2);
}

static void thread_cancel(int self)
{
    if (self == 0) {
        int r = receive_either(MODEL_SOON);

        MODEL_CHECK(r >= 0 || r == -ECANCELED || r == -ETIMEDOUT);
    } else if (self == 1) {
        send(0, 1, MODEL_SOON);
    } else {
        flow__cancel_block(&workers[2], &blocks[0], FLOW_CANCEL_ASKED);
    }
}

static void offer_or_receive(void)
{
    void *item = model_item(3), *got = NULL;
    struct flow_case cases[] = {
        {.kind = FLOW_CASE_SEND, .chan = chan[0], .from = &item},
        {.kind = FLOW_CASE_RECV, .chan = chan[1], .into = &got},
    };
    int r = flow_select(cases, 2, MODEL_SOON);

    MODEL_CHECK(r >= 0 || r == -ETIMEDOUT);
    MODEL_CHECK((got != NULL) == (r == 1));
    if (r == 0)
        fetch_add_relaxed(&n_sent, 1);
    if (got)
        received(got);
}

static void thread_send(int self)
{
    void *got = NULL;

    if (self == 0)
        offer_or_receive();
    else if (self == 1)
        send(1, 1, MODEL_SOON);
    else if (flow_chan_recv(chan[0], &got, MODEL_SOON) == 0)
        received(got);
}

/* ---- a channel, and something else ---- */

static struct flow_event event;
static int chosen;

static void set_up_event(void)
{
    setup();
    flow__event_of(&event)->word = FLOW__EVENT_AUTO;
}

static void receive_or(struct flow_case other)
{
    void *item = NULL;
    struct flow_case cases[] = {{.kind = FLOW_CASE_RECV, .chan = chan[0], .into = &item}, other};

    chosen = flow_select(cases, 2, FLOW_FOREVER);
    MODEL_CHECK(chosen == 0 || chosen == 1);
    MODEL_CHECK(cases[chosen].error == 0 && (item != NULL) == (chosen == 0));
    if (item)
        received(item);
}

static void thread_event(int self)
{
    struct flow__event *e = flow__event_of(&event);

    if (self == 1) {
        send(0, 1, MODEL_SOON);
    } else if (self == 2) {
        MODEL_CHECK(flow_event_set(&event) == 0);
    } else {
        receive_or((struct flow_case){.kind = FLOW_CASE_EVENT, .event = &event});
        /* Nobody else has waited. */
        MODEL_CHECK(!e->queue.first && !(load_relaxed(&e->word) & FLOW__EVENT_WAITERS));
    }
}

static void check_event(void)
{
    check();
    MODEL_CHECK(flow_event_is_set(&event) == (chosen == 0));
}

#define JOINED 42

static flow_result end(void *unused)
{
    (void)unused;
    return flow_ok(model_item(JOINED));
}

/* Thread 2 runs a task that is nobody's caller. */
static void set_up_join(void)
{
    setup();
    model_task(2, 3, end, NULL, 0);
    model_running[2] = NULL;
}

static void thread_join(int self)
{
    if (self == 1) {
        send(0, 1, MODEL_SOON);
    } else if (self == 2) {
        model_run(&blocks[3]);
    } else {
        flow_task task = {model_id(&blocks[3])};
        flow_result result = {0};

        receive_or((struct flow_case){.kind = FLOW_CASE_JOIN, .task = task, .result = &result});
        MODEL_CHECK((result.ptr == model_item(JOINED)) == (chosen == 1));
        MODEL_CHECK(flow_join(task, &result, FLOW_FOREVER) == (chosen == 0 ? 0 : -ESRCH));
        MODEL_CHECK(result.ptr == model_item(JOINED));
    }
}

static void check_join(void)
{
    check();
    MODEL_CHECK(model_times_free(&blocks[3], 3) == 1);
    MODEL_CHECK((uint32_t)blocks[3].life == FLOW__LIFE_FREE);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        {"select", 3, setup, thread, check_both, 2, 0, 0, 1},
        {"select_two", 3, setup, thread_two, check_both, 2, 0, 0, 1},
        {"select_cancel", 3, setup, thread_cancel, check, 2, 0, 0, 1},
        {"select_send", 3, setup, thread_send, check, 2, 0, 0, 1},
        {"select_event", 3, set_up_event, thread_event, check_event, 2, 0, 0, 1},
        {"select_join", 3, set_up_join, thread_join, check_join, 2, 0, 0, 1},
    };

    return model_main(argc, argv, models, sizeof models / sizeof models[0]);
}
