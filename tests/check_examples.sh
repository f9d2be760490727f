#!/usr/bin/env bash
# Runs the small examples on real input, compares what they say with other programs, and
# sees that each is short enough to be read in one go. BUILD names the folder of the build (build).
set -u
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C
programs=${BUILD:-build}/examples
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
status=0

# Says whether two texts are the same.
same() { # what expected actual
    if [ "$2" = "$3" ]; then
        echo "ok $1: $3"
    else
        printf 'FAILED %s\n    expected: %s\n    got: %s\n' "$1" "$2" "$3"
        status=1
    fi
}

# Runs a program, with a limit; its output, and its exit status if that is not 0.
run() { timeout 60 "$@" 2>&1 || echo "exit status $?"; }

# --- word_count against wc; sort_lines against sort -------------------------------------

# Our own sources, several times, as several files; one is empty, one has neither blanks nor an end.
for i in 1 2 3 4 5; do cat core/*.c numa/*.c sync/*.c tests/*.c >"$tmp/text$i"; done
: >"$tmp/empty"
head -c 1000000 /dev/zero | tr '\0' x >"$tmp/one_word"
tr -d '\0-\10\16-\37\177-\377' <"$tmp/text1" | cmp -s - "$tmp/text1" || echo "note: the sources are not plain ASCII"
same 'word_count counts as wc' "$(cat "$tmp"/text* "$tmp/empty" "$tmp/one_word" | wc | awk '{ print $1, $2, $3 }')" \
    "$(run "$programs/word_count" "$tmp"/text* "$tmp/empty" "$tmp/one_word")"
same 'word_count says which file it cannot read' \
    "word_count: $tmp/none: No such file or directory|0 0 0|exit status 1|" \
    "$(run "$programs/word_count" "$tmp/none" | tr '\n' '|')"
cat "$tmp"/text* "$tmp/one_word" >"$tmp/all"
same 'sort_lines sorts as sort' "$(sort "$tmp/all" | cksum)" "$(run "$programs/sort_lines" "$tmp/all" | cksum)"
same 'sort_lines of nothing' '' "$(run "$programs/sort_lines" "$tmp/empty")"

# --- crawl against find ---------------------------------------------------------------------

mkdir -p "$tmp"/tree/{a,b,c}/{1,2,3,4}/{x,y}/deep/deeper
touch "$tmp"/tree/{a,b,c}/{1,2,3,4}/{x,y}/{file,other}
same 'crawl counts as find' "$(find "$tmp/tree" -type d | wc -l) folders, $(find "$tmp/tree" -mindepth 1 | wc -l) entries" \
    "$(run "$programs/crawl" "$tmp/tree" 100000)"
# Turns every 50 ms, 100 ms of time: three at most, fewer on a busy machine.
same 'crawl keeps to its rate and its deadline' 'N folders, then the time was up|exit status 1|' \
    "$(run "$programs/crawl" "$tmp/tree" 20 100 | sed 's/^[123] folders, .* entries/N folders/' | tr '\n' '|')"
same 'crawl says which folder it cannot read' "crawl: $tmp/none: No such file or directory|0 folders, 0 entries|exit status 1|" \
    "$(run "$programs/crawl" "$tmp/none" | tr '\n' '|')"

# --- the others check their own sums ------------------------------------------------------

same philosophers '1000 philosophers ate 100000 meals; forks were used 200000 times' "$(run "$programs/philosophers")"
same 'two philosophers' '2 philosophers ate 2000 meals; forks were used 4000 times' "$(run "$programs/philosophers" 2 1000)"
same 'primes: the 10000th' 104729 "$(run "$programs/primes" 10000 | tail -1)"
same awaiter '10000 answers, their sum is 333283335000' "$(run "$programs/awaiter" 10000)"

# --- wrong arguments ------------------------------------------------------------------------

for program in word_count sort_lines crawl 'primes 0' 'philosophers 1' 'awaiter 0'; do
    # shellcheck disable=SC2086 # words
    same "$program: usage" "usage: ${program%% *}" "$(run $programs/$program | head -1 | cut -c "1-$((7 + $(printf %s "${program%% *}" | wc -c)))")"
done

long=$(wc -l examples/{word_count,sort_lines,crawl,primes,philosophers,awaiter}.c | awk '$1 >= 120 && $2 != "total" { print $2 }')
same 'each is shorter than 120 lines' '' "$long"
exit $status
