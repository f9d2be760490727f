/* SPDX-License-Identifier: MIT
 *
 * What a model needs beside atomic operations, for Relacy: explorer.h includes this file in its own
 * place when it is compiled as C++. */
#ifndef FLOW_TESTS_MODEL_RELACY_RUN_H
#define FLOW_TESTS_MODEL_RELACY_RUN_H

/* ---- the system ---- */

#include "sync/syscall.h"

#define MODEL_ARENA (64 * 1024)

static char model_arena[MODEL_ARENA] __attribute__((aligned(64)));
static size_t model_arena_used;

/* The kernel compares and goes to sleep in one step. A sleep with a deadline ends at once. */
static int model_futex_wait(flow__atomic(uint32_t) * word, uint32_t expected, int64_t deadline)
{
    if (fetch_add_seq(word, 0) != expected)
        return -EAGAIN;
    if (deadline != INT64_MAX) {
        model_pause();
        return -ETIMEDOUT;
    }
    word->get().wait(rl::ctx(), false, true, $);
    return 0;
}

static int model_futex_wake(flow__atomic(uint32_t) * word, int n)
{
    fetch_add_seq(word, 0);
    return (int)word->get().wake(rl::ctx(), n, $);
}

static int64_t model_now(void)
{
    return 0;
}

static void *model_map(size_t bytes, int prot, int flags)
{
    char *p = model_arena + model_arena_used;

    (void)prot, (void)flags;
    model_arena_used += (bytes + 63) & ~(size_t)63;
    return model_arena_used <= MODEL_ARENA ? p : NULL;
}

static int model_unmap(void *start, size_t bytes)
{
    (void)start, (void)bytes;
    return 0;
}

struct flow__syscalls flow__sys = {model_futex_wait, model_futex_wake, model_now, NULL, model_map,
                                   model_unmap};

/* ---- what a model consists of: see explorer.h ---- */

#define MODEL_THREADS 4
#define MODEL_ANY     1000
#define MODEL_ITEMS   64

struct model {
    const char *name;
    int n_threads;
    void (*setup)(void);
    void (*thread)(int self);
    void (*check)(void);
    int preemptions, delays, spurious;
    int quick;
};

static int model_taken_times[MODEL_ITEMS];
static model_plain<int> model_content[MODEL_ITEMS];

#define MODEL_CHECK(holds)                                                                         \
    do {                                                                                           \
        if (!(holds))                                                                              \
            rl::ctx().fail_test(#holds, rl::test_result_user_assert_failed, $);                    \
    } while (0)

static int model_choose(int n)
{
    return (int)rl::rand((unsigned)n);
}

/* Relacy watches plain data itself. */
static void model_dead(const void *p, size_t bytes)
{
    (void)p, (void)bytes;
}

static void model_alive(const void *p)
{
    (void)p;
}

static void *model_item(int number)
{
    model_content[number] = number;
    return (void *)(intptr_t)number;
}

static void model_taken(const void *item)
{
    intptr_t number = (intptr_t)item;

    MODEL_CHECK(number > 0 && number < MODEL_ITEMS);
    MODEL_CHECK(model_content[number] == number);
    model_taken_times[number]++;
}

static void model_all_taken_once(int first, int n)
{
    for (int i = first; i < first + n; i++)
        MODEL_CHECK(model_taken_times[i] == 1);
}

/* ---- running them ---- */

static const struct model *model_now_run;
static uint64_t model_left; /* runs, before the search is cut off */

template <int N> static void model_unread_by(rl::atomic_data *data)
{
    rl::atomic_data_impl<N> *all = static_cast<rl::atomic_data_impl<N> *>(data);

    for (int i = 0; i < N; i++)
        all->history_[all->current_index_].first_seen_order_[i] = (rl::timestamp_t)-1;
}

template <int N> struct model_suite : rl::test_suite<model_suite<N>, N> {
    void before()
    {
        if (model_left == 0)
            rl::ctx().rl_until("cut off", $);
        model_left--;
        model_run++;
        model_unread = model_unread_by<N>;
        model_parts = NULL; /* of a run that has failed */
        model_arena_used = 0;
        memset(model_arena, 0, sizeof model_arena);
        memset(model_taken_times, 0, sizeof model_taken_times);
        model_now_run->setup();
    }
    void thread(unsigned self) { model_now_run->thread((int)self); }
    void after()
    {
        model_now_run->check();
        model_end_parts();
    }
};

/* What Relacy says; its memory must not be Relacy's. */
struct model_story : std::streambuf {
    char text[1 << 18];
    model_story() { setp(text, text + sizeof text - 1); }
    int overflow(int c) { return c; } /* the rest is lost */
    const char *said()
    {
        *pptr() = 0;
        return text;
    }
};

/* As rl::simulate: who fails does it a second time, and tells the story. */
template <typename Suite, typename Scheduler> static void model_search(rl::test_params &params)
{
    rl::ostringstream state, unused;
    rl::test_result_e result = rl::run_test<Suite, Scheduler>(params, state, false);

    if (result == rl::test_result_success || result == rl::test_result_until_condition_hit)
        return;
    params.initial_state = params.final_state = state.str();
    params.collect_history = true;
    model_left = 1;
    rl::run_test<Suite, Scheduler>(params, unused, true);
}

template <int N> static void model_search_with(rl::test_params &params)
{
    if (params.search_type == rl::sched_random)
        model_search<model_suite<N>, rl::random_scheduler<N> >(params);
    else
        model_search<model_suite<N>, rl::context_bound_scheduler<N> >(params);
}

/* False if it fails. *runs: how many there were; *cut: there are more. */
static bool model_passes(bool random, unsigned bound, uint64_t most, uint64_t *runs, bool *cut)
{
    static model_story story;
    std::ostream out(&story);
    rl::test_params params;

    model_left = most;
    params.search_type = random ? rl::sched_random : rl::sched_bound;
    params.context_bound = bound;
    params.iteration_count = most;
    params.output_stream = params.progress_stream = &out;
    model_now_run->n_threads == 2 ? model_search_with<2>(params) : model_search_with<3>(params);
    *cut = params.test_result == rl::test_result_until_condition_hit;
    *runs = params.stop_iteration - *cut;
    if (params.test_result == rl::test_result_success || *cut)
        return true;
    printf("FAILED model %s, relacy: %s\n%.8000s\n", model_now_run->name,
           rl::test_result_str(params.test_result), story.said());
    return false;
}

/* The same arguments as the explorer's, but for replay: the story of a failure is printed. */
static int model_main(int argc, char **argv, const struct model *models, int n)
{
    bool full = argc > 1 && strcmp(argv[1], "full") == 0;
    unsigned bound = full ? 2 : 1;
    uint64_t most = full ? 100000 : 5000, searched, drawn;

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < n; i++) {
        bool cut, all;

        model_now_run = &models[i];
        if (argc > 2 && strcmp(argv[2], models[i].name) != 0)
            continue;
        if (!model_passes(false, bound, most, &searched, &cut) ||
            !model_passes(true, 0, most, &drawn, &all))
            return 1;
        printf("ok model %s, relacy: %llu runs, %s (preemptions %u), and %llu random ones\n", models[i].name,
               (unsigned long long)searched, cut ? "NOT exhaustive: cut off" : "exhaustive", bound,
               (unsigned long long)drawn);
    }
    return 0;
}

#endif
