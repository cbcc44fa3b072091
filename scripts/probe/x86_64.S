# The guest by which hvtx finds out whether KVM runs guests, where a VM brings no kernel of its own.
#
# A boot sector that reads the rest of itself through the firmware, enters 64-bit mode and does what
# an operating system does first. Each stage checks what it did; one that fails ends the machine
# through isa-debug-exit (port 0xf4) with the stage's number. When all have passed, a number that is
# computed from the one at `nonce` goes to the serial port, as 16 letters a to p and a newline, and
# DONE goes to isa-debug-exit. A guest that hangs tells nothing, which means no as well.
#
# scripts/make-probe assembles this into hvtx/host/probe_guest.py; a test compares the two.
# Sources: Intel SDM volume 3 (4.5 paging, 6.14 interrupts in 64-bit mode, 10.5 local APIC timer),
# 8259A and 8254 data sheets, docs/specs of QEMU (isa-debug-exit).

        .intel_syntax noprefix

        .set    DONE, 0x35              # QEMU then ends with 2 * DONE + 1
        .set    SECTORS, 7              # of this program, after the boot sector
        .set    TICKS, 5                # of each timer

        # Page tables in the first mebibyte, zeroed before they are filled.
        .set    PML4, 0x10000
        .set    PDPT, 0x11000           # 0 to 4 GiB
        .set    PD, 0x12000             # the first GiB: one page of 2 MiB, mapped as it lies
        .set    PD_APIC, 0x13000        # the fourth GiB: one page of 2 MiB with the local APIC
        .set    PDPT_HIGH, 0x14000      # where Linux lives: the last 2 GiB
        .set    PD_HIGH, 0x15000
        .set    PT_HIGH, 0x16000        # pages of 4 KiB, changed while in use
        .set    TABLES, 0x7000          # bytes of all of them
        .set    IDT, 0x18000
        .set    VECTORS, 64
        .set    STACK, 0x1f000
        .set    PAGE_A, 0x20000         # four pages to be mapped high
        .set    PAGE_B, 0x21000
        .set    PAGE_C, 0x22000
        .set    PAGE_USER, 0x23000

        .set    HIGH, 0xffffffff80000000
        .set    APIC, 0xfee00000
        .set    FACTOR, 0x9e3779b1      # any odd number

        .code16
        .globl  start
start:
        ljmp    0, offset begin         # some firmware enters with 07c0:0000
begin:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7c00
        mov     si, offset packet       # stage 1: read the rest of the program (int 13h, LBA)
        mov     ah, 0x42
        int     0x13
        mov     al, 1
        jc      fail16
        jmp     second
fail16:
        out     0xf4, al
        hlt
        jmp     fail16
packet:
        .byte   16, 0
        .word   SECTORS, second, 0
        .quad   1

        .org    start + 500
        .globl  nonce
nonce:  .quad   0                       # hvtx writes a random number here
        .org    start + 510
        .word   0xaa55

second:
        cli
        in      al, 0x92                # address line 20 on, interrupts of the 8259A off
        or      al, 2
        out     0x92, al
        mov     ax, PML4 >> 4
        mov     es, ax
        xor     eax, eax
        xor     di, di
        mov     cx, TABLES / 4
        cld
        rep stosd
        mov     dword ptr es:[0], PDPT + 3
        mov     dword ptr es:[0xff8], PDPT_HIGH + 7
        mov     dword ptr es:[PDPT - PML4], PD + 3
        mov     dword ptr es:[PDPT - PML4 + 3 * 8], PD_APIC + 3
        mov     dword ptr es:[PD - PML4], 0x83
        mov     dword ptr es:[PD_APIC - PML4 + 0x1f7 * 8], APIC + 0x9b
        mov     dword ptr es:[PDPT_HIGH - PML4 + 510 * 8], PD_HIGH + 7
        mov     dword ptr es:[PD_HIGH - PML4], PT_HIGH + 7
        mov     dword ptr es:[PT_HIGH - PML4], PAGE_A + 3
        mov     dword ptr es:[PT_HIGH - PML4 + 2 * 8], PAGE_USER + 5

        mov     eax, 0x620              # CR4: physical address extension, SSE
        mov     cr4, eax
        mov     eax, PML4
        mov     cr3, eax
        mov     ecx, 0xc0000080         # EFER: long mode, syscall
        rdmsr
        or      eax, 0x101
        wrmsr
        lgdt    gdt_pointer
        mov     eax, cr0                # CR0: protection, paging, write protection, FPU errors
        or      eax, 0x80010023
        and     eax, 0xfffffffb
        mov     cr0, eax
        .att_syntax
        ljmp    $8, $long
        .intel_syntax noprefix

        .code64
long:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     ax, 0x30
        ltr     ax
        mov     esp, STACK
        mov     r15, [nonce]
        mov     r14, HIGH

        # The interrupt table: every vector is a failure but those that follow.
        mov     edi, IDT
        mov     ecx, VECTORS
1:      mov     eax, offset unexpected
        call    gate
        loop    1b
        mov     edi, IDT + 3 * 16
        mov     eax, offset breakpoint
        call    gate
        mov     edi, IDT + 14 * 16
        mov     eax, offset page_fault
        call    gate
        mov     edi, IDT + 0x20 * 16
        mov     eax, offset pit_tick
        call    gate
        mov     edi, IDT + 0x30 * 16
        mov     eax, offset apic_tick
        call    gate
        mov     edi, IDT + 0x27 * 16
        mov     eax, offset spurious
        call    gate
        mov     edi, IDT + 0x3f * 16
        mov     eax, offset spurious
        call    gate
        lidt    [idt_pointer]

        mov     bl, 2                   # stage 2: an exception, and the return from it
        int3
        cmp     qword ptr [breakpoints], 1
        jne     fail

        mov     bl, 3                   # stage 3: one page seen at two addresses
        mov     [r14], r15
        cmp     [PAGE_A], r15
        jne     fail
        mov     dword ptr [PT_HIGH], PAGE_B + 3
        invlpg  [r14]
        lea     rax, [r15 + r15 + 1]
        mov     [r14], rax              # another page at the same address
        cmp     [PAGE_B], rax
        jne     fail
        cmp     [PAGE_A], r15
        jne     fail

        mov     bl, 4                   # stage 4: page faults, fixed while the write waits
        mov     [r14 + 0x1000], r15     # no page
        cmp     qword ptr [faults], 1
        jne     fail
        cmp     [PAGE_C], r15
        jne     fail
        mov     dword ptr [PT_HIGH + 8], PAGE_C + 1
        invlpg  [r14 + 0x1000]
        not     qword ptr [r14 + 0x1000]        # a page that may only be read
        cmp     qword ptr [faults], 2
        jne     fail
        mov     rax, cr3
        mov     cr3, rax
        mov     rax, r15
        not     rax
        cmp     [r14 + 0x1000], rax
        jne     fail

        mov     bl, 5                   # stage 5: atomic operations
        lea     rdi, [r14 + 8]
        mov     qword ptr [rdi], 0
        mov     rax, r15
        lock xadd [rdi], rax
        test    rax, rax
        jnz     fail
        mov     ecx, 1000
2:      lock inc qword ptr [rdi]
        loop    2b
        lea     rax, [r15 + 1000]
        mov     edx, FACTOR
        imul    rdx, rax
        lock cmpxchg [rdi], rdx
        jnz     fail
        mov     r13, rdx                # what is told in the end
        lea     rax, [rdx + 1]
        lock cmpxchg [rdi], rax         # not what stands there: it must not be exchanged
        jz      fail
        cmp     rax, r13
        jne     fail
        xchg    [rdi], rax
        cmp     [PAGE_B + 8], r13
        jne     fail
        movq    xmm0, r13
        paddq   xmm0, xmm0
        movq    rax, xmm0
        lea     rdx, [r13 + r13]
        cmp     rax, rdx
        jne     fail

        mov     bl, 6                   # stage 6: interrupts of the 8254 through the 8259A
        mov     al, 0x11
        out     0x20, al
        out     0xa0, al
        mov     al, 0x20                # vectors 0x20 and 0x28
        out     0x21, al
        mov     al, 0x28
        out     0xa1, al
        mov     al, 4
        out     0x21, al
        mov     al, 2
        out     0xa1, al
        mov     al, 1
        out     0x21, al
        out     0xa1, al
        mov     al, 0xfe                # interrupt 0 only
        out     0x21, al
        mov     al, 0xff
        out     0xa1, al
        mov     al, 0x34                # periodic, 1193 of 1,193,182 Hz: a millisecond
        out     0x43, al
        mov     al, 1193 & 0xff
        out     0x40, al
        mov     al, 1193 >> 8
        out     0x40, al
