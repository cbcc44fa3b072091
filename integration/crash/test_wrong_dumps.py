"""gc with a wrong view of the host: dumps that are old, that miss an object, that have one twice.

In the manner of Sieve (OSDI '22): only what gc is shown is perturbed, by hooks in the forked child
that runs it; what it asks of a single object is the truth. Whatever it deletes then that belongs to
a live VM, a network or somebody else is a bug, and so is a record that it closes while the object is
there: the next gc, with a true view, could not collect it any more.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hvtx.drivers.iptables import IptablesDriver
from hvtx.drivers.nftables import NftablesDriver
from hvtx.drivers.nftables.own_elements import OwnElements
from hvtx.engine import seen_host
from hvtx.host.links import Links
from hvtx.host.nfbulk import Bulk
from hvtx.model.resource import Address, Entry, Link
from integration import lab
from integration.crash.test_failpoints import SLEEP, end_everything
from integration.lab.program import Forked, Ran, child, preload, text_of
from integration.lab.workers import end_survivors, guest, wrong

ALL = os.environ.get("HVTX_COMPANY") == "all"
LIVING = ("alive", "again")
DYING = ("dead", "half")


class Seen(NamedTuple):
    """What dumps showed at one moment."""

    links: Sequence[Link]
    addresses: Sequence[Address]
    entries: dict[str, tuple[Entry, ...]]


View = Callable[[Seen], Seen]


def look(firewall: str) -> Seen:
    """The dumps of now, as gc makes them."""
    from hvtx.drivers.base import Host

    links = Links()
    try:
        host = Host("x" * 10, "/nowhere", "/nowhere", 10.0)
        native = NftablesDriver(host)
        entries = {"nftables": native.observe()}
        native.close()
        if firewall == "iptables":
            entries["iptables"] = IptablesDriver(host).observe()
        return Seen(links.all(), links.addresses(), entries)
    finally:
        links.close()


def deceive(view: View) -> None:
    """Let the snapshots of this process be seen through ``view``; looks at one object stay true."""

    class Dumps(Links):
        def all(self) -> list[Link]:
            return list(view(Seen(super().all(), (), {})).links)

        def addresses(self) -> list[Address]:
            return list(view(Seen((), super().addresses(), {})).addresses)

    seen_host.Links = Dumps  # type: ignore[misc]
    for name, driver in (("nftables", NftablesDriver), ("iptables", IptablesDriver)):

        def observe(self: Any, true: Any = driver.observe, name: str = name) -> tuple[Entry, ...]:
            return view(Seen((), (), {name: true(self)})).entries.get(name, ())

        driver.observe = observe  # type: ignore[method-assign]

    def bulk(self: Any, true: Any = NftablesDriver.observe_bulk) -> tuple[Any, OwnElements]:
        entries, own = true(self)
        everything = (*entries, *own.entries())
        seen = view(Seen((), (), {"nftables": everything})).entries.get("nftables", ())
        return _apart(seen, own)

    NftablesDriver.observe_bulk = bulk  # type: ignore[method-assign]


def _apart(seen: Sequence[Entry], own: Any) -> tuple[tuple[Entry, ...], OwnElements]:
    """What is seen, with those of our own elements that are among it as bytes."""
    found, here, inside = OwnElements(own._table), set(seen), set[Entry]()
    for (family, name), columns in own._sets.items():
        one = OwnElements(own._table)
        one.add(family, name, columns)
        elements = list(zip(one.entries(), *columns, strict=True))
        kept = [whole for whole in elements if whole[0] in here]
        inside |= {entry for entry, *_ in kept}
        if kept:
            _, *left = zip(*kept, strict=True)
            found.add(family, name, Bulk(*map(list, left)))
    return tuple(entry for entry in seen if entry not in inside), found


def through(view: View, hvtx: Forked, *argv: str) -> Ran:
    """Run a command whose dumps are perturbed."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    pid = os.fork()
    if pid == 0:
        try:
            deceive(view)
            child(argv, hvtx.environment, out, err)
        finally:
            os._exit(70)
    _, status = os.waitpid(pid, 0)
    return Ran(os.waitstatus_to_exitcode(status), text_of(out), text_of(err))


