/* SPDX-License-Identifier: MIT
 *
 * The search; what it does is said in the header. It runs on one thread. A schedule is the list of
 * the answers to `choose`; the next one differs in the last answer that can be raised. (Depth-first
 * search by running again: Godefroid, VeriSoft, 1997. The bound on preemptions: Musuvathi and
 * Qadeer, CHESS, 2007.) What is left out of it, and why nothing is lost by that, stands in states.h.
 *
 * Answers are chosen outside of the model threads, on the program's own stack, so that the threads'
 * stacks hold little but the model's frames. */
#include "tests/model/explorer.h"

#include "core/arch/switch.h"
#include "sync/syscall.h"
#include "tests/model/states.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STACK_BYTES (16 * 1024)
#define BUFFERED    8
#define MOST_STEPS  4000 /* of one schedule: more is a loop without end */
#define ARENA_BYTES (64 * 1024)
#define MOST_ITEMS  64
#define MOST_DEAD   16
#define LONELY      61 /* steps; looked at again after each so many */

struct buffered {
    void *p;
    size_t bytes;
    uint64_t value;
};

enum state { READY, SLEEPS, ENDED };

struct thread {
    struct flow__context context;
    enum state state;
    bool started, yields;
    void *futex; /* sleeps on it */
    bool deadline;
    int result; /* of the wait */
    int asks;   /* for one of so many answers */
    int n_buffered;
    struct buffered buffer[BUFFERED];
    char *stack;
};

/* state: 0, or the one in which the question came. ran: who has made a step since, a bit each. */
struct choice {
    unsigned char taken, of;
    unsigned ran;
    uint64_t state;
};

enum step { RUN, FLUSH, TIME_OUT, SPURIOUS };

struct option {
    enum step step;
    struct thread *thread;
};

struct dead {
    uintptr_t start, end;
};

/* Of the state. */
static struct thread threads[MODEL_THREADS], outside, *self = &outside;
static int preemptions, delays, spurious; /* left in this schedule */
static size_t arena_used;
static int taken[MOST_ITEMS];
static struct dead dead[MOST_DEAD];

void (*model_forget)(void);
static const struct model *model NO_STATE;
static char *stacks NO_STATE, *arena NO_STATE;
static struct choice trail[MOST_STEPS * 4] NO_STATE;
static int depth NO_STATE, known NO_STATE, steps NO_STATE, lonely NO_STATE, restarts NO_STATE;
static bool tracing NO_STATE, pruned NO_STATE;
static const char *replay NO_STATE;

/* ---- failing ---- */

/* With write() alone: it is also called from a signal handler. */
static void say(const char *text)
{
    if (write(1, text, strlen(text)) < 0)
        _exit(2);
}

static _Noreturn void fail(const char *what, const char *more)
{
    static char string[sizeof trail / sizeof trail[0] + 16] NO_STATE;
    int n = snprintf(string, 16, "%d:", restarts);

    for (int i = 0; i < depth; i++)
        string[n + i] = (char)('0' + trail[i].taken);
    fflush(stdout);
    say("FAILED model "), say(model->name), say(": "), say(what), say(more);
    say("\n    replay "), say(model->name), say(" "), say(string), say("\n");
    _exit(1);
}

static void on_signal(int signal)
{
    fail(signal == SIGALRM ? "does not come back" : "crashed", "");
}

void model_check(bool holds, const char *what, int line)
{
    char where[32];

    if (holds)
        return;
    snprintf(where, sizeof where, " (line %d)", line);
    fail(what, where);
}

/* ---- choosing ---- */

static int choose(int n)
{
    struct choice *c = &trail[depth];

    if (n == 1)
        return 0;
    if (depth == sizeof trail / sizeof trail[0])
        fail("too many choices", "");
    if (replay)
        *c = (struct choice){.taken = *replay ? (unsigned char)(*replay++ - '0') : 0};
    else if (depth >= known)
        *c = (struct choice){.taken = 0}, known = depth + 1;
    if (!c->of)
        c->of = (unsigned char)n;
    c->ran = 0;
    depth++;
    model_check(c->of == n && c->taken < n, "the same answers lead to the same questions", __LINE__);
    return c->taken;
}

