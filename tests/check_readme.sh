#!/usr/bin/env bash
# Compiles and runs every C block of README.md against the static library. A block with main
# is a program. Any other gets the usual includes and a main that runs its last task function
# (flow_result name(void *arg)), which must succeed. Needs `make all`.
set -u
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build} CC=${CC:-gcc} PKG_CONFIG=${PKG_CONFIG:-pkg-config}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
status=0

awk -v dir="$tmp" '
    /^```c$/ { n++; file = sprintf("%s/%02d.c", dir, n); printf "#line %d \"README.md\"\n", NR + 1 >file; inside = 1; next }
    /^```/ { inside = 0 }
    inside { print >file }' README.md

wrap() { # file
    local entry
    entry=$(sed -nE 's/^(static )?flow_result ([a-z0-9_]+)\(void \*.*/\2/p' "$1" | tail -1)
    printf '#include <flowcoro.h>\n#include <errno.h>\n#include <stdio.h>\n#include <unistd.h>\n' | cat - "$1" >"$1.new"
    cat >>"$1.new" <<END
int main(void)
{
    flow_result result;
    int error = flow_run(NULL, ${entry:-no_task_function}, NULL, &result);

    if (error || flow_is_err(result))
        fprintf(stderr, "flow_run %d, result %d\n", error, result.error);
    return error || flow_is_err(result);
}
END
    mv "$1.new" "$1"
}

n=0
for file in "$tmp"/*.c; do
    [ -e "$file" ] || break
    n=$((n + 1))
    line=$(sed -n 's/^#line \([0-9]*\).*/\1/p' "$file" | head -1)
    grep -qE '^int main\(' "$file" || wrap "$file"
    if "$CC" -std=c11 -Wall -Wextra -Werror -D_GNU_SOURCE -Iinclude "$file" -o "$tmp/program" "$BUILD/libflowcoro.a" \
        $("$PKG_CONFIG" --libs numa liburcu-memb) -pthread >"$tmp/log" 2>&1 &&
        timeout 60 "$tmp/program" >"$tmp/log" 2>&1; then
        echo "ok README.md:$line"
    else
        echo "FAILED README.md:$line (status $?)"
        sed 's/^/    /' "$tmp/log"
        status=1
    fi
done
if [ $n = 0 ]; then
    echo 'FAILED README.md: no C block found'
    status=1
fi
exit $status
