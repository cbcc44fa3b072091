#!/bin/bash
# QEMU attaches to the device whose name is the first 15 characters of the name that was asked for.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 \
        qemu-system-common=1:7.2+dfsg-7+deb12u18+b3 iproute2=6.1.0-3
    libraries /usr/bin/qemu-system-x86_64
    libraries /bin/ip
    enter
fi
export QEMU_MODULE_DIR=$ROOT/usr/lib/x86_64-linux-gnu/qemu
qemu() {
    "$ROOT/usr/bin/qemu-system-x86_64" -S -machine none -nodefaults -display none -accel tcg \
        -netdev "tap,id=n0,ifname=$1,script=no,downscript=no" >"$FOLDER/said" 2>&1 &
    QEMU=$!
    sleep 2
    STATE=$(kill -0 $QEMU 2>/dev/null && echo running || echo "ended: $(cat "$FOLDER/said")")
}
held() { sed -n 's/^iff:\t//p' /proc/$QEMU/fdinfo/* 2>/dev/null; }

version "$("$ROOT/usr/bin/qemu-system-x86_64" --version | head -1)" \
    "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)"
question "A TAP is called production-web0 (15 characters, the most there is). QEMU is told
          ifname=production-web01, a name that no device can have. What does it attach to?"
expected "Nothing: an error such as 'name too long', as ip, nft and brctl say."

"$ROOT/bin/ip" tuntap add production-web0 mode tap
"$ROOT/bin/ip" tuntap add web mode tap
"$ROOT/bin/ip" link property add dev web altname production-web01
qemu production-web01
seen "QEMU" "$STATE" running
seen "it said" "$(sed 's/.*: warning/warning/' "$FOLDER/said")" "warning: netdev n0 has no peer"
seen "device that it holds (production-web01 is an altname of web)" "$(held)" production-web0
finish