/* The next schedule. False: that was the last one. */
static bool next_schedule(void)
{
    for (known = depth; known > 0; known--)
        if (trail[known - 1].taken + 1 < trail[known - 1].of) {
            trail[known - 1].taken++;
            return true;
        }
    return false;
}

/* ---- memory ---- */

static uint64_t get(const void *p, size_t bytes)
{
    uint64_t value = 0;

    memcpy(&value, p, bytes); /* little-endian */
    return value;
}

static void commit_oldest(struct thread *t)
{
    memcpy(t->buffer[0].p, &t->buffer[0].value, t->buffer[0].bytes);
    t->n_buffered--;
    memmove(&t->buffer[0], &t->buffer[1], sizeof t->buffer[0] * (size_t)t->n_buffered);
    memset(&t->buffer[t->n_buffered], 0, sizeof t->buffer[0]);
}

static void commit_all(struct thread *t)
{
    while (t->n_buffered)
        commit_oldest(t);
}

static void trace(struct model_place at, const char *what, const void *p, uint64_t value)
{
    if (tracing && self != &outside)
        printf("    %*sT%d %s:%d %s %p %#llx\n", 4 * (int)(self - threads), "", (int)(self - threads),
               at.function, at.line, what, (void *)p, (unsigned long long)value);
}

/* ---- who goes on ---- */

static long enter(void *arg)
{
    (void)arg;
    model->thread((int)(self - threads));
    self->state = ENDED;
    flow__switch(&self->context, &outside.context, 0);
    fail("a thread went on after its end", "");
}

/* Until it asks who goes on. */
static void go_on_in(struct thread *t, long answer)
{
    self = t;
    if (t->started) {
        flow__switch(&outside.context, &t->context, answer);
    } else {
        t->started = true;
        flow__call(&outside.context, t->stack + STACK_BYTES, enter, NULL);
    }
    model_check((char *)t->context.sp > t->stack && (char *)t->context.sp <= t->stack + STACK_BYTES,
                "a thread is on its own stack", __LINE__);
}

/* What can happen next, in options[]. */
static int list_options(struct option *options)
{
    int n = 0, running, n_ended = 0;
    bool can = self != &outside && self->state == READY && !self->yields;

    if (can)
        options[n++] = (struct option){RUN, self};
    for (int i = 0; i < model->n_threads; i++) {
        struct thread *t = &threads[i];

        n_ended += t->state == ENDED;
        if (t->n_buffered)
            options[n++] = (struct option){FLUSH, t};
        if (t->state == READY && !t->yields && !(can && t == self) && (!can || preemptions > 0))
            options[n++] = (struct option){RUN, t};
    }
    running = n;
    for (int i = 0; i < model->n_threads && !running; i++)
        if (threads[i].state == READY)
            options[n++] = (struct option){RUN, &threads[i]};
    running = n;
    for (int i = 0; i < model->n_threads; i++)
        if (threads[i].state == SLEEPS && threads[i].deadline && (!running || preemptions > 0))
            options[n++] = (struct option){TIME_OUT, &threads[i]};
    if (n == 0 && n_ended < model->n_threads)
        fail("deadlock: nobody can go on", "");
    for (int i = 0; i < model->n_threads && n > 0; i++)
        if (threads[i].state == SLEEPS && spurious > 0)
            options[n++] = (struct option){SPURIOUS, &threads[i]};
    return n;
}

static void spend(int *bound)
{
    *bound -= *bound < MODEL_ANY;
}

static void wake(struct thread *t, int result)
{
    t->state = READY;
    t->result = result;
}

