"""Packets of one guest, by iperf3, between namespaces.

A veth stands in the place of the guest's TAP, under its name, since rules match names: so the cost
of a TAP is in none of the figures. The guest is a namespace, what is outside another one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from typing import Any

from . import namespaces
from .namespaces import run

PORT = 15201
HOST, OUTSIDE = "198.18.0.1", "198.18.0.2"
# name -> from the guest or to it, words of iperf3, unit
FLOWS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "TCP, guest to world": ("out", (), "Gbit/s"),
    "TCP, world to published port": ("in", (), "Gbit/s"),
    "UDP 64 bytes, guest to world": ("out", ("-u", "-l", "64", "-b", "0"), "packets/s"),
    "UDP 64 bytes, world to published port": ("in", ("-u", "-l", "64", "-b", "0"), "packets/s"),
}


def gateway_of(bridge: str) -> str:
    """The IPv4 address of a bridge, with its prefix: ``10.100.0.1/22``."""
    found = re.search(r"inet (\S+)", run("ip", "-4", "addr", "show", "dev", bridge))
    if found is None:
        raise RuntimeError(f"{bridge} has no IPv4 address")
    return found[1]


class Scene:
    """A guest behind a bridge and what is outside."""

    def __init__(
        self, *, outside: int, device: str, mac: str, bridge: str, address: str, gateway: str,
        published: bool,
    ) -> None:  # fmt: skip
        """Replace the device by a veth. ``gateway``: with its prefix; ``address``: without."""
        self.outside = outside
        home = namespaces.current()
        self.guest = namespaces.fresh()
        namespaces.enter(home)
        os.close(home)
        if published:
            _delete(device)
        run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "address", mac)
        run("ip", "link", "set", "eth0", "netns", f"/proc/{os.getpid()}/fd/{self.guest}")
        run("ip", "link", "set", device, "master", bridge, "up")
        with namespaces.within(self.guest):
            run("ip", "addr", "add", f"{address}/{gateway.partition('/')[2]}", "dev", "eth0")
            run("ip", "link", "set", "eth0", "up")
            run("ip", "route", "add", "default", "via", gateway.partition("/")[0])

    def flow(self, name: str, seconds: int) -> dict[str, Any]:
        """What one flow reached, as its receiver counted. Raises RuntimeError.

        Whole ``seconds``, at least one: iperf3 takes less for no end.
        """
        way, words, unit = FLOWS[name]
        server, client = (self.outside, self.guest) if way == "out" else (self.guest, self.outside)
        target = OUTSIDE if way == "out" else HOST
        with namespaces.within(server):
            listening = subprocess.Popen(
                ["iperf3", "-s", "-1", "-p", str(PORT)], stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            with namespaces.within(client):
                found = _client(target, seconds, words)
        finally:
            listening.terminate()
            listening.wait()
        return {"value": _received(found, udp=bool(words), seconds=seconds), "unit": unit}


def _delete(device: str) -> None:
    """Remove a TAP, which may be there for a moment longer."""
    run("ip", "link", "del", device)
    for _ in range(100):
        if not os.path.exists(f"/proc/sys/net/ipv4/conf/{device}"):
            return
        time.sleep(0.02)


def _client(target: str, seconds: int, words: tuple[str, ...]) -> dict[str, Any]:
    argv = ["iperf3", "-c", target, "-p", str(PORT), "-t", str(seconds), "-J", *words]
    told = ""
    for _ in range(20):  # until the server listens
        time.sleep(0.1)
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=seconds + 30
        )
        found: dict[str, Any] = json.loads(done.stdout or "{}")
        told = str(found.get("error", done.stderr))
        if done.returncode == 0 and not found.get("error"):
            return found
        if "refused" not in told:
            break
    raise RuntimeError(f"iperf3 to {target}: {told}")


def _received(found: dict[str, Any], *, udp: bool, seconds: int) -> float:
    """Gbit/s, or packets a second that arrived."""
    end = found["end"]
    if not udp:
        return float(end["sum_received"]["bits_per_second"]) / 1e9
    total = end["sum"]
    return float(total["packets"] - total["lost_packets"]) / float(total.get("seconds", seconds))


class Plain:
    """The same scene without hvtx: a bridge, one DNAT, one masquerade, one rule for known flows."""

    def __init__(self, given: dict[str, Any]) -> None:
        """Make it in this namespace, which is new."""
        del given
        namespaces.own_mounts()
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "plain0", "type", "bridge")
        run("ip", "addr", "add", "10.100.0.1/22", "dev", "plain0")
        run("ip", "link", "set", "plain0", "up")
        outside = namespaces.uplink()
        for path in ("ipv4/ip_forward", "ipv4/conf/all/forwarding"):
            with open(f"/proc/sys/net/{path}", "w") as file:
                file.write("1")
        rules = (
            "table ip plain {\n"
            "chain prerouting { type nat hook prerouting priority dstnat;"
            f" meta l4proto {{ tcp, udp }} th dport {PORT} ip daddr {HOST} dnat to 10.100.0.2; }}\n"
            "chain postrouting { type nat hook postrouting priority srcnat;"
            " ip saddr 10.100.0.2 oifname uplink masquerade; }\n"
            "chain forward { type filter hook forward priority filter;"
            " ct state established,related accept; }\n}\n"
        )
        run("nft", "-f", "-", text=rules)
        self.scene = Scene(
            outside=outside, device="plaintap", mac="02:00:00:00:00:02", bridge="plain0",
            address="10.100.0.2", gateway="10.100.0.1/22", published=False,
        )  # fmt: skip

    def flow(self, name: str, seconds: int) -> dict[str, Any]:
        """One flow of iperf3."""
        return self.scene.flow(name, seconds)

    def close(self) -> None:
        """It goes with the namespace."""
