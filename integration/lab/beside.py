"""Who lives beside the command that is killed: others, and a VM that is up all along.

The others own a TAP device with a bridge, an nft table and legacy rules; nothing of theirs may
change by one byte. The VM `beside` is hvtx's own, in a network of its own: its process, its device
and its rules may not change either, and a frame must come through.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from integration import lab
from integration.lab.program import Program

GUEST = Path(__file__).with_name("guest.py")
_TABLE = """table inet strangers {
    comment "not hvtx's"
    set friends { type ipv4_addr; elements = { 192.0.2.7, 192.0.2.9 } }
    chain forward {
        type filter hook forward priority 7; policy accept;
        ip saddr @friends accept comment "hvtx is not my name"
        iifname "foo0" oifname "foobr0" accept
    }
}
"""
_RULES = (
    ("iptables-legacy", "-A", "FORWARD", "-i", "foo0", "-j", "ACCEPT"),
    ("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-s", "192.0.2.0/24", "-j", "ACCEPT"),
    ("ip6tables-legacy", "-A", "FORWARD", "-i", "foo0", "-j", "ACCEPT"),
)


def settle_strangers() -> None:
    """Make their things."""
    lab.run("ip", "link", "add", "foobr0", "address", "02:00:00:00:0f:00", "type", "bridge")
    lab.run("ip", "tuntap", "add", "dev", "foo0", "mode", "tap")
    lab.run("ip", "link", "set", "foo0", "address", "02:00:00:00:0f:01", "master", "foobr0")
    lab.run("nft", "-f", "-", stdin=_TABLE)
    for rule in _RULES:
        lab.run(*rule)


def leave() -> None:
    """Take their things away."""
    for rule in _RULES:
        lab.run(*("-D" if word == "-A" else word for word in rule))
    lab.run("nft", "delete", "table", "inet", "strangers")
    lab.run("ip", "link", "del", "foo0")
    lab.run("ip", "link", "del", "foobr0")


def foreign_objects(dump: dict[str, Any]) -> list[str]:
    """All that is theirs in a dump of the host, to the byte."""
    found = [json.dumps(link) for link in dump["links"] if link["ifname"].startswith("foo")]
    found += [json.dumps(item) for item in dump["nft"] if '"strangers"' in json.dumps(item)]
    for table, lines in dump["legacy"].items():
        found += [f"{table} {line}" for line in lines if " foo0 " in line or "192.0.2." in line]
    assert len(found) == 2 + 5 + len(_RULES), found
    return found


class Beside:
    """The VM that is up all along, as it was when it was started."""

    def __init__(self, hvtx: Program) -> None:
        """Start it."""
        self.hvtx = hvtx
        hvtx("network", "create", "beside", "--subnet", "10.99.0.0/24")
        hvtx("vm", "run", "beside", "--network", "beside", "-p", "9099:99", "--", sys.executable,
             str(GUEST))  # fmt: skip
        shown = hvtx.vm("beside")
        self.pid: int = shown["pid"]
        self.device: str = shown["interfaces"][0]["device"]
        self.address: str = shown["interfaces"][0]["ipv4"]
        self.marks = [row["mark"] for row in shown["resources"]]
        assert exchange(self.address), "the guest beside does not answer"

    def things(self, dump: dict[str, Any]) -> list[str]:
        """All that is its own in a dump of the host."""
        found = [json.dumps(link) for link in dump["links"] if link["ifname"] == self.device]
        for item in dump["nft"]:
            elements = item.get("set", item.get("map", {})).get("elem", [])
            found += [text for text in map(json.dumps, elements) if self._is_mine(text)]
            if "rule" in item and self._is_mine(json.dumps(item)):
                found.append(json.dumps(item))
        for lines in dump["legacy"].values():
            found += [line for line in lines if self._is_mine(line)]
        assert len(found) > 3, found
        return sorted(found)

    def _is_mine(self, text: str) -> bool:
        return any(mark in text for mark in self.marks)

    def is_well(self) -> bool:
        """Its process is the same, and frames go through its device both ways."""
        comm = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        return str(GUEST).encode() in comm and exchange(self.address)


def exchange(address: str, tries: int = 20) -> bool:
    """Whether an echo request comes back (ICMP, RFC 792)."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as channel:
        channel.settimeout(0.5)
        for number in range(tries):
            head = struct.pack(">BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, number)
            total = sum(struct.unpack(">4H", head))
            total = (total & 0xFFFF) + (total >> 16)
            try:
                channel.sendto(
                    head[:2] + struct.pack(">H", ~total & 0xFFFF) + head[4:], (address, 0)
                )
                while True:
                    answer = channel.recv(256)
                    # to this question, or late to one before it
                    if answer[20] == 0 and answer[24:26] == head[4:6]:
                        return True
            except OSError:
                continue
    return False