/* Takes an option's step, but for the running. */
static void prepare(struct option o, bool could, bool others)
{
    for (int i = 0; i < model->n_threads; i++)
        if (&threads[i] != o.thread)
            threads[i].yields = false;
    if (o.step == FLUSH)
        commit_oldest(o.thread);
    else if (o.step == TIME_OUT)
        wake(o.thread, -ETIMEDOUT);
    else if (o.step == SPURIOUS)
        wake(o.thread, 0), spend(&spurious);
    if (o.step == TIME_OUT ? others : o.step == RUN && could && o.thread != self)
        spend(&preemptions);
    o.thread->yields = false;
}

static uint64_t hash_state(void)
{
    struct thread *who = self;
    uint64_t hash;

    self = &outside;
    if (model_forget)
        model_forget();
    self = who;
    hash = states_hash(arena_used);
    for (int i = 0; i < model->n_threads; i++) {
        struct thread *t = &threads[i];

        if (t->started && t->state != ENDED)
            hash = states_hash_more(hash, t->context.sp,
                                    (size_t)(t->stack + STACK_BYTES - (char *)t->context.sp));
    }
    return hash | 1;
}

/* On the way to a state that is met again: has everybody who can go on made a step since, and does no
 * store wait? Then they may do so for ever. (If not, it was the explorer that held something back.) */
static void check_progress(uint64_t state)
{
    unsigned ran = 0, ready = 0;

    for (int i = 0; i < model->n_threads; i++) {
        if (threads[i].n_buffered)
            return;
        ready |= (unsigned)(threads[i].state == READY) << i;
    }
    for (int i = depth - 1; i >= 0; i--) {
        ran |= trail[i].ran;
        if (trail[i].state == state && (ready & ~ran) == 0)
            fail("a loop without end", "");
    }
}

/* Before a choice: does it come for the first time, and is everything that follows known? */
static bool leads_nowhere(void)
{
    uint64_t state;

    if (replay || depth < known)
        return false;
    state = hash_state();
    pruned = states_seen(state);
    if (pruned) {
        check_progress(state);
        return true;
    }
    known = depth + 1;
    trail[depth] = (struct choice){.state = state};
    return false;
}

/* Without a choice for long, as nobody may be taken off any more: does it wait in a loop for others? Then
 * only a schedule in which these came first leads on. */
static bool runs_in_circles(void)
{
    if (replay || depth < known || ++lonely < LONELY || lonely % LONELY)
        return false;
    for (int i = 0; i < model->n_threads; i++)
        if (&threads[i] != self && threads[i].state == READY)
            return pruned = states_seen(hash_state());
    return false;
}

/* Has the threads run until all have ended, or nothing new can come. */
static void run_threads(void)
{
    for (;;) {
        struct option options[4 * MODEL_THREADS], o;
        bool could = self != &outside && self->state == READY && !self->yields;
        int n = list_options(options);

        if (n == 0)
            break;
        if (n > 1)
            lonely = 0;
        if (n > 1 ? leads_nowhere() : runs_in_circles())
            break;
        o = options[choose(n)];
        prepare(o, could, options[0].step == RUN || options[0].step == FLUSH);
        if (o.step == FLUSH)
            continue;
        go_on_in(o.thread, 0);
        if (depth)
            trail[depth - 1].ran |= 1u << (o.thread - threads);
        while (self->asks) {
            int asks = self->asks;

            if (leads_nowhere()) {
                self = &outside;
                return;
            }
            self->asks = 0;
            go_on_in(self, choose(asks));
        }
    }
    self = &outside;
}

/* Returns when the explorer lets the caller go on. */
static void point(void)
{
    if (++steps > MOST_STEPS)
        fail("a loop without end", "");
    flow__switch(&self->context, &outside.context, 0);
}

int model_self(void)
{
    return self == &outside ? 0 : (int)(self - threads);
}

