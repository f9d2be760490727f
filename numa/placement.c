/* SPDX-License-Identifier: MIT
 *
 * Seats for workers and their orders of victims; the rules stand in placement.h.
 *
 * A worker's row is a counting sort of the others by nearness, which is stable, so
 * that each tier comes out by rising number; then each tier is turned. All
 * whom the sort put before a tier, and the worker itself, see that tier as equally far; they
 * are the neighbourhood whose starting points are spread over it. n workers cost n * n steps
 * once: 20 ms for 2,048.
 *
 * Runs on the thread that starts the runtime, but for flow__pin_thread. */
#include "numa/placement.h"

#include <errno.h>
#include <numa.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum {
    SAME_CORE,
    SAME_L3,
    SAME_NODE,
    OTHER_NODE, /* plus the distance, at most 255 */
    N_TIERS = OTHER_NODE + 256,
};

struct seat {
    int turn; /* how many CPUs of the same core come before */
    int node;
    int cpu; /* index into the topology's cpus */
};

static int by_turn(const void *a, const void *b)
{
    const struct seat *x = a, *y = b;

    if (x->turn != y->turn)
        return x->turn - y->turn;
    return x->node != y->node ? x->node - y->node : x->cpu - y->cpu;
}

static int by_node(const void *a, const void *b)
{
    const struct seat *x = a, *y = b;

    return x->node != y->node ? x->node - y->node : x->cpu - y->cpu;
}

static int turn_of(const struct flow__topology *topology, int cpu, int *used)
{
    int first = flow__topology_find_cpu(topology, topology->cpus[cpu].core);

    /* The core's first CPU may be forbidden to us; the lowest of its CPUs that is ours stands in. */
    for (int i = 0; first < 0 && i <= cpu; i++)
        if (topology->cpus[i].core == topology->cpus[cpu].core)
            first = i;
    return used[first]++;
}

/* All CPUs in the order in which they are given away. */
static struct seat *rank_cpus(const struct flow__topology *topology)
{
    size_t n = (size_t)topology->n_cpus;
    struct seat *seats = calloc(n, sizeof *seats);
    int *used = calloc(n, sizeof *used);

    if (!seats || !used) {
        free(seats);
        free(used);
        return NULL;
    }
    for (int i = 0; i < topology->n_cpus; i++)
        seats[i] = (struct seat){turn_of(topology, i, used), topology->cpus[i].node, i};
    free(used);
    qsort(seats, n, sizeof *seats, by_turn);
    return seats;
}

static bool has_seats(const struct flow__topology *topology, const struct flow__seating *seating,
                      int node)
{
    bool named = !seating->nodes || (node < 64 && seating->nodes >> node & 1);

    return named && topology->nodes[node].n_cpus > seating->leave_cpus;
}

int flow__seats(const struct flow__topology *topology, const struct flow__seating *seating,
                int *n_nodes)
{
    int n = 0;

    *n_nodes = 0;
    for (int node = 0; node < topology->n_nodes; node++)
        if (has_seats(topology, seating, node)) {
            n += topology->nodes[node].n_cpus - seating->leave_cpus;
            ++*n_nodes;
        }
    return n;
}

/* Keeps the CPUs that may have a worker, in their order. Returns how many, or -ENOMEM. */
static int drop_the_others(struct seat *ranked, const struct flow__topology *topology,
                           const struct flow__seating *seating)
{
    int *kept_of = calloc((size_t)topology->n_nodes, sizeof *kept_of);
    int kept = 0;

    if (!kept_of)
        return -ENOMEM;
    for (int i = 0; i < topology->n_cpus; i++) {
        int node = ranked[i].node;

        if (has_seats(topology, seating, node) &&
            kept_of[node]++ < topology->nodes[node].n_cpus - seating->leave_cpus)
            ranked[kept++] = ranked[i];
    }
    free(kept_of);
    return kept;
}

static void fill_in_turn(struct seat *seats, int n, const struct seat *ranked, int n_ranked)
{
    for (int i = 0; i < n; i++)
        seats[i] = ranked[i % n_ranked];
}

