/* SPDX-License-Identifier: MIT
 *
 * A list of all live tasks. Walks the registry while tasks come and go: a block is
 * type-stable, so a task that ends meanwhile at worst gives a line of two halves; a
 * name is kept by the RCU section. Text is collected and written in pieces. */
#include "core/worker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct output {
    int fd, error;
    size_t n;
    char text[3072]; /* fits a small coroutine's stack */
};

static void flush(struct output *o)
{
    size_t done = 0;

    while (done < o->n && !o->error) {
        ssize_t n = write(o->fd, o->text + done, o->n - done);

        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR)
            o->error = -errno;
    }
    o->n = 0;
}

static flow__unsanitized const char *state_of(struct flow__task *t)
{
    unsigned wait = load_relaxed(&t->wait) & FLOW__WAIT_STATE;

    if (!t->stack)
        return "queued";
    return wait == FLOW__WAIT_ARMED || wait == FLOW__WAIT_SHIELDED ? "waiting" : "active";
}

static const char *reason_of(struct flow__task *t)
{
    static const char *const text[] = {
        [FLOW__WHY_NOTHING] = "-",           [FLOW__WHY_JOIN] = "join",
        [FLOW__WHY_ALL] = "when_all",        [FLOW__WHY_ANY] = "when_any",
        [FLOW__WHY_SLEEP] = "sleep",         [FLOW__WHY_WAKER] = "waker",
        [FLOW__WHY_OFFLOAD] = "offload",     [FLOW__WHY_SYNC] = "sync",
        [FLOW__WHY_SCOPE] = "scope",         [FLOW__WHY_MUTEX] = "mutex",
        [FLOW__WHY_RWLOCK] = "rwlock",       [FLOW__WHY_SEMAPHORE] = "semaphore",
        [FLOW__WHY_CONDITION] = "condition", [FLOW__WHY_EVENT] = "event",
        [FLOW__WHY_WAITGROUP] = "waitgroup", [FLOW__WHY_BARRIER] = "barrier",
        [FLOW__WHY_SEND] = "send",           [FLOW__WHY_RECV] = "recv",
        [FLOW__WHY_SELECT] = "select",
    };

    return text[load_relaxed(&t->why)];
}

/* The field of a free block holds something else, and a block may become free just now. */
static bool is_worker(const struct flow__worker *w)
{
    const struct flow__worker *first = flow__runtime.workers;

    return w >= first && w < first + flow__runtime.n_places;
}

/* Reads what the task's worker may be writing: a line may be a moment out of date. */
static flow__unsanitized void describe(struct output *o, struct flow__task *t, uint64_t life,
                                       struct flow__detail *detail)
{
    struct flow__worker *home = t->home;
    int n;

    if (sizeof o->text - o->n < 256)
        flush(o);
    n = snprintf(o->text + o->n, sizeof o->text - o->n,
                 "task %#llx \"%s\" %s%s, waits for %s, worker %d, stack %zu KiB, spawned at %p\n",
                 (unsigned long long)flow__id_of(t, life), detail ? detail->name : "", state_of(t),
                 flow__is_cancelled(t) ? ", cancelled" : "", reason_of(t),
                 is_worker(home) && t->stack ? home->index : -1,
                 flow__stack_bytes(t->stack_class) / 1024, t->spawn_site);
    o->n += (size_t)n;
}

static int dump(struct output *o)
{
    int n = 0;

    for (struct flow__slots at = FLOW__ALL_SLOTS; flow__slots_next(&at) && !o->error;) {
        struct flow__task *t = &flow__registry.base[at.slot];
        uint64_t life = load_acquire(&t->life);

        if (life == 0 || (life & (FLOW__LIFE_FREE | FLOW__LIFE_FINISHED)) ||
            flow__has(t, FLOW__IS_THREAD))
            continue;
        /* [NAME-2] acquire: pairs with [NAME-1]. */
        describe(o, t, life, load_acquire(&t->detail));
        n++;
    }
    if (sizeof o->text - o->n < 256)
        flush(o);
    o->n += (size_t)snprintf(o->text + o->n, sizeof o->text - o->n, "%d tasks on %d workers\n", n,
                             flow__runtime.n_workers);
    flush(o);
    return o->error ? o->error : n;
}

int flow_dump(int fd)
{
    struct output o = {.fd = fd};
    struct flow__task *self = flow__self();
    int r = 0;

    if (self)
        flow__reclaim_enter();
    else if ((r = flow__foreign_enter()))
        return r;
    r = dump(&o);
    flow__reclaim_leave();
    return r;
}
