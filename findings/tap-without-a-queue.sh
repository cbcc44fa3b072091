#!/bin/bash
# A TAP device with txqueuelen 0 is up and takes every packet, and its reader gets none.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
cat >sends.py <<'P'
"""Twenty datagrams are sent by tap0, which this process has open; how many can be read?"""
import fcntl
import os
import select
import socket
import struct

tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"tap0", 0x1002))  # TUNSETIFF, TAP, no PI
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    failed = 0
    for _ in range(20):
        try:
            sender.sendto(b"seen by who reads", ("10.0.0.255", 9))
        except OSError:
            failed += 1
read = 0
while select.select([tap], [], [], 0.5)[0]:
    read += b"seen by who reads" in os.read(tap, 2048)
print(f"{failed} sends failed, {read} datagrams read")
P
ip tuntap add tap0 mode tap
ip addr add 10.0.0.1/24 dev tap0
version "$(ip -V), Linux $(uname -r | cut -d. -f1,2)" \
    "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux 6.18"
question "tap0 is set to txqueuelen 0 (as one does with bridges and veth pairs, which need no queue), and
          up. Twenty datagrams are sent by it: how many does the process read that has it open?"
expected "All: a device without a queue hands packets on at once. Or the sends fail."
ip link set tap0 txqueuelen 0 up
seen "txqueuelen 0" "$(python3 sends.py)" "0 sends failed, 0 datagrams read"
ip link set tap0 txqueuelen 100
seen "txqueuelen 100" "$(python3 sends.py)" "0 sends failed, 20 datagrams read"
finish
