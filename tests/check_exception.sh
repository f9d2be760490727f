#!/usr/bin/env bash
# A C++ exception that leaves a coroutine's function ends the program by std::terminate, and the
# coroutine is named; one that is caught inside, also across suspensions, is none of our business.
set -u
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}

if [ -n "${SANITIZE:-}" ]; then
    echo 'skip check_exception: about the plain build'
    exit 77
fi
if ! command -v g++ >/dev/null; then
    echo 'skip check_exception: there is no g++'
    exit 77
fi

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/throws.cpp" <<'CPP'
#include <flowcoro.h>

#include <cstdio>
#include <stdexcept>
#include <string>

namespace {

struct Counter {
    explicit Counter(int *n) : n(n) { ++*n; }
    ~Counter() { --*n; }
    int *n;
};

void deeper(int *n, int depth)
{
    Counter c(n);
    flow_yield();
    if (depth == 0)
        throw std::runtime_error("thrown in a coroutine");
    deeper(n, depth - 1);
}

flow_result catches(void *)
{
    int alive = 0;
    for (int i = 0; i < 100; i++) {
        try {
            deeper(&alive, 10);
            return flow_err(-1);
        } catch (const std::runtime_error &e) {
            if (alive != 0 || std::string(e.what()) != "thrown in a coroutine")
                return flow_err(-2);
        }
        flow_sleep(FLOW_US(10));
    }
    return flow_ok(nullptr);
}

flow_result throws(void *)
{
    int alive = 0;
    flow_sleep(FLOW_MS(1));
    deeper(&alive, 3);
    return flow_ok(nullptr);
}

}

int main(int argc, char **argv)
{
    (void)argv;
    flow_options o = FLOW_OPTIONS_INIT;
    o.workers = 2;
    if (flow_start(&o))
        return 2;
    flow_spawn_options named = FLOW_SPAWN_INIT;
    named.name = "the-throwing-one";
    flow_task task[8];
    flow_result r[8];
    for (int i = 0; i < 8; i++)
        if (flow_spawn_with(&task[i], &named, argc > 1 && i == 0 ? throws : catches, nullptr))
            return 3;
    if (flow_when_all(task, 8, r, FLOW_FOREVER))
        return 4;
    flow_stop(FLOW_FOREVER);
    std::puts("all caught");
    return 0;
}
CPP

failed=0
verdict() { # condition-status text
    if [ "$1" = 0 ]; then
        echo "ok $2"
    else
        echo "FAILED $2"
        sed 's/^/    /' "$dir/log"
        failed=1
    fi
}

libs=$(${PKG_CONFIG:-pkg-config} --libs numa liburcu-memb 2>/dev/null ||
    echo -lnuma -lurcu-memb -lurcu-common)
# shellcheck disable=SC2086 # several words are meant
g++ -std=c++17 -Wall -Wextra -O2 -Iinclude -o "$dir/throws" "$dir/throws.cpp" \
    "$BUILD/libflowcoro.a" $libs -pthread >"$dir/log" 2>&1
verdict $? 'a C++ program builds against the static library'
[ "$failed" = 0 ] || exit 1

"$dir/throws" >"$dir/log" 2>&1 && grep -q 'all caught' "$dir/log"
verdict $? 'exceptions are caught inside a coroutine, across suspensions'

{ (ulimit -c 0; exec "$dir/throws" throw) >"$dir/log" 2>&1; } 2>/dev/null
status=$?
[ "$status" = 134 ] && grep -q 'terminate called' "$dir/log" &&
    grep -q 'thrown in a coroutine' "$dir/log"
verdict $? "one that escapes ends the program by std::terminate (exit status $status)"
grep -q 'crash in coroutine.*"the-throwing-one"' "$dir/log"
verdict $? 'and the coroutine is named'
exit "$failed"