int model_choose(int n)
{
    if (self == &outside || n == 1)
        return 0;
    self->asks = n;
    return (int)flow__switch(&self->context, &outside.context, 0);
}

void model_pause(void)
{
    if (self == &outside)
        return;
    self->yields = true;
    point();
}

/* ---- memory that is nobody's ---- */

void model_dead(const void *p, size_t bytes)
{
    for (int i = 0; i < MOST_DEAD; i++)
        if (!dead[i].end) {
            dead[i] = (struct dead){(uintptr_t)p, (uintptr_t)p + bytes};
            return;
        }
    fail("too much is dead", "");
}

void model_alive(const void *p)
{
    for (int i = 0; i < MOST_DEAD; i++)
        if (dead[i].start == (uintptr_t)p)
            dead[i] = (struct dead){0};
}

static void check_alive(const void *p, size_t bytes)
{
    for (int i = 0; i < MOST_DEAD; i++)
        if ((uintptr_t)p < dead[i].end && (uintptr_t)p + bytes > dead[i].start)
            fail("somebody looks at what is gone", "");
}

/* ---- operations ---- */

/* Before each access. */
static void visit(const void *p, size_t bytes, bool writes)
{
    if (states_touch(p, bytes, (int)(self - threads), writes))
        point();
    check_alive(p, bytes);
}

uint64_t model_load(struct model_place at, const void *p, size_t bytes)
{
    uint64_t value;

    if (self != &outside)
        visit(p, bytes, false);
    value = get(p, bytes);
    for (int i = 0; i < self->n_buffered; i++)
        if (self->buffer[i].p == p)
            value = self->buffer[i].value;
    trace(at, "load", p, value);
    return value;
}

/* Words that nobody else looks at are written at once. */
void model_store(struct model_place at, void *p, size_t bytes, uint64_t value)
{
    bool shared;

    if (self == &outside) {
        memcpy(p, &value, bytes);
        return;
    }
    shared = states_touch(p, bytes, (int)(self - threads), true);
    if (shared)
        point();
    check_alive(p, bytes);
    if (bytes < 8)
        value &= ((uint64_t)1 << 8 * bytes) - 1;
    if (self->n_buffered == BUFFERED)
        commit_oldest(self);
    self->buffer[self->n_buffered++] = (struct buffered){p, bytes, value};
    if (self->n_buffered == 1) {
        if (shared && delays > 0 && model_choose(2))
            spend(&delays);
        else
            commit_all(self);
    }
    trace(at, self->n_buffered ? "store (waits)" : "store", p, value);
}

/* Before an operation that empties the buffer. */
static void full_barrier(void)
{
    if (self == &outside)
        return;
    point();
    commit_all(self);
}

static void visit_for_rmw(void *p, size_t bytes)
{
    bool shared;

    if (self == &outside)
        return;
    shared = states_touch(p, bytes, (int)(self - threads), true);
    if (shared || self->n_buffered)
        full_barrier();
    check_alive(p, bytes);
}

uint64_t model_rmw(struct model_place at, void *p, size_t bytes, enum model_rmw what, uint64_t value)
{
    uint64_t old, new;

    visit_for_rmw(p, bytes);
    old = get(p, bytes);
    new = what == MODEL_EXCHANGE ? value
          : what == MODEL_ADD    ? old + value
          : what == MODEL_SUB    ? old - value
          : what == MODEL_OR     ? (old | value)
                                 : (old & value);
    memcpy(p, &new, bytes);
    trace(at, "read-modify-write", p, new);
    return old;
}

bool model_cas(struct model_place at, void *p, size_t bytes, void *expected, uint64_t value)
{
    visit_for_rmw(p, bytes);
    if (memcmp(p, expected, bytes) == 0) {
        memcpy(p, &value, bytes);
        trace(at, "cas", p, value);
        return true;
    }
    memcpy(expected, p, bytes);
    trace(at, "cas fails on", p, get(p, bytes));
    return false;
}

