#!/usr/bin/env bash
# `make check-numa`: boots machines that hardly anybody has, with QEMU, and runs the programs of
# $BUILD/tests/numa in them. Usage: run.sh [MACHINE...]; BUILD names the folder of the build (build).
#
# The machines are emulated in software (TCG), since KVM is not to be had everywhere. What such a
# machine shows is where memory lies and where work runs; how long something takes there means nothing.
#
# Prints what the programs found out, one line that begins with "ok ", "FAILED " or "skip " per case,
# and the totals last. Where QEMU or a kernel is not to be had it says so and is skipped; with
# CI=true that is a failure.
#   FLOW_NUMA_TESTS    these programs only, separated by commas
#   FLOW_NUMA_KERNEL   a kernel image to boot; else one is found in /boot or fetched (Debian)
set -u -o pipefail
cd "$(dirname "$0")/../.." || exit 1
BUILD=${BUILD:-build}
work=$BUILD/numa
boot_limit=360
mkdir -p "$work" || exit 1

passed=0 failed=0 skipped=0

finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
    exit
}

give_up() {
    if [ "${CI:-}" = true ]; then
        echo "FAILED check-numa: $1"
        failed=1
    else
        echo "skipped: $1"
        skipped=1
    fi
    finish
}

# --- what it takes ----------------------------------------------------------------------

# Debian's kernel is taken out of its package and not installed: installing it would make an initial
# ramdisk, and perhaps change what this machine boots.
fetch_kernel() {
    local package folder=$work/package
    rm -rf "$folder" && mkdir -p "$folder" || return 1
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
    [ -n "$package" ] || return 1
    (cd "$folder" && apt-get -q download "$package") || return 1
    dpkg-deb --fsys-tarfile "$folder"/*.deb | tar -x -C "$folder" --wildcards './boot/vmlinuz-*' || return 1
    mv "$folder"/boot/vmlinuz-* "$work/vmlinuz"
    rm -rf "$folder"
}

refresh_package_lists() {
    [ "$(id -u)" = 0 ] && apt-get -q update && return
    sudo -n apt-get -q update
}

find_kernel() {
    local found
    if [ -n "${FLOW_NUMA_KERNEL:-}" ]; then
        kernel=$FLOW_NUMA_KERNEL
        [ -r "$kernel" ]
        return
    fi
    kernel=$work/vmlinuz
    [ -r "$kernel" ] && return
    for found in /boot/vmlinuz-*; do
        [ -r "$found" ] && kernel=$found && return
    done
    command -v dpkg-deb >/dev/null && command -v apt-get >/dev/null || return 1
    { fetch_kernel || { refresh_package_lists && fetch_kernel; }; } >"$work/fetch.log" 2>&1
}

# The file and the shared libraries that it needs, by the same paths.
put() { # file path-in-guest
    local library
    install -D -m 755 "$1" "$root$2" || return 1
    for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*'); do
        [ -e "$root$library" ] || install -D -m 755 "$library" "$root$library" || return 1
    done
}

make_initrd() {
    local program root=$work/root
    rm -rf "$root"
    mkdir -p "$root"/{bin,proc,sys,dev,tmp,tests} &&
        put "$(command -v busybox)" /bin/busybox &&
        put "$(command -v numactl)" /usr/bin/numactl &&
        install -m 755 tests/numa/init "$root/init" || return 1
    for program in "$BUILD"/tests/numa/guest_*; do
        put "$program" "/tests/${program##*/}" && strip "$root/tests/${program##*/}" || return 1
    done
    put "$BUILD/examples/numa_map" /examples/numa_map || return 1
    (cd "$root" && find . | cpio --quiet -o -H newc) >"$work/initrd"
}

# --- the machines -----------------------------------------------------------------------

