/* SPDX-License-Identifier: MIT
 *
 * flow_dump: what it says of each task, that its backtraces are true ones while tasks come and go at
 * full speed, and that nobody is held up by it. FLOW_TEST_WORKERS workers. */
#include "tests/support/child.h"

#include "sync/syscall.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* A frame of its own in a backtrace. */
#ifdef __clang__
#define FRAME __attribute__((noinline, used)) static
#else
#define FRAME __attribute__((noinline, noclone, used)) static
#endif
#define KEEP  __asm__ volatile("" ::: "memory") /* so that no call before it is a jump */

/* ---- a dump as text ---- */

static char *dump_now(int *n)
{
    int fd = memfd_create("dump", MFD_CLOEXEC), r = flow_dump(fd);
    off_t bytes = lseek(fd, 0, SEEK_CUR);
    char *text = malloc((size_t)bytes + 1);

    REQUIRE(text && pread(fd, text, (size_t)bytes, 0) == bytes);
    text[bytes] = 0;
    close(fd);
    if (n)
        *n = r;
    else
        REQUIRE(r >= 0);
    return text;
}

/* The line, up to its end, in which `what` stands; "" if none. */
static const char *line_with(const char *text, const char *what)
{
    static char line[1024];
    const char *at = strstr(text, what), *end;

    line[0] = 0;
    if (!at)
        return line;
    while (at > text && at[-1] != '\n')
        at--;
    end = strchr(at, '\n');
    REQUIRE(end && (size_t)(end - at) < sizeof line);
    memcpy(line, at, (size_t)(end - at));
    line[end - at] = 0;
    return line;
}

/* The frames of the backtrace to which a task's line refers. */
static const char *trace_of(const char *text, const char *name)
{
    static char frames[8192];
    char head[32];
    const char *number = strstr(line_with(text, name), ", trace "), *at, *end;
    int n;

    REQUIRE(number && sscanf(number, ", trace %d", &n) == 1);
    snprintf(head, sizeof head, "\ntrace %d: ", n);
    at = strstr(text, head);
    REQUIRE(at);
    at = strchr(at + 1, '\n') + 1;
    for (end = at; !strncmp(end, "    ", 4);)
        end = strchr(end, '\n') + 1;
    REQUIRE((size_t)(end - at) < sizeof frames);
    memcpy(frames, at, (size_t)(end - at));
    frames[end - at] = 0;
    return frames;
}

/* These functions are callers of each other, the innermost first, up to the outermost of all. */
static void must_call(const char *frames, const char *const names[], int n)
{
    const char *at = frames;
    char what[128];

    for (int i = 0; i < n; i++) {
        snprintf(what, sizeof what, " %s+0x", names[i]);
        at = strstr(at, what);
        if (!at)
            fprintf(stderr, "no %s in\n%s", names[i], frames);
        REQUIRE(at);
    }
    REQUIRE(strstr(at, " flow__call+0x") && !strstr(at, "..."));
}

/* ---- what tasks do ---- */

static struct {
    struct flow_mutex mutex;
    struct flow_semaphore semaphore;
    struct flow_event event;
    struct flow_chan *channel;
    flow_task asleep;
    atomic_bool spin;
} shared = {.mutex = FLOW_MUTEX_INIT, .semaphore = FLOW_SEMAPHORE_INIT(0), .event = FLOW_EVENT_INIT};

FRAME int sleep_inside(void)
{
    int r = flow_sleep(FLOW_S(1000));

    KEEP;
    return r;
}

FRAME int sleep_deep_inside(int n)
{
    int r = n > 0 ? sleep_deep_inside(n - 1) : sleep_inside();

    KEEP;
    return r;
}

FRAME flow_result sleeper(void *arg)
{
    sleep_deep_inside(3);
    KEEP;
    return flow_ok(arg);
}

FRAME flow_result holder(void *arg)
{
    flow_mutex_lock(&shared.mutex, FLOW_FOREVER);
    sleep_inside();
    flow_mutex_unlock(&shared.mutex);
    return flow_ok(arg);
}

FRAME flow_result locker(void *arg)
{
    if (flow_mutex_lock(&shared.mutex, FLOW_FOREVER) == 0)
        flow_mutex_unlock(&shared.mutex);
    KEEP;
    return flow_ok(arg);
}

FRAME flow_result taker(void *arg)
{
    flow_semaphore_acquire(&shared.semaphore, 1, FLOW_FOREVER);
    KEEP;
    return flow_ok(arg);
}