/* per_node of a node that has some; n is per_node for each of these. */
static void fill_each_node(struct seat *seats, int n, const struct seat *ranked, int n_ranked,
                           int per_node)
{
    for (int node = 0; n > 0; node++) {
        int given = 0, before = -1;

        while (given < per_node && given != before) {
            before = given;
            for (int i = 0; i < n_ranked && given < per_node; i++)
                if (ranked[i].node == node)
                    seats[given++] = ranked[i];
        }
        seats += given;
        n -= given;
    }
}

/* One CPU per worker, workers numbered by node. */
static int seat_workers(struct seat *seats, int n, const struct flow__topology *topology,
                        const struct flow__seating *seating)
{
    struct seat *ranked = rank_cpus(topology);
    int n_ranked = ranked ? drop_the_others(ranked, topology, seating) : -ENOMEM;

    if (n_ranked > 0 && seating->per_node)
        fill_each_node(seats, n, ranked, n_ranked, seating->per_node);
    else if (n_ranked > 0)
        fill_in_turn(seats, n, ranked, n_ranked);
    free(ranked);
    if (n_ranked > 0)
        qsort(seats, (size_t)n, sizeof *seats, by_node);
    return n_ranked < 0 ? n_ranked : 0;
}

static int nearness(const struct flow__topology *topology, const struct seat *thief,
                    const struct seat *victim)
{
    const struct flow__cpu *a = &topology->cpus[thief->cpu], *b = &topology->cpus[victim->cpu];

    /* The node first: with sub-NUMA clustering one L3 spans several nodes. */
    if (a->node != b->node)
        return OTHER_NODE + flow__topology_distance(topology, a->node, b->node);
    if (a->core == b->core)
        return SAME_CORE;
    return a->l3_cache == b->l3_cache ? SAME_L3 : SAME_NODE;
}

/* Turns a row so that entry `by` comes first. */
static void rotate(uint16_t *row, int n, int by, uint16_t *scratch)
{
    size_t head = (size_t)by * sizeof *row, all = (size_t)n * sizeof *row;

    memcpy(scratch, row, head);
    memmove(row, row + by, all - head);
    memcpy(row + n - by, scratch, head);
}

/* Where in its next tier a worker begins: behind its neighbourhood's first member, as
 * everybody in there would, and then as far along as its rank among them. */
static int start_in_tier(const uint16_t *tier, int n, int first, int rank, int n_near)
{
    int base = 0;

    while (base < n && tier[base] < first)
        base++;
    return (int)((base + (int64_t)rank * n / n_near) % n);
}

static void rotate_tiers(uint16_t *row, const int *n_in_tier, int self, uint16_t *scratch)
{
    int first = self, rank = 0, n_near = 1; /* of the neighbourhood so far */

    for (int tier = 0; tier < N_TIERS; tier++) {
        int n = n_in_tier[tier];

        if (!n)
            continue;
        rotate(row, n, start_in_tier(row, n, first, rank, n_near), scratch);
        for (int i = 0; i < n; i++) {
            first = row[i] < first ? row[i] : first;
            rank += row[i] < self;
        }
        n_near += n;
        row += n;
    }
}

static void order_victims(struct flow__placement *placement, const struct flow__topology *topology,
                          const struct seat *seats, int self, uint16_t *scratch)
{
    uint16_t *row = placement->victims + (size_t)self * (size_t)(placement->n_workers - 1);
    int n_in_tier[N_TIERS] = {0}, next[N_TIERS] = {0};

    for (int i = 0; i < placement->n_workers; i++)
        if (i != self)
            n_in_tier[nearness(topology, &seats[self], &seats[i])]++;
    for (int tier = 1; tier < N_TIERS; tier++)
        next[tier] = next[tier - 1] + n_in_tier[tier - 1];
    for (int i = 0; i < placement->n_workers; i++)
        if (i != self)
            row[next[nearness(topology, &seats[self], &seats[i])]++] = (uint16_t)i;
    rotate_tiers(row, n_in_tier, self, scratch);
}