/* The compiler calls these at plain accesses, as it would ThreadSanitizer's. They see what waits in the
 * thread's own buffer. */
static void plain(const char *what, const void *p, size_t bytes, bool writes)
{
    if (self == &outside)
        return;
    visit(p, bytes, writes);
    for (int i = 0; i < self->n_buffered; i++)
        if ((char *)self->buffer[i].p < (const char *)p + bytes &&
            (const char *)p < (char *)self->buffer[i].p + self->buffer[i].bytes)
            commit_all(self);
    trace((struct model_place){"plain", 0}, what, p, 0);
}

#define PLAIN(n)                                                                                   \
    void __tsan_read##n(void *p);                                                                  \
    void __tsan_write##n(void *p);                                                                 \
    void __tsan_read##n(void *p) { plain("read", p, n, false); }                                   \
    void __tsan_write##n(void *p) { plain("write", p, n, true); }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)
void __tsan_read_range(void *p, size_t bytes);
void __tsan_write_range(void *p, size_t bytes);
void __tsan_read_range(void *p, size_t bytes) { plain("read", p, bytes, false); }
void __tsan_write_range(void *p, size_t bytes) { plain("write", p, bytes, true); }
void __tsan_init(void);
void __tsan_func_entry(void *p);
void __tsan_func_exit(void);
void __tsan_init(void) { }
void __tsan_func_entry(void *p) { (void)p; }
void __tsan_func_exit(void) { }

/* ---- the system ---- */

static int sys_futex_wait(flow__atomic(uint32_t) * word, uint32_t expected, int64_t deadline)
{
    full_barrier();
    trace(MODEL_HERE, "futex wait", word, expected);
    if (*word != expected)
        return -EAGAIN;
    self->state = SLEEPS;
    self->futex = word;
    self->deadline = deadline != INT64_MAX;
    point();
    return self->result;
}

static int sys_futex_wake(flow__atomic(uint32_t) * word, int n)
{
    int woken = 0;

    full_barrier();
    trace(MODEL_HERE, "futex wake", word, (uint64_t)n);
    for (; woken < n; woken++) {
        struct thread *waits[MODEL_THREADS];
        int n_waits = 0;

        for (int i = 0; i < model->n_threads; i++)
            if (threads[i].state == SLEEPS && threads[i].futex == word)
                waits[n_waits++] = &threads[i];
        if (n_waits == 0)
            break;
        wake(waits[model_choose(n_waits)], 0);
    }
    return woken;
}

/* Each thread passes it at a moment of its own. */
static int sys_barrier(void)
{
    full_barrier();
    trace(MODEL_HERE, "barrier in all threads", NULL, 0);
    for (int i = 0; i < model->n_threads; i++)
        if (threads[i].n_buffered) {
            point();
            commit_all(&threads[i]);
        }
    return 0;
}

static int64_t sys_now(void)
{
    return 0;
}

static void *sys_map(size_t bytes, int prot, int flags)
{
    char *p = arena + arena_used;

    (void)prot, (void)flags;
    bytes = (bytes + 63) & ~(size_t)63;
    model_check(arena_used + bytes <= ARENA_BYTES, "the arena is large enough", __LINE__);
    arena_used += bytes;
    return p;
}

static int sys_unmap(void *start, size_t bytes)
{
    (void)start, (void)bytes;
    return 0;
}

struct flow__syscalls flow__sys = {
    .futex_wait = sys_futex_wait,
    .futex_wake = sys_futex_wake,
    .now = sys_now,
    .barrier = sys_barrier,
    .map = sys_map,
    .unmap = sys_unmap,
};

/* ---- items ---- */

void model_taken(const void *item)
{
    intptr_t number = (intptr_t)item;

    model_check(number > 0 && number < MOST_ITEMS, "what came out is an item", __LINE__);
    taken[number]++;
}

