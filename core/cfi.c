/* SPDX-License-Identifier: MIT
 *
 * See the header. The format: "DWARF Debugging Information Format" 4, 6.4, with the differences that
 * the Linux Standard Base, "Exception Frames", names. Of it we know what compilers write for
 * ordinary code; where a table says anything else, nothing is known. */
#include "core/cfi.h"

#include "core/eh_reader.h"

#include <link.h>
#include <string.h>

#if defined(__x86_64__)
enum { DWARF_SP = 7, DWARF_RA = 16 };
#elif defined(__aarch64__)
enum { DWARF_SP = 31, DWARF_RA = 30 };
#endif

#define NONE (-1)

/* Our number of a register, FLOW__SP, or NONE. */
static int kept_of(uint64_t dwarf)
{
#if defined(__x86_64__)
    static const int8_t number[] = {
        [3] = FLOW__RBX + 1,  [6] = FLOW__RBP + 1,  [12] = FLOW__R12 + 1,
        [13] = FLOW__R13 + 1, [14] = FLOW__R14 + 1, [15] = FLOW__R15 + 1};

    if (dwarf == DWARF_SP)
        return FLOW__SP;
    return dwarf < sizeof number ? number[dwarf] - 1 : NONE;
#else
    if (dwarf == DWARF_SP)
        return FLOW__SP;
    return dwarf >= 19 && dwarf <= 30 ? (int)dwarf - 19 : NONE;
#endif
}

/* ---- from an address to its table entry ---- */

struct search {
    uintptr_t pc;
    struct flow__cfi_row *row;
};

struct module {
    uintptr_t base;
    const ElfW(Phdr) * phdr;
    int n;
};

/* Up to the end of the loaded segment in which an address lies. */
static struct flow__eh_reader reader_at(const struct module *m, uintptr_t address)
{
    for (int i = 0; i < m->n; i++) {
        uintptr_t start = m->base + m->phdr[i].p_vaddr;

        if (m->phdr[i].p_type == PT_LOAD && address - start < m->phdr[i].p_filesz)
            return (struct flow__eh_reader){(const unsigned char *)address,
                                            (const unsigned char *)start + m->phdr[i].p_filesz,
                                            false};
    }
    return (struct flow__eh_reader){NULL, NULL, true};
}

/* The entry of .eh_frame_hdr's sorted table with the highest start that is not above pc; 0: none.
 * Linkers write it in one encoding only: pairs of 32-bit offsets from its own begin. */
