/* SPDX-License-Identifier: MIT
 *
 * See the header. */
#include "core/text.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

void flow__text_flush(struct flow__text *t)
{
    int kept = errno;
    size_t done = 0;

    while (done < t->n && !t->error) {
        ssize_t n = write(t->fd, t->bytes + done, t->n - done);

        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR)
            t->error = -errno;
    }
    t->n = 0;
    errno = kept;
}

static void add(struct flow__text *t, const char *s, size_t n)
{
    while (n > t->capacity - t->n) {
        size_t part = t->capacity - t->n;

        memcpy(t->bytes + t->n, s, part);
        t->n += part;
        if (t->fd < 0)
            return;
        flow__text_flush(t);
        s += part;
        n -= part;
    }
    memcpy(t->bytes + t->n, s, n);
    t->n += n;
}

void flow__text_add(struct flow__text *t, const char *s)
{
    add(t, s, strlen(s));
}

void flow__text_name(struct flow__text *t, const char *name)
{
    add(t, "\"", 1);
    for (; *name; name++) {
        bool is_control = (unsigned char)*name < ' ' || *name == 0x7f;

        add(t, is_control ? "?" : name, 1);
    }
    add(t, "\"", 1);
}

/* Inline for each base: a division by a constant is a tenth of one by a variable. */
static inline __attribute__((always_inline)) void add_number(struct flow__text *t, uint64_t v,
                                                             unsigned base)
{
    char digits[24];
    size_t i = sizeof digits;

    do
        digits[--i] = "0123456789abcdef"[v % base];
    while (v /= base);
    add(t, digits + i, sizeof digits - i);
}

void flow__text_number(struct flow__text *t, uint64_t v)
{
    add_number(t, v, 10);
}

void flow__text_hex(struct flow__text *t, uint64_t v)
{
    add(t, "0x", 2);
    add_number(t, v, 16);
}

void flow__text_span(struct flow__text *t, int64_t ns)
{
    uint64_t us = ns > 0 ? (uint64_t)ns / 1000 : 0;

    flow__text_number(t, us < 1000 ? us : us / 1000);
    add(t, us < 1000 ? " us" : " ms", 3);
}
