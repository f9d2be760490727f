# Which functions keep an address of thread-local storage where it outlives a call: in a register that
# calls preserve, or in a frame. If the call suspends a coroutine that may go on elsewhere, the address is then
# another thread's. Reads `objdump -dr --no-show-raw-insn`, one line a finding: file function: instruction.
#
# On x86-64 only the thread's base counts (%fs:0, __tls_get_addr): an access by %fs: and an offset is of the
# thread that makes it. On aarch64 it is whatever mrs reads from tpidr_el0.
# Instructions are followed in the order of addresses; jumps are not.

function forget_calls_spoil(    r) { for (r in derived) if (r !~ kept) delete derived[r] }
function whole(r) { # the name of the 64-bit register
    sub(/^%/, "", r)
    if (r ~ /^w[0-9]+$/) sub(/^w/, "x", r)
    return r
}
function finding() {
    sub(/^ *[0-9a-f]+:[ \t]*/, "", line)
    gsub(/[ \t]+/, " ", line)
    print file " " fn ": " line
}
# The value goes from the registers named in `source` to `target`.
function flows(source, target,    r, hit) {
    hit = 0
    for (r in derived)
        if (source ~ "(^|[^a-z0-9])%?" r "([^a-z0-9]|$)") hit = 1
    if (hit && (target ~ kept || target == "memory")) finding()
    if (target == "memory") return
    if (hit) derived[target] = 1
    else delete derived[target]
}

BEGIN { kept = "^(rbx|rbp|r1[2-5]|x19|x2[0-8])$" }
/file format/ { file = $1; sub(/:$/, "", file); x86 = /x86-64/ }
/^[0-9a-f]+ <.*>:$/ { fn = $2; gsub(/[<>:]/, "", fn); split("", derived); next }
/R_X86_64_PLT32[ \t]+__tls_get_addr/ { derived["rax"] = 1; next }
/^ +[0-9a-f]+:/ {
    line = $0
    text = $0
    sub(/^ *[0-9a-f]+:[ \t]*/, "", text)
    sub(/[ \t]*[#;\/].*$/, "", text)
    gsub(/,[ \t]+/, ",", text)
    op = text; sub(/[ \t].*/, "", op)
    args = text; sub(/^[^ \t]+[ \t]*/, "", args)
    if (x86) x86_instruction(); else arm_instruction()
}

function x86_instruction(    from, to) {
    if (op ~ /^call/) { forget_calls_spoil(); return }
    to = args; sub(/.*,/, "", to)
    if (op ~ /^(push|cmp|test|j|ret|nop)/) return
    if (args !~ /,/) return
    from = substr(args, 1, length(args) - length(to) - 1)
    if (args ~ /^%fs:(0x0)?,/) { # the base itself
        delete derived[whole(to)]
        if (whole(to) ~ kept) finding()
        derived[whole(to)] = 1
        return
    }
    if (to !~ /^%[a-z]/ || to ~ /:/) { # a store; only a whole register's value matters
        if (op ~ /^mov/ && args ~ /^%[a-z0-9]+,[^,]*\((%rsp|%rbp)\)?$/) flows(from, "memory")
        return
    }
    to = whole(to)
    if (op ~ /^lea/) flows(from, to)
    else if (op == "mov" && from !~ /\(/) flows(from, to)
    else if (op ~ /^add/ && (to in derived)) return
    else if (op ~ /^add/ && from !~ /\(/) flows(from, to)
    else delete derived[to]
}

function arm_instruction(    a, n, to, i, from) {
    n = split(args, a, ",")
    to = whole(a[1])
    if (op == "bl" || op == "blr") { forget_calls_spoil(); return }
    if (op == "mrs" && args ~ /tpidr_el0/) {
        if (to ~ kept) finding()
        derived[to] = 1
        return
    }
    if (op ~ /^(str|stp|stur)$/) {
        if (args ~ /\[(sp|x29)/) {
            from = a[1] (op == "stp" ? "," a[2] : "")
            flows(from, "memory")
        }
        return
    }
    if (op ~ /^(cmp|cmn|tst|b|b\..*|cb.*|tb.*|ret|prfm)$/) return
    if (op ~ /^(mov|add|sub)$/) {
        from = ""
        for (i = 2; i <= n; i++) from = from "," a[i]
        flows(from, to)
    } else {
        delete derived[to]
        if (op ~ /^ldp/) delete derived[whole(a[2])]
    }
}
