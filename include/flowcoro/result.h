/* SPDX-License-Identifier: MIT
 *
 * What a task returns: a value or a negative errno, 16 bytes, in two registers.
 * All of it is inline; nothing here needs the runtime. */
#ifndef FLOWCORO_RESULT_H
#define FLOWCORO_RESULT_H

#include <stdbool.h>
#include <stdint.h>

typedef struct flow_result {
    int error; /* 0, or a negative errno; then the value means nothing */
    union {
        void *ptr;
        int64_t i64;
        uint64_t u64;
        double f64;
    };
} flow_result;

static inline flow_result flow_ok(void *ptr)
{
    flow_result r;
    r.error = 0;
    r.ptr = ptr;
    return r;
}

static inline flow_result flow_ok_i64(int64_t n)
{
    flow_result r;
    r.error = 0;
    r.i64 = n;
    return r;
}

static inline flow_result flow_ok_u64(uint64_t n)
{
    flow_result r;
    r.error = 0;
    r.u64 = n;
    return r;
}

static inline flow_result flow_ok_f64(double x)
{
    flow_result r;
    r.error = 0;
    r.f64 = x;
    return r;
}

/* A failure. error is a negative errno; 0 is not a failure and becomes -22
 * (-EINVAL), so that an error can never turn into a success by accident. */
static inline flow_result flow_err(int error)
{
    flow_result r;
    r.error = error ? error : -22;
    r.u64 = 0;
    return r;
}

static inline bool flow_is_ok(flow_result r)
{
    return r.error == 0;
}

static inline bool flow_is_err(flow_result r)
{
    return r.error != 0;
}

/* The value of a success. On a failure it stops the program (a trap): use it
 * where an error is impossible, flow_unwrap_or where it is not. */
static inline void *flow_unwrap(flow_result r)
{
    if (r.error)
        __builtin_trap();
    return r.ptr;
}

static inline int64_t flow_unwrap_i64(flow_result r)
{
    if (r.error)
        __builtin_trap();
    return r.i64;
}

static inline uint64_t flow_unwrap_u64(flow_result r)
{
    if (r.error)
        __builtin_trap();
    return r.u64;
}

static inline double flow_unwrap_f64(flow_result r)
{
    if (r.error)
        __builtin_trap();
    return r.f64;
}

/* The error of a failure; stops the program on a success. */
static inline int flow_unwrap_err(flow_result r)
{
    if (!r.error)
        __builtin_trap();
    return r.error;
}

/* The value, or the fallback if there is none. */
static inline void *flow_unwrap_or(flow_result r, void *fallback)
{
    return r.error ? fallback : r.ptr;
}

static inline int64_t flow_unwrap_or_i64(flow_result r, int64_t fallback)
{
    return r.error ? fallback : r.i64;
}

static inline uint64_t flow_unwrap_or_u64(flow_result r, uint64_t fallback)
{
    return r.error ? fallback : r.u64;
}

static inline double flow_unwrap_or_f64(flow_result r, double fallback)
{
    return r.error ? fallback : r.f64;
}

/* Applies f to the value of a success; passes a failure through untouched.
 * context is handed to f as it is. */
static inline flow_result flow_map(flow_result r, void *(*f)(void *value, void *context),
                                   void *context)
{
    return r.error ? r : flow_ok(f(r.ptr, context));
}

/* Goes on with f, which may itself fail; passes a failure through untouched. */
static inline flow_result
flow_and_then(flow_result r, flow_result (*f)(flow_result value, void *context), void *context)
{
    return r.error ? r : f(r, context);
}

#endif
