#!/bin/bash
# QEMU lets go of a netdev in use; one of the same id added afterwards is not the card's.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/qemu.sh"
outside && enter_with_qemu
carrier() { ip -o link show tap0 | grep -o 'NO-CARRIER\|LOWER_UP'; }
cards() { talk "=info network" | sed 's/index=[0-9]*,//g; s/,[^/]*\( \/\|$\)/\1/g; s/  */ /g'; }

version_of_qemu
question "A card's TAP shall be opened anew: QMP netdev_del n0, then netdev_add with the same id and
          ifname. What does each answer, and is the card connected afterwards?"
expected "netdev_del refuses what a card uses; or both succeed, and the card is connected by the id."

ip tuntap add tap0 mode tap
ip link set tap0 up
head -c 65536 /dev/zero >firmware # never run: -S
"$QEMU" -S -machine microvm -bios firmware -nodefaults -display none \
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
