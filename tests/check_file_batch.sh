#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs file_batch over a tree of real and of awkward files and compares what it says
# with find, cat, wc and zlib; then interrupts it. Prints one line.
# BUILD names the folder of the build (build); with SANITIZE set there are fewer files.
set -u
LC_ALL=C
export LC_ALL

program=${BUILD:-build}/examples/file_batch
wanted=1000
[ -z "${SANITIZE:-}" ] || wanted=300

fail()
{
    echo "check_file_batch: FAILED: $*"
    exit 1
}

[ -x "$program" ] || fail "no $program"
folder=$(mktemp -d "${TMPDIR:-/tmp}/file_batch.XXXXXX") || exit 1
child=
# Only a child that is still ours: $child is empty once it has been waited for.
trap '[ -n "$child" ] && kill -KILL "$child" 2>/dev/null
    chmod -R u+rwx "$folder"
    rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM HUP
tree=$folder/tree
mkdir "$tree"

# Real files, flat names made unique by a number, spread over folders of 100.
# Links are passed over; a minimal system has fewer files, and that will do.
find /usr/include /usr/share/doc /usr/lib -type f -size -512k -readable 2>/dev/null |
    head -n $wanted >"$folder/list"
n=0
while IFS= read -r file; do
    part=$tree/part$((n / 100))
    [ $((n % 100)) -eq 0 ] && mkdir "$part"
    n=$((n + 1))
    printf '%s\0%s\0' "$file" "$part/$n-${file##*/}"
done <"$folder/list" | xargs -0 -n 2 -P 4 cp 2>/dev/null

# Awkward ones.
odd=$tree/odd
mkdir -p "$odd/empty folder" "$odd/a/b/c/d/e/f/g/h"
: >"$odd/empty"
printf 'no newline at the end' >"$odd/unfinished"
printf ' \t\n\v\f\r one\001two \001 \240 \377\376 a\000b \r\n' >"$odd/bytes"
head -c 1000003 /dev/urandom >"$odd/random"
head -c 131072 /dev/zero | tr '\0' 'x' >"$odd/exactly one chunk"
head -c 131073 /dev/zero | tr '\0' 'y' >"$odd/one chunk and a byte"
printf 'x\n' >"$odd/name with spaces"
printf 'y\n' >"$odd/name
with newline"
printf 'z\n' >"$odd/quote\"and\\backslash"
printf 'w\n' >"$odd/$(printf 'not utf-8 \377')"
printf 'deep\n' >"$odd/a/b/c/d/e/f/g/h/file"
ln -s ../odd "$odd/link to folder"
ln -s random "$odd/link to file"
mkfifo "$odd/fifo"
unreadable=0
if [ "$(id -u)" -ne 0 ]; then
    echo secret >"$folder/secret"
    mv "$folder/secret" "$odd/secret"
    chmod 0 "$odd/secret"
    unreadable=1
fi

# What the system's own tools say. An unreadable file is in none of the counts.
files=$(find "$tree" -type f -readable -print0 | tr -dc '\0' | wc -c)
bytes=$(find "$tree" -type f -readable -exec cat {} + | wc -c)
lines=$(find "$tree" -type f -readable -exec cat {} + | wc -l)
# Since coreutils 9.4 or so a byte that is not printable counts as a word; before it
# neither begins nor ends one. file_batch does the latter, and to delete such
# bytes makes both say so. The blank keeps the words of two files apart.
words=$(find "$tree" -type f -readable -exec sh -c 'for f; do cat "$f"; echo; done' sh {} + |
    tr -d '\000-\010\016-\037\177-\377' | wc -w)

# The first number of that name in a line of JSON.
value()
{
    grep -o "\"$1\":[0-9]*" "$2" | head -n 1 | cut -d : -f 2
}

same()
{
    [ "$2" = "$3" ] || fail "$1: file_batch says '$2', the system's tools say '$3'"
}

