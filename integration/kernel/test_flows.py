"""Flows end with their VM, also in a table that is never still: entries expire and appear meanwhile.

A guest makes such a table by sending to ever other addresses, and so does anybody outside who sends
to a published port. What ends by itself first is no failure; what could not be ended stays on
record, and its address goes to nobody else.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.drivers import flows as flows_driver
from hvtx.host import conntrack
from hvtx.host.ctmessages import SOURCE, Flow
from hvtx.host.netlink import Channel
from integration import lab
from integration.kernel.test_conntrack import OURS, flows, insert, udp
from integration.lab import HOST4, HOST6, WORLD4, WORLD6
from integration.lab.firewall_contract import bridged_frames_see_iptables, inside
from integration.lab.flow_churn import Datagrams, fill, short_lived, tracked
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import end_vms
from integration.network.test_guests_network import GATEWAY4, make_network, run

GUEST4, GUEST6 = "10.77.0.2", "fd77::2"
STRANGER4, STRANGER6 = "10.77.0.20", "fd77::20"


@pytest.fixture
def hvtx(firewall: str, world: lab.Namespace) -> Iterator[Program]:
    preload()
    program = Forked(HVTX_FIREWALL=firewall)
    yield program
    end_vms(program)


def of(*addresses: str) -> set[tuple[str, ...]]:
    """The flows that have one of the addresses at an end."""
    return {f for f in flows() if {end.partition("=")[2] for end in f[1:]} & set(addresses)}


def past_guests(port: int) -> set[tuple[str, ...]]:
    """The flows to a port of the host that the host itself would answer."""
    return {f for f in flows() if f[4] == f"dport={port}" and f[2][4:] == f[5][4:]}


# -- the flush itself ----------------------------------------------------------------------------


@pytest.fixture
def ends() -> None:
    """Addresses on loopback, from and to which packets are tracked, and flows that soon expire."""
    tracked()
    short_lived()
    for address in (GUEST4, STRANGER4, GUEST6, STRANGER6):
        lab.run("ip", "addr", "add", address, "dev", "lo", *["nodad"] * (":" in address))
    lab.run("ip", "-6", "route", "add", "local", "fd78::/64", "dev", "lo")


@pytest.fixture
def never_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody sends, each look sees flows of both families, however busy the machine is."""
    real, count = conntrack.flows, conntrack.tracked

    def listed(channel: Channel, family: int, ends: set[bytes] | None) -> list[Flow]:
        for _ in range(1000):
            found = list(real(channel, family, ends))
            seen = {flow.family for flow in found}
            if seen.issuperset([family] if family else SOURCE) or not Datagrams.running:
                break
            time.sleep(0.01)
        return found

    def counted() -> int | None:
        for _ in range(1000):
            if count() or not Datagrams.running:
                break
            time.sleep(0.01)
        return count()

    monkeypatch.setattr(conntrack, "flows", listed)
    monkeypatch.setattr(conntrack, "tracked", counted)
    monkeypatch.setattr(flows_driver, "_SECONDS", 0.5)


BEYOND = ("127.8.0.0/16", "fd78::/64")


