#!/bin/bash
# With pyroute2 no router can be in a subnet whose route by a device was added; ip route's src, metric and weight are others.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/pyroute2.sh"
outside && enter_with_pyroute2
cat >route.py <<'P'
import subprocess
import sys

from pyroute2 import IPRoute, NetlinkError

def ip(*words):
    ran = subprocess.run([sys.argv[1], *words], capture_output=True, text=True)
    return " ".join((ran.stdout or ran.stderr).split()) or "done"

def add(**words):
    try:
        route.route("add", **words)
    except NetlinkError as problem:
        return problem.args[1]
    return ip(*("-6" if ":" in words["dst"] else "-4",), "route", "show", words["dst"])

ip("link", "add", "br0", "type", "bridge")
ip("link", "set", "br0", "up")
ip("addr", "add", "10.0.0.1/24", "dev", "br0")
ip("addr", "add", "10.0.0.9/32", "dev", "br0")
ip("addr", "add", "fd00::9/64", "dev", "br0", "nodad")
route = IPRoute()
index = route.link_lookup(ifname="br0")[0]
print("ip direct:", ip("route", "add", "10.4.0.0/24", "dev", "br0"))
print("ip via:", ip("route", "add", "10.40.0.0/16", "via", "10.4.0.1"))
print("direct:", add(dst="10.5.0.0/24", oif=index))
print("via:", add(dst="10.50.0.0/16", gateway="10.5.0.1"))
print("ip via direct:", ip("route", "add", "10.51.0.0/16", "via", "10.5.0.1"))
print("src:", add(dst="10.6.0.0/16", gateway="10.0.0.2", src="10.0.0.9"))
print("prefsrc:", add(dst="10.7.0.0/16", gateway="10.0.0.2", prefsrc="10.0.0.9"))
print("src6:", add(dst="fd06::/64", gateway="fd00::2", src="fd00::9"))
print("metric:", add(dst="10.8.0.0/16", gateway="10.0.0.2", metric=50))
print("ways:", add(dst="10.9.0.0/16", multipath=[
    {"gateway": "10.0.0.2", "weight": 5}, {"gateway": "10.0.0.3", "weight": 1}]))
print("hops:", add(dst="10.10.0.0/16", multipath=[
    {"gateway": "10.0.0.2", "hops": 5}, {"gateway": "10.0.0.3", "hops": 1}]))
P
version_of_pyroute2
question "A program tells the host of a subnet behind br0, and of one behind a router in it: route('add', dst='10.5.0.0/24',
          oif=…), route('add', dst='10.50.0.0/16', gateway='10.5.0.1'). Others get a source, a metric, and weights, by the
          words that ip route has for them. What comes of them?"
expected "What ip route add makes of the same words; or an error about a word."
"$PYTHON" route.py "$ROOT/bin/ip" >said
line() { sed -n "s/^$1: *//p" said; }
seen "ip route add 10.4.0.0/24 dev br0" "$(line 'ip direct')" "done"
seen "ip route add 10.40.0.0/16 via 10.4.0.1" "$(line 'ip via')" "done"
seen "a subnet on br0 (without scope link)" "$(line direct)" "10.5.0.0/24 dev br0 proto static"
seen "one behind a router in it" "$(line via)" "Network is unreachable"
seen "ip route add 10.51.0.0/16 via 10.5.0.1" "$(line 'ip via direct')" "Error: Nexthop has invalid gateway."
seen "src" "$(line src)" "10.6.0.0/16 via 10.0.0.2 dev br0 proto static"
seen "prefsrc" "$(line prefsrc)" "10.7.0.0/16 via 10.0.0.2 dev br0 proto static src 10.0.0.9"
seen "src of IPv6" "$(line src6)" "fd06::/64 from fd00::9 via fd00::2 dev br0 proto static metric 1024 pref medium"
seen "metric" "$(line metric)" "10.8.0.0/16 via 10.0.0.2 dev br0 proto static"
ways() { printf '%s proto static nexthop via 10.0.0.2 dev br0 weight %s nexthop via 10.0.0.3 dev br0 weight %s' "$@"; }
seen "weights 5 and 1" "$(line ways)" "$(ways 10.9.0.0/16 1 1)"
seen "hops 5 and 1" "$(line hops)" "$(ways 10.10.0.0/16 6 2)"
finish
