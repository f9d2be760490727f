#!/bin/sh
# Steps through flow__call and flow__switch one instruction at a time and has gdb unwind at each:
# the backtrace must name the user's functions and end in flow__call (or main), and the registers
# it finds for the callers must not change while the switch runs. Judged: the order of the different
# backtraces, so a single wrong row of CFI fails. Skipped, with the reason, where there is no gdb.
set -eu
cd "$(dirname "$0")/.."

compiler=${CC:-cc}
arch=$(uname -m)

skip() {
	echo "skipped: $1"
	exit 0
}
fail() {
	echo "check_gdb: $1" >&2
	cat "$build/log" >&2
	exit 1
}
command -v gdb >/dev/null || skip "gdb is missing"
command -v "$compiler" >/dev/null || skip "$compiler is missing"

case $arch in
x86_64) registers='rsp rip rbx rbp r12 r13 r14 r15' ;;
aarch64) registers='sp pc x19 x20 x21 x22 x23 x24 x25 x26 x27 x28 x29' ;;
*) skip "no switch for $arch" ;;
esac

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

format="" values=""
for register in $registers; do
	format="$format $register=%lx"
	values="$values, (unsigned long)\$$register"
done

# look LABEL: one backtrace, then one line of registers per frame, innermost first.
# (Not `finish`: gdb looks for the caller's frame, and an outermost frame has no identity.)
# walk LABEL START SIZE: look, step one instruction, until the function is left.
cat >"$build/commands" <<END
set pagination off
set confirm off
set width 0
set print frame-arguments none
set print address off
set backtrace limit 40
set debuginfod enabled off
define look
	echo \\n@look \$arg0\\n
	backtrace
	frame apply all -q printf "@registers$format\\n"$values
	echo @end\\n
end
define walk
	while \$pc >= (unsigned long)\$arg1 && \$pc < (unsigned long)\$arg1 + \$arg2
		look \$arg0
		stepi
	end
end
break *&flow__call
break *&flow__switch
break stop_when_entered
break stop_when_resumed
run
walk 1-call &flow__call @flow__call@
continue
look 2-entered
continue
walk 3-switch-away &flow__switch @flow__switch@
continue
walk 4-resume &flow__switch @flow__switch@
continue
look 5-resumed
continue
walk 6-switch-away &flow__switch @flow__switch@
continue
walk 7-plain-call &flow__call @flow__call@
look 8-plain-entry
up
tbreak *\$pc
continue
walk 9-plain-return &flow__call @flow__call@
delete
continue
END

# What each label's different backtraces must be, in order.
cat >"$build/expected" <<'END'
1-call flow__call main_starts main
1-call flow__call
2-entered stop_when_entered task_entry flow__call
3-switch-away flow__switch task_inner task_entry flow__call
3-switch-away flow__switch main_starts main
4-resume flow__switch main_resumes main
4-resume flow__switch task_inner task_entry flow__call
5-resumed stop_when_resumed task_inner task_entry flow__call
6-switch-away flow__switch task_inner task_entry flow__call
6-switch-away flow__switch main_resumes main
7-plain-call flow__call main_calls_plainly main
7-plain-call flow__call
8-plain-entry plain_entry flow__call
9-plain-return flow__call main_calls_plainly main
END

# Reads gdb's output; prints "label names | registers of the callers" once per look.
# gdb takes flow__call for an Ada name, flow.call, when the assembler has not told it the language.
# shellcheck disable=SC2016 # awk's own $
judge='
/^@look / { label = $2; names = ""; registers = ""; n = 0; looking = 1; next }
/^@end/ { if (looking) print label names " |" registers; looking = 0 }
looking && /^#[0-9]/ { sub(/^#[0-9]+ +/, ""); sub(/^0x[0-9a-f]+ in /, ""); sub(/ \(.*/, ""); sub(/^flow\./, "flow__"); names = names " " $0 }
looking && /^@registers/ { if (n++ > 0) { sub(/^@registers/, ""); registers = registers " ;" $0 } }
'

steps=0
for flags in "-O0" "-O2" "-O2 -fomit-frame-pointer -fcf-protection=branch"; do
	[ "$arch" = x86_64 ] || flags=${flags%-fcf-protection=branch}
	# shellcheck disable=SC2086 # the flags are words
	"$compiler" -std=gnu11 -g $flags -I. tests/gdb_target.c "core/arch/$arch/switch.S" -o "$build/target"
	cp "$build/commands" "$build/run"
	for function in flow__call flow__switch; do
		size=$(nm -S "$build/target" | awk -v f="$function" '$4 == f { print "0x" $2 }')
		sed -i "s/@$function@/$size/" "$build/run"
	done
	timeout 120 gdb -nx -batch -x "$build/run" "$build/target" >"$build/log" 2>&1 || fail "gdb failed ($flags)"
	! grep -q 'ptrace: Operation not permitted' "$build/log" || skip "gdb may not trace here"
	! grep -Eq 'corrupt|Backtrace stopped|limit of .* exceeded|^#.*[?][?]|Cannot access' "$build/log" ||
		fail "a backtrace does not end cleanly ($flags)"
	grep -q 'exited normally' "$build/log" || fail "the target did not end well ($flags)"

	awk "$judge" "$build/log" >"$build/looks"
	steps=$((steps + $(wc -l <"$build/looks")))
	uniq "$build/looks" | sed 's/ |.*//' >"$build/found"
	diff "$build/expected" "$build/found" >&2 || fail "not the backtraces or registers expected ($flags)"
done
echo "gdb: $steps backtraces, all end where they should, callers' registers found"