static int allocate(struct flow__placement *placement, int n_workers)
{
    size_t n = (size_t)n_workers;

    placement->n_workers = n_workers;
    placement->cpu_id = calloc(n, sizeof *placement->cpu_id);
    placement->seat = calloc(n, sizeof *placement->seat);
    placement->node = calloc(n, sizeof *placement->node);
    placement->victims = calloc(n * n, sizeof *placement->victims); /* n * (n - 1), but never 0 */
    if (!placement->cpu_id || !placement->seat || !placement->node || !placement->victims)
        return -ENOMEM;
    return 0;
}

static void fill(struct flow__placement *placement, const struct flow__topology *topology,
                 const struct seat *seats, bool pin, uint16_t *scratch)
{
    for (int i = 0; i < placement->n_workers; i++) {
        placement->cpu_id[i] = pin ? topology->cpus[seats[i].cpu].cpu_id : -1;
        placement->seat[i] = seats[i].cpu;
        placement->node[i] = seats[i].node;
        order_victims(placement, topology, seats, i, scratch);
    }
}

static int make(struct flow__placement *placement, const struct flow__topology *topology,
                const struct flow__seating *seating, int n)
{
    struct seat *seats = calloc((size_t)n, sizeof *seats);
    uint16_t *scratch = calloc((size_t)n, sizeof *scratch);
    int r = allocate(placement, n);

    if (!seats || !scratch)
        r = -ENOMEM;
    if (!r)
        r = seat_workers(seats, n, topology, seating);
    if (!r)
        fill(placement, topology, seats, seating->pin, scratch);
    free(scratch);
    free(seats);
    return r;
}

int flow__placement_make(struct flow__placement *placement, const struct flow__topology *topology,
                         const struct flow__seating *seating)
{
    int64_t n = seating->n_workers;
    int n_nodes, r;

    *placement = (struct flow__placement){0};
    if (!flow__seats(topology, seating, &n_nodes))
        return -ENODEV;
    if (seating->per_node)
        n = (int64_t)seating->per_node * n_nodes;
    if (n < 1 || n > UINT16_MAX)
        return -EINVAL;
    r = make(placement, topology, seating, (int)n);
    if (r)
        flow__placement_free(placement);
    return r;
}

void flow__placement_free(struct flow__placement *placement)
{
    free(placement->cpu_id);
    free(placement->seat);
    free(placement->node);
    free(placement->victims);
    *placement = (struct flow__placement){0};
}

int flow__placement_default_workers(int n_seats, double quota)
{
    int whole;

    if (!(quota > 0) || quota >= n_seats)
        return n_seats;
    whole = (int)quota;
    return whole + (quota > whole); /* rounded up, so at least 1 */
}

bool flow__thread_may_run_on(int cpu_id)
{
    size_t bytes = CPU_ALLOC_SIZE(UINT16_MAX);
    cpu_set_t *set = CPU_ALLOC(UINT16_MAX);
    bool may = set && cpu_id >= 0 && cpu_id < UINT16_MAX && !sched_getaffinity(0, bytes, set) &&
               CPU_ISSET_S(cpu_id, bytes, set);

    CPU_FREE(set);
    return may;
}

/* The mask is ours and not numa_bitmask_alloc's, which ends the process when memory is short. */
int flow__pin_thread(int cpu_id)
{
    size_t bits = 8 * sizeof(unsigned long);
    size_t n_words = (size_t)cpu_id / bits + 1;
    struct bitmask mask;
    int r;

    if (cpu_id < 0 || cpu_id > UINT16_MAX)
        return -EINVAL;
    mask.size = n_words * bits;
    mask.maskp = calloc(n_words, sizeof *mask.maskp);
    if (!mask.maskp)
        return -ENOMEM;
    mask.maskp[n_words - 1] = 1ul << ((size_t)cpu_id % bits);
    r = numa_sched_setaffinity(0, &mask) ? -errno : 0;
    free(mask.maskp);
    return r;
}
