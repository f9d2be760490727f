#!/bin/bash
# core/flowcoro-gdb.py with gdb in batch mode: a live process stopped in its main thread, then in a
# coroutine; the core file that `flow core` writes of it; and one that the kernel writes. In each, a
# coroutine of every state must be listed, and its backtrace must name the functions of the program and
# the variables of the frames. Needs `make lib`. Skipped, with the reason, where gdb lacks something.
set -u
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build} CC=${CC:-gcc} PKG_CONFIG=${PKG_CONFIG:-pkg-config}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
ulimit -S -c 0
failed=0

command -v gdb >/dev/null || { echo 'skipped: gdb is missing'; exit 0; }
gdb -nx -batch -ex 'python print("python", 1 + 1)' 2>&1 | grep -q '^python 2' || { echo 'skipped: gdb has no python'; exit 0; }

verdict() { # what status log
    if [ "$2" = 0 ]; then
        echo "ok $1"
    else
        echo "FAILED $1"
        sed 's/^/    | /' "$3" | tail -150
        failed=1
    fi
}

# shellcheck disable=SC2046 # flags are words
"$CC" -std=gnu11 -g -O2 -Iinclude tests/gdb_flow_target.c "$BUILD/libflowcoro.a" -o "$tmp/target" \
    $("$PKG_CONFIG" --libs numa liburcu-memb) -pthread || { echo 'FAILED to build the target'; exit 1; }

cat >"$tmp/look" <<'END'
source core/flowcoro-gdb.py
echo @list\n
flow list
echo @sleeping\n
flow bt sleeping.id
echo @receiving\n
flow bt receiving.id
echo @joining\n
flow bt joining.id
echo @locking\n
flow bt locking.id
echo @roaming\n
flow bt roaming.id
echo @spinning\n
flow bt spinning.id
echo @queued\n
flow bt queued.id
echo @locals\n
flow bt roaming.id full
echo @all\n
flow bt all
echo @none\n
END
cat >"$tmp/live" <<END
set pagination off
set confirm off
set width 0
set debuginfod enabled off
break stop_here
break stop_in_coroutine
run
source $tmp/look
echo @kept\n
backtrace 1
flow core $tmp/core
continue
echo @stopping\n
flow bt stopping.id
echo @sleeping-again\n
flow bt sleeping.id
echo @end\n
continue
END

# part NAME LOG: what was printed after its mark.
part() { awk -v name="@$1" '/^@/ { inside = $0 == name; next } inside' "$2"; }

# The functions of a backtrace, from that of the program on: "sleep_inner sleep_outer sleeper ...".
calls() { # mark log
    part "$1" "$2" | sed -nE 's/^#[0-9]+ +(0x[0-9a-f]+ in )?([^ ]+) \(.*/\2/p' | sed 's/^flow\./flow__/' | paste -sd' '
}

look() { # what log
    local what=$1 log=$2 r=0
    local line
    while read -r mark ending; do
        case " $(calls "$mark" "$log")" in
        *" $ending") ;;
        *) echo "@@ $mark: not ... $ending but: $(calls "$mark" "$log")" >>"$log"; r=1 ;;
        esac
    done <<'END'
sleeping sleep_inner sleep_outer sleeper flow__task_main flow__call
receiving receiver flow__task_main flow__call
joining joiner flow__task_main flow__call
locking locker flow__task_main flow__call
roaming sleep_inner sleep_outer roamer flow__task_main flow__call
spinning spin_inner spinner flow__task_main flow__call
END
    part queued "$log" | grep -q 'it has not started' || { echo '@@ queued' >>"$log"; r=1; }
    # (of a function in the middle, a variable that lives on)
    part sleeping "$log" | grep -q 'tests/gdb_flow_target.c:' || { echo '@@ no lines' >>"$log"; r=1; }
    part locals "$log" | grep -q '4321' || { echo '@@ no arguments' >>"$log"; r=1; }
    for line in 'waiting sleep .*"a sleeper"' 'waiting recv at 0x' 'waiting join of 0x' 'waiting mutex at 0x' \
        'waiting sleep .*"a roamer"' 'running - .*worker 1' 'queued ' '7 tasks'; do
        part list "$log" | grep -q -- "$line" || { echo "@@ no $line" >>"$log"; r=1; }
    done
    [ "$(part list "$log" | grep -c 'spawned at spawn')" = 7 ] || { echo '@@ no origin' >>"$log"; r=1; }
    [ "$(part all "$log" | grep -c '^[0-9]* \(waiting\|running\|queued\): 0x')" = 7 ] || { echo '@@ groups' >>"$log"; r=1; }
    verdict "$what: 7 coroutines listed, their stacks shown" $r "$log"
}

timeout 120 gdb -nx -batch -x "$tmp/live" "$tmp/target" >"$tmp/log" 2>&1
if grep -q 'ptrace: Operation not permitted' "$tmp/log"; then
    echo 'skip live process: gdb may not trace here'
else
    look 'live process' "$tmp/log"
    r=0
    part kept "$tmp/log" | grep -q 'stop_here' || r=1
    [ "$(calls stopping "$tmp/log")" = 'stop_in_coroutine stopper flow__task_main flow__call' ] || r=1
    case $(calls sleeping-again "$tmp/log") in *' sleep_inner sleep_outer sleeper flow__task_main flow__call') ;; *) r=1 ;; esac
    grep -q 'exited normally' "$tmp/log" || r=1
    verdict 'stopped in a coroutine; and the program goes on to its end' $r "$tmp/log"
    timeout 120 gdb -nx -batch -ex 'set width 0' -x "$tmp/look" "$tmp/target" "$tmp/core" >"$tmp/core-log" 2>&1
    look "core file by flow core, $(du -m "$tmp/core" | cut -f1) MiB" "$tmp/core-log"
fi
rm -f "$tmp/core"

case $(cat /proc/sys/kernel/core_pattern 2>/dev/null) in
core | core.%p)
    { (cd "$tmp" && ulimit -c unlimited && exec ./target core); } >"$tmp/abort-log" 2>&1
    core=$(ls "$tmp"/core "$tmp"/core.* 2>/dev/null | grep -v log | head -1)
    if [ -n "$core" ]; then
        timeout 120 gdb -nx -batch -ex 'set width 0' -x "$tmp/look" "$tmp/target" "$core" >"$tmp/kernel-log" 2>&1
        look "core file by the kernel, $(du -m "$core" | cut -f1) MiB" "$tmp/kernel-log"
    else
        echo 'skip core file by the kernel: it wrote none'
    fi
    ;;
*) echo 'skip core file by the kernel: it gives core files to a program here' ;;
esac
exit $failed
