/* SPDX-License-Identifier: MIT
 *
 * Output buffers, and the two ways in which a file name is made fit to print. */
#include "text.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool make_room(struct text *text, size_t n_bytes)
{
    if (text->capacity - text->used >= n_bytes)
        return true;
    size_t capacity = text->capacity ? text->capacity : 1024;
    while (capacity - text->used < n_bytes)
        capacity *= 2;
    char *data = realloc(text->data, capacity);
    if (!data) {
        text->out_of_memory = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void text_add(struct text *text, const char *data, size_t n_bytes)
{
    if (!make_room(text, n_bytes))
        return;
    memcpy(text->data + text->used, data, n_bytes);
    text->used += n_bytes;
}

void text_addf(struct text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0 || !make_room(text, (size_t)length + 1))
        return;
    va_start(arguments, format);
    vsnprintf(text->data + text->used, (size_t)length + 1, format, arguments);
    va_end(arguments);
    text->used += (size_t)length;
}

void text_add_name(struct text *text, const char *name)
{
    for (const unsigned char *p = (const unsigned char *)name; *p; p++) {
        if (*p == '\\')
            text_add(text, "\\\\", 2);
        else if (*p == '\n')
            text_add(text, "\\n", 2);
        else if (*p == '\t')
            text_add(text, "\\t", 2);
        else if (*p < ' ' || *p == 0x7f)
            text_addf(text, "\\%03o", *p);
        else
            text_add(text, (const char *)p, 1);
    }
}

/* Length of the UTF-8 sequence at p, 0 if there is no valid one. The string's
 * terminating zero is no continuation byte, so nothing is read beyond it. */
static size_t utf8_length(const unsigned char *p)
{
    if (p[0] < 0x80)
        return 1;
    size_t length = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    bool surrogate = p[0] == 0xed && p[1] > 0x9f;
    bool too_big = p[0] == 0xf4 && p[1] > 0x8f;
    return overlong || surrogate || too_big ? 0 : length;
}

void text_add_json_path(struct text *text, const char *path)
{
    bool exact = true;
    text_add(text, "\"path\":\"", 8);
    for (const unsigned char *p = (const unsigned char *)path; *p;) {
        size_t length = utf8_length(p);
        if (length == 0) {
            text_addf(text, "\\ufffd");
            exact = false;
            length = 1;
        } else if (*p == '"' || *p == '\\') {
            text_addf(text, "\\%c", *p);
        } else if (*p < ' ') {
            text_addf(text, "\\u%04x", *p);
        } else {
            text_add(text, (const char *)p, length);
        }
        p += length;
    }
    text_add(text, "\"", 1);
    if (exact)
        return;
    text_add(text, ",\"path_hex\":\"", 13);
    for (const unsigned char *p = (const unsigned char *)path; *p; p++)
        text_addf(text, "%02x", *p);
    text_add(text, "\"", 1);
}

static int write_some(int fd, const char *data, size_t n_bytes, size_t *written)
{
    ssize_t n = write(fd, data, n_bytes);
    if (n >= 0) {
        *written = (size_t)n;
        return 0;
    }
    *written = 0;
    if (errno == EINTR)
        return 0;
    if (errno != EAGAIN)
        return -errno;
    /* Somebody who shares the terminal made it non-blocking. */
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    poll(&ready, 1, -1);
    return 0;
}

int text_write(struct text *text, int fd)
{
    size_t done = 0;
    int error = text->out_of_memory ? -ENOMEM : 0;
    while (!error && done < text->used) {
        size_t written;
        error = write_some(fd, text->data + done, text->used - done, &written);
        done += written;
    }
    text->used = 0;
    return error;
}

void text_free(struct text *text)
{
    free(text->data);
    *text = (struct text){0};
}

char *text_group(char *buffer, uint64_t n)
{
    char digits[21];
    int length = snprintf(digits, sizeof digits, "%" PRIu64, n);
    char *out = buffer;
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            *out++ = ',';
        *out++ = digits[i];
    }
    *out = '\0';
    return buffer;
}
