#!/bin/bash
# pyroute2's conntrack socket lists one family, counts and flushes both.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/pyroute2.sh"
if outside; then
    prepare
    deb conntrack=1:1.4.7-1+b2 nftables=1.0.6-2+deb12u2 iproute2=6.1.0-3
    libraries /usr/sbin/conntrack
    libraries /usr/sbin/nft
    pip_pyroute2
    enter
fi
cat >flows.py <<'P'
"""A flow over IPv4 and one over IPv6; then what pyroute2 and conntrack(8) say of them."""
import socket
import subprocess
import sys

from pyroute2 import NFCTSocket

held = []
for address in ("127.0.0.1", "::1"):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, 8080), family=family)
    held += [server, socket.create_connection((address, 8080)), server.accept()]

def listed():
    ran = subprocess.run([sys.argv[1], "-L"], capture_output=True, text=True, check=True)
    return len(ran.stdout.splitlines())

for flows in (NFCTSocket(), NFCTSocket(nfgen_family=socket.AF_INET6)):
    dumped = [int(flow["nfgen_family"]) for flow in flows.dump()]
    counted = flows.count()[0].get_attr("CTA_STATS_GLOBAL_ENTRIES")
    print("dump", dumped, "count", counted, "conntrack -L", listed())
flows.flush()
print("conntrack -L", listed())
flows.close()
P
"$ROOT/bin/ip" link set lo up
"$ROOT/usr/sbin/nft" -f - <<'N'
table inet t {
    chain c {
        type filter hook input priority 0
        ct state established accept
    }
}
N
version_of_pyroute2
question "One flow over IPv4 and one over IPv6 are tracked. What do NFCTSocket().dump(), .count() and
          .flush() see of them, and those of NFCTSocket(nfgen_family=AF_INET6)?"
expected "The first all of them, as conntrack -L does, the second those over IPv6, in each method."
"$PYTHON" flows.py "$ROOT/usr/sbin/conntrack" >said
seen "without a family (2 is AF_INET)" "$(sed -n 1p said)" "dump [2] count 2 conntrack -L 2"
seen "AF_INET6 (10)" "$(sed -n 2p said)" "dump [10] count 2 conntrack -L 2"
seen "after flush() of the socket for AF_INET6" "$(sed -n 3p said)" "conntrack -L 0"
finish
