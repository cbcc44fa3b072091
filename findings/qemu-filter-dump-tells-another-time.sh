#!/bin/bash
# QEMU's filter-dump tells times of the VM's clock: one begun later is ahead, one of a paused VM behind.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/qemu.sh"
outside && enter_with_qemu
cat >frame.py <<'P'
"""Sends one frame, and prints how many seconds later than the host's clock the dump says that it came."""
import socket
import struct
import sys
import time

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
    wire.bind(("127.0.0.1", 5001))
    now = time.time()
    wire.sendto(b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01\x88\xb5" + sys.argv[2].encode() * 50, ("127.0.0.1", 5000))
for _ in range(50):
    time.sleep(0.1)
    data = open(sys.argv[1], "rb").read()
    at = 24
    while at < len(data):
        second, fraction, length, _ = struct.unpack("<IIII", data[at : at + 16])
        if data[at + 16 : at + 16 + length].endswith(sys.argv[2].encode() * 50):
            raise SystemExit(print(round((second + fraction / 1e6 - now) / 10) * 10))
        at += 16 + length
P
later() { python3 frame.py "$@"; }
dump() { talk '{"execute": "object-add", "arguments": {"qom-type": "filter-dump", "netdev": "n0",
    "id": "'"$1"'", "file": "'"$1"'"}}'; }

version_of_qemu
question "The frames of a VM that has run for 10 seconds are to be seen: object-add filter-dump. The VM is then paused for
          10 seconds. Which time does the dump say that frames came, to the nearest 10 s? And on a host in New York?"
expected "The host's, as tcpdump on the TAP would say (a difference of 0)."

start() { # start ZONE: with a dump from the start on
    rm -f qmp first
    TZ=$1 "$QEMU" -machine none -display none -accel tcg -qmp unix:qmp,server=on,wait=off \
        -netdev socket,id=s0,udp=127.0.0.1:5001,localaddr=127.0.0.1:5000 -netdev hubport,id=h0,hubid=1,netdev=s0 \
        -netdev tap,id=n0,ifname=tap0,script=no,downscript=no -netdev hubport,id=h1,hubid=1,netdev=n0 \
        -object filter-dump,id=first,netdev=n0,file=first >said 2>&1 &
    started=$!
    wait_for test -S qmp
    wait_for talk '{"execute": "query-status"}'
}
ip link set lo up
ip tuntap add tap0 mode tap
ip link set tap0 up
start UTC
seen "a dump since the start, seconds ahead" "$(later first a)" 0
sleep 10
seen "object-add" "$(dump second)" "{}"
seen "the dump since the start" "$(later first b)" 0
seen "the dump that was added" "$(later second c)" 10
seen "stop" "$(talk '{"execute": "stop"}')" "{}"
sleep 10
seen "cont" "$(talk '{"execute": "cont"}')" "{}"
seen "the dump since the start" "$(later first d)" -10
seen "the dump that was added" "$(later second e)" 0
kill "$started"
wait "$started" || true
start EST5
seen "a dump since the start, in a zone 5 hours behind UTC" "$(later first f)" 18000
finish
