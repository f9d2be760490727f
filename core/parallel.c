/* SPDX-License-Identifier: MIT
 *
 * Parallel loops: a range is halved, the right half forked, the left one done by the same rule. So a
 * thief, who takes the oldest job, takes the largest piece there is.
 *
 * The result is that of a plain loop: a right half counts only if the left one did well, and when the
 * left one fails the right one is dropped, or cancelled where somebody has it. Runs in the caller's
 * coroutine and in those that its jobs become; nothing is shared between two halves.
 *
 * On several nodes the range is first parted among the groups in the same manner, the right part as
 * a task for the other groups' workers. */
#include "core/ambient.h"
#include "core/group.h"
#include "core/job.h"

#include <flowcoro/parallel.h>

#include <errno.h>
#include <string.h>

#define PIECES_PER_WORKER    8
#define PIECES_DETERMINISTIC 1024

struct loop {
    struct flow_reduction how;
    int64_t grain;
    int home_group; /* of the caller: its part comes first */
};

/* A part of the range, and the n_groups groups from `group` on, counted from the caller's, that it is
 * for. */
struct part {
    const struct loop *loop;
    int64_t begin, end;
    int group, n_groups;
};

struct right_part {
    struct flow_job job;
    struct part part;
    _Alignas(16) char value[];
};

static uint64_t length(int64_t begin, int64_t end)
{
    return (uint64_t)end - (uint64_t)begin;
}

static struct flow__group *group_at(const struct loop *loop, int place)
{
    return &flow__runtime.groups[(loop->home_group + place) % flow__runtime.n_groups];
}

/* Where the right part of p begins: in the middle, or so that each group gets its share. */
static int64_t middle_of(const struct part *p, int left_groups)
{
    uint64_t n = length(p->begin, p->end);
    uint64_t left = 0, all = 0;

    if (p->n_groups < 2 || p->loop->how.deterministic)
        return p->begin + (int64_t)(n / 2);
    for (int i = 0; i < p->n_groups; i++) {
        uint64_t workers = (uint64_t)group_at(p->loop, p->group + i)->n_workers;

        all += workers;
        left += i < left_groups ? workers : 0;
    }
    return p->begin + (int64_t)((unsigned __int128)n * left / all);
}

static int run_part(const struct part *p, void *value);

static flow_result run_right(void *arg)
{
    struct right_part *right = arg;
    const struct flow_reduction *how = &right->part.loop->how;
    int r;

    if (how->bytes)
        memcpy(right->value, how->identity, how->bytes);
    r = run_part(&right->part, right->value);
    return r ? flow_err(r) : flow_ok(NULL);
}

/* A part that begins with another group's goes into that group's queue. */
static void fork_right(struct right_part *right)
{
    const struct part *p = &right->part;

    if (p->n_groups > 0)
        flow__fork_to(&right->job, group_at(p->loop, p->group), run_right, right);
    else
        flow_fork(&right->job, run_right, right);
}

static int finish_right(struct right_part *right, void *value)
{
    const struct flow_reduction *how = &right->part.loop->how;
    flow_result r;

    /* Nobody else has it: fold on, where the order in which values are made does not matter. */
    if (!how->deterministic && flow__take_job_back(&right->job))
        return run_part(&right->part, value);
    r = how->deterministic ? flow_sync(&right->job) : flow__await_job(&right->job);
    if (r.error)
        return r.error;
    if (how->bytes)
        how->combine(value, right->value, how->arg);
    return 0;
}

static int run_piece(const struct part *p, void *value)
{
    struct flow__task *self = flow__self();
    const struct flow_reduction *how = &p->loop->how;

    if (p->begin == p->end)
        return 0;
    if (self && flow__must_leave(self))
        return -ECANCELED;
    return how->fold(p->begin, p->end, value, how->arg);
}

/* Adds the part to *value. */
static int run_part(const struct part *p, void *value)
{
    const struct loop *loop = p->loop;
    struct part left = *p;
    struct right_part *right;
    int r;

    if (length(p->begin, p->end) <= (uint64_t)loop->grain)
        return run_piece(p, value);
    right = __builtin_alloca(sizeof *right + loop->how.bytes);
    left.n_groups = p->n_groups / 2;
    left.end = middle_of(p, left.n_groups);
    right->part = (struct part){loop, left.end, p->end, p->group + left.n_groups,
                                p->n_groups - left.n_groups};
    if (p->n_groups < 2)
        left.n_groups = right->part.n_groups = 0;
    fork_right(right);
    r = run_part(&left, value);
    if (r) {
        flow__drop_job(&right->job);
        return r;
    }
    return finish_right(right, value);
}

/* ---- the two calls ---- */

/* At most so many pieces. */
static int64_t grain_for(uint64_t n, uint64_t pieces)
{
    uint64_t grain = n / pieces + (n % pieces != 0);

    return grain == 0 ? 1 : grain > INT64_MAX ? INT64_MAX : (int64_t)grain;
}

static int run_loop(struct loop *loop, int64_t begin, int64_t end, int64_t grain, void *value)
{
    struct flow__task *self = flow__self();
    uint64_t pieces = PIECES_DETERMINISTIC;
    struct part all = {loop, begin, end, 0, 0};

    if (end < begin || grain < 0)
        return -EINVAL;
    /* A part that was taken could not be waited for. */
    if (self && flow__reclaim_inside())
        return -EDEADLK;
    if (!loop->how.deterministic)
        pieces = PIECES_PER_WORKER * (self ? (uint64_t)flow__runtime.n_places : 1);
    loop->grain = grain ? grain : grain_for(length(begin, end), pieces);
    if (self) {
        loop->home_group = (int)(self->home->group - flow__runtime.groups);
        all.n_groups = flow__runtime.n_groups;
    }
    return run_part(&all, value);
}

struct for_each {
    flow_range_fn fn;
    void *arg;
};

static int fold_nothing(int64_t begin, int64_t end, void *value, void *arg)
{
    const struct for_each *each = arg;

    (void)value;
    return each->fn(begin, end, each->arg);
}

int flow_parallel_for(int64_t begin, int64_t end, int64_t grain, flow_range_fn fn, void *arg)
{
    struct for_each each = {fn, arg};
    struct loop loop = {.how = {.fold = fold_nothing, .arg = &each}};

    return fn ? run_loop(&loop, begin, end, grain, NULL) : -EINVAL;
}

int flow_parallel_reduce(int64_t begin, int64_t end, int64_t grain,
                         const struct flow_reduction *how, void *value)
{
    struct loop loop;

    if (!how || how->size != sizeof *how || !value || !how->identity || !how->fold ||
        !how->combine || how->bytes == 0 || how->bytes > FLOW_REDUCTION_BYTES)
        return -EINVAL;
    loop = (struct loop){.how = *how};
    memcpy(value, how->identity, how->bytes);
    return run_loop(&loop, begin, end, grain, value);
}
