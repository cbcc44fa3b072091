"""What stands on a device, asked of the kernel for that device alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hvtx.drivers.tap.standing import devices_above, standing_on
from hvtx.host import capabilities, tun, uppers
from hvtx.host.links import Links
from hvtx.model.resource import Link
from integration import lab
from integration.kernel.test_devices import put
from integration.lab.program import Forked, Program, preload

OTHERS = 40  # devices beside the one that is asked for


@pytest.fixture
def links() -> Iterator[Links]:
    """Of a namespace with a bridge `brg`, its port `tap` and another TAP `free` without a master."""
    lab.run("ip", "link", "add", "brg", "type", "bridge")
    for name in ("tap", "free"):
        lab.run("ip", "tuntap", "add", name, "mode", "tap")
        lab.run("ip", "link", "set", name, "up")
    lab.run("ip", "link", "set", "tap", "master", "brg")
    with closing(Links()) as links:
        yield links


def seen(links: Links, name: str) -> Link:
    """A device by its name."""
    found = links.get(name=name)
    assert found is not None
    return found


def above(links: Links, name: str) -> list[str]:
    """What stands on a device, as a release asks."""
    with devices_above(links) as ask:
        return sorted(ask(seen(links, name)))


def add(kind: str, name: str = "theirs") -> None:
    """A device of a kind that stands on ``free``."""
    if kind == "vxlan":
        lab.run(
            "ip", "link", "add", name, "type", "vxlan", "id", "7", "dev", "free", "dstport", "4789"
        )
    else:
        lab.run("ip", "link", "add", name, "link", "free", "type", kind)


@pytest.mark.parametrize("kind", ["macvlan", "macvtap", "vxlan"])
@pytest.mark.parametrize("master", ["", "brg"])
def test_every_kind_is_seen(links: Links, kind: str, master: str) -> None:
    """Also what is a port of a bridge itself, and VXLAN, which no list of links shows as such."""
    assert above(links, "free") == []
    add(kind)
    if master and kind != "macvtap":
        lab.run("ip", "link", "set", "theirs", "master", master)
    assert above(links, "free") == ["theirs"]
    assert above(links, "tap") == []


def test_the_master_of_a_device_does_not_stand_on_it(links: Links) -> None:
    """The bridge of a TAP is kept by the kernel among its uppers too."""
    assert above(links, "tap") == []
    lab.run("ip", "link", "set", "free", "master", "brg")
    lab.run("ip", "link", "set", "tap", "nomaster")
    assert above(links, "free") == []


def test_a_name_that_another_device_has_by_now(links: Links) -> None:
    """What stands on a device is not taken for what stands on the one that has its name now."""
    was = seen(links, "tap")
    add("macvlan")
    lab.run("ip", "link", "set", "tap", "name", "moved")
    lab.run("ip", "link", "set", "free", "name", "tap")
    with devices_above(links) as ask, pytest.raises(OSError, match="another device"):
        ask(was)


def test_it_is_of_the_namespace_of_the_thread(links: Links) -> None:
    """What `/sys` shows is another's, of whoever mounted it."""
    add("macvlan")
    assert not Path("/sys/class/net/free").exists()
    assert above(links, "free") == ["theirs"]


