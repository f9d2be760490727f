#!/usr/bin/env bash
# Runs the test programs named on the command line, from $BUILD/tests, then tests/check_*.sh.
# The programs two at a time (TEST_JOBS), the checks one by one. `make check` calls this.
#
# A program whose source mentions FLOW_TEST_WORKERS runs with 1, 2 and 4 workers (WORKER_COUNTS; fewer
# under a sanitizer). Each run is a process of its own with a time limit (TEST_LIMIT seconds, 180). Exit status 77: skipped.
# Of a program that succeeds only lines that begin with "note" or "skip" are shown.
# EMULATOR=program: the programs, and their children, run under it; checks are left out.
# A check prints lines that begin with "ok ", "FAILED ", "skip " or
# "skipped: "; each counts as one.
set -u
cd "$(dirname "$0")/.." || exit 1
export BUILD=${BUILD:-build} CC=${CC:-gcc} MAKE=${MAKE:-make} SANITIZE=${SANITIZE:-} DEBUG=${DEBUG:-}
limit=${TEST_LIMIT:-180}
case $SANITIZE in
address | valgrind) worker_counts=2 ;; # memory is the same at any number of workers
thread) worker_counts=4 ;;             # the most races; one worker's own are looked for by the next
no_sync) worker_counts=1\ 4 ;;         # with one there are ways without atomics
*) worker_counts=1\ 2\ 4 ;;
esac
worker_counts=(${WORKER_COUNTS:-$worker_counts})
ulimit -S -c 0

log=$(mktemp) tally=$(mktemp) turn=$(mktemp)
trap 'rm -f "$log" "$tally" "$turn"' EXIT

# Sanitizers lay out shadow memory where a randomised address space may be in the way.
launcher=()
if [ -n "$SANITIZE" ]; then
    if setarch -R true 2>/dev/null; then
        launcher=(setarch -R)
    else
        echo 'note: setarch -R is refused here; the address space stays randomised'
    fi
fi
[ "$SANITIZE" != valgrind ] || launcher=(valgrind -q --error-exitcode=98 --leak-check=full
    --errors-for-leak-kinds=definite --show-leak-kinds=definite --trace-children=yes --fair-sched=try)

if [ -n "${EMULATOR:-}" ]; then
    export FLOW_TEST_EMULATOR=$EMULATOR
    launcher=("$EMULATOR")
fi

# What a sanitizer's report begins with; one in the log is a failure whatever the exit status.
report='ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error: |^==[0-9]+== [A-Z].*(uninitialised|Invalid|definitely lost|[Mm]ismatched|overlap)'

# Runs a command with the time limit, its output in $log; sets status and seconds.
run_limited() {
    local start=${EPOCHREALTIME/[.,]/} tenths
    timeout -k 10 -s ABRT "$limit" "$@" >"$log" 2>&1 </dev/null
    status=$?
    tenths=$(((${EPOCHREALTIME/[.,]/} - start + 50000) / 100000))
    seconds=$((tenths / 10)).$((tenths % 10))
    [ "$status" != 124 ] || echo "ran into the limit of $limit s" >>"$log"
}

# "passed failed skipped": the sums of the numbers in cmocka's lines.
cmocka_totals() {
    awk '/^\[ *(PASSED|FAILED|SKIPPED) *\] [0-9]+ test\(s\)/ { gsub(/[][]/, " "); n[$1] += $2 }
        END { print n["PASSED"] + 0, n["FAILED"] + 0, n["SKIPPED"] + 0 }' "$log"
}

count() { # passed failed skipped what
    echo "$*" >>"$tally"
}

run_program() { # name workers-or-empty
    local what="$1${2:+ workers=$2}" p f s verdict=ok
    run_limited env ${2:+FLOW_TEST_WORKERS=$2} "${launcher[@]}" "$BUILD/tests/$1"
    read -r p f s < <(cmocka_totals)
    if [ "$status" = 77 ]; then
        s=$((s + 1)) verdict=skipped
    elif [ "$status" != 0 ]; then
        [ "$f" -gt 0 ] || f=1
    elif [ $((p + f + s)) = 0 ]; then
        echo 'exit status 0, but no test has run' >>"$log"
        f=1
    elif [ -n "$SANITIZE" ] && grep -qE "$report" "$log"; then
        f=1
    fi
    [ "$f" = 0 ] || verdict=FAILED
    printf '%-36s %-8s %6s s   %s passed, %s failed, %s skipped\n' "$what" "$verdict" "$seconds" "$p" "$f" "$s"
    if [ "$verdict" != ok ]; then
        [ "$status" -le 128 ] || echo "killed by signal $((status - 128))" >>"$log"
        sed 's/^/    | /' "$log"
    else
        grep -E '^(note|skip)' "$log" | sed 's/^/    /'
    fi
    count "$p" "$f" "$s" "$what"
}

run_check() { # script
    local name p f s
    name=$(basename "$1" .sh)
    limit=600 run_limited "$1"
    p=$(grep -c '^ok ' "$log") f=$(grep -c '^FAILED ' "$log") s=$(grep -cE '^skip(ped:)? ' "$log")
    [ "$status" != 77 ] || [ "$s" -gt 0 ] || s=1
    [ "$status" = 0 ] || [ "$status" = 77 ] || [ "$f" -gt 0 ] || f=1
    [ $((p + f + s)) -gt 0 ] || p=1
    printf '%-36s %-8s %6s s   %s passed, %s failed, %s skipped\n' "$name" \
        "$([ "$f" = 0 ] && echo ok || echo FAILED)" "$seconds" "$p" "$f" "$s"
    sed 's/^/    /' "$log"
    count "$p" "$f" "$s" "$name"
}

# A program's run beside another one's, with a log of its own; each says what it has to say in one piece.
start() { # name workers-or-empty
    while [ "$(jobs -rp | wc -l)" -ge "${TEST_JOBS:-2}" ]; do wait -n; done
    (
        log=$(mktemp)
        said=$(run_program "$@")
        rm -f "$log"
        flock 9
        printf '%s\n' "$said"
    ) 9>"$turn" &
}

for name in "$@"; do
    if grep -q FLOW_TEST_WORKERS "tests/$name.c"; then
        for workers in "${worker_counts[@]}"; do
            start "$name" $workers
        done
    else
        start "$name" ''
    fi
done
wait

for script in tests/check_*.sh; do
    case ${EMULATOR:+emulated}$SANITIZE in emulated | no_sync | valgrind) continue ;; esac
    case ${SANITIZE:+sanitize}:$script in
    sanitize:*/check_structure.sh | sanitize:*/check_hardening.sh | sanitize:*/check_install.sh | sanitize:*/check_readme.sh | \
        sanitize:*/check_arm64.sh | sanitize:*/check_gdb*.sh | sanitize:*/check_model.sh) continue ;; # about the plain build
    esac
    run_check "$script"
done

awk '
    { passed += $1; failed += $2; skipped += $3 }
    $2 > 0 { sub(/^[0-9]+ [0-9]+ [0-9]+ /, ""); print "failed: " $0 }
    END {
        print passed + 0 " passed, " failed + 0 " failed, " skipped + 0 " skipped"
        exit failed > 0
    }' "$tally"
