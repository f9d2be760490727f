#!/bin/sh
# Builds the aarch64 switch with its test and runs it under qemu-user.
# Without the cross compiler or qemu it says so and is skipped; under CI=true that is a failure.
set -eu
cd "$(dirname "$0")/.."

compiler=${ARM64_CC:-aarch64-linux-gnu-gcc}
emulator=${ARM64_QEMU:-qemu-aarch64}
sysroot=/usr/aarch64-linux-gnu

skip() {
	echo "skipped: $1"
	[ "${CI:-}" != true ] || exit 1
	exit 0
}
command -v "$compiler" >/dev/null || skip "$compiler is missing"
command -v "$emulator" >/dev/null || skip "$emulator is missing"

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# -O0 and -O2 differ in what the compiler keeps over a call; the protection level in what a jump may reach.
for flags in "-O0" "-O2 -mbranch-protection=standard"; do
	# shellcheck disable=SC2086 # the flags are words
	"$compiler" -std=gnu11 -Wall -Wextra -Werror $flags -DFLOW_TEST_PLAIN -I. -Iinclude \
		tests/test_switch.c core/arch/aarch64/switch.S -o "$build/test_switch"
	"$emulator" -L "$sysroot" "$build/test_switch" >"$build/output" || {
		cat "$build/output"
		exit 1
	}
	grep FLOW_TEST_SEED "$build/output"
	grep '^aarch64: [0-9]* switches, registers kept$' "$build/output"
done
