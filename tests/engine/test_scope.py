"""A verb reads each row of the store once, and looks at the whole host only where it has to.

Counted are the statements that read, as SQLite is given them, of the real program on the fake
kernel.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hvtx.engine import snapshot
from hvtx.engine.runtime import Runtime
from hvtx.host import failpoint
from hvtx.host.locks import LockFile, name_offset
from hvtx.model.resource import Kind
from hvtx.store import connection, strict
from tests.machine.fake_world import FakeWorld
from tests.machine.world import KILLED

NETWORK = ("network", "create", "lan", "--subnet", "10.77.0.0/24")
VM = ("vm", "create", "web", "--hypervisor", "command", "--network", "lan", "--", "sleep", "60")
# What a run asks before it does anything and at each transaction: not what its verb reads.
ASIDE = ("FROM meta", "sqlite_sequence", "WHERE id = ? AND ended IS NULL")


class Counting(strict.StrictConnection):
    """Keeps what it is asked for."""

    asked: ClassVar[Counter[tuple[str, tuple[Any, ...]]]] = Counter()

    def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
        if strict.reads_rows(sql) and not any(words in sql for words in ASIDE):
            Counting.asked[" ".join(sql.split()), tuple(more[0]) if more else ()] += 1
        return super().execute(sql, *more)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorld]:
    """A fake host, on which the looks at the whole host and the reads are counted."""
    monkeypatch.delenv("HVTX_VERIFY", raising=False)
    found = FakeWorld(tmp_path)
    monkeypatch.delenv("HVTX_VERIFY", raising=False)  # its own question at the end of an operation
    monkeypatch.setattr(connection, "_factory", lambda: Counting)
    yield found
    found.close()


def does(world: FakeWorld, *argv: str, code: int = 0, failpoint: str = "") -> str:
    ran = world.hvtx(*argv, failpoint=failpoint)
    assert ran.code == code, ran.err
    return ran.out


@contextmanager
def looks() -> Iterator[list[int]]:
    """How often the whole host is looked at meanwhile."""
    found = [0]

    def dumped(name: str, before: Any = failpoint.reach) -> None:
        found[0] += name == "dumped"
        before(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot.failpoint, "reach", dumped)
        yield found


def asked(world: FakeWorld, *argv: str) -> Counter[tuple[str, tuple[Any, ...]]]:
    Counting.asked = Counter()
    does(world, *argv)
    return Counting.asked


def twice(found: Counter[tuple[str, tuple[Any, ...]]]) -> list[str]:
    return [f"{count} x {sql} {values}" for (sql, values), count in found.items() if count > 1]


def of(found: Counter[tuple[str, tuple[Any, ...]]], words: str) -> int:
    return sum(count for (sql, _), count in found.items() if words in sql)


def made(world: FakeWorld, *more: tuple[str, ...]) -> None:
    for argv in (NETWORK, VM, *more):
        does(world, *argv)


# -- each row once ---------------------------------------------------------------------------------

READS = {
    # the VM (three tables), its rows, whether it is provisional, operations, lives, its networks,
    # and once they are locked: them once more, what they stand on and what all of them do
    "start": (("vm", "start", "web"), (), 11),
    # all but what the networks stand on; and its rows again once its process has ended
    "stop": (("vm", "stop", "web"), (("vm", "start", "web"),), 9),
    "show": (("vm", "show", "web"), (("vm", "start", "web"),), 8),
    "set": (("vm", "set", "web", "--memory", "64"), (), 8),
    # networks, what they stand on, operations, lives, what is provisional (two); and for the answer
    # who uses it and what it has by now
    "network create": (("network", "create", "two", "--subnet", "10.78.0.0/24"), (), 8),
}
# What is read once more: a VM's rows once its process has ended; networks once they are locked.
AGAIN = {"stop": "vm = ?", "start": "FROM network "}


@pytest.mark.parametrize("verb", READS)
def test_a_verb_reads_each_row_once(world: FakeWorld, verb: str) -> None:
    argv, before, most = READS[verb]
    made(world, *before)
    found = asked(world, *argv)
    again = [words for words in twice(found) if AGAIN.get(verb, "not read") not in words]
    assert again == []
    assert found.total() <= most, found


def test_a_start_with_two_networks_reads_no_more(world: FakeWorld) -> None:
    made(world)
    does(world, "network", "create", "two", "--subnet", "10.78.0.0/24")
    does(world, *VM[:2], "both", *VM[3:7], "--network", "two", *VM[7:])
    found = asked(world, "vm", "start", "both")
    assert [words for words in twice(found) if AGAIN["start"] not in words] == []
    assert found.total() <= READS["start"][2], found


def test_a_list_reads_lives_and_operations_no_oftener_for_more_vms(world: FakeWorld) -> None:
    """The record of what crashed is read once more, of all that crashed at once."""
    made(world)
    counts = []
    for name in ("one", "two", "three"):
        does(world, *VM[:2], name, *VM[3:])
        does(world, "vm", "start", name)
        for pid in list(world.processes()):
            world.act("kill", pid=str(pid))
        found = asked(world, "vm", "ls")
        counts.append((of(found, "FROM life"), of(found, "FROM operation")))
    assert counts == [counts[0]] * 3


# -- the whole host only where the record or a firewall asks for it --------------------------------


def test_a_network_is_made_without_a_look_at_the_whole_host(world: FakeWorld) -> None:
    made(world, ("vm", "start", "web"))
    with looks() as found:
        does(world, "network", "create", "two", "--subnet", "10.78.0.0/24")
        does(world, "network", "rm", "two")
        does(world, *VM[:2], "other", *VM[3:5], *VM[7:])  # makes `default`
    assert found == [0]


def test_nor_after_a_reboot_where_nothing_was_restored(world: FakeWorld) -> None:
    made(world, ("vm", "start", "web"))
    world.act("reboot")
    with looks() as found:
        does(world, "network", "create", "two", "--subnet", "10.78.0.0/24")
    assert found == [0]


def test_what_an_interruption_left_of_a_network_is_resolved(world: FakeWorld) -> None:
    made(world)
    two = ("network", "create", "two", "--subnet", "10.78.0.0/24")
    assert world.hvtx(*two, failpoint="acted:bridge:kill").code == KILLED
    with looks() as found:
        does(world, "network", "create", "three", "--subnet", "10.79.0.0/24")
    assert found == [1]
    assert sorted(world.record().networks) == ["lan", "three"]
    assert world.record().open == []


def test_what_was_only_begun_is_closed_without_that_look(world: FakeWorld) -> None:
    """An operation without rows: nothing of it can be on the host."""
    made(world)
    stop = ("vm", "set", "web", "--memory", "64")
    assert world.hvtx(*stop, failpoint="intended:kill").code == KILLED
    assert len(world.record().open) == 1
    with looks() as found:
        does(world, "network", "create", "two", "--subnet", "10.78.0.0/24")
    assert found == [0]
    assert world.record().open == []


def test_a_restored_ruleset_is_found_without_any_row(world: FakeWorld) -> None:
    """Its tables would be in the way of those that are to be made."""
    made(world, ("vm", "start", "web"))
    world.act("save")
    world.act("reboot")
    world.act("load")
    stale = {row.mark for row in world.record().rows}
    with looks() as found:
        does(world, "network", "create", "two", "--subnet", "10.78.0.0/24")
    assert found == [1]
    seen = world.look()
    comments = {comment for _, comment in [*seen.rules.values(), *seen.elements.values()]}
    assert not comments & stale


def test_recover_looks_at_the_whole_host_once(world: FakeWorld) -> None:
    made(world, ("vm", "set", "web", "--autostart"))
    for n in (1, 2, 3):
        does(world, "network", "create", f"n{n}", "--subnet", f"10.8{n}.0.0/24")
    does(world, "vm", "start", "web")
    world.act("save")
    world.act("reboot")
    world.act("load")
    with looks() as found:
        does(world, "recover")
    assert found == [1]
    assert len([row for row in world.record().rows if row.kind == Kind.BRIDGE]) == 4
    assert "is running" in does(world, "vm", "show", "web") or world.processes()


def test_recover_tries_again_what_a_lock_kept(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restored elements of a VM that somebody held for a moment: their tables go all the same."""
    made(world)
    does(world, "vm", "start", "web")
    world.act("save")
    world.act("reboot")
    world.act("load")
    tried: list[str] = []
    take = Runtime.try_lock

    def busy_once(self: Runtime, kind: str, name: str) -> bool:
        tried.append(name)
        return len(tried) > 1 and take(self, kind, name)

    monkeypatch.setattr(Runtime, "try_lock", busy_once)
    does(world, "recover")
    assert tried
    monkeypatch.undo()
    assert [row.kind for row in world.record().rows if row.kind == Kind.BRIDGE]
    assert "0 to delete" in does(world, "gc", "--plan")


