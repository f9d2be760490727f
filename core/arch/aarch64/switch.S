/* Stack switch for aarch64. Contract: core/arch/switch.h.
 * A suspended context, upwards from sp: x29 x30 (a frame record), x19 to x28, d8 to d15. */
#include "core/arch/switch.h"

.macro save a, b, at
	stp	\a, \b, [sp, \at];	.cfi_rel_offset \a, \at;	.cfi_rel_offset \b, \at + 8
.endm
.macro restore a, b, at
	ldp	\a, \b, [sp, \at];	.cfi_restore \a;	.cfi_restore \b
.endm
.macro each_pair op			/* all but x29 and x30, which move sp too */
	\op	x19, x20, 16;	\op	x21, x22, 32;	\op	x23, x24, 48
	\op	x25, x26, 64;	\op	x27, x28, 80;	\op	d8, d9, 96
	\op	d10, d11, 112;	\op	d12, d13, 128;	\op	d14, d15, 144
.endm
.macro begin name
	.globl	\name;	.hidden	\name;	.type	\name, %function;	.p2align 4
\name:	.cfi_startproc
	bti	c			/* may be called through a pointer */
	stp	x29, x30, [sp, -160]!;	.cfi_def_cfa_offset 160
	.cfi_rel_offset x29, 0;	.cfi_rel_offset x30, 8
	each_pair save
	mov	x9, sp
	str	x9, [x0, FLOW__CONTEXT_SP]	/* `from` is complete: it may be resumed */
.endm
.macro end name
	ldp	x29, x30, [sp], 160;	.cfi_def_cfa_offset 0;	.cfi_restore x29;	.cfi_restore x30
	ret				/* br would need a bti where it lands */
	.cfi_endproc;	.size	\name, . - \name
.endm

	.text
	begin	flow__switch		/* x0 from, x1 to, x2 value */
	ldr	x9, [x1, FLOW__CONTEXT_SP]
	mov	x0, x2			/* what the other side's call returns */
	mov	sp, x9			/* same frame there: the CFI stays true */
	each_pair restore
	end	flow__switch

	begin	flow__call		/* x0 from, x1 stack_top, x2 entry, x3 arg */
	mov	x19, sp;	.cfi_def_cfa_register x19	/* the way back: entry keeps x19 */
	mov	sp, x1
	mov	x0, x3
	mov	x29, 0			/* frame-pointer walks end here */
	.cfi_remember_state;	.cfi_undefined x30	/* CFI walks too: the caller may be gone */
	blr	x2
	.cfi_restore_state		/* entry returned, so the caller is still there */
	mov	sp, x19;	.cfi_def_cfa_register sp
	.irp reg, x20, x21, x22, x23, x24, x25, x26, x27, x28, d8, d9, d10, d11, d12, d13, d14, d15
	.cfi_restore \reg		/* entry has kept them; below sp nothing is safe to read */
	.endr
	ldr	x19, [sp, 16];	.cfi_restore x19
	end	flow__call

	.section .note.gnu.property, "a", %note	/* BTI yes; no PAC, x30 is not signed */
	.p2align 3
	.word	4, 16, 5, 0x00554e47	/* sizes of name and content, NT_GNU_PROPERTY_TYPE_0, "GNU" */
	.word	0xc0000000, 4, 1, 0	/* GNU_PROPERTY_AARCH64_FEATURE_1_AND, size, BTI, padding */
	.section .note.GNU-stack, "", %progbits	/* else every stack becomes executable */
