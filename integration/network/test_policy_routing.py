"""Policy rules and routes of others: what hvtx says of them, and what packets do.

`wg0` is a TUN device that stands for a tunnel: whatever is routed there is gone. Each case is tried
with packets, both families, and `doctor`, `vm start`, `vm run`, `network create` must agree with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from hvtx.commands import doctor as diagnose
from integration import lab
from integration.lab import HOST4, HOST6, WORLD4, WORLD6, witness
from integration.lab.firewall_contract import reach
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import end_vms
from integration.network.test_guests_network import GATEWAY4, GATEWAY6, GuestVm, make_network, run

# Seconds for a flow that is to be stopped, and for one that is to pass: some milliseconds, but for
# a guest's process that a busy machine lets wait.
PATIENCE, LONG = 0.4, 20.0


class Case(NamedTuple):
    """What somebody configures (words of ``ip``), and whether guests lose packets by it."""

    commands: tuple[str, ...]
    stops: bool
    create: int | None = None  # the exit code of `network create`, where it is another than that


CASES = {
    # the four of an exit node and of a tunnel
    "exit node": Case(("rule add pref 5270 lookup 52", "route add default dev wg0 table 52"), True),
    "wider route": Case(
        ("rule add pref 5270 lookup 52", "route add {wide} dev wg0 table 52"), True
    ),
    "throw": Case(
        (
            "rule add pref 5270 lookup 52",
            "route add default dev wg0 table 52",
            "route add throw {subnet} table 52",
            "route add throw {world} table 52",
        ),
        False,
    ),
    "wg-quick": Case(
        (
            "rule add pref 100 lookup main suppress_prefixlength 0",
            "rule add not from all fwmark 51820 pref 101 lookup 51820",
            "route add {world} dev uplink table 51820",
            "route add default dev wg0 table 51820",
        ),
        False,
    ),
    "wg-quick without its first rule": Case(
        (
            "rule add not from all fwmark 51820 pref 101 lookup 51820",
            "route add default dev wg0 table 51820",
        ),
        True,
    ),
    # siblings
    "a mark": Case(
        ("rule add fwmark 7 pref 90 lookup 52", "route add default dev wg0 table 52"), False
    ),
    "in two halves": Case(
        (
            "rule add pref 90 lookup 52",
            "route add {low} dev wg0 table 52",
            "route add {high} dev wg0 table 52",
        ),
        True,
    ),
    "blackhole": Case(
        ("rule add pref 90 lookup 52", "route add blackhole {subnet} table 52"), True
    ),
    "prohibit": Case(("rule add pref 90 lookup 52", "route add prohibit {subnet} table 52"), True),
    "a rule that refuses": Case(("rule add to {subnet} pref 90 unreachable",), True),
    "from what the gateway sends": Case(
        ("rule add from {subnet} pref 90 lookup 52", "route add default dev wg0 table 52"), True
    ),
    "what comes by the uplink": Case(
        ("rule add iif uplink pref 90 lookup 52", "route add {subnet} dev wg0 table 52"), True
    ),
    "what comes by another device": Case(
        ("rule add iif wg0 pref 90 lookup 52", "route add {subnet} dev wg0 table 52"), False, 4
    ),
    "goto past it": Case(
        (
            "rule add pref 80 goto 32766",
            "rule add pref 90 lookup 52",
            "route add default dev wg0 table 52",
        ),
        False,
    ),
    "tcp only": Case(
        ("rule add ipproto tcp pref 90 lookup 52", "route add default dev wg0 table 52"), True
    ),
    "after main": Case(
        ("rule add pref 32767 lookup 52", "route add default dev wg0 table 52"), False
    ),
    "a table that no rule asks": Case(("route add default dev wg0 table 52",), False),
}


FIRST = 5  # the ones of an exit node and of a tunnel


class Family(NamedTuple):
    """The addresses of one family."""

    option: str
    words: dict[str, str]
    gateway: str
    host: str
    world: str


FAMILIES = [
    Family(
        "-4",
        {
            "subnet": "10.77.0.0/24", "wide": "10.0.0.0/8", "world": "203.0.113.0/24",
            "low": "0.0.0.0/1", "high": "128.0.0.0/1",
        },
        GATEWAY4, HOST4, WORLD4,
    ),
    Family(
        "-6",
        {
            "subnet": "fd77::/64", "wide": "fd00::/8", "world": "2001:db8:113::/64",
            "low": "::/1", "high": "8000::/1",
        },
        GATEWAY6, HOST6, WORLD6,
    ),
]  # fmt: skip


BOTH = pytest.mark.parametrize("hvtx", ["nftables", "iptables"], indirect=True)


@pytest.fixture(params=["nftables"])
def hvtx(request: pytest.FixtureRequest, world: lab.Namespace) -> Iterator[Program]:
    """The program; the host has an uplink and a tunnel."""
    preload()
    lab.run("ip", "tuntap", "add", "wg0", "mode", "tun")
    lab.run("ip", "link", "set", "wg0", "addrgenmode", "none")
    lab.run("ip", "link", "set", "wg0", "up")
    program = Forked(HVTX_FIREWALL=request.param)
    yield program
    end_vms(program)


def configure(case: Case, family: Family) -> None:
    for command in case.commands:
        lab.run("ip", family.option, *command.format(**family.words).split())


def take_back(case: Case, family: Family) -> None:
    for command in reversed(case.commands):
        words = command.format(**family.words).replace(" add ", " del ").split()
        lab.run("ip", family.option, *words)


def passes(
    guest: GuestVm, world: lab.Namespace, family: Family, port: int, patience: float = LONG
) -> dict[str, bool]:
    """Which of the flows that routes decide pass."""
    address = guest.ipv4 if family.option == "-4" else guest.ipv6

    def passing(*flow: object, **more: object) -> bool:
        return reach(*flow, patience=patience, **more) is not None  # type: ignore[arg-type]

    return {
        "host to guest": passing(None, guest, "tcp", address, port, port),
        "guest to gateway": passing(guest, None, "tcp", family.gateway, port, port),
        "world to port": passing(world, guest, "tcp", family.host, 8080, 80),
        "guest to world": passing(guest, world, "tcp", family.world, port, port),
    }


def route_levels(hvtx: Program) -> list[str]:
    found = hvtx("doctor", "--json", code=None).json()["findings"]
    return sorted({f["level"] for f in found if f["check"] == "routes"})


@BOTH
@pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])
def test_doctor_and_packets_agree(
    hvtx: Program, world: lab.Namespace, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error exactly where packets for guests go astray; then no VM starts there."""
    monkeypatch.setattr(diagnose, "CHECKS", {"routes": diagnose.CHECKS["routes"]})
    make_network(hvtx)
    guest = run(hvtx, "web", "-p", "8080:80")
    hvtx("vm", "create", "two", "--network", "net", "--", "sleep", "600")
    assert all(passes(guest, world, family, 6999).values())
    wrong = []
    every = hvtx.environment["HVTX_FIREWALL"] == "nftables"  # routes know no backend
    for number, (name, case) in enumerate(list(CASES.items())[: None if every else FIRST]):
        configure(case, family)
        flows = passes(guest, world, family, 7000 + number, PATIENCE if case.stops else LONG)
        seen = {
            "traffic": not all(ok for way, ok in flows.items() if way != "guest to world"),
            "doctor": route_levels(hvtx) == ["error"],
            "start": hvtx("vm", "start", "two", code=None).code == 4,
        }
        if not seen["start"]:
            hvtx("vm", "stop", "two", "--force")
        take_back(case, family)
        if set(seen.values()) != {case.stops}:
            wrong.append((name, case.stops, seen, flows))
    assert wrong == []
    assert route_levels(hvtx) == ["ok"]


@pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])
def test_a_network_is_made_only_where_packets_find_it(hvtx: Program, family: Family) -> None:
    """What was there before: 4 and undone, forwarding too, or 0."""
    hvtx("network", "ls")
    wrong = []
    for name, case in CASES.items():
        configure(case, family)
        witness.settle()
        before = witness.things()
        made = hvtx("network", "create", "net", "--subnet", family.words["subnet"], code=None)
        if made.code == 0:
            hvtx("network", "rm", "net")
        elif differs := lab.difference(before, witness.things()):
            wrong.append((name, made.code, differs))
        take_back(case, family)
        if made.code != (case.create or (4 if case.stops else 0)):
            wrong.append((name, made.code, made.err))
    assert wrong == []


def test_the_rule_and_its_fix_are_named(hvtx: Program, world: lab.Namespace) -> None:
    """An exit node's: by number, table and route; after the fix all is well, the world by it too."""
    case = CASES["exit node"]
    for family in FAMILIES:
        configure(case, family)
    words = ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    refused = hvtx(*words, code=4).err
    for part in ("5270", "table 52", "default dev wg0", "ip rule add to 10.77.0.0/24 lookup main"):
        assert part in refused, refused
    for option, subnet in (("-4", "10.77.0.0/24"), ("-6", "fd77::/64")):
        lab.run("ip", option, "rule", "add", "to", subnet, "lookup", "main", "pref", "5269")
    hvtx(*words)
    guest = run(hvtx, "web", "-p", "8080:80")
    assert route_levels(hvtx) == ["ok"]
    for number, family in enumerate(FAMILIES):
        flows = passes(guest, world, family, 7100 + number)
        assert flows["host to guest"] and flows["guest to gateway"]


