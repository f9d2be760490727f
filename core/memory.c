/* SPDX-License-Identifier: MIT
 *
 * The public side of node memory: getting some, and asking where the runtime's own lies. Any
 * thread; owns nothing. The walk over all tasks is that of flow_dump: blocks and stacks are never
 * unmapped while the runtime lives, so a task that ends meanwhile at worst adds some pages. */
#include "core/arena.h"
#include "core/worker.h"
#include "numa/node_memory.h"

#include <flowcoro/memory.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

int flow_alloc_on_node(void **p, size_t bytes, int node)
{
    void *start;

    if (!p || bytes == 0 || node < -1 || node >= flow__arena_nodes())
        return -EINVAL;
    start = flow__arena_map(bytes, node, 0);
    if (!start)
        return -ENOMEM;
    *p = start;
    return 0;
}

int flow_free_on_node(void *p, size_t bytes)
{
    if (!p)
        return 0;
    if (bytes == 0 || (uintptr_t)p % (size_t)sysconf(_SC_PAGESIZE))
        return -EINVAL;
    flow__arena_unmap(p, bytes);
    return 0;
}

/* ---- where it lies ---- */

enum kind { STACKS, BLOCKS, WORKERS };

#define ASKED 64 /* pages at once; small enough for a small coroutine's stack */

struct question {
    struct flow_memory_report *report;
    size_t room; /* in report->nodes */
    size_t page_bytes;
    int error;
    int n;
    void *page[ASKED];
    int answer[ASKED];
    int16_t node[ASKED]; /* whose it should be */
    uint8_t kind[ASKED];
};

static void count(struct flow_memory_node *to, enum kind kind, bool local)
{
    struct flow_memory_pages *p = kind == STACKS   ? &to->stacks
                                  : kind == BLOCKS ? &to->blocks
                                                   : &to->workers;

    p->pages++;
    p->local += local;
}

static void ask(struct question *q)
{
    const struct flow__topology *topology = &flow__runtime.topology;

    if (q->n && !q->error)
        q->error = flow__page_node_ids(q->page, (size_t)q->n, q->answer);
    for (int i = 0; i < q->n && !q->error; i++) {
        int memory_node = topology->nodes[q->node[i]].memory_node;
        bool local = q->answer[i] == topology->nodes[memory_node].node_id;

        if (q->answer[i] < 0) /* never touched */
            continue;
        count(&q->report->total, q->kind[i], local);
        if ((size_t)q->node[i] < q->room)
            count(&q->report->nodes[q->node[i]], q->kind[i], local);
    }
    q->n = 0;
}

/* All pages that lie in this memory, were it by a byte. */
static void add(struct question *q, enum kind kind, int node, const void *start, size_t bytes)
{
    uintptr_t page = (uintptr_t)start & ~(q->page_bytes - 1);

    for (; page < (uintptr_t)start + bytes; page += q->page_bytes) {
        if (q->n == ASKED)
            ask(q);
        q->page[q->n] = (void *)page;
        q->node[q->n] = (int16_t)node;
        q->kind[q->n++] = (uint8_t)kind;
    }
}

/* Reads what the task's worker may be writing: its stack may be another task's by now, and the
 * worker is looked up by number, since the field of a free block holds something else. */
static flow__unsanitized void add_stack(struct question *q, struct flow__task *t)
{
    struct flow__runtime *rt = &flow__runtime;
    char *slot = t->stack;
    size_t worker = ((uintptr_t)t->home - (uintptr_t)rt->workers) / sizeof *rt->workers;
    int class_index;

    if (!slot || worker >= (size_t)rt->n_places ||
        !flow__stack_slot_of((uintptr_t)slot, &class_index))
        return;
    add(q, STACKS, rt->workers[worker].node, slot + q->page_bytes,
        flow__stack_bytes(class_index) - q->page_bytes);
}

static bool is_live(struct flow__task *t)
{
    uint64_t life = load_acquire(&t->life);

    return life != 0 && !(life & FLOW__LIFE_FREE);
}

/* Blocks come in order, so a page is the last one's or new. */
static void add_tasks(struct question *q)
{
    uintptr_t last = 0;

    for (struct flow__slots at = FLOW__ALL_SLOTS; flow__slots_next(&at) && !q->error;) {
        struct flow__task *t = &flow__registry.base[at.slot];
        uintptr_t page = (uintptr_t)t & ~(q->page_bytes - 1);

        if (!is_live(t))
            continue;
        if (page != last)
            add(q, BLOCKS, at.node, t, 1);
        last = page;
        add_stack(q, t);
    }
}

static int check(struct flow_memory_report *report)
{
    struct flow__runtime *rt = &flow__runtime;
    size_t n_nodes = (size_t)rt->topology.n_nodes;
    struct question q = {.report = report, .page_bytes = flow__stacks.page_bytes};

    q.room = !report->nodes ? 0 : report->n_nodes < n_nodes ? report->n_nodes : n_nodes;
    for (size_t i = 0; i < q.room; i++)
        report->nodes[i] = (struct flow_memory_node){0};
    report->total = (struct flow_memory_node){0};
    report->n_nodes = n_nodes;
    for (int i = 0; i < rt->n_places; i++)
        add(&q, WORKERS, rt->workers[i].node, &rt->workers[i], sizeof rt->workers[i]);
    add_tasks(&q);
    ask(&q);
    return q.error;
}

int flow_memory_check(struct flow_memory_report *report)
{
    bool inside = flow__self() != NULL;
    int r;

    if (!report || report->size != sizeof *report)
        return -EINVAL;
    if (!inside && (r = flow__foreign_enter()))
        return r;
    r = check(report);
    if (!inside)
        flow__foreign_leave();
    return r;
}
