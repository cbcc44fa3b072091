"""hvtx at work on such a host: a network and two guests, and the flows that they are promised.

What doctor says of them is held against what the kernel does with them, in every cell of the table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from integration import lab
from integration.lab.neighbourhood import flows
from integration.lab.neighbourhood.flows import Ask, inside
from integration.lab.neighbourhood.host import FAR4, FAR6, HOST4, HOST6, WORLD4, Host
from integration.lab.waiting import until

NETWORK = ("network", "create", "lan", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
GATEWAY4, GATEWAY6 = "10.77.0.1", "fd77::1"
PORT, SERVICE, FAR = 8080, 53, 9000  # published, the host's own (names), the world's
GUESTS = {"web": ("-p", f"{PORT}:80"), "two": ()}
PROGRAM = ("--hypervisor", "command", "--", "/opt/hvtx/bin/python", "/opt/guest.py")
READY_SECONDS = 20
# Commands that a hint may hold, as `hvtx doctor` itself tells them from words.
COMMAND = re.compile(
    r"(chmod|conntrack|docker|ebtables(?:-nft)?|firewall-cmd|hvtx|ip|ip6?tables(?:-legacy|-nft)?"
    r"|mkdir|modprobe|mount|networkctl|nft|nmcli|printf|rm|sysctl|systemctl|tc|ufw) "
)


class Said(NamedTuple):
    """What doctor says: its exit code and its findings."""

    code: int
    findings: tuple[dict[str, Any], ...]

    @property
    def errors(self) -> list[dict[str, Any]]:
        """What keeps VMs from working."""
        return [finding for finding in self.findings if finding["level"] == "error"]

    def words(self) -> str:
        """The errors, and what it does not know, for a person."""
        told = [f for f in self.findings if f["level"] == "error" or "unknown" in f["message"]]
        return "\n".join(
            f"  {f['check']}: {f['message']} {list(f['evidence'])} fix: {f['hint']}" for f in told
        )


def commands(hint: str | None) -> list[str]:
    """The commands of a hint; the first one only where it says "or"."""
    found = []
    for part in re.split(r"; (?!or\b)|\n", hint or ""):
        first = re.split(r",? or:? ", part)[0].strip()
        if COMMAND.match(f"{first} "):
            found.append(first)
    return found


class Scene:
    """hvtx on a host."""

    def __init__(self, host: Host, *, firewall: str = "auto") -> None:
        self.host = host
        if firewall != "auto":
            host.write("/etc/hvtx/config.toml", f'firewall = "{firewall}"\n')
        self.guests: dict[str, dict[str, Any]] = {}
        self.bridge = ""
        self.resolver = False  # a program of the host answers for names
        self.served = False  # the network's own service answers for names at the gateway
        self._kept: dict[str, lab.Namespace] = {}
        self.others: dict[str, str] = {}  # places of a neighbour's parties: name, path

    def begin(self) -> None:
        """Make the network and run the guests."""
        self.host.hvtx(*NETWORK)
        network = self.host.json("network", "show", "lan")
        self.bridge, self.served = network["bridge"], network["dhcp"]
        for name in GUESTS:
            self.guest(name)
        self.settle()

    def guest(self, name: str) -> None:
        """Make and start one of the guests."""
        self.host.hvtx("vm", "run", name, "--network", "lan", *GUESTS[name], *PROGRAM)

    def kept(self, name: str, make: Callable[[], lab.Namespace]) -> lab.Namespace:
        """A namespace that lives as long as the scene."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def close(self) -> None:
        """Let go of what was kept."""
        for kept in self._kept.values():
            kept.close()
        self._kept.clear()

    def end(self) -> None:
        """Remove the guests and the network."""
        for name in GUESTS:
            self.host.hvtx("vm", "rm", name, "--force")
        self.host.hvtx("network", "rm", "lan")

    def settle(self) -> None:
        """Look the guests up, and wait until their stacks have their addresses."""
        for name in GUESTS:
            self.guests[name] = self.host.json("vm", "show", name)
            until(f"the guest {name}", lambda name=name: self._is_ready(name), READY_SECONDS)

    def _is_ready(self, name: str) -> bool:
        guest = self.guests[name]
        try:
            with inside(self.host.network_of(guest["pid"])):
                listed = json.loads(lab.run("ip", "-j", "addr", "show", "dev", "eth0", check=False))
        except (OSError, ValueError):
            return False
        found = {a["local"]: a for link in listed for a in link.get("addr_info", ())}
        wanted = [guest["interfaces"][0][family] for family in ("ipv4", "ipv6")]
        return all(w in found and not found[w].get("tentative") for w in wanted)

    def address(self, name: str, family: str = "ipv4") -> str:
        """A guest's leased address."""
        leased: str = self.guests[name]["interfaces"][0][family]
        return leased

    def places(self) -> dict[str, str]:
        """The parties' network namespaces."""
        found = {name: self.host.network_of(guest["pid"]) for name, guest in self.guests.items()}
        world = f"/proc/{self.host.world.pid}/ns/net"
        return {"host": self.host.network_of(), "world": world, **found, **self.others}

    def promised(self) -> list[Ask]:
        """The fifteen flows, and two more where the network has DHCP."""
        web4, web6 = self.address("web"), self.address("web", "ipv6")
        own = 0 if self.resolver or self.served else SERVICE
        asks = [
            Ask("guest to world, tcp", "two", "tcp", FAR4, FAR, "world", FAR),
            Ask("guest to world, udp", "two", "udp", WORLD4, FAR, "world", FAR),
            Ask("guest to world, IPv6", "two", "tcp", FAR6, FAR, "world", FAR),
            Ask("world to published port", "world", "tcp", HOST4, PORT, "web", 80),
            Ask("world to published port, IPv6", "world", "tcp", HOST6, PORT, "web", 80),
            Ask("guest to guest", "two", "tcp", web4, 80, "web", 80),
            Ask("guest to guest, IPv6", "two", "tcp", web6, 80, "web", 80),
            Ask("guest to gateway, tcp", "two", "tcp", GATEWAY4, SERVICE, "host", own, here=True),
            Ask("guest to gateway, udp", "two", "udp", GATEWAY4, SERVICE, "host", own, here=True),
            Ask("guest to gateway, IPv6", "two", "tcp", GATEWAY6, SERVICE, "host", own, here=True),
            Ask("host to guest", "host", "tcp", web4, 80, "web", 80),
            Ask("host to guest, IPv6", "host", "tcp", web6, 80, "web", 80),
            Ask("127.0.0.1 to published port", "host", "tcp", "127.0.0.1", PORT, "web", 80),
            Ask("guest to the other's published port", "two", "tcp", HOST4, PORT, "web", 80),
            Ask("guest to its own published port", "web", "tcp", HOST4, PORT, "web", 80),
        ]  # fmt: skip
        if self.served:
            asks += [
                Ask("guest to DHCP server", "two", "dhcp", "255.255.255.255", 67, "host", 0),
                Ask("guest to DHCP server, IPv6", "two", "dhcp", "ff02::1:2", 547, "host", 0),
            ]
        return asks

    def wrong(self, asks: Sequence[Ask]) -> dict[str, str]:
        """Of some flows those that end otherwise than expected, and how; one more look at them."""
        left = list(asks)
        heard: Mapping[str, str] = {}
        for patience in (flows.PATIENCE, flows.ONCE_MORE):
            heard = flows.asked(self.places(), left, patience)
            left = [ask for ask in left if (heard[ask.name] == "") is not ask.expected]
            if not left:
                return {}
        return {ask.name: heard[ask.name] or "open, and must be shut" for ask in left}

    def doctor(self) -> Said:
        """What doctor says of this host."""
        done = self.host.ran("hvtx", "doctor", "--json")
        if done.returncode not in (0, 1) or not done.stdout:
            raise AssertionError(f"doctor: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return Said(done.returncode, tuple(json.loads(done.stdout)["findings"]))

    def plan(self) -> list[dict[str, Any]]:
        """What gc would do now: nothing, on a host where all is as it should be."""
        items = self.host.json("gc", "--plan")["items"]
        return [item for item in items if item["action"] != "skip"]
