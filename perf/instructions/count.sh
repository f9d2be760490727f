#!/bin/sh
# Counts the instructions of each loop of loops.c with callgrind: no clock, so no noise.
#
#   count.sh show     counts, and compares with the baseline (perf/instructions/baseline)
#   count.sh update   counts, and makes this the baseline
#   count.sh compare REVISION
#                     counts here and in the sources of another revision, which are checked out and
#                     built under the build folder
# From the top of the tree, with the library built. BUILD, CC, LIBS: what the Makefile uses.
set -u
cd "$(dirname "$0")/../.." || exit 1
BUILD=${BUILD:-build} CC=${CC:-gcc} LIBS=${LIBS:--lnuma -lurcu-memb -lurcu-common}
work=$BUILD/perf/instructions
baseline=perf/instructions/baseline
N=20000
saved=$BUILD/perf/results/instructions.jsonl
mkdir -p "$work" "$BUILD/perf/results"
[ "${1:-show}" != show ] || rm -f "$saved"

command -v valgrind >/dev/null || { echo "no valgrind: no instructions are counted"; exit 0; }

build() { # tree library program
    $CC -std=gnu11 -D_GNU_SOURCE -O2 -I"$1/include" -I"$1" -o "$3" perf/instructions/loops.c "$2" \
        -pthread $LIBS -lm || { echo "loops.c does not build against $1"; exit 1; }
}

collected() { # program loop n
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$1" "$2" "$3" 2>&1 |
        awk '/Collected/ { print $NF }'
}

# "loop instructions" for each loop: of one turn, from the difference of two runs.
count() { # program
    for loop in $("$1"); do
        once=$(collected "$1" "$loop" $N) twice=$(collected "$1" "$loop" $((2 * N)))
        [ -n "$once" ] && [ -n "$twice" ] || { echo "$loop failed" >&2; exit 1; }
        echo "$loop $once $twice" | awk -v n=$N '{ printf "%s %.1f\n", $1, ($3 - $2) / n }'
    done
}

describe() { echo "$($CC -dumpmachine), $($CC --version | sed 1q)"; }

# A table of two lists.
compare() { # before after
    awk 'NR == FNR { if ($1 != "#") before[$1] = $2; next }
    FNR == 1 { printf "%-12s %10s %10s %8s\n", "loop", "before", "after", "ratio" }
    {
        ratio = before[$1] + 0 > 0 ? sprintf("%.3f", $2 / before[$1]) : "-"
        printf "%-12s %10s %10.1f %8s\n", $1, before[$1], $2, ratio
    }' "$1" "$2"
}

save() { # counts
    awk '{ printf "{\"bench\":\"instructions\",\"work\":\"%s\",\"who\":\"flow\",\"workers\":0,\"n\":1," \
        "\"unit\":\"instructions\",\"median\":%s,\"low\":%s,\"high\":%s,\"coverage\":1,\"values\":[%s]}\n", \
        $1, $2, $2, $2, $2 }
    END {
        printf "{\"bench\":\"instructions\",\"note\":\"commit %s, %s\"}\n", commit, how
        print "{\"bench\":\"instructions\",\"complete\":true}"
    }' commit="$(git describe --always --dirty --abbrev=10)" how="$(describe)" "$1" >"$saved"
}

build . "$BUILD/libflowcoro.a" "$work/loops"
count "$work/loops" >"$work/counts" || exit 1

case ${1:-show} in
show)
    save "$work/counts"
    [ -e $baseline ] || { cat "$work/counts"; exit 0; }
    echo "before: the baseline, $(sed -n 's/^# //p' $baseline | sed 1q); after: $(describe)"
    compare $baseline "$work/counts"
    ;;
update)
    { echo "# $(describe)"; echo "# instructions for one turn of each loop; make perf-instructions UPDATE=1"
        cat "$work/counts"; } >$baseline
    cat $baseline
    ;;
compare)
    revision=$(git rev-parse --short "${2:?which revision?}") || exit 1
    tree=$(cd "$work" && pwd -P)/base # git would take the end of a path for that of any worktree
    git worktree remove --force "$tree" 2>/dev/null
    git worktree add --quiet --detach "$tree" "$revision" || exit 1
    trap 'git worktree remove --force "$tree"' EXIT
    env -u MAKEFLAGS -u MAKELEVEL make -s -C "$tree" BUILD=build CC="$CC" lib >/dev/null || exit 1
    build "$tree" "$tree/build/libflowcoro.a" "$work/base_loops"
    count "$work/base_loops" >"$work/base_counts" || exit 1
    echo "before: $revision, after: $(git describe --always --dirty); instructions for one turn, $(describe)"
    compare "$work/base_counts" "$work/counts"
    ;;
*) sed -n 's/^#   //p' "$0"; exit 2 ;;
esac