void model_all_taken_once(int first, int n)
{
    for (int i = first; i < first + n; i++) {
        model_check(taken[i] > 0, "each item came out", __LINE__);
        model_check(taken[i] < 2, "no item came out twice", __LINE__);
    }
}

/* ---- the search ---- */

static void set_bounds(bool quick)
{
    preemptions = quick ? model->quick : model->preemptions;
    delays = quick && model->delays > 1 ? 1 : model->delays;
    spurious = quick && model->spurious > 1 ? 1 : model->spurious;
}

static void run_once(bool quick)
{
    states_restore();
    memset(stacks, 0, MODEL_THREADS * STACK_BYTES);
    for (int i = 0; i < MODEL_THREADS; i++)
        threads[i].stack = stacks + i * STACK_BYTES;
    depth = steps = lonely = 0;
    pruned = false;
    set_bounds(quick);
    model->setup();
    run_threads();
    if (!pruned)
        model->check();
}

/* False: that was the last one. Begins anew if points were missing. */
static bool next(void)
{
    if (!states_have_learned())
        return next_schedule();
    states_reset(true);
    known = 0;
    restarts++;
    return true;
}

static void explore(bool quick, uint64_t most)
{
    uint64_t n = 0;
    bool more = true;
    int bound[3];
    char text[3][8];

    set_bounds(quick);
    memcpy(bound, (int[]){preemptions, delays, spurious}, sizeof bound);
    for (int i = 0; i < 3; i++)
        snprintf(text[i], sizeof text[i], bound[i] < MODEL_ANY ? "%d" : "any", bound[i]);
    states_reset(false);
    for (known = restarts = 0; more && n < most; n++) {
        alarm(10);
        run_once(quick);
        more = next();
    }
    alarm(0);
    printf("ok model %s: %llu schedules, %llu states, %s (preemptions %s, delays %s, spurious %s)\n",
           model->name, (unsigned long long)n, (unsigned long long)states_count(),
           more ? "NOT exhaustive: cut off" : "exhaustive", text[0], text[1], text[2]);
}

/* The string begins with the number of times that the search has to learn before. */
static void replay_one(bool quick, const char *string)
{
    int times = atoi(string);

    states_reset(false);
    for (known = restarts = 0; restarts < times;) {
        run_once(quick);
        if (!next())
            fail("this is no schedule of it", "");
    }
    replay = strchr(string, ':') ? strchr(string, ':') + 1 : "";
    tracing = true;
    run_once(quick);
    printf("ok model %s: this schedule passes\n", model->name);
}

static void handle_signals(void)
{
    static char stack[64 * 1024];
    stack_t s = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};

    sigaltstack(&s, NULL);
    sigaction(SIGSEGV, &a, NULL);
    sigaction(SIGBUS, &a, NULL);
    sigaction(SIGFPE, &a, NULL);
    sigaction(SIGALRM, &a, NULL);
}

int model_main(int argc, char **argv, const struct model *models, int n)
{
    bool quick = argc < 2 || strcmp(argv[1], "full") != 0;
    const char *limit = getenv("MODEL_SCHEDULES");
    uint64_t most = limit ? strtoull(limit, NULL, 10) : quick ? 100000 : 3000000;

    handle_signals();
    setvbuf(stdout, NULL, _IOLBF, 0);
    stacks = aligned_alloc(64, MODEL_THREADS * STACK_BYTES);
    arena = aligned_alloc(64, ARENA_BYTES);
    states_open(arena, ARENA_BYTES, (uint64_t)1 << (quick ? 22 : 25));
    for (int i = 0; i < n; i++) {
        model = &models[i];
        if (argc > 2 && strcmp(argv[2], model->name) != 0)
            continue;
        if (argc < 4 || strcmp(argv[1], "replay") != 0)
            explore(quick, most);
        else
            replay_one(argc > 4 && strcmp(argv[4], "quick") == 0, argv[3]);
    }
    return 0;
}
