/* SPDX-License-Identifier: MIT
 *
 * The list of all live tasks, with their backtraces: flow_dump, and what the monitor prints at a
 * signal. Walks the registry while tasks come and go; see core/snapshot.h for how one of them is
 * read. Workers are neither stopped nor held up: the read-side section, which keeps names from
 * being freed, is left after so many tasks that their lines fill half a buffer, and before anything is
 * written. Memory is mapped, not allocated, and where that fails a dump has no backtraces. */
#include "core/dump.h"

#include "core/traces.h"

#include <sys/mman.h>

#define LINE_BYTES  ((size_t)512)    /* none is longer */
#define SMALL_BYTES (2 * LINE_BYTES) /* on a coroutine's stack */
#define AHEAD       8                /* tasks whose stacks are fetched ahead */
#define MOST_PAGES  4096             /* asked about at once; the largest stack has 256 */

/* Which pages are there, of `slots` stacks in a row from `from` on. Asking is most of what a task
 * costs, so it is done for several: for twice as many as last time if most of these were wanted. */
struct pages {
    uintptr_t from;
    size_t bytes, slots, wanted;
    unsigned char resident[MOST_PAGES];
};

struct memory {
    char text[128 * LINE_BYTES];
    struct pages pages;
};

struct dump {
    struct flow__text out;
    struct pages *pages;         /* or NULL */
    struct flow__traces *traces; /* or NULL */
    int64_t now;
    int n;
};

/* ---- one line ---- */

static const char *const activities[] = {
    [FLOW__TASK_QUEUED] = "queued",   [FLOW__TASK_READY] = "ready",
    [FLOW__TASK_RUNNING] = "running", [FLOW__TASK_WAITING] = "waiting",
    [FLOW__TASK_ACTIVE] = "active",
};

static const struct {
    const char *name;
    bool has_object;
} reasons[] = {
    [FLOW__WHY_NOTHING] = {"-", false},          [FLOW__WHY_JOIN] = {"join", true},
    [FLOW__WHY_ALL] = {"when_all", true},        [FLOW__WHY_ANY] = {"when_any", false},
    [FLOW__WHY_SLEEP] = {"sleep", false},        [FLOW__WHY_WAKER] = {"waker", false},
    [FLOW__WHY_OFFLOAD] = {"offload", false},    [FLOW__WHY_SYNC] = {"sync", true},
    [FLOW__WHY_SCOPE] = {"scope", true},         [FLOW__WHY_MUTEX] = {"mutex", true},
    [FLOW__WHY_RWLOCK] = {"rwlock", true},       [FLOW__WHY_SEMAPHORE] = {"semaphore", true},
    [FLOW__WHY_CONDITION] = {"condition", true}, [FLOW__WHY_EVENT] = {"event", true},
    [FLOW__WHY_WAITGROUP] = {"waitgroup", true}, [FLOW__WHY_BARRIER] = {"barrier", true},
    [FLOW__WHY_SEND] = {"send", true},           [FLOW__WHY_RECV] = {"recv", true},
    [FLOW__WHY_SELECT] = {"select", false},
};

static void add_wait(struct dump *d, const struct flow__snapshot *s)
{
    struct flow__text *out = &d->out;

    flow__text_add(out, ", waits for ");
    flow__text_add(out, reasons[s->why].name);
    if (reasons[s->why].has_object) {
        flow__text_add(out, s->awaited ? " of " : " at ");
        flow__text_hex(out, s->awaited ? s->awaited : (uintptr_t)s->object);
    }
    flow__text_add(out, " since ");
    flow__text_span(out, d->now - s->since);
    if (s->deadline != FLOW_FOREVER) {
        flow__text_add(out, ", at most for another ");
        flow__text_span(out, s->deadline - d->now);
    }
}

static bool ask_about(struct pages *p, uintptr_t stack, size_t bytes)
{
    size_t page = flow__stacks.page_bytes, slots = p->slots;

    slots = 2 * p->wanted > slots ? 2 * slots : slots / 2;
    if (slots > MOST_PAGES / (bytes / page))
        slots = MOST_PAGES / (bytes / page);
    if (slots < 1)
        slots = 1;
    p->slots = slots;
    p->from = stack;
    p->bytes = slots * bytes;
    p->wanted = 0;
    if (!mincore((void *)stack, p->bytes, p->resident))
        return true;
    p->bytes = 0; /* the end of the mapping, perhaps; then one by one */
    p->slots = 1;
    return !mincore((void *)stack, bytes, p->resident);
}

/* How much of a stack the system has given memory for: what was ever touched, and not trimmed. */
static size_t touched_bytes(struct pages *p, const struct flow__snapshot *s)
{
    uintptr_t stack = (uintptr_t)s->stack;
    size_t page = flow__stacks.page_bytes, bytes = flow__stack_bytes(s->stack_class), n = 0;
    const unsigned char *resident = p->resident;

    if (stack - p->from >= p->bytes || p->bytes - (stack - p->from) < bytes) {
        if (!ask_about(p, stack, bytes))
            return 0;
    } else {
        resident += (stack - p->from) / page;
    }
    p->wanted++;
    for (size_t i = 1; i < bytes / page; i++) /* without the guard page */
        n += resident[i] & 1;
    return n * page;
}

