#!/usr/bin/env bash
# No function of the library keeps a thread-local address over a call that may suspend; the flags that
# harden the library are in use. Needs `make all`; objects for aarch64 are looked at where they were built.
set -u
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C
BUILD=${BUILD:-build} CC=${CC:-gcc}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
status=0

verdict() { # name numbers complaints
    if [ -z "$3" ]; then
        echo "ok $1: $2"
    else
        echo "FAILED $1:"
        echo "$3" | sed 's/^/    /'
        status=1
    fi
}

# Functions that may keep one: none of them suspends while it has it.
allowed='
flow__fork_slowly      notes a job; suspends nowhere
flow__jobs_open        the same
lock_slowly            has the address as the name of a thread that is no coroutine
unlock_as_thread       the same
flow_mutex_trylock     the same; suspends nowhere
thread_ends            of a thread that is no worker
flow__foreign_stands_by of a thread that is no coroutine
flow__foreign_enter    the same
helper_main            a helper thread of offload
flow__reclaim_register of a thread that is no coroutine; suspends nowhere
flow__reclaim_unregister the same
alloc_slowly           a pool never suspends
flow__drive_seated     the thread that drives, not a coroutine
flow__worker_main      the worker itself
'

findings() { # objdump object...
    local tool=$1
    shift
    "$tool" -dr --no-show-raw-insn "$@" | awk -f tests/tls_addresses.awk
}

not_allowed() { awk '{ f = $2; sub(/:$/, "", f); sub(/\..*/, "", f); print f "\t" $0 }' |
    grep -vFf <(echo "$allowed" | awk 'NF { print $1 "\t" }') | cut -f2-; }

# Each way of keeping one must be found, and what is harmless must not.
cat >"$tmp/planted.c" <<'C'
extern __thread int here __attribute__((tls_model("initial-exec")));
void suspend(void);
void in_a_register(void) { int *p = &here; __asm__("" : "+r"(p)); suspend(); *p = 1; }
void in_a_frame(void) { int *volatile p = &here; suspend(); *p = 1; }
int harmless(void) { int before = here; suspend(); return before + here; }
C
plant() { # compiler objdump
    local found name
    "$1" -O2 -fPIC -fno-optimize-sibling-calls -c -o "$tmp/planted.o" "$tmp/planted.c" 2>"$tmp/error" ||
        { cat "$tmp/error"; return; }
    found=$(findings "$2" "$tmp/planted.o")
    for name in in_a_register in_a_frame; do
        grep -q " $name: " <<<"$found" || echo "planted in $name, and not found"
    done
    # On aarch64 the compiler keeps the base even there: two plain accesses are enough to go wrong.
    [[ $("$1" -dumpmachine) != x86_64* ]] || grep ' harmless: ' <<<"$found" | sed 's/^/harmless, but found: /'
}

objects() { find "$1"/obj/numa "$1"/obj/sync "$1"/obj/core -name '*.o' 2>/dev/null | sort; }

check_objects() { # machine compiler objdump folder
    local found list
    if ! command -v "$2" >/dev/null || ! command -v "$3" >/dev/null; then
        echo "skip thread-local addresses on $1: no $2 or no $3"
        return
    fi
    mapfile -t list < <(objects "$4")
    found=$(plant "$2" "$3")
    verdict "thread-local addresses on $1, planted ones" 'in a register, in a frame' "$found"
    if [ ${#list[@]} = 0 ]; then
        echo "skip thread-local addresses on $1: nothing built in $4"
        return
    fi
    verdict "thread-local addresses on $1" \
        "${#list[@]} objects, none kept over a call, but in $(echo "$allowed" | grep -c .) functions that do not suspend then" \
        "$(findings "$3" "${list[@]}" | not_allowed)"
}

case $("$CC" -dumpmachine) in
x86_64*) check_objects x86-64 "$CC" objdump "$BUILD" ;;
aarch64*) check_objects aarch64 "$CC" objdump "$BUILD" ;;
esac
case $("$CC" -dumpmachine) in
aarch64*) ;;
*) check_objects aarch64 aarch64-linux-gnu-gcc aarch64-linux-gnu-objdump build/arm64 ;;
esac

# --- flags ------------------------------------------------------------------------------

wanted='-fstack-protector-strong -fstack-clash-protection -fvisibility=hidden
    -Wl,-z,relro,-z,now,-z,noexecstack -Wl,-z,nodelete -Wl,-z,defs'
[ -n "${DEBUG:-}" ] || wanted="$wanted -D_FORTIFY_SOURCE=2"
case $("$CC" -dumpmachine) in
x86_64*) wanted="$wanted -fcf-protection=branch" ;;
aarch64*) wanted="$wanted -mbranch-protection=standard" ;;
esac
verdict 'flags' "$(echo "$wanted" | wc -w) that harden, in use" "$(for flag in $wanted; do
    grep -qF -e "$flag" "$BUILD/flags" || echo "missing: $flag"
done)"
exit $status
