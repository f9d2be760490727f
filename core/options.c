/* SPDX-License-Identifier: MIT
 *
 * Options: one table of names, ranges and places serves parsing and checking. Runs
 * on the thread that starts the runtime. */
#include "core/options.h"

#include "core/worker.h"
#include "numa/id_list.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STALL_LEAST FLOW_MS(1)
#define STALL_MOST  FLOW_S(60)

static char error_text[256];

const char *flow_start_error(void)
{
    return error_text;
}

void flow__start_succeeded(void)
{
    error_text[0] = 0;
}

int flow__start_failed(int error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(error_text, sizeof error_text, format, args);
    va_end(args);
    return error;
}

enum kind { NUMBER, SWITCH, BYTES, SPAN, NODES, SEED };

static const struct option {
    const char *name;
    size_t offset;
    enum kind kind;
    int64_t least, most;
} table[] = {
    {"workers", offsetof(struct flow_options, workers), NUMBER, FLOW_WORKERS_AUTO,
     FLOW__MAX_WORKERS},
    {"workers_per_node", offsetof(struct flow_options, workers_per_node), NUMBER, 0,
     FLOW__MAX_WORKERS},
    {"leave_cpus", offsetof(struct flow_options, leave_cpus), NUMBER, 0, FLOW__MAX_ID},
    {"nodes", offsetof(struct flow_options, nodes), NODES, INT64_MIN, INT64_MAX},
    {"no_pinning", offsetof(struct flow_options, no_pinning), SWITCH, 0, 1},
    {"unguarded_ok", offsetof(struct flow_options, unguarded_ok), SWITCH, 0, 1},
    {"roam", offsetof(struct flow_options, roam), SWITCH, 0, 1},
    {"no_fork_stacks", offsetof(struct flow_options, no_fork_stacks), SWITCH, 0, 1},
    {"no_fatal_report", offsetof(struct flow_options, no_fatal_report), SWITCH, 0, 1},
    {"measure_stacks", offsetof(struct flow_options, measure_stacks), SWITCH, 0, 1},
    {"report_leaks", offsetof(struct flow_options, report_leaks), SWITCH, 0, 1},
    {"stack_bytes", offsetof(struct flow_options, stack_bytes), BYTES, 16 * 1024, 1024 * 1024},
    {"max_tasks", offsetof(struct flow_options, max_tasks), BYTES, 1, 67000000},
    {"spin_ns", offsetof(struct flow_options, spin_ns), SPAN, 0, 1000000},
    {"stall_ns", offsetof(struct flow_options, stall_ns), SPAN, 0, STALL_MOST},
    {"dump_signal", offsetof(struct flow_options, dump_signal), NUMBER, 0, 64},
    {"shuffle", offsetof(struct flow_options, shuffle), SEED, 0, INT64_MAX},
};

static int64_t get(const struct flow_options *o, const struct option *entry)
{
    const char *at = (const char *)o + entry->offset;

    switch (entry->kind) {
    case NUMBER:
        return *(const int *)at;
    case SWITCH:
        return *(const unsigned char *)at;
    case BYTES:
        return *(const size_t *)at > INT64_MAX ? INT64_MAX : (int64_t) * (const size_t *)at;
    default:
        return *(const int64_t *)at;
    }
}

static void set(struct flow_options *o, const struct option *entry, int64_t value)
{
    char *at = (char *)o + entry->offset;

    switch (entry->kind) {
    case NUMBER:
        *(int *)at = (int)value;
        break;
    case SWITCH:
        *(bool *)at = value;
        break;
    case BYTES:
        *(size_t *)at = (size_t)value;
        break;
    case SPAN:
    case NODES:
    case SEED:
        *(int64_t *)at = value;
        break;
    }
}

static int not_in_range(const struct option *entry, int64_t value)
{
    return flow__start_failed(-EINVAL, "option %s is %lld: it must be from %lld to %lld", entry->name,
                              (long long)value, (long long)entry->least, (long long)entry->most);
}

static int check(const struct flow_options *o)
{
    if (o->size != sizeof *o)
        return flow__start_failed(
            -EINVAL, "flow_options.size is %zu, not %zu: initialise with FLOW_OPTIONS_INIT",
            o->size, sizeof *o);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        int64_t value = get(o, &table[i]);

        if (value < table[i].least || value > table[i].most)
            return not_in_range(&table[i], value);
    }
    if (o->workers != FLOW_WORKERS_AUTO && o->workers_per_node)
        return flow__start_failed(-EINVAL,
                                  "options workers and workers_per_node exclude each other");
    if (o->stack_bytes & (o->stack_bytes - 1))
        return flow__start_failed(-EINVAL, "option stack_bytes is %zu: it must be a power of two",
                                  o->stack_bytes);
    if (o->stall_ns > 0 && o->stall_ns < STALL_LEAST)
        return flow__start_failed(
            -EINVAL, "option stall_ns is %lld: it must be 0 or from %lld to %lld",
            (long long)o->stall_ns, (long long)STALL_LEAST, (long long)STALL_MOST);
    return 0;
}

