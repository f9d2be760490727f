/* SPDX-License-Identifier: MIT
 *
 * The search; what it does is said in the header. It runs on one thread. A schedule is the list of
 * the answers to `choose`; the next one differs in the last answer that can be raised. (Depth-first
 * search without stored states: Godefroid, VeriSoft, 1997. The bound on preemptions: Musuvathi and
 * Qadeer, CHESS, 2007.) */
#include "tests/model/explorer.h"

#include "core/arch/switch.h"
#include "sync/syscall.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STACK_BYTES (64 * 1024)
#define BUFFERED    8
#define MOST_STEPS  4000 /* of one schedule: more is a loop without end */
#define ARENA_BYTES (64 * 1024)
#define MOST_ITEMS  64

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
    int n_buffered;
    struct buffered buffer[BUFFERED];
    char *stack;
};

struct choice {
    unsigned char taken, of;
};

enum step { RUN, FLUSH, TIME_OUT, SPURIOUS };

struct option {
    enum step step;
    struct thread *thread;
};

static const struct model *model;
static struct thread threads[MODEL_THREADS], outside, *self = &outside;
static char stacks[MODEL_THREADS][STACK_BYTES] __attribute__((aligned(64)));
static struct choice trail[MOST_STEPS * 4];
static int depth, known, steps;
static int preemptions, delays, spurious; /* left in this schedule */
static bool tracing;
static const char *replay;
static char arena[ARENA_BYTES] __attribute__((aligned(64)));
static size_t arena_used;
static int taken[MOST_ITEMS];

/* ---- failing ---- */

/* With write() alone: it is also called from a signal handler. */
static void say(const char *text)
{
    if (write(1, text, strlen(text)) < 0)
        _exit(2);
}

static _Noreturn void fail(const char *what, const char *more)
{
    static char string[sizeof trail / sizeof trail[0] + 1];

    for (int i = 0; i < depth; i++)
        string[i] = (char)('0' + trail[i].taken);
    fflush(stdout);
    say("FAILED model "), say(model->name), say(": "), say(what), say(more);
    say("\n    replay "), say(model->name), say(" "), say(depth ? string : "-"), say("\n");
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
        *c = (struct choice){replay[depth] ? (unsigned char)(replay[depth] - '0') : 0, (unsigned char)n};
    else if (depth >= known)
        *c = (struct choice){0, (unsigned char)n}, known = depth + 1;
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

static void thread_end(void);

static long enter(void *arg)
{
    (void)arg;
    model->thread((int)(self - threads));
    thread_end();
    return 0;
}

static void go_on_in(struct thread *t)
{
    struct thread *was = self;

    self = t;
    if (t == &outside || t->started) {
        flow__switch(&was->context, &t->context, 0);
        return;
    }
    t->started = true;
    flow__call(&was->context, t->stack + STACK_BYTES, enter, NULL);
}

/* What can happen next, in options[]; *n_free of them, at least, need no budget. */
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
        wake(o.thread, -ETIMEDOUT), preemptions -= others;
    else if (o.step == SPURIOUS)
        wake(o.thread, 0), spurious--;
    else
        preemptions -= could && o.thread != self;
    o.thread->yields = false;
}

/* Returns when the explorer lets the caller go on. */
static void point(void)
{
    if (++steps > MOST_STEPS)
        fail("a loop without end", "");
    for (;;) {
        struct option options[4 * MODEL_THREADS], o;
        bool could = self != &outside && self->state == READY && !self->yields;
        int n = list_options(options);

        if (n == 0) {
            if (self != &outside)
                go_on_in(&outside);
            return;
        }
        o = options[choose(n)];
        prepare(o, could, options[0].step == RUN || options[0].step == FLUSH);
        if (o.step == FLUSH)
            continue;
        if (o.thread != self)
            go_on_in(o.thread);
        return;
    }
}

static void thread_end(void)
{
    self->state = ENDED;
    point();
    fail("a thread went on after its end", "");
}

void model_pause(void)
{
    if (self == &outside)
        return;
    self->yields = true;
    point();
}

/* ---- operations ---- */

