#!/bin/bash
# pyroute2's flush_routes(oif=) takes the routes by which the host has its addresses; flush_rules() the rule that leads to them.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/pyroute2.sh"
outside && enter_with_pyroute2
cat >flush.py <<'P'
import socket
import subprocess
import sys

from pyroute2 import IPRoute

def reaches(address):
    asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        asked.sendto(b"x", (address, 9))
        return "is sent"
    except OSError as problem:
        return problem.strerror

def ip(*words):
    return subprocess.run([sys.argv[1], *words], capture_output=True, text=True, check=True).stdout

ip("link", "set", "lo", "up")
ip("link", "add", "br0", "type", "bridge")
ip("link", "set", "br0", "up")
ip("addr", "add", "10.0.0.1/24", "dev", "br0")
ip("route", "add", "10.5.0.0/16", "dev", "br0")
route = IPRoute()
print("before:", reaches("10.0.0.1"))
ip("route", "flush", "dev", "br0")
print("ip route flush dev br0:", reaches("10.0.0.1"))
route.flush_routes(oif=route.link_lookup(ifname="br0")[0])
print("flush_routes(oif=br0):", reaches("10.0.0.1"))
print("addresses:", *(word for word in ip("-o", "-4", "addr", "show", "br0").split() if "/24" in word))
print("127.0.0.1:", reaches("127.0.0.1"))
ip("rule", "add", "from", "10.0.0.0/24", "lookup", "77")
ip("rule", "flush")
print("ip rule flush:", *ip("rule").split("\n")[0].split(), reaches("127.0.0.1"))
route.flush_rules(family=socket.AF_INET)
print("flush_rules(family=AF_INET):", *ip("rule").split(), reaches("127.0.0.1"))
P
version_of_pyroute2
question "The routes of a bridge that goes, and the rules of routing that a program made, are taken away by flush_routes(oif=…)
          and flush_rules(family=AF_INET). What does the host reach then, compared with ip route flush and ip rule flush?"
expected "Its own addresses, as after ip route flush and ip rule flush."
"$PYTHON" flush.py "$ROOT/bin/ip" >said
line() { sed -n "s/^$1: //p" said; }
seen "a datagram to the bridge's address" "$(line before)" "is sent"
seen "after ip route flush dev br0" "$(line 'ip route flush dev br0')" "is sent"
seen "after flush_routes(oif=br0)" "$(line 'flush_routes(oif=br0)')" "Network is unreachable"
seen "addresses of the bridge" "$(line addresses)" "10.0.0.1/24"
seen "to 127.0.0.1" "$(line 127.0.0.1)" "is sent"
seen "after ip rule flush" "$(line 'ip rule flush')" "0: from all lookup local is sent"
seen "after flush_rules(family=AF_INET)" "$(line 'flush_rules(family=AF_INET)')" "Network is unreachable"
finish
