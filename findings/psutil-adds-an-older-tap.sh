#!/bin/bash
# psutil's net_io_counters adds what an older device of the same name had, field by field, where the new one has had less.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb iproute2=6.1.0-3
    libraries /bin/ip
    pip psutil==7.2.2
    enter
fi
cat >watch.py <<'P'
"""Watches tap0, as an agent does, while a VM with it is started again."""
import fcntl
import os
import struct
import subprocess
import sys

import psutil

def start():
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"tap0", 0x1002))  # TUNSETIFF, TAP, no PI
    subprocess.run([sys.argv[1], "link", "set", "tap0", "addrgenmode", "none", "up"], check=True)
    return tap

def send(tap, frames, size):
    for _ in range(frames):
        os.write(tap, b"\xff" * 6 + bytes.fromhex("020000000001" "0800") + bytes(size - 14))

def look(what, **words):
    seen = psutil.net_io_counters(pernic=True, **words)["tap0"]
    print(f"{what}: {seen.packets_recv} frames, {seen.bytes_recv} bytes")

print("psutil", psutil.__version__)
tap = start()
send(tap, 100, 100)
look("first")
os.close(tap)
tap = start()
send(tap, 10, 1400)
look("second")
look("nowrap", nowrap=False)
look("again")
os.close(tap)
psutil.net_io_counters()
tap = start()
send(tap, 10, 1400)
look("missed")
P
"$PYTHON" watch.py "$ROOT/bin/ip" >said
line() { sed -n "s/^$1: //p" said; }
version "$(head -1 said)" "psutil 7.2.2"
question "A VM sends 100 frames of 100 bytes by tap0, and is started again: its TAP is made anew. By the new one it sends 10
          frames of 1400 bytes. An agent reads psutil.net_io_counters(pernic=True) every minute. What has tap0 had?"
expected "10 frames, 14000 bytes, as the new device counts from 0; or the sums, 110 frames and 24000 bytes."
seen "before" "$(line first)" "100 frames, 10000 bytes"
seen "after the restart" "$(line second)" "110 frames, 14000 bytes"
seen "with nowrap=False" "$(line nowrap)" "10 frames, 14000 bytes"
seen "a minute later" "$(line again)" "110 frames, 14000 bytes"
seen "a third device, which came after the agent had seen no tap0" "$(line missed)" "10 frames, 14000 bytes"
finish
