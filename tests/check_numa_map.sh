#!/usr/bin/env bash
# Runs numa_map on this machine and on one of four nodes that is only described, and looks whether
# its numbers add up and its pictures are XML. BUILD names the folder of the build (build).
set -u
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C
program=${BUILD:-build}/examples/numa_map
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
status=0

verdict() { # name complaints
    if [ -z "$2" ]; then
        echo "ok $1"
    else
        echo "FAILED $1:"
        echo "$2" | sed 's/^/    /'
        status=1
    fi
}

# Sums of what a run printed, against each other. A task is counted where it ran; and a node runs
# what was spawned there and what it took from others, less what these took from it.
add_up='
{ gsub(/,/, "") }
/^(├─|└─) node / { node = $3 }
/ worker [0-9]+ +(on|at) cpu / {
    workers++
    for (i = 2; i <= NF; i++) if ($i == "tasks") ran[node] += $(i - 1)
    if (!/busy after never/) busy++
}
/ more workers with / { workers += $2; ran[node] += $(NF - 1) }
/spawns all/ { home = node }
/^  node / {
    from = $2
    for (i = 3; i + 2 <= NF; i += 3) {
        to = (i - 3) / 3
        if (to != from) { balance[to] += $i; balance[from] -= $i }
        if ($i > 0 && $(i + 2) == 0) print "tasks were stolen in no visit: " $0
    }
}
/^away: / { away = $2 }
/local pages/ {
    sum = 0; rest = $0
    while (match(rest, /% of [0-9]+/)) { sum += substr(rest, RSTART + 5, RLENGTH - 5); rest = substr(rest, RSTART + RLENGTH) }
    if (/^local pages: .* of /) { said_pages = $6 + 0; if (sum != 2 * said_pages) print "parts of all pages do not add up: " $0 }
    else pages += sum
}
/^load: / && $2 != wanted { print "it says " $2 " tasks, asked for " wanted }
/^every worker was busy/ { all = 1 }
END {
    for (node in ran) {
        tasks += ran[node]
        came = balance[node] + (node == home ? wanted : 0)
        if (ran[node] != came) print "node " node " ran " ran[node] " tasks, but by the matrix it had " came
    }
    if (tasks != wanted) print "the workers ran " tasks " tasks, not " wanted
    if (away != wanted - ran[home]) print away " tasks are said to have run elsewhere, not " wanted - ran[home]
    if (pages != said_pages) print "nodes have " pages + 0 " pages, the sum says " said_pages + 0
    if (workers != wanted_workers) print workers + 0 " workers are shown, not " wanted_workers
    if (all && busy != workers) print "every worker was busy, it says, but " busy + 0 " of " workers " had tasks"
}'

run() { # name workers-or-0 tasks arguments...
    local name=$1 workers=$2 tasks=$3 tiles nodes
    shift 3
    rm -f "$folder/map.svg"
    timeout 60 "$program" --tasks "$tasks" --svg "$folder/map.svg" "$@" >"$folder/out" 2>"$folder/err"
    local code=$?
    [ "$workers" != 0 ] || workers=$(sed -n '1s/ workers on .*//p' "$folder/out")
    verdict "$name: the numbers add up" "$(
        [ $code = 0 ] || echo "exit status $code: $(cat "$folder/err")"
        awk -v wanted="$tasks" -v wanted_workers="$workers" "$add_up" "$folder/out" || cat "$folder/out"
    )"
    verdict "$name: the picture" "$(
        if command -v xmllint >/dev/null; then
            xmllint --noout "$folder/map.svg" 2>&1
        elif command -v python3 >/dev/null; then
            python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' "$folder/map.svg" 2>&1
        else
            grep -c '^<svg' "$folder/map.svg" | grep -vx 1
        fi
        nodes=$(grep -c 'class="name"' "$folder/map.svg")
        tiles=$(grep -c 'class="tile' "$folder/map.svg")
        [ "$nodes" = "$(grep -cE '^(├─|└─) node ' "$folder/out")" ] || echo "$nodes nodes are drawn"
        [ "$tiles" = "$workers" ] || echo "$tiles workers are drawn, not $workers"
    )"
}

# --- a machine of four nodes, as /sys would describe it ---------------------------------

describe() { # folder: 4 nodes of 2 CPUs
    local n cpu
    for n in 0 1 2 3; do
        mkdir -p "$1/node/node$n"
        echo "$((2 * n))-$((2 * n + 1))" >"$1/node/node$n/cpulist"
        printf 'Node %d MemTotal: 1048576 kB\n' "$n" >"$1/node/node$n/meminfo"
        for cpu in $((2 * n)) $((2 * n + 1)); do
            mkdir -p "$1/cpu/cpu$cpu/topology"
            echo "$cpu" >"$1/cpu/cpu$cpu/topology/core_cpus_list"
        done
    done
    echo '10 12 21 21' >"$1/node/node0/distance"
    echo '12 10 21 21' >"$1/node/node1/distance"
    echo '21 21 10 12' >"$1/node/node2/distance"
    echo '21 21 12 10' >"$1/node/node3/distance"
    echo 0-3 >"$1/node/online"
    echo 0-3 >"$1/node/has_memory"
    echo 0-7 >"$1/cpu/online"
}

run 'this machine' 0 2000
run 'one worker' 1 500 --workers 1 --work 0
describe "$folder/four"
export FLOW_TOPOLOGY=$folder/four
run 'four nodes' 8 4000 --workers 8 --node 1
run 'four nodes, 40 workers' 40 2000 --workers 40 --work 5
verdict 'four nodes: distances' "$(grep -q 'node 2, 1.0 GiB, distances 21 21 10 12' "$folder/out" || cat "$folder/out")"
verdict 'a node without workers' "$(
    "$program" --node 7 >"$folder/out" 2>"$folder/err"
    code=$?
    [ $code = 1 ] || echo "exit status $code"
    grep -q 'no worker sits on node 7' "$folder/err" || cat "$folder/err"
)"
unset FLOW_TOPOLOGY

# --- wrong usage ------------------------------------------------------------------------

verdict 'wrong usage' "$(
    for arguments in '--tasks 0' '--tasks 10x' '--tasks -1' '--work 1000001' '--node -1' '--workers 0' \
        '--workers 1025' '--svg' '--nonsense' 'argument'; do
        # shellcheck disable=SC2086 # the arguments are words
        "$program" $arguments >"$folder/out" 2>"$folder/err"
        code=$?
        [ $code = 2 ] || echo "$arguments: exit status $code"
        [ -s "$folder/err" ] || echo "$arguments: no message"
        [ ! -s "$folder/out" ] || echo "$arguments: it ran"
    done
    "$program" --help | grep -q '^Usage: numa_map' || echo 'no help'
    "$program" --tasks 10 --svg "$folder/absent/map.svg" >"$folder/out" 2>"$folder/err"
    code=$?
    [ $code = 1 ] || echo "a picture that cannot be written: exit status $code"
    grep -q 'absent/map.svg' "$folder/err" || echo 'a picture that cannot be written: no message'
)"
exit $status
