#!/usr/bin/env bash
# Runs the test programs named on the command line, from $BUILD/tests, then tests/check_*.sh.
# One at a time: tests of concurrency disturb each other. `make check` calls this.
#
# A program whose source mentions FLOW_TEST_WORKERS runs with 1, 2 and 4 workers. Each run
# is a process of its own with a time limit (TEST_LIMIT seconds, 120). Exit status 77: skipped.
# Of a program that succeeds only lines that begin with "note" or "skip" are shown.
# A check prints lines that begin with "ok ", "FAILED ", "skip " or
# "skipped: "; each counts as one.
set -u
cd "$(dirname "$0")/.." || exit 1
export BUILD=${BUILD:-build} CC=${CC:-gcc} MAKE=${MAKE:-make} SANITIZE=${SANITIZE:-} DEBUG=${DEBUG:-}
limit=${TEST_LIMIT:-120}
ulimit -S -c 0

passed=0 failed=0 skipped=0
failures=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Sanitizers lay out shadow memory where a randomised address space may be in the way.
launcher=()
if [ -n "$SANITIZE" ]; then
    if setarch -R true 2>/dev/null; then
        launcher=(setarch -R)
    else
        echo 'note: setarch -R is refused here; the address space stays randomised'
    fi
fi

# Runs a command with the time limit, its output in $log; sets status and seconds.
run_limited() {
    local start=$EPOCHREALTIME
    timeout -k 10 -s ABRT "$limit" "$@" >"$log" 2>&1 </dev/null
    status=$?
    seconds=$(awk -v a="${start/,/.}" -v b="${EPOCHREALTIME/,/.}" 'BEGIN { printf "%.1f", b - a }')
    [ "$status" != 124 ] || echo "ran into the limit of $limit s" >>"$log"
}

# The sum of the numbers in cmocka's lines of one kind.
cmocka_total() {
    sed -nE "s/^\[ *$1 *\] ([0-9]+) test\(s\).*/\1/p" "$log" | awk '{ n += $1 } END { print n + 0 }'
}

count() { # passed failed skipped what
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
    [ "$2" = 0 ] || failures+=("$4")
}

run_program() { # name workers-or-empty
    local what="$1${2:+ workers=$2}" p f s verdict=ok
    run_limited env ${2:+FLOW_TEST_WORKERS=$2} "${launcher[@]}" "$BUILD/tests/$1"
    p=$(cmocka_total PASSED) f=$(cmocka_total FAILED) s=$(cmocka_total SKIPPED)
    if [ "$status" = 77 ]; then
        s=$((s + 1)) verdict=skipped
    elif [ "$status" != 0 ]; then
        [ "$f" -gt 0 ] || f=1
    elif [ $((p + f + s)) = 0 ]; then
        echo 'exit status 0, but no test has run' >>"$log"
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

for name in "$@"; do
    if grep -q FLOW_TEST_WORKERS "tests/$name.c"; then
        for workers in 1 2 4; do
            run_program "$name" $workers
        done
    else
        run_program "$name" ''
    fi
done

for script in tests/check_*.sh; do
    case ${SANITIZE:+sanitize}:$script in
    sanitize:*/check_structure.sh | sanitize:*/check_install.sh | sanitize:*/check_readme.sh | \
        sanitize:*/check_arm64.sh | sanitize:*/check_gdb.sh | sanitize:*/check_model.sh) continue ;; # about the plain build
    esac
    run_check "$script"
done

for what in "${failures[@]}"; do
    echo "failed: $what"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
