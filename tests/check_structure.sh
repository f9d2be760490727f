#!/usr/bin/env bash
# What the sources and the library must look like, whatever they do: one-way includes, paired
# memory-order labels, exported symbols, headers that stand alone, hardening. Needs `make all`.
set -u
shopt -s lastpipe # verdict, at the end of a pipe, sets status here
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C
BUILD=${BUILD:-build} CC=${CC:-gcc} CXX=${CXX:-g++}
library=$(echo "$BUILD"/libflowcoro.so.*.*.*)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
status=0

# Prints the verdict on a check whose complaints are on stdin.
verdict() { # name numbers
    local complaints
    complaints=$(cat)
    if [ -z "$complaints" ]; then
        echo "ok $1: $2"
    else
        echo "FAILED $1:"
        echo "$complaints" | sed 's/^/    /'
        status=1
    fi
}

sources() { find "$@" -name '*.[chS]' 2>/dev/null | sort; }

# --- includes run one way -------------------------------------------------------------

# Complains of includes in the given files that match a pattern.
forbid() { # pattern file...
    local pattern=$1
    shift
    [ $# = 0 ] || grep -HnE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]($pattern)" "$@"
}

# Quoted includes must name a file by its path from the top, inside one of the folders.
only_rooms() { # rooms file...
    local rooms=$1
    shift
    [ $# = 0 ] || grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' "$@" | grep -vE "\"($rooms)/"
}

mapfile -t public < <(sources include)
mapfile -t numa < <(sources numa)
mapfile -t sync < <(sources sync)
mapfile -t core < <(sources core)
mapfile -t core_own < <(sources core | grep -vE '^core/(io|net|ext)/')
mapfile -t outside_syscall < <(sources sync | grep -v '^sync/syscall\.')
mapfile -t outside_reclaim < <(sources include numa sync core | grep -v '^sync/reclaim\.')

{
    only_rooms '' "${public[@]}"
    forbid '(numa|sync|core)/' "${public[@]}"
    only_rooms numa "${numa[@]}"
    only_rooms sync "${sync[@]}"
    only_rooms 'core|numa|sync' "${core[@]}"
    forbid '(sync|core)/' "${numa[@]}"
    forbid '(numa|core)/' "${sync[@]}"
    forbid 'core/(io|net|ext)/' "${core_own[@]}"
} | verdict 'includes run one way' "$((${#public[@]} + ${#numa[@]} + ${#sync[@]} + ${#core[@]})) files"

{
    forbid 'stdatomic\.h|linux/futex\.h' "${public[@]}" "${numa[@]}" "${core[@]}"
    forbid 'pthread\.h' "${outside_syscall[@]}"
    forbid 'urcu' "${outside_reclaim[@]}"
} | verdict 'the seam' 'atomics and futexes only in sync, threads in sync/syscall, liburcu in sync/reclaim'

# --- memory-order labels come in pairs --------------------------------------------------

# The labels in comments, one "LABEL file:line" a line, each line once.
labels() {
    awk '
    FNR == 1 { inside = 0 }
    {
        text = ""; rest = $0
        while (rest != "") {
            if (inside) {
                end = index(rest, "*/")
                text = text " " (end ? substr(rest, 1, end - 1) : rest)
                rest = end ? substr(rest, end + 2) : ""
                inside = !end
            } else {
                begin = index(rest, "/*"); line = index(rest, "//")
                if (line && (!begin || line < begin)) { text = text substr(rest, line); rest = "" }
                else if (begin) { rest = substr(rest, begin + 2); inside = 1 }
                else rest = ""
            }
        }
        while (match(text, /\[[A-Z]+-[0-9]+\]/)) {
            print substr(text, RSTART, RLENGTH) " " FILENAME ":" FNR
            text = substr(text, RSTART + RLENGTH)
        }
    }' "$@" | sort -u
}

labels "${numa[@]}" "${sync[@]}" "${core[@]}" >"$tmp/labels"
awk '{ n[$1]++; at[$1] = $2 } END { for (l in n) if (n[l] < 2) print at[l] ": " l " has no partner" }' \
    "$tmp/labels" | sort |
    verdict 'labels have partners' "$(cut -d' ' -f1 "$tmp/labels" | sort -u | wc -l) labels at $(wc -l <"$tmp/labels") places"

# --- what is exported -------------------------------------------------------------------

if [ ! -f "$library" ]; then
    echo "FAILED no library under $BUILD: the other checks need make all"
    exit 1
fi

# Functions and, as inline parts of headers need them, variables.
cat "${public[@]}" | tr '\n' ' ' | grep -oE 'FLOW_API[^;(]*[;(]' | grep -oE 'flow_[a-z0-9_]+ *[;(]$' |
    tr -d ' (;' | sort >"$tmp/declared"
sed -n 's/^[[:space:]]*\(flow_[a-z0-9_]*\);.*/\1/p' core/flowcoro.map | sort >"$tmp/map"
nm -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort >"$tmp/exported"
{
    diff "$tmp/declared" "$tmp/map" | sed -n 's/^</only in the headers:/p; s/^>/only in the map:/p'
    nm -D --defined-only "$library" | awk '$2 != "A" && $3 !~ /@@FLOWCORO_/ { print "without a version:", $3 }'
    diff "$tmp/map" "$tmp/exported" | sed -n 's/^</in the map, not in the library:/p; s/^>/exported, not in the map:/p'
} | verdict 'exported symbols' "$(wc -l <"$tmp/exported"), as in the headers and the map"

# --- public headers ---------------------------------------------------------------------

compile_headers() { # compiler flags...
    local header
    for header in "${public[@]}"; do
        echo "#include <${header#include/}>" | "$@" -Wall -Wextra -Wpedantic -Werror -Iinclude -fsyntax-only - 2>&1
    done
}

compile_headers "$CC" -std=c11 -x c | verdict 'headers as C11' "${#public[@]}"
if command -v "$CXX" >/dev/null; then
    compile_headers "$CXX" -std=c++17 -x c++ | verdict 'headers as C++17' "${#public[@]}"
else
    echo "skip headers as C++17: no $CXX"
fi

# `make -n install` names the headers; each must be a public one.
"${MAKE:-make}" -n install PREFIX="$tmp" V=1 2>/dev/null | tr ' ' '\n' | grep '\.h$' | sort -u >"$tmp/installed"
{
    grep -v "^include/\|^$tmp/" "$tmp/installed"
    printf '%s\n' "${public[@]}" | grep -vxFf "$tmp/installed" | sed 's/$/ is not installed/'
} | verdict 'installed headers' "$(grep -c '^include/' "$tmp/installed"), all public"

# --- the binary -------------------------------------------------------------------------

mapfile -t objects < <(find "$BUILD"/obj/numa "$BUILD"/obj/sync "$BUILD"/obj/core -name '*.o' 2>/dev/null)
{
    readelf -dW "$library" >"$tmp/dynamic"
    readelf -lW "$library" >"$tmp/segments"
    grep -q 'SONAME.*\[libflowcoro\.so\.[0-9]*\]' "$tmp/dynamic" || echo 'no SONAME'
    grep -q 'FLAGS_1.*NOW' "$tmp/dynamic" || echo 'not bound at start (NOW)'
    grep -q 'FLAGS_1.*NODELETE' "$tmp/dynamic" || echo 'may be unloaded (NODELETE)'
    grep -q 'GNU_RELRO' "$tmp/segments" || echo 'no RELRO segment'
    grep -q 'GNU_STACK.* RW ' "$tmp/segments" || echo 'the stack is executable'
    grep -q 'TEXTREL' "$tmp/dynamic" && echo 'has text relocations'
    for file in $(find core -name '*.S'); do
        grep -q 'note\.GNU-stack' "$file" || echo "$file: no .note.GNU-stack"
    done
} | verdict 'hardening' 'relro, now, nodelete, no executable stack, no text relocations'

case $("$CC" -dumpmachine) in
x86_64*)
    for object in "${objects[@]}"; do
        note=$(readelf -nW "$object" | grep 'x86 feature')
        [[ $note == *IBT* ]] || echo "$object: not marked IBT"
        [[ $note != *SHSTK* ]] || echo "$object: marked SHSTK, which the switch cannot keep"
    done | verdict 'branch tracking' "${#objects[@]} objects marked IBT, none SHSTK"
    ;;
*) echo 'skip branch tracking: x86-64 only' ;;
esac

# --- the ignore file --------------------------------------------------------------------

{
    grep -nE '^/?\**/?core/?\**$' .gitignore
    if command -v git >/dev/null && git rev-parse --git-dir >/dev/null 2>&1; then
        git check-ignore -v "${core[@]}" core/flowcoro.map
    fi
} 2>/dev/null | verdict 'core/ is not ignored' "${#core[@]} files"

exit $status
