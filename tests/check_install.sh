#!/usr/bin/env bash
# Installs into an empty prefix, builds programs against it in C and C++ with nothing but
# pkg-config, runs them, uninstalls. Needs `make all`.
set -u
cd "$(dirname "$0")/.." || exit 1
CC=${CC:-gcc} CXX=${CXX:-g++} PKG_CONFIG=${PKG_CONFIG:-pkg-config}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
prefix=$tmp/prefix
status=0

verdict() { # name, then the exit status of what was tried
    if [ "$2" = 0 ]; then
        echo "ok $1"
    else
        echo "FAILED $1"
        sed 's/^/    /' "$tmp/log"
        status=1
    fi
}

run_make() { "${MAKE:-make}" "$@" >"$tmp/log" 2>&1; }
flowcoro() { PKG_CONFIG_PATH=$prefix/lib/pkgconfig "$PKG_CONFIG" "$@" flowcoro; }

run_make install PREFIX="$prefix"
verdict "install: $(find "$prefix" ! -type d 2>/dev/null | wc -l) files" $?
[ $status = 0 ] || exit 1

# Unquoted on purpose: pkg-config gives a list of words.
try() { # compiler source
    local kind=${2##*.}
    "$1" -Wall -Wextra -Werror "$2" $(flowcoro --cflags --libs) -o "$tmp/$kind-shared" >"$tmp/log" 2>&1 &&
        LD_LIBRARY_PATH=$prefix/lib timeout 60 "$tmp/$kind-shared" >>"$tmp/log" 2>&1
    verdict "$2, shared" $?
    "$1" -Wall -Wextra -Werror "$2" $(flowcoro --static --cflags --libs | sed 's/-lflowcoro/-l:libflowcoro.a/') \
        -o "$tmp/$kind-static" >"$tmp/log" 2>&1 &&
        timeout 60 "$tmp/$kind-static" >>"$tmp/log" 2>&1 &&
        ! readelf -d "$tmp/$kind-static" | grep 'NEEDED.*flowcoro' >>"$tmp/log"
    verdict "$2, static" $?
}

try "$CC" tests/consumer/consumer.c
if command -v "$CXX" >/dev/null; then
    try "$CXX" tests/consumer/consumer.cpp
else
    echo "skip tests/consumer/consumer.cpp: no $CXX"
fi

if [ "$(uname -m)" = x86_64 ]; then
    flowcoro --cflags >"$tmp/log" && grep -qw -e -fstack-clash-protection "$tmp/log"
    verdict 'programs are compiled so that no frame steps over a guard page' $?
fi

run_make uninstall PREFIX="$prefix" && ! find "$prefix" ! -type d | grep . >>"$tmp/log" &&
    [ ! -e "$prefix/include/flowcoro" ]
verdict 'uninstall leaves nothing' $?

run_make install DESTDIR="$tmp/stage" PREFIX=/opt/flow && [ -f "$tmp/stage/opt/flow/lib/libflowcoro.a" ] &&
    grep -q '^prefix=/opt/flow$' "$tmp/stage/opt/flow/lib/pkgconfig/flowcoro.pc" &&
    run_make uninstall DESTDIR="$tmp/stage" PREFIX=/opt/flow && ! find "$tmp/stage" ! -type d | grep . >>"$tmp/log"
verdict 'the same under DESTDIR' $?

exit $status
