"""What the state machine does with containers: they begin and end, a runtime attaches them.

An attachment lives as long as the network namespace with the id on record; whoever has that id
again, once it is gone, is taken for it: it is left alone, and ends by its runtime's word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvtx.planner.attaching import name_of
from tests.machine import laws
from tests.machine.acts import Ref
from tests.machine.attachment_verbs import WORD, key_of
from tests.machine.world import Look, Ran, Record, World

NAMES = ("c0", "c1")
STEPS = ("ADD", "DEL", "GC", "container ends")
VM_NAMES = {name_of(key_of(name)): name for name in NAMES}
_RECYCLED = 3  # of the numbers of a step: a new container has the id of one that is gone


class Containers:
    """The containers of one host."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.paths: dict[str, Ref] = {}  # of those that are there
        self._used: list[int] = []  # ids that were on record

    def begin(self, name: str, number: int, look: Look, record: Record) -> None:
        """One more container, where it is not there yet."""
        self._used += [nsid for nsid in laws.ids_of(record).values() if nsid not in self._used]
        free = [nsid for nsid in self._used if nsid not in look.ids]
        if name not in self.paths:
            nsid = str(free[number % len(free)]) if free and number == _RECYCLED else ""
            path = self._world.act("contain", name=name, nsid=nsid)
            self.paths[name] = Ref(path, f"$(netns {name})")

    def end(self, name: str) -> None:
        """It ends, and nobody says so."""
        if self.paths.pop(name, None):
            self._world.act("uncontain", name=name)

    def end_all(self) -> None:
        """All of them end."""
        for name in NAMES:
            self.end(name)

    def reboot(self) -> None:
        """They went with the host's earlier life."""
        self.paths.clear()
        self._used.clear()

    def words(self, what: str, number: int, seen: tuple[Look, Record]) -> tuple[str | Ref, ...]:
        """The command line of a step, where it has one, once what it needs is there."""
        name = NAMES[number % len(NAMES)]
        if what == "ADD":
            self.begin(name, number, *seen)
            return (WORD, "add", self.paths[name], name)
        return {"DEL": (WORD, "del", name), "GC": (WORD, "gc")}[what]


def owner_of(words: list[str]) -> str | None:
    """The VM that stands for the attachment of a command line; it may be changed by it."""
    return name_of(key_of(words[-1])) if words[1] in ("add", "del") else None


def problem(
    words: list[str], ran: Ran, before: Record, seen: tuple[Look, Record],
    kept: Callable[[int], bool],
) -> str:  # fmt: skip
    """What is not as the verb's exit code says, in words: whole, or not at all."""
    look, record = seen
    verb, vm = words[1], owner_of(words) or ""
    left: list[Any] = [row for row in record.of(vm) if not kept(row.id)] if ran.code != 0 else []
    if verb == "add" and ran.code == 0:
        missing = laws.lacking(look, record, vm)
        if missing or vm not in laws.attached(look, record):
            return f"{vm} was attached, but: {missing or 'it does not live'}"
    elif verb == "add" and ran.code != 75 and left and not before.of(vm):
        return f"the ADD of {vm} failed, and left {left}"
    elif verb == "del" and ran.code == 0 and vm in record.vms:
        return f"{vm} was ended, and this is left: {record.of(vm)}"
    elif verb == "gc" and ran.code == 0:
        there = laws.attached(look, record)
        dead = [vm for vm in VM_NAMES if vm in record.vms and vm not in there]
        dead = [vm for vm in dead if not any(kept(row.id) for row in record.of(vm))]
        if dead:
            return f"GC said that all is done, and {dead} is left"
    return ""