# -- the host ------------------------------------------------------------------------------------------


class Scene:
    """VMs in all conditions, somebody else's device, and the dumps of each step of the way."""

    def __init__(self, hvtx: Forked, firewall: str, reports: Path) -> None:
        self.hvtx, self.firewall, self.reports = hvtx, firewall, reports
        self.past: list[Seen] = []
        hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
        lab.run("ip", "tuntap", "add", "tap-foo", "mode", "tap")
        for number, name in enumerate((*LIVING, *DYING)):
            port = f"{8080 + number}:80"
            program = guest(reports) if name in LIVING else SLEEP
            hvtx("vm", "create", name, "--network", "net", "-p", port, *program)
        self.note()
        hvtx("vm", "start", "again")
        self.note()
        self.kill("again")
        self.note()
        hvtx("gc", "--apply")
        self.note()
        for name in LIVING:
            hvtx("vm", "start", name)
            self.note()

    def note(self) -> None:
        """Keep what dumps show now."""
        self.past.append(look(self.firewall))

    def kill(self, name: str) -> None:
        lab.end(self.hvtx.vm(name)["pid"])

    def wound(self) -> None:
        """Let those die who are to die, each in its way."""
        self.hvtx("vm", "start", "dead")
        self.note()
        self.kill("dead")
        point = "acted:filter:kill"
        self.hvtx("vm", "start", "half", code=-signal.SIGKILL, HVTX_FAILPOINT=point)
        self.note()

    def dying(self) -> set[str]:
        """Words that tell the things of those that died: marks, devices, addresses."""
        words: set[str] = set()
        for name in DYING:
            vm = self.hvtx.vm(name)
            words |= {row["mark"] for row in vm["resources"]}
            words |= {row["key"] for row in vm["resources"] if row["kind"] == "tap"}
            words |= {interface["ipv4"] for interface in vm["interfaces"]}
        return words

    def living(self) -> list[Any]:
        """The VMs that live, as the program shows them; each process says that all is well."""
        found = [self.hvtx.vm(name) for name in LIVING]
        for vm in found:
            os.kill(vm["pid"], 0)
            assert wrong(self.reports, vm["name"], vm["pid"]) == ""
        return found


def objects() -> set[str]:
    """Every object of the host by itself, as text."""
    dump: Any = lab.dump()
    found = {
        json.dumps([link[key] for key in ("ifindex", "ifname", "address")] + [link.get("ifalias")])
        for link in dump["links"]
    }
    for item in dump["nft"]:
        for thing in (item.get("set"), item.get("map")):
            elements = thing.pop("elem", []) if thing else []
            found |= {json.dumps([thing["name"], element]) for element in elements}
        found.add(json.dumps(item))
    found |= {f"{table} {line}" for table, lines in dump["legacy"].items() for line in lines}
    return found


# -- the views -----------------------------------------------------------------------------------------


def old(past: Seen) -> View:
    """All that is seen is of another time."""

    def view(now: Seen) -> Seen:
        return Seen(
            past.links if now.links else (),
            past.addresses if now.addresses else (),
            {name: past.entries.get(name, ()) for name in now.entries},
        )

    return view


def without(unseen: Callable[[Any], bool]) -> View:
    """Some links or entries are not seen."""

    def view(now: Seen) -> Seen:
        return Seen(
            [link for link in now.links if not unseen(link)],
            [address for address in now.addresses if not unseen(address)],
            {n: tuple(e for e in own if not unseen(e)) for n, own in now.entries.items()},
        )

    return view


def twice(doubled: Callable[[Any], bool]) -> View:
    """Some are seen twice."""

    def view(now: Seen) -> Seen:
        return Seen(
            [copy for link in now.links for copy in [link] * (1 + doubled(link))],
            [copy for address in now.addresses for copy in [address] * (1 + doubled(address))],
            {
                name: tuple(copy for e in own for copy in [e] * (1 + doubled(e)))
                for name, own in now.entries.items()
            },
        )

    return view


