/* SPDX-License-Identifier: MIT
 *
 * Lines, words and CRC-32 (zlib's). The word loop is table-driven and free of branches
 * that depend on the data, so that text and binary files cost the same. */
#include "digest.h"

#include <zlib.h>

/* Bits of a byte's class. White space has none of them. */
enum {
    BEGINS = 1, /* printable: a word begins or goes on */
    KEEPS = 2,  /* neither printable nor white space: leaves the state as it is */
};

static uint8_t byte_class[256];

static bool is_white(unsigned byte)
{
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

static void prepare_classes(void)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        if (is_white(byte))
            byte_class[byte] = 0;
        else if (byte > ' ' && byte < 0x7f)
            byte_class[byte] = BEGINS;
        else
            byte_class[byte] = KEEPS;
    }
}

void digest_prepare(void)
{
    prepare_classes();
}

static uint64_t count_lines(const uint8_t *p, size_t n_bytes)
{
    uint64_t lines = 0;
    for (size_t i = 0; i < n_bytes; i++)
        lines += p[i] == '\n';
    return lines;
}

static uint64_t count_words(const uint8_t *p, size_t n_bytes, bool *in_word)
{
    uint64_t words = 0;
    unsigned inside = *in_word;
    for (size_t i = 0; i < n_bytes; i++) {
        unsigned class = byte_class[p[i]];
        words += class & BEGINS & ~inside;
        inside = (class & BEGINS) | (inside & class >> 1);
    }
    *in_word = inside;
    return words;
}

void digest_add(struct digest *digest, const void *chunk, size_t n_bytes)
{
    digest->bytes += n_bytes;
    digest->lines += count_lines(chunk, n_bytes);
    digest->words += count_words(chunk, n_bytes, &digest->in_word);
    digest->crc = (uint32_t)crc32_z(digest->crc, chunk, n_bytes);
}