status_wanted=$unreadable
"$program" --json "$tree" >"$folder/out" 2>"$folder/err"
same "exit status" $? $status_wanted
[ -s "$folder/err" ] && fail "unexpected messages: $(cat "$folder/err")"
grep '"type":"totals"' "$folder/out" >"$folder/totals"
same "files" "$(value files "$folder/totals")" "$files"
same "bytes" "$(value bytes "$folder/totals")" "$bytes"
same "lines" "$(value lines "$folder/totals")" "$lines"
same "words" "$(value words "$folder/totals")" "$words"
same "unreadable" "$(value unreadable "$folder/totals")" "$unreadable"
same "lines per file" "$(grep -c '"type":"file"' "$folder/out")" "$files"

# wc itself, where it treats unprintable bytes as file_batch does.
if [ "$(printf '\001' | wc -w)" -eq 0 ]; then
    direct=$(find "$tree" -type f -readable -exec sh -c 'for f; do wc -w <"$f"; done' sh {} + |
        awk '{n += $1} END {print n}')
    same "words by wc" "$(value words "$folder/totals")" "$direct"
fi

# The limit changes the order of things, never their sums.
for limit in 1 2 1000; do
    "$program" --json --totals --in-flight $limit "$tree" >"$folder/limited" 2>&1
    same "bytes with --in-flight $limit" "$(value bytes "$folder/limited")" "$bytes"
    same "files with --in-flight $limit" "$(value files "$folder/limited")" "$files"
done

# Every line is JSON, names survive, and every CRC is zlib's.
crcs="not compared"
if python3 -c 'import zlib' 2>/dev/null; then
    crcs=$(python3 - "$folder/out" <<'EOF'
import json, sys, zlib
n = 0
for line in open(sys.argv[1], encoding="utf-8"):
    entry = json.loads(line)
    if entry["type"] != "file":
        continue
    path = bytes.fromhex(entry["path_hex"]) if "path_hex" in entry else entry["path"].encode()
    with open(path, "rb") as file:
        content = file.read()
    if len(content) != entry["bytes"] or content.count(b"\n") != entry["lines"]:
        sys.exit("sizes differ: %r" % path)
    if "%08x" % zlib.crc32(content) != entry["crc32"]:
        sys.exit("CRC differs: %r" % path)
    n += 1
print(n)
EOF
    ) || fail "CRC or JSON: $crcs"
    same "CRCs" "$crcs" "$files"
fi

# Text form, a link and a missing path as arguments, and wrong usage.
"$program" "$odd/empty" "$odd/link to file" "$folder/nowhere" >"$folder/text" 2>"$folder/err"
same "exit status with errors" $? 1
same "messages" "$(wc -l <"$folder/err")" 2
grep -q '^errors  *2$' "$folder/text" || fail "two errors were not counted"
"$program" >/dev/null 2>&1
same "exit status without a path" $? 2
"$program" --in-flight 0 "$odd" >/dev/null 2>&1
same "exit status of --in-flight 0" $? 2
"$program" --nonsense "$odd" >/dev/null 2>&1
same "exit status of --nonsense" $? 2

# Interrupt. Its output goes into a fifo that nobody empties, so the run cannot
# be over before the signal is sent, however fast the machine. The first lines
# arriving say that it has begun.
mkfifo "$folder/pipe"
"$program" "$tree" "$tree" "$tree" "$tree" "$tree" "$tree" "$tree" "$tree" \
    >"$folder/pipe" 2>"$folder/err" &
child=$!
exec 3<"$folder/pipe"
dd bs=1024 count=1 <&3 >"$folder/text" 2>/dev/null
kill -INT "$child"
cat <&3 >>"$folder/text"
exec 3<&-
wait "$child"
status=$?
child=
same "exit status after SIGINT" $status 130
grep -q '^interrupted' "$folder/text" || fail "'interrupted' was not printed"
partial=$(sed -n 's/^files  *//p' "$folder/text" | tr -d ,)
printed=$(grep -cE '^ *[0-9]+ +[0-9]+ +[0-9]+ [0-9a-f]{8} /' "$folder/text")
[ "$partial" -lt $((files * 8)) ] || fail "the interrupted run did everything"
[ "$partial" -gt 0 ] || fail "the interrupted run did nothing"
[ "$printed" -eq "$partial" ] || fail "totals say $partial files, $printed were printed"

echo "check_file_batch: ok: $files files, $bytes bytes, $lines lines, $words words" \
    "as find and wc; CRCs $crcs; SIGINT after $partial of $((files * 8)) files: status 130"
