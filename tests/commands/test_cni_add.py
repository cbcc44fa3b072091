"""What ADD refuses, on the fake kernel; all else of it is in integration/network/test_attachments.py."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hvtx.commands import network_set, vm_create
from hvtx.engine.checks import dhcp
from hvtx.errors import Conflict
from hvtx.store import records
from tests.machine import attachment_verbs
from tests.machine.attachment_verbs import WORD
from tests.machine.fake_world import FakeWorld

FAR = "fd77:0:0:5::9"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorld]:
    """A host with a network that is wider than DHCPv6 serves; ADD asks for an address beyond that."""
    made = FakeWorld(tmp_path)
    ran = made.hvtx("network", "create", "net", "--subnet", "fd77::/48", "--no-dhcp")
    assert ran.code == 0, ran
    request = attachment_verbs.request
    monkeypatch.setattr(attachment_verbs, "SUBNETS", ("fd77::/48",))
    monkeypatch.setattr(
        attachment_verbs, "request", lambda *words: request(*words)._replace(addresses=(FAR,))
    )
    yield made
    made.close()


def put_tap(world: FakeWorld) -> None:
    """A VM is behind a TAP in the container, on record: the fake host makes no such device."""
    with closing(sqlite3.connect(world.state / "hvtx.db")) as sql, sql:
        sql.execute(
            "UPDATE resource SET spec = json_set(spec, '$.tap', json('{\"name\": \"tap0\"}'))"
            " WHERE kind = 'veth'"
        )


def add(world: FakeWorld, *tap: str) -> tuple[int, str]:
    """ADD of a container, or of a VM behind a TAP in it; its exit code, and what it says."""
    ran = world.hvtx(WORD, "add", world.act("contain", name="c1", nsid=""), "c1", *tap)
    return ran.code, ran.err


def test_a_vm_in_a_pod_is_refused_an_address_that_it_would_ask_for_in_vain(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container is given it with its interface."""
    refuse = vm_create.refuse_never_given
    monkeypatch.setattr(
        vm_create, "refuse_never_given", lambda ip, net: refuse(ip, net._replace(dhcp=True))
    )
    before = world.look().links
    code, said = add(world, "tap0")
    assert (code, FAR in said, "cannot be given by DHCPv6" in said) == (2, True, True), said
    assert world.look().links == before
    assert world.record().vms == {}
    world.act("uncontain", name="c1")
    assert add(world)[0] == 0


@pytest.mark.parametrize("tap", [False, True], ids=["a container", "a VM in a pod"])
def test_what_is_there_already_is_told_where_it_asks(
    world: FakeWorld, tap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `network set --dhcp`, which is refused, and by doctor where an earlier version gave it."""
    assert add(world)[0] == 0
    if tap:
        put_tap(world)
    monkeypatch.setattr(network_set.network_service, "wanted", lambda *_, **__: True)

    def further(*_: object, **__: object) -> None:
        raise Conflict("it is not refused")

    monkeypatch.setattr(network_set, "warn_of_useless", further)
    monkeypatch.setattr(network_set, "needs_of", further)
    ran = world.hvtx("network", "set", "net", "--dhcp")
    said = ("VMs have other addresses", "has to DEL") if tap else ("it is not refused",)
    assert all(words in ran.err for words in said), ran.err
    with closing(sqlite3.connect(f"file:{world.state / 'hvtx.db'}?mode=ro", uri=True)) as sql:
        pairs = records.resources_of_kind(sql, "veth")
        (network,) = records.networks(sql)
        asking = dhcp.service_changes.asking(records.vms(sql), pairs)
    served = network._replace(dhcp=True)
    told = [finding.evidence[0] for finding in dhcp._never_given([served], asking)]
    assert [words.endswith(FAR) for words in told] == [True] * tap
