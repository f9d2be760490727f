/* SPDX-License-Identifier: MIT
 *
 * Lines, words and CRC-32. Both loops are table-driven and free of branches
 * that depend on the data, so that text and binary files cost the same. */
#include "digest.h"

#define CRC_POLYNOMIAL UINT32_C(0xedb88320)

/* Bits of a byte's class. White space has none of them. */
enum {
    BEGINS = 1, /* printable: a word begins or goes on */
    KEEPS = 2,  /* neither printable nor white space: leaves the state as it is */
};

static uint8_t byte_class[256];
static uint32_t crc_table[8][256]; /* [k]: the CRC of a byte followed by k zero bytes */

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

static void prepare_crc(void)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? CRC_POLYNOMIAL : 0);
        crc_table[0][byte] = crc;
    }
    for (unsigned k = 1; k < 8; k++) {
        for (unsigned byte = 0; byte < 256; byte++) {
            uint32_t crc = crc_table[k - 1][byte];
            crc_table[k][byte] = (crc >> 8) ^ crc_table[0][crc & 0xff];
        }
    }
}

void digest_prepare(void)
{
    prepare_classes();
    prepare_crc();
}

/* Byte by byte, so that the host's byte order does not matter; a little-endian
 * compiler makes one load of it. */
static uint32_t load_le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t crc_add(uint32_t crc, const uint8_t *p, size_t n_bytes)
{
    crc = ~crc;
    for (; n_bytes >= 8; p += 8, n_bytes -= 8) {
        uint32_t low = load_le32(p) ^ crc;
        uint32_t high = load_le32(p + 4);
        crc = crc_table[7][low & 0xff] ^ crc_table[6][low >> 8 & 0xff] ^
              crc_table[5][low >> 16 & 0xff] ^ crc_table[4][low >> 24] ^
              crc_table[3][high & 0xff] ^ crc_table[2][high >> 8 & 0xff] ^
              crc_table[1][high >> 16 & 0xff] ^ crc_table[0][high >> 24];
    }
    for (; n_bytes; p++, n_bytes--)
        crc = (crc >> 8) ^ crc_table[0][(crc ^ *p) & 0xff];
    return ~crc;
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
    digest->crc = crc_add(digest->crc, chunk, n_bytes);
}
