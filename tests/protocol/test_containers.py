"""Attachments, searched: nothing goes wrong, and each rule that is left out is missed."""

from __future__ import annotations

import pytest

from tests.protocol.containers import LEFT, OFF, REFUSED, RULES, SAID, TAKEN, World, search

WORLDS = {
    "two DELs": World(("add", "del", "del"), kills=2, ends=1),
    "DEL beside gc": World(("add", "del", "gc"), kills=1, ends=1, refusals=1),
    "added again": World(("add", "del", "add", "gc"), ends=1, begins=1),
    "two ADDs": World(("add", "add", "gc"), kills=1, ends=1, begins=1),
    "a foreign list": World(("add", "GC", "gc"), kills=1, unpaths=1, misses=2, failures=2),
    "an id comes again": World(("add", "gc"), ends=1, begins=1, numbers=2, hides=1),
    "a thief": World(("add", "gc"), ends=1, begins=1, numbers=2, thefts=1),
    "strangers": World(("add", "gc", "del"), thefts=1, hides=1, numbers=1, ends=1),
    "a path leads elsewhere": World(("add", "gc"), begins=1, ends=1, numbers=1, kills=1),
}

# What is left out, the world that shows it, what happens, and the last step of the shortest way.
NEEDED = [
    ("absent-is-error", "two DELs", REFUSED, "del 1 finds nothing"),
    ("row-after-making", "two DELs", OFF, "add 0 is killed"),
    ("close-before-removal", "two DELs", OFF, "del 1 is killed"),
    ("no-vm-lock", "two DELs", SAID, "del 1 finds its rows taken"),
    ("refusal-is-done", "DEL beside gc", SAID, "del 1 is refused the removal"),
    ("release-by-key", "DEL beside gc", TAKEN, "gc 2 begins to release"),
    ("add-over-living", "added again", TAKEN, "add 2 begins to release"),
    ("list-is-proof", "a foreign list", TAKEN, "GC 1 begins to release"),
    ("path-as-proof", "a foreign list", TAKEN, "GC 1 begins to release"),
    ("path-as-proof", "an id comes again", LEFT, "another namespace begins"),
    ("dump-believed", "a foreign list", TAKEN, "GC 1 begins to release"),
    ("failed-look-is-dead", "a foreign list", TAKEN, "GC 1 begins to release"),
    ("unfinished-lives", "a path leads elsewhere", LEFT, "add 0 is killed"),
    ("given-up-lives", "a path leads elsewhere", LEFT, "add 0 is killed"),
    ("no-id-when-made", "a path leads elsewhere", TAKEN, "gc 1 begins to release"),
    ("no-cookie", "an id comes again", LEFT, "the kernel numbers 1"),
    ("unfound-is-dead", "strangers", TAKEN, "gc 1 begins to release"),
    ("cookie-before-pair", "a thief", TAKEN, "gc 1 begins to release"),
]
# Of these each alone is covered by the others.
TOGETHER = [
    (("ids-before-record", "no-second-look"), "DEL beside gc", TAKEN, "gc 2 begins to release"),
    (("no-operation-lock", "no-vm-lock"), "a path leads elsewhere", OFF, "gc 1 closes the rows"),
    (
        ("no-operation-lock", "no-vm-lock", "no-swap-at-commit"),
        "a path leads elsewhere",
        TAKEN,
        "gc 1 removes the pair",
    ),
]
COVERED = ("ids-before-record", "no-second-look", "no-operation-lock", "no-swap-at-commit")


@pytest.mark.parametrize("name", WORLDS)
def test_nothing_goes_wrong(name: str) -> None:
    found = search(WORLDS[name])
    print(f"{name}: {found.states} states")  # noqa: T201 - for the page
    assert found.violation is None, found.way


@pytest.mark.parametrize(
    ("rules", "world", "wrong", "last"),
    [*(((rule,), *rest) for rule, *rest in NEEDED), *TOGETHER],
    ids=[f"{rule}-{world}" for rule, world, *_ in [*NEEDED, *TOGETHER]],
)
def test_each_rule_is_needed(rules: tuple[str, ...], world: str, wrong: str, last: str) -> None:
    found = search(WORLDS[world], frozenset(rules))
    assert (found.violation, found.way[-1:]) == (wrong, (last,))


@pytest.mark.parametrize("rule", COVERED)
def test_of_these_one_alone_is_covered_by_the_others(rule: str) -> None:
    for name, world in WORLDS.items():
        found = search(world, frozenset({rule}))
        assert found.violation is None, (name, found.way)


def test_every_rule_is_left_out_once() -> None:
    assert {rule for rule, *_ in NEEDED} | set(COVERED) == RULES
