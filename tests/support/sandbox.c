/* SPDX-License-Identifier: MIT */
#include "tests/support/sandbox.h"

#include "tests/support/child.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { MAX_CALLS = 8 };

/* Load the call's number; for each refused one, jump to the last line; allow; refuse. */
void sandbox_refuse(const long *calls, int n, int error)
{
    struct sock_filter filter[MAX_CALLS + 3] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    struct sock_fprog program = {(unsigned short)(n + 3), filter};

    for (int i = 0; i < n; i++)
        filter[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i],
                                                     (unsigned char)(n - i), 0);
    filter[n + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[n + 2] =
        (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        skip_case("seccomp is refused here");
}

void sandbox_refuse_memory_policy(int error, bool only_mbind)
{
    static const long calls[] = {SYS_mbind, SYS_get_mempolicy, SYS_move_pages};

    sandbox_refuse(calls, only_mbind ? 1 : 3, error);
}

void sandbox_refuse_pinning(int error)
{
    static const long calls[] = {SYS_sched_setaffinity};

    sandbox_refuse(calls, 1, error);
}
