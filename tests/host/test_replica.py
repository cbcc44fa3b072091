"""What is copied into a replica, and what is read of what happens there: decisions over bytes."""

from __future__ import annotations

import socket
import struct

import pytest

from hvtx.host import inet
from hvtx.host.netlink import attribute, nested, text
from hvtx.host.nfmessages import Command
from hvtx.host.nfnetlink import BatchRefused
from hvtx.host.replica import (
    causes,
    copying,
    frames,
    legacy,
    ruleset,
    sameness,
    thought,
    topology,
    trace,
)
from hvtx.host.replica.causes import Leg
from hvtx.host.replica.frames import Asked, Packet, Told
from hvtx.host.replica.ruleset import Ruleset
from hvtx.host.replica.topology import Device

INET = 1
ONE, TWO = socket.inet_aton("10.77.0.2"), socket.inet_aton("10.77.0.3")
ONE6, TWO6 = (socket.inet_pton(socket.AF_INET6, f"fd77::{n}") for n in (2, 3))
MAC = bytes.fromhex("020000000001")


def be32(number: int) -> bytes:
    return struct.pack(">I", number)


def body(*parts: bytes, family: int = INET) -> bytes:
    """A message of nf_tables: nfgenmsg and attributes."""
    return bytes((family, 0, 0, 0)) + b"".join(parts)


def table(name: str = "t", flags: int = 0) -> bytes:
    return body(text(1, name), attribute(2, be32(flags)), attribute(3, be32(7)))


def chain(name: str = "c", *more: bytes, of: str = "t") -> bytes:
    return body(text(1, of), attribute(2, bytes(8)), text(3, name), *more)


def expression(name: str, *data: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *data))


def rule(*expressions: bytes, handle: int = 9, of: str = "c", in_: str = "t") -> bytes:
    found = (text(1, in_), text(2, of), attribute(3, struct.pack(">Q", handle)))
    return body(*found, nested(4, *expressions), attribute(6, bytes(8)))


def commands(given: Ruleset, *devices: str) -> list[Command]:
    return [part.command for part in ruleset.parts(given, devices)]


# What is made of a ruleset ------------------------------------------------------------------------


def test_a_dormant_table_stays_behind_with_all_that_is_in_it() -> None:
    given = Ruleset([table(flags=1), table("u")], [chain(), chain(of="u")], rules=[rule()])
    assert [part.words for part in ruleset.parts(given, ())] == ["table inet u", "chain inet u c"]


def test_an_owned_table_becomes_everybodys() -> None:
    (made,) = commands(Ruleset([table(flags=2 | 4)]))
    assert made.body == text(1, "t") + attribute(2, bytes(4))


def test_numbers_of_the_kernel_are_not_handed_on() -> None:
    """Handles, positions and counts of users are the kernel's own."""
    drop = expression("immediate", attribute(1, be32(0)))
    _, made, last = commands(Ruleset([table()], [chain()], rules=[rule(drop)]))
    assert made.body == text(1, "t") + text(3, "c")
    assert last.body == text(1, "t") + text(2, "c") + nested(4, drop)


@pytest.mark.parametrize(
    ("hook", "devices", "left"),
    [
        ((text(3, "up0"),), ("up0",), ["up0"]),
        ((nested(4, text(1, "up0"), text(1, "gone")),), ("up0",), ["up0"]),
        ((nested(4, attribute(1, b"up")),), ("up0", "up1", "lo"), ["up0", "up1"]),
        ((text(3, "gone"),), ("up0",), None),
    ],
)
def test_a_chain_of_devices_keeps_those_that_are_there(
    hook: tuple[bytes, ...], devices: tuple[str, ...], left: list[str] | None
) -> None:
    base = nested(4, attribute(1, be32(0)), attribute(2, be32(5)), *hook)
    given = Ruleset([table()], [chain("c", base)], rules=[rule()])
    made = commands(given, *devices)
    if left is None:
        assert len(made) == 1  # neither the chain nor its rules
        return
    kept = nested(4, *(text(1, name) for name in left))
    assert kept in made[1].body
    assert len(made) == 3


