#!/bin/bash
# QEMU attaches to the device whose name is the first 15 characters of the name that was asked for.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/qemu.sh"
outside && enter_with_qemu
qemu() {
    "$QEMU" -S -machine none -nodefaults -display none -accel tcg \
        -netdev "tap,id=n0,ifname=$1,script=no,downscript=no" >"$FOLDER/said" 2>&1 &
    pid=$!
    sleep 2
    STATE=$(kill -0 $pid 2>/dev/null && echo running || echo "ended: $(cat "$FOLDER/said")")
}
held() { sed -n 's/^iff:\t//p' /proc/$pid/fdinfo/* 2>/dev/null; }

version_of_qemu
question "A TAP is called production-web0 (15 characters, the most there is). QEMU is told
          ifname=production-web01, a name that no device can have. What does it attach to?"
expected "Nothing: an error such as 'name too long', as ip, nft and brctl say."

ip tuntap add production-web0 mode tap
ip tuntap add web mode tap
ip link property add dev web altname production-web01
qemu production-web01
seen "QEMU" "$STATE" running
seen "it said" "$(sed 's/.*: warning/warning/' "$FOLDER/said")" "warning: netdev n0 has no peer"
seen "device that it holds (production-web01 is an altname of web)" "$(held)" production-web0
finish
