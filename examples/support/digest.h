/* SPDX-License-Identifier: MIT
 *
 * What `wc` and zlib's crc32() would say about a stream of bytes, computed
 * chunk by chunk. Pure computation: no I/O, no library call, never suspends. */
#ifndef EXAMPLES_SUPPORT_DIGEST_H
#define EXAMPLES_SUPPORT_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct digest {
    uint64_t bytes;
    uint64_t lines; /* newline characters, so a last line without one is not counted */
    uint64_t words; /* as `LC_ALL=C wc -w` of GNU coreutils 9.1 */
    uint32_t crc;   /* CRC-32 of zlib, gzip, PNG */
    bool in_word;   /* the stream so far ends inside a word */
};

/* Builds the tables. Once, before the first digest_add, by one thread. */
void digest_prepare(void);

/* Takes in the next chunk of the stream. *digest starts as all zeroes. */
void digest_add(struct digest *digest, const void *chunk, size_t n_bytes);

#endif
