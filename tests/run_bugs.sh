#!/usr/bin/env bash
# Puts the bugs of tests/bugs into a copy of the tree, one at a time, and runs the test programs that
# should notice. `make check-bugs` calls this; it takes some minutes and needs what `make check` needs.
# Arguments, if any, choose: only lines that contain one of them are tried.
#
# A bug is killed if one of its programs fails: a wrong answer, a crash, or no end within LIMIT seconds
# (30). First each program must pass without bugs. The last line says how many were killed.
set -u
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build} MAKE=${MAKE:-make} limit=${LIMIT:-30}
tree=$BUILD/bugs/tree
log=$BUILD/bugs/log
jobs=-j$(nproc)
ulimit -S -c 0

rm -rf "$BUILD/bugs"
mkdir -p "$tree"
cp -r Makefile core numa sync include tests examples perf "$tree" || exit 1

build() {
    "$MAKE" --no-print-directory -C "$tree" "$jobs" BUILD=build "$@" >"$log" 2>&1
}

# PROGRAM or PROGRAM:WORKERS. Its status; 124 and more: it was ended.
run() {
    local workers=2 name=${1%%:*}
    [ "$name" = "$1" ] || workers=${1#*:}
    (cd "$tree" && FLOW_TEST_WORKERS=$workers timeout -k 5 -s ABRT "$2" "build/tests/$name") \
        >"$log" 2>&1 </dev/null
}

chosen() {
    [ $# -gt 1 ] || return 0
    local line=$1 word
    shift
    for word; do
        case $line in *"$word"*) return 0 ;; esac
    done
    return 1
}

# The first words of the lines that are tried, without repeats.
programs() {
    while IFS= read -r line; do
        case $line in '#'* | '') continue ;; esac
        chosen "$line" "$@" && printf '%s\n' "${line%%$'\t'*}"
    done <tests/bugs | tr ' ' '\n' | sort -u
}

# Prints by what the bug was killed; 1: it lives, 2: it is none.
try() { # programs file
    cmp -s "$2" "$tree/$2" && { echo 'changes nothing'; return 2; }
    local program targets=() status
    for program in $1; do
        targets+=("build/tests/${program%%:*}")
    done
    build "${targets[@]}" || { echo "does not compile: $(grep -m1 error: "$log")"; return 2; }
    for program in $1; do
        run "$program" "$limit"
        status=$?
        [ "$status" = 0 ] && continue
        [ "$status" -lt 124 ] && echo "$program failed: $(grep -m1 -E 'FAILED  |ERROR|error:' "$log" | cut -c1-70)" ||
            echo "$program: ended with status $status"
        return 0
    done
    echo 'nobody noticed'
    return 1
}

status=0 killed=0 total=0
for program in $(programs "$@"); do
    build "build/tests/${program%%:*}" && run "$program" 120 && continue
    echo "FAILED without any bug: $program"
    tail -5 "$log"
    exit 1
done
while IFS=$'\t' read -r names file script what; do
    case $names in '#'* | '') continue ;; esac
    chosen "$names"$'\t'"$file"$'\t'"$script"$'\t'"$what" "$@" || continue
    total=$((total + 1))
    sed -i "$script" "$tree/$file"
    if said=$(try "$names" "$file"); then
        killed=$((killed + 1))
        echo "killed: $file: $what ($said)"
    else
        status=1
        echo "FAILED $file: $what: $said"
    fi
    # A new time stamp, for make; the old contents.
    cat "$file" >"$tree/$file"
done <tests/bugs
echo "bugs killed $killed/$total"
exit $status
