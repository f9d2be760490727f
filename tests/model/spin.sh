#!/usr/bin/env bash
# Checks each claim (ltl) of a Promela model in each of its scenarios, with spin; of those, the ones that
# take seconds only with `full`. Weak fairness: who can go on for ever does so in the end.
# Usage: spin.sh MODEL.pml [quick|full]. A model says `scenario quick|full NAME=VALUE...` in its comments.
# To see a failure: spin -DNAME=VALUE... -a MODEL.pml, compile pan.c, ./pan -a -f -N CLAIM, and then
# spin -DNAME=VALUE... -t -p MODEL.pml.
set -u
model=$(realpath "$1") mode=${2:-quick}
name=$(basename "$1" .pml)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1

while read -r when values; do
    [ "$mode" = full ] || [ "$when" = quick ] || continue
    # shellcheck disable=SC2046 # one option for each value
    if ! { spin $(printf -- '-D%s ' $values) -a "$model" &&
        "${CC:-gcc}" -O2 -w -DNFAIR=4 -DCOLLAPSE -o pan pan.c; } >log 2>&1; then
        echo "FAILED model $name, spin: does not compile ($values)"
        cat log
        exit 1
    fi
    for claim in $(sed -n 's/^ltl \([a-z_]*\).*/\1/p' "$model"); do
        ./pan -a -f -m3000000 -N "$claim" >log 2>&1
        if ! grep -q 'errors: 0$' log; then
            echo "FAILED model $name, spin: $claim ($values)"
            exit 1
        fi
        all=exhaustive
        ! grep -q 'max search depth too small' log || all='NOT exhaustive: cut off'
        echo "ok model $name, spin: $claim, $(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' log) states, $all ($values)"
    done
done < <(sed -n 's/^ \* scenario \(quick\|full\) \(.*\)/\1 \2/p' "$model")
