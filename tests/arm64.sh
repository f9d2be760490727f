#!/usr/bin/env bash
# `make check-arm64`: the library and every test program built for aarch64 and run under qemu-user. Names of
# test programs as arguments: those only.
#
# Debian's arm64 packages of what we link to are unpacked below $BUILD/sysroot; nothing is
# installed, and no foreign architecture is added to this machine. Without apt, the cross compiler or qemu
# it is skipped, which under CI=true is a failure.
#
# The emulator notes each page of each mapping, so that address space must be limited, and a start takes
# 100 ms all the same: what starts hundreds of times does so less often here. It orders memory as
# its host does: on x86 no missing barrier of aarch64 shows.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
export BUILD=build/arm64 MAKEFLAGS=
cross=aarch64-linux-gnu- emulator=$(command -v qemu-aarch64)
root=$PWD/$BUILD/sysroot libraries=$PWD/$BUILD/sysroot/usr/lib/aarch64-linux-gnu
packages=(libnuma1 libnuma-dev liburcu8 liburcu-dev libcmocka0 libcmocka-dev zlib1g zlib1g-dev)
limit_kb=$((8 << 20))
log=$(mktemp)
trap 'rm -f "$log"' EXIT

skip() {
    echo "skipped: $1"
    echo "0 passed, $([ "${CI:-}" = true ] && echo 1 || echo 0) failed, 1 skipped"
    [ "${CI:-}" != true ]
    exit
}

# apt with lists of its own, for arm64 only: root is not needed, and this machine's lists stay as they are.
apt_arm64() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= \
        -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" \
        -o Acquire::Languages=none -o Acquire::Retries=2 "$@"
}

unpack_packages() {
    apt=$PWD/$BUILD/apt
    rm -rf "$apt" "$root.new"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$root.new" && touch "$apt/status" || return 1
    echo "fetching for arm64: ${packages[*]}"
    apt_arm64 update >"$log" 2>&1 && (cd "$apt" && apt_arm64 download "${packages[@]}") >>"$log" 2>&1 ||
        { cat "$log"; return 1; }
    for package in "$apt"/*.deb; do
        dpkg-deb -x "$package" "$root.new" || return 1
    done
    rm -rf "$apt" "$root" && mv "$root.new" "$root"
}

command -v ${cross}gcc >/dev/null || skip "${cross}gcc is missing"
[ -n "$emulator" ] || skip 'qemu-aarch64 is missing'
if [ ! -d "$root" ]; then
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || skip 'no apt here to get arm64 packages with'
    unpack_packages || skip 'the arm64 packages cannot be had'
fi

export PKG_CONFIG_LIBDIR=$libraries/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root
${MAKE:-make} --no-print-directory -j"$(nproc)" CROSS=$cross BUILD=$BUILD \
    PKG_CONFIG="$(command -v pkg-config || command -v pkgconf)" \
    CPPFLAGS="-DFLOW_TEST_EMULATED -I$root/usr/include" \
    LDFLAGS="-L$libraries -Wl,-rpath,$libraries -Wl,-rpath-link,$libraries" lib tests >"$log" 2>&1 ||
    { cat "$log"; echo '0 passed, 1 failed, 0 skipped'; exit 1; }
if grep 'warning:' "$log"; then
    echo '0 passed, 1 failed, 0 skipped'
    exit 1
fi

# shellcheck disable=SC2046 # names without spaces
[ $# -gt 0 ] || set -- $(cd tests && printf '%s\n' test_*.c | sed 's/\.c$//')
ulimit -v $limit_kb
QEMU_LD_PREFIX=/usr/aarch64-linux-gnu EMULATOR=$emulator FLOW_TORTURE_SECONDS=2 WORKER_COUNTS=${WORKER_COUNTS:-2} TEST_LIMIT=${TEST_LIMIT:-240} \
    tests/run.sh "$@" | tee "$log"
status=$?
echo "emulated by $("$emulator" --version | sed -n 's/.*version \([0-9.]*\).*/qemu-aarch64 \1/p'), address space limited to $((limit_kb >> 20)) GiB"
echo "fallbacks used there: $(sed -n 's/.*note here: //p' "$log" | head -1)"
echo "not tested: memory barriers (the host is $(uname -m)), guards by madvise, memory policy"
exit $status
