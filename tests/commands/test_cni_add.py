"""What ADD refuses, and whose host ports are, on the fake kernel; the rest: integration/network."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hvtx import Conflict, Host
from hvtx.commands import cni_add, network_set, vm_create
from hvtx.engine.checks import dhcp
from hvtx.model.attachment import AttachmentKey, AttachmentRequest
from hvtx.model.vm import Publish
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


# -- host ports ---------------------------------------------------------------------------------

PORT = Publish("tcp", "192.0.2.7", 8080, 80)  # an address of no device: nobody has the port there
OTHER = Publish("tcp", "192.0.2.7", 8081, 80)


@pytest.fixture
def ports_world(tmp_path: Path) -> Iterator[FakeWorld]:
    made = FakeWorld(tmp_path)
    yield made
    made.close()


def asked(network: str, netns: str, container: str = "c0ffee") -> AttachmentRequest:
    number = {"one": 1, "two": 2}[network]
    key = AttachmentKey(network, container, "eth0")
    return AttachmentRequest(key, network, netns, (f"10.88.{number}.0/24",), publish=(PORT, OTHER))


def published(host: Host) -> dict[str, list[Publish]]:
    """By the network of each attachment."""
    vms = [shown.vm for shown in host.vm.ls()]
    return {vm.attachment.network: list(vm.interfaces[0].publish) for vm in vms if vm.attachment}


def test_a_dead_attachment_has_no_port_of_its_container(ports_world: FakeWorld) -> None:
    """Its namespace ended without a DEL, and the container starts anew in another network."""
    ports_world.kernel.begin_namespace("/run/netns/first")
    ports_world.kernel.begin_namespace("/run/netns/second")
    with ports_world.kernel.run(), Host() as host:
        host.attachments.add(asked("one", "/run/netns/first"))
        ports_world.kernel.end_namespace("/run/netns/first")
        host.attachments.add(asked("two", "/run/netns/second"))
        assert published(host) == {"two": [PORT, OTHER]}


def test_a_living_attachment_keeps_the_ports_of_its_container(ports_world: FakeWorld) -> None:
    path = ports_world.container()
    with ports_world.kernel.run(), Host() as host:
        host.attachments.add(asked("one", path)._replace(publish=(PORT,)))
        second = asked("two", path)
        host.attachments.add(second._replace(key=second.key._replace(ifname="eth1")))
        assert published(host) == {"one": [PORT], "two": [OTHER]}
        with pytest.raises(Conflict, match="port 8080/tcp is published"):
            host.attachments.add(asked("one", path, "beef"))


@pytest.mark.parametrize("meanwhile", ["it is worked on", "it is gone"])
def test_somebody_else_ends_the_dead_one(
    ports_world: FakeWorld, meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What he works on is left to him, and waited for by nobody."""
    ports_world.kernel.begin_namespace("/run/netns/first")
    path, key = ports_world.container(), asked("one", "").key
    scope_of = cni_add.vm_scope

    def late(runtime: object, name: str) -> object:
        with Host() as other:
            other.attachments.delete(key)
        return scope_of(runtime, name)  # type: ignore[arg-type]

    with ports_world.kernel.run(), Host() as host:
        first = host.attachments.add(asked("one", "/run/netns/first"))
        ports_world.kernel.end_namespace("/run/netns/first")
        if meanwhile == "it is gone":
            monkeypatch.setattr(cni_add.Runtime, "unlock", lambda *_: None)
            monkeypatch.setattr(cni_add, "vm_scope", late)
            monkeypatch.setattr(cni_add.Runtime, "try_lock", lambda *_: True)
        else:
            monkeypatch.setattr(cni_add.Runtime, "try_lock", lambda *_: False)
        made = host.attachments.add(asked("two", path))
        monkeypatch.undo()
        kept = [PORT, OTHER]
        if meanwhile == "it is gone":
            assert published(host) == {"two": kept}
        else:
            assert published(host) == {"one": kept, "two": []}
            assert {shown.vm.name for shown in host.vm.ls()} == {first.vm, made.vm}