def test_a_start_that_resolves_keeps_its_own_lock(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although what it removes on the way is of the VM whose lock it holds."""
    made(world)
    does(world, "vm", "start", "web")
    world.act("save")
    does(world, "vm", "stop", "web")
    world.act("reboot")
    world.act("load")
    held: list[bool] = []
    give_back = Runtime.unlock

    def watched(self: Runtime, kind: str, name: str) -> None:
        give_back(self, kind, name)
        if (kind, name) == ("vm", "web"):
            other = LockFile(self.names.path, make=False)
            held.append(other.held_elsewhere(name_offset(kind, name)))
            other.close()

    monkeypatch.setattr(Runtime, "unlock", watched)
    does(world, "vm", "start", "web")
    assert held
    assert all(held)


# -- what is answered ------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["start", "stop", "set", "run"])
def test_the_answer_is_what_show_tells(world: FakeWorld, verb: str) -> None:
    """Although it is not read again."""
    made(world)
    argv = {"set": ("vm", "set", "web", "--memory", "64"), "run": ("vm", "run", *VM[2:])}
    if verb == "run":
        does(world, "vm", "rm", "web")
    if verb == "stop":
        does(world, "vm", "start", "web")
    words = argv.get(verb, ("vm", verb, "web"))
    split = words.index("--") if "--" in words else len(words)
    answer = json.loads(does(world, *words[:split], "--json", *words[split:]))
    assert answer == json.loads(does(world, "vm", "show", "web", "--json"))
