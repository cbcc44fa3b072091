#!/bin/bash
# With pyroute2 a rule of routing without a table refuses what it meets; ip rule makes it lead to main.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/pyroute2.sh"
outside && enter_with_pyroute2
cat >rule.py <<'P'
import subprocess
import sys

from pyroute2 import IPRoute, NetlinkError

def ip(*words):
    ran = subprocess.run([sys.argv[1], *words], capture_output=True, text=True)
    return (ran.stdout or ran.stderr).strip()

def way():
    return ip("route", "get", "192.0.2.1", "from", "10.0.0.1").split("\n")[0].strip()

ip("link", "add", "br0", "type", "bridge")
ip("link", "set", "br0", "up")
ip("addr", "add", "10.0.0.1/24", "dev", "br0")
ip("route", "add", "default", "dev", "br0")
print("ip rule add:", ip("rule", "add", "from", "10.0.0.0/24", "pref", "100"), way())
ip("rule", "del", "pref", "100")
route = IPRoute()
route.rule("add", src="10.0.0.0/24", priority=100)
print("rule:", *(line for line in ip("rule").split("\n") if line.startswith("100:")))
print("way:", way())
ip("rule", "add", "from", "10.1.0.0/24", "lookup", "77", "pref", "101")
try:
    route.rule("del", table=77)
    print("del by table: done")
except NetlinkError as problem:
    print("del by table:", problem.args[1])
print("ip rule del by table:", ip("rule", "del", "lookup", "77") or "done")
found = route.get_routes(dst="172.16.5.0/24")
print("get_routes:", *(f"{r.get('dst')}/{r['dst_len']}" for r in found))
P
version_of_pyroute2
question "A program makes a rule of routing without a table, takes one back by its table, and looks for a route to a subnet:
          rule('add', src=…, priority=100), rule('del', table=77), get_routes(dst='172.16.5.0/24'). What comes of them?"
expected "What ip rule add from … pref 100, ip rule del lookup 77 and ip route show 172.16.5.0/24 do."
"$PYTHON" rule.py "$ROOT/bin/ip" >said
line() { sed -n "s/^$1: *//p" said; }
seen "way from the subnet, after ip rule add" "$(line 'ip rule add')" "192.0.2.1 from 10.0.0.1 dev br0 uid 0"
seen "rule of pyroute2" "$(line rule)" "$(printf '100:\tfrom 10.0.0.0/24 none')"
seen "way from the subnet" "$(line way)" "RTNETLINK answers: Invalid argument"
seen "rule('del', table=77)" "$(line 'del by table')" "No such file or directory"
seen "ip rule del lookup 77" "$(line 'ip rule del by table')" "done"
seen "get_routes of a subnet that has no route (the default leads there)" "$(line get_routes)" "172.16.5.0/32"
finish