FRAME flow_result awaiter(void *arg)
{
    flow_event_wait(&shared.event, FLOW_FOREVER);
    KEEP;
    return flow_ok(arg);
}

FRAME flow_result receiver(void *arg)
{
    int element;

    flow_chan_recv(shared.channel, &element, FLOW_FOREVER);
    KEEP;
    return flow_ok(arg);
}

FRAME flow_result patient_receiver(void *arg)
{
    int element;

    flow_chan_recv(shared.channel, &element, flow_after(FLOW_S(500)));
    KEEP;
    return flow_ok(arg);
}

FRAME flow_result sender(void *arg)
{
    int element = 1;

    while (flow_chan_send(arg, &element, FLOW_FOREVER) == 0)
        ;
    return flow_ok(arg);
}

FRAME flow_result joiner(void *arg)
{
    flow_join(shared.asleep, NULL, FLOW_FOREVER);
    KEEP;
    return flow_ok(arg);
}

FRAME flow_result yielder(void *arg)
{
    while (flow_yield() == 0)
        ;
    return flow_ok(arg);
}

static flow_task spawn_named(const char *name, flow_fn fn, void *arg)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    flow_task task;

    o.name = name;
    REQUIRE_EQUAL(flow_spawn_with(&task, &o, fn, arg), 0);
    return task;
}

/* Until each of these texts is in a dump. */
static char *dump_until(const char *const texts[], int n)
{
    for (int tries = 0;; tries++) {
        char *text = dump_now(NULL);
        int i = 0;

        while (i < n && strstr(text, texts[i]))
            i++;
        if (i == n)
            return text;
        if (tries == 5000)
            fprintf(stderr, "no \"%s\" in\n%s", texts[i], text);
        REQUIRE(tries < 5000);
        free(text);
        test_nap(FLOW_MS(1));
    }
}

static void must_wait_at(const char *text, const char *name, const char *why, const void *object)
{
    char what[128];

    snprintf(what, sizeof what, " waiting, waits for %s at %#lx since ", why, (unsigned long)object);
    if (!strstr(line_with(text, name), what))
        fprintf(stderr, "no \"%s\" in %s\n", what, line_with(text, name));
    REQUIRE(strstr(line_with(text, name), what));
}

CASE(each_kind_of_wait_is_named_with_its_object)
{
    static const char *const wanted[] = {"waits for mutex",     "waits for semaphore",
                                         "waits for event",     "waits for recv",
                                         "waits for send",      "waits for join",
                                         "waits for sleep",     "for another 49"};
    struct flow_chan *full;
    char what[128], *text;

    test_start();
    REQUIRE_EQUAL(flow_chan_create(&shared.channel, sizeof(int), 0), 0);
    REQUIRE_EQUAL(flow_chan_create(&full, sizeof(int), 2), 0);
    spawn_named("holder", holder, NULL);
    free(dump_until((const char *const[]){"holds mutex"}, 1));
    shared.asleep = spawn_named("sleeper", sleeper, NULL);
    spawn_named("locker", locker, NULL);
    spawn_named("taker", taker, NULL);
    spawn_named("awaiter", awaiter, NULL);
    spawn_named("receiver", receiver, NULL);
    spawn_named("patient", patient_receiver, NULL);
    spawn_named("sender", sender, full);
    spawn_named("joiner", joiner, NULL);
    text = dump_until(wanted, sizeof wanted / sizeof *wanted);
    must_wait_at(text, "\"locker\"", "mutex", &shared.mutex);
    must_wait_at(text, "\"taker\"", "semaphore", &shared.semaphore);
    must_wait_at(text, "\"awaiter\"", "event", &shared.event);
    must_wait_at(text, "\"receiver\"", "recv", shared.channel);
    must_wait_at(text, "\"patient\"", "recv", shared.channel);
    REQUIRE(strstr(line_with(text, "\"patient\""), "at most for another 49"));
    must_wait_at(text, "\"sender\"", "send", full);
    snprintf(what, sizeof what, "waits for join of %#llx since", (unsigned long long)shared.asleep.id);
    REQUIRE(strstr(line_with(text, "\"joiner\""), what));
    REQUIRE(strstr(line_with(text, "\"sleeper\""), "waits for sleep since "));
    snprintf(what, sizeof what, "holds mutex %#lx", (unsigned long)&shared.mutex);
    REQUIRE(strstr(line_with(text, "\"holder\""), what));
    REQUIRE(!strstr(line_with(text, "\"locker\""), "holds"));
    REQUIRE(strstr(line_with(text, "\"locker\""), ", stack 64 KiB, "));
    REQUIRE(strstr(line_with(text, "\"locker\""), " KiB touched, "));
    must_call(trace_of(text, "\"sleeper\""),
              (const char *const[]){"flow_sleep_until", "sleep_inside", "sleep_deep_inside",
                                    "sleep_deep_inside", "sleep_deep_inside", "sleep_deep_inside",
                                    "sleeper", "flow__task_main"},
              8);
    must_call(trace_of(text, "\"locker\""), (const char *const[]){"locker"}, 1);
    must_call(trace_of(text, "\"taker\""), (const char *const[]){"taker"}, 1);
    must_call(trace_of(text, "\"awaiter\""), (const char *const[]){"awaiter"}, 1);
    must_call(trace_of(text, "\"receiver\""), (const char *const[]){"receiver"}, 1);
    must_call(trace_of(text, "\"sender\""), (const char *const[]){"sender"}, 1);
    must_call(trace_of(text, "\"joiner\""), (const char *const[]){"joiner"}, 1);
    free(text);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_chan_destroy(shared.channel, NULL, NULL), 0);
    REQUIRE_EQUAL(flow_chan_destroy(full, NULL, NULL), 0);
}

