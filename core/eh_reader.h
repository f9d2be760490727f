/* SPDX-License-Identifier: MIT
 *
 * The numbers and pointers of .eh_frame and .eh_frame_hdr, one after the other. Never beyond `end`:
 * who asks for more gets zero, and `bad` is set for good. */
#ifndef FLOW_CORE_EH_READER_H
#define FLOW_CORE_EH_READER_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct flow__eh_reader {
    const unsigned char *at, *end;
    bool bad;
};

static inline uint64_t flow__eh_take(struct flow__eh_reader *r, unsigned bytes)
{
    uint64_t v = 0;

    if ((size_t)(r->end - r->at) < bytes) {
        r->bad = true;
        r->at = r->end;
        return 0;
    }
    memcpy(&v, r->at, bytes);
    r->at += bytes;
    return v;
}

/* LEB128: 7 bits a byte, the lowest first. Returns how many bits there were; *last: the last byte. */
static inline unsigned flow__eh_take_leb(struct flow__eh_reader *r, uint64_t *v, uint64_t *last)
{
    unsigned shift = 0;

    *v = 0;
    do {
        *last = flow__eh_take(r, 1);
        if (shift < 64)
            *v |= (*last & 127) << shift;
        shift += 7;
    } while (*last & 128);
    return shift;
}

static inline uint64_t flow__eh_take_uleb(struct flow__eh_reader *r)
{
    uint64_t v, last;

    flow__eh_take_leb(r, &v, &last);
    return v;
}

static inline int64_t flow__eh_take_sleb(struct flow__eh_reader *r)
{
    uint64_t v, last;
    unsigned bits = flow__eh_take_leb(r, &v, &last);

    return (int64_t)(bits < 64 && last & 64 ? v | ~(uint64_t)0 << bits : v);
}

static inline void flow__eh_skip(struct flow__eh_reader *r, uint64_t bytes)
{
    if (bytes > (uint64_t)(r->end - r->at)) {
        r->bad = true;
        bytes = (uint64_t)(r->end - r->at);
    }
    r->at += bytes;
}

/* A pointer in the encoding of .eh_frame; only those relative to their own place, or absolute. */
static inline uintptr_t flow__eh_take_pointer(struct flow__eh_reader *r, unsigned encoding)
{
    uintptr_t base = (uintptr_t)r->at, v;

    switch (encoding & 15) {
    case 0:  /* DW_EH_PE_absptr */
    case 4:  /* udata8 */
    case 12: /* sdata8 */
        v = flow__eh_take(r, 8);
        break;
    case 3: /* udata4 */
        v = flow__eh_take(r, 4);
        break;
    case 11: /* sdata4 */
        v = (uintptr_t)(int64_t)(int32_t)flow__eh_take(r, 4);
        break;
    default:
        r->bad = true;
        return 0;
    }
    switch (encoding & 0xf0) {
    case 0:
        return v;
    case 0x10: /* DW_EH_PE_pcrel */
        return base + v;
    default:
        r->bad = true;
        return 0;
    }
}

#endif
