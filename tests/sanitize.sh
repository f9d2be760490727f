#!/usr/bin/env bash
# `make check-sanitize`: the test programs under each sanitizer, a line for each, and in the end how
# many reports there were and how many are suppressed. Names of flavours as arguments: those only.
#
#   address   gcc's ASan, UBSan and LSan; stacks are known, also to the search for leaks
#   thread    clang's TSan, for which a switch of stacks is synchronisation
#   no_sync   the same, but a switch is none: coroutines of one worker race unless the library's
#             own atomics order them. What only a lucky schedule hides shows here. Not on programs
#             about the process or its memory
#   valgrind  memcheck on some of the programs, with registered stacks
set -u
cd "$(dirname "$0")/.." || exit 1
MAKE=${MAKE:-make}
export MAKEFLAGS=
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0 reports=0 suppressions=0
summary=()

name_of() {
    case $1 in
    address) echo "$(gcc -dumpversion | sed 's/^/gcc /') ASan, UBSan, LSan" ;;
    thread) echo "$(clang -dumpversion | sed 's/^/clang /') TSan" ;;
    no_sync) echo "$(clang -dumpversion | sed 's/^/clang /') TSan, switches do not synchronise" ;;
    valgrind) echo "$(valgrind --version) memcheck" ;;
    esac
}

# What a report begins with, also where another program's output is quoted.
heading='ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error: |ERROR SUMMARY: [1-9]'

run() { # flavour
    local start=$SECONDS p=0 f=0 s=0 n programs status
    echo "--- $(name_of "$1")"
    # A program's totals are indented: the plain line comes once, at the end.
    $MAKE --no-print-directory -j"$(nproc)" SANITIZE="$1" run-check 2>&1 | tee "$log" |
        grep -vE '^  (CC|AS|AR|LINK) ' | sed -E 's/^([0-9]+ passed, [0-9]+ failed)/    \1/'
    status=${PIPESTATUS[0]}
    read -r p f s < <(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$log" | tail -1)
    n=$(grep -cE "$heading" "$log")
    programs=$(grep -cE '^(test|check)_[a-z_]*.* +(ok|FAILED|skipped) +[0-9.]+ s ' "$log")
    [ "$status" = 0 ] || [ "${f:-0}" -gt 0 ] || f=$((${f:-0} + 1))
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0})) skipped=$((skipped + ${s:-0})) reports=$((reports + n))
    summary+=("$(printf '%-42s %3d runs, %s passed, %s failed, %s skipped; reports %d; %d s' "$(name_of "$1")" \
        "$programs" "${p:-0}" "${f:-0}" "${s:-0}" "$n" $((SECONDS - start)))")
}

# Files of suppressions, functions that return them, objects that leaks are not looked for in.
count_suppressions() {
    local files
    files=$(find tests -name '*.supp' | wc -l)
    suppressions=$((files + $(grep -rEl 'default_suppressions|__lsan_(ignore|disable)' \
        core sync numa include tests --include='*.[ch]' | wc -l)))
}

[ $# -gt 0 ] || set -- address thread no_sync valgrind
for flavour in "$@"; do
    run "$flavour"
done
count_suppressions
printf '%s\n' "${summary[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
echo "reports $reports, suppressions $suppressions"
[ "$failed" = 0 ] && [ "$reports" = 0 ]
