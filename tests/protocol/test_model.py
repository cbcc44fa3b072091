"""The protocol holds in every world searched; and each part that is left out is missed at once.

``pytest tests/protocol -rP`` prints the figures of docs/protocol.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.protocol.model import World, search

pytestmark = pytest.mark.slow  # all interleavings of small worlds

WORLDS = {
    "two crashes, a restart": World(crashes=2, collects=1, starts=2, unknown_commits=1),
    "gc and recover beside a start and a stop": World(crashes=2, collects=2, stops=1),
    "a restart beside gc and a stop": World(running=True, crashes=1, collects=2, starts=2, stops=1),
    "strangers at devices": World(crashes=1, collects=2, links=2),
    "strangers at devices, a restart": World(
        running=True, crashes=1, collects=1, starts=2, links=1, misses=1
    ),
    "strangers hold devices": World(running=True, crashes=1, collects=2, starts=2, holds=1),
    "save and restore": World(collects=1, rules=3, reboots=1),
    "save and restore, a restart": World(running=True, collects=1, starts=2, rules=2, reboots=1),
    "older copies of the store": World(collects=1, starts=2, swaps=3, reboots=1),
    "pids and boots": World(running=True, collects=1, starts=2, stops=1, reboots=1, pids=1),
    # each look by itself, and what each plan tells is held against what was so
    "a start, a stop, look by look": World(crashes=1, collects=1, stops=1, fine=True, told=True),
    "a stop, look by look": World(
        running=True, crashes=1, collects=2, stops=1, misses=1, fine=True, told=True
    ),
    "a restart, look by look": World(
        running=True, collects=1, starts=2, stops=1, fine=True, told=True
    ),
}

_MAKING = World(crashes=1, collects=1)
_RUNNING = World(running=True, collects=1)
_LINKS = World(running=True, collects=1, links=2)
_START = World(collects=1, fine=True, told=True)
_STOP = World(running=True, collects=1, stops=1, fine=True, told=True)
UNMARKED = "an unmarked device of ours is left"
CUT = "a live VM's device was deleted"
TORN = "a live VM's rule was deleted"
EARLY = "a row was closed while its object is there"
LATE = "a row was committed whose object was removed"
KILLED = "a stranger's process was killed"
ALIEN = "a stranger's device was deleted"
UNTRUE = "a plan tells what was not so"

# What is left out, the smallest world that shows it, the violation, the last thing that happens.
WEAKENINGS = [
    ("persist-before-mark", _MAKING, UNMARKED, "recover, gc"),
    ("intend-after-make", _MAKING, "a device of ours is left, off the record", "recover, gc"),
    ("no-operation-lock no-vm-lock-in-gc", _MAKING, CUT, "gc: lets the device go"),
    ("no-operation-lock no-vm-lock-in-gc no-swap-at-commit", _MAKING, LATE, "start 1: commits"),
    (
        "no-second-look note-overlooked",
        _MAKING._replace(fine=True),
        TORN,
        "gc: deletes the rule with mark 11",
    ),
    ("gate-opened-before-noted", _MAKING, "a VM process runs off the record", "start 1: KILLED"),
    ("identity-with-the-commit", _MAKING, "a VM process runs off the record", "start 1: KILLED"),
    (
        "undo-on-unknown-commit",
        World(unknown_commits=1),
        TORN,
        "start 1: deletes the rule with mark 11",
    ),
    (
        "no-swap-at-completion",
        World(crashes=2, collects=1, starts=2),
        LATE,
        "gc: locks the VM and looks again",
    ),
    ("row-first", _RUNNING, EARLY, "gc: closes the rows"),
    (
        "absence-believed moved-not-looked-at",
        _RUNNING._replace(misses=1),
        EARLY,
        "gc: locks the VM and looks again",
    ),
    (
        "check-then-delete",
        _RUNNING._replace(holds=1),
        "a device that a process holds was deleted",
        "gc: RTM_DELLINK",
    ),
    (
        "rules-before-hold",
        _RUNNING._replace(holds=1),
        "the rule of a device that a process holds was deleted",
        "gc: deletes the rule with mark 11",
    ),
    ("delete-by-name", _LINKS, ALIEN, "gc: deletes device hv1"),
    ("no-check-after-attach", _LINKS, ALIEN, "gc: lets the device go"),
    (
        "delete-by-handle",
        _RUNNING._replace(rules=2),
        "a stranger's rule was deleted",
        "gc: deletes the rule with mark 0",
    ),
    (
        "unknown-mark-is-garbage",
        _RUNNING,
        "another installation's rule was deleted",
        "gc: deletes the rule with mark 99",
    ),
    (
        "leftovers-unexamined",
        _RUNNING._replace(starts=2, rules=2),
        "a rule that serves a live VM was deleted",
        "gc: deletes the rule with mark 11",
    ),
    (
        "tombstones-dropped",
        _RUNNING._replace(rules=2),
        "a rule of a dead VM is left",
        "recover, gc",
    ),
    ("tombstone-without-operation", _STOP, UNTRUE, "delete publish 11 (released-leftover)"),
    ("no-high-water-mark", World(collects=1, swaps=2), TORN, "gc: deletes the rule with mark 11"),
    (
        "marks-without-nonce",
        World(collects=1, starts=2, swaps=3, reboots=1),
        TORN,
        "gc: deletes the rule with mark 21",
    ),
    ("pid-without-start", World(running=True, stops=1, pids=1), KILLED, "stop: ends the process"),
    (
        "boot-ignored",
        World(running=True, stops=1, pids=1, reboots=1),
        KILLED,
        "stop: ends the process",
    ),
    ("no-look-before", _STOP, UNTRUE, "delete publish 11 (released-leftover)"),
    ("moved-not-looked-at", _STOP, UNTRUE, "delete tap 10 (released-leftover)"),
    (
        "seen-is-there",
        _START._replace(crashes=1),
        UNTRUE,
        "delete tap 10 (intent-abandoned)",
    ),
    ("mark-not-awaited", _START, UNTRUE, "skip tap 10 (mark-mismatch)"),
    ("record-before-host", _START, UNTRUE, "skip tap 0 (unrecorded)"),
    ("record-in-two-moments", _START, UNTRUE, "commit tap 10 (in-use-before-commit)"),
    (
        "processes-before-record",
        _START._replace(crashes=1),
        UNTRUE,
        "commit tap 10 (in-use-before-commit)",
    ),
    ("no-record-again", _STOP, UNTRUE, "delete tap 10 (vm-dead)"),
    ("whereabouts-not-asked", _STOP._replace(crashes=1), UNTRUE, "delete tap 10 (vm-dead)"),
    ("note-overlooked", _START._replace(crashes=1), UNTRUE, "delete tap 10 (intent-abandoned)"),
    ("free-lock-is-interrupted whereabouts-not-asked", _STOP, UNTRUE, "delete tap 10 (vm-dead)"),
]

Record = Callable[[str, object], None]


def say(words: str) -> None:
    sys.stdout.write(f"{words}\n")


@pytest.mark.parametrize("name", list(WORLDS))
def test_the_protocol_holds(name: str, record_property: Record) -> None:
    found = search(WORLDS[name])
    record_property("states", found.states)
    record_property("settled", found.settled)
    record_property("seconds", round(found.seconds, 1))
    say(f"{name}: {found.states:,} states, {found.settled:,} recovered, {found.seconds:.1f} s")
    assert not found.violations, "\n".join(
        f"{bad}: {' > '.join(way)}" for bad, way in found.violations.items()
    )


@pytest.mark.parametrize(
    ("left_out", "world", "violation", "last"), WEAKENINGS, ids=[w[0] for w in WEAKENINGS]
)
def test_each_part_is_needed(
    left_out: str, world: World, violation: str, last: str, record_property: Record
) -> None:
    found = search(world, frozenset(left_out.split()), until=violation)
    record_property("states", found.states)
    record_property("seconds", round(found.seconds, 1))
    way = found.violations.get(violation)
    assert way is not None, found.violations
    say(f"{left_out}: {found.states:,} states; {violation}: {' > '.join(way)}")
    if violation == UNTRUE:
        assert last in way[-1].partition(", untruly ")[2].split(", ")
    else:
        assert way[-1].rpartition("; ")[2] == last


SMALL = {w[1] for w in WEAKENINGS if w[1].starts == 1}


@pytest.mark.parametrize("world", sorted(SMALL))
def test_with_nothing_left_out_these_worlds_hold(world: World) -> None:
    """So it is the part left out that shows, not the world; larger ones are parts of WORLDS."""
    assert not search(world).violations


@pytest.mark.parametrize(
    ("left_out", "world"),
    [
        ("no-operation-lock", _MAKING),
        ("no-vm-lock-in-gc", _MAKING),
        ("no-swap-at-commit", _MAKING),
        ("no-second-look", _MAKING._replace(fine=True)),
        ("note-overlooked", _MAKING._replace(fine=True)),
        ("absence-believed", _RUNNING._replace(misses=1)),
        ("free-lock-is-interrupted", _STOP),
    ],
)
def test_of_these_one_alone_is_covered_by_the_others(left_out: str, world: World) -> None:
    """A VM's start holds two locks; either keeps gc away from it, and the swap is the third net.

    Who is found dead is dead, as long as what was noted meanwhile is heeded; what a dump missed is
    looked at again; with an operation that ended its rows moved.
    """
    assert not search(world, frozenset({left_out})).violations


def test_a_world_that_is_too_large_proves_nothing() -> None:
    with pytest.raises(AssertionError, match="more than 100 states"):
        search(WORLDS["two crashes, a restart"], limit=100)
