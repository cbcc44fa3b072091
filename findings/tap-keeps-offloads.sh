#!/bin/bash
# A TAP goes on with the offloads and the header of the program that left it: the next one gets frames without checksums.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
cat >tap.py <<'P'
import fcntl, os, socket, struct, sys, time

TUNSETIFF, TUNSETOFFLOAD, TUNGETVNETHDRSZ, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x800454D7, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000

def attach(flags):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"tap0", IFF_TAP | IFF_NO_PI | flags))
    return fd

def folded(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total

def read_udp():
    """Whether the checksum of the first datagram to port 5000 holds."""
    fd = attach(0)
    time.sleep(0.3)
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.sendto(b"four", ("10.0.0.2", 5000))
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            frame = os.read(fd, 65536)
        except BlockingIOError:
            time.sleep(0.01)
            continue
        if frame[12:14] == b"\x08\x00" and frame[36:38] == struct.pack("!H", 5000):
            pseudo = frame[26:34] + struct.pack("!HH", 17, len(frame) - 34)
            return "right" if folded(pseudo + frame[34:]) == 0xFFFF else "wrong"
    return "nothing came"

def header():
    return struct.unpack("i", fcntl.ioctl(attach(IFF_VNET_HDR), TUNGETVNETHDRSZ, bytes(4)))[0]

def leave():
    """What QEMU does for a guest with virtio-net: a header of 12 bytes, checksums by the reader."""
    fd = attach(IFF_VNET_HDR)
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", 12))
    fcntl.ioctl(fd, TUNSETOFFLOAD, 0x1 | 0x2 | 0x4)

print({"read": read_udp, "header": header, "leave": leave}[sys.argv[1]]())
P
tap() { python3 tap.py "$1"; }

version "Linux $(uname -r)" "Linux $(uname -r)"
question "A persistent TAP is used by a program with IFF_VNET_HDR, a header of 12 bytes and TUNSETOFFLOAD, as QEMU does
          it. It ends. The next program attaches without IFF_VNET_HDR and sets nothing. What does it read?"
expected "Whole frames: with the program go its settings, and who asked for no header cannot be told of missing checksums."

ip tuntap add tap0 mode tap
ip addr add 10.0.0.1/24 dev tap0
ip link set tap0 up
ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev tap0 nud permanent
seen "checksum of a datagram, nobody was there before" "$(tap read)" right
seen "size of the header for the next that asks for one" "$(tap header)" 10
tap leave >/dev/null
seen "after that program: checksum of a datagram, read without a header" "$(tap read)" wrong
seen "size of the header for the next that asks for one" "$(tap header)" 12
finish
