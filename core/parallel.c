/* SPDX-License-Identifier: MIT
 *
 * Parallel loops: a range is halved, the right half forked, the left one done by the same rule. So a
 * thief, who takes the oldest job, takes the largest piece there is.
 *
 * The result is that of a plain loop: a right half counts only if the left one did well, and when the
 * left one fails the right one is dropped, or cancelled where somebody has it. Runs in the caller's
 * coroutine and in those that its jobs become; nothing is shared between two halves. A right half that
 * nobody has taken is done in the frame that has forked it, and after some levels single pieces are cut off
 * instead of halves: this bounds the stack.
 *
 * On several nodes the range is first parted among the groups in the same manner, the right part as
 * a share of the other groups (core/job.h). */
#include "core/ambient.h"
#include "core/group.h"
#include "core/job.h"

#include <flowcoro/parallel.h>

#include <errno.h>
#include <string.h>

#define PIECES_PER_WORKER    8
#define LEVELS               10 /* of halving: as many frames are on one stack, and one */
#define PIECES_DETERMINISTIC (1 << LEVELS)

struct loop {
    struct flow_reduction how;
    int64_t grain;
    int home_group; /* of the caller: its part comes first */
};

/* A part of the range, and the n_groups groups from `group` on, counted from the caller's, that it is
 * for; it may be halved `levels` times. */
struct part {
    const struct loop *loop;
    int64_t begin, end;
    int group, n_groups, levels;
};

struct right_part {
    struct flow__share share;
    struct part part;
    _Alignas(16) char value[];
};

static uint64_t length(int64_t begin, int64_t end)
{
    return (uint64_t)end - (uint64_t)begin;
}

/* n may be more than an int64_t holds. */
static int64_t advance(int64_t begin, uint64_t n)
{
    return (int64_t)((uint64_t)begin + n);
}

static int64_t end_of_piece(const struct loop *loop, int64_t begin, int64_t end)
{
    return length(begin, end) > (uint64_t)loop->grain ? begin + loop->grain : end;
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
        return advance(p->begin, n / 2);
    for (int i = 0; i < p->n_groups; i++) {
        uint64_t workers = (uint64_t)group_at(p->loop, p->group + i)->n_workers;

        all += workers;
        left += i < left_groups ? workers : 0;
    }
    return advance(p->begin, (uint64_t)((unsigned __int128)n * left / all));
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

/* A part that begins with another group's is offered to that group. */
static void fork_right(struct right_part *right)
{
    const struct part *p = &right->part;

    if (p->n_groups > 0)
        flow__fork_share(&right->share, group_at(p->loop, p->group), run_right, right);
    else
        flow_fork(&right->share.job, run_right, right);
}

/* False: somebody else has it. It cannot be left then, for it runs in our frame. */
static bool take_back(struct right_part *right)
{
    if (flow__take_job_back(&right->share.job))
        return true;
    if (flow__self() && flow__reclaim_inside())
        flow__die("a piece of a parallel loop has not left its RCU read-side section");
    return false;
}

static int add_right(struct right_part *right, flow_result r, void *value)
{
    const struct flow_reduction *how = &right->part.loop->how;

    if (!r.error && how->bytes)
        how->combine(value, right->value, how->arg);
    return r.error;
}

static int run_piece(const struct loop *loop, int64_t begin, int64_t end, void *value)
{
    struct flow__task *self = flow__self();

    if (self && flow__must_leave(self))
        return -ECANCELED;
    return loop->how.fold(begin, end, value, loop->how.arg);
}

/* What is not parted any more: one piece, or none; several after the last level of a deterministic loop. */
static int run_pieces(const struct part *p, void *value)
{
    const struct loop *loop = p->loop;
    int64_t begin = p->begin, end;
    int r = 0;

    for (; !r && begin != p->end; begin = end) {
        end = end_of_piece(loop, begin, p->end);
        r = run_piece(loop, begin, end, value);
    }
    return r;
}

static bool is_to_be_parted(const struct part *p)
{
    return length(p->begin, p->end) > (uint64_t)p->loop->grain &&
           (p->levels > 0 || !p->loop->how.deterministic);
}

/* Halves *p; after the last level only a piece is cut off, which needs no frame like ours. p may be
 * `right`. */
static void part(const struct part *p, struct part *left, struct part *right)
{
    *left = *p;
    left->n_groups = p->n_groups / 2;
    left->levels = p->levels > 0 ? p->levels - 1 : 0;
    left->end = p->levels > 0 ? middle_of(p, left->n_groups) : end_of_piece(p->loop, p->begin, p->end);
    *right = (struct part){p->loop,
                           left->end,
                           p->end,
                           p->group + left->n_groups,
                           p->n_groups - left->n_groups,
                           left->levels};
    if (left->n_groups == 0)
        right->n_groups = 0;
}

/* Adds the part to *value. */
static int run_part(const struct part *p, void *value)
{
    const struct flow_reduction *how = &p->loop->how;
    struct right_part *right;
    struct part left;
    int r;

    if (!is_to_be_parted(p))
        return run_pieces(p, value);
    right = __builtin_alloca(sizeof *right + how->bytes);
    do {
        part(p, &left, &right->part);
        fork_right(right);
        r = run_part(&left, value);
        if (r) {
            if (!take_back(right))
                flow__drop_job(&right->share.job);
            return r;
        }
        if (!take_back(right))
            return add_right(right, flow__await_job(&right->share.job), value);
        if (how->deterministic)
            return add_right(right, run_right(right), value);
        /* Nobody else has it, and the order in which values are made does not matter: fold on. */
        p = &right->part;
    } while (is_to_be_parted(p));
    return run_pieces(p, value);
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
    struct part all = {loop, begin, end, 0, 0, LEVELS};

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
    void *identity;

    if (!how || how->size != sizeof *how || !value || !how->identity || !how->fold ||
        !how->combine || how->bytes == 0 || how->bytes > FLOW_REDUCTION_BYTES)
        return -EINVAL;
    /* Read once: `value` may be the same variable. */
    identity = __builtin_alloca(how->bytes);
    memcpy(identity, how->identity, how->bytes);
    loop = (struct loop){.how = *how};
    loop.how.identity = identity;
    memcpy(value, identity, how->bytes);
    return run_loop(&loop, begin, end, grain, value);
}
