// The same as x86_64.S for aarch64: firmware of the board "virt" of QEMU.
//
// It turns on the memory management unit and does what an operating system does first; interrupts
// are left out, since the controller differs from host to host: the timer is only seen to fire.
// Each stage checks what it did. When all have passed, a number that is computed from the one at
// `nonce` goes to the serial port, as 16 letters a to p and a newline. It ends by PSCI SYSTEM_OFF
// in any case; without the letters that means no.
//
// Sources: Arm Architecture Reference Manual (D5 address translation, D11 generic timer, B2.9
// exclusives), PL011 technical reference, PSCI (DEN0022), hw/arm/virt.c of QEMU (its addresses).

        .set    TABLES, 0x48000000      // in RAM: level 1, level 2 of the first GiB, of the third
        .set    PAGE_A, 0x48200000      // three blocks of 2 MiB, to be mapped at HIGH
        .set    PAGE_B, 0x48400000
        .set    PAGE_C, 0x48600000
        .set    HIGH, 0x80000000
        .set    UART, 0x09000000
        .set    NORMAL, 0x705           // a block: write-back, inner shareable, accessed
        .set    READ_ONLY, 0x785
        .set    DEVICE, 0x401
        .set    FACTOR, 0x9e3779b1

        .globl  start
start:
        b       begin
        nop
        .globl  nonce
nonce:  .quad   0                       // hvtx writes a random number here

begin:
        ldr     x15, nonce
        ldr     x20, =TABLES
        mov     x0, x20
        add     x1, x20, 0x3000
1:      str     xzr, [x0], 8
        cmp     x0, x1
        b.ne    1b
        add     x0, x20, 0x1000
        orr     x1, x0, 3
        str     x1, [x20]               // 0 to 1 GiB: a table
        ldr     x1, =READ_ONLY
        str     x1, [x0]                // this code
        ldr     x1, =(UART + DEVICE)
        str     x1, [x0, (UART >> 21) * 8]
        ldr     x1, =(0x40000000 + NORMAL)
        str     x1, [x20, 8]            // RAM, mapped as it lies
        add     x19, x20, 0x2000
        orr     x1, x19, 3
        str     x1, [x20, 16]           // 2 to 3 GiB: a table
        ldr     x1, =(PAGE_A + NORMAL)
        str     x1, [x19]
        mov     x0, x20                 // written past the caches: nothing older stays in them
        add     x1, x20, 0x3000
2:      dc      ivac, x0
        add     x0, x0, 16
        cmp     x0, x1
        b.ne    2b
        dsb     sy

        adr     x0, vectors
        msr     vbar_el1, x0
        mov     x0, 0xff00              // attribute 0: device; 1: write-back
        msr     mair_el1, x0
        ldr     x0, =0x803519           // 39 bits of address, pages of 4 KiB, one table
        msr     tcr_el1, x0
        msr     ttbr0_el1, x20
        isb
        tlbi    vmalle1
        dsb     nsh
        isb
        mrs     x0, sctlr_el1
        mov     x1, 0x1005              // MMU and both caches
        orr     x0, x0, x1
        msr     sctlr_el1, x0
        isb

        mov     x21, 0                  // an exception, and the return from it
        mov     x22, 0
        svc     0
        cmp     x21, 1
        b.ne    off

        ldr     x14, =HIGH              // one page seen at two addresses
        ldr     x1, =PAGE_A
        ldr     x2, =PAGE_B
        str     x15, [x14]
        ldr     x0, [x1]
        cmp     x0, x15
        b.ne    off
        str     xzr, [x19]
        dsb     ishst
        lsr     x0, x14, 12
        tlbi    vaae1, x0
        dsb     ish
        ldr     x0, =(PAGE_B + NORMAL)
        str     x0, [x19]
        dsb     ishst
        isb
        add     x3, x15, x15
        add     x3, x3, 1
        str     x3, [x14]               // another page at the same address
        ldr     x0, [x2]
        cmp     x0, x3
        b.ne    off
        ldr     x0, [x1]
        cmp     x0, x15
        b.ne    off

        ldr     x3, =(HIGH + 0x200000)  // a page fault, fixed while the write waits
        str     x15, [x3]
        cmp     x22, 1
        b.ne    off
        ldr     x3, =PAGE_C
        ldr     x0, [x3]
        cmp     x0, x15
        b.ne    off

        str     x15, [x14]              // atomic operations
        mov     x4, 1000
3:      ldxr    x0, [x14]
        add     x0, x0, 1
        stxr    w5, x0, [x14]
        cbnz    w5, 3b
        subs    x4, x4, 1
        b.ne    3b
        ldr     x5, =FACTOR
        add     x13, x15, 1000
        cmp     x0, x13
        b.ne    off
        mul     x13, x13, x5
4:      ldaxr   x0, [x14]
        stlxr   w5, x13, [x14]
        cbnz    w5, 4b
        ldr     x0, [x2]
        cmp     x0, x13
        b.ne    off

        mrs     x0, cntfrq_el0          // the virtual timer, a thousandth of a second from now
        mov     x1, 1000
        udiv    x0, x0, x1
        mrs     x1, cntvct_el0
        add     x0, x0, x1
        msr     cntv_cval_el0, x0
        mov     x0, 3                   // on, without its interrupt
        msr     cntv_ctl_el0, x0
        isb
5:      mrs     x0, cntv_ctl_el0
        tbz     x0, 2, 5b

        ldr     x1, =UART               // all passed
        mov     w0, 0x301
        str     w0, [x1, 0x30]
        mov     x2, 16
6:      and     w0, w13, 15
        add     w0, w0, 'a'
        bl      put
        lsr     x13, x13, 4
        subs    x2, x2, 1
        b.ne    6b
        mov     w0, '\n'
        bl      put
off:
        ldr     x0, =0x84000008
        hvc     0
        b       .

put:
        ldr     w3, [x1, 0x18]
        tbnz    w3, 5, put
        str     w0, [x1]
        ret

// An exception of this level: a call counts, a missing page is put there, all else is a failure.
exception:
        mrs     x9, esr_el1
        lsr     x9, x9, 26
        cmp     x9, 0x15
        b.eq    7f
        cmp     x9, 0x25
        b.ne    off
        add     x22, x22, 1
        cmp     x22, 1
        b.ne    off
        ldr     x9, =(PAGE_C + NORMAL)
        str     x9, [x19, 8]
        dsb     ishst
        isb
        eret
7:      add     x21, x21, 1
        eret

        .ltorg
        .balign 2048, 0
vectors:
        .rept   4
        b       off
        .balign 128, 0
        .endr
        b       exception               // synchronous, with the level's own stack
        .balign 128, 0
        .rept   11
        b       off
        .balign 128, 0
        .endr
