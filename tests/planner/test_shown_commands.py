"""Commands that people may copy: a real shell reads names that others chose as they are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hvtx.engine import cause_names, own_addresses, uplink_checks
from hvtx.host.replica.causes import Cause
from hvtx.host.replica.topology import Device
from hvtx.model.place import legacy_place, nft_place
from hvtx.model.reason import Reason
from hvtx.model.resource import Entry, Kind
from hvtx.model.traffic import Flow, Stop, Way
from hvtx.planner import firewalld_zone, flow_fixes, heuristic, leftovers, remedy
from hvtx.planner.own_accepts import Net
from hvtx.planner.presence import Presence
from tests.planner import scene

# A device may have any name without blanks and slashes.
NAMES = (
    "$(touch>sprung)",
    "`touch>sprung`",
    "a;touch>sprung;",
    "a'$(touch>sprung)'",
    "a|b&c>sprung",
    "*",
)
PROGRAMS = (
    "ip",
    "nft",
    "ufw",
    "sysctl",
    "firewall-cmd",
    "iptables-legacy",
    "iptables-nft",
    "hvtx",
    "tc",
)
named = pytest.mark.parametrize("name", NAMES)


def link(name: str, index: int = 7, **more: object) -> scene.Link:
    return scene.link(index, name, **more)  # type: ignore[arg-type]


def devices(name: str) -> list[str]:
    """Of what is printed about a device of somebody else's, each command."""
    row = scene.Scene().row(Kind.TAP, ifindex=7)
    seen = link(name)
    device = Device(7, name, "", True, b"", False, 0, 0, b"", b"", b"")
    flow = Flow(Way.GUEST_TO_WORLD, 4, "tcp", "net", "hvbr1", None)
    neighbour = Cause("neighbour", ("10.0.0.2", name), "a static entry")
    setting = Cause("setting", (f"net.ipv4.conf.{name}.arp_ignore",), "a setting")
    names = object.__new__(cause_names.CauseNames)
    explained, _, removed = leftovers.marked_again(row, link(name, 9)).partition("needs it: ")
    return [
        heuristic.tap_restore(seen, link(name, 8), (1, 1)),
        leftovers.marked_again(row, seen),
        explained.removeprefix("`").partition("` shows its owner")[0],
        removed,
        *leftovers.taken_away(
            link("hv1"), [link(name, 8, lower=7), link(name, 9, master=7)], [], frozenset(), ()
        ),
        remedy.remedy(row, Presence(True, (), Reason.MARK_MISMATCH, seen), "web"),
        own_addresses.fix(own_addresses.Own("10.0.0.2", "10.0.0.2/24", name)),
        uplink_checks._bring(device).rpartition(", and")[0],
        names.of(flow, neighbour)[2],
        names.of(flow, setting)[2],
        flow_fixes.of_setting(f"net.ipv4.conf.{name}.rp_filter", "hvbr1"),
        *firewalld_zone.commands([flow], [name], {}),
        *flow_commands(name),
    ]


def flow_commands(name: str) -> list[str]:
    nets = {"net": Net("hvbr1", ("10.77.0.0/24",), ("10.77.0.1",), "nftables", passage=False)}
    forward = flow_fixes.Chain(frozenset({"forward"}), ())
    found = []
    for by, place, more in (
        ("nft", ("inet", "wall", "Pass"), ()),
        ("nft", ("ip", "filter", "FORWARD"), ()),
        ("legacy", ("iptables-legacy", "filter", "FORWARD"), ()),
        ("nft", ("ip", "filter", "FORWARD"), (("ip", "filter", "ufw-user-forward"),)),
    ):
        chains = {place: forward, **dict.fromkeys(more, forward)}
        host = flow_fixes.Host((name,), nets, chains, {}, frozenset({"iptables-nft"}))
        for way in (Way.GUEST_TO_WORLD, Way.WORLD_TO_PORT):
            stop = Stop(Flow(way, 4, "tcp", "net", "hvbr1", 80), by, place, "policy drop")
            found.append(flow_fixes.fix([stop], host) or "")
    return found


def ran(command: str, place: Path) -> list[list[str]]:
    """What programs a shell starts by it, each with its words."""
    programs, told = place / "programs", place / "told"
    programs.mkdir(exist_ok=True)
    for name in PROGRAMS:
        (programs / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" "" >>{told}\n')
        (programs / name).chmod(0o755)
    told.write_text("")
    env = {"PATH": str(programs)}
    subprocess.run(["/bin/sh", "-c", command], cwd=place, env=env, capture_output=True, check=False)
    return [each.split("\n") for each in told.read_text().split("\n\n") if each]


@named
def test_a_device_of_any_name_is_a_word(name: str, tmp_path: Path) -> None:
    for command in devices(name):
        started = ran(command.replace("hvtx repair, or: ", ""), tmp_path)
        left = {path.name for path in tmp_path.iterdir()} - {"programs", "told"}
        assert not left, command
        if name in command:
            assert any(name in word for words in started for word in words), command


@named
def test_a_rule_of_any_words_is_itself(name: str, tmp_path: Path) -> None:
    """As `iptables -S` prints it: in quotation marks, within which a shell would go on reading."""
    place = legacy_place("iptables", "filter", "FORWARD")
    text = f'! -s 10.0.0.0/8 -m comment --comment "{name} x" -j DROP'
    command = leftovers.removal(Entry("iptables", place, text, None))
    wanted = ["iptables-legacy", "-t", "filter", "-D", "FORWARD", "!", "-s", "10.0.0.0/8"]
    wanted += ["-m", "comment", "--comment", f"{name} x", "-j", "DROP"]
    assert ran(command, tmp_path) == [wanted]


@named
def test_what_nft_has_no_words_for_gets_no_command(name: str, tmp_path: Path) -> None:
    for chain in (name, "FORWARD"):
        table = "filter" if chain == name else name
        entry = Entry("nftables", nft_place("inet", table, chain), "drop", None, 7)
        assert name not in leftovers.removal(entry)
        stop = Stop(Flow(Way.GUEST_TO_GUEST, 4, "tcp", "net", "hvbr1", None), "nft",
                    ("inet", table, chain), "drop")  # fmt: skip
        nets = {"net": Net("hvbr1", (), (), "nftables", passage=False)}
        hint = flow_fixes.fix([stop], flow_fixes.Host((), nets, {}, {}, frozenset()))
        assert hint is not None
        assert name not in hint


def test_a_quotation_mark_ends_no_name_in_nft() -> None:
    assert not any(
        'a"b' in command for command in flow_commands('a"b') if command.startswith("nft")
    )
