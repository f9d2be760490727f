#!/usr/bin/env bash
# Explores the models of tests/model/, then puts in the faults of tests/mutants, one at a time, and
# expects each to be noticed. `make check` does it within small bounds and with a few mutants, `make
# check-model` (argument: full) with all. A failing schedule is printed as a string; to see it again:
#   build/model/PROGRAM replay NAME STRING         (and `quick` behind it if it was found by make check)
# PROGRAM quick|full NAME explores one scenario only; a mutant is tried with the one that has to notice it.
# The models of sync/ also run under Relacy, which knows weaker memory than the explorer
# (tests/model/relacy.h), and spin looks at runs without end (tests/model/parking.pml; full only).
set -u
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build} CC=${CC:-gcc} mode=${1:-quick}
out=$BUILD/model
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
status=0
mkdir -p "$out"

flags=(-std=gnu11 -D_GNU_SOURCE -g -O1 -w -ffunction-sections '-DFLOW_MODEL="tests/model/explorer.h"')

compile() { # tree object source flag...
    "$CC" -I"$1/include" -I"$1" "${flags[@]}" "${@:4}" -c -o "$2" "$1/$3"
}

lacks() { # what for
    if [ "${CI:-}" = true ]; then
        echo "FAILED $2 is not there: $1"
        status=1
    else
        echo "skip $2 is not there (.ci/packages models): $1"
    fi
}

relacy=()
if ! command -v "${CXX:-g++}" >/dev/null; then
    lacks 'models of sync/ in weak memory' g++
elif ! echo '#include <relacy/relacy.hpp>' | "${CXX:-g++}" -std=gnu++14 -w -x c++ -fsyntax-only - 2>/dev/null; then
    lacks 'models of sync/ in weak memory' relacy
else
    relacy=(task_ring) # to compile it takes seconds for each
    [ "$mode" != full ] || relacy+=(parker litmus inbox job_deque lock ring queue stack)
fi

# C makes a pointer of any kind of a void *, which C++ allows with -fpermissive; Relacy's first values
# are private to it.
build_relacy() { # tree program output flag...
    "${CXX:-g++}" -std=gnu++14 -fpermissive -fno-access-control -D_GNU_SOURCE -w "${@:4}" \
        -I"$1/include" -I"$1" '-DFLOW_MODEL="tests/model/relacy.h"' -x c++ -o "$3" "$1/tests/model/$2.c"
}

spin=()
if [ "$mode" = full ] && command -v spin >/dev/null; then
    spin=(parking)
elif [ "$mode" = full ]; then
    lacks 'liveness of parking' spin
fi

# spin compiles when it runs: each scenario is a program.
build_spin() { # tree program output
    printf '#!/bin/sh\nCC="%s" exec "%s" "%s" "$@"\n' "$CC" "$(realpath tests/model/spin.sh)" \
        "$(realpath "$1/tests/model/$2.pml")" >"$3" && chmod +x "$3"
}

# The compiler marks plain accesses for the explorer as it would for its thread sanitizer. What a model
# of core/ does not reach need not be there.
build_explorer() { # tree program output flag...
    compile "$1" "$3.o" "tests/model/$2.c" -fsanitize=thread "${@:4}" &&
        "$CC" -no-pie -Wl,--gc-sections,--unresolved-symbols=ignore-all -o "$3" "$3.o" "$out/explorer.o" "$out/states.o" "$out/switch.o"
}

build() { # tree [engine/]program output flag...
    case $2 in
    relacy/*) build_relacy "$1" "${2#*/}" "$3" "${@:4}" ;;
    spin/*) build_spin "$1" "${2#*/}" "$3" ;;
    *) build_explorer "$1" "$2" "$3" "${@:4}" ;;
    esac
}

machine=$("$CC" -dumpmachine)
compile . "$out/explorer.o" tests/model/explorer.c -O2 &&
    compile . "$out/states.o" tests/model/states.c -O2 &&
    compile . "$out/switch.o" "core/arch/${machine%%-*}/switch.S" || exit 1

# Two things at a time on two CPUs: starts a command as soon as one of the places is free. gather() waits for all and
# shows what each has said, in order.
started=0
start() {
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
    started=$((started + 1))
    { "$@"; echo $? >"$tmp/$started.status"; } >"$tmp/$started.said" 2>&1 &
}

gather() {
    wait
    for ((i = 1; i <= started; i++)); do
        cat "$tmp/$i.said"
        [ "$(cat "$tmp/$i.status")" = 0 ] || status=1
    done
}

model() { # [engine/]program flag...
    local output=$out/${1/\//_}
    build . "$1" "$output" "${@:2}" && "$output" "$mode"
}

for source in $(grep -l '^int main' tests/model/*.c); do
    start model "$(basename "$source" .c)"
done
for program in "${relacy[@]}"; do
    start model "relacy/$program" $([ "$mode" != full ] || echo -O1)
done
for program in "${spin[@]}"; do
    start model "spin/$program"
done
models=$started

notices() { # program limit mode [scenario]
    timeout "$2" "$1" "${@:3}" >"$1.log" 2>&1
    grep -q '^FAILED model' "$1.log"
}

mutant() { # number program[:scenario] file script what
    local tree=$tmp/tree$1 program=$tmp/mutant$1 killed=1 only=()
    case $2 in *:*) only=("${2#*:}") ;; esac
    mkdir -p "$tree/tests"
    cp -r include numa sync core "$tree" && cp -r tests/model "$tree/tests"
    sed -i "$4" "$tree/$3"
    if cmp -s "$3" "$tree/$3"; then
        echo "FAILED mutant changes nothing: $5"
    elif ! build "$tree" "${2%%:*}" "$program" -O0 2>"$program.log"; then
        echo "FAILED mutant does not compile: $5"
        head -3 "$program.log"
    elif notices "$program" 60 quick "${only[@]}" ||
        { [ "$mode" = full ] && notices "$program" 300 full "${only[@]}"; }; then
        killed=0
        [ "$mode" != full ] || echo "killed: $5 ($(sed -n 's/^FAILED model //p' "$program.log"))"
    else
        echo "FAILED mutant lives: $5"
    fi
    rm -rf "$tree" "$program"*
    return $killed
}

while IFS=$'\t' read -r when program file script what; do
    case $when in '#'* | '') continue ;; esac
    [ "$mode" = full ] || [ "$when" = quick ] || continue
    case $program in
    relacy/*) [ ${#relacy[@]} -gt 0 ] || continue ;;
    spin/*) [ ${#spin[@]} -gt 0 ] || continue ;;
    esac
    start mutant $((started + 1)) "$program" "$file" "$script" "$what"
done <tests/mutants
gather
killed=0
for ((i = models + 1; i <= started; i++)); do
    [ "$(cat "$tmp/$i.status")" != 0 ] || killed=$((killed + 1))
done
[ "$status" != 0 ] || echo "ok the models notice every fault put in"
echo "mutants killed $killed/$((started - models))"
exit $status
