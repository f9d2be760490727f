/* SPDX-License-Identifier: MIT
 *
 * The model's memory and its states; the argument is in the header. Static memory is what lies between
 * the first and the last symbol that the linker defines, without the section of NO_STATE. The C
 * library is a shared object and not part of it. */
#include "tests/model/states.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MOST_WORDS  (1u << 16)
#define CHUNK       256

extern char __data_start[], _end[], __start_explorer[], __stop_explorer[];

struct word {
    uintptr_t at; /* its address / 8 */
    uint8_t readers, writers;
    bool shared;
};

struct range {
    char *start;
    size_t bytes;
    char *before; /* what was in it at the program's begin */
};

static struct word *words NO_STATE;
static unsigned n_words NO_STATE;
static bool learned NO_STATE;
static uint64_t *states NO_STATE, n_states NO_STATE, places NO_STATE;
static struct range range[2] NO_STATE;
static char *arena NO_STATE, *empty NO_STATE;
static size_t arena_bytes NO_STATE;

static void *some_memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);

    if (p == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return p;
}

static void open_range(struct range *r, char *start, char *end)
{
    r->start = start;
    r->bytes = end > start ? (size_t)(end - start) : 0;
    r->before = some_memory(r->bytes + 1);
    memcpy(r->before, r->start, r->bytes);
}

void states_open(char *a, size_t bytes, uint64_t most)
{
    places = most;
    words = some_memory(MOST_WORDS * sizeof *words);
    states = some_memory(places * sizeof *states);
    arena = a;
    arena_bytes = bytes;
    empty = some_memory(bytes);
    open_range(&range[0], __data_start, __start_explorer);
    open_range(&range[1], __stop_explorer, _end);
}

void states_reset(bool keep)
{
    madvise(states, places * sizeof *states, MADV_DONTNEED);
    n_states = 0;
    learned = false;
    if (!keep) {
        memset(words, 0, MOST_WORDS * sizeof *words);
        n_words = 0;
    }
    for (unsigned i = 0; i < MOST_WORDS; i++) {
        unsigned users = words[i].readers | words[i].writers;

        words[i].shared = words[i].writers && (users & (users - 1));
    }
}

void states_restore(void)
{
    for (int i = 0; i < 2; i++)
        memcpy(range[i].start, range[i].before, range[i].bytes);
    memset(arena, 0, arena_bytes);
}

/* ---- words ---- */

static struct word *find_word(uintptr_t at)
{
    unsigned i = (unsigned)(at * 0x9e3779b97f4a7c15u >> 40) % MOST_WORDS;

    for (; words[i].at != at; i = (i + 1) % MOST_WORDS) {
        if (words[i].at)
            continue;
        if (++n_words > MOST_WORDS / 2) {
            puts("too many words");
            exit(2);
        }
        words[i].at = at;
        break;
    }
    return &words[i];
}

bool states_touch(const void *p, size_t bytes, int thread, bool writes)
{
    uintptr_t first = (uintptr_t)p / 8, last = ((uintptr_t)p + bytes - 1) / 8;
    bool shared = false;

    for (uintptr_t at = first; at <= last; at++) {
        struct word *w = find_word(at);
        unsigned users;

        *(writes ? &w->writers : &w->readers) |= (uint8_t)(1 << thread);
        users = w->readers | w->writers;
        if (w->writers && (users & (users - 1)) && !w->shared)
            learned = true;
        shared |= w->shared;
    }
    return shared;
}

bool states_have_learned(void)
{
    return learned;
}

/* ---- states ---- */

/* Two lanes of the finisher of SplitMix64, shortened. */
uint64_t states_hash_more(uint64_t hash, const void *p, size_t bytes)
{
    const char *at = p;
    uint64_t a = hash ^ bytes, b = ~hash, word[2];

    for (; bytes >= 16; at += 16, bytes -= 16) {
        memcpy(word, at, 16);
        a = (a ^ word[0]) * 0xbf58476d1ce4e5b9u;
        a ^= a >> 29;
        b = (b ^ word[1]) * 0x94d049bb133111ebu;
        b ^= b >> 31;
    }
    word[0] = word[1] = 0;
    memcpy(word, at, bytes);
    a = ((a ^ word[0]) + (b << 32 | b >> 32)) * 0xbf58476d1ce4e5b9u;
    a = (a ^ a >> 32 ^ word[1]) * 0x94d049bb133111ebu;
    return a ^ a >> 29;
}

/* Of what is as it was at the begin only the absence counts. */
static uint64_t hash_changes(uint64_t hash, const char *now, const char *before, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += CHUNK) {
        size_t n = bytes - at < CHUNK ? bytes - at : CHUNK;

        if (memcmp(now + at, before + at, n) != 0)
            hash = states_hash_more(hash ^ at, now + at, n);
    }
    return hash;
}

uint64_t states_hash(size_t arena_used)
{
    uint64_t hash = hash_changes(1, arena, empty, arena_used);

    for (int i = 0; i < 2; i++)
        hash = hash_changes(hash + 2, range[i].start, range[i].before, range[i].bytes);
    return hash;
}

bool states_seen(uint64_t hash)
{
    uint64_t i = hash & (places - 1);

    hash |= hash == 0;
    for (; states[i]; i = (i + 1) & (places - 1))
        if (states[i] == hash)
            return true;
    if (n_states < places / 4 * 3) {
        states[i] = hash;
        n_states++;
    }
    return false;
}

uint64_t states_count(void)
{
    return n_states;
}