def test_an_anonymous_set_becomes_a_named_one_with_an_id() -> None:
    given = body(text(1, "t"), text(2, "__set0"), attribute(3, be32(3)), attribute(16, bytes(8)))
    _, made = commands(Ruleset([table()], sets=[given]))
    assert attribute(3, be32(2)) in made.body
    assert attribute(10, be32(1)) in made.body
    assert attribute(16, bytes(8)) not in made.body


@pytest.mark.parametrize(
    ("family", "loads", "compared", "operator", "expected"),
    [
        ("inet", expression("meta", attribute(2, be32(16))), b"\6", 0, (6, False)),
        ("inet", expression("meta", attribute(2, be32(16))), b"\1", 1, (1, True)),
        ("ip", expression("payload", attribute(2, be32(1)), attribute(3, be32(9)), attribute(
            4, be32(1))), b"\x11", 0, (17, False)),
        ("ip", expression("payload", attribute(2, be32(1)), attribute(3, be32(12)), attribute(
            4, be32(4))), b"\x11", 0, (0, False)),
        ("bridge", expression("meta", attribute(2, be32(1))), b"\x08\x00", 0,
         (socket.htons(0x0800), False)),
    ],
)  # fmt: skip
def test_the_protocol_that_xtables_asks_for(
    family: str, loads: bytes, compared: bytes, operator: int, expected: tuple[int, bool]
) -> None:
    compare = expression("cmp", attribute(2, be32(operator)), nested(3, attribute(1, compared)))
    named = list(ruleset.expressions(loads + compare))
    assert ruleset.protocol_of(family, named) == expected


def test_what_writes_a_tcp_option_is_said_as_the_kernel_takes_it() -> None:
    """It tells of flags that it refuses to be told."""
    given = [attribute(2, b"\2\0\0\0"), attribute(3, be32(2)), attribute(5, bytes(4))]
    writes = expression("exthdr", *given, attribute(7, be32(1)))
    *_, made = commands(Ruleset([table()], [chain()], rules=[rule(writes)]))
    assert attribute(7, be32(1)) in made.body
    assert attribute(5, bytes(4)) not in made.body
    reads = expression("exthdr", attribute(1, be32(1)), *given)
    *_, made = commands(Ruleset([table()], [chain()], rules=[rule(reads)]))
    assert attribute(5, bytes(4)) in made.body


def test_a_copy_is_compared_without_what_packets_change() -> None:
    counted = [expression("counter", attribute(1, struct.pack(">Q", n))) for n in (0, 5)]
    drops = [expression("immediate", attribute(1, be32(n))) for n in (0, 1)]
    one, two, three = (Ruleset([table()], [chain()], rules=[rule(*e)]) for e in (
        (counted[0], drops[0]), (counted[1], drops[0]), (counted[0], drops[1])))  # fmt: skip
    assert sameness.differences(one, two, ()) == []
    assert sameness.differences(one, three, ()) == [
        "rule 1 of inet t c is not the same in the copy"
    ]
    assert sameness.differences(one, Ruleset([table()], [chain()]), ()) != []
    without = copying.Copied(without=frozenset({("inet", "t")}))
    assert sameness.differences(one, Ruleset(), (), without) == []


def test_rules_are_known_again_by_their_order() -> None:
    host = Ruleset(rules=[rule(handle=7), rule(handle=3), rule(handle=9, of="d")])
    copy = Ruleset(rules=[rule(handle=20), rule(handle=21), rule(handle=22, of="d")])
    place = ("inet", "t", "c")
    found = ruleset.handles(host, copy)
    assert (found[place, 20], found[place, 21]) == (7, 3)
    assert found[("inet", "t", "d"), 22] == 9


