"""TAPs that are made together: the same as one by one, all or none, in few calls."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from hvtx.drivers.base import Host
from hvtx.drivers.tap.driver import TapDriver
from hvtx.errors import HvtxError
from hvtx.host import failpoint, tun
from hvtx.host.netlink import Channel, attribute
from hvtx.model.resource import Kind, Resource, State
from integration import lab

_MANY = 40  # more than are made in one go
_BRIDGE = "hvnet"


@pytest.fixture
def driver() -> Iterator[TapDriver]:
    """The driver alone, and a bridge."""
    lab.run("ip", "link", "add", _BRIDGE, "type", "bridge")
    lab.run("ip", "link", "set", _BRIDGE, "up")
    with closing(TapDriver(Host("aaaaaaaaaa", "", "", 1.0))) as own:
        yield own


def row(number: int, master: int) -> Resource:
    """A row of a TAP; what differs between two is as long."""
    spec = {
        "device": f"hvmade{number:03d}",
        "ifindex": 1_000_000 + number,
        "bridge": _BRIDGE,
        "master": master,
        "mac": f"fe:00:00:00:00:{number:02x}",
        "mtu": 1400,
        "guard": {
            "mac": f"02:00:00:00:00:{number:02x}", "ipv4": f"10.78.0.{number}", "ipv6": None,
            "gateway6": None, "apart": None,
        },
    }  # fmt: skip
    mark = f"hvtx:1:aaaaaaaaaa:{number:03d}.{'b' * 16}"
    return Resource(
        number, Kind.TAP, spec["device"], State.INTENDED, mark, spec, {}, 1, 1, "v", None
    )


def master() -> int:
    return int(json.loads(lab.run("ip", "-j", "link", "show", _BRIDGE))[0]["ifindex"])


def shown(number: int) -> str:
    """All that `ip` and `tc` tell of a device, with its own numbers taken out."""
    name = f"hvmade{number:03d}"
    words = lab.run("ip", "-d", "link", "show", name) + lab.run(
        "bridge", "-d", "link", "show", "dev", name
    )
    words += lab.run("tc", "filter", "show", "dev", name, "ingress")
    own = (
        (f"1{number:06d}", "INDEX"), (name, "NAME"), (f"{number:03d}.", "ROW."),
        (f"fe:00:00:00:00:{number:02x}", "MAC"),
    )  # fmt: skip
    for text, instead in own:
        words = words.replace(text, instead)
    words = re.sub(r"(port_id|port_no|designated_port) \S+", "", words)
    return "\n".join(line for line in words.splitlines() if "bytecode" not in line)


def program(number: int) -> str:
    """The filter that holds the guest to its addresses, as `tc` tells it."""
    words = lab.run("tc", "filter", "show", "dev", f"hvmade{number:03d}", "ingress")
    (line,) = [line for line in words.splitlines() if "bytecode" in line]
    return line


def test_many_are_what_each_would_be_alone(driver: TapDriver) -> None:
    bridge = master()
    alone = driver.create([row(250, bridge)])
    rows = [row(number, bridge) for number in range(1, _MANY + 1)]
    made = driver.create(rows)
    assert made[7] == {**alone[250], "ifindex": 1_000_007, "mac": "fe:00:00:00:00:07"}
    assert list(made) == [one.id for one in rows]
    like = shown(250)
    assert [shown(one.id) for one in rows] == [like] * _MANY
    programs = {program(one.id) for one in rows}
    assert len(programs) == _MANY, "each has its own addresses"


def test_many_are_given_all_in_few_calls(
    driver: TapDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for sixteen devices; what is asked of each is of its addresses alone."""
    bridge = master()
    driver.create([row(250, bridge)])
    refusals, asked = Channel.refusals, []

    def counted(channel: Channel, wanted: Any) -> Any:
        asked.extend([len(wanted)] if wanted else [])
        return refusals(channel, wanted)

    def never(*_: object) -> None:
        raise AssertionError("one by one")

    monkeypatch.setattr(Channel, "refusals", counted)
    monkeypatch.setattr(Channel, "transact", never)
    driver.create([row(number, bridge) for number in range(1, _MANY + 1)])
    assert len(asked) <= 3 + 2, asked  # sixteen at a time are given things, 32 shown


def small(driver: TapDriver) -> Channel:
    """The driver's socket, which takes some 4 KB at once, as where net.core.wmem_max is least."""
    channel = driver.links.channel
    channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with pytest.raises(OSError, match="too long") as refused:
        channel._socket.send(bytes(16_384))
    assert refused.value.errno == errno.EMSGSIZE
    return channel


def test_a_socket_that_takes_little_at_once_makes_the_same(driver: TapDriver) -> None:
    """In more calls; each device has all that it would have otherwise."""
    bridge = master()
    driver.create([row(250, bridge)])
    small(driver)
    made = driver.create([row(number, bridge) for number in range(1, 17)])
    assert len(made) == 16
    assert all(one["guarded"] and one["summed"] for one in made.values())
    like = shown(250)
    assert [shown(number) for number in range(1, 17)] == [like] * 16