static uintptr_t find_entry(const struct module *m, uintptr_t header, uintptr_t pc)
{
    struct flow__eh_reader r = reader_at(m, header);
    uint32_t version_and_encodings = (uint32_t)flow__eh_take(&r, 4);
    const int32_t *pair;
    size_t low = 0, n;

    if ((version_and_encodings & 0xffff00ff) != 0x3b030001)
        return 0;
    flow__eh_take_pointer(&r, version_and_encodings >> 8 & 255); /* where .eh_frame begins */
    n = flow__eh_take(&r, 4);
    if (r.bad || n > (size_t)(r.end - r.at) / 8)
        return 0;
    pair = (const int32_t *)(const void *)r.at;
    while (n > 0) {
        size_t half = n / 2;

        if (header + (uintptr_t)(intptr_t)pair[2 * (low + half)] <= pc) {
            low += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return low ? header + (uintptr_t)(intptr_t)pair[2 * low - 1] : 0;
}

/* ---- rules ---- */

/* What comes before a function's own instructions. */
struct cie {
    uint64_t code_align;
    int64_t data_align;
    unsigned pointer_encoding;
    bool sized; /* augmentation data are there, with their size */
    bool signal;
    struct flow__eh_reader initial;
};

struct rules {
    struct flow__cfi_row row;
    bool unknown; /* something that we do not follow */
};

#define REMEMBERED 4

struct machine {
    const struct module *module;
    struct cie cie;
    struct rules now, initial, remembered[REMEMBERED];
    unsigned depth;
    uintptr_t location, pc;
};

static bool parse_augmentation(struct cie *c, struct flow__eh_reader *r, const char *text)
{
    if (*text == 0)
        return true;
    if (*text++ != 'z')
        return false;
    c->sized = true;
    flow__eh_take_uleb(r);
    for (; *text; text++)
        switch (*text) {
        case 'R':
            c->pointer_encoding = (unsigned)flow__eh_take(r, 1);
            break;
        case 'L':
            flow__eh_take(r, 1);
            break;
        case 'P': {
            unsigned encoding = (unsigned)flow__eh_take(r, 1);

            flow__eh_take_pointer(r, encoding & 15); /* where it points to is nothing to us */
            break;
        }
        case 'S':
            c->signal = true;
            break;
        case 'B': /* return addresses are signed with the other key */
            break;
        default:
            return false;
        }
    return true;
}

static bool parse_cie(struct cie *c, struct flow__eh_reader r)
{
    uint64_t bytes = flow__eh_take(&r, 4);
    const unsigned char *text;
    unsigned version;

    if (r.bad || bytes == 0xffffffff || bytes > (uint64_t)(r.end - r.at))
        return false;
    r.end = r.at + bytes;
    if (flow__eh_take(&r, 4) != 0)
        return false;
    version = (unsigned)flow__eh_take(&r, 1);
    text = r.at;
    while (flow__eh_take(&r, 1))
        ;
    if (r.bad || (version != 1 && version != 3))
        return false;
    *c = (struct cie){.code_align = flow__eh_take_uleb(&r), .data_align = flow__eh_take_sleb(&r)};
    if ((version == 1 ? flow__eh_take(&r, 1) : flow__eh_take_uleb(&r)) != DWARF_RA)
        return false;
    c->initial = r;
    if (!parse_augmentation(c, &c->initial, (const char *)text) || c->initial.bad)
        return false;
    if (c->sized) {
        flow__eh_skip(&r, flow__eh_take_uleb(&r));
        c->initial = r;
    }
    return !c->initial.bad;
}

static void set_base(struct rules *rules, uint64_t reg)
{
    int kept = kept_of(reg);

    rules->row.cfa_base = (uint8_t)(kept == NONE ? FLOW__LOST : kept);
    rules->row.cfa_deref = 0;
}

/* How a register of the caller is found. */
static void set_rule(struct rules *rules, uint64_t reg, unsigned base, int64_t offset)
{
    int kept = reg == DWARF_RA ? FLOW__RA : kept_of(reg);

    if (kept == NONE || (kept == FLOW__SP && reg != DWARF_RA))
        return;
    if (offset % 8 || offset / 8 < INT16_MIN || offset / 8 > INT16_MAX)
        base = FLOW__LOST;
    rules->row.at[kept].base = (uint8_t)base;
    rules->row.at[kept].words = (int16_t)(offset / 8);
    if (kept == FLOW__RA)
        rules->row.ra_kind = FLOW__RA_SAVED;
#if defined(__aarch64__)
    rules->row.at[FLOW__X30] = rules->row.at[FLOW__RA];
#endif
}

static void set_undefined(struct rules *rules, uint64_t reg)
{
    set_rule(rules, reg, FLOW__LOST, 0);
    if (reg == DWARF_RA)
        rules->row.ra_kind = FLOW__RA_UNDEFINED;
}

static void restore_rule(struct rules *now, const struct rules *initial, uint64_t reg)
{
    int kept = reg == DWARF_RA ? FLOW__RA : kept_of(reg);

    if (kept == NONE || (kept == FLOW__SP && reg != DWARF_RA))
        return;
    now->row.at[kept] = initial->row.at[kept];
    if (kept == FLOW__RA)
        now->row.ra_kind = initial->row.ra_kind;
#if defined(__aarch64__)
    now->row.at[FLOW__X30] = now->row.at[FLOW__RA];
#endif
}

/* Of expressions only "register plus offset", and that dereferenced: what compilers write where they
 * align a frame to more than 16 bytes. */
static bool simple_expression(struct flow__eh_reader *r, uint64_t *reg, int64_t *offset,
                              bool *deref)
{
    uint64_t bytes = flow__eh_take_uleb(r);
    struct flow__eh_reader e = {r->at, r->at + bytes, false};
    uint64_t op;

    flow__eh_skip(r, bytes);
    if (r->bad)
        return false;
    op = flow__eh_take(&e, 1);
    if (op < 0x70 || op > 0x8f) /* DW_OP_breg0 to breg31 */
        return false;
    *reg = op - 0x70;
    *offset = flow__eh_take_sleb(&e);
    *deref = e.at < e.end && *e.at == 0x06; /* DW_OP_deref */
    e.at += *deref;
    return !e.bad && e.at == e.end;
}

static void set_cfa_expression(struct rules *rules, struct flow__eh_reader *r)
{
    uint64_t reg = 0;
    int64_t offset = 0;
    bool deref = false;

    if (!simple_expression(r, &reg, &offset, &deref)) {
        rules->row.cfa_base = FLOW__LOST;
        return;
    }
    set_base(rules, reg);
    rules->row.cfa_offset = (int32_t)offset;
    rules->row.cfa_deref = deref;
}

static void set_expression(struct rules *rules, struct flow__eh_reader *r)
{
    uint64_t reg = flow__eh_take_uleb(r), base = 0;
    int64_t offset = 0;
    bool deref = false;

    if (simple_expression(r, &base, &offset, &deref) && !deref && kept_of(base) != NONE)
        set_rule(rules, reg, (unsigned)kept_of(base), offset);
    else
        set_rule(rules, reg, FLOW__LOST, 0);
}

/* The instructions with an operand in their own byte. */
static void run_short(struct machine *m, struct flow__eh_reader *r, unsigned op)
{
    unsigned operand = op & 63;

    switch (op >> 6) {
    case 1: /* advance_loc */
        m->location += operand * m->cie.code_align;
        break;
    case 2: /* offset */
        set_rule(&m->now, operand, FLOW__BY_CFA,
                 (int64_t)flow__eh_take_uleb(r) * m->cie.data_align);
        break;
    default: /* restore */
        restore_rule(&m->now, &m->initial, operand);
    }
}

static void run_long(struct machine *m, struct flow__eh_reader *r, unsigned op)
{
    struct rules *now = &m->now;
    uint64_t reg;

    switch (op) {
    case 0x00: /* nop */
    case 0x2d: /* GNU_window_save; here: the return address is signed from now on, or no longer */
        return;
    case 0x01: /* set_loc */
        m->location = flow__eh_take_pointer(r, m->cie.pointer_encoding);
        return;
    case 0x02: /* advance_loc1, 2, 4 */
    case 0x03:
    case 0x04:
        m->location += flow__eh_take(r, 1u << (op - 2)) * m->cie.code_align;
        return;
    case 0x05: /* offset_extended */
        reg = flow__eh_take_uleb(r);
        set_rule(now, reg, FLOW__BY_CFA, (int64_t)flow__eh_take_uleb(r) * m->cie.data_align);
        return;
    case 0x06: /* restore_extended */
        restore_rule(now, &m->initial, flow__eh_take_uleb(r));
        return;
    case 0x07: /* undefined */
        set_undefined(now, flow__eh_take_uleb(r));
        return;
    case 0x08: /* same_value */
        set_rule(now, flow__eh_take_uleb(r), FLOW__SAME, 0);
        return;
    case 0x09: /* register */
        set_rule(now, flow__eh_take_uleb(r), FLOW__LOST, 0);
        flow__eh_take_uleb(r);
        return;
    case 0x0a: /* remember_state */
        if (m->depth < REMEMBERED)
            m->remembered[m->depth] = *now;
        now->unknown |= m->depth++ >= REMEMBERED;
        return;
    case 0x0b: /* restore_state */
        if (m->depth == 0 || m->depth > REMEMBERED)
            now->unknown = true;
        else
            *now = m->remembered[--m->depth];
        return;
    case 0x0c: /* def_cfa */
        set_base(now, flow__eh_take_uleb(r));
        now->row.cfa_offset = (int32_t)flow__eh_take_uleb(r);
        return;
    case 0x0d: /* def_cfa_register */
        set_base(now, flow__eh_take_uleb(r));
        return;
    case 0x0e: /* def_cfa_offset */
        now->row.cfa_offset = (int32_t)flow__eh_take_uleb(r);
        return;
    case 0x0f:
        set_cfa_expression(now, r);
        return;
    case 0x10:
        set_expression(now, r);
        return;
    case 0x11: /* offset_extended_sf */
        reg = flow__eh_take_uleb(r);
        set_rule(now, reg, FLOW__BY_CFA, flow__eh_take_sleb(r) * m->cie.data_align);
        return;
    case 0x12: /* def_cfa_sf */
        set_base(now, flow__eh_take_uleb(r));
        now->row.cfa_offset = (int32_t)(flow__eh_take_sleb(r) * m->cie.data_align);
        return;
    case 0x13: /* def_cfa_offset_sf */
        now->row.cfa_offset = (int32_t)(flow__eh_take_sleb(r) * m->cie.data_align);
        return;
    case 0x2e: /* GNU_args_size */
        flow__eh_take_uleb(r);
        return;
    default:
        now->unknown = true;
    }
}

/* Instructions up to the one that is about code beyond pc. */
static void run(struct machine *m, struct flow__eh_reader r)
{
    while (r.at < r.end && !r.bad && !m->now.unknown && m->location <= m->pc) {
        unsigned op = (unsigned)flow__eh_take(&r, 1);

        if (op >> 6)
            run_short(m, &r, op);
        else
            run_long(m, &r, op);
    }
    m->now.unknown |= r.bad;
}

static void begin_rules(struct rules *rules)
{
    memset(rules, 0, sizeof *rules);
    rules->row.cfa_base = FLOW__LOST;
    for (int i = 0; i < FLOW__KEPT; i++)
        rules->row.at[i].base = FLOW__SAME;
#if defined(__aarch64__)
    rules->row.at[FLOW__RA].base = FLOW__SAME; /* it is a register there */
#else
    rules->row.at[FLOW__RA].base = FLOW__LOST;
#endif
}

/* The row of pc from the entry (FDE) that should cover it. */
static bool make_row(const struct module *module, uintptr_t entry, uintptr_t pc,
                     struct flow__cfi_row *row)
{
    struct machine m = {.module = module, .pc = pc};
    struct flow__eh_reader r = reader_at(module, entry);
    uint64_t bytes = flow__eh_take(&r, 4), back;
    uintptr_t start, length;

    if (r.bad || bytes == 0 || bytes == 0xffffffff || bytes > (uint64_t)(r.end - r.at))
        return false;
    r.end = r.at + bytes;
    back = (uintptr_t)r.at;
    back -= flow__eh_take(&r, 4);
    if (!parse_cie(&m.cie, reader_at(module, back)))
        return false;
    start = flow__eh_take_pointer(&r, m.cie.pointer_encoding);
    length = flow__eh_take_pointer(&r, m.cie.pointer_encoding & 15);
    if (m.cie.sized)
        flow__eh_skip(&r, flow__eh_take_uleb(&r));
    if (r.bad || pc - start >= length || m.cie.signal)
        return false;
    begin_rules(&m.now);
    run(&m, m.cie.initial);
    m.initial = m.now;
    m.location = start;
    run(&m, r);
    if (m.now.unknown)
        return false;
    *row = m.now.row;
    return true;
}

static int look_into(struct dl_phdr_info *info, size_t bytes, void *arg)
{
    struct module m = {info->dlpi_addr, info->dlpi_phdr, info->dlpi_phnum};
    struct search *s = arg;
    bool ours = false;
    uintptr_t header = 0, entry;

    (void)bytes;
    for (int i = 0; i < m.n; i++) {
        uintptr_t start = m.base + m.phdr[i].p_vaddr;

        if (m.phdr[i].p_type == PT_LOAD && s->pc - start < m.phdr[i].p_memsz)
            ours = true;
        if (m.phdr[i].p_type == PT_GNU_EH_FRAME)
            header = start;
    }
    if (!ours)
        return 0;
    entry = header ? find_entry(&m, header, s->pc) : 0;
    if (entry && make_row(&m, entry, s->pc, s->row))
        s->row->kind = FLOW__ROW_KNOWN;
    return 1;
}

void flow__cfi_find(struct flow__cfi_row *row, uintptr_t pc)
{
    memset(row, 0, sizeof *row);
    dl_iterate_phdr(look_into, &(struct search){pc, row});
    row->pc = pc;
    if (row->kind != FLOW__ROW_KNOWN)
        row->kind = FLOW__ROW_UNKNOWN;
}
