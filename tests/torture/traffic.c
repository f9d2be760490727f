/* SPDX-License-Identifier: MIT
 *
 * What goes on beside the actors: the programs of tests/programs, one channel that everybody uses and
 * that is never empty for long, and tasks that take the CPU. */
#include "tests/torture/torture.h"

#include "tests/programs/watch.h"

#include <errno.h>

enum { CAPACITY = 64, HOT_TASKS = 12 };

flow_result torture_programs(void *seed)
{
    struct chance c = {(uintptr_t)seed};

    while (!atomic_load(&torture.ending)) {
        const struct program *program = &programs[roll_below(&c, (uint64_t)n_programs)];
        flow_task task;

        start_task(&c, &task, program->run, (void *)(uintptr_t)roll(&c));
        join_task(task);
    }
    return flow_ok(NULL);
}

/* ---- mail ---- */

static struct {
    pthread_mutex_t lock; /* keeps the channel while it is counted from outside */
    struct flow_chan *chan;
    atomic_ulong sent, received, queued; /* queued: found in channels that were closed */
} mail = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool somebody_has_read(void *unused)
{
    (void)unused;
    return flow_chan_count(mail.chan) < CAPACITY;
}

static bool there_is_mail(void *unused)
{
    (void)unused;
    return flow_chan_count(mail.chan) > 0;
}

/* Everybody sends as often as it receives, and waits without a deadline only where the other side
 * must come: so it does not end in a queue of senders or of receivers alone. */
static void use_mail(struct chance *c)
{
    uint64_t letter = roll(c);
    int r;

    r = flow_chan_try_send(mail.chan, &letter);
    if (r == -EAGAIN) {
        r = WATCHED("room in the mail", somebody_has_read, NULL,
                    flow_chan_send(mail.chan, &letter, flow_after(FLOW_MS(2))));
        EXPECT(r == 0 || r == -ETIMEDOUT);
    }
    if (r == 0)
        atomic_fetch_add(&mail.sent, 1);
    if (heads(c))
        EXPECT_EQ(flow_yield(), 0);
    r = WATCHED("mail", there_is_mail, NULL, flow_chan_recv(mail.chan, &letter, flow_after(FLOW_US(200))));
    EXPECT(r == 0 || r == -ETIMEDOUT);
    if (r == 0)
        atomic_fetch_add(&mail.received, 1);
}

flow_result torture_mail(void *seed)
{
    struct chance c = {(uintptr_t)seed};

    while (!atomic_load(&torture.ending)) {
        use_mail(&c);
        COUNT(operations);
    }
    return flow_ok(NULL);
}

void torture_mail_open(void)
{
    pthread_mutex_lock(&mail.lock);
    assert_int_equal(flow_chan_create(&mail.chan, sizeof(uint64_t), CAPACITY), 0);
    pthread_mutex_unlock(&mail.lock);
    for (uint64_t i = 0; i < CAPACITY / 2; i++) {
        assert_int_equal(flow_chan_try_send(mail.chan, &i), 0);
        atomic_fetch_add(&mail.sent, 1);
    }
}

static void count_letter(void *letter, void *unused)
{
    (void)letter, (void)unused;
    atomic_fetch_add(&mail.queued, 1);
}

void torture_mail_close(void)
{
    pthread_mutex_lock(&mail.lock);
    assert_int_equal(flow_chan_destroy(mail.chan, count_letter, NULL), 0);
    mail.chan = NULL;
    pthread_mutex_unlock(&mail.lock);
    assert_int_equal(atomic_load(&mail.sent), atomic_load(&mail.received) + atomic_load(&mail.queued));
}

void torture_mail_count(unsigned long *sent, unsigned long *received, unsigned long *queued)
{
    pthread_mutex_lock(&mail.lock);
    *received = atomic_load(&mail.received);
    *queued = atomic_load(&mail.queued) + (mail.chan ? flow_chan_count(mail.chan) : 0);
    *sent = atomic_load(&mail.sent);
    pthread_mutex_unlock(&mail.lock);
}

/* ---- CPU ---- */

static flow_result burn(void *until)
{
    while (flow_now() < *(flow_deadline *)until)
        ;
    return flow_ok(until);
}

flow_result torture_hot(void *seed)
{
    struct chance c = {(uintptr_t)seed};

    while (!atomic_load(&torture.ending)) {
        flow_deadline until[HOT_TASKS];
        flow_task tasks[HOT_TASKS];
        int n = 1 + (int)roll_below(&c, HOT_TASKS);

        for (int i = 0; i < n; i++) {
            until[i] = flow_after((int64_t)roll_below(&c, FLOW_US(60)));
            EXPECT_EQ(flow_spawn(&tasks[i], burn, &until[i]), 0);
        }
        while (n > 0)
            join_task(tasks[--n]);
        COUNT(operations);
        EXPECT_EQ(flow_sleep((int64_t)roll_below(&c, FLOW_US(300))), 0);
    }
    return flow_ok(NULL);
}
