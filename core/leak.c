/* SPDX-License-Identifier: MIT
 *
 * See the header. Tasks are told by the place where they were spawned and by their backtraces, as in a
 * dump; there is no line for each. */
#include "core/leak.h"

#include "core/traces.h"

#include <unistd.h>

enum kind { ALIVE, UNJOINED };

static char text[4096]; /* of the one thread that stops */

/* An ended task that keeps its block for a joiner: all that is left of it is where it came from. */
static bool look_at_unjoined(struct flow__task *t, struct flow__snapshot *s)
{
    uint64_t life = load_acquire(&t->life); /* [LIFE-5] */

    if (life == 0 || (life & (FLOW__LIFE_FREE | FLOW__LIFE_DETACHED)) ||
        !(life & FLOW__LIFE_FINISHED) || flow__has(t, FLOW__IS_THREAD))
        return false;
    s->id = flow__id_of(t, life);
    s->spawn_site = t->spawn_site;
    s->trace.n = 0;
    s->trace.complete = true;
    return true;
}

static uint64_t collect(enum kind kind, struct flow__traces *traces)
{
    uint64_t n = 0;

    for (struct flow__slots at = FLOW__ALL_SLOTS; flow__slots_next(&at);) {
        struct flow__task *t = &flow__registry.base[at.slot];
        struct flow__snapshot s;
        bool found;

        flow__reclaim_enter();
        found = kind == ALIVE ? flow__snapshot(t, flow__traces_cache(traces), &s)
                              : look_at_unjoined(t, &s);
        flow__reclaim_leave();
        n += found;
        if (found && traces)
            flow__traces_add(traces, &s);
    }
    return n;
}

static void report(enum kind kind, const char *what)
{
    struct flow__text out = {text, 0, sizeof text, STDERR_FILENO, 0};
    struct flow__traces *traces;
    uint64_t n;

    if (!flow__runtime.options.report_leaks)
        return;
    traces = flow__traces_open();
    n = collect(kind, traces);
    if (n) {
        flow__text_add(&out, "flowcoro: ");
        flow__text_number(&out, n);
        flow__text_add(&out, what);
        if (traces)
            flow__traces_print(traces, &out);
        flow__text_flush(&out);
    }
    flow__traces_close(traces);
}

void flow__leaks_at_begin(void)
{
    report(ALIVE, " tasks were alive when the runtime was stopped, and are cancelled:\n");
}

void flow__leaks_at_end(void)
{
    report(ALIVE, " tasks have not ended at the stop, and are lost with all they own:\n");
    report(UNJOINED, " tasks have ended and were never joined or detached:\n");
}