/* The factor of a suffix, or 0 if it is none of this kind. */
static int64_t factor(enum kind kind, const char *suffix, size_t n)
{
    static const struct {
        const char *text;
        enum kind kind;
        int64_t factor;
    } known[] = {
        {"K", BYTES, 1024},     {"M", BYTES, 1024 * 1024}, {"G", BYTES, 1024 * 1024 * 1024},
        {"ns", SPAN, 1},        {"us", SPAN, 1000},        {"ms", SPAN, 1000000},
        {"s", SPAN, 1000000000}};

    if (n == 0)
        return 1;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].kind == kind && strlen(known[i].text) == n &&
            !memcmp(known[i].text, suffix, n))
            return known[i].factor;
    return 0;
}

static int not_a_value(const struct option *entry, const char *text, size_t n)
{
    return flow__start_failed(-EINVAL, "option %s: \"%.*s\" is not a value for it", entry->name,
                              (int)n, text);
}

/* "0+2-3", in any order. Commas separate options already. */
static int parse_nodes(const char *text, size_t n, int64_t *out)
{
    const char *at = text, *end = text + n;
    uint64_t nodes = 0;

    for (;;) {
        int first = flow__parse_id(&at, 63), last = first;

        if (at < end && *at == '-') {
            at++;
            last = flow__parse_id(&at, 63);
        }
        if (first < 0 || last < first)
            return -EINVAL;
        nodes |= UINT64_MAX >> (63 - last) & UINT64_MAX << first;
        if (at == end)
            break;
        if (*at++ != '+')
            return -EINVAL;
    }
    *out = (int64_t)nodes;
    return 0;
}

static int parse_value(const struct option *entry, const char *text, size_t n, int64_t *out)
{
    char *end;
    long long value;
    int64_t times;

    if (entry->least == FLOW_WORKERS_AUTO && n == 4 && !memcmp(text, "auto", 4)) {
        *out = FLOW_WORKERS_AUTO;
        return 0;
    }
    if (entry->kind == NODES && n == 3 && !memcmp(text, "all", 3)) {
        *out = 0;
        return 0;
    }
    if (entry->kind == NODES)
        return parse_nodes(text, n, out) ? not_a_value(entry, text, n) : 0;
    errno = 0;
    value = strtoll(text, &end, 10);
    times = end > text && end <= text + n ? factor(entry->kind, end, (size_t)(text + n - end)) : 0;
    if (n == 0 || isspace((unsigned char)*text) || errno || times == 0 || __builtin_mul_overflow(value, times, out))
        return not_a_value(entry, text, n);
    return 0;
}

/* Two that exclude each other: the one that comes last counts. */
static void drop_rival(struct flow_options *o, const struct option *entry, int64_t value)
{
    if (entry->offset == offsetof(struct flow_options, workers))
        o->workers_per_node = 0;
    if (entry->offset == offsetof(struct flow_options, workers_per_node) && value)
        o->workers = FLOW_WORKERS_AUTO;
}

static const struct option *find(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strlen(table[i].name) == n && !memcmp(table[i].name, name, n))
            return &table[i];
    return NULL;
}

static int set_from_text(struct flow_options *o, const struct option *entry, const char *text,
                         size_t n)
{
    int64_t value = 0;
    int r = parse_value(entry, text, n, &value);

    if (r)
        return r;
    if (value < entry->least || value > entry->most)
        return not_in_range(entry, value);
    set(o, entry, value);
    drop_rival(o, entry, value);
    return 0;
}

static int parse_pair(struct flow_options *o, const char *text, size_t n)
{
    const char *equals = memchr(text, '=', n);
    size_t name_bytes = equals ? (size_t)(equals - text) : n;
    const struct option *entry = find(text, name_bytes);

    if (!entry)
        return flow__start_failed(-EINVAL, "there is no option \"%.*s\"", (int)name_bytes, text);
    if (!equals)
        return flow__start_failed(-EINVAL, "option %s has no value", entry->name);
    return set_from_text(o, entry, equals + 1, n - name_bytes - 1);
}

int flow_options_parse(struct flow_options *options, const char *text)
{
    static const char separators[] = " ,\t\n";
    struct flow_options changed;
    int r;

    if (!options || !text)
        return flow__start_failed(-EINVAL, "flow_options_parse: an argument is NULL");
    changed = *options;
    for (text += strspn(text, separators); *text; text += strspn(text, separators)) {
        size_t n = strcspn(text, separators);

        r = parse_pair(&changed, text, n);
        if (r)
            return r;
        text += n;
    }
    r = check(&changed);
    if (r)
        return r;
    *options = changed;
    flow__start_succeeded();
    return 0;
}

/* All of it is one value. */
static int read_variable(struct flow_options *out, const char *variable, const char *option)
{
    const char *value = getenv(variable);

    if (!value || !*value)
        return 0;
    return set_from_text(out, find(option, strlen(option)), value, strlen(value));
}

int flow__options_read(struct flow_options *out, const struct flow_options *given)
{
    const char *more = getenv("FLOW_OPTIONS");
    int r;

    *out = given ? *given : (struct flow_options)FLOW_OPTIONS_INIT;
    r = check(out);
    if (!r)
        r = read_variable(out, "FLOW_WORKERS", "workers");
    if (!r)
        r = read_variable(out, "FLOW_SHUFFLE", "shuffle");
    if (!r && more)
        r = flow_options_parse(out, more);
    return r;
}