def test_a_table_that_the_kernel_refuses_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are made, and what is missing is said."""
    made: list[list[Command]] = []

    class Refusing:
        def batch(self, batch: list[Command]) -> None:
            bad = [n for n, command in enumerate(batch) if b"bad\0" in command.body]
            if bad:
                raise BatchRefused(22, "Invalid argument", bad[-1])
            made.append(batch)

        def close(self) -> None:
            pass

    monkeypatch.setattr(copying, "Nftables", Refusing)
    given = Ruleset([table("bad"), table("t")], [chain(of="bad"), chain()])
    copied = copying.write(given, ())
    assert copied.lacks == ("chain inet bad c cannot be copied: Invalid argument",)
    assert copied.without == {("inet", "bad")}
    assert len(made[0]) == 2


# Links and routes ---------------------------------------------------------------------------------


def device(index: int, name: str, kind: str = "tun", master: int = 0) -> Device:
    return Device(index, name, kind, True, MAC, True, master, 0, b"", b"", b"")


def test_two_ports_stand_for_all_of_a_bridge_but_the_asked_ones_are_there() -> None:
    every = [device(1, "br0", "bridge"), *(device(n, f"tap{n}", "tun", 1) for n in range(2, 50))]
    every.append(device(60, "eth0", "", 1))
    names = [one.name for one in topology.chosen(every, {"tap40"})]
    assert names == ["br0", "tap2", "tap40", "eth0"]


def test_too_many_devices_are_an_error() -> None:
    with pytest.raises(OSError, match="network devices"):
        topology.chosen([device(n, f"x{n}") for n in range(1, 400)], ())


def test_a_route_of_a_device_that_is_not_there_is_nobodys() -> None:
    found = thought.route("10.0.0.0/8", 5, "10.1.0.1")
    assert topology.route_of(found, {5}) == found
    assert topology.route_of(found, {6}) is None
    assert topology.route_words(found) == "10.0.0.0/8 in table 254"


def test_addresses_that_are_good_on_a_link_only() -> None:
    assert topology.address_of(thought.address("10.77.0.1/24", 4))[1:] == (
        socket.inet_aton("10.77.0.1"), 24, True,
    )  # fmt: skip
    assert topology.address_of(thought.address("fe80::1/64", 4))[3] is False


# Frames -------------------------------------------------------------------------------------------


def test_what_is_built_is_read_and_its_checksums_hold() -> None:
    for source, target in ((ONE, TWO), (ONE6, TWO6)):
        inside = frames.udp(source, target, (5, 53), b"payload")
        seen = frames.read("tap0", frames.frame(MAC, bytes(6), inside), ether=True)
        assert isinstance(seen, Packet)
        assert (seen.source, seen.target, seen.ports, seen.payload[:7]) == (
            source, target, (5, 53), b"payload",
        )  # fmt: skip
        assert frames.read("tun0", inside, ether=False) == seen._replace(
            device="tun0", mac=b"", to_mac=b"", payload=b"payload"
        )
        head = 20 if len(source) == 4 else 40
        pseudo = source + target + struct.pack(">II", len(inside) - head, 17)
        assert inet.checksum(pseudo + inside[head:]) == 0
        segment = frames.tcp(source, target, (5, 80), frames.SYN, 77)
        seen = frames.read("tun0", segment, ether=False)
        assert isinstance(seen, Packet)
        assert (seen.flags, seen.number) == (frames.SYN, 77)
        asked = frames.echo(source, target, 3, 1, b"x", reply=False)
        seen = frames.read("tun0", asked, ether=False)
        assert isinstance(seen, Packet)
        assert frames.is_echo(seen, reply=False)
        assert not frames.is_echo(seen, reply=True)


def test_who_has_is_answered_by_who_has_it() -> None:
    for source, target in ((ONE, TWO), (ONE6, TWO6)):
        asked = frames.read("tap0", frames.asks(MAC, source, target), ether=True)
        assert asked == Asked("tap0", 4 if len(source) == 4 else 6, target, MAC, source)
        other = bytes.fromhex("020000000002")
        told = frames.read("tap1", frames.tells(other, asked), ether=True)
        assert told == Told("tap1", target, other)


# What stopped it ----------------------------------------------------------------------------------


def step(
    packet: int, table_: str, verdict: int, handle: int = 4, header: bytes = b""
) -> trace.Step:
    return trace.Step(packet, "inet", table_, "c", handle, verdict, header)


def test_the_last_rule_that_ended_a_packet_is_named_others_before_ours() -> None:
    steps = [step(1, "wall", -5), step(1, "wall", 0, 8), step(2, "hvtx-x", 0, 9)]
    found = trace.culprit(steps, ours=False)
    assert found is not None
    assert found.handle == 8
    assert causes.of_trace(steps) == causes.Cause("nft", ("inet", "wall", "c"), "", 8)
    assert trace.culprit(steps[:1], ours=False) is None
    own = causes.of_trace(steps, ours=True)
    assert own is not None
    assert own.handle == 9


def test_what_a_program_decides_is_unknown() -> None:
    found = causes.of_trace([step(1, "ids", 3)])
    assert found is not None
    assert (found.by, found.place) == ("unknown", ("inet", "ids", "c"))


def test_a_policy_has_no_rule() -> None:
    found = causes.of_trace([step(1, "wall", 0, 0)])
    assert found == causes.Cause("nft", ("inet", "wall", "c"), "policy drop")


def test_reports_of_multicast_listeners_are_nobodys_flow() -> None:
    header = bytes((0x60, 0, 0, 0, 0, 36, 0, 1)) + bytes(16) + b"\xff\x02" + bytes(13) + b"\x16"
    assert trace.culprit([step(1, "wall", 0, 8, header)], ours=False) is None


def test_counters_of_legacy_tables_name_the_line() -> None:
    before = legacy.lines(
        "*mangle\n:FORWARD ACCEPT [7:70]\n[0:0] -A FORWARD -s 10.0.0.0/8 -j DROP\nCOMMIT\n"
        "*filter\n:FORWARD DROP [1:60]\n[3:30] -A FORWARD -j ACCEPT\nCOMMIT\n"
    )
    assert [(line.table, line.text) for line in before] == [
        ("mangle", "-A FORWARD -s 10.0.0.0/8 -j DROP"), ("filter", "policy DROP"),
    ]  # fmt: skip
    after = [before[0]._replace(packets=2), before[1]]
    assert legacy.moved(before, after) == [after[0]]
    assert legacy.moved(before, before) == []
    cause = causes.of_line(6, after[0])
    assert (cause.by, cause.place) == ("legacy", ("ip6tables-legacy", "mangle", "FORWARD"))
    queued = after[0]._replace(text="-A FORWARD -j NFQUEUE --queue-num 0")
    assert causes.of_line(4, queued).by == "unknown"


def test_a_route_elsewhere_is_named_with_its_table() -> None:
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 52, 3, 0, 1, 0)
    answer = head + attribute(4, struct.pack("=I", 7)) + attribute(15, struct.pack("=I", 52))
    names = {7: "tailscale0"}
    found = causes.elsewhere(Leg("up0", ONE, TWO, "br0"), answer, names)
    assert found == causes.Cause(
        "route", ("52",), "route default dev tailscale0 table 52 leads to tailscale0 and not to br0"
    )
    assert causes.elsewhere(Leg("up0", ONE, TWO, "tailscale0"), answer, names) is None
    assert causes.elsewhere(Leg("br0", ONE, TWO, "", True), answer, names) is None
    lost = causes.elsewhere(Leg("br0", ONE, TWO, ""), answer, names)
    assert lost is not None
    assert lost.what == "route default dev tailscale0 table 52 leads away from this host"
