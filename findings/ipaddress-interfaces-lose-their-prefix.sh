#!/bin/bash
# Python's ipaddress: the address after 10.0.0.5/24 is a /32, its reverse name has the prefix in it, an IPv6 netmask is not read.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb libpython3.11-minimal=3.11.2-6+deb12u9
    enter
fi
cp "$ROOT/usr/lib/python3.11/ipaddress.py" .
ask() { python3 -c "
from ipaddress import *
try:
    print($1)
except ValueError as problem:
    print(problem)"; }

version "libpython3.11-minimal $(zcat "$ROOT/usr/share/doc/libpython3.11-minimal/changelog.Debian.gz" |
    sed -n '1s/.*(\(.*\)).*/\1/p')" \
    "libpython3.11-minimal 3.11.2-6+deb12u9"
question "A program keeps guests' addresses with their prefix, as ip_interface('10.0.0.5/24') and ip_interface('fd00::5/64').
          What are the next address, the name for the reverse zone, and the netmask's form?"
expected "10.0.0.6/24; 5.0.0.10.in-addr.arpa, as of ip_address; a form that ip_interface reads, as for IPv4."

seen "'10.0.0.5/24' + 1" "$(ask "ip_interface('10.0.0.5/24') + 1")" "10.0.0.6/32"
seen "its network then" "$(ask "(ip_interface('10.0.0.5/24') + 1).network")" "10.0.0.6/32"
seen "reverse_pointer of '10.0.0.5'" "$(ask "ip_address('10.0.0.5').reverse_pointer")" "5.0.0.10.in-addr.arpa"
seen "reverse_pointer of '10.0.0.5/24'" "$(ask "ip_interface('10.0.0.5/24').reverse_pointer")" "5/24.0.0.10.in-addr.arpa"
seen "reverse_pointer of the network" "$(ask "ip_network('10.0.0.0/24').reverse_pointer")" "0/24.0.0.10.in-addr.arpa"
seen "with_netmask, IPv4, read again" "$(ask "ip_interface(ip_interface('10.0.0.5/24').with_netmask)")" "10.0.0.5/24"
seen "with_netmask, IPv6" "$(ask "ip_interface('fd00::5/64').with_netmask")" "fd00::5/ffff:ffff:ffff:ffff::"
seen "read again" "$(ask "ip_interface(ip_interface('fd00::5/64').with_netmask)")" \
    "'fd00::5/ffff:ffff:ffff:ffff::' does not appear to be an IPv4 or IPv6 interface"
finish
