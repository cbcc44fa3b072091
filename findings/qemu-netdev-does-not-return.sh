#!/bin/bash
# QEMU lets go of a netdev in use; one of the same id added afterwards is not the card's.
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
ip() { "$ROOT/bin/ip" "$@"; }
cat >monitor_socket.py <<'P'
"""Sends one QMP command a line of standard input, or a monitor line after '='; prints answers."""
import json
import socket
import sys

with socket.socket(socket.AF_UNIX) as wire:
    wire.settimeout(10)
    wire.connect("qmp")
    lines = wire.makefile("rw")
    lines.readline()
    for command in ['{"execute": "qmp_capabilities"}', *sys.argv[1:]]:
        if command.startswith("="):
            asked = {"execute": "human-monitor-command", "arguments": {"command-line": command[1:]}}
            command = json.dumps(asked)
        print(command, file=lines, flush=True)
        while "event" in (answer := json.loads(lines.readline())):
            pass
    said = answer.get("return", answer)
    print(" / ".join(said.splitlines()) if isinstance(said, str) else said)
P
talk() { python3 monitor_socket.py "$@" | tr -d '\r'; }
carrier() { ip -o link show tap0 | grep -o 'NO-CARRIER\|LOWER_UP'; }
cards() { talk "=info network" | sed 's/index=[0-9]*,//g; s/,[^/]*\( \/\|$\)/\1/g; s/  */ /g'; }

version "$("$ROOT/usr/bin/qemu-system-x86_64" --version | head -1)" \
    "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)"
question "A card's TAP shall be opened anew: QMP netdev_del n0, then netdev_add with the same id and
          ifname. What does each answer, and is the card connected afterwards?"
expected "netdev_del refuses what a card uses; or both succeed, and the card is connected by the id."

ip tuntap add tap0 mode tap
ip link set tap0 up
head -c 65536 /dev/zero >firmware # never run: -S
"$ROOT/usr/bin/qemu-system-x86_64" -S -machine microvm -bios firmware -nodefaults -display none \
    -accel tcg -qmp unix:qmp,server=on,wait=off \
    -netdev tap,id=n0,ifname=tap0,script=no,downscript=no \
    -device virtio-net-device,netdev=n0,id=card,mac=52:54:00:12:34:5a >said 2>&1 &
wait_for test -S qmp
wait_for talk
seen "at first" "$(cards)" "card: type=nic / \\ n0: type=tap"
seen "netdev_del" "$(talk '{"execute": "netdev_del", "arguments": {"id": "n0"}}')" "{}"
seen "carrier of the TAP" "$(carrier)" NO-CARRIER
seen "cards (the dead n0 is still shown)" "$(cards)" "card: type=nic / \\ n0: type=tap"
again='{"execute": "netdev_add", "arguments": {"type": "tap", "id": "n0", "ifname": "tap0",'
seen "netdev_add" "$(talk "$again \"script\": \"no\", \"downscript\": \"no\"}}")" "{}"
seen "carrier of the TAP" "$(carrier)" LOWER_UP
seen "cards (the second n0 is nobody's)" "$(cards)" \
    "card: type=nic / \\ n0: type=tap / n0: type=tap"
finish
