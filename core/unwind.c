/* SPDX-License-Identifier: MIT
 *
 * See the header. What an address means says core/cfi.c, once; here that is kept, and followed from
 * frame to frame. Where nothing is known of an address, the walk ends. */
#include "core/unwind.h"

#include "core/strand.h"

/* ---- the cache ---- */

/* When it is full, what is new is worked out each time. */
static const struct flow__cfi_row *row_of(struct flow__unwind_cache *cache, uintptr_t pc,
                                          struct flow__cfi_row *spare)
{
    uint32_t i = (uint32_t)(pc * 0x9e3779b97f4a7c15u >> 40), tries = 0;
    struct flow__cfi_row *row = spare;

    for (;; i++, tries++) {
        struct flow__cfi_row *seen = &cache->row[i & (FLOW__UNWIND_ROWS - 1)];

        if (seen->pc == pc && seen->kind)
            return seen;
        if (!seen->kind && cache->n_rows < FLOW__UNWIND_ROWS * 3 / 4) {
            row = seen;
            cache->n_rows++;
            break;
        }
        if (!seen->kind || tries > FLOW__UNWIND_ROWS)
            break;
    }
    flow__cfi_find(row, pc);
    return row;
}

/* ---- walking ---- */

/* Unsanitized: it reads other stacks, that may be in use, with all that sanitizers keep there. */
static flow__unsanitized bool read_word(const struct flow__view *view, uintptr_t address,
                                        uintptr_t *word)
{
    if (address % 8 || address < view->low || address >= view->high || view->high - address < 8)
        return false;
    *word =
        *(const volatile uintptr_t *)(const volatile void *)(view->bytes + (address - view->low));
    return true;
}

static bool read_base(const struct flow__registers *r, unsigned base, uintptr_t *value)
{
    *value = base == FLOW__SP ? r->sp : base < FLOW__KEPT ? r->kept[base] : 0;
    return base == FLOW__SP || (base < FLOW__KEPT && r->known >> base & 1);
}

static bool find_cfa(const struct flow__cfi_row *row, const struct flow__registers *r,
                     const struct flow__view *view, uintptr_t *cfa)
{
    if (!read_base(r, row->cfa_base, cfa))
        return false;
    *cfa += (uintptr_t)(intptr_t)row->cfa_offset;
    if (row->cfa_deref && !read_word(view, *cfa, cfa))
        return false;
    /* A function that was interrupted may have no frame yet. */
    return *cfa >= r->sp + !r->interrupted && *cfa <= view->high;
}

/* Where a register was saved; false: nowhere. */
static bool find_saved(const struct flow__cfi_row *row, int i, const struct flow__registers *r,
                       const struct flow__view *view, uintptr_t cfa, uintptr_t *value)
{
    uintptr_t base = cfa;

    if (row->at[i].base != FLOW__BY_CFA && !read_base(r, row->at[i].base, &base))
        return false;
    return read_word(view, base + (uintptr_t)(8 * (intptr_t)row->at[i].words), value);
}

/* A signed return address has its signature where a user's address has zeros. */
static uintptr_t plain_address(uintptr_t pc)
{
    return pc & (((uintptr_t)1 << 48) - 1);
}

/* From a frame to its caller's. */
static bool step(struct flow__registers *r, const struct flow__cfi_row *row,
                 const struct flow__view *view)
{
    struct flow__registers up = {.interrupted = false};
    uintptr_t cfa;

    if (!find_cfa(row, r, view, &cfa))
        return false;
    up.sp = cfa;
    for (int i = 0; i < FLOW__KEPT; i++) {
        bool known = row->at[i].base == FLOW__SAME ? r->known >> i & 1
                                                   : find_saved(row, i, r, view, cfa, &up.kept[i]);

        if (row->at[i].base == FLOW__SAME)
            up.kept[i] = r->kept[i];
        up.known |= (uint32_t)known << i;
    }
#if defined(__aarch64__)
    if (row->at[FLOW__RA].base == FLOW__SAME && r->known >> FLOW__X30 & 1)
        up.pc = r->kept[FLOW__X30];
    else
#endif
        if (!find_saved(row, FLOW__RA, r, view, cfa, &up.pc))
        return false;
    up.pc = plain_address(up.pc);
    *r = up;
    return true;
}

int flow__unwind(struct flow__unwind_cache *cache, const struct flow__registers *from,
                 const struct flow__view *view, uintptr_t *pc, int most, bool *complete)
{
    struct flow__registers r = *from;
    struct flow__cfi_row spare;
    int n = 0;

    *complete = false;
    while (n < most && r.pc > 4096) {
        const struct flow__cfi_row *row;

        pc[n++] = r.pc;
        /* A call may be the last instruction of its function. */
        row = row_of(cache, r.interrupted ? r.pc : r.pc - 1, &spare);
        if (row->kind != FLOW__ROW_KNOWN)
            break;
        if (row->ra_kind == FLOW__RA_UNDEFINED) {
            *complete = true;
            break;
        }
        if (!step(&r, row, view))
            break;
    }
    return n;
}

bool flow__registers_of(struct flow__registers *r, uintptr_t sp, const struct flow__view *view)
{
#if defined(__x86_64__)
    static const uint8_t order[] = {FLOW__R15, FLOW__R14, FLOW__R13,
                                    FLOW__R12, FLOW__RBX, FLOW__RBP};
    enum { FRAME_BYTES = 56, RETURN_AT = 48, FIRST_AT = 0 };
#else
    static const uint8_t order[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    enum { FRAME_BYTES = 160, RETURN_AT = 8, FIRST_AT = 16 };
#endif
    bool found = read_word(view, sp + RETURN_AT, &r->pc);

    for (unsigned i = 0; i < sizeof order; i++)
        found = found && read_word(view, sp + FIRST_AT + 8 * i, &r->kept[order[i]]);
#if defined(__aarch64__)
    found = found && read_word(view, sp, &r->kept[FLOW__X29]);
    r->kept[FLOW__X30] = r->pc;
#endif
    r->pc = plain_address(r->pc);
    r->sp = sp + FRAME_BYTES;
    r->known = (1u << FLOW__KEPT) - 1;
    r->interrupted = false;
    return found;
}
