# shellcheck shell=bash
# Sourced after question.sh by what is asked of QEMU; $QEMU is the program.

QEMU=${ROOT:-}/usr/bin/qemu-system-x86_64
export QEMU_MODULE_DIR=${ROOT:-}/usr/lib/x86_64-linux-gnu/qemu

enter_with_qemu() { # with QEMU's emulator of a PC, and ip
    prepare
    deb qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 iproute2=6.1.0-3
    libraries /usr/bin/qemu-system-x86_64
    libraries /bin/ip
    enter
}

version_of_qemu() {
    version "$("$QEMU" --version | head -1)" "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)"
}

ip() { "$ROOT/bin/ip" "$@"; }

talk() { # talk COMMAND...: see qmp.py; of the VM whose socket is ./qmp
    python3 "$LIB/qmp.py" "$@" | tr -d '\r'
}