/* The clock by which a wait's begin is told is late by the run of one coroutine at most. */
CASE(how_long_it_has_waited)
{
    flow_deadline before;
    char *text;
    long ms, most;

    test_start();
    before = flow_now();
    spawn_named("sleeper", sleeper, NULL);
    free(dump_until((const char *const[]){"waits for sleep"}, 1));
    test_nap(FLOW_MS(300));
    text = dump_now(NULL);
    most = (flow_now() - before) / 1000000;
    REQUIRE(sscanf(strstr(line_with(text, "\"sleeper\""), " since "), " since %ld ms", &ms) == 1);
    REQUIRE(ms >= 299 && ms <= most);
    free(text);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

static flow_result spin(void *arg)
{
    while (atomic_load(&shared.spin))
        ;
    return flow_ok(arg);
}

static flow_result call_a_spinner(void *arg)
{
    REQUIRE_EQUAL(flow_spawn_now(NULL, spin, arg), 0);
    return flow_ok(arg);
}

/* Of a worker that is busy nothing is asked. */
CASE(queued_and_running_ones)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    char *text;
    int n;

    test_start();
    atomic_store(&shared.spin, true);
    o.flags = FLOW_PINNED;
    for (o.worker = 0; o.worker < test_workers(); o.worker++) {
        o.name = "caller";
        REQUIRE_EQUAL(flow_spawn_with(NULL, &o, call_a_spinner, NULL), 0);
    }
    WAIT_UNTIL(test_stats().total.started_now == (uint64_t)test_workers());
    o.worker = 0;
    o.name = "unstarted\n\"\x1b[";
    REQUIRE_EQUAL(flow_spawn_with(NULL, &o, sleeper, NULL), 0);
    text = dump_now(&n);
    REQUIRE_EQUAL(n, 2 * test_workers() + 1);
    REQUIRE(strstr(line_with(text, "\"unstarted?\"?[\""), "queued, stack 64 KiB, spawned at 0x"));
    REQUIRE(strstr(line_with(text, "\"caller\""), "running, worker "));
    REQUIRE(!strstr(text, "waiting") && !strstr(text, "ready"));
    free(text);
    atomic_store(&shared.spin, false);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* Armed, but not yet away: what it had saved at its last suspension is long overwritten. */
static int look_at_oneself(flow_waker waker, void *unused)
{
    char *text = dump_now(NULL);

    (void)unused;
    REQUIRE(strstr(line_with(text, "\"armed\""), " running, worker "));
    free(text);
    REQUIRE_EQUAL(flow_wake(waker), 0);
    return 0;
}

static flow_result suspend_twice(void *arg)
{
    REQUIRE_EQUAL(flow_sleep(FLOW_US(1)), 0);
    REQUIRE_EQUAL(flow_suspend(look_at_oneself, NULL, FLOW_FOREVER), 0);
    return flow_ok(arg);
}

CASE(who_is_about_to_wait_still_runs)
{
    flow_task task;

    test_start();
    task = spawn_named("armed", suspend_twice, NULL);
    REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
    test_stop();
}

/* On one worker without a thread nothing moves between two drives. */
CASE(ready_ones_have_backtraces)
{
    char *text;

    test_start_driven();
    spawn_named("first", yielder, NULL);
    spawn_named("second", yielder, NULL);
    for (int i = 0; i < 3; i++)
        REQUIRE(flow_drive(FLOW_NOW) > 0);
    text = dump_now(NULL);
    REQUIRE(strstr(line_with(text, "\"first\""), "ready, worker 0"));
    REQUIRE(strstr(line_with(text, "\"second\""), "ready, worker 0"));
    must_call(trace_of(text, "\"first\""), (const char *const[]){"yielder"}, 1);
    must_call(trace_of(text, "\"second\""), (const char *const[]){"yielder"}, 1);
    free(text);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- groups ---- */

FRAME void spawn_here(int n)
{
    for (int i = 0; i < n; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, sleeper, NULL), 0);
}

FRAME void spawn_there(int n)
{
    for (int i = 0; i < n; i++)
        REQUIRE_EQUAL(flow_spawn(NULL, sleeper, NULL), 0);
}

static void wait_until_asleep(uint64_t n)
{
    WAIT_UNTIL(test_stats().total.timers_armed >= n);
    for (;;) { /* armed comes a little before asleep */
        char *text = dump_now(NULL);
        bool over = !strstr(text, " running") && !strstr(text, " queued") && !strstr(text, " active");

        free(text);
        if (over)
            return;
    }
}

CASE(equal_stacks_of_one_origin_are_one_group)
{
    char *text;
    int n;

    test_start();
    spawn_here(1000);
    spawn_there(7);
    wait_until_asleep(1007);
    text = dump_now(&n);
    REQUIRE_EQUAL(n, 1007);
    REQUIRE(strstr(text, ": 1000 tasks, spawned at 0x"));
    REQUIRE(strstr(line_with(text, ": 1000 tasks"), " spawn_here+0x"));
    REQUIRE(strstr(line_with(text, ": 1000 tasks"), ", ..."));
    REQUIRE(strstr(line_with(text, ": 7 tasks"), " spawn_there+0x"));
    REQUIRE(strstr(text, ": 1000 tasks") < strstr(text, ": 7 tasks"));
    free(text);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- while everything goes on ---- */

static struct {
    atomic_bool end;
    atomic_ulong cycles;
    struct flow_mutex mutex;
} storm;

/* Frames with rubbish in them, so that a wrong stack pointer does not find the right addresses. */
FRAME int wait_at_depth(uint64_t *random, int depth)
{
    volatile uintptr_t rubbish[8];
    int r = 0;

    for (int i = 0; i < 8; i++)
        rubbish[i] = test_random(random);
    if (depth > 0)
        r = wait_at_depth(random, depth - 1);
    else if (rubbish[0] % 3 == 0)
        r = flow_sleep(FLOW_US(rubbish[1] % 200));
    else if (rubbish[0] % 3 == 1)
        r = flow_yield();
    else if ((r = flow_mutex_lock(&storm.mutex, FLOW_FOREVER)) == 0)
        flow_mutex_unlock(&storm.mutex);
    KEEP;
    return r + (rubbish[7] == 1);
}

FRAME flow_result short_life(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg;

    for (int i = 0; i < 8; i++)
        wait_at_depth(&random, (int)(test_random(&random) % 12));
    return flow_ok(arg);
}

/* Where a frame was that is soon to be there again. */
FRAME void overwrite(uint64_t *random)
{
    volatile uintptr_t rubbish[64];

    for (int round = 0; round < 4; round++)
        for (int i = 0; i < 64; i++)
            rubbish[i] = *random * (uintptr_t)(i + round) | 1;
    *random += rubbish[63] == 0;
}

FRAME int step_aside(uint64_t random)
{
    int r = random % 8 ? flow_yield() : flow_sleep(FLOW_US(1));

    KEEP;
    return r;
}

/* Always suspended at the same stack pointer: that tells nothing. */
FRAME flow_result back_and_forth(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg;

    while (!atomic_load(&storm.end)) {
        step_aside(test_random(&random));
        overwrite(&random);
    }
    return flow_ok(arg);
}

static flow_result spawn_on_and_on(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg;
    struct flow_spawn_options o = FLOW_SPAWN_INIT;

    while (!atomic_load(&storm.end)) {
        flow_task task[16];

        for (int i = 0; i < 16; i++) {
            uint64_t r = test_random(&random);

            o.name = r % 2 ? "short-lived" : NULL;
            o.flags = r % 4 == 3 ? FLOW_ROAM : 0;
            o.stack_bytes = r % 5 ? 0 : 16 * 1024;
            REQUIRE_EQUAL(flow_spawn_with(&task[i], &o, short_life, (void *)(uintptr_t)r), 0);
        }
        for (int i = 0; i < 16; i++)
            REQUIRE_EQUAL(flow_join(task[i], NULL, FLOW_FOREVER), 0);
        atomic_fetch_add(&storm.cycles, 1);
    }
    return flow_ok(arg);
}

/* Every backtrace that is given goes from a function of the library out to the first one. */
static void judge_traces(const char *text, long *n)
{
    for (const char *at = strstr(text, "\ntrace "); at; at = strstr(at + 1, "\ntrace ")) {
        const char *frame = strchr(at + 1, '\n') + 1, *last = NULL;

        for (; !strncmp(frame, "    ", 4); frame = strchr(frame, '\n') + 1)
            last = frame;
        if (!last)
            continue;
        if (!strstr(last, " flow__call+0x") || strstr(last, " flow__call+0x") > frame)
            fprintf(stderr, "this has no end: %.*s\n", (int)(frame - at), at);
        REQUIRE(strstr(last, " flow__call+0x") && strstr(last, " flow__call+0x") < frame);
        ++*n;
    }
}

static void judge_lines(const char *text, int n)
{
    int lines = 0;
    char summary[64];

    for (const char *at = text; !strncmp(at, "task 0x", 7); at = strchr(at, '\n') + 1, lines++) {
        const char *end = strchr(at, '\n'), *site = strstr(at, ", spawned at 0x");

        REQUIRE(site && site < end);
    }
    REQUIRE_EQUAL(lines, n);
    snprintf(summary, sizeof summary, "\n%d tasks on %d workers\n", n, test_workers());
    REQUIRE(strstr(text, summary));
}

static long dump_for_a_while(int64_t span_ns, long *traces)
{
    flow_deadline end = flow_after(span_ns);
    long dumps = 0;

    for (; flow_now() < end || dumps < 3; dumps++) {
        int n;
        char *text = dump_now(&n);

        judge_lines(text, n);
        judge_traces(text, traces);
        free(text);
    }
    return dumps;
}

static void *dump_on_a_thread(void *span)
{
    long traces = 0;

    dump_for_a_while((intptr_t)span, &traces);
    return NULL;
}

static void begin_storm(void)
{
    struct flow_mutex fresh = FLOW_MUTEX_INIT;
    uint64_t seed = test_seed();

    storm.mutex = fresh;
    test_start();
    for (int i = 0; i < 3 * test_workers(); i++)
        REQUIRE_EQUAL(flow_spawn(NULL, spawn_on_and_on, (void *)(uintptr_t)test_random(&seed)), 0);
    for (int i = 0; i < 8 * test_workers(); i++)
        REQUIRE_EQUAL(flow_spawn(NULL, back_and_forth, (void *)(uintptr_t)test_random(&seed)), 0);
}

static void end_storm(void)
{
    atomic_store(&storm.end, true);
    REQUIRE(test_wait_until_empty());
    test_stop();
}

CASE(all_traces_are_true_while_tasks_come_and_go)
{
    pthread_t other;
    int64_t span = FLOW_MS(1500);
    long dumps, traces = 0;

    begin_storm();
    REQUIRE_EQUAL(pthread_create(&other, NULL, dump_on_a_thread, (void *)span), 0);
    dumps = dump_for_a_while(span, &traces);
    REQUIRE_EQUAL(pthread_join(other, NULL), 0);
    end_storm();
    REQUIRE(traces > dumps);
    child_note("%ld dumps beside %lu x 16 tasks, %ld different backtraces, all complete", dumps,
               atomic_load(&storm.cycles), traces);
}

static flow_result dump_in_a_coroutine(void *arg)
{
    char *text = dump_now(NULL);

    REQUIRE(strstr(line_with(text, "\"dumper\""), " running, worker "));
    free(text);
    return flow_ok(arg);
}

/* On the smallest stack, too. */
CASE(a_coroutine_dumps)
{
    struct flow_spawn_options o = FLOW_SPAWN_INIT;
    flow_task task;

    begin_storm();
    o.name = "dumper";
    o.stack_bytes = 16 * 1024;
    for (int i = 0; i < 50; i++) {
        REQUIRE_EQUAL(flow_spawn_with(&task, &o, dump_in_a_coroutine, NULL), 0);
        REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
    }
    end_storm();
}

/* ---- nobody is held up ---- */

static void *dump_into(void *fd)
{
    return (void *)(intptr_t)flow_dump(*(int *)fd);
}

static flow_result end_many_names(void *arg)
{
    for (int i = 0; i < 2000; i++) {
        flow_task task = spawn_named("short", spin, NULL);

        REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
    }
    return flow_ok(arg);
}

/* A dump that cannot write on, for nobody reads, delays no grace period, so no worker. */
CASE(a_dump_that_is_stuck_holds_up_nobody)
{
    pthread_t thread;
    void *result;
    int fds[2], n;

    test_start();
    spawn_here(2000);
    wait_until_asleep(2000);
    REQUIRE_EQUAL(pipe(fds), 0);
    REQUIRE_EQUAL(pthread_create(&thread, NULL, dump_into, &fds[1]), 0);
    WAIT_UNTIL(ioctl(fds[0], FIONREAD, &n) == 0 && n > 4096);
    test_nap(FLOW_MS(20));
    REQUIRE_EQUAL(flow_sync_wait(end_many_names, NULL, NULL, FLOW_FOREVER), 0);
    /* What stops the runtime waits for it, or says that it could not. */
    REQUIRE_EQUAL(flow_stop(flow_after(FLOW_MS(200))), -EBUSY);
    signal(SIGPIPE, SIG_IGN);
    close(fds[0]);
    REQUIRE_EQUAL(pthread_join(thread, &result), 0);
    REQUIRE_EQUAL((intptr_t)result, -EPIPE);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- errors ---- */

static void *no_memory(size_t bytes, int prot, int flags)
{
    (void)bytes, (void)prot, (void)flags;
    return NULL;
}

/* Lines there are without any memory. */
CASE(without_memory_there_are_no_backtraces)
{
    char *text;
    int n;

    test_start();
    spawn_here(300);
    wait_until_asleep(300);
    flow__sys.map = no_memory;
    text = dump_now(&n);
    flow__sys.map = flow__sys_real.map;
    REQUIRE_EQUAL(n, 300);
    judge_lines(text, n);
    REQUIRE(strstr(text, "waiting, waits for sleep since "));
    REQUIRE(!strstr(text, "trace"));
    free(text);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

CASE(a_write_that_fails_ends_it)
{
    int fds[2];

    signal(SIGPIPE, SIG_IGN);
    REQUIRE_EQUAL(flow_dump(2), -ESHUTDOWN);
    test_start();
    spawn_here(300);
    REQUIRE_EQUAL(pipe(fds), 0);
    close(fds[0]);
    REQUIRE_EQUAL(flow_dump(fds[1]), -EPIPE);
    REQUIRE_EQUAL(flow_dump(-1), -EBADF);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_dump(2), -ESHUTDOWN);
}

/* ---- by a signal ---- */

static void start_with_signal(int workers, int signo)
{
    struct flow_options o = test_options();

    o.workers = workers;
    o.dump_signal = signo;
    test_start_with(&o);
}

static flow_result ask_for_dumps(void *arg)
{
    for (int i = 0; i < 100; i++) {
        kill(getpid(), SIGQUIT);
        flow_yield();
    }
    return flow_ok(arg);
}

/* Many times, in whatever everybody is doing; and the program goes on. */
CHILD(signals)
{
    start_with_signal(atoi(arg), SIGQUIT);
    spawn_named("the-sleeper", sleeper, NULL);
    while (flow_drive(FLOW_NOW) > 0)
        ;
    free(dump_until((const char *const[]){"waits for sleep"}, 1));
    kill(getpid(), SIGQUIT);
    test_nap(FLOW_MS(300));
    REQUIRE_EQUAL(flow_sync_wait(ask_for_dumps, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE(signal(SIGQUIT, SIG_DFL) == SIG_DFL);
}

static void judge_signals(const char *workers)
{
    static struct child_end end;
    int n = 0;

    child_run(&end, "signals", workers);
    child_must_exit(&end, 0);
    child_must_say(&end, "flowcoro: the live tasks, as asked for by a signal\n");
    child_must_say(&end, "\"the-sleeper\" waiting, waits for sleep");
    child_must_say(&end, " sleep_inside+0x");
    for (const char *at = end.text; (at = strstr(at, "as asked for by a signal")); at++)
        n++;
    assert_in_range(n, 1, 101); /* one for each, or for several */
}

JUDGED(a_signal_asks_for_a_dump)
{
    judge_signals("2");
}

JUDGED(a_signal_asks_for_a_dump_where_there_is_no_worker)
{
    judge_signals("0");
}

/* In all of the program's threads, as where one of them waits for signals. */
CASE(a_signal_that_the_program_blocks_asks_for_a_dump)
{
    struct pollfd dump = {.events = POLLIN};
    int fds[2], as_before = dup(STDERR_FILENO);
    sigset_t all;

    if (TEST_TSAN)
        skip_case("ThreadSanitizer delivers signals later");
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    REQUIRE_EQUAL(pipe(fds), 0);
    start_with_signal(test_workers(), SIGQUIT);
    REQUIRE(dup2(fds[1], STDERR_FILENO) == STDERR_FILENO);
    REQUIRE_EQUAL(kill(getpid(), SIGQUIT), 0);
    dump.fd = fds[0];
    poll(&dump, 1, 20000);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE(dup2(as_before, STDERR_FILENO) == STDERR_FILENO);
    REQUIRE(dump.revents & POLLIN);
}

static void other_handler(int unused)
{
    (void)unused;
}

CASE(the_signal_is_given_back)
{
    static const int bad[] = {SIGSEGV, SIGABRT, SIGKILL, SIGSTOP, SIGFPE, 32};
    struct flow_options o = test_options();

    signal(SIGUSR1, other_handler);
    start_with_signal(test_workers(), SIGUSR1);
    REQUIRE(signal(SIGUSR1, SIG_IGN) != other_handler);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE(signal(SIGUSR1, other_handler) == SIG_IGN); /* the program had taken it */
    start_with_signal(test_workers(), SIGUSR1);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
    REQUIRE(signal(SIGUSR1, SIG_DFL) == other_handler);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        o.dump_signal = bad[i];
        REQUIRE_EQUAL(flow_start(&o), -EINVAL);
        REQUIRE(strstr(flow_start_error(), "dump_signal"));
    }
    REQUIRE_EQUAL(flow_options_parse(&o, "dump_signal=65"), -EINVAL);
    REQUIRE_EQUAL(flow_options_parse(&o, "dump_signal=3"), 0);
    REQUIRE_EQUAL(o.dump_signal, SIGQUIT);
}

/* It has no thread that could dump. */
CASE(the_signal_is_the_programs_in_a_child_of_fork)
{
    struct sigaction now;
    int status;
    pid_t child;

    signal(SIGUSR1, other_handler);
    start_with_signal(test_workers(), SIGUSR1);
    child = fork();
    if (child == 0)
        _exit(sigaction(SIGUSR1, NULL, &now) || now.sa_handler != other_handler);
    REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    REQUIRE_EQUAL(sigaction(SIGUSR1, NULL, &now), 0);
    REQUIRE(now.sa_handler != other_handler);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- what is left at a stop ---- */

FRAME void spawn_unjoined(int n)
{
    flow_task task;

    for (int i = 0; i < n; i++)
        REQUIRE_EQUAL(flow_spawn(&task, spin, NULL), 0);
}

FRAME flow_result deaf(void *arg)
{
    struct flow_ambient shield = FLOW_AMBIENT_INIT;

    flow_shield_begin(&shield);
    sleep_inside();
    flow_shield_end(&shield);
    return flow_ok(arg);
}

static void start_with_report(bool on)
{
    struct flow_options o = test_options();

    o.report_leaks = on;
    test_start_with(&o);
}

CHILD(leaks)
{
    flow_task task;

    start_with_report(strcmp(arg, "unasked"));
    spawn_here(20);
    wait_until_asleep(20);
    spawn_unjoined(30);
    REQUIRE_EQUAL(flow_spawn(&task, deaf, NULL), 0);
    WAIT_UNTIL(test_stats().live == 21);
    wait_until_asleep(21);
    REQUIRE_EQUAL(flow_stop(flow_after(FLOW_MS(500))), 1);
}

static void must_group(const char *text, const char *head, const char *group, const char *site)
{
    const char *at = strstr(text, head), *end;

    if (!at)
        print_error("no \"%s\" in %s\n", head, text);
    assert_non_null(at);
    end = strstr(at + 10, "flowcoro: ");
    at = strstr(at, group);
    assert_true(at && (!end || at < end));
    assert_true(strstr(at, site) && strstr(at, site) < strchr(at, '\n'));
}

JUDGED(the_report_of_leaks)
{
    static struct child_end end;

    child_run(&end, "leaks", "");
    child_must_exit(&end, 0);
    must_group(end.text, "flowcoro: 21 tasks were alive when", ": 20 tasks, spawned at", "spawn_here+");
    child_must_say(&end, " sleep_inside+0x");
    must_group(end.text, "flowcoro: 1 tasks have not ended", ": 1 task, spawned at", "leaks+");
    child_must_say(&end, " deaf+0x");
    must_group(end.text, "flowcoro: 30 tasks have ended and", ": 30 tasks, spawned at", "spawn_unjoined+");
}

JUDGED(nobody_asked_for_it)
{
    static struct child_end end;

    child_run(&end, "leaks", "unasked");
    child_must_exit(&end, 0);
    assert_null(strstr(end.text, "flowcoro:"));
}

static flow_result joins_its_own(void *arg)
{
    flow_task task;

    REQUIRE_EQUAL(flow_spawn(&task, spin, NULL), 0);
    REQUIRE_EQUAL(flow_join(task, NULL, FLOW_FOREVER), 0);
    REQUIRE_EQUAL(flow_spawn(&task, spin, NULL), 0);
    REQUIRE_EQUAL(flow_detach(task), 0);
    return flow_ok(arg);
}

CHILD(no_leaks)
{
    (void)arg;
    start_with_report(true);
    REQUIRE_EQUAL(flow_sync_wait(joins_its_own, NULL, NULL, FLOW_FOREVER), 0);
    REQUIRE(test_wait_until_empty());
    test_stop();
}

JUDGED(nothing_is_left)
{
    static struct child_end end;

    child_run(&end, "no_leaks", "");
    child_must_exit(&end, 0);
    assert_null(strstr(end.text, "flowcoro:"));
}

/* ---- what a core file would have ---- */

/* Bytes of the mappings that it takes whole. */
static size_t dumpable_bytes(void)
{
    FILE *file = fopen("/proc/self/smaps", "r");
    unsigned long from, to;
    size_t sum = 0, bytes = 0;
    char line[512];

    REQUIRE(file);
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            bytes = to - from;
        else if (!strncmp(line, "VmFlags:", 8) && !strstr(line, " dd"))
            sum += bytes;
    }
    fclose(file);
    return sum;
}

/* Of the stacks only those that were handed out, not the reservation of a terabyte or two. */
CASE(a_core_file_has_the_stacks_that_were_used)
{
    struct flow_options o = test_options();
    size_t before, started, many;

    if (TEST_SANITIZED)
        skip_case("a sanitizer's shadow is larger than all");
    if (TEST_EMULATED)
        skip_case("the emulator's smaps do not say what a core file takes");
    before = dumpable_bytes();
    o.max_tasks = 10000;
    test_start_with(&o);
    started = dumpable_bytes();
    REQUIRE(started - before < (size_t)1 << 30);
    spawn_here(5000);
    wait_until_asleep(5000);
    many = dumpable_bytes();
    REQUIRE(many - started >= 5000 * (size_t)64 * 1024);
    REQUIRE(many - started < 4 * 5000 * (size_t)64 * 1024);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

/* ---- very many ---- */

CASE(very_many_tasks)
{
    long room = sysconf(_SC_AVPHYS_PAGES) / 4; /* one page each, and what belongs to it */
    int many = TEST_ROUNDS(100000, 5000), n, null;
    int64_t begun, span;

    many = many < room ? many : (int)room;
    test_limit(120);
    test_start();
    spawn_here(many);
    WAIT_UNTIL(test_stats().total.timers_armed >= (uint64_t)many);
    null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    begun = flow_now();
    n = flow_dump(null);
    span = flow_now() - begun;
    REQUIRE_EQUAL(n, many);
    child_note("a dump of %d sleeping tasks took %.3f s", n, (double)span / 1e9);
    REQUIRE_EQUAL(flow_stop(FLOW_FOREVER), 0);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