@pytest.mark.parametrize("few", [2048, -1], ids=["all read", "asked by filter"])
def test_what_expires_meanwhile_ends_no_flush(
    ends: None, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside 20,000 flows a second of others, which come and expire, as the guest's own do."""
    monkeypatch.setattr(conntrack, "_FEW", few)
    insert(*udp("10.77.0.30", "198.51.100.1", 53))
    for words in OURS:
        insert(*words)
    with Datagrams(*BEYOND, sources=(STRANGER4, STRANGER6)):
        fill(GUEST4, GUEST6, each=4000)
        time.sleep(0.7)
        assert flows_driver.flush([GUEST4, GUEST6]) >= len(OURS)
        assert of(GUEST4, GUEST6) == set()
    assert len(of("198.51.100.1")) == 1  # of others nothing is ended


def test_what_appears_without_end_is_not_ended_and_told_so(ends: None, never_still: None) -> None:
    """20,000 new flows a second of the address itself, of both families: the flush gives up."""
    lab.run("ip", "addr", "add", "10.77.0.40", "dev", "lo")
    insert(*udp("10.77.0.40", "198.51.100.1", 53))
    with (
        Datagrams(*BEYOND, sources=(GUEST4, GUEST6)),
        pytest.raises(flows_driver.FlowsRemain, match="new ones come") as refused,
    ):
        flows_driver.flush([GUEST4, GUEST6, "10.77.0.40"])
    assert refused.value.addresses == {GUEST4, GUEST6}  # the third has none left
    assert of("10.77.0.40") == set()
    flows_driver.flush([GUEST4, GUEST6])
    assert of(GUEST4, GUEST6) == set()


# -- R1 --------------------------------------------------------------------------------------------


def test_the_next_owner_inherits_nothing_of_a_guest_that_sends_without_end(
    hvtx: Program, world: lab.Namespace
) -> None:
    """Five connections, and datagrams to changing ports, some of whose flows end by themselves."""
    short_lived()
    make_network(hvtx)
    old = run(hvtx, "a")
    addresses = (old.ipv4, old.ipv6)
    peers, mine = [], []
    with inside(world):  # type: ignore[arg-type]
        services = [socket.create_server((WORLD4, 7000)),
                    socket.create_server((WORLD6, 7000), family=socket.AF_INET6)]  # fmt: skip
    with inside(old):  # type: ignore[arg-type]
        for service, beyond in zip(services, (WORLD4, WORLD6), strict=True):
            for _ in range(5):
                mine.append(socket.create_connection((beyond, 7000), timeout=5))
                peers.append(service.accept()[0])
    with Datagrams(WORLD4, WORLD6, place=old):
        fill(*addresses, each=4000)  # what a quicker one has made by now
        time.sleep(0.7)
        hvtx("vm", "stop", "a", "--force")
    assert of(*addresses) == set()
    hvtx("vm", "rm", "a")
    new = run(hvtx, "next")
    assert (new.ipv4, new.ipv6) == addresses
    with inside(new):  # type: ignore[arg-type]
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    for peer in peers:
        peer.sendall(b"for the old owner")
    while select.select([sniffer], [], [], 0.5)[0]:
        assert b"for the old owner" not in sniffer.recv(65536)
    for one in (*mine, *peers, *services, sniffer):
        one.close()


def test_strangers_who_send_keep_no_vm_from_starting(hvtx: Program, world: lab.Namespace) -> None:
    """Datagrams to a port that is to be published, from ever other ports, of both families."""
    short_lived()
    make_network(hvtx)
    with Datagrams(HOST4, HOST6, port=5353, place=world):
        words = ("--network", "net", "-p", "5353:53/udp", "--", "sleep", "600")
        ran = hvtx("vm", "run", "names", *words)
        assert past_guests(5353) == set()
        assert "may bypass" not in ran.err, "new flows lead to the guest, and are not waited for"
        hvtx("vm", "rm", "names", "--force")


# -- flows that were not ended -----------------------------------------------------------------------

SLEEP = ("--network", "net", "--", "sleep", "600")
NOW, PORTS = "flushing:error", "flushing:ports:error"


def started(hvtx: Program, *more: str) -> tuple[str, str]:
    """A VM `a` with a port and with a flow of each family; its addresses."""
    make_network(hvtx)
    hvtx("vm", "run", "a", "-p", "5353:53/udp", *more, *SLEEP)
    addresses = (hvtx.vm("a")["interfaces"][0]["ipv4"], hvtx.vm("a")["interfaces"][0]["ipv6"])
    insert(*udp(addresses[0], "198.51.100.1", 53))
    insert(*udp(addresses[1], "2001:db8::9", 53))
    return addresses


def test_a_flush_that_failed_is_partial_stays_on_record_and_is_tried_again(hvtx: Program) -> None:
    four, six = started(hvtx)
    refused = hvtx("vm", "stop", "a", "--force", code=9, HVTX_FAILPOINT=NOW)
    assert f"{four}, {six}" in refused.err
    assert "hvtx gc --apply" in refused.err
    shown = hvtx.vm("a")
    assert shown["state"] == "crashed"
    assert {r["state"] for r in shown["resources"] if r["kind"] != "lease"} == {"releasing"}
    assert "tap" not in {r["kind"] for r in shown["resources"]}, "all else was released"
    assert set(hvtx.plan()) >= {("delete", "flows-remain")}
    assert of(four, six) != set()
    # nobody gets address or port
    for words in (("--ip", four), ("--ip", six), ("-p", "5353:1/udp")):
        taken = hvtx("vm", "create", "b", *words, *SLEEP, code=4)
        assert "has not all ended" in taken.err
        assert "hvtx gc --apply" in taken.err
    hvtx("vm", "run", "b", *SLEEP)
    assert hvtx.vm("b")["interfaces"][0]["ipv4"] != four
    hvtx("vm", "rm", "b", "--force")
    # whoever tries again, and fails again
    for again in (
        ("vm", "stop", "a"),
        ("vm", "rm", "a", "--force"),
        ("gc", "--apply"),
        ("recover",),
    ):
        hvtx(*again, code=9, HVTX_FAILPOINT=NOW)
        assert hvtx.vm("a")["state"] == "crashed", again
    hvtx("vm", "rm", "a", code=4)
    assert not hvtx.is_clean()
    # and then all has ended, and is free
    hvtx("gc", "--apply")
    assert of(four, six) == set()
    assert hvtx.is_clean()
    assert hvtx.vm("a")["state"] == "defined"
    hvtx("vm", "rm", "a")
    hvtx("vm", "run", "b", "--ip", four, "--ip", six, "-p", "5353:53/udp", *SLEEP)


@pytest.mark.parametrize("how", [("vm", "stop", "a"), ("vm", "rm", "a", "--force"), ("recover",)])
def test_the_next_try_ends_the_flows(hvtx: Program, how: tuple[str, ...]) -> None:
    addresses = started(hvtx)
    hvtx("vm", "stop", "a", "--force", code=9, HVTX_FAILPOINT=NOW)
    hvtx(*how)
    assert of(*addresses) == set()
    assert hvtx.is_clean()


@pytest.mark.parametrize("how", [("gc", "--apply"), ("recover",), ("vm", "stop", "a")])
def test_a_stop_that_was_killed_before_its_flush_ends_the_flows_later(
    hvtx: Program, how: tuple[str, ...]
) -> None:
    """The rules are gone, and nobody remembers but the record."""
    addresses = started(hvtx)
    hvtx("vm", "stop", "a", "--force", code=-9, HVTX_FAILPOINT="flushing:kill")
    assert of(*addresses) != set()
    hvtx(*how)
    assert of(*addresses) == set()
    hvtx("recover")  # closes the operation, too, where a command went on with it
    assert hvtx.is_clean()


@pytest.mark.parametrize("how", [("vm", "start", "a"), ("vm", "restart", "a")])
def test_flows_that_were_not_ended_keep_their_own_vm_from_nothing(
    hvtx: Program, how: tuple[str, ...]
) -> None:
    """It has the address again; when it stops, all ends."""
    addresses = started(hvtx)
    hvtx("vm", "stop", "a", "--force", code=9, HVTX_FAILPOINT=NOW)
    hvtx(*how, HVTX_FAILPOINT="flushing:error:1,flushing:error:2")
    assert hvtx.vm("a")["state"] == "running"
    assert hvtx.is_clean()
    hvtx("vm", "stop", "a", "--force")
    assert of(*addresses) == set()
    assert hvtx.vm("a")["state"] == "defined"


def test_a_run_that_failed_keeps_the_address_until_its_flows_ended(hvtx: Program) -> None:
    make_network(hvtx)
    hvtx("vm", "run", "a", "--network", "net", "--", "false", code=6, HVTX_FAILPOINT=NOW)
    shown = hvtx.vm("a")
    address = shown["interfaces"][0]["ipv4"]
    assert "has not all ended" in hvtx("vm", "create", "b", "--ip", address, *SLEEP, code=4).err
    hvtx("gc", "--apply")
    hvtx("vm", "show", "a", code=3)
    hvtx("vm", "create", "b", "--ip", address, *SLEEP)
    assert hvtx.is_clean()


@pytest.mark.parametrize("how", [("gc", "--apply"), ("recover",)])
def test_a_flush_that_failed_keeps_no_vm_from_starting(hvtx: Program, how: tuple[str, ...]) -> None:
    """It is told, noted, and made good for."""
    make_network(hvtx)
    insert(*udp("198.51.100.9", HOST4, 5353))
    ran = hvtx("vm", "run", "a", "-p", "5353:53/udp", *SLEEP, HVTX_FAILPOINT=PORTS)
    assert "warning: flows that existed before may bypass the VM at port 5353/udp" in ran.err
    assert "may bypass the VM at port 5353/udp" in hvtx("log").out
    assert len(past_guests(5353)) == 1
    due = hvtx.plan()["delete", "flows-remain"]
    assert [(item["kind"], item["vm"]) for item in due] == [("publish", "a")]
    hvtx(*how, code=9, HVTX_FAILPOINT=PORTS)
    assert hvtx.plan()["delete", "flows-remain"] == due
    hvtx(*how)
    assert past_guests(5353) == set()
    assert hvtx.vm("a")["state"] == "running"
    assert hvtx.is_clean()


def test_a_flush_that_was_not_made_good_for_goes_with_its_vm(hvtx: Program) -> None:
    make_network(hvtx)
    insert(*udp("198.51.100.9", HOST4, 5353))
    hvtx("vm", "run", "a", "-p", "5353:53/udp", *SLEEP, HVTX_FAILPOINT=PORTS)
    hvtx("vm", "rm", "a", "--force")
    assert hvtx.is_clean()


def test_who_sends_to_an_address_without_end_keeps_it_from_others(
    hvtx: Program, never_still: None
) -> None:
    """The host itself does, from elsewhere, before and after the VM has stopped."""
    short_lived()
    four, six = started(hvtx)
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    for address in (four, six):  # it need not ask who has it, which would hold it up
        lab.run("ip", "neigh", "replace", address, "lladdr", "02:00:00:00:00:07", "dev", bridge)
    with Datagrams(four, six, sources=(HOST4, HOST6), per_second=4000):
        refused = hvtx("vm", "stop", "a", "--force", code=9)
        assert "new ones come as quickly as they are ended" in refused.err
        hvtx("vm", "create", "b", "--ip", four, *SLEEP, code=4)
        hvtx("gc", "--apply", code=9)
    hvtx("gc", "--apply")
    assert of(four, six) == set()
    assert hvtx.is_clean()


def test_repair_ends_what_went_past_rules_that_were_flushed(hvtx: Program, firewall: str) -> None:
    """A client who kept sending meanwhile has a flow that the rules, put back, do not see."""
    started(hvtx)
    for again in (False, True):
        lab.run("nft", "flush", "ruleset")
        if firewall == "iptables":
            lab.run("iptables-legacy", "-t", "nat", "-F")
        insert(*udp("198.51.100.9", HOST4, 5353))
        if again:
            failed = hvtx("repair", code=9, HVTX_FAILPOINT=PORTS)
            assert "5353/udp" in failed.err + failed.out
            assert len(past_guests(5353)) == 1
            assert ("delete", "flows-remain") in hvtx.plan()
            hvtx("gc", "--apply")
        else:
            hvtx("repair")
        assert past_guests(5353) == set()
        assert hvtx.is_clean()


@pytest.mark.parametrize("bridged", [True, False], ids=["call-iptables", "no-call-iptables"])
def test_a_neighbour_who_sends_without_end_holds_nobody_up(
    hvtx: Program, bridged: bool, never_still: None
) -> None:
    """Another guest, or the host, sends to the address: it goes to the next owner all the same."""
    bridged_frames_see_iptables(bridged)
    short_lived()
    four, six = started(hvtx)
    other = run(hvtx, "b")
    mac = hvtx.vm("a")["interfaces"][0]["mac"]
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    for address in (four, six):
        other.run("ip", "neigh", "replace", address, "lladdr", mac, "dev", "eth0")
        lab.run("ip", "neigh", "replace", address, "lladdr", mac, "dev", bridge)
    with (
        Datagrams(four, six, place=other, per_second=2000),
        Datagrams(four, six, per_second=2000),
    ):
        hvtx("vm", "rm", "a", "--force")
        hvtx("vm", "run", "next", "--ip", four, "--ip", six, *SLEEP)
    assert {flow[1] for flow in of(four)} <= {f"src={GATEWAY4}", f"src={other.ipv4}"}


# -- how full the table is -------------------------------------------------------------------------


def test_doctor_and_metrics_tell_the_fill(
    hvtx: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 90 percent on a warning that names who fills it, and the fix."""
    four, _ = started(hvtx)
    hvtx("vm", "run", "b", *SLEEP)
    fill(four, each=90)

    def finding() -> dict[str, object]:
        found = hvtx("doctor", "--json", code=None).json()["findings"]
        return next(one for one in found if one["check"] == "conntrack")

    assert finding()["level"] == "ok"
    limit = tmp_path / "nf_conntrack_max"
    limit.write_text("100")
    monkeypatch.setattr(conntrack, "_LIMIT", str(limit))
    fill(four, each=90)
    told = finding()
    assert told["level"] == "warning"
    assert "of 100 tracked connections" in str(told["message"])
    assert str(told["evidence"]).startswith("['VM a: 9")
    assert "hvtx vm stop a" in str(told["hint"])
    assert "nf_conntrack_max=200" in str(told["hint"])
    fill(four, each=90)
    lines = dict(
        line.rsplit(" ", 1) for line in hvtx("metrics").out.splitlines() if line[:1] != "#"
    )
    assert float(lines["hvtx_conntrack_entries"]) > 90
    assert float(lines["hvtx_conntrack_entries_limit"]) == 100
    limit.write_text("1000")
    assert finding()["level"] == "ok"


def test_where_nothing_is_tracked_nothing_is_told(
    hvtx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack, "_COUNT", "/nonexistent")
    monkeypatch.setattr(conntrack, "_LIMIT", "/nonexistent")
    assert "hvtx_conntrack" not in hvtx("metrics").out
    found = hvtx("doctor", "--json", code=None).json()["findings"]
    assert [one["level"] for one in found if one["check"] == "conntrack"] == ["ok"]
