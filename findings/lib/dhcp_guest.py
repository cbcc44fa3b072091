"""dhcp_guest.py MAC [ADDRESS]: DHCP of one guest by the card `guest`, in scapy.

Without an address it sends DISCOVER, and REQUEST of what is offered; it prints the address that it
is given, then in a line of their own the lease time and the host name. With an address it has
rebooted and asks for the one that it had: ACK or NAK. "no answer" where there is none.
"""

import sys

from scapy.all import BOOTP, DHCP, IP, UDP, Ether, conf, srp1

conf.verb, conf.checkIPaddr = 0, False
mac = sys.argv[1]
chaddr = bytes.fromhex(mac.replace(":", ""))
WANTED = ("param_req_list", [1, 3, 12])  # netmask, router, host name


def ask(*options):
    frame = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
    frame /= UDP(sport=68, dport=67) / BOOTP(chaddr=chaddr, xid=77, flags=0x8000)
    asked = frame / DHCP(options=[*options, WANTED, "end"])
    answer = srp1(asked, iface="guest", timeout=4)
    if answer is None:
        raise SystemExit(print("no answer"))
    return answer[BOOTP].yiaddr, dict(o[:2] for o in answer[DHCP].options if isinstance(o, tuple))


if sys.argv[2:]:
    address, said = ask(("message-type", "request"), ("requested_addr", sys.argv[2]))
    raise SystemExit(print({5: "ACK", 6: "NAK"}[said["message-type"]]))
address, said = ask(("message-type", "discover"))
chosen = (("requested_addr", address), ("server_id", said["server_id"]))
address, said = ask(("message-type", "request"), *chosen)
print(address)
print(said.get("lease_time"), "s", said.get("hostname", b"without a name").decode())