@pytest.mark.parametrize("why", ["no capability", "no system call"])
def test_where_the_kernel_does_not_tell(
    links: Links, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All devices are listed then; what they say that they stand on is believed."""
    if why == "no capability":
        monkeypatch.setattr(capabilities, "has", lambda name: False)
    else:
        monkeypatch.setattr(uppers, "_FSOPEN", 999)
    assert uppers.look_up() is None
    add("macvlan")
    assert above(links, "free") == ["theirs"]
    assert above(links, "tap") == []


@pytest.mark.parametrize(
    "what",
    [
        ("root", "handle", "5:", "pfifo"),
        ("root", "pfifo"),
        ("ingress",),
        ("clsact",),
        ("root", "handle", "6:", "tbf", "rate", "1mbit", "burst", "10k", "latency", "9ms"),
    ],
)
def test_queues_of_one_device(links: Links, what: tuple[str, ...]) -> None:
    """As the list of all queues has it: nothing that the kernel put there, all that others did."""
    here, beside = seen(links, "tap").ifindex, seen(links, "free").ifindex
    assert not links.controlled(here)
    lab.run("tc", "qdisc", "add", "dev", "tap", *what)
    assert links.controlled(here)
    assert links.controlled(here, queues=False) is (what[0] != "root")
    assert not links.controlled(beside)
    links.all()  # who has a device open is known by it
    assert links.filtered() == links.filtered_among([here, beside]) == {here}
    lab.run("tc", "qdisc", "del", "dev", "tap", what[0])
    assert not links.controlled(here)


@pytest.mark.parametrize("what", [("root", "pfifo"), ("ingress",), ("clsact",)])
def test_at_filters_of_a_device_that_is_held_is_not_looked(
    links: Links, what: tuple[str, ...]
) -> None:
    """One by one as in the list: its VM uses it, and nobody is going to remove it."""
    lab.run("tc", "qdisc", "add", "dev", "tap", *what)
    index, descriptor = seen(links, "tap").ifindex, tun.open_device()
    try:
        tun.attach_free(descriptor, "tap", tun.IFF_TAP | tun.IFF_NO_PI)
        links.all()
        found = links.filtered()
        assert found == ({index} if what[0] == "root" else set())
        assert links.filtered_among([index]) == found
        assert links.controlled(index)
    finally:
        os.close(descriptor)


def test_queues_of_a_device_with_several(links: Links) -> None:
    """The kernel's own mq has queues below it, which are its own too."""
    lab.run("ip", "tuntap", "add", "many", "mode", "tap", "multi_queue")
    lab.run("ip", "link", "set", "many", "up")
    index = seen(links, "many").ifindex
    assert not links.controlled(index)
    lab.run("tc", "qdisc", "replace", "dev", "many", "root", "handle", "1:", "mq")
    assert links.controlled(index)


def test_addresses_of_one_device(links: Links) -> None:
    """Of both families, and none of a device that is gone."""
    for address in ("192.0.2.1/32", "2001:db8::1/64"):
        lab.run("ip", "addr", "add", address, "dev", "free")
    lab.run("ip", "addr", "add", "192.0.2.9/32", "dev", "tap")
    index = seen(links, "free").ifindex
    found = {address.address for address in links.addresses(index) if not address.by_itself}
    assert found == {"192.0.2.1/32", "2001:db8::1/64"}
    lab.run("ip", "link", "del", "free")
    assert links.addresses(index) == []
    assert not links.controlled(index)


def test_what_a_release_asks_does_not_depend_on_the_others(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same requests and the same answers, beside no other device and beside many."""
    answers = 0
    receive = type(links._channel)._receive

    def counted(channel: object) -> bytes:
        nonlocal answers
        data = receive(channel)  # type: ignore[arg-type]
        answers += len(data)
        return data

    def asked() -> int:
        nonlocal answers
        answers = 0
        with devices_above(links) as ask:
            standing_on(seen(links, "tap"), links, ask)
        return answers

    monkeypatch.setattr(type(links._channel), "_receive", counted)
    alone = asked()
    for number in range(OTHERS):
        lab.run("ip", "tuntap", "add", f"more{number}", "mode", "tap")
        lab.run("ip", "link", "set", f"more{number}", "master", "brg", "up")
    assert asked() == alone


@pytest.mark.parametrize("what", ["vxlan", "macvlan"])
@pytest.mark.parametrize("verb", ["stop", "gc"])
def test_a_stop_keeps_what_stands_on_its_device(what: str, verb: str) -> None:
    """By whichever way a VM goes, a device of others on its TAP stays, and the TAP for it."""
    preload()
    lab.duplicate_detection("1")
    program: Program = Forked(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    program("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    device = program.device("web")
    if what == "vxlan":
        words = ("id", "7", "dev", device, "dstport", "4789")
        lab.run("ip", "link", "add", "theirs", "type", "vxlan", *words)
    else:
        put(what, device)
    if verb == "stop":
        program("vm", "stop", "--force", "web", code=None)
    else:
        lab.end(program.vm("web")["pid"])
        program("gc", "--apply", code=None)
    with closing(Links()) as links:
        assert links.get(name="theirs") is not None
        assert links.get(name=device) is not None
    lab.run("ip", "link", "del", "theirs")
    program("gc", "--apply")
    with closing(Links()) as links:
        assert links.get(name=device) is None
