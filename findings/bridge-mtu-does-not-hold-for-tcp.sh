#!/bin/bash
# A bridge drops what is larger than its port's MTU, but for TCP in segments that are still together (GSO).
. "$(dirname "$0")/lib/question.sh"
. "$LIB/guests.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
cat >sink.py <<'P'
"""The length of what the first connection brings, before 4 s in which nothing comes."""
import socket

with socket.create_server(("10.0.0.3", 7000)) as server:
    print("listens", flush=True)
    peer = server.accept()[0]
    peer.settimeout(4)
    length = 0
    try:
        while got := peer.recv(65536):
            length += len(got)
    except TimeoutError:
        pass
print(length)
P
cat >datagram.py <<'P'
import socket
import sys

s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, DO: never in fragments
s.connect(("10.0.0.3", 9))
for _ in range(3):
    try:
        s.send(bytes(int(sys.argv[1])))
        s.settimeout(0.5)
        s.recv(1)
    except ConnectionRefusedError:
        print("arrives")
        break
    except TimeoutError:
        continue
    except OSError as problem:
        print(problem)
        break
else:
    print("is lost")
P
datagram() { ip netns exec guest python3 datagram.py "$1"; }
message() { # message BYTES: how many of them arrive by a connection of their own
    : >sunk
    ip netns exec other python3 sink.py >sunk &
    wait_for grep -q listens sunk
    ip netns exec guest python3 -c "
import socket, time
s = socket.create_connection(('10.0.0.3', 7000))
s.sendall(bytes($1))
s.settimeout(5)
s.shutdown(socket.SHUT_WR)
try: s.recv(1)
except OSError: pass"
    wait $!
    tail -1 sunk
}

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "Two guests on a bridge have 1500 bytes, the host's end of one of them, a port of the bridge, has 1400. The other
          sends to it: datagrams without fragments, and messages by TCP, whose segments have 1448 bytes. What arrives?"
expected "Nothing of more than 1400 bytes: a datagram of 1472 is lost, and connections stall at the first full segment."

make_guests
ip link set vother mtu 1400
seen "a datagram of 1372 bytes" "$(datagram 1372)" arrives
seen "a datagram of 1373 bytes" "$(datagram 1373)" "is lost"
seen "a datagram of 1472 bytes" "$(datagram 1472)" "is lost"
seen "of a message of 1000 bytes" "$(message 1000)" 1000
seen "of a message of 1448 bytes, one segment" "$(message 1448)" 0
seen "of a message of 2896 bytes, two segments" "$(message 2896)" 2896
seen "of a message of 10000 bytes" "$(message 10000)" 10000
ip -n guest link set eth0 gso_max_segs 1
seen "of a message of 2896 bytes, where each segment is sent alone" "$(message 2896)" 0
finish