3:      sti
        hlt
        cli
        cmp     qword ptr [pit_ticks], TICKS
        jb      3b
        mov     al, 0xff
        out     0x21, al

        mov     bl, 7                   # stage 7: interrupts of the local APIC's timer
        mov     esi, APIC
        mov     dword ptr [rsi + 0xf0], 0x13f   # on; spurious ones are vector 0x3f
        mov     dword ptr [rsi + 0x3e0], 0xb    # divide by 1
        mov     dword ptr [rsi + 0x320], 0x20030 # periodic, vector 0x30
        rdtsc
        mov     r12d, eax
        mov     dword ptr [rsi + 0x380], 1000000
4:      sti
        hlt
        cli
        cmp     qword ptr [apic_ticks], TICKS
        jb      4b
        mov     dword ptr [rsi + 0x320], 0x10030
        rdtsc
        cmp     eax, r12d               # time went on
        je      fail

        mov     bl, 8                   # stage 8: user mode, and the call back
        mov     ecx, 0xc0000081         # STAR: the segments of both sides
        xor     eax, eax
        mov     edx, 0x00180008
        wrmsr
        inc     ecx                     # LSTAR: where the call arrives
        mov     eax, offset called
        xor     edx, edx
        wrmsr
        mov     ecx, 0xc0000084         # SFMASK: interrupts off
        mov     eax, 0x200
        wrmsr
        mov     eax, [user]
        mov     [PAGE_USER], eax
        mov     eax, [user + 4]
        mov     [PAGE_USER + 4], eax
        push    0x23
        push    STACK
        push    2
        push    0x2b
        lea     rax, [r14 + 0x2000]
        push    rax
        iretq
user:
        mov     rdi, r13
        not     rdi
        syscall
called:
        not     rdi
        cmp     rdi, r13
        jne     fail
        lea     rax, [r14 + 0x2000 + 8] # where it would go on
        cmp     rcx, rax
        jne     fail

        mov     ecx, 16                 # all passed
5:      mov     eax, r13d
        and     al, 15
        add     al, 'a'
        call    put
        shr     r13, 4
        loop    5b
        mov     al, '\n'
        call    put
        mov     bl, DONE
fail:
        mov     al, bl
        out     0xf4, al
        cli
6:      hlt
        jmp     6b

# One entry of the interrupt table at edi for the code at eax; edi goes on to the next.
gate:
        mov     dword ptr [rdi], eax
        mov     dword ptr [rdi + 4], 0x8e00
        mov     word ptr [rdi + 2], 8
        mov     qword ptr [rdi + 8], 0
        add     edi, 16
        ret

# The byte in al to the serial port.
put:
        mov     dx, 0x3fd
        mov     ah, al
7:      in      al, dx
        test    al, 0x20
        jz      7b
        mov     dl, 0xf8
        mov     al, ah
        out     dx, al
        ret

breakpoint:
        lock inc qword ptr [breakpoints]
        iretq

page_fault:
        push    rax
        push    rdx
        mov     rax, cr2
        lea     rdx, [r14 + 0x1000]
        cmp     rax, rdx
        jne     fail
        inc     qword ptr [faults]
        cmp     qword ptr [faults], 2
        ja      fail
        mov     dword ptr [PT_HIGH + 8], PAGE_C + 3
        invlpg  [rax]
        pop     rdx
        pop     rax
        add     rsp, 8                  # the error code
        iretq

pit_tick:
        push    rax
        inc     qword ptr [pit_ticks]
        mov     al, 0x20
        out     0x20, al
        pop     rax
        iretq

apic_tick:
        inc     qword ptr [apic_ticks]
        mov     dword ptr [rsi + 0xb0], 0
        iretq

# An interrupt that was taken back: the 8259A gives its seventh then, the APIC what it was told.
spurious:
        iretq

unexpected:
        or      bl, 0x80
        jmp     fail

        .balign 8, 0
breakpoints: .quad 0
faults: .quad   0
pit_ticks: .quad 0
apic_ticks: .quad 0
gdt:    .quad   0
        .quad   0x00af9a000000ffff      # 0x08 code
        .quad   0x00cf92000000ffff      # 0x10 data
        .quad   0                       # 0x18
        .quad   0x00cff2000000ffff      # 0x20 data of user mode
        .quad   0x00affa000000ffff      # 0x28 code of user mode
        .word   103, tss, 0x8900, 0     # 0x30 task state
        .quad   0
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt
idt_pointer:
        .word   VECTORS * 16 - 1
        .quad   IDT
        .balign 8, 0
tss:    .skip   104
