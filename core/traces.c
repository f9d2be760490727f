/* SPDX-License-Identifier: MIT
 *
 * See the header. A hash table of entries, whose addresses lie one after another in a pool. */
#include "core/traces.h"

#include "sync/syscall.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ENTRIES   8192 /* a power of two */
#define ADDRESSES (ENTRIES * 24)
#define IDS       4 /* shown of each entry */

struct entry {
    uint64_t hash, n;
    void *spawn_site;
    uint32_t first, depth; /* in the pool */
    uint16_t number;
    bool complete;
    uint64_t id[IDS];
};

struct flow__traces {
    uint32_t n_entries, n_addresses;
    struct flow__unwind_cache cache;
    struct flow__symbols symbols;
    struct entry entry[ENTRIES];
    uint16_t order[ENTRIES];
    uintptr_t address[ADDRESSES];
};

struct flow__traces *flow__traces_open(void)
{
    return flow__sys.map(sizeof(struct flow__traces), PROT_READ | PROT_WRITE, MAP_NORESERVE);
}

void flow__traces_close(struct flow__traces *traces)
{
    if (!traces)
        return;
    flow__symbols_close(&traces->symbols);
    flow__sys.unmap(traces, sizeof *traces);
}

struct flow__unwind_cache *flow__traces_cache(struct flow__traces *traces)
{
    return traces ? &traces->cache : NULL;
}

/* ---- adding ---- */

static uint64_t hash_of(const struct flow__snapshot *s)
{
    uint64_t hash = (uintptr_t)s->spawn_site + (uint64_t)s->trace.n;

    for (int i = 0; i < s->trace.n; i++)
        hash = (hash ^ s->trace.pc[i]) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 29;
}

static bool is_equal(const struct flow__traces *traces, const struct entry *e, uint64_t hash,
                     const struct flow__snapshot *s)
{
    return e->hash == hash && e->spawn_site == s->spawn_site && e->depth == (uint32_t)s->trace.n &&
           !memcmp(&traces->address[e->first], s->trace.pc, e->depth * sizeof(uintptr_t));
}

/* An empty place for it; NULL: no room. */
static struct entry *fill(struct flow__traces *traces, struct entry *e, uint64_t hash,
                          const struct flow__snapshot *s)
{
    uint32_t depth = (uint32_t)s->trace.n;

    if (traces->n_entries >= ENTRIES * 3 / 4 || depth > ADDRESSES - traces->n_addresses)
        return NULL;
    *e = (struct entry){.hash = hash,
                        .spawn_site = s->spawn_site,
                        .first = traces->n_addresses,
                        .depth = depth,
                        .complete = s->trace.complete};
    memcpy(&traces->address[e->first], s->trace.pc, depth * sizeof(uintptr_t));
    traces->n_addresses += depth;
    traces->order[traces->n_entries++] = (uint16_t)(e - traces->entry);
    e->number = (uint16_t)traces->n_entries;
    return e;
}

unsigned flow__traces_add(struct flow__traces *traces, const struct flow__snapshot *s)
{
    uint64_t hash = hash_of(s);
    uint32_t i = (uint32_t)hash & (ENTRIES - 1);
    struct entry *e;

    for (e = &traces->entry[i]; e->n && !is_equal(traces, e, hash, s); e = &traces->entry[i])
        i = (i + 1) & (ENTRIES - 1);
    if (!e->n)
        e = fill(traces, e, hash, s);
    if (!e)
        return 0;
    if (e->n < IDS)
        e->id[e->n] = s->id;
    e->n++;
    return e->number;
}

/* ---- printing ---- */

struct flow__symbols *flow__traces_symbols(struct flow__traces *traces)
{
    return &traces->symbols;
}

void flow__trace_print(const struct flow__backtrace *trace, uintptr_t interrupted_at,
                       struct flow__symbols *symbols, struct flow__text *out)
{
    for (int i = 0; i < trace->n; i++) {
        flow__text_add(out, "    ");
        flow__text_hex(out, trace->pc[i]);
        flow__text_add(out, " ");
        flow__symbol_add(symbols, out, trace->pc[i] - (i > 0 || trace->pc[i] != interrupted_at));
        flow__text_add(out, "\n");
    }
    if (!trace->complete)
        flow__text_add(out, "    ...\n");
}

static void print_ids(const struct entry *e, struct flow__text *out)
{
    for (uint64_t i = 0; i < e->n && i < IDS; i++) {
        flow__text_add(out, i ? ", " : ": ");
        flow__text_hex(out, e->id[i]);
    }
    flow__text_add(out, e->n > IDS ? ", ...\n" : "\n");
}

static void print_entry(struct flow__traces *traces, const struct entry *e, struct flow__text *out)
{
    struct flow__backtrace trace = {.n = (int)e->depth, .complete = e->complete || !e->depth};

    flow__text_add(out, "trace ");
    flow__text_number(out, e->number);
    flow__text_add(out, ": ");
    flow__text_number(out, e->n);
    flow__text_add(out, e->n == 1 ? " task, spawned at " : " tasks, spawned at ");
    flow__text_hex(out, (uintptr_t)e->spawn_site);
    flow__text_add(out, " ");
    flow__symbol_add(&traces->symbols, out, (uintptr_t)e->spawn_site - 1);
    print_ids(e, out);
    memcpy(trace.pc, &traces->address[e->first], e->depth * sizeof(uintptr_t));
    flow__trace_print(&trace, 0, &traces->symbols, out);
}

/* By a selection of the largest that is left: for few entries, or for a few of many, quick enough; and
 * qsort may allocate. */
void flow__traces_print(struct flow__traces *traces, struct flow__text *out)
{
    uint32_t n = traces->n_entries;

    for (uint32_t i = 0; i < n && !out->error; i++) {
        uint32_t most = i;
        uint16_t index;

        for (uint32_t k = i + 1; k < n; k++)
            if (traces->entry[traces->order[k]].n > traces->entry[traces->order[most]].n)
                most = k;
        index = traces->order[most];
        traces->order[most] = traces->order[i];
        traces->order[i] = index;
        print_entry(traces, &traces->entry[index], out);
    }
}