# Sets `hardware` and `tests`.
describe() { # machine
    local n p
    hardware=()
    case $1 in
    # Four sockets of two CPUs; 0 and 1 are near each other, 2 and 3 too.
    four)
        hardware=(-smp '8,sockets=4,cores=2' -m 4G)
        for n in 0 1 2 3; do
            hardware+=(-object "memory-backend-ram,id=m$n,size=1G"
                -numa "node,nodeid=$n,cpus=$((2 * n))-$((2 * n + 1)),memdev=m$n")
        done
        hardware+=(-numa 'dist,src=0,dst=1,val=12' -numa 'dist,src=2,dst=3,val=12')
        for p in 0,2 0,3 1,2 1,3; do
            hardware+=(-numa "dist,src=${p%,*},dst=${p#*,},val=21")
        done
        tests=guest_topology,guest_map,guest_memory,guest_steal,guest_pool,guest_change,guest_limits
        ;;
    # Node 1 has CPUs but no memory; node 2 is nearer to it than node 0.
    memoryless)
        hardware=(-smp '6,sockets=3,cores=2' -m 2G
            -object 'memory-backend-ram,id=m0,size=1G' -object 'memory-backend-ram,id=m2,size=1G'
            -numa 'node,nodeid=0,cpus=0-1,memdev=m0' -numa 'node,nodeid=1,cpus=2-3'
            -numa 'node,nodeid=2,cpus=4-5,memdev=m2'
            -numa 'dist,src=0,dst=1,val=21' -numa 'dist,src=0,dst=2,val=30'
            -numa 'dist,src=1,dst=2,val=12')
        tests=guest_topology,guest_map,guest_memory
        ;;
    # Node 2 is memory only, as CXL memory is.
    cpuless)
        hardware=(-smp '4,sockets=2,cores=2' -m 3G)
        for n in 0 1 2; do
            hardware+=(-object "memory-backend-ram,id=m$n,size=1G")
        done
        hardware+=(-numa 'node,nodeid=0,cpus=0-1,memdev=m0' -numa 'node,nodeid=1,cpus=2-3,memdev=m1'
            -numa 'node,nodeid=2,memdev=m2'
            -numa 'dist,src=0,dst=1,val=21' -numa 'dist,src=0,dst=2,val=17'
            -numa 'dist,src=1,dst=2,val=28')
        tests=guest_topology,guest_map,guest_memory
        ;;
    *)
        echo "run.sh: there is no machine '$1'" >&2
        exit 2
        ;;
    esac
}

# The guest's results become lines of ours; the last line has the numbers of each kind.
judge='
function verdict(kind, what) {
    n[kind]++
    print (kind == "skipped" ? "skip" : kind) " " machine ": " what notes
    notes = ""; quiet = 0
}
{ sub(/\r$/, "") }
/^guest: begin / { program = $3; cases = bad = over = 0; next }
/^guest: end / {
    if ($4 != 0 && !bad) verdict("FAILED", program " ended with status " $4)
    else if (!cases) verdict("FAILED", program " ran no test")
    program = ""; next
}
/^guest: done/ { done = 1 }
/^\[=+\].* run\./ { over = 1 }
over { next }
/^child: / { quiet = 1 } # what follows was said before
/^note / && !quiet { sub(/^note /, "    "); notes = notes "\n" $0 }
/^\[ +OK \] /        { cases++; verdict("ok", $NF) }
/^\[  SKIPPED \] /   { cases++; verdict("skipped", $NF) }
/^\[  FAILED  \] /   { cases++; bad++; verdict("FAILED", $NF) }
END {
    if (program != "") verdict("FAILED", program " never ended")
    if (!done) verdict("FAILED", "the machine did not come to its end")
    print "counts", n["ok"] + 0, n["FAILED"] + 0, n["skipped"] + 0
}'

run_machine() { # machine
    local start=$SECONDS console=$work/$1.console results=$work/$1.results status p f s
    describe "$1"
    tests=${FLOW_NUMA_TESTS:-$tests}
    rm -f "$console" "$results"
    timeout -k 5 "$boot_limit" qemu-system-x86_64 -accel tcg,thread=multi -cpu max "${hardware[@]}" \
        -kernel "$kernel" -initrd "$work/initrd" \
        -append "console=ttyS0 quiet panic=-1 machine=$1 tests=$tests" \
        -nodefaults -display none -no-reboot -serial "file:$console" -serial "file:$results" \
        >"$work/$1.qemu" 2>&1 </dev/null
    status=$?
    touch "$results" "$console"
    awk -v machine="$1" "$judge" "$results" >"$work/$1.verdict"
    read -r _ p f s < <(tail -n 1 "$work/$1.verdict")
    echo "machine $1: $p passed, $f failed, $s skipped; $((SECONDS - start)) s, most of it emulation"
    sed '$d' "$work/$1.verdict"
    if [ "$f" != 0 ]; then
        echo "  QEMU's exit status: $status; what it said, the console and the results:"
        cat "$work/$1.qemu" <(tail -n 40 "$console") "$results" | tr -d '\r' | sed 's/^/    | /'
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

# --- all of it --------------------------------------------------------------------------

[ "$(uname -m)" = x86_64 ] || give_up "the guest's programs are built for $(uname -m); this needs x86_64"
.ci/packages numa || give_up 'QEMU or what the guest needs can not be installed, see above'
find_kernel || give_up "no kernel for the guest (set FLOW_NUMA_KERNEL); see $work/fetch.log"
make_initrd || give_up 'the initial ramdisk can not be made'
[ $# != 0 ] || set -- four memoryless cpuless
echo "kernel $kernel, software emulation: times in these machines mean nothing"
for machine in "$@"; do
    run_machine "$machine"
done
finish