uint64_t model_load(struct model_place at, const void *p, size_t bytes)
{
    uint64_t value;

    if (self != &outside)
        point();
    value = get(p, bytes);
    for (int i = 0; i < self->n_buffered; i++)
        if (self->buffer[i].p == p)
            value = self->buffer[i].value;
    trace(at, "load", p, value);
    return value;
}

void model_store(struct model_place at, void *p, size_t bytes, uint64_t value)
{
    if (self == &outside) {
        memcpy(p, &value, bytes);
        return;
    }
    point();
    if (bytes < 8)
        value &= ((uint64_t)1 << 8 * bytes) - 1;
    if (self->n_buffered == BUFFERED)
        commit_oldest(self);
    self->buffer[self->n_buffered++] = (struct buffered){p, bytes, value};
    if (self->n_buffered == 1) {
        if (delays > 0 && choose(2))
            delays--;
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

uint64_t model_rmw(struct model_place at, void *p, size_t bytes, enum model_rmw what, uint64_t value)
{
    uint64_t old, new;

    full_barrier();
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
    full_barrier();
    if (memcmp(p, expected, bytes) == 0) {
        memcpy(p, &value, bytes);
        trace(at, "cas", p, value);
        return true;
    }
    memcpy(expected, p, bytes);
    trace(at, "cas fails on", p, get(p, bytes));
    return false;
}

/* The compiler calls these at plain accesses, as it would ThreadSanitizer's. A model thread's own
 * stack is of no interest to others, but for what lies in an operation's frame elsewhere. */
static void plain(const char *what, const void *p)
{
    if (self == &outside || ((const char *)p >= self->stack && (const char *)p < self->stack + STACK_BYTES))
        return;
    point();
    trace((struct model_place){"plain", 0}, what, p, 0);
}

#define PLAIN(n)                                                                                   \
    void __tsan_read##n(void *p);                                                                  \
    void __tsan_write##n(void *p);                                                                 \
    void __tsan_read##n(void *p) { plain("read", p); }                                             \
    void __tsan_write##n(void *p) { plain("write", p); }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)
void __tsan_read_range(void *p, size_t bytes);
void __tsan_write_range(void *p, size_t bytes);
void __tsan_read_range(void *p, size_t bytes) { (void)bytes, plain("read", p); }
void __tsan_write_range(void *p, size_t bytes) { (void)bytes, plain("write", p); }
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
        wake(waits[choose(n_waits)], 0);
    }
    return woken;
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
    return memset(p, 0, bytes);
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

static void run_once(bool quick)
{
    memset(threads, 0, sizeof threads);
    memset(taken, 0, sizeof taken);
    for (int i = 0; i < MODEL_THREADS; i++)
        threads[i].stack = stacks[i];
    self = &outside;
    depth = steps = 0;
    arena_used = 0;
    preemptions = quick ? model->quick : model->preemptions;
    delays = quick && model->delays > 1 ? 1 : model->delays;
    spurious = quick && model->spurious > 1 ? 1 : model->spurious;
    model->setup();
    point();
    model->check();
}

static void explore(bool quick, uint64_t most)
{
    uint64_t n = 0;
    bool more = true;

    for (known = 0; more && n < most; n++) {
        alarm(10);
        run_once(quick);
        more = next_schedule();
    }
    alarm(0);
    printf("ok model %s: %llu schedules, %s (preemptions %d, delays %d, spurious %d)\n", model->name,
           (unsigned long long)n, more ? "NOT exhaustive: cut off" : "exhaustive",
           quick ? model->quick : model->preemptions, quick && model->delays > 1 ? 1 : model->delays,
           quick && model->spurious > 1 ? 1 : model->spurious);
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
    for (int i = 0; i < n; i++) {
        model = &models[i];
        if (argc >= 4 && strcmp(argv[1], "replay") == 0) {
            if (strcmp(argv[2], model->name) != 0)
                continue;
            replay = argv[3];
            tracing = true;
            run_once(argc > 4 && strcmp(argv[4], "quick") == 0);
            printf("ok model %s: this schedule passes\n", model->name);
        } else {
            explore(quick, most);
        }
    }
    return 0;
}