def test_a_vm_is_not_recorded_where_it_would_be_lost(hvtx: Program) -> None:
    """The whole subnet, or the address that it asks for; another address is all right."""
    make_network(hvtx)
    words = ("--network", "net", "--", "sleep", "600")
    lab.run("ip", "route", "add", "blackhole", "10.77.0.2/32")
    with witness.unchanged():
        assert "10.77.0.2" in hvtx("vm", "create", "web", "--ip", "10.77.0.2", *words, code=4).err
    hvtx("vm", "create", "web", "--ip", "10.77.0.9", *words)
    configure(CASES["exit node"], FAMILIES[0])
    with witness.unchanged():
        assert "5270" in hvtx("vm", "create", "two", *words, code=4).err


def test_of_several_vms_the_one_that_would_be_lost_is_refused(hvtx: Program) -> None:
    """Not even beside another is it started; that one is."""
    make_network(hvtx)
    for name, address in (("one", "10.77.0.8"), ("two", "10.77.0.9")):
        create = ("vm", "create", name, "--network", "net", "--ip", address)
        hvtx(*create, "--", "sleep", "600")
    lab.run("ip", "route", "add", "blackhole", "10.77.0.9/32")
    (failed,) = hvtx("vm", "start", "one", "two", "--json", code=9).json()["failed"]
    assert (failed["vm"], failed["code"]) == ("two", "conflict")
    assert "10.77.0.9" in failed["message"]
    assert [hvtx.vm(name)["state"] for name in ("one", "two")] == ["running", "defined"]
    assert hvtx.is_clean()


def test_the_hosts_own_addresses_are_no_neighbours(hvtx: Program) -> None:
    """Two side by side in one subnet: no packet comes from either, and none is said to be lost."""
    lab.run("ip", "link", "add", "side", "type", "veth", "peer", "name", "beyond")
    for device in ("side", "beyond"):
        lab.run("ip", "link", "set", device, "addrgenmode", "none", "up")
    for address in ("10.9.0.1/24", "10.9.0.2/24", "fd09::1/64", "fd09::2/64"):
        more = ("nodad",) if ":" in address else ()
        lab.run("ip", "addr", "add", address, "dev", "side", *more)
    make_network(hvtx)
    run(hvtx, "web", "-p", "8080:80", "-p", "10.9.0.2:8081:81", "-p", "[fd09::1]:8082:82")
    findings = hvtx("doctor", "--json", code=None).json()["findings"]
    levels = {(f["check"], f["level"]) for f in findings if f["check"] in ("routes", "forward")}
    assert levels == {("routes", "ok"), ("forward", "ok")}


def test_doctors_fix_is_enough(hvtx: Program, world: lab.Namespace) -> None:
    """What `doctor` prints is run as it stands: the rule of an exit node that came later."""
    make_network(hvtx)
    guest = run(hvtx, "web", "-p", "8080:80")
    for family in FAMILIES:
        configure(CASES["wider route"], family)
    findings = hvtx("doctor", "--json", code=1).json()["findings"]
    hints = {f["hint"] for f in findings if f["check"] == "routes" and f["level"] == "error"}
    for hint in hints:
        for command in hint.split("; "):
            lab.run(*command.split())
    assert route_levels(hvtx) == ["ok"]
    for number, family in enumerate(FAMILIES):
        assert all(passes(guest, world, family, 7200 + number).values())


def test_a_route_of_ours_that_is_gone_comes_back(hvtx: Program, world: lab.Namespace) -> None:
    """Others removed it: that is said, and no other route is blamed."""
    make_network(hvtx)
    run(hvtx, "web", "-p", "8080:80")
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    for word, subnet in (("-4", "10.77.0.0/24"), ("-6", "fd77::/64")):
        lab.run("ip", word, "route", "del", subnet, "dev", bridge)
        findings = hvtx("doctor", "--json", code=1).json()["findings"]
        told = [f for f in findings if f["check"] == "routes" and f["level"] == "error"]
        assert told
        assert all(f"the lack of a route {subnet}" in f["message"] for f in told), told
        assert len({f["hint"] for f in told}) == 1
        assert told[0]["hint"] == "hvtx repair"
        hvtx("repair")
        assert route_levels(hvtx) == ["ok"]


def test_guests_that_lose_the_world(hvtx: Program, world: lab.Namespace) -> None:
    """A rule that refuses what guests send beyond the host: named; the host itself is heard."""
    make_network(hvtx)
    guest = run(hvtx, "web", "-p", "8080:80")
    lab.run("ip", "rule", "add", "iif", "hvnone", "pref", "70", "lookup", "52")
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    lab.run("ip", "rule", "add", "iif", bridge, "to", "203.0.113.0/24", "pref", "80", "prohibit")
    assert route_levels(hvtx) == ["ok"]  # one place is not the world
    lab.run("ip", "rule", "add", "iif", bridge, "pref", "81", "prohibit")
    flows = passes(guest, world, FAMILIES[0], 7300, PATIENCE)
    assert not flows["guest to world"]
    assert route_levels(hvtx) == ["error"]
