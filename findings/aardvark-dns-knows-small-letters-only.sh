#!/bin/bash
# aardvark-dns answers NXDOMAIN to a name with capital letters, also where the container is called so.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb aardvark-dns=1.4.0-3 iproute2=6.1.0-3
    libraries /usr/lib/podman/aardvark-dns
    pip dnspython==2.7.0
    enter
fi
"$ROOT/bin/ip" link set lo up
cat >ask.py <<'P'
import sys
import dns.message, dns.query, dns.rcode

answer = dns.query.udp(dns.message.make_query(sys.argv[1], "A"), "127.0.0.2", timeout=3)
print(dns.rcode.to_text(answer.rcode()), *(record.to_text() for found in answer.answer for record in found))
P
ask() { "$PYTHON" ask.py "$1"; }
# what netavark writes for a network with two containers: id, addresses, names
mkdir names
printf '%s\n' 127.0.0.2 "$(printf 'b%.0s' {1..64}) 10.89.0.5  web,Api" >names/net
"$ROOT/usr/lib/podman/aardvark-dns" --config names --port 53 run >/dev/null 2>&1 &
wait_for ask web

version "$("$ROOT/usr/lib/podman/aardvark-dns" --version 2>/dev/null)" "aardvark-dns 1.4.0"
question "A container of podman's is called web and Api. Which of the names does the DNS of its network know, and does it matter
          how one writes them?"
expected "Both, however they are written: in names of DNS capital letters are as small ones (RFC 4343)."

seen "web" "$(ask web)" "NOERROR 10.89.0.5"
seen "Web" "$(ask Web)" "NXDOMAIN"
seen "WEB.dns.podman" "$(ask WEB.dns.podman)" "NXDOMAIN"
seen "Api, as the container is called" "$(ask Api)" "NXDOMAIN"
seen "api" "$(ask api)" "NOERROR 10.89.0.5"
finish
