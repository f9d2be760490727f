#!/usr/bin/env bash
# Explores the models of tests/model/, then puts in the faults of tests/mutants, one at a time, and
# expects each to be noticed. `make check` does it within small bounds and with a few mutants, `make
# check-model` (argument: full) with all. A failing schedule is printed as a string; to see it again:
#   build/model/PROGRAM replay NAME STRING         (and `quick` behind it if it was found by make check)
set -u
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build} CC=${CC:-gcc} mode=${1:-quick}
out=$BUILD/model
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
status=0
mkdir -p "$out"

flags=(-std=gnu11 -D_GNU_SOURCE -g -O1 -w '-DFLOW_MODEL="tests/model/explorer.h"')

compile() { # tree object source flag...
    "$CC" -I"$1/include" -I"$1" "${flags[@]}" "${@:4}" -c -o "$2" "$1/$3"
}

# The compiler marks plain accesses for the explorer as it would for its thread sanitizer.
build() { # tree program output
    compile "$1" "$3.o" "tests/model/$2.c" -fsanitize=thread &&
        "$CC" -o "$3" "$3.o" "$out/explorer.o" "$out/switch.o"
}

machine=$("$CC" -dumpmachine)
compile . "$out/explorer.o" tests/model/explorer.c -O2 &&
    compile . "$out/switch.o" "core/arch/${machine%%-*}/switch.S" || exit 1

for source in tests/model/*.c; do
    program=$(basename "$source" .c)
    [ "$program" != explorer ] || continue
    build . "$program" "$out/$program" && "$out/$program" "$mode" || status=1
done

mkdir "$tmp/tree"
killed=0 total=0
while IFS=$'\t' read -r when program file script what; do
    case $when in '#'* | '') continue ;; esac
    [ "$mode" = full ] || [ "$when" = quick ] || continue
    total=$((total + 1))
    rm -rf "$tmp/tree"
    mkdir -p "$tmp/tree/tests"
    cp -r include sync core "$tmp/tree" && cp -r tests/model "$tmp/tree/tests"
    sed -i "$script" "$tmp/tree/$file"
    if cmp -s "$file" "$tmp/tree/$file"; then
        echo "FAILED mutant changes nothing: $what"
    elif ! build "$tmp/tree" "$program" "$tmp/mutant" 2>"$tmp/log"; then
        echo "FAILED mutant does not compile: $what"
        head -3 "$tmp/log"
    else
        timeout 60 "$tmp/mutant" quick >"$tmp/log" 2>&1
        grep -q '^FAILED model' "$tmp/log" || [ "$mode" != full ] ||
            timeout 300 "$tmp/mutant" full >"$tmp/log" 2>&1
        if grep -q '^FAILED model' "$tmp/log"; then
            killed=$((killed + 1))
            [ "$mode" != full ] || echo "killed: $what ($(sed -n 's/^FAILED model //p' "$tmp/log"))"
        else
            echo "FAILED mutant lives: $what"
        fi
    fi
done <tests/mutants

[ "$killed" = "$total" ] || status=1
[ "$status" != 0 ] || echo "ok the models notice every fault put in"
echo "mutants killed $killed/$total"
exit $status
