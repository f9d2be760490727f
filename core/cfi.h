/* SPDX-License-Identifier: MIT
 *
 * What one code address means for a walk over a stack, from the tables that the compiler leaves for
 * exceptions (.eh_frame): how to compute the frame's CFA (the stack pointer before the call), and
 * where, from there, the caller's registers were put.
 *
 * Reads nothing but the tables of loaded modules, allocates nothing and calls nothing but
 * dl_iterate_phdr. */
#ifndef FLOW_CORE_CFI_H
#define FLOW_CORE_CFI_H

#include <stdint.h>

/* The registers that a caller may be found by, numbered by us. */
#if defined(__x86_64__)
enum { FLOW__RBX, FLOW__RBP, FLOW__R12, FLOW__R13, FLOW__R14, FLOW__R15, FLOW__KEPT };
#elif defined(__aarch64__)
enum { FLOW__X19, FLOW__X29 = 10, FLOW__X30, FLOW__KEPT };
#endif

enum { FLOW__SP = FLOW__KEPT, FLOW__RA = FLOW__KEPT };          /* as a base; in row.at[] */
enum { FLOW__BY_CFA = FLOW__KEPT + 1, FLOW__SAME, FLOW__LOST }; /* more bases of row.at[] */
enum { FLOW__ROW_UNKNOWN = 1, FLOW__ROW_KNOWN = 2 };            /* row.kind; 0: empty */
enum { FLOW__RA_SAVED, FLOW__RA_UNDEFINED };                    /* row.ra_kind */

struct flow__cfi_row {
    uintptr_t pc;
    uint8_t kind, cfa_base, cfa_deref, ra_kind;
    int32_t cfa_offset;
    struct {
        uint8_t base;
        int16_t words;    /* from the base */
    } at[FLOW__KEPT + 1]; /* and the return address */
};

/* Fills in the row of pc, all of it. */
void flow__cfi_find(struct flow__cfi_row *row, uintptr_t pc);

#endif
