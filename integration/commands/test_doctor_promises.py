"""What doctor, gc and explain promise as a fix is run, and then doctor is content."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hvtx.commands import doctor as diagnose
from hvtx.drivers.nftables import NftablesDriver
from hvtx.model.resource import Resource
from integration import lab
from integration.lab.program import Forked, Program, preload


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """A program on a backend, with a network and a running VM `web`; doctor's check of damage."""
    preload()
    only = {"damage": diagnose.CHECKS["damage"]}  # the others take seconds
    monkeypatch.setattr("hvtx.commands.doctor.CHECKS", only)
    program = Forked(HVTX_FIREWALL=request.param)
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    program("vm", "run", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    yield program
    pid = program.vm("web")["pid"]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Host:
    """The devices of the network and the VM, and ways to spoil them."""

    def __init__(self, hvtx: Program) -> None:
        self.tap = hvtx.device("web")
        self.bridge: str = hvtx("network", "show", "net", "--json").json()["bridge"]
        self.other: lab.Namespace | None = None

    def elsewhere(self) -> None:
        self.other = lab.Namespace()
        lab.run("ip", "link", "set", self.tap, "netns", str(self.other.pid))

    def replaced(self) -> None:
        lab.run("ip", "link", "del", self.tap)
        lab.run("ip", "tuntap", "add", self.tap, "mode", "tap")

    def renamed(self, device: str) -> None:
        lab.run("ip", "link", "set", device, "down")
        lab.run("ip", "link", "set", device, "name", "renamed0")
        lab.run("ip", "link", "set", "renamed0", "up")


def ip(*words: str) -> Callable[[Host], Any]:
    return lambda host: lab.run("ip", *(w.format(tap=host.tap, bridge=host.bridge) for w in words))


RESTART, REPAIR = "hvtx vm restart web", "hvtx repair"
DAMAGE: dict[str, tuple[Callable[[Host], Any], str]] = {
    "TAP gone": (ip("link", "del", "{tap}"), RESTART),
    "TAP in another namespace": (Host.elsewhere, RESTART),
    "TAP down": (ip("link", "set", "{tap}", "down"), REPAIR),
    "TAP off its bridge": (ip("link", "set", "{tap}", "nomaster"), REPAIR),
    "TAP renamed": (lambda host: host.renamed(host.tap), REPAIR),
    "TAP's MTU": (ip("link", "set", "{tap}", "mtu", "1400"), REPAIR),
    "TAP's MAC": (ip("link", "set", "{tap}", "address", "02:00:00:00:00:09"), REPAIR),
    "TAP's mark taken": (ip("link", "set", "{tap}", "alias", ""), "ip link set dev {tap} alias "),
    "TAP's mark changed": (
        ip("link", "set", "{tap}", "alias", "a wire"),
        "ip link set dev {tap} alias ",
    ),
    "bridge gone": (ip("link", "del", "{bridge}"), REPAIR),
    "bridge down": (ip("link", "set", "{bridge}", "down"), REPAIR),
    "bridge renamed": (lambda host: host.renamed(host.bridge), REPAIR),
    "bridge's mark taken": (
        ip("link", "set", "{bridge}", "alias", ""),
        "ip link set dev {bridge} alias ",
    ),
    "address gone": (ip("addr", "del", "10.77.0.1/24", "dev", "{bridge}"), REPAIR),
    "rules flushed": (lambda _: lab.run("nft", "flush", "ruleset"), REPAIR),
}


def damage(hvtx: Program) -> list[dict[str, Any]]:
    found = hvtx("doctor", "--json", code=None).json()["findings"]
    return [f for f in found if f["check"] == "damage" and f["level"] != "ok"]


def follow(hvtx: Program, hint: str) -> None:
    """Do what was printed, as a person would type it."""
    words = shlex.split(hint)
    if words[0] == "hvtx":
        more = ["--timeout", "1"] if "restart" in words else []
        hvtx(*words[1:], *more)
    else:
        lab.run(*words)


@pytest.mark.parametrize("what", DAMAGE)
def test_what_doctor_promises_is_kept(hvtx: Program, what: str) -> None:
    """Each hint, followed as it stands, ends the finding that it was given for."""
    spoil, promised = DAMAGE[what]
    host = Host(hvtx)
    spoil(host)
    found = damage(hvtx)
    assert found, what
    hints = {finding["hint"] for finding in found}
    wanted = promised.format(tap=host.tap, bridge=host.bridge)
    assert any(hint.startswith(wanted) for hint in hints), hints
    for _ in range(3):  # a mark that is back may show more
        for hint in dict.fromkeys(finding["hint"] for finding in damage(hvtx)):
            follow(hvtx, hint)
    assert damage(hvtx) == []
    done = hvtx("repair", "--json").json()
    assert (done["repaired"], done["failed"]) == ([], [])
    if host.other:
        host.other.close()


@pytest.mark.parametrize("what", ["TAP gone", "TAP in another namespace"])
def test_nobody_promises_a_device_that_cannot_come_back(hvtx: Program, what: str) -> None:
    """gc, explain, doctor and repair say the same: restart; and that does it."""
    host = Host(hvtx)
    DAMAGE[what][0](host)
    item = next(i for i in hvtx.plan()["skip", "lost"] if i["kind"] == "tap")
    told = hvtx("explain", host.tap, "--json").json()
    failed = hvtx("repair", "--json", code=9).json()["failed"]
    assert [(f["kind"], f["key"]) for f in failed] == [("tap", host.tap)]
    for words in (item["message"], told["message"], failed[0]["why"]):
        assert RESTART in words
        assert "hvtx repair" not in words
    hvtx("vm", "restart", "web", "--timeout", "1")
    assert damage(hvtx) == []
    if host.other:
        host.other.close()


def test_a_device_in_the_place_of_a_lost_one(hvtx: Program) -> None:
    """Somebody else's: repair is not promised; once it is gone, a restart is, and does it."""
    host = Host(hvtx)
    host.replaced()
    hints = [finding["hint"] for finding in damage(hvtx)]
    assert len(hints) == 1
    assert hints[0].endswith(f"once it is gone: {RESTART}")
    lab.run("ip", "link", "set", host.tap, "name", "theirs0")
    assert [finding["hint"] for finding in damage(hvtx)] == [RESTART]
    follow(hvtx, RESTART)
    assert damage(hvtx) == []
    assert "theirs0" in lab.run("ip", "-o", "link")


def test_put_back_is_said_after_a_second_look(
    hvtx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fix that came to nothing is no fix: 9, the thing, and what is still missing."""
    address = ("10.77.0.1/24", "dev", Host(hvtx).bridge)
    lab.run("ip", "addr", "del", *address)
    lab.run("nft", "flush", "ruleset")

    def nothing(self: object, resources: list[Resource]) -> dict[int, Any]:
        return {row.id: {} for row in resources}

    with monkeypatch.context() as patched:
        patched.setattr(NftablesDriver, "repair", nothing)
        ran = hvtx("repair", "--json", code=9).json()
        text = hvtx("repair", code=9).out
    assert "address" in {item["kind"] for item in ran["repaired"]}
    wrong = {item["kind"] for item in ran["failed"]}
    assert "filter" in wrong
    assert not wrong & {item["kind"] for item in ran["repaired"]}
    assert all("could not be put back" in item["why"] for item in ran["failed"])
    assert "put back: filter" not in [line[:16] for line in text.splitlines()]
    events = hvtx("log", "--event", "repaired", "--json").json()["entries"]
    assert "filter" not in {entry["kind"] for entry in events}
    assert hvtx("repair", "--json").json()["failed"] == []
    assert damage(hvtx) == []


def test_doctor_does_not_call_whole_what_it_could_not_see(
    hvtx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that failed is neither damage nor ok."""
    from hvtx.errors import HostRefused

    def unreadable(self: object) -> None:
        raise HostRefused("the ruleset could not be read")

    with monkeypatch.context() as patched:
        patched.setattr(NftablesDriver, "observe", unreadable)
        found = damage(hvtx)
    assert found
    assert all("could not be inspected" in finding["message"] for finding in found)
    assert damage(hvtx) == []
