"""Commands that a hint, an error or a page prints: each is run by a test, or is said why not.

A command of another program that changes something stands in ``RUN`` with the test that runs it on
the host that it is printed for, or in ``NOT_RUN`` with the reason. A new one fails here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_CHANGES = re.compile(
    r"(?:^|(?<=[`'\"(; ]))("
    r"sysctl -w|modprobe|chmod|chown|apt(?:-get)? install|kill -[A-Z]+"
    r"|ip (?:-6 )?(?:addr|link|neigh|route|rule|tuntap) (?:add|del|set)|ip \{\}(?:rule|route) add"
    r"|bridge fdb (?:add|del|replace)"
    r"|nft '?(?:add|insert|delete) |ip6?tables(?:-legacy|-nft)? -[AID]|ebtables\S* -[AID]"
    r"|systemctl (?:disable|enable|unmask|reload|restart|daemon-reload|start|stop)|networkctl reload"
    r"|nmcli (?:con|dev|general) |firewall-cmd|ufw (?:route )?allow"
    r")[^;`\"')]*"
)
_DOCTORS = "integration/commands/test_printed_commands.py::test_what_doctor_says_lets_guests_pass"
_ASTRAY = (
    "integration/network/test_others_rules.py::test_what_sends_flows_astray_is_named_and_fixed"
)
_SETTING = (
    "integration/commands/test_printed_commands.py::test_a_setting_by_the_command_that_is_printed"
)
_NETWORKD = (
    "integration/network/test_networkd.py::test_the_hint_is_complete_and_goes_once_it_was_followed"
)
_HINTS = "integration/ui/test_hints.py::test_doctor_start_and_gc_tell_of_what_stands_for_good"
_BRIDGE = "integration/ui/test_hints.py::test_a_network_goes_when_its_hint_is_followed"
_OWN = (
    "integration/network/test_own_rules.py::test_what_others_do_in_the_table_of_the_bridge_family"
)
_UPLINK = "integration/network/test_uplinks.py::test_an_uplink_without_a_route_is_told"
_PACKAGE = "installs a package of the distribution"
_MODULE = "loads a module into the machine's kernel"
_MACHINE = "changes the whole machine, not a namespace"
_FIREWALLD = "needs a firewalld that runs: `tox -e neighbours`"
_UFW = "needs ufw, with its files in /etc: `tox -e neighbours`"
_SYSTEMD = "speaks to process 1; the units of a real systemd are tried in integration/boot"
# What a command begins with, as it stands in the code (`{}` is whatever is filled in).
RUN = {
    "nft delete rule {} {} {} handle {}": _OWN,
    "nft delete {} {} {}": _OWN,
    "nft delete rule {} handle {}": _ASTRAY,
    "sysctl -w {}=1": _SETTING,
    "sysctl -w net.ipv4.ip_forward=1": _SETTING,
    "sysctl -w {}=2": "integration/commands/test_printed_commands.py::test_advertisements_by_the_command_that_is_printed",
    "chmod go-w {}": "integration/commands/test_lacks.py::test_directories_that_refuse_every_change",
    "chmod {} {}": "integration/commands/test_printed_commands.py::test_a_mode_by_the_command_that_is_printed",
    "ip addr del {} dev {}": "integration/network/test_own_addresses.py::test_it_came_while_the_vm_runs",
    "ip link del dev {}": _BRIDGE,
    "ip link set dev {} nomaster": _BRIDGE,
    "nft delete element {} {}": _HINTS,
    "ip neigh del {} dev {}":
        "integration/kernel/test_neighbour_entries.py::test_what_an_administrator_entered_for_good_stays",
    "bridge fdb del {} dev {} {}":
        "integration/kernel/test_neighbour_entries.py::test_a_bridge_that_was_told_of_a_guest_otherwise",
    "ip {}rule add to {} lookup main pref {}":
        "integration/network/test_policy_routing.py::test_doctors_fix_is_enough",
    "ip {}rule add iif {} lookup main pref {}":
        "integration/ui/test_odd_paths.py::test_doctor_says_of_ways_what_traffic_does",
    "ip {}route add default {}dev {} table {}": _UPLINK,
    "ip {}rule add iif {} lookup main suppress_prefixlength {} pref {}": _UPLINK,
    "ip {}rule add iif {} lookup {} pref {}": _UPLINK,
    "ip {}rule add iif {} {} lookup main pref {}":
        "integration/network/test_uplinks.py"
        "::test_what_leads_guests_by_their_uplink_leads_no_answers_there",
    "ufw allow in on {} to any port {} proto {}":
        "integration/network/test_ufw.py::test_what_an_administrator_drops_is_dropped",
    "sysctl -w {}=0": "integration/ui/test_odd_paths.py::test_a_gateway_that_answers_no_arp_is_named",
    "ip link set dev {} alias {}": "integration/commands/test_doctor_promises.py::test_what_doctor_promises_is_kept",
    "networkctl reload": _NETWORKD,
    "systemctl reload NetworkManager":
        "integration/network/test_networkd.py::test_networkmanager_is_asked_by_its_tool",
}  # fmt: skip
NOT_RUN = {
    "ip route add default via GATEWAY": "whose gateway it is only its administrator knows",
    "ip addr add {} dev IFNAME": "which device is to have it only its administrator knows",
    "ip link set {} up": "is one half: what the device is for is its administrator's",
    "ip link set {} up, and": "is one half: its routes come by what manages the network",
    "apt install": _PACKAGE,
    "modprobe": _MODULE,
    "chmod 666": f"{_MACHINE}: /dev/net/tun is everybody's",
    "chmod 644": "its path is the user's own configuration file",
    "chmod 700": "its path is given by the user; the mode is what a store gets by itself",
    "chmod +x": "whether the file is a program only its owner knows",
    "chown": "its files are those that hvtx runs from",
    "firewall-cmd": _FIREWALLD,
    "ufw": _UFW,
    "ip link set dev {} address {} mtu {}": "undoes what the emergency mode did, as it was",
    "ip tuntap add dev": "undoes what the emergency mode did, as it was",
    "ip link set dev {} {} off": "takes a program off a device that somebody else put there",
    "nft delete rule {} handle {}": "is for a rule that was taken over, and changed since",
    "kill -CONT": "wakes up a process of somebody else",
    "kill -KILL": "ends a process of somebody else",
    "nft delete table inet hvtx-{}": "takes an installation away whose store is lost, by hand",
    "sysctl -w net.ipv6.conf.all.disable_ipv6=0": "is one half: the other is what switched it off",
    "sysctl -w net.netfilter": _MACHINE,
    "sysctl -w fs.file-max": _MACHINE,
    "sysctl -w {}={}": "is for who may not write settings: as another user",
    "systemctl": _SYSTEMD,
}
_NO_HINTS = frozenset({"hvtx/cli/doctor.py", "hvtx/engine/units.py"})  # they only know the words


def literals(path: Path) -> Iterator[str]:
    """Texts in a module, without docstrings; what is filled in is ``{}``."""
    tree = ast.parse(path.read_text())
    inner = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in ast.walk(node) if part is not node}
        if isinstance(node, ast.Expr):
            inner.add(id(node.value))
    for node in ast.walk(tree):
        if id(node) in inner:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
            yield "".join(str(part) for part in parts)


@cache
def printed() -> dict[str, str]:
    """Each command that changes something, and where it stands."""
    found = {}
    for path in sorted((ROOT / "hvtx").rglob("*.py")):
        if path.relative_to(ROOT).as_posix() in _NO_HINTS:
            continue
        for text in literals(path):
            for command in _CHANGES.finditer(text):
                found.setdefault(command[0].strip(), path.relative_to(ROOT).as_posix())
    return found


def test_every_command_is_run_or_says_why_not() -> None:
    """A new one joins one of the two lists."""
    begins = (*RUN, *NOT_RUN)
    left = {c: where for c, where in printed().items() if not c.startswith(begins)}
    assert left == {}


def test_nothing_is_listed_that_is_not_printed() -> None:
    found = printed()
    assert [b for b in (*RUN, *NOT_RUN) if not any(c.startswith(b) for c in found)] == []


@pytest.mark.parametrize("test", sorted(set(RUN.values())))
def test_the_tests_are_there(test: str) -> None:
    path, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text()


def test_no_fix_opens_containers() -> None:
    """The command that passes an administrator's drops stands nowhere any more."""
    wide = re.compile(r"-I DOCKER-USER|-I FORWARD -[io] \S+ -j ACCEPT|zone=trusted")
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *(ROOT / "hvtx").rglob("*.py")]
    assert [page.name for page in pages if wide.search(page.read_text())] == []