def test_a_socket_that_takes_little_tells_each_refusal_at_its_place(driver: TapDriver) -> None:
    """Of 200 questions each third is for a device that is not there."""
    there, body = master(), struct.Struct("=BxHiII")
    asked = [(16, 0, body.pack(0, 0, there if n % 3 else 999_999, 0, 0) + attribute(20, bytes(200)))
             for n in range(200)]  # fmt: skip
    refused = small(driver).refusals(asked)
    assert {n: one.errno for n, one in refused.items()} == dict.fromkeys(
        range(0, 200, 3), errno.ENODEV
    )
    with pytest.raises(OSError, match="too long"):
        driver.links.channel.refusals([(16, 0, bytes(16_384))])


@pytest.mark.parametrize("bad", [3, 16])
def test_where_one_fails_none_of_them_is_left(driver: TapDriver, bad: int) -> None:
    """Its bridge is gone: those that were made with it were not told to persist."""
    bridge = master()
    before = lab.run("ip", "-j", "-d", "link")
    rows = [row(number, bridge if number != bad else 999_999) for number in range(1, 17)]
    with pytest.raises(HvtxError, match=f"of hvmade{bad:03d} is gone"):
        driver.create(rows)
    after = lab.run("ip", "-j", "-d", "link")
    assert [one["ifname"] for one in json.loads(after)] == [
        one["ifname"] for one in json.loads(before)
    ]


def test_all_have_their_marks_before_one_persists(
    driver: TapDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end at the point before the first is told to persist leaves none."""
    bridge = master()
    rows = [row(number, bridge) for number in range(1, 5)]
    seen: list[str] = []
    persist = tun.set_persistent

    def looked(descriptor: int, on: bool) -> None:
        seen.append(lab.run("ip", "link"))
        persist(descriptor, on)

    failpoint.arm("marked:tap:error")
    try:
        with pytest.raises(HvtxError, match="marked:tap"):
            driver.create(rows)
    finally:
        failpoint.arm("")
    assert "hvmade" not in lab.run("ip", "-o", "link")
    monkeypatch.setattr(tun, "set_persistent", looked)
    driver.create(rows)
    assert [one.mark for one in rows if one.mark not in seen[0]] == []


@pytest.mark.parametrize("limit", [{}, {"in": 10_000_000, "out-packets": 1000}])
def test_with_few_descriptors_fewer_are_made_at_a_time(
    driver: TapDriver, limit: dict[str, int]
) -> None:
    """The devices leave what a limit takes after them: a map, a program, a socket."""
    bridge = master()

    def limited(number: int) -> Resource:
        one = row(number, bridge)
        return one._replace(spec={**one.spec, "limit": limit}) if limit else one

    driver.create([limited(250)])  # what stays open is open
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
    taken = []
    with suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    try:
        for _ in range(6 if limit else 3):
            os.close(taken.pop())
        made = driver.create([limited(number) for number in range(1, 13)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
    assert len(made) == 12
    numbered = r"\bid \d+"  # each limit is a program of its own
    assert re.sub(numbered, "", shown(12)) == re.sub(numbered, "", shown(250))


def test_each_address_is_announced_by_one_write(
    driver: TapDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the bridge has learnt by it behind which port the guest is."""
    one, two = row(1, master()), row(2, master())
    more = {"ipv6": "fd78::2", "more": ["10.78.0.3"]}
    two = two._replace(spec={**two.spec, "guard": {**two.spec["guard"], **more}})
    written, learnt = [], []
    write = os.write

    def counted(descriptor: int, data: bytes) -> int:
        written.append(write(descriptor, data))
        learnt.append(lab.run("bridge", "fdb", "show", "br", _BRIDGE, "dynamic"))
        return written[-1]

    monkeypatch.setattr(os, "write", counted)
    driver.create([one, two])
    monkeypatch.undo()
    assert written == [10 + 42, 10 + 42, 10 + 86, 10 + 42]
    assert "02:00:00:00:00:01 dev hvmade001 master" in learnt[0]
    assert "02:00:00:00:00:02 dev hvmade002 master" in learnt[1]


def test_an_announcement_that_the_kernel_does_not_take_is_left(
    driver: TapDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A help, never a reason for a start to fail: EIO of a device that others took down."""
    send, problems = tun.send, []

    def down(descriptor: int, frame: bytes) -> None:
        lab.run("ip", "link", "set", "hvmade001", "down")
        try:
            send(descriptor, frame)
        except OSError as problem:
            problems.append(errno.errorcode[problem.errno or 0])
            raise

    monkeypatch.setattr(tun, "send", down)
    assert driver.create([row(1, master())])[1]["ifindex"] == 1_000_001
    assert problems == ["EIO"]
