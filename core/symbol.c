/* SPDX-License-Identifier: MIT
 *
 * See the header. Files are mapped and read with bounds: they may be of any content, though not
 * become shorter meanwhile. */
#include "core/symbol.h"

#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- which file ---- */

static const char self[] = "/proc/self/exe";

struct place {
    uintptr_t pc, base;
    uint64_t
        identity; /* of what is loaded: its program headers and notes, the build id among them */
    char path[512];
};

/* FNV-1a */
static uint64_t mix(uint64_t hash, const void *bytes, size_t n)
{
    for (const unsigned char *at = bytes; n > 0; at++, n--)
        hash = (hash ^ *at) * 0x100000001b3;
    return hash;
}

static int find_place(struct dl_phdr_info *info, size_t bytes, void *arg)
{
    struct place *p = arg;
    bool ours = false;

    (void)bytes;
    for (int i = 0; i < info->dlpi_phnum; i++)
        ours |= info->dlpi_phdr[i].p_type == PT_LOAD &&
                p->pc - info->dlpi_addr - info->dlpi_phdr[i].p_vaddr < info->dlpi_phdr[i].p_memsz;
    if (!ours)
        return 0;
    p->base = info->dlpi_addr;
    p->identity = mix(0, info->dlpi_phdr, info->dlpi_phnum * sizeof *info->dlpi_phdr);
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_NOTE)
            p->identity = mix(p->identity, (char *)info->dlpi_addr + info->dlpi_phdr[i].p_vaddr,
                              info->dlpi_phdr[i].p_memsz);
    /* The program itself has no name here. */
    strncpy(p->path, *info->dlpi_name ? info->dlpi_name : self, sizeof p->path - 1);
    return 1;
}

/* n elements at an offset of the file, or NULL. */
static const void *part(const struct flow__symbol_file *f, uint64_t offset, uint64_t n, size_t size)
{
    bool aligned = offset % (size % 8 ? 1 : 8) == 0;

    return aligned && offset <= f->bytes && n <= (f->bytes - offset) / size ? f->map + offset
                                                                            : NULL;
}

static const ElfW(Ehdr) * header_of(const struct flow__symbol_file *f)
{
    const ElfW(Ehdr) *e = part(f, 0, 1, sizeof *e);

    return e && !memcmp(e->e_ident, ELFMAG, SELFMAG) && e->e_ident[EI_CLASS] == ELFCLASS64 ? e
                                                                                           : NULL;
}

static bool is_loaded_file(const struct flow__symbol_file *f, const struct place *p)
{
    const ElfW(Ehdr) *e = header_of(f);
    const ElfW(Phdr) *phdr = e ? part(f, e->e_phoff, e->e_phnum, sizeof *phdr) : NULL;
    uint64_t identity;

    if (!phdr)
        return false;
    identity = mix(0, phdr, e->e_phnum * sizeof *phdr);
    for (int i = 0; i < e->e_phnum; i++) {
        const void *note;

        if (phdr[i].p_type != PT_NOTE)
            continue;
        note = part(f, phdr[i].p_offset, phdr[i].p_filesz, 1);
        if (!note)
            return false;
        identity = mix(identity, note, phdr[i].p_filesz);
    }
    return identity == p->identity;
}

static void open_file(struct flow__symbol_file *f, const struct place *p)
{
    struct stat stat;
    void *map = MAP_FAILED;
    int fd = open(p->path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    if (!fstat(fd, &stat) && S_ISREG(stat.st_mode) && stat.st_size > 0)
        map = mmap(NULL, (size_t)stat.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return;
    *f = (struct flow__symbol_file){p->base, map, (size_t)stat.st_size};
    if (!is_loaded_file(f, p)) {
        munmap(f->map, f->bytes);
        f->map = NULL;
    }
}

static const struct flow__symbol_file *file_for(struct flow__symbols *s, const struct place *p)
{
    for (unsigned i = 0; i < s->n; i++)
        if (s->file[i].base == p->base)
            return &s->file[i];
    if (s->n == FLOW__SYMBOL_FILES)
        return NULL;
    s->file[s->n].base = p->base;
    open_file(&s->file[s->n], p);
    return &s->file[s->n++];
}

/* ---- which function ---- */

struct found {
    const char *name;
    uint64_t offset;
};

/* The function in one symbol table that contains an address of the file. */
static bool look_in_table(const struct flow__symbol_file *f, const ElfW(Shdr) * table,
                          const ElfW(Shdr) * names, uint64_t address, struct found *found)
{
    uint64_t n = table->sh_size / sizeof(ElfW(Sym));
    const ElfW(Sym) *symbol = part(f, table->sh_offset, n, sizeof *symbol);
    const char *text = part(f, names->sh_offset, names->sh_size, 1);

    if (!symbol || !text || names->sh_size == 0 || text[names->sh_size - 1] != 0)
        return false;
    for (uint64_t i = 0; i < n; i++)
        if (ELF64_ST_TYPE(symbol[i].st_info) == STT_FUNC &&
            address - symbol[i].st_value < symbol[i].st_size &&
            symbol[i].st_name < names->sh_size) {
            *found = (struct found){text + symbol[i].st_name, address - symbol[i].st_value};
            return true;
        }
    return false;
}

static bool find_function(const struct flow__symbol_file *f, uint64_t address, struct found *found)
{
    const ElfW(Ehdr) *e = f->map ? header_of(f) : NULL;
    const ElfW(Shdr) *section = e ? part(f, e->e_shoff, e->e_shnum, sizeof *section) : NULL;

    if (!section)
        return false;
    for (int i = 0; i < e->e_shnum; i++)
        if ((section[i].sh_type == SHT_SYMTAB || section[i].sh_type == SHT_DYNSYM) &&
            section[i].sh_link < e->e_shnum &&
            look_in_table(f, &section[i], &section[section[i].sh_link], address, found))
            return true;
    return false;
}

void flow__symbol_add(struct flow__symbols *s, struct flow__text *out, uintptr_t pc)
{
    struct place p = {.pc = pc};
    const struct flow__symbol_file *f;
    struct found found;

    if (!dl_iterate_phdr(find_place, &p)) {
        flow__text_add(out, "?");
        return;
    }
    f = file_for(s, &p);
    if (f && find_function(f, pc - p.base, &found)) {
        flow__text_add(out, found.name);
        flow__text_add(out, "+");
        flow__text_hex(out, found.offset);
        flow__text_add(out, " ");
    }
    if (!strcmp(p.path, self)) {
        ssize_t n = readlink(self, p.path, sizeof p.path - 1);

        if (n > 0)
            p.path[n] = 0;
    }
    flow__text_add(out, "(");
    flow__text_add(out, strrchr(p.path, '/') ? strrchr(p.path, '/') + 1 : p.path);
    flow__text_add(out, "+");
    flow__text_hex(out, pc - p.base);
    flow__text_add(out, ")");
}

void flow__symbols_close(struct flow__symbols *s)
{
    for (unsigned i = 0; i < s->n; i++)
        if (s->file[i].map)
            munmap(s->file[i].map, s->file[i].bytes);
    s->n = 0;
}
