/* Stack switch for x86-64. Contract: core/arch/switch.h.
 * A suspended context, upwards from sp: r15 r14 r13 r12 rbx rbp, return address. */
#include "core/arch/switch.h"

.macro save reg
	push	%\reg;	.cfi_adjust_cfa_offset 8;	.cfi_rel_offset \reg, 0
.endm
.macro restore reg
	pop	%\reg;	.cfi_adjust_cfa_offset -8;	.cfi_restore \reg
.endm
.macro begin name
	.globl	\name
	.hidden	\name
	.type	\name, @function
	.p2align 4
\name:	.cfi_startproc
	endbr64				/* may be called through a pointer under IBT */
	.irp reg, rbp, rbx, r12, r13, r14, r15
	save	\reg
	.endr
	mov	%rsp, FLOW__CONTEXT_SP(%rdi)	/* `from` is complete: it may be resumed */
.endm
.macro end name
	.cfi_endproc
	.size	\name, . - \name
.endm

	.text
	begin	flow__switch		/* rdi from, rsi to, rdx value */
	mov	FLOW__CONTEXT_SP(%rsi), %rsp	/* same frame there: the CFI stays true */
	mov	%rdx, %rax		/* what the other side's call returns */
	.irp reg, r15, r14, r13, r12, rbx, rbp
	restore	\reg
	.endr
	pop	%rcx;	.cfi_adjust_cfa_offset -8;	.cfi_register rip, rcx
	notrack jmp *%rcx		/* a ret on another stack mispredicts; no endbr64 there */
	end	flow__switch

	begin	flow__call		/* rdi from, rsi stack_top, rdx entry, rcx arg */
	mov	%rsp, %rbx;	.cfi_def_cfa_register rbx	/* the way back: entry keeps rbx */
	mov	%rsi, %rsp
	mov	%rcx, %rdi
	xor	%ebp, %ebp		/* frame-pointer walks end here */
	.cfi_remember_state
	.cfi_undefined rip		/* CFI walks too: by then the caller may be gone */
	call	*%rdx
	.cfi_restore_state		/* entry returned, so the caller is still there */
	lea	32(%rbx), %rsp;	.cfi_def_cfa rsp, 24	/* r12 to r15 are as entry found them */
	restore	rbx
	restore	rbp
	ret				/* pairs with the caller's call: predicted */
	end	flow__call

	.section .note.gnu.property, "a", @note	/* IBT yes, shadow stack no */
	.p2align 3
	.long	4, 16, 5, 0x00554e47	/* sizes of name and content, NT_GNU_PROPERTY_TYPE_0, "GNU" */
	.long	0xc0000002, 4, 1, 0	/* GNU_PROPERTY_X86_FEATURE_1_AND, size, IBT, padding */
	.section .note.GNU-stack, "", @progbits	/* else every stack becomes executable */
