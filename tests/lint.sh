#!/usr/bin/env bash
# clang-tidy, cppcheck and gcc's -fanalyzer over the library; `make lint` calls this. One line each says how
# many findings there were and how many exceptions are named in the sources (NOLINT, cppcheck-suppress).
# What the tools are not asked stands, with the reason, in .clang-tidy and below.
set -u
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
status=0
flags=(-std=gnu11 -D_GNU_SOURCE -Iinclude -I. '-DFLOW__LIBNUMA_VERSION=""' '-DFLOW__LIBURCU_VERSION=""')
sources=(numa/*.c sync/*.c core/*.c)
export flags_text="${flags[*]@Q}"

# One file to each process; its findings to standard output.
each() { printf '%s\0' "${sources[@]}" | xargs -0 -P"$(nproc)" -n1 bash -c "eval \"flags=(\$flags_text)\"; $1" bash; }

verdict() { # tool pattern-of-a-finding mark-of-an-exception
    local found exceptions
    found=$(sort -u "$tmp/log" | grep -cE "$2")
    exceptions=$(cat "${sources[@]}" {include/flowcoro,numa,sync,core}/*.h | grep -c "$3")
    if [ "$found" != 0 ]; then
        cat "$tmp/log"
        status=1
    fi
    echo "$([ "$found" = 0 ] && echo ok || echo FAILED) $1: $found findings, $exceptions exceptions"
}

missing() {
    command -v "$1" >/dev/null && return 1
    echo "skip $1 is not here"
    [ "${CI:-}" != true ] || status=1
}

if ! missing clang-tidy; then
    each 'clang-tidy --quiet "$1" -- "${flags[@]}" 2>/dev/null' >"$tmp/log"
    verdict clang-tidy ' (warning|error): ' NOLINT
fi
if ! missing cppcheck; then
    cppcheck --std=c11 --enable=warning,performance,portability --inline-suppr --quiet -Iinclude -I. \
        -D__x86_64__ -D__linux__ "${sources[@]}" >"$tmp/log" 2>&1
    verdict cppcheck ': (error|warning|performance|portability): ' cppcheck-suppress
fi
# Null dereferences are left out: it does not believe that a coroutine has a stack header, nor a block a chunk.
if ! missing gcc; then
    each 'gcc -fanalyzer -Wno-analyzer-null-dereference -O1 "${flags[@]}" -c -o /dev/null "$1" 2>&1' >"$tmp/log"
    verdict 'gcc -fanalyzer' ' (warning|error): ' 'analyzer-suppress'
fi
exit $status