def views(now: Seen, past: Sequence[Seen]) -> dict[str, View]:
    """All of them: each time, each object away, each object twice, whole kinds away and twice."""
    found: dict[str, View] = {f"{len(past) - n} steps old": old(p) for n, p in enumerate(past)}
    entries = [entry for own in now.entries.values() for entry in own if entry.mark]
    marks = sorted({entry.mark for entry in entries if entry.mark})
    links = [link for link in now.links if link.alias or link.kind == "tun"]
    for make, word in ((without, "without"), (twice, "twice")):
        for link in links:
            found[f"{word} {link.name}"] = make(lambda x, link=link: x == link)
        for mark in marks:
            found[f"{word} {mark}"] = make(lambda x, mark=mark: getattr(x, "mark", None) == mark)
        for n, entry in enumerate(entries):
            found[f"{word} entry {n}"] = make(lambda x, entry=entry: x == entry)
        for kind in (Link, Address, Entry):
            found[f"{word} any {kind.__name__}"] = make(lambda x, kind=kind: isinstance(x, kind))
        found[f"{word} anything"] = make(lambda x: True)
    return found


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """A scene on a backend."""
    preload()
    reports = lab.open_place()
    hvtx = Forked(HVTX_FIREWALL=request.param)
    try:
        yield Scene(hvtx, request.param, reports)
        end_everything(hvtx)
    finally:
        end_survivors(reports)


def chosen(names: Sequence[str], turn: int) -> list[int]:
    """Places of all, or of one of some sorts."""
    if ALL:
        return list(range(len(names)))
    sorts: dict[tuple[str, ...], list[int]] = {}
    for place, name in enumerate(names):
        words = name.split(" ")
        sort = "old" if words[-1] == "old" else f"{words[0]} {words[1][:4]}"
        sorts.setdefault((sort,), []).append(place)
    some = [own[turn * 7 % len(own)] for own in sorts.values()]
    return some[turn % 2 :: 3]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scene", ["nftables", "iptables"], indirect=True)
def test_a_wrong_view_deletes_nothing_that_a_true_one_keeps(scene: Scene) -> None:
    """And the next gc, with a true view, collects the rest."""
    hvtx, alive, tried, refused = scene.hvtx, scene.living(), 0, 0
    scene.wound()
    past = list(scene.past)
    every = views(look(scene.firewall), past)
    for turn, place in enumerate(chosen(list(every), len(scene.firewall))):
        if turn:
            scene.wound()  # as before, but with other names and marks
            every = views(look(scene.firewall), past)
        name = list(every)[place % len(every)]
        dying, before = scene.dying(), objects()
        ran = through(every[name], hvtx, "gc", "--apply", "--json")
        assert ran.code in (0, 6, 9), f"{name}: {ran}"
        gone = [thing for thing in before - objects() if not any(word in thing for word in dying)]
        assert not gone, f"{name} on {scene.firewall}: {gone}\n{ran.out}"
        assert scene.living() == alive, name
        kept = {row["mark"] for vm in DYING for row in hvtx.vm(vm)["resources"]}
        closed = [word for word in dying - kept if word.startswith("hvtx:")]
        early = [thing for thing in objects() if any(mark in thing for mark in closed)]
        assert not early, f"{name}: the record was closed, and it is there: {early}"
        tried, refused = tried + 1, refused + (ran.code != 0)
        for _ in range(3):
            hvtx("gc", "--apply", code=None)
        assert hvtx.is_clean(), (name, hvtx.plan())
        assert [hvtx.vm(vm)["state"] for vm in DYING] == ["defined"] * 2, name
        assert objects() - before == set(), name
        rest = [thing for thing in objects() if any(w in thing for w in dying if "hvtx:" in w)]
        assert not rest, f"{name}: {rest}"
    lab.tell(firewall=scene.firewall, views=tried, of=len(every), not_all_done=refused)
