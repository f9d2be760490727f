/* SPDX-License-Identifier: MIT
 *
 * Names for code addresses: "function+0x12 (program+0x1234)". The function is looked up in the symbol
 * table of the file that is loaded there, which also has those that are not exported (dladdr knows
 * only what is); the number in parentheses is what addr2line(1) and gdb take, also for a stripped
 * file. A file that is not the one that was loaded is not believed. */
#ifndef FLOW_CORE_SYMBOL_H
#define FLOW_CORE_SYMBOL_H

#include "core/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FLOW__SYMBOL_FILES 16

struct flow__symbol_file {
    uintptr_t base; /* what the file's addresses are added to */
    char *map;      /* NULL: it cannot be used */
    size_t bytes;
};

/* The files that were looked at, kept open until the close. Zeroed memory; one thread at a time. */
struct flow__symbols {
    unsigned n;
    struct flow__symbol_file file[FLOW__SYMBOL_FILES];
};

/* Adds what is known of the address. From a return address ask for the one before. */
void flow__symbol_add(struct flow__symbols *s, struct flow__text *out, uintptr_t pc);

void flow__symbols_close(struct flow__symbols *s);

#endif