static void add_stack(struct dump *d, const struct flow__snapshot *s)
{
    struct flow__text *out = &d->out;

    flow__text_add(out, ", stack ");
    flow__text_number(out, flow__stack_bytes(s->stack_class) / 1024);
    flow__text_add(out, " KiB");
    if (!s->stack)
        return;
    if (d->pages) {
        flow__text_add(out, ", ");
        flow__text_number(out, touched_bytes(d->pages, s) / 1024);
        flow__text_add(out, " KiB touched");
    }
    if (s->stack_in_use) {
        flow__text_add(out, ", ");
        flow__text_number(out, s->stack_in_use);
        flow__text_add(out, " B in use");
    }
}

static void add_line(struct dump *d, const struct flow__snapshot *s)
{
    struct flow__text *out = &d->out;
    unsigned trace;

    flow__text_add(out, "task ");
    flow__text_hex(out, s->id);
    flow__text_add(out, " ");
    flow__text_name(out, s->name);
    flow__text_add(out, " ");
    flow__text_add(out, activities[s->activity]);
    if (s->cancelled)
        flow__text_add(out, ", cancelled");
    if (s->activity == FLOW__TASK_WAITING)
        add_wait(d, s);
    if (s->worker >= 0) {
        flow__text_add(out, ", worker ");
        flow__text_number(out, (uint64_t)s->worker);
        flow__text_add(out, ", node ");
        flow__text_number(out, (uint64_t)s->node);
    }
    if (s->mutex) {
        flow__text_add(out, ", holds mutex ");
        flow__text_hex(out, (uintptr_t)s->mutex);
    }
    add_stack(d, s);
    flow__text_add(out, ", spawned at ");
    flow__text_hex(out, (uintptr_t)s->spawn_site);
    trace = d->traces ? flow__traces_add(d->traces, s) : 0;
    if (trace) {
        flow__text_add(out, ", trace ");
        flow__text_number(out, trace);
    }
    flow__text_add(out, "\n");
}

/* ---- the walk ---- */

/* Their memory is far apart, and each is looked at for a moment only. Only in the region; where it
 * points to rubbish nothing happens. */
static flow__unsanitized void fetch_ahead(const struct flow__slots *at)
{
    const struct flow__task *t = &flow__registry.base[at->slot + AHEAD];

    if (at->slot + AHEAD >= at->end)
        return;
    __builtin_prefetch(t->strand.context.sp);
    __builtin_prefetch((const char *)t->strand.context.sp + FLOW__CACHE_LINE);
}

/* False: that was the last one. */
static bool dump_batch(struct dump *d, struct flow__slots *at)
{
    struct flow__snapshot s;
    size_t n = d->out.capacity / LINE_BYTES / 2;

    for (size_t i = 0; i < n; i++) {
        if (!flow__slots_next(at))
            return false;
        fetch_ahead(at);
        if (flow__snapshot(&flow__registry.base[at->slot], flow__traces_cache(d->traces), &s)) {
            add_line(d, &s);
            d->n++;
        }
    }
    return true;
}

static void dump_all(struct dump *d)
{
    struct flow__slots at = FLOW__ALL_SLOTS;
    bool more = true;

    while (more && !d->out.error) {
        flow__reclaim_enter();
        d->now = flow__sys.now();
        more = dump_batch(d, &at);
        flow__reclaim_leave();
        if (d->out.n > d->out.capacity / 2)
            flow__text_flush(&d->out);
    }
    flow__text_number(&d->out, (uint64_t)d->n);
    flow__text_add(&d->out, " tasks on ");
    flow__text_number(&d->out, (uint64_t)flow__runtime.n_workers);
    flow__text_add(&d->out, " workers\n");
    if (d->traces)
        flow__traces_print(d->traces, &d->out);
    flow__text_flush(&d->out);
}

int flow__dump(int fd)
{
    char small[SMALL_BYTES];
    struct memory *large = flow__sys.map(sizeof *large, PROT_READ | PROT_WRITE, 0);
    struct dump d = {.out = {small, 0, SMALL_BYTES, fd, 0}, .traces = flow__traces_open()};

    if (large) {
        d.out = (struct flow__text){large->text, 0, sizeof large->text, fd, 0};
        d.pages = &large->pages;
    }
    dump_all(&d);
    flow__traces_close(d.traces);
    if (large)
        flow__sys.unmap(large, sizeof *large);
    return d.out.error ? d.out.error : d.n;
}

/* The runtime stays while foreign_waiting says so: as in block_thread(). */
static int dump_from_thread(int fd)
{
    struct flow__runtime *rt = &flow__runtime;
    int r = flow__foreign_enter();

    if (r)
        return r;
    fetch_add_seq(&rt->foreign_waiting, 1);
    r = load_seq(&rt->workers_end) ? -ESHUTDOWN : 0;
    flow__foreign_leave();
    if (!r)
        r = flow__dump(fd);
    if (fetch_sub_seq(&rt->foreign_waiting, 1) == 1)
        flow__tell_quiet();
    return r;
}

int flow_dump(int fd)
{
    return flow__self() ? flow__dump(fd) : dump_from_thread(fd);
}
