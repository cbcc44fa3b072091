"""Records what a real kernel and real tools say, for the fuzzers to begin with.

``sudo unshare --net python -m tests.fuzz.record`` writes ``samples.json`` beside this file: netlink
answers (bodies of messages), tables of legacy iptables, texts of tools and of /proc, in base64.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import sys
from pathlib import Path

from hvtx.host import libnftables, xtblob, xtsaved
from hvtx.host.links import GETADDR, GETLINK
from hvtx.host.netlink import Channel, attribute
from hvtx.host.nfnetlink import Nftables
from hvtx.host.nfnumbers import GETCHAIN, GETOBJ, GETRULE, GETSET, GETTABLE
from integration import lab

FILE = Path(__file__).with_name("samples.json")
MARK = "hvtx:1:abcdefghij:7.abcdefghijklmnop"
RULES = f"""
table ip strange {{
 map ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
 set hosts {{
  type ipv4_addr
  elements = {{ 10.0.0.1 comment "{MARK}", 10.0.0.2 }}
 }}
 chain nat {{
  type nat hook postrouting priority 100; policy accept;
  ip saddr 10.0.0.0/24 oifname "eth0" counter masquerade comment "{MARK}"
 }}
 chain inside {{
  type nat hook prerouting priority -100; policy accept;
  dnat to meta l4proto . th dport map @ports
 }}
 chain forward {{
  type filter hook forward priority 0; policy drop;
  iifname "br0" counter accept
 }}
}}
table inet strange {{
 counter met {{ }}
 chain forward {{
  type filter hook forward priority 0
  tcp option maxseg size set 1400 counter name met
 }}
}}
table netdev strange {{
 chain ingress {{
  type filter hook ingress device "v0" priority 0
  ip saddr 10.0.0.77 drop
 }}
}}
table bridge strange {{
 chain other {{
  comment "a chain"
  ether type arp drop
 }}
 map both {{
  typeof iifname : verdict
  elements = {{ "tap0" comment "{MARK}" : goto other }}
 }}
}}
"""
LEGACY = (
    (*("-t", "nat", "-N", "MINE"),),
    (*("-t", "nat", "-A", "MINE", "-s", "10.0.0.5/32", "-j", "MASQUERADE"),),
    (*("-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-m", "tcp", "--dport", "80"),
     *("-m", "comment", "--comment", MARK, "-j", "DNAT", "--to-destination", "10.0.0.5:80")),
    (*("-t", "nat", "-A", "POSTROUTING", "-m", "comment", "--comment", 'a "quoted" one'),
     *("-j", "MINE")),
    (*("-A", "FORWARD", "-i", "br0", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"),),
    (*("-P", "FORWARD", "DROP"),),
)  # fmt: skip
BY_NFT = (
    (*("-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-m", "addrtype", "--dst-type", "LOCAL"),
     *("-m", "comment", "--comment", MARK, "-j", "DNAT", "--to-destination", "10.0.0.5:80")),
    (*("-t", "mangle", "-A", "FORWARD", "-m", "comment", "--comment", 'a "quoted" one'),
     *("-j", "TCPMSS", "--clamp-mss-to-pmtu", "-p", "tcp", "--tcp-flags", "SYN,RST", "SYN")),
)  # fmt: skip
PROC = ("self/stat", "self/net/tcp", "self/net/udp", "self/net/tcp6", "self/status")


def scene() -> None:
    """Devices, addresses, rules and flows of many kinds."""
    for line in (
        "link add br0 type bridge", "link add v0 type veth peer name v1", "tuntap add tap0 mode tap vnet_hdr",
        "link set v0 master br0", "link set tap0 master br0 alias " + MARK, "link set br0 up",
        "link set v0 up", "link set v1 up", "link set lo up", "addr add 10.0.0.1/24 dev br0",
        "addr add fd00::1/64 dev br0 nodad", "addr add 10.1.0.1 peer 10.1.0.2 dev v1",
        "neigh add 10.0.0.5 lladdr 02:00:00:00:00:01 dev br0", "route add 10.9.0.0/16 via 10.0.0.9",
        "route add blackhole 10.8.0.0/16", "tuntap add tap1 mode tap multi_queue", "link property add dev v0 altname other",
        "route add default nexthop via 10.0.0.9 dev br0 weight 2 nexthop dev v1",
        "-6 route add default nexthop via fd00::9 dev br0 nexthop via fd00::8 dev br0",
        "route add 10.7.0.0/16 via inet6 fe80::1 dev br0", "rule add pref 100 from 10.0.0.0/24 lookup 7",
    ):  # fmt: skip
        lab.run("ip", *line.split())
    lab.run("tc", "qdisc", "add", "dev", "tap0", "clsact")
    libnftables.run(RULES)
    for words in LEGACY:
        lab.run("iptables-legacy", *words)
    for words in BY_NFT:
        lab.run("iptables-nft", *words)
    lab.run("ip6tables-legacy", "-A", "FORWARD", "-s", "fd00::5/128", "-j", "DROP")
    with (
        socket.create_server(("127.0.0.1", 7)) as server,
        socket.create_connection(("127.0.0.1", 7)),
    ):
        server.accept()[0].close()


def netlink() -> dict[str, list[bytes]]:
    """The bodies of the answers to each dump."""
    route = Channel(0)
    found = {
        "links": route.dump(GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(29, struct.pack("=I", 8))),
        "addresses": route.dump(GETADDR, bytes(8)),
        "qdiscs": route.dump(38, bytes(20)),
        "neighbours": route.dump(30, bytes(12)),
        "route": [route.get(26, struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 0, 0, 0, 0, 0)
                            + attribute(1, socket.inet_aton("10.9.0.1")))],
        "routes": [*route.dump(26, struct.pack("=BBBBBBBBI", 2, *bytes(8))), *route.dump(26, struct.pack("=BBBBBBBBI", 10, *bytes(8)))],
        "flows": Channel(12).dump(0x101, struct.pack("=BBH", 2, 0, 0)),
    }  # fmt: skip
    tables = Nftables()
    for name, number in (
        ("table", GETTABLE),
        ("chain", GETCHAIN),
        ("rule", GETRULE),
        ("set", GETSET),
        ("object", GETOBJ),
    ):
        found[name] = tables._all(number, "")
    found["elements"] = [
        body
        for family, table, name in (("ip", "strange", "hosts"), ("bridge", "strange", "both"))
        for body in tables.dump_elements(family, table, name)
    ]
    return found


def tables() -> dict[str, list[bytes]]:
    """Legacy tables as the kernel holds them: entries, starts and bytes as JSON and data."""
    found = {}
    for family, name in ((4, "nat"), (4, "filter"), (6, "filter")):
        blob = xtblob.read(family, name)
        assert blob is not None
        head = json.dumps([blob.entries, blob.starts]).encode()
        found[f"legacy{family} {name}"] = [head, blob.data]
    return found


def texts() -> dict[str, list[bytes]]:
    """What tools print, and files of /proc."""
    found = {
        "save4": [xtsaved.save_text(4).encode()],
        "save6": [xtsaved.save_text(6).encode()],
        "listing": [libnftables.run("list ruleset", handles=True, stateless=True).encode()],
        "ruleset": [libnftables.run("list ruleset", json=True).encode()],
    }
    for name in PROC:
        found[f"/proc/{name}"] = [Path("/proc", name).read_bytes()[:4000]]
    return found


def main() -> None:
    """Make the scene and write the file."""
    os.environ.setdefault("XTABLES_LOCKFILE", "/dev/null")
    scene()
    found = {**netlink(), **tables(), **texts()}
    coded = {name: [base64.b64encode(p).decode() for p in pieces] for name, pieces in found.items()}
    FILE.write_text(json.dumps(coded, indent=1) + "\n")
    sys.stdout.write(f"{FILE}: {len(coded)} samples, {FILE.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
