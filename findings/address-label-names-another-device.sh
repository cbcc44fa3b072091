#!/bin/bash
# An IPv4 address's label is taken for the device's name by getifaddrs(3) and what is built on it.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/pyroute2.sh"
outside && enter_with_pyroute2 psutil==6.1.0
ip() { "$ROOT/bin/ip" "$@"; }
cat >addresses.py <<'P'
import fcntl
import socket

import psutil
from pyroute2 import IPRoute

def by_ioctl(name):
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            raw = fcntl.ioctl(any_socket, 0x8915, name.encode().ljust(40, b"\0"))  # SIOCGIFADDR
    except OSError as error:
        return error.strerror
    return socket.inet_ntoa(raw[20:24])

everything = psutil.net_if_addrs()
for name in ("tap1", "tap10"):
    found = [a.address for a in everything[name] if a.family == socket.AF_INET]
    with IPRoute() as route:
        (index,) = route.link_lookup(ifname=name)
        there = [a.get_attr("IFA_ADDRESS") for a in route.get_addr(index=index, family=2)]
    print(f"{name} psutil {found} SIOCGIFADDR {by_ioctl(name)}, by index {there}")
P
version "psutil $("$PYTHON" -c 'import psutil; print(psutil.__version__)'), $(ip -V)" \
    "psutil 6.1.0, ip utility, iproute2-6.1.0, libbpf 1.1.2"
question "There are TAPs tap1 and tap10; 10.1.0.1/24 is added to tap1 with the label tap10 (ip wants a
          label to begin with the device's name, and it does). Which device has the address?"
expected "tap1, whoever is asked: a label is a comment, the address belongs to an interface index."

ip tuntap add tap1 mode tap
ip tuntap add tap10 mode tap
ip addr add 10.1.0.1/24 dev tap1 label tap10
"$PYTHON" addresses.py >said
seen "tap1" "$(sed -n 's/^tap1 //p' said)" \
    "psutil [] SIOCGIFADDR Cannot assign requested address, by index ['10.1.0.1']"
seen "tap10" "$(sed -n 's/^tap10 //p' said)" \
    "psutil ['10.1.0.1'] SIOCGIFADDR Cannot assign requested address, by index []"
finish
